//! Thousands of random edits on volumes of every kind.

use crate::{
    image::Image,
    model::{Model, Random},
};
use rehome::{
    disk::Digest,
    fs::{FileSystem, GuestPath, Witness, mode, ntfs::NtfsCrate},
};

const MEBIBYTE: u64 = 1 << 20;

/// `batches` batches of random edits; after each our reader, opened afresh, the checker and `ntfsfix` look at the result,
/// and the independent reader; `ntfs-3g` at the end.
fn random_edits(megabytes: u64, options: &[&str], seed: u64, batches: u32) {
    let image = Image::make(megabytes * MEBIBYTE, options);
    image.must_be_clean("as mkntfs made it");
    let mut random = Random::new(seed);
    let mut model = Model::read(&image.open());
    let root = image.open().root().0;
    for batch in 0..batches {
        let when = format!("{options:?} seed {seed} batch {batch}");
        let mut fs = image.open();
        let edit = fs.edit().unwrap();
        edit.set_clock(1_700_000_000 + u64::from(batch));
        for _ in 0..50 {
            model.step(edit, &mut random, 300_000);
        }
        if batch == 1 {
            let directory = model.create(edit, root, b"many", mode::DIRECTORY | 0o755);
            for number in 0..300 {
                let name = format!("a name that is long enough to fill blocks {number}");
                model.create(edit, directory, name.as_bytes(), mode::FILE | 0o600);
            }
        }
        edit.commit().unwrap();
        drop(fs);
        image.must_be_clean(&when);
        model.must_be_in(&image.open(), &when);
        witness_agrees(&image, &model, &when);
    }
    image.mounted("ro", |point| model.must_be_at(point));
}

/// The independent reader sees what the model says, or refuses.
fn witness_agrees(image: &Image, model: &Model, when: &str) {
    let Some(witness) = NtfsCrate::open(image.disk()) else {
        // It does not know of clusters that are larger than a block of a directory.
        let clusters = image.cluster_size();
        assert!(
            clusters > 4096,
            "{when}: no witness for clusters of {clusters} bytes"
        );
        return;
    };
    let mut refused = 0;
    for (path, contents) in model.paths() {
        match witness.see(&path) {
            Ok(seen) => assert_eq!(seen, Some(Digest::of(contents)), "{when}: {path}"),
            Err(_) => refused += 1,
        }
    }
    assert_eq!(refused, 0, "{when}: nothing that we write is beyond the crate");
    assert_eq!(witness.see(&GuestPath::from("/absent")).unwrap(), None);
}

/// More seeds, more edits, on the kinds that differ most.
#[test]
#[ignore = "long: make test-all"]
fn for_a_long_time() {
    for seed in 100..104 {
        for (megabytes, options) in [
            (64, &[][..]),
            (64, &["-c", "512"]),
            (64, &["-s", "4096", "-c", "4096"]),
            (200, &["-c", "65536"]),
        ] {
            random_edits(megabytes, options, seed, 25);
        }
    }
}

macro_rules! on {
    ($($name:ident: $megabytes:literal $options:expr;)*) => {$(
        #[test]
        fn $name() {
            random_edits($megabytes, &$options, 1, 6);
        }
    )*};
}

on! {
    as_made_today: 48 [];
    clusters_of_512: 48 ["-c", "512"];
    clusters_of_1k: 48 ["-c", "1024"];
    clusters_of_2k: 48 ["-c", "2048"];
    clusters_of_8k: 64 ["-c", "8192"];
    clusters_of_64k: 200 ["-c", "65536"];
    sectors_of_4096: 48 ["-s", "4096", "-c", "4096"];
    sectors_of_4096_and_large_clusters: 64 ["-s", "4096", "-c", "16384"];
}
