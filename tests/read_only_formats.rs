//! Formats that are read and not made: qcow (version 1) and Parallels, judged by qemu-img.

// Clippy's exemption for tests does not reach the functions that they share.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic
)]

mod image_judges;

use image_judges::{MIB, extents, open, qemu_img, qemu_io_as, raw_source, read_all, run, text};
use rehome::{
    disk::{Content, Disk, FileDisk, Kind, MemoryDisk},
    image::{
        self, Beside, Check, Described, Format, NoNeighbours, map_chain, parallels::Parallels, qcow::Qcow,
    },
};
use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
};

/// What is read is what qemu-img reads, and what is said of it is what qemu-img says.
#[track_caller]
fn must_agree(format: &str, image: &Path) {
    let folder = image_judges::folder();
    let raw = folder.path().join("raw");
    qemu_img(&["convert", "-f", format, "-O", "raw", text(image), text(&raw)]);
    let disk = open(image);
    assert_eq!(disk.format().name(), format);
    assert!(read_all(disk.as_ref()) == std::fs::read(&raw).unwrap());
    extents(disk.as_ref());
    assert_eq!(disk.check().unwrap(), Check::default());
    let judge = qemu_img(&["info", "--output=json", text(image)]);
    let judge: serde_json::Value = serde_json::from_str(&judge).unwrap();
    assert_eq!(Some(disk.size()), judge["virtual-size"].as_u64());
    let unit = disk.info().unwrap().unit;
    assert!(judge["cluster-size"].is_null() || unit == judge["cluster-size"].as_u64());
}

/// Of a whole chain, the runs that hold data and how deep they lie, as qemu-img says.
#[track_caller]
fn must_map_alike(image: &Path) {
    let judge = qemu_img(&["map", "--output=json", text(image)]);
    let judge: Vec<serde_json::Value> = serde_json::from_str(&judge).unwrap();
    let mut theirs: Vec<(u64, u64, u64)> = Vec::new();
    let mut ours = theirs.clone();
    let push = |runs: &mut Vec<(u64, u64, u64)>, run: (u64, u64, u64)| match runs.last_mut() {
        Some(last) if last.0 + last.1 == run.0 && last.2 == run.2 => last.1 += run.1,
        _ => runs.push(run),
    };
    for run in judge.iter().filter(|run| run["data"] == true) {
        let number = |name: &str| run[name].as_u64().unwrap();
        push(&mut theirs, (number("start"), number("length"), number("depth")));
    }
    map_chain(&image::chain(image, None).unwrap(), &mut |run| {
        if run.mapping.content == Content::Data {
            let depth = u64::try_from(run.depth).unwrap();
            push(&mut ours, (run.mapping.start, run.mapping.length, depth));
        }
        Ok(())
    })
    .unwrap();
    assert_eq!(ours, theirs);
}

#[test]
fn qcow_is_read_plain_compressed_and_over_a_backing_file() {
    for size in [9 * MIB + 512, MIB, 512] {
        let (folder, raw) = raw_source(size);
        let image = folder.path().join("image.qcow");
        qemu_img(&["convert", "-f", "raw", "-O", "qcow", text(&raw), text(&image)]);
        must_agree("qcow", &image);
        must_map_alike(&image);
        // qemu-img compresses whole clusters only, and then fails after its work is done.
        if size == MIB {
            run(
                "qemu-img",
                &[
                    "convert",
                    "-c",
                    "-f",
                    "raw",
                    "-O",
                    "qcow",
                    text(&raw),
                    text(&image),
                ],
            );
            must_agree("qcow", &image);
            must_map_alike(&image);
            assert!(read_all(open(&image).as_ref()) == std::fs::read(&raw).unwrap());
            let mut compressed = 0;
            map_chain(&[open(&image)], &mut |run| {
                compressed += u64::from(run.mapping.compressed);
                Ok(())
            })
            .unwrap();
            assert!(compressed > 0);
        }
    }
    // Tables and clusters are smaller over a backing file.
    let (folder, raw) = raw_source(5 * MIB);
    let image = folder.path().join("image.qcow");
    let words = format!("backing_file={},backing_fmt=raw", text(&raw));
    qemu_img(&["create", "-f", "qcow", "-o", &words, text(&image), "8M"]);
    qemu_io_as(
        "qcow",
        &["write -P 7 1M 300k", "write -P 8 4900k 700k", "write -P 9 7M 4k"],
        &image,
    );
    must_agree("qcow", &image);
    let info = open(&image).info().unwrap();
    assert_eq!(info.backing.unwrap().name, text(&raw));
    assert_eq!(Described::alone(&image, None).unwrap().info.unit, Some(512));
}

#[test]
fn a_backing_file_of_a_qcow_is_raw_or_refused() {
    let (folder, raw) = raw_source(MIB);
    let base = folder.path().join("base");
    qemu_img(&["convert", "-O", "qcow2", text(&raw), text(&base)]);
    let image = folder.path().join("image.qcow");
    let words = format!("backing_file={},backing_fmt=qcow2", text(&base));
    qemu_img(&["create", "-f", "qcow", "-o", &words, text(&image), "1M"]);
    let container = Arc::new(FileDisk::open(&image).unwrap());
    let error = image::open(container, None, &Beside::new(&image)).unwrap_err();
    assert_eq!(error.kind, Kind::Unsupported);
    assert!(
        error.to_string().contains("whose format it does not say"),
        "{error}"
    );
}

#[test]
fn an_encrypted_or_lying_qcow_is_refused_and_says_why() {
    let (folder, raw) = raw_source(MIB);
    let image = folder.path().join("image.qcow");
    qemu_img(&["convert", "-O", "qcow", text(&raw), text(&image)]);
    let sound = std::fs::read(&image).unwrap();
    let open = |at: usize, new: &[u8]| {
        let mut bytes = sound.clone();
        bytes[at..at + new.len()].copy_from_slice(new);
        let container = Arc::new(MemoryDisk::new("image", bytes));
        image::open(container, None, &NoNeighbours)
    };
    for (at, bytes, kind, expected) in [
        (39, vec![1], Kind::Unsupported, "encrypted with AES"),
        (36, vec![9], Kind::Unsupported, "unknown method"),
        (40, vec![0x7f; 8], Kind::Corrupt, "past the end of the file"),
        (24, vec![0x40], Kind::Corrupt, "past the end of the file"),
        (24, vec![0xff; 8], Kind::Corrupt, "2^63 is the most"),
        (8, vec![0x7f; 10], Kind::Corrupt, "name of the backing file"),
    ] {
        let error = open(at, &bytes).unwrap_err();
        assert_eq!(error.kind, kind, "{error}");
        assert!(error.to_string().contains(expected), "{error}");
    }
    let table = u64::from_be_bytes(sound[40..48].try_into().unwrap()) as usize;
    let second = u64::from_be_bytes(sound[table..table + 8].try_into().unwrap()) as usize;
    for (at, bytes) in [
        (table, vec![0x7f; 8]),
        (second, vec![0x7f; 8]),
        (second, vec![0xff; 8]),
        (second, vec![0x80, 0x08, 0, 0, 0, 0, 0, 64]),
    ] {
        let disk = open(at, &bytes).unwrap();
        assert_eq!(disk.read_at(0, &mut [0; 10]).unwrap_err().kind, Kind::Corrupt);
        let compressed_header = bytes.len() == 8 && bytes[7] == 64;
        assert!(compressed_header || !disk.check().unwrap().is_sound());
    }
    let container = Arc::new(FileDisk::open(&image).unwrap());
    let error = image::open_writable(container.clone(), Format::Qcow, &NoNeighbours).unwrap_err();
    assert!(error.to_string().contains("only read"), "{error}");
    assert_eq!(
        Qcow::open(container, &NoNeighbours)
            .unwrap()
            .write_at(0, &[1])
            .unwrap_err()
            .kind,
        Kind::ReadOnly
    );
}

#[test]
fn parallels_disks_are_read() {
    for size in [9 * MIB, 20 * MIB + 512] {
        let (folder, raw) = raw_source(size);
        let image = folder.path().join("image.hds");
        for words in ["cluster_size=65536", "cluster_size=1M"] {
            qemu_img(&[
                "convert",
                "-f",
                "raw",
                "-O",
                "parallels",
                "-o",
                words,
                text(&raw),
                text(&image),
            ]);
            must_agree("parallels", &image);
            must_map_alike(&image);
        }
    }
    let Some(samples) = std::env::var_os("REHOME_SAMPLES") else {
        eprintln!("skipped in part: REHOME_SAMPLES is not set");
        return;
    };
    let folder = image_judges::folder();
    for (version, large) in [("v1", "false"), ("v2", "true")] {
        let packed = PathBuf::from(&samples).join(format!("disk/qemu/parallels-{version}.bz2"));
        let image = folder.path().join(version);
        let unpacked = Command::new("bzip2").arg("-dc").arg(packed).output().unwrap();
        std::fs::write(&image, unpacked.stdout).unwrap();
        must_agree("parallels", &image);
        must_map_alike(&image);
        assert_eq!(open(&image).info().unwrap().details[0].1, large);
    }
    // The description of a bundle with one file for the whole disk.
    let sample = PathBuf::from(&samples).join("disk/dfvfs/DiskDescriptor.xml");
    let description = std::fs::read_to_string(sample).unwrap();
    let beside = folder.path().join("DiskDescriptor.xml");
    std::fs::write(&beside, &description).unwrap();
    must_agree("parallels", &folder.path().join("v2"));
    let image = "<Image><GUID>{a}</GUID></Image>";
    std::fs::write(&beside, format!("{description}{image}")).unwrap();
    let path = folder.path().join("v2");
    let container = Arc::new(FileDisk::open(&path).unwrap());
    let error = Parallels::open(container, &Beside::new(&path)).unwrap_err();
    assert!(error.to_string().contains("one of 2 files"), "{error}");
    Described::alone(&path, None).unwrap();
}

#[test]
fn a_parallels_disk_that_is_in_use_or_lies_says_so() {
    let (folder, raw) = raw_source(4 * MIB);
    let path = folder.path().join("image.hds");
    qemu_img(&[
        "convert",
        "-O",
        "parallels",
        "-o",
        "cluster_size=64k",
        text(&raw),
        text(&path),
    ]);
    let sound = std::fs::read(&path).unwrap();
    let open = |at: usize, new: &[u8]| {
        let mut bytes = sound.clone();
        bytes[at..at + new.len()].copy_from_slice(new);
        image::open(Arc::new(MemoryDisk::new("image", bytes)), None, &NoNeighbours)
    };
    assert!(open(44, b"Ynot").unwrap().info().unwrap().dirty);
    assert!(!open(44, &[0]).unwrap().info().unwrap().dirty);
    let error = open(32, &[0xff; 4]).unwrap_err();
    assert!(error.to_string().contains("past the end of the file"), "{error}");
    // The first block: past the end of the file, on the table, and where another is.
    let other = sound[64 + 4 * 10..][..4].to_vec();
    for (entry, reads) in [(vec![0xff; 4], false), (other, true)] {
        let disk = open(64, &entry).unwrap();
        assert_eq!(disk.read_at(0, &mut [0; 10]).is_ok(), reads);
        assert!(!disk.check().unwrap().errors.is_empty());
    }
    let leaking = [sound.clone(), vec![0; 1 << 20]].concat();
    let disk = image::open(Arc::new(MemoryDisk::new("image", leaking)), None, &NoNeighbours).unwrap();
    assert_eq!(disk.check().unwrap().leaked, MIB);
}

#[test]
fn formats_that_nobody_reads_here_are_refused_and_name_a_way() {
    let trailer = [&b"koly\0\0\0\x04\0\0\x02\0"[..], &[0; 500]].concat();
    let dmg = [vec![7; 5000], trailer].concat();
    let encase = [&b"EVF\x09\x0d\x0a\xff\x00"[..], &[0; 1000]].concat();
    for (bytes, expected) in [(dmg, "hdiutil"), (encase, "ewfexport")] {
        let container = Arc::new(MemoryDisk::new("image", bytes));
        let error = image::open(container.clone(), None, &NoNeighbours).unwrap_err();
        assert_eq!(error.kind, Kind::Unsupported);
        assert!(error.to_string().contains(expected), "{error}");
        image::open(container, Some(Format::Raw), &NoNeighbours).unwrap();
    }
    let Some(samples) = std::env::var_os("REHOME_SAMPLES").map(PathBuf::from) else {
        eprintln!("skipped in part: REHOME_SAMPLES is not set");
        return;
    };
    let packed = samples.join("disk/qemu/simple-dmg.dmg.bz2");
    let dmg = Command::new("bzip2")
        .arg("-dc")
        .arg(packed)
        .output()
        .unwrap()
        .stdout;
    let encase = std::fs::read(samples.join("disk/plaso/image-split.E01")).unwrap();
    for bytes in [dmg, encase] {
        let container = Arc::new(MemoryDisk::new("image", bytes));
        let error = image::open(container, None, &NoNeighbours).unwrap_err();
        assert_eq!(error.kind, Kind::Unsupported, "{error}");
    }
}
