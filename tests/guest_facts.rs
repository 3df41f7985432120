//! What is read of a guest on disks that mke2fs, mkfs.vfat, mkswap and sfdisk made, and of fstab against findmnt.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

use rehome::{
    disk::{Disk, FileDisk, Overlay},
    fs::{GuestPath, Mounts, detect, detect::Detected},
    guest::{self, OtherVolume, fstab},
    machine::Firmware,
    volume,
};
use std::{fs, os::unix::fs::symlink, path::Path, process::Command, sync::Arc};

fn must(program: &str, arguments: &[&str]) -> String {
    let path = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default());
    let output = Command::new(program)
        .args(arguments)
        .env("PATH", path)
        .output()
        .unwrap_or_else(|error| panic!("{program} is needed: {error}"));
    assert!(
        output.status.success(),
        "{program} {arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

fn write(root: &Path, path: &str, contents: impl AsRef<[u8]>) {
    let path = root.join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, contents).unwrap();
}

const ROOT: &str = "0d2f6c0b-6c5e-4a57-9f0f-7d1f3a8e21b1";
const MIB: u64 = 1 << 20;

/// A UEFI Debian with /boot on the root, an ESP and swap; gives the path of its disk.
fn machine(folder: &Path) -> String {
    let tree = folder.join("tree");
    write(
        &tree,
        "usr/lib/os-release",
        "ID=debian\nPRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\n",
    );
    write(&tree, "usr/lib/systemd/systemd", fs::read("/bin/true").unwrap());
    write(&tree, "usr/lib/systemd/libsystemd-shared-252.so", "");
    write(&tree, "usr/lib/modules/6.1.0-28-amd64/modules.dep", "");
    write(&tree, "usr/sbin/mkinitramfs", "");
    write(&tree, "etc/hostname", "web1\n");
    write(
        &tree,
        "etc/fstab",
        format!(
            "UUID={ROOT} / ext4 errors=remount-ro 0 1\nUUID=ABCD-1234 /boot/efi vfat umask=0077 0 1\n/dev/nvme0n1p3 none swap sw 0 0\n"
        ),
    );
    write(
        &tree,
        "etc/netplan/01.yaml",
        "network:\n  ethernets:\n    lan:\n      match:\n        macaddress: 52:54:00:AB:00:01\n      set-name: lan0\n      dhcp4: true\n",
    );
    write(&tree, "boot/vmlinuz-6.1.0-28-amd64", "kernel");
    write(&tree, "boot/initrd.img-6.1.0-28-amd64", "initramfs");
    write(
        &tree,
        "boot/grub/grub.cfg",
        format!(
            "menuentry 'Debian' {{\n\tsearch --no-floppy --fs-uuid --set=root {ROOT}\n\tlinux\t/boot/vmlinuz-6.1.0-28-amd64 root=/dev/nvme0n1p2 ro\n\tinitrd\t/boot/initrd.img-6.1.0-28-amd64\n}}\n"
        ),
    );
    fs::create_dir_all(tree.join("boot/efi")).unwrap();
    for (link, target) in [
        ("lib", "usr/lib"),
        ("sbin", "usr/sbin"),
        ("usr/sbin/init", "/lib/systemd/systemd"),
        ("etc/os-release", "../usr/lib/os-release"),
    ] {
        symlink(target, tree.join(link)).unwrap();
    }
    let disk = folder.join("disk.img");
    fs::File::create(&disk).unwrap().set_len(100 * MIB).unwrap();
    let disk = disk.display().to_string();
    let table = "label: gpt\nstart=2048,size=32MiB,type=C12A7328-F81F-11D2-BA4B-00A0C93EC93B\nsize=48MiB\nsize=8MiB,type=0657FD6D-A4AB-43C4-84E5-0933C84B4F4F\n";
    write(folder, "table", table);
    must(
        "sh",
        &["-c", &format!("sfdisk -q {disk} < {}/table", folder.display())],
    );
    let offset = (1 + 32) * MIB;
    let features = format!("offset={offset}");
    let tree = tree.display().to_string();
    must(
        "mke2fs",
        &[
            "-q", "-t", "ext4", "-U", ROOT, "-E", &features, "-d", &tree, &disk, "48M",
        ],
    );
    let esp = folder.join("esp").display().to_string();
    must("mkfs.vfat", &["-C", "-i", "ABCD1234", &esp, "32768"]);
    for made in ["::EFI", "::EFI/debian"] {
        must("mmd", &["-i", &esp, made]);
    }
    must("mcopy", &["-i", &esp, "/bin/true", "::EFI/debian/grubx64.efi"]);
    let swap = folder.join("swap");
    fs::File::create(&swap).unwrap().set_len(8 * MIB).unwrap();
    let swap = swap.display().to_string();
    must("mkswap", &["-q", &swap]);
    for (part, at) in [(&esp, 1), (&swap, 1 + 32 + 48)] {
        must(
            "dd",
            &[
                &format!("if={part}"),
                &format!("of={disk}"),
                "bs=1M",
                &format!("seek={at}"),
                "conv=notrunc",
                "status=none",
            ],
        );
    }
    disk
}

#[test]
fn a_guest_on_real_filesystems() {
    let folder = tempfile::tempdir().unwrap();
    let path = machine(folder.path());
    let file: Arc<dyn Disk> = Arc::new(FileDisk::open(Path::new(&path)).unwrap());
    let disks: Vec<Arc<dyn Disk>> = vec![Arc::new(Overlay::new(file, 64 * MIB, folder.path()))];
    let scan = volume::scan(&disks).unwrap();
    let (mut filesystems, mut others) = (Vec::new(), Vec::new());
    for volume in &scan.volumes {
        match detect::open(volume.disk.clone()).unwrap() {
            Detected::FileSystem(filesystem) => filesystems.push((volume.id.clone(), filesystem)),
            Detected::Swap(swap) => others.push(OtherVolume {
                volume: volume.id.clone(),
                identity: swap.identity(),
                ..OtherVolume::default()
            }),
            other => panic!("{}: {other:?}", volume.id),
        }
    }
    let mut mounts = Mounts::new(filesystems);
    let inspection = guest::inspect(&disks, &scan, &mut mounts, &others).unwrap();
    assert_eq!(inspection.default, Some(0));
    let guest = &inspection.guests[0];
    assert_eq!(
        (&*guest.name, &*guest.root),
        ("Debian GNU/Linux 12 (bookworm)", "disk0/p2")
    );
    assert_eq!(guest.architecture.as_deref(), Some(std::env::consts::ARCH));
    assert_eq!(
        guest.boot.firmware,
        Firmware::Uefi,
        "{}",
        guest.boot.firmware_because
    );
    assert_eq!(guest.boot.efi_loaders.len(), 1);
    assert!(!guest.boot.efi_fallback && guest.kernels[0].default);
    assert_eq!(
        guest.kernels[0].modules,
        Some("/usr/lib/modules/6.1.0-28-amd64".into())
    );
    let volumes: Vec<_> = guest
        .device_names
        .iter()
        .map(|name| name.volume.as_deref())
        .collect();
    assert_eq!(volumes, [Some("disk0/p3"), Some("disk0/p2")]);
    assert_eq!(
        guest.device_names[1].identity.as_ref().unwrap().uuid.as_deref(),
        Some(ROOT)
    );
    assert_eq!(guest.interfaces[0].name.as_deref(), Some("lan0"));
    assert_eq!(
        guest.mac_matches[0].text,
        "        macaddress: 52:54:00:AB:00:01".into()
    );
    guest.mount(&mut mounts).unwrap();
    let loader = GuestPath::from("/boot/efi/efi/DEBIAN/grubx64.efi");
    let read = mounts.read(&loader, MIB).unwrap().unwrap();
    assert!(read == fs::read("/bin/true").unwrap());
}

/// `findmnt` is util-linux's own reading of fstab.
#[test]
fn fstab_as_findmnt_reads_it() {
    let folder = tempfile::tempdir().unwrap();
    let text = "# comment\nUUID=0d2f6c0b / ext4 errors=remount-ro 0 1\n\n  /dev/sda5\tnone swap sw 0 0\n\
        LABEL=a\\040b /srv/my\\040data xfs defaults,noatime\n   # another\nserver:/x /mnt nfs ro\n/a /b none bind 0 0\n\
        PARTUUID=1234abcd-01 /boot/efi vfat umask=0077 0 1\n";
    let path = folder.path().join("fstab");
    fs::write(&path, text).unwrap();
    let path = path.display().to_string();
    let theirs = must(
        "findmnt",
        &[
            "--tab-file",
            &path,
            "--noheadings",
            "--raw",
            "-o",
            "SOURCE,TARGET,FSTYPE,OPTIONS",
        ],
    );
    // findmnt escapes blanks as \x20 and takes the escapes of fstab away.
    let ours: String = fstab::parse(text.as_bytes())
        .iter()
        .map(|entry| {
            let fields = [&entry.spec, &entry.mount_point, &entry.kind, &entry.options];
            fields.map(|field| field.replace("\\040", "\\x20")).join(" ") + "\n"
        })
        .collect();
    assert_eq!(ours, theirs);
}
