//! Whole guests, in memory.

use super::*;
use crate::{
    disk::MemoryDisk,
    fs::memory_tree::MemoryTree,
    guest::{DeviceName, NameRole},
    machine::Firmware,
    volume::{Partition, TableKind},
};

/// Disks with their partitions, as a scan would find them.
#[derive(Default)]
struct Bench {
    disks: Vec<Arc<dyn Disk>>,
    scan: Scan,
    filesystems: Vec<(String, Box<dyn crate::fs::FileSystem>)>,
    others: Vec<OtherVolume>,
}

impl Bench {
    fn disk(mut self, table: TableKind, grub: bool) -> Self {
        let mut sector = vec![0; 1 << 20];
        if grub {
            sector[..2].copy_from_slice(&[0xeb, 0x63]);
            sector[0x180..0x186].copy_from_slice(b"GRUB \0");
        }
        sector[510..512].copy_from_slice(&[0x55, 0xaa]);
        let label = format!("disk{}", self.disks.len());
        self.disks.push(Arc::new(MemoryDisk::new(label, sector)));
        self.scan.tables.push(Some(table));
        self
    }

    fn partition(&mut self, number: u32, kind: &str) -> String {
        let disk = self.disks.len() - 1;
        let id = format!("disk{disk}/p{number}");
        self.scan.volumes.push(Volume {
            id: id.clone(),
            parents: vec![format!("disk{disk}")],
            disk: self.disks[disk].clone(),
            partition: Some(Partition {
                disk,
                number,
                offset: 0,
                length: 0,
                kind: kind.into(),
                partuuid: Some(format!("1234abcd-{disk}{number}")),
                name: None,
                bootable: false,
            }),
        });
        id
    }

    fn tree(mut self, number: u32, kind: &str, tree: MemoryTree) -> Self {
        let id = self.partition(number, kind);
        self.filesystems.push((id, Box::new(tree)));
        self
    }

    fn other(mut self, number: u32, kind: &str, uuid: &str, hibernated: bool) -> Self {
        let id = self.partition(number, "83");
        self.others.push(OtherVolume {
            volume: id,
            identity: Identity {
                kind: kind.into(),
                uuid: Some(uuid.into()),
                label: None,
            },
            hibernated: hibernated.then(|| "S1SUSPEND".into()),
            problem: None,
        });
        self
    }

    fn inspect(self) -> (Inspection, Mounts) {
        let mut mounts = Mounts::new(self.filesystems);
        let inspection = inspect(&self.disks, &self.scan, &mut mounts, &self.others).unwrap();
        (inspection, mounts)
    }
}

fn elf() -> Vec<u8> {
    let mut header = vec![0; 64];
    header[..6].copy_from_slice(b"\x7fELF\x02\x01");
    header[18] = 62;
    header
}

/// A Debian of today, merged /usr, without /boot and fstab.
fn debian(uuid: &str) -> MemoryTree {
    MemoryTree::new("ext4", uuid)
        .link("/bin", "usr/bin")
        .link("/sbin", "usr/sbin")
        .link("/lib", "usr/lib")
        .link("/etc/os-release", "../usr/lib/os-release")
        .file(
            "/usr/lib/os-release",
            "ID=debian\nVERSION_ID=\"12\"\nPRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\n",
        )
        .link("/usr/sbin/init", "/lib/systemd/systemd")
        .file("/usr/lib/systemd/systemd", elf())
        .file("/usr/lib/x86_64-linux-gnu/systemd/libsystemd-shared-252.so", "")
        .file("/usr/sbin/mkinitramfs", "#!/bin/sh")
        .file("/etc/hostname", "web1\n")
        .directory("/usr/lib/modules/6.1.0-28-amd64")
        .directory("/boot")
}

fn with_kernel(tree: MemoryTree, folder: &str) -> MemoryTree {
    tree.file(&format!("{folder}/vmlinuz-6.1.0-28-amd64"), "k")
        .file(&format!("{folder}/initrd.img-6.1.0-28-amd64"), "i")
}

fn menu(search: &str, folder: &str, root: &str) -> String {
    format!(
        "menuentry 'Debian' {{\n {search}\n linux {folder}/vmlinuz-6.1.0-28-amd64 root={root} ro\n initrd \
         {folder}/initrd.img-6.1.0-28-amd64\n}}\n"
    )
}

#[test]
fn a_bios_machine_with_names_that_do_not_survive() {
    let root = with_kernel(debian("root"), "/boot")
        .file(
            "/etc/fstab",
            "/dev/sda1 / ext4 errors=remount-ro 0 1\n/dev/sda5 none swap sw 0 0\n",
        )
        .file(
            "/boot/grub/grub.cfg",
            menu("set root='hd0,msdos1'", "/boot", "/dev/sda1"),
        )
        .file(
            "/etc/network/interfaces",
            "auto lo enp2s0\niface lo inet loopback\niface enp2s0 inet dhcp\n",
        );
    let bench = Bench::default()
        .disk(TableKind::Mbr, true)
        .tree(1, "83", root)
        .other(5, "swap", "swap-uuid", false);
    let (inspection, mut mounts) = bench.inspect();
    assert_eq!((inspection.guests.len(), inspection.default), (1, Some(0)));
    let guest = &inspection.guests[0];
    assert_eq!(guest.root, "disk0/p1");
    assert_eq!(guest.name, "Debian GNU/Linux 12 (bookworm)");
    assert_eq!(guest.architecture.as_deref(), Some("x86_64"));
    assert_eq!(guest.hostname.as_deref(), Some("web1"));
    assert_eq!(guest.systemd, Some(252));
    assert_eq!(
        guest.boot.firmware,
        Firmware::Bios,
        "{}",
        guest.boot.firmware_because
    );
    assert_eq!(
        guest.initramfs_generator,
        Some(InitramfsGenerator::InitramfsTools)
    );
    let kernel = &guest.kernels[0];
    assert!(kernel.default && guest.kernels.len() == 1);
    assert_eq!(kernel.initramfs, Some("/boot/initrd.img-6.1.0-28-amd64".into()));
    assert_eq!(kernel.modules, Some("/usr/lib/modules/6.1.0-28-amd64".into()));
    let mounts_of: Vec<_> = guest
        .mounts
        .iter()
        .map(|m| (m.path.clone(), &*m.volume))
        .collect();
    assert_eq!(mounts_of, [(Some("/".into()), "disk0/p1"), (None, "disk0/p5")]);
    let names: Vec<_> = guest
        .device_names
        .iter()
        .map(|n: &DeviceName| (&*n.name, n.role, n.volume.as_deref()))
        .collect();
    assert_eq!(
        names,
        [
            ("/dev/sda1", NameRole::Fstab, Some("disk0/p1")),
            ("/dev/sda5", NameRole::Fstab, Some("disk0/p5")),
            ("/dev/sda1", NameRole::KernelRoot, Some("disk0/p1")),
        ]
    );
    assert_eq!(guest.interfaces.len(), 1);
    assert_eq!(
        (guest.remarks.len(), guest.blockers.len()),
        (0, 0),
        "{:?}",
        guest.remarks
    );
    guest.mount(&mut mounts).unwrap();
    assert!(mounts.exists(&"/lib/modules/6.1.0-28-amd64".into()).unwrap());
    let json = serde_json::to_string(guest).unwrap();
    assert_eq!(serde_json::from_str::<Guest>(&json).unwrap(), *guest);
}

#[test]
fn a_uefi_machine_with_everything_on_its_own_partition() {
    let root = debian("root").file(
        "/etc/fstab",
        "UUID=root / ext4 defaults 0 1\nUUID=boot /boot ext4 defaults 0 2\nUUID=ABCD-1234 /boot/efi vfat umask=0077 0 1\n\
         LABEL=missing /srv ext4 defaults 0 2\nUUID=data /data xfs nofail 0 2\n/dev/mapper/vg-x /x ext4 defaults\n",
    );
    let boot = with_kernel(MemoryTree::new("ext4", "boot"), "")
        .file(
            "/grub/grub.cfg",
            menu("search --no-floppy --fs-uuid --set=root boot", "", "UUID=root"),
        )
        .directory("/efi");
    let esp = MemoryTree::new("vfat", "ABCD-1234")
        .file("/EFI/debian/shimx64.efi", "")
        .file("/EFI/debian/grubx64.efi", "")
        .file(
            "/EFI/debian/grub.cfg",
            "search.fs_uuid boot root hd0,gpt2\nset prefix=($root)'/grub'\nconfigfile $prefix/grub.cfg\n",
        );
    let bench = Bench::default()
        .disk(TableKind::Gpt, false)
        .tree(1, "C12A7328-F81F-11D2-BA4B-00A0C93EC93B", esp)
        .tree(2, "0FC63DAF-8483-4772-8E79-3D69D8477DE4", boot)
        .tree(3, "0FC63DAF-8483-4772-8E79-3D69D8477DE4", root)
        .other(4, "xfs", "data", false);
    let (inspection, _) = bench.inspect();
    let guest = &inspection.guests[0];
    assert_eq!(guest.boot.firmware, Firmware::Uefi);
    assert_eq!(guest.boot.esp.as_deref(), Some("disk0/p1"));
    assert_eq!(guest.boot.esp_mount, Some("/boot/efi".into()));
    assert_eq!(
        guest.boot.efi_loaders,
        ["/EFI/debian/grubx64.efi".into(), "/EFI/debian/shimx64.efi".into()]
    );
    assert!(!guest.boot.efi_fallback);
    let entry = &guest.boot.loader.as_ref().unwrap().entries[0];
    assert_eq!(entry.kernel, "/boot/vmlinuz-6.1.0-28-amd64".into());
    assert!(guest.kernels[0].default);
    let paths: Vec<_> = guest.mounts.iter().map(|m| m.path.clone().unwrap()).collect();
    assert_eq!(
        paths,
        ["/".into(), "/boot".into(), "/boot/efi".into(), "/data".into()]
    );
    assert!(
        guest.remarks.len() == 1 && guest.remarks[0].contains("XFS"),
        "{:?}",
        guest.remarks
    );
    assert_eq!(guest.fstab[3].volume, None);
    assert!(inspection.remarks.is_empty());
}

#[test]
fn several_systems_and_the_one_that_starts() {
    let first = with_kernel(debian("one"), "/boot").file(
        "/boot/grub/grub.cfg",
        format!(
            "set default=1\n{}{}",
            menu("search --fs-uuid --set=root one", "/boot", "UUID=one"),
            menu("search --fs-uuid --set=root two", "/boot", "UUID=two")
        ),
    );
    let second = with_kernel(debian("two"), "/boot");
    let third =
        with_kernel(debian("three"), "/boot").file("/boot/grub/grub.cfg", menu("", "/boot", "UUID=three"));
    let bench = Bench::default()
        .disk(TableKind::Mbr, true)
        .tree(1, "83", first)
        .tree(2, "83", second)
        .disk(TableKind::Mbr, true)
        .tree(1, "83", third);
    let (inspection, _) = bench.inspect();
    let roots: Vec<_> = inspection.guests.iter().map(|guest| &*guest.root).collect();
    assert_eq!(roots, ["disk0/p1", "disk0/p2", "disk1/p1"]);
    assert_eq!(inspection.default, Some(1), "{}", inspection.default_because);
    // The other system's entry is not the first one's.
    let entries = &inspection.guests[0].boot.loader.as_ref().unwrap().entries;
    assert_eq!(entries.len(), 1);
    assert!(!entries[0].default);
}

#[test]
fn two_disks_with_one_uuid_are_told() {
    let root = with_kernel(debian("same"), "/boot").file("/etc/fstab", "UUID=same / ext4 defaults 0 1\n");
    let bench = Bench::default()
        .disk(TableKind::Mbr, true)
        .tree(1, "83", root)
        .disk(TableKind::Mbr, false)
        .tree(1, "83", MemoryTree::new("ext4", "same"));
    let (inspection, _) = bench.inspect();
    let remark = &inspection.guests[0].remarks[0];
    assert!(
        remark.contains("disk0/p1") && remark.contains("disk1/p1"),
        "{remark}"
    );
}

#[test]
fn a_hibernated_system_and_what_is_not_handled() {
    let root = with_kernel(debian("root"), "/boot").file("/etc/fstab", "UUID=sw none swap sw 0 0\n");
    let bench = Bench::default()
        .disk(TableKind::Mbr, true)
        .tree(1, "83", root)
        .other(2, "swap", "sw", true)
        .other(3, "LVM2_member", "pv", false);
    let (inspection, _) = bench.inspect();
    assert!(inspection.guests[0].blockers[0].contains("disk0/p2"));
    assert!(inspection.remarks[0].contains("LVM"), "{:?}", inspection.remarks);
}

#[test]
fn other_distributions_are_described() {
    let fedora = MemoryTree::new("ext4", "fedora")
        .file("/etc/os-release", "ID=fedora\n")
        .file("/usr/lib/systemd/systemd", elf())
        .file("/usr/bin/dracut", "")
        .file("/boot/vmlinuz-6.8.5-301.fc40.x86_64", "")
        .file("/boot/initramfs-6.8.5-301.fc40.x86_64.img", "")
        .file("/boot/grub2/grub.cfg", "blscfg\n");
    let (inspection, _) = Bench::default()
        .disk(TableKind::Gpt, false)
        .tree(1, "x", fedora)
        .inspect();
    let guest = &inspection.guests[0];
    assert_eq!(guest.name, "fedora");
    assert!(guest.kernels[0].initramfs.is_some());
    assert_eq!(guest.initramfs_generator, Some(InitramfsGenerator::Dracut));
    assert_eq!(guest.remarks.len(), 2, "{:?}", guest.remarks);
}

#[test]
fn what_is_no_system_is_none() {
    for tree in [
        MemoryTree::new("ext4", "a"),
        MemoryTree::new("ext4", "a").file("/etc/fstab", ""),
        // A folder of a system without a program to start it.
        MemoryTree::new("ext4", "a").file("/etc/os-release", "ID=debian\n"),
        MemoryTree::new("ext4", "a")
            .directory_loop("/etc")
            .link("/sbin", "/sbin"),
        MemoryTree::new("ext4", "a").directory("/etc/os-release"),
    ] {
        let (inspection, _) = Bench::default()
            .disk(TableKind::Mbr, true)
            .tree(1, "83", tree)
            .inspect();
        assert_eq!((inspection.guests.len(), inspection.default), (0, None));
    }
}
