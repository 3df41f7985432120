//! A run that breaks over what was there before, a device or an image, says that this is damaged; one that breaks before
//! it wrote anything does not.

use std::{
    fs::{self, File},
    io::{Seek as _, SeekFrom, Write as _},
    os::unix::fs::FileExt as _,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    path::{Path, PathBuf},
    process::{Command, Output},
};

const MIB: u64 = 1 << 20;
const SIZE: u64 = 16 * MIB;

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[track_caller]
fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program}: {errors}");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// `rehome image convert`, run in `folder`.
fn convert(folder: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_rehome"))
        .current_dir(folder)
        .args(["image", "convert"])
        .args(arguments)
        .output()
        .unwrap()
}

#[track_caller]
fn fails(output: &Output) -> String {
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{errors}");
    errors
}

/// A disk of data, raw.
fn whole(folder: &Path) -> PathBuf {
    let path = folder.join("whole.raw");
    let bytes: Vec<u8> = (0..SIZE / 8).flat_map(|at| (at | 1).to_le_bytes()).collect();
    fs::write(&path, bytes).unwrap();
    path
}

/// The same disk in an image of which the cluster at `offset` cannot be read.
fn unreadable_at(folder: &Path, offset: u64) -> PathBuf {
    let path = folder.join(format!("unreadable-{offset}.qcow2"));
    run(
        "qemu-img",
        &["convert", "-c", "-O", "qcow2", text(&whole(folder)), text(&path)],
    );
    // One table serves so small a disk. The last three bits of a stream's first byte are no kind of block then.
    let file = File::options().read(true).write(true).open(&path).unwrap();
    let number = |at| {
        let mut bytes = [0; 8];
        file.read_exact_at(&mut bytes, at).unwrap();
        u64::from_be_bytes(bytes)
    };
    let table = number(number(40)) & 0x00ff_ffff_ffff_fe00;
    let entry = number(table + offset / (64 << 10) * 8);
    assert_eq!(entry >> 62, 1, "compressed");
    file.write_all_at(&[0xff; 16], entry & ((1 << 54) - 1)).unwrap();
    path
}

fn old(path: &Path, size: u64) {
    fs::write(path, vec![0xee; usize::try_from(size).unwrap()]).unwrap();
}

fn work_folders(folder: &Path) -> usize {
    let entries = fs::read_dir(folder).unwrap().flatten();
    entries
        .filter(|entry| entry.file_name().to_string_lossy().ends_with(".rehome-work"))
        .count()
}

/// A loop device over `file` while `job` runs. It wants root, which the test machines are.
fn with_device<T>(file: &Path, job: impl FnOnce(&str) -> T) -> T {
    let device = run("losetup", &["--find", "--show", text(file)]);
    let done = catch_unwind(AssertUnwindSafe(|| job(&device)));
    run("losetup", &["-d", &device]);
    done.unwrap_or_else(|panic| resume_unwind(panic))
}

#[test]
fn an_image_that_was_being_overwritten_is_called_damaged() {
    let folder = tempfile::tempdir().unwrap();
    let source = unreadable_at(folder.path(), 0);
    let target = folder.path().join("target.raw");
    // What lies behind the disk is zeroed first.
    old(&target, SIZE + MIB);
    let out = text(&target);
    let words = ["-n", "-O", "raw", text(&source), out, "--yes-erase", out];
    let said = fails(&convert(folder.path(), &words));
    let bytes = fs::read(&target).unwrap();
    assert!(bytes[SIZE as usize..].iter().all(|byte| *byte == 0));
    assert!(
        said.contains(&format!(
            "{out} was being overwritten: take it for damaged. There is nothing"
        )),
        "{said}"
    );
    assert_eq!(work_folders(folder.path()), 0);
}

#[test]
fn an_image_that_can_be_gone_on_with_is_called_damaged_until_then() {
    let folder = tempfile::tempdir().unwrap();
    let source = unreadable_at(folder.path(), SIZE - MIB);
    let target = folder.path().join("target.raw");
    old(&target, SIZE);
    let out = text(&target);
    // One thread: what lies before the damage is there.
    let words = [
        "-n",
        "-m",
        "1",
        "-O",
        "raw",
        text(&source),
        out,
        "--yes-erase",
        out,
    ];
    let said = fails(&convert(folder.path(), &words));
    assert!(
        said.contains("is damaged until the rest is there: go on with --resume"),
        "{said}"
    );
    assert_eq!(work_folders(folder.path()), 1);
    // A resume that changes nothing leaves it so.
    let said = fails(&convert(folder.path(), &[&words[..], &["--resume"]].concat()));
    assert!(
        said.contains(&format!("{out} was being overwritten, and is damaged until")),
        "{said}"
    );
}

#[test]
fn an_image_that_nobody_wrote_to_is_not_called_damaged() {
    let folder = tempfile::tempdir().unwrap();
    let source = whole(folder.path());
    let target = folder.path().join("target.raw");
    old(&target, MIB);
    let out = text(&target);
    let words = ["-n", "-O", "raw", text(&source), out, "--yes-erase", out];
    let said = fails(&convert(folder.path(), &words));
    assert!(
        said.contains("make a larger image") && !said.contains("damaged"),
        "{said}"
    );
    assert!(fs::read(&target).unwrap().iter().all(|byte| *byte == 0xee));
    assert_eq!(work_folders(folder.path()), 0);
}

#[test]
fn an_image_whose_filesystem_runs_full_is_called_damaged_and_not_removed() {
    let folder = tempfile::tempdir().unwrap();
    let source = whole(folder.path());
    let small = folder.path().join("small");
    fs::create_dir(&small).unwrap();
    // Mounting wants root, which the test machines are.
    run("mount", &["-t", "tmpfs", "-o", "size=1m", "none", text(&small)]);
    let target = small.join("target.raw");
    let job = || {
        File::create(&target).unwrap().set_len(SIZE).unwrap();
        let mut filler = File::create(small.join("filler")).unwrap();
        // All but what the work folder takes: not even the first chunk has room.
        filler.write_all(&vec![1; 900 << 10]).unwrap();
        let out = text(&target);
        let words = ["-n", "-O", "raw", text(&source), out, "--yes-erase", out];
        let said = fails(&convert(folder.path(), &words));
        assert!(
            said.contains("take it for damaged") && said.contains("free space, or name another place"),
            "{said}"
        );
        assert!(!said.contains("is removed"), "{said}");
        assert!(target.exists());
    };
    let done = catch_unwind(AssertUnwindSafe(job));
    run("umount", &[text(&small)]);
    done.unwrap_or_else(|panic| resume_unwind(panic));
}

#[test]
fn a_device_that_was_being_overwritten_is_called_damaged() {
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("target");
    for (offset, expected) in [
        (0, "was being overwritten: take it for damaged. There is nothing"),
        (
            SIZE - 2 * MIB,
            "was being overwritten, and is damaged until the rest is there",
        ),
    ] {
        let source = unreadable_at(folder.path(), offset);
        old(&target, SIZE);
        with_device(&target, |device| {
            let words = [
                "-m",
                "1",
                "-O",
                "raw",
                text(&source),
                device,
                "--yes-erase",
                device,
            ];
            let said = fails(&convert(folder.path(), &words));
            assert!(said.contains(&format!("{device} {expected}")), "{said}");
        });
    }
}

#[test]
fn a_device_that_is_too_small_is_not_called_damaged() {
    let folder = tempfile::tempdir().unwrap();
    let source = whole(folder.path());
    let target = folder.path().join("target");
    let mut file = File::create(&target).unwrap();
    file.seek(SeekFrom::Start(4 * MIB - 1)).unwrap();
    file.write_all(&[7]).unwrap();
    with_device(&target, |device| {
        let words = ["-O", "raw", text(&source), device, "--yes-erase", device];
        let said = fails(&convert(folder.path(), &words));
        assert!(
            said.contains("name a larger device") && !said.contains("damaged"),
            "{said}"
        );
    });
    assert_eq!(fs::read(&target).unwrap().last(), Some(&7));
}
