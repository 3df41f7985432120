//! Writing a whole disk into a new qcow2 image, from many threads.
//!
//! Clusters get their place in the order of the guest's disk, so threads wait for each other to allocate, but write
//! at the same moment. One second-level table is in memory at a time. A checkpoint leaves a valid image; a run that
//! resumes one allocates afresh in the same order, so that it ends in the same bytes as a run that was not killed.

use super::{
    create::{Layout, Options},
    header::LARGEST_HEADER,
    l2_table::{self, COPIED, OFFSET},
};
use crate::disk::{Disk, Error, Kind, Result, Sink};
use std::{
    ops::Range,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
};

/// The container grows in such steps (sparse), since every growth is a system call.
const GROWTH: u64 = 64 << 20;

/// A new qcow2 image that takes a whole disk.
#[derive(Debug)]
pub struct Qcow2Sink {
    container: Arc<dyn Disk>,
    layout: Layout,
    state: Mutex<State>,
    turn: Condvar,
}

#[derive(Debug)]
struct State {
    /// The guest's byte whose turn it is.
    next: u64,
    /// The host cluster that is free.
    free: u64,
    l1: Vec<u64>,
    l1_changed: bool,
    table: Option<Table>,
    /// Refcount blocks that are full and written.
    blocks_done: u64,
    earlier: Option<Earlier>,
    closed: Option<Closed>,
}

#[derive(Clone, Copy, Debug)]
enum Closed {
    Abandoned,
    Finished,
}

/// The second-level table that is being filled.
#[derive(Debug)]
struct Table {
    region: u64,
    host: u64,
    words: Vec<u64>,
    changed: bool,
}

/// What an earlier run left: to be kept in the file until this run has come by.
#[derive(Debug)]
struct Earlier {
    l1: Vec<u64>,
    /// Clusters that it had allocated.
    end: u64,
    /// Its second-level table of one region.
    table: Option<(u64, Vec<u64>)>,
}

impl Qcow2Sink {
    /// Makes a new image of a disk of `size` bytes in `container`, which may be empty and must be able to grow.
    pub fn create(container: Arc<dyn Disk>, size: u64, options: Options) -> Result<Self> {
        let layout = Layout::new(size, options).map_err(|flaw| flaw.of(container.label()))?;
        let sink = Self::new(container, layout, None);
        let cluster = sink.cluster();
        sink.grow_to(sink.layout.first_free * cluster)?;
        let mut state = sink.lock();
        // The container may be an old device with anything on it.
        sink.container.write_zeros(0..sink.layout.first_free * cluster)?;
        sink.write_metadata(&mut state)?;
        let header = sink
            .layout
            .header
            .encode()
            .map_err(|flaw| flaw.of(sink.container.label()))?;
        sink.container.write_at(0, &header)?;
        drop(state);
        Ok(sink)
    }

    /// Opens an image that [`Qcow2Sink::create`] began with the same size and options, to go on after a kill. What is
    /// given to [`Sink::keep`] stays as it is.
    pub fn resume(container: Arc<dyn Disk>, size: u64, options: Options) -> Result<Self> {
        let label = container.label().to_owned();
        let layout = Layout::new(size, options).map_err(|flaw| flaw.of(&label))?;
        let expected = layout.header.encode().map_err(|flaw| flaw.of(&label))?;
        let mut header = vec![0; usize::try_from(container.size().min(LARGEST_HEADER)).unwrap_or(0)];
        container.read_at(0, &mut header)?;
        let cluster = layout.header.cluster_size();
        if !header.starts_with(&expected) || container.size() < layout.first_free * cluster {
            return Err(cannot_resume(
                &label,
                "its header is another than this conversion writes",
            ));
        }
        let mut l1 = vec![0; layout.header.l1_size as usize * 8];
        container.read_at(layout.header.l1_offset, &mut l1)?;
        let earlier = Earlier {
            l1: l2_table::words(&l1),
            end: allocated_earlier(container.as_ref(), &layout)?,
            table: None,
        };
        Ok(Self::new(container, layout, Some(earlier)))
    }

    fn new(container: Arc<dyn Disk>, layout: Layout, earlier: Option<Earlier>) -> Self {
        let state = State {
            next: 0,
            free: layout.first_free,
            l1: vec![0; layout.header.l1_size as usize],
            l1_changed: true,
            table: None,
            blocks_done: 0,
            earlier,
            closed: None,
        };
        Self {
            container,
            layout,
            state: Mutex::new(state),
            turn: Condvar::new(),
        }
    }

    fn cluster(&self) -> u64 {
        self.layout.header.cluster_size()
    }

    fn size(&self) -> u64 {
        self.layout.header.size
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn error(&self, kind: Kind, text: &str) -> Error {
        Error::new(kind, self.container.label(), text)
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
        let cluster = self.cluster();
        let whole = range.start.is_multiple_of(cluster)
            && (range.end.is_multiple_of(cluster) || range.end == self.size());
        if !whole || range.end > self.size() {
            return Err(self.error(
                Kind::OutOfRange,
                &format!(
                    "bytes {} to {} are not whole clusters of a disk of {} bytes",
                    range.start,
                    range.end,
                    self.size()
                ),
            ));
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

    fn allocate(&self, state: &mut State) -> Result<u64> {
        let mut cluster = state.free;
        if cluster.is_multiple_of(self.layout.clusters_per_block()) {
            // The refcount block of what follows. (Block 0 has another place: the first clusters are never free.)
            cluster += 1;
        }
        let end = (cluster + 1) * self.cluster();
        if end > self.container.size() {
            self.grow_to(end.next_multiple_of(GROWTH))?;
        }
        state.free = cluster + 1;
        Ok(cluster * self.cluster())
    }

    /// Where `region` lies: the part of the guest's disk that one second-level table maps.
    fn region_of(&self, offset: u64) -> u64 {
        offset / self.layout.header.l2_coverage()
    }

    fn index_in_table(&self, offset: u64) -> usize {
        usize::try_from(offset / self.cluster() % self.layout.header.l2_entries()).unwrap_or(usize::MAX)
    }

    /// Gives the guest's cluster at `offset` a host cluster.
    fn map(&self, state: &mut State, offset: u64) -> Result<u64> {
        let region = self.region_of(offset);
        if state.table.as_ref().is_none_or(|table| table.region != region) {
            self.write_table(state, true)?;
            self.load_earlier_table(state, region)?;
            let host = self.allocate(state)?;
            state.table = Some(Table {
                region,
                host,
                words: vec![0; usize::try_from(self.layout.header.l2_entries()).unwrap_or(0)],
                changed: true,
            });
            let slot = usize::try_from(region)
                .ok()
                .and_then(|region| state.l1.get_mut(region));
            *slot.ok_or_else(|| self.error(Kind::OutOfRange, "is past the first-level table"))? =
                host | COPIED;
            state.l1_changed = true;
        }
        let host = self.allocate(state)?;
        let index = self.index_in_table(offset);
        if let Some(table) = &mut state.table {
            table.changed = true;
            if let Some(word) = table.words.get_mut(index) {
                *word = host | COPIED;
            }
        }
        Ok(host)
    }

    /// Has the earlier run's table of `region` at hand.
    fn load_earlier_table(&self, state: &mut State, region: u64) -> Result<()> {
        let Some(earlier) = &mut state.earlier else {
            return Ok(());
        };
        if earlier.table.as_ref().is_some_and(|(there, _)| *there == region) {
            return Ok(());
        }
        let mut bytes = vec![0; usize::try_from(self.cluster()).unwrap_or(0)];
        let entry = usize::try_from(region)
            .ok()
            .and_then(|region| earlier.l1.get(region));
        let host = entry.copied().unwrap_or(0) & OFFSET;
        if host != 0 {
            if !host.is_multiple_of(self.cluster()) || host >= self.container.size() {
                return Err(cannot_resume(self.container.label(), "its tables are damaged"));
            }
            self.container.read_at(host, &mut bytes)?;
        }
        earlier.table = Some((region, l2_table::words(&bytes)));
        Ok(())
    }

    /// The host cluster that the earlier run gave to the guest's cluster at `offset`; 0 if none.
    fn earlier_host(&self, state: &mut State, offset: u64) -> Result<u64> {
        self.load_earlier_table(state, self.region_of(offset))?;
        let table = state.earlier.as_ref().and_then(|earlier| earlier.table.as_ref());
        let word = table.and_then(|(_, words)| words.get(self.index_in_table(offset)));
        Ok(word.copied().unwrap_or(0) & OFFSET)
    }

    /// Writes the current second-level table. Unless it is `complete`, what an earlier run had mapped behind the
    /// place where this run is stays mapped: a second kill must not lose it.
    fn write_table(&self, state: &mut State, complete: bool) -> Result<()> {
        let Some(table) = &mut state.table else {
            return Ok(());
        };
        if !table.changed {
            return Ok(());
        }
        let mut bytes = l2_table::bytes(&table.words);
        let earlier = state.earlier.as_ref().and_then(|earlier| earlier.table.as_ref());
        if let Some((_, words)) = earlier.filter(|(region, _)| *region == table.region && !complete) {
            let region_end = (table.region + 1).saturating_mul(self.layout.header.l2_coverage());
            let done = if state.next >= region_end {
                words.len()
            } else {
                self.index_in_table(state.next)
            };
            let merged = words.iter().enumerate().zip(&table.words);
            let merged: Vec<u64> = merged
                .map(|((index, old), new)| if index < done { *new } else { *old })
                .collect();
            bytes = l2_table::bytes(&merged);
        }
        self.container.write_at(table.host, &bytes)?;
        table.changed = false;
        Ok(())
    }

    /// Writes all tables such that the file is a valid image of what is mapped by now.
    fn write_metadata(&self, state: &mut State) -> Result<()> {
        self.write_table(state, false)?;
        if state.l1_changed {
            let begun = state.table.as_ref().map_or(0, |table| table.region + 1);
            let done = self.region_of(state.next).max(begun);
            let earlier = state
                .earlier
                .as_ref()
                .map(|earlier| earlier.l1.as_slice())
                .unwrap_or_default();
            let l1: Vec<u64> = (0_u64..)
                .zip(&state.l1)
                .zip(earlier.iter().copied().chain(std::iter::repeat(0)))
                .map(|((region, new), old)| if region < done { *new } else { old })
                .collect();
            self.container
                .write_at(self.layout.header.l1_offset, &l2_table::bytes(&l1))?;
            // With an earlier run's entries in it, it changes with every step.
            state.l1_changed = state.earlier.is_some();
        }
        self.write_refcounts(state)
    }

    /// Every cluster up to the end is used once.
    fn write_refcounts(&self, state: &mut State) -> Result<()> {
        let cluster = self.cluster();
        let per_block = self.layout.clusters_per_block();
        let earlier = state.earlier.as_ref().map_or(0, |earlier| earlier.end);
        let end = state.free.max(earlier);
        let blocks = end.div_ceil(per_block);
        for index in state.blocks_done..blocks {
            let used = (end - index * per_block).min(per_block);
            let mut bytes = [0, 1].repeat(usize::try_from(used).unwrap_or(0));
            bytes.resize(usize::try_from(cluster).unwrap_or(0), 0);
            self.grow_to((self.layout.refcount_block(index) + 1) * cluster)?;
            self.container
                .write_at(self.layout.refcount_block(index) * cluster, &bytes)?;
        }
        let first = state.blocks_done;
        let hosts: Vec<u64> = (first..blocks)
            .map(|index| self.layout.refcount_block(index) * cluster)
            .collect();
        let table = self.layout.header.refcount_table_offset;
        self.container
            .write_at(table + first * 8, &l2_table::bytes(&hosts))?;
        state.blocks_done = end / per_block;
        Ok(())
    }

    fn grow_to(&self, end: u64) -> Result<()> {
        if end > self.container.size() {
            self.container.set_size(end)?;
        }
        Ok(())
    }

    /// After the last byte of the guest's disk: exactly what this run has mapped.
    fn write_last_metadata(&self, state: &mut State) -> Result<()> {
        let end = state.free;
        if let Some(earlier) = state.earlier.take().filter(|earlier| earlier.end > end) {
            // The earlier run went further: its refcount blocks past our end are not ours.
            let per_block = self.layout.clusters_per_block();
            let table = self.layout.header.refcount_table_offset;
            let blocks = end.div_ceil(per_block)..earlier.end.div_ceil(per_block);
            self.container
                .write_zeros(table + blocks.start * 8..table + blocks.end * 8)?;
            state.blocks_done = 0;
        }
        if let Some(table) = &mut state.table {
            table.changed = true;
        }
        state.l1_changed = true;
        self.write_metadata(state)?;
        match self.container.set_size(end * self.cluster()) {
            // A device has the size that it has.
            Err(error) if error.kind == Kind::Unsupported => Ok(()),
            result => result,
        }
    }
}

fn cannot_resume(label: &str, why: &str) -> Error {
    Error::new(
        Kind::Unsafe,
        label,
        format!("cannot be resumed: {why}. Convert again without --resume"),
    )
}

/// How many clusters the last checkpoint counted.
fn allocated_earlier(container: &dyn Disk, layout: &Layout) -> Result<u64> {
    let cluster = layout.header.cluster_size();
    let length = u64::from(layout.header.refcount_table_clusters) * cluster;
    let mut table = vec![0; usize::try_from(length).unwrap_or(0)];
    container.read_at(layout.header.refcount_table_offset, &mut table)?;
    let hosts = l2_table::words(&table);
    let Some((index, host)) = (0_u64..).zip(&hosts).filter(|(_, host)| **host != 0).last() else {
        return Ok(0);
    };
    if *host != layout.refcount_block(index) * cluster || host.saturating_add(cluster) > container.size() {
        return Err(cannot_resume(
            container.label(),
            "its reference counts are damaged",
        ));
    }
    let mut block = vec![0; usize::try_from(cluster).unwrap_or(0)];
    container.read_at(*host, &mut block)?;
    let used = block
        .as_chunks::<2>()
        .0
        .iter()
        .filter(|count| **count != [0, 0])
        .count();
    Ok(index * layout.clusters_per_block() + used as u64)
}

impl Sink for Qcow2Sink {
    fn unit(&self) -> u32 {
        1 << self.layout.header.cluster_bits
    }

    fn put(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        let end = offset.saturating_add(bytes.len() as u64);
        let mut state = self.wait_for_turn(&(offset..end))?;
        // Runs of clusters that follow each other in the file: one, unless a table lies between.
        let mut runs: Vec<(u64, Range<usize>)> = Vec::with_capacity(2);
        let mut mapped = Ok(());
        for (start, cluster) in bytes
            .chunks(1 << self.layout.header.cluster_bits)
            .scan(0, |at, cluster| {
                let start = *at;
                *at += cluster.len();
                Some((start, cluster))
            })
        {
            match self.map(&mut state, offset + start as u64) {
                Ok(host) => match runs.last_mut() {
                    Some((first, range)) if *first + range.len() as u64 == host => range.end += cluster.len(),
                    _ => runs.push((host, start..start + cluster.len())),
                },
                Err(error) => {
                    mapped = Err(error);
                    break;
                }
            }
        }
        self.pass_on(state, end, mapped)?;
        for (host, range) in runs {
            let piece = bytes.get(range).unwrap_or_default();
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
        let cluster = self.cluster();
        let mut kept = Ok(());
        if state.earlier.is_none() {
            kept = Err(self.error(Kind::Unsafe, "was not opened to resume: there is nothing to keep"));
        }
        let mut at = range.start;
        while at < range.end && kept.is_ok() {
            kept = match self.earlier_host(&mut state, at) {
                Ok(0) => Ok(()),
                Ok(there) => self.map(&mut state, at).and_then(|host| {
                    if host == there {
                        Ok(())
                    } else {
                        Err(cannot_resume(
                            self.container.label(),
                            "what comes before has changed since the earlier run",
                        ))
                    }
                }),
                Err(error) => Err(error),
            };
            at += cluster;
        }
        self.pass_on(state, range.end, kept)
    }

    fn checkpoint(&self) -> Result<()> {
        // Data first: no table may lead to what is not there.
        self.container.flush()?;
        let mut state = self.lock();
        // After a failure too: what had arrived before is worth keeping.
        if let Some(Closed::Finished) = state.closed {
            self.still_open(&state)?;
        }
        self.write_metadata(&mut state)?;
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
        if state.next != self.size() {
            return Err(self.error(
                Kind::Io,
                &format!("only {} of {} bytes have arrived", state.next, self.size()),
            ));
        }
        self.container.flush()?;
        self.write_last_metadata(&mut state)?;
        state.closed = Some(Closed::Finished);
        drop(state);
        self.container.flush()
    }
}
