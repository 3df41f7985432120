//! One pass over a disk: every chunk is read, judged, hashed and put while it is hot in a core's cache, by as many
//! threads as pay, each with one buffer.

use super::{
    brake::Brake,
    braked::Braked,
    hash::{CHUNK, DiskHasher, Run, chunk_range, chunks},
    ledger::{Ledger, NoLedger},
    offload::{Offload, Offloading},
    schedule::{Schedule, Work},
    workers::{ended_early, in_parallel},
    write_zeros::ZEROS_AT_ONCE,
    zero::is_zero,
};
use crate::{
    disk::{AlignedBuffer, Digest, Disk, Error, Kind, Result, Sink},
    watch::Watch,
};
use std::{
    mem,
    ops::Range,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

/// What a copy did. All but the hash in bytes of the disk; together they are its size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Copied {
    /// The disk's hash, as `docs/ledger.md` defines it.
    pub digest: Digest,
    /// Put into the sink.
    pub put: u64,
    /// Zeros.
    pub skipped: u64,
    /// In the ledger already.
    pub known: u64,
    /// Read from the source: what was put, and zeros that the map did not tell of.
    pub read: u64,
}

/// How a copy is run.
#[derive(Clone, Copy, Debug)]
pub struct Pace<'a> {
    /// Threads that read, hash and put; 0: as many as pay on this host.
    pub threads: usize,
    /// A checkpoint after so many bytes written: what a kill costs at most. Not too many, since it also keeps the host from
    /// gathering more than that before it writes. In bytes.
    pub checkpoint_bytes: u64,
    /// A checkpoint after so long.
    pub checkpoint_time: Duration,
    /// Zeros are left out where so many bytes of them follow each other in a chunk; less than the sink's unit counts as
    /// that. `Some(0)`: nothing is left out, not even holes. `None`: the sink's unit.
    pub sparse: Option<u64>,
    /// What may be left to the kernel.
    pub offload: Offload,
    /// What holds it back. A thread rests after what it has moved: at its beginning a copy may be ahead of its rate by one
    /// chunk for each thread.
    pub brake: Option<&'a Brake>,
}

impl Default for Pace<'_> {
    fn default() -> Self {
        Self {
            threads: 0,
            checkpoint_bytes: 256 << 20,
            checkpoint_time: Duration::from_secs(30),
            sparse: None,
            offload: Offload::default(),
            brake: None,
        }
    }
}

/// Zeros are left out in pieces of this size or more, in bytes: a page; less would save no space.
const SMALLEST_UNIT: u64 = 4096;

/// The largest cluster of any format that is written; every thread holds one. In bytes.
const LARGEST_UNIT: u64 = 4 << 20;

/// What all threads together read at once: a quarter of what the program may take. Compressing takes as much again. In bytes.
const MOST_READ: usize = 32 << 20;

/// Copies `disk` into `sink`. What `ledger` has is trusted: it is neither read nor put again. What is put is recorded
/// there after each checkpoint. Cancelled or failed, the ledger tells how far it came.
///
/// # Errors
/// Those of the disk, the sink and the ledger; [`Kind::Cancelled`] if `watch` says so.
pub fn copy(
    disk: &dyn Disk,
    sink: &dyn Sink,
    ledger: &dyn Ledger,
    pace: Pace<'_>,
    watch: &dyn Watch,
) -> Result<Copied> {
    run_copy(disk, sink, ledger, true, pace, watch)
}

/// Copies `disk` into `sink` without hashing it: nothing is known of it afterwards ([`Copied::digest`] is that of a disk of
/// zeros), so it can neither be resumed nor verified. Where the kernel can bring the bytes, nothing is even read.
///
/// # Errors
/// Those of the disk and the sink; [`Kind::Cancelled`] if `watch` says so.
pub fn copy_unhashed(disk: &dyn Disk, sink: &dyn Sink, pace: Pace<'_>, watch: &dyn Watch) -> Result<Copied> {
    run_copy(disk, sink, &NoLedger, false, pace, watch)
}

fn run_copy(
    disk: &dyn Disk,
    sink: &dyn Sink,
    ledger: &dyn Ledger,
    hashing: bool,
    pace: Pace<'_>,
    watch: &dyn Watch,
) -> Result<Copied> {
    let filling = pace.sparse == Some(0);
    let target = Target {
        sink,
        ledger,
        unit: unit_of(disk, sink)?,
        hashing,
        filling,
        offloading: Offloading::new(if filling { Offload::Never } else { pace.offload }),
    };
    let job = Job::new(disk, Some(target), pace, watch, None);
    let copied = match job.run() {
        Ok(copied) => copied,
        Err(error) => {
            // What came before the break is worth keeping; that this fails too adds nothing to the first cause.
            let _ = job.checkpoint();
            return Err(error);
        }
    };
    // One flush instead of a checkpoint and a flush: for a copy that is soon done it is the only one.
    sink.finish_watched(&Braked::new(watch, pace.brake))?;
    let rest = mem::take(&mut lock(&job.progress).unrecorded);
    ledger.record(&rest)?;
    ledger.complete(copied.digest)?;
    Ok(copied)
}

/// Reads `disk` and calls `judge` with every run of chunks, from many threads and in no order. Gives the hash of the
/// disk. Zeros by its map are not read.
pub(super) fn each_run(
    disk: &dyn Disk,
    pace: Pace<'_>,
    watch: &dyn Watch,
    judge: Judge<'_>,
) -> Result<Digest> {
    let job = Job::new(disk, None, pace, watch, Some(judge));
    job.run().map(|copied| copied.digest)
}

/// Looks at a run of chunks.
pub(super) type Judge<'a> = &'a (dyn Fn(&Run) -> Result<()> + Sync);

struct Job<'a> {
    disk: &'a dyn Disk,
    /// `None` when only hashes are wanted.
    target: Option<Target<'a>>,
    pace: Pace<'a>,
    watch: &'a dyn Watch,
    judge: Option<Judge<'a>>,
    schedule: Mutex<Schedule<'a>>,
    progress: Mutex<Progress>,
    /// Held by the one that makes a checkpoint. `true`: one has failed.
    checkpoint: Mutex<bool>,
    stopped: AtomicBool,
}

struct Target<'a> {
    sink: &'a dyn Sink,
    ledger: &'a dyn Ledger,
    /// Zeros are looked for in pieces of this many bytes.
    unit: usize,
    hashing: bool,
    /// Zeros are put like any data.
    filling: bool,
    offloading: Offloading,
}

impl Progress {
    fn new(size: u64) -> Self {
        Self {
            hasher: DiskHasher::new(size),
            unrecorded: Vec::new(),
            bytes: Bytes::default(),
            since_checkpoint: 0,
            last_checkpoint: Instant::now(),
        }
    }
}

struct Progress {
    hasher: DiskHasher,
    /// Put or skipped without a gap below, not in the ledger yet.
    unrecorded: Vec<Run>,
    bytes: Bytes,
    since_checkpoint: u64,
    last_checkpoint: Instant,
}

/// Bytes of the disk by what was done with them.
#[derive(Clone, Copy, Debug, Default)]
struct Bytes {
    put: u64,
    skipped: u64,
    known: u64,
    read: u64,
}

impl<'a> Job<'a> {
    fn new(
        disk: &'a dyn Disk,
        target: Option<Target<'a>>,
        pace: Pace<'a>,
        watch: &'a dyn Watch,
        judge: Option<Judge<'a>>,
    ) -> Self {
        let mut schedule = match &target {
            Some(target) => Schedule::new(disk, target.ledger),
            None => Schedule::new(disk, &NoLedger),
        };
        if let Some(target) = &target {
            schedule.in_pieces_of(target.unit as u64 / CHUNK);
            if target.filling {
                schedule.read_zeros();
            }
            if target.sink.writes_zeros() {
                // Held to a rate they come like data.
                let limited = pace.brake.is_some_and(Brake::has_rate);
                schedule.cut_zeros(if limited { CHUNK } else { ZEROS_AT_ONCE });
            }
        }
        Self {
            disk,
            target,
            pace,
            watch,
            judge,
            schedule: Mutex::new(schedule),
            progress: Mutex::new(Progress::new(disk.size())),
            checkpoint: Mutex::new(false),
            stopped: AtomicBool::new(false),
        }
    }

    fn run(&self) -> Result<Copied> {
        let pieces = self.disk.size().div_ceil(self.largest_read() as u64);
        let pieces = pieces.min((MOST_READ / self.largest_read()) as u64);
        in_parallel(self.disk.label(), self.pace.threads, pieces, &|| self.work())?;
        let progress = lock(&self.progress);
        let (digest, done) = progress.hasher.finish();
        if done != chunks(self.disk.size()) {
            return Err(ended_early(self.disk.label()));
        }
        let Bytes {
            put,
            skipped,
            known,
            read,
        } = progress.bytes;
        Ok(Copied {
            digest,
            put,
            skipped,
            known,
            read,
        })
    }

    /// One thread: takes work until there is none, or until somebody failed.
    fn work(&self) -> Result<()> {
        let _panics_are_seen = WhenPanicking(|| {
            self.stopped.store(true, Ordering::Release);
            if let Some(target) = &self.target {
                target.sink.abandon();
            }
        });
        let outcome = self.work_until_stopped();
        if let Err(error) = &outcome {
            self.stopped.store(true, Ordering::Release);
            // Who is cancelled has delivered all that it was handed: nobody waits for it. Who failed has not; and a
            // sink that is abandoned takes no checkpoint, so that comes first.
            if error.kind != Kind::Cancelled
                && let Some(target) = &self.target
            {
                let _ = self.checkpoint();
                target.sink.abandon();
            }
        }
        outcome
    }

    fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Acquire)
    }

    /// Between two pieces of work, when this thread keeps nobody waiting: until the brake lets go.
    fn hold_back(&self, rest_until: Duration) -> Result<()> {
        let Some(brake) = self.pace.brake else {
            return Ok(());
        };
        let stopped = || self.is_stopped() || self.watch.cancelled();
        brake.wait(rest_until, self.watch, &stopped, &|| self.checkpoint_of_all())
    }

    fn work_until_stopped(&self) -> Result<()> {
        let mut buffer = None;
        let mut rest_until = Duration::ZERO;
        loop {
            self.hold_back(rest_until)?;
            if self.is_stopped() {
                break;
            }
            if self.watch.cancelled() {
                return Err(Error::new(Kind::Cancelled, self.disk.label(), "cancelled"));
            }
            let Some(work) = lock(&self.schedule).next()? else {
                break;
            };
            let mut bytes = Bytes::default();
            let runs = match work {
                Work::Known(runs) => {
                    let first = runs.first().map_or(0, |run| run.first);
                    let count = runs.iter().map(|run| run.count).sum();
                    let range = self.range(first, count);
                    bytes.known = length(&range);
                    if let Some(target) = &self.target {
                        target.sink.keep(range)?;
                    }
                    runs
                }
                Work::Skip { first, count } => {
                    let range = self.range(first, count);
                    bytes.skipped = length(&range);
                    if let Some(target) = &self.target {
                        target.sink.skip(range)?;
                    }
                    let hash = None;
                    vec![Run { first, count, hash }]
                }
                Work::Read { first, count, data } => {
                    let buffer = buffer.get_or_insert_with(|| AlignedBuffer::new(self.largest_read()));
                    self.piece(first, count, &data, buffer, &mut bytes)?
                }
            };
            if let Some(judge) = self.judge {
                runs.iter().try_for_each(judge)?;
            }
            if let Some(brake) = self.pace.brake {
                rest_until = brake.charge(bytes.read.max(self.written(&bytes)));
            }
            self.done(runs, bytes)?;
        }
        Ok(())
    }

    /// What goes to the target.
    fn written(&self, bytes: &Bytes) -> u64 {
        match &self.target {
            Some(target) if target.sink.writes_zeros() => bytes.put + bytes.skipped,
            _ => bytes.put,
        }
    }

    /// What a thread reads at once: a chunk, or as many as the sink takes together.
    fn largest_read(&self) -> usize {
        let unit = self.target.as_ref().map_or(0, |target| target.unit);
        unit.max(LARGEST_READ)
    }

    /// Brings `count` chunks to where they go, and hashes them.
    fn piece(
        &self,
        first: u64,
        count: u64,
        data: &[Range<u64>],
        buffer: &mut AlignedBuffer,
        bytes: &mut Bytes,
    ) -> Result<Vec<Run>> {
        let range = self.range(first, count);
        let hashes = |buffer: &[u8]| {
            let hash = |chunk: &[u8]| (!is_zero(chunk)).then(|| Digest::of(chunk));
            let run = |(first, chunk)| Run {
                first,
                count: 1,
                hash: hash(chunk),
            };
            (first..).zip(buffer.chunks(LARGEST_READ)).map(run).collect()
        };
        let unhashed = || {
            let hash = None;
            vec![Run { first, count, hash }]
        };
        let buffer = buffer.first(usize::try_from(length(&range)).unwrap_or(0));
        if let Some(target) = &self.target
            && let Some(disk) = target.sink.target()
            && target.offloading.bring(self.disk, disk, data)?
        {
            bytes.put = data.iter().map(length).sum();
            bytes.skipped = length(&range) - bytes.put;
            if !target.hashing {
                return Ok(unhashed());
            }
            // What is there now, whatever the source holds by now.
            disk.read_at(range.start, buffer)?;
            bytes.read = bytes.put;
            return Ok(hashes(buffer));
        }
        self.read(&range, data, buffer)?;
        bytes.read = data.iter().map(length).sum();
        let Some(target) = &self.target else {
            bytes.skipped = length(&range);
            return Ok(hashes(buffer));
        };
        if target.filling {
            target.sink.put(range.start, buffer)?;
            bytes.put = length(&range);
        } else if is_zero(buffer) {
            bytes.skipped = length(&range);
            target.sink.skip(range)?;
            return Ok(unhashed());
        } else {
            self.put(target, range, buffer, bytes)?;
        }
        Ok(if target.hashing {
            hashes(buffer)
        } else {
            unhashed()
        })
    }

    /// Fills `buffer` with `range`, of which only `data` has to be read.
    fn read(&self, range: &Range<u64>, data: &[Range<u64>], buffer: &mut [u8]) -> Result<()> {
        let mut filled = range.start;
        for part in data {
            window_mut(buffer, range.start, filled..part.start).fill(0);
            self.disk
                .read_at(part.start, window_mut(buffer, range.start, part.clone()))?;
            filled = part.end;
        }
        window_mut(buffer, range.start, filled..range.end).fill(0);
        Ok(())
    }

    /// Puts the runs of units that hold something and skips the others, in order.
    fn put(&self, target: &Target<'_>, range: Range<u64>, buffer: &[u8], bytes: &mut Bytes) -> Result<()> {
        let smallest = self.pace.sparse.unwrap_or(0).min(CHUNK).max(target.unit as u64);
        let mut put = |part: Range<u64>| {
            if part.is_empty() {
                return Ok(());
            }
            bytes.put += length(&part);
            target.sink.put(part.start, window(buffer, range.start, part))
        };
        // Up to `done` all has been given away; zeros too few to be left out wait with the data.
        let (mut done, mut at) = (range.start, range.start);
        let mut units = buffer.chunks(target.unit).peekable();
        while let Some(unit) = units.next() {
            let start = at;
            at += unit.len() as u64;
            if !is_zero(unit) {
                continue;
            }
            while let Some(unit) = units.next_if(|unit| is_zero(unit)) {
                at += unit.len() as u64;
            }
            if at - start >= smallest {
                put(done..start)?;
                target.sink.skip(start..at)?;
                done = at;
            }
        }
        put(done..range.end)?;
        bytes.skipped = length(&range) - bytes.put;
        Ok(())
    }

    fn done(&self, runs: Vec<Run>, bytes: Bytes) -> Result<()> {
        let known = bytes.known > 0;
        let due = {
            let mut progress = lock(&self.progress);
            let Progress {
                hasher,
                unrecorded,
                bytes: total,
                ..
            } = &mut *progress;
            for run in runs {
                hasher.add(run, known, |run, known| {
                    // Nobody records what is only read.
                    if !known && self.target.is_some() {
                        note(unrecorded, run);
                    }
                });
            }
            total.put += bytes.put;
            total.skipped += bytes.skipped;
            total.known += bytes.known;
            total.read += bytes.read;
            progress.since_checkpoint += self.written(&bytes);
            self.target.as_ref().is_some_and(|target| {
                // What is not hashed cannot be noted: nothing would be won.
                target.hashing
                    && (progress.since_checkpoint >= self.pace.checkpoint_bytes
                        || progress.last_checkpoint.elapsed() >= self.pace.checkpoint_time)
            })
        };
        self.watch.advance(bytes.put + bytes.skipped + bytes.known);
        if due { self.checkpoint() } else { Ok(()) }
    }

    /// Makes durable what was put, then notes it; unless somebody is at it. The other threads go on meanwhile.
    fn checkpoint(&self) -> Result<()> {
        match self.checkpoint.try_lock() {
            Ok(mut failed) => self.checkpoint_held(&mut failed),
            Err(_) => Ok(()),
        }
    }

    /// The same, of all that has arrived by now.
    fn checkpoint_of_all(&self) -> Result<()> {
        let mut failed = lock(&self.checkpoint);
        if !*failed && lock(&self.progress).unrecorded.is_empty() {
            return Ok(());
        }
        self.checkpoint_held(&mut failed)
    }

    /// After one that failed none is made in this run, whatever the sink would say: what that one was to record may be lost,
    /// and the ledger must have no gap.
    fn checkpoint_held(&self, failed: &mut bool) -> Result<()> {
        let Some(target) = &self.target else {
            return Ok(());
        };
        if *failed {
            let text = "an earlier checkpoint has failed";
            return Err(Error::new(Kind::Cancelled, self.disk.label(), text));
        }
        *failed = true;
        let batch = {
            let mut progress = lock(&self.progress);
            progress.since_checkpoint = 0;
            progress.last_checkpoint = Instant::now();
            mem::take(&mut progress.unrecorded)
        };
        target.sink.checkpoint()?;
        target.ledger.record(&batch)?;
        *failed = false;
        Ok(())
    }

    /// The bytes of `count` chunks from `first` on.
    fn range(&self, first: u64, count: u64) -> Range<u64> {
        chunk_range(self.disk.size(), first, count)
    }
}

/// Calls what it holds if its thread panics: nobody waits for a range that this thread will never deliver.
struct WhenPanicking<F: Fn()>(F);

impl<F: Fn()> Drop for WhenPanicking<F> {
    fn drop(&mut self) {
        if thread::panicking() {
            (self.0)();
        }
    }
}

/// A chunk, as it is read at once.
#[allow(clippy::cast_possible_truncation, reason = "a mebibyte")]
const LARGEST_READ: usize = CHUNK as usize;

/// Appends a run, joining zeros with zeros: a ledger of a nearly empty disk stays small.
fn note(runs: &mut Vec<Run>, run: Run) {
    match runs.last_mut() {
        Some(last) if last.hash.is_none() && run.hash.is_none() && last.first + last.count == run.first => {
            last.count += run.count;
        }
        _ => runs.push(run),
    }
}

/// The bytes between two puts or skips: a multiple of the sink's unit and of a page, and a divisor or a multiple of a chunk.
fn unit_of(disk: &dyn Disk, sink: &dyn Sink) -> Result<usize> {
    let unit = u64::from(sink.unit()).max(SMALLEST_UNIT);
    match usize::try_from(unit) {
        Ok(size) if unit.is_power_of_two() && unit <= LARGEST_UNIT => Ok(size),
        _ => {
            let text =
                format!("cannot be copied in units of {unit} bytes: at most {LARGEST_UNIT}, a power of two");
            Err(Error::new(Kind::Unsupported, disk.label(), text))
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn length(range: &Range<u64>) -> u64 {
    range.end.saturating_sub(range.start)
}

/// Where `part` of the disk is in a buffer that begins at `start`.
fn place(start: u64, part: &Range<u64>) -> Range<usize> {
    let index = |at: u64| usize::try_from(at.saturating_sub(start)).unwrap_or(usize::MAX);
    index(part.start)..index(part.end)
}

fn window(buffer: &[u8], start: u64, part: Range<u64>) -> &[u8] {
    buffer.get(place(start, &part)).unwrap_or_default()
}

fn window_mut(buffer: &mut [u8], start: u64, part: Range<u64>) -> &mut [u8] {
    buffer.get_mut(place(start, &part)).unwrap_or_default()
}

#[cfg(test)]
#[path = "engine_tests.rs"]
mod tests;
