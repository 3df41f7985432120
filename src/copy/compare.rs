//! Two disks side by side: what both call zeros is not read.

use super::{
    hash::{CHUNK, chunk_range, chunks},
    ledger::NoLedger,
    schedule::{Schedule, Work},
    workers::in_parallel,
    zero::is_zero,
};
use crate::{
    disk::{AlignedBuffer, Content, Disk, Error, Extent, Kind, Result, push_extent},
    watch::Watch,
};
use std::{
    ops::Range,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

/// What was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Compared {
    /// Offset of the first byte that differs. What one disk has beyond the end of the other differs from zeros.
    pub first_difference: Option<u64>,
    /// The sizes in bytes.
    pub sizes: (u64, u64),
    /// Bytes that were read of both, at least up to the first difference.
    pub read: u64,
}

/// Compares the contents of two disks, with so many `threads` (0: as many as pay).
///
/// # Errors
/// Those of the disks; [`Kind::Cancelled`] if `watch` says so. A difference is none.
pub fn compare(one: &dyn Disk, other: &dyn Disk, threads: usize, watch: &dyn Watch) -> Result<Compared> {
    let both = Both::new(one, other);
    let job = Job {
        one,
        other,
        schedule: Mutex::new(Schedule::new(&both, &NoLedger)),
        difference: AtomicU64::new(u64::MAX),
        read: AtomicU64::new(0),
        failed: AtomicBool::new(false),
        size: both.size(),
        watch,
    };
    in_parallel(one.label(), threads, chunks(both.size()), &|| {
        let outcome = job.work();
        if outcome.is_err() {
            job.failed.store(true, Ordering::Release);
        }
        outcome
    })?;
    let difference = job.difference.load(Ordering::Acquire);
    Ok(Compared {
        first_difference: (difference < u64::MAX).then_some(difference),
        sizes: (one.size(), other.size()),
        read: job.read.load(Ordering::Relaxed),
    })
}

/// Where two disks first differ in what their maps call the same place: data, zeros or hole. Reads no data.
///
/// # Errors
/// Those of the disks.
pub fn compare_maps(one: &dyn Disk, other: &dyn Disk) -> Result<Option<u64>> {
    let size = one.size().min(other.size());
    let (mut at, mut left, mut right) = (0, Ahead::default(), Ahead::default());
    while at < size {
        let (first, second) = (left.at(one, at)?, right.at(other, at)?);
        if first.content != second.content {
            return Ok(Some(at));
        }
        at = first.range.end.min(second.range.end);
    }
    Ok((one.size() != other.size()).then_some(size))
}

struct Job<'a> {
    one: &'a dyn Disk,
    other: &'a dyn Disk,
    schedule: Mutex<Schedule<'a>>,
    /// The lowest offset of a difference that was found; the greatest number if none.
    difference: AtomicU64,
    read: AtomicU64,
    failed: AtomicBool,
    size: u64,
    watch: &'a dyn Watch,
}

impl Job<'_> {
    fn work(&self) -> Result<()> {
        let mut buffers: Option<(AlignedBuffer, AlignedBuffer)> = None;
        while !self.failed.load(Ordering::Acquire) {
            if self.watch.cancelled() {
                return Err(Error::new(Kind::Cancelled, self.one.label(), "cancelled"));
            }
            let next = {
                let mut schedule = self.schedule.lock().unwrap_or_else(PoisonError::into_inner);
                schedule.next()?
            };
            let (range, data) = match next {
                Some(Work::Read { first, count, data }) => (chunk_range(self.size, first, count), data),
                Some(Work::Skip { first, count }) => (chunk_range(self.size, first, count), Vec::new()),
                // No ledger knows anything here.
                Some(Work::Known(_)) | None => break,
            };
            // Work is handed out in ascending order: all that lies below is in somebody's hands.
            if range.start >= self.difference.load(Ordering::Acquire) {
                break;
            }
            if !data.is_empty() {
                let (left, right) =
                    buffers.get_or_insert_with(|| (AlignedBuffer::new(LARGEST), AlignedBuffer::new(LARGEST)));
                for part in &data {
                    self.part(part, left, right)?;
                }
            }
            self.watch.advance(range.end - range.start);
        }
        Ok(())
    }

    fn part(&self, part: &Range<u64>, left: &mut AlignedBuffer, right: &mut AlignedBuffer) -> Result<()> {
        let length = usize::try_from(part.end - part.start).unwrap_or(usize::MAX);
        let (left, right) = (left.first(length), right.first(length));
        let one = read_what_is_there(self.one, part.start, left)?;
        let other = read_what_is_there(self.other, part.start, right)?;
        self.read.fetch_add(part.end - part.start, Ordering::Relaxed);
        // Beyond the end of one of them the other must be zeros.
        let shared = one.min(other);
        let (left, left_rest) = left.split_at(shared);
        let (right, right_rest) = right.split_at(shared);
        let place = if left == right {
            let rest = if one > other { left_rest } else { right_rest };
            let rest = rest.get(..one.max(other) - shared).unwrap_or_default();
            if is_zero(rest) {
                return Ok(());
            }
            rest.iter().position(|byte| *byte != 0).map(|at| at + shared)
        } else {
            left.iter().zip(right).position(|(left, right)| left != right)
        };
        let offset = part.start + place.unwrap_or(0) as u64;
        self.difference.fetch_min(offset, Ordering::AcqRel);
        Ok(())
    }
}

#[allow(clippy::cast_possible_truncation, reason = "a mebibyte")]
const LARGEST: usize = CHUNK as usize;

/// Reads what `disk` has of `buffer`'s length at `offset`; gives how much that is.
fn read_what_is_there(disk: &dyn Disk, offset: u64, buffer: &mut [u8]) -> Result<usize> {
    let there = disk.size().saturating_sub(offset).min(buffer.len() as u64);
    let there = usize::try_from(there).unwrap_or(0);
    if there == 0 {
        return Ok(0);
    }
    disk.read_at(offset, buffer.get_mut(..there).unwrap_or_default())?;
    Ok(there)
}

/// The map of two disks: data where either has data.
#[derive(Debug)]
struct Both<'a> {
    one: &'a dyn Disk,
    other: &'a dyn Disk,
    /// What each has said last.
    ahead: Mutex<(Ahead, Ahead)>,
}

/// No more than this many runs are listed by one call of [`Disk::extents`].
const MOST_EXTENTS: usize = 1024;

impl<'a> Both<'a> {
    fn new(one: &'a dyn Disk, other: &'a dyn Disk) -> Self {
        Self {
            one,
            other,
            ahead: Mutex::default(),
        }
    }
}

impl Disk for Both<'_> {
    fn label(&self) -> &str {
        self.one.label()
    }

    fn size(&self) -> u64 {
        self.one.size().max(self.other.size())
    }

    fn read_at(&self, offset: u64, _buffer: &mut [u8]) -> Result<()> {
        Err(Error::new(Kind::Unsupported, self.label(), "is two disks").at(offset))
    }

    fn extents(&self, range: Range<u64>) -> Result<Vec<Extent>> {
        let mut ahead = self.ahead.lock().unwrap_or_else(PoisonError::into_inner);
        let (left, right) = &mut *ahead;
        let mut map = Vec::new();
        let mut at = range.start;
        while at < range.end && map.len() < MOST_EXTENTS {
            let (first, second) = (left.at(self.one, at)?, right.at(self.other, at)?);
            let content = match (first.content, second.content) {
                (Content::Data, _) | (_, Content::Data) => Content::Data,
                _ => Content::Hole,
            };
            let end = first.range.end.min(second.range.end).min(range.end);
            push_extent(&mut map, Extent::new(at..end, content));
            at = end;
        }
        Ok(map)
    }
}

/// Walks the map of a disk with few questions.
#[derive(Debug, Default)]
struct Ahead {
    map: Vec<Extent>,
    used: usize,
}

impl Ahead {
    /// The extent that covers `offset`; a hole without end behind the disk.
    fn at(&mut self, disk: &dyn Disk, offset: u64) -> Result<Extent> {
        if offset >= disk.size() {
            return Ok(Extent::new(offset..u64::MAX, Content::Hole));
        }
        while self
            .map
            .get(self.used)
            .is_some_and(|extent| extent.range.end <= offset)
        {
            self.used += 1;
        }
        if !self
            .map
            .get(self.used)
            .is_some_and(|extent| extent.range.contains(&offset))
        {
            self.map = disk.extents(offset..disk.size())?;
            self.used = 0;
        }
        match self.map.get(self.used) {
            Some(extent) if extent.range.contains(&offset) => Ok(extent.clone()),
            _ => Err(Error::new(Kind::Io, disk.label(), "gives no map of its contents").at(offset)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        disk::{MemoryDisk, Overlay},
        watch::Unwatched,
    };
    use proptest::prelude::*;
    use std::sync::Arc;

    fn disk(bytes: Vec<u8>) -> MemoryDisk {
        MemoryDisk::new("d", bytes)
    }

    #[test]
    fn a_longer_disk_is_the_same_if_its_rest_is_zeros() {
        let short = disk(vec![1; 3_000_000]);
        let mut bytes = vec![1; 3_000_000];
        bytes.resize(5_000_000, 0);
        let long = disk(bytes);
        let compared = compare(&short, &long, 0, &Unwatched).unwrap();
        assert_eq!(
            (compared.first_difference, compared.sizes),
            (None, (3_000_000, 5_000_000))
        );
        long.write_at(4_999_999, &[9]).unwrap();
        for (one, other) in [(&short, &long), (&long, &short)] {
            let compared = compare(one, other, 0, &Unwatched).unwrap();
            assert_eq!(compared.first_difference, Some(4_999_999));
        }
        let none = disk(Vec::new());
        assert_eq!(
            compare(&none, &none, 0, &Unwatched).unwrap().first_difference,
            None
        );
    }

    #[test]
    fn what_both_call_zeros_is_not_read() {
        let base = Arc::new(disk(vec![7; 8 << 20]));
        let [one, other] = [(); 2].map(|()| Overlay::new(base.clone(), 8 << 20, "/nowhere"));
        one.discard(1 << 20..7 << 20).unwrap();
        other.write_zeros(2 << 20..7 << 20).unwrap();
        let compared = compare(&one, &other, 2, &Unwatched).unwrap();
        assert_eq!(compared.first_difference, Some(1 << 20));
        one.write_at(1 << 20, &vec![7; 1 << 20]).unwrap();
        let compared = compare(&one, &other, 2, &Unwatched).unwrap();
        assert_eq!((compared.first_difference, compared.read), (None, 3 << 20));
        // The same bytes, but not the same kinds of space.
        assert_eq!(compare_maps(&one, &other).unwrap(), Some(2 << 20));
        assert_eq!(compare_maps(&one, &one).unwrap(), None);
        assert_eq!(compare_maps(&one, &disk(Vec::new())).unwrap(), Some(0));
    }

    proptest! {
        #[test]
        fn the_first_of_many_differences_is_found(
            places in prop::collection::vec(0..6_000_000_usize, 0..6), threads in 1..5_usize,
        ) {
            let one = disk(vec![3; 6_000_000]);
            let mut bytes = vec![3; 6_000_000];
            for place in &places {
                bytes[*place] = 4;
            }
            let compared = compare(&one, &disk(bytes), threads, &Unwatched).unwrap();
            prop_assert_eq!(compared.first_difference, places.iter().min().map(|place| *place as u64));
        }
    }
}
