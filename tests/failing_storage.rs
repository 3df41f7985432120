//! Storage that fails while a copy goes to it, and is well again when the copy is resumed.

// Clippy's exemption for tests does not reach the functions that they share.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic
)]

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

/// Pseudo-random bytes without zeros to leave out: every chunk is another.
fn make_source(path: &Path, size: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let bytes: Vec<u8> = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 24) as u8 | 1
    })
    .take(size)
    .collect();
    fs::write(path, &bytes).unwrap();
    bytes
}

fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    assert!(output.status.success(), "{program} {arguments:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

fn convert(folder: &Path, before: &[&str], arguments: &[&str]) -> Output {
    let program = env!("CARGO_BIN_EXE_rehome");
    let mut words = before.to_vec();
    words.extend([program, "image", "convert", "--progress", "none", "-f", "raw"]);
    words.extend(arguments);
    Command::new(words[0])
        .args(&words[1..])
        .current_dir(folder)
        .output()
        .unwrap()
}

#[track_caller]
fn ends(code: i32, output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{output:?}");
    text
}

/// A loop device over a file on a filesystem that has less room than the device: a thin volume. Gone with its value.
struct Thin {
    device: String,
    folder: PathBuf,
    _owner: tempfile::TempDir,
}

impl Thin {
    /// `None` if this is not root.
    fn new(size: u64, room: &str) -> Option<Self> {
        if run("id", &["-u"]) != "0" {
            eprintln!("skipped: only root may set up loop devices");
            return None;
        }
        let owner = tempfile::tempdir().unwrap();
        let folder = owner.path().to_owned();
        let options = format!("size={room}");
        run(
            "mount",
            &["-t", "tmpfs", "-o", &options, "tmpfs", folder.to_str().unwrap()],
        );
        let backing = folder.join("backing");
        fs::File::create(&backing).unwrap().set_len(size).unwrap();
        let device = run("losetup", &["--find", "--show", backing.to_str().unwrap()]);
        Some(Self {
            device,
            folder,
            _owner: owner,
        })
    }

    fn gets_room(&self, room: &str) {
        let options = format!("remount,size={room}");
        run("mount", &["-o", &options, self.folder.to_str().unwrap()]);
    }
}

impl Drop for Thin {
    fn drop(&mut self) {
        for (program, argument) in [("losetup", "--detach"), ("umount", "--lazy")] {
            let of = match program {
                "losetup" => self.device.as_str(),
                _ => self.folder.to_str().unwrap(),
            };
            let _ = Command::new(program).args([argument, of]).status();
        }
    }
}

#[test]
fn what_a_thin_volume_lost_when_it_ran_full_is_written_again() {
    const SIZE: usize = 48 << 20;
    for cache in ["none", "writeback"] {
        let Some(thin) = Thin::new(SIZE as u64, "24M") else {
            return;
        };
        let folder = tempfile::tempdir().unwrap();
        let expected = make_source(&folder.path().join("source.raw"), SIZE);
        let device = thin.device.as_str();
        let words = [
            "-O",
            "raw",
            "-t",
            cache,
            "--checkpoint",
            "4M",
            "source.raw",
            device,
            "--yes-erase",
            device,
        ];
        let said = ends(1, &convert(folder.path(), &[], &words));
        thin.gets_room("96M");
        let mut again = words.to_vec();
        // Unless it failed before anything was lasting.
        if said.contains("go on with --resume") {
            again.push("--resume");
        }
        ends(0, &convert(folder.path(), &[], &again));
        // Not what the host has in its cache.
        run("blockdev", &["--flushbufs", device]);
        assert!(fs::read(device).unwrap() == expected, "{cache}");
    }
}

#[test]
fn a_copy_whose_flush_failed_once_can_be_resumed_in_every_format() {
    if Command::new("strace").arg("-V").output().is_err() {
        eprintln!("skipped: strace, which makes a flush fail, is not installed");
        return;
    }
    const SIZE: usize = 24 << 20;
    let folder = tempfile::tempdir().unwrap();
    let expected = make_source(&folder.path().join("source.raw"), SIZE);
    for format in ["raw", "qcow2", "vhdx", "vdi", "vmdk"] {
        let out = format!("out.{format}");
        let words = ["-O", format, "--checkpoint", "1M", "-m", "2", "source.raw", &out];
        let fail = [
            "strace",
            "-f",
            "-qq",
            "-o",
            "/dev/null",
            "-e",
            "trace=fdatasync",
            "-e",
            "inject=fdatasync:error=EIO:when=3",
        ];
        let said = ends(1, &convert(folder.path(), &fail, &words));
        assert!(said.contains("os error 5"), "{format}: {said}");
        let mut again = words.to_vec();
        again.push("--verify");
        // Unless it failed before anything was lasting.
        if said.contains("go on with --resume") {
            again.push("--resume");
        }
        ends(0, &convert(folder.path(), &[], &again));
        let raw = folder.path().join("back.raw");
        let raw = raw.to_str().unwrap();
        let out = folder.path().join(&out);
        run(
            "qemu-img",
            &["convert", "-f", format, "-O", "raw", out.to_str().unwrap(), raw],
        );
        assert!(fs::read(raw).unwrap() == expected, "{format}");
    }
}
