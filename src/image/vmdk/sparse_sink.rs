//! Writing a whole disk into new sparse extents, from many threads: monolithicSparse, twoGbMaxExtentSparse.
//!
//! Grains get their place in the order of the disk, so threads wait for each other to allocate, but write at the same
//! moment. Tables have fixed places, and one is in memory at a time. A checkpoint leaves a valid image; a run that
//! resumes one allocates afresh in the same order, so that it ends in the same bytes as a run that was not killed.

use super::{
    SECTOR, bytes_of,
    layout::{COVERAGE, DESCRIPTOR, ENTRIES_PER_TABLE, GRAIN, Layout, TABLE},
    sparse_extent::first_bytes,
    turn::{Turns, cannot_resume, entry_of, nothing_to_keep},
};
use crate::disk::{Disk, Kind, Result, Sink};
use std::{ops::Range, sync::Arc};

/// A container grows in such steps (sparse), since every growth is a system call. In bytes.
const GROWTH: u64 = 64 << 20;

/// Directories are written in pieces of so many entries.
const DIRECTORY_PIECE: u64 = 16 << 10;

/// Bytes of a grain, and of the entries of a table.
const GRAIN_BYTES: u64 = GRAIN * SECTOR;
const TABLE_ENTRIES: usize = ENTRIES_PER_TABLE as usize;

/// A file for a part of a new disk.
#[derive(Debug)]
pub(super) struct NewPart {
    /// May be empty, and must be able to grow.
    pub(super) container: Arc<dyn Disk>,
    /// Bytes of the disk that it takes: whole grains, except in the last one.
    pub(super) size: u64,
    /// What goes inside.
    pub(super) descriptor: Option<String>,
}

/// New sparse extents that take a whole disk.
#[derive(Debug)]
pub(super) struct SparseSink {
    parts: Vec<Part>,
    turns: Turns<State>,
}

#[derive(Debug)]
struct Part {
    container: Arc<dyn Disk>,
    layout: Layout,
    /// Where it begins in the disk, and how much of it it takes, in bytes.
    start: u64,
    length: u64,
}

/// Where the allocation is.
struct State {
    part: usize,
    /// The sector of that part's file that is free.
    free: u64,
    /// The next of its tables that has not been dealt with.
    next_table: u64,
    table: Option<Table>,
    /// An earlier run left something in the files.
    resumed: bool,
}

/// The table that is being filled.
struct Table {
    index: u64,
    words: Vec<u32>,
    changed: bool,
    /// What an earlier run had there; read when it is first asked for.
    earlier: Option<Vec<u32>>,
}

impl SparseSink {
    /// Begins anew in `parts` if they are `fresh`, or goes on with what a run with the same size and options left.
    pub(super) fn open(parts: Vec<NewPart>, size: u64, zeroed_grains: bool, fresh: bool) -> Result<Self> {
        let mut opened: Vec<Part> = Vec::with_capacity(parts.len());
        for part in parts {
            let embedded = part.descriptor.is_some();
            let label = part.container.label().to_owned();
            let layout = Layout::new(part.size, embedded, zeroed_grains).map_err(|flaw| flaw.of(&label))?;
            let start = opened.last().map_or(0, |last| last.start + last.length);
            let head = head(&layout, part.descriptor.as_deref(), &label)?;
            let part = Part {
                container: part.container,
                layout,
                start,
                length: part.size,
            };
            if fresh {
                part.write_head(&head)?;
            } else {
                part.must_have(&head)?;
            }
            opened.push(part);
        }
        let label = opened
            .first()
            .map_or("", |part| part.container.label())
            .to_owned();
        let free = opened.first().map_or(0, |part| part.layout.header.overhead);
        let state = State {
            part: 0,
            free,
            next_table: 0,
            table: None,
            resumed: !fresh,
        };
        Ok(Self {
            turns: Turns::new(&label, GRAIN_BYTES, size, state),
            parts: opened,
        })
    }

    fn part(&self, state: &State) -> Option<&Part> {
        self.parts.get(state.part)
    }

    /// Leaves the parts before the one that has `offset`.
    fn advance(&self, state: &mut State, offset: u64) -> Result<()> {
        while let Some(part) = self.part(state).filter(|part| part.start + part.length <= offset) {
            self.leave_part(state, part)?;
            state.part += 1;
            state.free = self.part(state).map_or(0, |part| part.layout.header.overhead);
            state.next_table = 0;
        }
        Ok(())
    }

    /// Everything of `part` has been allocated.
    fn leave_part(&self, state: &mut State, part: &Part) -> Result<()> {
        self.leave_tables(state, part, part.layout.tables)?;
        part.set_size(bytes_of(state.free))
    }

    /// All tables before `end` are as they will be.
    fn leave_tables(&self, state: &mut State, part: &Part, end: u64) -> Result<()> {
        if let Some(table) = state.table.take() {
            part.write_table(&table, TABLE_ENTRIES)?;
            state.next_table = table.index + 1;
        }
        if state.resumed && state.next_table < end {
            // Nothing of an earlier run stays where this one has nothing.
            for (first, last) in part
                .layout
                .table(state.next_table)
                .into_iter()
                .zip(part.layout.table(end))
            {
                part.container.write_zeros(first..last)?;
            }
        }
        state.next_table = state.next_table.max(end);
        Ok(())
    }

    /// Has the table for byte `offset` of the part at hand.
    fn table<'a>(&self, state: &'a mut State, part: &Part, offset: u64) -> Result<Option<&'a mut Table>> {
        let index = offset / COVERAGE;
        if state.table.as_ref().is_none_or(|table| table.index != index) {
            self.leave_tables(state, part, index)?;
            state.table = Some(Table {
                index,
                words: vec![0; TABLE_ENTRIES],
                changed: false,
                earlier: None,
            });
        }
        Ok(state.table.as_mut())
    }

    /// Gives the grain at byte `offset` of the part a place in its file; in sectors.
    fn map(&self, state: &mut State, part: &Part, offset: u64) -> Result<u64> {
        let sector = state.free;
        let label = part.container.label();
        let (word, _) = (entry_of(sector, label)?, entry_of(sector + GRAIN, label)?);
        part.grow_to(bytes_of(sector + GRAIN))?;
        if let Some(table) = self.table(state, part, offset)? {
            table.changed = true;
            if let Some(entry) = table.words.get_mut(index_in_table(offset)) {
                *entry = word;
            }
        }
        state.free = sector + GRAIN;
        Ok(sector)
    }

    /// The place that an earlier run gave to the grain at byte `offset` of the part; 0 if none.
    fn earlier(&self, state: &mut State, part: &Part, offset: u64) -> Result<u32> {
        let Some(table) = self.table(state, part, offset)? else {
            return Ok(0);
        };
        let words = match &table.earlier {
            Some(words) => words,
            None => table.earlier.insert(part.read_table(table.index)?),
        };
        Ok(words.get(index_in_table(offset)).copied().unwrap_or(0))
    }

    fn keep_grain(&self, state: &mut State, at: u64) -> Result<()> {
        self.advance(state, at)?;
        let Some(part) = self.part(state) else {
            return Ok(());
        };
        let offset = at - part.start;
        let there = self.earlier(state, part, offset)?;
        if there != 0 && self.map(state, part, offset)? != u64::from(there) {
            return Err(cannot_resume(
                part.container.label(),
                "what comes before has changed since the earlier run",
            ));
        }
        Ok(())
    }

    /// The grains of `range` in order, each with its first byte.
    fn grains(range: &Range<u64>) -> impl Iterator<Item = u64> + use<> {
        let end = range.end;
        (range.start..end).step_by(usize::try_from(GRAIN_BYTES).unwrap_or(usize::MAX))
    }

    /// Allocates `range`; gives runs that follow each other in one file, with their part and first sector.
    fn allocate(&self, state: &mut State, range: &Range<u64>) -> Result<Vec<(usize, u64, Range<u64>)>> {
        let mut runs: Vec<(usize, u64, Range<u64>)> = Vec::with_capacity(2);
        for at in Self::grains(range) {
            self.advance(state, at)?;
            let Some(part) = self.part(state) else {
                break;
            };
            let sector = self.map(state, part, at - part.start)?;
            let end = range.end.min(at + GRAIN_BYTES);
            match runs.last_mut() {
                Some((index, first, run))
                    if *index == state.part && *first + (run.end - run.start) / SECTOR == sector =>
                {
                    run.end = end;
                }
                _ => runs.push((state.part, sector, at..end)),
            }
        }
        Ok(runs)
    }

    fn write_runs(&self, offset: u64, bytes: &[u8], runs: Vec<(usize, u64, Range<u64>)>) -> Result<()> {
        for (index, sector, run) in runs {
            let Some(part) = self.parts.get(index) else {
                continue;
            };
            let place = |at: u64| usize::try_from(at - offset).unwrap_or(usize::MAX);
            let piece = bytes.get(place(run.start)..place(run.end)).unwrap_or_default();
            let whole = piece.len() as u64 / GRAIN_BYTES * GRAIN_BYTES;
            let (front, last) = piece.split_at(usize::try_from(whole).unwrap_or(0));
            part.container.write_at(bytes_of(sector), front)?;
            if !last.is_empty() {
                // The last grain of the disk: whole in the file, whatever was there.
                let mut grain = last.to_vec();
                grain.resize(usize::try_from(GRAIN_BYTES).unwrap_or(0), 0);
                part.container.write_at(bytes_of(sector) + whole, &grain)?;
            }
        }
        Ok(())
    }

    fn flush(&self, last: usize) -> Result<()> {
        let mut parts = self.parts.iter().take(last.saturating_add(1));
        parts.try_for_each(|part| part.container.flush())
    }
}

fn index_in_table(offset: u64) -> usize {
    usize::try_from(offset % COVERAGE / GRAIN_BYTES).unwrap_or(usize::MAX)
}

/// What stands before the directories: header and descriptor.
fn head(layout: &Layout, descriptor: Option<&str>, label: &str) -> Result<Vec<u8>> {
    let header = layout.header.encode().map_err(|flaw| flaw.of(label))?;
    let mut head = header.to_vec();
    if let Some(text) = descriptor {
        head.extend(embedded(text, label)?);
    }
    Ok(head)
}

/// A descriptor in the room that an extent has for it.
pub(super) fn embedded(text: &str, label: &str) -> Result<Vec<u8>> {
    let room = usize::try_from(bytes_of(DESCRIPTOR)).unwrap_or(0);
    if text.len() > room {
        let text = format!("has a name that is too long: the descriptor must fit into {room} bytes");
        return Err(super::flaw::Flaw::CannotCreate(text).of(label));
    }
    let mut bytes = text.as_bytes().to_vec();
    bytes.resize(room, 0);
    Ok(bytes)
}

impl Part {
    /// Header, descriptor, directories, and tables without an entry.
    fn write_head(&self, head: &[u8]) -> Result<()> {
        let layout = &self.layout;
        self.grow_to(layout.grains())?;
        // The container may be an old device with anything on it.
        self.container.write_zeros(0..layout.grains())?;
        for (directory, first) in layout.directories() {
            let mut index = 0;
            while index < layout.tables {
                let end = layout.tables.min(index + DIRECTORY_PIECE);
                let mut bytes = Vec::new();
                for table in index..end {
                    let word = entry_of(first + table * TABLE, self.container.label())?;
                    bytes.extend(word.to_le_bytes());
                }
                self.container.write_at(bytes_of(directory) + index * 4, &bytes)?;
                index = end;
            }
        }
        self.container.write_at(0, head)
    }

    fn must_have(&self, head: &[u8]) -> Result<()> {
        let there = first_bytes(self.container.as_ref(), head.len())?;
        if there != head || self.container.size() < self.layout.grains() {
            return Err(cannot_resume(
                self.container.label(),
                "its header or descriptor is another than this conversion writes",
            ));
        }
        Ok(())
    }

    fn grow_to(&self, end: u64) -> Result<()> {
        if end > self.container.size() {
            // No further than all of the disk would need.
            let grains = self.length.next_multiple_of(GRAIN_BYTES);
            let most = self.layout.grains().saturating_add(grains);
            self.container
                .set_size(end.next_multiple_of(GROWTH).min(most.max(end)))?;
        }
        Ok(())
    }

    fn set_size(&self, size: u64) -> Result<()> {
        match self.container.set_size(size) {
            // A device has the size that it has.
            Err(error) if error.kind == Kind::Unsupported => Ok(()),
            result => result,
        }
    }

    /// Writes the first `count` entries of a table, in both copies.
    fn write_table(&self, table: &Table, count: usize) -> Result<()> {
        if !table.changed {
            return Ok(());
        }
        let words = table.words.iter().take(count);
        let bytes: Vec<u8> = words.flat_map(|word| word.to_le_bytes()).collect();
        for place in self.layout.table(table.index) {
            self.container.write_at(place, &bytes)?;
        }
        Ok(())
    }

    fn read_table(&self, index: u64) -> Result<Vec<u32>> {
        let mut bytes = vec![0; TABLE_ENTRIES * 4];
        let [place, _] = self.layout.table(index);
        self.container.read_at(place, &mut bytes)?;
        let words = bytes.as_chunks::<4>().0.iter();
        Ok(words.map(|word| u32::from_le_bytes(*word)).collect())
    }
}

impl Sink for SparseSink {
    fn unit(&self) -> u32 {
        u32::try_from(GRAIN_BYTES).unwrap_or(0)
    }

    fn put(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        let range = offset..offset.saturating_add(bytes.len() as u64);
        let runs = self.turns.take(&range, |state| self.allocate(state, &range))?;
        let written = self.write_runs(offset, bytes, runs);
        if written.is_err() {
            self.abandon();
        }
        written
    }

    fn skip(&self, range: Range<u64>) -> Result<()> {
        self.turns.take(&range, |_| Ok(()))
    }

    fn keep(&self, range: Range<u64>) -> Result<()> {
        self.turns.take(&range, |state| {
            if !state.resumed {
                let label = self.parts.first().map_or("", |part| part.container.label());
                return Err(nothing_to_keep(label));
            }
            Self::grains(&range).try_for_each(|at| self.keep_grain(state, at))
        })
    }

    fn checkpoint(&self) -> Result<()> {
        // Data first: no table may lead to what is not there.
        let last = self.turns.pause(|_, state| Ok(state.part))?;
        self.flush(last)?;
        let last = self.turns.pause(|next, state| {
            if let (Some(part), Some(table)) = (self.part(state), &state.table) {
                // Behind the place where this run is, what an earlier run had stays: a second kill must not lose it.
                let done = next.saturating_sub(part.start).div_ceil(GRAIN_BYTES);
                let before = table.index * u64::from(ENTRIES_PER_TABLE);
                let count = usize::try_from(done.saturating_sub(before)).unwrap_or(usize::MAX);
                part.write_table(table, count)?;
            }
            Ok(state.part)
        })?;
        self.flush(last)
    }

    fn abandon(&self) {
        self.turns.abandon();
    }

    fn finish(&self) -> Result<()> {
        self.turns.finish(|state| {
            self.flush(self.parts.len())?;
            self.advance(state, u64::MAX)?;
            self.flush(self.parts.len())
        })
    }
}
