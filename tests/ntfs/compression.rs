//! Compressed files: LZNT1 by NTFS itself, XPRESS and LZX by the Windows Overlay Filter. They are read, and become plain when
//! they are written.

use crate::{image::Image, model::contents};
use rehome::fs::{FileSystem, Node, ntfs::Ntfs};
use rustix::fs::{XattrFlags, setxattr};
use std::{
    fs,
    os::unix::fs::{FileExt, MetadataExt},
    path::Path,
};

const MEBIBYTE: u64 = 1 << 20;
const COMPRESSED: u32 = 0x800;

/// What compresses well in parts, not at all in others, and is nothing in between.
fn varied() -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut state = 1_u64;
    for part in 0..40_u64 {
        match part % 4 {
            0 => bytes.extend(format!("line {part} of a text\r\n").repeat(1500).into_bytes()),
            1 => bytes.resize(bytes.len() + 90_000, 0),
            _ => {
                for _ in 0..20_000 {
                    state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    bytes.push((state >> (40 + part % 3 * 8)) as u8 & if part % 4 == 2 { 0xff } else { 3 });
                }
            }
        }
    }
    bytes
}

fn set(path: &Path, name: &str, value: &[u8]) {
    setxattr(path, name, value, XattrFlags::empty()).unwrap_or_else(|e| panic!("{name}: {e}"));
}

#[test]
fn of_ntfs() {
    for options in [&[][..], &["-c", "512"], &["-c", "1024"]] {
        let image = Image::make_sparse(64 * MEBIBYTE, options);
        let bytes = varied();
        let mounted = image.mounted("rw,compression", |point| {
            let folder = point.join("packed");
            fs::create_dir(&folder).unwrap();
            set(&folder, "system.ntfs_attrib", &COMPRESSED.to_le_bytes());
            fs::write(folder.join("varied"), &bytes).unwrap();
            fs::write(folder.join("small"), b"in the record").unwrap();
            fs::write(folder.join("short"), "a text ".repeat(300)).unwrap();
            let holes = fs::File::create(folder.join("holes")).unwrap();
            holes.write_all_at(b"start", 0).unwrap();
            holes.write_all_at(&[7; 100_000], 1_000_000).unwrap();
        });
        if !mounted {
            return;
        }
        image.mounted("ro,compression", |point| {
            let packed = point.join("packed/varied").metadata().unwrap();
            assert!(
                packed.blocks() * 512 < packed.len() / 10 * 8,
                "it is compressed: {} blocks",
                packed.blocks()
            );
            let fs = image.open();
            let folder = fs.lookup(fs.root(), b"packed").unwrap().unwrap();
            for name in ["varied", "small", "short", "holes"] {
                let node = fs.lookup(folder, name.as_bytes()).unwrap().unwrap();
                let expected = fs::read(point.join("packed").join(name)).unwrap();
                assert!(contents(&fs, node) == expected, "{name}");
                // In the middle, across units.
                let mut piece = vec![0; 200_000];
                let at = expected.len() / 3;
                let count = fs.read_at(node, at as u64, &mut piece).unwrap();
                assert_eq!(piece[..count], expected[at..at + count]);
            }
        });
        become_plain(&image, b"packed", b"varied", &bytes);
    }
}

/// Appending keeps what is there, replacing does not; neither is compressed any more.
fn become_plain(image: &Image, folder: &[u8], name: &[u8], bytes: &[u8]) {
    let find = |fs: &Ntfs| {
        let folder = fs.lookup(fs.root(), folder).unwrap().unwrap();
        fs.lookup(folder, name).unwrap().unwrap()
    };
    let check = |expected: &[u8], when: &str| {
        image.must_be_clean(when);
        let fs = image.open();
        let node: Node = find(&fs);
        assert!(contents(&fs, node) == expected, "{when}");
        let attributes = fs.extended(node, b"system.ntfs_attrib").unwrap().unwrap();
        let attributes = u32::from_le_bytes(attributes.try_into().unwrap());
        assert_eq!(
            attributes & (COMPRESSED | 0x200 | 0x400),
            0,
            "{when}: {attributes:#x}"
        );
        assert!(
            fs.extended(node, b"system.ntfs_reparse_data").unwrap().is_none(),
            "{when}"
        );
        assert!(
            fs.extended(node, b"user.WofCompressedData").unwrap().is_none(),
            "{when}"
        );
        image.mounted("ro", |point| {
            let path = point
                .join(std::str::from_utf8(folder).unwrap())
                .join(std::str::from_utf8(name).unwrap());
            assert!(fs::read(path).unwrap() == expected, "{when}");
        });
    };
    let mut fs = image.open();
    let node = find(&fs);
    let edit = fs.edit().unwrap();
    edit.append(node, &mut &b"appended"[..]).unwrap();
    edit.commit().unwrap();
    drop(fs);
    check(&[bytes, b"appended"].concat(), "appended to what was compressed");
    let mut fs = image.open();
    let node = find(&fs);
    let edit = fs.edit().unwrap();
    edit.replace(node, &mut &b"new"[..]).unwrap();
    edit.commit().unwrap();
    drop(fs);
    check(b"new", "replaced what was compressed");
}

/// What the four files in `compressed/` hold; they were made with wimlib's compressors.
fn plain() -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut number = 0_u32;
    while bytes.len() < 36_000 {
        let line = number % 60;
        bytes.extend(format!("{line} jumps over {} lazy dogs\r\n", line * 7).into_bytes());
        // Calls, which LZX translates.
        if number.is_multiple_of(9) {
            bytes.push(0xe8);
            bytes.extend((number % 45 * 1000).to_le_bytes());
            bytes.push(0xe8);
            bytes.extend((-((number % 27) as i32) - 1).to_le_bytes());
        }
        number += 1;
    }
    bytes.truncate(36_000);
    bytes
}

fn unhex(text: &str) -> Vec<u8> {
    let digits: Vec<u32> = text.chars().filter_map(|digit| digit.to_digit(16)).collect();
    digits
        .chunks_exact(2)
        .map(|pair| (pair[0] << 4 | pair[1]) as u8)
        .collect()
}

#[test]
fn of_the_overlay_filter() {
    let files = [
        (0_u32, "xpress4k", include_str!("compressed/xpress4k.hex")),
        (1, "lzx", include_str!("compressed/lzx.hex")),
        (2, "xpress8k", include_str!("compressed/xpress8k.hex")),
        (3, "xpress16k", include_str!("compressed/xpress16k.hex")),
    ];
    let image = Image::make_sparse(64 * MEBIBYTE, &[]);
    let bytes = plain();
    let mounted = image.mounted("rw", |point| {
        fs::create_dir(point.join("compact")).unwrap();
        for (algorithm, name, packed) in files {
            let path = point.join("compact").join(name);
            fs::File::create(&path)
                .unwrap()
                .set_len(bytes.len() as u64)
                .unwrap();
            set(&path, "user.WofCompressedData", &unhex(packed));
            let mut point = 0x8000_0017_u32.to_le_bytes().to_vec();
            point.extend([16, 0, 0, 0]);
            for field in [1, 2, 1, algorithm] {
                point.extend(field.to_le_bytes());
            }
            set(&path, "system.ntfs_reparse_data", &point);
        }
    });
    if !mounted {
        return;
    }
    let fs = image.open();
    let folder = fs.lookup(fs.root(), b"compact").unwrap().unwrap();
    for (_, name, packed) in files {
        let node = fs.lookup(folder, name.as_bytes()).unwrap().unwrap();
        let attributes = fs.attributes(node).unwrap();
        assert!(
            attributes.is_file() && attributes.size == bytes.len() as u64,
            "{name}"
        );
        assert!(contents(&fs, node) == bytes, "{name}");
        let mut piece = vec![0; 3000];
        assert_eq!(fs.read_at(node, 31_000, &mut piece).unwrap(), 3000);
        assert_eq!(piece, bytes[31_000..34_000], "{name}");
        assert_eq!(fs.read_at(node, 36_000, &mut piece).unwrap(), 0);
        // The stream is there for who asks, and no extended attribute for who lists them.
        assert_eq!(
            fs.extended(node, b"user.WofCompressedData").unwrap().unwrap(),
            unhex(packed)
        );
        assert!(
            !fs.extended_names(node)
                .unwrap()
                .contains(&b"user.WofCompressedData".to_vec())
        );
    }
    drop(fs);
    for (_, name, _) in files {
        become_plain(&image, b"compact", name.as_bytes(), &bytes);
    }
}
