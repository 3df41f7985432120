//! Images made by other people, many of them damaged on purpose: read without a panic; where e2fsck finds nothing
//! wrong, debugfs sees the same.

use crate::model::contents;
use rehome::{
    disk::{Disk, FileDisk, Kind},
    fs::{FileSystem, Node, ext4::Ext4},
};
use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
};

/// Files of one image that debugfs is asked for, one process each.
const MOST_COMPARED: usize = 100;

fn unpack(from: &Path, to: &Path) -> bool {
    let tool = match from.extension().and_then(|extension| extension.to_str()) {
        Some("gz") => "gzip",
        Some("bz2") => "bzip2",
        Some("zst") => "zstd",
        Some("xz") => "xz",
        _ => return false,
    };
    let output = crate::image::run(Command::new(tool).args(["-d", "-c"]).arg(from));
    fs::write(to, output.stdout).unwrap();
    true
}

fn files_below(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files_below(&path, files);
        } else {
            files.push(path);
        }
    }
}

fn debugfs_cat(image: &Path, node: Node) -> Vec<u8> {
    let request = format!("cat <{}>", node.0);
    crate::image::run(Command::new("debugfs").args(["-R", &request]).arg(image)).stdout
}

#[test]
fn are_read_without_a_panic_and_like_debugfs() {
    let Some(samples) = std::env::var_os("REHOME_SAMPLES") else {
        eprintln!("REHOME_SAMPLES is not set: the samples of other people were not looked at");
        return;
    };
    let mut files = Vec::new();
    for folder in ["fs/e2fsprogs", "fs/ext4-view"] {
        files_below(&Path::new(&samples).join(folder), &mut files);
    }
    files.sort();
    let folder = tempfile::tempdir().unwrap();
    let (mut opened, mut compared) = (0, 0);
    for file in files {
        let image = folder.path().join("image");
        if !unpack(&file, &image) {
            continue;
        }
        // Opening may replay a journal: into a copy.
        let disk: Arc<dyn Disk> = Arc::new(FileDisk::open_writable(&image).unwrap());
        let filesystem = match Ext4::open(disk) {
            Ok(filesystem) => filesystem,
            Err(error) => {
                eprintln!("{}: {error}", file.display());
                continue;
            }
        };
        opened += 1;
        let output = Command::new("e2fsck")
            .args(["-f", "-n"])
            .arg(&image)
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let clean = output.status.code() == Some(0) && !text.contains("? no");
        compared += look_at(&filesystem, &image, clean, &file);
    }
    eprintln!("{opened} opened, {compared} files compared");
    assert!(opened > 20 && compared > 20);
}

fn look_at(filesystem: &Ext4, image: &Path, clean: bool, file: &Path) -> usize {
    let mut todo = vec![filesystem.root()];
    let mut seen = BTreeSet::new();
    let mut compared = 0;
    while let Some(node) = todo.pop() {
        if !seen.insert(node) {
            continue;
        }
        let attributes = match filesystem.attributes(node) {
            Ok(attributes) => attributes,
            Err(error) => {
                assert!(!clean, "{}: {error}", file.display());
                continue;
            }
        };
        let _ = filesystem.extended_names(node);
        if attributes.is_directory() {
            let listed = filesystem.list(node, &mut |_, child| {
                todo.push(child);
                true
            });
            assert!(listed.is_ok() || !clean, "{}: {listed:?}", file.display());
        } else if attributes.is_file() && attributes.size < 10 << 20 && clean && compared < MOST_COMPARED {
            // Contents that the guest encrypted are not read.
            let refused = filesystem.read_at(node, 0, &mut [0; 16]);
            if refused.is_err_and(|error| error.kind == Kind::Unsupported) {
                continue;
            }
            // debugfs shows all 60 bytes of a short inline file.
            let mut expected = debugfs_cat(image, node);
            expected.truncate(attributes.size as usize);
            assert!(
                contents(filesystem, node) == expected,
                "{}: inode {}",
                file.display(),
                node.0
            );
            compared += 1;
        }
    }
    let _ = filesystem.free(&mut |_| Ok(()));
    let _ = filesystem.data_runs(&mut |_, _| Ok(()));
    compared
}
