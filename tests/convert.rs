//! `rehome convert` and `rehome plan` on a small system, judged by qemu-img, e2fsck, debugfs, cpio and
//! virt-xml-validate.

mod small_guest;

use serde_json::Value;
use small_guest::{KERNEL, UUID, disk, disk_of, file_in, hash, is_clean, rehome, rehome_ends, run, tree};
use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::Duration,
};

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A qcow2 as a raw file beside it.
fn raw_of(image: &Path) -> PathBuf {
    let raw = image.with_extension("raw");
    run(Command::new("qemu-img")
        .args(["convert", "-O", "raw"])
        .arg(image)
        .arg(&raw));
    raw
}

fn string_in(disk: &Path, path: &str) -> String {
    String::from_utf8(file_in(disk, path)).unwrap()
}

#[test]
fn a_system_is_rewritten_and_the_source_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let source = disk(folder.path());
    let before = hash(&source);
    let out = folder.path().join("guest.qcow2");
    let said = rehome_ends(
        0,
        &[
            "convert",
            text(&source),
            "--to",
            "kvm",
            "-o",
            text(&out),
            "--verify",
        ],
    );
    assert!(
        said.contains("ext4-view agrees") && said.contains("verified"),
        "{said}"
    );
    assert_eq!(hash(&source), before);

    run(Command::new("qemu-img").arg("check").arg(&out));
    let raw = raw_of(&out);
    is_clean(&raw);
    let fstab = string_in(&raw, "/etc/fstab");
    assert!(
        fstab.contains(&format!("UUID={UUID} / ext4")) && !fstab.contains("/dev/sda"),
        "{fstab}"
    );
    assert!(
        fstab.contains("/dev/sr0 /media"),
        "removable drives are left alone: {fstab}"
    );
    let grub = string_in(&raw, "/boot/grub/grub.cfg");
    assert!(
        grub.contains(&format!("root=UUID={UUID} ro quiet")) && !grub.contains("/dev/sda"),
        "{grub}"
    );
    assert!(string_in(&raw, "/etc/default/grub").contains(&format!("root=UUID={UUID}")));
    let modules = string_in(&raw, "/etc/initramfs-tools/modules");
    assert!(
        modules.starts_with("# List of modules\n") && modules.contains("\nvirtio_blk\n"),
        "{modules}"
    );
    let link = string_in(&raw, "/etc/systemd/network/10-rehome-enp2s0.link");
    assert!(
        link.contains("Name=enp2s0") && !link.contains("MACAddress"),
        "{link}"
    );

    // The image is the old one with something behind it, and cpio reads that.
    let initramfs = file_in(&raw, &format!("/boot/initrd.img-{KERNEL}"));
    let old = file_in(&source, &format!("/boot/initrd.img-{KERNEL}"));
    assert!(initramfs.starts_with(&old));
    let segment = folder.path().join("segment");
    fs::write(&segment, &initramfs[old.len().next_multiple_of(4)..]).unwrap();
    let list = run(Command::new("cpio")
        .arg("-it")
        .stdin(fs::File::open(&segment).unwrap()));
    let base = format!("usr/lib/modules/{KERNEL}");
    for file in [
        "kernel/drivers/block/virtio_blk.ko",
        "kernel/drivers/virtio/virtio_pci.ko",
        "modules.dep.bin",
    ] {
        assert!(
            list.lines().any(|line| line == format!("{base}/{file}")),
            "{file} in\n{list}"
        );
    }
    assert!(
        !list.lines().any(|line| line == "lib"),
        "an entry over the link `lib` would replace it:\n{list}"
    );

    let report: Value =
        serde_json::from_slice(&fs::read(folder.path().join("guest.report.json")).unwrap()).unwrap();
    assert_eq!(report["schema"], 1);
    assert_eq!(report["disks"][0]["verified"], true);
    let changed: Vec<&str> = report["changes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|change| change["path"].as_str().unwrap())
        .collect();
    assert!(
        changed.contains(&"/etc/fstab") && changed.contains(&"/boot/grub/grub.cfg"),
        "{changed:?}"
    );
    let fstab_change = &report["changes"]
        .as_array()
        .unwrap()
        .iter()
        .find(|c| c["path"] == "/etc/fstab")
        .unwrap();
    let digest = blake3::hash(fstab.as_bytes()).to_hex().to_string();
    assert_eq!(fstab_change["is"], digest);
    run(Command::new("virt-xml-validate").arg(folder.path().join("guest.xml")));
    assert!(!folder.path().join(".guest.qcow2.rehome-work").exists());
}

#[test]
fn the_same_plan_on_the_same_source_gives_the_same_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let source = disk(folder.path());
    let (first, second) = (folder.path().join("a.qcow2"), folder.path().join("b.qcow2"));
    for out in [&first, &second] {
        rehome_ends(
            0,
            &["convert", text(&source), "--to", "kvm-scsi", "-o", text(out)],
        );
    }
    assert_eq!(hash(&first), hash(&second));
}

#[test]
fn a_converted_system_converts_again_without_lines_doubled() {
    let folder = tempfile::tempdir().unwrap();
    let source = disk(folder.path());
    let (first, second) = (folder.path().join("a.raw"), folder.path().join("b.raw"));
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
            text(&first),
        ],
    );
    rehome_ends(
        0,
        &[
            "convert",
            text(&first),
            "--to",
            "kvm",
            "-O",
            "raw",
            "-o",
            text(&second),
        ],
    );
    for path in [
        "/etc/fstab",
        "/etc/initramfs-tools/modules",
        "/boot/grub/grub.cfg",
    ] {
        assert_eq!(string_in(&first, path), string_in(&second, path));
    }
    let image = format!("/boot/initrd.img-{KERNEL}");
    assert_eq!(
        file_in(&first, &image).len(),
        file_in(&second, &image).len(),
        "one segment is enough"
    );
    is_clean(&second);
}

#[test]
fn the_secret_of_a_deleted_file_stays_behind() {
    const SECRET: &[u8] = b"the-secret-that-must-not-travel";
    let folder = tempfile::tempdir().unwrap();
    let root = tree(folder.path());
    fs::write(root.join("secret"), SECRET.repeat(1000)).unwrap();
    let source = disk_of(folder.path(), &root, "physical.img", UUID);
    let offset = format!("{}?offset={}", source.display(), small_guest::PARTITION);
    run(Command::new("debugfs").args(["-w", "-R", "rm /secret", &offset]));
    let holds = |path: &Path| {
        let bytes = fs::read(path).unwrap();
        bytes.windows(SECRET.len()).any(|window| window == SECRET)
    };
    assert!(holds(&source), "the fixture has no secret to lose");
    for format in ["raw", "qcow2"] {
        let out = folder.path().join(format!("guest-{format}"));
        rehome_ends(
            0,
            &[
                "convert",
                text(&source),
                "--to",
                "kvm",
                "-O",
                format,
                "-o",
                text(&out),
            ],
        );
        assert!(!holds(&out), "{format}");
    }
}

#[test]
fn what_was_swapped_out_into_a_file_stays_behind_and_the_file_is_swap_space_still() {
    const SECRET: &[u8] = b"a-key-that-was-swapped-out";
    const PAGE: usize = 4096;
    let folder = tempfile::tempdir().unwrap();
    let root = tree(folder.path());
    let swap = root.join("swapfile");
    fs::write(&swap, vec![0; 4 << 20]).unwrap();
    run(Command::new("mkswap").arg(&swap));
    let header = fs::read(&swap).unwrap();
    let mut used = header.clone();
    for page in used[PAGE..].chunks_mut(PAGE) {
        page[..SECRET.len()].copy_from_slice(SECRET);
    }
    fs::write(&swap, &used).unwrap();
    let fstab = root.join("etc/fstab");
    let lines = fs::read_to_string(&fstab).unwrap() + "/swapfile none swap sw 0 0\n";
    fs::write(&fstab, lines).unwrap();
    let source = disk_of(folder.path(), &root, "physical.img", UUID);
    let out = folder.path().join("guest.img");
    let convert = [
        "convert",
        text(&source),
        "--to",
        "kvm",
        "-O",
        "raw",
        "-o",
        text(&out),
    ];
    rehome_ends(0, &convert);
    assert!(small_guest::file_in(&source, "/swapfile") == used);
    assert!(small_guest::file_in(&out, "/swapfile") == header);
    is_clean(&out);

    used[PAGE - 10..PAGE].copy_from_slice(b"S1SUSPEND\0");
    fs::write(&swap, &used).unwrap();
    let asleep = disk_of(folder.path(), &root, "asleep.img", UUID);
    let said = rehome_ends(3, &["plan", text(&asleep), "--to", "kvm"]);
    assert!(
        said.contains("hibernated") && said.contains("/swapfile"),
        "{said}"
    );
}

#[test]
fn a_killed_conversion_resumes_to_identical_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let root = tree(folder.path());
    // Data that takes a while and does not compress to zeros.
    let mut noise = vec![0; 30 << 20];
    blake3::Hasher::new().finalize_xof().fill(&mut noise);
    fs::write(root.join("noise"), noise).unwrap();
    let source = disk_of(folder.path(), &root, "physical.img", UUID);
    for format in ["qcow2", "raw"] {
        let whole = folder.path().join(format!("whole-{format}"));
        let out = folder.path().join(format!("guest-{format}"));
        let words = |out: &Path, more: &[&str]| {
            let mut words: Vec<String> = [
                "convert",
                text(&source),
                "--to",
                "kvm",
                "-O",
                format,
                "--checkpoint",
                "1M",
                "-o",
            ]
            .map(str::to_owned)
            .to_vec();
            words.push(text(out).to_owned());
            words.extend(more.iter().map(|word| (*word).to_owned()));
            words
        };
        let start = |words: &[String]| {
            let mut command = Command::new(env!("CARGO_BIN_EXE_rehome"));
            command.args(words).env("SOURCE_DATE_EPOCH", "1700000000");
            command
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .unwrap()
        };
        assert!(start(&words(&whole, &[])).wait().unwrap().success());
        let work = folder.path().join(format!(".guest-{format}.rehome-work"));
        let mut killed = 0;
        for attempt in 0..200 {
            let resume: &[&str] = if work.exists() { &["--resume"] } else { &[] };
            let mut child = start(&words(&out, resume));
            thread::sleep(Duration::from_millis(5 + attempt % 40 * 10));
            if child.try_wait().unwrap().is_none() {
                child.kill().unwrap();
                killed += 1;
            }
            child.wait().unwrap();
            // Killed between the last name and the removal of the work folder, it is published again when resumed.
            if (out.exists() && !work.exists()) || killed >= 8 {
                break;
            }
        }
        if !out.exists() || work.exists() {
            let words = words(&out, if work.exists() { &["--resume"] } else { &[] });
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            rehome_ends(0, &words);
        }
        assert!(killed > 0, "it was never killed");
        assert_eq!(hash(&out), hash(&whole), "{format}, killed {killed} times");
        assert!(!work.exists());
    }
}

#[test]
fn a_run_is_not_resumed_in_another_format() {
    let folder = tempfile::tempdir().unwrap();
    let root = tree(folder.path());
    let mut noise = vec![0; 40 << 20];
    blake3::Hasher::new().finalize_xof().fill(&mut noise);
    fs::write(root.join("noise"), noise).unwrap();
    let source = disk_of(folder.path(), &root, "physical.img", UUID);
    let out = folder.path().join("guest");
    let work = folder.path().join(".guest.rehome-work");
    let words = [
        "convert",
        text(&source),
        "--to",
        "kvm",
        "--checkpoint",
        "1M",
        "-o",
        text(&out),
    ];
    let ledger = || fs::metadata(work.join("ledgers/guest")).map_or(0, |metadata| metadata.len());
    for _ in 0..100 {
        let mut child = Command::new(env!("CARGO_BIN_EXE_rehome"));
        let mut child = child
            .args(words)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        while ledger() <= 1000 && child.try_wait().unwrap().is_none() {
            thread::sleep(Duration::from_micros(200));
        }
        child.kill().unwrap();
        child.wait().unwrap();
        if ledger() > 1000 {
            break;
        }
        let _ = fs::remove_dir_all(&work);
        for name in ["guest", "guest.xml", "guest.report.json"] {
            let _ = fs::remove_file(folder.path().join(name));
        }
    }
    assert!(work.exists(), "it was never killed in time");
    let said = rehome_ends(1, &[&words[..], &["-O", "raw", "--resume"]].concat());
    assert!(said.contains("another plan"), "{said}");
    rehome_ends(0, &[&words[..], &["--resume", "--verify"]].concat());
}

#[test]
fn a_plan_can_be_saved_carried_out_and_gets_stale() {
    let folder = tempfile::tempdir().unwrap();
    let root = tree(folder.path());
    let source = disk_of(folder.path(), &root, "physical.img", UUID);
    let (plan, out) = (folder.path().join("plan.json"), folder.path().join("guest.qcow2"));
    let said = rehome_ends(0, &["plan", text(&source), "--to", "kvm", "-o", text(&plan)]);
    assert!(
        said.contains("/etc/fstab") && said.contains("virtio_blk"),
        "{said}"
    );
    rehome_ends(
        0,
        &[
            "convert",
            text(&source),
            "--to",
            "kvm",
            "--plan",
            text(&plan),
            "-o",
            text(&out),
        ],
    );
    assert!(out.exists());

    let fstab = root.join("etc/fstab");
    fs::write(&fstab, "/dev/sda1 / ext4 defaults 0 1\n").unwrap();
    let changed = disk_of(folder.path(), &root, "changed.img", UUID);
    let other = folder.path().join("other.qcow2");
    let said = rehome_ends(
        1,
        &[
            "convert",
            text(&changed),
            "--to",
            "kvm",
            "--plan",
            text(&plan),
            "-o",
            text(&other),
        ],
    );
    assert!(said.contains("is stale"), "{said}");
    assert!(!other.exists());
}

#[test]
fn a_dry_run_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let source = disk(folder.path());
    let out = folder.path().join("guest.qcow2");
    let names = || {
        let mut names: Vec<_> = fs::read_dir(folder.path())
            .unwrap()
            .map(|e| e.unwrap().file_name())
            .collect();
        names.sort();
        names
    };
    let before = names();
    let said = rehome_ends(
        0,
        &[
            "convert",
            text(&source),
            "--to",
            "kvm",
            "-o",
            text(&out),
            "--dry-run",
        ],
    );
    assert!(said.contains("edited   /etc/fstab"), "{said}");
    assert_eq!(names(), before);
}

#[test]
fn a_system_without_a_driver_for_the_new_controller_is_a_blocker() {
    let folder = tempfile::tempdir().unwrap();
    let root = tree(folder.path());
    let modules = root.join("usr/lib/modules").join(KERNEL);
    for name in ["modules.alias", "modules.dep"] {
        let lines = fs::read_to_string(modules.join(name)).unwrap();
        let kept: String = lines
            .lines()
            .filter(|line| !line.contains("virtio"))
            .map(|line| format!("{line}\n"))
            .collect();
        fs::write(modules.join(name), kept).unwrap();
    }
    let source = disk_of(folder.path(), &root, "physical.img", UUID);
    // A machine with virtio-blk alone.
    let shown = String::from_utf8(rehome(&["machine", "show", "kvm"]).stdout).unwrap();
    let mut machine: toml::Table = shown.parse().unwrap();
    machine["storage"].as_array_mut().unwrap().truncate(1);
    let file = folder.path().join("only-virtio.toml");
    fs::write(&file, machine.to_string()).unwrap();
    let out = folder.path().join("guest.qcow2");
    let said = rehome_ends(
        3,
        &["convert", text(&source), "--to", text(&file), "-o", text(&out)],
    );
    assert!(said.contains("virtio-blk") && said.contains(KERNEL), "{said}");
    assert!(!out.exists());
    rehome_ends(3, &["plan", text(&source), "--to", text(&file)]);
}

#[test]
fn an_unknown_system_moves_raw_and_the_plan_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("strange");
    fs::create_dir(&root).unwrap();
    fs::write(root.join("data"), "not an operating system that anybody knows").unwrap();
    let source = disk_of(folder.path(), &root, "strange.img", UUID);
    let out = folder.path().join("guest.raw");
    let said = rehome_ends(
        0,
        &[
            "convert",
            text(&source),
            "--to",
            "kvm",
            "-O",
            "raw",
            "-o",
            text(&out),
        ],
    );
    assert!(said.contains("not one that is understood"), "{said}");
    assert_eq!(file_in(&out, "/data"), fs::read(root.join("data")).unwrap());
    is_clean(&out);
}

#[test]
fn several_disks_go_to_a_folder() {
    let folder = tempfile::tempdir().unwrap();
    let source = disk(folder.path());
    let data = folder.path().join("data");
    fs::create_dir(&data).unwrap();
    fs::write(data.join("file"), "on the second disk").unwrap();
    let second = disk_of(
        folder.path(),
        &data,
        "second.img",
        "00000000-1111-2222-3333-444444444444",
    );
    let out = folder.path().join("moved");
    rehome_ends(
        0,
        &[
            "convert",
            text(&source),
            text(&second),
            "--to",
            "kvm",
            "-o",
            text(&out),
        ],
    );
    let mut names: Vec<_> = fs::read_dir(&out)
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(
        names,
        [
            "moved-disk0.qcow2",
            "moved-disk1.qcow2",
            "moved.xml",
            "report.json"
        ]
    );
    assert_eq!(
        file_in(&raw_of(&out.join("moved-disk1.qcow2")), "/file"),
        b"on the second disk"
    );
    run(Command::new("virt-xml-validate").arg(out.join("moved.xml")));
}

#[test]
fn two_filesystems_of_one_uuid_are_pointed_out() {
    let folder = tempfile::tempdir().unwrap();
    let source = disk(folder.path());
    let twin = folder.path().join("twin.img");
    fs::copy(&source, &twin).unwrap();
    let said = rehome_ends(0, &["plan", text(&source), text(&twin), "--to", "kvm"]);
    assert!(
        said.contains(UUID) && said.contains("disk0/p1") && said.contains("disk1/p1"),
        "{said}"
    );
}

#[test]
fn a_full_destination_is_said_and_leaves_nothing_under_the_final_name() {
    let folder = tempfile::tempdir().unwrap();
    let source = disk(folder.path());
    let small = folder.path().join("small");
    fs::create_dir(&small).unwrap();
    // A filesystem of 400 KiB: mounting is the one thing here that wants root, which the test machines are.
    run(Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=400k", "none"])
        .arg(&small));
    let out = small.join("guest.qcow2");
    let said = rehome(&["convert", text(&source), "--to", "kvm", "-o", text(&out)]);
    let left = out.exists();
    run(Command::new("umount").arg(&small));
    let errors = String::from_utf8_lossy(&said.stderr);
    assert_eq!(said.status.code(), Some(1), "{errors}");
    assert!(
        errors.contains("bytes are needed") || errors.contains("more bytes"),
        "{errors}"
    );
    assert!(!left);
}

#[test]
fn a_folder_that_cannot_be_written_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let source = disk(folder.path());
    let said = rehome_ends(
        1,
        &["convert", text(&source), "--to", "kvm", "-o", "/proc/guest.qcow2"],
    );
    assert!(said.contains("/proc"), "{said}");
    let absent = folder.path().join("absent/guest.qcow2");
    let said = rehome_ends(1, &["convert", text(&source), "--to", "kvm", "-o", text(&absent)]);
    assert!(said.contains("absent"), "{said}");
}

#[test]
fn a_destination_that_exists_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let source = disk(folder.path());
    let definition = folder.path().join("guest.xml");
    let out = folder.path().join("guest.qcow2");
    fs::write(&definition, "mine").unwrap();
    let said = rehome_ends(1, &["convert", text(&source), "--to", "kvm", "-o", text(&out)]);
    assert!(said.contains("guest.xml") && !out.exists(), "{said}");
    fs::remove_file(definition).unwrap();
    fs::write(&out, "mine").unwrap();
    let said = rehome_ends(1, &["convert", text(&source), "--to", "kvm", "-o", text(&out)]);
    assert!(said.contains("guest.qcow2"), "{said}");
    assert_eq!(fs::read(&out).unwrap(), b"mine");
    fs::set_permissions(&out, fs::Permissions::from_mode(0o644)).unwrap();
    let rest: Vec<_> = fs::read_dir(folder.path())
        .unwrap()
        .map(|e| e.unwrap().file_name())
        .collect();
    assert!(
        !rest
            .iter()
            .any(|name| name.to_string_lossy().contains("rehome-work")),
        "{rest:?}"
    );
}

#[test]
fn what_was_found_different_is_not_resumed() {
    let folder = tempfile::tempdir().unwrap();
    let source = disk(folder.path());
    let out = folder.path().join("guest.raw");
    let work = folder.path().join(".guest.raw.rehome-work");
    // As a run leaves it that has seen its source change.
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
    fs::create_dir(&work).unwrap();
    for name in ["products", "ledgers", "kept"] {
        fs::create_dir(work.join(name)).unwrap();
    }
    fs::write(work.join("kept/different"), "the source has changed").unwrap();
    let said = rehome_ends(1, &[&words[..], &["--resume"]].concat());
    assert!(
        said.contains("the source has changed") && said.contains("remove the work folder"),
        "{said}"
    );
    assert!(!out.exists());
}

#[test]
fn a_plan_of_one_unknown_disk_is_not_that_of_another() {
    let folder = tempfile::tempdir().unwrap();
    let (one, other) = (folder.path().join("one.img"), folder.path().join("other.img"));
    fs::write(&one, vec![1; 1 << 20]).unwrap();
    fs::write(&other, vec![2; 2 << 20]).unwrap();
    let (plan, out) = (folder.path().join("plan.json"), folder.path().join("out.raw"));
    rehome_ends(0, &["plan", text(&one), "--to", "kvm", "-o", text(&plan)]);
    let words = |disk: &str| {
        [
            "convert",
            disk,
            "--to",
            "kvm",
            "-O",
            "raw",
            "--plan",
            text(&plan),
            "-o",
            text(&out),
        ]
        .map(str::to_owned)
    };
    let run = |disk: &Path| rehome(&words(text(disk)).iter().map(String::as_str).collect::<Vec<_>>());
    assert_eq!(run(&other).status.code(), Some(1));
    assert_eq!(run(&one).status.code(), Some(0));
}

#[test]
fn a_reader_that_goes_away_changes_no_exit_code() {
    let folder = tempfile::tempdir().unwrap();
    let source = disk(folder.path());
    let offset = small_guest::PARTITION + 1024 + 0x60;
    let mut file = fs::File::options().write(true).open(&source).unwrap();
    std::io::Seek::seek(&mut file, std::io::SeekFrom::Start(offset)).unwrap();
    std::io::Write::write_all(&mut file, &[0, 0, 0, 0x80]).unwrap();
    let script = format!(
        "{} plan '{}' --to kvm | true; echo ${{PIPESTATUS[0]}}",
        env!("CARGO_BIN_EXE_rehome"),
        text(&source)
    );
    assert_eq!(run(Command::new("bash").arg("-c").arg(script)).trim(), "3");
}

#[test]
fn the_disk_is_not_called_like_what_lies_beside_it() {
    let folder = tempfile::tempdir().unwrap();
    let source = disk(folder.path());
    let out = folder.path().join("guest.xml");
    let said = rehome_ends(1, &["convert", text(&source), "--to", "kvm", "-o", text(&out)]);
    assert!(
        said.contains("name the disk otherwise") && !out.exists(),
        "{said}"
    );
}

#[test]
fn a_device_is_not_written_over_itself() {
    let folder = tempfile::tempdir().unwrap();
    let source = disk(folder.path());
    let before = hash(&source);
    // Loop devices want root, which the test machines are.
    let device = run(Command::new("losetup").args(["--find", "--show"]).arg(&source));
    let device = device.trim();
    let words = [
        "convert",
        device,
        "--to",
        "kvm",
        "-o",
        device,
        "--yes-erase",
        device,
    ];
    let output = rehome(&words);
    run(Command::new("losetup").args(["-d", device]));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{errors}");
    assert!(errors.contains("same disk as the source"), "{errors}");
    assert_eq!(hash(&source), before);
}
