//! Killed and gone on with: the same bytes as if nothing had happened.

use crate::image::{
    MIB, NewImage, convert, must_be_sound_and_equal, open, pour, qemu_img, raw_source, read_all, text,
};
use proptest::{bool::weighted, collection::vec, option, prelude::*, sample::Index};
use rehome::{
    disk::{FileDisk, Sink},
    image::Check,
};
use std::{ops::Range, path::Path};

const SUBFORMATS: [&str; 4] = [
    "monolithicSparse",
    "streamOptimized",
    "twoGbMaxExtentSparse",
    "monolithicFlat",
];

fn files_of(image: &Path) -> Vec<Vec<u8>> {
    let folder = image.parent().unwrap();
    let mut paths: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    paths.sort();
    paths.iter().map(|path| std::fs::read(path).unwrap()).collect()
}

fn new_folder(parent: &Path, name: &str) -> std::path::PathBuf {
    let folder = parent.join(name);
    std::fs::create_dir(&folder).unwrap();
    folder.join("disk.vmdk")
}

#[test]
fn a_resumed_image_ends_in_the_same_bytes() {
    let size = 70 * MIB + 1024;
    let (folder, raw) = raw_source(size);
    let source = FileDisk::open(&raw).unwrap();
    for subformat in SUBFORMATS {
        let option = format!("subformat={subformat}");
        let whole = new_folder(folder.path(), &format!("whole-{subformat}"));
        convert(&source, &whole, &option, 2);
        let whole = files_of(&whole);
        for threads in [1, 3] {
            let image = new_folder(folder.path(), &format!("killed-{subformat}-{threads}"));
            let sink = NewImage::new(&image).sink(size, &option).unwrap();
            pour(&source, sink.as_ref(), threads, 0, 50 * MIB);
            sink.checkpoint().unwrap();
            drop(sink);
            if subformat != "streamOptimized" {
                let check = qemu_img(&["check", "-f", "vmdk", text(&image)]);
                assert!(check.contains("No errors were found"), "{check}");
            }
            // The second run is killed too, before it has come as far as the first.
            let sink = NewImage::left(&image).sink(size, &option).unwrap();
            sink.keep(0..MIB).unwrap();
            pour(&source, sink.as_ref(), threads, MIB, 2 * MIB);
            sink.keep(2 * MIB..39 * MIB).unwrap();
            sink.checkpoint().unwrap();
            drop(sink);
            // The third trusts all that the first had done.
            let sink = NewImage::left(&image).sink(size, &option).unwrap();
            sink.keep(0..50 * MIB).unwrap();
            pour(&source, sink.as_ref(), threads, 50 * MIB, u64::MAX);
            sink.finish().unwrap();
            drop(sink);
            must_be_sound_and_equal(&image, &raw);
            assert!(files_of(&image) == whole, "{subformat}, {threads} threads");
        }
    }
}

#[test]
fn what_was_written_after_the_last_checkpoint_may_be_lost_or_torn() {
    let size = 48 * MIB;
    let (folder, raw) = raw_source(size);
    let source = FileDisk::open(&raw).unwrap();
    for subformat in ["monolithicSparse", "streamOptimized"] {
        let option = format!("subformat={subformat}");
        let whole = new_folder(folder.path(), &format!("whole-{subformat}"));
        convert(&source, &whole, &option, 1);
        let whole = files_of(&whole);
        let image = new_folder(folder.path(), &format!("killed-{subformat}"));
        let sink = NewImage::new(&image).sink(size, &option).unwrap();
        pour(&source, sink.as_ref(), 2, 0, 34 * MIB);
        sink.checkpoint().unwrap();
        let lasting = std::fs::read(&image).unwrap();
        pour(&source, sink.as_ref(), 2, 34 * MIB, 45 * MIB);
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
                    let old = lasting.get(index * 512..index * 512 + 512).unwrap_or(&[0; 512]);
                    sector.copy_from_slice(old);
                }
            }
            std::fs::write(&image, &torn).unwrap();
            let sink = NewImage::left(&image).sink(size, &option).unwrap();
            sink.keep(0..34 * MIB).unwrap();
            pour(&source, sink.as_ref(), 2, 34 * MIB, u64::MAX);
            sink.finish().unwrap();
            assert!(files_of(&image) == whole, "round {round}, {subformat}");
        }
        must_be_sound_and_equal(&image, &raw);
    }
}

#[test]
fn a_disk_in_several_pieces_is_gone_on_with_in_any_of_them() {
    let folder = tempfile::tempdir().unwrap();
    let size = 5 << 30;
    let option = "subformat=twoGbMaxExtentSparse";
    // Grains around the places where one piece ends and the next begins.
    let grains: Vec<u64> = [
        0,
        2047 * MIB - 65536,
        2047 * MIB,
        4094 * MIB - 65536,
        4094 * MIB,
        size - 65536,
    ]
    .into();
    let deliver = |sink: &dyn Sink, range: Range<u64>| {
        let mut at = range.start;
        for grain in grains.iter().filter(|grain| range.contains(grain)) {
            sink.skip(at..*grain).unwrap();
            sink.put(*grain, &[*grain as u8 | 1; 65536]).unwrap();
            at = grain + 65536;
        }
        sink.skip(at..range.end).unwrap();
    };
    let whole = new_folder(folder.path(), "whole");
    let sink = NewImage::new(&whole).sink(size, option).unwrap();
    deliver(sink.as_ref(), 0..size);
    sink.finish().unwrap();
    let disk = open(&whole);
    assert_eq!(disk.check().unwrap(), Check::default());
    assert_eq!(disk.info().unwrap().files.len(), 3);
    let check = qemu_img(&["check", "-f", "vmdk", text(&whole)]);
    assert!(check.contains("No errors were found"), "{check}");
    let whole = files_of(&whole);
    for (killed, kept) in [
        (MIB, MIB),
        (2047 * MIB, 2047 * MIB),
        (3 << 30, 2047 * MIB),
        (4 << 30, 4 << 30),
    ] {
        let image = new_folder(folder.path(), &format!("{killed}-{kept}"));
        let sink = NewImage::new(&image).sink(size, option).unwrap();
        deliver(sink.as_ref(), 0..killed);
        sink.checkpoint().unwrap();
        drop(sink);
        let sink = NewImage::left(&image).sink(size, option).unwrap();
        sink.keep(0..kept).unwrap();
        deliver(sink.as_ref(), kept..size);
        sink.finish().unwrap();
        assert!(files_of(&image) == whole, "{killed}");
    }
}

/// One run of the disk: grains, what they hold (`None`: zeros), and whether a checkpoint follows.
type Stretch = (u64, Option<u8>, bool);

fn deliver(sink: &dyn Sink, size: u64, stretches: &[Stretch], range: Range<usize>, model: &mut [u8]) {
    let unit = u64::from(sink.unit());
    let mut at = 0;
    for (index, (grains, content, checkpoint)) in stretches.iter().enumerate() {
        let end = (at + grains * unit).min(size);
        if range.contains(&index) && at < end {
            match content {
                Some(byte) => {
                    let mut bytes = crate::image::pattern(u64::from(*byte), (end - at) as usize);
                    bytes.fill(*byte);
                    sink.put(at, &bytes).unwrap();
                    model[at as usize..end as usize].copy_from_slice(&bytes);
                }
                None => sink.skip(at..end).unwrap(),
            }
            if *checkpoint {
                sink.checkpoint().unwrap();
            }
        }
        at = end;
    }
    if range.end == stretches.len() && at < size {
        sink.skip(at..size).unwrap();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_pattern_killed_anywhere_ends_in_the_same_sound_image(
        subformat in prop::sample::select(vec!["monolithicSparse", "streamOptimized"]),
        size in 1..50 * MIB,
        stretches in vec((1..300_u64, option::weighted(0.5, 1..=255_u8), weighted(0.2)), 1..20),
        killed in any::<Index>(),
        trusted in any::<Index>(),
    ) {
        let folder = tempfile::tempdir().unwrap();
        let option = format!("subformat={subformat}");
        let mut model = vec![0; size.next_multiple_of(512) as usize];
        let whole = new_folder(folder.path(), "whole");
        let sink = NewImage::new(&whole).sink(size, &option).unwrap();
        deliver(sink.as_ref(), size, &stretches, 0..stretches.len(), &mut model);
        sink.finish().unwrap();

        let image = new_folder(folder.path(), "killed");
        let sink = NewImage::new(&image).sink(size, &option).unwrap();
        let killed = killed.index(stretches.len());
        deliver(sink.as_ref(), size, &stretches, 0..killed, &mut model);
        sink.checkpoint().unwrap();
        drop(sink);
        let trusted = if killed == 0 { 0 } else { trusted.index(killed + 1) };
        let kept: u64 = stretches[..trusted].iter().map(|(grains, ..)| grains * 65536).sum();
        let sink = NewImage::left(&image).sink(size, &option).unwrap();
        sink.keep(0..kept.min(size)).unwrap();
        deliver(sink.as_ref(), size, &stretches, trusted..stretches.len(), &mut model);
        sink.finish().unwrap();
        drop(sink);
        prop_assert!(files_of(&image) == files_of(&whole));

        let disk = open(&image);
        prop_assert!(read_all(disk.as_ref()) == model);
        prop_assert_eq!(disk.check().unwrap(), Check::default());
        let raw = folder.path().join("raw");
        std::fs::write(&raw, &model).unwrap();
        qemu_img(&["compare", "-f", "raw", "-F", "vmdk", text(&raw), text(&image)]);
        let check = qemu_img(&["check", "-f", "vmdk", text(&image)]);
        prop_assert!(check.contains("No errors were found"), "{}", check);
    }
}

#[test]
fn a_container_of_another_conversion_is_not_gone_on_with() {
    let folder = tempfile::tempdir().unwrap();
    for subformat in SUBFORMATS {
        let option = format!("subformat={subformat}");
        let image = new_folder(folder.path(), subformat);
        drop(NewImage::new(&image).sink(MIB, &option).unwrap());
        for (size, option) in [
            (2 * MIB, option.clone()),
            (MIB, format!("{option},adapter_type=lsilogic")),
        ] {
            let error = NewImage::left(&image).sink(size, &option).err().unwrap();
            assert!(error.to_string().contains("cannot be resumed"), "{error}");
        }
        assert!(NewImage::left(&image).sink(MIB, &option).is_ok(), "{subformat}");
    }
}
