//! qcow2 images, judged by qemu-img in both directions.

// Clippy's exemption for tests does not reach the functions that they share.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic
)]

use proptest::{bool::weighted, collection::vec, option, prelude::*, sample::Index};
use rehome::{
    disk::{Composite, Content, Disk, FileDisk, Kind, MemoryDisk, Sink},
    image::{
        self, Beside, Check, Format, Image, NoNeighbours,
        qcow2::{Options, Qcow2, Qcow2Sink},
    },
};
use std::{
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};
use tempfile::TempDir;

const MIB: u64 = 1 << 20;

fn run(program: &str, arguments: &[&str]) -> Output {
    Command::new(program)
        .args(arguments)
        .output()
        .unwrap_or_else(|error| panic!("{program} must be installed: {error}"))
}

#[track_caller]
fn qemu_img(arguments: &[&str]) -> String {
    let output = run("qemu-img", arguments);
    assert!(output.status.success(), "qemu-img {arguments:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[track_caller]
fn qemu_io(commands: &[&str], image: &Path) {
    let mut arguments = vec!["-f", "qcow2"];
    for command in commands {
        arguments.extend(["-c", command]);
    }
    arguments.push(text(image));
    let output = run("qemu-io", &arguments);
    assert!(output.status.success(), "{output:?}");
    assert!(
        !String::from_utf8_lossy(&output.stdout).contains("failed"),
        "{output:?}"
    );
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn open(path: &Path) -> Arc<dyn Image> {
    image::open(Arc::new(FileDisk::open(path).unwrap()), None, &Beside::new(path)).unwrap()
}

fn read_all(disk: &dyn Disk) -> Vec<u8> {
    let mut bytes = vec![0xee; disk.size() as usize];
    disk.read_at(0, &mut bytes).unwrap();
    bytes
}

/// A folder with "raw", a file of `size` bytes with data in places, and holes.
fn raw_source(size: u64) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("raw");
    let disk = FileDisk::create(&path, size).unwrap();
    for (index, start) in (0..size).step_by(700_000).enumerate() {
        let length = (1 << (index % 18)).min(size - start);
        disk.write_at(start, &pattern(index as u64, length as usize))
            .unwrap();
    }
    (folder, path)
}

/// Neither zeros nor wholly without order.
fn pattern(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let next = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 8) as u8 & 0x3f | 1
    };
    (0..length).map(next).collect()
}

/// All extents of `disk`, checked for order and gaps; what is not data must read as zeros.
fn extents(disk: &dyn Disk) -> Vec<(std::ops::Range<u64>, Content)> {
    let mut at = 0;
    let mut map = Vec::new();
    while at < disk.size() {
        let part = disk.extents(at..disk.size()).unwrap();
        assert!(!part.is_empty());
        for extent in part {
            assert_eq!(extent.range.start, at);
            assert!(extent.range.end > at);
            at = extent.range.end;
            if extent.content != Content::Data {
                let mut bytes = vec![0xee; (extent.range.end - extent.range.start) as usize];
                disk.read_at(extent.range.start, &mut bytes).unwrap();
                assert!(bytes.iter().all(|byte| *byte == 0), "{extent:?}");
            }
            map.push((extent.range, extent.content));
        }
    }
    assert_eq!(at, disk.size());
    map
}

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
        let folder = tempfile::tempdir().unwrap();
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

/// Puts what `source` holds into `sink`, by `threads` threads in chunks of 256 KiB; zeros are skipped. Stops after
/// `most` bytes, with a checkpoint at about half of that.
fn pour(source: &dyn Disk, sink: &Qcow2Sink, threads: usize, kept: u64, most: u64) {
    let chunk = (256 << 10).max(u64::from(sink.unit()));
    let unit = u64::from(sink.unit());
    let next = AtomicU64::new(kept);
    let end = source.size().min(most);
    let work = || {
        loop {
            let start = next.fetch_add(chunk, Ordering::SeqCst);
            if start >= end {
                return;
            }
            let mut bytes = vec![0; chunk.min(source.size() - start) as usize];
            source.read_at(start, &mut bytes).unwrap();
            let mut at = start;
            for piece in bytes.chunks(unit as usize) {
                let piece_end = at + piece.len() as u64;
                if piece.iter().all(|byte| *byte == 0) {
                    sink.skip(at..piece_end).unwrap();
                } else {
                    sink.put(at, piece).unwrap();
                }
                at = piece_end;
            }
            if start / chunk % 29 == 3 {
                sink.checkpoint().unwrap();
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(work);
        }
    });
}

fn create(path: &Path, size: u64, options: Options) -> Qcow2Sink {
    let file = FileDisk::create(path, 0).unwrap();
    Qcow2Sink::create(Arc::new(file), size, options).unwrap()
}

#[track_caller]
fn must_be_sound_and_equal(image: &Path, raw: &Path) {
    let check = qemu_img(&["check", "-f", "qcow2", text(image)]);
    assert!(check.contains("No errors were found"), "{check}");
    qemu_img(&["compare", "-f", "raw", "-F", "qcow2", text(raw), text(image)]);
    assert!(read_all(open(image).as_ref()) == std::fs::read(raw).unwrap());
}

#[test]
fn what_we_write_is_sound_and_the_same_whatever_the_number_of_threads() {
    for (size, bits) in [
        (20 * MIB + 512, 16),
        (20 * MIB, 12),
        (20 * MIB, 21),
        (3 * 512, 16),
        (MIB, 16),
    ] {
        let (folder, raw) = raw_source(size);
        let options = Options { cluster_bits: bits };
        let source = FileDisk::open(&raw).unwrap();
        let mut first = None;
        for threads in [1, 2, 5] {
            let image = folder.path().join(format!("image{threads}.qcow2"));
            let sink = create(&image, size, options);
            pour(&source, &sink, threads, 0, u64::MAX);
            sink.finish().unwrap();
            must_be_sound_and_equal(&image, &raw);
            let bytes = std::fs::read(&image).unwrap();
            assert!(
                *first.get_or_insert_with(|| bytes.clone()) == bytes,
                "{threads} threads, {size} bytes"
            );
        }
        let info = qemu_img(&["info", "--output=json", text(&folder.path().join("image1.qcow2"))]);
        let info: serde_json::Value = serde_json::from_str(&info).unwrap();
        assert_eq!(info["virtual-size"], size);
        assert_eq!(info["cluster-size"], 1_u64 << bits);
        assert_eq!(info["format-specific"]["data"]["compat"], "1.1");
    }
}

#[test]
fn an_image_is_sound_at_every_checkpoint_and_a_resumed_one_ends_in_the_same_bytes() {
    let size = 30 * MIB + 1024;
    let (folder, raw) = raw_source(size);
    let source = FileDisk::open(&raw).unwrap();
    // With clusters of 4 KiB there are 15 second-level tables and several refcount blocks.
    for bits in [12, 16] {
        let options = Options { cluster_bits: bits };
        let whole = folder.path().join(format!("whole{bits}"));
        let sink = create(&whole, size, options);
        pour(&source, &sink, 2, 0, u64::MAX);
        sink.finish().unwrap();
        let whole = std::fs::read(whole).unwrap();
        for threads in [1, 3] {
            let image = folder.path().join(format!("killed{bits}-{threads}"));
            let sink = create(&image, size, options);
            pour(&source, &sink, threads, 0, 20 * MIB);
            sink.checkpoint().unwrap();
            drop(sink);
            let check = qemu_img(&["check", "-f", "qcow2", text(&image)]);
            assert!(check.contains("No errors were found"), "{check}");

            // The second run is killed too, before it has come as far as the first.
            let container = || Arc::new(FileDisk::open_writable(&image).unwrap());
            let sink = Qcow2Sink::resume(container(), size, options).unwrap();
            sink.keep(0..MIB).unwrap();
            pour(&source, &sink, threads, MIB, 2 * MIB);
            sink.keep(2 * MIB..9 * MIB).unwrap();
            sink.checkpoint().unwrap();
            drop(sink);
            let check = qemu_img(&["check", "-f", "qcow2", text(&image)]);
            assert!(check.contains("No errors were found"), "{check}");

            // The third trusts all that the first had done.
            let sink = Qcow2Sink::resume(container(), size, options).unwrap();
            sink.keep(0..20 * MIB).unwrap();
            pour(&source, &sink, threads, 20 * MIB, u64::MAX);
            sink.finish().unwrap();
            must_be_sound_and_equal(&image, &raw);
            assert!(
                std::fs::read(&image).unwrap() == whole,
                "{bits} bits, {threads} threads"
            );
        }
    }
}

#[test]
fn a_sink_lets_go_of_those_who_wait_when_it_is_abandoned() {
    let folder = tempfile::tempdir().unwrap();
    let sink = create(&folder.path().join("image"), MIB, Options::default());
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| sink.put(65536, &[1; 65536]));
        std::thread::sleep(std::time::Duration::from_millis(50));
        sink.abandon();
        assert_eq!(waiting.join().unwrap().unwrap_err().kind, Kind::Cancelled);
    });
    assert_eq!(sink.skip(0..65536).unwrap_err().kind, Kind::Cancelled);
    assert_eq!(sink.finish().unwrap_err().kind, Kind::Cancelled);
}

#[test]
fn a_sink_refuses_what_makes_no_sense() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("image");
    let sink = create(&path, MIB, Options::default());
    assert_eq!(sink.put(1, &[1; 65536]).unwrap_err().kind, Kind::OutOfRange);
    assert_eq!(sink.skip(0..2 * MIB).unwrap_err().kind, Kind::OutOfRange);
    assert!(
        sink.finish()
            .unwrap_err()
            .to_string()
            .contains("only 0 of 1048576 bytes")
    );
    sink.skip(0..MIB / 2).unwrap();
    assert_eq!(sink.put(0, &[1; 65536]).unwrap_err().kind, Kind::Exists);
    assert_eq!(sink.keep(MIB / 2..MIB).unwrap_err().kind, Kind::Unsafe);
    let container = Arc::new(FileDisk::open_writable(&path).unwrap());
    let other = Qcow2Sink::resume(container, 2 * MIB, Options::default()).unwrap_err();
    assert!(other.to_string().contains("cannot be resumed"), "{other}");
}

#[test]
fn a_large_disk_costs_what_its_data_costs() {
    let folder = tempfile::tempdir().unwrap();
    let image = folder.path().join("image");
    let size = 8 << 40;
    let sink = create(&image, size, Options::default());
    sink.skip(0..5 << 40).unwrap();
    sink.put(5 << 40, &[7; 65536]).unwrap();
    sink.skip((5 << 40) + 65536..size).unwrap();
    sink.finish().unwrap();
    let check = qemu_img(&["check", text(&image)]);
    assert!(check.contains("No errors were found"), "{check}");
    assert!(image.metadata().unwrap().len() < MIB);
    let disk = open(&image);
    let map = disk.extents(0..size).unwrap();
    assert_eq!(map.len(), 3);
    assert_eq!(map[1].range, 5 << 40..(5 << 40) + 65536);
    let mut bytes = [0; 4];
    disk.read_at((5 << 40) + 10, &mut bytes).unwrap();
    assert_eq!(bytes, [7; 4]);
}

#[test]
fn other_formats_are_refused_by_name_and_raw_is_what_nothing_else_is() {
    let (folder, raw) = raw_source(MIB);
    assert_eq!(open(&raw).format(), Format::Raw);
    for (format, name) in [("vhdx", "VHDX"), ("vpc", "VHD"), ("vdi", "VDI"), ("qed", "QED")] {
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
        must_be_sound_and_equal(&image, &raw);
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
        must_be_sound_and_equal(&image, &flat);
        qemu_img(&["snapshot", "-a", "one", text(&image)]);
        must_be_sound_and_equal(&image, &saved);
    }
}

#[test]
fn an_image_that_cannot_be_written_safely_is_refused() {
    let folder = tempfile::tempdir().unwrap();
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
        let folder = tempfile::tempdir().unwrap();
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
        must_be_sound_and_equal(&image, &raw);
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
    must_be_sound_and_equal(&image, &raw);
}

#[test]
fn what_was_written_after_the_last_checkpoint_may_be_lost_or_torn() {
    let size = 24 * MIB;
    let (folder, raw) = raw_source(size);
    let source = FileDisk::open(&raw).unwrap();
    let options = Options { cluster_bits: 12 };
    let whole = folder.path().join("whole");
    let sink = create(&whole, size, options);
    pour(&source, &sink, 1, 0, u64::MAX);
    sink.finish().unwrap();
    let whole = std::fs::read(whole).unwrap();
    let image = folder.path().join("killed");
    let sink = create(&image, size, options);
    pour(&source, &sink, 2, 0, 10 * MIB);
    sink.checkpoint().unwrap();
    let lasting = std::fs::read(&image).unwrap();
    pour(&source, &sink, 2, 10 * MIB, 18 * MIB);
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
                let old = lasting.get(index * 512..index * 512 + 512).unwrap_or(&[0; 512]);
                sector.copy_from_slice(old);
            }
        }
        std::fs::write(&image, &torn).unwrap();
        let container = Arc::new(FileDisk::open_writable(&image).unwrap());
        let sink = Qcow2Sink::resume(container, size, options).unwrap();
        sink.keep(0..10 * MIB).unwrap();
        pour(&source, &sink, 2, 10 * MIB, u64::MAX);
        sink.finish().unwrap();
        must_be_sound_and_equal(&image, &raw);
        assert!(std::fs::read(&image).unwrap() == whole, "round {round}");
    }
}

#[test]
fn a_full_container_fails_every_thread_and_none_waits_for_ever() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("image");
    // A container that cannot grow beyond 4 MiB, as a device cannot.
    let file: Arc<dyn Disk> = Arc::new(FileDisk::create(&path, 4 * MIB).unwrap());
    let device = Arc::new(Composite::slice("device", file, 0..4 * MIB).unwrap());
    let sink = Qcow2Sink::create(device.clone(), 20 * MIB, Options::default()).unwrap();
    let next = AtomicU64::new(0);
    let failed = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                loop {
                    let start = next.fetch_add(65536, Ordering::SeqCst);
                    if start >= 20 * MIB {
                        return;
                    }
                    if sink.put(start, &[1; 65536]).is_err() {
                        failed.fetch_add(1, Ordering::SeqCst);
                        return;
                    }
                }
            });
        }
    });
    assert_eq!(failed.into_inner(), 3);
    assert_eq!(sink.put(0, &[1; 65536]).unwrap_err().kind, Kind::Cancelled);
    sink.checkpoint().unwrap();
    let check = qemu_img(&["check", "-f", "qcow2", text(&path)]);
    assert!(check.contains("No errors were found"), "{check}");
    // What fits is written to it as to a file.
    let sink = Qcow2Sink::create(device, 20 * MIB, Options::default()).unwrap();
    sink.put(0, &[9; 2 << 20]).unwrap();
    sink.skip(2 * MIB..20 * MIB).unwrap();
    sink.finish().unwrap();
    let mut model = vec![0; 20 << 20];
    model[..2 << 20].fill(9);
    let raw = folder.path().join("raw");
    std::fs::write(&raw, model).unwrap();
    must_be_sound_and_equal(&path, &raw);
}

/// One run of the guest's disk: clusters, what they hold (`None`: zeros), and whether a checkpoint follows.
type Piece = (u64, Option<u8>, bool);

/// Gives `pieces` from `from` to `to` to `sink`. The last one of the disk is cut at its end.
fn deliver(sink: &Qcow2Sink, size: u64, pieces: &[Piece], range: std::ops::Range<usize>, model: &mut [u8]) {
    let unit = u64::from(sink.unit());
    let mut at = 0;
    for (index, (clusters, content, checkpoint)) in pieces.iter().enumerate() {
        let end = (at + clusters * unit).min(size);
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

proptest! {
    #![proptest_config(ProptestConfig { cases: 20, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_pattern_killed_anywhere_ends_in_the_same_sound_image(
        cluster_bits in 12..=17_u32,
        size in 1..6 * MIB,
        pieces in vec((1..200_u64, option::weighted(0.6, 1..=255_u8), weighted(0.2)), 1..40),
        killed in any::<Index>(),
        trusted in any::<Index>(),
    ) {
        let options = Options { cluster_bits };
        let mut model = vec![0; size as usize];
        let whole = Arc::new(MemoryDisk::new("whole", Vec::new()));
        let sink = Qcow2Sink::create(whole.clone(), size, options).unwrap();
        deliver(&sink, size, &pieces, 0..pieces.len(), &mut model);
        sink.finish().unwrap();

        let disk = Arc::new(MemoryDisk::new("killed", Vec::new()));
        let sink = Qcow2Sink::create(disk.clone(), size, options).unwrap();
        let killed = killed.index(pieces.len());
        deliver(&sink, size, &pieces, 0..killed, &mut model);
        sink.checkpoint().unwrap();
        drop(sink);
        prop_assert_eq!(Qcow2::open(disk.clone(), &NoNeighbours).unwrap().check().unwrap(), Check::default());
        let trusted = if killed == 0 { 0 } else { trusted.index(killed + 1) };
        let kept: u64 = pieces[..trusted].iter().map(|(clusters, ..)| clusters << cluster_bits).sum();
        let sink = Qcow2Sink::resume(disk.clone(), size, options).unwrap();
        sink.keep(0..kept.min(size)).unwrap();
        deliver(&sink, size, &pieces, trusted..pieces.len(), &mut model);
        sink.finish().unwrap();
        prop_assert!(disk.contents() == whole.contents());

        let folder = tempfile::tempdir().unwrap();
        let (image, raw) = (folder.path().join("image"), folder.path().join("raw"));
        std::fs::write(&image, disk.contents()).unwrap();
        std::fs::write(&raw, &model).unwrap();
        let image_disk = open(&image);
        prop_assert!(read_all(image_disk.as_ref()) == model);
        prop_assert_eq!(image_disk.check().unwrap(), Check::default());
        let check = qemu_img(&["check", "-f", "qcow2", text(&image)]);
        prop_assert!(check.contains("No errors were found"), "{}", check);
        // qemu-img rounds a raw file of another length up to sectors.
        if size % 512 == 0 {
            qemu_img(&["compare", "-f", "raw", "-F", "qcow2", text(&raw), text(&image)]);
        }
    }
}
