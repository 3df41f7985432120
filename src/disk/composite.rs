//! A disk put together from parts of other disks: a slice, a new layout, a linear volume, split files are all one.

use super::{Content, Disk, Error, Extent, Kind, Result, check_range, push_extent};
use std::{fs::File, ops::Range, sync::Arc};

/// One run of a [`Composite`].
#[derive(Clone, Debug)]
pub enum Part {
    /// `length` bytes of `disk` from `offset` on.
    Of {
        /// Where the bytes are.
        disk: Arc<dyn Disk>,
        /// First byte on that disk.
        offset: u64,
        /// In bytes.
        length: u64,
    },
    /// `length` zeros that no disk holds.
    Zeros {
        /// In bytes.
        length: u64,
    },
}

impl Part {
    fn length(&self) -> u64 {
        match self {
            Self::Of { length, .. } | Self::Zeros { length } => *length,
        }
    }
}

/// Parts, one after the other.
#[derive(Debug)]
pub struct Composite {
    label: String,
    sector_size: u32,
    size: u64,
    /// Where each part begins in this disk, ascending.
    parts: Vec<(u64, Part)>,
}

impl Composite {
    /// A disk called `label` with logical sectors of `sector_size` bytes. Fails if a part reaches past the disk
    /// that it is taken from.
    pub fn new(label: impl Into<String>, sector_size: u32, parts: Vec<Part>) -> Result<Self> {
        let label = label.into();
        let mut size = 0_u64;
        let mut placed = Vec::with_capacity(parts.len());
        for part in parts {
            if let Part::Of { disk, offset, length } = &part {
                check_range(disk.label(), disk.size(), *offset, *length)?;
            }
            let start = size;
            size = start
                .checked_add(part.length())
                .ok_or_else(|| Error::new(Kind::Unsupported, &*label, "larger than 2^64 bytes"))?;
            if part.length() > 0 {
                placed.push((start, part));
            }
        }
        Ok(Self {
            label,
            sector_size,
            size,
            parts: placed,
        })
    }

    /// The bytes `range` of `disk` as a disk of their own: a partition.
    pub fn slice(label: impl Into<String>, disk: Arc<dyn Disk>, range: Range<u64>) -> Result<Self> {
        let sector_size = disk.sector_size();
        let length = range.end.saturating_sub(range.start);
        Self::new(
            label,
            sector_size,
            vec![Part::Of {
                disk,
                offset: range.start,
                length,
            }],
        )
    }

    /// Calls `each` with every piece of `range`: its part, where it begins in that part, and its place here.
    fn walk<'a>(
        &'a self,
        range: Range<u64>,
        mut each: impl FnMut(&'a Part, u64, Range<u64>) -> Result<()>,
    ) -> Result<()> {
        check_range(
            &self.label,
            self.size,
            range.start,
            range.end.saturating_sub(range.start),
        )?;
        let first = self
            .parts
            .partition_point(|(start, _)| *start <= range.start)
            .saturating_sub(1);
        for (start, part) in self.parts.iter().skip(first) {
            let piece = range.start.max(*start)..range.end.min(start + part.length());
            if *start >= range.end {
                break;
            }
            if !piece.is_empty() {
                each(part, piece.start - start, piece)?;
            }
        }
        Ok(())
    }
}

/// The bytes of `buffer` that stand for `piece` of the range that begins at `base`.
fn window(base: u64, piece: &Range<u64>) -> Range<usize> {
    let index = |at: u64| usize::try_from(at - base).unwrap_or(usize::MAX);
    index(piece.start)..index(piece.end)
}

impl Disk for Composite {
    fn label(&self) -> &str {
        &self.label
    }

    fn size(&self) -> u64 {
        self.size
    }

    fn sector_size(&self) -> u32 {
        self.sector_size
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        let end = check_range(&self.label, self.size, offset, buffer.len() as u64)?;
        self.walk(offset..end, |part, within, piece| {
            let bytes = buffer.get_mut(window(offset, &piece)).unwrap_or_default();
            match part {
                Part::Of { disk, offset, .. } => disk.read_at(offset + within, bytes),
                Part::Zeros { .. } => {
                    bytes.fill(0);
                    Ok(())
                }
            }
        })
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        let end = check_range(&self.label, self.size, offset, bytes.len() as u64)?;
        self.walk(offset..end, |part, within, piece| {
            let bytes = bytes.get(window(offset, &piece)).unwrap_or_default();
            match part {
                Part::Of { disk, offset, .. } => disk.write_at(offset + within, bytes),
                Part::Zeros { .. } => Err(super::read_only(self).at(piece.start)),
            }
        })
    }

    fn extents(&self, range: Range<u64>) -> Result<Vec<Extent>> {
        let mut map: Vec<Extent> = Vec::new();
        let mut stopped = false;
        self.walk(range, |part, within, piece| {
            if stopped {
                return Ok(());
            }
            match part {
                Part::Of { disk, offset, .. } => {
                    let below = offset + within;
                    for extent in disk.extents(below..below + (piece.end - piece.start))? {
                        let shifted =
                            extent.range.start - below + piece.start..extent.range.end - below + piece.start;
                        push_extent(&mut map, Extent::new(shifted, extent.content));
                    }
                    stopped = map.last().is_none_or(|last| last.range.end < piece.end);
                }
                Part::Zeros { .. } => push_extent(&mut map, Extent::new(piece, Content::Hole)),
            }
            Ok(())
        })?;
        Ok(map)
    }

    fn write_zeros(&self, range: Range<u64>) -> Result<()> {
        self.walk(range, |part, within, piece| match part {
            Part::Of { disk, offset, .. } => {
                disk.write_zeros(offset + within..offset + within + (piece.end - piece.start))
            }
            Part::Zeros { .. } => Ok(()),
        })
    }

    fn discard(&self, range: Range<u64>) -> Result<()> {
        self.walk(range, |part, within, piece| match part {
            Part::Of { disk, offset, .. } => {
                disk.discard(offset + within..offset + within + (piece.end - piece.start))
            }
            Part::Zeros { .. } => Ok(()),
        })
    }

    fn copy_within(&self, from: Range<u64>, to: u64) -> Result<()> {
        let length = from.end.saturating_sub(from.start);
        check_range(&self.label, self.size, from.start, length)?;
        check_range(&self.label, self.size, to, length)?;
        // Within one part the disk below may have a way without moving bytes (an overlay has).
        if let [(0, Part::Of { disk, offset, .. })] = self.parts.as_slice() {
            return disk.copy_within(offset + from.start..offset + from.end, offset + to);
        }
        super::copy_through_a_buffer(self, from, to)
    }

    fn flush(&self) -> Result<()> {
        for (_, part) in &self.parts {
            if let Part::Of { disk, .. } = part {
                disk.flush()?;
            }
        }
        Ok(())
    }

    fn preallocate(&self, range: Range<u64>) -> Result<()> {
        self.walk(range, |part, within, piece| match part {
            Part::Of { disk, offset, .. } => {
                disk.preallocate(offset + within..offset + within + (piece.end - piece.start))
            }
            Part::Zeros { .. } => Ok(()),
        })
    }

    fn plain(&self, offset: u64) -> Option<(&File, u64, u64)> {
        let index = self
            .parts
            .partition_point(|(start, _)| *start <= offset)
            .checked_sub(1)?;
        let (start, part) = self.parts.get(index)?;
        let within = offset - start;
        match part {
            Part::Of { disk, offset, length } => {
                let (file, at, available) = disk.plain(offset + within)?;
                Some((file, at, available.min(length.checked_sub(within)?)))
            }
            Part::Zeros { .. } => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::MemoryDisk;

    fn sample() -> (Arc<MemoryDisk>, Arc<MemoryDisk>, Composite) {
        let a = Arc::new(MemoryDisk::new("a", (0..100).collect()));
        let b = Arc::new(MemoryDisk::new("b", (100..200).collect()));
        let parts = vec![
            Part::Of {
                disk: a.clone(),
                offset: 10,
                length: 20,
            },
            Part::Zeros { length: 5 },
            Part::Of {
                disk: b.clone(),
                offset: 90,
                length: 10,
            },
        ];
        let composite = Composite::new("c", 512, parts).unwrap();
        (a, b, composite)
    }

    #[test]
    fn reads_writes_and_maps_across_parts() {
        let (a, b, composite) = sample();
        assert_eq!(composite.size(), 35);
        let mut bytes = [9; 12];
        composite.read_at(18, &mut bytes).unwrap();
        assert_eq!(bytes, [28, 29, 0, 0, 0, 0, 0, 190, 191, 192, 193, 194]);
        composite.write_at(19, &[1]).unwrap();
        composite.write_at(25, &[2, 3]).unwrap();
        assert_eq!((a.contents()[29], b.contents()[90], b.contents()[91]), (1, 2, 3));
        assert_eq!(composite.write_at(19, &[1, 1]).unwrap_err().kind, Kind::ReadOnly);
        let map = composite.extents(5..35).unwrap();
        let expected = [
            (5..20, Content::Data),
            (20..25, Content::Hole),
            (25..35, Content::Data),
        ];
        assert_eq!(map, expected.map(|(range, content)| Extent::new(range, content)));
    }

    #[test]
    fn a_part_past_its_disk_is_refused() {
        let a = Arc::new(MemoryDisk::new("a", vec![0; 100]));
        assert_eq!(
            Composite::slice("s", a.clone(), 90..101).unwrap_err().kind,
            Kind::OutOfRange
        );
        assert!(Composite::slice("s", a, 90..100).is_ok());
    }
}
