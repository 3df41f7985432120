//! A copy that is killed, or loses its power, again and again: for every format that is written it goes on where it was
//! and ends in the bytes of a copy that nobody disturbed. The judges are those bytes, our own reader, and `qemu-img`.

// Clippy's exemption for tests does not reach the functions that they share.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic
)]

use rehome::{
    copy::{FileLedger, Identity, Pace, compare, copy, verify},
    disk::{Content, Digest, Disk, Error, Extent, FileDisk, Kind, Result},
    image::{self, Beside, Files, Format, Options, Shape},
    watch::{Unwatched, Watch},
};
use std::{
    collections::BTreeMap,
    fs,
    ops::Range,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

/// Formats that qemu-img can open, as it names them.
const KNOWN_TO_QEMU: [&str; 6] = ["raw", "qcow2", "vmdk", "vpc", "vhdx", "vdi"];

/// A file on a disk whose power fails: what was not flushed is there in part, page by page.
#[derive(Debug)]
struct Container {
    name: String,
    cells: Mutex<Cells>,
    /// Writes until the power fails, of all files together.
    left: Arc<AtomicU64>,
}

#[derive(Debug, Default)]
struct Cells {
    now: Vec<u8>,
    durable: Vec<u8>,
    /// Pages written since the last flush.
    pending: Vec<usize>,
}

const PAGE: usize = 4096;

impl Container {
    fn power_cut(&self, numbers: &mut Numbers) {
        let mut cells = self.cells.lock().unwrap();
        let mut after = std::mem::take(&mut cells.durable);
        // The length is as it was then or is now; a filesystem writes it with the rest of its metadata.
        if numbers.below(2) == 0 {
            after.resize(cells.now.len(), 0);
        }
        for page in std::mem::take(&mut cells.pending) {
            let range = page * PAGE..((page + 1) * PAGE).min(after.len()).min(cells.now.len());
            if numbers.below(2) == 0 && !range.is_empty() {
                after[range.clone()].copy_from_slice(&cells.now[range]);
            }
        }
        cells.durable.clone_from(&after);
        cells.now = after;
    }

    fn has_power(&self) -> Result<()> {
        let left = self
            .left
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        match left {
            Ok(_) => Ok(()),
            Err(_) => Err(Error::new(Kind::Io, &*self.name, "the power is gone")),
        }
    }
}

impl Disk for Container {
    fn label(&self) -> &str {
        &self.name
    }
    fn size(&self) -> u64 {
        self.cells.lock().unwrap().now.len() as u64
    }
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        let cells = self.cells.lock().unwrap();
        rehome::disk::check_range(&self.name, cells.now.len() as u64, offset, buffer.len() as u64)?;
        let start = usize::try_from(offset).unwrap();
        buffer.copy_from_slice(&cells.now[start..start + buffer.len()]);
        Ok(())
    }
    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        let mut cells = self.cells.lock().unwrap();
        rehome::disk::check_range(&self.name, cells.now.len() as u64, offset, bytes.len() as u64)?;
        self.has_power()?;
        let start = usize::try_from(offset).unwrap();
        cells.now[start..start + bytes.len()].copy_from_slice(bytes);
        cells
            .pending
            .extend(start / PAGE..(start + bytes.len()).div_ceil(PAGE));
        Ok(())
    }
    fn write_zeros(&self, range: Range<u64>) -> Result<()> {
        self.write_at(
            range.start,
            &vec![0; usize::try_from(range.end - range.start).unwrap()],
        )
    }
    fn extents(&self, range: Range<u64>) -> Result<Vec<Extent>> {
        Ok(if range.is_empty() {
            Vec::new()
        } else {
            vec![Extent::new(range, Content::Data)]
        })
    }
    fn flush(&self) -> Result<()> {
        let mut cells = self.cells.lock().unwrap();
        if self.left.load(Ordering::SeqCst) == 0 {
            return Err(Error::new(Kind::Io, &*self.name, "the power is gone"));
        }
        let Cells {
            now,
            durable,
            pending,
        } = &mut *cells;
        durable.resize(now.len(), 0);
        for page in pending.drain(..) {
            let range = page * PAGE..((page + 1) * PAGE).min(now.len());
            if !range.is_empty() {
                durable[range.clone()].copy_from_slice(&now[range]);
            }
        }
        Ok(())
    }
    fn set_size(&self, size: u64) -> Result<()> {
        let mut cells = self.cells.lock().unwrap();
        cells.now.resize(usize::try_from(size).unwrap(), 0);
        Ok(())
    }
    fn preallocate(&self, _range: Range<u64>) -> Result<()> {
        Ok(())
    }
}

/// The files of one image, which lose their power together.
struct Host {
    left: Arc<AtomicU64>,
    files: BTreeMap<String, Arc<Container>>,
    fresh: bool,
}

const NAME: &str = "disk.image";

impl Host {
    fn new() -> Self {
        Self {
            left: Arc::new(AtomicU64::new(u64::MAX)),
            files: BTreeMap::new(),
            fresh: true,
        }
    }

    fn make(&mut self, name: &str, size: u64) -> Arc<Container> {
        let bytes = vec![0; usize::try_from(size).unwrap()];
        let container = Arc::new(Container {
            name: name.to_owned(),
            cells: Mutex::new(Cells {
                durable: bytes.clone(),
                now: bytes,
                pending: Vec::new(),
            }),
            left: self.left.clone(),
        });
        self.files.insert(name.to_owned(), container.clone());
        container
    }

    fn power_cut(&self, numbers: &mut Numbers) {
        for file in self.files.values() {
            file.power_cut(numbers);
        }
    }

    fn contents(&self) -> BTreeMap<String, Vec<u8>> {
        let bytes = |file: &Arc<Container>| file.cells.lock().unwrap().now.clone();
        self.files
            .iter()
            .map(|(name, file)| (name.clone(), bytes(file)))
            .collect()
    }

    /// Puts the files into `folder`; gives the path of the first.
    fn write_out(&self, folder: &Path) -> PathBuf {
        for (name, bytes) in self.contents() {
            fs::write(folder.join(name), bytes).unwrap();
        }
        folder.join(NAME)
    }
}

impl Files for Host {
    fn main(&self) -> Arc<dyn Disk> {
        self.files[NAME].clone()
    }
    fn name(&self) -> &str {
        NAME
    }
    fn fresh(&self) -> bool {
        self.fresh
    }
    fn blank(&self) -> bool {
        true
    }
    fn beside(&mut self, name: &str, size: u64) -> Result<Arc<dyn Disk>> {
        if self.fresh {
            return Ok(self.make(name, size));
        }
        match self.files.get(name) {
            Some(file) => Ok(file.clone()),
            None => Err(Error::new(Kind::NotFound, name, "is gone")),
        }
    }
}

/// Cancels after so many bytes.
struct Impatient(AtomicU64);

impl Watch for Impatient {
    fn stage(&self, _name: &str, _bytes: u64) {}
    fn advance(&self, bytes: u64) {
        let _ = self.0.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| {
            Some(left.saturating_sub(bytes))
        });
    }
    fn cancelled(&self) -> bool {
        self.0.load(Ordering::SeqCst) == 0
    }
}

/// Pseudo-random, the same in every run (Knuth's MMIX generator).
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}

const SIZE: u64 = (12 << 20) + 5120;

fn source(path: &Path, size: u64, numbers: &mut Numbers) -> FileDisk {
    let disk = FileDisk::create(path, size).unwrap();
    for _ in 0..20 {
        let length = usize::try_from(1 + numbers.below(1 << 19)).unwrap();
        // Half of what an image holds compresses, half does not.
        let byte = u8::try_from(1 + numbers.below(255)).unwrap();
        let mut bytes = vec![byte; length];
        for byte in bytes.iter_mut().step_by(2) {
            *byte = u8::try_from(numbers.below(256)).unwrap();
        }
        disk.write_at(numbers.below(size - length as u64), &bytes)
            .unwrap();
    }
    disk
}

#[track_caller]
fn qemu_img(arguments: &[&str]) {
    let output = Command::new("qemu-img").args(arguments).output().unwrap();
    assert!(output.status.success(), "qemu-img {arguments:?}: {output:?}");
}

/// Every kind of image that can be written. Formats are told apart by asking for one.
fn kinds() -> Vec<(Format, Options)> {
    let mut kinds = Vec::new();
    let variants: [(bool, &str); 10] = [
        (false, ""),
        (true, ""),
        (true, "compression_type=zstd"),
        (false, "preallocation=metadata"),
        (false, "subformat=fixed"),
        (false, "subformat=monolithicFlat"),
        (false, "subformat=streamOptimized"),
        (false, "cluster_size=4096"),
        (false, "cluster_size=2M"),
        (false, "static=on"),
    ];
    for format in Format::ALL {
        for (compress, words) in variants {
            let mut options = Options {
                compress,
                ..Options::default()
            };
            options.add(words).unwrap();
            let shape = Shape {
                format: *format,
                size: SIZE,
                sector_size: 512,
                options: options.clone(),
            };
            let mut host = Host::new();
            host.make(NAME, image::initial_size(&shape));
            match image::create(&shape, &mut host) {
                Ok(_) => kinds.push((*format, options)),
                Err(error) => assert!(
                    matches!(error.kind, Kind::Unsupported | Kind::ReadOnly),
                    "{format} {options:?}: {error}"
                ),
            }
        }
    }
    kinds
}

fn identity(size: u64) -> Identity {
    Identity {
        plan: Digest::of(b"plan"),
        source: Digest::of(b"source"),
        size,
    }
}

#[test]
fn every_format_that_lost_its_power_again_and_again_ends_in_the_same_bytes() {
    let kinds = kinds();
    assert!(kinds.iter().any(|(format, _)| *format == Format::Raw));
    assert!(kinds.iter().any(|(format, _)| *format == Format::Qcow2));
    for (format, options) in kinds {
        let mut known = 0;
        for seed in 0..4 {
            known += lose_power(format, &options, seed);
        }
        assert!(known > 0, "{format} {options:?}: no run has trusted anything");
    }
}

/// Gives how many bytes were trusted.
fn lose_power(format: Format, options: &Options, seed: u64) -> u64 {
    let what = format!("{format} {options:?}, seed {seed}");
    let mut numbers = Numbers(seed);
    let folder = tempfile::tempdir().unwrap();
    let raw = folder.path().join("source.raw");
    let disk = source(&raw, SIZE, &mut numbers);
    let shape = Shape {
        format,
        size: SIZE,
        sector_size: 512,
        options: options.clone(),
    };
    let ledger_path = folder.path().join("ledger");
    let mut known = 0;
    let mut run = |host: &mut Host, writes: u64, patience: u64, threads: usize| {
        host.left.store(writes, Ordering::SeqCst);
        let ledger = FileLedger::open(&ledger_path, &identity(SIZE)).unwrap();
        host.fresh = ledger.is_empty();
        if host.fresh {
            host.files.clear();
            host.make(NAME, image::initial_size(&shape));
        }
        let sink = image::create(&shape, host)?;
        let pace = Pace {
            threads,
            checkpoint_bytes: 2 << 20,
            ..Pace::default()
        };
        let watch = Impatient(AtomicU64::new(patience));
        let copied = copy(&disk, &*sink, &ledger, pace, &watch)?;
        known += copied.known;
        Ok::<_, Error>((copied, ledger))
    };
    let begin = || {
        let _ = fs::remove_file(&ledger_path);
        drop(FileLedger::create(&ledger_path, &identity(SIZE)).unwrap());
    };

    begin();
    let mut undisturbed = Host::new();
    let (expected, _) = run(&mut undisturbed, u64::MAX, u64::MAX, 1).expect(&what);

    begin();
    let mut host = Host::new();
    for _ in 0..3 {
        let _ = match numbers.below(2) {
            0 => run(&mut host, 5 + numbers.below(60), u64::MAX, 2),
            _ => run(&mut host, u64::MAX, 1 + numbers.below(SIZE), 2),
        };
        host.power_cut(&mut numbers);
    }
    let (copied, ledger) = run(&mut host, u64::MAX, u64::MAX, 3).expect(&what);
    // Whatever is not durable by now is lost.
    host.power_cut(&mut numbers);
    assert_eq!(copied.digest, expected.digest, "{what}");
    let (expected, found) = (undisturbed.contents(), host.contents());
    assert_eq!(
        expected.keys().collect::<Vec<_>>(),
        found.keys().collect::<Vec<_>>(),
        "{what}"
    );
    for (name, bytes) in &expected {
        let other = &found[name];
        assert_eq!(bytes.len(), other.len(), "{what}: length of {name}");
        let place = bytes.iter().zip(other).position(|(one, other)| one != other);
        assert_eq!(place, None, "{what}: first different byte of {name}");
    }

    let out = folder.path().join("out");
    fs::create_dir(&out).unwrap();
    let target = host.write_out(&out);
    let image = image::open(
        Arc::new(FileDisk::open(&target).unwrap()),
        Some(format),
        &Beside::new(&target),
    )
    .unwrap();
    let compared = compare(&*image, &disk, 1, &Unwatched).unwrap();
    assert_eq!(compared.first_difference, None, "{what}");
    if image.size() == SIZE {
        let verified = verify(&*image, &ledger, &Unwatched).unwrap();
        assert_eq!(
            (verified.differing, verified.digest),
            (0, copied.digest),
            "{what}"
        );
    }
    assert!(image.check().unwrap().is_sound(), "{what}");
    if KNOWN_TO_QEMU.contains(&format.name()) {
        let (target, raw) = (target.to_str().unwrap(), raw.to_str().unwrap());
        qemu_img(&["compare", "-q", "-f", format.name(), "-F", "raw", target, raw]);
    }
    known
}

fn convert(source: &Path, out: &Path, format: Format, more: &[&str]) -> Child {
    Command::new(env!("CARGO_BIN_EXE_rehome"))
        .args([
            "image",
            "convert",
            "-f",
            "raw",
            "--progress",
            "none",
            "-O",
            format.name(),
        ])
        .args(more)
        .args([source, out])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

#[track_caller]
fn succeeds(child: Child) {
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn the_program_goes_on_where_it_was_killed() {
    let folder = tempfile::tempdir().unwrap();
    let raw = folder.path().join("source.raw");
    let mut numbers = Numbers(7);
    drop(source(&raw, 24 << 20, &mut numbers));
    let formats: Vec<Format> = kinds().into_iter().map(|(format, _)| format).collect();
    for format in Format::ALL.iter().filter(|format| formats.contains(format)) {
        let [calm, rough] = ["calm", "rough"].map(|name| folder.path().join(format!("{format}-{name}")));
        for folder in [&calm, &rough] {
            fs::create_dir(folder).unwrap();
        }
        succeeds(convert(&raw, &calm.join(NAME), *format, &[]));
        let out = rough.join(NAME);
        let mut broken = 0;
        let slow = ["--rate-limit", "5M", "--checkpoint", "1M", "-m", "2"];
        let mut arguments = slow.to_vec();
        for _ in 0..3 {
            let mut child = convert(&raw, &out, *format, &arguments);
            thread::sleep(Duration::from_millis(40 + numbers.below(160)));
            if child.try_wait().unwrap().is_some() {
                assert!(out.exists(), "{format}: it ended without its work done");
                break;
            }
            // SIGKILL.
            child.kill().unwrap();
            if child.wait().unwrap().success() {
                // It was faster than the kill.
                break;
            }
            broken += 1;
            assert!(!out.exists(), "{format}: nothing half-made has the final name");
            if rough.join(format!(".{NAME}.rehome-work")).exists() && !arguments.contains(&"--resume") {
                arguments.push("--resume");
            }
        }
        if !out.exists() {
            let resume = if arguments.contains(&"--resume") {
                &["--resume", "--verify"][..]
            } else {
                &[]
            };
            succeeds(convert(&raw, &out, *format, resume));
        }
        assert!(broken > 0, "{format}: it was never killed");
        let names = |folder: &Path| {
            let mut names: Vec<_> = fs::read_dir(folder)
                .unwrap()
                .map(|entry| entry.unwrap().file_name())
                .collect();
            names.sort();
            names
        };
        assert_eq!(names(&calm), names(&rough), "{format}");
        for name in names(&calm) {
            let same = fs::read(calm.join(&name)).unwrap() == fs::read(rough.join(&name)).unwrap();
            assert!(same, "{format}: {} differs", name.display());
        }
        if KNOWN_TO_QEMU.contains(&format.name()) {
            let (target, raw) = (out.to_str().unwrap(), raw.to_str().unwrap());
            qemu_img(&["compare", "-q", "-f", format.name(), "-F", "raw", target, raw]);
        }
    }
}
