//! Commits and undos that are broken off at every moment, against plain bytes.

use super::*;
use crate::{
    disk::{Extent, MemoryDisk},
    watch::Unwatched,
};
use proptest::prelude::*;
use std::{
    path::PathBuf,
    sync::{Mutex, MutexGuard},
};

/// A container whose writes are lost in a power cut, all or some, unless they were flushed.
#[derive(Debug)]
struct Brittle(Mutex<Cells>);

#[derive(Debug)]
struct Cells {
    durable: Vec<u8>,
    pending: Vec<Pending>,
    now: Vec<u8>,
    /// Writes until the power goes.
    left: u32,
}

#[derive(Clone, Debug)]
enum Pending {
    Write(u64, Vec<u8>),
    Size(u64),
}

impl Pending {
    fn apply(&self, bytes: &mut Vec<u8>) {
        match self {
            Self::Write(at, new) => {
                let at = *at as usize;
                bytes.resize(bytes.len().max(at + new.len()), 0);
                bytes[at..at + new.len()].copy_from_slice(new);
            }
            Self::Size(size) => bytes.resize(*size as usize, 0),
        }
    }
}

impl Brittle {
    fn new(bytes: Vec<u8>) -> Self {
        Self(Mutex::new(Cells {
            durable: bytes.clone(),
            now: bytes,
            pending: Vec::new(),
            left: u32::MAX,
        }))
    }

    fn cells(&self) -> MutexGuard<'_, Cells> {
        self.0.lock().unwrap()
    }

    fn change(&self, pending: Pending) -> Result<()> {
        let mut cells = self.cells();
        if cells.left == 0 {
            return Err(Error::new(Kind::Io, "brittle", "the power is gone"));
        }
        cells.left -= 1;
        let mut now = std::mem::take(&mut cells.now);
        pending.apply(&mut now);
        cells.now = now;
        cells.pending.push(pending);
        Ok(())
    }

    /// The power goes and comes back: of what was not flushed, the writes that `survive` says are there. A size is
    /// metadata, which a filesystem keeps in order: it survives or not with all before it.
    fn power_cut(&self, survive: &[bool]) {
        let mut cells = self.cells();
        let mut bytes = cells.durable.clone();
        let size_after = cells.now.len();
        let resized = cells
            .pending
            .iter()
            .any(|pending| matches!(pending, Pending::Size(_)));
        let sized = resized && survive.first().copied().unwrap_or(true);
        if sized {
            bytes.resize(size_after, 0);
        }
        let size = bytes.len();
        let pending = std::mem::take(&mut cells.pending);
        for (pending, survives) in pending.iter().zip(survive.iter().cycle()) {
            if *survives && matches!(pending, Pending::Write(..)) {
                pending.apply(&mut bytes);
                bytes.truncate(size);
            }
        }
        cells.durable = bytes.clone();
        cells.now = bytes;
        cells.left = u32::MAX;
    }

    fn contents(&self) -> Vec<u8> {
        self.cells().now.clone()
    }
}

impl Disk for Brittle {
    fn label(&self) -> &str {
        "brittle"
    }
    fn size(&self) -> u64 {
        self.cells().now.len() as u64
    }
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        let cells = self.cells();
        crate::disk::check_range("brittle", cells.now.len() as u64, offset, buffer.len() as u64)?;
        buffer.copy_from_slice(&cells.now[offset as usize..offset as usize + buffer.len()]);
        Ok(())
    }
    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        crate::disk::check_range("brittle", self.size(), offset, bytes.len() as u64)?;
        self.change(Pending::Write(offset, bytes.to_vec()))
    }
    fn extents(&self, range: Range<u64>) -> Result<Vec<Extent>> {
        Ok(vec![Extent::new(range, crate::disk::Content::Data)])
    }
    fn set_size(&self, size: u64) -> Result<()> {
        self.change(Pending::Size(size))
    }
    fn flush(&self) -> Result<()> {
        let mut cells = self.cells();
        if cells.left == 0 {
            return Err(Error::new(Kind::Io, "brittle", "the power is gone"));
        }
        cells.durable = cells.now.clone();
        cells.pending.clear();
        Ok(())
    }
}

const SIZE: u64 = 40_000;

#[derive(Clone, Debug)]
enum Step {
    Write(u64, Vec<u8>),
    Zeros(u64, u64),
    Discard(u64, u64),
    Move(u64, u64, u64),
    Resize(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let length = || 1..9000_u64;
    prop_oneof![
        4 => (0..SIZE, prop::collection::vec(1..=255_u8, 1..9000)).prop_map(|(at, bytes)| Step::Write(at, bytes)),
        1 => (0..SIZE, length()).prop_map(|(at, length)| Step::Zeros(at, length)),
        1 => (0..SIZE, length()).prop_map(|(at, length)| Step::Discard(at, length)),
        3 => (0..SIZE, length(), 0..SIZE).prop_map(|(at, length, to)| Step::Move(at, length, to)),
        1 => (SIZE - 9000..SIZE + 9000).prop_map(Step::Resize),
    ]
}

/// Steps out of range are no steps.
fn edit(overlay: &Overlay, steps: &[Step]) {
    for step in steps {
        let _ = match step {
            Step::Write(at, bytes) => overlay.write_at(*at, bytes),
            Step::Zeros(at, length) => overlay.write_zeros(*at..at + length),
            Step::Discard(at, length) => overlay.discard(*at..at + length),
            Step::Move(at, length, to) => overlay.copy_within(*at..at + length, *to),
            Step::Resize(size) => overlay.set_size(*size),
        };
    }
}

fn before() -> Vec<u8> {
    (0..SIZE)
        .map(|i| {
            if i / 5000 % 3 == 1 {
                0
            } else {
                (i / 7 % 251) as u8 + 1
            }
        })
        .collect()
}

fn contents(disk: &dyn Disk) -> Vec<u8> {
    let mut bytes = vec![0; disk.size() as usize];
    disk.read_at(0, &mut bytes).unwrap();
    bytes
}

struct Scene {
    _folder: tempfile::TempDir,
    undo: PathBuf,
    container: Arc<Brittle>,
    overlay: Overlay,
}

fn scene(steps: &[Step]) -> Scene {
    // Hundreds of flushes: in memory where there is such a place.
    let folder = tempfile::tempdir_in("/dev/shm")
        .or_else(|_| tempfile::tempdir())
        .unwrap();
    let container = Arc::new(Brittle::new(before()));
    let overlay = Overlay::new(container.clone(), 1 << 20, "/nowhere");
    edit(&overlay, steps);
    Scene {
        undo: folder.path().join("undo"),
        _folder: folder,
        container,
        overlay,
    }
}

impl Scene {
    fn commit(&self) -> Result<Committed> {
        commit(
            &self.overlay,
            self.container.clone(),
            Path::new("/container"),
            &self.undo,
            &Unwatched,
        )
    }

    fn restore(&self) -> Result<Undone> {
        restore(UndoFile::open(&self.undo)?, &*self.container, &Unwatched)
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn whatever_breaks_the_container_comes_back_bit_for_bit(
        steps in prop::collection::vec(step(), 0..12),
        commit_writes in prop_oneof![Just(u32::MAX), 0..12_u32],
        undo_writes in prop::collection::vec(0..12_u32, 0..3),
        survive in prop::collection::vec(any::<bool>(), 1..8),
    ) {
        let scene = scene(&steps);
        let after = contents(&scene.overlay);
        let discarded: Vec<_> = scene.overlay.held().into_iter().filter(|h| h.kind == HeldKind::Discarded).collect();
        scene.container.cells().left = commit_writes;
        if scene.commit().is_ok() {
            let (mut expected, old) = (after, before());
            for held in discarded {
                // Discards are not committed: old bytes, or zeros where the container has grown.
                for at in held.range {
                    expected[at as usize] = old.get(at as usize).copied().unwrap_or(0);
                }
            }
            prop_assert!(scene.container.contents() == expected);
        }
        scene.container.power_cut(&survive);
        for writes in undo_writes {
            scene.container.cells().left = writes;
            let _ = scene.restore();
            scene.container.power_cut(&survive);
        }
        scene.restore().unwrap();
        prop_assert!(scene.container.contents() == before());
        prop_assert_eq!(scene.restore().unwrap(), Undone::Untouched);
    }

    #[test]
    fn an_undo_file_cut_short_anywhere_never_claims_too_much(
        steps in prop::collection::vec(step(), 1..6), keep in 0..100_u64,
    ) {
        let scene = scene(&steps);
        scene.commit().unwrap();
        let length = fs::metadata(&scene.undo).unwrap().len();
        let file = fs::OpenOptions::new().write(true).open(&scene.undo).unwrap();
        file.set_len(length * keep / 100).unwrap();
        match UndoFile::open(&scene.undo) {
            Err(error) => prop_assert_eq!(error.kind, Kind::Corrupt),
            // Cut before the seal, it says that nothing was touched: true for every cut that a crash can make.
            Ok(undo) => prop_assert!(matches!(undo.state, State::Unfinished | State::Sealed)),
        }
    }
}

#[test]
fn a_real_file_is_changed_and_comes_back_with_its_size() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("guest.raw");
    let undo_path = folder.path().join("guest.undo");
    let before: Vec<u8> = (0..5_u32 << 20).map(|i| (i / 3 % 253) as u8).collect();
    fs::write(&path, &before).unwrap();
    let overlay = Overlay::new(Arc::new(FileDisk::open(&path).unwrap()), 1 << 20, folder.path());
    overlay.copy_within(0..4 << 20, 1 << 20).unwrap();
    overlay.write_at(7, b"changed").unwrap();
    overlay.set_size(6 << 20).unwrap();
    overlay.write_at((6 << 20) - 3, b"end").unwrap();
    let after = contents(&overlay);
    let committed = commit_in_place(&overlay, &path, &undo_path, &Unwatched).unwrap();
    assert_eq!((committed.size_before, committed.size_after), (5 << 20, 6 << 20));
    assert!(committed.written <= (4 << 20) + 2 * 4096, "{committed:?}");
    assert!(fs::read(&path).unwrap() == after);
    let error = commit_in_place(&overlay, &path, &undo_path, &Unwatched).unwrap_err();
    assert_eq!(error.kind, Kind::Unsafe, "{error}");

    let mut changed = after.clone();
    changed[8] ^= 1;
    fs::write(&path, &changed).unwrap();
    let error = undo(&undo_path, None, &Unwatched).unwrap_err();
    assert_eq!(error.kind, Kind::Unsafe);
    assert_eq!(
        fs::read(&path).unwrap(),
        changed,
        "a refused undo touches nothing"
    );
    fs::write(&path, &after[..100]).unwrap();
    assert_eq!(undo(&undo_path, None, &Unwatched).unwrap_err().kind, Kind::Unsafe);

    let elsewhere = folder.path().join("moved.raw");
    fs::write(&elsewhere, &after).unwrap();
    assert!(matches!(
        undo(&undo_path, Some(&elsewhere), &Unwatched).unwrap(),
        Undone::Restored(_)
    ));
    assert!(fs::read(&elsewhere).unwrap() == before);
}

#[test]
fn records_behind_a_broken_one_do_not_come_back() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("guest.raw");
    let undo_path = folder.path().join("guest.undo");
    fs::write(&path, [7; 5000]).unwrap();
    let overlay = Overlay::new(Arc::new(FileDisk::open(&path).unwrap()), 1 << 20, folder.path());
    overlay.write_at(7, b"changed").unwrap();
    commit_in_place(&overlay, &path, &undo_path, &Unwatched).unwrap();
    let mut bytes = fs::read(&undo_path).unwrap();
    // Two broken ones, as long as what the undo notes, and one that is whole: zeros of one byte at 0.
    bytes.extend([0xff; 56]);
    let record = [&[2_u8, 0, 0, 0][..], &[0; 12], &[1, 0, 0, 0, 0, 0, 0, 0]].concat();
    bytes.extend(&record);
    bytes.extend(crc32c::crc32c(&record).to_le_bytes());
    fs::write(&undo_path, &bytes).unwrap();
    assert_eq!(undo(&undo_path, None, &Unwatched).unwrap(), Undone::Restored(7));
    assert_eq!(undo(&undo_path, None, &Unwatched).unwrap(), Undone::Untouched);
    assert_eq!(fs::read(&path).unwrap(), [7; 5000]);
}

#[test]
fn an_undo_file_that_cannot_be_made_leaves_the_container_alone() {
    let scene = scene(&[Step::Write(0, vec![9; 5000])]);
    fs::write(&scene.undo, b"precious").unwrap();
    assert_eq!(scene.commit().unwrap_err().kind, Kind::Exists);
    assert_eq!(fs::read(&scene.undo).unwrap(), b"precious");
    assert!(scene.container.contents() == before());
}

#[test]
fn a_container_that_somebody_locks_is_not_touched() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("guest.qcow2");
    let run = |program: &str, arguments: &[&str]| {
        let status = std::process::Command::new(program)
            .args(arguments)
            .status()
            .unwrap();
        assert!(status.success());
    };
    run(
        "qemu-img",
        &["create", "-q", "-f", "qcow2", path.to_str().unwrap(), "16M"],
    );
    let overlay = Overlay::new(Arc::new(FileDisk::open(&path).unwrap()), 1 << 20, folder.path());
    overlay.write_at(100_000, &[1; 100]).unwrap();
    let mut qemu = std::process::Command::new("qemu-io")
        .args(["-f", "qcow2", path.to_str().unwrap()])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    // Its prompt says that the image is open.
    let mut prompt = [0; 1];
    std::io::Read::read_exact(qemu.stdout.as_mut().unwrap(), &mut prompt).unwrap();
    let error = commit_in_place(&overlay, &path, &folder.path().join("undo"), &Unwatched).unwrap_err();
    assert_eq!(error.kind, Kind::Unsafe, "{error}");
    assert!(!folder.path().join("undo").exists());
    drop(qemu.stdin.take());
    qemu.wait().unwrap();
}

#[test]
fn the_bytes_are_as_documented() {
    let scene = scene(&[Step::Write(4096, vec![9; 4096]), Step::Zeros(12_288, 4096)]);
    scene.commit().unwrap();
    let bytes = fs::read(&scene.undo).unwrap();
    assert_eq!(&bytes[..8], b"RHMUNDO\0");
    assert_eq!(&bytes[12..16], [10, 0, 0, 0]);
    assert_eq!(bytes[16..24], SIZE.to_le_bytes());
    assert_eq!(&bytes[32..42], b"/container");
    let record = &bytes[46..46 + 28 + 4096];
    assert_eq!(
        (record[0], &record[8..24]),
        (1, [4096_u64, 4096].map(u64::to_le_bytes).concat().as_slice())
    );
    assert_eq!(&record[24..24 + 4096], &before()[4096..8192]);
    assert_eq!(record[4120..], crc32c::crc32c(&record[..4120]).to_le_bytes());
}

#[test]
fn another_disk_than_the_overlays_is_refused() {
    let scene = scene(&[]);
    let other: Arc<dyn Disk> = Arc::new(MemoryDisk::new("other", vec![0; 100]));
    let error = commit(&scene.overlay, other, Path::new("/c"), &scene.undo, &Unwatched).unwrap_err();
    assert_eq!(error.kind, Kind::Unsafe);
    assert!(!scene.undo.exists());
}
