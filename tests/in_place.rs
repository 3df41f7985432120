//! `rehome in-place`, `rehome undo` and `rehome fs`, judged by e2fsck, debugfs, cmp and qemu-img.

mod small_guest;

use small_guest::{UUID, disk, file_in, hash, is_clean, rehome, rehome_ends, run};
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn string_in(disk: &Path, path: &str) -> String {
    String::from_utf8(file_in(disk, path)).unwrap()
}

fn qcow2_of(disk: &Path) -> PathBuf {
    let image = disk.with_extension("qcow2");
    run(Command::new("qemu-img")
        .args(["convert", "-O", "qcow2"])
        .arg(disk)
        .arg(&image));
    image
}

fn raw_of(image: &Path) -> PathBuf {
    let raw = image.with_extension("back.raw");
    run(Command::new("qemu-img")
        .args(["convert", "-O", "raw"])
        .arg(image)
        .arg(&raw));
    raw
}

#[test]
fn a_raw_copy_is_edited_where_it_lies_and_taken_back_bit_for_bit() {
    let folder = tempfile::tempdir().unwrap();
    let copy = disk(folder.path());
    let before = hash(&copy);
    let undo = folder.path().join("undo");
    let said = rehome_ends(
        0,
        &["in-place", text(&copy), "--to", "kvm", "--undo", text(&undo)],
    );
    assert!(said.contains("to take it back"), "{said}");
    is_clean(&copy);
    assert!(string_in(&copy, "/etc/fstab").contains(&format!("UUID={UUID}")));
    assert_ne!(hash(&copy), before);
    rehome_ends(0, &["undo", text(&undo)]);
    assert_eq!(hash(&copy), before);
    // A second time there is nothing to do, and nothing is done.
    rehome_ends(0, &["undo", text(&undo)]);
    assert_eq!(hash(&copy), before);
}

#[test]
fn a_qcow2_is_edited_where_it_lies_and_taken_back_bit_for_bit() {
    let folder = tempfile::tempdir().unwrap();
    let image = qcow2_of(&disk(folder.path()));
    let before = hash(&image);
    let undo = folder.path().join("undo");
    rehome_ends(
        0,
        &[
            "in-place",
            text(&image),
            "--to",
            "kvm-sata",
            "--undo",
            text(&undo),
        ],
    );
    run(Command::new("qemu-img").arg("check").arg(&image));
    let raw = raw_of(&image);
    is_clean(&raw);
    assert!(string_in(&raw, "/etc/fstab").contains(&format!("UUID={UUID}")));
    rehome_ends(0, &["undo", text(&undo)]);
    assert_eq!(hash(&image), before);
}

#[test]
fn an_undo_of_a_disk_that_was_changed_since_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let copy = disk(folder.path());
    let undo = folder.path().join("undo");
    rehome_ends(
        0,
        &["in-place", text(&copy), "--to", "kvm", "--undo", text(&undo)],
    );
    let offset = format!("{}?offset={}", copy.display(), small_guest::PARTITION);
    run(Command::new("debugfs").args(["-w", "-R", "rm /etc/fstab", &offset]));
    let changed = hash(&copy);
    let said = rehome_ends(1, &["undo", text(&undo)]);
    assert!(said.contains("physical.img"), "{said}");
    assert_eq!(hash(&copy), changed);
}

#[test]
fn a_vmdk_is_edited_where_it_lies_and_taken_back_bit_for_bit_in_each_of_its_files() {
    for (subformat, changed) in [("monolithicSparse", 1), ("monolithicFlat", 2)] {
        let folder = tempfile::tempdir().unwrap();
        let raw = disk(folder.path());
        let image = folder.path().join("guest.vmdk");
        let option = format!("subformat={subformat}");
        run(Command::new("qemu-img")
            .args(["convert", "-f", "raw", "-O", "vmdk", "-o", &option])
            .args([&raw, &image]));
        let files = || {
            let mut names: Vec<_> = fs::read_dir(folder.path())
                .unwrap()
                .map(|entry| entry.unwrap().path())
                .filter(|path| path.extension().is_some_and(|extension| extension == "vmdk"))
                .collect();
            names.sort();
            names.iter().map(|path| hash(path)).collect::<Vec<_>>()
        };
        let before = files();
        let undo = folder.path().join("undo");
        rehome_ends(
            0,
            &[
                "in-place",
                text(&image),
                "--to",
                "kvm-sata",
                "--undo",
                text(&undo),
            ],
        );
        run(Command::new("qemu-img").arg("check").arg(&image));
        let back = raw_of(&image);
        is_clean(&back);
        assert!(string_in(&back, "/etc/fstab").contains(&format!("UUID={UUID}")));
        let different = before
            .iter()
            .zip(files())
            .filter(|(old, new)| **old != *new)
            .count();
        assert_eq!(different, changed);
        for number in 1..=changed {
            let name = if changed == 1 {
                "undo".to_owned()
            } else {
                format!("undo.{number}")
            };
            rehome_ends(0, &["undo", text(&folder.path().join(name))]);
        }
        assert_eq!(files(), before);
    }
}

#[test]
fn an_undo_file_that_is_there_is_not_overwritten() {
    let folder = tempfile::tempdir().unwrap();
    let copy = disk(folder.path());
    let before = hash(&copy);
    let undo = folder.path().join("undo");
    fs::write(&undo, "mine").unwrap();
    rehome_ends(
        1,
        &["in-place", text(&copy), "--to", "kvm", "--undo", text(&undo)],
    );
    assert_eq!(
        (fs::read(&undo).unwrap(), hash(&copy)),
        (b"mine".to_vec(), before)
    );
}

#[test]
fn files_are_listed_read_and_described() {
    let folder = tempfile::tempdir().unwrap();
    let source = disk(folder.path());
    let before = hash(&source);
    let names = rehome_ends(0, &["fs", "ls", text(&source), "/etc"]);
    assert!(names.lines().any(|name| name == "fstab"), "{names}");
    let long = rehome_ends(0, &["fs", "ls", "-l", text(&source), "/etc"]);
    assert!(
        long.lines()
            .any(|line| line.starts_with("-rw-r--r--") && line.ends_with(" fstab")),
        "{long}"
    );
    let volume = format!("{}@p1", source.display());
    for place in [text(&source), volume.as_str()] {
        assert_eq!(
            rehome_ends(0, &["fs", "cat", place, "/etc/hostname"]),
            "old-server\n"
        );
    }
    // Through links, which stay inside the guest.
    assert!(rehome_ends(0, &["fs", "cat", text(&source), "/etc/os-release"]).contains("ID=debian"));
    let stat = rehome_ends(0, &["fs", "stat", text(&source), "/lib"]);
    assert!(stat.contains("lrwxrwxrwx") && stat.contains("usr/lib"), "{stat}");
    let out = folder.path().join("hostname");
    rehome_ends(0, &["fs", "get", text(&source), "/etc/hostname", text(&out)]);
    assert_eq!(fs::read(&out).unwrap(), b"old-server\n");
    let free = rehome_ends(0, &["fs", "free", text(&source), "--json"]);
    let free: serde_json::Value = serde_json::from_str(&free).unwrap();
    assert!(free[0]["not_copied"].as_u64().unwrap() > 40 << 20, "{free}");
    for wrong in ["/etc/absent", "/etc"] {
        assert_eq!(
            rehome(&["fs", "cat", text(&source), wrong]).status.code(),
            Some(1)
        );
    }
    let said = rehome_ends(1, &["fs", "ls", &format!("{}@p7", source.display()), "/"]);
    assert!(said.contains("disk0/p1"), "{said}");
    assert_eq!(hash(&source), before);
}

#[test]
fn a_file_is_put_and_removed_and_both_are_taken_back() {
    let folder = tempfile::tempdir().unwrap();
    let copy = disk(folder.path());
    let before = hash(&copy);
    let from = folder.path().join("contents");
    fs::write(&from, "new-server\n").unwrap();
    let undo = |name: &str| folder.path().join(name);
    rehome_ends(
        0,
        &[
            "fs",
            "put",
            text(&copy),
            "/etc/hostname",
            "--from",
            text(&from),
            "--undo",
            text(&undo("1")),
        ],
    );
    rehome_ends(
        0,
        &[
            "fs",
            "put",
            text(&copy),
            "/etc/new",
            "--from",
            text(&from),
            "--undo",
            text(&undo("2")),
        ],
    );
    rehome_ends(
        0,
        &["fs", "rm", text(&copy), "/etc/fstab", "--undo", text(&undo("3"))],
    );
    is_clean(&copy);
    assert_eq!(string_in(&copy, "/etc/hostname"), "new-server\n");
    assert_eq!(string_in(&copy, "/etc/new"), "new-server\n");
    assert!(file_in(&copy, "/etc/fstab").is_empty());
    assert_eq!(
        rehome(&["fs", "rm", text(&copy), "/etc", "--undo", text(&undo("4"))])
            .status
            .code(),
        Some(1)
    );
    for name in ["3", "2", "1"] {
        rehome_ends(0, &["undo", text(&undo(name))]);
    }
    assert_eq!(hash(&copy), before);
}

#[test]
fn two_editors_at_once_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let copy = disk(folder.path());
    let fifo = folder.path().join("fifo");
    run(Command::new("mkfifo").arg(&fifo));
    let undo = |name: &str| folder.path().join(name);
    let mut first = Command::new(env!("CARGO_BIN_EXE_rehome"))
        .args([
            "fs",
            "put",
            text(&copy),
            "/etc/a",
            "--from",
            text(&fifo),
            "--undo",
            text(&undo("1")),
        ])
        .spawn()
        .unwrap();
    // Opened by both sides: the first editor has come to its contents.
    let mut contents = fs::File::options().write(true).open(&fifo).unwrap();
    let words = [
        "fs",
        "put",
        text(&copy),
        "/etc/b",
        "--from",
        "/etc/hostname",
        "--undo",
    ];
    let second = undo("2");
    let said = rehome_ends(1, &[&words[..], &[text(&second)]].concat());
    assert!(said.contains("another program works with it"), "{said}");
    std::io::Write::write_all(&mut contents, b"contents").unwrap();
    drop(contents);
    assert!(first.wait().unwrap().success());
    is_clean(&copy);
}
