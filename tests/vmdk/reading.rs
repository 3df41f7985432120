//! What qemu-img makes.

use crate::image::{MIB, extents, open, qemu_img, qemu_io, raw_source, read_all, read_in_pieces, text};
use rehome::{
    disk::Content,
    image::{Check, Format},
};

const SUBFORMATS: [&str; 5] = [
    "monolithicSparse",
    "monolithicFlat",
    "twoGbMaxExtentSparse",
    "twoGbMaxExtentFlat",
    "streamOptimized",
];

#[test]
fn everything_that_qemu_img_makes_is_read() {
    // A whole number of grains, and an end within one.
    for size in [9 * MIB, 40 * MIB + 3 * 512] {
        let (folder, raw) = raw_source(size);
        let expected = std::fs::read(&raw).unwrap();
        for subformat in SUBFORMATS {
            let image = folder.path().join(format!("{subformat}.img"));
            let option = format!("subformat={subformat},adapter_type=lsilogic,hwversion=7");
            qemu_img(&[
                "convert",
                "-f",
                "raw",
                "-O",
                "vmdk",
                "-o",
                &option,
                text(&raw),
                text(&image),
            ]);
            let disk = open(&image);
            assert_eq!((disk.format(), disk.size()), (Format::Vmdk, size));
            assert!(read_all(disk.as_ref()) == expected, "{subformat}");
            assert!(read_in_pieces(disk.as_ref(), 10_007) == expected, "{subformat}");
            let map = extents(disk.as_ref());
            assert!(
                map.iter().any(|(_, content)| *content == Content::Hole),
                "{subformat}"
            );
            assert_eq!(disk.check().unwrap(), Check::default(), "{subformat}");
            let info = disk.info().unwrap();
            assert_eq!(info.subformat.as_deref(), Some(subformat));
            let is_flat = subformat.ends_with("Flat");
            assert_eq!(info.unit, (!is_flat).then_some(65536));
            assert_eq!(info.compression.is_some(), subformat == "streamOptimized");
            assert_eq!(
                info.files.is_empty(),
                matches!(subformat, "monolithicSparse" | "streamOptimized")
            );
            let detail = |name: &str| {
                let mut all = info.details.iter();
                all.find(|(key, _)| key == name).map(|(_, value)| value.as_str())
            };
            assert_eq!(detail("ddb.adapterType"), Some("lsilogic"));
            assert_eq!(detail("ddb.virtualHWVersion"), Some("7"));
        }
    }
}

#[test]
fn a_disk_in_several_pieces_is_one_disk() {
    let folder = tempfile::tempdir().unwrap();
    let image = folder.path().join("disk.vmdk");
    for subformat in ["twoGbMaxExtentSparse", "twoGbMaxExtentFlat"] {
        let option = format!("subformat={subformat}");
        qemu_img(&["create", "-f", "vmdk", "-o", &option, text(&image), "5G"]);
        qemu_io(
            &[
                "write -P 1 0 64k",
                "write -P 2 2147450880 128k",
                "write -P 3 5368643584 64k",
            ],
            &image,
        );
        let disk = open(&image);
        assert_eq!(disk.size(), 5 << 30);
        assert_eq!(disk.info().unwrap().files.len(), 3);
        let mut bytes = vec![0; 196_608];
        disk.read_at((2 << 30) - 65536, &mut bytes).unwrap();
        assert!(bytes[..32768].iter().all(|byte| *byte == 0));
        assert!(bytes[32768..163_840].iter().all(|byte| *byte == 2));
        assert!(bytes[163_840..].iter().all(|byte| *byte == 0));
        disk.read_at((5 << 30) - 4, &mut bytes[..4]).unwrap();
        assert_eq!(bytes[..4], [3; 4]);
        let mut at = 0;
        let mut data = 0;
        while at < disk.size() {
            for extent in disk.extents(at..disk.size()).unwrap() {
                assert_eq!(extent.range.start, at);
                at = extent.range.end;
                if extent.content == Content::Data {
                    data += extent.range.end - extent.range.start;
                }
            }
        }
        // A grain at most is more than what was written.
        assert!((256 << 10..512 << 10).contains(&data), "{data}");
        for entry in std::fs::read_dir(folder.path()).unwrap() {
            std::fs::remove_file(entry.unwrap().path()).unwrap();
        }
    }
}

#[test]
fn zeroed_grains_are_zeros() {
    let folder = tempfile::tempdir().unwrap();
    let image = folder.path().join("disk.vmdk");
    qemu_img(&[
        "create",
        "-f",
        "vmdk",
        "-o",
        "zeroed_grain=on",
        text(&image),
        "20M",
    ]);
    qemu_io(
        &[
            "write -P 1 0 5M",
            "write -z 1M 1M",
            "write -z 3M 512k",
            "write -P 7 1100k 10k",
            "write -P 9 19M 1M",
        ],
        &image,
    );
    let raw = folder.path().join("raw");
    qemu_img(&["convert", "-O", "raw", text(&image), text(&raw)]);
    let disk = open(&image);
    assert!(read_all(disk.as_ref()) == std::fs::read(&raw).unwrap());
    let map = extents(disk.as_ref());
    assert!(
        map.contains(&(3 * MIB..3 * MIB + (512 << 10), Content::Hole)),
        "{map:?}"
    );
}

#[test]
fn a_disk_of_many_terabytes_opens_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let image = folder.path().join("disk.vmdk");
    qemu_img(&["create", "-f", "vmdk", text(&image), "16T"]);
    let start = std::time::Instant::now();
    let disk = open(&image);
    let mut bytes = [1; 512];
    disk.read_at((16 << 40) - 512, &mut bytes).unwrap();
    assert_eq!(bytes, [0; 512]);
    let first = disk.extents(0..disk.size()).unwrap();
    assert!(start.elapsed().as_millis() < 500, "{:?}", start.elapsed());
    assert_eq!(first.len(), 1);
    assert_eq!(first[0].content, Content::Hole);
}

#[test]
fn threads_read_different_parts_at_once() {
    let (folder, raw) = raw_source(24 * MIB);
    let expected = std::fs::read(&raw).unwrap();
    let image = folder.path().join("disk.vmdk");
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
        text(&image),
    ]);
    let disk = open(&image);
    std::thread::scope(|scope| {
        for thread in 0..4_usize {
            let (disk, expected) = (&disk, &expected);
            scope.spawn(move || {
                for step in 0..200 {
                    let at = (step * 77_777 * (thread + 1)) % (expected.len() - 5000);
                    let mut bytes = vec![0; 5000];
                    disk.read_at(at as u64, &mut bytes).unwrap();
                    assert!(bytes == expected[at..at + 5000]);
                }
            });
        }
    });
}

#[test]
fn the_first_bytes_tell_the_format_whatever_the_name() {
    let (folder, raw) = raw_source(MIB);
    let image = folder.path().join("disk.qcow2");
    qemu_img(&["convert", "-f", "raw", "-O", "vmdk", text(&raw), text(&image)]);
    assert_eq!(open(&image).format(), Format::Vmdk);
    let named = folder.path().join("raw.vmdk");
    std::fs::rename(&raw, &named).unwrap();
    assert_eq!(open(&named).format(), Format::Raw);
}
