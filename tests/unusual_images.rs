//! Images that are legal and seldom seen, and damaged ones that a careless program would take for sound. What must not
//! happen is wrong data without an error.

// Clippy's exemption for tests does not reach the functions that they share.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic
)]

mod image_judges;

use image_judges::{MIB, open, pattern, qemu_img, qemu_io, read_all, text};
use rehome::{
    disk::{Disk, Error, FileDisk, Kind, MemoryDisk, Result},
    image::{
        self, Beside, Format, Image, NoNeighbours,
        deflate::{self, Method},
        detect, open_writable,
        vmdk::ForwardVmdk,
    },
};
use std::{
    fs,
    io::Cursor,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
};
use tempfile::TempDir;

/// A raw disk of 4 MiB with 64 KiB of data at each of `places`, and an image of it.
fn image_of(places: &[u64], format: &str, options: &str) -> (TempDir, PathBuf, Vec<u8>) {
    let folder = image_judges::folder();
    let (raw, image) = (folder.path().join("raw"), folder.path().join("image"));
    let mut bytes = vec![0; 4 * MIB as usize];
    for place in places {
        bytes[*place as usize..*place as usize + 65536].copy_from_slice(&pattern(*place + 1, 65536));
    }
    fs::write(&raw, &bytes).unwrap();
    let convert = ["convert", "-f", "raw", "-O", format, "-o", options];
    qemu_img(&[&convert[..], &[text(&raw), text(&image)]].concat());
    (folder, image, bytes)
}

fn edit(path: &Path, format: Format) -> Result<Arc<dyn Image>> {
    let container = Arc::new(FileDisk::open_writable(path).unwrap());
    open_writable(container, format, &Beside::new(path))
}

#[track_caller]
fn refused(kind: Kind, text: &str, error: &Error) {
    assert_eq!(error.kind, kind, "{error}");
    assert!(error.to_string().contains(text), "{error}");
}

fn put(bytes: &mut [u8], at: usize, new: &[u8]) {
    bytes[at..at + new.len()].copy_from_slice(new);
}

fn u64_be(bytes: &[u8], at: usize) -> u64 {
    u64::from_be_bytes(bytes[at..at + 8].try_into().unwrap())
}

#[test]
fn what_was_cut_short_is_not_edited() {
    for (format, options) in [
        (Format::Qcow2, "compat=1.1"),
        (Format::Vmdk, "subformat=monolithicSparse"),
    ] {
        let (folder, path, _) = image_of(&[0, MIB], format.name(), options);
        let whole = fs::read(&path).unwrap();
        fs::write(&path, &whole[..whole.len() - 65536]).unwrap();
        let error = edit(&path, format).unwrap_err();
        refused(Kind::Unsafe, "is not sound", &error);
        let raw = folder.path().join("raw");
        let output = Command::new(env!("CARGO_BIN_EXE_rehome"))
            .args(["image", "convert", "-n", "-O", format.name(), text(&raw)])
            .args([text(&path), "--yes-erase", text(&path)])
            .output()
            .unwrap();
        assert!(!output.status.success(), "{output:?}");
        assert!(fs::read(&path).unwrap() == whole[..whole.len() - 65536]);
    }
}

#[test]
fn a_cluster_that_is_counted_behind_the_end_is_not_taken() {
    let (_folder, path, mut model) = image_of(&[0], "qcow2", "compat=1.1");
    let mut bytes = fs::read(&path).unwrap();
    let end = bytes.len() as u64;
    let table = u64_be(&bytes, 48) as usize;
    let block = u64_be(&bytes, table) as usize;
    put(&mut bytes, block + end as usize / 65536 * 2, &[0, 1]);
    fs::write(&path, &bytes).unwrap();
    let image = edit(&path, Format::Qcow2).unwrap();
    image.write_at(MIB, &[7; 65536]).unwrap();
    model[MIB as usize..MIB as usize + 65536].fill(7);
    let map = image.map(MIB..MIB + 65536).unwrap();
    assert_eq!(map[0].offset, Some(end + 65536));
    assert!(read_all(image.as_ref()) == model);
    let found = image.check().unwrap();
    assert_eq!((found.errors.len(), found.leaked), (0, 65536));
}

#[test]
fn a_new_block_of_a_vdi_goes_behind_all_others() {
    let (_folder, path, mut model) = image_of(&[0, MIB, 3 * MIB], "vdi", "static=off");
    let mut bytes = fs::read(&path).unwrap();
    let map = u32::from_le_bytes(bytes[340..344].try_into().unwrap()) as usize;
    // The block in the middle is given up; its place becomes a gap.
    put(&mut bytes, map + 4, &[0xff; 4]);
    put(&mut bytes, 388, &[2, 0, 0, 0]);
    model[MIB as usize..2 * MIB as usize].fill(0);
    fs::write(&path, &bytes).unwrap();
    let image = edit(&path, Format::Vdi).unwrap();
    image.write_at(2 * MIB, &[5; 1000]).unwrap();
    model[2 * MIB as usize..2 * MIB as usize + 1000].fill(5);
    assert!(read_all(image.as_ref()) == model);
    drop(image);
    assert!(read_all(open(&path).as_ref()) == model);
    qemu_img(&["check", "-f", "vdi", text(&path)]);
}

#[test]
fn what_lies_behind_the_last_block_of_a_vdi_is_cut_off() {
    let (_folder, path, model) = image_of(&[0, 3 * MIB], "vdi", "static=off");
    let mut bytes = fs::read(&path).unwrap();
    bytes.resize(bytes.len() + 2 * MIB as usize, 9);
    fs::write(&path, &bytes).unwrap();
    let image = edit(&path, Format::Vdi).unwrap();
    assert_eq!(image.check().unwrap().leaked, 2 * MIB);
    assert_eq!(image.repair_leaks().unwrap(), 2 * MIB);
    assert_eq!(image.check().unwrap(), image::Check::default());
    assert!(read_all(image.as_ref()) == model);
}

#[test]
fn places_of_a_vdi_beyond_all_numbers_are_errors() {
    let (_folder, path, _) = image_of(&[0], "vdi", "static=off");
    let mut bytes = fs::read(&path).unwrap();
    let map = u32::from_le_bytes(bytes[340..344].try_into().unwrap()) as usize;
    put(&mut bytes, map, &[0xfd, 0xff, 0xff, 0xff]);
    put(&mut bytes, 376, &[0, 0, 0, 0x80, 0xff, 0xff, 0xff, 0xff]);
    let container = Arc::new(MemoryDisk::new("image", bytes));
    let image = image::open(container, Some(Format::Vdi), &NoNeighbours).unwrap();
    let error = image.read_at(0, &mut [0; 512]).unwrap_err();
    refused(Kind::Corrupt, "end", &error);
    assert!(image.extents(0..MIB).is_err() && image.map(0..MIB).is_err());
    assert!(!image.check().unwrap().errors.is_empty());
}

/// The streamOptimized image `bytes` as it comes through a pipe.
fn forward(bytes: &[u8]) -> Result<ForwardVmdk> {
    ForwardVmdk::open(
        "pipe",
        &bytes[..512],
        Box::new(Cursor::new(bytes[512..].to_vec())),
    )
}

fn find(bytes: &[u8], wanted: &[u8]) -> usize {
    let mut windows = bytes.windows(wanted.len());
    windows.position(|window| window == wanted).unwrap()
}

#[test]
fn a_stream_is_not_read_without_its_parent() {
    let (_folder, path, model) = image_of(&[0, MIB], "vmdk", "subformat=streamOptimized");
    let mut bytes = fs::read(&path).unwrap();
    let mut all = vec![0; model.len()];
    forward(&bytes).unwrap().read_at(0, &mut all).unwrap();
    assert!(all == model);
    let line = find(&bytes, b"parentCID=ffffffff");
    put(&mut bytes, line, b"parentCID=12345678");
    let error = forward(&bytes).unwrap_err();
    refused(Kind::Unsupported, "stands on another image", &error);
    put(&mut bytes, line, b"encryptionKeys=abc");
    let error = forward(&bytes).unwrap_err();
    refused(Kind::Unsupported, "is encrypted", &error);
}

#[test]
fn a_grain_of_a_stream_that_is_too_short_is_an_error() {
    let (_folder, path, _) = image_of(&[0, MIB], "vmdk", "subformat=streamOptimized");
    let mut bytes = fs::read(&path).unwrap();
    let overhead = u64::from_le_bytes(bytes[64..72].try_into().unwrap());
    let grain = overhead as usize * 512;
    let mut packed = Vec::new();
    deflate::compress(Method::VMDK, &[1; 1000], &mut packed);
    let there = u32::from_le_bytes(bytes[grain + 8..grain + 12].try_into().unwrap());
    assert!(packed.len() < there as usize);
    // What follows the packed bytes is padding, as the length that is said stays.
    put(&mut bytes, grain + 12, &packed);
    let error = forward(&bytes).unwrap().read_at(0, &mut [0; 4096]).unwrap_err();
    refused(Kind::Corrupt, "it gives 1000 bytes where 65536", &error);
}

/// A tar of `names`, in that order; a name that ends with / is a folder.
fn tar(folder: &Path, names: &[&str]) -> Vec<u8> {
    for name in names {
        match name.strip_suffix('/') {
            Some(name) => fs::create_dir(folder.join(name)).unwrap(),
            None => fs::write(folder.join(name), [7; 70_000]).unwrap(),
        }
    }
    let command = Command::new("tar")
        .args(["--format=gnu", "-cf", "-"])
        .args(names)
        .current_dir(folder)
        .output()
        .unwrap();
    assert!(command.status.success());
    command.stdout
}

#[test]
fn a_tar_is_a_package_or_nothing_that_is_read() {
    let long = format!("{}/", "n".repeat(150));
    for names in [
        &["disk.vmdk", "server.ovf"][..],
        &["server.mf", "disk.vmdk", "server.OVF"],
        &[&long, "server.ovf"],
    ] {
        let folder = image_judges::folder();
        let bytes = tar(folder.path(), names);
        let format = detect(&MemoryDisk::new("image", bytes)).unwrap();
        assert_eq!(format, Format::Ova, "{names:?}");
    }
    let folder = image_judges::folder();
    let mut bytes = tar(folder.path(), &["disk.vmdk", "server.txt"]);
    let error = detect(&MemoryDisk::new("image", bytes.clone())).unwrap_err();
    refused(Kind::Unsupported, "is a tar archive", &error);
    // As the first part of a stream is: what else is in it will be seen.
    let beginning = bytes[..65536].to_vec();
    assert_eq!(detect(&MemoryDisk::new("image", beginning)).unwrap(), Format::Ova);
    bytes[148] ^= 1;
    assert_eq!(
        detect(&MemoryDisk::new("image", bytes)).unwrap(),
        Format::Raw,
        "a disk that has such a magic by chance"
    );
}

#[test]
fn both_formats_of_encase_are_refused_by_name() {
    for magic in [&b"EVF\x09\x0d\x0a\xff\x00"[..], b"EVF2\x0d\x0a\x81\x00"] {
        let mut bytes = vec![0; 4096];
        put(&mut bytes, 0, magic);
        let error = detect(&MemoryDisk::new("image", bytes)).unwrap_err();
        refused(Kind::Unsupported, "EnCase", &error);
    }
}

#[test]
fn extensions_of_an_old_qcow2_end_at_the_name_of_its_backing_file() {
    let folder = image_judges::folder();
    let path = folder.path().join("old.qcow2");
    let base = folder.path().join("base.raw");
    fs::write(&base, pattern(3, 1 << 20)).unwrap();
    let create = [
        "create",
        "-q",
        "-f",
        "qcow2",
        "-o",
        "compat=0.10",
        text(&path),
        "1M",
    ];
    qemu_img(&create);
    let mut bytes = fs::read(&path).unwrap();
    put(&mut bytes, 8, &88_u64.to_be_bytes());
    put(&mut bytes, 16, &8_u32.to_be_bytes());
    // No end mark: qemu wrote none where it had no room.
    put(&mut bytes, 72, b"\xe2\x79\x2a\xca\0\0\0\x03raw\0\0\0\0\0base.raw");
    fs::write(&path, &bytes).unwrap();
    assert!(read_all(open(&path).as_ref()) == fs::read(&base).unwrap());
    qemu_img(&["compare", "-f", "qcow2", "-F", "raw", text(&path), text(&base)]);
}

#[test]
fn a_check_of_a_qcow2_that_names_one_table_for_ever_ends() {
    let folder = image_judges::folder();
    let path = folder.path().join("image.qcow2");
    let create = ["create", "-q", "-f", "qcow2", "-o", "cluster_size=2M"];
    qemu_img(&[&create[..], &[text(&path), "32T"]].concat());
    qemu_io(&["write -P 1 0 64k"], &path);
    let image = edit(&path, Format::Qcow2).unwrap();
    assert_eq!(image.check().unwrap(), image::Check::default());
    drop(image);
    let disk = FileDisk::open_writable(&path).unwrap();
    let mut header = [0; 512];
    disk.read_at(0, &mut header).unwrap();
    let first_level = u64_be(&header, 40);
    let mut entry = [0; 8];
    disk.read_at(first_level, &mut entry).unwrap();
    disk.write_at(first_level, &entry.repeat(64)).unwrap();
    let error = open(&path).check().unwrap_err();
    refused(Kind::Corrupt, "more second-level tables than", &error);
}

#[test]
fn a_check_does_not_read_the_tables_of_endless_snapshots() {
    let folder = image_judges::folder();
    let path = folder.path().join("image.qcow2");
    qemu_img(&["create", "-q", "-f", "qcow2", text(&path), "1M"]);
    let disk = FileDisk::open_writable(&path).unwrap();
    let table = disk.size().next_multiple_of(65536);
    let first_level = table + 65536;
    disk.set_size(first_level + (32 << 20)).unwrap();
    // "Snapshot table": place and entries of the first-level table, lengths of identifier and name, ..., extra data.
    let mut entry = vec![0; 64];
    put(&mut entry, 0, &first_level.to_be_bytes());
    put(&mut entry, 8, &(4_u32 << 20).to_be_bytes());
    put(&mut entry, 12, &[0, 1, 0, 0]);
    put(&mut entry, 36, &16_u32.to_be_bytes());
    put(&mut entry, 48, &MIB.to_be_bytes());
    put(&mut entry, 56, b"1");
    disk.write_at(table, &entry.repeat(500)).unwrap();
    disk.write_at(60, &500_u32.to_be_bytes()).unwrap();
    disk.write_at(64, &table.to_be_bytes()).unwrap();
    let error = open(&path).check().unwrap_err();
    refused(Kind::Unsupported, "too many snapshots", &error);
}

#[test]
fn a_cid_between_blanks_is_renewed_by_an_edit() {
    let (_folder, path, _) = image_of(&[0], "vmdk", "subformat=monolithicSparse");
    let mut bytes = fs::read(&path).unwrap();
    let line = find(&bytes, b"\nCID=") + 1;
    let end = line + bytes[line..].iter().position(|byte| *byte == 0).unwrap();
    let text = [b"CID = ", &bytes[line + 4..end]].concat();
    put(&mut bytes, line, &text);
    fs::write(&path, &bytes).unwrap();
    let image = edit(&path, Format::Vmdk).unwrap();
    image.write_at(MIB, &[1; 512]).unwrap();
    drop(image);
    let after = fs::read(&path).unwrap();
    assert_eq!(&after[line..line + 6], b"CID = ");
    assert_ne!(after[line..line + 14], bytes[line..line + 14]);
    // A number that is read, and that nothing can be put in the place of.
    put(&mut bytes, line, b"CID =+");
    fs::write(&path, &bytes).unwrap();
    let error = edit(&path, Format::Vmdk)
        .unwrap()
        .write_at(MIB, &[1; 512])
        .unwrap_err();
    refused(Kind::Unsafe, "has a CID that cannot be replaced", &error);
}

#[test]
fn parts_that_do_not_fit_are_refused_in_one_sentence() {
    let folder = image_judges::folder();
    for (name, length) in [("disk.001", 4096), ("disk.002", 512), ("disk.003", 4096)] {
        fs::write(folder.path().join(name), vec![1; length]).unwrap();
    }
    let output = Command::new(env!("CARGO_BIN_EXE_rehome"))
        .args(["image", "info", text(&folder.path().join("disk.001"))])
        .output()
        .unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("it was cut short, or belongs to"), "{said}");
}
