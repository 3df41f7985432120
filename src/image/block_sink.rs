//! Writing a whole disk, from many threads, into a new image of a format that cuts it into blocks and finds them by one
//! table: dynamic VHD and VHDX.
//!
//! Blocks get their place in the order of the disk, so threads wait for each other to allocate, but write at the same
//! moment. Of the table only what has changed since the last checkpoint is in memory. An entry is written only when the
//! place that it leads to is lasting, so the file is an image at every moment, of all that came before the last
//! checkpoint at least; a run that resumes one allocates afresh in the same order, so that it ends in the same bytes as
//! a run that was not killed.

use crate::disk::{Disk, Error, Kind, Result, Sink};
use std::{
    fmt::Debug,
    ops::Range,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
};

/// What such a format is.
pub(super) trait BlockLayout: Debug + Send + Sync {
    /// Of the disk that is put, in bytes.
    fn size(&self) -> u64;
    /// Bytes of the disk in one block.
    fn block(&self) -> u64;
    /// Where the table is in the file.
    fn table(&self) -> Range<u64>;
    /// Where in the table the entry of `block` is, in bytes; ascending with the block.
    fn entry(&self, block: u64) -> u64;
    /// The entry of a block that lies at `place`.
    ///
    /// # Errors
    /// The format cannot name such a place.
    fn encode(&self, place: u64) -> std::result::Result<Vec<u8>, &'static str>;
    /// The place in an entry; `None` for a block that is not there.
    fn decode(&self, entry: &[u8]) -> Option<u64>;
    /// Where the block is that was allocated as number `slot`.
    fn place(&self, slot: u64) -> u64;
    /// What stands before the data of every block.
    fn prefix(&self) -> &[u8];
    /// All that is before the first block, the table with absent blocks included, in pieces.
    fn head(&self, put: &mut dyn FnMut(u64, &[u8]) -> Result<()>) -> Result<()>;
    /// What stands after the last block.
    fn trailer(&self) -> &[u8];
}

/// The container grows in such steps (sparse), since every growth is a system call.
const GROWTH: u64 = 64 << 20;

/// The table is written in pieces of this size, in bytes.
const PAGE: u64 = 4096;

/// So many pages wait for a checkpoint at most.
const MOST_WAITING: usize = 64;

/// A new image that takes a whole disk.
#[derive(Debug)]
pub(super) struct BlockSink<L> {
    container: Arc<dyn Disk>,
    layout: L,
    /// Reads zeros wherever nothing was written.
    blank: bool,
    resumed: bool,
    state: Mutex<State>,
    turn: Condvar,
}

#[derive(Debug)]
struct State {
    /// The disk's byte whose turn it is.
    next: u64,
    /// Blocks allocated.
    slots: u64,
    /// The last of them, with its place.
    last: Option<(u64, u64)>,
    /// Pages of the table with changes that are not in the file, ascending; and the one that is being filled.
    pages: Vec<Page>,
    closed: Option<Closed>,
}

#[derive(Clone, Copy, Debug)]
enum Closed {
    Abandoned,
    Finished,
}

#[derive(Clone, Debug)]
struct Page {
    /// Where in the table, in bytes.
    start: u64,
    bytes: Vec<u8>,
    /// How many entries were set, and how many of them are in the file.
    changes: u64,
    written: u64,
}

/// Which units a sink takes: what every filesystem and host can leave out.
const UNIT: u32 = 4096;

impl<L: BlockLayout> BlockSink<L> {
    /// Begins a new image in `container`, which must be able to grow.
    pub(super) fn create(container: Arc<dyn Disk>, layout: L, blank: bool) -> Result<Self> {
        let sink = Self::new(container, layout, blank, false);
        let first = sink.layout.place(0);
        sink.grow_to(first)?;
        if !blank {
            sink.container.write_zeros(0..first)?;
        }
        sink.layout
            .head(&mut |at, bytes| sink.container.write_at(at, bytes))?;
        Ok(sink)
    }

    /// Opens an image that [`BlockSink::create`] began with the same layout, to go on after a kill.
    pub(super) fn resume(container: Arc<dyn Disk>, layout: L, blank: bool) -> Result<Self> {
        let sink = Self::new(container, layout, blank, true);
        let table = sink.layout.table();
        let container = &sink.container;
        sink.layout.head(&mut |at, bytes| {
            if at >= table.start && at < table.end {
                return Ok(());
            }
            let mut there = vec![0; bytes.len()];
            let end = at.saturating_add(bytes.len() as u64);
            if end <= container.size() {
                container.read_at(at, &mut there)?;
            }
            if there == bytes {
                Ok(())
            } else {
                Err(sink.cannot_resume("its header is another than this conversion writes"))
            }
        })?;
        if container.size() < table.end {
            return Err(sink.cannot_resume("it is cut short"));
        }
        Ok(sink)
    }

    fn new(container: Arc<dyn Disk>, layout: L, blank: bool, resumed: bool) -> Self {
        let state = State {
            next: 0,
            slots: 0,
            last: None,
            pages: Vec::new(),
            closed: None,
        };
        Self {
            container,
            layout,
            blank,
            resumed,
            state: Mutex::new(state),
            turn: Condvar::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn error(&self, kind: Kind, text: &str) -> Error {
        Error::new(kind, self.container.label(), text)
    }

    fn cannot_resume(&self, why: &str) -> Error {
        self.error(
            Kind::Unsafe,
            &format!("cannot be resumed: {why}. Convert again without --resume"),
        )
    }

    fn still_open(&self, state: &State) -> Result<()> {
        match state.closed {
            None => Ok(()),
            Some(Closed::Abandoned) => Err(self.error(Kind::Cancelled, "writing was abandoned")),
            Some(Closed::Finished) => Err(self.error(Kind::Io, "was finished already")),
        }
    }

    /// Waits until everything before `range` has arrived.
    fn wait_for_turn(&self, range: &Range<u64>) -> Result<MutexGuard<'_, State>> {
        let size = self.layout.size();
        let unit = u64::from(UNIT);
        let whole = range.start.is_multiple_of(unit) && (range.end.is_multiple_of(unit) || range.end == size);
        if !whole || range.end > size || range.end < range.start {
            let text = format!(
                "bytes {} to {} are not whole units of a disk of {size} bytes",
                range.start, range.end
            );
            return Err(self.error(Kind::OutOfRange, &text));
        }
        let mut state = self.lock();
        loop {
            self.still_open(&state)?;
            if state.next == range.start {
                return Ok(state);
            }
            if state.next > range.start {
                return Err(self.error(Kind::Exists, &format!("byte {} was written before", range.start)));
            }
            state = self.turn.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Lets the next one go on, or everybody if this one failed.
    fn pass_on<T>(&self, mut state: MutexGuard<'_, State>, end: u64, result: Result<T>) -> Result<T> {
        match result {
            Ok(_) => state.next = end,
            Err(_) => state.closed = Some(Closed::Abandoned),
        }
        drop(state);
        self.turn.notify_all();
        result
    }

    fn grow_to(&self, end: u64) -> Result<()> {
        if end > self.container.size() {
            self.container.set_size(end)?;
        }
        Ok(())
    }

    /// Bytes of the file from the beginning of a block to the end of its data.
    fn length(&self) -> u64 {
        self.layout.prefix().len() as u64 + self.layout.block()
    }

    /// The entry of `block`: the page that holds it, in memory, and where in it.
    fn entry<'a>(&self, state: &'a mut State, block: u64) -> Result<(&'a mut Page, usize)> {
        let at = self.layout.entry(block);
        let start = at / PAGE * PAGE;
        if state.pages.last().is_none_or(|page| page.start != start) {
            // A page without changes is not needed again.
            state.pages.retain(|page| page.changes > page.written);
            if state.pages.len() >= MOST_WAITING {
                self.container.flush()?;
                self.write_pages(&mut state.pages)?;
                state.pages.clear();
            }
            let table = self.layout.table();
            let length = (table.end - table.start).saturating_sub(start).min(PAGE);
            let mut bytes = vec![0; usize::try_from(length).unwrap_or(0)];
            self.container.read_at(table.start + start, &mut bytes)?;
            state.pages.push(Page {
                start,
                bytes,
                changes: 0,
                written: 0,
            });
        }
        let within = usize::try_from(at - start).unwrap_or(usize::MAX);
        match state.pages.last_mut() {
            Some(page) => Ok((page, within)),
            None => Err(self.error(Kind::OutOfRange, "has no such entry in its table")),
        }
    }

    /// Where an earlier run had put `block`.
    fn earlier(&self, state: &mut State, block: u64) -> Result<Option<u64>> {
        let (page, within) = self.entry(state, block)?;
        let entry = page.bytes.get(within..).unwrap_or_default();
        Ok(self.layout.decode(entry))
    }

    /// Where `block` is, allocated now if it was not. Blocks come in ascending order.
    fn allocate(&self, state: &mut State, block: u64, kept: bool) -> Result<u64> {
        if let Some((_, place)) = state.last.filter(|(last, _)| *last == block) {
            return Ok(place);
        }
        let place = self.layout.place(state.slots);
        let entry = self
            .layout
            .encode(place)
            .map_err(|text| self.error(Kind::Full, text))?;
        let end = place + self.length();
        if end > self.container.size() {
            self.grow_to(end.next_multiple_of(GROWTH))?;
        }
        if self.resumed
            && let Some(earlier) = self.earlier(state, block)?
            && earlier != place
        {
            return Err(self.changed());
        }
        // Before the entry: a checkpoint that has the entry has this too.
        let prefix = self.layout.prefix();
        if !prefix.is_empty() {
            self.container.write_at(place, prefix)?;
        }
        if !self.blank {
            let before = match state.slots.checked_sub(1) {
                Some(last) => self.layout.place(last) + self.length(),
                None => place,
            };
            self.container.write_zeros(before..place)?;
            if !kept {
                self.container.write_zeros(place + prefix.len() as u64..end)?;
            }
        }
        let (page, within) = self.entry(state, block)?;
        match page.bytes.get_mut(within..within.saturating_add(entry.len())) {
            Some(bytes) => bytes.copy_from_slice(&entry),
            None => return Err(self.error(Kind::OutOfRange, "has no such entry in its table")),
        }
        page.changes += 1;
        state.slots += 1;
        state.last = Some((block, place));
        Ok(place)
    }

    fn changed(&self) -> Error {
        self.cannot_resume("what comes before has changed since the earlier run")
    }

    /// Calls `each` with every block that `range` touches, and the part of it.
    fn each_block(
        &self,
        range: Range<u64>,
        mut each: impl FnMut(u64, Range<u64>) -> Result<()>,
    ) -> Result<()> {
        let block = self.layout.block();
        let mut at = range.start;
        while at < range.end {
            let number = at / block;
            let end = range.end.min((number + 1).saturating_mul(block));
            each(number, at..end)?;
            at = end;
        }
        Ok(())
    }

    fn write_pages(&self, pages: &mut [Page]) -> Result<()> {
        let table = self.layout.table().start;
        for page in pages.iter_mut().filter(|page| page.changes > page.written) {
            self.container.write_at(table + page.start, &page.bytes)?;
            page.written = page.changes;
        }
        Ok(())
    }

    /// How many blocks the table in the file has.
    fn count_blocks(&self) -> Result<u64> {
        let blocks = self.layout.size().div_ceil(self.layout.block());
        let table = self.layout.table();
        let mut page = (u64::MAX, Vec::new());
        let mut count = 0;
        for block in 0..blocks {
            let at = self.layout.entry(block);
            let start = at / PAGE * PAGE;
            if page.0 != start {
                let length = (table.end - table.start).saturating_sub(start).min(PAGE);
                page = (start, vec![0; usize::try_from(length).unwrap_or(0)]);
                self.container.read_at(table.start + start, &mut page.1)?;
            }
            let within = usize::try_from(at - start).unwrap_or(usize::MAX);
            let entry = page.1.get(within..).unwrap_or_default();
            count += u64::from(self.layout.decode(entry).is_some());
        }
        Ok(count)
    }
}

impl<L: BlockLayout> Sink for BlockSink<L> {
    fn unit(&self) -> u32 {
        UNIT
    }

    fn put(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        let end = offset.saturating_add(bytes.len() as u64);
        let mut state = self.wait_for_turn(&(offset..end))?;
        let block_size = self.layout.block();
        let prefix = self.layout.prefix().len() as u64;
        let mut pieces: Vec<(u64, Range<usize>)> = Vec::with_capacity(1);
        let allocated = self.each_block(offset..end, |block, part| {
            let place = self.allocate(&mut state, block, false)?;
            let host = place + prefix + (part.start - block * block_size);
            let index = |at: u64| usize::try_from(at - offset).unwrap_or(usize::MAX);
            pieces.push((host, index(part.start)..index(part.end)));
            Ok(())
        });
        self.pass_on(state, end, allocated)?;
        for (host, part) in pieces {
            let piece = bytes.get(part).unwrap_or_default();
            if let Err(error) = self.container.write_at(host, piece) {
                self.abandon();
                return Err(error);
            }
        }
        Ok(())
    }

    fn skip(&self, range: Range<u64>) -> Result<()> {
        let state = self.wait_for_turn(&range)?;
        self.pass_on(state, range.end, Ok(()))
    }

    fn keep(&self, range: Range<u64>) -> Result<()> {
        let mut state = self.wait_for_turn(&range)?;
        let kept = if self.resumed {
            self.each_block(range.clone(), |block, _| {
                let ours = state.last.is_some_and(|(last, _)| last == block);
                if !ours && self.earlier(&mut state, block)?.is_some() {
                    self.allocate(&mut state, block, true)?;
                }
                Ok(())
            })
        } else {
            Err(self.error(Kind::Unsafe, "was not opened to resume: there is nothing to keep"))
        };
        self.pass_on(state, range.end, kept)
    }

    fn checkpoint(&self) -> Result<()> {
        let mut pages = {
            let state = self.lock();
            // After a failure too: what had arrived before is worth keeping.
            if let Some(Closed::Finished) = state.closed {
                self.still_open(&state)?;
            }
            let changed = |page: &&Page| page.changes > page.written;
            state.pages.iter().filter(changed).cloned().collect::<Vec<_>>()
        };
        // What the entries lead to first; the others go on meanwhile.
        self.container.flush()?;
        let mut state = self.lock();
        for page in &mut state.pages {
            let ready = pages.iter_mut().find(|ready| ready.start == page.start);
            // Another checkpoint may have written more of it by now.
            if let Some(ready) = ready.filter(|ready| ready.changes > page.written) {
                ready.written = page.written;
                self.write_pages(std::slice::from_mut(ready))?;
                page.written = ready.written;
            }
        }
        drop(state);
        self.container.flush()
    }

    fn abandon(&self) {
        let mut state = self.lock();
        if state.closed.is_none() {
            state.closed = Some(Closed::Abandoned);
        }
        drop(state);
        self.turn.notify_all();
    }

    fn finish(&self) -> Result<()> {
        let mut state = self.lock();
        self.still_open(&state)?;
        let size = self.layout.size();
        if state.next != size {
            let text = format!("only {} of {size} bytes have arrived", state.next);
            return Err(self.error(Kind::Io, &text));
        }
        self.container.flush()?;
        self.write_pages(&mut state.pages)?;
        if self.resumed && self.count_blocks()? != state.slots {
            return Err(self.changed());
        }
        let end = match state.slots.checked_sub(1) {
            Some(last) => self.layout.place(last) + self.length(),
            None => self.layout.place(0),
        };
        let trailer = self.layout.trailer();
        self.grow_to(end + trailer.len() as u64)?;
        self.container.write_at(end, trailer)?;
        match self.container.set_size(end + trailer.len() as u64) {
            // A device has the size that it has.
            Err(error) if error.kind == Kind::Unsupported => {}
            result => result?,
        }
        state.closed = Some(Closed::Finished);
        drop(state);
        self.container.flush()
    }
}
