//! qemu-img, and what every disk must keep to.

use rehome::{
    disk::{Content, Disk, FileDisk},
    image::{self, Beside, Check, Image},
};
use std::{
    ops::Range,
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::Arc,
};
use tempfile::TempDir;

pub(crate) const MIB: u64 = 1 << 20;

pub(crate) fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

pub(crate) fn run(program: &str, arguments: &[&str]) -> Output {
    Command::new(program)
        .args(arguments)
        .output()
        .unwrap_or_else(|error| panic!("{program} must be installed: {error}"))
}

#[track_caller]
pub(crate) fn qemu_img(arguments: &[&str]) -> String {
    let output = run("qemu-img", arguments);
    assert!(output.status.success(), "qemu-img {arguments:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[track_caller]
pub(crate) fn qemu_io(format: &str, commands: &[&str], image: &Path) {
    let mut arguments = vec!["-f", format];
    for command in commands {
        arguments.extend(["-c", command]);
    }
    arguments.push(text(image));
    let output = run("qemu-io", &arguments);
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && !said.contains("failed"), "{output:?}");
}

/// Size of the disk in `image`, as qemu-img sees it.
#[track_caller]
pub(crate) fn virtual_size(format: &str, image: &Path) -> u64 {
    let info = qemu_img(&["info", "--output=json", "-f", format, text(image)]);
    let info: serde_json::Value = serde_json::from_str(&info).unwrap();
    info["virtual-size"].as_u64().unwrap()
}

/// Opened as it would be by a user who names nothing.
#[track_caller]
pub(crate) fn open(path: &Path) -> Arc<dyn Image> {
    try_open(path).unwrap()
}

pub(crate) fn try_open(path: &Path) -> rehome::disk::Result<Arc<dyn Image>> {
    image::open(Arc::new(FileDisk::open(path)?), None, &Beside::new(path))
}

pub(crate) fn read_all(disk: &dyn Disk) -> Vec<u8> {
    let mut bytes = vec![0xee; disk.size() as usize];
    disk.read_at(0, &mut bytes).unwrap();
    bytes
}

/// What `image` holds, as qemu-img reads it.
#[track_caller]
pub(crate) fn flatten(format: &str, image: &Path) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let raw = folder.path().join("raw");
    qemu_img(&["convert", "-f", format, "-O", "raw", text(image), text(&raw)]);
    std::fs::read(raw).unwrap()
}

/// `image` has no errors, and what we read is what qemu-img reads.
#[track_caller]
pub(crate) fn must_agree(format: &str, image: &Path) -> Vec<u8> {
    let disk = open(image);
    assert_eq!(disk.format().name(), format);
    assert!(disk.check().unwrap().errors.is_empty());
    if format == "vhdx" {
        let check = qemu_img(&["check", "-f", format, text(image)]);
        assert!(check.contains("No errors were found"), "{check}");
    }
    let (ours, theirs) = (read_all(disk.as_ref()), flatten(format, image));
    assert_eq!(ours.len(), theirs.len());
    assert!(ours == theirs, "qemu-img reads something else");
    extents(disk.as_ref());
    ours
}

/// `image` is sound, and is read by us and by qemu-img as `model`, perhaps with zeros behind.
#[track_caller]
pub(crate) fn must_hold(format: &str, image: &Path, model: &[u8]) {
    assert_eq!(open(image).check().unwrap(), Check::default());
    must_hold_with_leaks(format, image, model);
}

/// The same of a fixed VHDX that qemu-img made: it gives blocks places at the end of the file, beside those that it had
/// reserved for all of them.
#[track_caller]
pub(crate) fn must_hold_with_leaks(format: &str, image: &Path, model: &[u8]) {
    let ours = must_agree(format, image);
    assert!(ours[..model.len()] == *model);
    assert!(ours[model.len()..].iter().all(|byte| *byte == 0));
}

/// All extents of `disk`, checked for order and gaps; what is not data must read as zeros.
#[track_caller]
pub(crate) fn extents(disk: &dyn Disk) -> Vec<(Range<u64>, Content)> {
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

/// Neither zeros nor wholly without order.
pub(crate) fn pattern(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let next = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 8) as u8 & 0x3f | 1
    };
    (0..length).map(next).collect()
}

/// A folder with "raw", a file of `size` bytes with data in places, and holes.
pub(crate) fn raw_source(size: u64) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("raw");
    let disk = FileDisk::create(&path, size).unwrap();
    for (index, start) in (0..size).step_by(1_700_000).enumerate() {
        let length = (1 << (index % 20)).min(size - start);
        disk.write_at(start, &pattern(index as u64, length as usize))
            .unwrap();
    }
    (folder, path)
}

/// Images of other programs, where there are any.
pub(crate) fn samples() -> Option<PathBuf> {
    let samples = std::env::var_os("REHOME_SAMPLES").map(|samples| PathBuf::from(samples).join("disk"));
    if samples.is_none() {
        eprintln!("skipped: REHOME_SAMPLES is not set");
    }
    samples
}

/// The sample called `name`, unpacked into `folder`.
pub(crate) fn unpack(samples: &Path, name: &str, folder: &Path) -> PathBuf {
    let packed = samples.join(name);
    let target = folder.join(packed.file_stem().unwrap());
    let program = match packed.extension().and_then(|extension| extension.to_str()) {
        Some("bz2") => "bzip2",
        Some("gz") => "gzip",
        _ => "cat",
    };
    let arguments = if program == "cat" {
        vec![text(&packed)]
    } else {
        vec!["-dc", text(&packed)]
    };
    let output = run(program, &arguments);
    assert!(output.status.success(), "{output:?}");
    let target = if program == "cat" {
        folder.join(packed.file_name().unwrap())
    } else {
        target
    };
    std::fs::write(&target, output.stdout).unwrap();
    target
}
