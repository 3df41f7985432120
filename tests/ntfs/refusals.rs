//! What can't be edited safely is refused by name, with the cure.

use crate::image::Image;
use rehome::{
    disk::{Kind, MemoryDisk},
    fs::{FileSystem, mode, ntfs::Ntfs},
};
use std::{path::Path, sync::Arc};

const MEBIBYTE: u64 = 1 << 20;

fn refused(image: &Image, kind: Kind, words: &[&str]) {
    let mut fs = image.open();
    // Reading works.
    fs.list(fs.root(), &mut |_, _| true).unwrap();
    let error = fs.edit().err().unwrap();
    let text = error.to_string();
    assert_eq!(error.kind, kind, "{text}");
    for word in words {
        assert!(text.contains(word), "{word}: {text}");
    }
}

fn nothing_is_free(image: &Image) {
    image
        .open()
        .free(&mut |run| panic!("{run:?} is free, says a bitmap that may be old"))
        .unwrap();
}

fn image() -> Image {
    Image::make_sparse(24 * MEBIBYTE, &[])
}

/// Where `$Volume` has its flags: found by what mkntfs writes before, version 3.1.
fn volume_flags(image: &Image) -> u64 {
    let at = image.attribute(3, 0x70);
    let mut value = [0; 2];
    image.disk().read_at(at + 20, &mut value).unwrap();
    at + u64::from(u16::from_le_bytes(value)) + 8
}

#[test]
fn dirty() {
    let image = image();
    let at = volume_flags(&image);
    image.disk().write_at(at, &[3, 1, 1, 0]).unwrap();
    image.mirror_again();
    refused(&image, Kind::Unsafe, &["dirty", "chkdsk /f", "--force-dirty"]);
    nothing_is_free(&image);
    // Who insists may edit; it stays dirty, so that Windows checks it.
    let mut fs = image.open();
    fs.allow_dirty();
    let root = fs.root();
    let edit = fs.edit().unwrap();
    edit.create(root, b"a", mode::FILE | 0o644).unwrap();
    edit.commit().unwrap();
    let mut flags = [0; 4];
    image.disk().read_at(at, &mut flags).unwrap();
    assert_eq!(flags, [3, 1, 1, 0]);
    assert!(image.open().lookup(root, b"a").unwrap().is_some());
    nothing_is_free(&image);
}

#[test]
fn versions_that_are_not_known_and_of_windows_nt() {
    let image = image();
    let at = volume_flags(&image);
    image.disk().write_at(at, &[3, 2]).unwrap();
    image.mirror_again();
    refused(&image, Kind::Unsupported, &["3.2", "not known"]);
    image.disk().write_at(at, &[1, 2]).unwrap();
    image.mirror_again();
    refused(&image, Kind::Unsupported, &["Windows NT 4", "Windows 2000"]);
}

#[test]
fn check_underway() {
    let image = image();
    image
        .disk()
        .write_at(volume_flags(&image), &[3, 1, 0, 0x40])
        .unwrap();
    image.mirror_again();
    refused(&image, Kind::Unsafe, &["chkdsk", "did not end"]);
    nothing_is_free(&image);
}

/// A file in the root, made with the tool of ours that is tested elsewhere.
fn put(image: &Image, name: &[u8], contents: &[u8]) {
    let mut fs = image.open();
    let root = fs.root();
    let edit = fs.edit().unwrap();
    let node = edit.create(root, name, mode::FILE | 0o644).unwrap();
    edit.replace(node, &mut &*contents).unwrap();
    edit.commit().unwrap();
}

#[test]
fn hibernated() {
    for (contents, hibernated) in [
        (&b"hibr"[..], true),
        (b"HIBR", true),
        (b"RSTR", true),
        (b"WAKE", false),
        (b"\0\0\0\0", false),
    ] {
        let image = image();
        put(&image, b"hiberfil.sys", &[contents, &[0; 8000]].concat());
        if hibernated {
            refused(
                &image,
                Kind::Unsafe,
                &["hibernated", "Fast Startup", "powercfg /h off"],
            );
            nothing_is_free(&image);
        } else {
            assert!(image.open().edit().is_ok(), "{contents:?}");
        }
    }
    // A volume of a hibernated Windows that is elsewhere.
    let image = image();
    put(&image, b"HiberFil.sys", b"");
    refused(&image, Kind::Unsafe, &["hibernated"]);
}

/// Puts other people's logs in the place of the one of mkntfs.
#[test]
fn logs_of_windows() {
    let Some(samples) = std::env::var_os("REHOME_SAMPLES") else {
        eprintln!("skipped: REHOME_SAMPLES is not set");
        return;
    };
    let folder = Path::new(&samples).join("fs/dfir_ntfs");
    for (name, words) in [
        ("LogFile_7.bin", None),
        ("LogFile_7.bin of a crash", Some("not in the tables yet")),
        ("LogFile_10.bin", Some("powercfg /h off")),
        ("LogFile_10_downgraded.bin", None),
        ("LogFile_empty.bin", None),
    ] {
        let mut log = std::fs::read(folder.join(name.split(' ').next().unwrap())).unwrap();
        if name.ends_with("crash") {
            // The flag that says that the volume was unmounted, in both restart pages.
            log[48 + 14] = 0;
            log[4096 + 48 + 14] = 0;
        }
        let image = Image::make_sparse(100 * MEBIBYTE, &[]);
        let place = image.log_file();
        image.disk().write_at(place, &log).unwrap();
        let mut fs = image.open();
        match words {
            Some(words) => {
                refused(&image, Kind::Unsafe, &[words, "shutdown /s"]);
                nothing_is_free(&image);
            }
            None => {
                let root = fs.root();
                let edit = fs.edit().unwrap_or_else(|error| panic!("{name}: {error}"));
                edit.create(root, b"a", mode::FILE | 0o644).unwrap();
                edit.commit().unwrap();
                // It is as after `ntfs-3g`: one that was just made.
                let mut after = vec![0; log.len()];
                image.disk().read_at(place, &mut after).unwrap();
                assert!(after.iter().all(|byte| *byte == 0xff), "{name}");
                image.must_be_clean(name);
            }
        }
    }
}

#[test]
fn a_log_that_is_nothing() {
    let image = image();
    image.disk().write_at(image.log_file(), &[0; 65536]).unwrap();
    refused(&image, Kind::Unsafe, &["$LogFile", "cannot be read"]);
}

#[test]
fn a_mirror_that_differs() {
    let image = image();
    let mut boot = [0; 512];
    image.disk().read_at(0, &mut boot).unwrap();
    let mirror = u64::from_le_bytes(boot[0x38..0x40].try_into().unwrap()) * 4096;
    image.disk().write_at(mirror + 0x12, &[9]).unwrap();
    refused(&image, Kind::Corrupt, &["$MFTMirr", "chkdsk"]);
}

#[test]
fn bitlocker() {
    let mut boot = vec![0; 1 << 20];
    boot[..11].copy_from_slice(b"\xeb\x58\x90-FVE-FS-");
    let error = Ntfs::open(Arc::new(MemoryDisk::new("locked", boot)))
        .err()
        .unwrap();
    assert_eq!(error.kind, Kind::Unsupported);
    assert!(error.to_string().contains("manage-bde -off"), "{error}");
}

#[test]
fn a_volume_that_is_cut_short() {
    let image = image();
    let mut bytes = std::fs::read(&image.path).unwrap();
    bytes.truncate(20 << 20);
    let error = Ntfs::open(Arc::new(MemoryDisk::new("short", bytes)))
        .err()
        .unwrap();
    assert!(error.to_string().contains("spanned or striped"), "{error}");
}

/// The filesystem's own files, names that Windows could not open, and what is not there.
#[test]
fn what_must_not_be_changed() {
    let image = image();
    let mut fs = image.open();
    let root = fs.root();
    let own = fs.lookup(root, b"$Bitmap").unwrap().unwrap();
    let extend = fs.lookup(root, b"$Extend").unwrap().unwrap();
    let edit = fs.edit().unwrap();
    for error in [
        edit.replace(own, &mut &b"x"[..]).err(),
        edit.remove(root, b"$Bitmap").err(),
        edit.remove(extend, b"$ObjId").err(),
        edit.create(extend, b"a", mode::FILE | 0o644).err(),
        edit.create(root, b"a:b", mode::FILE | 0o644).err(),
        edit.create(root, b"a. ", mode::FILE | 0o644).err(),
        edit.create(root, b"pipe", 0o010_644).err(),
        edit.replace(root, &mut &b"x"[..]).err(),
        edit.set_extended(root, b"security.selinux", Some(b"x")).err(),
        edit.set_extended(root, b"system.ntfs_acl", Some(b"x")).err(),
    ] {
        let error = error.unwrap();
        assert!(matches!(error.kind, Kind::Unsupported | Kind::Corrupt), "{error}");
    }
    assert_eq!(edit.remove(root, b"absent").err().unwrap().kind, Kind::NotFound);
    assert_eq!(edit.remove(root, b".").err().unwrap().kind, Kind::NotFound);
    edit.create(root, b"A", mode::FILE | 0o644).unwrap();
    assert_eq!(
        edit.create(root, b"a", mode::FILE | 0o644).err().unwrap().kind,
        Kind::Exists
    );
    edit.commit().unwrap();
    image.must_be_clean("after refusals");
}
