//! What we write.

use crate::image::{
    MIB, NewImage, convert, extents, must_be_sound_and_equal, open, pour, qemu_img, raw_source, read_all,
    text,
};
use rehome::{
    disk::{Disk, FileDisk, Kind, MemoryDisk, Sink},
    image::{
        Format, NoNeighbours, Options,
        vmdk::{self, StreamOptimized, Vmdk},
    },
};
use std::{io::Write, path::Path, sync::Arc};

const SUBFORMATS: [&str; 6] = [
    "monolithicSparse",
    "monolithicFlat",
    "twoGbMaxExtentSparse",
    "twoGbMaxExtentFlat",
    "streamOptimized",
    "vmfs",
];

fn contents_of(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let mut files: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap())
        .map(|entry| {
            (
                entry.file_name().into_string().unwrap(),
                std::fs::read(entry.path()).unwrap(),
            )
        })
        .collect();
    files.sort();
    files
}

#[test]
fn what_we_write_is_sound_and_the_same_whatever_the_number_of_threads() {
    for size in [33 * MIB + 512, 70_000] {
        let (folder, raw) = raw_source(size);
        let source = FileDisk::open(&raw).unwrap();
        for subformat in SUBFORMATS {
            let mut first = None;
            for threads in [1, 4] {
                let place = folder.path().join(format!("{subformat}-{threads}"));
                std::fs::create_dir(&place).unwrap();
                let image = place.join("disk.vmdk");
                convert(&source, &image, &format!("subformat={subformat}"), threads);
                let files = contents_of(&place);
                if first.is_none() {
                    must_be_sound_and_equal(&image, &raw);
                }
                assert!(
                    *first.get_or_insert_with(|| files.clone()) == files,
                    "{threads} threads, {subformat}, {size} bytes"
                );
            }
            let image = folder.path().join(format!("{subformat}-1/disk.vmdk"));
            let info = qemu_img(&["info", "--output=json", text(&image)]);
            let info: serde_json::Value = serde_json::from_str(&info).unwrap();
            assert_eq!(info["format"], "vmdk");
            assert_eq!(info["virtual-size"], size.next_multiple_of(512));
            assert_eq!(info["format-specific"]["data"]["create-type"], subformat);
            assert_eq!(info["format-specific"]["data"]["parent-cid"], 0xffff_ffff_u32);
            extents(open(&image).as_ref());
        }
    }
}

#[test]
fn a_sparse_image_is_where_qemu_img_has_everything() {
    let (folder, raw) = raw_source(40 * MIB + 512);
    let source = FileDisk::open(&raw).unwrap();
    let (ours, theirs) = (folder.path().join("ours.vmdk"), folder.path().join("theirs.vmdk"));
    convert(&source, &ours, "", 2);
    qemu_img(&["convert", "-f", "raw", "-O", "vmdk", text(&raw), text(&theirs)]);
    let ours = std::fs::read(ours).unwrap();
    let mut theirs = std::fs::read(theirs).unwrap();
    // The last grain of a disk may be cut in theirs; the descriptor differs.
    theirs.resize(ours.len(), 0);
    assert!(ours[..512] == theirs[..512]);
    assert!(ours[21 * 512..] == theirs[21 * 512..]);
}

#[test]
fn a_stream_is_no_larger_than_that_of_qemu_img() {
    let (folder, raw) = raw_source(20 * MIB);
    let source = FileDisk::open(&raw).unwrap();
    let (ours, theirs) = (folder.path().join("ours.vmdk"), folder.path().join("theirs.vmdk"));
    convert(&source, &ours, "subformat=streamOptimized", 2);
    let option = "subformat=streamOptimized";
    qemu_img(&[
        "convert",
        "-f",
        "raw",
        "-O",
        "vmdk",
        "-o",
        option,
        text(&raw),
        text(&theirs),
    ]);
    let size = |path: &Path| path.metadata().unwrap().len() as f64;
    assert!(
        size(&ours) / size(&theirs) < 1.03,
        "{} {}",
        size(&ours),
        size(&theirs)
    );
}

/// Takes bytes only one after the other, a few at a time.
#[derive(Default)]
struct Pipe {
    bytes: Vec<u8>,
    flushed: usize,
}

impl Write for Pipe {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let taken = bytes.len().min(1000);
        self.bytes.extend(&bytes[..taken]);
        Ok(taken)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.flushed = self.bytes.len();
        Ok(())
    }
}

#[test]
fn a_stream_that_only_goes_forward_is_the_file() {
    let (folder, raw) = raw_source(40 * MIB + 512);
    let source = FileDisk::open(&raw).unwrap();
    let image = folder.path().join("disk.vmdk");
    convert(
        &source,
        &image,
        "subformat=streamOptimized,adapter_type=pvscsi",
        2,
    );
    let options = vmdk::Options {
        adapter: vmdk::Adapter::Pvscsi,
        ..vmdk::Options::default()
    };
    for threads in [1, 3] {
        let sink = StreamOptimized::new(Pipe::default(), "disk.vmdk", source.size(), &options).unwrap();
        pour(&source, &sink, threads, 0, u64::MAX);
        sink.finish().unwrap();
        let (pipe, length) = sink.into_writer();
        assert_eq!(
            (pipe.bytes.len() as u64, pipe.flushed),
            (length, pipe.bytes.len())
        );
        assert!(pipe.bytes == std::fs::read(&image).unwrap());
    }
    let sink = StreamOptimized::new(Pipe::default(), "disk.vmdk", MIB, &options).unwrap();
    assert_eq!(sink.keep(0..MIB).unwrap_err().kind, Kind::Unsafe);
}

#[test]
fn a_pipe_that_breaks_stops_everybody() {
    #[derive(Debug)]
    struct Broken(usize);
    impl Write for Broken {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0 = self
                .0
                .checked_sub(bytes.len())
                .ok_or(std::io::ErrorKind::BrokenPipe)?;
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let sink = StreamOptimized::new(Broken(200_000), "d", 20 * MIB, &vmdk::Options::default()).unwrap();
    let next = std::sync::atomic::AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                loop {
                    let at = next.fetch_add(65536, std::sync::atomic::Ordering::SeqCst);
                    let bytes = crate::image::noise(at, 65536);
                    if sink.put(at, &bytes).is_err() {
                        return;
                    }
                }
            });
        }
    });
    assert_eq!(sink.finish().unwrap_err().kind, Kind::Cancelled);
}

#[test]
fn the_descriptor_says_what_was_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let image = folder.path().join("my disk.vmdk");
    let options = "subformat=monolithicFlat,adapter_type=pvscsi,hwversion=13,toolsversion=7,\
                   uuid=6000c29a-f26c-48d6-130c-dca5d2bcd918";
    let size = 10_u64 << 30;
    let sink = NewImage::new(&image).sink(size, options).unwrap();
    sink.skip(0..size).unwrap();
    sink.finish().unwrap();
    let descriptor = std::fs::read_to_string(&image).unwrap();
    for line in [
        "version=1",
        "parentCID=ffffffff",
        "createType=\"monolithicFlat\"",
        "RW 20971520 FLAT \"my disk-flat.vmdk\" 0",
        "ddb.virtualHWVersion = \"13\"",
        "ddb.geometry.cylinders = \"1305\"",
        "ddb.geometry.heads = \"255\"",
        "ddb.geometry.sectors = \"63\"",
        "ddb.adapterType = \"lsilogic\"",
        "ddb.toolsVersion = \"7\"",
        "ddb.uuid = \"60 00 c2 9a f2 6c 48 d6-13 0c dc a5 d2 bc d9 18\"",
    ] {
        assert!(
            descriptor.lines().any(|found| found == line),
            "{line} in {descriptor}"
        );
    }
    let flat = folder.path().join("my disk-flat.vmdk");
    assert_eq!(flat.metadata().unwrap().len(), size);
    assert!(
        open(&image)
            .info()
            .unwrap()
            .details
            .contains(&("ddb.toolsVersion".to_owned(), "7".to_owned()))
    );
}

#[test]
fn options_that_make_no_sense_are_refused() {
    let of = |words: &str, compress: bool| {
        let mut options = Options {
            compress,
            ..Options::default()
        };
        options.add(words).unwrap();
        vmdk::Options::from_words(&options)
    };
    for (words, compress, why) in [
        ("subformat=thin", false, "one of monolithicSparse"),
        ("adapter_type=nvme", false, "one of ide"),
        ("hwversion=new", false, "a number"),
        ("compat6=on,hwversion=7", false, "another hwversion"),
        (
            "zeroed_grain=on,subformat=monolithicFlat",
            false,
            "only for monolithicSparse",
        ),
        ("zeroed_grain=maybe", false, "on or off"),
        (
            "subformat=monolithicSparse",
            true,
            "only subformat=streamOptimized",
        ),
        ("uuid=7", false, "a UUID"),
        ("size=7", false, "there are: subformat"),
    ] {
        let error = of(words, compress).unwrap_err();
        assert_eq!(error.kind, Kind::Unsupported);
        assert!(error.to_string().contains(why), "{error}");
    }
    assert_eq!(of("", true).unwrap().subformat, vmdk::Subformat::StreamOptimized);
    assert_eq!(
        of("compat6=on,hwversion=undefined", false)
            .unwrap()
            .hardware_version,
        6
    );
    assert_eq!(
        of("adapter_type=legacyESX", false).unwrap().adapter,
        vmdk::Adapter::LegacyEsx
    );
    let folder = tempfile::tempdir().unwrap();
    let error = NewImage::new(&folder.path().join("a\"b.vmdk"))
        .sink(MIB, "")
        .err()
        .unwrap();
    assert!(error.to_string().contains("choose another name"), "{error}");
    let error = NewImage::new(&folder.path().join("e")).sink(0, "").err().unwrap();
    assert!(error.to_string().contains("0 bytes"), "{error}");
    let error = NewImage::new(&folder.path().join("l"))
        .sink(1 << 50, "")
        .err()
        .unwrap();
    assert!(error.to_string().contains("128 TiB"), "{error}");
    let many = "subformat=twoGbMaxExtentSparse";
    let error = NewImage::new(&folder.path().join("m"))
        .sink(4 << 40, many)
        .err()
        .unwrap();
    assert!(
        error.to_string().contains("choose subformat=monolithicSparse"),
        "{error}"
    );
}

#[test]
fn a_large_disk_costs_what_its_data_costs() {
    for subformat in ["monolithicSparse", "streamOptimized"] {
        let folder = tempfile::tempdir().unwrap();
        let image = folder.path().join("disk.vmdk");
        let size = 8 << 40;
        let sink = NewImage::new(&image)
            .sink(size, &format!("subformat={subformat}"))
            .unwrap();
        sink.skip(0..5 << 40).unwrap();
        sink.put(5 << 40, &[7; 65536]).unwrap();
        sink.skip((5 << 40) + 65536..size).unwrap();
        sink.finish().unwrap();
        let blocks = std::os::unix::fs::MetadataExt::blocks(&image.metadata().unwrap());
        assert!(blocks * 512 < 8 * MIB, "{blocks} blocks");
        let disk = open(&image);
        let mut bytes = [0; 4];
        disk.read_at((5 << 40) + 10, &mut bytes).unwrap();
        assert_eq!(bytes, [7; 4]);
        disk.read_at((5 << 40) - 4, &mut bytes).unwrap();
        assert_eq!(bytes, [0; 4]);
        let info = qemu_img(&["info", text(&image)]);
        assert!(info.contains("8 TiB"), "{info}");
    }
}

#[test]
fn a_sink_lets_go_of_those_who_wait_when_it_is_abandoned() {
    for subformat in ["monolithicSparse", "streamOptimized"] {
        let folder = tempfile::tempdir().unwrap();
        let image = folder.path().join("disk.vmdk");
        let sink = NewImage::new(&image)
            .sink(MIB, &format!("subformat={subformat}"))
            .unwrap();
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| sink.put(65536, &[1; 65536]));
            std::thread::sleep(std::time::Duration::from_millis(50));
            sink.abandon();
            assert_eq!(waiting.join().unwrap().unwrap_err().kind, Kind::Cancelled);
        });
        assert_eq!(sink.skip(0..65536).unwrap_err().kind, Kind::Cancelled);
        assert_eq!(sink.finish().unwrap_err().kind, Kind::Cancelled);
    }
}

#[test]
fn a_sink_refuses_what_makes_no_sense() {
    for subformat in ["monolithicSparse", "streamOptimized"] {
        let folder = tempfile::tempdir().unwrap();
        let image = folder.path().join("disk.vmdk");
        let option = format!("subformat={subformat}");
        let sink = NewImage::new(&image).sink(MIB, &option).unwrap();
        assert_eq!(sink.put(1, &[1; 65536]).unwrap_err().kind, Kind::OutOfRange);
        assert_eq!(sink.skip(0..2 * MIB).unwrap_err().kind, Kind::OutOfRange);
        let error = sink.finish().unwrap_err();
        assert!(error.to_string().contains("only 0 of 1048576 bytes"), "{error}");
        sink.skip(0..MIB / 2).unwrap();
        assert_eq!(sink.put(0, &[1; 65536]).unwrap_err().kind, Kind::Exists);
        assert_eq!(sink.keep(MIB / 2..MIB).unwrap_err().kind, Kind::Unsafe);
        let other = NewImage::left(&image).sink(2 * MIB, &option).err().unwrap();
        assert!(other.to_string().contains("cannot be resumed"), "{other}");
    }
}

#[test]
fn what_lay_in_a_container_before_does_not_show() {
    // A device keeps its size, and what was on it.
    let old = vec![0xaa; 6 << 20];
    let device = Arc::new(FixedSize(MemoryDisk::new("device", old)));
    let mut files = OnDevice(device.clone());
    let size = 3 * MIB + 70_000;
    let mut model = vec![0; size.next_multiple_of(512) as usize];
    model[65536..196_608].fill(9);
    model[3 << 20..][..70_000].fill(8);
    let shape = rehome::image::Shape {
        format: Format::Vmdk,
        size,
        sector_size: 512,
        options: Options::default(),
    };
    let sink = rehome::image::create(&shape, &mut files).unwrap();
    sink.skip(0..65536).unwrap();
    sink.put(65536, &[9; 131_072]).unwrap();
    sink.skip(196_608..3 * MIB).unwrap();
    sink.put(3 * MIB, &[8; 70_000]).unwrap();
    sink.finish().unwrap();
    let disk = Vmdk::open(device, &NoNeighbours).unwrap();
    assert!(read_all(&disk) == model);
}

#[derive(Debug)]
struct FixedSize(MemoryDisk);

impl Disk for FixedSize {
    fn label(&self) -> &str {
        "device"
    }
    fn size(&self) -> u64 {
        self.0.size()
    }
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> rehome::disk::Result<()> {
        self.0.read_at(offset, buffer)
    }
    fn write_at(&self, offset: u64, bytes: &[u8]) -> rehome::disk::Result<()> {
        self.0.write_at(offset, bytes)
    }
    fn extents(&self, range: std::ops::Range<u64>) -> rehome::disk::Result<Vec<rehome::disk::Extent>> {
        self.0.extents(range)
    }
    fn write_zeros(&self, range: std::ops::Range<u64>) -> rehome::disk::Result<()> {
        self.0.write_zeros(range)
    }
}

struct OnDevice(Arc<FixedSize>);

impl rehome::image::Files for OnDevice {
    fn main(&self) -> Arc<dyn Disk> {
        self.0.clone()
    }
    fn name(&self) -> &str {
        "device"
    }
    fn fresh(&self) -> bool {
        true
    }
    fn blank(&self) -> bool {
        false
    }
    fn beside(&mut self, name: &str, _size: u64) -> rehome::disk::Result<Arc<dyn Disk>> {
        panic!("{name} is not wanted");
    }
}
