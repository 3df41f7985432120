//! Whole plans carried out on a guest in memory.

use super::*;
use crate::{
    disk::Kind,
    driver::initramfs::Image,
    fs::{Edit, FileSystem, GuestPath, Mounts, Node, Result, Witness, memory_tree::MemoryTree, mode},
    guest::Guest,
    machine::{self, Firmware},
    matching::{
        match_guest,
        sample_guest::{ALIAS, DEP, RELEASE, root, server},
    },
    plan::{Action, Options, Plan, Step, make, make_raw},
};
use std::{collections::BTreeSet, ops::Range};

fn mounts(tree: MemoryTree) -> Mounts {
    let esp = MemoryTree::new("vfat", "ABCD-1234").file("/EFI/debian/grubx64.efi", "GRUB");
    let mut mounts = Mounts::new(vec![
        ("disk0/p1".into(), Box::new(tree)),
        ("disk0/p2".into(), Box::new(esp)),
    ]);
    mounts.mount(&"/".into(), 0).unwrap();
    mounts
}

fn guest_root() -> MemoryTree {
    root(DEP, ALIAS)
        .file("/etc/fstab", "/dev/sda1 / ext4 defaults 0 1\n# end")
        .file("/etc/initramfs-tools/modules", "# List of modules\nvirtio_pci")
}

fn guest() -> Guest {
    let mut guest = server();
    guest.boot.firmware = Firmware::Uefi;
    guest.boot.esp = Some("disk0/p2".into());
    guest.boot.efi_loaders = vec!["/EFI/debian/grubx64.efi".into()];
    guest.systemd = Some(237);
    guest
}

fn planned(mounts: &Mounts, guest: &Guest) -> Plan {
    let machine = machine::load("kvm", None).unwrap();
    let bindings = match_guest(guest, mounts, &machine).unwrap();
    let options = Options {
        clock: 1_700_000_000,
        ..Options::default()
    };
    let plan = make(guest, &machine, &bindings, &options);
    assert!(plan.blockers.is_empty(), "{plan}");
    plan
}

fn text(mounts: &Mounts, path: &str) -> String {
    let contents = mounts.read(&path.into(), 1 << 20).unwrap().unwrap();
    String::from_utf8(contents).unwrap()
}

fn image(mounts: &Mounts) -> Image {
    let path = format!("/boot/initrd.img-{RELEASE}");
    Image::read(mounts.open(&path.into()).unwrap().unwrap(), &|_| true).unwrap()
}

#[test]
fn a_whole_plan_is_carried_out_judged_and_not_repeated() {
    let mut mounts = mounts(guest_root());
    let plan = planned(&mounts, &guest());
    let edits = apply(&plan, &mut mounts).unwrap();

    assert_eq!(
        text(&mounts, "/etc/fstab"),
        "UUID=0a1b2c3d-0001-4000-8000-000000000001 / ext4 defaults 0 1\n# end"
    );
    assert_eq!(
        text(&mounts, "/etc/initramfs-tools/modules"),
        "# List of modules\nvirtio_pci\n# The disks of this machine hang on virtio-blk (written by rehome).\nvirtio_blk\n"
    );
    let link = "/etc/systemd/network/10-rehome-enp2s0.link";
    assert!(text(&mounts, link).ends_with("[Link]\nName=enp2s0\n"));
    let found = mounts.find(&link.into()).unwrap().unwrap();
    assert_eq!(found.attributes.mode, Some(mode::FILE | 0o644));
    assert_eq!(found.attributes.modified, Some(1_700_000_000_000_000_000));
    let image = image(&mounts);
    assert_eq!(image.segments.len(), 2);
    let modules: Vec<_> = image
        .modules(RELEASE)
        .into_iter()
        .map(|module| module.name)
        .collect();
    assert_eq!(
        modules,
        [
            "ahci",
            "crc_soft",
            "sd_mod",
            "virtio",
            "virtio_blk",
            "virtio_pci",
            "virtio_ring"
        ]
        .map(String::from)
        .to_vec()
    );
    assert_eq!(
        image
            .contents("etc/systemd/network/10-rehome-enp2s0.link")
            .unwrap(),
        text(&mounts, link).as_bytes()
    );
    let esp = mounts
        .find_on(1, &"/EFI/BOOT/BOOTX64.EFI".into())
        .unwrap()
        .unwrap();
    assert_eq!(mounts.read_found(&esp, 10).unwrap(), b"GRUB");

    let changed: Vec<_> = edits
        .changes
        .iter()
        .map(|change| (change.step, change.path.to_string()))
        .collect();
    let expected = [
        "/etc/fstab",
        link,
        &format!("/boot/initrd.img-{RELEASE}"),
        "/etc/initramfs-tools/modules",
        "/EFI/BOOT/BOOTX64.EFI",
    ];
    let expected: Vec<_> = expected
        .iter()
        .enumerate()
        .map(|(step, path)| (step, (*path).to_owned()))
        .collect();
    assert_eq!(changed, expected);
    assert_eq!(
        edits.changes[0].was,
        Some(Digest::of(b"/dev/sda1 / ext4 defaults 0 1\n# end"))
    );
    assert_eq!(edits.changes[1].was, None);
    assert_eq!(edits.volumes(), BTreeSet::from(["disk0/p1", "disk0/p2"]));
    assert_eq!(edits.changed_nodes("disk0/p1").len(), 3);
    for (index, volume) in ["disk0/p1", "disk0/p2"].into_iter().enumerate() {
        judge(&edits, volume, mounts.filesystem(index).unwrap()).unwrap();
    }

    // What the guest is now, moved once more: every file is as it should be already.
    let mut converted = guest();
    converted.device_names.clear();
    converted.boot.efi_fallback = true;
    let again = planned(&mounts, &converted);
    assert!(again.steps.len() < plan.steps.len());
    let edits = apply(&again, &mut mounts).unwrap();
    assert_eq!(edits.changes, []);
}

#[test]
fn a_boot_configuration_stays_last() {
    let tree = guest_root();
    let path = format!("/boot/initrd.img-{RELEASE}");
    let node = walk(&tree, &path);
    let mut old = vec![0; tree.attributes(node).unwrap().size as usize];
    tree.read_at(node, 0, &mut old).unwrap();
    let mut configuration = b"kernel.quiet = 1\n\0\0\0".to_vec();
    let sum: u32 = configuration.iter().map(|byte| u32::from(*byte)).sum();
    let size = configuration.len() as u32;
    configuration.extend(size.to_le_bytes());
    configuration.extend(sum.to_le_bytes());
    configuration.extend(b"#BOOTCONFIG\n");
    let mut mounts = mounts(tree.file(&path, [old.as_slice(), &configuration].concat()));
    let plan = planned(&mounts, &guest());
    apply(&plan, &mut mounts).unwrap();
    let new = mounts.read(&path.as_str().into(), 1 << 20).unwrap().unwrap();
    assert!(new.starts_with(&old) && new.ends_with(&configuration));
    assert_eq!(image(&mounts).segments.len(), 2);
}

fn walk(filesystem: &dyn FileSystem, path: &str) -> Node {
    GuestPath::from(path)
        .components()
        .fold(filesystem.root(), |node, name| {
            filesystem.lookup(node, name).unwrap().unwrap()
        })
}

fn plan_of(action: Action) -> Plan {
    let machine = machine::load("kvm", None).unwrap();
    let mut plan = make_raw(Firmware::Bios, &machine, &Options::default());
    plan.steps.push(Step {
        action,
        because: "of a test".into(),
    });
    plan
}

fn write(path: &str) -> Plan {
    plan_of(Action::WriteFile {
        path: path.into(),
        contents: "ours\n".into(),
        mode: 0o600,
    })
}

#[test]
fn new_folders_and_files_are_like_their_neighbours() {
    let mut tree = guest_root().directory("/etc/systemd");
    let folder = walk(&tree, "/etc/systemd");
    let private = crate::fs::Attributes {
        mode: Some(0o750),
        owner: Some((7, 8)),
        ..crate::fs::Attributes::default()
    };
    tree.set_attributes(folder, &private).unwrap();
    tree.set_extended(folder, b"security.selinux", Some(b"etc_t"))
        .unwrap();
    let mut mounts = mounts(tree);
    let edits = apply(&write("/etc/systemd/network/deep/x.link"), &mut mounts).unwrap();
    let found = |path: &str| mounts.find(&path.into()).unwrap().unwrap();
    let deep = found("/etc/systemd/network/deep");
    assert_eq!(
        (deep.attributes.mode, deep.attributes.owner),
        (Some(mode::DIRECTORY | 0o750), Some((7, 8)))
    );
    let file = found("/etc/systemd/network/deep/x.link");
    assert_eq!(file.attributes.mode, Some(mode::FILE | 0o600));
    let filesystem = mounts.filesystem(0).unwrap();
    assert_eq!(
        filesystem
            .extended(file.node, b"security.selinux")
            .unwrap()
            .unwrap(),
        b"etc_t"
    );
    judge(&edits, "disk0/p1", filesystem).unwrap();
}

#[test]
fn what_is_in_the_way_is_named() {
    let tree = || {
        guest_root()
            .file("/etc/file", "x")
            .directory("/etc/folder")
            .link("/etc/loop", "loop")
    };
    for (path, words) in [
        ("/etc/file/x", "/etc/file is no folder"),
        ("/etc/folder", "no regular file"),
    ] {
        let error = apply(&write(path), &mut mounts(tree())).unwrap_err().to_string();
        assert!(error.contains("step 1") && error.contains(words), "{error}");
    }
    assert!(apply(&write("/etc/loop"), &mut mounts(tree())).is_err());
    let replace = |path: &str, old: &str| {
        plan_of(Action::ReplaceLine {
            path: path.into(),
            line: 1,
            old: old.into(),
            new: "new".into(),
        })
    };
    let error = apply(&replace("/etc/fstab", "/dev/sdb1"), &mut mounts(tree())).unwrap_err();
    assert_eq!(error.kind, Kind::Corrupt);
    assert!(error.to_string().contains("/dev/sda1 / ext4"), "{error}");
    let error = apply(&replace("/etc/gone", ""), &mut mounts(tree())).unwrap_err();
    assert_eq!(error.kind, Kind::NotFound);
    let mut blocked = write("/etc/x");
    blocked.blockers.push("hibernated".into());
    assert_eq!(
        apply(&blocked, &mut mounts(tree())).unwrap_err().kind,
        Kind::Unsafe
    );
}

/// Says what one file holds.
struct Says(Result<Option<Digest>>);

impl Witness for Says {
    fn name(&self) -> &'static str {
        "a stranger"
    }

    fn see(&self, _path: &GuestPath) -> Result<Option<Digest>> {
        match &self.0 {
            Ok(seen) => Ok(*seen),
            Err(error) => Err(crate::disk::Error::new(error.kind, "x", "refuses")),
        }
    }
}

#[test]
fn judges_see_what_is_not_as_it_was_written() {
    let mut mounts = mounts(guest_root());
    let edits = apply(&write("/etc/x"), &mut mounts).unwrap();
    let ours = Digest::of(b"ours\n");
    let ask = |seen| ask_witness(&edits, "disk0/p1", &Says(seen));
    assert!(ask(Ok(Some(ours))).unwrap());
    assert!(!ask(Err(crate::disk::Error::new(Kind::Unsupported, "x", "refuses"))).unwrap());
    for seen in [None, Some(Digest::of(b"other"))] {
        let error = ask(Ok(seen)).unwrap_err();
        assert!(
            error.kind == Kind::Corrupt && error.to_string().contains("a stranger finds that /etc/x"),
            "{error}"
        );
    }

    let node = mounts.find(&"/etc/x".into()).unwrap().unwrap().node;
    judge(&edits, "disk0/p1", mounts.filesystem(0).unwrap()).unwrap();
    type Spoil<'a> = &'a dyn Fn(&mut dyn Edit);
    let spoil: [Spoil<'_>; 3] = [
        &|edit| edit.set_extended(node, b"user.a", Some(b"b")).unwrap(),
        &|edit| {
            edit.set_attributes(
                node,
                &crate::fs::Attributes {
                    owner: Some((1, 1)),
                    ..Default::default()
                },
            )
            .unwrap()
        },
        &|edit| edit.replace(node, &mut &b"theirs\n"[..]).unwrap(),
    ];
    for (spoil, words) in spoil.into_iter().zip(["extended", "owner", "contents"]) {
        spoil(mounts.edit(0).unwrap());
        let error = judge(&edits, "disk0/p1", mounts.filesystem(0).unwrap()).unwrap_err();
        assert!(
            error.kind == Kind::Corrupt && error.to_string().contains(words),
            "{words}: {error}"
        );
    }
}

/// A tree that says where its files' data lie.
struct Mapped(MemoryTree, Vec<(Node, Range<u64>)>);

impl FileSystem for Mapped {
    fn identity(&self) -> crate::fs::Identity {
        self.0.identity()
    }
    fn root(&self) -> Node {
        self.0.root()
    }
    fn lookup(&self, directory: Node, name: &[u8]) -> Result<Option<Node>> {
        self.0.lookup(directory, name)
    }
    fn list(&self, directory: Node, each: &mut dyn FnMut(&[u8], Node) -> bool) -> Result<()> {
        self.0.list(directory, each)
    }
    fn attributes(&self, node: Node) -> Result<crate::fs::Attributes> {
        self.0.attributes(node)
    }
    fn read_at(&self, node: Node, offset: u64, buffer: &mut [u8]) -> Result<usize> {
        self.0.read_at(node, offset, buffer)
    }
    fn extended(&self, node: Node, name: &[u8]) -> Result<Option<Vec<u8>>> {
        self.0.extended(node, name)
    }
    fn extended_names(&self, node: Node) -> Result<Vec<Vec<u8>>> {
        self.0.extended_names(node)
    }
    fn data_runs(&self, each: &mut dyn FnMut(Node, Range<u64>) -> Result<()>) -> Result<()> {
        self.1.iter().try_for_each(|(node, run)| each(*node, run.clone()))
    }
    fn free_bytes(&self) -> Result<u64> {
        self.0.free_bytes()
    }
    fn edit(&mut self) -> Result<&mut dyn Edit> {
        self.0.edit()
    }
}

#[test]
fn an_edit_that_touches_the_data_of_another_file_is_stopped_and_the_file_is_named() {
    let tree = guest_root().file("/home/photo", "x");
    let (photo, fstab) = (walk(&tree, "/home/photo"), walk(&tree, "/etc/fstab"));
    let mapped = Mapped(
        tree,
        vec![(fstab, 0..4096), (photo, 8192..12288), (photo, 20480..24576)],
    );
    let changed = BTreeSet::from([fstab]);
    let touch = |written: &[Range<u64>]| audit("disk0/p1", &mapped, written, &changed);
    // Its own data, metadata and what was free.
    touch(&[0..8192, 12288..20480, 24576..30000]).unwrap();
    touch(&[]).unwrap();
    for written in [
        &[(0, 8193)][..],
        &[(0, 100), (12287, 12288)],
        &[(100, 200), (20000, 50000)],
    ] {
        let written: Vec<Range<u64>> = written.iter().map(|(start, end)| *start..*end).collect();
        let error = touch(&written).unwrap_err();
        assert_eq!(error.kind, Kind::Corrupt);
        assert!(error.to_string().contains("/home/photo"), "{error}");
    }
}
