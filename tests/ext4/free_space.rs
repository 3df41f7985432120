//! What is free is nobody's: junk written there harms nothing. And where the data is.

use crate::{
    image::Image,
    model::{Model, Random},
};
use rehome::{
    disk::{Disk, FileDisk},
    fs::{FileSystem, ext4::Ext4},
};
use std::{process::Command, sync::Arc, time::Instant};

const MEBIBYTE: u64 = 1 << 20;

fn free_runs(fs: &Ext4) -> Vec<std::ops::Range<u64>> {
    let mut runs = Vec::new();
    fs.free(&mut |run| {
        runs.push(run);
        Ok(())
    })
    .unwrap();
    runs
}

fn free_holds_nothing(options: &[&str]) {
    let image = Image::make(200 * MEBIBYTE, options);
    let mut fs = image.open();
    let mut model = Model::read(&fs);
    let mut random = Random::new(11);
    let edit = fs.edit().unwrap();
    for _ in 0..150 {
        model.step(edit, &mut random, 400_000);
    }
    edit.commit().unwrap();
    let fs = image.open();
    let mut runs = free_runs(&fs);
    let free: u64 = runs.iter().map(|run| run.end - run.start).sum();
    let dump = crate::image::run(Command::new("dumpe2fs").arg("-h").arg(&image.path));
    let dump = String::from_utf8(dump.stdout).unwrap();
    let field = |name: &str| -> u64 {
        let line = dump.lines().find(|line| line.starts_with(name)).unwrap();
        line.rsplit(' ').next().unwrap().parse().unwrap()
    };
    assert_eq!(free, field("Free blocks:") * field("Block size:"), "{options:?}");
    let mut data = Vec::new();
    fs.data_runs(&mut |_, run| {
        data.push(run);
        Ok(())
    })
    .unwrap();
    assert!(data.len() >= 10, "{}", data.len());
    let disk = image.disk();
    for run in &runs {
        for start in (run.start..run.end).step_by(1 << 20) {
            let length = (run.end - start).min(1 << 20);
            disk.write_at(start, &vec![0xee; length as usize]).unwrap();
        }
    }
    runs.extend(data);
    runs.sort_by_key(|run| run.start);
    for pair in runs.windows(2) {
        assert!(pair[0].end <= pair[1].start, "free and data overlap: {pair:?}");
    }
    image.must_be_clean("with junk in free space");
    model.must_be_in(&image.open(), "with junk in free space");
    image.mounted(true, |point| model.must_be_at(point));
}

#[test]
fn of_ext4() {
    free_holds_nothing(&["-t", "ext4", "-b", "1024"]);
    free_holds_nothing(&["-t", "ext4"]);
}

#[test]
fn of_ext4_of_other_layouts() {
    free_holds_nothing(&[
        "-t",
        "ext4",
        "-b",
        "1024",
        "-O",
        "^flex_bg,uninit_bg,^metadata_csum",
    ]);
    free_holds_nothing(&["-t", "ext4", "-b", "1024", "-O", "meta_bg,^resize_inode"]);
    free_holds_nothing(&["-t", "ext4", "-b", "1024", "-O", "sparse_super2,^flex_bg"]);
}

#[test]
fn of_ext2() {
    free_holds_nothing(&["-t", "ext2", "-b", "1024"]);
}

/// Reading bigalloc: its bitmaps count clusters.
#[test]
fn of_bigalloc() {
    let image = Image::make(200 * MEBIBYTE, &["-t", "ext4", "-O", "bigalloc", "-C", "16384"]);
    image.mounted(false, |point| {
        std::fs::write(point.join("file"), vec![1; 100_000]).unwrap();
    });
    let disk = image.disk();
    for run in free_runs(&image.open()) {
        disk.write_at(run.start, &vec![0xee; (run.end - run.start) as usize])
            .unwrap();
    }
    image.must_be_clean("with junk in free clusters");
    image.mounted(true, |point| {
        assert_eq!(std::fs::read(point.join("file")).unwrap(), vec![1; 100_000]);
    });
}

/// Unwritten blocks are nobody's, too.
#[test]
fn of_unwritten_extents() {
    let image = Image::make(48 * MEBIBYTE, &["-t", "ext4"]);
    let before: u64 = free_runs(&image.open())
        .iter()
        .map(|run| run.end - run.start)
        .sum();
    let mounted = image.mounted(false, |point| {
        use rustix::fs::{FallocateFlags, fallocate};
        let file = std::fs::File::create(point.join("unwritten")).unwrap();
        fallocate(&file, FallocateFlags::empty(), 0, 9 << 20).unwrap();
    });
    if !mounted {
        return;
    }
    let runs = free_runs(&image.open());
    let after: u64 = runs.iter().map(|run| run.end - run.start).sum();
    assert_eq!(before, after);
    let disk = image.disk();
    for run in runs {
        disk.write_at(run.start, &vec![0xee; (run.end - run.start) as usize])
            .unwrap();
    }
    image.must_be_clean("with junk in unwritten blocks");
    image.mounted(true, |point| {
        assert!(std::fs::read(point.join("unwritten")).unwrap() == vec![0; 9 << 20]);
    });
}

/// 8 TiB: opening reads next to nothing, the free runs are told without reading what was never used, an edit takes
/// its blocks near where it is.
#[test]
fn of_eight_tebibytes() {
    let image = Image::make_sparse(8 << 40, &["-t", "ext4"]);
    let disk: Arc<dyn Disk> = Arc::new(FileDisk::open_writable(&image.path).unwrap());
    let start = Instant::now();
    let mut fs = Ext4::open(disk).unwrap();
    eprintln!("open: {:?}", start.elapsed());
    let start = Instant::now();
    let free: u64 = free_runs(&fs).iter().map(|run| run.end - run.start).sum();
    eprintln!("free runs: {:?}", start.elapsed());
    assert!(
        free > 7 << 40 && free - fs.free_bytes().unwrap() < 500 << 30,
        "{free}"
    );
    let start = Instant::now();
    let root = fs.root();
    let edit = fs.edit().unwrap();
    let node = edit.create(root, b"a", rehome::fs::mode::FILE | 0o644).unwrap();
    edit.replace(node, &mut &vec![3; 5_000_000][..]).unwrap();
    edit.commit().unwrap();
    eprintln!("an edit: {:?}", start.elapsed());
    let mut data = 0;
    fs.data_runs(&mut |_, run| {
        data += run.end - run.start;
        Ok(())
    })
    .unwrap();
    assert_eq!(data, 5_001_216);
    let start = Instant::now();
    fs.data_runs(&mut |_, _| Ok(())).unwrap();
    eprintln!("data runs: {:?}", start.elapsed());
}
