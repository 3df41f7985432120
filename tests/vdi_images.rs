//! VDI images, judged by qemu-img in both directions, and by a disk that VirtualBox made.

// Clippy's exemption for tests does not reach the functions that they share.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic
)]

mod image_judges;

use image_judges::{
    Folder, MIB, edit, extents, must_be_sound_and_equal, open, pattern, pour, qemu_img, raw_source, read_all,
    run, text,
};
use rehome::{
    disk::{Content, Disk, FileDisk, Kind, MemoryDisk, Sink},
    image::{self, Beside, Check, Described, Format, Image, NoNeighbours, Shape, map_chain, vdi::Vdi},
};
use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

fn shape(size: u64, words: &str) -> Shape {
    let mut options = image::Options::default();
    options.add(words).unwrap();
    Shape {
        format: Format::Vdi,
        size,
        sector_size: 512,
        options,
    }
}

fn sink(path: &Path, name: &str, fresh: bool, size: u64, words: &str) -> Box<dyn Sink> {
    image::create(
        &shape(size, words),
        &mut Folder {
            path,
            name,
            fresh,
            size: 0,
        },
    )
    .unwrap()
}

#[test]
fn what_qemu_img_makes_is_read_and_mapped_as_qemu_img_maps_it() {
    for size in [20 * MIB, 9 * MIB + 512, 512, MIB] {
        let (folder, raw) = raw_source(size);
        for words in ["static=off", "static=on"] {
            let image = folder.path().join("image.vdi");
            qemu_img(&["convert", "-O", "vdi", "-o", words, text(&raw), text(&image)]);
            must_be_sound_and_equal("vdi", &image, &raw);
            let disk = open(&image);
            extents(disk.as_ref());
            let info = disk.info().unwrap();
            let kind = if words == "static=on" { "static" } else { "dynamic" };
            assert_eq!((info.subformat.as_deref(), info.unit), (Some(kind), Some(MIB)));
            let judge = qemu_img(&["map", "--output=json", text(&image)]);
            let judge: Vec<serde_json::Value> = serde_json::from_str(&judge).unwrap();
            let theirs: Vec<(u64, u64, bool)> = judge
                .iter()
                .filter(|run| run["data"] == true)
                .map(|run| {
                    let number = |name: &str| run[name].as_u64().unwrap();
                    (number("start"), number("length"), true)
                })
                .collect();
            let mut ours = Vec::new();
            map_chain(&[disk], &mut |run| {
                if run.mapping.content == Content::Data {
                    ours.push((run.mapping.start, run.mapping.length, run.mapping.present));
                }
                Ok(())
            })
            .unwrap();
            // Of a static image qemu-img looks for holes in the file.
            if words == "static=off" {
                assert_eq!(joined(&ours), joined(&theirs), "{size}");
            }
        }
    }
}

/// Runs that follow each other, as one.
fn joined(runs: &[(u64, u64, bool)]) -> Vec<(u64, u64)> {
    let mut joined: Vec<(u64, u64)> = Vec::new();
    for (start, length, _) in runs {
        match joined.last_mut() {
            Some((first, whole)) if *first + *whole == *start => *whole += length,
            _ => joined.push((*start, *length)),
        }
    }
    joined
}

#[test]
fn what_we_write_is_sound_and_the_same_whatever_the_number_of_threads() {
    for size in [20 * MIB + 512, 20 * MIB, 512, 0] {
        let (folder, raw) = raw_source(size);
        let source = FileDisk::open(&raw).unwrap();
        for words in ["", "static=on"] {
            let mut first = None;
            for threads in [1, 2, 5] {
                let image = folder.path().join("image.vdi");
                let sink = sink(folder.path(), "image.vdi", true, size, words);
                pour(&source, sink.as_ref(), threads, 0, u64::MAX);
                sink.finish().unwrap();
                let bytes = std::fs::read(&image).unwrap();
                if first.is_none() {
                    must_be_sound_and_equal("vdi", &image, &raw);
                    let same = qemu_img(&["info", "--output=json", text(&image)]);
                    let same: serde_json::Value = serde_json::from_str(&same).unwrap();
                    assert_eq!(same["virtual-size"], size);
                }
                assert!(
                    *first.get_or_insert_with(|| bytes.clone()) == bytes,
                    "{threads} threads"
                );
                std::fs::remove_file(&image).unwrap();
            }
        }
    }
}

#[test]
fn disks_of_one_name_have_uuids_of_their_own_by_what_they_hold() {
    let folder = image_judges::folder();
    let uuid = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name);
        let sink = sink(folder.path(), name, true, MIB, "");
        sink.put(0, bytes).unwrap();
        sink.finish().unwrap();
        let details = open(&path).info().unwrap().details;
        std::fs::remove_file(&path).unwrap();
        (details[0].1.clone(), details[1].1.clone())
    };
    let one = uuid("disk.vdi", &vec![1; 1 << 20]);
    assert_eq!(one, uuid("disk.vdi", &vec![1; 1 << 20]));
    assert_ne!(one.0, one.1);
    let other = uuid("disk.vdi", &vec![2; 1 << 20]);
    assert!(one.0 != other.0 && one.1 != other.1);
    assert_ne!(one.0, uuid("other.vdi", &vec![1; 1 << 20]).0);
}

#[test]
fn a_resumed_image_ends_in_the_same_bytes() {
    let size = 30 * MIB + 1024;
    let (folder, raw) = raw_source(size);
    let source = FileDisk::open(&raw).unwrap();
    for words in ["", "static=on"] {
        let path = folder.path();
        let whole = sink(path, "image.vdi", true, size, words);
        pour(&source, whole.as_ref(), 2, 0, u64::MAX);
        whole.finish().unwrap();
        let image = path.join("image.vdi");
        let whole = std::fs::read(&image).unwrap();
        // All was there already, and the end is made once more.
        let again = sink(path, "image.vdi", false, size, words);
        again.keep(0..size).unwrap();
        again.finish().unwrap();
        assert!(std::fs::read(&image).unwrap() == whole, "{words}");
        std::fs::remove_file(&image).unwrap();

        let killed = sink(path, "image.vdi", true, size, words);
        pour(&source, killed.as_ref(), 2, 0, 20 * MIB);
        killed.checkpoint().unwrap();
        drop(killed);
        let killed = sink(path, "image.vdi", false, size, words);
        killed.keep(0..10 * MIB).unwrap();
        pour(&source, killed.as_ref(), 2, 10 * MIB, 14 * MIB);
        killed.checkpoint().unwrap();
        drop(killed);
        let last = sink(path, "image.vdi", false, size, words);
        last.keep(0..14 * MIB).unwrap();
        pour(&source, last.as_ref(), 3, 14 * MIB, u64::MAX);
        last.finish().unwrap();
        assert!(std::fs::read(&image).unwrap() == whole, "{words}");
        must_be_sound_and_equal("vdi", &image, &raw);
        let mut files = Folder {
            path,
            name: "image.vdi",
            fresh: false,
            size: 0,
        };
        let other = image::create(&shape(size + 512, words), &mut files);
        let error = other.err().unwrap();
        assert!(error.to_string().contains("cannot be resumed"), "{error}");
        std::fs::remove_file(&image).unwrap();
    }
}

#[test]
fn a_large_disk_costs_what_its_data_costs() {
    let folder = image_judges::folder();
    let size = 16 << 40;
    let image = folder.path().join("image.vdi");
    let start = std::time::Instant::now();
    let sink = sink(folder.path(), "image.vdi", true, size, "");
    sink.skip(0..5 << 40).unwrap();
    sink.put(5 << 40, &[7; 65536]).unwrap();
    sink.skip((5 << 40) + 65536..size).unwrap();
    sink.finish().unwrap();
    // Its map alone has 64 MiB.
    assert!(start.elapsed().as_secs() < 30, "{:?}", start.elapsed());
    let start = std::time::Instant::now();
    let disk = open(&image);
    let mut bytes = [0; 4];
    disk.read_at((5 << 40) + 10, &mut bytes).unwrap();
    assert_eq!(bytes, [7; 4]);
    assert!(start.elapsed().as_millis() < 100, "{:?}", start.elapsed());
    let mut at = 0;
    let mut data = 0;
    while at < size {
        for extent in disk.extents(at..size).unwrap() {
            if extent.content == Content::Data {
                data += extent.range.end - extent.range.start;
            }
            at = extent.range.end;
        }
    }
    assert!((65536..=MIB).contains(&data));
    qemu_img(&["info", text(&image)]);
}

fn open_writable(path: &Path) -> Vdi {
    let container = Arc::new(FileDisk::open_writable(path).unwrap());
    Vdi::open_writable(container, &Beside::new(path)).unwrap()
}

#[test]
fn edits_in_place_are_what_qemu_img_reads_and_leave_it_sound() {
    let size = 23 * MIB + 512;
    for (seed, words) in ["static=off", "static=on"].iter().enumerate() {
        let (folder, raw) = raw_source(size);
        let mut model = std::fs::read(&raw).unwrap();
        let image = folder.path().join("image.vdi");
        qemu_img(&["convert", "-O", "vdi", "-o", words, text(&raw), text(&image)]);
        let before = open(&image).info().unwrap().details[1].1.clone();
        let disk = open_writable(&image);
        // What is discarded becomes a hole of the file, to the byte.
        edit(&disk, &mut model, seed as u64, 150, Some(1));
        assert!(read_all(&disk) == model, "{words}");
        extents(&disk);
        disk.flush().unwrap();
        drop(disk);
        std::fs::write(&raw, &model).unwrap();
        must_be_sound_and_equal("vdi", &image, &raw);
        assert_ne!(open(&image).info().unwrap().details[1].1, before);
    }
    let disk = Vdi::open(Arc::new(MemoryDisk::new("m", small())), &NoNeighbours).unwrap();
    assert_eq!(disk.write_at(0, &[1]).unwrap_err().kind, Kind::ReadOnly);
}

/// An image of 4 MiB with data in its second and fourth MiB.
fn small() -> Vec<u8> {
    let folder = image_judges::folder();
    let sink = sink(folder.path(), "small.vdi", true, 4 * MIB, "");
    sink.skip(0..MIB).unwrap();
    sink.put(MIB, &pattern(1, 1 << 20)).unwrap();
    sink.skip(2 * MIB..3 * MIB).unwrap();
    sink.put(3 * MIB, &pattern(2, 1 << 20)).unwrap();
    sink.finish().unwrap();
    std::fs::read(folder.path().join("small.vdi")).unwrap()
}

fn with(bytes: &[u8], at: usize, new: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    bytes[at..at + new.len()].copy_from_slice(new);
    bytes
}

/// A differencing disk of nothing but unallocated blocks, over `parent`, as VirtualBox makes it: with a UUID of its own.
fn child(parent: &[u8], id: u8) -> Vec<u8> {
    let map = 1 << 20;
    let mut child = with(&parent[..2 << 20], map, &[0xff; 16]);
    child[76] = 4;
    child[388..392].fill(0);
    child[392..408].fill(id);
    child[408..424].fill(id + 1);
    child[424..440].copy_from_slice(&parent[392..408]);
    child[440..456].copy_from_slice(&parent[408..424]);
    child
}

#[test]
fn the_parent_of_a_differencing_disk_is_found_by_what_it_is() {
    let folder = image_judges::folder();
    let path = |name: &str| folder.path().join(name);
    let base = small();
    let first = child(&base, 0x11);
    let second = child(&first, 0x33);
    // As VirtualBox names them, and the base under any name.
    std::fs::write(path("{11111111-1111-1111-1111-111111111111}.vdi"), &first).unwrap();
    std::fs::write(path("some name"), &base).unwrap();
    std::fs::write(path("other.vdi"), with(&base, 392, &[9])).unwrap();
    assert!(
        std::process::Command::new("mkfifo")
            .arg(path("pipe"))
            .status()
            .unwrap()
            .success()
    );
    let top = path("top.vdi");
    std::fs::write(&top, &second).unwrap();
    let mut model = vec![0; 4 << 20];
    model[1 << 20..2 << 20].copy_from_slice(&pattern(1, 1 << 20));
    model[3 << 20..].copy_from_slice(&pattern(2, 1 << 20));
    let disk = open(&top);
    assert!(read_all(disk.as_ref()) == model);
    // Of the files that were looked at only those that it stands on belong to it.
    let beside = Beside::new(&top);
    let again = image::open(Arc::new(FileDisk::open(&top).unwrap()), None, &beside).unwrap();
    let mut files: Vec<_> = beside
        .opened()
        .iter()
        .map(|file| file.file_name().unwrap().to_owned())
        .collect();
    files.sort();
    assert_eq!(files, ["some name", "{11111111-1111-1111-1111-111111111111}.vdi"]);
    drop(again);
    let map = extents(disk.as_ref());
    assert!(
        map.iter()
            .any(|(range, content)| *content == Content::Hole && range.start == 0)
    );
    let info = disk.info().unwrap();
    assert_eq!(info.subformat.as_deref(), Some("differencing"));
    assert_eq!(
        info.backing.unwrap().name,
        "{11111111-1111-1111-1111-111111111111}.vdi"
    );
    let chain = image::chain(&top, None).unwrap();
    let mut depths = Vec::new();
    map_chain(&chain, &mut |run| {
        depths.push((run.depth, run.mapping.start));
        Ok(())
    })
    .unwrap();
    assert_eq!(depths, [(2, 0), (2, MIB), (2, 2 * MIB), (2, 3 * MIB)]);
    let alone = Described::alone(&top, None).unwrap().info;
    assert_eq!(alone.subformat.as_deref(), Some("differencing"));

    // Written, the parents stay as they are.
    let writing = open_writable(&top);
    edit(&writing, &mut model, 5, 60, None);
    writing.write_zeros(MIB..2 * MIB).unwrap();
    model[1 << 20..2 << 20].fill(0);
    assert!(read_all(&writing) == model);
    drop(writing);
    let disk = open(&top);
    assert!(read_all(disk.as_ref()) == model);
    assert_eq!(disk.check().unwrap(), Check::default());
    assert!(std::fs::read(path("some name")).unwrap() == base);

    // The base was written to since, or is not there.
    std::fs::write(path("some name"), with(&base, 408, &[1])).unwrap();
    let try_open = || image::open(Arc::new(FileDisk::open(&top).unwrap()), None, &Beside::new(&top));
    let error = try_open().unwrap_err();
    assert_eq!(error.kind, Kind::Unsafe);
    assert!(error.to_string().contains("was written to since"), "{error}");
    std::fs::remove_file(path("some name")).unwrap();
    let error = try_open().unwrap_err();
    assert_eq!(error.kind, Kind::NotFound);
    assert!(
        error.to_string().contains("differencing disk over the disk"),
        "{error}"
    );
    // A disk that stands on itself.
    let circle = with(&with(&second, 424, &[0x33; 16]), 440, &[0x34; 16]);
    std::fs::write(&top, &circle).unwrap();
    assert!(try_open().unwrap_err().to_string().contains("circle"));
}

#[test]
fn lies_are_refused_and_say_why() {
    let sound = small();
    let open = |bytes: Vec<u8>| Vdi::open(Arc::new(MemoryDisk::new("image", bytes)), &NoNeighbours);
    open(sound.clone()).unwrap();
    let lies: &[(usize, &[u8], Kind, &str)] = &[
        (68, &[1, 0, 0, 0], Kind::Unsupported, "version 0.1"),
        (76, &[3], Kind::Unsupported, "undo image"),
        (340, &[0xff; 4], Kind::Corrupt, "past the end of the file"),
        (368, &[0x7f; 8], Kind::Corrupt, "1 PiB is the most"),
        (384, &[0xff; 4], Kind::Corrupt, "past the end of the file"),
        (384, &[0; 4], Kind::Corrupt, "too few for its disk"),
    ];
    for (at, bytes, kind, expected) in lies {
        let error = open(with(&sound, *at, bytes)).unwrap_err();
        assert_eq!(error.kind, *kind, "{error}");
        assert!(error.to_string().contains(expected), "{error}");
    }
    for length in [0, 63, 100, 455, 1 << 20] {
        assert_eq!(open(sound[..length].to_vec()).unwrap_err().kind, Kind::Corrupt);
    }
    // Entries that lead astray are errors where they are met, and findings of a check; edits are refused.
    let map = 1 << 20;
    for (entry, expected) in [(7_u32, "past the end"), (0xffff_fffd, "past the end")] {
        let lie = with(&sound, map + 4, &entry.to_le_bytes());
        let disk = open(lie.clone()).unwrap();
        let error = disk.read_at(MIB, &mut [0; 10]).unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
        assert!(!disk.check().unwrap().errors.is_empty());
        let container = Arc::new(MemoryDisk::new("image", lie));
        assert_eq!(
            Vdi::open_writable(container, &NoNeighbours).unwrap_err().kind,
            Kind::Unsafe
        );
    }
    let disk = open(sound[..(2 << 20) + 1000].to_vec()).unwrap();
    assert!(disk.read_at(MIB, &mut [0; 2000]).is_err());
}

#[test]
fn a_check_finds_what_qemu_img_check_finds() {
    let folder = image_judges::folder();
    let path = folder.path().join("image.vdi");
    let sound = small();
    let map = 1 << 20;
    for (at, bytes) in [
        (map + 4, 9_u32.to_le_bytes()),
        (map + 4, 1_u32.to_le_bytes()),
        (map + 4, u32::MAX.to_le_bytes()),
        (388, 7_u32.to_le_bytes()),
    ] {
        let damaged = with(&sound, at, &bytes);
        std::fs::write(&path, &damaged).unwrap();
        let found = open(&path).check().unwrap();
        let judge = run("qemu-img", &["check", "--output=json", text(&path)]);
        let judge: serde_json::Value = serde_json::from_slice(&judge.stdout).unwrap();
        assert!(judge["corruptions"].as_u64() > Some(0), "{judge}");
        assert!(!found.errors.is_empty(), "{judge}");
    }
    // What nothing refers to, qemu-img does not look for.
    let leaking = [sound, vec![0; 3 << 20]].concat();
    std::fs::write(&path, leaking).unwrap();
    assert_eq!(open(&path).check().unwrap().leaked, 3 * MIB);
}

#[test]
fn a_disk_that_virtualbox_made_is_read_as_qemu_img_reads_it() {
    let Some(samples) = std::env::var_os("REHOME_SAMPLES") else {
        eprintln!("skipped: REHOME_SAMPLES is not set");
        return;
    };
    let sample = PathBuf::from(samples).join("disk/vdi-hoho-os/hdd.vdi");
    let folder = image_judges::folder();
    let raw = folder.path().join("raw");
    qemu_img(&["convert", "-O", "raw", text(&sample), text(&raw)]);
    must_be_sound_and_equal("vdi", &sample, &raw);
    let info = open(&sample).info().unwrap();
    assert_eq!(info.details[3].1, "Converted image from hdd.img");
    let copy = folder.path().join("copy.vdi");
    std::fs::copy(&sample, &copy).unwrap();
    let mut permissions = copy.metadata().unwrap().permissions();
    std::os::unix::fs::PermissionsExt::set_mode(&mut permissions, 0o600);
    std::fs::set_permissions(&copy, permissions).unwrap();
    let mut model = std::fs::read(&raw).unwrap();
    let disk = open_writable(&copy);
    edit(&disk, &mut model, 9, 40, Some(1));
    drop(disk);
    std::fs::write(&raw, model).unwrap();
    must_be_sound_and_equal("vdi", &copy, &raw);
}
