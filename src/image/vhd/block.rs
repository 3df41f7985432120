//! "Block Allocation Table and Data Blocks" of the specification: where the bytes of a dynamic disk are.

use super::{
    dynamic_header::{self, DynamicHeader},
    flaw::Flaw,
    footer::Footer,
    geometry::SECTOR,
};
use crate::{
    disk::{Disk, Error, Result},
    image::pages::Pages,
};
use std::ops::Range;

/// An entry of the table for a block that is not there.
pub(super) const ABSENT: u32 = u32::MAX;

/// A call looks at no more blocks than this that are not there: the answer is then "so far, at least".
const MOST_ABSENT: u64 = 1 << 16;

/// The blocks of a dynamic or differencing disk.
#[derive(Debug)]
pub(super) struct Blocks {
    pub(super) header: DynamicHeader,
    pages: Pages,
}

/// Bytes of the disk that are kept in one way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Run {
    /// Where in the file; `None`: not in it, so zeros or what the parent has.
    pub(super) host: Option<u64>,
    pub(super) length: u64,
}

impl Blocks {
    /// Reads the header of the disk in `container` whose footer is `footer`.
    pub(super) fn open(container: &dyn Disk, footer: &Footer) -> Result<Self> {
        let label = container.label();
        let at = footer.data_offset;
        let size = container.size();
        let past = |what, offset| Flaw::PastTheEnd { what, offset, size }.of(label).at(offset);
        if at.saturating_add(dynamic_header::LENGTH as u64) > size {
            return Err(past("dynamic disk header", at));
        }
        let mut bytes = vec![0; dynamic_header::LENGTH];
        container.read_at(at, &mut bytes)?;
        let header = DynamicHeader::parse(&bytes).map_err(|flaw| flaw.of(label).at(at))?;
        let disk = footer.disk_size();
        if u64::from(header.entries).saturating_mul(header.block_size.into()) < disk {
            let flaw = Flaw::TableTooSmall {
                entries: header.entries,
                block: header.block_size,
                size: disk,
            };
            return Err(flaw.of(label).at(at));
        }
        let blocks = Self {
            header,
            pages: Pages::default(),
        };
        let table = blocks.table();
        if table.end > size || table.start > size {
            return Err(past("allocation table", table.start));
        }
        Ok(blocks)
    }

    /// Bytes of the disk in a block.
    pub(super) fn size(&self) -> u64 {
        self.header.block_size.into()
    }

    /// Bytes of a block's bitmap in the file: one bit for each sector, padded to a sector.
    pub(super) fn bitmap_size(&self) -> u64 {
        bitmap_size(self.size())
    }

    /// Where the table is.
    pub(super) fn table(&self) -> Range<u64> {
        let start = self.header.table_offset;
        start..start.saturating_add(u64::from(self.header.entries) * 4)
    }

    fn entry_at(&self, block: u64) -> u64 {
        self.table().start.saturating_add(block.saturating_mul(4))
    }

    /// Where `block` begins in the file, with its bitmap; `None` if it is not there.
    pub(super) fn place(&self, container: &dyn Disk, block: u64) -> Result<Option<u64>> {
        let at = self.entry_at(block);
        let entry = u32::from_be_bytes(self.pages.array(container, at)?);
        if entry == ABSENT {
            return Ok(None);
        }
        let place = u64::from(entry) * SECTOR;
        let size = container.size();
        let error = |flaw: Flaw| -> Error { flaw.of(container.label()).at(at) };
        if place < SECTOR {
            return Err(error(Flaw::InHeader("block", place)));
        }
        if place + self.bitmap_size() + self.size() > size {
            let what = "block";
            let offset = place;
            return Err(error(Flaw::PastTheEnd { what, offset, size }));
        }
        Ok(Some(place))
    }

    /// Enters `block` into the table: it lies at `place`.
    pub(super) fn set_place(&self, container: &dyn Disk, block: u64, place: u64) -> Result<()> {
        let entry = u32::try_from(place / SECTOR).unwrap_or(ABSENT);
        self.pages
            .write(container, self.entry_at(block), &entry.to_be_bytes())
    }

    /// How the disk's bytes from `offset` on are kept, up to `end`.
    pub(super) fn run(&self, container: &dyn Disk, offset: u64, end: u64) -> Result<Run> {
        let size = self.size();
        let block = offset / size;
        let block_end = (block + 1).saturating_mul(size).min(end);
        let Some(place) = self.place(container, block)? else {
            let last = end.div_ceil(size);
            let absent = self.absent(container, block + 1, last)?;
            let length = block_end.saturating_add(absent.saturating_mul(size)).min(end) - offset;
            return Ok(Run { host: None, length });
        };
        let start = block * size;
        let sector = (offset - start) / SECTOR;
        let (there, sectors) =
            self.sectors(container, place, sector, (block_end - start).div_ceil(SECTOR))?;
        let length = (start + (sector + sectors) * SECTOR).min(block_end) - offset;
        let host = place + self.bitmap_size() + (offset - start);
        Ok(Run {
            host: there.then_some(host),
            length,
        })
    }

    /// How many of the blocks from `first` to `last` on are not there, without a gap.
    fn absent(&self, container: &dyn Disk, first: u64, last: u64) -> Result<u64> {
        let last = last.min(first.saturating_add(MOST_ABSENT));
        let mut block = first;
        while block < last {
            let at = self.entry_at(block);
            let page = self.pages.at(container, at)?;
            let (entries, _) = page.rest(at).as_chunks::<4>();
            let wanted = usize::try_from(last - block).unwrap_or(usize::MAX);
            let entries = entries.get(..wanted).unwrap_or(entries);
            match entries.iter().position(|entry| *entry != ABSENT.to_be_bytes()) {
                Some(there) => return Ok(block + there as u64 - first),
                // An entry across two pages: there are none where the table is aligned.
                None if entries.is_empty() => match self.place(container, block)? {
                    Some(_) => return Ok(block - first),
                    None => block += 1,
                },
                None => block += entries.len() as u64,
            }
        }
        Ok(block.min(last).saturating_sub(first))
    }

    /// Whether the sector number `first` of the block at `place` is in the file, and how many from there to `end`
    /// are as it is. The bit of a byte that is worth most stands for the first of eight sectors.
    fn sectors(&self, container: &dyn Disk, place: u64, first: u64, end: u64) -> Result<(bool, u64)> {
        let mut there = None;
        let mut sector = first;
        while sector < end {
            let at = place + sector / 8;
            let page = self.pages.at(container, at)?;
            for byte in page.rest(at) {
                // Whole bytes at once.
                if sector.is_multiple_of(8) && there == Some(*byte == 0xff) && matches!(byte, 0 | 0xff) {
                    sector += 8;
                } else {
                    for bit in sector % 8..8 {
                        let set = byte & 0x80 >> bit != 0;
                        if *there.get_or_insert(set) != set || sector >= end {
                            return Ok((there.unwrap_or(false), sector.min(end) - first));
                        }
                        sector += 1;
                    }
                }
                if sector >= end {
                    break;
                }
            }
        }
        Ok((there.unwrap_or(false), sector.min(end) - first))
    }

    /// Notes that the sectors `range` of the block at `place` are in the file.
    pub(super) fn set_sectors(&self, container: &dyn Disk, place: u64, range: Range<u64>) -> Result<()> {
        let first = range.start / 8;
        let length = range.end.div_ceil(8).saturating_sub(first);
        // A block's bitmap has 512 KiB at most.
        let mut bytes = vec![0; usize::try_from(length).unwrap_or(0)];
        container.read_at(place + first, &mut bytes)?;
        for sector in range {
            let byte = usize::try_from(sector / 8 - first)
                .ok()
                .and_then(|index| bytes.get_mut(index));
            if let Some(byte) = byte {
                *byte |= 0x80 >> (sector % 8);
            }
        }
        self.pages.write(container, place + first, &bytes)
    }

    /// Calls `each` with the number and the entry of every block that is in the table and not absent.
    pub(super) fn each_entry(&self, container: &dyn Disk, mut each: impl FnMut(u64, u32)) -> Result<()> {
        let table = self.table();
        let mut buffer = vec![0; 64 << 10];
        let mut at = table.start;
        let mut block = 0;
        while at < table.end {
            let length = usize::try_from(table.end - at)
                .unwrap_or(usize::MAX)
                .min(buffer.len());
            let piece = buffer.get_mut(..length).unwrap_or_default();
            container.read_at(at, piece)?;
            for entry in piece.as_chunks::<4>().0 {
                let entry = u32::from_be_bytes(*entry);
                if entry != ABSENT {
                    each(block, entry);
                }
                block += 1;
            }
            at += length as u64;
        }
        Ok(())
    }
}

/// Bytes of the bitmap of a block of `block` bytes.
pub(super) fn bitmap_size(block: u64) -> u64 {
    (block / SECTOR).div_ceil(8).next_multiple_of(SECTOR)
}
