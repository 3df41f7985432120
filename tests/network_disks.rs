//! `rehome` with exports of servers as SRC and OUT, with `qemu-nbd` as the server.

mod small_guest;

use small_guest::{SIZE, disk, rehome_ends, run};
use std::{
    fs,
    io::{BufRead, BufReader},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

/// A server on `folder/socket`; ended with its value.
struct Server(Child);

impl Server {
    fn start(folder: &Path, program: &str, arguments: &[&str]) -> Self {
        let socket = folder.join("socket");
        let _ = fs::remove_file(&socket);
        let child = Command::new(program)
            .args(arguments)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("{program} must be installed: {error}"));
        let began = Instant::now();
        // It is there before anybody listens.
        while UnixStream::connect(&socket).is_err() {
            assert!(
                began.elapsed() < Duration::from_secs(20),
                "{program} makes no socket"
            );
            thread::sleep(Duration::from_millis(10));
        }
        Self(child)
    }

    fn qemu(folder: &Path, image: &Path, format: &str) -> Self {
        let socket = folder.join("socket");
        let arguments = [
            "--persistent",
            "--shared=8",
            "--export-name=disk",
            "--discard=unmap",
            "--format",
            format,
            "--socket",
            text(&socket),
            text(image),
        ];
        Self::start(folder, "qemu-nbd", &arguments)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn address(folder: &Path) -> String {
    format!("nbd+unix:///disk?socket={}/socket", folder.display())
}

/// The program with its files in `folder`.
fn rehome_in(folder: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_rehome"))
        .args(arguments)
        .current_dir(folder)
        .stdin(Stdio::null())
        .env("SOURCE_DATE_EPOCH", "1700000000")
        .output()
        .unwrap()
}

#[track_caller]
fn ends(code: i32, output: &Output) -> String {
    let text =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{text}");
    text
}

/// The raw disk that a conversion to a file makes.
fn converted(folder: &Path, source: &str, name: &str) -> PathBuf {
    let out = folder.join(name);
    rehome_ends(
        0,
        &["convert", source, "--to", "kvm", "-o", text(&out), "-O", "raw"],
    );
    out
}

#[test]
fn a_system_behind_a_server_is_read_like_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let source = disk(folder.path());
    let from_file = converted(folder.path(), text(&source), "file.raw");
    let _server = Server::qemu(folder.path(), &source, "raw");
    let address = address(folder.path());
    let said = rehome_ends(0, &["inspect", &address]);
    assert!(said.contains("Debian") && said.contains("nbd+unix"), "{said}");
    let from_server = converted(folder.path(), &address, "server.raw");
    assert!(fs::read(from_file).unwrap() == fs::read(from_server).unwrap());
    let said = rehome_ends(0, &["fs", "cat", &format!("{address}@p1"), "/etc/hostname"]);
    assert!(!said.is_empty());
    let undo = folder.path().join("undo");
    let said = rehome_ends(1, &["in-place", &address, "--to", "kvm", "--undo", text(&undo)]);
    assert!(said.contains("cannot be edited in place"), "{said}");
}

#[test]
fn an_image_behind_a_server_is_raw_unless_its_format_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let source = disk(folder.path());
    let image = folder.path().join("image.qcow2");
    run(Command::new("qemu-img")
        .args(["convert", "-O", "qcow2"])
        .args([&source, &image]));
    let _server = Server::qemu(folder.path(), &image, "raw");
    let said = rehome_ends(0, &["inspect", &address(folder.path())]);
    assert!(said.contains("raw") && !said.contains("Debian"), "{said}");
    let said = rehome_ends(
        0,
        &["inspect", &address(folder.path()), "--source-format", "qcow2"],
    );
    assert!(said.contains("Debian"), "{said}");
}

#[test]
fn an_export_is_overwritten_only_when_it_is_named_again() {
    let folder = tempfile::tempdir().unwrap();
    let source = disk(folder.path());
    let expected = fs::read(converted(folder.path(), text(&source), "file.raw")).unwrap();
    let target = folder.path().join("target.raw");
    let old = vec![0xee; SIZE as usize + (16 << 20)];
    let address = address(folder.path());
    let convert = ["convert", text(&source), "--to", "kvm", "-o", &address];
    // Old data, and a file that reads zeros.
    for old in [old.clone(), vec![0; old.len()]] {
        fs::write(&target, &old).unwrap();
        let server = Server::qemu(folder.path(), &target, "raw");
        let said = ends(1, &rehome_in(folder.path(), &convert));
        assert!(said.contains(&format!("say --yes-erase {address}")), "{said}");
        let other = address.replace("disk", "other");
        let said = ends(
            1,
            &rehome_in(folder.path(), &[&convert[..], &["--yes-erase", &other]].concat()),
        );
        assert!(said.contains("would be overwritten"), "{said}");
        assert!(fs::read(&target).unwrap() == old);
        let sure = [&convert[..], &["--yes-erase", &address, "--verify"]].concat();
        let said = ends(0, &rehome_in(folder.path(), &sure));
        assert!(said.contains("verified"), "{said}");
        drop(server);
        let new = fs::read(&target).unwrap();
        assert!(new[..expected.len()] == expected);
        assert!(new[expected.len()..].iter().all(|byte| *byte == 0));
        let xml = fs::read_to_string(folder.path().join("disk.xml")).unwrap();
        assert!(
            xml.contains("<source protocol='nbd' name='disk'><host transport='unix' socket='"),
            "{xml}"
        );
        fs::remove_file(folder.path().join("disk.xml")).unwrap();
        fs::remove_file(folder.path().join("disk.report.json")).unwrap();
    }

    // Too small, and onto itself.
    fs::write(&target, vec![0; 1 << 20]).unwrap();
    let server = Server::qemu(folder.path(), &target, "raw");
    let sure = [&convert[..], &["--yes-erase", &address]].concat();
    let said = ends(1, &rehome_in(folder.path(), &sure));
    assert!(said.contains("name a larger device"), "{said}");
    let itself = [
        "convert",
        &address,
        "--to",
        "kvm",
        "-o",
        &address,
        "--yes-erase",
        &address,
        "--as-is",
    ];
    let said = ends(1, &rehome_in(folder.path(), &itself));
    assert!(said.contains("same disk as the source"), "{said}");
    drop(server);
}

#[test]
fn a_copy_whose_server_died_goes_on_with_resume() {
    if Command::new("nbdkit").arg("--version").output().is_err() {
        eprintln!("skipped: nbdkit is not installed");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let source = disk(folder.path());
    let expected = fs::read(converted(folder.path(), text(&source), "file.raw")).unwrap();
    let target = folder.path().join("target.raw");
    fs::write(&target, vec![0xee; SIZE as usize]).unwrap();
    let address = format!("nbd+unix:///?socket={}/socket", folder.path().display());
    let convert = [
        "convert",
        text(&source),
        "--to",
        "kvm",
        "-o",
        &address,
        "--yes-erase",
        &address,
        "--checkpoint",
        "1M",
    ];
    let socket = folder.path().join("socket");
    let serve = |filters: &[&str]| {
        let mut arguments = vec!["--foreground", "--unix", text(&socket)];
        arguments.extend(filters.iter().filter(|word| word.starts_with("--")));
        arguments.extend(["file", text(&target)]);
        arguments.extend(filters.iter().filter(|word| !word.starts_with("--")));
        Server::start(folder.path(), "nbdkit", &arguments)
    };
    let mut server = serve(&["--filter=delay", "wdelay=300ms"]);
    let ledgers = folder.path().join(".export.rehome-work/ledgers");
    let output = thread::scope(|scope| {
        let program = scope.spawn(|| rehome_in(folder.path(), &convert));
        // Until something is in the ledger.
        let began = Instant::now();
        let written = |ledgers: &Path| {
            let entries = fs::read_dir(ledgers).into_iter().flatten().flatten();
            entries
                .map(|entry| entry.metadata().map_or(0, |metadata| metadata.len()))
                .sum::<u64>()
        };
        while written(&ledgers) < 200 && began.elapsed() < Duration::from_secs(30) {
            thread::sleep(Duration::from_millis(5));
        }
        server.0.kill().unwrap();
        program.join().unwrap()
    });
    let said = ends(1, &output);
    assert!(
        said.contains("the connection broke while") && said.contains("go on with --resume"),
        "{said}"
    );
    drop(server);
    let before = fs::read(&target).unwrap();
    assert!(
        before[..1 << 20].iter().all(|byte| *byte == 0),
        "nothing boots from half a disk"
    );
    let _server = serve(&[]);
    let said = ends(
        0,
        &rehome_in(folder.path(), &[&convert[..], &["--resume", "--json"]].concat()),
    );
    let report: serde_json::Value = serde_json::from_str(&said).unwrap();
    assert!(report["disks"][0]["resumed"].as_u64().unwrap() > 0, "{said}");
    assert!(fs::read(&target).unwrap() == expected);
}

#[test]
fn zeros_for_a_server_keep_to_the_rate_and_stop_at_a_signal() {
    if Command::new("nbdkit").arg("--version").output().is_err() {
        eprintln!("skipped: nbdkit is not installed");
        return;
    }
    const SIZE: u64 = 256 << 20;
    let folder = tempfile::tempdir().unwrap();
    fs::File::create(folder.path().join("hole.raw"))
        .unwrap()
        .set_len(SIZE)
        .unwrap();
    let target = folder.path().join("target.raw");
    fs::write(&target, vec![0xee; SIZE as usize]).unwrap();
    let socket = folder.path().join("socket");
    let nbdkit = [
        "--foreground",
        "--unix",
        text(&socket),
        "--filter=nozero",
        "file",
        text(&target),
    ];
    let _server = Server::start(folder.path(), "nbdkit", &nbdkit);
    let address = format!("nbd+unix:///?socket={}", socket.display());
    let mut program = Command::new(env!("CARGO_BIN_EXE_rehome"))
        .args([
            "image",
            "convert",
            "-f",
            "raw",
            "-O",
            "raw",
            "-m",
            "2",
            "--progress",
            "json",
        ])
        .args([
            "--rate-limit",
            "1M",
            "hole.raw",
            &address,
            "--yes-erase",
            &address,
        ])
        .current_dir(folder.path())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(program.stderr.take().unwrap()).lines();
    let done = |line: &str| {
        let line: serde_json::Value = serde_json::from_str(line).ok()?;
        line["done"].as_u64().filter(|done| *done > 0)
    };
    let first = lines.by_ref().find_map(|line| done(&line.unwrap()));
    run(Command::new("kill").args(["-TERM", &program.id().to_string()]));
    let said: Vec<String> = lines.map(Result::unwrap).collect();
    assert!(!program.wait().unwrap().success(), "{said:?}");
    assert!(first.is_some_and(|first| first < SIZE), "{said:?}");
    // A mebibyte in a second, however long all of this took: nearly all is as it was.
    let now = fs::read(&target).unwrap();
    assert!(now[1 << 20..2 << 20].iter().all(|byte| *byte == 0), "{said:?}");
    assert!(
        now[128 << 20..255 << 20].iter().all(|byte| *byte == 0xee),
        "{said:?}"
    );
}

#[test]
fn a_run_that_was_killed_between_two_names_is_gone_on_with() {
    if Command::new("strace").arg("-V").output().is_err() {
        eprintln!("skipped: strace, which kills at the right moment, is not installed");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let source = disk(folder.path());
    let expected = fs::read(converted(folder.path(), text(&source), "file.raw")).unwrap();
    let target = folder.path().join("target.raw");
    fs::write(&target, vec![0xee; SIZE as usize]).unwrap();
    let _server = Server::qemu(folder.path(), &target, "raw");
    let address = address(folder.path());
    let convert = [
        "convert",
        text(&source),
        "--to",
        "kvm",
        "-o",
        &address,
        "--yes-erase",
        &address,
    ];
    let killed = Command::new("strace")
        .args(["-f", "-qq", "-o", "/dev/null", "-e", "trace=renameat2"])
        .args(["-e", "inject=renameat2:error=EIO:signal=SIGKILL:when=2"])
        .arg(env!("CARGO_BIN_EXE_rehome"))
        .args(convert)
        .current_dir(folder.path())
        .env("SOURCE_DATE_EPOCH", "1700000000")
        .output()
        .unwrap();
    assert!(!killed.status.success(), "{killed:?}");
    let files = ["disk.xml", "disk.report.json"].map(|name| folder.path().join(name));
    let visible = files.iter().filter(|file| file.exists()).count();
    assert_eq!(visible, 1, "one of two has its name: {killed:?}");
    let resume = [&convert[..], &["--resume"]].concat();
    ends(0, &rehome_in(folder.path(), &resume));
    assert!(files.iter().all(|file| file.exists()));
    assert!(!folder.path().join(".disk.rehome-work").exists());
    assert!(fs::read(&target).unwrap() == expected);
}

#[test]
fn image_commands_take_exports() {
    let folder = tempfile::tempdir().unwrap();
    let source = disk(folder.path());
    let image = folder.path().join("image.qcow2");
    run(Command::new("qemu-img")
        .args(["convert", "-O", "qcow2"])
        .args([&source, &image]));
    let server = Server::qemu(folder.path(), &image, "qcow2");
    let address = address(folder.path());
    rehome_ends(0, &["image", "compare", text(&source), &address]);
    let said = rehome_ends(0, &["image", "info", "--allocation", &address]);
    assert!(
        said.contains("virtual size: 64.0 MiB") && said.contains("format: raw"),
        "{said}"
    );
    let map = rehome_ends(0, &["image", "map", "--json", &address]);
    let map: serde_json::Value = serde_json::from_str(&map).unwrap();
    assert!(map.as_array().unwrap().iter().any(|run| run["data"] == false));
    let out = folder.path().join("out.vmdk");
    rehome_ends(
        0,
        &["image", "convert", "-O", "vmdk", &address, text(&out), "--verify"],
    );
    run(Command::new("qemu-img")
        .args(["compare", "-f", "vmdk", "-F", "raw"])
        .args([&out, &source]));
    drop(server);

    let target = folder.path().join("target.raw");
    fs::write(&target, vec![0xee; SIZE as usize]).unwrap();
    let server = Server::qemu(folder.path(), &target, "raw");
    let convert = ["image", "convert", text(&out), &address];
    let said = ends(1, &rehome_in(folder.path(), &convert));
    assert!(said.contains("say --yes-erase"), "{said}");
    let sure = [&convert[..], &["--yes-erase", &address, "--verify"]].concat();
    ends(0, &rehome_in(folder.path(), &sure));
    let qcow2 = [&["image", "convert", "-O", "qcow2"], &sure[2..]].concat();
    let said = ends(1, &rehome_in(folder.path(), &qcow2));
    assert!(said.contains("holds raw disks"), "{said}");
    drop(server);
    assert!(fs::read(&target).unwrap() == fs::read(&source).unwrap());

    // An image within an export.
    let server = Server::qemu(folder.path(), &image, "raw");
    let said = rehome_ends(0, &["image", "check", "-f", "qcow2", &address]);
    assert!(!said.contains("error"), "{said}");
    rehome_ends(0, &["image", "compare", "-f", "qcow2", &address, text(&source)]);
    drop(server);
}
