//! Images that VMware's products and others made.

use crate::image::{extents, qemu_img, read_all, read_in_pieces, text, try_open};
use rehome::disk::Kind;
use std::{
    path::{Path, PathBuf},
    process::Command,
};

fn samples() -> Option<PathBuf> {
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/samples");
    let folder = std::env::var_os("REHOME_SAMPLES")
        .map(PathBuf::from)
        .unwrap_or(beside)
        .join("disk");
    if folder.is_dir() {
        return Some(folder);
    }
    eprintln!("skipped: REHOME_SAMPLES is not set, and there is no ../shared/samples");
    None
}

fn md5(bytes: &[u8]) -> String {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bytes");
    std::fs::write(&path, bytes).unwrap();
    let output = Command::new("md5sum").arg(&path).output().unwrap();
    String::from_utf8_lossy(&output.stdout)[..32].to_owned()
}

#[test]
fn have_the_contents_that_are_known_of_them() {
    let Some(folder) = samples() else { return };
    let ten_mib = "802645027360247b4cc349b44fd8cca3";
    for (sample, expected, subformat) in [
        ("vmdk-rs/monolithicSparse.vmdk", ten_mib, "monolithicSparse"),
        ("vmdk-rs/streamOptimized.vmdk", ten_mib, "streamOptimized"),
        (
            "vmdk-rs/twoGbMaxExtentSparse.vmdk",
            ten_mib,
            "twoGbMaxExtentSparse",
        ),
    ] {
        let disk = try_open(&folder.join(sample)).unwrap();
        let bytes = read_all(disk.as_ref());
        assert_eq!(md5(&bytes), expected, "{sample}");
        assert!(read_in_pieces(disk.as_ref(), 30_011) == bytes, "{sample}");
        assert_eq!(disk.info().unwrap().subformat.as_deref(), Some(subformat));
        extents(disk.as_ref());
        let check = disk.check().unwrap();
        assert!(check.errors.is_empty(), "{sample}: {check:?}");
    }
}

#[test]
fn are_what_qemu_img_reads() {
    let Some(folder) = samples() else { return };
    let work = tempfile::tempdir().unwrap();
    for sample in [
        "vmdk-rs/monolithicSparse.vmdk",
        "vmdk-rs/streamOptimized.vmdk",
        "vmdk-rs/streamOptimizedWithMarkers.vmdk",
        "vmdk-rs/twoGbMaxExtentSparse.vmdk",
        "vmdk-rs/vmfs_thick.vmdk",
        "go-vmdk-parser/vmdk-monolith.img",
        "go-vmdk-parser/vmdk-streamoptimized.img",
        "dfvfs/ext2.vmdk",
        "plaso/image.vmdk",
    ] {
        let raw = work.path().join("raw");
        qemu_img(&[
            "convert",
            "-f",
            "vmdk",
            "-O",
            "raw",
            text(&folder.join(sample)),
            text(&raw),
        ]);
        let disk = try_open(&folder.join(sample)).unwrap();
        assert!(
            read_all(disk.as_ref()) == std::fs::read(&raw).unwrap(),
            "{sample}"
        );
        extents(disk.as_ref());
        let check = disk.check().unwrap();
        assert!(check.errors.is_empty(), "{sample}: {check:?}");
    }
}

#[test]
fn two_kinds_of_one_large_disk_hold_the_same() {
    let Some(folder) = samples() else { return };
    let open = |name: &str| try_open(&folder.join("diskaccesslib/VMDK").join(name)).unwrap();
    let (sparse, stream) = (open("MonolithicSparse.vmdk"), open("StreamOptimized.vmdk"));
    assert_eq!((sparse.size(), stream.size()), (10 << 30, 10 << 30));
    let mut at = 0;
    let mut data = 0;
    let mut bytes = [vec![0; 1 << 20], vec![0; 1 << 20]];
    while at < sparse.size() {
        for extent in sparse.extents(at..sparse.size()).unwrap() {
            at = extent.range.end;
            if extent.content == rehome::disk::Content::Data {
                let mut here = extent.range.start;
                while here < extent.range.end {
                    let length = (extent.range.end - here).min(1 << 20) as usize;
                    sparse.read_at(here, &mut bytes[0][..length]).unwrap();
                    stream.read_at(here, &mut bytes[1][..length]).unwrap();
                    assert!(bytes[0][..length] == bytes[1][..length]);
                    here += length as u64;
                    data += length;
                }
            }
        }
    }
    assert!(data > 0);
    for disk in [sparse, stream] {
        let check = disk.check().unwrap();
        assert!(check.errors.is_empty(), "{check:?}");
    }
}

#[test]
fn what_lacks_a_part_says_which() {
    let Some(folder) = samples() else { return };
    for (sample, kind, said) in [
        (
            "vmdk-rs/monolithicFlat.vmdk",
            Kind::NotFound,
            "monolithicFlat-flat.vmdk",
        ),
        (
            "vmdk-rs/twoGbMaxExtentFlat.vmdk",
            Kind::NotFound,
            "twoGbMaxExtentFlat-f001.vmdk",
        ),
        (
            "vmdk-rs/vmfs_thick-000001.vmdk",
            Kind::NotFound,
            "vmfs_thick-000001-delta.vmdk",
        ),
        (
            "vmdk-rs/twoGbMaxExtentSparse-s001.vmdk",
            Kind::Unsupported,
            "name the descriptor",
        ),
        (
            "govmomi/ttylinux-pc_i486-16.1-disk1.vmdk",
            Kind::Corrupt,
            "footer",
        ),
    ] {
        let error = try_open(&folder.join(sample)).unwrap_err();
        assert_eq!(error.kind, kind, "{error}");
        assert!(error.to_string().contains(said), "{error}");
    }
    // Refused or read around, at once.
    for sample in ["go-vmdk-parser/vmdk-invalid.img", "qemu/afl9.vmdk.bz2"] {
        let path = folder.join(sample);
        let bytes = if sample.ends_with("bz2") {
            Command::new("bzip2")
                .arg("-dc")
                .arg(&path)
                .output()
                .unwrap()
                .stdout
        } else {
            std::fs::read(&path).unwrap()
        };
        let container = std::sync::Arc::new(rehome::disk::MemoryDisk::new("sample", bytes));
        if let Ok(disk) = rehome::image::open(container, None, &rehome::image::NoNeighbours) {
            let _ = disk.read_at(0, &mut [0; 512]);
            let _ = disk.check();
        }
    }
}
