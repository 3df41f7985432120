//! The threads of a job.

use crate::disk::{Error, Kind, Result};
use std::{panic, thread};

/// More threads than cores hide the waits of a disk, and of each other; more than this only cost memory.
const MOST_THREADS: usize = 32;

/// For each processor. Two are as fast on an idle host; four are faster on a busy one, and over a network.
const THREADS_OF_A_PROCESSOR: usize = 4;

/// Runs `work` in `threads` threads at once (0: as many as pay on this host), but in no more than there are `pieces` of it.
/// Gives the first error that is no consequence of another. `label` names the disk in the error of a thread that panicked.
pub(super) fn in_parallel(
    label: &str,
    threads: usize,
    pieces: u64,
    work: &(dyn Fn() -> Result<()> + Sync),
) -> Result<()> {
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let threads = if threads == 0 {
        cores.saturating_mul(THREADS_OF_A_PROCESSOR)
    } else {
        threads
    };
    let most = usize::try_from(pieces).unwrap_or(usize::MAX);
    let threads = threads.min(MOST_THREADS).min(most).max(1);
    let mut outcome = Ok(());
    thread::scope(|scope| {
        // A host that gives no more threads still has this one.
        let spawn = |_| thread::Builder::new().spawn_scoped(scope, work).ok();
        let workers: Vec<_> = (1..threads).filter_map(spawn).collect();
        // A panic of this thread is told like one of the others.
        outcome =
            panic::catch_unwind(panic::AssertUnwindSafe(work)).unwrap_or_else(|_| Err(ended_early(label)));
        for worker in workers {
            let ended = worker.join().unwrap_or_else(|_| Err(ended_early(label)));
            // The first cause, not what it led to in those that were held in the sink.
            if outcome.as_ref().err().is_none_or(|e| e.kind == Kind::Cancelled) && ended.is_err() {
                outcome = ended;
            }
        }
    });
    outcome
}

/// A thread that panicked, or work that nobody did.
pub(super) fn ended_early(label: &str) -> Error {
    let text =
        "a copying thread ended before its work was done; this is a fault of the program, please report it";
    Error::new(Kind::Io, label, text)
}
