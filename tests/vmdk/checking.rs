//! What a check finds, and what qemu-img finds.

use crate::image::{MIB, convert, open, qemu_img, raw_source, run, text};
use rehome::{
    disk::{Content, FileDisk},
    image::{Check, chain, map_chain},
};

fn put32(bytes: &mut [u8], at: usize, value: u32) {
    bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
}

#[test]
fn damage_is_found_by_what_it_is() {
    let (folder, raw) = raw_source(6 * MIB);
    let image = folder.path().join("disk.vmdk");
    convert(&FileDisk::open(&raw).unwrap(), &image, "", 1);
    let sound = std::fs::read(&image).unwrap();
    let number = |at: usize| u64::from_le_bytes(sound[at..at + 8].try_into().unwrap()) as usize;
    let entry = |at: usize| u32::from_le_bytes(sound[at..at + 4].try_into().unwrap());
    let tables = [entry(number(56) * 512), entry(number(48) * 512)].map(|sector| sector as usize * 512);
    let used: Vec<usize> = (0..96)
        .filter(|index| entry(tables[0] + index * 4) != 0)
        .collect();
    // In both tables the same, so that only the one thing is wrong.
    let both = |bytes: &mut Vec<u8>, index: usize, value: u32| {
        for table in tables {
            put32(bytes, table + index * 4, value);
        }
    };
    let last = (sound.len() / 512) as u32;
    type Damage<'a> = Box<dyn Fn(&mut Vec<u8>) + 'a>;
    // Whether qemu-img finds it too.
    let damages: [(Damage, &str, usize, bool); 6] = [
        (
            Box::new(|bytes| both(bytes, used[1], last + 5000)),
            "past the end",
            65536,
            true,
        ),
        (
            Box::new(|bytes| both(bytes, used[1], entry(tables[0] + used[0] * 4))),
            "used by more than one",
            65536,
            false,
        ),
        (
            Box::new(|bytes| both(bytes, used[1], 3)),
            "used by more than one",
            65536,
            false,
        ),
        (Box::new(|bytes| both(bytes, used[2], 0)), "", 65536, false),
        (
            Box::new(|bytes| bytes.resize(bytes.len() + 5120, 1)),
            "",
            5120,
            false,
        ),
        (
            Box::new(|bytes| put32(bytes, tables[1] + 4 * used[0], 0)),
            "differ in 1 entries",
            0,
            false,
        ),
    ];
    for (index, (damage, error, leaked, found_by_qemu)) in damages.into_iter().enumerate() {
        let mut bytes = sound.clone();
        damage(&mut bytes);
        std::fs::write(&image, &bytes).unwrap();
        let check = open(&image).check().unwrap();
        assert_eq!(check.errors.is_empty(), error.is_empty(), "{index}: {check:?}");
        assert!(
            check.errors.iter().all(|text| text.contains(error)),
            "{index}: {check:?}"
        );
        assert_eq!(check.leaked, leaked as u64, "{index}: {check:?}");
        let judge = run("qemu-img", &["check", "-f", "vmdk", text(&image)]);
        assert_eq!(!judge.status.success(), found_by_qemu, "{index}: {judge:?}");
    }
    let disk = open(&image);
    assert!(disk.repair_leaks().is_err());
}

#[test]
fn a_stream_is_checked_by_its_markers() {
    let (folder, raw) = raw_source(6 * MIB);
    let image = folder.path().join("disk.vmdk");
    convert(
        &FileDisk::open(&raw).unwrap(),
        &image,
        "subformat=streamOptimized",
        1,
    );
    assert_eq!(open(&image).check().unwrap(), Check::default());
    let sound = std::fs::read(&image).unwrap();
    let first = 128 * 512;
    for (at, value, error) in [
        (first, 256, "where the marker of another one is (sector 256)"),
        (first + 8, 0, "where no grain is"),
        (first + 8, 1 << 20, "past the end"),
    ] {
        let mut bytes = sound.clone();
        put32(&mut bytes, at, value);
        std::fs::write(&image, &bytes).unwrap();
        let check = open(&image).check().unwrap();
        assert!(check.errors.iter().any(|text| text.contains(error)), "{check:?}");
    }
}

#[test]
fn the_map_is_that_of_qemu_img() {
    let (folder, raw) = raw_source(9 * MIB);
    let base = folder.path().join("base.vmdk");
    qemu_img(&["convert", "-f", "raw", "-O", "vmdk", text(&raw), text(&base)]);
    let image = folder.path().join("disk.vmdk");
    for options in [
        "subformat=monolithicSparse",
        "subformat=monolithicFlat",
        "subformat=twoGbMaxExtentSparse",
        "subformat=streamOptimized",
        "zeroed_grain=on",
    ] {
        if options == "zeroed_grain=on" {
            qemu_img(&[
                "create",
                "-f",
                "vmdk",
                "-o",
                options,
                "-b",
                text(&base),
                "-F",
                "vmdk",
                text(&image),
            ]);
            crate::image::qemu_io(&["write -z 1M 1M", "write -P 7 5M 100k"], &image);
        } else {
            qemu_img(&[
                "convert",
                "-f",
                "raw",
                "-O",
                "vmdk",
                "-o",
                options,
                text(&raw),
                text(&image),
            ]);
        }
        let judge = qemu_img(&["map", "--output=json", "-f", "vmdk", text(&image)]);
        let judge: Vec<serde_json::Value> = serde_json::from_str(&judge).unwrap();
        let theirs: Vec<_> = judge
            .iter()
            .map(|run| {
                (
                    run["start"].as_u64().unwrap(),
                    run["length"].as_u64().unwrap(),
                    run["depth"].as_u64().unwrap() as usize,
                    run["zero"].as_bool().unwrap(),
                    run["data"].as_bool().unwrap(),
                    run["offset"].as_u64(),
                )
            })
            .collect();
        // Of a hole in a flat file qemu-img says that it is data, and zero.
        let flat = options.ends_with("Flat");
        let mut ours = Vec::new();
        map_chain(&chain(&image, None).unwrap(), &mut |run| {
            let mapping = run.mapping;
            let data = mapping.content == Content::Data;
            ours.push((
                mapping.start,
                mapping.length,
                run.depth,
                !data,
                data || flat,
                mapping.offset,
            ));
            Ok(())
        })
        .unwrap();
        assert_eq!(ours, theirs, "{options}");
    }
}
