//! `ntfs-3g` and our writer edit the same volume by turns.

use crate::{
    image::Image,
    model::{Model, Random, contents},
};
use rehome::fs::{FileSystem, mode};
use std::{fs, io::Write, os::unix::fs::FileExt};

const MEBIBYTE: u64 = 1 << 20;

fn by_turns(megabytes: u64, options: &[&str]) {
    let image = Image::make(megabytes * MEBIBYTE, options);
    let mut random = Random::new(9);
    for turn in 0..4 {
        let when = format!("{options:?} turn {turn}");
        let mut fs = image.open();
        let mut model = Model::read(&fs);
        let edit = fs.edit().unwrap();
        edit.set_clock(1_700_000_000 + turn);
        for _ in 0..60 {
            model.step(edit, &mut random, 200_000);
        }
        edit.commit().unwrap();
        drop(fs);
        image.must_be_clean(&when);
        let mounted = image.mounted("rw", |point| {
            model.must_be_at(point);
            let folder = point.join(format!("mounted {turn}"));
            fs::create_dir(&folder).unwrap();
            for number in 0..120 {
                let name = folder.join(format!("a file with a name of some length {number}"));
                fs::write(&name, random.bytes(number * 97)).unwrap();
                if number % 3 == 0 {
                    fs::remove_file(&name).unwrap();
                }
            }
            // Things that the random edits made: removed by ntfs-3g.
            for entry in fs::read_dir(point).unwrap().take(8) {
                let entry = entry.unwrap();
                if entry.file_type().unwrap().is_file() {
                    fs::remove_file(entry.path()).unwrap();
                }
            }
            let mut file = fs::File::create(point.join(format!("holes {turn}"))).unwrap();
            file.write_all(b"start").unwrap();
            file.write_at(b"end", 3_000_000).unwrap();
        });
        if !mounted {
            return;
        }
    }
}

#[test]
fn as_made_today() {
    by_turns(48, &[]);
}

#[test]
fn clusters_of_512() {
    by_turns(48, &["-c", "512"]);
}

#[test]
fn clusters_of_64k() {
    by_turns(200, &["-c", "65536"]);
}

#[test]
fn sectors_of_4096() {
    by_turns(48, &["-s", "4096", "-c", "4096"]);
}

/// Files whose end is a hole, or that have clusters behind their end: what is appended comes right after the end.
#[test]
fn appending_after_an_unusual_end() {
    for options in [&[][..], &["-c", "512"], &["-c", "65536"]] {
        let image = Image::make_sparse(100 * MEBIBYTE, options);
        let mut expected: Vec<(&str, Vec<u8>)> = Vec::new();
        let mounted = image.mounted("rw", |point| {
            let mut add = |name: &'static str, start: &[u8], size: u64| {
                let file = fs::File::create(point.join(name)).unwrap();
                file.write_all_at(start, 0).unwrap();
                file.set_len(size).unwrap();
                let mut contents = start.to_vec();
                contents.resize(size as usize, 0);
                expected.push((name, contents));
            };
            add("hole at the end", b"start", 1_000_001);
            add("hole of whole clusters", b"start", 1 << 20);
            add("all hole", b"", 4097);
            add("plain", b"0123456789", 10);
            add("longer than a record", &[5; 5000], 5000);
            add("cut", &[5; 500_000], 70_000);
        });
        if !mounted {
            return;
        }
        expected
            .iter_mut()
            .for_each(|(_, contents)| contents.truncate(1 << 20));
        expected.last_mut().unwrap().1.truncate(70_000);
        let mut fs = image.open();
        let root = fs.root();
        for (name, bytes) in &mut expected {
            let node = fs.lookup(root, name.as_bytes()).unwrap().unwrap();
            assert!(contents(&fs, node) == *bytes, "{name}");
            for piece in [&b"appended"[..], &[9; 100_000], b"more"] {
                fs.edit().unwrap().append(node, &mut &*piece).unwrap();
                bytes.extend_from_slice(piece);
            }
        }
        fs.edit().unwrap().commit().unwrap();
        drop(fs);
        image.must_be_clean("after appending");
        image.mounted("ro", |point| {
            for (name, bytes) in &expected {
                assert!(fs::read(point.join(name)).unwrap() == *bytes, "{name}");
            }
        });
        let fs = image.open();
        for (name, bytes) in &expected {
            let node = fs.lookup(root, name.as_bytes()).unwrap().unwrap();
            assert!(contents(&fs, node) == *bytes, "{name}");
        }
    }
}

/// New names of ours after names of `ntfs-3g`, in a directory without room.
#[test]
fn a_directory_that_ntfs_3g_made() {
    let image = Image::make_sparse(64 * MEBIBYTE, &[]);
    let mounted = image.mounted("rw", |point| {
        fs::create_dir(point.join("d")).unwrap();
        for number in 0..2000 {
            fs::write(point.join(format!("d/name of the other {number}")), b"").unwrap();
        }
    });
    if !mounted {
        return;
    }
    let mut fs = image.open();
    let root = fs.root();
    let folder = fs.lookup(root, b"d").unwrap().unwrap();
    let edit = fs.edit().unwrap();
    for number in 0..1000 {
        let name = format!("another name {number}");
        edit.create(folder, name.as_bytes(), mode::FILE | 0o644).unwrap();
        if number % 2 == 0 {
            edit.remove(folder, format!("name of the other {number}").as_bytes())
                .unwrap();
        }
    }
    edit.commit().unwrap();
    let model = Model::read(&image.open());
    image.mounted("ro", |point| model.must_be_at(point));
}
