//! `rehome image info`, `map`, `check` and `compare`, with qemu-img as the judge.

// Clippy's exemption for tests does not reach the functions that they share.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic
)]

use rehome::disk::{Disk, FileDisk};
use serde_json::Value;
use std::{
    fs,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    process::{Command, Output},
};
use tempfile::TempDir;

const MIB: u64 = 1 << 20;

fn rehome(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_rehome"))
        .args(["image"])
        .args(arguments)
        .output()
        .unwrap()
}

/// Ends with `code`; gives what it printed.
#[track_caller]
fn ends(code: i32, arguments: &[&str]) -> String {
    let output = rehome(arguments);
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[track_caller]
fn json(arguments: &[&str]) -> Value {
    serde_json::from_str(&ends(0, arguments)).unwrap()
}

#[track_caller]
fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    assert!(output.status.success(), "{program} {arguments:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Three qcow2 images on top of each other over a raw one; the topmost is larger than what it stands on.
fn chain() -> (TempDir, Vec<PathBuf>) {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let raw = path("base.raw");
    let disk = FileDisk::create(&raw, 8 * MIB).unwrap();
    disk.write_at(0, &vec![1; 3 << 20]).unwrap();
    drop(disk);
    let create = |name: &str, below: &str, format: &str, size: &str| {
        let arguments = ["create", "-q", "-f", "qcow2", "-b", below, "-F", format];
        run("qemu-img", &[&arguments[..], &[text(&path(name)), size]].concat());
        path(name)
    };
    let write = |image: &Path, command: &str| {
        run("qemu-io", &["-f", "qcow2", "-c", command, text(image)]);
    };
    let low = create("low.qcow2", "base.raw", "raw", "8M");
    write(&low, "write -P 2 1M 192k");
    let middle = create("middle.qcow2", "low.qcow2", "qcow2", "8M");
    write(&middle, "write -z -u 2M 128k");
    let top = create("top.qcow2", "middle.qcow2", "qcow2", "12M");
    write(&top, "write -P 4 1088k 64k");
    write(&top, "write -P 4 10M 64k");
    (folder, vec![top, middle, low, raw])
}

#[test]
fn the_map_is_that_of_qemu_img() {
    let (folder, chain) = chain();
    let raw = &chain[3];
    let compressed = folder.path().join("compressed.qcow2");
    run(
        "qemu-img",
        &[
            "convert",
            "-c",
            "-f",
            "raw",
            "-O",
            "qcow2",
            text(raw),
            text(&compressed),
        ],
    );
    let zeros = folder.path().join("zeros.qcow2");
    run("qemu-img", &["create", "-q", "-f", "qcow2", text(&zeros), "4M"]);
    run("qemu-io", &["-f", "qcow2", "-c", "write -z 1M 1M", text(&zeros)]);
    // These keep their place.
    for command in ["write -P 1 2M 256k", "write -z 2112k 128k"] {
        run("qemu-io", &["-f", "qcow2", "-c", command, text(&zeros)]);
    }
    let of_kind = |format: &str| {
        let image = folder.path().join(format!("image.{format}"));
        run(
            "qemu-img",
            &["convert", "-f", "raw", "-O", format, text(raw), text(&image)],
        );
        image
    };
    let (vdi, vhd) = (of_kind("vdi"), of_kind("vpc"));
    for (image, format) in [
        (&chain[0], "qcow2"),
        (&chain[1], "qcow2"),
        (&chain[2], "qcow2"),
        (raw, "raw"),
        (&compressed, "qcow2"),
        (&zeros, "qcow2"),
        (&vdi, "vdi"),
        (&vhd, "vpc"),
    ] {
        let theirs = run("qemu-img", &["map", "--output=json", "-f", format, text(image)]);
        let theirs: Vec<Value> = serde_json::from_str(&theirs).unwrap();
        let ours = ends(0, &["map", "--output", "json", "-f", format, text(image)]);
        let ours: Vec<Value> = serde_json::from_str(&ours).unwrap();
        // "compressed" came in later.
        let facts = |entry: &Value| {
            let names = ["start", "length", "depth", "present", "zero", "data", "offset"];
            names.map(|name| entry[name].clone())
        };
        assert_eq!(
            ours.iter().map(facts).collect::<Vec<_>>(),
            theirs.iter().map(facts).collect::<Vec<_>>(),
            "{image:?}"
        );
    }
    let first: Vec<Value> = serde_json::from_str(&ends(0, &["map", "--json", text(&compressed)])).unwrap();
    assert_eq!(first[0]["compressed"], true);
    let table = ends(0, &["map", text(&chain[0])]);
    assert!(
        table.contains("IN THE FILE AT") && table.contains("nothing"),
        "{table}"
    );
}

#[test]
fn info_says_what_qemu_img_says_and_survives_a_missing_backing_file() {
    let (folder, chain) = chain();
    let top = &chain[0];
    run("qemu-img", &["snapshot", "-c", "before", text(top)]);
    let theirs: Value =
        serde_json::from_str(&run("qemu-img", &["info", "--output=json", text(top)])).unwrap();
    let ours = json(&["info", "--json", text(top)]);
    assert_eq!(ours["schema"], 1);
    let image = &ours["images"][0];
    assert_eq!(image["format"], "qcow2");
    assert_eq!(image["virtual_size"], theirs["virtual-size"]);
    assert_eq!(image["disk_size"], theirs["actual-size"]);
    assert_eq!(image["unit"], theirs["cluster-size"]);
    assert_eq!(image["backing"]["name"], theirs["backing-filename"]);
    assert_eq!(image["backing"]["format"], theirs["backing-filename-format"]);
    assert_eq!(image["problem"], Value::Null);

    let all = json(&[
        "info",
        "--backing-chain",
        "--output",
        "json",
        "--allocation",
        text(top),
    ]);
    let formats: Vec<&str> = all["images"]
        .as_array()
        .unwrap()
        .iter()
        .map(|image| image["format"].as_str().unwrap())
        .collect();
    assert_eq!(formats, ["qcow2", "qcow2", "qcow2", "raw"]);
    let allocation = &all["images"][0]["allocation"];
    let sum: u64 = ["data", "zero", "hole"]
        .iter()
        .map(|kind| allocation[kind].as_u64().unwrap())
        .sum();
    assert_eq!(sum, 12 * MIB);
    let human = ends(0, &["info", "--backing-chain", text(top)]);
    assert_eq!(human.matches("virtual size").count(), 4, "{human}");

    fs::remove_file(folder.path().join("low.qcow2")).unwrap();
    let human = ends(0, &["info", "--backing-chain", text(top)]);
    assert!(
        human.contains("backing file: middle.qcow2") && human.contains("warning:"),
        "{human}"
    );
    // A file that is no image of the format that was named is still an error.
    let output = rehome(&["info", "-f", "qcow2", text(&chain[3])]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
}

#[test]
fn a_terabyte_is_looked_at_in_no_time() {
    let folder = tempfile::tempdir().unwrap();
    let image = folder.path().join("large.qcow2");
    run("qemu-img", &["create", "-q", "-f", "qcow2", text(&image), "64T"]);
    let begun = std::time::Instant::now();
    let info = json(&["info", "--json", text(&image)]);
    assert_eq!(info["images"][0]["virtual_size"], 64_u64 << 40);
    ends(0, &["compare", text(&image), text(&image)]);
    assert_eq!(ends(0, &["map", "--json", text(&image)]).lines().count(), 1);
    assert!(begun.elapsed().as_secs() < 5, "{:?}", begun.elapsed());
}

#[test]
fn a_check_tells_sound_from_leaking_from_damaged() {
    let folder = tempfile::tempdir().unwrap();
    let image = folder.path().join("image.qcow2");
    run("qemu-img", &["create", "-q", "-f", "qcow2", text(&image), "8M"]);
    run("qemu-io", &["-f", "qcow2", "-c", "write -P 1 0 1M", text(&image)]);
    assert!(ends(0, &["check", text(&image)]).contains("is sound"));
    // A cluster at the end of the file that is counted and not referred to. (Refcount block 0 is the third cluster.)
    let file = fs::File::options().read(true).write(true).open(&image).unwrap();
    let clusters = file.metadata().unwrap().len() / 65536;
    file.set_len((clusters + 1) * 65536).unwrap();
    file.write_all_at(&[0, 1], 2 * 65536 + clusters * 2).unwrap();
    let found = ends(5, &["check", text(&image)]);
    assert!(found.contains("leak:"), "{found}");
    let found: Value = serde_json::from_str(&ends(5, &["check", "--json", text(&image)])).unwrap();
    assert_eq!((&found["schema"], &found["leaked"]), (&1.into(), &65536.into()));
    // A cluster that is referred to and not counted.
    file.write_all_at(&[0, 0], 2 * 65536 + 6 * 2).unwrap();
    let found = ends(4, &["check", text(&image)]);
    assert!(found.contains("error:"), "{found}");
    assert_eq!(ends(4, &["check", "-q", text(&image)]), "");
    let raw = folder.path().join("raw");
    fs::write(&raw, [7; 5000]).unwrap();
    assert!(ends(0, &["check", text(&raw)]).contains("no structure"));
    let output = rehome(&["check", "-r", "leaks", text(&image)]);
    assert_eq!(
        output.status.code(),
        Some(2),
        "a repair wants an undo file: {output:?}"
    );
}

#[test]
fn a_repair_gives_leaks_back_and_can_be_taken_back() {
    let folder = tempfile::tempdir().unwrap();
    let image = folder.path().join("image.qcow2");
    run("qemu-img", &["create", "-q", "-f", "qcow2", text(&image), "8M"]);
    run("qemu-io", &["-f", "qcow2", "-c", "write -P 1 0 1M", text(&image)]);
    let file = fs::File::options().read(true).write(true).open(&image).unwrap();
    let clusters = file.metadata().unwrap().len() / 65536;
    file.set_len((clusters + 1) * 65536).unwrap();
    file.write_all_at(&[0, 1], 2 * 65536 + clusters * 2).unwrap();
    drop(file);
    let before = fs::read(&image).unwrap();
    let undo = folder.path().join("undo");
    let output = rehome(&["check", "-r", "leaks", "--undo", text(&undo), text(&image)]);
    if output.status.code() == Some(1) {
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(said.contains("cannot be repaired"), "{said}");
        assert!(fs::read(&image).unwrap() == before && !undo.exists());
        return;
    }
    assert!(output.status.success(), "{output:?}");
    run("qemu-img", &["check", "-q", "-f", "qcow2", text(&image)]);
    let status = Command::new(env!("CARGO_BIN_EXE_rehome"))
        .args(["undo", text(&undo)])
        .status()
        .unwrap();
    assert!(status.success());
    assert!(fs::read(&image).unwrap() == before, "bit for bit");
}

#[test]
fn a_comparison_finds_the_first_difference_and_agrees_with_qemu_img() {
    let (folder, chain) = chain();
    let top = &chain[0];
    let flat = folder.path().join("flat.raw");
    run(
        "qemu-img",
        &["convert", "-f", "qcow2", "-O", "raw", text(top), text(&flat)],
    );
    ends(0, &["compare", text(top), text(&flat)]);
    ends(0, &["compare", "-q", "-p", "-m", "1", text(&flat), text(top)]);
    // The rest of a longer disk must be zeros; strictly the sizes must be the same.
    let longer = folder.path().join("longer.raw");
    fs::copy(&flat, &longer).unwrap();
    fs::File::options()
        .write(true)
        .open(&longer)
        .unwrap()
        .set_len(13 * MIB)
        .unwrap();
    let said = ends(0, &["compare", text(&flat), text(&longer)]);
    assert!(said.contains("sizes differ"), "{said}");
    ends(4, &["compare", "-s", text(&flat), text(&longer)]);
    ends(0, &["compare", "-s", text(&flat), text(&flat)]);
    let file = fs::File::options().write(true).open(&flat).unwrap();
    file.write_all_at(&[77], 9 * MIB + 123).unwrap();
    let said = ends(4, &["compare", text(top), text(&flat)]);
    assert!(said.contains(&(9 * MIB + 123).to_string()), "{said}");
    let found: Value =
        serde_json::from_str(&ends(4, &["compare", "--json", text(top), text(&flat)])).unwrap();
    assert_eq!(found["first_difference"], 9 * MIB + 123);
    assert_eq!(found["same"], false);
    let theirs = Command::new("qemu-img")
        .args([
            "compare",
            "-q",
            "-f",
            "qcow2",
            "-F",
            "raw",
            text(top),
            text(&flat),
        ])
        .status()
        .unwrap();
    assert_eq!(theirs.code(), Some(1));
    ends(1, &["compare", text(top), "/nonexistent"]);
}
