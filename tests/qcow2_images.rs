//! qcow2 images, judged by qemu-img in both directions.

// Clippy's exemption for tests does not reach the functions that they share.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic
)]

mod image_judges;

use image_judges::{
    MIB, extents, must_be_sound_and_equal, open, pattern, qemu_img, qemu_io, raw_source, read_all, run, text,
};
use rehome::{
    disk::{Content, Disk, FileDisk, Kind},
    image::{self, Beside, Check, Format, NoNeighbours, qcow2::Qcow2},
};
use std::{path::Path, sync::Arc};

#[test]
fn everything_that_qemu_img_makes_is_read() {
    let (folder, raw) = raw_source(9 * MIB + 512);
    let expected = std::fs::read(&raw).unwrap();
    let mut options: Vec<String> = ["compat=0.10", "compat=1.1", "compat=1.1,lazy_refcounts=on"]
        .map(str::to_owned)
        .to_vec();
    for bits in 9..=21 {
        options.push(format!("cluster_size={}", 1 << bits));
    }
    for width in [1, 2, 4, 8, 32, 64] {
        options.push(format!("refcount_bits={width}"));
    }
    for preallocation in ["metadata", "falloc", "full"] {
        options.push(format!("preallocation={preallocation}"));
    }
    for size in ["16384", "65536", "2097152"] {
        options.push(format!("extended_l2=on,cluster_size={size}"));
    }
    for compression in ["zlib", "zstd"] {
        for size in ["512", "65536", "2097152"] {
            options.push(format!("compression_type={compression},cluster_size={size} -c"));
        }
    }
    options.push("extended_l2=on,compression_type=zstd -c".to_owned());
    options.push("compat=0.10 -c".to_owned());
    for option in options {
        let image = folder.path().join("image.qcow2");
        let (shape, compressed) = option
            .strip_suffix(" -c")
            .map_or((option.as_str(), false), |shape| (shape, true));
        let mut arguments = vec!["convert", "-f", "raw", "-O", "qcow2", "-o", shape];
        if compressed {
            arguments.push("-c");
        }
        arguments.extend([text(&raw), text(&image)]);
        qemu_img(&arguments);
        let disk = open(&image);
        assert_eq!(disk.format(), Format::Qcow2);
        assert!(read_all(disk.as_ref()) == expected, "{option}");
        extents(disk.as_ref());
        std::fs::remove_file(&image).unwrap();
    }
}

#[test]
fn zero_clusters_discards_and_rewrites_are_read() {
    for options in ["compat=1.1", "extended_l2=on", "cluster_size=512", "compat=0.10"] {
        let folder = image_judges::folder();
        let image = folder.path().join("image.qcow2");
        qemu_img(&["create", "-f", "qcow2", "-o", options, text(&image), "20M"]);
        qemu_io(
            &[
                "write -P 1 0 5M",
                "write -z 1M 1M",
                "write -z -u 2M 512k",
                "discard 3M 256k",
                "write -P 7 1100k 10k",
                "write -P 9 19M 1M",
                "write -z 19500k 2k",
            ],
            &image,
        );
        let raw = folder.path().join("raw");
        qemu_img(&["convert", "-O", "raw", text(&image), text(&raw)]);
        let disk = open(&image);
        assert!(
            read_all(disk.as_ref()) == std::fs::read(&raw).unwrap(),
            "{options}"
        );
        let map = extents(disk.as_ref());
        assert!(map.iter().any(|(_, content)| *content == Content::Hole));
    }
}

#[test]
fn a_chain_of_backing_files_is_read_through() {
    let (folder, base) = raw_source(5 * MIB);
    let middle = folder.path().join("middle.qcow2");
    let top = folder.path().join("top.qcow2");
    qemu_img(&[
        "create",
        "-f",
        "qcow2",
        "-b",
        "raw",
        "-F",
        "raw",
        text(&middle),
        "8M",
    ]);
    qemu_io(
        &["write -P 3 1M 100k", "write -z 2M 300k", "write -P 4 6M 1M"],
        &middle,
    );
    qemu_img(&[
        "create",
        "-f",
        "qcow2",
        "-o",
        "cluster_size=4k",
        "-b",
        "middle.qcow2",
        "-F",
        "qcow2",
        text(&top),
        "12M",
    ]);
    qemu_io(
        &["write -P 5 1030k 3k", "write -z 6200k 8k", "write -P 6 11M 64k"],
        &top,
    );
    let raw = folder.path().join("flat");
    qemu_img(&["convert", "-O", "raw", text(&top), text(&raw)]);
    let disk = open(&top);
    assert!(read_all(disk.as_ref()) == std::fs::read(&raw).unwrap());
    let map = extents(disk.as_ref());
    assert!(
        map.iter()
            .any(|(range, content)| *content == Content::Hole && range.start >= 7 * MIB)
    );
    let _ = base;
}

#[test]
fn other_formats_are_refused_by_name_and_raw_is_what_nothing_else_is() {
    let (folder, raw) = raw_source(MIB);
    assert_eq!(open(&raw).format(), Format::Raw);
    for (format, name) in [
        ("vmdk", "VMDK"),
        ("vhdx", "VHDX"),
        ("vpc", "VHD"),
        ("vdi", "VDI"),
        ("qed", "QED"),
    ] {
        let image = folder.path().join("image.raw");
        qemu_img(&["convert", "-O", format, text(&raw), text(&image)]);
        let container = || Arc::new(FileDisk::open(&image).unwrap());
        let error = image::open(container(), None, &NoNeighbours).unwrap_err();
        assert_eq!(error.kind, Kind::Unsupported);
        assert!(
            error.to_string().contains(&format!("is a {name} image")),
            "{error}"
        );
        let named = image::open(container(), Some(Format::Raw), &NoNeighbours).unwrap();
        assert_eq!(
            (named.format(), named.size()),
            (Format::Raw, image.metadata().unwrap().len())
        );
        std::fs::remove_file(image).unwrap();
    }
}

fn open_writable(path: &Path) -> Qcow2 {
    let container = Arc::new(FileDisk::open_writable(path).unwrap());
    Qcow2::open_writable(container, &Beside::new(path)).unwrap()
}

/// Does the same to `image` and to the bytes in `model`, in steps that follow from `seed`.
fn edit(image: &Qcow2, model: &mut [u8], seed: u64, steps: u64) {
    let size = model.len() as u64;
    for step in 0..steps {
        let dice = pattern(seed * 1000 + step, 32);
        let number = |at: usize| u64::from_le_bytes(dice[at..at + 8].try_into().unwrap());
        let start = number(0) % size;
        let length = ((number(8) % 200_000) >> (number(16) % 10)).min(size - start);
        let range = start as usize..(start + length) as usize;
        if number(24) % 4 == 0 {
            image.write_zeros(start..start + length).unwrap();
            model[range].fill(0);
        } else {
            let bytes = pattern(step, length as usize);
            image.write_at(start, &bytes).unwrap();
            model[range].copy_from_slice(&bytes);
        }
    }
}

#[test]
fn edits_in_place_are_what_qemu_img_reads_and_leave_it_sound() {
    let size = 12 * MIB + 512;
    let shapes = [
        "compat=1.1",
        "compat=0.10",
        "cluster_size=512",
        "cluster_size=4096",
        "cluster_size=2M",
        "refcount_bits=1,cluster_size=4k",
        "refcount_bits=4,cluster_size=512",
        "refcount_bits=64,cluster_size=1k",
        "preallocation=metadata",
        "compression_type=zstd -c",
        "cluster_size=4k -c",
    ];
    for (seed, shape) in shapes.iter().enumerate() {
        let (folder, raw) = raw_source(size);
        let mut model = std::fs::read(&raw).unwrap();
        let image = folder.path().join("image.qcow2");
        let (options, compressed) = shape
            .strip_suffix(" -c")
            .map_or((*shape, false), |shape| (shape, true));
        let mut arguments = vec!["convert", "-f", "raw", "-O", "qcow2", "-o", options];
        if compressed {
            arguments.push("-c");
        }
        arguments.extend([text(&raw), text(&image)]);
        qemu_img(&arguments);
        let disk = open_writable(&image);
        edit(&disk, &mut model, seed as u64, 120);
        assert!(read_all(&disk) == model, "{shape}");
        extents(&disk);
        disk.flush().unwrap();
        drop(disk);
        std::fs::write(&raw, &model).unwrap();
        must_be_sound_and_equal("qcow2", &image, &raw);
    }
}

#[test]
fn an_edit_leaves_backing_file_and_snapshots_as_they_were() {
    let size = 6 * MIB;
    for cluster in ["512", "65536"] {
        let (folder, raw) = raw_source(size);
        let before = std::fs::read(&raw).unwrap();
        let image = folder.path().join("image.qcow2");
        let options = format!("cluster_size={cluster}");
        qemu_img(&[
            "create",
            "-f",
            "qcow2",
            "-o",
            &options,
            "-b",
            "raw",
            "-F",
            "raw",
            text(&image),
        ]);
        qemu_io(&["write -P 8 1M 300k", "write -z 3M 100k"], &image);
        let saved = folder.path().join("saved");
        qemu_img(&["convert", "-O", "raw", text(&image), text(&saved)]);
        qemu_img(&["snapshot", "-c", "one", text(&image)]);
        let mut model = std::fs::read(&saved).unwrap();
        let disk = open_writable(&image);
        edit(&disk, &mut model, 77, 100);
        drop(disk);
        assert!(std::fs::read(&raw).unwrap() == before);
        let flat = folder.path().join("flat");
        std::fs::write(&flat, &model).unwrap();
        must_be_sound_and_equal("qcow2", &image, &flat);
        qemu_img(&["snapshot", "-a", "one", text(&image)]);
        must_be_sound_and_equal("qcow2", &image, &saved);
    }
}

#[test]
fn an_image_that_cannot_be_written_safely_is_refused() {
    let folder = image_judges::folder();
    let image = folder.path().join("image.qcow2");
    qemu_img(&[
        "create",
        "-f",
        "qcow2",
        "-o",
        "extended_l2=on",
        text(&image),
        "1M",
    ]);
    let container = || Arc::new(FileDisk::open_writable(&image).unwrap());
    let error = Qcow2::open_writable(container(), &NoNeighbours).unwrap_err();
    assert!(error.to_string().contains("extended L2"), "{error}");
    qemu_img(&["create", "-f", "qcow2", text(&image), "1M"]);
    container().write_at(79, &[1]).unwrap();
    let error = Qcow2::open_writable(container(), &NoNeighbours).unwrap_err();
    assert_eq!(error.kind, Kind::Unsafe);
    let reading = Qcow2::open(container(), &NoNeighbours).unwrap();
    assert_eq!(reading.write_at(0, &[1]).unwrap_err().kind, Kind::ReadOnly);
    assert_eq!(reading.write_zeros(0..1).unwrap_err().kind, Kind::ReadOnly);
}

#[test]
fn check_finds_what_qemu_img_check_finds() {
    let (folder, raw) = raw_source(6 * MIB);
    let image = folder.path().join("image.qcow2");
    for options in [
        "compat=1.1",
        "cluster_size=512,refcount_bits=1",
        "extended_l2=on",
        "compat=0.10",
    ] {
        qemu_img(&["convert", "-O", "qcow2", "-o", options, text(&raw), text(&image)]);
        assert_eq!(open(&image).check().unwrap(), Check::default(), "{options}");
    }
    qemu_img(&["convert", "-c", "-O", "qcow2", text(&raw), text(&image)]);
    assert_eq!(open(&image).check().unwrap(), Check::default());
    qemu_img(&["convert", "-O", "qcow2", text(&raw), text(&image)]);
    qemu_img(&["snapshot", "-c", "one", text(&image)]);
    qemu_io(&["write -P 3 1M 1M"], &image);
    qemu_img(&["snapshot", "-c", "two", text(&image)]);
    assert_eq!(open(&image).check().unwrap(), Check::default());

    qemu_img(&["bitmap", "--add", text(&image), "backup"]);
    qemu_img(&["bitmap", "--add", "-g", "512k", text(&image), "another"]);
    qemu_io(&["write -P 3 2M 1M"], &image);
    assert_eq!(open(&image).check().unwrap(), Check::default());
    let disk = open_writable(&image);
    disk.write_at(100, &[1; 100]).unwrap();
    drop(disk);
    qemu_img(&["check", "-q", "-r", "leaks", text(&image)]);
    qemu_img(&["check", "-q", text(&image)]);

    // Damage: what we find must be what qemu-img finds, by number of errors and leaks.
    qemu_img(&["convert", "-O", "qcow2", text(&raw), text(&image)]);
    let sound = std::fs::read(&image).unwrap();
    let be64 = |at: usize| u64::from_be_bytes(sound[at..at + 8].try_into().unwrap()) & 0x00ff_ffff_ffff_fe00;
    let l2 = be64(be64(40) as usize) as usize;
    let block = be64(be64(48) as usize) as usize;
    let damages: [(usize, Vec<u8>); 6] = [
        (block + 2 * 8, vec![0, 0]),
        (block + 2 * 9, vec![0, 2]),
        (l2 + 8, sound[l2..l2 + 8].to_vec()),
        (l2, vec![0; 8]),
        (l2, vec![0x80, 0, 0, 0, 0, 0, 2, 0]),
        (l2, vec![0x80, 0, 0, 1, 0, 0, 0, 0]),
    ];
    for (at, bytes) in damages {
        let mut damaged = sound.clone();
        damaged[at..at + bytes.len()].copy_from_slice(&bytes);
        std::fs::write(&image, damaged).unwrap();
        let findings = open(&image).check().unwrap();
        let judge = run("qemu-img", &["check", "--output=json", text(&image)]);
        let judge: serde_json::Value = serde_json::from_slice(&judge.stdout).unwrap();
        assert_eq!(
            findings.leaks.len() as u64,
            judge["leaks"].as_u64().unwrap_or(0),
            "{findings:?} {judge}"
        );
        assert_eq!(
            !findings.errors.is_empty(),
            judge["corruptions"].as_u64().unwrap_or(0) > 0,
            "{findings:?} {judge}"
        );
        assert!(!findings.is_sound());
    }
}

#[test]
fn the_refcount_table_grows_when_an_edit_needs_it() {
    for options in [
        "cluster_size=512,refcount_bits=64",
        "cluster_size=512,refcount_bits=16",
    ] {
        let folder = image_judges::folder();
        let image = folder.path().join("image.qcow2");
        let size = 30 * MIB;
        qemu_img(&["create", "-f", "qcow2", "-o", options, text(&image), "30M"]);
        let table_size = |image: &Path| std::fs::read(image).unwrap()[56..60].to_vec();
        let before = table_size(&image);
        let mut model = vec![0; size as usize];
        let disk = open_writable(&image);
        for start in [0, 12 * MIB + 77, 26 * MIB] {
            let bytes = pattern(start, 3 << 20);
            disk.write_at(start, &bytes).unwrap();
            model[start as usize..][..3 << 20].copy_from_slice(&bytes);
        }
        drop(disk);
        assert_ne!(table_size(&image), before, "the test does not test what it says");
        let raw = folder.path().join("raw");
        std::fs::write(&raw, &model).unwrap();
        must_be_sound_and_equal("qcow2", &image, &raw);
        assert_eq!(open(&image).check().unwrap(), Check::default());
    }
}

#[test]
fn threads_that_write_in_place_do_not_disturb_each_other() {
    let (folder, raw) = raw_source(16 * MIB);
    let image = folder.path().join("image.qcow2");
    qemu_img(&[
        "convert",
        "-O",
        "qcow2",
        "-o",
        "cluster_size=4k",
        text(&raw),
        text(&image),
    ]);
    let mut model = std::fs::read(&raw).unwrap();
    let disk = open_writable(&image);
    // Neighbouring bytes of the same clusters, by different threads.
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
    must_be_sound_and_equal("qcow2", &image, &raw);
}
