//! What a copy has to do, in ascending order: extents of the disk cut into chunks, less what the ledger has.

use super::{
    hash::{CHUNK, Run, chunk_range, chunks},
    ledger::Ledger,
};
use crate::disk::{Content, Disk, Error, Extent, Kind, Result};
use std::ops::Range;

/// Some work, in whole pieces.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Work {
    /// The ledger has these, which follow each other.
    Known(Vec<Run>),
    /// Zeros by the map; need not be read.
    Skip { first: u64, count: u64 },
    /// To be read: the parts that the map calls data. The rest of the chunks is zeros.
    Read {
        first: u64,
        count: u64,
        data: Vec<Range<u64>>,
    },
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
    /// Chunks that are handed out together: all work begins on a multiple of that.
    piece: u64,
    /// No more chunks of zeros at once.
    most_zeros: u64,
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
            piece: 1,
            most_zeros: u64::MAX,
        }
    }

    /// From now on nothing is [`Work::Skip`]: zeros by the map are [`Work::Read`] without data.
    pub(super) fn read_zeros(&mut self) {
        self.reads_zeros = true;
    }

    /// From now on so many chunks are handed out together, at least 1.
    pub(super) fn in_pieces_of(&mut self, chunks: u64) {
        self.piece = chunks.max(1);
    }

    /// From now on [`Work::Skip`] is no longer than `bytes`, or than one piece.
    pub(super) fn cut_zeros(&mut self, bytes: u64) {
        self.most_zeros = self.whole_pieces(bytes / CHUNK).max(self.piece);
    }

    /// The next work; `None` at the end.
    pub(super) fn next(&mut self) -> Result<Option<Work>> {
        let first = self.next;
        let chunks = chunks(self.size);
        if first >= chunks {
            return Ok(None);
        }
        if first >= self.unknown_to
            && let Some(runs) = self.known(first, chunks)?
        {
            self.next = runs.last().map_or(chunks, |last| last.first + last.count);
            return Ok(Some(Work::Known(runs)));
        }
        let zeros_to = self.zeros_from(first.saturating_mul(CHUNK))?;
        let whole = if zeros_to >= self.size {
            chunks
        } else {
            self.whole_pieces(zeros_to / CHUNK)
        };
        let whole = whole
            .min(self.unknown_to)
            .min(first.saturating_add(self.most_zeros));
        if whole > first && !self.reads_zeros {
            self.next = whole;
            let count = whole - first;
            return Ok(Some(Work::Skip { first, count }));
        }
        let count = self.piece.min(chunks - first);
        self.next = first + count;
        let data = self.data_in(chunk_range(self.size, first, count))?;
        Ok(Some(Work::Read { first, count, data }))
    }

    /// The last chunk not behind `chunk` on which a piece begins.
    fn whole_pieces(&self, chunk: u64) -> u64 {
        chunk / self.piece * self.piece
    }

    /// What the ledger has from chunk `first` on, of which a whole piece must be there.
    fn known(&mut self, first: u64, chunks: u64) -> Result<Option<Vec<Run>>> {
        let piece_end = (first + self.piece).min(chunks);
        let mut runs: Vec<Run> = Vec::new();
        let mut at = first;
        while at < piece_end {
            let entry = self.ledger.at(at)?;
            let count = entry.count.clamp(1, chunks - at);
            let Some(hash) = entry.hash else {
                let unknown_to = if at == first {
                    self.whole_pieces(at + count)
                } else {
                    0
                };
                let unknown_to = if at + count >= chunks { chunks } else { unknown_to };
                self.unknown_to = unknown_to.max(piece_end);
                return Ok(None);
            };
            runs.push(Run {
                first: at,
                count,
                hash,
            });
            at += count;
        }
        let end = if at >= chunks {
            chunks
        } else {
            self.whole_pieces(at).max(piece_end)
        };
        // Zeros may be known far beyond this piece; of several runs the last ends with it.
        let end = if runs.len() > 1 { piece_end } else { end };
        if let Some(last) = runs.last_mut() {
            last.count = end - last.first;
        }
        Ok(Some(runs))
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
