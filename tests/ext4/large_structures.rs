//! Deep extent trees, indirect blocks of all levels, indexes of several levels.

use crate::{
    image::Image,
    model::{Model, Random, contents},
};
use rehome::fs::{FileSystem, Node, mode};

const MEBIBYTE: u64 = 1 << 20;

/// A file in single blocks: all small files fill the filesystem, every second goes, the large one gets the gaps.
fn fragmented(options: &[&str], least_depth: Option<&str>) {
    let image = Image::make_sparse(16 * MEBIBYTE, options);
    let mut fs = image.open();
    let root = fs.root();
    let edit = fs.edit().unwrap();
    edit.set_clock(1_700_000_000);
    let folder = edit.create(root, b"small", mode::DIRECTORY | 0o755).unwrap();
    let mut count = 0;
    loop {
        let node = edit.create(folder, format!("{count}").as_bytes(), mode::FILE | 0o644);
        let Ok(node) = node else { break };
        if edit.replace(node, &mut &[7_u8; 1000][..]).is_err() {
            break;
        }
        count += 1;
    }
    assert!(count > 3000, "{count}");
    for number in (0..count).step_by(2) {
        edit.remove(folder, format!("{number}").as_bytes()).unwrap();
    }
    let mut random = Random::new(3);
    let expected = random.bytes(count / 2 * 1024 - 200_000);
    let (start, end) = expected.split_at(1_000_001);
    let large = edit.create(root, b"large", mode::FILE | 0o644).unwrap();
    edit.replace(large, &mut &*start).unwrap();
    edit.append(large, &mut &*end).unwrap();
    edit.commit().unwrap();
    image.must_be_clean("with a fragmented file");
    if let Some(depth) = least_depth {
        let tree = image.debugfs("ex /large");
        assert!(tree.contains(depth), "{tree}");
    }
    let fs = image.open();
    let large = fs.lookup(fs.root(), b"large").unwrap().unwrap();
    assert!(contents(&fs, large) == expected);
    let model = Model::read(&fs);
    image.mounted(true, |point| model.must_be_at(point));
    let mut fs = image.open();
    let edit = fs.edit().unwrap();
    edit.replace(large, &mut &b"small again"[..]).unwrap();
    edit.commit().unwrap();
    image.must_be_clean("with the fragmented file cut down");
    assert_eq!(contents(&image.open(), large), b"small again");
}

#[test]
fn extents_of_depth_2() {
    fragmented(&["-t", "ext4", "-b", "1024", "-N", "12000"], Some("2/ 2"));
}

#[test]
fn indirect_blocks_in_fragments() {
    fragmented(&["-t", "ext2", "-b", "1024", "-N", "12000"], None);
}

#[test]
fn triple_indirect_blocks() {
    let image = Image::make_sparse(160 * MEBIBYTE, &["-t", "ext2", "-b", "1024"]);
    let mut fs = image.open();
    let root = fs.root();
    let edit = fs.edit().unwrap();
    let node = edit.create(root, b"large", mode::FILE | 0o644).unwrap();
    let expected = Random::new(5).bytes(70_000_000);
    for piece in expected.chunks(9_000_003) {
        edit.append(node, &mut &*piece).unwrap();
    }
    edit.commit().unwrap();
    image.must_be_clean("with triple indirect blocks");
    assert!(image.debugfs("stat /large").contains("(TIND)"));
    assert!(contents(&image.open(), node) == expected);
    let model = Model::read(&image.open());
    image.mounted(true, |point| model.must_be_at(point));
    let mut fs = image.open();
    let edit = fs.edit().unwrap();
    edit.remove(root, b"large").unwrap();
    edit.commit().unwrap();
    image.must_be_clean("without it");
}

/// Names of 250 bytes: three in a leaf of 1 KiB.
fn index(options: &[&str], count: usize, levels: &str) {
    let image = Image::make_sparse(256 * MEBIBYTE, options);
    let mut fs = image.open();
    let root = fs.root();
    let edit = fs.edit().unwrap();
    edit.set_clock(1_700_000_000);
    let folder = edit.create(root, b"many", mode::DIRECTORY | 0o755).unwrap();
    let node = edit.create(root, b"one", mode::FILE | 0o644).unwrap();
    let name = |number: usize| format!("{number:08}{}", "x".repeat(242)).into_bytes();
    for number in 0..count {
        // More than 65000 names of one file can't be.
        let done = if number < 60_000 {
            edit.link(node, folder, &name(number))
        } else {
            edit.create(folder, &name(number), mode::FILE | 0o644).map(|_| ())
        };
        done.unwrap_or_else(|error| panic!("{number}: {error}"));
    }
    edit.commit().unwrap();
    image.must_be_clean("with many names");
    let dump = image.debugfs("htree /many");
    assert!(dump.contains(levels), "{}", &dump[..dump.len().min(600)]);
    let fs = image.open();
    for number in (0..count).step_by(7) {
        assert!(fs.lookup(folder, &name(number)).unwrap().is_some(), "{number}");
    }
    image.mounted(true, |point| {
        for number in (0..count).step_by(11) {
            let name = String::from_utf8(name(number)).unwrap();
            assert!(point.join("many").join(name).exists(), "{number}");
        }
    });
    let mut fs = image.open();
    let edit = fs.edit().unwrap();
    for number in 0..count {
        if number % 5 != 0 {
            edit.remove(folder, &name(number)).unwrap();
        }
    }
    edit.commit().unwrap();
    image.must_be_clean("with fewer names");
}

#[test]
fn an_index_of_two_levels() {
    index(
        &["-t", "ext4", "-b", "1024", "-N", "20000"],
        3000,
        "Indirect levels: 1",
    );
}

#[test]
fn an_index_of_two_levels_without_checksums() {
    index(
        &["-t", "ext3", "-b", "1024", "-N", "20000"],
        3000,
        "Indirect levels: 1",
    );
}

#[test]
#[ignore = "long: make test-all"]
fn an_index_of_three_levels() {
    index(
        &["-t", "ext4", "-b", "1024", "-O", "large_dir", "-N", "100000"],
        70_000,
        "Indirect levels: 2",
    );
}

#[test]
#[ignore = "long: make test-all"]
fn an_index_that_is_full_says_so() {
    let image = Image::make_sparse(256 * MEBIBYTE, &["-t", "ext4", "-b", "1024", "-N", "20000"]);
    let mut fs = image.open();
    let root = fs.root();
    let edit = fs.edit().unwrap();
    let node = edit.create(root, b"one", mode::FILE | 0o644).unwrap();
    let mut last = Ok(());
    for number in 0..60_000 {
        let name = format!("{number:08}{}", "x".repeat(242));
        last = edit.link(node, root, name.as_bytes());
        if last.is_err() {
            break;
        }
    }
    let error = last.unwrap_err();
    assert!(
        error.kind == rehome::disk::Kind::Full && error.to_string().contains("large_dir"),
        "{error}"
    );
    edit.commit().unwrap();
    image.must_be_clean("with a full index");
}

/// Every hash function, in directories that our writer and the kernel fill by turns.
#[test]
fn indexes_of_every_hash_function() {
    for function in ["legacy", "half_md4", "tea"] {
        let image = Image::make_sparse(32 * MEBIBYTE, &["-t", "ext4", "-b", "1024"]);
        crate::image::run(
            std::process::Command::new("tune2fs")
                .args(["-E", &format!("hash_alg={function}")])
                .arg(&image.path),
        );
        let mut fs = image.open();
        let root = fs.root();
        let edit = fs.edit().unwrap();
        let folder = edit.create(root, b"d", mode::DIRECTORY | 0o755).unwrap();
        for number in 0..300 {
            let name = format!("größe and some more {number}");
            edit.create(folder, name.as_bytes(), mode::FILE | 0o644).unwrap();
        }
        edit.commit().unwrap();
        image.must_be_clean(function);
        image.mounted(false, |point| {
            for number in 0..300 {
                assert!(point.join(format!("d/größe and some more {number}")).exists());
                std::fs::write(point.join(format!("d/by the kernel {number}")), b"k").unwrap();
            }
        });
        let model = Model::read(&image.open());
        assert!(model.things.len() > 300);
        let mut fs = image.open();
        let edit = fs.edit().unwrap();
        for number in 0..300 {
            let name = format!("größe and some more {number}");
            edit.remove(Node(folder.0), name.as_bytes()).unwrap();
        }
        edit.commit().unwrap();
        image.must_be_clean(function);
    }
}
