//! Thousands of random edits on filesystems of every kind.

use crate::{
    image::Image,
    model::{Model, Random},
};
use rehome::{
    disk::Digest,
    fs::{FileSystem, GuestPath, Witness, ext4::Ext4View, mode},
};

const MEBIBYTE: u64 = 1 << 20;

/// `batches` batches of random edits; after each our reader, opened afresh, and e2fsck look at the result; the kernel
/// at the end.
fn random_edits(options: &[&str], seed: u64, batches: u32, kernel: bool) {
    let image = Image::make(48 * MEBIBYTE, options);
    let mut random = Random::new(seed);
    let mut model = Model::read(&image.open());
    for batch in 0..batches {
        let when = format!("{options:?} seed {seed} batch {batch}");
        let mut fs = image.open();
        let edit = fs.edit().unwrap();
        edit.set_clock(1_700_000_000 + u64::from(batch));
        for _ in 0..40 {
            model.step(edit, &mut random, 300_000);
        }
        if batch == 1 {
            let directory = model.create(edit, 2, b"many", mode::DIRECTORY | 0o755);
            for number in 0..400 {
                let name = format!("a name that is long enough to fill blocks {number}");
                model.create(edit, directory, name.as_bytes(), mode::FILE | 0o600);
            }
        }
        edit.commit().unwrap();
        image.must_be_clean(&when);
        model.must_be_in(&image.open(), &when);
    }
    if kernel {
        image.mounted(true, |point| model.must_be_at(point));
        image.must_be_clean("after the kernel looked at it");
    }
}

/// The independent reader sees what the model says, wherever it can open the filesystem.
#[test]
fn the_witness_agrees() {
    let mut seen = 0;
    for options in [
        &["-t", "ext4"][..],
        &["-t", "ext4", "-b", "1024"],
        &["-t", "ext3"],
    ] {
        let image = Image::make(48 * MEBIBYTE, options);
        let mut fs = image.open();
        let mut model = Model::read(&fs);
        let mut random = Random::new(21);
        let edit = fs.edit().unwrap();
        for _ in 0..200 {
            model.step(edit, &mut random, 200_000);
        }
        edit.commit().unwrap();
        let witness = Ext4View::open(image.disk()).unwrap();
        for (path, contents) in model.paths() {
            assert_eq!(witness.see(&path).unwrap(), Some(Digest::of(contents)), "{path}");
            seen += 1;
        }
        assert_eq!(witness.see(&GuestPath::from("/absent")).unwrap(), None);
    }
    assert!(seen > 100, "{seen}");
}

/// More seeds, more edits, on the kinds that differ most.
#[test]
#[ignore = "long: make test-all"]
fn for_a_long_time() {
    for seed in 100..102 {
        for options in [
            &["-t", "ext4"][..],
            &[
                "-t",
                "ext4",
                "-b",
                "1024",
                "-O",
                "inline_data,orphan_file,large_dir",
            ],
            &[
                "-t",
                "ext4",
                "-b",
                "1024",
                "-O",
                "^metadata_csum,uninit_bg,^flex_bg",
            ],
            &["-t", "ext4", "-O", "^extent,^64bit", "-I", "128"],
            &["-t", "ext3", "-b", "1024"],
            &["-t", "ext2", "-b", "1024", "-O", "^filetype,^dir_index"],
        ] {
            random_edits(options, seed, 25, true);
        }
    }
}

macro_rules! on {
    ($($name:ident: $kernel:literal $options:expr;)*) => {$(
        #[test]
        fn $name() {
            random_edits(&$options, 1, 6, $kernel);
        }
    )*};
}

on! {
    ext4_as_made_today: true ["-t", "ext4"];
    ext4_1k_blocks: true ["-t", "ext4", "-b", "1024"];
    ext4_2k_blocks: true ["-t", "ext4", "-b", "2048"];
    ext4_64k_blocks: false ["-t", "ext4", "-b", "65536"];
    ext4_inline_data: true ["-t", "ext4", "-O", "inline_data"];
    ext4_inline_data_small_blocks: true ["-t", "ext4", "-b", "1024", "-O", "inline_data", "-I", "512"];
    ext4_uninit_bg: true ["-t", "ext4", "-O", "^metadata_csum,uninit_bg"];
    ext4_without_checksums: true ["-t", "ext4", "-O", "^metadata_csum,^uninit_bg"];
    ext4_32bit: true ["-t", "ext4", "-O", "^64bit"];
    ext4_checksum_seed: true ["-t", "ext4", "-O", "metadata_csum_seed"];
    ext4_large_dir: true ["-t", "ext4", "-b", "1024", "-O", "large_dir"];
    ext4_without_flex_bg: true ["-t", "ext4", "-b", "1024", "-O", "^flex_bg"];
    ext4_meta_bg: true ["-t", "ext4", "-b", "1024", "-O", "meta_bg,^resize_inode"];
    ext4_sparse_super2: true ["-t", "ext4", "-b", "1024", "-O", "sparse_super2"];
    ext4_without_extents: true ["-t", "ext4", "-O", "^extent,^64bit"];
    ext4_small_inodes: true ["-t", "ext4", "-I", "128"];
    ext4_ea_inode: true ["-t", "ext4", "-O", "ea_inode"];
    ext4_orphan_file: true ["-t", "ext4", "-O", "orphan_file"];
    ext4_without_journal: true ["-t", "ext4", "-O", "^has_journal"];
    ext4_project: true ["-t", "ext4", "-O", "project"];
    ext4_without_dir_index: true ["-t", "ext4", "-b", "1024", "-O", "^dir_index"];
    ext3: true ["-t", "ext3"];
    ext3_1k_blocks: true ["-t", "ext3", "-b", "1024", "-I", "128"];
    ext2: true ["-t", "ext2"];
    ext2_without_file_types: true ["-t", "ext2", "-b", "1024", "-O", "^filetype", "-I", "128"];
    ext2_revision_0: true ["-t", "ext2", "-b", "1024", "-r", "0"];
}
