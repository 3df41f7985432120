//! Damaged volumes: an error or wrong bytes, never a panic, never no end.

use crate::{
    image::Image,
    model::{Model, Random},
};
use rehome::{
    disk::{Kind, MemoryDisk},
    fs::{
        Attributes, FileSystem, GuestPath, Node, Witness, mode,
        ntfs::{Ntfs, NtfsCrate},
    },
};
use std::{collections::BTreeSet, sync::Arc, time::Instant};

/// Looks at everything that can be reached, whatever it says.
fn look_at_all(fs: &Ntfs) {
    let mut seen = BTreeSet::new();
    let mut todo = vec![fs.root()];
    let mut buffer = vec![0; 1 << 16];
    while let Some(node) = todo.pop() {
        if !seen.insert(node) || seen.len() > 3000 {
            continue;
        }
        let Ok(Attributes { size, .. }) = fs.attributes(node) else {
            continue;
        };
        let _ = fs.read_at(node, 0, &mut buffer);
        let _ = fs.read_at(node, size.saturating_sub(1000), &mut buffer);
        let _ = fs.lookup(node, b"name of some length 17");
        let _ = fs.file_runs(node, &mut |_, _| Ok(()));
        for name in fs.extended_names(node).unwrap_or_default() {
            let _ = fs.extended(node, &name);
        }
        let mut names = 0;
        let _ = fs.list(node, &mut |_, child| {
            todo.push(child);
            names += 1;
            names < 3000
        });
    }
    let _ = fs.free(&mut |run| {
        assert!(run.start < run.end);
        Ok(())
    });
    let _ = fs.data_runs(&mut |_, run| {
        assert!(run.start < run.end);
        Ok(())
    });
}

fn try_edits(fs: &mut Ntfs, random: &mut Random) {
    fs.allow_dirty();
    let root = fs.root();
    let Ok(edit) = fs.edit() else {
        return;
    };
    edit.set_clock(1_700_000_000);
    for number in 0..14 {
        let node = [root, Node(random.below(60) as u64 + 64)][random.below(2)];
        let name = format!("name of some length {number}");
        let bytes = random.bytes(9000);
        let _ = match random.below(9) {
            0 => edit.create(node, name.as_bytes(), mode::FILE | 0o644).map(|_| ()),
            1 => edit.replace(node, &mut &*bytes),
            2 => edit.append(node, &mut &*bytes),
            3 => edit.remove(node, name.as_bytes()),
            4 => edit.rename((root, name.as_bytes()), (node, b"renamed")),
            5 => edit.set_extended(node, b"user.a", Some(&bytes[..300])),
            6 => edit.create(node, b"folder", mode::DIRECTORY | 0o755).map(|_| ()),
            7 => edit.set_extended(node, b"system.ntfs_attrib", Some(&[1, 0, 0, 0])),
            _ => edit.link(node, root, b"linked"),
        };
    }
    let _ = edit.commit();
}

fn populated(options: &[&str]) -> Vec<u8> {
    let image = Image::make_sparse(4 << 20, options);
    let mut fs = image.open();
    let mut model = Model::read(&fs);
    let mut random = Random::new(4);
    let root = fs.root().0;
    let edit = fs.edit().unwrap();
    let folder = model.create(edit, root, b"d", mode::DIRECTORY | 0o755);
    for number in 0..60 {
        let name = format!("name of some length {number}");
        model.create(edit, folder, name.as_bytes(), mode::FILE | 0o644);
    }
    for _ in 0..60 {
        model.step(edit, &mut random, 30_000);
    }
    // A file with an attribute list.
    let file = model.create(edit, root, b"with many streams", mode::FILE | 0o644);
    for number in 0..12 {
        let name = format!("user.a stream with quite a long name that fills its record {number}");
        edit.set_extended(Node(file), name.as_bytes(), Some(&[7; 50]))
            .unwrap();
    }
    edit.commit().unwrap();
    drop(fs);
    image.must_be_clean("populated");
    std::fs::read(&image.path).unwrap()
}

fn damaged(options: &[&str], rounds: u64) {
    let image = populated(options);
    // Where something is written: only there a changed byte says anything. The log is not looked into.
    let used: Vec<usize> = (0..image.len() / 64)
        .filter(|chunk| {
            let line = &image[chunk * 64..chunk * 64 + 64];
            line.iter().any(|byte| *byte != 0) && line.iter().any(|byte| *byte != 0xff)
        })
        .collect();
    let mut edited = 0;
    for round in 0..rounds {
        let mut random = Random::new(round + 1);
        let mut bytes = image.clone();
        for _ in 0..=random.below(12) {
            let at = used[random.below(used.len())] * 64 + random.below(64);
            match random.below(4) {
                0 => bytes[at] ^= 1 << random.below(8),
                1 => bytes[at] = 0xff,
                2 => bytes[at] = 0,
                _ => {
                    let at = at & !3;
                    bytes[at..at + 4].copy_from_slice(&(random.below(5000) as u32).to_le_bytes());
                }
            }
        }
        let start = Instant::now();
        let disk = Arc::new(MemoryDisk::new("damaged", bytes));
        if let Ok(mut fs) = Ntfs::open(disk.clone()) {
            look_at_all(&fs);
            try_edits(&mut fs, &mut random);
            look_at_all(&fs);
            edited += u32::from(fs.edit().is_ok());
        }
        if let Some(witness) = NtfsCrate::open(disk) {
            let _ = witness.see(&GuestPath::from("/d/name of some length 17"));
        }
        assert!(
            start.elapsed().as_secs() < 60,
            "{options:?}: round {round} took {:?}",
            start.elapsed()
        );
    }
    assert!(
        u64::from(edited) > rounds / 8,
        "{edited} of {rounds} could be edited"
    );
}

fn long(value: u64) -> [u8; 8] {
    value.to_le_bytes()
}

/// The independent reader panics on blocks of an index that have no length; to us that is a reader that cannot be asked.
#[test]
fn a_witness_that_panics_is_no_objection() {
    let image = Image::make_sparse(24 << 20, &[]);
    let value = image.attribute(5, 0x90) + 0x20;
    let mut length = [0; 4];
    image.disk().read_at(value + 8, &mut length).unwrap();
    assert_eq!(
        u32::from_le_bytes(length),
        4096,
        "the index root of the root directory"
    );
    image.disk().write_at(value + 8, &[0; 4]).unwrap();
    let witness = NtfsCrate::open(image.disk()).unwrap();
    let error = witness.see(&GuestPath::from("/nothing")).unwrap_err();
    assert_eq!(error.kind, Kind::Unsupported);
    assert!(error.to_string().contains("panics"), "{error}");
}

/// A map of `$MFT` that goes on in a hole would have no end.
#[test]
fn an_mft_with_a_hole() {
    let image = Image::make_sparse(24 << 20, &[]);
    let at = image.attribute(0, 0x80);
    let mut raw = [0; 0x48];
    image.disk().read_at(at, &mut raw).unwrap();
    let runs = usize::from(raw[0x40] & 15) + usize::from(raw[0x40] >> 4) + 1;
    let last = u64::from_le_bytes(raw[0x18..0x20].try_into().unwrap());
    assert!(runs <= 3, "the map that mkntfs makes is short");
    // Three bytes for the length, none for the place.
    let hole: u64 = 0x7f_ffff;
    image.write(at + 0x40 + runs as u64, &[3, 0xff, 0xff, 0x7f, 0]);
    image.write(at + 0x18, &long(last + hole));
    let bytes = long((last + 1 + hole) * 4096);
    image.write(at + 0x28, &[bytes, bytes, bytes].concat());
    image.mirror_again();
    let error = Ntfs::open(image.disk()).err().unwrap().to_string();
    assert!(
        error.contains("$MFT has a hole") && error.contains("chkdsk"),
        "{error}"
    );
}

/// What `$MFTMirr` says that it has is written to it: it may not be more than is its own.
#[test]
fn a_mirror_that_says_it_is_large() {
    let image = Image::make_sparse(24 << 20, &[]);
    let at = image.attribute(1, 0x80);
    let mut mirror = [0; 8];
    image.disk().read_at(0x38, &mut mirror).unwrap();
    let mirror = u64::from_le_bytes(mirror) * 4096;
    let size = long(1 << 24);
    image.write(at + 0x28, &[size, size, size].concat());
    image.mirror_again();
    let behind = || {
        let mut bytes = vec![0; 1 << 20];
        image.disk().read_at(mirror + 4096, &mut bytes).unwrap();
        bytes
    };
    let before = behind();
    let mut fs = image.open();
    let root = fs.root();
    let edit = fs.edit().unwrap();
    for number in 0..40 {
        edit.create(root, format!("file {number}").as_bytes(), mode::FILE | 0o644)
            .unwrap();
    }
    edit.commit().unwrap();
    assert!(behind() == before, "records were written behind the mirror");
}

/// An index that says it has more blocks than there can be: no table of them is made in memory.
#[test]
fn an_index_that_says_it_is_endless() {
    let image = Image::make_sparse(24 << 20, &[]);
    let at = image.attribute(5, 0xa0);
    let size = long(1 << 60);
    image.write(at + 0x28, &[size, size, size].concat());
    let mut fs = image.open();
    let root = fs.root();
    let edit = fs.edit().unwrap();
    let made = (0..200).find_map(|number| {
        let name = format!("a name that is long enough to fill blocks {number}");
        edit.create(root, name.as_bytes(), mode::FILE | 0o644).err()
    });
    let error = made.expect("no room for so many names in one block");
    assert_eq!(error.kind, rehome::disk::Kind::Corrupt);
    assert!(error.to_string().contains("blocks of its index"), "{error}");
}

/// Where the bitmap can't be read nothing is free, and the volume can still be moved as it is.
#[test]
fn a_bitmap_that_is_too_short() {
    let image = Image::make_sparse(24 << 20, &[]);
    let at = image.attribute(6, 0x80);
    image.write(at + 0x30, &[long(8), long(8)].concat());
    let fs = image.open();
    fs.free(&mut |run| panic!("{run:?}")).unwrap();
    assert!(fs.free_bytes().is_err());
}

#[test]
fn clusters_of_4k() {
    damaged(&[], 250);
}

#[test]
fn clusters_of_512() {
    damaged(&["-c", "512"], 250);
}

#[test]
fn records_of_4k() {
    damaged(&["-s", "4096", "-c", "4096"], 100);
}

#[test]
#[ignore = "long: make test-all"]
fn for_a_long_time() {
    damaged(&[], 4000);
    damaged(&["-c", "512"], 4000);
    damaged(&["-s", "4096", "-c", "4096"], 2000);
}
