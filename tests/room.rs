//! A destination that is too small: what cannot fit is refused at once, what may not fit is said, and what fits is done.

use std::{
    fs::{self, File},
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    path::Path,
    process::{Command, Output},
};

const SIZE: u64 = 8 << 20;

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[track_caller]
fn run(program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program}: {errors}");
}

/// `rehome image convert` of a file that is `filled` to a filesystem of 2 MiB; and what is left there.
fn convert(filled: u8, arguments: &[&str]) -> (Output, Vec<String>) {
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("source.raw");
    fs::write(&source, vec![filled; usize::try_from(SIZE).unwrap()]).unwrap();
    let small = folder.path().join("small");
    fs::create_dir(&small).unwrap();
    // Mounting wants root, which the test machines are.
    run("mount", &["-t", "tmpfs", "-o", "size=2m", "none", text(&small)]);
    let job = || {
        let output = Command::new(env!("CARGO_BIN_EXE_rehome"))
            .args(["image", "convert"])
            .args(arguments)
            .args([&source, &small.join("out")])
            .output()
            .unwrap();
        let names = fs::read_dir(&small).unwrap().flatten();
        let names = names.map(|entry| entry.file_name().to_string_lossy().into_owned());
        (output, names.collect())
    };
    let done = catch_unwind(AssertUnwindSafe(job));
    run("umount", &[text(&small)]);
    done.unwrap_or_else(|panic| resume_unwind(panic))
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

const MAY_NOT_FIT: &str = "up to 8.0 MiB of data are to be written, and";

#[test]
fn what_cannot_fit_is_refused_before_it_is_copied() {
    // Every byte is wanted, zeros too.
    for filled in [0, 7] {
        let (output, left) = convert(filled, &["-S", "0", "--progress", "json"]);
        let said = said(&output);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(
            said.contains("8388608 bytes are needed and") && said.contains("free at least"),
            "{said}"
        );
        assert!(!said.contains("\"copy\""), "{said}");
        assert!(left.is_empty(), "{left:?}");
    }
}

#[test]
fn what_may_not_fit_is_said_and_is_done_if_it_does() {
    // The map of the file says data, and it is all zeros; or what compresses well.
    for (filled, words) in [(0, &["-O", "raw"][..]), (7, &["-c", "-O", "qcow2"])] {
        let (output, left) = convert(filled, words);
        let said = said(&output);
        assert_eq!(output.status.code(), Some(0), "{said}");
        assert!(said.contains(MAY_NOT_FIT), "{said}");
        assert_eq!(left, ["out"]);
    }
    let (output, _) = convert(7, &["-O", "qcow2"]);
    let said = said(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(
        said.contains(MAY_NOT_FIT) && said.contains("more bytes are needed"),
        "{said}"
    );
}

#[test]
fn where_there_is_room_nothing_is_said_of_it() {
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("source.raw");
    File::create(&source).unwrap().set_len(SIZE).unwrap();
    for (name, words) in [("whole", &["-S", "0"][..]), ("sparse", &[])] {
        let output = Command::new(env!("CARGO_BIN_EXE_rehome"))
            .args(["image", "convert"])
            .args(words)
            .args([&source, &folder.path().join(name)])
            .output()
            .unwrap();
        assert!(output.status.success());
        assert_eq!(said(&output), "");
    }
}
