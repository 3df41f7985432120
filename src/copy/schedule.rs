//! What a copy has to do, in ascending order: extents of the disk cut into chunks, less what the ledger has.

use super::{
    hash::{CHUNK, ChunkHash, chunk_range, chunks},
    ledger::Ledger,
};
use crate::disk::{Content, Disk, Error, Extent, Kind, Result};
use std::ops::Range;

/// One piece of work.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Work {
    /// The ledger has these.
    Known { first: u64, count: u64, hash: ChunkHash },
    /// Zeros by the map; need not be read.
    Skip { first: u64, count: u64 },
    /// To be read: the parts that the map calls data. The rest of the chunk is zeros.
    Read { index: u64, data: Vec<Range<u64>> },
}

/// Hands out work. Never more of the map in memory than the disk gives at once.
#[derive(Debug)]
pub(super) struct Schedule<'a> {
    disk: &'a dyn Disk,
    ledger: &'a dyn Ledger,
    size: u64,
    /// The next chunk.
    next: u64,
    /// The ledger has nothing below this chunk.
    unknown_to: u64,
    /// The disk's last answer, ascending.
    map: Vec<Extent>,
    /// Index into the map: those before are used up.
    used: usize,
    /// Zeros are read chunk by chunk like everything else.
    reads_zeros: bool,
}

impl<'a> Schedule<'a> {
    pub(super) fn new(disk: &'a dyn Disk, ledger: &'a dyn Ledger) -> Self {
        Self {
            disk,
            ledger,
            size: disk.size(),
            next: 0,
            unknown_to: 0,
            map: Vec::new(),
            used: 0,
            reads_zeros: false,
        }
    }

    /// From now on nothing is [`Work::Skip`]: zeros by the map are [`Work::Read`] without data.
    pub(super) fn read_zeros(&mut self) {
        self.reads_zeros = true;
    }

    /// The next piece of work; `None` at the end.
    pub(super) fn next(&mut self) -> Result<Option<Work>> {
        let first = self.next;
        let chunks = chunks(self.size);
        if first >= chunks {
            return Ok(None);
        }
        if first >= self.unknown_to {
            let entry = self.ledger.at(first)?;
            let count = entry.count.clamp(1, chunks - first);
            if let Some(hash) = entry.hash {
                self.next = first + count;
                return Ok(Some(Work::Known { first, count, hash }));
            }
            self.unknown_to = first + count;
        }
        let here = chunk_range(self.size, first, 1);
        let zeros_to = self.zeros_from(here.start)?;
        let whole = if zeros_to >= self.size {
            chunks
        } else {
            zeros_to / CHUNK
        };
        let whole = whole.min(self.unknown_to);
        if whole > first && !self.reads_zeros {
            self.next = whole;
            return Ok(Some(Work::Skip {
                first,
                count: whole - first,
            }));
        }
        self.next = first + 1;
        let data = self.data_in(here)?;
        Ok(Some(Work::Read { index: first, data }))
    }

    /// The extent that covers `offset`, which never goes back below an earlier chunk.
    fn extent_at(&mut self, offset: u64) -> Result<Extent> {
        while let Some(extent) = self.map.get(self.used) {
            if extent.range.end > offset {
                break;
            }
            self.used += 1;
        }
        if self.used >= self.map.len() {
            self.map = self.disk.extents(offset..self.size)?;
            self.used = 0;
        }
        match self.map.get(self.used) {
            Some(extent) if extent.range.contains(&offset) => Ok(extent.clone()),
            other => {
                let found = other.map_or(self.size, |extent| extent.range.start);
                let text = format!("the map of its contents goes on at {found}, not where it was asked");
                Err(Error::new(Kind::Io, self.disk.label(), text).at(offset))
            }
        }
    }

    /// Up to where zeros reach from `offset`, as far as the last answer tells: `offset` itself if there are none.
    fn zeros_from(&mut self, offset: u64) -> Result<u64> {
        let first = self.extent_at(offset)?;
        if first.content == Content::Data {
            return Ok(offset);
        }
        let rest = self.map.iter().skip(self.used + 1);
        let mut end = first.range.end;
        for extent in rest.take_while(|extent| extent.content != Content::Data) {
            if extent.range.start != end {
                break;
            }
            end = extent.range.end;
        }
        Ok(end.min(self.size))
    }

    fn data_in(&mut self, chunk: Range<u64>) -> Result<Vec<Range<u64>>> {
        let mut data = Vec::new();
        let mut at = chunk.start;
        while at < chunk.end {
            let extent = self.extent_at(at)?;
            let end = extent.range.end.min(chunk.end);
            if extent.content == Content::Data {
                data.push(at..end);
            }
            at = end;
        }
        Ok(data)
    }
}
