//! Disks in several files: `NAME.001`, `NAME.002` and so on. `split` and `cat` are the judges.

// Clippy's exemption for tests does not reach the functions that they share.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic
)]

mod image_judges;

use image_judges::{Folder, MIB, extents, pour, qemu_img, raw_source, read_all, text};
use rehome::{
    disk::{Content, FileDisk, Kind},
    image::{self, Format, Shape, open_file},
};
use std::{
    path::{Path, PathBuf},
    process::Command,
};

/// Cuts `file` as `split` does, into parts that are called `stem` and then as the arguments say.
fn split(file: &Path, size: &str, arguments: &[&str], stem: &Path) {
    let done = Command::new("split")
        .args(["-b", size])
        .args(arguments)
        .args([file, stem])
        .status();
    assert!(done.unwrap().success());
}

fn with_suffix(stem: &Path, suffix: &str) -> PathBuf {
    PathBuf::from(format!("{}{suffix}", text(stem)))
}

#[test]
fn the_first_part_stands_for_all_of_the_disk() {
    let (folder, raw) = raw_source(11 * MIB + 512);
    let expected = std::fs::read(&raw).unwrap();
    let stem = folder.path().join("disk.img.");
    for (arguments, first) in [
        (vec!["--numeric-suffixes=1", "-a", "3"], "001"),
        (vec!["-d", "-a", "3"], "000"),
        (vec![], "aa"),
    ] {
        split(&raw, "2M", &arguments, &stem);
        let disk = open_file(&with_suffix(&stem, first), None).unwrap();
        assert_eq!(disk.format(), Format::Raw);
        assert!(disk.label().contains(" to disk.img."), "{}", disk.label());
        assert!(read_all(disk.as_ref()) == expected, "{first}");
        extents(disk.as_ref());
        for part in folder.path().read_dir().unwrap() {
            let part = part.unwrap().path();
            if part != raw {
                std::fs::remove_file(part).unwrap();
            }
        }
    }
}

#[test]
fn what_the_parts_hold_is_told_by_its_magic() {
    let (folder, raw) = raw_source(11 * MIB);
    let image = folder.path().join("image");
    qemu_img(&[
        "convert",
        "-O",
        "qcow2",
        "-o",
        "cluster_size=4k",
        text(&raw),
        text(&image),
    ]);
    let stem = folder.path().join("disk.");
    split(&image, "1M", &["--numeric-suffixes=1", "-a", "3"], &stem);
    let disk = open_file(&with_suffix(&stem, "001"), None).unwrap();
    assert_eq!(disk.format(), Format::Qcow2);
    assert!(read_all(disk.as_ref()) == std::fs::read(&raw).unwrap());
}

#[test]
fn what_is_no_series_stays_as_it_is_and_a_broken_one_is_refused() {
    let folder = image_judges::folder();
    let path = |name: &str| folder.path().join(name);
    let write = |name: &str, size: usize| std::fs::write(path(name), vec![1; size]).unwrap();
    write("alone.001", 5000);
    assert_eq!(open_file(&path("alone.001"), None).unwrap().size(), 5000);
    // Not the first.
    write("disk.001", 4096);
    write("disk.002", 4096);
    write("disk.003", 100);
    assert_eq!(open_file(&path("disk.001"), None).unwrap().size(), 8292);
    assert_eq!(open_file(&path("disk.002"), None).unwrap().size(), 4096);
    // A name without a number takes the first file alone.
    std::os::unix::fs::symlink(path("disk.001"), path("first")).unwrap();
    assert_eq!(open_file(&path("first"), None).unwrap().size(), 4096);
    let refused = |expected: &str, kind: Kind| {
        let error = open_file(&path("disk.001"), None).unwrap_err();
        assert_eq!(error.kind, kind, "{error}");
        assert!(error.to_string().contains(expected), "{error}");
    };
    write("disk.002", 4000);
    refused("has 4000 bytes where the first has 4096", Kind::Corrupt);
    write("disk.002", 4096);
    write("disk.003", 5000);
    refused("has 5000 bytes", Kind::Corrupt);
    write("disk.003", 4096);
    write("disk.005", 1);
    refused("disk.004 is missing, though disk.005 is there", Kind::Corrupt);
    std::fs::remove_file(path("disk.005")).unwrap();
    assert_eq!(open_file(&path("disk.001"), None).unwrap().size(), 12288);
    write("disk.000", 1);
    refused(
        "second part of a series that begins with disk.000",
        Kind::Unsupported,
    );
}

fn shape(size: u64, words: &str) -> Shape {
    let mut options = image::Options::default();
    options.add(words).unwrap();
    Shape {
        format: Format::Raw,
        size,
        sector_size: 512,
        options,
    }
}

#[test]
fn a_disk_is_written_in_parts_and_goes_on_where_it_was_killed() {
    let size = 11 * MIB + 512;
    let (source_folder, raw) = raw_source(size);
    let source = FileDisk::open(&raw).unwrap();
    for (words, first, count) in [
        ("split=2M", "disk.001", 6),
        ("split=3M,preallocation=full", "disk.aa", 4),
        ("split=1G", "disk.000", 1),
    ] {
        let folder = image_judges::folder();
        let path = folder.path();
        let shape = shape(size, words);
        let sink = |fresh| {
            let mut files = Folder {
                path,
                name: first,
                fresh,
                size: image::initial_size(&shape),
            };
            image::create(&shape, &mut files).unwrap()
        };
        let killed = sink(true);
        pour(&source, killed.as_ref(), 2, 0, 8 * MIB);
        killed.checkpoint().unwrap();
        drop(killed);
        let last = sink(false);
        last.keep(0..6 * MIB).unwrap();
        pour(&source, last.as_ref(), 3, 6 * MIB, u64::MAX);
        last.finish().unwrap();
        let parts = image::parts(&path.join(first));
        assert_eq!(parts.len(), count, "{words}");
        let whole: Vec<u8> = parts
            .iter()
            .flat_map(|part| std::fs::read(part).unwrap())
            .collect();
        assert!(whole == std::fs::read(&raw).unwrap(), "{words}");
        assert!(read_all(open_file(&path.join(first), None).unwrap().as_ref()) == whole);
    }
    drop(source_folder);
}

#[test]
fn parts_that_could_not_be_found_again_are_refused() {
    let folder = image_judges::folder();
    let create = |name: &str, size: u64, words: &str| {
        let mut files = Folder {
            path: folder.path(),
            name,
            fresh: true,
            size: 0,
        };
        let refused = image::create(&shape(size, words), &mut files).err().unwrap();
        assert_eq!(refused.kind, Kind::Unsupported);
        let _ = std::fs::remove_file(folder.path().join(name));
        refused.to_string()
    };
    assert!(create("disk.raw", 8 * MIB, "split=2M").contains("NAME.001"));
    assert!(create("disk.001", 8 * MIB, "split=100k").contains("whole MiB"));
    assert!(create("disk.001", 8 * MIB, "split=0").contains("whole MiB"));
    assert!(create("disk.aa", 1 << 40, "split=1M").contains("choose larger ones"));
}

#[test]
fn samples_of_others_are_joined() {
    let Some(samples) = std::env::var_os("REHOME_SAMPLES") else {
        eprintln!("skipped: REHOME_SAMPLES is not set");
        return;
    };
    let folder = PathBuf::from(samples).join("disk/dfvfs");
    let disk = open_file(&folder.join("ext2.splitraw.000"), None).unwrap();
    let parts = ["000", "001"].map(|n| std::fs::read(folder.join(format!("ext2.splitraw.{n}"))).unwrap());
    assert!(read_all(disk.as_ref()) == parts.concat());
    let error = open_file(&folder.join("ext2.splitraw.001"), None).unwrap_err();
    assert!(error.to_string().contains("ext2.splitraw.000"), "{error}");
    // The only file of its name.
    assert_eq!(open_file(&folder.join("bogus.001"), None).unwrap().size(), 51200);
    let map = extents(disk.as_ref());
    assert!(map.iter().any(|(_, content)| *content == Content::Data));
}
