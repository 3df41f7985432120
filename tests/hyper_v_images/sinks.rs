//! What this program writes, in every kind of both formats.

use crate::{judge::*, making::*};
use proptest::{bool::weighted, collection::vec, option, prelude::*, sample::Index};
use rehome::{
    disk::{Disk, FileDisk, Kind, MemoryDisk},
    image::{self, Format, Format::Vhd, Format::Vhdx},
};
use std::{sync::Arc, time::Duration};

/// The words of `-o` for every kind that is made.
pub(crate) const KINDS: [(Format, &str); 9] = [
    (Vhd, "subformat=dynamic"),
    (Vhd, "subformat=fixed"),
    (Vhd, "subformat=dynamic,force_size=off"),
    (Vhd, "subformat=fixed,force_size=off"),
    (Vhdx, "subformat=dynamic"),
    (Vhdx, "subformat=fixed,block_size=1M"),
    (Vhdx, "block_size=1M"),
    (Vhdx, "block_size=1M,log_size=2M,block_state_zero=off"),
    (Vhdx, "subformat=fixed"),
];

/// The sector of VHDX: sizes are rounded up to it.
fn rounded(size: u64) -> u64 {
    size.next_multiple_of(512)
}

#[test]
fn images_are_sound_and_the_same_whatever_the_number_of_threads() {
    for size in [9 * MIB + 512, 3 * 512] {
        let (folder, raw) = raw_source(size);
        let expected = std::fs::read(&raw).unwrap();
        let source = FileDisk::open(&raw).unwrap();
        for (format, kind) in KINDS {
            let shape = shape(format, size, kind);
            let mut first = None;
            for threads in [1, 4] {
                let image = folder.path().join("image");
                let sink = create(&image, &shape);
                pour(&source, &*sink, threads, 0, u64::MAX);
                sink.finish().unwrap();
                must_hold(format.name(), &image, &expected);
                let bytes = std::fs::read(&image).unwrap();
                assert!(
                    *first.get_or_insert_with(|| bytes.clone()) == bytes,
                    "{format} {kind}"
                );
                if !kind.contains("off") {
                    assert_eq!(virtual_size(format.name(), &image), rounded(size));
                }
                let info = open(&image).info().unwrap();
                assert_eq!(info.subformat.as_deref() == Some("fixed"), kind.contains("fixed"));
                std::fs::remove_file(&image).unwrap();
            }
        }
    }
}

#[test]
fn a_killed_run_is_resumed_and_ends_in_the_same_bytes() {
    let size = 14 * MIB + 1024;
    let (folder, raw) = raw_source(size);
    let expected = std::fs::read(&raw).unwrap();
    let source = FileDisk::open(&raw).unwrap();
    for (format, kind) in KINDS {
        let shape = shape(format, size, kind);
        let whole = folder.path().join("whole");
        let sink = create(&whole, &shape);
        pour(&source, &*sink, 2, 0, u64::MAX);
        sink.finish().unwrap();
        let wanted = std::fs::read(&whole).unwrap();
        for threads in [1, 3] {
            let image = folder.path().join("killed");
            let sink = create(&image, &shape);
            pour(&source, &*sink, threads, 0, 10 * MIB);
            sink.checkpoint().unwrap();
            drop(sink);
            // It is an image already, and holds what had come.
            let mut bytes = vec![0; 10 << 20];
            open(&image).read_at(0, &mut bytes).unwrap();
            assert!(bytes == expected[..10 << 20]);
            assert!(flatten(format.name(), &image)[..10 << 20] == expected[..10 << 20]);
            // The second run is killed too, before it has come as far as the first.
            let sink = resume(&image, &shape);
            sink.keep(0..MIB).unwrap();
            pour(&source, &*sink, threads, MIB, 3 * MIB);
            sink.keep(3 * MIB..7 * MIB).unwrap();
            sink.checkpoint().unwrap();
            drop(sink);
            // The third trusts all that the first had done.
            let sink = resume(&image, &shape);
            sink.keep(0..10 * MIB).unwrap();
            pour(&source, &*sink, threads, 10 * MIB, u64::MAX);
            sink.finish().unwrap();
            must_hold(format.name(), &image, &expected);
            assert!(
                std::fs::read(&image).unwrap() == wanted,
                "{format} {kind}, {threads} threads"
            );
            std::fs::remove_file(&image).unwrap();
        }
        std::fs::remove_file(&whole).unwrap();
    }
}

#[test]
fn what_was_written_after_the_last_checkpoint_may_be_lost_or_torn() {
    let size = 12 * MIB;
    let (folder, raw) = raw_source(size);
    let source = FileDisk::open(&raw).unwrap();
    for (format, kind) in [(Vhd, ""), (Vhdx, "block_size=2M")] {
        let shape = shape(format, size, kind);
        let whole = folder.path().join("whole");
        let sink = create(&whole, &shape);
        pour(&source, &*sink, 1, 0, u64::MAX);
        sink.finish().unwrap();
        let wanted = std::fs::read(&whole).unwrap();
        std::fs::remove_file(&whole).unwrap();
        let image = folder.path().join("killed");
        let sink = create(&image, &shape);
        pour(&source, &*sink, 2, 0, 5 * MIB);
        sink.checkpoint().unwrap();
        let lasting = std::fs::read(&image).unwrap();
        pour(&source, &*sink, 2, 5 * MIB, 10 * MIB);
        drop(sink);
        // After a power cut some of what came later is there, some is not.
        let later = std::fs::read(&image).unwrap();
        let mut dice = 7_u64;
        for round in 0..4 {
            let mut torn = later.clone();
            for (index, sector) in torn.chunks_mut(512).enumerate() {
                dice = dice
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1_442_695_040_888_963_407);
                if (dice >> 33).is_multiple_of(3) || round == 3 {
                    let old = lasting.get(index * 512..index * 512 + sector.len());
                    sector.copy_from_slice(old.unwrap_or(&[0; 512][..sector.len()]));
                }
            }
            std::fs::write(&image, &torn).unwrap();
            let sink = resume(&image, &shape);
            sink.keep(0..5 * MIB).unwrap();
            pour(&source, &*sink, 2, 5 * MIB, u64::MAX);
            sink.finish().unwrap();
            assert!(
                std::fs::read(&image).unwrap() == wanted,
                "{format}, round {round}"
            );
        }
        std::fs::remove_file(&image).unwrap();
    }
}

#[test]
fn a_sink_refuses_what_makes_no_sense_and_lets_go_of_those_who_wait() {
    for format in [Vhd, Vhdx] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("image");
        let wanted = shape(format, MIB, "");
        let sink = create(&path, &wanted);
        assert_eq!(sink.put(1, &[1; 4096]).unwrap_err().kind, Kind::OutOfRange);
        assert_eq!(sink.skip(0..2 * MIB).unwrap_err().kind, Kind::OutOfRange);
        let error = sink.finish().unwrap_err().to_string();
        assert!(error.contains("only 0 of 1048576 bytes"), "{error}");
        sink.skip(0..MIB / 2).unwrap();
        assert_eq!(sink.put(0, &[1; 4096]).unwrap_err().kind, Kind::Exists);
        assert_eq!(sink.keep(MIB / 2..MIB).unwrap_err().kind, Kind::Unsafe);
        for (size, options) in [(2 * MIB, ""), (MIB, "subformat=fixed")] {
            let mut files = OneFile {
                disk: Arc::new(FileDisk::open_writable(&path).unwrap()),
                fresh: false,
                blank: true,
            };
            let Err(other) = image::create(&shape(format, size, options), &mut files) else {
                panic!("{options} is another image");
            };
            assert!(other.to_string().contains("cannot be resumed"), "{other}");
        }
        let sink = create(&folder.path().join("other"), &wanted);
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| sink.put(65536, &[1; 65536]));
            std::thread::sleep(Duration::from_millis(50));
            sink.abandon();
            assert_eq!(waiting.join().unwrap().unwrap_err().kind, Kind::Cancelled);
        });
        assert_eq!(sink.finish().unwrap_err().kind, Kind::Cancelled);
        let mut compressed = wanted;
        compressed.options.compress = true;
        let mut files = OneFile {
            disk: Arc::new(MemoryDisk::new("m", Vec::new())),
            fresh: true,
            blank: true,
        };
        assert!(image::create(&compressed, &mut files).is_err());
    }
}

#[test]
fn a_resumed_run_notices_that_the_disk_is_another() {
    let folder = tempfile::tempdir().unwrap();
    for (number, format) in [Vhd, Vhdx].into_iter().enumerate() {
        let path = folder.path().join(format!("image{number}"));
        let shape = shape(
            format,
            40 * MIB,
            if format == Vhdx { "block_size=1M" } else { "" },
        );
        let sink = create(&path, &shape);
        sink.put(0, &[1; 4096]).unwrap();
        sink.skip(4096..20 * MIB).unwrap();
        sink.put(20 * MIB, &[1; 4096]).unwrap();
        sink.checkpoint().unwrap();
        drop(sink);
        // Another block comes before the one that is there.
        let sink = resume(&path, &shape);
        sink.keep(0..4096).unwrap();
        sink.put(4096, &vec![2; 10 << 20]).unwrap();
        sink.skip(4096 + 10 * MIB..20 * MIB).unwrap();
        let error = sink.put(20 * MIB, &[1; 4096]).unwrap_err();
        assert!(error.to_string().contains("has changed since"), "{error}");
        // A block is missing that was there.
        let sink = resume(&path, &shape);
        sink.keep(0..20 * MIB).unwrap();
        sink.skip(20 * MIB..40 * MIB).unwrap();
        let error = sink.finish().unwrap_err();
        assert!(error.to_string().contains("has changed since"), "{error}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_pattern_killed_anywhere_ends_in_the_same_sound_image(
        size in 1..10 * MIB,
        kind in 0..KINDS.len(),
        pieces in vec((1..900_u64, option::weighted(0.5, 1..=255_u8), weighted(0.2)), 1..14),
        killed in any::<Index>(),
        trusted in any::<Index>(),
        garbage in weighted(0.3),
    ) {
        let (format, kind) = KINDS[kind];
        let shape = shape(format, size, kind);
        let mut model = vec![0; size as usize];
        let whole = Arc::new(MemoryDisk::new("whole", vec![0; image::initial_size(&shape) as usize]));
        let mut files = OneFile { disk: whole.clone(), fresh: true, blank: true };
        let sink = image::create(&shape, &mut files).unwrap();
        deliver(&*sink, size, &pieces, 0..pieces.len(), &mut model);
        sink.finish().unwrap();

        let killed = killed.index(pieces.len());
        let trusted = trusted.index(killed + 1);
        // What an old device holds is not to show through, and nothing but the image may be in its place.
        let before = if garbage { vec![0xa5; whole.size() as usize] } else { Vec::new() };
        let bytes = kill_and_resume(&shape, &pieces, killed, trusted, &before);
        prop_assert!(bytes == whole.contents());

        let folder = tempfile::tempdir().unwrap();
        let image = folder.path().join("image");
        std::fs::write(&image, bytes).unwrap();
        must_hold(format.name(), &image, &model);
    }
}
