//! Edits where an image lies, against plain bytes and by qemu-img.

use crate::image::{
    MIB, convert, extents, must_be_sound_and_equal, open, pattern, qemu_img, raw_source, read_all, text,
    try_open,
};
use proptest::{collection::vec, prelude::*};
use rehome::{
    disk::{FileDisk, Kind},
    image::{self, Beside, Format, Image},
};
use std::{path::Path, sync::Arc};

fn open_writable(path: &Path) -> Arc<dyn Image> {
    let container = Arc::new(FileDisk::open_writable(path).unwrap());
    image::open_writable(container, Format::Vmdk, &Beside::new(path).writing()).unwrap()
}

/// What is done to a disk.
#[derive(Clone, Debug)]
enum Edit {
    Write(u64),
    Zero,
    Discard,
}

fn edits() -> impl Strategy<Value = Vec<(Edit, u64, u64)>> {
    let edit = prop_oneof![
        5 => (1..1000_u64).prop_map(Edit::Write),
        2 => Just(Edit::Zero),
        1 => Just(Edit::Discard),
    ];
    let length = prop_oneof![1..600_u64, 1..70_000_u64, 1..400_000_u64];
    vec((edit, any::<u64>(), length), 1..40)
}

/// Does the same to `image` and to `model`; without a parent what is discarded reads as zeros in every kind.
fn apply(image: &dyn Image, model: &mut [u8], edits: &[(Edit, u64, u64)]) {
    let size = model.len() as u64;
    for (edit, place, length) in edits {
        let start = place % size;
        let end = (start + length).min(size);
        let range = start as usize..end as usize;
        match edit {
            Edit::Write(seed) => {
                let bytes = pattern(*seed, range.len());
                image.write_at(start, &bytes).unwrap();
                model[range].copy_from_slice(&bytes);
            }
            Edit::Zero => {
                image.write_zeros(start..end).unwrap();
                model[range].fill(0);
            }
            Edit::Discard => {
                image.discard(start..end).unwrap();
                model[range].fill(0);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 20, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_edits_are_what_plain_bytes_say(
        options in prop::sample::select(vec![
            "subformat=monolithicSparse", "subformat=monolithicSparse,zeroed_grain=on", "subformat=monolithicFlat",
            "subformat=twoGbMaxExtentSparse", "subformat=twoGbMaxExtentFlat", "subformat=vmfs",
        ]),
        by_qemu in any::<bool>(),
        sectors in 2000..40_000_u64,
        edits in edits(),
    ) {
        let (folder, raw) = raw_source(sectors * 512);
        let mut model = std::fs::read(&raw).unwrap();
        let image = folder.path().join("disk.vmdk");
        if by_qemu && !options.contains("vmfs") {
            qemu_img(&["convert", "-f", "raw", "-O", "vmdk", "-o", options, text(&raw), text(&image)]);
        } else {
            convert(&FileDisk::open(&raw).unwrap(), &image, options, 1);
        }
        let disk = open_writable(&image);
        apply(disk.as_ref(), &mut model, &edits);
        prop_assert!(read_all(disk.as_ref()) == model);
        extents(disk.as_ref());
        disk.flush().unwrap();
        drop(disk);
        std::fs::write(&raw, &model).unwrap();
        let check = qemu_img(&["check", "-f", "vmdk", text(&image)]);
        prop_assert!(check.contains("No errors were found"), "{}", check);
        qemu_img(&["compare", "-f", "raw", "-F", "vmdk", text(&raw), text(&image)]);
        prop_assert!(open(&image).check().unwrap().errors.is_empty());
    }

    #[test]
    fn an_edit_of_a_snapshot_leaves_its_parent_as_it_was(
        zeroed_grain in any::<bool>(),
        edits in edits(),
    ) {
        let (folder, raw) = raw_source(5 * MIB);
        let mut model = std::fs::read(&raw).unwrap();
        let (base, top) = (folder.path().join("base.vmdk"), folder.path().join("top.vmdk"));
        qemu_img(&["convert", "-f", "raw", "-O", "vmdk", text(&raw), text(&base)]);
        let before = std::fs::read(&base).unwrap();
        let option = format!("zeroed_grain={}", if zeroed_grain { "on" } else { "off" });
        qemu_img(&["create", "-f", "vmdk", "-o", &option, "-b", text(&base), "-F", "vmdk", text(&top)]);
        // A parent's bytes show through what is discarded.
        let edits: Vec<_> = edits.into_iter().filter(|(edit, ..)| !matches!(edit, Edit::Discard)).collect();
        let disk = open_writable(&top);
        apply(disk.as_ref(), &mut model, &edits);
        prop_assert!(read_all(disk.as_ref()) == model);
        drop(disk);
        prop_assert!(std::fs::read(&base).unwrap() == before);
        let back = folder.path().join("back");
        qemu_img(&["convert", "-f", "vmdk", "-O", "raw", text(&top), text(&back)]);
        prop_assert!(std::fs::read(&back).unwrap() == model);
        prop_assert!(read_all(open(&top).as_ref()) == model);
    }
}

fn cid_of(path: &Path) -> String {
    let info = open(path).info().unwrap();
    info.details
        .iter()
        .find(|(name, _)| name == "cid")
        .unwrap()
        .1
        .clone()
}

#[test]
fn the_first_change_gives_the_disk_a_new_cid_and_reading_does_not() {
    let (folder, raw) = raw_source(MIB);
    let source = FileDisk::open(&raw).unwrap();
    for options in ["", "subformat=monolithicFlat"] {
        let image = folder.path().join("disk.vmdk");
        convert(&source, &image, options, 1);
        let before = cid_of(&image);
        let disk = open_writable(&image);
        disk.read_at(0, &mut [0; 10]).unwrap();
        drop(disk);
        assert_eq!(cid_of(&image), before);
        let disk = open_writable(&image);
        disk.write_at(5, &[1]).unwrap();
        disk.write_at(7, &[1]).unwrap();
        drop(disk);
        let after = cid_of(&image);
        assert_ne!(after, before);
        let info = open(&image).info().unwrap();
        let long = info
            .details
            .iter()
            .find(|(name, _)| name == "ddb.longContentID")
            .unwrap();
        assert!(long.1.ends_with(&after), "{long:?} {after}");
        std::fs::remove_file(&image).unwrap();
        let _ = std::fs::remove_file(folder.path().join("disk-flat.vmdk"));
    }
    // A child no longer fits the parent that was edited.
    let (base, top) = (folder.path().join("base.vmdk"), folder.path().join("top.vmdk"));
    convert(&source, &base, "", 1);
    qemu_img(&[
        "create",
        "-f",
        "vmdk",
        "-b",
        text(&base),
        "-F",
        "vmdk",
        text(&top),
    ]);
    assert!(try_open(&top).is_ok());
    open_writable(&base).write_at(0, &[1]).unwrap();
    assert_eq!(try_open(&top).unwrap_err().kind, Kind::Unsafe);
}

#[test]
fn threads_that_write_in_place_do_not_disturb_each_other() {
    let (folder, raw) = raw_source(16 * MIB);
    let image = folder.path().join("disk.vmdk");
    convert(&FileDisk::open(&raw).unwrap(), &image, "", 2);
    let mut model = std::fs::read(&raw).unwrap();
    let disk = open_writable(&image);
    // Neighbouring bytes of the same grains, by different threads.
    std::thread::scope(|scope| {
        for thread in 0..4_u64 {
            let disk = &disk;
            scope.spawn(move || {
                for step in 0..300 {
                    let at = step * 50_000 + thread * 1000;
                    disk.write_at(at, &[thread as u8 + 1; 1000]).unwrap();
                    let mut bytes = [0; 1000];
                    disk.read_at(at, &mut bytes).unwrap();
                    assert!(bytes == [thread as u8 + 1; 1000]);
                }
            });
        }
    });
    drop(disk);
    for step in 0..300 {
        for thread in 0..4 {
            model[step * 50_000 + thread * 1000..][..1000].fill(thread as u8 + 1);
        }
    }
    std::fs::write(&raw, &model).unwrap();
    must_be_sound_and_equal(&image, &raw);
}

#[test]
fn tables_that_are_missing_are_made_and_two_that_differ_stop_an_edit() {
    let folder = tempfile::tempdir().unwrap();
    let image = folder.path().join("disk.vmdk");
    qemu_img(&["create", "-f", "vmdk", text(&image), "80M"]);
    let mut bytes = std::fs::read(&image).unwrap();
    for directory in [48, 56] {
        let at = u64::from_le_bytes(bytes[directory..directory + 8].try_into().unwrap()) as usize * 512;
        bytes[at + 4..at + 8].fill(0);
    }
    std::fs::write(&image, &bytes).unwrap();
    let disk = open_writable(&image);
    disk.write_at(40 * MIB, &[5; 1000]).unwrap();
    disk.write_at(2 * MIB, &[6; 1000]).unwrap();
    drop(disk);
    let mut model = vec![0; 80 << 20];
    model[40 << 20..][..1000].fill(5);
    model[2 << 20..][..1000].fill(6);
    let raw = folder.path().join("raw");
    std::fs::write(&raw, &model).unwrap();
    qemu_img(&["compare", "-f", "raw", "-F", "vmdk", text(&raw), text(&image)]);
    assert!(open(&image).check().unwrap().errors.is_empty());
    // An entry in one of the two tables only.
    let mut bytes = std::fs::read(&image).unwrap();
    let second = u64::from_le_bytes(bytes[48..56].try_into().unwrap()) as usize * 512;
    let table = u32::from_le_bytes(bytes[second..second + 4].try_into().unwrap()) as usize * 512;
    bytes[table..table + 4].copy_from_slice(&[1, 2, 0, 0]);
    std::fs::write(&image, &bytes).unwrap();
    let container = Arc::new(FileDisk::open_writable(&image).unwrap());
    let error = image::open_writable(container, Format::Vmdk, &Beside::new(&image).writing()).unwrap_err();
    assert_eq!(error.kind, Kind::Unsafe, "{error}");
    let said = error.to_string();
    assert!(
        said.contains("is not sound") && said.contains("differ in 1 entries"),
        "{said}"
    );
    assert!(std::fs::read(&image).unwrap() == bytes);
}

#[test]
fn what_is_read_only_stays_so() {
    let folder = tempfile::tempdir().unwrap();
    let image = folder.path().join("disk.vmdk");
    std::fs::write(folder.path().join("f"), vec![1; 8192]).unwrap();
    std::fs::write(
        &image,
        "# Disk DescriptorFile\nCID=12345678\nRDONLY 8 FLAT \"f\" 0\nRW 8 ZERO\nRW 8 FLAT \"f\" 8\n",
    )
    .unwrap();
    let disk = open_writable(&image);
    assert_eq!(disk.write_at(0, &[1]).unwrap_err().kind, Kind::ReadOnly);
    assert_eq!(disk.write_zeros(4000..4001).unwrap_err().kind, Kind::ReadOnly);
    assert_eq!(disk.write_at(4096, &[1]).unwrap_err().kind, Kind::Unsupported);
    disk.write_zeros(4096..8192).unwrap();
    disk.write_at(8192, &[9]).unwrap();
    assert_eq!(disk.write_at(12_288, &[1]).unwrap_err().kind, Kind::OutOfRange);
    let reading = open(&image);
    assert_eq!(reading.write_at(0, &[1]).unwrap_err().kind, Kind::ReadOnly);
    assert_eq!(reading.write_zeros(0..1).unwrap_err().kind, Kind::ReadOnly);
    let mut bytes = [0; 1];
    reading.read_at(8192, &mut bytes).unwrap();
    assert_eq!(bytes, [9]);
}
