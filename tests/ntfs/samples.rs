//! Volumes that Windows made: read without a panic, and like `ntfs-3g` reads them.

use crate::{image::run, model::contents};
use rehome::{
    disk::{Disk, FileDisk, MemoryDisk, Overlay},
    fs::{FileSystem, Node, mode, ntfs::Ntfs},
};
use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
};

fn samples() -> Option<PathBuf> {
    let samples = std::env::var_os("REHOME_SAMPLES").map(PathBuf::from);
    if samples.is_none() {
        eprintln!("skipped: REHOME_SAMPLES is not set: the samples of other people were not looked at");
    }
    samples
}

fn unpack(from: &Path, to: &Path) {
    let mut command = match from.extension().and_then(|extension| extension.to_str()) {
        Some("gz") => Command::new("gzip"),
        Some("bz2") => Command::new("bzip2"),
        _ => {
            let mut command = Command::new("python3");
            command.args([
                "-c",
                "import sys, zipfile; z = zipfile.ZipFile(sys.argv[2]); \
                 sys.stdout.buffer.write(z.read(max(z.infolist(), key=lambda f: f.file_size)))",
            ]);
            command
        }
    };
    let output = run(command.args(["-dc"]).arg(from));
    fs::write(to, output.stdout).unwrap();
}

/// Where in an image the volume begins.
fn volume_start(image: &[u8]) -> usize {
    (0..image.len().min(4 << 20))
        .step_by(512)
        .find(|start| image[*start..].get(3..11) == Some(b"NTFS    "))
        .expect("an NTFS volume")
}

/// Reads everything; gives how many files and how many bytes.
fn read_all(fs: &Ntfs, image: &Path) -> (usize, u64) {
    let mut todo = vec![(fs.root(), String::from("/"))];
    let mut seen = BTreeSet::new();
    let (mut files, mut bytes) = (0, 0);
    while let Some((node, path)) = todo.pop() {
        if !seen.insert(node) {
            continue;
        }
        let attributes = fs
            .attributes(node)
            .unwrap_or_else(|error| panic!("{path}: {error}"));
        fs.extended_names(node)
            .unwrap_or_else(|error| panic!("{path}: {error}"));
        if attributes.is_directory() {
            fs.list(node, &mut |name, child| {
                todo.push((child, format!("{path}{}/", String::from_utf8_lossy(name))));
                true
            })
            .unwrap_or_else(|error| panic!("{path}: {error}"));
        } else if attributes.is_file() {
            let here = contents(fs, node);
            files += 1;
            bytes += here.len() as u64;
            let there = Command::new("ntfscat")
                .args(["-f", "-i", &node.0.to_string()])
                .arg(image)
                .output()
                .unwrap();
            if there.status.success() {
                assert!(
                    here == there.stdout,
                    "{path}: {} bytes, {} expected",
                    here.len(),
                    there.stdout.len()
                );
            } else {
                eprintln!(
                    "{path}: ntfscat: {}",
                    String::from_utf8_lossy(&there.stderr).trim()
                );
            }
        }
    }
    (files, bytes)
}

#[test]
fn of_windows_are_read_like_ntfscat_does_and_edited() {
    let Some(samples) = samples() else { return };
    let folder = tempfile::tempdir().unwrap();
    for (name, least) in [
        ("fs/dfir_ntfs/ntfs3.raw.gz", 1),
        ("fs/dfir_ntfs/ntfs3_attrlist.raw.gz", 1),
        ("fs/dfir_ntfs/ntfs_index.raw.gz", 1),
        ("fs/go-ntfs/ads_with_same_ids/charlie.dd.bz2", 1),
        ("fs/ntfs-forensic/SampleTinyNtfsVolume.zip", 1),
    ] {
        let image = folder.path().join("image");
        unpack(&samples.join(name), &image);
        let bytes = fs::read(&image).unwrap();
        fs::write(&image, &bytes[volume_start(&bytes)..]).unwrap();
        let disk: Arc<dyn Disk> = Arc::new(FileDisk::open(&image).unwrap());
        let overlay: Arc<dyn Disk> = Arc::new(Overlay::new(disk, 64 << 20, folder.path()));
        let mut ntfs = match Ntfs::open(overlay.clone()) {
            Ok(ntfs) => ntfs,
            Err(error) => {
                eprintln!("{name}: {error}");
                continue;
            }
        };
        let (files, read) = read_all(&ntfs, &image);
        eprintln!("{name}: {files} files, {read} bytes, {:?}", ntfs.identity());
        assert!(files >= least, "{name}: {files}");
        ntfs.allow_dirty();
        let root = ntfs.root();
        let edit = match ntfs.edit() {
            Ok(edit) => edit,
            Err(error) => {
                eprintln!("{name}: not edited: {error}");
                continue;
            }
        };
        edit.set_clock(1_700_000_000);
        let made = edit
            .create(root, b"a new folder", mode::DIRECTORY | 0o755)
            .unwrap();
        for number in 0..50 {
            let file = edit
                .create(
                    made,
                    format!("a new file {number}").as_bytes(),
                    mode::FILE | 0o644,
                )
                .unwrap();
            edit.replace(file, &mut &vec![7; number * 100][..]).unwrap();
        }
        edit.commit().unwrap();
        let mut after = vec![0; overlay.size() as usize];
        overlay.read_at(0, &mut after).unwrap();
        let before = crate::checker::Checker::check(fs::read(&image).unwrap()).problems;
        let problems = crate::checker::Checker::check(after.clone()).problems;
        let new: Vec<_> = problems
            .iter()
            .filter(|problem| !before.contains(problem))
            .collect();
        assert!(new.is_empty(), "{name}: {new:#?}");
        fs::write(&image, after).unwrap();
        let listed = run(Command::new("ntfsls")
            .args(["-f", "-p", "/a new folder"])
            .arg(&image));
        assert_eq!(
            String::from_utf8_lossy(&listed.stdout)
                .matches("a new file")
                .count(),
            50,
            "{name}"
        );
    }
}

/// Pieces of records, logs and pages: whatever they are taken for, nothing panics.
#[test]
fn pieces_are_no_volumes() {
    let Some(samples) = samples() else { return };
    for folder in ["fs/dfir_ntfs", "fs/go-ntfs", "fs/ntfs-forensic"] {
        let mut todo = vec![samples.join(folder)];
        while let Some(path) = todo.pop() {
            if path.is_dir() {
                todo.extend(fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()));
                continue;
            }
            let mut bytes = fs::read(&path).unwrap();
            bytes.resize(bytes.len().next_multiple_of(512).max(1 << 20), 0);
            if let Ok(fs) = Ntfs::open(Arc::new(MemoryDisk::new("piece", bytes))) {
                let _ = fs.list(Node(5), &mut |_, _| true);
            }
        }
    }
}
