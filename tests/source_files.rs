//! A source is all the files that it is made of: after a change of one of them nothing is gone on with, and none of them
//! is written over, whatever it is called and wherever it is named.

// Clippy's exemption for tests does not reach the functions that they share.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic
)]

use rehome::{job::Source, locator::Locator, source::Opened, watch::Unwatched};
use std::{
    fs::{self, File},
    io::{Seek, SeekFrom, Write},
    path::{Path, PathBuf},
    process::{Command, Output},
    thread,
    time::{Duration, SystemTime},
};

const MIB: usize = 1 << 20;

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn rehome(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_rehome"))
        .arg("image")
        .args(arguments)
        .output()
        .unwrap()
}

/// Ends with `code`; gives what it said.
#[track_caller]
fn ends(code: i32, arguments: &[&str]) -> String {
    let output = rehome(arguments);
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {output:?}");
    String::from_utf8(output.stderr).unwrap()
}

#[track_caller]
fn run(folder: &Path, program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program)
        .args(arguments)
        .current_dir(folder)
        .output()
        .unwrap();
    assert!(output.status.success(), "{program} {arguments:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// Files of a folder with a disk of 16 MiB in "base.raw", all of it data.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        let folder = Self(tempfile::tempdir().unwrap());
        let bytes: Vec<u8> = (0..16 * MIB)
            .map(|at| (at / 4096 * 7 + at % 251) as u8 | 1)
            .collect();
        fs::write(folder.path("base.raw"), bytes).unwrap();
        folder
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn qemu_img(&self, arguments: &str) {
        run(
            self.0.path(),
            "qemu-img",
            &arguments.split(' ').collect::<Vec<_>>(),
        );
    }

    fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(self.0.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }
}

/// What tells the source `path` from others.
fn identity(path: &Path) -> String {
    let source = Source {
        disks: vec![Locator::Path(path.to_owned())],
        ..Source::default()
    };
    let opened = Opened::open(&source, &Unwatched).unwrap();
    opened.identity().unwrap().to_string()
}

/// Another byte, as a later program would write it: with a later time.
fn change(path: &Path) {
    let mut file = File::options().write(true).open(path).unwrap();
    file.seek(SeekFrom::End(-1)).unwrap();
    file.write_all(b"\xee").unwrap();
    let modified = file.metadata().unwrap().modified().unwrap();
    file.set_modified(modified + Duration::from_secs(1)).unwrap();
}

#[test]
fn every_file_of_a_source_tells_that_it_is_another() {
    let kinds: [(&[&str], &str, &[&str]); 6] = [
        (
            &["convert -f raw -O vmdk -o subformat=monolithicFlat base.raw top.vmdk"],
            "top.vmdk",
            &["top.vmdk", "top-flat.vmdk"],
        ),
        (
            &["convert -f raw -O vmdk -o subformat=twoGbMaxExtentSparse base.raw top.vmdk"],
            "top.vmdk",
            &["top-s001.vmdk"],
        ),
        (
            &["create -q -f qcow2 -b base.raw -F raw top.qcow2"],
            "top.qcow2",
            &["top.qcow2", "base.raw"],
        ),
        (
            &[
                "create -q -f qcow2 -b base.raw -F raw middle.qcow2",
                "create -q -f qcow2 -b middle.qcow2 -F qcow2 top.qcow2",
            ],
            "top.qcow2",
            &["middle.qcow2", "base.raw"],
        ),
        (
            &["convert -f raw -O qcow2 -o data_file=top.data base.raw top.qcow2"],
            "top.qcow2",
            &["top.data"],
        ),
        (
            &[
                "convert -f raw -O vmdk -o subformat=monolithicFlat base.raw below.vmdk",
                "create -q -f qcow2 -b below.vmdk -F vmdk top.qcow2",
            ],
            "top.qcow2",
            &["below.vmdk", "below-flat.vmdk"],
        ),
    ];
    for (commands, top, files) in kinds {
        let folder = Folder::new();
        for command in commands {
            folder.qemu_img(command);
        }
        let top = folder.path(top);
        fs::write(folder.path("other"), "not of it").unwrap();
        let before = identity(&top);
        change(&folder.path("other"));
        assert_eq!(identity(&top), before, "{commands:?}");
        for file in files {
            let before = identity(&top);
            let path = folder.path(file);
            match fs::metadata(&path).unwrap().len() {
                // A descriptor or table stays what it is, and is only younger.
                0..1_000_000 => File::options()
                    .write(true)
                    .open(&path)
                    .unwrap()
                    .set_modified(SystemTime::now() + Duration::from_secs(1000))
                    .unwrap(),
                _ => change(&path),
            }
            assert_ne!(identity(&top), before, "{commands:?}: {file}");
        }
    }
}

#[test]
fn a_copy_is_not_gone_on_with_after_a_change_of_an_extent_or_of_a_backing_file() {
    for (command, top, changed) in [
        (
            "convert -f raw -O vmdk -o subformat=monolithicFlat base.raw top.vmdk",
            "top.vmdk",
            "top-flat.vmdk",
        ),
        (
            "create -q -f qcow2 -b base.raw -F raw top.qcow2",
            "top.qcow2",
            "base.raw",
        ),
    ] {
        let folder = Folder::new();
        folder.qemu_img(command);
        let (top, out) = (folder.path(top), folder.path("out"));
        let mut child = Command::new(env!("CARGO_BIN_EXE_rehome"))
            .args(["image", "convert", "--rate-limit", "1M", "--checkpoint", "1M"])
            .args([&top, &out])
            .spawn()
            .unwrap();
        let ledger = folder.path(".out.rehome-work/ledgers/out");
        while fs::metadata(&ledger).map_or(0, |metadata| metadata.len()) < 200 {
            assert!(
                child.try_wait().unwrap().is_none(),
                "it ended before it was killed"
            );
            thread::sleep(Duration::from_millis(1));
        }
        child.kill().unwrap();
        child.wait().unwrap();
        change(&folder.path(changed));
        let said = ends(1, &["convert", "--resume", text(&top), text(&out)]);
        assert!(said.contains("another source"), "{said}");
        assert!(!out.exists());
    }
}

#[test]
fn no_file_of_the_source_is_written_over() {
    let folder = Folder::new();
    let path = |name: &str| folder.path(name);
    folder.qemu_img("convert -f raw -O qcow2 base.raw base.qcow2");
    folder.qemu_img("create -q -f qcow2 -b base.qcow2 -F qcow2 top.qcow2");
    folder.qemu_img("convert -f raw -O vmdk -o subformat=monolithicFlat base.raw flat.vmdk");
    fs::hard_link(path("base.qcow2"), path("linked.qcow2")).unwrap();
    // An image whose only extent is the source.
    let descriptor = fs::read_to_string(path("flat.vmdk")).unwrap();
    fs::write(
        path("over.vmdk"),
        descriptor.replace("flat-flat.vmdk", "base.raw"),
    )
    .unwrap();
    for (source, format, out, words) in [
        ("base.raw", "raw", "base.raw", "is the source"),
        ("top.qcow2", "qcow2", "top.qcow2", "is the source"),
        ("top.qcow2", "qcow2", "base.qcow2", "belongs to the source"),
        ("top.qcow2", "qcow2", "linked.qcow2", "belongs to the source"),
        ("flat.vmdk", "raw", "flat-flat.vmdk", "belongs to the source"),
        ("base.raw", "vmdk", "over.vmdk", "belongs to the source"),
    ] {
        let names = folder.names();
        let before: Vec<Vec<u8>> = names.iter().map(|name| fs::read(path(name)).unwrap()).collect();
        let (from, out) = (path(source), path(out));
        let arguments = ["convert", "-n", "-O", format, text(&from), text(&out)];
        let said = ends(1, &[&arguments[..], &["--yes-erase", text(&out)]].concat());
        assert!(said.contains(words), "{source} {out:?}: {said}");
        assert_eq!(folder.names(), names);
        for (name, bytes) in names.iter().zip(&before) {
            assert!(
                fs::read(path(name)).unwrap() == *bytes,
                "{source} {out:?}: {name}"
            );
        }
    }
    // What stands on the same image as the source is another image.
    folder.qemu_img("create -q -f qcow2 -b base.qcow2 -F qcow2 sister.qcow2");
    let (from, out) = (path("top.qcow2"), path("sister.qcow2"));
    let arguments = ["convert", "-n", "-O", "qcow2", text(&from)];
    ends(
        0,
        &[&arguments[..], &[text(&out), "--yes-erase", text(&out)]].concat(),
    );
    ends(0, &["compare", text(&path("base.raw")), text(&out)]);
}

/// A loop device, gone with its value.
struct Loop(String);

impl Loop {
    /// `None` if this is not root, who alone may set one up.
    fn over(file: &Path) -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: only root may set up loop devices");
            return None;
        }
        let device = run(Path::new("/"), "losetup", &["--find", "--show", text(file)]);
        Some(Self(device.trim().to_owned()))
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        Command::new("losetup")
            .args(["--detach", &self.0])
            .status()
            .unwrap();
    }
}

#[test]
fn a_loop_device_is_the_file_behind_it() {
    let folder = Folder::new();
    let base = folder.path("base.raw");
    folder.qemu_img("create -q -f qcow2 -b base.raw -F raw top.qcow2");
    let before = fs::read(&base).unwrap();
    let Some(one) = Loop::over(&base) else {
        return;
    };
    let other = Loop::over(&base).unwrap();
    let top = folder.path("top.qcow2");
    for (source, out) in [
        (text(&base), &*one.0),
        (text(&top), &one.0),
        (&one.0, text(&base)),
        (&one.0, &other.0),
    ] {
        // Work folders of devices are made in the folder that one stands in.
        let output = Command::new(env!("CARGO_BIN_EXE_rehome"))
            .args(["image", "convert", "-n", "-O", "raw", source, out])
            .args(["--yes-erase", out])
            .current_dir(folder.0.path())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{source} {out}: {said}");
        assert!(said.contains("never written"), "{source} {out}: {said}");
        assert!(fs::read(&base).unwrap() == before, "{source} {out}");
        assert_eq!(folder.names(), ["base.raw", "top.qcow2"]);
    }
}
