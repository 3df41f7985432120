//! What a job says, and where: results on stdout, or on stderr where OUT itself is on stdout; warnings in any case.

mod small_guest;

use small_guest::{disk_of, rehome, run, tree};
use std::{
    fs::{self, File},
    io::{BufRead as _, BufReader, Write as _},
    path::Path,
    process::{Command, Output, Stdio},
    thread,
    time::{SystemTime, UNIX_EPOCH},
};

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// The program with `input` through a pipe.
fn piped(input: &[u8], arguments: &[&str]) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_rehome"))
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    // Whoever has seen enough closes the pipe.
    let feeder = thread::spawn(move || drop(stdin.write_all(&input)));
    let output = child.wait_with_output().unwrap();
    feeder.join().unwrap();
    output
}

#[track_caller]
fn ends(output: &Output, code: i32) -> (String, String) {
    let words = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let errors = words(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{errors}");
    (words(&output.stdout), errors)
}

/// Two MiB that are no zeros.
fn raw(folder: &Path) -> (std::path::PathBuf, Vec<u8>) {
    let path = folder.join("disk.raw");
    let bytes: Vec<u8> = (0..2_u32 << 20).map(|at| (at % 251) as u8 | 1).collect();
    fs::write(&path, &bytes).unwrap();
    (path, bytes)
}

#[test]
fn a_temporary_copy_of_a_pipe_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let (raw, bytes) = raw(folder.path());
    let image = folder.path().join("disk.qcow2");
    run(Command::new("qemu-img")
        .args(["convert", "-O", "qcow2"])
        .args([&raw, &image]));
    let image = fs::read(image).unwrap();
    let remark = "warning: standard input is a pipe: its";
    let convert = |words: &[&str]| {
        piped(
            &image,
            &[&["image", "convert", "-f", "qcow2"][..], words].concat(),
        )
    };

    let out = folder.path().join("out.raw");
    let (said, errors) = ends(&convert(&["-", text(&out)]), 0);
    assert!(said.contains(remark) && said.contains("wrote out.raw"), "{said}");
    assert_eq!(errors, "");
    // Once, and of the copy that is on stdout on stderr.
    assert_eq!(said.matches("warning:").count(), 1, "{said}");
    let output = convert(&["-", "-"]);
    assert!(output.stdout == bytes);
    let (_, errors) = ends(&output, 0);
    assert!(errors.contains(remark), "{errors}");

    // What needs no copy has nothing to say, and whoever wants silence gets it.
    let other = folder.path().join("other.raw");
    let (said, _) = ends(&rehome(&["image", "convert", text(&raw), text(&other)]), 0);
    assert!(!said.contains("warning"), "{said}");
    let silent = folder.path().join("silent.raw");
    assert_eq!(
        ends(&convert(&["-q", "-", text(&silent)]), 0),
        (String::new(), String::new())
    );
}

#[test]
fn a_report_as_json_goes_to_stderr_when_the_disk_is_on_stdout() {
    let folder = tempfile::tempdir().unwrap();
    let (raw, bytes) = raw(folder.path());
    for words in [
        &["image", "convert", "--json", text(&raw), "-"][..],
        &[
            "convert",
            "--as-is",
            "--to",
            "kvm",
            "--json",
            "-O",
            "raw",
            text(&raw),
            "-o",
            "-",
        ],
    ] {
        let output = rehome(words);
        let (_, errors) = ends(&output, 0);
        assert!(output.stdout == bytes);
        let report: serde_json::Value = serde_json::from_str(&errors).unwrap();
        assert_eq!(report["disks"][0]["size"], 2 << 20, "{errors}");
    }
}

#[test]
fn what_a_package_says_of_itself_is_said_and_whether_its_manifest_was_compared() {
    let folder = tempfile::tempdir().unwrap();
    let (raw, bytes) = raw(folder.path());
    let package = folder.path().join("disk.ova");
    ends(
        &rehome(&["image", "convert", "-O", "ova", text(&raw), text(&package)]),
        0,
    );
    let archive = fs::read(&package).unwrap();
    let compared = "every file is as its manifest says; describes";
    let out = folder.path().join("file.raw");
    let (said, _) = ends(&rehome(&["image", "convert", text(&package), text(&out)]), 0);
    assert!(said.contains(compared), "{said}");
    let out = folder.path().join("piped.raw");
    let (said, _) = ends(&piped(&archive, &["image", "convert", "-", text(&out)]), 0);
    assert!(said.contains(compared), "{said}");
    let output = piped(&archive, &["image", "convert", "-", "-"]);
    assert!(output.stdout == bytes);
    let (_, errors) = ends(&output, 0);
    assert!(errors.contains(compared), "{errors}");
}

#[test]
fn what_a_blocked_plan_says_is_not_taken_for_the_disk() {
    let folder = tempfile::tempdir().unwrap();
    let root = tree(folder.path());
    let modules = root.join("usr/lib/modules").join(small_guest::KERNEL);
    for name in ["modules.alias", "modules.dep"] {
        let lines = fs::read_to_string(modules.join(name)).unwrap();
        let mut file = File::create(modules.join(name)).unwrap();
        for line in lines.lines().filter(|line| !line.contains("virtio")) {
            writeln!(file, "{line}").unwrap();
        }
    }
    let source = disk_of(folder.path(), &root, "physical.img", small_guest::UUID);
    // A machine with virtio-blk alone.
    let (shown, _) = ends(&rehome(&["machine", "show", "kvm"]), 0);
    let mut machine: toml::Table = shown.parse().unwrap();
    machine["storage"].as_array_mut().unwrap().truncate(1);
    let file = folder.path().join("only-virtio.toml");
    fs::write(&file, machine.to_string()).unwrap();
    let convert = [
        "convert",
        text(&source),
        "--to",
        text(&file),
        "-O",
        "raw",
        "-o",
        "-",
    ];
    let (output, errors) = ends(&rehome(&convert), 3);
    assert_eq!(output, "");
    assert!(errors.contains("virtio-blk"), "{errors}");
    let (output, errors) = ends(&rehome(&[&convert[..], &["--json"]].concat()), 3);
    assert_eq!(output, "");
    let plan: serde_json::Value = serde_json::from_str(&errors).unwrap();
    assert_ne!(plan["blockers"].as_array().unwrap().len(), 0, "{errors}");
}

#[test]
fn that_a_server_cannot_flush_is_said() {
    if Command::new("nbdkit").arg("--version").output().is_err() {
        eprintln!("skipped: nbdkit is not installed");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (raw, bytes) = raw(folder.path());
    let target = folder.path().join("target");
    fs::write(&target, vec![0; bytes.len()]).unwrap();
    // With `--run` the server ends with the program; the plugin names no way to flush.
    let dd = "status=none conv=notrunc iflag=skip_bytes,count_bytes,fullblock oflag=seek_bytes";
    let file = text(&target);
    let run = format!(
        "cd {} && {} image convert {} \"nbd+unix:///?socket=$unixsocket\" --yes-erase \"nbd+unix:///?socket=$unixsocket\"",
        text(folder.path()),
        env!("CARGO_BIN_EXE_rehome"),
        text(&raw)
    );
    let output = Command::new("nbdkit")
        .args(["--unix", "-", "eval"])
        .arg(format!("get_size=echo {}", bytes.len()))
        .arg(format!("pread=dd if={file} skip=$4 count=$3 bs=64k {dd}"))
        .arg(format!("pwrite=dd of={file} seek=$4 bs=64k {dd}"))
        .args(["can_write=exit 0", "--run", &run])
        .output()
        .unwrap();
    let (said, _) = ends(&output, 0);
    assert!(
        said.contains("warning: ") && said.contains("the server has no way to bring"),
        "{said}"
    );
    assert!(fs::read(&target).unwrap() == bytes);
}

/// What a copy of `raw` says outside its hours; then it is stopped.
fn pausing(arguments: &[&str]) -> String {
    // The minute of two hours ago, in a zone that both know.
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let minute = now.as_secs() / 60 % 1440;
    let time = |minute: u64| format!("{:02}:{:02}", minute / 60 % 24, minute % 60);
    let window = format!("{}-{}", time(minute + 1320), time(minute + 1380));
    let mut child = Command::new(env!("CARGO_BIN_EXE_rehome"))
        .env("TZ", "UTC")
        .args(arguments)
        .args(["--progress", "json", "--window", &window])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let paused = lines.find(|line| line.as_ref().unwrap().contains("pausing until"));
    let id = child.id().to_string();
    run(Command::new("kill").args(["-TERM", &id]));
    // Whatever it says at its end.
    lines.for_each(drop);
    child.wait().unwrap();
    paused.expect("it waits, and says so").unwrap()
}

#[test]
fn at_a_pause_only_what_can_be_gone_on_with_is_called_safe() {
    let folder = tempfile::tempdir().unwrap();
    let (raw, _) = raw(folder.path());
    let raw = text(&raw);
    let image = ["image", "convert", raw];
    let system = ["convert", "--as-is", "--to", "kvm", "-O", "raw", raw, "-o"];
    let cases = [
        (&image[..], "one", &[][..], true),
        (&image, "two", &["-t", "unsafe"], false),
        (&image, "three", &["--no-hash"], false),
        (&image, "-", &[], false),
        (&system, "four", &[], true),
        (&system, "five", &["-t", "unsafe"], false),
        (&system, "-", &[], false),
    ];
    // Each looks at the clock once in a second.
    thread::scope(|scope| {
        for (words, name, more, safe) in cases {
            let out = folder.path().join(name);
            let out = if name == "-" { Path::new(name) } else { &out }.to_owned();
            scope.spawn(move || {
                let said = pausing(&[words, &[text(&out)], more].concat());
                assert_eq!(
                    said.contains("all that is copied so far is safe"),
                    safe,
                    "{words:?} {more:?} {}: {said}",
                    out.display()
                );
            });
        }
    });
}

#[test]
fn an_undo_file_is_not_made_where_a_link_leads_nowhere() {
    let folder = tempfile::tempdir().unwrap();
    let image = folder.path().join("image.qcow2");
    run(Command::new("qemu-img")
        .args(["create", "-f", "qcow2"])
        .arg(&image)
        .arg("1M"));
    let undo = folder.path().join("undo");
    std::os::unix::fs::symlink(folder.path().join("nowhere"), &undo).unwrap();
    let check = [
        "image",
        "check",
        "-r",
        "leaks",
        "--undo",
        text(&undo),
        text(&image),
    ];
    let (_, errors) = ends(&rehome(&check), 1);
    assert!(errors.contains("give another name for the undo file"), "{errors}");
}
