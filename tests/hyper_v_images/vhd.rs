//! VHD, fixed and dynamic.

use crate::{judge::*, making::*};
use rehome::{
    disk::{Content, Disk, FileDisk, Kind, MemoryDisk},
    image::{self, Check, Format, Image, NoNeighbours, vhd::Vhd},
};
use std::{path::Path, sync::Arc};

/// Recomputes the checksum of the footer at `at`.
pub(crate) fn seal(image: &mut [u8], at: usize) {
    seal_structure(image, at, 512, 64);
}

/// Recomputes the checksum at `place` of the structure of `length` bytes at `at`.
pub(crate) fn seal_structure(image: &mut [u8], at: usize, length: usize, place: usize) {
    let end = (at + length).min(image.len());
    let structure = &mut image[at..end];
    structure[place..place + 4].fill(0);
    let sum = !structure.iter().fold(0_u32, |sum, byte| sum + u32::from(*byte));
    structure[place..place + 4].copy_from_slice(&sum.to_be_bytes());
}

#[test]
fn everything_that_qemu_img_makes_is_read() {
    for size in [9 * MIB + 512, 512, 3 * MIB] {
        let (folder, raw) = raw_source(size);
        let expected = std::fs::read(&raw).unwrap();
        for options in [
            "subformat=dynamic",
            "subformat=fixed",
            "subformat=dynamic,force_size=on",
            "subformat=fixed,force_size=on",
        ] {
            let image = folder.path().join("image");
            qemu_img(&[
                "convert",
                "-f",
                "raw",
                "-O",
                "vpc",
                "-o",
                options,
                text(&raw),
                text(&image),
            ]);
            must_hold("vpc", &image, &expected);
            assert_eq!(open(&image).size(), virtual_size("vpc", &image));
            let named = image::open(
                Arc::new(FileDisk::open(&image).unwrap()),
                Some("vhd".parse().unwrap()),
                &NoNeighbours,
            );
            assert_eq!(named.unwrap().format(), Format::Vhd);
            std::fs::remove_file(&image).unwrap();
        }
    }
}

#[test]
fn what_qemu_io_writes_here_and_there_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let image = folder.path().join("image");
    qemu_img(&["create", "-q", "-f", "vpc", text(&image), "50M"]);
    let commands = [
        "write -P 1 45M 100k",
        "write -P 2 1M 3M",
        "write -P 3 20M 1k",
        "write -z 2M 1M",
    ];
    qemu_io("vpc", &commands, &image);
    must_agree("vpc", &image);
    let map = extents(open(&image).as_ref());
    assert!(map.iter().any(|(_, content)| *content == Content::Hole));
}

#[test]
fn the_size_is_the_one_that_qemu_decides_on() {
    let folder = tempfile::tempdir().unwrap();
    let image = folder.path().join("image");
    for options in ["force_size=on", "force_size=off", "subformat=fixed,force_size=on"] {
        qemu_img(&["create", "-q", "-f", "vpc", "-o", options, text(&image), "10M"]);
        let bytes = std::fs::read(&image).unwrap();
        for creator in [
            b"vpc ", b"qemu", b"qem2", b"win ", b"d2v ", b"tap\0", b"CTXS", b"xyz ",
        ] {
            // The geometry of 10 MiB, of something smaller, and the greatest.
            for geometry in [[1, 0x2d, 4, 17], [1, 0, 4, 17], [0xff, 0xff, 16, 255]] {
                let mut bytes = bytes.clone();
                let end = bytes.len() - 512;
                for at in if options.contains("fixed") {
                    vec![end]
                } else {
                    vec![0, end]
                } {
                    bytes[at + 28..at + 32].copy_from_slice(creator);
                    bytes[at + 56..at + 60].copy_from_slice(&geometry);
                    seal(&mut bytes, at);
                }
                std::fs::write(&image, bytes).unwrap();
                assert_eq!(
                    open(&image).size(),
                    virtual_size("vpc", &image),
                    "{options} {} {geometry:?}",
                    String::from_utf8_lossy(creator)
                );
            }
        }
    }
}

#[test]
fn azure_takes_whole_mebibytes() {
    let size = 5 * MIB + 512;
    let (folder, raw) = raw_source(size);
    let image = folder.path().join("image");
    let shape = shape(Format::Vhd, size, "azure=on");
    let sink = create(&image, &shape);
    pour(&FileDisk::open(&raw).unwrap(), &*sink, 2, 0, u64::MAX);
    sink.finish().unwrap();
    must_hold("vpc", &image, &std::fs::read(&raw).unwrap());
    assert_eq!(image.metadata().unwrap().len(), 6 * MIB + 512);
    let info = open(&image).info().unwrap();
    assert_eq!(info.subformat.as_deref(), Some("fixed"));
    assert!(
        info.details
            .contains(&("current size".to_owned(), (6 * MIB).to_string()))
    );
}

#[test]
fn sectors_that_the_bitmap_does_not_have_are_zeros_and_can_be_written() {
    let folder = tempfile::tempdir().unwrap();
    let image = folder.path().join("image");
    qemu_img(&[
        "create",
        "-q",
        "-f",
        "vpc",
        "-o",
        "force_size=on",
        text(&image),
        "4M",
    ]);
    qemu_io("vpc", &["write -P 5 0 2M"], &image);
    let mut bytes = std::fs::read(&image).unwrap();
    let place = u32::from_be_bytes(bytes[1536..1540].try_into().unwrap()) as usize * 512;
    // The specification wants zeros where a bit is not set; all but sectors 5 to 11 lose theirs.
    bytes[place..place + 512].fill(0);
    bytes[place] = 0b0000_0111;
    bytes[place + 1] = 0b1111_0000;
    bytes[place + 512..place + 512 + 5 * 512].fill(0);
    bytes[place + 512 + 12 * 512..place + 512 + (2 << 20)].fill(0);
    std::fs::write(&image, &bytes).unwrap();
    let mut model = vec![0; 4 << 20];
    model[5 * 512..12 * 512].fill(5);
    must_hold("vpc", &image, &model);
    assert_eq!(extents(open(&image).as_ref())[1].0, 5 * 512..12 * 512);
    for (at, length) in [(700, 100), (4 * 512 + 100, 5000), (20_000, 512), (1_000_000, 3)] {
        let new = pattern(at as u64, length);
        let disk =
            Vhd::open_writable(Arc::new(FileDisk::open_writable(&image).unwrap()), &NoNeighbours).unwrap();
        disk.write_at(at as u64, &new).unwrap();
        model[at..at + length].copy_from_slice(&new);
        drop(disk);
        must_hold("vpc", &image, &model);
    }
}

#[test]
fn images_that_must_not_be_written_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let image = folder.path().join("image");
    qemu_img(&["create", "-q", "-f", "vpc", text(&image), "4M"]);
    qemu_io("vpc", &["write -P 5 0 2M"], &image);
    let sound = std::fs::read(&image).unwrap();
    let end = sound.len() - 512;
    let refused = |bytes: Vec<u8>| {
        let container = Arc::new(MemoryDisk::new("image", bytes));
        Vhd::open_writable(container, &NoNeighbours).unwrap_err()
    };
    let mut suspended = sound.clone();
    for at in [0, end] {
        suspended[at + 84] = 1;
        seal(&mut suspended, at);
    }
    let error = refused(suspended);
    assert_eq!(error.kind, Kind::Unsafe);
    assert!(error.to_string().contains("suspended"), "{error}");
    let error = refused(sound[..end].to_vec());
    assert_eq!(error.kind, Kind::Unsafe);
    assert!(error.to_string().contains("footer at the end is gone"), "{error}");
    let reading = Vhd::open(Arc::new(MemoryDisk::new("image", sound)), &NoNeighbours).unwrap();
    assert_eq!(reading.write_at(0, &[1]).unwrap_err().kind, Kind::ReadOnly);
    assert_eq!(reading.write_zeros(0..1).unwrap_err().kind, Kind::ReadOnly);
    reading.discard(0..1).unwrap();
}

#[test]
fn a_lost_footer_is_said_and_an_old_one_is_known() {
    let folder = tempfile::tempdir().unwrap();
    let image = folder.path().join("image");
    qemu_img(&[
        "create",
        "-q",
        "-f",
        "vpc",
        "-o",
        "force_size=on",
        text(&image),
        "4M",
    ]);
    qemu_io("vpc", &["write -P 5 1M 2M"], &image);
    let mut model = vec![0; 4 << 20];
    model[1 << 20..3 << 20].fill(5);
    let sound = std::fs::read(&image).unwrap();
    let end = sound.len() - 512;
    let with = |at: usize| {
        let mut bytes = sound.clone();
        bytes[at] ^= 0xff;
        bytes
    };
    for (bytes, expected) in [
        (sound[..end].to_vec(), "the footer at the end is gone"),
        (with(end + 100), "the footer at the end is damaged"),
        (with(100), "copy of the footer at the beginning is damaged"),
    ] {
        std::fs::write(&image, bytes).unwrap();
        let disk = open(&image);
        assert!(read_all(disk.as_ref()) == model);
        let check = disk.check().unwrap();
        assert!(
            check.errors.len() == 1 && check.errors[0].contains(expected),
            "{check:?}"
        );
        let info = disk.info().unwrap();
        assert!(
            info.details
                .iter()
                .any(|(name, text)| name == "footer" && text.contains(expected))
        );
    }
    // Both are damaged: refused, by both of us.
    let mut bytes = with(100);
    bytes[end + 100] ^= 0xff;
    std::fs::write(&image, bytes).unwrap();
    assert_eq!(try_open(&image).unwrap_err().kind, Kind::Corrupt);
    assert!(
        !run("qemu-img", &["info", "-f", "vpc", text(&image)])
            .status
            .success()
    );
    // Before Virtual PC 2004 the last byte of the footer was not written.
    for options in ["subformat=fixed,force_size=on", "subformat=dynamic,force_size=on"] {
        qemu_img(&["create", "-q", "-f", "vpc", "-o", options, text(&image), "4M"]);
        qemu_io("vpc", &["write -P 5 1M 2M"], &image);
        let bytes = std::fs::read(&image).unwrap();
        std::fs::write(&image, &bytes[..bytes.len() - 1]).unwrap();
        let disk = open(&image);
        assert_eq!(disk.format(), Format::Vhd);
        assert!(read_all(disk.as_ref()) == model, "{options}");
        assert_eq!(disk.check().unwrap(), Check::default());
        // What grows gets a footer of today.
        let container = Arc::new(FileDisk::open_writable(&image).unwrap());
        let disk = Vhd::open_writable(container, &NoNeighbours).unwrap();
        disk.write_at(4 * MIB - 100, &[9; 100]).unwrap();
        drop(disk);
        let mut model = model.clone();
        model[(4 << 20) - 100..].fill(9);
        if options.contains("fixed") {
            assert!(read_all(open(&image).as_ref()) == model);
        } else {
            must_hold("vpc", &image, &model);
        }
    }
}

#[test]
fn a_raw_disk_that_ends_like_a_vhd_is_not_trusted_further_than_its_last_sector() {
    let folder = tempfile::tempdir().unwrap();
    let image = folder.path().join("image");
    qemu_img(&[
        "create",
        "-q",
        "-f",
        "vpc",
        "-o",
        "subformat=fixed,force_size=on",
        text(&image),
        "1M",
    ]);
    let fixed = std::fs::read(&image).unwrap();
    assert_eq!(open(&image).format(), Format::Vhd);
    // Longer or shorter than it says.
    for bytes in [fixed[512..].to_vec(), [vec![7; 512], fixed.clone()].concat()] {
        std::fs::write(&image, bytes).unwrap();
        let error = try_open(&image).unwrap_err();
        assert_eq!(error.kind, Kind::Unsupported);
        assert!(error.to_string().contains("ends like a VHD"), "{error}");
        let raw = image::open(
            Arc::new(FileDisk::open(&image).unwrap()),
            Some(Format::Raw),
            &NoNeighbours,
        );
        assert_eq!(raw.unwrap().size(), image.metadata().unwrap().len());
    }
    // A wrong checksum: nothing but a raw disk.
    let mut bytes = fixed.clone();
    let end = bytes.len() - 512;
    bytes[end + 70] ^= 1;
    std::fs::write(&image, &bytes).unwrap();
    assert_eq!(open(&image).format(), Format::Raw);
    // A fixed disk that begins like a dynamic one by its guest's doing is what its end says.
    let dynamic = folder.path().join("dynamic");
    qemu_img(&["create", "-q", "-f", "vpc", text(&dynamic), "1M"]);
    let mut bytes = fixed;
    bytes[..2048].copy_from_slice(&std::fs::read(&dynamic).unwrap()[..2048]);
    std::fs::write(&image, &bytes).unwrap();
    let disk = open(&image);
    assert_eq!(disk.info().unwrap().subformat.as_deref(), Some("fixed"));
    assert!(read_all(disk.as_ref()) == bytes[..1 << 20]);
}

#[test]
fn check_finds_overlaps_and_leaks() {
    let folder = tempfile::tempdir().unwrap();
    let image = folder.path().join("image");
    qemu_img(&["create", "-q", "-f", "vpc", text(&image), "10M"]);
    qemu_io("vpc", &["write -P 5 0 6M"], &image);
    let sound = std::fs::read(&image).unwrap();
    let entry = |index: usize| sound[1536 + index * 4..1540 + index * 4].to_vec();
    let check = |index: usize, new: &[u8]| {
        let mut bytes = sound.clone();
        bytes[1536 + index * 4..1540 + index * 4].copy_from_slice(new);
        std::fs::write(&image, bytes).unwrap();
        open(&image).check().unwrap()
    };
    assert_eq!(check(0, &entry(0)), Check::default());
    for (new, expected) in [
        (entry(1), "lies on the one before it"),
        (vec![0, 0, 0, 3], "lies on the allocation table"),
        (vec![0, 0, 0, 0], "lies on the copy of the footer"),
        (vec![0, 0, 0xff, 0], "reaches past the end"),
    ] {
        let found = check(0, &new);
        assert!(
            found.errors.iter().any(|error| error.contains(expected)),
            "{expected}: {found:?}"
        );
    }
    let found = check(1, &[0xff; 4]);
    assert!(found.errors.is_empty() && found.leaks.len() == 1, "{found:?}");
    assert_eq!(found.leaked, 2 * MIB + 512);
    // That one lies between others. The last one can be cut off.
    let repair = |path: &Path| {
        let container = Arc::new(FileDisk::open_writable(path).unwrap());
        let disk = Vhd::open_writable(container, &NoNeighbours).unwrap();
        let freed = disk.repair_leaks().unwrap();
        (freed, disk.check().unwrap())
    };
    let (freed, left) = repair(&image);
    assert_eq!((freed, left.leaked), (0, 2 * MIB + 512));
    check(2, &[0xff; 4]);
    let (freed, left) = repair(&image);
    assert_eq!(left, Check::default());
    assert_eq!(freed, 2 * MIB + 512);
    let mut model = vec![5; 10 << 20];
    model[4 << 20..].fill(0);
    must_hold("vpc", &image, &model);
    // A disk that is checked after it has grown.
    let container = Arc::new(FileDisk::open_writable(&image).unwrap());
    let disk = Vhd::open_writable(container, &NoNeighbours).unwrap();
    disk.write_at(9 * MIB, &[7; 100]).unwrap();
    assert_eq!(disk.check().unwrap(), Check::default());
}

#[test]
fn images_of_other_programs_are_read_as_qemu_img_reads_them() {
    let Some(samples) = samples() else { return };
    let folder = tempfile::tempdir().unwrap();
    for (sample, size) in [
        ("qemu/d2v-zerofilled.vhd.bz2", 263_454_720),
        ("qemu/hyperv2012r2-dynamic.vhd.bz2", 136_365_211_648),
        ("dfvfs/ext2.vhd", 4_212_736),
        ("plaso/image.vhd", 104_448),
    ] {
        let image = unpack(&samples, sample, folder.path());
        let disk = open(&image);
        assert_eq!((disk.format(), disk.size()), (Format::Vhd, size), "{sample}");
        assert_eq!(virtual_size("vpc", &image), size);
        assert_eq!(disk.check().unwrap(), Check::default(), "{sample}");
        if size < 1 << 30 {
            must_agree("vpc", &image);
        } else {
            assert_eq!(disk.extents(0..size).unwrap().len(), 1);
        }
        assert!(
            disk.info()
                .unwrap()
                .details
                .iter()
                .any(|(name, _)| name == "creator")
        );
    }
    // Broken ones: refused, and not for want of knowing the format.
    for (sample, expected) in [
        (
            "qemu/afl5.img.bz2",
            "dynamic disk header at byte 512, past the end",
        ),
        ("dfvfs/image.vhd", "checksum 0xfffff683"),
        ("dfvfs/image-differential.vhd", "checksum 0xfffff683"),
    ] {
        let error = try_open(&unpack(&samples, sample, folder.path())).unwrap_err();
        assert_eq!(error.kind, Kind::Corrupt, "{error}");
        assert!(error.to_string().contains(expected), "{error}");
    }
}
