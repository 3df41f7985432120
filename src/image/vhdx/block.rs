//! [MS-VHDX] 2.4 "Blocks" and 2.5 "BAT": where the bytes of the disk are.

use super::{MIB, flaw::Flaw, header::SECTION, metadata::Metadata};
use crate::{
    disk::{Disk, Error, Result},
    image::pages::{Page, Pages},
};
use std::ops::Range;

/// One bitmap of 1 MiB says for so many sectors whose they are.
const SECTORS_IN_CHUNK: u64 = 1 << 23;

/// States of a block, in the low three bits of its entry.
pub(super) mod state {
    pub(in super::super) const NOT_PRESENT: u64 = 0;
    pub(in super::super) const UNDEFINED: u64 = 1;
    pub(in super::super) const ZERO: u64 = 2;
    pub(in super::super) const UNMAPPED: u64 = 3;
    /// What the draft 0.95 of the format had for unmapped.
    pub(in super::super) const UNMAPPED_DRAFT: u64 = 5;
    pub(in super::super) const FULLY_PRESENT: u64 = 6;
    pub(in super::super) const PARTIALLY_PRESENT: u64 = 7;

    pub(in super::super) const MASK: u64 = 7;
}

/// The place in an entry: in MiB, in the high 44 bits, and so in bytes if the others are taken out.
pub(super) const PLACE: u64 = !(MIB - 1);

/// A call looks at no more blocks than this.
const MOST_BLOCKS: u64 = 1 << 16;

/// How bytes of the disk are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kept {
    /// At this place of the file.
    There(u64),
    /// As zeros.
    Zeros,
    /// Not here: the parent has them.
    Parent,
}

/// Bytes of the disk that are kept in one way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Run {
    pub(super) kept: Kept,
    pub(super) length: u64,
}

/// The numbers that the layout of the table follows from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Geometry {
    /// Of the disk, of a block, of a sector, in bytes.
    pub(super) size: u64,
    pub(super) block: u64,
    pub(super) sector: u64,
    pub(super) has_parent: bool,
}

impl Geometry {
    pub(super) fn of(metadata: &Metadata) -> Self {
        Self {
            size: metadata.size,
            block: metadata.block_size.into(),
            sector: metadata.logical_sector.into(),
            has_parent: metadata.locator.is_some(),
        }
    }

    /// Blocks that one bitmap stands for: at least 16.
    pub(super) fn chunk_ratio(self) -> u64 {
        SECTORS_IN_CHUNK * self.sector / self.block
    }

    /// Blocks of the disk.
    pub(super) fn blocks(self) -> u64 {
        self.size.div_ceil(self.block)
    }

    /// Entries that the table has at least.
    pub(super) fn entries(self) -> u64 {
        let ratio = self.chunk_ratio();
        if self.has_parent {
            self.blocks().div_ceil(ratio) * (ratio + 1)
        } else {
            self.blocks() + self.blocks().saturating_sub(1) / ratio
        }
    }

    /// The number of the entry of `block`: after each chunk comes one for its bitmap.
    pub(super) fn entry(self, block: u64) -> u64 {
        block + block / self.chunk_ratio()
    }

    /// The number of the entry of the bitmap of the chunk that `block` is in.
    pub(super) fn bitmap_entry(self, block: u64) -> u64 {
        let ratio = self.chunk_ratio();
        (block / ratio + 1) * (ratio + 1) - 1
    }

    /// Is the entry of this number that of a bitmap?
    pub(super) fn is_bitmap(self, entry: u64) -> bool {
        (entry + 1).is_multiple_of(self.chunk_ratio() + 1)
    }
}

/// The blocks of a disk.
#[derive(Debug)]
pub(super) struct Blocks {
    pub(super) geometry: Geometry,
    /// Where the table is.
    table: u64,
    pages: Pages,
}

impl Blocks {
    /// For a table in `region` of a file.
    pub(super) fn new(geometry: Geometry, region: &Range<u64>) -> std::result::Result<Self, Flaw> {
        let there = region.end - region.start;
        let needed = geometry.entries() * 8;
        if there < needed {
            return Err(Flaw::TableTooSmall { there, needed });
        }
        Ok(Self {
            geometry,
            table: region.start,
            pages: Pages::default(),
        })
    }

    fn at(&self, entry: u64) -> u64 {
        self.table + entry * 8
    }

    fn error(&self, container: &dyn Disk, flaw: Flaw, entry: u64) -> Error {
        flaw.of(container.label()).at(self.at(entry))
    }

    /// The entry of this number; `page` is where the last one was found.
    fn read(&self, container: &dyn Disk, page: &mut Option<Page>, entry: u64) -> Result<u64> {
        let at = self.at(entry);
        // The table begins on a multiple of 1 MiB: no entry lies across two pages.
        let here = |page: &Page| page.get(at, 8).and_then(|bytes| bytes.first_chunk().copied());
        if let Some(bytes) = page.as_ref().and_then(here) {
            return Ok(u64::from_le_bytes(bytes));
        }
        let found = self.pages.at(container, at)?;
        let bytes = here(&found).unwrap_or_default();
        *page = Some(found);
        Ok(u64::from_le_bytes(bytes))
    }

    /// Changes the entry of `block`.
    pub(super) fn set_entry(&self, container: &dyn Disk, block: u64, entry: u64) -> Result<()> {
        let at = self.at(self.geometry.entry(block));
        self.pages.write(container, at, &entry.to_le_bytes())
    }

    /// How the disk's bytes from `offset` on are kept, up to `end`.
    pub(super) fn run(&self, container: &dyn Disk, offset: u64, end: u64) -> Result<Run> {
        let size = self.geometry.block;
        let mut block = offset / size;
        let mut page = None;
        let entry = self.read(container, &mut page, self.geometry.entry(block))?;
        if entry & state::MASK == state::PARTIALLY_PRESENT {
            return self.partial(container, block, entry, offset, end);
        }
        let kept = self.whole(container, block, entry)?;
        let kept = match kept {
            Kept::There(host) => Kept::There(host + offset % size),
            other => other,
        };
        // What follows and is kept alike belongs to it.
        for _ in 0..MOST_BLOCKS {
            block += 1;
            let next = block * size;
            if next >= end {
                break;
            }
            let entry = self.read(container, &mut page, self.geometry.entry(block))?;
            if entry & state::MASK == state::PARTIALLY_PRESENT {
                break;
            }
            let continues = match (kept, self.whole(container, block, entry)) {
                (Kept::There(first), Ok(Kept::There(host))) => host == first + (next - offset),
                (one, Ok(other)) => one == other,
                // Whoever reads that block hears of it.
                (_, Err(_)) => false,
            };
            if !continues {
                break;
            }
        }
        Ok(Run {
            kept,
            length: (block * size).min(end) - offset,
        })
    }

    /// How `block` is kept whose `entry` is not that of a partial one.
    fn whole(&self, container: &dyn Disk, block: u64, entry: u64) -> Result<Kept> {
        match entry & state::MASK {
            state::NOT_PRESENT if self.geometry.has_parent => Ok(Kept::Parent),
            // What is undefined or not needed may be anything, so it may be zeros.
            state::NOT_PRESENT | state::UNDEFINED | state::ZERO | state::UNMAPPED | state::UNMAPPED_DRAFT => {
                Ok(Kept::Zeros)
            }
            state::FULLY_PRESENT => self.place(container, block, entry).map(Kept::There),
            _ => Err(self.error(container, Flaw::Entry(entry), self.geometry.entry(block))),
        }
    }

    /// Where `block` is: wholly in the file as far as it is on the disk.
    fn place(&self, container: &dyn Disk, block: u64, entry: u64) -> Result<u64> {
        let place = entry & PLACE;
        let start = block * self.geometry.block;
        let length = self.geometry.size.saturating_sub(start).min(self.geometry.block);
        self.must_exist(container, "block", place, length, self.geometry.entry(block))?;
        Ok(place)
    }

    fn must_exist(
        &self,
        container: &dyn Disk,
        what: &'static str,
        place: u64,
        length: u64,
        entry: u64,
    ) -> Result<()> {
        let size = container.size();
        if place < SECTION || place.saturating_add(length) > size {
            let flaw = Flaw::PastTheEnd {
                what,
                offset: place,
                size,
            };
            let flaw = if place < SECTION {
                Flaw::Place {
                    what,
                    offset: place,
                    length,
                    size,
                }
            } else {
                flaw
            };
            return Err(self.error(container, flaw, entry));
        }
        Ok(())
    }

    /// A run in `block`, of which some sectors are here and some are the parent's.
    fn partial(&self, container: &dyn Disk, block: u64, entry: u64, offset: u64, end: u64) -> Result<Run> {
        let Geometry {
            block: size, sector, ..
        } = self.geometry;
        let number = self.geometry.entry(block);
        if !self.geometry.has_parent {
            return Err(self.error(container, Flaw::Entry(entry), number));
        }
        let place = self.place(container, block, entry)?;
        let bitmap_number = self.geometry.bitmap_entry(block);
        let bitmap = self.read(container, &mut None, bitmap_number)?;
        if bitmap & state::MASK != state::FULLY_PRESENT {
            return Err(self.error(container, Flaw::NoBitmap, bitmap_number));
        }
        let bitmap = bitmap & PLACE;
        self.must_exist(container, "sector bitmap", bitmap, MIB, bitmap_number)?;
        let start = block * size;
        let end = end.min(start + size);
        // Sectors are counted from the beginning of the chunk.
        let base = block % self.geometry.chunk_ratio() * (size / sector);
        let first = base + (offset - start) / sector;
        let last = base + (end - start).div_ceil(sector);
        let (there, sectors) = self.sectors(container, bitmap, first, last)?;
        let run_end = (start + (first - base + sectors) * sector).min(end);
        Ok(Run {
            kept: if there {
                Kept::There(place + (offset - start))
            } else {
                Kept::Parent
            },
            length: run_end - offset,
        })
    }

    /// Whether the sector number `first` of the chunk whose bitmap is at `bitmap` is here, and how many from there to
    /// `end` are as it is. The bit of a byte that is worth least stands for the first of eight sectors.
    fn sectors(&self, container: &dyn Disk, bitmap: u64, first: u64, end: u64) -> Result<(bool, u64)> {
        let mut there = None;
        let mut sector = first;
        while sector < end {
            let at = bitmap + sector / 8;
            let page = self.pages.at(container, at)?;
            for byte in page.rest(at) {
                // Whole bytes at once.
                if sector.is_multiple_of(8) && there == Some(*byte == 0xff) && matches!(byte, 0 | 0xff) {
                    sector += 8;
                } else {
                    for bit in sector % 8..8 {
                        let set = byte >> bit & 1 != 0;
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

    /// Calls `each` with the number and the value of every entry that the disk needs and that is not zero.
    pub(super) fn each_entry(&self, container: &dyn Disk, mut each: impl FnMut(u64, u64)) -> Result<()> {
        let entries = self.geometry.entries();
        let mut buffer = vec![0; 64 << 10];
        let mut number = 0;
        while number < entries {
            let count = (entries - number).min(buffer.len() as u64 / 8);
            let length = usize::try_from(count * 8).unwrap_or(0);
            let piece = buffer.get_mut(..length).unwrap_or_default();
            container.read_at(self.at(number), piece)?;
            for entry in piece.as_chunks::<8>().0 {
                let entry = u64::from_le_bytes(*entry);
                if entry != 0 {
                    each(number, entry);
                }
                number += 1;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_interleaved_with_those_of_bitmaps() {
        let mut geometry = Geometry {
            size: 10 << 40,
            block: 256 << 20,
            sector: 512,
            has_parent: false,
        };
        assert_eq!(geometry.chunk_ratio(), 16);
        assert_eq!(geometry.blocks(), 40960);
        assert_eq!(geometry.entries(), 40960 + 2559);
        assert_eq!(
            (geometry.entry(0), geometry.entry(15), geometry.entry(16)),
            (0, 15, 17)
        );
        assert_eq!((geometry.bitmap_entry(0), geometry.bitmap_entry(16)), (16, 33));
        assert!(geometry.is_bitmap(16) && !geometry.is_bitmap(17) && geometry.is_bitmap(33));
        geometry.has_parent = true;
        assert_eq!(geometry.entries(), 40960 + 2560);
        geometry.sector = 4096;
        assert_eq!(geometry.chunk_ratio(), 128);
        geometry.size = 0;
        assert_eq!((geometry.blocks(), geometry.entries()), (0, 0));
    }
}
