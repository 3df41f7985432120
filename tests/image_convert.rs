//! `rehome image convert` and `create`, with qemu-img as the judge.

// Clippy's exemption for tests does not reach the functions that they share.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic
)]

use rehome::{
    copy::digest,
    disk::{Disk, FileDisk},
    image::Format,
    watch::Unwatched,
};
use serde_json::Value;
use std::{
    fs,
    io::{BufRead, BufReader},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::{Command, Output},
};
use tempfile::TempDir;

const MIB: u64 = 1 << 20;
const SIZE: u64 = 20 * MIB + 512;

/// Formats that qemu-img can open, as it names them.
const KNOWN_TO_QEMU: [&str; 6] = ["raw", "qcow2", "vmdk", "vpc", "vhdx", "vdi"];

fn rehome(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_rehome"))
        .args(["image"])
        .args(arguments)
        .output()
        .unwrap()
}

#[track_caller]
fn done(arguments: &[&str]) -> String {
    let output = rehome(arguments);
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// Ends with `code`; gives what it said.
#[track_caller]
fn fails(code: i32, arguments: &[&str]) -> String {
    let output = rehome(arguments);
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {output:?}");
    String::from_utf8(output.stderr).unwrap()
}

#[track_caller]
fn qemu_img(arguments: &[&str]) -> String {
    let output = Command::new("qemu-img").args(arguments).output().unwrap();
    assert!(output.status.success(), "qemu-img {arguments:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A folder with "raw", a file with data in places, zeros that take space, and holes.
fn source() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("raw");
    let disk = FileDisk::create(&path, SIZE).unwrap();
    let mut state = 1_u32;
    for start in (0..SIZE).step_by(3 << 20) {
        let length = (700_000 + start / 40).min(SIZE - start);
        let bytes: Vec<u8> = (0..length)
            .map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state >> 28) as u8
            })
            .collect();
        disk.write_at(start, &bytes).unwrap();
    }
    disk.write_at(5 * MIB, &vec![0; 1 << 19]).unwrap();
    disk.flush().unwrap();
    (folder, path)
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// Formats that this program writes.
fn written() -> Vec<Format> {
    let (folder, _) = source();
    let can = |format: &Format| {
        let out = folder.path().join(format!("new.{format}"));
        rehome(&["create", "-f", format.name(), text(&out), "1M"])
            .status
            .success()
    };
    Format::ALL.iter().copied().filter(can).collect()
}

#[test]
fn every_format_that_is_written_is_what_qemu_img_takes_it_for_and_comes_back() {
    let formats = written();
    assert!(formats.contains(&Format::Raw) && formats.contains(&Format::Qcow2));
    let (folder, raw) = source();
    let hash = digest(&FileDisk::open(&raw).unwrap(), &Unwatched)
        .unwrap()
        .to_string();
    for format in formats {
        let name = format.name();
        let out = folder.path().join(format!("there.{name}"));
        let report = done(&[
            "convert",
            "-O",
            name,
            "--verify",
            "--json",
            text(&raw),
            text(&out),
        ]);
        let report: Value = serde_json::from_str(&report).unwrap();
        assert_eq!(report["schema"], 1);
        assert_eq!(report["disks"][0]["hash"], hash, "{name}");
        assert_eq!(report["disks"][0]["verified"], true, "{name}");
        if KNOWN_TO_QEMU.contains(&name) {
            qemu_img(&["compare", "-q", "-f", "raw", "-F", name, text(&raw), text(&out)]);
            if !matches!(name, "raw" | "vpc") {
                qemu_img(&["check", "-q", "-f", name, text(&out)]);
            }
            // What qemu-img makes of it is read the same.
            let theirs = folder.path().join(format!("theirs.{name}"));
            qemu_img(&["convert", "-f", "raw", "-O", name, text(&raw), text(&theirs)]);
            done(&["compare", "-f", name, text(&theirs), text(&raw)]);
        }
        let back = folder.path().join(format!("{name}.raw"));
        done(&["convert", "-f", name, "-O", "raw", text(&out), text(&back)]);
        done(&["compare", text(&raw), text(&back)]);
    }
    assert!(names(folder.path()).iter().all(|name| !name.starts_with('.')));
}

#[test]
fn nothing_is_replaced_and_nothing_is_left_of_a_failure() {
    let (folder, raw) = source();
    let out = folder.path().join("out");
    fs::write(&out, "mine").unwrap();
    let said = fails(1, &["convert", text(&raw), text(&out)]);
    assert!(said.contains("exists already"), "{said}");
    assert_eq!(fs::read(&out).unwrap(), b"mine");
    let said = fails(1, &["convert", text(&raw), text(&raw)]);
    assert!(said.contains("is the source"), "{said}");
    let said = fails(
        1,
        &[
            "convert",
            "-f",
            "qcow2",
            text(&raw),
            text(&folder.path().join("x")),
        ],
    );
    assert!(said.contains("raw"), "{said}");
    let said = fails(2, &["convert", "-O", "nonsense", text(&raw), "x"]);
    assert!(said.contains("qcow2"), "{said}");
    let option = ["convert", "-O", "qcow2", "-o", "nonsense=1", text(&raw)];
    let said = fails(1, &[&option[..], &[text(&folder.path().join("x"))]].concat());
    assert!(said.contains("there is no option \"nonsense\""), "{said}");
    let said = fails(1, &["convert", "-c", text(&raw), text(&folder.path().join("x"))]);
    assert!(said.contains("cannot be compressed"), "{said}");
    let said = fails(2, &["convert", "-t", "directsync", text(&raw), "x"]);
    assert!(said.contains("for nothing"), "{said}");
    assert_eq!(names(folder.path()), ["out", "raw"]);
}

/// Blocks that a file takes, in bytes.
fn taken(path: &Path) -> u64 {
    path.metadata().unwrap().blocks() * 512
}

#[test]
fn holes_are_made_as_wanted() {
    let (folder, raw) = source();
    let convert = |name: &str, arguments: &[&str]| {
        let out = folder.path().join(name);
        done(&[&["convert"][..], arguments, &[text(&raw), text(&out)]].concat());
        done(&["compare", text(&raw), text(&out)]);
        taken(&out)
    };
    let sparse = convert("sparse", &["--no-reflink"]);
    assert!(sparse < 9 * MIB, "{sparse}");
    for (name, arguments) in [
        ("never", &["-S", "0"][..]),
        ("full", &["-o", "preallocation=full"]),
        ("falloc", &["-o", "preallocation=falloc"]),
    ] {
        let taken = convert(name, arguments);
        assert!(taken >= SIZE, "{name}: {taken}");
    }
    let coarse = convert("coarse", &["-S", "1M", "-m", "1", "--no-reflink"]);
    assert!(coarse >= sparse, "{coarse} {sparse}");
    // Half a MiB of zeros in the data is no hole for that.
    assert!(convert("copied", &["-C", "--no-hash"]) >= sparse);
    convert("unhashed", &["--no-hash"]);
    convert("unsafe", &["-t", "unsafe", "-W", "-p", "-m", "3"]);
    convert("writeback", &["-t", "writeback", "-T", "none"]);
}

#[test]
fn an_image_that_is_there_is_written_into_when_it_is_named_twice() {
    let (folder, raw) = source();
    for (name, format) in [("old.raw", "raw"), ("old.qcow2", "qcow2")] {
        let out = folder.path().join(name);
        let full = folder.path().join("full");
        fs::write(&full, vec![9; 21 * MIB as usize]).unwrap();
        qemu_img(&["convert", "-f", "raw", "-O", format, text(&full), text(&out)]);
        fs::remove_file(&full).unwrap();
        let arguments = ["convert", "-n", "-O", format, text(&raw), text(&out)];
        let said = fails(1, &arguments);
        assert!(said.contains("--yes-erase"), "{said}");
        done(&[&arguments[..], &["--yes-erase", text(&out), "--verify"]].concat());
        qemu_img(&["compare", "-q", "-f", "raw", "-F", format, text(&raw), text(&out)]);
    }
    let small = folder.path().join("small");
    fs::write(&small, vec![9; MIB as usize]).unwrap();
    let arguments = [
        "convert",
        "-n",
        text(&raw),
        text(&small),
        "--yes-erase",
        text(&small),
    ];
    let said = fails(1, &arguments);
    assert!(said.contains("are needed"), "{said}");
    assert_eq!(names(folder.path()), ["old.qcow2", "old.raw", "raw", "small"]);
}

#[test]
fn an_image_that_is_there_is_taken_for_a_raw_disk_only_when_that_is_said() {
    let (folder, raw) = source();
    for format in ["qcow2", "vmdk", "vpc", "vhdx", "vdi"] {
        let out = folder.path().join("old");
        qemu_img(&["create", "-q", "-f", format, text(&out), "24M"]);
        let before = fs::read(&out).unwrap();
        let ends = [text(&raw), text(&out), "--yes-erase", text(&out)];
        let said = fails(1, &[&["convert", "-n"][..], &ends].concat());
        let advice = format!("say -O {format} to write into its disk");
        assert!(said.contains(&advice), "{said}");
        assert!(fs::read(&out).unwrap() == before);
        done(&[&["convert", "-n", "-O", format][..], &ends].concat());
        qemu_img(&["compare", "-q", "-f", "raw", "-F", format, text(&raw), text(&out)]);
        assert_eq!(names(folder.path()), ["old", "raw"]);
        fs::remove_file(&out).unwrap();
    }
    // Who says raw means it, and a raw disk is one without a word.
    let out = folder.path().join("old");
    qemu_img(&["create", "-q", "-f", "qcow2", text(&out), "24M"]);
    fs::File::options()
        .write(true)
        .open(&out)
        .unwrap()
        .set_len(SIZE)
        .unwrap();
    let ends = [text(&raw), text(&out), "--yes-erase", text(&out)];
    done(&[&["convert", "-n", "-O", "raw"][..], &ends].concat());
    done(&[&["convert", "-n"][..], &ends].concat());
    assert!(fs::read(&raw).unwrap() == fs::read(&out).unwrap());
}

#[test]
fn a_rate_is_kept_to_and_progress_is_told() {
    let (folder, raw) = source();
    let out = folder.path().join("out");
    let begun = std::time::Instant::now();
    let output = rehome(&[
        "convert",
        "-m",
        "1",
        "-r",
        "4M",
        "--progress",
        "json",
        text(&raw),
        text(&out),
    ]);
    assert!(output.status.success(), "{output:?}");
    let seconds = begun.elapsed().as_secs_f64();
    assert!((1.0..8.0).contains(&seconds), "{seconds}");
    let lines = String::from_utf8(output.stderr).unwrap();
    assert!(lines.lines().count() > 2, "{lines}");
    for line in lines.lines() {
        assert_eq!(serde_json::from_str::<Value>(line).unwrap()["stage"], "copy");
    }
}

#[test]
fn outside_its_hours_nothing_is_copied_until_it_is_stopped() {
    let (folder, raw) = source();
    let out = folder.path().join("out");
    // The minute of two hours ago, in a zone that both know.
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap();
    let minute = now.as_secs() / 60 % 1440;
    let time = |minute: u64| format!("{:02}:{:02}", minute / 60 % 24, minute % 60);
    let window = format!("{}-{}", time(minute + 1320), time(minute + 1380));
    let mut child = Command::new(env!("CARGO_BIN_EXE_rehome"))
        .env("TZ", "UTC")
        .args(["image", "convert", "--progress", "json", "--window", &window])
        .args([&raw, &out])
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let paused = lines.find(|line| line.as_ref().unwrap().contains("pausing until"));
    assert!(paused.is_some(), "it waits, and says so");
    std::thread::sleep(std::time::Duration::from_millis(1500));
    assert!(child.try_wait().unwrap().is_none(), "it waits");
    let id = child.id().to_string();
    assert!(
        Command::new("kill")
            .args(["-TERM", &id])
            .status()
            .unwrap()
            .success()
    );
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(names(folder.path()), ["raw"]);
    // In the hours that are now it goes on at once.
    let window = format!("{}-{},03:00-03:01", time(minute + 1430), time(minute + 10));
    let status = Command::new(env!("CARGO_BIN_EXE_rehome"))
        .env("TZ", "UTC")
        .args(["image", "convert", "-q", "--window", &window])
        .args([&raw, &out])
        .status()
        .unwrap();
    assert!(status.success());
}

#[test]
fn a_resume_with_other_options_or_another_source_is_refused() {
    let (folder, raw) = source();
    let out = folder.path().join("out");
    let mut child = Command::new(env!("CARGO_BIN_EXE_rehome"))
        .args([
            "image",
            "convert",
            "-O",
            "qcow2",
            "--rate-limit",
            "3M",
            "--checkpoint",
            "1M",
        ])
        .args([&raw, &out])
        .spawn()
        .unwrap();
    let ledger = folder.path().join(".out.rehome-work/ledgers/out");
    while fs::metadata(&ledger).map_or(0, |metadata| metadata.len()) < 200 {
        assert!(
            child.try_wait().unwrap().is_none(),
            "it ended before it was killed"
        );
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let said = fails(1, &["convert", "-O", "qcow2", text(&raw), text(&out)]);
    assert!(said.contains("--resume"), "{said}");
    let said = fails(1, &["convert", "--resume", text(&raw), text(&out)]);
    assert!(said.contains("another plan"), "{said}");
    let file = fs::File::options().write(true).open(&raw).unwrap();
    file.set_modified(std::time::SystemTime::now()).unwrap();
    let said = fails(1, &["convert", "--resume", "-O", "qcow2", text(&raw), text(&out)]);
    assert!(said.contains("another source"), "{said}");
}

#[test]
fn a_new_image_is_empty_and_has_its_size() {
    let folder = tempfile::tempdir().unwrap();
    for format in written() {
        let name = format.name();
        let out = folder.path().join(name);
        done(&["create", "-f", name, text(&out), "64M"]);
        if KNOWN_TO_QEMU.contains(&name) {
            let info: Value =
                serde_json::from_str(&qemu_img(&["info", "--output=json", "-f", name, text(&out)])).unwrap();
            let size = info["virtual-size"].as_u64().unwrap();
            assert!((64 * MIB..65 * MIB).contains(&size), "{name}: {size}");
        }
        let zeros = folder.path().join("zeros");
        FileDisk::create(&zeros, 64 * MIB).unwrap();
        done(&["compare", "-F", name, text(&zeros), text(&out)]);
        fs::remove_file(&zeros).unwrap();
        let said = fails(1, &["create", "-f", name, text(&out), "1M"]);
        assert!(said.contains("exists already"), "{said}");
    }
    let said = fails(2, &["create", "-f", "raw", "x"]);
    assert!(said.contains("SIZE"), "{said}");
}

#[test]
fn a_snapshot_is_converted_by_its_name() {
    let (folder, raw) = source();
    let image = folder.path().join("image.qcow2");
    qemu_img(&["convert", "-f", "raw", "-O", "qcow2", text(&raw), text(&image)]);
    qemu_img(&["snapshot", "-c", "before", text(&image)]);
    let output = Command::new("qemu-io")
        .args(["-f", "qcow2", "-c", "write -P 9 0 1M", text(&image)])
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    fails(4, &["compare", text(&raw), text(&image)]);
    for (index, name) in ["before", "1", "snapshot.name=before"].iter().enumerate() {
        let out = folder.path().join(index.to_string());
        done(&["convert", "-l", name, "-O", "raw", text(&image), text(&out)]);
        done(&["compare", text(&raw), text(&out)]);
    }
    let said = fails(
        1,
        &[
            "convert",
            "-l",
            "after",
            text(&image),
            text(&folder.path().join("x")),
        ],
    );
    assert!(said.contains("before"), "{said}");
    let said = fails(
        1,
        &["convert", "-l", "1", text(&raw), text(&folder.path().join("x"))],
    );
    assert!(said.contains("no snapshots"), "{said}");
}

#[test]
fn a_new_image_can_stand_on_another_and_a_converted_one_cannot() {
    let (folder, raw) = source();
    let top = folder.path().join("top.qcow2");
    done(&["create", "-f", "qcow2", "-b", "raw", "-F", "raw", text(&top)]);
    qemu_img(&["check", "-q", "-f", "qcow2", text(&top)]);
    qemu_img(&[
        "compare",
        "-q",
        "-f",
        "qcow2",
        "-F",
        "raw",
        text(&top),
        text(&raw),
    ]);
    done(&["compare", text(&top), text(&raw)]);
    let info: Value =
        serde_json::from_str(&done(&["info", "--json", "--backing-chain", text(&top)])).unwrap();
    assert_eq!(info["images"][0]["backing"]["name"], "raw");
    assert_eq!(info["images"][0]["backing"]["format"], "raw");
    assert_eq!(info["images"][1]["virtual_size"], SIZE);
    let out = folder.path().join("out");
    let arguments = ["convert", "-O", "qcow2", "-o", "backing_file=raw,backing_fmt=raw"];
    let said = fails(1, &[&arguments[..], &[text(&raw), text(&out)]].concat());
    assert!(said.contains("stands alone"), "{said}");
    let said = fails(
        1,
        &["create", "-f", "qcow2", "-b", "gone", "-F", "raw", text(&out)],
    );
    assert!(said.contains("gone"), "{said}");
    let said = fails(1, &["create", "-f", "vmdk", "-b", "raw", "-F", "raw", text(&out)]);
    assert!(said.contains("backing_file"), "{said}");
}

#[test]
fn an_image_that_is_encrypted_still_says_what_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let image = folder.path().join("image.qcow2");
    qemu_img(&["create", "-q", "-f", "qcow2", text(&image), "8M"]);
    let mut bytes = fs::read(&image).unwrap();
    // The method of encryption: AES.
    bytes[35] = 1;
    fs::write(&image, bytes).unwrap();
    let info: Value = serde_json::from_str(&done(&["info", "--json", text(&image)])).unwrap();
    let facts = &info["images"][0];
    assert_eq!(facts["virtual_size"], 8 * MIB);
    assert!(
        facts["encrypted"].is_string() && facts["problem"].is_string(),
        "{facts}"
    );
    let said = fails(1, &["convert", text(&image), text(&folder.path().join("x"))]);
    assert!(said.contains("encrypted"), "{said}");
}
