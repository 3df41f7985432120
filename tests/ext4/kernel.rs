//! The kernel and our writer edit the same filesystem by turns.

use crate::{
    image::Image,
    model::{Model, Random, contents},
};
use rehome::fs::{FileSystem, mode};
use std::{fs, io::Write, os::unix::fs::FileExt};

const MEBIBYTE: u64 = 1 << 20;

fn by_turns(options: &[&str]) {
    let image = Image::make(48 * MEBIBYTE, options);
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
        image.must_be_clean(&when);
        let mounted = image.mounted(false, |point| {
            model.must_be_at(point);
            let folder = point.join(format!("kernel {turn}"));
            fs::create_dir(&folder).unwrap();
            for number in 0..120 {
                let name = folder.join(format!("a file with a name of some length {number}"));
                fs::write(&name, random.bytes(number * 97)).unwrap();
                if number % 3 == 0 {
                    fs::remove_file(&name).unwrap();
                }
            }
            // Things that the random edits made: removed by the kernel.
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
        image.must_be_clean(&format!("{when}, by the kernel"));
    }
}

#[test]
fn ext4() {
    by_turns(&["-t", "ext4"]);
}

#[test]
fn ext4_with_inline_data_and_orphan_file() {
    by_turns(&[
        "-t",
        "ext4",
        "-b",
        "1024",
        "-O",
        "inline_data,orphan_file,large_dir",
    ]);
}

#[test]
fn ext4_with_uninit_bg() {
    by_turns(&["-t", "ext4", "-b", "1024", "-O", "^metadata_csum,uninit_bg"]);
}

#[test]
fn ext3() {
    by_turns(&["-t", "ext3", "-b", "1024"]);
}

/// Files whose end is kept space, unwritten, or a hole: what is appended comes right after the end.
#[test]
fn appending_after_an_unusual_end() {
    for options in [
        &["-t", "ext4"][..],
        &["-t", "ext4", "-b", "1024"],
        &["-t", "ext2"],
    ] {
        let image = Image::make(24 * MEBIBYTE, options);
        let extents = !options.contains(&"ext2");
        let mut expected = Vec::new();
        let mounted = image.mounted(false, |point| {
            let mut add = |name: &str, start: &[u8], size: u64| {
                let file = fs::File::create(point.join(name)).unwrap();
                file.write_all_at(start, 0).unwrap();
                file.set_len(size).unwrap();
                let mut contents = start.to_vec();
                contents.resize(size as usize, 0);
                expected.push((name.to_owned(), contents));
                file
            };
            add("hole at the end", b"start", 1_000_001);
            add("hole of whole blocks", b"start", 1 << 20);
            add("all hole", b"", 4097);
            add("plain", b"0123456789", 10);
            if extents {
                use rustix::fs::{FallocateFlags, fallocate};
                let file = add("kept space", &[5; 5000], 5000);
                fallocate(&file, FallocateFlags::KEEP_SIZE, 0, 500_000).unwrap();
                let file = add("unwritten end", b"start", 5);
                fallocate(&file, FallocateFlags::empty(), 0, 300_003).unwrap();
                expected.last_mut().unwrap().1.resize(300_003, 0);
            }
        });
        if !mounted {
            return;
        }
        image.must_be_clean("by the kernel");
        let mut fs = image.open();
        let root = fs.root();
        for (name, contents_expected) in &mut expected {
            let node = fs.lookup(root, name.as_bytes()).unwrap().unwrap();
            assert!(contents(&fs, node) == *contents_expected, "{name}");
            fs.edit().unwrap().append(node, &mut &b"appended"[..]).unwrap();
            contents_expected.extend_from_slice(b"appended");
        }
        fs.edit().unwrap().commit().unwrap();
        image.must_be_clean("after appending");
        image.mounted(true, |point| {
            for (name, contents) in &expected {
                assert!(fs::read(point.join(name)).unwrap() == *contents, "{name}");
            }
        });
        let fs = image.open();
        for (name, contents_expected) in &expected {
            let node = fs.lookup(root, name.as_bytes()).unwrap().unwrap();
            assert!(contents(&fs, node) == *contents_expected, "{name}");
        }
    }
}

/// New names of ours after names of the kernel, in a directory without room.
#[test]
fn a_directory_that_the_kernel_indexed() {
    let image = Image::make(24 * MEBIBYTE, &["-t", "ext4", "-b", "1024"]);
    let mounted = image.mounted(false, |point| {
        fs::create_dir(point.join("d")).unwrap();
        for number in 0..2000 {
            fs::write(point.join(format!("d/name of the kernel {number}")), b"").unwrap();
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
    }
    edit.commit().unwrap();
    image.must_be_clean("3000 names");
    let model = Model::read(&image.open());
    image.mounted(true, |point| model.must_be_at(point));
}
