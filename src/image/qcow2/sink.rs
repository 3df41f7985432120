//! Writing a whole disk into a new qcow2 image, from many threads.
//!
//! Clusters get their place in the order of the guest's disk, so threads wait for each other to allocate, but pack
//! before that and write at the same moment. One second-level table is in memory at a time. A checkpoint leaves a valid
//! image; a run that resumes one goes over what is kept in the same order, so that it ends in the same bytes as a run
//! that was not killed.

use super::{
    allocator::{Allocator, grow_to},
    cluster::packed_length,
    earlier::{Earlier, cannot_resume},
    l2_table::{self, ALL_DATA, COPIED, OFFSET},
    layout::Layout,
    options::{Options, Preallocation},
    pack::{PackedClusters, pack},
};
use crate::{
    disk::{Disk, Error, Kind, Result, Sink},
    image::{Files, Shape},
};
use std::{
    ops::Range,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
};

/// A new qcow2 image that takes a whole disk.
#[derive(Debug)]
pub struct Qcow2Sink {
    container: Arc<dyn Disk>,
    /// Where data clusters go, if not into the container.
    data: Option<Arc<dyn Disk>>,
    layout: Layout,
    state: Mutex<State>,
    turn: Condvar,
}

#[derive(Debug)]
struct State {
    /// The guest's byte whose turn it is.
    next: u64,
    allocator: Allocator,
    l1: Vec<u64>,
    l1_changed: bool,
    table: Option<Table>,
    /// Of a run that is resumed, as long as all that was given is what it keeps: the file is as it left it.
    earlier: Option<Earlier>,
    /// What an earlier run counted past this one is still in the refcount table.
    counts_too_much: bool,
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

/// Begins a new image, or goes on with one.
pub(in super::super) fn sink(shape: &Shape, files: &mut dyn Files) -> Result<Box<dyn Sink>> {
    let options = Options::from_words(&shape.options)?;
    let data = match &options.data_file {
        Some(name) => Some(files.beside(name, shape.size)?),
        None => None,
    };
    let container = files.main();
    Ok(Box::new(if files.fresh() {
        Qcow2Sink::create_with_data(container, data, shape.size, options)?
    } else {
        Qcow2Sink::resume_with_data(container, data, shape.size, options)?
    }))
}

/// Runs of bytes that follow each other in a buffer and in a file: place in the file, place in the buffer.
#[derive(Debug, Default)]
struct Runs(Vec<(u64, Range<usize>)>);

impl Runs {
    fn push(&mut self, host: u64, piece: Range<usize>) {
        match self.0.last_mut() {
            Some((first, run)) if run.end == piece.start && *first + run.len() as u64 == host => {
                run.end = piece.end;
            }
            _ => self.0.push((host, piece)),
        }
    }
}

impl Qcow2Sink {
    /// Makes a new image of a disk of `size` bytes in `container`, which may be empty and must be able to grow.
    ///
    /// # Errors
    /// [`Kind::Unsupported`] for options that do not go together.
    pub fn create(container: Arc<dyn Disk>, size: u64, options: Options) -> Result<Self> {
        Self::create_with_data(container, None, size, options)
    }

    /// The same; the data goes to `data`, which has `size` bytes, is all zeros, and lies beside the image under the name
    /// that the options give.
    ///
    /// # Errors
    /// [`Kind::Unsupported`] for options that do not go together.
    pub fn create_with_data(
        container: Arc<dyn Disk>,
        data: Option<Arc<dyn Disk>>,
        size: u64,
        options: Options,
    ) -> Result<Self> {
        let sink = Self::new(container, data, size, options, |_, _| Ok(None))?;
        let (container, layout) = (sink.container.as_ref(), &sink.layout);
        let fixed = layout.first_free * sink.cluster();
        grow_to(container, fixed)?;
        let mut state = sink.lock();
        // The container may be an old device with anything on it.
        container.write_zeros(0..fixed)?;
        state.allocator.write_fixed_blocks(container, layout)?;
        state.allocator.write_table(container, layout)?;
        sink.write_metadata(&mut state)?;
        let header = layout
            .header
            .encode()
            .map_err(|flaw| flaw.of(container.label()))?;
        container.write_at(0, &header)?;
        drop(state);
        Ok(sink)
    }

    /// Opens an image that [`Qcow2Sink::create`] began with the same size and options, to go on after a kill. What is
    /// given to [`Sink::keep`] stays as it is.
    ///
    /// # Errors
    /// [`Kind::Unsafe`] if the file is another than such a run leaves.
    pub fn resume(container: Arc<dyn Disk>, size: u64, options: Options) -> Result<Self> {
        Self::resume_with_data(container, None, size, options)
    }

    /// The same for [`Qcow2Sink::create_with_data`].
    ///
    /// # Errors
    /// [`Kind::Unsafe`] if the file is another than such a run leaves.
    pub fn resume_with_data(
        container: Arc<dyn Disk>,
        data: Option<Arc<dyn Disk>>,
        size: u64,
        options: Options,
    ) -> Result<Self> {
        Self::new(container, data, size, options, |container, layout| {
            Earlier::read(container, layout).map(Some)
        })
    }

    fn new(
        container: Arc<dyn Disk>,
        data: Option<Arc<dyn Disk>>,
        size: u64,
        options: Options,
        earlier: impl FnOnce(&dyn Disk, &Layout) -> Result<Option<Earlier>>,
    ) -> Result<Self> {
        let layout = Layout::new(size, options).map_err(|flaw| flaw.of(container.label()))?;
        if data.as_ref().map(|data| data.size()) != layout.options.data_file.as_ref().map(|_| size) {
            let text = "is not what the options say: an external data file of the disk's size, or none";
            return Err(Error::new(Kind::Unsupported, container.label(), text));
        }
        let earlier = earlier(container.as_ref(), &layout)?;
        let resumed = earlier.is_some();
        let state = State {
            next: 0,
            allocator: Allocator::new(&layout, resumed),
            l1: vec![0; layout.header.l1_size as usize],
            l1_changed: true,
            table: None,
            earlier,
            counts_too_much: resumed,
            closed: None,
        };
        Ok(Self {
            container,
            data,
            layout,
            state: Mutex::new(state),
            turn: Condvar::new(),
        })
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

    /// Nothing more is kept: from now on this run's tables replace those of the earlier one.
    fn go_on(&self, state: &mut State) {
        if state.earlier.take().is_some() {
            state.allocator.stop_replaying();
        }
    }

    /// Has the second-level table of `offset` at hand, allocated before what it maps.
    fn table_for<'a>(&self, state: &'a mut State, offset: u64) -> Result<&'a mut Table> {
        let region = offset / self.layout.header.l2_coverage();
        if state.table.as_ref().is_none_or(|table| table.region != region) {
            self.write_table(state)?;
            let host = state.allocator.allocate(self.container.as_ref(), &self.layout)?;
            let words = usize::try_from(self.cluster() / 8).unwrap_or(0);
            state.table = Some(Table {
                region,
                host,
                words: vec![0; words],
                changed: true,
            });
            let slot = usize::try_from(region)
                .ok()
                .and_then(|region| state.l1.get_mut(region));
            *slot.ok_or_else(|| self.error(Kind::OutOfRange, "is past the first-level table"))? =
                host | COPIED;
            state.l1_changed = true;
        }
        state
            .table
            .as_mut()
            .ok_or_else(|| self.error(Kind::OutOfRange, "has no table"))
    }

    /// Sets the entry of the guest's cluster at `offset`.
    fn set_entry(&self, state: &mut State, offset: u64, entry: u64) -> Result<()> {
        let index = self.layout.index_in_table(offset);
        let table = self.table_for(state, offset)?;
        table.changed = true;
        if let Some(word) = table.words.get_mut(index) {
            *word = entry;
        }
        if self.layout.options.extended_l2
            && !l2_table::is_compressed(entry)
            && let Some(bitmap) = table.words.get_mut(index + 1)
        {
            *bitmap = ALL_DATA;
        }
        Ok(())
    }

    /// Gives the guest's cluster at `offset` a cluster of its own.
    fn map(&self, state: &mut State, offset: u64) -> Result<u64> {
        // Its table comes first.
        self.table_for(state, offset)?;
        let host = match self.data {
            Some(_) => offset,
            None => state.allocator.allocate(self.container.as_ref(), &self.layout)?,
        };
        self.set_entry(state, offset, host | COPIED)?;
        Ok(host)
    }

    /// Gives the guest's cluster at `offset`, which is packed to `length` bytes, a place.
    fn map_packed(&self, state: &mut State, offset: u64, length: u64) -> Result<u64> {
        self.table_for(state, offset)?;
        let container = self.container.as_ref();
        let measure = |host, most| self.measure(host, most);
        let host = state.allocator.pack(container, &self.layout, length, measure)?;
        let entry = l2_table::compressed_entry(host, length, self.layout.header.cluster_bits);
        self.set_entry(state, offset, entry)?;
        Ok(host)
    }

    /// The exact length of a packed cluster at `host`, which has at most `most` bytes.
    fn measure(&self, host: u64, most: u64) -> Result<u64> {
        let there = self.container.size().saturating_sub(host).min(most);
        let mut packed = vec![0; usize::try_from(there).unwrap_or(0)];
        self.container.read_at(host, &mut packed)?;
        let size = usize::try_from(self.cluster()).unwrap_or(0);
        let compression = self.layout.header.compression;
        match packed_length(compression, &packed, size) {
            Ok(length) => Ok(length as u64),
            Err(flaw) => Err(cannot_resume(self.container.label(), &flaw.to_string())),
        }
    }

    /// Gives the guest's cluster at `offset` what the earlier run gave it.
    fn map_again(&self, state: &mut State, offset: u64, entry: u64) -> Result<()> {
        let matches = if l2_table::is_compressed(entry) {
            self.table_for(state, offset)?;
            let (host, length) = l2_table::compressed(entry, self.layout.header.cluster_bits);
            let container = self.container.as_ref();
            let matches = state.allocator.repack(container, &self.layout, host, length)?;
            self.set_entry(state, offset, entry)?;
            matches
        } else {
            self.map(state, offset)? | COPIED == entry
        };
        if matches {
            return Ok(());
        }
        Err(cannot_resume(
            self.container.label(),
            "what comes before has changed since the earlier run",
        ))
    }

    /// Writes the current second-level table.
    fn write_table(&self, state: &mut State) -> Result<()> {
        if let Some(table) = &mut state.table
            && table.changed
            && state.earlier.is_none()
        {
            self.container
                .write_at(table.host, &l2_table::bytes(&table.words))?;
            table.changed = false;
        }
        Ok(())
    }

    /// Writes all tables such that the file is a valid image of what is mapped by now.
    fn write_metadata(&self, state: &mut State) -> Result<()> {
        self.write_table(state)?;
        if state.l1_changed {
            self.container
                .write_at(self.layout.header.l1_offset, &l2_table::bytes(&state.l1))?;
            state.l1_changed = false;
        }
        let (container, allocator) = (self.container.as_ref(), &state.allocator);
        if state.counts_too_much {
            allocator.write_table(container, &self.layout)?;
            state.counts_too_much = false;
            return Ok(());
        }
        allocator.write_block(container, &self.layout)
    }

    /// After the last byte of the guest's disk.
    fn write_last_metadata(&self, state: &mut State) -> Result<()> {
        self.go_on(state);
        self.write_metadata(state)?;
        match self.container.set_size(state.allocator.end() * self.cluster()) {
            // A device has the size that it has.
            Err(error) if error.kind == Kind::Unsupported => Ok(()),
            result => result,
        }
    }

    /// Where data clusters go.
    fn data(&self) -> &dyn Disk {
        self.data.as_ref().unwrap_or(&self.container).as_ref()
    }

    /// Writes runs of `bytes` after they have their place.
    fn write_runs(&self, runs: Runs, bytes: &[u8]) -> Result<()> {
        for (host, piece) in runs.0 {
            let piece = bytes.get(piece).unwrap_or_default();
            if let Err(error) = self.data().write_at(host, piece) {
                self.abandon();
                return Err(error);
            }
        }
        Ok(())
    }

    /// Maps clusters of zeros, and takes the space that they are to have.
    fn fill(&self, range: Range<u64>) -> Result<()> {
        let mut state = self.wait_for_turn(&range)?;
        self.go_on(&mut state);
        let mut mapped = Ok(());
        // Of the disk, so a hole is as short as a run of them.
        let mut runs: Vec<Range<u64>> = Vec::new();
        let mut at = range.start;
        while at < range.end && mapped.is_ok() {
            let next = range.end.min(at + self.cluster());
            mapped = self.map(&mut state, at).map(|host| match runs.last_mut() {
                Some(run) if run.end == host => run.end += next - at,
                _ => runs.push(host..host + (next - at)),
            });
            at = next;
        }
        self.pass_on(state, range.end, mapped)?;
        for run in runs {
            if let Err(error) = self.take_space(run) {
                self.abandon();
                return Err(error);
            }
        }
        Ok(())
    }

    fn take_space(&self, run: Range<u64>) -> Result<()> {
        let data = self.data();
        match self.layout.options.preallocation {
            Preallocation::Full => write_zero_bytes(data, run),
            Preallocation::Falloc => {
                data.write_zeros(run.clone())?;
                data.preallocate(run)
            }
            Preallocation::Metadata | Preallocation::Off => data.write_zeros(run),
        }
    }
}

fn write_zero_bytes(disk: &dyn Disk, range: Range<u64>) -> Result<()> {
    let zeros = vec![0; 1 << 20];
    let mut at = range.start;
    while at < range.end {
        let count = (range.end - at).min(zeros.len() as u64);
        let piece = usize::try_from(count).ok().and_then(|count| zeros.get(..count));
        disk.write_at(at, piece.unwrap_or_default())?;
        at += count;
    }
    Ok(())
}

impl Sink for Qcow2Sink {
    fn unit(&self) -> u32 {
        1 << self.layout.header.cluster_bits
    }

    fn put(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        let end = offset.saturating_add(bytes.len() as u64);
        let options = &self.layout.options;
        let cluster = usize::try_from(self.cluster()).unwrap_or(usize::MAX);
        let packed = if options.compress {
            pack(options.compression, bytes, cluster)
        } else {
            PackedClusters::default()
        };
        let mut state = self.wait_for_turn(&(offset..end))?;
        self.go_on(&mut state);
        let (mut plain_runs, mut packed_runs) = (Runs::default(), Runs::default());
        let mut mapped = Ok(());
        let mut start = 0;
        let mut places = packed.places.into_iter();
        while start < bytes.len() && mapped.is_ok() {
            let stop = start.saturating_add(cluster).min(bytes.len());
            let at = offset + start as u64;
            mapped = match places.next().flatten() {
                Some(piece) => self
                    .map_packed(&mut state, at, piece.len() as u64)
                    .map(|host| packed_runs.push(host, piece)),
                None => self
                    .map(&mut state, at)
                    .map(|host| plain_runs.push(host, start..stop)),
            };
            start = stop;
        }
        self.pass_on(state, end, mapped)?;
        self.write_runs(packed_runs, &packed.bytes)?;
        self.write_runs(plain_runs, bytes)
    }

    fn skip(&self, range: Range<u64>) -> Result<()> {
        if self.layout.options.maps_all() {
            return self.fill(range);
        }
        let mut state = self.wait_for_turn(&range)?;
        self.go_on(&mut state);
        self.pass_on(state, range.end, Ok(()))
    }

    /// Only before anything is put or skipped, since the ledger has no gaps: the tables of the earlier run stay as they
    /// are until then.
    fn keep(&self, range: Range<u64>) -> Result<()> {
        let mut state = self.wait_for_turn(&range)?;
        let mut kept = Ok(());
        let mut at = range.start;
        while at < range.end && kept.is_ok() {
            let Some(earlier) = &mut state.earlier else {
                let text = "was not opened to resume, or new data has come before: there is nothing to keep";
                kept = Err(self.error(Kind::Unsafe, text));
                break;
            };
            kept = match earlier.entry(self.container.as_ref(), &self.layout, at) {
                Ok(0) => Ok(()),
                Ok(entry) if entry & OFFSET == 0 && self.data.is_none() => {
                    Err(cannot_resume(self.container.label(), "its tables are damaged"))
                }
                Ok(entry) => self.map_again(&mut state, at, entry),
                Err(error) => Err(error),
            };
            at += self.cluster();
        }
        self.pass_on(state, range.end, kept)
    }

    fn checkpoint(&self) -> Result<()> {
        // Data first: no table may lead to what is not there.
        if let Some(data) = &self.data {
            data.flush()?;
        }
        self.container.flush()?;
        let mut state = self.lock();
        // After a failure too: what had arrived before is worth keeping.
        if let Some(Closed::Finished) = state.closed {
            self.still_open(&state)?;
        }
        if state.earlier.is_some() {
            return Ok(());
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
        if let Some(data) = &self.data {
            data.flush()?;
        }
        self.container.flush()?;
        self.write_last_metadata(&mut state)?;
        state.closed = Some(Closed::Finished);
        drop(state);
        self.container.flush()
    }
}
