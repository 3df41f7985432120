//! VHDX, fixed and dynamic.

use crate::{judge::*, making::*};
use rehome::{
    disk::{Content, Disk, FileDisk, Kind, MemoryDisk, Overlay},
    image::{self, Beside, Check, Format, Image, NoNeighbours, vhdx::Vhdx},
};
use std::{path::Path, sync::Arc};

#[test]
fn everything_that_qemu_img_makes_is_read() {
    for size in [18 * MIB + 512, 512] {
        let (folder, raw) = raw_source(size);
        let expected = std::fs::read(&raw).unwrap();
        for options in [
            "subformat=dynamic",
            "subformat=fixed",
            "block_size=1M",
            "block_size=256M",
            "block_state_zero=off,log_size=3M",
            "subformat=fixed,block_size=1M",
        ] {
            let image = folder.path().join("image");
            qemu_img(&[
                "convert",
                "-f",
                "raw",
                "-O",
                "vhdx",
                "-o",
                options,
                text(&raw),
                text(&image),
            ]);
            must_hold_with_leaks("vhdx", &image, &expected);
            let disk = open(&image);
            assert!(options.contains("fixed") || disk.check().unwrap() == Check::default());
            assert_eq!(
                (disk.size(), disk.sector_size()),
                (virtual_size("vhdx", &image), 512)
            );
            std::fs::remove_file(&image).unwrap();
        }
    }
}

#[test]
fn what_qemu_io_writes_here_and_there_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let image = folder.path().join("image");
    qemu_img(&[
        "create",
        "-q",
        "-f",
        "vhdx",
        "-o",
        "block_size=1M",
        text(&image),
        "50M",
    ]);
    // Ascending: qemu before 8.1 loses entries otherwise.
    let commands = [
        "write -P 2 1M 3M",
        "write -z 2M 1M",
        "write -P 3 20M 1k",
        "write -P 1 45M 100k",
    ];
    qemu_io("vhdx", &commands, &image);
    must_agree("vhdx", &image);
    let map = extents(open(&image).as_ref());
    assert!(map.iter().any(|(_, content)| *content == Content::Hole));
}

#[test]
fn sectors_of_4096_bytes_are_kept() {
    let size = 5 * MIB + 4096;
    let (folder, raw) = raw_source(size);
    let expected = std::fs::read(&raw).unwrap();
    for options in ["block_size=1M", "subformat=fixed"] {
        let image = folder.path().join("image");
        let mut shape = shape(Format::Vhdx, size, options);
        shape.sector_size = 4096;
        let sink = create(&image, &shape);
        pour(&FileDisk::open(&raw).unwrap(), &*sink, 2, 0, u64::MAX);
        sink.finish().unwrap();
        let disk = open(&image);
        assert_eq!((disk.sector_size(), disk.size()), (4096, size));
        assert!(read_all(disk.as_ref()) == expected);
        assert_eq!(disk.check().unwrap(), Check::default());
        // qemu-img knows no such sectors.
        let theirs = run("qemu-img", &["info", "-f", "vhdx", text(&image)]);
        assert!(!theirs.status.success() || virtual_size("vhdx", &image) == size);
        std::fs::remove_file(&image).unwrap();
    }
    let mut files = OneFile {
        disk: Arc::new(MemoryDisk::new("m", Vec::new())),
        fresh: true,
        blank: true,
    };
    let mut odd = shape(Format::Vhdx, size, "");
    odd.sector_size = 520;
    assert!(image::create(&odd, &mut files).is_err());
}

/// The identifiers of the file and of its data, by the newest header.
fn identifiers(path: &Path) -> ([u8; 16], [u8; 16], u64) {
    let bytes = std::fs::read(path).unwrap();
    let sequence = |at: usize| u64::from_le_bytes(bytes[at + 8..at + 16].try_into().unwrap());
    let at = if sequence(0x10000) > sequence(0x20000) {
        0x10000
    } else {
        0x20000
    };
    (
        bytes[at + 16..at + 32].try_into().unwrap(),
        bytes[at + 32..at + 48].try_into().unwrap(),
        sequence(at),
    )
}

#[test]
fn the_identifiers_change_with_the_first_change_and_the_same_way_each_time() {
    let folder = tempfile::tempdir().unwrap();
    let image = folder.path().join("image");
    let copy = folder.path().join("copy");
    qemu_img(&["create", "-q", "-f", "vhdx", text(&image), "10M"]);
    std::fs::copy(&image, &copy).unwrap();
    let old = identifiers(&image);
    let edit = |path: &Path, bytes: &[u8]| {
        let container = Arc::new(FileDisk::open_writable(path).unwrap());
        let disk = Vhdx::open_writable(container, &NoNeighbours).unwrap();
        disk.discard(0..MIB).unwrap();
        disk.write_zeros(0..MIB).unwrap();
        if !bytes.is_empty() {
            disk.write_at(5000, bytes).unwrap();
            disk.write_at(6000, bytes).unwrap();
        }
        identifiers(path)
    };
    // Nothing was changed: a child of it is still one.
    assert_eq!(edit(&image, &[]), old);
    let new = edit(&image, &[1; 10]);
    assert!(new.0 != old.0 && new.1 != old.1);
    assert_eq!(new.2, old.2 + 2);
    let again = edit(&image, &[2; 10]);
    assert!(again.0 != new.0 && again.1 != new.1);
    assert_eq!(edit(&copy, &[1; 10]), new);
    must_agree("vhdx", &image);
}

#[test]
fn check_finds_damaged_copies_overlaps_and_leaks() {
    let folder = tempfile::tempdir().unwrap();
    let image = folder.path().join("image");
    qemu_img(&[
        "create",
        "-q",
        "-f",
        "vhdx",
        "-o",
        "block_size=1M",
        text(&image),
        "20M",
    ]);
    qemu_io("vhdx", &["write -P 5 0 6M"], &image);
    let sound = std::fs::read(&image).unwrap();
    let table = (0..2)
        .map(|index| 0x30000 + 16 + index * 32)
        .find(|at| sound[*at..*at + 4] == [0x66, 0x77, 0xc2, 0x2d])
        .map(|at| u64::from_le_bytes(sound[at + 16..at + 24].try_into().unwrap()) as usize)
        .unwrap();
    let check = |at: usize, new: &[u8]| {
        let mut bytes = sound.clone();
        bytes[at..at + new.len()].copy_from_slice(new);
        std::fs::write(&image, bytes).unwrap();
        open(&image).check().unwrap()
    };
    assert_eq!(check(0, b"vhdxfile"), Check::default());
    let entry = |place: u64, state: u64| (place << 20 | state).to_le_bytes();
    for (at, new, expected) in [
        (0x10000 + 2000, &[1][..], "first header has the checksum"),
        (0x20000, b"HEAD", "second header does not begin"),
        (0x30000 + 9, &[1], "first region table has the checksum"),
        (0x40000 + 60_000, &[1], "second region table has the checksum"),
        (table, &sound[table + 8..table + 16], "lies on something else"),
        (table, &entry(0, 6), "lies on something else, at byte 0"),
        (table, &entry(1, 6), "lies on something else, at byte 1048576"),
        (table, &entry(1 << 30, 6), "past the end of the file"),
        (table, &entry(5, 4), "means nothing"),
        (table, &entry(50, 7), "there is no parent"),
    ] {
        let found = check(at, new);
        assert!(
            found.errors.iter().any(|error| error.contains(expected)),
            "{expected}: {found:?}"
        );
        if at >= table {
            let container = Arc::new(MemoryDisk::new("image", std::fs::read(&image).unwrap()));
            let error = Vhdx::open_writable(container, &NoNeighbours).unwrap_err();
            assert_eq!(error.kind, Kind::Unsafe, "{error}");
        }
    }
    let found = check(table + 8, &[0; 8]);
    assert!(found.errors.is_empty() && found.leaks.len() == 1, "{found:?}");
    assert_eq!(found.leaked, MIB);
    // That one lies between others. The last one can be cut off.
    let repair = |path: &Path| {
        let container = Arc::new(FileDisk::open_writable(path).unwrap());
        let disk = Vhdx::open_writable(container, &NoNeighbours).unwrap();
        let freed = disk.repair_leaks().unwrap();
        (freed, disk.check().unwrap())
    };
    assert_eq!(repair(&image), (0, found));
    check(table + 5 * 8, &[0; 8]);
    assert_eq!(repair(&image), (MIB, Check::default()));
    let mut model = vec![5; 20 << 20];
    model[5 << 20..].fill(0);
    must_hold("vhdx", &image, &model);
    // What an unmapped block had is still its own.
    let mut unmapped = sound[table..table + 8].to_vec();
    unmapped[0] = 3;
    assert_eq!(check(table, &unmapped), Check::default());
    let mut model = vec![0; 20 << 20];
    model[1 << 20..6 << 20].fill(5);
    assert!(read_all(open(&image).as_ref()) == model);
    // It is not given back to it when it is written again, in case somebody else has it.
    let container = Arc::new(FileDisk::open_writable(&image).unwrap());
    let disk = Vhdx::open_writable(container, &NoNeighbours).unwrap();
    disk.write_at(100, &[1; 100]).unwrap();
    drop(disk);
    model[100..200].fill(1);
    assert!(read_all(open(&image).as_ref()) == model);
}

#[test]
fn images_of_other_programs_are_read_as_qemu_img_reads_them() {
    let Some(samples) = samples() else { return };
    let folder = tempfile::tempdir().unwrap();
    for (sample, size, block) in [
        ("qemu/iotest-dynamic-1G.vhdx.bz2", 1 << 30, 32 << 20),
        ("qemu/test-disk2vhd.vhdx.bz2", 256 << 20, 2 << 20),
        ("discutils/swap.vhdx.gz", 10 << 30, 32 << 20),
        ("discutils/btrfs.vhdx.gz", 1 << 30, 32 << 20),
        ("discutils/xfs.vhdx.gz", 10 << 30, 32 << 20),
    ] {
        let image = unpack(&samples, sample, folder.path());
        let disk = open(&image);
        assert_eq!((disk.format(), disk.size()), (Format::Vhdx, size), "{sample}");
        let info = disk.info().unwrap();
        assert_eq!((info.unit, info.dirty), (Some(block), false));
        assert!(disk.check().unwrap().errors.is_empty(), "{sample}");
        compare(disk.as_ref(), &image);
        std::fs::remove_file(&image).unwrap();
    }
}

/// Reads `disk` and what qemu-img makes of `image` piece by piece.
fn compare(disk: &dyn Disk, image: &Path) {
    let folder = tempfile::tempdir().unwrap();
    let raw = folder.path().join("raw");
    qemu_img(&["convert", "-f", "vhdx", "-O", "raw", text(image), text(&raw)]);
    let raw = FileDisk::open(&raw).unwrap();
    assert_eq!(disk.size(), raw.size());
    let mut at = 0;
    let (mut ours, mut theirs) = (vec![0; 1 << 20], vec![0; 1 << 20]);
    while at < raw.size() {
        let map = raw.extents(at..raw.size()).unwrap();
        for extent in map {
            let step = if extent.content == Content::Data {
                MIB
            } else {
                64 * MIB
            };
            for at in (extent.range.start..extent.range.end).step_by(step as usize) {
                let length = (extent.range.end - at).min(MIB) as usize;
                disk.read_at(at, &mut ours[..length]).unwrap();
                raw.read_at(at, &mut theirs[..length]).unwrap();
                assert!(ours[..length] == theirs[..length], "at {at}");
            }
            at = extent.range.end;
        }
    }
    // And the other way round: where we have something, it is there.
    let mut at = 0;
    while at < disk.size() {
        for extent in disk.extents(at..disk.size()).unwrap() {
            at = extent.range.end;
            if extent.content == Content::Data {
                for at in (extent.range.start..extent.range.end).step_by(1 << 20) {
                    let length = (extent.range.end - at).min(MIB) as usize;
                    disk.read_at(at, &mut ours[..length]).unwrap();
                    raw.read_at(at, &mut theirs[..length]).unwrap();
                    assert!(ours[..length] == theirs[..length], "at {at}");
                }
            }
        }
    }
}

#[test]
fn a_log_is_replayed_over_the_file_and_into_it_only_for_writing() {
    let Some(samples) = samples() else { return };
    let folder = tempfile::tempdir().unwrap();
    let image = unpack(&samples, "discutils/vhdx-log-replay.vhdx.gz", folder.path());
    let bytes = std::fs::read(&image).unwrap();
    let reference = folder.path().join("reference.vhdx");
    std::fs::copy(&image, &reference).unwrap();
    qemu_img(&["check", "-q", "-r", "all", text(&reference)]);
    let disk = open(&image);
    assert!(disk.info().unwrap().dirty);
    assert_eq!(disk.check().unwrap(), Check::default());
    compare(disk.as_ref(), &reference);
    // Something is there that the table alone does not know of.
    assert!(
        disk.extents(0..disk.size())
            .unwrap()
            .iter()
            .any(|extent| extent.content == Content::Data)
    );
    drop(disk);
    assert!(std::fs::read(&image).unwrap() == bytes);
    // Over an overlay, as an edit in place has it, and into the file.
    let container: Arc<dyn Disk> = Arc::new(FileDisk::open(&image).unwrap());
    let overlay: Arc<dyn Disk> = Arc::new(Overlay::new(container, 1 << 30, std::env::temp_dir()));
    for container in [overlay, Arc::new(FileDisk::open_writable(&image).unwrap())] {
        let disk = Vhdx::open_writable(container, &Beside::new(&image)).unwrap();
        assert!(!disk.info().unwrap().dirty);
        compare(&disk, &reference);
        disk.write_at(20, &[1; 20]).unwrap();
        let mut bytes = [0; 20];
        disk.read_at(20, &mut bytes).unwrap();
        assert_eq!(bytes, [1; 20]);
    }
    qemu_img(&["check", "-q", text(&image)]);
    let disk = open(&image);
    compare(disk.as_ref(), &image);
    assert!(!disk.info().unwrap().dirty);
    // Damaged: refused, not read without it.
    let mut damaged = bytes;
    for at in (1 << 20..2 << 20).step_by(4096) {
        damaged[at + 600] ^= 1;
    }
    let container = Arc::new(MemoryDisk::new("image", damaged));
    let error = Vhdx::open(container, &NoNeighbours).unwrap_err();
    assert_eq!(error.kind, Kind::Corrupt);
    assert!(error.to_string().contains("not closed"), "{error}");
}
