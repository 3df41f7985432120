//! What the tests share: qemu-img, disks with something on them, folders that images are made in.

use rehome::{
    disk::{Content, Disk, FileDisk, Result, Sink},
    image::{self, Beside, Files, Format, Image, Options, Shape},
};
use std::{
    ops::Range,
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};
use tempfile::TempDir;

pub(crate) const MIB: u64 = 1 << 20;

pub(crate) fn run(program: &str, arguments: &[&str]) -> Output {
    Command::new(program)
        .args(arguments)
        .output()
        .unwrap_or_else(|error| panic!("{program} must be installed: {error}"))
}

#[track_caller]
pub(crate) fn qemu_img(arguments: &[&str]) -> String {
    let output = run("qemu-img", arguments);
    assert!(output.status.success(), "qemu-img {arguments:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[track_caller]
pub(crate) fn qemu_io(commands: &[&str], image: &Path) {
    let mut arguments = vec!["-f", "vmdk"];
    for command in commands {
        arguments.extend(["-c", command]);
    }
    arguments.push(text(image));
    let output = run("qemu-io", &arguments);
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && !said.contains("failed"), "{output:?}");
}

pub(crate) fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

pub(crate) fn open(path: &Path) -> Arc<dyn Image> {
    try_open(path).unwrap_or_else(|error| panic!("{error}"))
}

pub(crate) fn try_open(path: &Path) -> Result<Arc<dyn Image>> {
    image::open(Arc::new(FileDisk::open(path)?), None, &Beside::new(path))
}

pub(crate) fn read_all(disk: &dyn Disk) -> Vec<u8> {
    let mut bytes = vec![0xee; disk.size() as usize];
    disk.read_at(0, &mut bytes).unwrap();
    bytes
}

/// Reads in pieces that fit no grain.
pub(crate) fn read_in_pieces(disk: &dyn Disk, piece: usize) -> Vec<u8> {
    let mut bytes = vec![0xee; disk.size() as usize];
    let mut at = 0;
    for piece in bytes.chunks_mut(piece) {
        disk.read_at(at, piece).unwrap();
        at += piece.len() as u64;
    }
    bytes
}

/// Neither zeros nor wholly without order.
pub(crate) fn pattern(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let next = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 8) as u8 & 0x3f | 1
    };
    (0..length).map(next).collect()
}

/// Without order: nothing shrinks it.
pub(crate) fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let next = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 24) as u8
    };
    (0..length).map(next).collect()
}

/// A folder with "raw", a file of `size` bytes with data in places, and holes.
pub(crate) fn raw_source(size: u64) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("raw");
    let disk = FileDisk::create(&path, size).unwrap();
    for (index, start) in (0..size).step_by(700_000).enumerate() {
        let length = (1 << (index % 18)).min(size - start) as usize;
        let bytes = if index % 5 == 3 {
            noise(index as u64, length)
        } else {
            pattern(index as u64, length)
        };
        disk.write_at(start, &bytes).unwrap();
    }
    (folder, path)
}

/// All extents of `disk`, checked for order and gaps; what is not data must read as zeros.
pub(crate) fn extents(disk: &dyn Disk) -> Vec<(Range<u64>, Content)> {
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

/// A new image in a folder; its files are made as the program makes them.
#[derive(Debug)]
pub(crate) struct NewImage {
    pub(crate) path: PathBuf,
    fresh: bool,
}

impl NewImage {
    pub(crate) fn new(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            fresh: true,
        }
    }

    /// To be gone on with.
    pub(crate) fn left(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            fresh: false,
        }
    }

    pub(crate) fn sink(&mut self, size: u64, options: &str) -> Result<Box<dyn Sink>> {
        let mut words = Options::default();
        words.add(options).unwrap();
        let shape = Shape {
            format: Format::Vmdk,
            size,
            sector_size: 512,
            options: words,
        };
        image::create(&shape, self)
    }
}

impl Files for NewImage {
    fn main(&self) -> Arc<dyn Disk> {
        Arc::new(if self.fresh && !self.path.exists() {
            FileDisk::create(&self.path, 0).unwrap()
        } else {
            FileDisk::open_writable(&self.path).unwrap()
        })
    }

    fn name(&self) -> &str {
        self.path.file_name().unwrap().to_str().unwrap()
    }

    fn fresh(&self) -> bool {
        self.fresh
    }

    fn blank(&self) -> bool {
        true
    }

    fn beside(&mut self, name: &str, size: u64) -> Result<Arc<dyn Disk>> {
        let path = self.path.with_file_name(name);
        Ok(Arc::new(if self.fresh {
            FileDisk::create(&path, size)?
        } else {
            FileDisk::open_writable(&path)?
        }))
    }
}

/// Puts what `source` holds from `from` to `to` into `sink`, by `threads` threads in chunks of 256 KiB; zeros are
/// skipped.
pub(crate) fn pour(source: &dyn Disk, sink: &dyn Sink, threads: usize, from: u64, to: u64) {
    let unit = u64::from(sink.unit()).max(4096);
    let chunk = (256 << 10).max(unit);
    let next = AtomicU64::new(from);
    let end = source.size().min(to);
    let work = || {
        loop {
            let start = next.fetch_add(chunk, Ordering::SeqCst);
            if start >= end {
                return;
            }
            let mut bytes = vec![0; chunk.min(end - start) as usize];
            source.read_at(start, &mut bytes).unwrap();
            let mut at = start;
            // Neighbouring units in one call, as the program does it.
            let is_zero = |unit: &[u8]| unit.iter().all(|byte| *byte == 0);
            for run in bytes
                .chunks(unit as usize)
                .collect::<Vec<_>>()
                .chunk_by(|a, b| is_zero(a) == is_zero(b))
            {
                let length: usize = run.iter().map(|unit| unit.len()).sum();
                let offset = (at - start) as usize;
                if is_zero(run[0]) {
                    sink.skip(at..at + length as u64).unwrap();
                } else {
                    sink.put(at, &bytes[offset..offset + length]).unwrap();
                }
                at += length as u64;
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

/// The whole of `source` as a new image.
pub(crate) fn convert(source: &dyn Disk, path: &Path, options: &str, threads: usize) {
    let sink = NewImage::new(path).sink(source.size(), options).unwrap();
    pour(source, sink.as_ref(), threads, 0, u64::MAX);
    sink.finish().unwrap();
}

/// By qemu-img and by us; structure, and contents as in the raw file.
#[track_caller]
pub(crate) fn must_be_sound_and_equal(image: &Path, raw: &Path) {
    let check = qemu_img(&["check", "-f", "vmdk", text(image)]);
    assert!(check.contains("No errors were found"), "{check}");
    qemu_img(&["compare", "-f", "raw", "-F", "vmdk", text(raw), text(image)]);
    let disk = open(image);
    let mut expected = std::fs::read(raw).unwrap();
    expected.resize(expected.len().next_multiple_of(512), 0);
    assert!(read_all(disk.as_ref()) == expected);
    assert_eq!(disk.check().unwrap(), rehome::image::Check::default());
}
