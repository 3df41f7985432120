//! Copies against plain bytes; breaks, full sinks, cancelling.

use super::*;
use crate::{
    copy::{Clock, FileLedger, Identity, TimeOfDay, Windows, digest, verify},
    disk::{Content, DiskSink, Extent, FileDisk, MemoryDisk, Overlay},
    watch::Unwatched,
};
use proptest::prelude::*;
use std::sync::{
    Arc,
    atomic::{AtomicU64, AtomicUsize},
    mpsc,
};

/// Forgets what was put since the last checkpoint when the power goes.
#[derive(Debug)]
struct Brittle {
    durable: Arc<MemoryDisk>,
    pending: Mutex<Vec<(u64, Vec<u8>)>>,
    puts_left: AtomicU64,
    puts: AtomicUsize,
    unit: u32,
}

impl Brittle {
    fn new(durable: Arc<MemoryDisk>, puts_left: u64) -> Self {
        Self {
            durable,
            pending: Mutex::default(),
            puts_left: AtomicU64::new(puts_left),
            puts: AtomicUsize::new(0),
            unit: 1 << 16,
        }
    }

    fn in_units_of(mut self, unit: u32) -> Self {
        self.unit = unit;
        self
    }

    fn takes(&self, range: &Range<u64>) {
        let whole = |at: u64| at.is_multiple_of(u64::from(self.unit)) || at == self.durable.size();
        assert!(
            !range.is_empty() && whole(range.start) && whole(range.end),
            "{range:?}"
        );
    }
}

impl Sink for Brittle {
    fn unit(&self) -> u32 {
        self.unit
    }
    fn put(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        self.takes(&(offset..offset + bytes.len() as u64));
        let left = self
            .puts_left
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        if left.is_err() {
            return Err(Error::new(Kind::Full, "brittle", "no space is left"));
        }
        self.puts.fetch_add(1, Ordering::SeqCst);
        lock(&self.pending).push((offset, bytes.to_vec()));
        Ok(())
    }
    fn skip(&self, range: Range<u64>) -> Result<()> {
        self.takes(&range);
        Ok(())
    }
    fn keep(&self, range: Range<u64>) -> Result<()> {
        self.takes(&range);
        Ok(())
    }

    fn checkpoint(&self) -> Result<()> {
        for (offset, bytes) in lock(&self.pending).drain(..) {
            self.durable.write_at(offset, &bytes)?;
        }
        Ok(())
    }
    fn finish(&self) -> Result<()> {
        self.checkpoint()
    }
}

/// Chunks of data, of zeros, of a little data, by a pattern of digits.
fn patterned(pattern: &[u8], tail: usize) -> Arc<Overlay> {
    let size = pattern.len() * CHUNK as usize + tail;
    let base = Arc::new(MemoryDisk::new("source", vec![0; size]));
    for (index, kind) in pattern.iter().enumerate() {
        let at = index as u64 * CHUNK;
        match kind {
            1 => base.write_at(at, &vec![index as u8 + 1; CHUNK as usize]).unwrap(),
            2 => base.write_at(at + 70_000, &[9; 10]).unwrap(),
            _ => {}
        }
    }
    if tail > 0 {
        base.write_at(size as u64 - 1, &[5]).unwrap();
    }
    let overlay = Overlay::new(base, 1 << 20, "/nowhere");
    for (index, kind) in pattern.iter().enumerate() {
        if *kind == 3 {
            overlay
                .discard(index as u64 * CHUNK..(index as u64 + 1) * CHUNK)
                .unwrap();
        }
    }
    Arc::new(overlay)
}

fn contents(disk: &dyn Disk) -> Vec<u8> {
    let mut bytes = vec![0; disk.size() as usize];
    disk.read_at(0, &mut bytes).unwrap();
    bytes
}

fn identity(size: u64) -> Identity {
    Identity {
        plan: Digest::of(b"plan"),
        source: Digest::of(b"source"),
        size,
    }
}

fn pace(threads: usize) -> Pace<'static> {
    Pace {
        threads,
        checkpoint_bytes: 2 << 20,
        ..Pace::default()
    }
}

#[test]
fn what_arrives_is_what_was_there_and_zeros_are_left_out() {
    let source = patterned(&[1, 0, 0, 2, 3, 3, 1, 3], 1000);
    let target = Arc::new(MemoryDisk::new("target", vec![0; source.size() as usize]));
    let sink = Brittle::new(target.clone(), u64::MAX);
    let copied = copy(&*source, &sink, &NoLedger, pace(3), &Unwatched).unwrap();
    assert!(target.contents() == contents(&*source));
    assert_eq!(copied.put, 2 * CHUNK + (1 << 16) + 1000);
    assert_eq!(copied.put + copied.skipped, source.size());
    assert_eq!(copied.read, 5 * CHUNK + 1000);
    assert_eq!(digest(&*target, &Unwatched).unwrap(), copied.digest);
    // A disk of the same contents with another map has the same hash; one bit more has not.
    target.write_at(5 * CHUNK, &[1]).unwrap();
    assert_ne!(digest(&*target, &Unwatched).unwrap(), copied.digest);
}

#[test]
fn a_terabyte_of_holes_costs_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let source = FileDisk::create(&folder.path().join("source"), 1 << 40).unwrap();
    let target = Arc::new(FileDisk::create(&folder.path().join("target"), 1 << 40).unwrap());
    let path = folder.path().join("ledger");
    let ledger = FileLedger::create(&path, &identity(1 << 40)).unwrap();
    let begun = Instant::now();
    let sink = DiskSink::new(target.clone(), true);
    let copied = copy(&source, &sink, &ledger, Pace::default(), &Unwatched).unwrap();
    assert_eq!((copied.skipped, copied.read), (1 << 40, 0));
    assert_eq!(verify(&*target, &ledger, &Unwatched).unwrap().differing, 0);
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    assert!(std::fs::metadata(&path).unwrap().len() < 300);
}

#[test]
fn a_disk_without_bytes_is_copied() {
    let empty = MemoryDisk::new("empty", Vec::new());
    let sink = DiskSink::new(Arc::new(MemoryDisk::new("target", Vec::new())), true);
    let copied = copy(&empty, &sink, &NoLedger, Pace::default(), &Unwatched).unwrap();
    assert_eq!(copied.put + copied.skipped, 0);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    #[test]
    fn a_broken_copy_resumes_to_identical_bytes_and_trusts_only_what_is_durable(
        pattern in prop::collection::vec(0..4_u8, 1..14),
        tail in prop_oneof![Just(0_usize), Just(700)],
        lives in prop::collection::vec(0..6_u64, 0..4),
        threads in 1..4_usize,
        torn in 0..60_u64,
        unit in prop_oneof![Just(1_u32 << 16), Just(2 << 20), Just(4 << 20)],
    ) {
        let source = patterned(&pattern, tail);
        let size = source.size();
        let target = Arc::new(MemoryDisk::new("target", vec![0; size as usize]));
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ledger");
        drop(FileLedger::create(&path, &identity(size)).unwrap());
        for puts in lives {
            let ledger = FileLedger::open(&path, &identity(size)).unwrap();
            // What is pending in the sink is lost with it; the checkpoint after the failure is what survives.
            let _ = copy(&*source, &Brittle::new(target.clone(), puts).in_units_of(unit), &ledger, pace(threads), &Unwatched);
            drop(ledger);
            let length = std::fs::metadata(&path).unwrap().len();
            let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
            file.set_len(length.saturating_sub(torn)).unwrap();
        }
        let ledger = FileLedger::open(&path, &identity(size)).unwrap();
        for index in 0..chunks(size) {
            if let Some(hash) = ledger.at(index).unwrap().hash {
                let range = chunk_range(size, index, 1);
                let bytes = &target.contents()[range.start as usize..range.end as usize];
                prop_assert_eq!(hash, (!is_zero(bytes)).then(|| Digest::of(bytes)));
            }
        }
        let last = Brittle::new(target.clone(), u64::MAX).in_units_of(unit);
        let copied = copy(&*source, &last, &ledger, pace(threads), &Unwatched).unwrap();
        prop_assert_eq!(copied.put + copied.skipped + copied.known, size);
        prop_assert!(target.contents() == contents(&*source));
        let verified = verify(&*target, &ledger, &Unwatched).unwrap();
        prop_assert_eq!((verified.differing, verified.digest), (0, copied.digest));
        drop(ledger);
        let ledger = FileLedger::open(&path, &identity(size)).unwrap();
        prop_assert_eq!(ledger.digest(), Some(copied.digest));
        let idle = Brittle::new(target.clone(), 0).in_units_of(unit);
        let again = copy(&*source, &idle, &ledger, pace(threads), &Unwatched).unwrap();
        prop_assert_eq!((again.known, again.digest), (size, copied.digest));
    }
}

#[test]
fn a_change_in_the_target_is_found_where_it_is() {
    let source = patterned(&[1, 1, 0, 1], 0);
    let target = Arc::new(MemoryDisk::new("target", vec![0; source.size() as usize]));
    let folder = tempfile::tempdir().unwrap();
    let ledger = FileLedger::create(&folder.path().join("l"), &identity(source.size())).unwrap();
    let sink = DiskSink::new(target.clone(), false);
    copy(&*source, &sink, &ledger, Pace::default(), &Unwatched).unwrap();
    target.write_at(2 * CHUNK + 5, &[1]).unwrap();
    let verified = verify(&*target, &ledger, &Unwatched).unwrap();
    assert_eq!(verified.differing, 1);
    assert_eq!(verified.differences[0].range, 2 * CHUNK..3 * CHUNK);
    assert!(!verified.differences[0].unknown);
}

/// Takes everything in the order of the disk, and holds who comes too early.
#[derive(Default)]
struct Forward {
    next: Mutex<(u64, bool)>,
    moved: std::sync::Condvar,
}
impl Forward {
    fn take(&self, range: Range<u64>) -> Result<()> {
        let mut next = lock(&self.next);
        while next.0 != range.start {
            if next.1 {
                return Err(Error::new(Kind::Cancelled, "forward", "aborted"));
            }
            next = self.moved.wait(next).unwrap();
        }
        next.0 = range.end;
        self.moved.notify_all();
        Ok(())
    }
}
impl Sink for Forward {
    fn unit(&self) -> u32 {
        512
    }
    fn put(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        self.take(offset..offset + bytes.len() as u64)
    }
    fn skip(&self, range: Range<u64>) -> Result<()> {
        self.take(range)
    }
    fn keep(&self, range: Range<u64>) -> Result<()> {
        self.take(range)
    }
    fn checkpoint(&self) -> Result<()> {
        Ok(())
    }
    fn finish(&self) -> Result<()> {
        Ok(())
    }
    fn abandon(&self) {
        lock(&self.next).1 = true;
        self.moved.notify_all();
    }
}

#[test]
fn a_sink_that_only_goes_forward_is_woken_when_another_thread_fails() {
    /// Cannot be read in its third chunk.
    #[derive(Debug)]
    struct Scratched(MemoryDisk);
    impl Disk for Scratched {
        fn label(&self) -> &str {
            "scratched"
        }
        fn size(&self) -> u64 {
            self.0.size()
        }
        fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
            if offset == 2 * CHUNK {
                thread::sleep(Duration::from_millis(50));
                return Err(Error::new(Kind::Io, "scratched", "cannot be read").at(offset));
            }
            self.0.read_at(offset, buffer)
        }
        fn extents(&self, range: Range<u64>) -> Result<Vec<Extent>> {
            Ok(vec![Extent::new(range, Content::Data)])
        }
    }
    let source = patterned(&[1, 2, 0, 1, 1, 2, 1], 10);
    let sink = Forward::default();
    copy(&*source, &sink, &NoLedger, pace(4), &Unwatched).unwrap();
    assert_eq!(lock(&sink.next).0, source.size());
    let source = Scratched(MemoryDisk::new("s", vec![1; 9 << 20]));
    let error = copy(&source, &Forward::default(), &NoLedger, pace(4), &Unwatched).unwrap_err();
    assert_eq!((error.kind, error.offset), (Kind::Io, Some(2 * CHUNK)));
}

#[test]
fn a_cancelled_copy_says_so_and_keeps_what_it_has() {
    struct Impatient(AtomicU64);
    impl Watch for Impatient {
        fn stage(&self, _name: &str, _bytes: u64) {}
        fn advance(&self, bytes: u64) {
            self.0.fetch_add(bytes, Ordering::SeqCst);
        }
        fn cancelled(&self) -> bool {
            self.0.load(Ordering::SeqCst) >= 3 << 20
        }
    }
    let source = patterned(&[1; 8], 0);
    let folder = tempfile::tempdir().unwrap();
    let ledger = FileLedger::create(&folder.path().join("l"), &identity(source.size())).unwrap();
    let target = Arc::new(MemoryDisk::new("target", vec![0; source.size() as usize]));
    let sink = Brittle::new(target, u64::MAX);
    let error = copy(&*source, &sink, &ledger, pace(1), &Impatient(AtomicU64::new(0))).unwrap_err();
    assert_eq!(error.kind, Kind::Cancelled);
    assert_eq!(
        ledger.at(2).unwrap().hash,
        Some(Some(Digest::of(&vec![3; 1 << 20])))
    );
    assert_eq!(
        ledger.at(3).unwrap(),
        crate::copy::Entry {
            hash: None,
            count: u64::MAX
        }
    );
    assert_eq!(ledger.digest(), None);
}

#[test]
fn a_unit_that_does_not_divide_a_chunk_is_refused() {
    struct Odd;
    impl Sink for Odd {
        fn unit(&self) -> u32 {
            3 << 20
        }
        fn put(&self, _offset: u64, _bytes: &[u8]) -> Result<()> {
            Ok(())
        }
        fn skip(&self, _range: Range<u64>) -> Result<()> {
            Ok(())
        }
        fn keep(&self, _range: Range<u64>) -> Result<()> {
            Ok(())
        }
        fn checkpoint(&self) -> Result<()> {
            Ok(())
        }
        fn finish(&self) -> Result<()> {
            Ok(())
        }
    }
    let source = patterned(&[1], 0);
    let error = copy(&*source, &Odd, &NoLedger, pace(1), &Unwatched).unwrap_err();
    assert_eq!(error.kind, Kind::Unsupported);
}

#[test]
fn zeros_are_left_out_only_where_enough_of_them_follow_each_other() {
    let unit = 1 << 16;
    let source = Arc::new(MemoryDisk::new("source", vec![0; 3 << 20]));
    source.write_at(0, &vec![1; 2 * unit]).unwrap();
    // One unit of zeros, then data, then many.
    source.write_at(3 * unit as u64, &vec![2; unit]).unwrap();
    source.write_at((1 << 20) + 5, &[3]).unwrap();
    let expected = digest(&*source, &Unwatched).unwrap();
    for (sparse, put) in [
        (None, 4 * unit),
        (Some(4096), 4 * unit),
        (Some(2 << 16), 5 * unit),
        (Some(1 << 20), (1 << 20) + (1 << 20)),
        (Some(0), 3 << 20),
    ] {
        let target = Arc::new(MemoryDisk::new("target", vec![0; 3 << 20]));
        let sink = Brittle::new(target.clone(), u64::MAX);
        let pace = Pace { sparse, ..pace(2) };
        let copied = copy(&*source, &sink, &NoLedger, pace, &Unwatched).unwrap();
        assert_eq!((copied.put, copied.digest), (put as u64, expected), "{sparse:?}");
        assert!(target.contents() == source.contents());
    }
}

#[test]
fn without_a_hash_the_bytes_are_the_same() {
    let source = patterned(&[1, 0, 2, 3, 1], 100);
    let target = Arc::new(MemoryDisk::new("target", vec![0; source.size() as usize]));
    let sink = Brittle::new(target.clone(), u64::MAX);
    let copied = copy_unhashed(&*source, &sink, pace(2), &Unwatched).unwrap();
    assert_eq!(copied.put + copied.skipped, source.size());
    assert!(target.contents() == contents(&*source));
}

#[test]
fn when_its_hours_are_over_a_copy_makes_all_of_it_last_and_goes_on_the_next_evening() {
    /// Two chunks before the window closes; opens again after so many sleeps.
    #[derive(Debug, Default)]
    struct Evening {
        looks: AtomicU64,
        sleeps: AtomicU64,
    }
    impl Clock for Arc<Evening> {
        fn elapsed(&self) -> Duration {
            Duration::ZERO
        }
        fn time_of_day(&self) -> TimeOfDay {
            let closed =
                self.looks.fetch_add(1, Ordering::SeqCst) >= 3 && self.sleeps.load(Ordering::SeqCst) < 5;
            TimeOfDay::new(if closed { 12 } else { 23 }, 0, 0)
        }
        fn sleep(&self, _time: Duration) {
            self.sleeps.fetch_add(1, Ordering::SeqCst);
        }
    }
    struct Listening<'a> {
        ledger: &'a FileLedger,
        said: Mutex<Vec<(String, bool)>>,
    }
    impl Watch for Listening<'_> {
        fn stage(&self, _name: &str, _bytes: u64) {}
        fn advance(&self, _bytes: u64) {}
        fn say(&self, text: &str) {
            let safe = self.ledger.at(1).unwrap().hash.is_some();
            lock(&self.said).push((text.to_owned(), safe));
        }
        fn cancelled(&self) -> bool {
            false
        }
    }
    let source = patterned(&[1, 2, 1, 1], 0);
    let folder = tempfile::tempdir().unwrap();
    let ledger = FileLedger::create(&folder.path().join("l"), &identity(source.size())).unwrap();
    let target = Arc::new(MemoryDisk::new("target", vec![0; source.size() as usize]));
    let sink = Brittle::new(target.clone(), u64::MAX);
    let clock = Arc::new(Evening::default());
    let windows = Windows::new(vec!["22:00-05:00".parse().unwrap()]);
    let brake = Brake::new(None, windows, Box::new(clock.clone()));
    let watch = Listening {
        ledger: &ledger,
        said: Mutex::default(),
    };
    let pace = Pace {
        brake: Some(&brake),
        checkpoint_bytes: u64::MAX,
        ..pace(1)
    };
    copy(&*source, &sink, &ledger, pace, &watch).unwrap();
    assert!(target.contents() == contents(&*source));
    let said = lock(&watch.said);
    assert_eq!(said.len(), 2, "{said:?}");
    assert!(said[0].0.contains("pausing until 22:00") && said[0].1, "{said:?}");
    assert!(said[1].0.contains("going on"), "{said:?}");
}

#[test]
fn after_a_checkpoint_that_failed_nothing_is_recorded_though_the_next_would_succeed() {
    /// Like a file of which the kernel tells once that its pages are lost.
    struct FailsOnce {
        fails_at: usize,
        checkpoints: AtomicUsize,
    }
    impl Sink for FailsOnce {
        fn unit(&self) -> u32 {
            4096
        }
        fn put(&self, _offset: u64, _bytes: &[u8]) -> Result<()> {
            Ok(())
        }
        fn skip(&self, _range: Range<u64>) -> Result<()> {
            Ok(())
        }
        fn keep(&self, _range: Range<u64>) -> Result<()> {
            Ok(())
        }
        fn checkpoint(&self) -> Result<()> {
            if self.checkpoints.fetch_add(1, Ordering::SeqCst) == self.fails_at {
                return Err(Error::new(Kind::Io, "fails once", "input/output error"));
            }
            Ok(())
        }
        fn finish(&self) -> Result<()> {
            Ok(())
        }
    }
    /// Refuses one record, as on a disk that is full for a moment.
    #[derive(Debug)]
    struct FullOnce {
        ledger: FileLedger,
        records: AtomicUsize,
    }
    impl Ledger for FullOnce {
        fn at(&self, index: u64) -> Result<crate::copy::Entry> {
            self.ledger.at(index)
        }
        fn record(&self, runs: &[Run]) -> Result<()> {
            if self.records.fetch_add(1, Ordering::SeqCst) == 1 {
                return Err(Error::new(Kind::Full, "ledger", "no space is left"));
            }
            self.ledger.record(runs)
        }
        fn complete(&self, digest: Digest) -> Result<()> {
            self.ledger.complete(digest)
        }
    }
    let source = patterned(&[1; 16], 0);
    for (fails_at, kind) in [(1, Kind::Io), (usize::MAX, Kind::Full)] {
        let folder = tempfile::tempdir().unwrap();
        let ledger = FullOnce {
            ledger: FileLedger::create(&folder.path().join("l"), &identity(source.size())).unwrap(),
            records: AtomicUsize::new(if fails_at == 1 { 2 } else { 0 }),
        };
        let sink = FailsOnce {
            fails_at,
            checkpoints: AtomicUsize::new(0),
        };
        let error = copy(&*source, &sink, &ledger, pace(1), &Unwatched).unwrap_err();
        assert_eq!(error.kind, kind, "{error}");
        // Without a gap, and not all of it.
        let recorded: Vec<bool> = (0..16).map(|i| ledger.at(i).unwrap().hash.is_some()).collect();
        assert!(recorded[0] && !recorded[15], "{recorded:?}");
        assert!(recorded.is_sorted_by(|one, next| one >= next), "{recorded:?}");
        assert_eq!(sink.checkpoints.load(Ordering::SeqCst), 2);
    }
}

#[test]
fn a_thread_that_panics_stops_the_copy_and_holds_nobody() {
    /// Panics in its third chunk.
    #[derive(Debug)]
    struct Faulty(MemoryDisk);
    impl Disk for Faulty {
        fn label(&self) -> &str {
            "faulty"
        }
        fn size(&self) -> u64 {
            self.0.size()
        }
        fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
            assert_ne!(offset, 2 * CHUNK, "a fault of the program, as the test wants it");
            self.0.read_at(offset, buffer)
        }
        fn extents(&self, range: Range<u64>) -> Result<Vec<Extent>> {
            Ok(vec![Extent::new(range, Content::Data)])
        }
    }
    for threads in [1, 2, 4] {
        let (ended, end) = mpsc::channel();
        thread::spawn(move || {
            let source = Faulty(MemoryDisk::new("s", vec![1; 9 << 20]));
            let sink = Forward::default();
            let error = copy(&source, &sink, &NoLedger, pace(threads), &Unwatched).unwrap_err();
            ended.send((error.to_string(), lock(&sink.next).1)).unwrap();
        });
        // Only a copy that hangs waits so long.
        let (error, abandoned) = end.recv_timeout(Duration::from_secs(120)).expect("it hangs");
        assert!(error.contains("a copying thread ended before"), "{error}");
        assert!(abandoned);
    }
}

#[test]
fn zeros_that_are_written_come_in_pieces_keep_to_the_rate_and_stop_when_told_to() {
    /// Time passes only while somebody sleeps.
    #[derive(Debug, Default)]
    struct Slept(AtomicU64);
    impl Clock for Arc<Slept> {
        fn elapsed(&self) -> Duration {
            Duration::from_nanos(self.0.load(Ordering::SeqCst))
        }
        fn time_of_day(&self) -> TimeOfDay {
            TimeOfDay::new(12, 0, 0)
        }
        fn sleep(&self, time: Duration) {
            self.0.fetch_add(time.as_nanos().max(1) as u64, Ordering::SeqCst);
        }
    }
    /// Notes the longest run of zeros, and cancels after so many bytes.
    struct Noting {
        longest: AtomicU64,
        skipped: AtomicU64,
        most: u64,
        writes: bool,
    }
    impl Sink for Noting {
        fn unit(&self) -> u32 {
            2 << 20
        }
        fn put(&self, _offset: u64, _bytes: &[u8]) -> Result<()> {
            Ok(())
        }
        fn skip(&self, range: Range<u64>) -> Result<()> {
            self.longest.fetch_max(length(&range), Ordering::SeqCst);
            self.skipped.fetch_add(length(&range), Ordering::SeqCst);
            Ok(())
        }
        fn writes_zeros(&self) -> bool {
            self.writes
        }
        fn keep(&self, _range: Range<u64>) -> Result<()> {
            Ok(())
        }
        fn checkpoint(&self) -> Result<()> {
            Ok(())
        }
        fn finish(&self) -> Result<()> {
            Ok(())
        }
    }
    impl Watch for Noting {
        fn stage(&self, _name: &str, _bytes: u64) {}
        fn advance(&self, _bytes: u64) {}
        fn cancelled(&self) -> bool {
            self.skipped.load(Ordering::SeqCst) >= self.most
        }
    }
    const SIZE: u64 = 1000 << 20;
    let folder = tempfile::tempdir().unwrap();
    let source = FileDisk::create(&folder.path().join("hole"), SIZE).unwrap();
    let noting = |most, writes| Noting {
        longest: AtomicU64::new(0),
        skipped: AtomicU64::new(0),
        most,
        writes,
    };
    for (rate, longest) in [(None, 16 << 20), (Some(10 << 20), 2 << 20)] {
        let clock = Arc::new(Slept::default());
        let brake = Brake::new(rate, Windows::default(), Box::new(clock.clone()));
        let pace = Pace {
            brake: Some(&brake),
            ..pace(1)
        };
        let sink = noting(u64::MAX, true);
        copy(&source, &sink, &NoLedger, pace, &sink).unwrap();
        assert_eq!(sink.longest.load(Ordering::SeqCst), longest);
        let seconds = clock.elapsed().as_secs();
        assert!(
            rate.map_or(seconds == 0, |_| (98..=100).contains(&seconds)),
            "{seconds}"
        );
        let sink = noting(100 << 20, true);
        let error = copy(&source, &sink, &NoLedger, pace, &sink).unwrap_err();
        assert_eq!(error.kind, Kind::Cancelled);
        assert!(sink.skipped.load(Ordering::SeqCst) < 120 << 20);
    }
    // Zeros that nobody writes cost nothing and come at once.
    let clock = Arc::new(Slept::default());
    let brake = Brake::new(Some(1), Windows::default(), Box::new(clock.clone()));
    let pace = Pace {
        brake: Some(&brake),
        ..pace(1)
    };
    let sink = noting(u64::MAX, false);
    copy(&source, &sink, &NoLedger, pace, &sink).unwrap();
    assert_eq!(
        (sink.longest.load(Ordering::SeqCst), clock.elapsed()),
        (SIZE, Duration::ZERO)
    );
}

#[test]
fn what_is_no_copy_is_held_back_by_the_same_brake() {
    #[derive(Debug, Default)]
    struct Slept(AtomicU64);
    impl Clock for Arc<Slept> {
        fn elapsed(&self) -> Duration {
            Duration::from_nanos(self.0.load(Ordering::SeqCst))
        }
        fn time_of_day(&self) -> TimeOfDay {
            // Its hours begin after a minute.
            TimeOfDay::new(if self.elapsed().as_secs() < 60 { 21 } else { 22 }, 0, 0)
        }
        fn sleep(&self, time: Duration) {
            self.0.fetch_add(time.as_nanos().max(1) as u64, Ordering::SeqCst);
        }
    }
    let clock = Arc::new(Slept::default());
    let windows = Windows::new(vec!["22:00-05:00".parse().unwrap()]);
    let brake = Brake::new(Some(1 << 20), windows, Box::new(clock.clone()));
    let disk = MemoryDisk::new("disk", vec![7; 64 << 20]);
    let range = 5..(50 << 20) + 5;
    crate::copy::write_zeros(
        &disk,
        range.clone(),
        &crate::copy::Braked::new(&Unwatched, Some(&brake)),
    )
    .unwrap();
    let seconds = clock.elapsed().as_secs();
    assert!((109..=111).contains(&seconds), "{seconds}");
    for (at, byte) in disk.contents().iter().enumerate() {
        assert_eq!(*byte == 0, range.contains(&(at as u64)), "{at}");
    }
}
