//! Security descriptors, names for DOS, streams, links, and the filesystem's own journals.

use crate::{image::Image, model::contents};
use rehome::fs::{FileSystem, Node, mode};
use rustix::fs::{XattrFlags, lgetxattr, setxattr};
use std::{collections::BTreeSet, fs, path::Path};

const MEBIBYTE: u64 = 1 << 20;

fn get(path: &Path, name: &str) -> Vec<u8> {
    let mut value = vec![0; 70_000];
    let length =
        lgetxattr(path, name, &mut value[..]).unwrap_or_else(|e| panic!("{}: {name}: {e}", path.display()));
    value.truncate(length);
    value
}

/// System and administrators may do everything, and what is in it inherits that; nobody else, and no more from above.
const CLOSED: &[u8] = &[
    1, 0, 4, 0x94, 0x48, 0, 0, 0, 0x58, 0, 0, 0, 0, 0, 0, 0, 20, 0, 0, 0, // header
    2, 0, 0x34, 0, 2, 0, 0, 0, // list
    0, 3, 0x14, 0, 0xff, 1, 0x1f, 0, 1, 1, 0, 0, 0, 0, 0, 5, 18, 0, 0, 0, // SYSTEM
    0, 3, 0x18, 0, 0xff, 1, 0x1f, 0, 1, 2, 0, 0, 0, 0, 0, 5, 32, 0, 0, 0, 32, 2, 0, 0, // Administrators
    1, 2, 0, 0, 0, 0, 0, 5, 32, 0, 0, 0, 32, 2, 0, 0, // owner: Administrators
    1, 1, 0, 0, 0, 0, 0, 5, 18, 0, 0, 0, // group: SYSTEM
];

#[test]
fn descriptors_are_set_inherited_and_shared() {
    let image = Image::make_sparse(48 * MEBIBYTE, &[]);
    let mut fs = image.open();
    let root = fs.root();
    let edit = fs.edit().unwrap();
    let folder = edit.create(root, b"closed", mode::DIRECTORY | 0o755).unwrap();
    edit.set_extended(folder, b"system.ntfs_acl", Some(CLOSED))
        .unwrap();
    let mut files = Vec::new();
    for number in 0..40 {
        files.push(
            edit.create(folder, format!("{number}").as_bytes(), mode::FILE | 0o644)
                .unwrap(),
        );
    }
    let below = edit.create(folder, b"below", mode::DIRECTORY | 0o755).unwrap();
    let deep = edit.create(below, b"deep", mode::FILE | 0o644).unwrap();
    edit.commit().unwrap();
    drop(fs);
    image.must_be_clean("with descriptors");
    let fs = image.open();
    let acl = |node: Node| fs.extended(node, b"system.ntfs_acl").unwrap().unwrap();
    assert_eq!(acl(folder), CLOSED);
    let of_files: BTreeSet<_> = files.iter().map(|file| acl(*file)).collect();
    assert_eq!(of_files.len(), 1);
    // Two entries, marked as inherited, and nothing for what is in a file.
    let inherited = of_files.first().unwrap();
    assert_eq!(inherited[20..28], CLOSED[20..28]);
    assert_eq!((inherited[29], inherited[49]), (0x10, 0x10));
    assert_eq!((acl(below)[29], acl(below)[49]), (0x13, 0x13));
    assert_eq!(acl(deep), *inherited);
    image.mounted("ro", |point| {
        assert_eq!(get(&point.join("closed"), "system.ntfs_acl"), CLOSED);
        assert_eq!(get(&point.join("closed/7"), "system.ntfs_acl"), *inherited);
        assert_eq!(get(&point.join("closed/below"), "system.ntfs_acl"), acl(below));
    });
    // All of them have one number.
    let mut ids = BTreeSet::new();
    for file in &files {
        ids.insert(crate::checker::security_of(&image.path, file.0));
    }
    assert_eq!(ids.len(), 1);
}

/// Hundreds of descriptors fill the indexes of `$Secure` and more than one block of its stream.
#[test]
fn many_descriptors() {
    let image = Image::make_sparse(100 * MEBIBYTE, &[]);
    let mut expected = Vec::new();
    for round in 0..3_u32 {
        let mut fs = image.open();
        let root = fs.root();
        let edit = fs.edit().unwrap();
        for number in 0..300_u32 {
            let name = format!("{round} {number}");
            let node = edit.create(root, name.as_bytes(), mode::FILE | 0o644).unwrap();
            // Another user each time, and longer and longer: room in the list that no entry uses.
            let more = number * 8;
            let mut acl = CLOSED.to_vec();
            acl[0x2c..0x30].copy_from_slice(&(1000 + round * 300 + number).to_le_bytes());
            acl[0x16..0x18].copy_from_slice(&(0x34 + more as u16).to_le_bytes());
            acl[4..8].copy_from_slice(&(0x48 + more).to_le_bytes());
            acl[8..12].copy_from_slice(&(0x58 + more).to_le_bytes());
            acl.splice(0x48..0x48, std::iter::repeat_n(0, more as usize));
            edit.set_extended(node, b"system.ntfs_acl", Some(&acl)).unwrap();
            expected.push((name, node, acl));
        }
        edit.commit().unwrap();
        drop(fs);
        image.must_be_clean(&format!("round {round}"));
    }
    let fs = image.open();
    for (name, node, acl) in &expected {
        assert_eq!(
            fs.extended(*node, b"system.ntfs_acl").unwrap().unwrap(),
            *acl,
            "{name}"
        );
    }
    image.mounted("ro", |point| {
        for (name, _, acl) in expected.iter().step_by(17) {
            assert_eq!(get(&point.join(name), "system.ntfs_acl"), *acl, "{name}");
        }
    });
}

#[test]
fn names_for_dos() {
    let image = Image::make_sparse(24 * MEBIBYTE, &[]);
    let mut fs = image.open();
    let root = fs.root();
    let edit = fs.edit().unwrap();
    for name in [
        "Program Files",
        "Program Files (x86)",
        "ProgramData",
        "Program Store",
        "Program Fifth",
        "short.txt",
        "日本語.html",
    ] {
        edit.create(root, name.as_bytes(), mode::DIRECTORY | 0o755)
            .unwrap();
    }
    edit.commit().unwrap();
    drop(fs);
    image.must_be_clean("with names for DOS");
    let mut fs = image.open();
    let dos = |fs: &dyn FileSystem, name: &str| {
        let node = fs.lookup(root, name.as_bytes()).unwrap().unwrap();
        let dos = fs.extended(node, b"system.ntfs_dos_name").unwrap();
        dos.map(|dos| String::from_utf8(dos).unwrap())
    };
    assert_eq!(dos(&fs, "Program Files").as_deref(), Some("PROGRA~1"));
    assert_eq!(dos(&fs, "Program Files (x86)").as_deref(), Some("PROGRA~2"));
    assert_eq!(dos(&fs, "Program Store").as_deref(), Some("PROGRA~4"));
    let fifth = dos(&fs, "Program Fifth").unwrap();
    assert!(
        fifth.starts_with("PR") && fifth.ends_with("~1") && fifth.len() == 8,
        "{fifth}"
    );
    assert_eq!(dos(&fs, "short.txt"), None);
    assert!(dos(&fs, "日本語.html").unwrap().ends_with("~1.HTM"));
    assert_eq!(
        fs.lookup(root, b"progra~2").unwrap(),
        fs.lookup(root, b"program files (X86)").unwrap()
    );
    // The name for DOS goes with the other, and the names after it can have it.
    let edit = fs.edit().unwrap();
    edit.rename((root, b"PROGRA~1"), (root, b"Programme")).unwrap();
    edit.remove(root, b"progra~2").unwrap();
    edit.create(root, b"Program Sixth", mode::DIRECTORY | 0o755)
        .unwrap();
    edit.commit().unwrap();
    drop(fs);
    image.must_be_clean("with names renamed");
    let fs = image.open();
    assert_eq!(dos(&fs, "Programme").as_deref(), Some("PROGRA~1"));
    assert_eq!(dos(&fs, "Program Sixth").as_deref(), Some("PROGRA~2"));
    assert!(fs.lookup(root, b"Program Files").unwrap().is_none());
    image.mounted("ro", |point| {
        assert_eq!(get(&point.join("Programme"), "system.ntfs_dos_name"), b"PROGRA~1");
    });
}

#[test]
fn links_and_mount_points() {
    let image = Image::make_sparse(24 * MEBIBYTE, &[]);
    let mut fs = image.open();
    let root = fs.root();
    let edit = fs.edit().unwrap();
    let link = edit.create(root, b"link", mode::LINK | 0o777).unwrap();
    edit.replace(link, &mut &b"folder/file"[..]).unwrap();
    let folder = edit.create(root, b"folder", mode::DIRECTORY | 0o755).unwrap();
    let file = edit.create(folder, b"file", mode::FILE | 0o644).unwrap();
    edit.replace(file, &mut &b"contents"[..]).unwrap();
    // As `mklink /j` makes it.
    let mut point = 0xa000_0003_u32.to_le_bytes().to_vec();
    let target: Vec<u8> = "\\??\\C:\\Users\0C:\\Users\0"
        .encode_utf16()
        .flat_map(u16::to_le_bytes)
        .collect();
    point.extend((8 + target.len() as u16).to_le_bytes());
    point.extend([0, 0, 0, 0, 24, 0, 26, 0, 16, 0]);
    point.extend(target);
    let junction = edit
        .create(root, b"Documents and Settings", mode::DIRECTORY | 0o755)
        .unwrap();
    edit.set_extended(junction, b"system.ntfs_reparse_data", Some(&point))
        .unwrap();
    edit.commit().unwrap();
    drop(fs);
    image.must_be_clean("with links");
    let mut fs = image.open();
    assert!(fs.attributes(junction).unwrap().is_link());
    assert_eq!(contents(&fs, junction), b"C:/Users");
    assert_eq!(contents(&fs, link), b"folder/file");
    assert_eq!(fs.attributes(link).unwrap().size, 11);
    assert_eq!(
        fs.extended(junction, b"system.ntfs_reparse_data")
            .unwrap()
            .unwrap(),
        point
    );
    image.mounted("ro", |mount| {
        assert_eq!(fs::read(mount.join("link")).unwrap(), b"contents");
        assert_eq!(
            get(&mount.join("Documents and Settings"), "system.ntfs_reparse_data"),
            point
        );
    });
    let edit = fs.edit().unwrap();
    edit.replace(junction, &mut &b"C:/People"[..]).unwrap();
    assert!(edit.replace(junction, &mut &b"relative"[..]).is_err());
    edit.set_extended(link, b"system.ntfs_reparse_data", None)
        .unwrap();
    edit.commit().unwrap();
    drop(fs);
    image.must_be_clean("with other links");
    let mut fs = image.open();
    assert_eq!(contents(&fs, junction), b"C:/People");
    assert!(fs.attributes(link).unwrap().is_file());
    let edit = fs.edit().unwrap();
    edit.remove(root, b"Documents and Settings").unwrap();
    edit.remove(root, b"link").unwrap();
    edit.commit().unwrap();
    image.must_be_clean("without links");
}

/// `ntfs-3g` gives a file an identifier; its index must not keep that of a file that is gone.
#[test]
fn object_identifiers() {
    let image = Image::make_sparse(24 * MEBIBYTE, &[]);
    let id: Vec<u8> = (1..=16).collect();
    let mounted = image.mounted("rw", |point| {
        for name in ["a", "b"] {
            fs::write(point.join(name), b"x").unwrap();
            let mut id = id.clone();
            id[0] = name.as_bytes()[0];
            setxattr(
                point.join(name),
                "system.ntfs_object_id",
                &id,
                XattrFlags::empty(),
            )
            .unwrap();
        }
    });
    if !mounted {
        return;
    }
    let mut fs = image.open();
    let root = fs.root();
    let a = fs.lookup(root, b"a").unwrap().unwrap();
    assert_eq!(
        fs.extended(a, b"system.ntfs_object_id").unwrap().unwrap()[1..16],
        id[1..]
    );
    let edit = fs.edit().unwrap();
    edit.remove(root, b"a").unwrap();
    edit.commit().unwrap();
    image.must_be_clean("without a");
}

/// The same edits give the same bytes.
#[test]
fn edits_are_deterministic() {
    let image = Image::make_sparse(48 * MEBIBYTE, &[]);
    let before = fs::read(&image.path).unwrap();
    let mut results = BTreeSet::new();
    for _ in 0..2 {
        fs::write(&image.path, &before).unwrap();
        let mut fs = image.open();
        let root = fs.root();
        let mut model = crate::model::Model::read(&fs);
        let mut random = crate::model::Random::new(77);
        let edit = fs.edit().unwrap();
        edit.set_clock(1_700_000_000);
        for _ in 0..200 {
            model.step(edit, &mut random, 100_000);
        }
        assert_eq!(root, edit.root());
        edit.commit().unwrap();
        results.insert(*blake3_of(&image.path));
    }
    assert_eq!(results.len(), 1);
}

fn blake3_of(path: &Path) -> Box<[u8; 32]> {
    Box::new(rehome::disk::Digest::of(&fs::read(path).unwrap()).0)
}

/// What Windows has checked of a file's contents is forgotten with them; other extended attributes stay.
#[test]
fn extended_attributes_of_the_kernel_go_with_the_contents() {
    let image = Image::make_sparse(24 * MEBIBYTE, &[]);
    let entry = |name: &str, value: &[u8], last: bool| {
        let used = 8 + name.len() + 1 + value.len();
        let mut raw = (used.next_multiple_of(4) as u32).to_le_bytes().to_vec();
        raw.extend([0, name.len() as u8, value.len() as u8, 0]);
        raw.extend(name.as_bytes());
        raw.push(0);
        raw.extend(value);
        raw.resize(used.next_multiple_of(4), 0);
        assert!(last || !raw.is_empty());
        raw
    };
    let kept = entry("$LXUID", &[1, 2, 3, 4], true);
    let all = [entry("$KERNEL.PURGE.ESBCACHE", &[9; 60], false), kept.clone()].concat();
    let mounted = image.mounted("rw", |point| {
        fs::write(point.join("driver.sys"), b"old").unwrap();
        setxattr(
            point.join("driver.sys"),
            "system.ntfs_ea",
            &all,
            XattrFlags::empty(),
        )
        .unwrap();
    });
    if !mounted {
        return;
    }
    let mut fs = image.open();
    let root = fs.root();
    let node = fs.lookup(root, b"driver.sys").unwrap().unwrap();
    assert_eq!(fs.extended(node, b"system.ntfs_ea").unwrap().unwrap(), all);
    let edit = fs.edit().unwrap();
    edit.replace(node, &mut &b"new"[..]).unwrap();
    edit.commit().unwrap();
    drop(fs);
    assert_eq!(
        image.open().extended(node, b"system.ntfs_ea").unwrap().unwrap(),
        kept
    );
    image.mounted("ro", |point| {
        assert_eq!(get(&point.join("driver.sys"), "system.ntfs_ea"), kept);
    });
}
