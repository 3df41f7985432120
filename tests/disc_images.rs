//! Disc images as genisoimage and xorriso make them: every name, size and byte as on the host, and as bsdtar lists them.

// Clippy's exemption for tests does not reach the functions that they share.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic
)]

use rehome::{
    disk::{FileDisk, Kind, MemoryDisk},
    fs::{FileSystem, Node, iso9660::Iso9660, udf::Udf},
};
use std::{collections::BTreeMap, fs, path::Path, process::Command, sync::Arc};

fn tree(folder: &Path) {
    let deep = folder.join("a/b/c/d/e/f");
    fs::create_dir_all(&deep).unwrap();
    fs::write(deep.join("deep.txt"), "deep").unwrap();
    fs::create_dir_all(folder.join("viostor/w10/amd64")).unwrap();
    fs::write(folder.join("viostor/w10/amd64/viostor.inf"), "[Version]").unwrap();
    fs::write(
        folder.join("viostor/w10/amd64/Großer Name mit Blanks (2).sys"),
        vec![7; 100_000],
    )
    .unwrap();
    fs::write(folder.join("empty"), "").unwrap();
    fs::create_dir(folder.join("many")).unwrap();
    for number in 0..300 {
        fs::write(
            folder.join(format!(
                "many/a file with a rather long name, number {number}.dat"
            )),
            format!("{number}"),
        )
        .unwrap();
    }
}

/// Paths and contents of all files.
fn contents(disc: &dyn FileSystem) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    let mut folders = vec![(String::new(), disc.root())];
    while let Some((path, node)) = folders.pop() {
        let mut children = Vec::new();
        disc.list(node, &mut |name, child| {
            children.push((String::from_utf8_lossy(name).into_owned(), child));
            true
        })
        .unwrap();
        for (name, child) in children {
            assert_eq!(disc.lookup(node, name.as_bytes()).unwrap(), Some(child), "{name}");
            let attributes = disc.attributes(child).unwrap();
            let path = format!("{path}/{name}");
            if attributes.is_directory() {
                folders.push((path, child));
                continue;
            }
            let mut bytes = vec![0; attributes.size as usize + 10];
            let read = disc.read_at(child, 0, &mut bytes).unwrap();
            assert_eq!(read as u64, attributes.size, "{path}");
            bytes.truncate(read);
            files.insert(path, bytes);
        }
    }
    files
}

fn host_contents(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = walkdir::WalkDir::new(folder).into_iter().map(Result::unwrap);
    let files = entries.filter(|entry| entry.file_type().is_file());
    files
        .map(|entry| {
            let path = entry.path().strip_prefix(folder).unwrap().display().to_string();
            (format!("/{path}"), fs::read(entry.path()).unwrap())
        })
        .collect()
}

/// Makes an image of `tree`; `None`, with a message, where the tool is not installed.
fn make(folder: &Path, program: &str, options: &[&str]) -> Option<std::path::PathBuf> {
    let image = folder.join("disc.iso");
    let _ = fs::remove_file(&image);
    let output = Command::new(program)
        .args(options)
        .args(["-quiet", "-o", "disc.iso", "tree"])
        .current_dir(folder)
        .output();
    let Ok(output) = output else {
        eprintln!("skipped: {program} is not installed");
        return None;
    };
    assert!(output.status.success(), "{program} {options:?}: {output:?}");
    Some(image)
}

fn open(image: &Path) -> Iso9660 {
    Iso9660::open(Arc::new(FileDisk::open(image).unwrap()))
        .unwrap()
        .expect("a disc image")
}

#[test]
fn discs_hold_what_the_host_has() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    tree(&folder.join("tree"));
    let host = host_contents(&folder.join("tree"));
    assert!(host.len() > 300);
    let xorriso: &[&str] = &["-as", "mkisofs"];
    for (program, options, whole) in [
        ("genisoimage", &["-r", "-V", "DRIVERS"][..], true),
        ("genisoimage", &["-J", "-joliet-long", "-V", "DRIVERS"], true),
        (
            "genisoimage",
            &["-J", "-joliet-long", "-r", "-V", "DRIVERS"],
            true,
        ),
        ("genisoimage", &["-iso-level", "1", "-V", "DRIVERS"], false),
        ("xorriso", &[xorriso, &["-r", "-V", "DRIVERS"]].concat(), true),
        (
            "xorriso",
            &[xorriso, &["-J", "-joliet-long", "-V", "DRIVERS"]].concat(),
            true,
        ),
    ] {
        let mut all = options.to_vec();
        if program == "genisoimage" {
            all.extend(["-input-charset", "utf-8", "-allow-limited-size"]);
        }
        let Some(image) = make(folder, program, &all) else {
            continue;
        };
        let disc = open(&image);
        assert_eq!(disc.identity().label.as_deref(), Some("DRIVERS"), "{options:?}");
        let seen = contents(&disc);
        if whole {
            let names = |files: &BTreeMap<String, Vec<u8>>| files.keys().cloned().collect::<Vec<_>>();
            assert_eq!(names(&seen), names(&host), "{program} {options:?}");
            assert!(seen == host, "{program} {options:?}");
        } else {
            // Names of the oldest level are cut; contents are not.
            let sorted = |files: &BTreeMap<String, Vec<u8>>| {
                let mut all: Vec<_> = files.values().cloned().collect();
                all.sort();
                all
            };
            assert!(sorted(&seen) == sorted(&host), "{options:?}");
        }
        same_as_bsdtar(&image, &seen, options);
    }
}

fn same_as_bsdtar(image: &Path, seen: &BTreeMap<String, Vec<u8>>, options: &[&str]) {
    // bsdtar takes Rock Ridge before Joliet.
    if options.contains(&"-J") && options.contains(&"-r") {
        return;
    }
    let listed = Command::new("bsdtar")
        .arg("-tf")
        .arg(image)
        .env("LC_ALL", "C.UTF-8")
        .output();
    let Ok(listed) = listed else {
        eprintln!("skipped: bsdtar is not installed");
        return;
    };
    assert!(listed.status.success());
    let text = String::from_utf8(listed.stdout).unwrap();
    let mut theirs: Vec<String> = text.lines().map(|line| format!("/{line}")).collect();
    theirs.retain(|path| seen.contains_key(path));
    assert_eq!(theirs.len(), seen.len(), "{options:?}: {text}");
}

#[test]
fn folders_too_deep_for_the_standard_are_where_they_belong() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    fs::create_dir_all(folder.join("tree/1/2/3/4/5/6/7/8/9/10")).unwrap();
    fs::write(folder.join("tree/1/2/3/4/5/6/7/8/9/10/deep.txt"), "deep").unwrap();
    let Some(image) = make(folder, "genisoimage", &["-R", "-D"]).and(make(folder, "genisoimage", &["-R"]))
    else {
        return;
    };
    assert_eq!(contents(&open(&image)), host_contents(&folder.join("tree")));
}

#[test]
fn case_and_links_are_as_the_names_have_them() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    fs::create_dir_all(folder.join("tree/Sub")).unwrap();
    fs::write(folder.join("tree/Sub/File.Inf"), "x").unwrap();
    std::os::unix::fs::symlink("../Sub/File.Inf", folder.join("tree/Sub/link")).unwrap();
    let Some(image) = make(folder, "genisoimage", &["-r"]) else {
        return;
    };
    let disc = open(&image);
    let sub = disc.lookup(disc.root(), b"Sub").unwrap().unwrap();
    assert_eq!(disc.lookup(disc.root(), b"SUB").unwrap(), None);
    let link = disc.lookup(sub, b"link").unwrap().unwrap();
    assert!(disc.attributes(link).unwrap().is_link());
    let mut target = [0; 40];
    let read = disc.read_at(link, 0, &mut target).unwrap();
    assert_eq!(&target[..read], b"../Sub/File.Inf");
    let image = make(folder, "genisoimage", &["-J"]).unwrap();
    let mut disc = open(&image);
    let sub = disc.lookup(disc.root(), b"SUB").unwrap().unwrap();
    let file = disc.lookup(sub, b"file.INF").unwrap().unwrap();
    assert!(disc.attributes(file).unwrap().modified.is_some());
    assert!(disc.list(file, &mut |_, _| true).is_err() && disc.read_at(sub, 0, &mut target).is_err());
    assert_eq!(disc.edit().err().unwrap().kind, Kind::ReadOnly);
}

fn open_udf(image: &Path) -> Udf {
    Udf::open(Arc::new(FileDisk::open(image).unwrap()))
        .unwrap()
        .expect("a UDF volume")
}

#[test]
fn udf_holds_what_the_host_has() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    tree(&folder.join("tree"));
    let host = host_contents(&folder.join("tree"));
    let options = [
        "-udf",
        "-V",
        "DRIVERS",
        "-input-charset",
        "utf-8",
        "-allow-limited-size",
    ];
    if let Some(image) = make(folder, "genisoimage", &options) {
        let disc = open_udf(&image);
        assert_eq!(disc.identity().label.as_deref(), Some("DRIVERS"));
        assert!(contents(&disc) == host);
        let file = disc.lookup(disc.root(), b"EMPTY").unwrap().unwrap();
        assert_eq!(disc.attributes(file).unwrap().size, 0);
        assert!(disc.list(file, &mut |_, _| true).is_err());
        listed_by_7z(&image, &host);
    }
    // Of another maker, and 2.60.
    fs::write(folder.join("make.py"), PYCDLIB).unwrap();
    let output = Command::new("/usr/bin/python3")
        .arg("make.py")
        .current_dir(folder)
        .output();
    match output {
        Ok(output) if output.status.success() => {
            assert!(contents(&open_udf(&folder.join("py.iso"))) == host);
        }
        other => eprintln!("skipped: python3-pycdlib is not installed: {other:?}"),
    }
}

const PYCDLIB: &str = "
import os, pycdlib
iso = pycdlib.PyCdlib()
iso.new(interchange_level=4, udf='2.60')
for at, folders, files in sorted(os.walk('tree')):
    to = '/' + os.path.relpath(at, 'tree') if at != 'tree' else ''
    if to: iso.add_directory(udf_path=to)
    for name in sorted(files): iso.add_file(os.path.join(at, name), udf_path=to + '/' + name)
iso.write('py.iso')
";

fn listed_by_7z(image: &Path, host: &BTreeMap<String, Vec<u8>>) {
    let Ok(listed) = Command::new("7zz")
        .args(["l", "-ba", "-slt", "-tudf"])
        .arg(image)
        .output()
    else {
        eprintln!("skipped: 7zz is not installed");
        return;
    };
    let text = String::from_utf8_lossy(&listed.stdout).into_owned();
    let paths = text
        .lines()
        .filter_map(|line| line.strip_prefix("Path = "))
        .map(|path| format!("/{path}"));
    assert_eq!(paths.filter(|path| host.contains_key(path)).count(), host.len());
}

#[test]
fn empty_udf_volumes_of_all_versions_and_block_sizes_are_opened() {
    let folder = tempfile::tempdir().unwrap();
    let image = folder.path().join("disk.udf");
    for version in ["1.02", "1.50", "2.00", "2.01"] {
        for block in ["512", "2048", "4096"] {
            let _ = fs::remove_file(&image);
            fs::File::create(&image).unwrap().set_len(8 << 20).unwrap();
            let media = ["--utf8", "--media-type=hd", "--label=Treiber ö"];
            let made = Command::new("mkudffs")
                .args(media)
                .arg(format!("--udfrev={version}"))
                .arg(format!("--blocksize={block}"))
                .arg(&image)
                .output();
            let Ok(made) = made else {
                eprintln!("skipped: mkudffs is not installed");
                return;
            };
            assert!(made.status.success(), "{version} {block}: {made:?}");
            let disc = open_udf(&image);
            assert_eq!(
                disc.identity().label.as_deref(),
                Some("Treiber ö"),
                "{version} {block}"
            );
            let names: Vec<String> = contents(&disc).into_keys().collect();
            assert!(names.is_empty(), "{names:?}");
        }
    }
}

/// Reads what can be reached in bounded steps; errors are answers.
fn walk(bytes: Vec<u8>) {
    let disk = Arc::new(MemoryDisk::new("disc", bytes));
    let iso = Iso9660::open(disk.clone()).ok().flatten();
    let udf = Udf::open(disk).ok().flatten();
    iso.iter().for_each(|iso| walk_tree(iso));
    udf.iter().for_each(|udf| walk_tree(udf));
}

fn walk_tree(disc: &dyn FileSystem) {
    let mut nodes: Vec<Node> = vec![disc.root()];
    let mut next = 0;
    while let Some(node) = nodes.get(next).copied().filter(|_| next < 300) {
        next += 1;
        let _ = disc.attributes(node);
        let _ = disc.read_at(node, 1000, &mut [0; 3000]);
        let _ = disc.list(node, &mut |_, child| {
            nodes.push(child);
            nodes.len() < 2000
        });
    }
}

#[test]
fn damaged_discs_are_errors_and_never_panic() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    fs::create_dir_all(folder.join("tree/sub")).unwrap();
    fs::write(
        folder.join("tree/sub/a rather long name for a file.inf"),
        vec![1; 5000],
    )
    .unwrap();
    std::os::unix::fs::symlink("x/y", folder.join("tree/link")).unwrap();
    for options in [&["-r"][..], &["-J"], &["-udf"]] {
        let Some(image) = make(folder, "genisoimage", options) else {
            return;
        };
        let sound = fs::read(image).unwrap();
        for cut in (0..sound.len()).step_by(2048) {
            walk(sound[..cut].to_vec());
        }
        // Where descriptors and directories are: at the start, and behind the anchor of UDF.
        let places = (0x8000..sound.len().min(0x10000)).chain(0x80000..sound.len().min(0x84000));
        for at in places.filter(|at| sound[*at] != 0) {
            let mut damaged = sound.clone();
            damaged[at] ^= 0xff;
            walk(damaged);
        }
    }
    assert!(
        Iso9660::open(Arc::new(MemoryDisk::new("disc", vec![0; 100_000])))
            .unwrap()
            .is_none()
    );
}

/// A volume with a metadata partition (UDF 2.2.10, 2.2.13), which no tool at hand makes: descriptors are put together here.
mod metadata_partition {
    use super::*;

    const BLOCK: usize = 2048;
    /// Of the physical partition, in blocks of the disk.
    const START: u32 = 300;

    fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
        bytes[at..at + value.len()].copy_from_slice(value);
    }

    /// A block with the tag of a descriptor of `length` bytes.
    fn tagged(mut block: Vec<u8>, kind: u16, location: u32, length: usize) -> Vec<u8> {
        let crc = block[16..length].iter().fold(0_u16, |crc, byte| {
            (0..8).fold(crc ^ u16::from(*byte) << 8, |crc, _| {
                crc << 1 ^ if crc & 0x8000 != 0 { 0x1021 } else { 0 }
            })
        });
        put(&mut block, 0, &kind.to_le_bytes());
        put(&mut block, 2, &3_u16.to_le_bytes());
        put(&mut block, 8, &crc.to_le_bytes());
        put(&mut block, 10, &((length - 16) as u16).to_le_bytes());
        put(&mut block, 12, &location.to_le_bytes());
        block[4] = 0;
        block[4] = block[..16].iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte));
        block
    }

    fn long(length: u32, block: u32, partition: u16) -> Vec<u8> {
        [
            &length.to_le_bytes()[..],
            &block.to_le_bytes(),
            &partition.to_le_bytes(),
            &[0; 6],
        ]
        .concat()
    }

    /// A file entry whose contents are in `runs`; `kind` is the type of its descriptors.
    fn entry(file_type: u8, size: u64, kind: u16, runs: &[u8], location: u32) -> Vec<u8> {
        let mut block = vec![0; BLOCK];
        put(&mut block, 20, &4_u16.to_le_bytes());
        block[27] = file_type;
        put(&mut block, 34, &kind.to_le_bytes());
        put(&mut block, 48, &1_u16.to_le_bytes());
        put(&mut block, 56, &size.to_le_bytes());
        put(&mut block, 172, &(runs.len() as u32).to_le_bytes());
        put(&mut block, 176, runs);
        tagged(block, 261, location, 176 + runs.len())
    }

    fn identifier(name: &str, characteristics: u8, block: u32) -> Vec<u8> {
        let coded = if name.is_empty() {
            Vec::new()
        } else {
            [b"\x08", name.as_bytes()].concat()
        };
        let length = (38 + coded.len()).next_multiple_of(4);
        let mut bytes = vec![0; length];
        bytes[18] = characteristics;
        bytes[19] = coded.len() as u8;
        put(&mut bytes, 20, &long(BLOCK as u32, block, 1));
        put(&mut bytes, 38, &coded);
        tagged(bytes, 257, 0, length)
    }

    fn volume(mirror_only: bool) -> Vec<u8> {
        let mut disk = vec![0; 400 * BLOCK];
        let mut write = |block: u32, bytes: Vec<u8>| put(&mut disk, block as usize * BLOCK, &bytes);
        let mut anchor = vec![0; BLOCK];
        put(&mut anchor, 16, &(16 * BLOCK as u32).to_le_bytes());
        put(&mut anchor, 20, &260_u32.to_le_bytes());
        write(256, tagged(anchor, 2, 256, 512));
        let mut partition = vec![0; BLOCK];
        put(&mut partition, 188, &START.to_le_bytes());
        put(&mut partition, 192, &90_u32.to_le_bytes());
        write(260, tagged(partition, 5, 260, 512));
        let mut logical = vec![0; BLOCK];
        put(&mut logical, 84, b"\x08NEW");
        logical[84 + 127] = 4;
        put(&mut logical, 212, &(BLOCK as u32).to_le_bytes());
        put(&mut logical, 248, &long(BLOCK as u32, 0, 1));
        put(&mut logical, 264, &70_u32.to_le_bytes());
        put(&mut logical, 268, &2_u32.to_le_bytes());
        put(&mut logical, 440, &[1, 6, 1, 0, 0, 0]);
        put(&mut logical, 446, &[2, 64]);
        put(&mut logical, 446 + 5, b"*UDF Metadata Partition");
        put(&mut logical, 446 + 36, &1_u16.to_le_bytes());
        put(&mut logical, 446 + 40, &10_u32.to_le_bytes());
        put(&mut logical, 446 + 44, &11_u32.to_le_bytes());
        write(261, tagged(logical, 6, 261, 510));
        write(262, tagged(vec![0; BLOCK], 8, 262, 512));
        // The metadata file: blocks 20 and 21, then 40, 41 and 42 of the partition.
        let runs = |first: u32, second: u32| {
            let run =
                |count: u32, block: u32| [(count * BLOCK as u32).to_le_bytes(), block.to_le_bytes()].concat();
            [run(2, first), run(3, second)].concat()
        };
        if !mirror_only {
            write(START + 10, entry(250, 5 * BLOCK as u64, 0, &runs(20, 40), 10));
        }
        write(START + 11, entry(251, 5 * BLOCK as u64, 0, &runs(20, 40), 11));
        let mut file_set = vec![0; BLOCK];
        put(&mut file_set, 400, &long(BLOCK as u32, 1, 1));
        write(START + 20, tagged(file_set, 256, 0, 512));
        // The root's entry is block 1, its names block 2, which lies elsewhere; the file's entry is block 3.
        let names = [
            identifier("", 0x0a, 1),
            identifier("Driver.inf", 0, 3),
            identifier("gone", 4, 3),
        ]
        .concat();
        let run = [(names.len() as u32).to_le_bytes(), 2_u32.to_le_bytes()].concat();
        write(START + 21, entry(4, names.len() as u64, 0, &run, 1));
        write(START + 40, names);
        // Its contents are in the physical partition: 3000 bytes, a hole, and a run of which 10 bytes count.
        let hole = 2 << 30 | 4096;
        let contents = [long(3000, 60, 0), long(hole, 0, 0), long(BLOCK as u32, 70, 0)].concat();
        write(START + 41, entry(5, 3000 + 4096 + 10, 1, &contents, 3));
        write(START + 60, vec![b'a'; 3000]);
        write(START + 70, vec![b'z'; BLOCK]);
        disk
    }

    #[test]
    fn is_read_through_its_file_or_its_mirror() {
        for mirror_only in [false, true] {
            let disk = volume(mirror_only);
            let disc = Udf::open(Arc::new(MemoryDisk::new("disc", disk.clone())))
                .unwrap()
                .unwrap();
            assert_eq!(disc.identity().label.as_deref(), Some("NEW"));
            let expected = [vec![b'a'; 3000], vec![0; 4096], vec![b'z'; 10]].concat();
            assert_eq!(
                contents(&disc),
                BTreeMap::from([("/Driver.inf".to_owned(), expected)])
            );
            for at in 256 * BLOCK..disk.len() {
                if disk[at] != 0 && at % 7 == 0 && disk[at] != b'a' && disk[at] != b'z' {
                    let mut damaged = disk.clone();
                    damaged[at] ^= 0xff;
                    walk(damaged);
                }
            }
        }
    }

    #[test]
    fn kinds_that_are_not_read_are_named() {
        let mut disk = volume(false);
        let at = 261 * BLOCK;
        let map = at + 446 + 5;
        disk[map..map + 23].copy_from_slice(b"*UDF Virtual Partition\0");
        let block = tagged(disk[at..at + BLOCK].to_vec(), 6, 261, 510);
        put(&mut disk, at, &block);
        let error = Udf::open(Arc::new(MemoryDisk::new("disc", disk))).unwrap_err();
        assert_eq!(error.kind, Kind::Unsupported);
        assert!(error.to_string().contains("written in sessions"), "{error}");
    }
}
