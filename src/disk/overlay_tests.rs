//! The overlay against a plain vector of bytes.

use super::*;
use crate::disk::MemoryDisk;
use proptest::prelude::*;
use std::time::Instant;

const SIZE: u64 = 3000;

fn base() -> Arc<MemoryDisk> {
    let bytes = (0..SIZE).map(|i| (i % 251) as u8 + 1).collect();
    Arc::new(MemoryDisk::new("base", bytes))
}

fn contents(disk: &dyn Disk) -> Vec<u8> {
    let mut bytes = vec![0xaa; usize::try_from(disk.size()).unwrap()];
    disk.read_at(0, &mut bytes).unwrap();
    bytes
}

fn map(disk: &dyn Disk) -> Vec<Extent> {
    let mut map = Vec::new();
    let mut at = 0;
    while at < disk.size() {
        let more = disk.extents(at..disk.size()).unwrap();
        assert_eq!(
            more.first().unwrap().range.start,
            at,
            "a map begins where it was asked"
        );
        for extent in more {
            assert_eq!(extent.range.start, at, "a map has no gaps");
            at = extent.range.end;
            push_extent(&mut map, extent);
        }
    }
    map
}

#[derive(Clone, Debug)]
enum Step {
    Write(u64, Vec<u8>),
    Zeros(Range<u64>),
    Discard(Range<u64>),
    Move(Range<u64>, u64),
    Resize(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let span = (0..SIZE, 1..400_u64);
    prop_oneof![
        4 => (0..SIZE, prop::collection::vec(0..=255_u8, 1..120)).prop_map(|(at, bytes)| Step::Write(at, bytes)),
        1 => span.clone().prop_map(|(at, length)| Step::Zeros(at..at + length)),
        1 => span.clone().prop_map(|(at, length)| Step::Discard(at..at + length)),
        3 => (span, 0..SIZE).prop_map(|((at, length), to)| Step::Move(at..at + length, to)),
        1 => (SIZE - 900..SIZE + 900).prop_map(Step::Resize),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn behaves_as_a_vector_of_bytes(steps in prop::collection::vec(step(), 1..60), limit in prop_oneof![
        Just(0_u64), Just(2000), Just(1 << 20),
    ]) {
        let base = base();
        let before = base.contents();
        let overlay = Overlay::new(base.clone(), limit, std::env::temp_dir());
        let mut model = before.clone();
        // What no step has touched must still be the base's, byte for byte, and not be called held.
        let mut touched = vec![false; model.len()];
        for step in steps {
            let size = model.len() as u64;
            match step {
                Step::Write(at, bytes) => {
                    let fits = at + bytes.len() as u64 <= size;
                    prop_assert_eq!(overlay.write_at(at, &bytes).is_ok(), fits);
                    if fits {
                        model[at as usize..at as usize + bytes.len()].copy_from_slice(&bytes);
                        touched[at as usize..at as usize + bytes.len()].fill(true);
                    }
                }
                Step::Zeros(range) | Step::Discard(range) if range.end > size => {
                    prop_assert!(overlay.write_zeros(range.clone()).is_err());
                    prop_assert!(overlay.discard(range).is_err());
                }
                Step::Zeros(range) => {
                    overlay.write_zeros(range.clone()).unwrap();
                    model[range.start as usize..range.end as usize].fill(0);
                    touched[range.start as usize..range.end as usize].fill(true);
                    prop_assert!(overlay.extents(range).unwrap().iter().all(|e| e.content == Content::Zero));
                }
                Step::Discard(range) => {
                    overlay.discard(range.clone()).unwrap();
                    model[range.start as usize..range.end as usize].fill(0);
                    touched[range.start as usize..range.end as usize].fill(true);
                    prop_assert!(overlay.extents(range).unwrap().iter().all(|e| e.content == Content::Hole));
                }
                Step::Move(from, to) => {
                    let length = from.end - from.start;
                    let fits = from.end <= size && to + length <= size;
                    prop_assert_eq!(overlay.copy_within(from.clone(), to).is_ok(), fits);
                    if fits {
                        model.copy_within(from.start as usize..from.end as usize, to as usize);
                        touched[to as usize..(to + length) as usize].fill(true);
                    }
                }
                Step::Resize(size) => {
                    overlay.set_size(size).unwrap();
                    model.resize(size as usize, 0);
                    touched.resize(size as usize, true);
                }
            }
        }
        prop_assert!(contents(&overlay) == model);
        prop_assert!(base.contents() == before);
        for extent in map(&overlay) {
            let bytes = &model[extent.range.start as usize..extent.range.end as usize];
            prop_assert!(extent.content == Content::Data || bytes.iter().all(|b| *b == 0));
        }
        // What is not held is the disk below, unmoved: a commit writes nothing else.
        let mut committed = before;
        committed.resize(model.len(), 0);
        for held in overlay.held() {
            let range = held.range.start as usize..held.range.end as usize;
            committed[range.clone()].copy_from_slice(&model[range]);
        }
        prop_assert!(committed == model);
        let mut end = 0;
        for held in overlay.held() {
            prop_assert!(held.range.start >= end && held.range.end > held.range.start);
            end = held.range.end;
            prop_assert!(touched[held.range.start as usize..held.range.end as usize].iter().all(|t| *t));
        }
        let copy = overlay.over(Arc::new(MemoryDisk::new("other", base.contents())));
        overlay.write_zeros(0..overlay.size()).unwrap();
        prop_assert!(contents(&copy) == model);
        drop(copy);
        drop(overlay.held());
        prop_assert_eq!(overlay.usage().0, 0);
    }
}

#[test]
fn a_hundred_thousand_small_writes_are_fast_and_stay_small() {
    let base = Arc::new(MemoryDisk::new("base", vec![0; 64 << 20]));
    let overlay = Overlay::new(base, 1 << 20, std::env::temp_dir());
    let begun = Instant::now();
    for i in 0..200_000_u64 {
        let at = i.wrapping_mul(2_654_435_761) % (64 << 20) / 100 * 100;
        overlay
            .write_at(at.min((64 << 20) - 100), &i.to_le_bytes())
            .unwrap();
    }
    assert!(overlay.usage().0 <= 1 << 20);
    assert!(overlay.usage().1 > 0);
    assert!(begun.elapsed().as_secs() < 20, "{:?}", begun.elapsed());
    let size = overlay.size();
    let mut at = 0;
    while at < size {
        at = overlay.extents(at..size).unwrap().last().unwrap().range.end;
    }
    assert!(begun.elapsed().as_secs() < 20, "{:?}", begun.elapsed());
}

#[test]
fn appending_in_small_steps_keeps_few_runs() {
    let overlay = Overlay::new(
        Arc::new(MemoryDisk::new("base", vec![9; 1 << 20])),
        4 << 20,
        "/nowhere",
    );
    for at in (0..1 << 20).step_by(512) {
        overlay.write_at(at, &[7; 512]).unwrap();
    }
    assert_eq!(overlay.read().map.len(), (1 << 20) / CHUNK);
    assert!(contents(&overlay).iter().all(|byte| *byte == 7));
    assert!(overlay.usage().0 < (1 << 20) + 16 * 200);
}

#[test]
fn overwriting_the_same_block_holds_it_once() {
    let overlay = Overlay::new(
        Arc::new(MemoryDisk::new("base", vec![9; 1 << 20])),
        8192,
        "/nowhere",
    );
    for i in 0..10_000_u32 {
        overlay.write_at(4096, &[(i % 250) as u8 + 1; 4096]).unwrap();
    }
    assert_eq!(overlay.held().len(), 1);
}

#[test]
fn a_terabyte_moves_and_is_discarded_without_a_byte() {
    #[derive(Debug)]
    struct Endless;
    impl Disk for Endless {
        fn label(&self) -> &str {
            "endless"
        }
        fn size(&self) -> u64 {
            8 << 40
        }
        fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
            for (i, byte) in buffer.iter_mut().enumerate() {
                *byte = ((offset + i as u64) / 1000 % 251) as u8;
            }
            Ok(())
        }
        fn extents(&self, range: Range<u64>) -> Result<Vec<Extent>> {
            Ok(vec![Extent::new(range, Content::Data)])
        }
    }
    let overlay = Overlay::new(Arc::new(Endless), 1 << 16, "/nowhere");
    let mut expected = [0; 500];
    overlay.read_at(3 << 40, &mut expected).unwrap();
    overlay.copy_within(2 << 40..6 << 40, 1 << 40).unwrap();
    overlay.discard(5 << 40..8 << 40).unwrap();
    let mut bytes = [0; 500];
    overlay.read_at(2 << 40, &mut bytes).unwrap();
    assert_eq!(bytes, expected);
    assert_eq!(overlay.usage(), (0, 0));
    assert_eq!(overlay.held().len(), 2);
}

#[test]
fn a_spill_folder_that_is_not_there_is_named() {
    let overlay = Overlay::new(base(), 10, "/no/such/folder");
    let error = overlay.write_at(0, &[1; 100]).unwrap_err();
    assert!(error.to_string().contains("/no/such/folder"), "{error}");
    assert_eq!(error.kind, Kind::NotFound);
}
