//! One pass over a disk: every chunk is read, judged, hashed and put while it is hot in a core's cache, by as many
//! threads as pay, each with one buffer.

use super::{
    hash::{CHUNK, ChunkHash, DiskHasher, Run, chunk_range, chunks},
    ledger::{Ledger, NoLedger},
    schedule::{Schedule, Work},
    zero::is_zero,
};
use crate::{
    disk::{Digest, Disk, Error, Kind, Result, Sink},
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
pub struct Pace {
    /// Threads that read, hash and put; 0: as many as pay on this host.
    pub threads: usize,
    /// A checkpoint after so many bytes put: what a kill costs at most. Not too many, since it also keeps the host from
    /// gathering more than that before it writes. In bytes.
    pub checkpoint_bytes: u64,
    /// A checkpoint after so long.
    pub checkpoint_time: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            threads: 0,
            checkpoint_bytes: 256 << 20,
            checkpoint_time: Duration::from_secs(30),
        }
    }
}

/// More threads than cores hide the waits of a disk; more than this only cost memory.
const MOST_THREADS: usize = 16;

/// Zeros are left out in pieces of this size or more, in bytes: a page; less would save no space.
const SMALLEST_UNIT: u64 = 4096;

/// Copies `disk` into `sink`. What `ledger` has is trusted: it is neither read nor put again. What is put is recorded
/// there after each checkpoint. Cancelled or failed, the ledger tells how far it came.
///
/// # Errors
/// Those of the disk, the sink and the ledger; [`Kind::Cancelled`] if `watch` says so.
pub fn copy(
    disk: &dyn Disk,
    sink: &dyn Sink,
    ledger: &dyn Ledger,
    pace: Pace,
    watch: &dyn Watch,
) -> Result<Copied> {
    let job = Job {
        disk,
        unit: unit_of(disk, sink)?,
        target: Some(Target { sink, ledger, pace }),
        watch,
        judge: None,
        schedule: Mutex::new(Schedule::new(disk, ledger)),
        progress: Mutex::new(Progress::new(disk.size())),
        checkpoint: Mutex::new(()),
        stopped: AtomicBool::new(false),
    };
    let copied = match job.run(pace.threads) {
        Ok(copied) => copied,
        Err(error) => {
            // What came before the break is worth keeping; that this fails too adds nothing to the first cause.
            let _ = job.checkpoint();
            return Err(error);
        }
    };
    // One flush instead of a checkpoint and a flush: for a copy that is soon done it is the only one.
    sink.finish()?;
    let rest = mem::take(&mut lock(&job.progress).unrecorded);
    ledger.record(&rest)?;
    ledger.complete(copied.digest)?;
    Ok(copied)
}

/// Reads `disk` and calls `judge` with every run of chunks, from many threads and in no order. Gives the hash of the
/// disk. Zeros by its map are not read.
pub(super) fn each_run(disk: &dyn Disk, watch: &dyn Watch, judge: Judge<'_>) -> Result<Digest> {
    let job = Job {
        disk,
        unit: 0,
        target: None,
        watch,
        judge: Some(judge),
        schedule: Mutex::new(Schedule::new(disk, &NoLedger)),
        progress: Mutex::new(Progress::new(disk.size())),
        checkpoint: Mutex::new(()),
        stopped: AtomicBool::new(false),
    };
    job.run(0).map(|copied| copied.digest)
}

/// Looks at a run of chunks.
pub(super) type Judge<'a> = &'a (dyn Fn(&Run) -> Result<()> + Sync);

struct Job<'a> {
    disk: &'a dyn Disk,
    /// Zeros are looked for in pieces of this many bytes.
    unit: usize,
    /// `None` when only hashes are wanted.
    target: Option<Target<'a>>,
    watch: &'a dyn Watch,
    judge: Option<Judge<'a>>,
    schedule: Mutex<Schedule<'a>>,
    progress: Mutex<Progress>,
    /// Held by the one that makes a checkpoint.
    checkpoint: Mutex<()>,
    stopped: AtomicBool,
}

struct Target<'a> {
    sink: &'a dyn Sink,
    ledger: &'a dyn Ledger,
    pace: Pace,
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

impl Job<'_> {
    fn run(&self, threads: usize) -> Result<Copied> {
        let cores = thread::available_parallelism().map_or(1, usize::from);
        let threads = if threads == 0 { cores * 2 } else { threads };
        let most = usize::try_from(chunks(self.disk.size())).unwrap_or(usize::MAX);
        let threads = threads.min(MOST_THREADS).min(most).max(1);
        let mut outcome = Ok(());
        thread::scope(|scope| {
            // A host that gives no more threads still has this one.
            let spawn = |_| thread::Builder::new().spawn_scoped(scope, || self.work()).ok();
            let workers: Vec<_> = (1..threads).filter_map(spawn).collect();
            outcome = self.work();
            for worker in workers {
                let ended = worker.join().unwrap_or_else(|_| Err(self.incomplete()));
                // The first cause, not what it led to in those that were held in the sink.
                if outcome.as_ref().err().is_none_or(|e| e.kind == Kind::Cancelled) && ended.is_err() {
                    outcome = ended;
                }
            }
        });
        outcome?;
        let progress = lock(&self.progress);
        let (digest, done) = progress.hasher.finish();
        if done != chunks(self.disk.size()) {
            return Err(self.incomplete());
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

    fn incomplete(&self) -> Error {
        let text = "a copying thread ended before its work was done; this is a fault of the program, please report it";
        Error::new(Kind::Io, self.disk.label(), text)
    }

    /// One thread: takes work until there is none, or until somebody failed.
    fn work(&self) -> Result<()> {
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

    fn work_until_stopped(&self) -> Result<()> {
        let mut buffer = Vec::new();
        while !self.stopped.load(Ordering::Acquire) {
            if self.watch.cancelled() {
                return Err(Error::new(Kind::Cancelled, self.disk.label(), "cancelled"));
            }
            let Some(work) = lock(&self.schedule).next()? else {
                break;
            };
            let mut bytes = Bytes::default();
            let run = match work {
                Work::Known { first, count, hash } => {
                    let range = self.range(first, count);
                    bytes.known = length(&range);
                    if let Some(target) = &self.target {
                        target.sink.keep(range)?;
                    }
                    Run { first, count, hash }
                }
                Work::Skip { first, count } => {
                    let range = self.range(first, count);
                    bytes.skipped = length(&range);
                    if let Some(target) = &self.target {
                        target.sink.skip(range)?;
                    }
                    let hash = None;
                    Run { first, count, hash }
                }
                Work::Read { index, data } => Run {
                    first: index,
                    count: 1,
                    hash: self.chunk(index, &data, &mut buffer, &mut bytes)?,
                },
            };
            if let Some(judge) = self.judge {
                judge(&run)?;
            }
            self.done(run, bytes)?;
        }
        Ok(())
    }

    /// Reads one chunk and puts what of it is not zeros.
    fn chunk(
        &self,
        index: u64,
        data: &[Range<u64>],
        buffer: &mut Vec<u8>,
        bytes: &mut Bytes,
    ) -> Result<ChunkHash> {
        let range = self.range(index, 1);
        let size = usize::try_from(length(&range)).unwrap_or(0);
        buffer.resize(size, 0);
        let mut filled = range.start;
        for part in data {
            window_mut(buffer, range.start, filled..part.start).fill(0);
            self.disk
                .read_at(part.start, window_mut(buffer, range.start, part.clone()))?;
            bytes.read += length(part);
            filled = part.end;
        }
        window_mut(buffer, range.start, filled..range.end).fill(0);
        if is_zero(buffer) {
            bytes.skipped = length(&range);
            if let Some(target) = &self.target {
                target.sink.skip(range)?;
            }
            return Ok(None);
        }
        if let Some(target) = &self.target {
            self.put(target.sink, range, buffer, bytes)?;
        }
        Ok(Some(Digest::of(buffer)))
    }

    /// Puts the runs of units that hold something and skips the others, in order.
    fn put(&self, sink: &dyn Sink, range: Range<u64>, buffer: &[u8], bytes: &mut Bytes) -> Result<()> {
        let mut at = range.start;
        let mut units = buffer
            .chunks(self.unit)
            .map(|unit| (is_zero(unit), unit.len() as u64));
        let mut next = units.next();
        while let Some((zero, first)) = next {
            let mut end = at + first;
            next = units.next();
            while let Some((_, more)) = next.filter(|(other, _)| *other == zero) {
                end += more;
                next = units.next();
            }
            if zero {
                sink.skip(at..end)?;
                bytes.skipped += end - at;
            } else {
                sink.put(at, window(buffer, range.start, at..end))?;
                bytes.put += end - at;
            }
            at = end;
        }
        Ok(())
    }

    fn done(&self, run: Run, bytes: Bytes) -> Result<()> {
        let known = bytes.known > 0;
        let due = {
            let mut progress = lock(&self.progress);
            let Progress {
                hasher,
                unrecorded,
                bytes: total,
                ..
            } = &mut *progress;
            hasher.add(run, known, |run, known| {
                if !known {
                    note(unrecorded, run);
                }
            });
            total.put += bytes.put;
            total.skipped += bytes.skipped;
            total.known += bytes.known;
            total.read += bytes.read;
            progress.since_checkpoint += bytes.put;
            self.target.as_ref().is_some_and(|target| {
                progress.since_checkpoint >= target.pace.checkpoint_bytes
                    || progress.last_checkpoint.elapsed() >= target.pace.checkpoint_time
            })
        };
        self.watch.advance(bytes.put + bytes.skipped + bytes.known);
        if due { self.checkpoint() } else { Ok(()) }
    }

    /// Makes durable what was put, then notes it. The other threads go on meanwhile.
    fn checkpoint(&self) -> Result<()> {
        let (Some(target), Ok(_one)) = (&self.target, self.checkpoint.try_lock()) else {
            return Ok(());
        };
        let batch = {
            let mut progress = lock(&self.progress);
            progress.since_checkpoint = 0;
            progress.last_checkpoint = Instant::now();
            mem::take(&mut progress.unrecorded)
        };
        target.sink.checkpoint()?;
        target.ledger.record(&batch)
    }

    /// The bytes of `count` chunks from `first` on.
    fn range(&self, first: u64, count: u64) -> Range<u64> {
        chunk_range(self.disk.size(), first, count)
    }
}

/// Appends a run, joining zeros with zeros: a ledger of a nearly empty disk stays small.
fn note(runs: &mut Vec<Run>, run: Run) {
    match runs.last_mut() {
        Some(last) if last.hash.is_none() && run.hash.is_none() && last.first + last.count == run.first => {
            last.count += run.count;
        }
        _ => runs.push(run),
    }
}

/// The bytes between two puts or skips: a multiple of the sink's unit and of a page, and a divisor of a chunk.
fn unit_of(disk: &dyn Disk, sink: &dyn Sink) -> Result<usize> {
    let unit = u64::from(sink.unit()).max(SMALLEST_UNIT);
    match usize::try_from(unit) {
        Ok(size) if unit.is_power_of_two() && unit <= CHUNK => Ok(size),
        _ => {
            let text = format!("cannot be copied in units of {unit} bytes: at most {CHUNK}, a power of two");
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
