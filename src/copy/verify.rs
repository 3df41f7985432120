//! Reads a disk again: its hash, and where it differs from what a ledger says.

use super::{
    engine::{Pace, each_run},
    hash::{Run, chunk_range},
    ledger::Ledger,
};
use crate::{
    disk::{Digest, Disk, Result},
    watch::Watch,
};
use std::{
    ops::Range,
    sync::{Mutex, PoisonError},
};

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    /// The hash of the disk as it is.
    pub digest: Digest,
    /// How many chunks differ or are not in the ledger.
    pub differing: u64,
    /// The first of them, ascending; no more than 100.
    pub differences: Vec<Difference>,
}

/// A run of chunks that is not what was copied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// Offsets in bytes.
    pub range: Range<u64>,
    /// `false`: the ledger has another hash; `true`: it has none.
    pub unknown: bool,
}

/// Differences named: enough to see a pattern, too few to fill memory.
const MOST_DIFFERENCES: usize = 100;

/// The hash of `disk`: what [`super::copy`] of it returns. Zeros by its map are not read.
///
/// # Errors
/// Those of the disk; [`crate::disk::Kind::Cancelled`] if `watch` says so.
pub fn digest(disk: &dyn Disk, watch: &dyn Watch) -> Result<Digest> {
    each_run(disk, Pace::default(), watch, &|_| Ok(()))
}

/// Reads all of `disk` that is not zeros by its map and compares each chunk with `ledger`.
///
/// # Errors
/// Those of the disk and the ledger; [`crate::disk::Kind::Cancelled`] if `watch` says so. A difference is not an error.
pub fn verify(disk: &dyn Disk, ledger: &dyn Ledger, watch: &dyn Watch) -> Result<Verified> {
    verify_at(disk, ledger, Pace::default(), watch)
}

/// The same with so many threads, held back by the same brake as the copy.
///
/// # Errors
/// As [`verify`].
pub fn verify_at(
    disk: &dyn Disk,
    ledger: &dyn Ledger,
    pace: Pace<'_>,
    watch: &dyn Watch,
) -> Result<Verified> {
    let found = Mutex::new((0, Vec::new()));
    let judge = |run: &Run| {
        let (mut at, end) = (run.first, run.first.saturating_add(run.count));
        while at < end {
            let entry = ledger.at(at)?;
            let count = entry.count.clamp(1, end - at);
            if entry.hash != Some(run.hash) {
                let mut found = found.lock().unwrap_or_else(PoisonError::into_inner);
                found.0 += count;
                found.1.push(Difference {
                    range: chunk_range(disk.size(), at, count),
                    unknown: entry.hash.is_none(),
                });
                if found.1.len() > 2 * MOST_DIFFERENCES {
                    shorten(&mut found.1);
                }
            }
            at += count;
        }
        Ok(())
    };
    let digest = each_run(disk, pace, watch, &judge)?;
    let (differing, mut differences) = found.into_inner().unwrap_or_else(PoisonError::into_inner);
    shorten(&mut differences);
    Ok(Verified {
        digest,
        differing,
        differences,
    })
}

fn shorten(differences: &mut Vec<Difference>) {
    differences.sort_by_key(|difference| difference.range.start);
    differences.truncate(MOST_DIFFERENCES);
}
