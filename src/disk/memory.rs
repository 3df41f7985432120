//! A disk in memory: small images, tests, fuzz inputs.

use super::{Content, Disk, Error, Extent, Kind, Result, check_range};
use std::{
    fmt,
    ops::Range,
    sync::{PoisonError, RwLock},
};

/// Bytes in memory, writable and growable.
pub struct MemoryDisk {
    label: String,
    sector_size: u32,
    bytes: RwLock<Vec<u8>>,
}

impl MemoryDisk {
    /// A disk that holds `bytes`, with 512-byte sectors.
    pub fn new(label: impl Into<String>, bytes: Vec<u8>) -> Self {
        Self {
            label: label.into(),
            sector_size: 512,
            bytes: RwLock::new(bytes),
        }
    }

    /// The same disk, counting in sectors of `sector_size` bytes.
    #[must_use]
    pub fn with_sector_size(mut self, sector_size: u32) -> Self {
        self.sector_size = sector_size;
        self
    }

    /// A copy of all that the disk holds.
    pub fn contents(&self) -> Vec<u8> {
        self.bytes.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn range(&self, offset: u64, length: u64, size: usize) -> Result<Range<usize>> {
        let end = check_range(&self.label, size as u64, offset, length)?;
        match (usize::try_from(offset), usize::try_from(end)) {
            (Ok(start), Ok(end)) => Ok(start..end),
            _ => Err(Error::out_of_range(&self.label, offset, length, size as u64)),
        }
    }
}

impl fmt::Debug for MemoryDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MemoryDisk({:?}, {} bytes)", self.label, self.size())
    }
}

impl Disk for MemoryDisk {
    fn label(&self) -> &str {
        &self.label
    }

    fn size(&self) -> u64 {
        self.bytes.read().unwrap_or_else(PoisonError::into_inner).len() as u64
    }

    fn sector_size(&self) -> u32 {
        self.sector_size
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        let bytes = self.bytes.read().unwrap_or_else(PoisonError::into_inner);
        let range = self.range(offset, buffer.len() as u64, bytes.len())?;
        buffer.copy_from_slice(bytes.get(range).unwrap_or_default());
        Ok(())
    }

    fn write_at(&self, offset: u64, new: &[u8]) -> Result<()> {
        let mut bytes = self.bytes.write().unwrap_or_else(PoisonError::into_inner);
        let range = self.range(offset, new.len() as u64, bytes.len())?;
        bytes.get_mut(range).unwrap_or_default().copy_from_slice(new);
        Ok(())
    }

    fn extents(&self, range: Range<u64>) -> Result<Vec<Extent>> {
        check_range(
            &self.label,
            self.size(),
            range.start,
            range.end.saturating_sub(range.start),
        )?;
        Ok(if range.is_empty() {
            Vec::new()
        } else {
            vec![Extent::new(range, Content::Data)]
        })
    }

    fn write_zeros(&self, range: Range<u64>) -> Result<()> {
        let mut bytes = self.bytes.write().unwrap_or_else(PoisonError::into_inner);
        let range = self.range(range.start, range.end.saturating_sub(range.start), bytes.len())?;
        bytes.get_mut(range).unwrap_or_default().fill(0);
        Ok(())
    }

    fn set_size(&self, size: u64) -> Result<()> {
        let size = usize::try_from(size)
            .map_err(|_| Error::new(Kind::Full, &*self.label, "larger than this machine's memory"))?;
        self.bytes
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .resize(size, 0);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copy_within_moves_overlapping_bytes_in_both_directions() {
        let bytes: Vec<u8> = (0..3_000_000_u32).map(|i| (i % 251) as u8).collect();
        for (from, to) in [(100..2_500_100, 5), (5..2_500_005, 100)] {
            let disk = MemoryDisk::new("m", bytes.clone());
            disk.copy_within(from.clone(), to).unwrap();
            let mut expected = bytes.clone();
            expected.copy_within(from.start as usize..from.end as usize, to as usize);
            assert!(disk.contents() == expected);
        }
    }

    #[test]
    fn ranges_past_the_end_are_refused() {
        let disk = MemoryDisk::new("m", vec![0; 10]);
        assert_eq!(disk.read_at(8, &mut [0; 3]).unwrap_err().kind, Kind::OutOfRange);
        assert_eq!(disk.write_at(u64::MAX, &[0]).unwrap_err().kind, Kind::OutOfRange);
        assert_eq!(disk.extents(5..11).unwrap_err().kind, Kind::OutOfRange);
    }
}
