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
    let mut log = [0; 4];
    File::open(image)
        .unwrap()
        .read_exact_at(&mut log, 1024 + 0x18)
        .unwrap();
    1024 << u32::from_le_bytes(log)
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
    let checked = run("e2fsck", &["-y", "-E", "journal_only", theirs.to_str().unwrap()]);
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
            // That the orphan file may be in use: e2fsck looks into it later.
            for superblock in [&mut a, &mut b] {
                superblock[at + 0x66] &= !1;
            }
            for field in [0x0..0xc, 0x14..0x2c, 0x38..0x3a, 0x4c..0x78, 0xe0..0xf0] {
                let field = at + field.start..at + field.end;
                assert_eq!(a[field.clone()], b[field.clone()], "superblock {field:?}");
            }
        } else if !journal.contains(&block) {
            let differs: Vec<_> = (0..a.len())
                .filter(|at| a[*at] != b[*at])
                .map(|at| (at, a[at], b[at]))
                .collect();
            assert!(
                differs.is_empty(),
                "block {block} differs (at, ours, theirs): {differs:?}"
            );
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

/// A mounted image; unmounted at the end, whatever happens.
struct Mounted(PathBuf);

impl Mounted {
    fn new(image: &Path, options: &str) -> Self {
        let point = image.with_extension("mounted");
        std::fs::create_dir_all(&point).unwrap();
        must(
            "mount",
            &[
                "-t",
                "ext4",
                "-o",
                &format!("loop,{options}"),
                image.to_str().unwrap(),
                point.to_str().unwrap(),
            ],
        );
        Self(point)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // Lazily: files may be held open, which is the point of a test.
        let _ = run("umount", &["-l", self.0.to_str().unwrap()]);
    }
}

/// Only root may mount.
fn may_mount() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!("skipped: mounting needs root");
    }
    root
}

/// Works on a mounted image and gives a copy of it as a power cut would leave it: after `work` has been written out.
fn power_cut(image: &Path, options: &str, work: impl FnOnce(&Path)) -> PathBuf {
    let copy = image.with_extension("copy");
    let mounted = Mounted::new(image, options);
    work(&mounted.0);
    must("sync", &["-f", mounted.0.to_str().unwrap()]);
    std::fs::copy(image, &copy).unwrap();
    copy
}

const REAL: [&[&str]; 6] = [
    &["-t", "ext4"],
    &["-t", "ext4", "-b", "1024", "-O", "^64bit,^metadata_csum"],
    &[
        "-t",
        "ext4",
        "-b",
        "2048",
        "-O",
        "orphan_file,metadata_csum_seed,inline_data",
    ],
    &[
        "-t",
        "ext4",
        "-O",
        "orphan_file,fast_commit,ea_inode",
        "-I",
        "512",
    ],
    &["-t", "ext3", "-b", "1024"],
    &["-t", "ext3", "-I", "128"],
];

#[test]
fn what_a_kernel_left_after_a_power_cut_is_whole_again() {
    if !may_mount() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    const MOUNTS: [&str; 4] = [
        "data=ordered",
        "data=journal",
        "data=writeback,journal_async_commit",
        "journal_checksum",
    ];
    for (index, options) in REAL.into_iter().enumerate() {
        // Two ways for each: in all, every one of them with and without checksums of metadata.
        for mount in [MOUNTS[index % 4], MOUNTS[(index + 1) % 4]] {
            let image = make(folder.path(), 64, options);
            let copy = power_cut(&image, mount, |point| {
                std::fs::create_dir(point.join("etc")).unwrap();
                for index in 0..200 {
                    let name = point.join(format!("etc/file-{index}"));
                    std::fs::write(name, vec![index as u8; index * 37]).unwrap();
                }
                must("sync", &["-f", point.to_str().unwrap()]);
                for index in (0..200).step_by(3) {
                    std::fs::remove_file(point.join(format!("etc/file-{index}"))).unwrap();
                }
                std::fs::create_dir(point.join("later")).unwrap();
                for index in 0..50 {
                    std::fs::write(
                        point.join(format!("later/{index}")),
                        [0xc0, 0x3b, 0x39, 0x98, 1, 2],
                    )
                    .unwrap();
                }
            });
            let said = replay_and_compare(&copy);
            assert!(
                said.len() == 1 && said[0].starts_with("journal replayed: "),
                "{options:?} {mount}: {said:?}"
            );
            fsck(&copy);
            let fs = open(&copy).unwrap();
            assert!(fs.recovered().is_empty());
            let etc = fs.lookup(fs.root(), b"etc").unwrap().unwrap();
            let (mut files, mut buffer) = (0, vec![0; 10_000]);
            for index in 0..200 {
                let found = fs.lookup(etc, format!("file-{index}").as_bytes()).unwrap();
                assert_eq!(found.is_some(), index % 3 != 0, "{options:?} {mount}");
                if let Some(node) = found {
                    let count = fs.read_at(node, 0, &mut buffer).unwrap();
                    assert!(count == index * 37 && buffer[..count].iter().all(|b| *b == index as u8));
                    files += 1;
                }
            }
            assert_eq!(files, 133);
            let later = fs.lookup(fs.root(), b"later").unwrap().unwrap();
            let node = fs.lookup(later, b"49").unwrap().unwrap();
            assert_eq!(fs.read_at(node, 0, &mut buffer).unwrap(), 6);
            assert_eq!(buffer[..4], [0xc0, 0x3b, 0x39, 0x98]);
        }
    }
}

#[test]
fn files_that_were_deleted_while_open_are_gone_afterwards() {
    if !may_mount() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    for options in REAL {
        let image = make(folder.path(), 64, options);
        let mut held = Vec::new();
        let copy = power_cut(&image, "user_xattr", |point| {
            for (index, size) in [0, 10, 100, 5000, 100_000, 3_000_000].into_iter().enumerate() {
                let path = point.join(format!("held-{index}"));
                std::fs::write(&path, vec![7; size]).unwrap();
                rustix::fs::setxattr(&path, "user.note", &[b'x'; 600], rustix::fs::XattrFlags::empty())
                    .unwrap();
                held.push(File::open(&path).unwrap());
            }
            // A directory that is somebody's working directory, and many small files: more than one block of a list.
            std::fs::create_dir(point.join("here")).unwrap();
            held.push(File::open(point.join("here")).unwrap());
            for index in 0..700 {
                let path = point.join(format!("many-{index}"));
                std::fs::write(&path, b"small").unwrap();
                held.push(File::open(&path).unwrap());
            }
            std::fs::write(point.join("kept"), b"kept").unwrap();
            must("sync", &["-f", point.to_str().unwrap()]);
            for index in 0..6 {
                std::fs::remove_file(point.join(format!("held-{index}"))).unwrap();
            }
            for index in 0..700 {
                std::fs::remove_file(point.join(format!("many-{index}"))).unwrap();
            }
            std::fs::remove_dir(point.join("here")).unwrap();
        });
        drop(held);
        let fs = open(&copy).unwrap_or_else(|error| panic!("{options:?}: {error}"));
        let said = fs.recovered();
        assert!(
            said.contains(&"707 orphaned inodes released".to_owned()),
            "{options:?}: {said:?}"
        );
        fsck(&copy);
        let kept = fs.lookup(fs.root(), b"kept").unwrap().unwrap();
        let mut buffer = [0; 10];
        assert_eq!(fs.read_at(kept, 0, &mut buffer).unwrap(), 4);
        assert!(open(&copy).unwrap().recovered().is_empty());
        // And the kernel takes it.
        let mounted = Mounted::new(&copy, "rw");
        assert_eq!(std::fs::read(mounted.0.join("kept")).unwrap(), b"kept");
        drop(mounted);
        fsck(&copy);
    }
}

#[test]
fn files_that_were_being_cut_are_cut() {
    let folder = tempfile::tempdir().unwrap();
    let contents = folder.path().join("contents");
    std::fs::write(&contents, vec![9; 500_000]).unwrap();
    for options in [REAL[0], REAL[5], REAL[1]] {
        let image = make(folder.path(), 64, options);
        debugfs(
            &image,
            &format!(
                "write {} file\nwrite {} gone\n",
                contents.display(),
                contents.display()
            ),
        );
        let stat = must("debugfs", &["-R", "stat file", image.to_str().unwrap()]);
        let inode = |stat: &str| stat.split_whitespace().nth(1).unwrap().to_owned();
        let number = inode(&stat);
        let gone = inode(&must("debugfs", &["-R", "stat gone", image.to_str().unwrap()]));
        // file: cut to 1234 bytes, not done yet; gone: no name any more. The list goes from one to the other.
        debugfs(
            &image,
            &format!(
                "sif <{number}> size 1234\nsif <{number}> dtime {gone}\nunlink gone\nsif <{gone}> links_count 0\nssv last_orphan {number}\n"
            ),
        );
        assert!(!run("e2fsck", &["-fn", image.to_str().unwrap()]).status.success());
        let fs = open(&image).unwrap();
        assert_eq!(
            fs.recovered(),
            [
                "1 orphaned inodes released",
                "1 files cut to their size, as was begun"
            ],
            "{options:?}"
        );
        fsck(&image);
        let file = fs.lookup(fs.root(), b"file").unwrap().unwrap();
        assert_eq!(fs.attributes(file).unwrap().size, 1234);
        assert_eq!(fs.lookup(fs.root(), b"gone").unwrap(), None);
        // What was behind the end is not kept for the next one who extends the file.
        let size = block_size(&image);
        let last = 1234 / size;
        let block = must(
            "debugfs",
            &["-R", &format!("bmap <{number}> {last}"), image.to_str().unwrap()],
        );
        let block: u64 = block.lines().next().unwrap().trim().parse().unwrap();
        let mut bytes = vec![0; size as usize];
        File::open(&image)
            .unwrap()
            .read_exact_at(&mut bytes, block * size)
            .unwrap();
        let into = (1234 % size) as usize;
        assert!(bytes[..into].iter().all(|b| *b == 9) && bytes[into..].iter().all(|b| *b == 0));
    }
}

#[test]
fn lists_of_orphans_that_lie_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let image = make(folder.path(), 64, REAL[0]);
    let whole = std::fs::read(&image).unwrap();
    for (orphan, said) in [
        ("8", "none that a file can have"),
        ("2", "none"),
        ("4000000", "none"),
        ("300", "not in use"),
    ] {
        std::fs::write(&image, &whole).unwrap();
        debugfs(&image, &format!("ssv last_orphan {orphan}\n"));
        let error = open(&image).unwrap_err().to_string();
        assert!(
            error.contains(said) && error.contains("e2fsck"),
            "{orphan}: {error}"
        );
    }
    // A circle.
    std::fs::write(&image, &whole).unwrap();
    let contents = folder.path().join("contents");
    std::fs::write(&contents, vec![9; 50_000]).unwrap();
    let one = contents.display();
    debugfs(&image, &format!("write {one} a\nwrite {one} b\n"));
    for links in ["0", "1"] {
        debugfs(
            &image,
            &format!(
                "sif a links_count {links}\nsif b links_count {links}\nsif a dtime 13\nsif b dtime 12\nssv last_orphan 12\n"
            ),
        );
        match (links, open(&image)) {
            ("0", outcome) => assert!(outcome.unwrap_err().to_string().contains("not in use")),
            // The first is met again, with nothing left to do and no next.
            (_, outcome) => assert_eq!(
                outcome.unwrap().recovered(),
                ["3 files cut to their size, as was begun"]
            ),
        }
        std::fs::write(&image, &whole).unwrap();
        debugfs(&image, &format!("write {one} a\nwrite {one} b\n"));
    }
}

/// Unpacks a sample of e2fsprogs' own tests.
fn unpack(sample: &Path, to: &Path) -> bool {
    for (name, program) in [("image.gz", "gzip"), ("image.bz2", "bzip2")] {
        let packed = sample.join(name);
        if packed.exists() {
            let status = Command::new(program)
                .arg("-dc")
                .arg(&packed)
                .stdout(File::create(to).unwrap())
                .status();
            assert!(status.unwrap_or_else(|e| panic!("{program}: {e}")).success());
            return true;
        }
    }
    false
}

#[test]
fn the_damaged_images_of_e2fsprogs() {
    let Some(samples) = std::env::var_os("REHOME_SAMPLES").map(PathBuf::from) else {
        eprintln!("skipped: REHOME_SAMPLES is not set");
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let image = folder.path().join("image");
    let mut samples: Vec<_> = samples
        .join("fs/e2fsprogs")
        .read_dir()
        .unwrap()
        .map(|e| e.unwrap().path())
        .collect();
    samples.sort();
    const REFUSED: [&str; 8] = [
        "f_ext_journal",
        "j_corrupt_commit_csum",
        "j_corrupt_descr_csum",
        "j_corrupt_journal_block",
        "j_corrupt_revoke_rcount",
        "j_corrupt_sb_csum",
        "j_corrupt_sb_magic",
        "j_recover_fast_commit",
    ];
    let (mut replayed, mut refused) = (0, 0);
    for sample in samples {
        let name = sample.file_name().unwrap().to_str().unwrap().to_owned();
        if !unpack(&sample, &image) {
            continue;
        }
        let before = std::fs::read(&image).unwrap();
        if REFUSED.contains(&&*name) {
            let error = open(&image).map(drop).unwrap_err();
            assert!(before == std::fs::read(&image).unwrap(), "{name}: {error}");
            refused += 1;
        } else if name.starts_with("j_recover")
            || name.starts_with("j_corrupt")
            || matches!(&*name, "f_jnl_32bit" | "f_jnl_64bit")
        {
            // Those whose log just ends early, and whole ones.
            let said = replay_and_compare(&image);
            eprintln!("{name}: {said:?}");
            replayed += 1;
        } else if name.starts_with("f_orphan") {
            let said = open(&image).unwrap().recovered();
            // One of them is damaged in another way, and has no orphan.
            assert_eq!(said.is_empty(), name == "f_orphan_dotdot_ft", "{name}");
            if !said.is_empty() {
                fsck(&image);
            }
        }
    }
    assert_eq!((replayed, refused), (9, 8));
}

#[test]
fn fast_commits_are_left_to_the_kernel() {
    if !may_mount() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let image = make(folder.path(), 64, &["-t", "ext4", "-O", "fast_commit"]);
    let copy = image.with_extension("copy");
    let mounted = Mounted::new(&image, "rw");
    std::fs::write(mounted.0.join("old"), b"old").unwrap();
    must("sync", &["-f", mounted.0.to_str().unwrap()]);
    for name in ["one", "two"] {
        std::fs::write(mounted.0.join(name), b"new").unwrap();
        File::open(mounted.0.join(name)).unwrap().sync_all().unwrap();
    }
    std::fs::copy(&image, &copy).unwrap();
    drop(mounted);
    let before = std::fs::read(&copy).unwrap();
    let error = open(&copy).map(drop).unwrap_err();
    assert_eq!(error.kind, rehome::disk::Kind::Unsafe);
    assert!(
        error.to_string().contains("fast commits") && error.to_string().contains("mount it once"),
        "{error}"
    );
    assert!(before == std::fs::read(&copy).unwrap());
    // The cure.
    drop(Mounted::new(&copy, "rw"));
    let fs = open(&copy).unwrap();
    assert!(fs.recovered().is_empty());
    assert!(fs.lookup(fs.root(), b"two").unwrap().is_some());
}

/// Any byte of the journal may be anything.
#[test]
fn a_journal_of_noise_ends_in_an_error_or_in_a_filesystem() {
    let folder = tempfile::tempdir().unwrap();
    let image = make(
        folder.path(),
        4,
        &["-t", "ext4", "-b", "1024", "-O", "^metadata_csum,^64bit"],
    );
    let first = payload(folder.path(), 1024, 3, 1);
    debugfs(
        &image,
        &format!("jo\njw -b 3000,3001,3002 {first}\njw -r 3001\njw -b 3003 {first}\njc\n"),
    );
    let whole = std::fs::read(&image).unwrap();
    let journal = must("debugfs", &["-R", "blocks <8>", image.to_str().unwrap()]);
    let journal: Vec<usize> = journal
        .split_whitespace()
        .filter_map(|word| word.parse().ok())
        .collect();
    let mut seed = 1_u32;
    let mut next = || {
        // Marsaglia's xorshift.
        seed ^= seed << 13;
        seed ^= seed >> 17;
        seed ^= seed << 5;
        seed as usize
    };
    let (mut good, mut bad) = (0, 0);
    for _ in 0..400 {
        let mut bytes = whole.clone();
        for _ in 0..=next() % 3 {
            // Mostly where the fields are.
            let block = journal[[0, 0, 1, 5, 6, 7, 8, 9][next() % 8]];
            let at = block * 1024 + next() % if next() % 4 == 0 { 1024 } else { 96 };
            bytes[at] = [0, 1, 0x7f, 0x80, 0xff, next() as u8][next() % 6];
        }
        let disk = Arc::new(rehome::disk::MemoryDisk::new("noise", bytes.clone()));
        match Ext4::open(disk.clone()) {
            Ok(_) => good += 1,
            Err(_) => {
                bad += 1;
                assert!(disk.contents() == bytes, "refused, but written all the same");
            }
        }
    }
    assert!(good > 40 && bad > 40, "{good} {bad}");
}

#[test]
fn a_filesystem_that_another_host_may_have_mounted_is_left_alone() {
    if !may_mount() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let image = make(folder.path(), 64, &["-t", "ext4", "-O", "mmp"]);
    let copy = power_cut(&image, "rw", |point| {
        std::fs::write(point.join("file"), b"x").unwrap()
    });
    let before = std::fs::read(&copy).unwrap();
    let error = open(&copy).map(drop).unwrap_err();
    assert!(error.to_string().contains("multiple mount protection"), "{error}");
    assert!(before == std::fs::read(&copy).unwrap());
}

#[test]
fn an_error_that_only_the_journal_knows_of_forbids_edits() {
    let folder = tempfile::tempdir().unwrap();
    let image = make(folder.path(), 16, &["-t", "ext3", "-b", "1024"]);
    assert!(open(&image).unwrap().edit().is_ok());
    let journal = must("debugfs", &["-R", "blocks <8>", image.to_str().unwrap()]);
    let first: u64 = journal.split_whitespace().next().unwrap().parse().unwrap();
    let file = File::options().write(true).open(&image).unwrap();
    file.write_all_at(&5_u32.to_be_bytes(), first * 1024 + 0x20)
        .unwrap();
    let error = open(&image).unwrap().edit().map(drop).unwrap_err();
    assert_eq!(error.kind, rehome::disk::Kind::Unsafe);
    assert!(
        error.to_string().contains("journal has noted an error"),
        "{error}"
    );
}
