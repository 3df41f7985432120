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
    MIB, edit, extents, must_be_sound_and_equal, open, pattern, qemu_img, qemu_io, raw_source, read_all, run,
    text,
};
use rehome::{
    disk::{Content, Disk, FileDisk, Kind},
    image::{self, Beside, Check, Described, Format, Image, NoNeighbours, qcow2::Qcow2},
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
fn every_format_is_told_by_its_magic_and_raw_is_what_nothing_else_is() {
    let (folder, raw) = raw_source(MIB);
    assert_eq!(open(&raw).format(), Format::Raw);
    for (format, name) in [
        ("qcow2", "qcow2"),
        ("qcow", "qcow"),
        ("vmdk", "VMDK"),
        ("vhdx", "VHDX"),
        ("vpc", "VHD"),
        ("vdi", "VDI"),
        ("parallels", "Parallels"),
        ("qed", "QED"),
    ] {
        let image = folder.path().join("image.raw");
        qemu_img(&["convert", "-O", format, text(&raw), text(&image)]);
        let container = || Arc::new(FileDisk::open(&image).unwrap());
        match format.parse::<Format>() {
            Ok(format) => assert_eq!(open(&image).format(), format),
            // Read by nobody here.
            Err(_) => {
                let error = image::open(container(), None, &NoNeighbours).unwrap_err();
                assert_eq!(error.kind, Kind::Unsupported);
                assert!(
                    error.to_string().contains(&format!("is a {name} image")),
                    "{error}"
                );
            }
        }
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
        "extended_l2=on",
        "extended_l2=on,cluster_size=16k,refcount_bits=2 -c",
        "extended_l2=on,preallocation=metadata",
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
        let cluster = disk.info().unwrap().unit;
        edit(&disk, &mut model, seed as u64, 120, cluster);
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
    for (cluster, version) in [("512", "1.1"), ("65536", "1.1"), ("4096", "0.10")] {
        let (folder, raw) = raw_source(size);
        let before = std::fs::read(&raw).unwrap();
        let image = folder.path().join("image.qcow2");
        let options = format!("cluster_size={cluster},compat={version}");
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
        // Version 2 cannot say that what is discarded is zeros and not what the backing file holds.
        let unit = disk.info().unwrap().unit.filter(|_| version == "1.1");
        edit(&disk, &mut model, 77, 100, unit);
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
    qemu_img(&["create", "-f", "qcow2", text(&image), "1M"]);
    let container = || Arc::new(FileDisk::open_writable(&image).unwrap());
    // Marked corrupt, then not closed in order.
    for (bit, expected) in [(2, "marked corrupt"), (1, "not closed in order")] {
        container().write_at(79, &[bit]).unwrap();
        let error = Qcow2::open_writable(container(), &NoNeighbours).unwrap_err();
        assert_eq!(error.kind, Kind::Unsafe);
        assert!(error.to_string().contains(expected), "{error}");
        let info = open(&image).info().unwrap();
        assert_eq!((info.corrupt, info.dirty), (bit == 2, bit == 1));
    }
    let reading = Qcow2::open(container(), &NoNeighbours).unwrap();
    assert_eq!(reading.write_at(0, &[1]).unwrap_err().kind, Kind::ReadOnly);
    assert_eq!(reading.write_zeros(0..1).unwrap_err().kind, Kind::ReadOnly);
    assert_eq!(reading.discard(0..1).unwrap_err().kind, Kind::ReadOnly);
    assert_eq!(reading.repair_leaks().unwrap_err().kind, Kind::ReadOnly);
    qemu_img(&[
        "create",
        "-f",
        "qcow2",
        "-o",
        "data_file=/dev/null",
        text(&image),
        "0",
    ]);
    let beside = Beside::new(&image).allowing(Path::new("/dev"));
    let error = Qcow2::open_writable(container(), &beside).unwrap_err();
    assert!(error.to_string().contains("no regular file"), "{error}");
}

#[test]
fn the_disk_of_a_snapshot_is_what_going_back_to_it_gives() {
    for options in ["compat=1.1", "extended_l2=on", "compat=0.10,cluster_size=4k"] {
        let (folder, raw) = raw_source(5 * MIB);
        let image = folder.path().join("image.qcow2");
        qemu_img(&["convert", "-O", "qcow2", "-o", options, text(&raw), text(&image)]);
        qemu_img(&["snapshot", "-c", "first one", text(&image)]);
        qemu_io(&["write -P 3 1M 300k", "discard 2M 1M"], &image);
        qemu_img(&["snapshot", "-c", "2", text(&image)]);
        if options != "compat=0.10,cluster_size=4k" {
            qemu_img(&["resize", text(&image), "9M"]);
            qemu_io(&["write -P 4 8M 300k"], &image);
        }
        qemu_img(&["snapshot", "-c", "third", text(&image)]);
        qemu_io(&["write -P 5 0 4M"], &image);
        let container = || Arc::new(FileDisk::open(&image).unwrap());
        let info = open(&image).info().unwrap();
        let names: Vec<_> = info.snapshots.iter().map(|s| (&*s.id, &*s.name)).collect();
        assert_eq!(names, [("1", "first one"), ("2", "2"), ("3", "third")]);
        assert!(
            info.snapshots
                .iter()
                .all(|s| s.taken > Some(1_600_000_000) && s.machine_state == 0)
        );
        for (wanted, size) in [("first one", 5), ("1", 5), ("2", 5), ("third", 9)] {
            let copy = folder.path().join("copy");
            std::fs::copy(&image, &copy).unwrap();
            qemu_img(&["snapshot", "-a", wanted, text(&copy)]);
            qemu_img(&["convert", "-O", "raw", text(&copy), text(&raw)]);
            let disk = Qcow2::open_snapshot(container(), wanted, &NoNeighbours).unwrap();
            assert!(options.contains("4k") || disk.size() == size * MIB);
            assert!(
                read_all(&disk) == std::fs::read(&raw).unwrap(),
                "{options} {wanted}"
            );
            assert_eq!(disk.check().unwrap(), Check::default());
            extents(&disk);
        }
        let error = Qcow2::open_snapshot(container(), "fourth", &NoNeighbours).unwrap_err();
        assert_eq!(error.kind, Kind::NotFound);
        assert!(
            error
                .to_string()
                .contains("1 \"first one\", 2 \"2\", 3 \"third\""),
            "{error}"
        );
    }
}

#[test]
fn data_in_a_file_of_its_own_is_read_from_there() {
    for options in ["", ",data_file_raw=on", ",extended_l2=on", ",cluster_size=4k"] {
        let (folder, raw) = raw_source(5 * MIB + 512);
        let image = folder.path().join("image.qcow2");
        let data = folder.path().join("data");
        let words = format!("data_file={}{options}", text(&data));
        qemu_img(&["convert", "-O", "qcow2", "-o", &words, text(&raw), text(&image)]);
        must_be_sound_and_equal("qcow2", &image, &raw);
        qemu_io(
            &["write -P 3 0 300k", "write -z 1M 300k", "discard 2M 300k"],
            &image,
        );
        qemu_img(&["convert", "-O", "raw", text(&image), text(&raw)]);
        must_be_sound_and_equal("qcow2", &image, &raw);
        let disk = open(&image);
        extents(disk.as_ref());
        let info = disk.info().unwrap();
        assert_eq!(info.files[0].name, text(&data));
        let is_raw = ("data-file-raw".to_owned(), options.contains("raw").to_string());
        assert!(info.details.contains(&is_raw), "{info:?}");
        let container = Arc::new(FileDisk::open_writable(&image).unwrap());
        let error = Qcow2::open_writable(container, &Beside::new(&image)).unwrap_err();
        assert!(error.to_string().contains("not edited where it lies"), "{error}");
        std::fs::remove_file(&data).unwrap();
        let container = Arc::new(FileDisk::open(&image).unwrap());
        let alone = Described::alone(&image, None).unwrap();
        assert_eq!((alone.size, alone.info), (5 * MIB + 512, info));
        let error = image::open(container, None, &Beside::new(&image)).unwrap_err();
        assert_eq!(error.kind, Kind::NotFound);
        assert!(error.to_string().contains("data"), "{error}");
    }
}

#[test]
fn an_image_says_what_qemu_img_says_of_it() {
    let folder = image_judges::folder();
    let image = folder.path().join("image.qcow2");
    for options in [
        "compat=0.10",
        "compat=1.1,lazy_refcounts=on",
        "refcount_bits=4,cluster_size=4k",
        "extended_l2=on,compression_type=zstd",
    ] {
        qemu_img(&["create", "-f", "qcow2", "-o", options, text(&image), "5M"]);
        if !options.contains("0.10") {
            qemu_img(&["bitmap", "--add", "-g", "512k", text(&image), "nightly"]);
        }
        let judge = qemu_img(&["info", "--output=json", text(&image)]);
        let judge: serde_json::Value = serde_json::from_str(&judge).unwrap();
        let info = open(&image).info().unwrap();
        assert_eq!(info.unit, judge["cluster-size"].as_u64());
        let specific = &judge["format-specific"]["data"];
        assert_eq!(info.compression.as_deref(), specific["compression-type"].as_str());
        for (name, value) in &info.details {
            if name == "bitmap nightly" {
                assert_eq!(value, "granularity 524288, auto");
                assert_eq!(specific["bitmaps"][0]["granularity"], 524_288);
            } else if !specific[name].is_null() {
                assert_eq!(*value, specific[name].to_string().trim_matches('"'), "{name}");
            }
        }
        assert_eq!(info.details.len(), if options.contains("0.10") { 2 } else { 5 });
    }
}

#[test]
fn an_encrypted_image_is_refused_and_still_says_what_it_is() {
    let folder = image_judges::folder();
    let image = folder.path().join("image.qcow2");
    qemu_img(&["create", "-f", "qcow2", text(&image), "7M"]);
    // The method is a field of the header; what else LUKS brings, its own header in an extension, is not looked at.
    let plain = std::fs::read(&image).unwrap();
    std::fs::write(&image, [&plain[..35], &[2], &plain[36..]].concat()).unwrap();
    let container = Arc::new(FileDisk::open(&image).unwrap());
    let alone = Described::alone(&image, None).unwrap();
    assert_eq!(alone.size, 7 * MIB);
    assert_eq!(alone.info.encrypted.as_deref(), Some("LUKS"));
    let error = image::open(container.clone(), None, &NoNeighbours).unwrap_err();
    assert_eq!(error.kind, Kind::Unsupported);
    assert!(error.to_string().contains("encrypted with LUKS"), "{error}");
    std::fs::write(&image, [&plain[..35], &[1], &plain[36..]].concat()).unwrap();
    let error = image::open(container, None, &NoNeighbours).unwrap_err();
    assert!(error.to_string().contains("encrypted with AES"), "{error}");
}

#[test]
fn leaks_are_given_back_and_nothing_else_changes() {
    for options in [
        "compat=1.1",
        "refcount_bits=1,cluster_size=4k",
        "refcount_bits=64",
        "extended_l2=on",
    ] {
        let (folder, raw) = raw_source(6 * MIB);
        let image = folder.path().join("image.qcow2");
        qemu_img(&["convert", "-O", "qcow2", "-o", options, text(&raw), text(&image)]);
        let disk = open_writable(&image);
        assert_eq!(disk.repair_leaks().unwrap(), 0);
        // Clusters past the last one that is used, each counted though nothing refers to it; and, where counts are
        // wide enough, a data cluster counted twice.
        let bytes = std::fs::read(&image).unwrap();
        let be64 =
            |at: usize| u64::from_be_bytes(bytes[at..at + 8].try_into().unwrap()) & 0x00ff_ffff_ffff_fe00;
        let block = be64(be64(48) as usize);
        let container = FileDisk::open_writable(&image).unwrap();
        let cluster = disk.info().unwrap().unit.unwrap();
        let used = container.size().div_ceil(cluster);
        container.set_size((used + 8) * cluster).unwrap();
        let width: u64 = disk.info().unwrap().details[1].1.parse().unwrap();
        if width == 1 {
            assert_eq!(used % 8, 0, "the test wants whole bytes");
            container.write_at(block + used / 8, &[0xff]).unwrap();
        } else {
            for index in used..used + 8 {
                let last = block + (index + 1) * width / 8 - 1;
                container.write_at(last, &[1]).unwrap();
            }
            let data = be64(be64(be64(40) as usize) as usize) / cluster;
            container
                .write_at(block + (data + 1) * width / 8 - 1, &[2])
                .unwrap();
        }
        let found = open(&image).check().unwrap();
        let leaked = 8 + u64::from(width > 1);
        assert_eq!(found.leaked, leaked * cluster, "{options} {found:?}");
        let judge = run("qemu-img", &["check", text(&image)]);
        assert!(!judge.status.success(), "{judge:?}");
        drop(disk);
        assert_eq!(open_writable(&image).repair_leaks().unwrap(), leaked * cluster);
        must_be_sound_and_equal("qcow2", &image, &raw);
        // With an error beside them they stay.
        container
            .write_at(block + (used + 1) * width / 8 - 1, &[1])
            .unwrap();
        container.write_at(be64(40), &[0; 8]).unwrap();
        container.write_at(block, &[0; 8]).unwrap();
        let error = open_writable(&image).repair_leaks().unwrap_err();
        assert_eq!(error.kind, Kind::Unsafe);
        assert!(error.to_string().contains("has errors"), "{error}");
    }
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
