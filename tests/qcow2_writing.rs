//! New qcow2 images, of every shape, plain and compressed, killed and gone on with: judged by qemu-img.

// Clippy's exemption for tests does not reach the functions that they share.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic
)]

mod image_judges;

use image_judges::{
    Folder, MIB, must_be_sound_and_equal, open, pattern, pour, qemu_img, raw_source, read_all, text,
};
use proptest::{bool::weighted, collection::vec, option, prelude::*, sample::Index};
use rehome::{
    disk::{Composite, Disk, FileDisk, Kind, MemoryDisk, Sink},
    image::{
        self, Check, Image, NoNeighbours, Shape,
        qcow2::{Compression, Options, Preallocation, Qcow2, Qcow2Sink},
    },
};
use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

/// Options as a user spells them; "-c" at the end for a compressed image.
fn options(text: &str) -> Options {
    let mut words = image::Options::default();
    let text = text.strip_suffix(" -c").map_or(text, |rest| {
        words.compress = true;
        rest
    });
    words.add(text).unwrap();
    Options::from_words(&words).unwrap()
}

/// Shapes that lay their tables out differently, or pack differently.
const SHAPES: [&str; 20] = [
    "",
    "cluster_size=512",
    "cluster_size=4k",
    "cluster_size=2M",
    "compat=0.10",
    "refcount_bits=1,cluster_size=4k",
    "refcount_bits=64,cluster_size=512",
    "refcount_bits=8,lazy_refcounts=on",
    "extended_l2=on,cluster_size=16k",
    "extended_l2=on",
    "preallocation=metadata",
    "preallocation=falloc,cluster_size=4k",
    "preallocation=full,extended_l2=on",
    " -c",
    "compression_type=zstd -c",
    "cluster_size=4k -c",
    "cluster_size=512,refcount_bits=2 -c",
    "refcount_bits=1,compression_type=zstd,cluster_size=8k -c",
    "cluster_size=2M,compat=0.10 -c",
    "extended_l2=on,refcount_bits=4 -c",
];

fn create(path: &Path, size: u64, options: &Options) -> Qcow2Sink {
    let file = FileDisk::create(path, 0).unwrap();
    Qcow2Sink::create(Arc::new(file), size, options.clone()).unwrap()
}

#[test]
fn what_we_write_is_sound_and_the_same_whatever_the_number_of_threads() {
    for (round, shape) in SHAPES.iter().enumerate() {
        let sizes = [20 * MIB + 512, 20 * MIB, 3 * 512, MIB];
        // The small ones cost little.
        for size in [sizes[round % 2], sizes[2 + round % 2]] {
            let (folder, raw) = raw_source(size);
            let options = options(shape);
            let source = FileDisk::open(&raw).unwrap();
            let mut first = None;
            for threads in [1, 5] {
                let image = folder.path().join(format!("image{threads}.qcow2"));
                let sink = create(&image, size, &options);
                pour(&source, &sink, threads, 0, u64::MAX);
                sink.finish().unwrap();
                let bytes = std::fs::read(&image).unwrap();
                if first.is_none() {
                    must_be_sound_and_equal("qcow2", &image, &raw);
                }
                assert!(
                    *first.get_or_insert_with(|| bytes.clone()) == bytes,
                    "{shape}: {threads} threads, {size} bytes"
                );
            }
            let info = qemu_img(&["info", "--output=json", text(&folder.path().join("image1.qcow2"))]);
            let info: serde_json::Value = serde_json::from_str(&info).unwrap();
            assert_eq!(info["virtual-size"], size);
            assert_eq!(info["cluster-size"], 1_u64 << options.cluster_bits);
            let data = &info["format-specific"]["data"];
            let compat = if options.version == 2 { "0.10" } else { "1.1" };
            assert_eq!(data["compat"], compat);
            if options.version > 2 {
                assert_eq!(data["refcount-bits"], 1_u64 << options.refcount_order);
                assert_eq!(data["lazy-refcounts"], options.lazy_refcounts);
                assert_eq!(data["extended-l2"], options.extended_l2);
            }
            let zstd = shape.contains("zstd");
            assert_eq!(data["compression-type"], if zstd { "zstd" } else { "zlib" });
        }
    }
}

#[test]
fn preallocated_images_take_what_they_say() {
    use std::os::unix::fs::MetadataExt;
    let size = 20 * MIB;
    let (folder, raw) = raw_source(size);
    let data_size = raw.metadata().unwrap().blocks() * 512;
    for (mode, takes_all) in [
        ("off", false),
        ("metadata", false),
        ("falloc", true),
        ("full", true),
    ] {
        let image = folder.path().join(mode);
        let sink = create(&image, size, &options(&format!("preallocation={mode}")));
        pour(&FileDisk::open(&raw).unwrap(), &sink, 2, 0, u64::MAX);
        sink.finish().unwrap();
        must_be_sound_and_equal("qcow2", &image, &raw);
        let metadata = image.metadata().unwrap();
        assert_eq!(metadata.len() > size, mode != "off", "{mode}");
        let taken = metadata.blocks() * 512;
        assert_eq!(
            taken >= size,
            takes_all,
            "{mode}: {taken} of {size}, data {data_size}"
        );
    }
}

#[test]
fn data_goes_to_a_file_of_its_own_if_that_is_wanted() {
    let size = 20 * MIB + 512;
    let (source_folder, raw) = raw_source(size);
    let source = FileDisk::open(&raw).unwrap();
    for words in [
        "data_file=data",
        "data_file=data,data_file_raw=on",
        "data_file=data,extended_l2=on,cluster_size=32k",
        "data_file=data,preallocation=full,cluster_size=2M",
    ] {
        let mut shape = Shape {
            format: image::Format::Qcow2,
            size,
            sector_size: 512,
            options: image::Options::default(),
        };
        shape.options.add(words).unwrap();
        let mut made = Vec::new();
        for killed in [false, true] {
            let folder = image_judges::folder();
            let path = folder.path();
            let files = |fresh| Folder {
                path,
                name: "image.qcow2",
                fresh,
                size: 0,
            };
            let sink = image::create(&shape, &mut files(true)).unwrap();
            if killed {
                pour(&source, sink.as_ref(), 2, 0, 14 * MIB);
                sink.checkpoint().unwrap();
                drop(sink);
                let sink = image::create(&shape, &mut files(false)).unwrap();
                sink.keep(0..8 * MIB).unwrap();
                pour(&source, sink.as_ref(), 2, 8 * MIB, u64::MAX);
                sink.finish().unwrap();
            } else {
                pour(&source, sink.as_ref(), 2, 0, u64::MAX);
                sink.finish().unwrap();
            }
            let image = path.join("image.qcow2");
            must_be_sound_and_equal("qcow2", &image, &raw);
            let info = qemu_img(&["info", "-U", "--output=json", text(&image)]);
            let info: serde_json::Value = serde_json::from_str(&info).unwrap();
            assert_eq!(info["format-specific"]["data"]["data-file"], "data");
            let is_raw = words.contains("raw=on");
            assert_eq!(info["format-specific"]["data"]["data-file-raw"], is_raw);
            let data = std::fs::read(path.join("data")).unwrap();
            assert!(!is_raw || data == std::fs::read(&raw).unwrap());
            made.push((std::fs::read(&image).unwrap(), data));
        }
        assert!(made[0] == made[1], "{words}");
    }
    drop(source_folder);
}

#[test]
fn an_image_is_sound_at_every_checkpoint_and_a_resumed_one_ends_in_the_same_bytes() {
    let size = 30 * MIB + 1024;
    let (folder, raw) = raw_source(size);
    let source = FileDisk::open(&raw).unwrap();
    for (round, shape) in SHAPES.iter().enumerate() {
        let options = options(shape);
        let sound = |image: &Path| {
            let check = qemu_img(&["check", "-f", "qcow2", text(image)]);
            assert!(check.contains("No errors were found"), "{shape}: {check}");
        };
        let (whole_path, image) = (folder.path().join("whole"), folder.path().join("killed"));
        let sink = create(&whole_path, size, &options);
        pour(&source, &sink, 2, 0, u64::MAX);
        sink.finish().unwrap();
        let whole = std::fs::read(&whole_path).unwrap();
        {
            let threads = [1, 3][round % 2];
            let sink = create(&image, size, &options);
            pour(&source, &sink, threads, 0, 20 * MIB);
            sink.checkpoint().unwrap();
            drop(sink);
            sound(&image);

            // The second run is killed too, while it goes over what the first had done.
            let container = || Arc::new(FileDisk::open_writable(&image).unwrap());
            let sink = Qcow2Sink::resume(container(), size, options.clone()).unwrap();
            sink.keep(0..2 * MIB).unwrap();
            sink.checkpoint().unwrap();
            sink.keep(2 * MIB..10 * MIB).unwrap();
            drop(sink);
            sound(&image);

            // The third comes further than that, but not as far as the first.
            let sink = Qcow2Sink::resume(container(), size, options.clone()).unwrap();
            sink.keep(0..12 * MIB).unwrap();
            pour(&source, &sink, threads, 12 * MIB, 14 * MIB);
            assert_eq!(sink.keep(14 * MIB..16 * MIB).unwrap_err().kind, Kind::Unsafe);
            sink.checkpoint().unwrap();
            drop(sink);
            sound(&image);

            // The last trusts what was recorded by then.
            let sink = Qcow2Sink::resume(container(), size, options.clone()).unwrap();
            sink.keep(0..14 * MIB).unwrap();
            pour(&source, &sink, threads, 14 * MIB, u64::MAX);
            sink.finish().unwrap();
            assert!(
                std::fs::read(&image).unwrap() == whole,
                "{shape}, {threads} threads"
            );
            must_be_sound_and_equal("qcow2", &image, &raw);
            std::fs::remove_file(&image).unwrap();

            // All was there but the end.
            let sink = create(&image, size, &options);
            pour(&source, &sink, threads, 0, u64::MAX);
            sink.checkpoint().unwrap();
            drop(sink);
            let sink = Qcow2Sink::resume(container(), size, options.clone()).unwrap();
            sink.keep(0..size).unwrap();
            sink.finish().unwrap();
            assert!(
                std::fs::read(&image).unwrap() == whole,
                "{shape}, {threads} threads"
            );
            std::fs::remove_file(&image).unwrap();
        }
        std::fs::remove_file(&whole_path).unwrap();
    }
}

#[test]
fn a_sink_lets_go_of_those_who_wait_when_it_is_abandoned() {
    let folder = image_judges::folder();
    let sink = create(&folder.path().join("image"), MIB, &Options::default());
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
    let folder = image_judges::folder();
    let path = folder.path().join("image");
    let sink = create(&path, MIB, &Options::default());
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
    let folder = image_judges::folder();
    let image = folder.path().join("image");
    let size = 8 << 40;
    let sink = create(&image, size, &Options::default());
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
fn what_was_written_after_the_last_checkpoint_may_be_lost_or_torn() {
    let size = 24 * MIB;
    let (folder, raw) = raw_source(size);
    let source = FileDisk::open(&raw).unwrap();
    for shape in [
        "cluster_size=4k",
        "cluster_size=4k -c",
        "compression_type=zstd -c",
        "preallocation=metadata,cluster_size=4k",
    ] {
        let options = options(shape);
        let whole_path = folder.path().join("whole");
        let sink = create(&whole_path, size, &options);
        pour(&source, &sink, 1, 0, u64::MAX);
        sink.finish().unwrap();
        let whole = std::fs::read(&whole_path).unwrap();
        let image = folder.path().join("killed");
        let sink = create(&image, size, &options);
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
            let sink = Qcow2Sink::resume(container, size, options.clone()).unwrap();
            sink.keep(0..10 * MIB).unwrap();
            pour(&source, &sink, 2, 10 * MIB, u64::MAX);
            sink.finish().unwrap();
            assert!(std::fs::read(&image).unwrap() == whole, "{shape}, round {round}");
            if round == 0 {
                must_be_sound_and_equal("qcow2", &image, &raw);
            }
        }
        std::fs::remove_file(&whole_path).unwrap();
        std::fs::remove_file(&image).unwrap();
    }
}

#[test]
fn a_full_container_fails_every_thread_and_none_waits_for_ever() {
    let folder = image_judges::folder();
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
    must_be_sound_and_equal("qcow2", &path, &raw);
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
                Some(seed) => {
                    // Some shrink to nothing, some do not shrink at all.
                    let mut bytes = pattern(u64::from(*seed), (end - at) as usize);
                    match seed % 3 {
                        0 => bytes.fill(*seed | 1),
                        1 => bytes.iter_mut().for_each(|byte| *byte &= 15),
                        _ => bytes
                            .iter_mut()
                            .zip(0_u32..)
                            .for_each(|(byte, at)| *byte ^= (at.wrapping_mul(0x9e37_79b9) >> 24) as u8),
                    }
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
        cluster_bits in 9..=17_u32,
        refcount_order in 0..=6_u32,
        shape in 0..5_usize,
        size in 1..6 * MIB,
        pieces in vec((1..200_u64, option::weighted(0.6, any::<u8>()), weighted(0.2)), 1..40),
        killed in any::<Index>(),
        trusted in any::<Index>(),
    ) {
        let mut options = Options { cluster_bits, refcount_order, ..Options::default() };
        match shape {
            0 => {}
            1 => options.compress = true,
            2 => (options.compress, options.compression) = (true, Compression::Zstd),
            3 => options.preallocation = Preallocation::Metadata,
            _ => (options.extended_l2, options.cluster_bits) = (true, cluster_bits.max(14)),
        }
        let cluster_bits = options.cluster_bits;
        let mut model = vec![0; size as usize];
        let whole = Arc::new(MemoryDisk::new("whole", Vec::new()));
        let sink = Qcow2Sink::create(whole.clone(), size, options.clone()).unwrap();
        deliver(&sink, size, &pieces, 0..pieces.len(), &mut model);
        sink.finish().unwrap();

        let disk = Arc::new(MemoryDisk::new("killed", Vec::new()));
        let sink = Qcow2Sink::create(disk.clone(), size, options.clone()).unwrap();
        let killed = killed.index(pieces.len());
        deliver(&sink, size, &pieces, 0..killed, &mut model);
        sink.checkpoint().unwrap();
        drop(sink);
        prop_assert_eq!(Qcow2::open(disk.clone(), &NoNeighbours).unwrap().check().unwrap(), Check::default());
        let trusted = if killed == 0 { 0 } else { trusted.index(killed + 1) };
        let kept: u64 = pieces[..trusted].iter().map(|(clusters, ..)| clusters << cluster_bits).sum();
        let sink = Qcow2Sink::resume(disk.clone(), size, options.clone()).unwrap();
        sink.keep(0..kept.min(size)).unwrap();
        deliver(&sink, size, &pieces, trusted..pieces.len(), &mut model);
        sink.finish().unwrap();
        prop_assert!(disk.contents() == whole.contents());

        let folder = image_judges::folder();
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
