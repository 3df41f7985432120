//! A system of a few files on a disk of 64 MiB, made in a second by mke2fs and sfdisk: enough of a Debian for every
//! decision of the program, though it has no kernel to boot.

#![allow(dead_code)] // Each test file uses its own part of this.

use std::{
    fs,
    io::{Read, Seek, SeekFrom, Write},
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

/// The kernel that is said to be installed.
pub(crate) const KERNEL: &str = "6.1.0-28-amd64";
/// The filesystem's UUID.
pub(crate) const UUID: &str = "6d0f3a7e-0f0c-4a39-9d4b-2f7b1c0e5a11";
/// Where the only partition begins, in bytes.
pub(crate) const PARTITION: u64 = 1 << 20;
/// Size of the disk in bytes.
pub(crate) const SIZE: u64 = 64 << 20;

/// Runs a tool that must succeed; gives what it printed.
pub(crate) fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{command:?}: {}\n{text}{errors}",
        output.status
    );
    text
}

/// The program under test, with `arguments`.
pub(crate) fn rehome(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_rehome"));
    command
        .args(arguments)
        .stdin(Stdio::null())
        .env("SOURCE_DATE_EPOCH", "1700000000");
    command.output().expect("the program starts")
}

/// The same, which must end with `code`; gives stdout and stderr as one text.
pub(crate) fn rehome_ends(code: i32, arguments: &[&str]) -> String {
    let output = rehome(arguments);
    let text =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert_eq!(
        output.status.code(),
        Some(code),
        "rehome {arguments:?} printed:\n{text}"
    );
    text
}

/// BLAKE3 of a file.
pub(crate) fn hash(path: &Path) -> String {
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(fs::File::open(path).unwrap()).unwrap();
    hasher.finalize().to_hex().to_string()
}

/// The tree of the system, in `folder`.
pub(crate) fn tree(folder: &Path) -> PathBuf {
    let root = folder.join("root");
    for directory in [
        "boot/grub",
        "etc/default",
        "etc/initramfs-tools/conf.d",
        "etc/network/interfaces.d",
        "etc/systemd/network",
        "usr/sbin",
        "usr/bin",
        "usr/lib/systemd",
        "tmp",
    ] {
        fs::create_dir_all(root.join(directory)).unwrap();
    }
    for (link, target) in [("lib", "usr/lib"), ("sbin", "usr/sbin"), ("bin", "usr/bin")] {
        symlink(target, root.join(link)).unwrap();
    }
    let write = |path: &str, text: &str| {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    };
    write(
        "usr/lib/os-release",
        "PRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\nID=debian\nVERSION_ID=\"12\"\nVERSION_CODENAME=bookworm\n",
    );
    symlink("../usr/lib/os-release", root.join("etc/os-release")).unwrap();
    write("etc/hostname", "old-server\n");
    write(
        "etc/fstab",
        "# made by the installer\n/dev/sda1 / ext4 errors=remount-ro 0 1\n/dev/sr0 /media auto noauto 0 0\n",
    );
    write(
        "etc/default/grub",
        "GRUB_DEFAULT=0\nGRUB_CMDLINE_LINUX=\"root=/dev/sda1\"\n",
    );
    write(
        "etc/initramfs-tools/initramfs.conf",
        "MODULES=dep\nCOMPRESS=gzip\n",
    );
    write("etc/initramfs-tools/modules", "# List of modules\n");
    write(
        "etc/network/interfaces",
        "auto lo\niface lo inet loopback\nauto enp2s0\niface enp2s0 inet static\n\taddress 192.0.2.10/24\n",
    );
    write("usr/lib/systemd/libsystemd-shared-252.so", "");
    write("usr/lib/systemd/systemd", "\u{7f}ELF");
    symlink("../lib/systemd/systemd", root.join("usr/sbin/init")).unwrap();
    write("usr/sbin/update-initramfs", "#!/bin/sh\n");
    write(&format!("boot/vmlinuz-{KERNEL}"), "a kernel");
    write(
        "boot/grub/grub.cfg",
        &format!(
            "set default=\"0\"\nmenuentry 'Debian GNU/Linux' --class debian $menuentry_id_option 'gnulinux-simple' {{\n\
             \tinsmod ext2\n\tlinux\t/boot/vmlinuz-{KERNEL} root=/dev/sda1 ro quiet\n\tinitrd\t/boot/initrd.img-{KERNEL}\n}}\n"
        ),
    );
    modules(folder, &root);
    initramfs(folder, &root);
    root
}

/// Modules that are real ELF objects with a `.modinfo` section, and the indexes that depmod makes of them.
fn modules(folder: &Path, root: &Path) {
    let modules = [
        ("virtio", "kernel/drivers/virtio", "", ""),
        ("virtio_ring", "kernel/drivers/virtio", "", ""),
        (
            "virtio_pci",
            "kernel/drivers/virtio",
            "virtio,virtio_ring",
            "pci:v00001AF4d*sv*sd*bc*sc*i*",
        ),
        (
            "virtio_blk",
            "kernel/drivers/block",
            "virtio,virtio_ring",
            "virtio:d00000002v*",
        ),
        (
            "virtio_net",
            "kernel/drivers/net",
            "virtio,virtio_ring",
            "virtio:d00000001v*",
        ),
        (
            "virtio_scsi",
            "kernel/drivers/scsi",
            "virtio,virtio_ring,scsi_mod",
            "virtio:d00000008v*",
        ),
        ("scsi_mod", "kernel/drivers/scsi", "", ""),
        ("sd_mod", "kernel/drivers/scsi", "scsi_mod", "scsi:t-0x00*"),
        (
            "ahci",
            "kernel/drivers/ata",
            "libata",
            "pci:v*d*sv*sd*bc01sc06i01*",
        ),
        ("libata", "kernel/drivers/ata", "scsi_mod", ""),
        (
            "e1000e",
            "kernel/drivers/net/ethernet/intel/e1000e",
            "",
            "pci:v00008086d000010D3sv*sd*bc*sc*i*",
        ),
    ];
    let base = root.join("usr/lib/modules").join(KERNEL);
    for (name, directory, depends, alias) in modules {
        let alias = if alias.is_empty() {
            String::new()
        } else {
            format!("alias={alias}\\0")
        };
        // depmod takes dependencies from symbols, so the indexes below are written by hand.
        let code = format!(
            "const char info[] __attribute__((section(\".modinfo\"), used)) = \"license=GPL\\0{alias}depends={depends}\\0name={name}\\0vermagic={KERNEL} SMP\";\n"
        );
        let source = folder.join(format!("{name}.c"));
        fs::write(&source, code).unwrap();
        fs::create_dir_all(base.join(directory)).unwrap();
        run(Command::new("cc")
            .arg("-c")
            .arg(&source)
            .arg("-o")
            .arg(base.join(directory).join(format!("{name}.ko"))));
    }
    let path = |name: &str| {
        modules
            .iter()
            .find(|module| module.0 == name)
            .map(|module| format!("{}/{name}.ko", module.1))
            .unwrap()
    };
    let mut dep = String::new();
    let mut alias = String::from("# Aliases extracted from modules themselves.\n");
    for (name, _, depends, pattern) in modules {
        let depends: Vec<String> = depends.split(',').filter(|d| !d.is_empty()).map(path).collect();
        dep += &format!(
            "{}:{}{}\n",
            path(name),
            if depends.is_empty() { "" } else { " " },
            depends.join(" ")
        );
        if !pattern.is_empty() {
            alias += &format!("alias {pattern} {name}\n");
        }
    }
    fs::write(base.join("modules.dep"), dep).unwrap();
    fs::write(base.join("modules.alias"), alias).unwrap();
    fs::write(
        base.join("modules.builtin"),
        "kernel/fs/ext4/ext4.ko\nkernel/drivers/pci/pci.ko\n",
    )
    .unwrap();
    fs::write(base.join("modules.softdep"), "# Soft dependencies\n").unwrap();
    fs::write(base.join("modules.symbols"), "# Aliases for symbols\n").unwrap();
    fs::write(base.join("modules.order"), "").unwrap();
}

/// An initramfs as `MODULES=dep` makes it on the old hardware: ahci and sd_mod, no virtio.
fn initramfs(folder: &Path, root: &Path) {
    let tree = folder.join("initramfs");
    let base = tree.join("usr/lib/modules").join(KERNEL);
    fs::create_dir_all(tree.join("conf")).unwrap();
    fs::create_dir_all(tree.join("scripts")).unwrap();
    fs::create_dir_all(tree.join("etc")).unwrap();
    fs::write(tree.join("init"), "#!/bin/sh\n").unwrap();
    fs::write(tree.join("conf/modules"), "").unwrap();
    fs::write(tree.join("conf/initramfs.conf"), "MODULES=dep\n").unwrap();
    let installed = root.join("usr/lib/modules").join(KERNEL);
    let mut dep = String::new();
    for (path, depends) in [
        ("kernel/drivers/scsi/scsi_mod.ko", ""),
        (
            "kernel/drivers/scsi/sd_mod.ko",
            " kernel/drivers/scsi/scsi_mod.ko",
        ),
        ("kernel/drivers/ata/libata.ko", " kernel/drivers/scsi/scsi_mod.ko"),
        (
            "kernel/drivers/ata/ahci.ko",
            " kernel/drivers/ata/libata.ko kernel/drivers/scsi/scsi_mod.ko",
        ),
    ] {
        fs::create_dir_all(base.join(path).parent().unwrap()).unwrap();
        fs::copy(installed.join(path), base.join(path)).unwrap();
        dep += &format!("{path}:{depends}\n");
    }
    fs::write(base.join("modules.dep"), dep).unwrap();
    fs::write(
        base.join("modules.alias"),
        "alias scsi:t-0x00* sd_mod\nalias pci:v*d*sv*sd*bc01sc06i01* ahci\n",
    )
    .unwrap();
    symlink("usr/lib", tree.join("lib")).unwrap();
    let image = root.join("boot").join(format!("initrd.img-{KERNEL}"));
    let script = format!(
        "find . | LC_ALL=C sort | cpio --quiet -o -H newc -R 0:0 | gzip -n > '{}'",
        image.display()
    );
    run(Command::new("sh").arg("-c").arg(script).current_dir(&tree));
}

/// A raw disk with an MBR, one partition and the system in it: `folder/physical.img`.
pub(crate) fn disk(folder: &Path) -> PathBuf {
    disk_of(folder, &tree(folder), "physical.img", UUID)
}

/// A raw disk of `root` called `name`.
pub(crate) fn disk_of(folder: &Path, root: &Path, name: &str, uuid: &str) -> PathBuf {
    let filesystem = folder.join(format!("{name}.ext4"));
    let blocks = (SIZE - PARTITION) / 1024;
    run(Command::new("mke2fs")
        .args(["-q", "-t", "ext4", "-F", "-U", uuid, "-E", "root_owner=0:0", "-d"])
        .arg(root)
        .arg(&filesystem)
        .arg(format!("{blocks}k")));
    let disk = folder.join(name);
    let mut file = fs::File::options()
        .create(true)
        .truncate(true)
        .read(true)
        .write(true)
        .open(&disk)
        .unwrap();
    file.set_len(SIZE).unwrap();
    let mut table = Command::new("sfdisk")
        .args(["-q", "--no-reread", "--no-tell-kernel"])
        .arg(&disk)
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let script = "label: dos\nlabel-id: 0x1a2b3c4d\nstart=2048, type=83, bootable\n";
    table.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
    assert!(table.wait().unwrap().success());
    // GRUB's boot code says its name; that is what tells a BIOS system.
    file.seek(SeekFrom::Start(0x180)).unwrap();
    file.write_all(b"GRUB \0Geom\0Hard Disk\0Read\0 Error\r\n\0")
        .unwrap();
    copy_sparse(&filesystem, &mut file, PARTITION);
    fs::remove_file(filesystem).unwrap();
    disk
}

fn copy_sparse(from: &Path, to: &mut fs::File, offset: u64) {
    let mut from = fs::File::open(from).unwrap();
    let mut buffer = vec![0; 1 << 16];
    let mut at = offset;
    loop {
        let count = from.read(&mut buffer).unwrap();
        if count == 0 {
            return;
        }
        if buffer[..count].iter().any(|byte| *byte != 0) {
            to.seek(SeekFrom::Start(at)).unwrap();
            to.write_all(&buffer[..count]).unwrap();
        }
        at += count as u64;
    }
}

/// The partition of a raw disk as a file of its own, for e2fsck and debugfs.
pub(crate) fn partition(disk: &Path) -> PathBuf {
    let out = disk.with_extension("partition");
    let mut from = fs::File::open(disk).unwrap();
    from.seek(SeekFrom::Start(PARTITION)).unwrap();
    std::io::copy(&mut from, &mut fs::File::create(&out).unwrap()).unwrap();
    out
}

/// A file of the system on a raw disk, as debugfs reads it.
pub(crate) fn file_in(disk: &Path, path: &str) -> Vec<u8> {
    let partition = partition(disk);
    let output = Command::new("debugfs")
        .arg("-R")
        .arg(format!("cat {path}"))
        .arg(&partition)
        .output()
        .unwrap();
    assert!(output.status.success());
    output.stdout
}

/// e2fsck finds nothing on the partition of a raw disk.
pub(crate) fn is_clean(disk: &Path) {
    run(Command::new("e2fsck").arg("-fn").arg(partition(disk)));
}
