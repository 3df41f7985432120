//! A filesystem that was not unmounted: its journal is replayed, its orphans are removed, as the kernel would do it.
//! Judged by e2fsck, which replays a copy of the same image.

use rehome::{
    disk::FileDisk,
    fs::{FileSystem, ext4::Ext4},
};
use std::{
    collections::BTreeSet,
    fs::File,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::Arc,
};

fn run(program: &str, arguments: &[&str]) -> Output {
    let output = Command::new(program).args(arguments).output();
    output.unwrap_or_else(|error| panic!("{program} must be installed: {error}"))
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

fn must(program: &str, arguments: &[&str]) -> String {
    let output = run(program, arguments);
    assert!(
        output.status.success(),
        "{program} {arguments:?}: {}",
        text(&output)
    );
    text(&output)
}

fn make(folder: &Path, mebibytes: u64, options: &[&str]) -> PathBuf {
    let image = folder.join("image");
    let _ = std::fs::remove_file(&image);
    File::create(&image).unwrap().set_len(mebibytes << 20).unwrap();
    let mut arguments = vec!["-q", "-F"];
    arguments.extend(options);
    arguments.push(image.to_str().unwrap());
    must("mke2fs", &arguments);
    image
}

/// Runs debugfs commands that change the image.
fn debugfs(image: &Path, commands: &str) -> String {
    let script = image.with_extension("script");
    std::fs::write(&script, commands).unwrap();
    must(
        "debugfs",
        &["-w", "-f", script.to_str().unwrap(), image.to_str().unwrap()],
    )
}

fn open(image: &Path) -> rehome::fs::Result<Ext4> {
    Ext4::open(Arc::new(FileDisk::open_writable(image).unwrap()))
}

fn block_size(image: &Path) -> u64 {
    let said = must("dumpe2fs", &["-h", image.to_str().unwrap()]);
    let line = said.lines().find(|line| line.starts_with("Block size:")).unwrap();
    line.split_whitespace().last().unwrap().parse().unwrap()
}

/// Replays `image` here and, on a copy, by e2fsck, and compares every block but those of the journal and of the
/// superblock, which hold times and counts of each program's own. Gives what we said.
fn replay_and_compare(image: &Path) -> Vec<String> {
    let theirs = image.with_extension("theirs");
    std::fs::copy(image, &theirs).unwrap();
    let journal = must("debugfs", &["-R", "blocks <8>", image.to_str().unwrap()]);
    let journal: BTreeSet<u64> = journal
        .split_whitespace()
        .filter_map(|word| word.parse().ok())
        .collect();
    assert!(journal.len() >= 1024, "{}", journal.len());
    let checked = run("e2fsck", &["-fy", "-E", "journal_only", theirs.to_str().unwrap()]);
    assert!(matches!(checked.status.code(), Some(0 | 1)), "{}", text(&checked));
    let fs = open(image).unwrap();
    let (ours, theirs) = (File::open(image).unwrap(), File::open(theirs).unwrap());
    let size = block_size(image);
    let (mut a, mut b) = (vec![0; size as usize], vec![0; size as usize]);
    for block in 0..ours.metadata().unwrap().len() / size {
        ours.read_exact_at(&mut a, block * size).unwrap();
        theirs.read_exact_at(&mut b, block * size).unwrap();
        let superblock = block * size <= 1024 && 1024 < (block + 1) * size;
        if superblock {
            // Compared but for state, times and the like: what says how the filesystem is laid out.
            let at = 1024 - (block * size) as usize;
            for field in [0x0..0xc, 0x14..0x2c, 0x38..0x3a, 0x4c..0x78, 0xe0..0xf0] {
                let field = at + field.start..at + field.end;
                assert_eq!(a[field.clone()], b[field.clone()], "superblock {field:?}");
            }
        } else if !journal.contains(&block) {
            assert!(a == b, "block {block} differs");
        }
    }
    fs.recovered()
}

fn fsck(image: &Path) {
    let output = run("e2fsck", &["-fn", image.to_str().unwrap()]);
    assert!(output.status.success(), "{}", text(&output));
}

/// Blocks in the middle of the image that belong to nothing.
const FREE: u64 = 20_000;

/// Writes a file of `count` blocks that are told apart by `seed`, the third of which begins with the magic of the
/// journal.
fn payload(folder: &Path, size: usize, count: usize, seed: u8) -> String {
    let path = folder.join(format!("payload-{seed}"));
    let mut bytes: Vec<u8> = (0..size * count)
        .map(|i| (i / size) as u8 ^ (i % 253) as u8 ^ seed)
        .collect();
    if count > 2 {
        bytes[size * 2..size * 2 + 4].copy_from_slice(&[0xc0, 0x3b, 0x39, 0x98]);
    }
    std::fs::write(&path, bytes).unwrap();
    path.to_str().unwrap().to_owned()
}

fn list(blocks: impl Iterator<Item = u64>) -> String {
    blocks
        .map(|block| block.to_string())
        .collect::<Vec<_>>()
        .join(",")
}

#[test]
fn transactions_that_debugfs_wrote_are_replayed_in_every_format() {
    let folder = tempfile::tempdir().unwrap();
    let kinds: [&[&str]; 5] = [
        &["-t", "ext3", "-b", "1024"],
        &["-t", "ext4", "-b", "1024"],
        &["-t", "ext4", "-b", "4096"],
        &["-t", "ext4", "-b", "2048", "-O", "^64bit,^metadata_csum"],
        &["-t", "ext4", "-b", "4096", "-O", "fast_commit"],
    ];
    for options in kinds {
        for open_options in ["", "-c", "-c -v 2", "-c -v 3"] {
            // e2fsprogs can't write checksums of journals that can't have them.
            let image = make(folder.path(), 96, options);
            let size = block_size(&image) as usize;
            let first = payload(folder.path(), size, 300, 1);
            let second = payload(folder.path(), size, 10, 2);
            let third = payload(folder.path(), size, 5, 3);
            // The second writes over some of the first, the third revokes others, the fourth brings some of those
            // back, the fifth was not committed.
            // Checksums of versions 2 and 3 need metadata_csum; without it debugfs takes version 1, and gets that wrong
            // for a transaction that only revokes (the kernel refuses it too).
            let old = !open_options.is_empty()
                && (options[1] == "ext3" || options.contains(&"^64bit,^metadata_csum"));
            let revoke = !(old || open_options == "-c");
            let script = format!(
                "jo {open_options}\njw -b {} {first}\njw -b {} {second}\n{}jw -b {} {third}\njw -c -b {} {third}\njc\n",
                list(FREE..FREE + 300),
                list(FREE + 5..FREE + 15),
                if revoke {
                    format!(
                        "jw -r {}\n",
                        list((FREE + 20..FREE + 40).chain(FREE + 1..FREE + 3))
                    )
                } else {
                    String::new()
                },
                list(FREE + 30..FREE + 35),
                list(FREE + 100..FREE + 105),
            );
            debugfs(&image, &script);
            let said = replay_and_compare(&image);
            let (transactions, blocks) = if revoke { (4, 293) } else { (3, 315) };
            let expected = format!("journal replayed: {transactions} transactions, {blocks} blocks");
            assert_eq!(said, [expected], "{options:?} {open_options}");
            fsck(&image);
            // Not what was revoked, and what was there before stays.
            let mut block = vec![0; size];
            let file = File::open(&image).unwrap();
            file.read_exact_at(&mut block, (FREE + 21) * size as u64).unwrap();
            assert!(
                !revoke || block.iter().all(|b| *b == 0),
                "{options:?} {open_options}: a revoked block was written"
            );
            file.read_exact_at(&mut block, (FREE + 32) * size as u64).unwrap();
            assert!(
                block.iter().any(|b| *b != 0),
                "a block that was written after its revocation is missing"
            );
            assert_eq!(open(&image).unwrap().recovered(), Vec::<String>::new());
        }
    }
}

#[test]
fn a_damaged_journal_is_refused_and_nothing_is_written() {
    let folder = tempfile::tempdir().unwrap();
    for open_options in ["-c", "-c -v 2", "-c -v 3"] {
        let image = make(folder.path(), 64, &["-t", "ext4", "-b", "1024"]);
        let first = payload(folder.path(), 1024, 30, 1);
        let script = format!(
            "jo {open_options}\njw -b {} {first}\njw -b {} {first}\njc\n",
            list(FREE..FREE + 30),
            list(FREE + 40..FREE + 70)
        );
        debugfs(&image, &script);
        let whole = std::fs::read(&image).unwrap();
        // Every block of the log in turn: descriptor, data, commit.
        let journal = must("debugfs", &["-R", "blocks <8>", image.to_str().unwrap()]);
        let journal: Vec<usize> = journal
            .split_whitespace()
            .filter_map(|word| word.parse().ok())
            .collect();
        for index in [1, 2, 31, 32, 33, 40] {
            let mut bytes = whole.clone();
            bytes[journal[index] * 1024 + 500] ^= 1;
            std::fs::write(&image, &bytes).unwrap();
            match open(&image) {
                Ok(fs) => {
                    // Beyond the last checksum that covers anything: a byte that nobody looks at.
                    assert!(
                        open_options == "-c" && index % 32 == 0,
                        "{open_options}: block {index}: {:?}",
                        fs.recovered()
                    );
                }
                Err(error) => {
                    assert!(error.to_string().contains("e2fsck"), "{error}");
                    assert!(
                        std::fs::read(&image).unwrap() == bytes,
                        "{open_options}: block {index}: written all the same"
                    );
                }
            }
        }
    }
}
