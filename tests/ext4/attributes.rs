//! Extended attributes and access control lists, beside those that the kernel makes.

use crate::image::Image;
use rehome::fs::{Attributes, FileSystem, Node, mode};
use rustix::fs::{XattrFlags, lgetxattr, lsetxattr};
use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::Path,
};

const MEBIBYTE: u64 = 1 << 20;

fn get(path: &Path, name: &str) -> Option<Vec<u8>> {
    let mut buffer = vec![0; 70_000];
    let length = lgetxattr(path, name, &mut buffer[..]).ok()?;
    buffer.truncate(length);
    Some(buffer)
}

fn set(path: &Path, name: &str, value: &[u8]) {
    lsetxattr(path, name, value, XattrFlags::empty()).unwrap();
}

fn node(fs: &dyn FileSystem, name: &str) -> Node {
    fs.lookup(fs.root(), name.as_bytes()).unwrap().unwrap()
}

/// The form of `setxattr(2)`: version 2, then tag, permissions, id.
fn list(entries: &[(u16, u16, u32)]) -> Vec<u8> {
    let mut bytes = 2_u32.to_le_bytes().to_vec();
    for (tag, permissions, id) in entries {
        bytes.extend_from_slice(&tag.to_le_bytes());
        bytes.extend_from_slice(&permissions.to_le_bytes());
        bytes.extend_from_slice(&id.to_le_bytes());
    }
    bytes
}

/// The kernel lets files share a block of equal attributes: a change of one does not touch the others.
#[test]
fn blocks_that_files_share() {
    for options in [
        &["-t", "ext4"][..],
        &["-t", "ext4", "-O", "^metadata_csum"],
        &["-t", "ext2", "-I", "128"],
    ] {
        let image = Image::make(24 * MEBIBYTE, options);
        let value = vec![b'v'; 700];
        let mounted = image.mounted(false, |point| {
            for name in ["a", "b", "c", "d"] {
                fs::write(point.join(name), name).unwrap();
                set(&point.join(name), "user.shared", &value);
                set(&point.join(name), "user.also", b"1234567");
            }
        });
        if !mounted {
            return;
        }
        let dump = image.debugfs("stat /a");
        assert!(dump.contains("user.shared"), "{dump}");
        let mut fs = image.open();
        let [a, b, c, d] = ["a", "b", "c", "d"].map(|name| node(&fs, name));
        let edit = fs.edit().unwrap();
        edit.set_extended(a, b"user.shared", Some(b"short")).unwrap();
        let large = vec![b'w'; 800];
        edit.set_extended(b, b"user.other", Some(&[b'o'; 20])).unwrap();
        edit.set_extended(b, b"user.shared", Some(&large)).unwrap();
        edit.remove(Node(2), b"c").unwrap();
        edit.commit().unwrap();
        image.must_be_clean("with one of them changed");
        let fs = image.open();
        assert_eq!(fs.extended(a, b"user.shared").unwrap().unwrap(), b"short");
        assert_eq!(fs.extended(b, b"user.shared").unwrap().unwrap(), large);
        assert_eq!(fs.extended(d, b"user.shared").unwrap().unwrap(), value);
        assert!(fs.attributes(c).is_err());
        image.mounted(true, |point| {
            assert_eq!(get(&point.join("a"), "user.shared").unwrap(), b"short");
            assert_eq!(get(&point.join("b"), "user.shared").unwrap(), large);
            assert_eq!(get(&point.join("d"), "user.shared").unwrap(), value);
            assert_eq!(get(&point.join("b"), "user.also").unwrap(), b"1234567");
        });
    }
}

#[test]
fn values_in_inodes_of_their_own() {
    let image = Image::make(24 * MEBIBYTE, &["-t", "ext4", "-O", "ea_inode"]);
    let value: Vec<u8> = (0..30_000_u32).map(|byte| byte as u8).collect();
    let mounted = image.mounted(false, |point| {
        for name in ["a", "b", "c"] {
            fs::write(point.join(name), name).unwrap();
            set(&point.join(name), "user.large", &value);
        }
    });
    if !mounted {
        return;
    }
    let mut fs = image.open();
    let [a, b] = ["a", "b"].map(|name| node(&fs, name));
    assert_eq!(fs.extended(a, b"user.large").unwrap().unwrap(), value);
    let edit = fs.edit().unwrap();
    assert!(edit.set_extended(b, b"user.large", Some(b"x")).is_err());
    edit.set_extended(b, b"user.small", Some(b"x")).unwrap();
    edit.remove(Node(2), b"a").unwrap();
    edit.commit().unwrap();
    image.must_be_clean("with one owner gone");
    assert_eq!(image.open().extended(b, b"user.large").unwrap().unwrap(), value);
    let mut fs = image.open();
    let edit = fs.edit().unwrap();
    edit.remove(Node(2), b"b").unwrap();
    edit.remove(Node(2), b"c").unwrap();
    edit.commit().unwrap();
    image.must_be_clean("with all owners gone");
}

/// What is made in a directory with a default list has the list and the mode that the kernel would have given it.
#[test]
fn lists_are_inherited_as_by_the_kernel() {
    let image = Image::make(24 * MEBIBYTE, &["-t", "ext4"]);
    let default = list(&[
        (1, 7, u32::MAX),
        (2, 6, 1000),
        (4, 5, u32::MAX),
        (8, 7, 50),
        (0x10, 7, u32::MAX),
        (0x20, 4, u32::MAX),
    ]);
    let make = |path: &Path| {
        fs::create_dir(path.join("folder")).unwrap();
        fs::write(path.join("file"), b"").unwrap();
    };
    let mounted = image.mounted(false, |point| {
        for name in ["kernel", "ours"] {
            fs::create_dir(point.join(name)).unwrap();
            set(&point.join(name), "system.posix_acl_default", &default);
        }
        make(&point.join("kernel"));
        fs::set_permissions(point.join("kernel/folder"), fs::Permissions::from_mode(0o750)).unwrap();
    });
    if !mounted {
        return;
    }
    let mut fs = image.open();
    let ours = node(&fs, "ours");
    assert_eq!(
        fs.extended(ours, b"system.posix_acl_default").unwrap().unwrap(),
        default
    );
    let edit = fs.edit().unwrap();
    let edit_folder = edit.create(ours, b"folder", mode::DIRECTORY | 0o777).unwrap();
    let file = edit.create(ours, b"file", mode::FILE | 0o666).unwrap();
    let other = edit.create(ours, b"other", mode::FILE | 0o666).unwrap();
    let access = list(&[
        (1, 6, u32::MAX),
        (2, 4, 7),
        (4, 0, u32::MAX),
        (0x10, 4, u32::MAX),
        (0x20, 0, u32::MAX),
    ]);
    edit.set_extended(other, b"system.posix_acl_access", Some(&access))
        .unwrap();
    edit.commit().unwrap();
    let chmod = Attributes {
        mode: Some(0o750),
        ..Attributes::default()
    };
    edit.set_attributes(edit_folder, &chmod).unwrap();
    edit.commit().unwrap();
    image.must_be_clean("with lists");
    assert_eq!(image.open().attributes(other).unwrap().mode, Some(0o100_640));
    assert!(
        image
            .open()
            .extended(file, b"system.posix_acl_access")
            .unwrap()
            .is_some()
    );
    image.mounted(true, |point| {
        for name in ["folder", "file"] {
            let (kernel, ours) = (point.join("kernel").join(name), point.join("ours").join(name));
            for list in ["system.posix_acl_access", "system.posix_acl_default"] {
                assert_eq!(get(&ours, list), get(&kernel, list), "{name} {list}");
            }
            let modes = [&ours, &kernel].map(|path| fs::symlink_metadata(path).unwrap().mode());
            assert_eq!(modes[0], modes[1], "{name}");
        }
        let other = point.join("ours/other");
        assert_eq!(get(&other, "system.posix_acl_access").unwrap(), access);
    });
}

#[test]
fn labels_of_selinux_are_those_of_the_directory() {
    let image = Image::make(24 * MEBIBYTE, &["-t", "ext4"]);
    let mut fs = image.open();
    let edit = fs.edit().unwrap();
    let label = b"system_u:object_r:etc_t:s0\0";
    edit.set_extended(Node(2), b"security.selinux", Some(label))
        .unwrap();
    let folder = edit.create(Node(2), b"d", mode::DIRECTORY | 0o755).unwrap();
    let link = edit.create(folder, b"l", mode::LINK | 0o777).unwrap();
    edit.replace(link, &mut &b"target"[..]).unwrap();
    edit.commit().unwrap();
    image.must_be_clean("with labels");
    let fs = image.open();
    for node in [folder, link] {
        assert_eq!(fs.extended(node, b"security.selinux").unwrap().unwrap(), label);
        assert_eq!(fs.extended_names(node).unwrap(), [b"security.selinux"]);
    }
}
