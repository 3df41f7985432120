//! What tests of image formats share: qemu-img as the judge, disks with data and holes, copies by many threads.

#![allow(dead_code, unreachable_pub, reason = "each test file uses some of it")]

use rehome::{
    disk::{Content, Disk, FileDisk, Sink},
    image::{self, Beside, Check, Image},
};
use std::{
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};
use tempfile::TempDir;

pub const MIB: u64 = 1 << 20;

pub fn run(program: &str, arguments: &[&str]) -> Output {
    Command::new(program)
        .args(arguments)
        .output()
        .unwrap_or_else(|error| panic!("{program} must be installed: {error}"))
}

#[track_caller]
pub fn qemu_img(arguments: &[&str]) -> String {
    let output = run("qemu-img", arguments);
    assert!(output.status.success(), "qemu-img {arguments:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[track_caller]
pub fn qemu_io(commands: &[&str], image: &Path) {
    qemu_io_as("qcow2", commands, image);
}

#[track_caller]
pub fn qemu_io_as(format: &str, commands: &[&str], image: &Path) {
    let mut arguments = vec!["-f", format];
    for command in commands {
        arguments.extend(["-c", command]);
    }
    arguments.push(text(image));
    let output = run("qemu-io", &arguments);
    assert!(output.status.success(), "{output:?}");
    assert!(
        !String::from_utf8_lossy(&output.stdout).contains("failed"),
        "{output:?}"
    );
}

pub fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A folder that goes away, in memory if this system has such a place: qemu-img flushes all that it writes.
pub fn folder() -> TempDir {
    tempfile::tempdir_in("/dev/shm").unwrap_or_else(|_| tempfile::tempdir().unwrap())
}

/// The image at `path`, whatever it is.
#[track_caller]
pub fn open(path: &Path) -> Arc<dyn Image> {
    image::open(Arc::new(FileDisk::open(path).unwrap()), None, &Beside::new(path)).unwrap()
}

/// `image` of `format` holds what `raw` holds, and nobody finds anything wrong with it.
#[track_caller]
pub fn must_be_sound_and_equal(format: &str, image: &Path, raw: &Path) {
    for arguments in [
        vec!["check", "-f", format, text(image)],
        vec!["compare", "-f", "raw", "-F", format, text(raw), text(image)],
    ] {
        // qemu looks for an external data file where it runs.
        let judge = Command::new("qemu-img")
            .args(&arguments)
            .current_dir(image.parent().unwrap())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&judge.stdout);
        let errors = String::from_utf8_lossy(&judge.stderr);
        let errors = errors.chars().take(2000).collect::<String>();
        assert!(judge.status.success(), "qemu-img {arguments:?}: {said} {errors}");
        let sound = said.contains("No errors were found") || said.contains("Images are identical.");
        assert!(sound, "{said} {errors}");
    }
    let ours = open(image);
    assert_eq!(ours.format().name(), format);
    assert_eq!(ours.check().unwrap(), Check::default());
    assert!(read_all(ours.as_ref()) == std::fs::read(raw).unwrap());
}

/// All bytes of `disk`.
pub fn read_all(disk: &dyn Disk) -> Vec<u8> {
    let mut bytes = vec![0xee; disk.size() as usize];
    disk.read_at(0, &mut bytes).unwrap();
    bytes
}

/// A folder with "raw", a file of `size` bytes with data in places, and holes.
pub fn raw_source(size: u64) -> (TempDir, PathBuf) {
    let folder = self::folder();
    let path = folder.path().join("raw");
    let disk = FileDisk::create(&path, size).unwrap();
    for (index, start) in (0..size).step_by(700_000).enumerate() {
        let length = (1 << (index % 18)).min(size - start);
        disk.write_at(start, &pattern(index as u64, length as usize))
            .unwrap();
    }
    (folder, path)
}

/// Neither zeros nor wholly without order.
pub fn pattern(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let next = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 8) as u8 & 0x3f | 1
    };
    (0..length).map(next).collect()
}

/// All extents of `disk`, checked for order and gaps; what is not data must read as zeros.
pub fn extents(disk: &dyn Disk) -> Vec<(std::ops::Range<u64>, Content)> {
    let mut at = 0;
    let mut map = Vec::new();
    while at < disk.size() {
        let part = disk.extents(at..disk.size()).unwrap();
        assert!(!part.is_empty());
        for extent in part {
            assert_eq!(extent.range.start, at);
            assert!(extent.range.end > at);
            at = extent.range.end;
            if extent.content != Content::Data {
                let mut bytes = vec![0xee; (extent.range.end - extent.range.start) as usize];
                disk.read_at(extent.range.start, &mut bytes).unwrap();
                assert!(bytes.iter().all(|byte| *byte == 0), "{extent:?}");
            }
            map.push((extent.range, extent.content));
        }
    }
    assert_eq!(at, disk.size());
    map
}

/// Puts what `source` holds from `kept` to `most` into `sink`, by `threads` threads in chunks of 256 KiB; zeros are
/// skipped. Makes a checkpoint now and then.
pub fn pour(source: &dyn Disk, sink: &dyn Sink, threads: usize, kept: u64, most: u64) {
    let chunk = (256 << 10).max(u64::from(sink.unit()));
    let unit = u64::from(sink.unit());
    let next = AtomicU64::new(kept);
    let end = source.size().min(most);
    let work = || {
        loop {
            let start = next.fetch_add(chunk, Ordering::SeqCst);
            if start >= end {
                return;
            }
            let mut bytes = vec![0; chunk.min(source.size() - start) as usize];
            source.read_at(start, &mut bytes).unwrap();
            // Runs of units, as the copy engine makes them.
            let is_zero = |piece: &[u8]| piece.iter().all(|byte| *byte == 0);
            let mut at = 0;
            for run in bytes
                .chunks(unit as usize)
                .collect::<Vec<_>>()
                .chunk_by(|one, other| is_zero(one) == is_zero(other))
            {
                let end = at + run.iter().map(|unit| unit.len()).sum::<usize>();
                let piece = &bytes[at..end];
                if is_zero(piece) {
                    sink.skip(start + at as u64..start + end as u64).unwrap();
                } else {
                    sink.put(start + at as u64, piece).unwrap();
                }
                at = end;
            }
            if start / chunk % 29 == 3 {
                sink.checkpoint().unwrap();
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(work);
        }
    });
}

/// Does the same to `image` and to the bytes in `model`, in steps that follow from `seed`. What is discarded in whole
/// units reads as zeros; the rest of it, and all where there is no `unit`, stays.
pub fn edit(image: &dyn Disk, model: &mut [u8], seed: u64, steps: u64, unit: Option<u64>) {
    let size = model.len() as u64;
    for step in 0..steps {
        let dice = pattern(seed * 1000 + step, 32);
        let number = |at: usize| u64::from_le_bytes(dice[at..at + 8].try_into().unwrap());
        let start = number(0) % size;
        let length = ((number(8) % 200_000) >> (number(16) % 10)).min(size - start);
        match number(24) % 6 {
            0 => {
                // Long enough for large units.
                let end = (start + length * 20).min(size);
                image.discard(start..end).unwrap();
                if let Some(unit) = unit {
                    let first = start.next_multiple_of(unit);
                    let last = if end == size { size } else { end / unit * unit };
                    model[first.min(last) as usize..last as usize].fill(0);
                }
            }
            1 => {
                image.write_zeros(start..start + length).unwrap();
                model[start as usize..(start + length) as usize].fill(0);
            }
            _ => {
                let bytes = pattern(step, length as usize);
                image.write_at(start, &bytes).unwrap();
                model[start as usize..(start + length) as usize].copy_from_slice(&bytes);
            }
        }
    }
}

/// The files of an image in a folder.
pub struct Folder<'a> {
    pub path: &'a Path,
    pub name: &'a str,
    pub fresh: bool,
    /// Of the first file, to begin with.
    pub size: u64,
}

impl Folder<'_> {
    fn file(&self, name: &str, size: u64) -> Arc<dyn Disk> {
        let path = self.path.join(name);
        Arc::new(if self.fresh {
            FileDisk::create(&path, size).unwrap()
        } else {
            FileDisk::open_writable(&path).unwrap()
        })
    }
}

impl image::Files for Folder<'_> {
    fn main(&self) -> Arc<dyn Disk> {
        self.file(self.name, self.size)
    }
    fn name(&self) -> &str {
        self.name
    }
    fn fresh(&self) -> bool {
        self.fresh
    }
    fn blank(&self) -> bool {
        true
    }
    fn beside(&mut self, name: &str, size: u64) -> rehome::disk::Result<Arc<dyn Disk>> {
        Ok(self.file(name, size))
    }
}
