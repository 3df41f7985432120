//! Bytes that the kernel brings: shared blocks (reflinks) on filesystems that have them, copies that never pass through
//! this program where the user wants them.

use crate::disk::{Disk, Result};
use std::{
    ops::Range,
    sync::atomic::{AtomicBool, Ordering},
};

/// What may be left to the kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Offload {
    /// Nothing.
    Never,
    /// Blocks are shared with the source where source and target are files of one filesystem that can do that.
    #[default]
    Share,
    /// That, and where it is not possible `copy_file_range`, which a file server can carry out by itself. It copies the zeros
    /// in the source's data as well.
    Copy,
}

/// Which ways are open, as far as they have been tried.
#[derive(Debug)]
pub(super) struct Offloading {
    sharing: AtomicBool,
    copying: AtomicBool,
}

/// What a filesystem shares begins and ends on its blocks: 4 KiB on nearly all; on those with larger ones it refuses itself.
const BLOCK: u64 = 4096;

impl Offloading {
    pub(super) fn new(offload: Offload) -> Self {
        Self {
            sharing: AtomicBool::new(offload != Offload::Never),
            copying: AtomicBool::new(offload == Offload::Copy),
        }
    }

    /// Brings `data` of `from` to the same places of `to`. `false`: not possible, and all of it is to be written.
    pub(super) fn bring(&self, from: &dyn Disk, to: &dyn Disk, data: &[Range<u64>]) -> Result<bool> {
        type Way<'a> = (&'a AtomicBool, Bring);
        let ways: [Way<'_>; 2] = [(&self.sharing, share), (&self.copying, copy)];
        for (open, bring) in ways {
            if !open.load(Ordering::Relaxed) {
                continue;
            }
            match bring_by(bring, from, to, data)? {
                Brought::All => return Ok(true),
                Brought::NotHere => {}
                // Filesystems do not change their minds.
                Brought::Refused => open.store(false, Ordering::Relaxed),
            }
        }
        Ok(false)
    }
}

enum Brought {
    All,
    /// These bytes lie in no file, or not on whole blocks.
    NotHere,
    Refused,
}

type Bring = fn(&dyn Disk, u64, (&std::fs::File, u64), u64) -> Result<bool>;

fn share(to: &dyn Disk, offset: u64, (file, at): (&std::fs::File, u64), length: u64) -> Result<bool> {
    to.share(offset, file, at, length)
}

fn copy(to: &dyn Disk, offset: u64, (file, at): (&std::fs::File, u64), length: u64) -> Result<bool> {
    to.copy_from(offset, file, at, length)
}

fn bring_by(bring: Bring, from: &dyn Disk, to: &dyn Disk, data: &[Range<u64>]) -> Result<Brought> {
    for part in data {
        let mut at = part.start;
        while at < part.end {
            let Some((file, place, available)) = from.plain(at) else {
                return Ok(Brought::NotHere);
            };
            let length = available.min(part.end - at);
            let whole = [at, place, length]
                .iter()
                .all(|number| number.is_multiple_of(BLOCK));
            if length == 0 || !whole {
                return Ok(Brought::NotHere);
            }
            if !bring(to, at, (file, place), length)? {
                return Ok(Brought::Refused);
            }
            at += length;
        }
    }
    Ok(Brought::All)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        copy::{NoLedger, Pace, copy, copy_unhashed, digest},
        disk::{DiskSink, FileDisk, MemoryDisk},
        watch::Unwatched,
    };
    use std::{slice::from_ref, sync::Arc};

    const SIZE: u64 = (5 << 20) + 700;

    fn source(folder: &std::path::Path) -> FileDisk {
        let disk = FileDisk::create(&folder.join("source"), SIZE).unwrap();
        disk.write_at(0, &vec![1; 1 << 20]).unwrap();
        disk.write_at((3 << 20) + 8192, &[2; 40_000]).unwrap();
        disk.write_at(SIZE - 5, &[3; 5]).unwrap();
        disk
    }

    /// Whatever the filesystem of the tests can: the result is the same.
    #[test]
    fn every_way_brings_the_same_bytes() {
        let folder = tempfile::tempdir().unwrap();
        let source = source(folder.path());
        let expected = digest(&source, &Unwatched).unwrap();
        for (index, offload) in [Offload::Never, Offload::Share, Offload::Copy]
            .into_iter()
            .enumerate()
        {
            let pace = Pace {
                offload,
                threads: 2,
                ..Pace::default()
            };
            for hashing in [true, false] {
                let path = folder.path().join(format!("target{index}{hashing}"));
                let target = Arc::new(FileDisk::create(&path, SIZE).unwrap());
                let sink = DiskSink::new(target.clone(), true);
                let copied = if hashing {
                    copy(&source, &sink, &NoLedger, pace, &Unwatched).unwrap()
                } else {
                    copy_unhashed(&source, &sink, pace, &Unwatched).unwrap()
                };
                assert!(!hashing || copied.digest == expected);
                assert_eq!(copied.put + copied.skipped, SIZE);
                assert_eq!(digest(&*target, &Unwatched).unwrap(), expected, "{offload:?}");
            }
        }
    }

    #[test]
    fn what_lies_in_no_file_or_off_the_blocks_is_left_to_others() {
        let folder = tempfile::tempdir().unwrap();
        let source = source(folder.path());
        let target = FileDisk::create(&folder.path().join("target"), SIZE).unwrap();
        let offloading = Offloading::new(Offload::Copy);
        assert!(!offloading.bring(&source, &target, from_ref(&(0..1000))).unwrap());
        let memory = MemoryDisk::new("m", vec![0; 8192]);
        assert!(!offloading.bring(&memory, &target, from_ref(&(0..8192))).unwrap());
        assert!(offloading.bring(&source, &target, from_ref(&(0..8192))).unwrap());
        // A target that has no way of its own is asked once.
        assert!(!offloading.bring(&source, &memory, from_ref(&(0..8192))).unwrap());
        assert!(!offloading.copying.load(Ordering::Relaxed));
        let never = Offloading::new(Offload::Never);
        assert!(!never.bring(&source, &target, from_ref(&(0..8192))).unwrap());
    }
}
