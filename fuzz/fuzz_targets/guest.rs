//! A whole guest: every file that is read on the way from a disk to a plan comes from the input.
//!
//! Input: files, divided by a byte 0xff; the first byte of each says which of [`PATHS`] it is, with bit 7 set it is a
//! link.
#![no_main]

#[path = "../memory_file_system.rs"]
mod memory_file_system;

use libfuzzer_sys::fuzz_target;
use memory_file_system::MemoryFileSystem;
use rehome::{
    disk::{Disk, MemoryDisk},
    fs::{FileSystem, Mounts, mode},
    guest,
    machine::{self, Machine},
    matching,
    plan::{self, Options, Plan},
    volume,
};
use std::sync::{Arc, OnceLock};

const PATHS: [&str; 48] = [
    "/etc/fstab",
    "/etc/os-release",
    "/boot/grub/grub.cfg",
    "/boot/grub/grubenv",
    "/boot/grub/device.map",
    "/boot/vmlinuz-6.1.0-28-amd64",
    "/boot/initrd.img-6.1.0-28-amd64",
    "/boot/config-6.1.0-28-amd64",
    "/boot/vmlinuz-5.10.0-9-amd64",
    "/boot/initrd.img-5.10.0-9-amd64",
    "/etc/default/grub",
    "/etc/default/grub.d/a.cfg",
    "/etc/network/interfaces",
    "/etc/network/interfaces.d/a",
    "/etc/netplan/a.yaml",
    "/etc/systemd/network/10-a.link",
    "/etc/systemd/network/10-a.network",
    "/etc/systemd/network/10-a.network.d/b.conf",
    "/etc/systemd/network/25-br.netdev",
    "/etc/NetworkManager/system-connections/a.nmconnection",
    "/etc/udev/rules.d/70-persistent-net.rules",
    "/etc/crypttab",
    "/etc/hostname",
    "/etc/kernel/cmdline",
    "/etc/hdparm.conf",
    "/etc/smartd.conf",
    "/etc/mdadm/mdadm.conf",
    "/etc/initramfs-tools/conf.d/resume",
    "/etc/initramfs-tools/initramfs.conf",
    "/etc/cloud/cloud.cfg",
    "/var/cache/debconf/config.dat",
    "/var/lib/dpkg/status",
    "/lib/modules/6.1.0-28-amd64/modules.dep",
    "/lib/modules/6.1.0-28-amd64/modules.alias",
    "/lib/modules/6.1.0-28-amd64/modules.builtin",
    "/lib/modules/6.1.0-28-amd64/modules.builtin.modinfo",
    "/lib/modules/6.1.0-28-amd64/modules.softdep",
    "/lib/modules/6.1.0-28-amd64/modules.dep.bin",
    "/lib/modules/6.1.0-28-amd64/modules.alias.bin",
    "/lib/modules/6.1.0-28-amd64/kernel/a.ko",
    "/lib/modules/6.1.0-28-amd64/kernel/b.ko.xz",
    "/etc/modprobe.d/a.conf",
    "/lib/systemd/systemd",
    "/sbin/init",
    "/bin/sh",
    "/usr/sbin/update-initramfs",
    "/etc/systemd/system/multi-user.target.wants/a.service",
    "/boot/efi/EFI/debian/grub.cfg",
];

fuzz_target!(|data: &[u8]| {
    let mut tree = MemoryFileSystem::new();
    for part in data.split(|byte| *byte == 0xff) {
        if let Some((which, contents)) = part.split_first() {
            let path = PATHS[usize::from(which & 127) % PATHS.len()];
            let kind = if which & 128 == 0 { mode::FILE } else { mode::LINK };
            tree.put(path, kind | 0o755, contents);
        }
    }
    let disk: Arc<dyn Disk> = Arc::new(MemoryDisk::new("disk0", vec![0; 1 << 16]));
    let disks = [disk];
    let mut scan = volume::scan(&disks).expect("an empty disk");
    if scan.volumes.is_empty() {
        scan.volumes.push(volume::Volume {
            id: "disk0".to_owned(),
            disk: disks[0].clone(),
            partition: None,
            parents: Vec::new(),
        });
    }
    let filesystem: Box<dyn FileSystem> = Box::new(tree);
    let mut mounts = Mounts::new(vec![(scan.volumes[0].id.clone(), filesystem)]);
    let Ok(inspection) = guest::inspect(&disks, &scan, &mut mounts, &[]) else {
        return;
    };
    for guest in &inspection.guests {
        guest.mount(&mut mounts).expect("its own root");
        for machine in machines() {
            let Ok(bindings) = matching::match_guest(guest, &mounts, machine) else {
                continue;
            };
            let plan = plan::make(guest, machine, &bindings, &Options::default());
            let json = serde_json::to_vec(&plan).expect("a plan is JSON");
            assert_eq!(serde_json::from_slice::<Plan>(&json).expect("our own plan"), plan);
            let _ = plan.to_string();
        }
    }
});

fn machines() -> &'static [Machine] {
    static MACHINES: OnceLock<Vec<Machine>> = OnceLock::new();
    MACHINES.get_or_init(|| machine::list(None).expect("the shipped machines").into_iter().take(2).collect())
}
