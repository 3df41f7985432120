//! What `ntfs-3g` writes, we read.

use crate::image::Image;
use rehome::fs::{Attributes, FileSystem, Node, ntfs::Ntfs};
use std::{
    collections::BTreeMap,
    ffi::OsStr,
    fs,
    os::unix::{
        ffi::OsStrExt,
        fs::{FileExt, MetadataExt, symlink},
    },
    path::Path,
};

const MEBIBYTE: u64 = 1 << 20;

/// Bytes that no compression helps with.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    (0..length)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 56) as u8
        })
        .collect()
}

/// All contents, read in odd pieces.
fn contents(ntfs: &Ntfs, node: Node) -> Vec<u8> {
    let mut contents = Vec::new();
    let mut buffer = vec![0; 99_991];
    loop {
        let count = ntfs.read_at(node, contents.len() as u64, &mut buffer).unwrap();
        if count == 0 {
            return contents;
        }
        contents.extend_from_slice(&buffer[..count]);
    }
}

/// Everything below `path` is the same to us.
fn compare(ntfs: &Ntfs, node: Node, path: &Path, seen: &mut usize) {
    let metadata = fs::symlink_metadata(path).unwrap();
    let Attributes {
        size,
        modified,
        links,
        ..
    } = ntfs.attributes(node).unwrap();
    let attributes = ntfs.attributes(node).unwrap();
    let shown = path.display();
    assert_eq!(node.0, metadata.ino(), "{shown}");
    assert_eq!(
        modified.unwrap().div_euclid(1_000_000_000),
        i128::from(metadata.mtime()),
        "{shown}"
    );
    *seen += 1;
    if attributes.is_directory() {
        assert!(metadata.is_dir(), "{shown}");
        let mut names = BTreeMap::new();
        ntfs.list(node, &mut |name, child| {
            assert!(
                names.insert(name.to_vec(), child).is_none(),
                "{shown}: a name twice"
            );
            true
        })
        .unwrap();
        let mut there: Vec<_> = fs::read_dir(path)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_encoded_bytes())
            .collect();
        there.sort();
        assert_eq!(names.keys().cloned().collect::<Vec<_>>(), there, "{shown}");
        for (name, child) in names {
            assert_eq!(ntfs.lookup(node, &name).unwrap(), Some(child), "{shown}");
            compare(ntfs, child, &path.join(OsStr::from_bytes(&name)), seen);
        }
        assert_eq!(ntfs.lookup(node, b"no such name").unwrap(), None);
    } else if attributes.is_link() {
        assert!(metadata.is_symlink(), "{shown}");
        let target = contents(ntfs, node);
        assert_eq!(size, target.len() as u64);
        assert_eq!(
            fs::read_link(path).unwrap().as_os_str().as_bytes(),
            target,
            "{shown}"
        );
    } else {
        assert_eq!(size, metadata.len(), "{shown}");
        assert_eq!(u64::from(links.unwrap()), metadata.nlink(), "{shown}");
        assert!(contents(ntfs, node) == fs::read(path).unwrap(), "{shown}");
    }
}

fn populate(point: &Path) {
    fs::create_dir(point.join("many")).unwrap();
    for number in 0..1500 {
        let name = format!("many/a name of some length {number} {}", "x".repeat(number % 150));
        fs::write(point.join(name), noise(number % 900)).unwrap();
    }
    fs::write(point.join("plain"), noise(3_000_000)).unwrap();
    fs::write(point.join("empty"), b"").unwrap();
    fs::hard_link(point.join("plain"), point.join("another name")).unwrap();
    fs::create_dir_all(point.join("a/b/c/Ünïcödé/日本")).unwrap();
    fs::write(point.join("a/b/c/Ünïcödé/日本/😀"), b"smile").unwrap();
    symlink("a/b", point.join("link")).unwrap();
    let sparse = fs::File::create(point.join("sparse")).unwrap();
    sparse.set_len(50_000_000).unwrap();
    sparse.write_all_at(b"in the middle", 31_234_567).unwrap();
    sparse.write_all_at(b"end", 49_999_997).unwrap();
    // Every other file goes, so that one file lies in hundreds of pieces.
    fs::create_dir(point.join("pieces")).unwrap();
    for number in 0..800 {
        fs::write(point.join(format!("pieces/{number}")), noise(70_000)).unwrap();
    }
    for number in (0..800).step_by(2) {
        fs::remove_file(point.join(format!("pieces/{number}"))).unwrap();
    }
    fs::write(point.join("in pieces"), noise(16_000_000)).unwrap();
    rustix::fs::setxattr(
        point.join("plain"),
        "user.stream",
        b"of a stream",
        rustix::fs::XattrFlags::empty(),
    )
    .unwrap();
}

fn read_what_ntfs_3g_writes(options: &[&str]) {
    let image = Image::make_sparse(400 * MEBIBYTE, options);
    if !image.mounted("rw,special_files=wsl", populate) {
        return;
    }
    let mut seen = 0;
    image.mounted("ro", |point| {
        let ntfs = image.open();
        compare(&ntfs, ntfs.root(), point, &mut seen);
        let plain = ntfs.lookup(ntfs.root(), b"PLAIN").unwrap().unwrap();
        assert_eq!(
            ntfs.extended(plain, b"user.stream").unwrap().unwrap(),
            b"of a stream"
        );
        assert!(
            ntfs.extended_names(plain)
                .unwrap()
                .contains(&b"user.stream".to_vec())
        );
        let acl = |path: &Path| {
            let mut value = vec![0; 70_000];
            let length = rustix::fs::lgetxattr(path, "system.ntfs_acl", &mut value[..]).unwrap();
            value.truncate(length);
            value
        };
        assert_eq!(
            ntfs.extended(plain, b"system.ntfs_acl").unwrap().unwrap(),
            acl(&point.join("plain"))
        );
    });
    assert!(seen > 1900, "{seen}");
}

macro_rules! on {
    ($($name:ident: $options:expr;)*) => {$(
        #[test]
        fn $name() {
            read_what_ntfs_3g_writes(&$options);
        }
    )*};
}

on! {
    as_made_today: [];
    clusters_of_512: ["-c", "512"];
    clusters_of_64k: ["-c", "65536"];
    sectors_of_4096: ["-s", "4096", "-c", "4096"];
}
