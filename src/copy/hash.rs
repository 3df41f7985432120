//! What a disk's hash is. `docs/ledger.md` has the definition for other programs.
//!
//! A disk is cut into chunks of [`CHUNK`] bytes, the last one shorter. Its hash is BLAKE3 over
//!
//! | bytes | what |
//! |---|---|
//! | 16 | `rehome disk v1\n` and a zero byte |
//! | 8 | size of the disk in bytes, little-endian |
//! | 8 | [`CHUNK`], little-endian |
//! | 40 each | for every chunk that is not all zeros, ascending: its index, 64 bits little-endian, and its BLAKE3 hash |
//!
//! So it depends on nothing but the contents, and a terabyte of zeros costs nothing.

use crate::disk::Digest;
use std::{collections::BTreeMap, ops::Range};

/// Bytes of a chunk: it fits a second-level cache, so that it is read, judged, hashed and written while it is hot,
/// and a ledger of a full 8 TiB disk stays near 300 MB on disk.
pub const CHUNK: u64 = 1 << 20;

const DOMAIN: &[u8; 16] = b"rehome disk v1\n\0";

/// A chunk's hash; `None` is a chunk of zeros, of which there is only one.
pub type ChunkHash = Option<Digest>;

/// Chunks that follow each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// Index of the first chunk.
    pub first: u64,
    /// How many; more than one only for zeros.
    pub count: u64,
    /// Of each of them.
    pub hash: ChunkHash,
}

/// Gathers chunk hashes, in about ascending order, into the hash of the disk.
#[derive(Debug)]
pub(super) struct DiskHasher {
    hasher: blake3::Hasher,
    /// Every chunk below this index is in.
    next: u64,
    /// Runs that came early, by their first chunk, with what their bringer says of them.
    early: BTreeMap<u64, (Run, bool)>,
}

impl DiskHasher {
    /// For a disk of `size` bytes.
    pub(super) fn new(size: u64) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(DOMAIN);
        hasher.update(&size.to_le_bytes());
        hasher.update(&CHUNK.to_le_bytes());
        Self {
            hasher,
            next: 0,
            early: BTreeMap::new(),
        }
    }

    /// Every chunk comes once. Gives to `each`, in order, the runs that are in now without a gap below them, with
    /// the `mark` they came with.
    pub(super) fn add(&mut self, run: Run, mark: bool, mut each: impl FnMut(Run, bool)) {
        self.early.insert(run.first, (run, mark));
        while let Some((run, mark)) = self.early.remove(&self.next) {
            self.next = run.first.saturating_add(run.count);
            if let Some(hash) = run.hash {
                for index in run.first..self.next {
                    self.hasher.update(&index.to_le_bytes());
                    self.hasher.update(&hash.0);
                }
            }
            each(run, mark);
        }
    }

    /// The hash of the disk, and how many chunks went into it.
    pub(super) fn finish(&self) -> (Digest, u64) {
        (Digest(*self.hasher.finalize().as_bytes()), self.next)
    }
}

/// How many chunks a disk of `size` bytes has.
pub(super) fn chunks(size: u64) -> u64 {
    size.div_ceil(CHUNK)
}

/// The bytes of `count` chunks from `first` on, on a disk of `size` bytes.
pub(super) fn chunk_range(size: u64, first: u64, count: u64) -> Range<u64> {
    let end = first.saturating_add(count).saturating_mul(CHUNK);
    first.saturating_mul(CHUNK).min(size)..end.min(size)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_of_arrival_does_not_matter_and_the_definition_is_as_written() {
        let (a, b) = (Digest::of(b"a"), Digest::of(b"b"));
        let run = |first, count, hash| Run { first, count, hash };
        let runs = [run(0, 1, Some(a)), run(1, 7, None), run(8, 1, Some(b))];
        let mut forward = DiskHasher::new(9 << 20);
        let mut seen = Vec::new();
        for run in runs.clone() {
            forward.add(run, true, |run, mark| seen.push((run, mark)));
        }
        assert_eq!(seen, runs.clone().map(|run| (run, true)));
        let mut backward = DiskHasher::new(9 << 20);
        let mut seen = Vec::new();
        let [first, second, third] = runs.clone();
        backward.add(third, false, |run, _| seen.push(run));
        backward.add(second, false, |run, _| seen.push(run));
        assert_eq!(seen, []);
        backward.add(first, false, |run, _| seen.push(run));
        assert_eq!(seen, runs);
        assert_eq!(forward.finish(), backward.finish());

        let mut bytes = b"rehome disk v1\n\0".to_vec();
        bytes.extend((9_u64 << 20).to_le_bytes());
        bytes.extend((1_u64 << 20).to_le_bytes());
        bytes.extend(0_u64.to_le_bytes());
        bytes.extend(a.0);
        bytes.extend(8_u64.to_le_bytes());
        bytes.extend(b.0);
        assert_eq!(forward.finish(), (Digest::of(&bytes), 9));
    }
}
