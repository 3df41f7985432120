//! VHD, fixed and dynamic.

use crate::{judge::*, making::*};
use proptest::{bool::weighted, collection::vec, option, prelude::*, sample::Index};
use rehome::{
    disk::{Content, Disk, FileDisk, Kind, MemoryDisk, Overlay, Sink},
    image::{self, Beside, Check, Format, NoNeighbours, Shape, vhd::Vhd},
};
use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

/// The words of `-o` for every kind that is made.
const KINDS: [&str; 4] = [
    "subformat=dynamic",
    "subformat=fixed",
    "subformat=dynamic,force_size=off",
    "subformat=fixed,force_size=off",
];

/// Recomputes the checksum of the footer at `at`.
pub fn seal(image: &mut [u8], at: usize) {
    seal_structure(image, at, 512, 64);
}

/// Recomputes the checksum at `place` of the structure of `length` bytes at `at`.
pub fn seal_structure(image: &mut [u8], at: usize, length: usize, place: usize) {
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
            b"vpc ", b"vs  ", b"qemu", b"qem2", b"win ", b"d2v ", b"tap\0", b"CTXS", b"xyz ",
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
fn what_we_write_is_sound_and_the_same_whatever_the_number_of_threads() {
    for size in [20 * MIB + 512, 4 * MIB, 3 * 512] {
        let (folder, raw) = raw_source(size);
        let expected = std::fs::read(&raw).unwrap();
        let source = FileDisk::open(&raw).unwrap();
        for kind in KINDS {
            let shape = shape(Format::Vhd, size, kind);
            let mut first = None;
            for threads in [1, 4] {
                let image = folder.path().join("image");
                let sink = create(&image, &shape);
                pour(&source, &*sink, threads, 0, u64::MAX);
                sink.finish().unwrap();
                must_hold("vpc", &image, &expected);
                qemu_img(&["compare", "-f", "raw", "-F", "vpc", text(&raw), text(&image)]);
                let bytes = std::fs::read(&image).unwrap();
                assert!(*first.get_or_insert_with(|| bytes.clone()) == bytes, "{kind}");
                if !kind.contains("off") {
                    assert_eq!(virtual_size("vpc", &image), size);
                }
                std::fs::remove_file(&image).unwrap();
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
fn a_killed_run_is_resumed_and_ends_in_the_same_bytes() {
    let size = 30 * MIB + 1024;
    let (folder, raw) = raw_source(size);
    let expected = std::fs::read(&raw).unwrap();
    let source = FileDisk::open(&raw).unwrap();
    for kind in KINDS {
        let shape = shape(Format::Vhd, size, kind);
        let whole = folder.path().join("whole");
        let sink = create(&whole, &shape);
        pour(&source, &*sink, 2, 0, u64::MAX);
        sink.finish().unwrap();
        let wanted = std::fs::read(&whole).unwrap();
        for threads in [1, 3] {
            let image = folder.path().join("killed");
            let sink = create(&image, &shape);
            pour(&source, &*sink, threads, 0, 20 * MIB);
            sink.checkpoint().unwrap();
            drop(sink);
            if kind.contains("dynamic") {
                // It opens by the copy of its footer, and holds what had come.
                let disk = open(&image);
                let mut bytes = vec![0; 20 << 20];
                disk.read_at(0, &mut bytes).unwrap();
                assert!(bytes == expected[..20 << 20]);
                assert!(flatten("vpc", &image)[..20 << 20] == expected[..20 << 20]);
            }
            // The second run is killed too, before it has come as far as the first.
            let sink = resume(&image, &shape);
            sink.keep(0..MIB).unwrap();
            pour(&source, &*sink, threads, MIB, 3 * MIB);
            sink.keep(3 * MIB..9 * MIB).unwrap();
            sink.checkpoint().unwrap();
            drop(sink);
            // The third trusts all that the first had done.
            let sink = resume(&image, &shape);
            sink.keep(0..20 * MIB).unwrap();
            pour(&source, &*sink, threads, 20 * MIB, u64::MAX);
            sink.finish().unwrap();
            must_hold("vpc", &image, &expected);
            assert!(
                std::fs::read(&image).unwrap() == wanted,
                "{kind}, {threads} threads"
            );
            std::fs::remove_file(&image).unwrap();
        }
        std::fs::remove_file(&whole).unwrap();
    }
}

#[test]
fn what_was_written_after_the_last_checkpoint_may_be_lost_or_torn() {
    let size = 24 * MIB;
    let (folder, raw) = raw_source(size);
    let source = FileDisk::open(&raw).unwrap();
    let shape = shape(Format::Vhd, size, "");
    let whole = folder.path().join("whole");
    let sink = create(&whole, &shape);
    pour(&source, &*sink, 1, 0, u64::MAX);
    sink.finish().unwrap();
    let whole = std::fs::read(whole).unwrap();
    let image = folder.path().join("killed");
    let sink = create(&image, &shape);
    pour(&source, &*sink, 2, 0, 9 * MIB);
    sink.checkpoint().unwrap();
    let lasting = std::fs::read(&image).unwrap();
    pour(&source, &*sink, 2, 9 * MIB, 18 * MIB);
    drop(sink);
    // After a power cut some of what came later is there, some is not.
    let later = std::fs::read(&image).unwrap();
    let mut dice = 7_u64;
    for round in 0..6 {
        let mut torn = later.clone();
        for (index, sector) in torn.chunks_mut(512).enumerate() {
            dice = dice
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            if (dice >> 33).is_multiple_of(3) || round == 5 {
                let old = lasting.get(index * 512..index * 512 + sector.len());
                sector.copy_from_slice(old.unwrap_or(&[0; 512][..sector.len()]));
            }
        }
        std::fs::write(&image, &torn).unwrap();
        let sink = resume(&image, &shape);
        sink.keep(0..9 * MIB).unwrap();
        pour(&source, &*sink, 2, 9 * MIB, u64::MAX);
        sink.finish().unwrap();
        assert!(std::fs::read(&image).unwrap() == whole, "round {round}");
    }
}

#[test]
fn a_sink_refuses_what_makes_no_sense_and_lets_go_of_those_who_wait() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("image");
    let wanted = shape(Format::Vhd, MIB, "");
    let sink = create(&path, &wanted);
    assert_eq!(sink.put(1, &[1; 4096]).unwrap_err().kind, Kind::OutOfRange);
    assert_eq!(sink.skip(0..2 * MIB).unwrap_err().kind, Kind::OutOfRange);
    let error = sink.finish().unwrap_err().to_string();
    assert!(error.contains("only 0 of 1048576 bytes"), "{error}");
    sink.skip(0..MIB / 2).unwrap();
    assert_eq!(sink.put(0, &[1; 4096]).unwrap_err().kind, Kind::Exists);
    assert_eq!(sink.keep(MIB / 2..MIB).unwrap_err().kind, Kind::Unsafe);
    for (size, options) in [(2 * MIB, ""), (MIB, "subformat=fixed")] {
        let mut files = OneFile {
            disk: Arc::new(FileDisk::open_writable(&path).unwrap()),
            fresh: false,
            blank: true,
        };
        let Err(other) = image::create(&shape(Format::Vhd, size, options), &mut files) else {
            panic!("{options} is another image");
        };
        assert!(other.to_string().contains("cannot be resumed"), "{other}");
    }
    let sink = create(&folder.path().join("other"), &wanted);
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| sink.put(65536, &[1; 65536]));
        std::thread::sleep(Duration::from_millis(50));
        sink.abandon();
        assert_eq!(waiting.join().unwrap().unwrap_err().kind, Kind::Cancelled);
    });
    assert_eq!(sink.finish().unwrap_err().kind, Kind::Cancelled);
}

#[test]
fn the_largest_disk_costs_what_its_data_costs() {
    let folder = tempfile::tempdir().unwrap();
    let image = folder.path().join("image");
    let size = 2040 << 30;
    let sink = create(&image, &shape(Format::Vhd, size, ""));
    sink.skip(0..5 << 38).unwrap();
    sink.put(5 << 38, &[7; 65536]).unwrap();
    sink.skip((5 << 38) + 65536..size - 4096).unwrap();
    sink.put(size - 4096, &[8; 4096]).unwrap();
    sink.finish().unwrap();
    assert_eq!(virtual_size("vpc", &image), size);
    assert!(image.metadata().unwrap().len() < 10 * MIB);
    let start = Instant::now();
    let disk = open(&image);
    assert!(
        start.elapsed() < Duration::from_millis(50),
        "{:?}",
        start.elapsed()
    );
    let map = disk.extents(0..size).unwrap();
    assert_eq!(map[1].range, 5 << 38..(5 << 38) + 65536);
    let mut bytes = [0; 8];
    disk.read_at((5 << 38) + 10, &mut bytes).unwrap();
    assert_eq!(bytes, [7; 8]);
    disk.read_at(size - 8, &mut bytes).unwrap();
    assert_eq!(bytes, [8; 8]);
    assert_eq!(disk.check().unwrap(), Check::default());
    let mut files = OneFile {
        disk: Arc::new(MemoryDisk::new("m", Vec::new())),
        fresh: true,
        blank: true,
    };
    let too_large = image::create(&shape(Format::Vhd, size + 512, ""), &mut files);
    assert!(too_large.err().unwrap().to_string().contains("2040 GiB"));
}

/// A file as an image is edited in place: under an overlay that is then written into it.
fn edit_in_place(path: &Path, model: &mut [u8], seed: u64, steps: u64) {
    let container = Arc::new(FileDisk::open(path).unwrap());
    let overlay = Arc::new(Overlay::new(container, 1 << 30, std::env::temp_dir()));
    let disk = Vhd::open_writable(overlay.clone(), &Beside::new(path)).unwrap();
    edit(&disk, model, seed, steps);
    let whole = read_all(&disk);
    assert!(whole[..model.len()] == *model);
    extents(&disk);
    disk.flush().unwrap();
    let mut bytes = vec![0; overlay.size() as usize];
    overlay.read_at(0, &mut bytes).unwrap();
    drop(disk);
    drop(overlay);
    std::fs::write(path, bytes).unwrap();
}

#[test]
fn edits_in_place_are_what_qemu_img_reads_and_leave_it_sound() {
    let size = 12 * MIB + 512;
    for (seed, options) in [
        "subformat=dynamic",
        "subformat=fixed",
        "subformat=dynamic,force_size=on",
    ]
    .iter()
    .enumerate()
    {
        let (folder, raw) = raw_source(size);
        let mut model = std::fs::read(&raw).unwrap();
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
        edit_in_place(&image, &mut model, seed as u64, 60);
        must_hold("vpc", &image, &model);
        edit_in_place(&image, &mut model, seed as u64 + 10, 60);
        must_hold("vpc", &image, &model);
    }
}

#[test]
fn a_file_is_written_to_without_an_overlay_too() {
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
        "9M",
    ]);
    let mut model = vec![0; 9 << 20];
    let container = Arc::new(FileDisk::open_writable(&image).unwrap());
    let disk = Vhd::open_writable(container, &NoNeighbours).unwrap();
    // Neighbouring bytes, by different threads.
    std::thread::scope(|scope| {
        for thread in 0..3_u64 {
            let disk = &disk;
            scope.spawn(move || {
                for step in 0..150 {
                    disk.write_at(step * 60_000 + thread * 1000, &[thread as u8 + 1; 1000])
                        .unwrap();
                }
            });
        }
    });
    disk.flush().unwrap();
    drop(disk);
    for step in 0..150 {
        for thread in 0..3 {
            model[step * 60_000 + thread * 1000..][..1000].fill(thread as u8 + 1);
        }
    }
    must_hold("vpc", &image, &model);
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

/// One run of the disk: units, what they hold (`None`: zeros), and whether a checkpoint follows.
pub type Piece = (u64, Option<u8>, bool);

/// Gives `pieces` from `from` to `to` to `sink`. The last one of the disk is cut at its end.
pub fn deliver(
    sink: &dyn Sink,
    size: u64,
    pieces: &[Piece],
    range: std::ops::Range<usize>,
    model: &mut [u8],
) {
    let unit = u64::from(sink.unit());
    let mut at = 0;
    for (index, (units, content, checkpoint)) in pieces.iter().enumerate() {
        let end = (at + units * unit).min(size);
        if range.contains(&index) && at < end {
            match content {
                Some(byte) => {
                    let bytes = vec![*byte; (end - at) as usize];
                    sink.put(at, &bytes).unwrap();
                    model[at as usize..end as usize].copy_from_slice(&bytes);
                }
                None => sink.skip(at..end).unwrap(),
            }
            if *checkpoint {
                sink.checkpoint().unwrap();
            }
        }
        at = end;
    }
    if range.end == pieces.len() && at < size {
        sink.skip(at..size).unwrap();
    }
}

/// Kills a run after `killed` pieces and goes on trusting `trusted` of them, in a container that holds `before`.
/// Gives what is in it at the end.
pub fn kill_and_resume(
    shape: &Shape,
    pieces: &[Piece],
    killed: usize,
    trusted: usize,
    before: &[u8],
) -> Vec<u8> {
    let blank = before.is_empty();
    let disk = Arc::new(MemoryDisk::new("killed", before.to_vec()));
    let initial = image::initial_size(shape);
    if disk.size() < initial {
        disk.set_size(initial).unwrap();
    }
    let files = |fresh| OneFile {
        disk: disk.clone(),
        fresh,
        blank,
    };
    let mut model = vec![0; shape.size as usize];
    let sink = image::create(shape, &mut files(true)).unwrap();
    deliver(&*sink, shape.size, pieces, 0..killed, &mut model);
    sink.checkpoint().unwrap();
    drop(sink);
    let kept: u64 = pieces[..trusted].iter().map(|(units, ..)| units * 4096).sum();
    let sink = image::create(shape, &mut files(false)).unwrap();
    sink.keep(0..kept.min(shape.size)).unwrap();
    deliver(&*sink, shape.size, pieces, trusted..pieces.len(), &mut model);
    sink.finish().unwrap();
    disk.contents()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_pattern_killed_anywhere_ends_in_the_same_sound_image(
        size in 1..10 * MIB,
        kind in 0..KINDS.len(),
        pieces in vec((1..900_u64, option::weighted(0.5, 1..=255_u8), weighted(0.2)), 1..14),
        killed in any::<Index>(),
        trusted in any::<Index>(),
        garbage in weighted(0.3),
    ) {
        let shape = shape(Format::Vhd, size, KINDS[kind]);
        let mut model = vec![0; size as usize];
        let whole = Arc::new(MemoryDisk::new("whole", vec![0; image::initial_size(&shape) as usize]));
        let mut files = OneFile { disk: whole.clone(), fresh: true, blank: true };
        let sink = image::create(&shape, &mut files).unwrap();
        deliver(&*sink, size, &pieces, 0..pieces.len(), &mut model);
        sink.finish().unwrap();

        let killed = killed.index(pieces.len());
        let trusted = trusted.index(killed + 1);
        // What an old device holds is not to show through, and nothing but the image may be in its place.
        let before = if garbage { vec![0xa5; whole.size() as usize] } else { Vec::new() };
        let bytes = kill_and_resume(&shape, &pieces, killed, trusted, &before);
        prop_assert!(bytes == whole.contents());

        let folder = tempfile::tempdir().unwrap();
        let image = folder.path().join("image");
        std::fs::write(&image, bytes).unwrap();
        must_hold("vpc", &image, &model);
    }

    #[test]
    fn random_edits_are_those_of_a_plain_vector(seed in any::<u32>(), kind in 0..KINDS.len(), size in 513..7 * MIB) {
        let shape = shape(Format::Vhd, size / 512 * 512, KINDS[kind]);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("image");
        let sink = create(&path, &shape);
        sink.skip(0..shape.size).unwrap();
        sink.finish().unwrap();
        let mut model = vec![0; shape.size as usize];
        edit_in_place(&path, &mut model, u64::from(seed), 25);
        must_hold("vpc", &path, &model);
    }
}
