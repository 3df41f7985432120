//! What is free is nobody's: junk written there harms nothing. And where the data is.

use crate::{
    image::Image,
    model::{Model, Random},
};
use rehome::{
    disk::{Disk, FileDisk},
    fs::{FileSystem, mode, ntfs::Ntfs},
};
use std::{ops::Range, sync::Arc, time::Instant};

const MEBIBYTE: u64 = 1 << 20;

fn free_runs(fs: &Ntfs) -> Vec<Range<u64>> {
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
    drop(fs);
    let fs = image.open();
    let mut runs = free_runs(&fs);
    let free: u64 = runs.iter().map(|run| run.end - run.start).sum();
    assert!(free > 100 * MEBIBYTE, "{free}");
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
    image.mounted("ro", |point| model.must_be_at(point));
}

#[test]
fn as_made_today() {
    free_holds_nothing(&[]);
}

#[test]
fn clusters_of_512() {
    free_holds_nothing(&["-c", "512"]);
}

#[test]
fn clusters_of_64k() {
    free_holds_nothing(&["-c", "65536"]);
}

/// 8 TiB: opening reads next to nothing, an edit takes as long as on a small volume.
#[test]
fn of_eight_tebibytes() {
    let image = Image::make_sparse(8 << 40, &[]);
    let disk: Arc<dyn Disk> = Arc::new(FileDisk::open_writable(&image.path).unwrap());
    let start = Instant::now();
    let mut fs = Ntfs::open(disk).unwrap();
    let opened = start.elapsed();
    let start = Instant::now();
    let root = fs.root();
    let edit = fs.edit().unwrap();
    let node = edit.create(root, b"a", mode::FILE | 0o644).unwrap();
    edit.replace(node, &mut &vec![3; 5_000_000][..]).unwrap();
    edit.commit().unwrap();
    let edited = start.elapsed();
    let start = Instant::now();
    let free: u64 = free_runs(&fs).iter().map(|run| run.end - run.start).sum();
    let told = start.elapsed();
    eprintln!("open {opened:?}, edit {edited:?}, free runs {told:?}");
    assert!(
        free > 7 << 40 && free - fs.free_bytes().unwrap() < 64 << 20,
        "{free}"
    );
    assert!(opened.as_millis() < 500, "{opened:?}");
    let mut data = 0;
    fs.data_runs(&mut |_, run| {
        data += run.end - run.start;
        Ok(())
    })
    .unwrap();
    assert_eq!(data, 5_001_216);
}
