//! A guest made of facts, for tests of this room and those above it.

use crate::{
    driver::cpio::Writer,
    fs::{Identity, memory_tree::MemoryTree},
    guest::{
        Boot, BootEntry, BootLoader, BootLoaderKind, DeviceName, FstabEntry, Guest, InitramfsGenerator,
        Interface, Kernel, Mount, NameRole, NetworkProgram, OsRelease,
    },
    machine::Firmware,
};

pub(crate) const ROOT_UUID: &str = "0a1b2c3d-0001-4000-8000-000000000001";
pub(crate) const RELEASE: &str = "6.1.0-28-amd64";

pub(crate) fn ext4(uuid: &str) -> Identity {
    Identity {
        kind: "ext4".into(),
        uuid: Some(uuid.into()),
        label: None,
    }
}

/// A Debian 12 on one disk: MBR, root and swap by their old names, one static interface.
pub(crate) fn server() -> Guest {
    Guest {
        root: "disk0/p1".into(),
        name: "Debian GNU/Linux 12 (bookworm)".into(),
        os: OsRelease {
            id: "debian".into(),
            ..OsRelease::default()
        },
        architecture: Some("x86_64".into()),
        hostname: Some("web1".into()),
        systemd: Some(252),
        mounts: vec![Mount {
            path: Some("/".into()),
            volume: "disk0/p1".into(),
            identity: ext4(ROOT_UUID),
            partuuid: Some("cafe0001-01".into()),
        }],
        fstab: vec![FstabEntry {
            line: 1,
            spec: "/dev/sda1".into(),
            mount_point: "/".into(),
            kind: "ext4".into(),
            options: "defaults".into(),
            volume: Some("disk0/p1".into()),
        }],
        swap_files: Vec::new(),
        kernels: vec![kernel(RELEASE, true)],
        boot: Boot {
            firmware: Firmware::Bios,
            firmware_because: "the disk has an MBR".into(),
            loader: Some(BootLoader {
                kind: BootLoaderKind::Grub2,
                config: "/boot/grub/grub.cfg".into(),
                entries: vec![entry(100, true)],
            }),
            esp: None,
            esp_mount: None,
            efi_loaders: Vec::new(),
            efi_fallback: false,
        },
        initramfs_generator: Some(InitramfsGenerator::InitramfsTools),
        interfaces: vec![interface("enp2s0", 5)],
        device_names: vec![fstab_name()],
        mac_matches: Vec::new(),
        remarks: Vec::new(),
        blockers: Vec::new(),
    }
}

pub(crate) fn kernel(release: &str, default: bool) -> Kernel {
    Kernel {
        release: release.into(),
        image: format!("/boot/vmlinuz-{release}").into(),
        initramfs: Some(format!("/boot/initrd.img-{release}").into()),
        modules: Some(format!("/usr/lib/modules/{release}").into()),
        default,
    }
}

pub(crate) fn entry(line: u32, with_initramfs: bool) -> BootEntry {
    let initramfs = format!("/boot/initrd.img-{RELEASE}");
    BootEntry {
        title: "Debian GNU/Linux".into(),
        id: None,
        kernel: format!("/boot/vmlinuz-{RELEASE}").into(),
        initramfs: with_initramfs.then_some(initramfs.into()).into_iter().collect(),
        options: "root=/dev/sda1 ro quiet".into(),
        line,
        default: true,
    }
}

pub(crate) fn interface(name: &str, line: u32) -> Interface {
    Interface {
        name: Some(name.into()),
        path: "/etc/network/interfaces".into(),
        line,
        by: NetworkProgram::Ifupdown,
        addresses: vec!["192.0.2.10/24".into()],
        dhcp: false,
        mac: None,
        mac_line: None,
        matches_only_mac: false,
        physical: true,
    }
}

/// The first line of its fstab.
fn fstab_name() -> DeviceName {
    DeviceName {
        path: "/etc/fstab".into(),
        line: 1,
        text: "/dev/sda1 / ext4 defaults 0 1".into(),
        name: "/dev/sda1".into(),
        column: 0,
        role: NameRole::Fstab,
        volume: Some("disk0/p1".into()),
        identity: Some(ext4(ROOT_UUID)),
        partuuid: Some("cafe0001-01".into()),
    }
}

pub(crate) const DEP: &str = "\
kernel/drivers/virtio/virtio.ko:
kernel/drivers/virtio/virtio_ring.ko: kernel/drivers/virtio/virtio.ko
kernel/drivers/virtio/virtio_pci.ko.xz: kernel/drivers/virtio/virtio_ring.ko kernel/drivers/virtio/virtio.ko
kernel/drivers/block/virtio_blk.ko: kernel/drivers/virtio/virtio_ring.ko kernel/drivers/virtio/virtio.ko
kernel/drivers/net/virtio_net.ko:
kernel/lib/crc-soft.ko:
kernel/drivers/scsi/sd_mod.ko:
kernel/drivers/ata/ahci.ko:
";
pub(crate) const ALIAS: &str = "\
alias pci:v00001AF4d*sv*sd*bc*sc*i* virtio_pci
alias virtio:d00000002v* virtio_blk
alias virtio:d00000001v* virtio_net
alias scsi:t-0x00* sd_mod
alias pci:v*d*sv*sd*bc01sc06i01* ahci
";

/// A root filesystem with those indexes, a file for each module and an initramfs with ahci and sd_mod.
pub(crate) fn root(dep: &str, alias: &str) -> MemoryTree {
    let folder = format!("/usr/lib/modules/{RELEASE}");
    let mut tree = MemoryTree::new("ext4", "0a1b")
        .file(&format!("{folder}/modules.dep"), dep)
        .file(&format!("{folder}/modules.alias"), alias)
        .file(
            &format!("{folder}/modules.softdep"),
            "softdep virtio_blk pre: crc-soft\n",
        );
    for line in dep.lines() {
        let path = line.split(':').next().unwrap();
        tree = tree.file(&format!("{folder}/{path}"), "no ELF file");
    }
    let mut image = Writer::new(0);
    let modules = format!("lib/modules/{RELEASE}");
    let mut at = String::new();
    for part in modules.split('/') {
        at = if at.is_empty() {
            part.to_owned()
        } else {
            format!("{at}/{part}")
        };
        image.directory(at.as_bytes(), 0o755).unwrap();
    }
    image
        .file(format!("{modules}/ahci.ko").as_bytes(), 0o644, b"x")
        .unwrap();
    image
        .file(format!("{modules}/sd_mod.ko").as_bytes(), 0o644, b"x")
        .unwrap();
    tree.link("/lib", "usr/lib")
        .file(&format!("/boot/initrd.img-{RELEASE}"), image.finish().unwrap())
}
