//! What can't be edited safely is refused by name, with the cure.

use crate::image::Image;
use rehome::{
    disk::{Error, Kind, MemoryDisk},
    fs::{FileSystem, ext4::Ext4},
};
use std::sync::Arc;

const MEBIBYTE: u64 = 1 << 20;

fn refused(image: &Image, kind: Kind, words: &[&str]) {
    let mut fs = image.open();
    // Reading works.
    fs.list(fs.root(), &mut |_, _| true).unwrap();
    let error = fs.edit().err().unwrap();
    check(&error, kind, words);
}

fn check(error: &Error, kind: Kind, words: &[&str]) {
    let text = error.to_string();
    assert_eq!(error.kind, kind, "{text}");
    for word in words {
        assert!(text.contains(word), "{word}: {text}");
    }
}

/// Changes a 16-bit or 32-bit field of the superblock of a filesystem without checksums.
fn poke(image: &Image, at: u64, bytes: &[u8]) {
    image.disk().write_at(1024 + at, bytes).unwrap();
}

const PLAIN: [&str; 4] = ["-t", "ext4", "-O", "^metadata_csum"];

#[test]
fn quota() {
    let image = Image::make_sparse(24 * MEBIBYTE, &["-t", "ext4", "-O", "quota"]);
    refused(&image, Kind::Unsupported, &["quota", "tune2fs -O ^quota"]);
}

#[test]
fn bigalloc() {
    let image = Image::make_sparse(64 * MEBIBYTE, &["-t", "ext4", "-O", "bigalloc"]);
    refused(&image, Kind::Unsupported, &["bigalloc"]);
}

#[test]
fn errors_flagged() {
    let image = Image::make_sparse(24 * MEBIBYTE, &["-t", "ext4"]);
    image.debugfs("ssv state 2");
    refused(&image, Kind::Unsafe, &["errors", "e2fsck -f"]);
}

#[test]
fn not_unmounted_and_without_a_journal() {
    let image = Image::make_sparse(24 * MEBIBYTE, &["-t", "ext2"]);
    image.debugfs("ssv state 0");
    refused(&image, Kind::Unsafe, &["not unmounted", "e2fsck -f"]);
    let mut runs = 0;
    let count = &mut |_| {
        runs += 1;
        Ok(())
    };
    image.open().free(count).unwrap();
    assert_eq!(runs, 0, "bitmaps that may be old say nothing of what is free");
}

#[test]
fn mounted_elsewhere() {
    let image = Image::make_sparse(24 * MEBIBYTE, &["-t", "ext4", "-O", "mmp"]);
    image.open().edit().unwrap();
    let block: u64 = image
        .debugfs("stats -h")
        .lines()
        .find_map(|line| line.strip_prefix("MMP block number:"))
        .map(|number| number.trim().parse().unwrap())
        .unwrap();
    image
        .disk()
        .write_at(block * 1024 + 4, &17_u32.to_le_bytes())
        .unwrap();
    refused(&image, Kind::Unsafe, &["multiple mount protection", "clear_mmp"]);
}

#[test]
fn an_unknown_read_only_feature() {
    let image = Image::make_sparse(24 * MEBIBYTE, &PLAIN);
    let features = image.open();
    drop(features);
    let mut bytes = [0; 4];
    image.disk().read_at(1024 + 0x64, &mut bytes).unwrap();
    let bits = u32::from_le_bytes(bytes) | 0x4000_0000;
    poke(&image, 0x64, &bits.to_le_bytes());
    refused(&image, Kind::Unsupported, &["0x40000000", "reading only"]);
}

#[test]
fn an_unknown_incompatible_feature() {
    let image = Image::make_sparse(24 * MEBIBYTE, &PLAIN);
    let mut bytes = [0; 4];
    image.disk().read_at(1024 + 0x60, &mut bytes).unwrap();
    let bits = u32::from_le_bytes(bytes) | 0x4000_0000;
    poke(&image, 0x60, &bits.to_le_bytes());
    let error = Ext4::open(image.disk()).unwrap_err();
    check(&error, Kind::Unsupported, &["FEATURE_I30", "raw"]);
}

#[test]
fn a_volume_that_is_cut_short() {
    let image = Image::make_sparse(24 * MEBIBYTE, &PLAIN);
    let mut bytes = std::fs::read(&image.path).unwrap();
    bytes.truncate(20 << 20);
    let error = Ext4::open(Arc::new(MemoryDisk::new("short", bytes))).unwrap_err();
    check(&error, Kind::Corrupt, &["cut short"]);
    let error = Ext4::open(Arc::new(MemoryDisk::new("empty", vec![0; 100]))).unwrap_err();
    check(&error, Kind::Corrupt, &["not ext2"]);
}

#[test]
fn an_external_journal() {
    let image = Image::make_sparse(24 * MEBIBYTE, &PLAIN);
    poke(&image, 0xe0, &0_u32.to_le_bytes());
    poke(&image, 0xe4, &0x0801_u32.to_le_bytes());
    refused(&image, Kind::Unsupported, &["journal is on another device"]);
}

#[test]
fn a_superblock_whose_checksum_is_wrong() {
    let image = Image::make_sparse(24 * MEBIBYTE, &["-t", "ext4"]);
    poke(&image, 0x10, &[1, 2, 3, 4]);
    let error = Ext4::open(image.disk()).unwrap_err();
    check(&error, Kind::Corrupt, &["superblock", "checksum"]);
}
