//! `Read + Write + Seek` over any disk, for the crates that want a stream: `gpt`, `mbrman`, `ntfs`, `ext4-view`.

use super::Disk;
use std::{
    io::{self, Read, Seek, SeekFrom, Write},
    sync::Arc,
};

/// A position on a disk.
#[derive(Clone, Debug)]
pub struct Cursor {
    disk: Arc<dyn Disk>,
    position: u64,
}

impl Cursor {
    /// At the start of `disk`.
    pub fn new(disk: Arc<dyn Disk>) -> Self {
        Self { disk, position: 0 }
    }

    /// How many of `wanted` bytes lie before the end.
    fn available(&self, wanted: usize) -> usize {
        let left = self.disk.size().saturating_sub(self.position);
        usize::try_from(left).map_or(wanted, |left| wanted.min(left))
    }
}

impl Read for Cursor {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.available(buffer.len());
        if count == 0 {
            return Ok(0);
        }
        self.disk
            .read_at(self.position, buffer.get_mut(..count).unwrap_or_default())?;
        self.position += count as u64;
        Ok(count)
    }
}

impl Write for Cursor {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.available(bytes.len());
        if count == 0 {
            return Ok(0);
        }
        self.disk
            .write_at(self.position, bytes.get(..count).unwrap_or_default())?;
        self.position += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(self.disk.flush()?)
    }
}

impl Seek for Cursor {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let position = match to {
            SeekFrom::Start(offset) => Some(offset),
            SeekFrom::End(offset) => self.disk.size().checked_add_signed(offset),
            SeekFrom::Current(offset) => self.position.checked_add_signed(offset),
        };
        self.position = position.ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::InvalidInput,
                "seek before the start or past the last offset",
            )
        })?;
        Ok(self.position)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::MemoryDisk;

    #[test]
    fn reads_writes_and_seeks_like_a_file_of_fixed_size() {
        let disk = Arc::new(MemoryDisk::new("m", b"0123456789".to_vec()));
        let mut cursor = Cursor::new(disk.clone());
        cursor.seek(SeekFrom::End(-3)).unwrap();
        let mut rest = Vec::new();
        cursor.read_to_end(&mut rest).unwrap();
        assert_eq!(rest, b"789");
        cursor.seek(SeekFrom::Start(8)).unwrap();
        assert_eq!(cursor.write(b"abcd").unwrap(), 2);
        assert_eq!(disk.contents(), b"01234567ab");
        assert!(cursor.seek(SeekFrom::Current(-11)).is_err());
        assert_eq!(cursor.seek(SeekFrom::Start(50)).unwrap(), 50);
        assert_eq!(cursor.read(&mut [0; 4]).unwrap(), 0);
    }
}
