//! Directories of thousands of names, files in thousands of pieces, an `$MFT` that grows and is in pieces itself.

use crate::{
    image::Image,
    model::{Model, Random, contents},
};
use rehome::{
    disk::{Digest, Kind},
    fs::{Edit, FileSystem, Node, Witness, mode, ntfs::NtfsCrate},
};

const MEBIBYTE: u64 = 1 << 20;

/// Fills the volume with small files, and takes every second away: what comes next lies in single clusters.
fn fragment(edit: &mut dyn Edit, root: Node, most: usize, length: usize) -> usize {
    let folder = edit.create(root, b"small", mode::DIRECTORY | 0o755).unwrap();
    let contents = vec![7; length];
    let mut count = 0;
    while count < most {
        match edit.create(folder, format!("{count}").as_bytes(), mode::FILE | 0o644) {
            Ok(node) => {
                if let Err(error) = edit.replace(node, &mut &*contents) {
                    assert_eq!(error.kind, Kind::Full, "{error}");
                    break;
                }
            }
            Err(error) => {
                assert_eq!(error.kind, Kind::Full, "{error}");
                break;
            }
        }
        count += 1;
    }
    for number in (0..count).step_by(2) {
        edit.remove(folder, format!("{number}").as_bytes()).unwrap();
    }
    count
}

/// A file whose map needs many records, made, lengthened, and cut down again.
fn in_pieces(megabytes: u64, options: &[&str], length: usize, least_records: usize) {
    let image = Image::make_sparse(megabytes * MEBIBYTE, options);
    let mut fs = image.open();
    let root = fs.root();
    let edit = fs.edit().unwrap();
    edit.set_clock(1_700_000_000);
    let count = fragment(edit, root, 100_000, length);
    let cluster = image.cluster_size() as usize;
    let pieces = count / 2 * length.div_ceil(cluster) * cluster;
    let expected = Random::new(3).bytes(pieces - pieces / 10 - 1_500_000);
    let (start, end) = expected.split_at(expected.len() / 3);
    let large = edit.create(root, b"large", mode::FILE | 0o644).unwrap();
    edit.replace(large, &mut &*start).unwrap();
    edit.append(large, &mut &*end).unwrap();
    edit.commit().unwrap();
    drop(fs);
    image.must_be_clean("with a fragmented file");
    let records = crate::checker::records_of(&image.path, large.0);
    assert!(
        records > least_records,
        "{records} records for {count} small files"
    );
    let fs = image.open();
    assert!(contents(&fs, large) == expected);
    let mut runs = Vec::new();
    fs.file_runs(large, &mut |offset, run| {
        runs.push((offset, run));
        Ok(())
    })
    .unwrap();
    assert_eq!(
        runs.iter().map(|(_, run)| run.end - run.start).sum::<u64>(),
        expected.len() as u64
    );
    assert!(runs.is_sorted_by_key(|(offset, _)| *offset));
    if let Some(witness) = NtfsCrate::open(image.disk()) {
        let seen = witness.see(&rehome::fs::GuestPath::from("/large")).unwrap();
        assert_eq!(seen, Some(Digest::of(&expected)));
    }
    image.mounted("ro", |point| {
        assert!(std::fs::read(point.join("large")).unwrap() == expected)
    });
    let mut fs = image.open();
    let edit = fs.edit().unwrap();
    // A hard link and a stream go where there is room.
    edit.link(large, root, b"another name for a large file").unwrap();
    edit.set_extended(large, b"user.stream", Some(&[5; 3000]))
        .unwrap();
    edit.commit().unwrap();
    image.must_be_clean("with another name");
    let mut fs = image.open();
    let edit = fs.edit().unwrap();
    edit.replace(large, &mut &b"small again"[..]).unwrap();
    edit.commit().unwrap();
    image.must_be_clean("with the fragmented file cut down");
    assert_eq!(crate::checker::records_of(&image.path, large.0), 1);
    assert_eq!(contents(&image.open(), large), b"small again");
    let model = Model::read(&image.open());
    image.mounted("ro", |point| model.must_be_at(point));
}

#[test]
fn a_file_in_single_clusters() {
    in_pieces(32, &["-c", "512"], 1000, 10);
}

#[test]
fn a_file_in_single_clusters_of_4k() {
    in_pieces(40, &[], 3000, 5);
}

#[test]
fn a_file_in_pieces_with_records_of_4k() {
    in_pieces(60, &["-s", "4096", "-c", "4096"], 4096, 1);
}

/// A directory that grows to thousands of names, in an order that splits everywhere, and shrinks to nothing.
fn many_names(megabytes: u64, options: &[&str], count: usize) {
    let image = Image::make_sparse(megabytes * MEBIBYTE, options);
    let mut fs = image.open();
    let root = fs.root();
    let edit = fs.edit().unwrap();
    edit.set_clock(1_700_000_000);
    let folder = edit.create(root, b"many", mode::DIRECTORY | 0o755).unwrap();
    let name = |number: usize| {
        format!(
            "{:08x}-{}",
            number.wrapping_mul(0x9e37_79b1) & 0xffff_ffff,
            "x".repeat(number % 90)
        )
    };
    for number in 0..count {
        edit.create(folder, name(number).as_bytes(), mode::FILE | 0o644)
            .unwrap_or_else(|error| panic!("{number}: {error}"));
    }
    edit.commit().unwrap();
    drop(fs);
    image.must_be_clean("with many names");
    let fs = image.open();
    for number in (0..count).step_by(7) {
        let upper = name(number).to_ascii_uppercase();
        assert!(fs.lookup(folder, upper.as_bytes()).unwrap().is_some(), "{number}");
    }
    let mut listed = 0;
    fs.list(folder, &mut |_, _| {
        listed += 1;
        true
    })
    .unwrap();
    assert_eq!(listed, count);
    image.mounted("ro", |point| {
        assert_eq!(std::fs::read_dir(point.join("many")).unwrap().count(), count);
        for number in (0..count).step_by(11) {
            assert!(point.join("many").join(name(number)).exists(), "{number}");
        }
    });
    // Not in the order in which they came.
    for (round, step) in [3, 2, 1].into_iter().enumerate() {
        let mut fs = image.open();
        let edit = fs.edit().unwrap();
        for number in (0..count).filter(|number| number % step == 0) {
            let name = name(number);
            if edit.lookup(folder, name.as_bytes()).unwrap().is_some() {
                edit.remove(folder, name.as_bytes()).unwrap();
            }
        }
        edit.commit().unwrap();
        drop(fs);
        image.must_be_clean(&format!("after round {round} of removing"));
    }
    let mut fs = image.open();
    let edit = fs.edit().unwrap();
    edit.remove(root, b"many").unwrap();
    edit.commit().unwrap();
    image.must_be_clean("without the directory");
}

#[test]
fn a_directory_of_three_levels() {
    many_names(64, &[], 3000);
}

#[test]
fn a_directory_in_large_clusters() {
    many_names(200, &["-c", "65536"], 1500);
}

#[test]
#[ignore = "long: make test-all"]
fn a_directory_of_twenty_thousand_names() {
    many_names(200, &[], 20_000);
    many_names(200, &["-c", "1024"], 20_000);
}

/// Free space is in single clusters before `$MFT` has to grow: its own map gets an attribute list.
#[test]
fn an_mft_in_pieces() {
    let image = Image::make_sparse(24 * MEBIBYTE, &["-c", "512"]);
    let mut fs = image.open();
    let root = fs.root();
    let edit = fs.edit().unwrap();
    edit.set_clock(1_700_000_000);
    fragment(edit, root, 100_000, 1000);
    let folder = edit
        .create(root, b"empty files", mode::DIRECTORY | 0o755)
        .unwrap();
    let mut count = 0;
    loop {
        match edit.create(folder, format!("file {count}").as_bytes(), mode::FILE | 0o644) {
            Ok(_) => count += 1,
            Err(error) => {
                assert_eq!(error.kind, Kind::Full, "{error}");
                break;
            }
        }
    }
    assert!(count > 1000, "{count}");
    edit.commit().unwrap();
    drop(fs);
    image.must_be_clean("with a fragmented $MFT");
    let records = crate::checker::records_of(&image.path, 0);
    assert!(records > 2, "{records}");
    let model = Model::read(&image.open());
    image.mounted("ro", |point| model.must_be_at(point));
    // And it goes on from there, once there is room for the tables again.
    let mut fs = image.open();
    let edit = fs.edit().unwrap();
    let small = edit.lookup(root, b"small").unwrap().unwrap();
    for number in (1..200).step_by(2) {
        edit.remove(small, format!("{number}").as_bytes()).unwrap();
    }
    for number in 0..count / 2 {
        edit.remove(folder, format!("file {number}").as_bytes()).unwrap();
    }
    for number in 0..count / 4 {
        edit.create(folder, format!("again {number}").as_bytes(), mode::FILE | 0o644)
            .unwrap();
    }
    edit.commit().unwrap();
    image.must_be_clean("with records used again");
}

/// As many names as a file can have.
#[test]
fn a_thousand_hard_links() {
    let image = Image::make_sparse(48 * MEBIBYTE, &[]);
    let mut fs = image.open();
    let root = fs.root();
    let edit = fs.edit().unwrap();
    let node = edit.create(root, b"one", mode::FILE | 0o644).unwrap();
    edit.replace(node, &mut &b"contents"[..]).unwrap();
    let mut count = 1;
    loop {
        match edit.link(
            node,
            root,
            format!("name number {count} of the same file").as_bytes(),
        ) {
            Ok(()) => count += 1,
            Err(error) => {
                assert_eq!(error.kind, Kind::Full, "{error}");
                break;
            }
        }
    }
    assert_eq!(count, 1024);
    edit.commit().unwrap();
    drop(fs);
    image.must_be_clean("with a thousand links");
    let model = Model::read(&image.open());
    image.mounted("ro", |point| model.must_be_at(point));
    let mut fs = image.open();
    let edit = fs.edit().unwrap();
    edit.remove(root, b"one").unwrap();
    for number in 2..1024 {
        edit.remove(root, format!("name number {number} of the same file").as_bytes())
            .unwrap();
    }
    edit.commit().unwrap();
    image.must_be_clean("with one link left");
    assert_eq!(contents(&image.open(), node), b"contents");
}

/// A volume that is full stays clean, and says so.
#[test]
fn a_full_volume() {
    for options in [&[][..], &["-c", "512"], &["-c", "65536"]] {
        let image = Image::make_sparse(32 * MEBIBYTE, options);
        let mut fs = image.open();
        let root = fs.root();
        let free = fs.free_bytes().unwrap();
        let edit = fs.edit().unwrap();
        let file = edit.create(root, b"large", mode::FILE | 0o644).unwrap();
        let error = edit.replace(file, &mut std::io::repeat(7)).err().unwrap();
        assert_eq!(error.kind, Kind::Full, "{error}");
        assert_eq!(edit.attributes(file).unwrap().size, 0);
        edit.replace(file, &mut std::io::Read::take(std::io::repeat(7), free / 2))
            .unwrap();
        let error = edit.append(file, &mut std::io::repeat(8)).err().unwrap();
        assert_eq!(error.kind, Kind::Full, "{error}");
        assert_eq!(edit.attributes(file).unwrap().size, free / 2);
        let rest = edit.free_bytes().unwrap();
        edit.append(file, &mut std::io::Read::take(std::io::repeat(8), rest))
            .unwrap();
        assert!(edit.append(file, &mut &vec![9; 70_000][..]).is_err());
        edit.commit().unwrap();
        image.must_be_clean("full");
    }
}

/// Clusters of 2 MiB, as large as Windows makes them.
#[test]
fn clusters_of_2_mebibytes() {
    let image = Image::make_sparse(1 << 30, &["-c", "2097152"]);
    let mut fs = image.open();
    let mut model = Model::read(&fs);
    let root = fs.root().0;
    let edit = fs.edit().unwrap();
    edit.set_clock(1_700_000_000);
    let mut random = Random::new(5);
    let folder = model.create(edit, root, b"folder", mode::DIRECTORY | 0o755);
    for number in 0..120 {
        let name = format!("a file with a long name {number}");
        let file = model.create(edit, folder, name.as_bytes(), mode::FILE | 0o644);
        let bytes = random.bytes(number * 9);
        model.replace(edit, file, bytes);
    }
    let large = model.create(edit, root, b"large", mode::FILE | 0o644);
    let bytes = random.bytes(5_000_000);
    model.replace(edit, large, bytes);
    for _ in 0..3 {
        let bytes = random.bytes(1_234_567);
        model.append(edit, large, &bytes);
    }
    edit.commit().unwrap();
    drop(fs);
    let fs = image.open();
    model.must_be_in(&fs, "2 MiB");
    drop(fs);
    image.mounted("ro", |point| model.must_be_at(point));
    image.must_be_clean("2 MiB");
}
