//! The block map: where each block of the disk is in the file.

use super::{flaw::Flaw, header::Header};
use crate::{
    disk::{Disk, Result},
    image::pages::Pages,
};
use std::ops::Range;

/// Entries for a block that has no place: it was never written, or is said to be zeros.
pub(super) const UNALLOCATED: u32 = u32::MAX;
pub(super) const ZERO: u32 = u32::MAX - 1;

/// A call looks at no more entries than this that have no place: the answer is then "so far, at least".
const MOST_ABSENT: u64 = 1 << 16;

/// Where a block is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// In the parent, or zeros without one.
    Unallocated,
    /// Zeros.
    Zero,
    /// Its data begins at this byte of the file.
    At(u64),
}

/// Bytes of the disk that are kept in one way; of a block with a place no more than that block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Run {
    /// Of the first byte.
    pub(super) place: Place,
    pub(super) length: u64,
}

/// The map of one image.
#[derive(Debug)]
pub(super) struct BlockMap {
    start: u64,
    blocks: u64,
    block: u64,
    extra: u64,
    data: u64,
    pages: Pages,
}

impl BlockMap {
    /// Of the image in `container`, whose map must lie in the file.
    pub(super) fn open(container: &dyn Disk, header: &Header) -> Result<Self> {
        let map = Self {
            start: header.map.into(),
            blocks: header.blocks.into(),
            block: header.block_size.into(),
            extra: header.block_extra.into(),
            data: header.data.into(),
            pages: Pages::default(),
        };
        let size = container.size();
        if map.range().end > size {
            let (what, offset) = ("block map", map.start);
            return Err(Flaw::PastTheEnd { what, offset, size }
                .of(container.label())
                .at(offset));
        }
        Ok(map)
    }

    /// Bytes of the disk in a block.
    pub(super) fn block_size(&self) -> u64 {
        self.block
    }

    /// Where the map is in the file.
    pub(super) fn range(&self) -> Range<u64> {
        self.start..self.start + self.blocks * 4
    }

    fn entry_at(&self, block: u64) -> u64 {
        self.start.saturating_add(block.saturating_mul(4))
    }

    /// Where the data of the block with the entry `index` begins; past the end of every file where that is no number.
    pub(super) fn host(&self, index: u32) -> u64 {
        // Extra bytes and block together can have 33 bits.
        u64::from(index)
            .saturating_mul(self.extra + self.block)
            .saturating_add(self.data + self.extra)
    }

    fn decode(&self, entry: u32) -> Place {
        match entry {
            UNALLOCATED => Place::Unallocated,
            ZERO => Place::Zero,
            index => Place::At(self.host(index)),
        }
    }

    /// Where `block` is. A place has at least its first byte in the file.
    pub(super) fn place(&self, container: &dyn Disk, block: u64) -> Result<Place> {
        let at = self.entry_at(block);
        let place = self.decode(u32::from_le_bytes(self.pages.array(container, at)?));
        let size = container.size();
        match place {
            Place::At(offset) if offset >= size => {
                let what = "block";
                let flaw = Flaw::PastTheEnd { what, offset, size };
                Err(flaw.of(container.label()).at(at))
            }
            _ => Ok(place),
        }
    }

    /// Sets the entry of `block`.
    pub(super) fn set(&self, container: &dyn Disk, block: u64, entry: u32) -> Result<()> {
        self.pages
            .write(container, self.entry_at(block), &entry.to_le_bytes())
    }

    /// How the disk's bytes from `offset` on are kept, up to `end`.
    pub(super) fn run(&self, container: &dyn Disk, offset: u64, end: u64) -> Result<Run> {
        let block = offset / self.block;
        let block_end = (block + 1).saturating_mul(self.block);
        let first = self.place(container, block)?;
        if let Place::At(host) = first {
            return Ok(Run {
                place: Place::At(host + offset % self.block),
                length: block_end.min(end) - offset,
            });
        }
        let last = end.div_ceil(self.block);
        let more = self.count_same(container, block + 1, last, first)?;
        let run_end = block_end.saturating_add(more.saturating_mul(self.block));
        Ok(Run {
            place: first,
            length: run_end.min(end) - offset,
        })
    }

    /// How many of the blocks from `first` to `last` on have this `place`, which is none, without a gap.
    fn count_same(&self, container: &dyn Disk, first: u64, last: u64, place: Place) -> Result<u64> {
        let last = last.min(first.saturating_add(MOST_ABSENT));
        let mut block = first;
        while block < last {
            let at = self.entry_at(block);
            let page = self.pages.at(container, at)?;
            let (entries, _) = page.rest(at).as_chunks::<4>();
            let wanted = usize::try_from(last - block).unwrap_or(usize::MAX);
            let entries = entries.get(..wanted).unwrap_or(entries);
            let other = |entry: &[u8; 4]| self.decode(u32::from_le_bytes(*entry)) != place;
            match entries.iter().position(other) {
                Some(index) => return Ok(block + index as u64 - first),
                // An entry across two pages: there are none where the map is aligned.
                None if entries.is_empty() => {
                    if self.place(container, block)? != place {
                        return Ok(block - first);
                    }
                    block += 1;
                }
                None => block += entries.len() as u64,
            }
        }
        Ok(block.min(last).saturating_sub(first))
    }

    /// Calls `each` with the number and the index of every block that has a place by its entry.
    pub(super) fn each_index(&self, container: &dyn Disk, mut each: impl FnMut(u64, u32)) -> Result<()> {
        let range = self.range();
        let mut buffer = vec![0; 64 << 10];
        let mut at = range.start;
        let mut block = 0;
        while at < range.end {
            let length = usize::try_from(range.end - at)
                .unwrap_or(usize::MAX)
                .min(buffer.len());
            let piece = buffer.get_mut(..length).unwrap_or_default();
            container.read_at(at, piece)?;
            for entry in piece.as_chunks::<4>().0 {
                let entry = u32::from_le_bytes(*entry);
                if entry < ZERO {
                    each(block, entry);
                }
                block += 1;
            }
            at += length as u64;
        }
        Ok(())
    }
}
