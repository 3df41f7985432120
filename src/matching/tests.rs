//! Whole matches on guests in memory.

use super::{
    Binding, DeviceRole, match_guest,
    sample_guest::{ALIAS, DEP, RELEASE, kernel, root, server},
};
use crate::{
    driver::cpio::Writer,
    fs::{GuestPath, Mounts, memory_tree::MemoryTree},
    guest::Guest,
    machine::{self, Machine},
};

fn bind(guest: &Guest, tree: MemoryTree, machine: &Machine) -> Vec<Binding> {
    let mut mounts = Mounts::new(vec![("disk0/p1".into(), Box::new(tree))]);
    mounts.mount(&"/".into(), 0).unwrap();
    match_guest(guest, &mounts, machine).unwrap()
}

fn guest() -> Guest {
    let mut guest = server();
    guest.kernels[0].modules = Some(format!("/usr/lib/modules/{RELEASE}").into());
    guest
}

fn kvm() -> Machine {
    machine::load("kvm", None).unwrap()
}

fn of<'a>(bindings: &'a [Binding], device: &str) -> &'a Binding {
    bindings.iter().find(|binding| binding.device == device).unwrap()
}

#[test]
fn the_whole_chain_with_dependencies_in_order() {
    let machine = kvm();
    let bindings = bind(&guest(), root(DEP, ALIAS), &machine);
    assert_eq!(
        bindings.len(),
        machine.storage.len() + machine.network.len() + machine.devices.len()
    );
    let driver = of(&bindings, "virtio-blk").driver.as_ref().unwrap();
    assert_eq!(driver.modules, ["virtio_pci", "virtio_blk"]);
    let files: Vec<_> = driver.files.iter().map(|file| file.module.as_str()).collect();
    assert_eq!(
        files,
        ["virtio", "virtio_ring", "virtio_pci", "crc_soft", "virtio_blk"]
    );
    assert_eq!(
        driver.files[2].path,
        GuestPath::from(format!(
            "/usr/lib/modules/{RELEASE}/kernel/drivers/virtio/virtio_pci.ko.xz"
        ))
    );
    assert!(driver.built_in.is_empty() && driver.files.iter().all(|file| !file.in_initramfs));
    assert_eq!(of(&bindings, "virtio-blk").role, DeviceRole::Storage);
    assert_eq!(
        of(&bindings, "virtio-net").driver.as_ref().unwrap().modules,
        ["virtio_pci", "virtio_net"]
    );
}

#[test]
fn a_chain_with_one_part_missing_is_no_driver() {
    let bindings = bind(&guest(), root(DEP, ALIAS), &kvm());
    let scsi = of(&bindings, "virtio-scsi");
    assert_eq!(scsi.driver, None);
    let expected = (
        "virtio:d00000008v00001AF4".to_owned(),
        "no module answers to it".to_owned(),
    );
    assert_eq!(scsi.rejected, [expected]);
    assert_eq!(of(&bindings, "e1000e").driver, None);
}

#[test]
fn blacklists_count_by_the_rules_of_kmod() {
    let tree = root(DEP, ALIAS)
        .file("/lib/modprobe.d/a.conf", "blacklist virtio_net\n")
        .file("/etc/modprobe.d/a.conf", "# nothing\n")
        .file("/etc/modprobe.d/b.conf", "# why\nblacklist virtio-blk\n")
        .file("/etc/modprobe.d/c.txt", "blacklist ahci\n")
        .file("/usr/lib/modprobe.d/d.conf", "install sd_mod /bin/false\n");
    let bindings = bind(&guest(), tree, &kvm());
    // The file of the same name in /etc hides that in /lib.
    assert!(of(&bindings, "virtio-net").driver.is_some());
    let blk = of(&bindings, "virtio-blk");
    assert_eq!(blk.driver, None);
    assert_eq!(
        blk.rejected,
        [(
            "virtio_blk".to_owned(),
            "is blacklisted in /etc/modprobe.d/b.conf line 2".to_owned()
        )]
    );
    let ahci = of(&bindings, "ahci");
    assert!(
        ahci.driver.is_none() && ahci.rejected[0].1.contains("/d.conf line 1"),
        "{ahci:?}"
    );
    // A command line is of the kernel that starts with it.
    let mut guest = guest();
    let entry = &mut guest.boot.loader.as_mut().unwrap().entries[0];
    entry.options = "root=/dev/sda1 modprobe.blacklist=virtio_pci".into();
    let bindings = bind(&guest, root(DEP, ALIAS), &kvm());
    assert_eq!(
        of(&bindings, "virtio-net").rejected[0],
        (
            "virtio_pci".to_owned(),
            "is blacklisted by the kernel command line".to_owned()
        )
    );
}

#[test]
fn what_is_built_in_needs_no_file_even_if_the_kernel_does_not_say_its_aliases() {
    let folder = format!("/usr/lib/modules/{RELEASE}");
    let names = "kernel/drivers/virtio/virtio_pci.ko\nkernel/drivers/block/virtio_blk.ko\n";
    let tree = root("", "").file(&format!("{folder}/modules.builtin"), names);
    let bindings = bind(&guest(), tree, &kvm());
    let driver = of(&bindings, "virtio-blk").driver.as_ref().unwrap();
    assert_eq!((&driver.built_in, driver.files.len()), (&driver.modules, 0));
    assert_eq!(driver.modules, ["virtio_pci", "virtio_blk"]);
    let modinfo = "virtio_pci.alias=pci:v00001AF4d*sv*sd*bc*sc*i*\0virtio_pci.license=GPL\0";
    let dep = "kernel/drivers/block/virtio_blk.ko:\n";
    let tree = root(dep, "alias virtio:d00000002v* virtio_blk\n")
        .file(&format!("{folder}/modules.builtin.modinfo"), modinfo);
    let bindings = bind(&guest(), tree, &kvm());
    let driver = of(&bindings, "virtio-blk").driver.as_ref().unwrap();
    assert_eq!((driver.modules.len(), driver.files.len()), (2, 1));
    assert_eq!(driver.built_in, ["virtio_pci"]);
}

#[test]
fn the_initramfs_is_asked_what_it_has_and_what_it_forbids() {
    let bindings = bind(&guest(), root(DEP, ALIAS), &kvm());
    let driver = of(&bindings, "ahci").driver.as_ref().unwrap();
    assert!(driver.files.len() == 2 && driver.files.iter().all(|file| file.in_initramfs));

    let mut image = Writer::new(0);
    for folder in ["etc", "etc/modprobe.d"] {
        image.directory(folder.as_bytes(), 0o755).unwrap();
    }
    image
        .file(b"etc/modprobe.d/x.conf", 0o644, b"blacklist ahci\n")
        .unwrap();
    let path = format!("/boot/initrd.img-{RELEASE}");
    let tree = root(DEP, ALIAS).file(&path, image.finish().unwrap());
    let bindings = bind(&guest(), tree, &kvm());
    let ahci = of(&bindings, "ahci");
    assert!(ahci.driver.is_none());
    assert!(
        ahci.rejected[0]
            .1
            .contains("/etc/modprobe.d/x.conf line 1 of /boot/initrd"),
        "{ahci:?}"
    );

    let tree = root(DEP, ALIAS).file(&path, "this is no archive");
    let bindings = bind(&guest(), tree, &kvm());
    let ahci = of(&bindings, "ahci");
    assert!(
        ahci.driver.is_none() && ahci.rejected[0].1.contains("cannot be read"),
        "{ahci:?}"
    );
    assert!(of(&bindings, "virtio-net").driver.is_some());
}

#[test]
fn modules_that_are_not_there_are_no_driver() {
    let dep = format!("{DEP}kernel/drivers/virtio/virtio_scsi.ko: kernel/gone.ko\n");
    let alias = format!("{ALIAS}alias virtio:d00000008v* virtio_scsi\n");
    let bindings = bind(&guest(), root(&dep, &alias), &kvm());
    let scsi = of(&bindings, "virtio-scsi");
    assert!(
        scsi.driver.is_none() && scsi.rejected[0].1.contains("not there"),
        "{scsi:?}"
    );

    let mut guest = guest();
    guest.kernels.push(kernel("5.10.0-9-amd64", false));
    guest.kernels[1].modules = None;
    let bindings = bind(&guest, root(DEP, ALIAS), &kvm());
    let old: Vec<_> = bindings
        .iter()
        .filter(|binding| binding.kernel == "5.10.0-9-amd64")
        .collect();
    assert_eq!(old.len(), bindings.len() / 2);
    assert!(old.iter().all(|binding| binding.driver.is_none()));
    assert!(
        old[0].rejected[0].1.contains("no folder of modules"),
        "{:?}",
        old[0]
    );
}
