//! Damaged filesystems: an error or wrong bytes, never a panic, never no end.

use crate::{
    image::Image,
    model::{Model, Random},
};
use rehome::{
    disk::MemoryDisk,
    fs::{Attributes, FileSystem, Node, ext4::Ext4, mode},
};
use std::{collections::BTreeSet, sync::Arc, time::Instant};

/// Looks at everything that can be reached, whatever it says.
fn look_at_all(fs: &Ext4) {
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

fn try_edits(fs: &mut Ext4, random: &mut Random) {
    let Ok(edit) = fs.edit() else {
        return;
    };
    edit.set_clock(1_700_000_000);
    for number in 0..12 {
        let node = Node(random.below(60) as u64 + 2);
        let name = format!("name of some length {number}");
        let bytes = random.bytes(9000);
        let _ = match random.below(8) {
            0 => edit.create(node, name.as_bytes(), mode::FILE | 0o644).map(|_| ()),
            1 => edit.replace(node, &mut &*bytes),
            2 => edit.append(node, &mut &*bytes),
            3 => edit.remove(node, name.as_bytes()),
            4 => edit.rename((Node(2), name.as_bytes()), (node, b"renamed")),
            5 => edit.set_extended(node, b"user.a", Some(&bytes[..300])),
            6 => edit.create(node, b"folder", mode::DIRECTORY | 0o755).map(|_| ()),
            _ => edit.link(node, Node(2), b"linked"),
        };
    }
    let _ = edit.commit();
}

fn populated(options: &[&str]) -> Vec<u8> {
    let image = Image::make_sparse(4 << 20, options);
    let mut fs = image.open();
    let mut model = Model::read(&fs);
    let mut random = Random::new(4);
    let edit = fs.edit().unwrap();
    let folder = model.create(edit, 2, b"d", mode::DIRECTORY | 0o755);
    for number in 0..60 {
        let name = format!("name of some length {number}");
        model.create(edit, folder, name.as_bytes(), mode::FILE | 0o644);
    }
    for _ in 0..60 {
        model.step(edit, &mut random, 50_000);
    }
    edit.commit().unwrap();
    std::fs::read(&image.path).unwrap()
}

fn damaged(options: &[&str], rounds: u64) {
    let image = populated(options);
    // Where something is written: only there a changed byte says anything.
    let used: Vec<usize> = (0..image.len() / 64)
        .filter(|chunk| image[chunk * 64..chunk * 64 + 64].iter().any(|byte| *byte != 0))
        .collect();
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
        if let Ok(mut fs) = Ext4::open(disk) {
            look_at_all(&fs);
            try_edits(&mut fs, &mut random);
            look_at_all(&fs);
        }
        assert!(
            start.elapsed().as_secs() < 60,
            "{options:?}: round {round} took {:?}",
            start.elapsed()
        );
    }
}

const SMALL: [&str; 4] = ["-b", "1024", "-N", "256"];

fn with(more: &[&'static str]) -> Vec<&'static str> {
    SMALL.iter().chain(more).copied().collect()
}

#[test]
fn extents_and_indexes_without_checksums() {
    damaged(
        &with(&["-t", "ext4", "-O", "^metadata_csum,inline_data,^has_journal"]),
        300,
    );
}

#[test]
fn indirect_blocks() {
    damaged(&with(&["-t", "ext2"]), 300);
}

#[test]
fn with_checksums() {
    damaged(&with(&["-t", "ext4", "-O", "^has_journal"]), 150);
}

#[test]
#[ignore = "long: make test-all"]
fn for_a_long_time() {
    damaged(
        &with(&["-t", "ext4", "-O", "^metadata_csum,inline_data,^has_journal"]),
        3000,
    );
    damaged(
        &with(&[
            "-t",
            "ext4",
            "-O",
            "^metadata_csum,uninit_bg,^has_journal,ea_inode",
        ]),
        3000,
    );
    damaged(&with(&["-t", "ext2"]), 3000);
}
