//! `rehome image convert` and `rehome convert` from pipes and to pipes.

mod small_guest;

use small_guest::{UUID, disk, disk_of, rehome_ends, run, tree};
use std::{
    fs::{self, File},
    io::{Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    thread,
};

const SIZE: u64 = (40 << 20) + 1536;

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A raw disk with data in places.
fn raw(folder: &Path) -> PathBuf {
    let path = folder.join("disk.raw");
    let mut file = File::create(&path).unwrap();
    file.set_len(SIZE).unwrap();
    for (index, start) in (0..SIZE).step_by(900_000).enumerate() {
        let length = (1 << (index % 20)).min(SIZE - start);
        let bytes: Vec<u8> = (0..length).map(|at| (at * 13 + start / 999) as u8 | 1).collect();
        file.seek(SeekFrom::Start(start)).unwrap();
        file.write_all(&bytes).unwrap();
    }
    path
}

/// The program with `input` through a pipe (in small pieces, as a network gives them) and its output through another.
fn piped(input: &[u8], arguments: &[&str]) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_rehome"))
        .args(arguments)
        .env("SOURCE_DATE_EPOCH", "1700000000")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    let feeder = thread::spawn(move || {
        for piece in input.chunks(10_007) {
            // Whoever has seen enough closes the pipe.
            if stdin.write_all(piece).is_err() {
                return;
            }
        }
    });
    let output = child.wait_with_output().unwrap();
    feeder.join().unwrap();
    output
}

#[track_caller]
fn said(output: &Output, code: i32) -> String {
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{text}");
    text
}

/// The disk in `path` is that of the raw file.
fn is_same(path: &Path, format: &str, raw: &Path) {
    run(Command::new("qemu-img")
        .args(["compare", "-f", format, "-F", "raw"])
        .args([path, raw]));
}

#[test]
fn a_raw_disk_passes_through_without_a_copy() {
    let folder = tempfile::tempdir().unwrap();
    let raw = raw(folder.path());
    let bytes = fs::read(&raw).unwrap();
    let size = SIZE.to_string();
    let nowhere = folder.path().join("nowhere");
    // With a size nothing is kept: the folder for that is not there.
    let straight = ["--temporary-folder", text(&nowhere), "--size", &size];
    for format in ["raw", "qcow2", "vmdk"] {
        let out = folder.path().join(format!("out.{format}"));
        let convert = ["image", "convert", "-O", format, "--verify", "-m", "7"];
        let output = piped(&bytes, &[&convert[..], &straight, &["-", text(&out)]].concat());
        said(&output, 0);
        is_same(&out, format, &raw);
    }
    // Without one, in a file without a name.
    let spool = folder.path().join("spool");
    fs::create_dir(&spool).unwrap();
    let out = folder.path().join("spooled.qcow2");
    let convert = [
        "image",
        "convert",
        "-O",
        "qcow2",
        "--temporary-folder",
        text(&spool),
        "-",
        text(&out),
    ];
    said(&piped(&bytes, &convert), 0);
    is_same(&out, "qcow2", &raw);
    assert_eq!(fs::read_dir(&spool).unwrap().count(), 0);

    for (given, sent, expected) in [
        (SIZE, &bytes[..bytes.len() - 512], "and 41944576 were announced"),
        (SIZE - 512, &bytes[..], "holds more than the 41944064 bytes"),
    ] {
        let size = given.to_string();
        let out = folder.path().join("wrong.raw");
        let convert = ["image", "convert", "--size", &size, "-", text(&out)];
        let said = said(&piped(sent, &convert), 1);
        assert!(said.contains(expected), "{said}");
        assert!(!out.exists());
        assert!(!folder.path().join(".wrong.raw.rehome-work").exists());
    }
    let out = folder.path().join("resumed.raw");
    let output = piped(
        &bytes,
        &["image", "convert", "--resume", "--size", &size, "-", text(&out)],
    );
    let said = said(&output, 1);
    assert!(said.contains("comes through a pipe"), "{said}");
}

#[test]
fn a_stream_optimized_vmdk_passes_through_in_both_directions() {
    let folder = tempfile::tempdir().unwrap();
    let raw = raw(folder.path());
    let nowhere = folder.path().join("nowhere");
    let straight = ["--temporary-folder", text(&nowhere)];
    let theirs = folder.path().join("theirs.vmdk");
    run(Command::new("qemu-img")
        .args([
            "convert",
            "-f",
            "raw",
            "-O",
            "vmdk",
            "-o",
            "subformat=streamOptimized",
        ])
        .args([&raw, &theirs]));
    let to_pipe = [
        "image",
        "convert",
        "-O",
        "vmdk",
        "-o",
        "subformat=streamOptimized",
        text(&raw),
        "-",
    ];
    let ours = piped(&[], &to_pipe);
    let report = said(&ours, 0);
    assert!(report.contains("vmdk"), "{report}");
    let kept = folder.path().join("ours.vmdk");
    fs::write(&kept, &ours.stdout).unwrap();
    is_same(&kept, "vmdk", &raw);
    for bytes in [fs::read(&theirs).unwrap(), ours.stdout.clone()] {
        let out = folder.path().join("out.qcow2");
        let convert = ["image", "convert", "-O", "qcow2", "-m", "5", "--verify"];
        said(
            &piped(&bytes, &[&convert[..], &straight, &["-", text(&out)]].concat()),
            0,
        );
        is_same(&out, "qcow2", &raw);
        fs::remove_file(&out).unwrap();
        // Through and through.
        let output = piped(
            &bytes,
            &[&["image", "convert", "-O", "raw"][..], &straight, &["-", "-"]].concat(),
        );
        said(&output, 0);
        assert!(output.stdout == fs::read(&raw).unwrap());
    }
    for length in [300, 600, 65536, ours.stdout.len() / 2, ours.stdout.len() - 512] {
        let out = folder.path().join("cut.raw");
        let output = piped(&ours.stdout[..length], &["image", "convert", "-", text(&out)]);
        let said = said(&output, 1);
        assert!(
            said.contains("cut short") || said.contains("ends at") || said.contains("truncated"),
            "{length}: {said}"
        );
        assert!(!out.exists());
        assert!(!folder.path().join(".cut.raw.rehome-work").exists());
    }
}

#[test]
fn a_package_passes_through_and_its_digests_are_compared() {
    let folder = tempfile::tempdir().unwrap();
    let raw = raw(folder.path());
    let nowhere = folder.path().join("nowhere");
    let straight = ["--temporary-folder", text(&nowhere)];
    let made = piped(&[], &["image", "convert", "-O", "ova", text(&raw), "-"]);
    said(&made, 0);
    let package = folder.path().join("made.ova");
    fs::write(&package, &made.stdout).unwrap();
    let again = folder.path().join("disk.ova");
    rehome_ends(0, &["image", "convert", "-O", "ova", text(&raw), text(&again)]);
    assert!(
        made.stdout == fs::read(&again).unwrap(),
        "the same, whichever way it goes"
    );

    // Manifest behind the disk, before it, absent.
    let unpacked = folder.path().join("unpacked");
    fs::create_dir(&unpacked).unwrap();
    run(Command::new("tar")
        .arg("-xf")
        .arg(&package)
        .arg("-C")
        .arg(&unpacked));
    let pack = |names: &[&str]| {
        let output = Command::new("tar")
            .args(["-cf", "-"])
            .args(names)
            .current_dir(&unpacked)
            .output()
            .unwrap();
        assert!(output.status.success());
        output.stdout
    };
    let (ovf, mf, vmdk) = ("disk.ovf", "disk.mf", "disk-disk1.vmdk");
    let packages = [
        (made.stdout.clone(), true),
        (pack(&[ovf, mf, vmdk]), true),
        (pack(&[ovf, vmdk, mf]), true),
        (pack(&[ovf, vmdk]), false),
    ];
    for (bytes, compared) in &packages {
        let out = folder.path().join("out.qcow2");
        let convert = ["image", "convert", "-O", "qcow2", "--json"];
        let output = piped(bytes, &[&convert[..], &straight, &["-", text(&out)]].concat());
        said(&output, 0);
        is_same(&out, "qcow2", &raw);
        fs::remove_file(&out).unwrap();
        let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let expected = if *compared { "verified" } else { "absent" };
        assert_eq!(report["packages"][0]["manifest"], expected);
    }
    let manifest = fs::read_to_string(unpacked.join(mf)).unwrap();
    // A manifest may have an algorithm of its own for each file.
    let mixed: String = manifest
        .lines()
        .map(|line| {
            if !line.contains(vmdk) {
                return format!("{line}\n");
            }
            let sum = run(Command::new("sha1sum").arg(unpacked.join(vmdk)));
            format!("SHA1({vmdk})= {}\n", sum.split(' ').next().unwrap())
        })
        .collect();
    fs::write(unpacked.join(mf), mixed).unwrap();
    let out = folder.path().join("mixed.qcow2");
    let convert = ["image", "convert", "-O", "qcow2"];
    let output = piped(
        &pack(&[ovf, mf, vmdk]),
        &[&convert[..], &straight, &["-", text(&out)]].concat(),
    );
    said(&output, 0);
    is_same(&out, "qcow2", &raw);
    fs::write(
        unpacked.join(mf),
        manifest.replace("= ", "= 0").replace("0\n", "\n"),
    )
    .unwrap();
    let wrong: String = manifest
        .lines()
        .map(|line| {
            let (start, digest) = line.split_once("= ").unwrap();
            format!("{start}= {}{}\n", &digest[1..], &digest[..1])
        })
        .collect();
    fs::write(unpacked.join(mf), wrong).unwrap();
    for bytes in [pack(&[ovf, mf, vmdk]), pack(&[ovf, vmdk, mf])] {
        let out = folder.path().join("wrong.qcow2");
        let convert = ["image", "convert", "-O", "qcow2"];
        let output = piped(&bytes, &[&convert[..], &straight, &["-", text(&out)]].concat());
        let said = said(&output, 1);
        assert!(said.contains("the SHA256 digest of \"disk.ovf\" is"), "{said}");
        assert!(!out.exists());
        assert!(!folder.path().join(".wrong.qcow2.rehome-work").exists());
    }
    let bytes = &packages[2].0;
    for length in [700, 4096, 100_000, bytes.len() / 2] {
        let out = folder.path().join("cut.raw");
        let output = piped(&bytes[..length], &["image", "convert", "-", text(&out)]);
        let said = said(&output, 1);
        assert!(
            ["cut short", "ends at", "is incomplete"]
                .iter()
                .any(|words| said.contains(words)),
            "{length}: {said}"
        );
        assert!(!out.exists());
        assert!(!folder.path().join(".cut.raw.rehome-work").exists());
    }

    // A disk that is no stream has to be kept first.
    run(Command::new("qemu-img")
        .args(["convert", "-f", "raw", "-O", "qcow2"])
        .args([&raw, &unpacked.join(vmdk)]));
    let out = folder.path().join("kept.raw");
    let edited = fs::read_to_string(unpacked.join(ovf))
        .unwrap()
        .replace("ovf:size=\"", "ovf:was=\"");
    fs::write(unpacked.join(ovf), edited).unwrap();
    said(
        &piped(&pack(&[ovf, vmdk]), &["image", "convert", "-", text(&out)]),
        0,
    );
    is_same(&out, "raw", &raw);
}

#[test]
fn standard_output_takes_what_can_be_streamed() {
    let folder = tempfile::tempdir().unwrap();
    let raw = raw(folder.path());
    let output = piped(&[], &["image", "convert", text(&raw), "-"]);
    said(&output, 0);
    assert!(output.stdout == fs::read(&raw).unwrap());
    for (arguments, expected) in [
        (&["-O", "qcow2"][..], "written from front to back"),
        (&["-O", "vmdk"], "subformat=streamOptimized"),
        (&["-O", "raw", "-o", "x=y"], "there is no option"),
        (&["--verify"], "only goes forward"),
        (&["--resume"], "only goes forward"),
    ] {
        let all = [&["image", "convert"][..], arguments, &[text(&raw), "-"]].concat();
        let output = piped(&[], &all);
        let said = said(&output, 1);
        assert!(said.contains(expected), "{said}");
        assert!(output.stdout.is_empty());
    }
    // Who reads only the beginning is no reason to hang.
    let mut child = Command::new(env!("CARGO_BIN_EXE_rehome"))
        .args(["image", "convert", text(&raw), "-"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdout = child.stdout.take().unwrap();
    stdout.read_exact(&mut [0; 100]).unwrap();
    drop(stdout);
    let output = child.wait_with_output().unwrap();
    let said = said(&output, 1);
    assert!(said.contains("standard output"), "{said}");
}

#[test]
fn a_system_goes_from_pipe_to_pipe() {
    let folder = tempfile::tempdir().unwrap();
    let source = disk(folder.path());
    let spool = folder.path().join("spool");
    fs::create_dir(&spool).unwrap();
    let expected = folder.path().join("expected.raw");
    rehome_ends(
        0,
        &[
            "convert",
            text(&source),
            "--to",
            "kvm",
            "-O",
            "raw",
            "-o",
            text(&expected),
        ],
    );
    let convert = [
        "convert",
        "-",
        "--to",
        "kvm",
        "-O",
        "raw",
        "--temporary-folder",
        text(&spool),
        "-o",
        "-",
    ];
    let output = piped(&fs::read(&source).unwrap(), &convert);
    let report = said(&output, 0);
    assert!(
        report.contains("standard input is a pipe") && report.contains("ext4-view agrees"),
        "{report}"
    );
    assert!(output.stdout == fs::read(&expected).unwrap());
    assert_eq!(fs::read_dir(&spool).unwrap().count(), 0);
    let output = piped(
        &[],
        &["convert", text(&source), "--to", "kvm", "-O", "qcow2", "-o", "-"],
    );
    let said = said(&output, 1);
    assert!(said.contains("a raw disk or a package"), "{said}");
}

/// Ends by a signal when its ledger has begun; gives what it said.
fn interrupted(mut child: std::process::Child, ledger: impl Fn() -> Option<PathBuf>) -> String {
    let has_begun = || {
        let metadata = ledger().and_then(|ledger| fs::metadata(ledger).ok());
        metadata.is_some_and(|metadata| metadata.len() >= 200)
    };
    while !has_begun() {
        assert!(
            child.try_wait().unwrap().is_none(),
            "it ended before it was interrupted"
        );
        thread::sleep(std::time::Duration::from_millis(1));
    }
    run(Command::new("kill").args(["-TERM", &child.id().to_string()]));
    said(&child.wait_with_output().unwrap(), 1)
}

#[test]
fn what_nobody_can_go_on_with_is_not_kept() {
    let folder = tempfile::tempdir().unwrap();
    let bytes = fs::read(raw(folder.path())).unwrap();
    let names = || -> Vec<_> {
        let mut names: Vec<_> = fs::read_dir(folder.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    };
    // A pipe that ends too early, long after the first checkpoint.
    let out = folder.path().join("out.qcow2");
    let convert = ["image", "convert", "-O", "qcow2", "--checkpoint", "1M", "-m", "1"];
    let output = piped(
        &bytes,
        &[&convert[..], &["--size", "64M", "-", text(&out)]].concat(),
    );
    let text_of = said(&output, 1);
    assert!(
        text_of.contains("were announced") && !text_of.contains("--resume"),
        "{text_of}"
    );
    assert_eq!(names(), ["disk.raw"]);

    // One that is stopped: by its own signal, and a system on its way through a folder of ours.
    let spawn = |arguments: &[&str]| {
        Command::new(env!("CARGO_BIN_EXE_rehome"))
            .args(arguments)
            .args(["--rate-limit", "1M", "--checkpoint", "1M"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    };
    let size = SIZE.to_string();
    let mut child = spawn(&["image", "convert", "--size", &size, "-", text(&out)]);
    let mut stdin = child.stdin.take().unwrap();
    let feeder = thread::spawn(move || {
        // The pipe breaks with its reader.
        let _ = stdin.write_all(&bytes);
    });
    let ledger = folder.path().join(".out.qcow2.rehome-work/ledgers/out.qcow2");
    let said = interrupted(child, || Some(ledger.clone()));
    feeder.join().unwrap();
    assert!(!said.contains("--resume"), "{said}");
    assert_eq!(names(), ["disk.raw"]);

    // So much in it that it is at work for long.
    let root = tree(folder.path());
    let much: Vec<u8> = (0..20_u32 << 20).map(|at| (at / 7 % 251) as u8 | 1).collect();
    fs::write(root.join("usr/bin/much"), much).unwrap();
    let source = disk_of(folder.path(), &root, "physical.img", UUID);
    let before = names();
    let spool = tempfile::tempdir().unwrap();
    let convert = ["convert", text(&source), "--to", "kvm", "-O", "raw", "-o", "-"];
    let child = spawn(&[&convert[..], &["--temporary-folder", text(spool.path())]].concat());
    let said = interrupted(child, || {
        let made = fs::read_dir(spool.path()).ok()?.next()?.ok()?.path();
        Some(made.join(".disk.raw.rehome-work/ledgers/disk.raw"))
    });
    assert!(!said.contains("--resume") && !said.contains("kept"), "{said}");
    assert_eq!(fs::read_dir(spool.path()).unwrap().count(), 0);
    assert_eq!(names(), before);
}
