//! What is wrong is said, with an exit code that a script can use; nothing is left, and the source stays as it is.

mod small_guest;

use small_guest::{PARTITION, SIZE, UUID, disk, disk_of, hash, rehome, rehome_ends, run, tree};
use std::{
    fs,
    io::{Read, Seek, SeekFrom, Write},
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn overwrite(path: &Path, at: u64, bytes: &[u8]) {
    let mut file = fs::File::options().write(true).open(path).unwrap();
    file.seek(SeekFrom::Start(at)).unwrap();
    file.write_all(bytes).unwrap();
}

/// Inspects, plans and converts, which must end soon, without a panic, and without touching the source.
fn survives(source: &Path) -> String {
    let before = hash(source);
    let out = source.with_extension("out.qcow2");
    let mut said = String::new();
    for words in [
        vec!["inspect", text(source)],
        vec!["plan", text(source), "--to", "kvm"],
        vec!["convert", text(source), "--to", "kvm", "-o", text(&out)],
    ] {
        let begin = Instant::now();
        let output = rehome(&words);
        assert!(
            begin.elapsed() < Duration::from_secs(60),
            "{words:?} took {:?}",
            begin.elapsed()
        );
        let code = output.status.code();
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(matches!(code, Some(0 | 1 | 3)), "{words:?}: {code:?} {errors}");
        assert!(!errors.contains("panicked"), "{errors}");
        assert_eq!(
            code == Some(0) && words[0] == "convert",
            out.exists(),
            "{words:?}: {code:?}"
        );
        said += &String::from_utf8_lossy(&output.stdout);
        said += &errors;
    }
    assert_eq!(hash(source), before);
    said
}

#[test]
fn exit_codes_of_wrong_words_and_absent_files() {
    rehome_ends(2, &["convert", "--wrong"]);
    rehome_ends(2, &["plan", "disk.img", "--to", "kvm", "--nic", "eth0=nonsense"]);
    rehome_ends(2, &["inspect"]);
    rehome_ends(
        2,
        &[
            "convert",
            "a.img",
            "--to",
            "kvm",
            "-o",
            "b.img",
            "--yes-erase",
            "/dev/sdz",
        ],
    );
    let said = rehome_ends(1, &["inspect", "/nowhere/disk.img"]);
    assert!(said.contains("/nowhere/disk.img"), "{said}");
    let said = rehome_ends(1, &["inspect", "/"]);
    assert!(
        said.contains("neither a regular file nor a block device"),
        "{said}"
    );
    let folder = tempfile::tempdir().unwrap();
    let source = disk(folder.path());
    let said = rehome_ends(1, &["plan", text(&source), "--to", "no-such-machine"]);
    assert!(said.contains("kvm-scsi"), "the machines that there are: {said}");
    let said = rehome_ends(1, &["plan", text(&source), "--to", "kvm", "--root", "disk0/p9"]);
    assert!(said.contains("disk0/p1"), "the systems that there are: {said}");
    let said = rehome_ends(
        1,
        &[
            "convert",
            text(&source),
            "--to",
            "kvm",
            "-o",
            text(&folder.path().join("o")),
            "--resume",
        ],
    );
    assert!(said.contains("without --resume"), "{said}");
}

#[test]
fn a_truncated_image() {
    let folder = tempfile::tempdir().unwrap();
    let source = disk(folder.path());
    fs::File::options()
        .write(true)
        .open(&source)
        .unwrap()
        .set_len(SIZE / 3)
        .unwrap();
    let said = survives(&source);
    assert!(said.contains("disk0") || said.contains("physical.img"), "{said}");
}

#[test]
fn an_empty_and_a_tiny_file() {
    let folder = tempfile::tempdir().unwrap();
    for (name, length) in [("empty.img", 0), ("tiny.img", 100), ("sector.img", 512)] {
        let path = folder.path().join(name);
        fs::write(&path, vec![0x55; length]).unwrap();
        survives(&path);
    }
}

#[test]
fn a_superblock_that_lies() {
    let folder = tempfile::tempdir().unwrap();
    let superblock = PARTITION + 1024;
    // Offsets of the kernel's documentation: blocks count, log block size, blocks per group, inodes per group,
    // inode size, first data block, features that nobody knows, groups descriptor size.
    for (at, bytes) in [
        (4, [0xff; 4]),
        (0x18, [31, 0, 0, 0]),
        (0x20, [0; 4]),
        (0x28, [0xff; 4]),
        (0x58, [0xff; 4]),
        (0x14, [0xff; 4]),
        (0x60, [0xff; 4]),
        (0xfe, [0xff; 4]),
    ] {
        let source = disk(folder.path());
        overwrite(&source, superblock + at, &bytes);
        let said = survives(&source);
        assert!(
            said.contains("disk0/p1"),
            "which volume is not said for {at:#x}: {said}"
        );
        fs::remove_dir_all(folder.path().join("root")).unwrap();
        fs::remove_dir_all(folder.path().join("initramfs")).unwrap();
        for file in fs::read_dir(folder.path()).unwrap() {
            let _ = fs::remove_file(file.unwrap().path());
        }
    }
}

#[test]
fn a_filesystem_that_cannot_be_opened_is_a_blocker_and_can_be_moved_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let source = disk(folder.path());
    // An incompatible feature that nobody knows.
    overwrite(&source, PARTITION + 1024 + 0x60, &[0, 0, 0, 0x80]);
    let out = folder.path().join("guest.raw");
    let words = [
        "convert",
        text(&source),
        "--to",
        "kvm",
        "-O",
        "raw",
        "-o",
        text(&out),
    ];
    let said = rehome_ends(3, &words);
    assert!(said.contains("disk0/p1") && said.contains("--as-is"), "{said}");
    assert!(!out.exists());
    rehome_ends(0, &[&words[..], &["--as-is"]].concat());
    assert_eq!(hash(&out), hash(&source));
}

#[test]
fn a_gpt_that_lies_and_one_whose_primary_is_gone() {
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("gpt.img");
    fs::File::create(&source).unwrap().set_len(SIZE).unwrap();
    run(Command::new("sgdisk")
        .args(["-n", "1:2048:+16M", "-t", "1:8300"])
        .arg(&source));
    let mut mbr_and_header = vec![0; 1024];
    fs::File::open(&source)
        .unwrap()
        .read_exact(&mut mbr_and_header)
        .unwrap();
    // Number of entries: four thousand million, and the checksum no longer fits.
    overwrite(&source, 512 + 80, &[0xff; 4]);
    let said = survives(&source);
    assert!(said.contains("backup") && said.contains("disk0/p1"), "{said}");
    let _ = fs::remove_file(source.with_extension("out.qcow2"));
    let _ = fs::remove_file(source.with_extension("out.xml"));
    let _ = fs::remove_file(source.with_extension("out.report.json"));
    // Both gone.
    overwrite(&source, SIZE - 512, &[0; 512]);
    survives(&source);
}

#[test]
fn links_that_lead_out_of_the_guest_stay_inside() {
    let folder = tempfile::tempdir().unwrap();
    let root = small_guest::tree(folder.path());
    for (name, target) in [
        ("up", "../../../../../../etc/hostname"),
        ("host", "/etc/hostname"),
        ("loop", "loop"),
    ] {
        std::os::unix::fs::symlink(target, root.join(name)).unwrap();
    }
    let source = small_guest::disk_of(folder.path(), &root, "physical.img", UUID);
    for link in ["/up", "/host"] {
        assert_eq!(
            rehome_ends(0, &["fs", "cat", text(&source), link]),
            "old-server\n"
        );
    }
    let said = rehome_ends(1, &["fs", "cat", text(&source), "/loop"]);
    assert!(said.contains("loop"), "{said}");
}

#[test]
fn a_cpio_bomb_in_place_of_an_initramfs() {
    let folder = tempfile::tempdir().unwrap();
    let root = small_guest::tree(folder.path());
    let image = root
        .join("boot")
        .join(format!("initrd.img-{}", small_guest::KERNEL));
    // Four gigabytes of zeros in four megabytes.
    let script = format!("head -c 4G /dev/zero | gzip -1 > '{}'", image.display());
    run(Command::new("sh").arg("-c").arg(script));
    let source = small_guest::disk_of(folder.path(), &root, "physical.img", UUID);
    let said = survives(&source);
    assert!(said.contains("initrd.img"), "{said}");
}

#[test]
fn what_a_guest_calls_itself_does_not_steer_the_terminal() {
    let folder = tempfile::tempdir().unwrap();
    let root = tree(folder.path());
    let release = "PRETTY_NAME=\"Debian\x1b[2J\x07\"\nID=debian\nVERSION_ID=\"12\"\n";
    fs::write(root.join("usr/lib/os-release"), release).unwrap();
    fs::write(root.join("etc/hostname"), "a\x1b]0;title\x07\n").unwrap();
    let source = disk_of(folder.path(), &root, "physical.img", UUID);
    for command in [
        vec!["inspect", text(&source)],
        vec!["plan", text(&source), "--to", "kvm"],
    ] {
        let said = rehome_ends(0, &command);
        assert!(said.contains("\\u{1b}[2J"), "{said}");
        assert!(
            !said.contains(|c: char| c.is_control() && c != '\n' && c != '\t'),
            "{said}"
        );
    }
}

#[test]
fn a_hibernated_system_is_a_blocker_with_its_cure() {
    let folder = tempfile::tempdir().unwrap();
    let source = disk(folder.path());
    let swap = folder.path().join("swap.img");
    fs::File::create(&swap).unwrap().set_len(8 << 20).unwrap();
    run(Command::new("mkswap").arg(&swap));
    overwrite(&swap, 4096 - 10, b"S1SUSPEND\0");
    let root = folder.path().join("root");
    let fstab = root.join("etc/fstab");
    let lines = fs::read_to_string(&fstab).unwrap() + "/dev/sdb none swap sw 0 0\n";
    fs::write(fstab, lines).unwrap();
    drop(source);
    let source = small_guest::disk_of(folder.path(), &root, "asleep.img", UUID);
    let said = rehome_ends(3, &["plan", text(&source), text(&swap), "--to", "kvm"]);
    assert!(said.contains("hibernat") && said.contains("disk1"), "{said}");
}
