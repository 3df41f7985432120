//! Another independent reader, where it is installed: `pip install dissect.ntfs`.

use crate::{
    image::{Image, run},
    model::{Model, Random},
};
use rehome::fs::FileSystem;
use std::{collections::BTreeMap, process::Command};

/// Prints record, size and SHA-256 of each file that has a name, once.
const READER: &str = r#"
import hashlib, sys
from dissect.ntfs import NTFS
volume = NTFS(open(sys.argv[1], "rb"))
seen = set()
def walk(record):
    for name, entry in record.listdir().items():
        child = entry.dereference()
        if child.segment < 16 or child.segment in seen:
            continue
        seen.add(child.segment)
        if child.is_reparse_point():
            continue
        if child.is_dir():
            walk(child)
        else:
            data = child.open().read()
            print(child.segment, len(data), hashlib.sha256(data).hexdigest())
walk(volume.mft.get(5))
"#;

fn python() -> Option<Command> {
    let name = std::env::var_os("REHOME_PYTHON").unwrap_or_else(|| "python3".into());
    let probe = Command::new(&name).args(["-c", "import dissect.ntfs"]).output();
    if probe.is_ok_and(|output| output.status.success()) {
        return Some(Command::new(name));
    }
    eprintln!("skipped: dissect.ntfs is not installed for python3 (or for $REHOME_PYTHON)");
    None
}

fn reads_the_same(megabytes: u64, options: &[&str]) {
    let Some(mut python) = python() else { return };
    let image = Image::make(megabytes << 20, options);
    let mut fs = image.open();
    let mut model = Model::read(&fs);
    let mut random = Random::new(21);
    let edit = fs.edit().unwrap();
    for _ in 0..150 {
        model.step(edit, &mut random, 300_000);
    }
    edit.commit().unwrap();
    drop(fs);
    let output = run(python.args(["-c", READER]).arg(&image.path));
    let seen: BTreeMap<u64, String> = String::from_utf8(output.stdout)
        .unwrap()
        .lines()
        .map(|line| {
            let (record, rest) = line.split_once(' ').unwrap();
            (record.parse().unwrap(), rest.to_owned())
        })
        .collect();
    let files = model.files();
    assert!(files.len() > 20, "{}", files.len());
    assert_eq!(seen.len(), files.len());
    for (node, contents) in files {
        let mut sha256 = Command::new("sha256sum")
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        std::io::Write::write_all(&mut sha256.stdin.take().unwrap(), contents).unwrap();
        let digest = String::from_utf8(sha256.wait_with_output().unwrap().stdout).unwrap();
        let digest = digest.split(' ').next().unwrap();
        let expected = format!("{} {digest}", contents.len());
        assert_eq!(seen.get(&node), Some(&expected), "record {node}");
    }
}

#[test]
fn clusters_of_4k() {
    reads_the_same(48, &[]);
}

#[test]
fn clusters_of_64k() {
    reads_the_same(200, &["-c", "65536"]);
}
