//! The largest disks that formats allow: opened at once, in little memory. One test, since it looks at the memory of
//! its whole process.

use rehome::{
    disk::{Content, Disk, FileDisk, Result},
    image::{self, Beside, Check, Files, Format, Options, Shape},
};
use std::{
    path::Path,
    process::Command,
    sync::Arc,
    time::{Duration, Instant},
};

/// One new file.
struct OneFile(Arc<FileDisk>);

impl Files for OneFile {
    fn main(&self) -> Arc<dyn Disk> {
        self.0.clone()
    }

    fn name(&self) -> &str {
        "sda"
    }

    fn fresh(&self) -> bool {
        true
    }

    fn blank(&self) -> bool {
        true
    }

    fn beside(&mut self, name: &str, _size: u64) -> Result<Arc<dyn Disk>> {
        panic!("{name} is not needed");
    }
}

/// Peak memory of this process so far, in bytes.
fn peak_memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .unwrap();
    line.split_whitespace().next().unwrap().parse::<u64>().unwrap() << 10
}

/// Some data in the middle of a disk, and at its end.
fn make(path: &Path, format: Format, size: u64, options: &str) {
    let mut words = Options::default();
    words.add(options).unwrap();
    let shape = Shape {
        format,
        size,
        sector_size: 512,
        options: words,
    };
    let mut files = OneFile(Arc::new(
        FileDisk::create(path, image::initial_size(&shape)).unwrap(),
    ));
    let sink = image::create(&shape, &mut files).unwrap();
    let middle = (size / 3).next_multiple_of(1 << 20);
    sink.skip(0..middle).unwrap();
    sink.put(middle, &[7; 65536]).unwrap();
    sink.skip(middle + 65536..size - 4096).unwrap();
    sink.put(size - 4096, &[8; 4096]).unwrap();
    sink.finish().unwrap();
}

fn look(path: &Path, size: u64) {
    let start = Instant::now();
    let container = Arc::new(FileDisk::open(path).unwrap());
    let disk = image::open(container, None, &Beside::new(path)).unwrap();
    assert_eq!(disk.size(), size);
    let middle = (size / 3).next_multiple_of(1 << 20);
    for (at, byte) in [(middle + 10, 7), (size - 8, 8), (77, 0), (middle - 8, 0)] {
        let mut bytes = [0xee; 8];
        disk.read_at(at, &mut bytes).unwrap();
        assert_eq!(bytes, [byte; 8]);
    }
    assert!(
        start.elapsed() < Duration::from_millis(100),
        "{:?}",
        start.elapsed()
    );
    let mut at = 0;
    let mut data = Vec::new();
    while at < size {
        let map = disk.extents(at..size).unwrap();
        at = map.last().unwrap().range.end;
        let here = map.into_iter().filter(|extent| extent.content == Content::Data);
        data.extend(here.map(|extent| extent.range));
    }
    assert_eq!(data, [middle..middle + 65536, size - 4096..size]);
    assert_eq!(disk.check().unwrap(), Check::default());
}

#[test]
fn the_largest_disks_open_at_once_in_little_memory_and_cost_what_their_data_costs() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("image");
    for (format, size, options) in [
        (Format::Vhd, 2040 << 30, ""),
        (Format::Vhdx, 64 << 40, ""),
        // A table of 512 MiB that is a hole, and one of 32 MiB that is none.
        (Format::Vhdx, 64 << 40, "block_size=1M,block_state_zero=off"),
        (Format::Vhdx, 4 << 40, "block_size=1M"),
    ] {
        make(&path, format, size, options);
        look(&path, size);
        if options.is_empty() {
            let info = Command::new("qemu-img")
                .args(["info", "--output=json", "-f", format.name()])
                .arg(&path)
                .output()
                .unwrap();
            let info: serde_json::Value = serde_json::from_slice(&info.stdout).unwrap();
            assert_eq!(info["virtual-size"], size);
        }
        std::fs::remove_file(&path).unwrap();
    }
    assert!(peak_memory() < 64 << 20, "{} bytes", peak_memory());
    for (format, size, limit) in [
        (Format::Vhd, 2040_u64 << 30, "2040 GiB"),
        (Format::Vhdx, 64 << 40, "64 TiB"),
    ] {
        let shape = Shape {
            format,
            size: size + 512,
            sector_size: 512,
            options: Options::default(),
        };
        let mut files = OneFile(Arc::new(FileDisk::create(&path, 0).unwrap()));
        let error = image::create(&shape, &mut files).err().unwrap();
        assert!(error.to_string().contains(limit), "{error}");
        std::fs::remove_file(&path).unwrap();
    }
}
