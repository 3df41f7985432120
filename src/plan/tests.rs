//! Whole plans for guests made of facts.

use super::*;
use crate::{
    fs::Identity,
    guest::{DeviceName, FstabEntry, Guest, Interface, MacMatch, Mount, NameRole},
    machine,
    matching::{
        DeviceRole, Driver, ModuleFile,
        sample_guest::{RELEASE, ROOT_UUID, entry, ext4, interface, kernel, server},
    },
};

const SWAP_UUID: &str = "0a1b2c3d-0002-4000-8000-000000000002";

/// A name on the root's volume, found in `text`.
fn name(path: &str, line: u32, text: &str, name: &str, role: NameRole) -> DeviceName {
    DeviceName {
        path: path.into(),
        line,
        text: text.into(),
        name: name.into(),
        column: text.find(name).unwrap() as u32,
        role,
        volume: Some("disk0/p1".into()),
        identity: Some(ext4(ROOT_UUID)),
        partuuid: Some("cafe0001-01".into()),
    }
}

fn swap_name(path: &str, line: u32, text: &str, name_: &str, role: NameRole) -> DeviceName {
    DeviceName {
        volume: Some("disk0/p5".into()),
        identity: Some(Identity {
            kind: "swap".into(),
            ..ext4(SWAP_UUID)
        }),
        partuuid: Some("cafe0001-05".into()),
        ..name(path, line, text, name_, role)
    }
}

fn module(release: &str, name: &str, folder: &str, in_initramfs: bool) -> ModuleFile {
    ModuleFile {
        module: name.into(),
        path: format!("/usr/lib/modules/{release}/kernel/{folder}/{name}.ko").into(),
        in_initramfs,
    }
}

/// Every device has a driver; the initramfs holds nothing of virtio.
fn bindings(release: &str, machine: &Machine) -> Vec<Binding> {
    let storage = machine
        .storage
        .iter()
        .map(|c| (DeviceRole::Storage, c.model.as_str()));
    let network = machine
        .network
        .iter()
        .map(|a| (DeviceRole::Network, a.model.as_str()));
    let bind = |(role, model): (DeviceRole, &str)| {
        let modules: &[(&str, &str)] = match model {
            "virtio-blk" => &[("virtio_pci", "drivers/virtio"), ("virtio_blk", "drivers/block")],
            "virtio-scsi" => &[
                ("virtio_pci", "drivers/virtio"),
                ("virtio_scsi", "drivers/scsi"),
                ("sd_mod", "drivers/scsi"),
            ],
            "ahci" => &[("ahci", "drivers/ata"), ("sd_mod", "drivers/scsi")],
            "virtio-net" => &[("virtio_pci", "drivers/virtio"), ("virtio_net", "drivers/net")],
            _ => &[("e1000e", "drivers/net/ethernet/intel/e1000e")],
        };
        Binding {
            device: model.into(),
            role,
            kernel: release.into(),
            driver: Some(Driver {
                modules: modules.iter().map(|(name, _)| (*name).into()).collect(),
                built_in: Vec::new(),
                files: modules
                    .iter()
                    .map(|(name, folder)| module(release, name, folder, *name == "ahci" || *name == "sd_mod"))
                    .collect(),
                missing_firmware: Vec::new(),
            }),
            rejected: Vec::new(),
        }
    };
    storage.chain(network).map(bind).collect()
}

fn plan_for(guest: &Guest, machine: &str) -> Plan {
    let machine = machine::load(machine, None).unwrap();
    let bindings: Vec<_> = guest
        .kernels
        .iter()
        .flat_map(|kernel| bindings(&kernel.release, &machine))
        .collect();
    make(guest, &machine, &bindings, &Options::default())
}

/// Whether any warning of the plan has all the words.
fn warned(plan: &Plan, words: &[&str]) -> bool {
    plan.warnings
        .iter()
        .any(|warning| words.iter().all(|word| warning.contains(word)))
}

fn replaced(plan: &Plan, path: &str, line: u32) -> String {
    let lines: Vec<_> = plan
        .steps
        .iter()
        .filter_map(|step| match &step.action {
            Action::ReplaceLine {
                path: p,
                line: l,
                new,
                ..
            } if *p == GuestPath::from(path) && *l == line => Some(new.to_string()),
            _ => None,
        })
        .collect();
    assert_eq!(lines.len(), 1, "{path} {line}: {plan}");
    lines.into_iter().next().unwrap()
}

fn written(plan: &Plan) -> Vec<(String, String)> {
    plan.steps
        .iter()
        .filter_map(|step| match &step.action {
            Action::WriteFile { path, contents, .. } => Some((path.to_string(), contents.clone())),
            _ => None,
        })
        .collect()
}

#[test]
fn a_server_with_old_names_moves_to_kvm() {
    let mut guest = server();
    guest.device_names.push(name(
        "/boot/grub/grub.cfg",
        101,
        "\tlinux\t/boot/vmlinuz-6.1.0-28-amd64 root=/dev/sda1 ro quiet",
        "/dev/sda1",
        NameRole::KernelRoot,
    ));
    let plan = plan_for(&guest, "kvm");
    let mac = plan.adapters[0].mac.clone();
    let expected = format!(
        "\
Debian GNU/Linux 12 (bookworm) moves to kvm (QEMU/KVM virtual machine (q35) with virtio-blk disks and virtio-net adapters)
  root      disk0/p1
  firmware  BIOS
  disks     virtio-blk
  network   virtio-net {mac} at 0000:01:00.0 for enp2s0

Drivers
  kernel 6.1.0-28-amd64, virtio-blk: virtio_pci and virtio_blk
  kernel 6.1.0-28-amd64, virtio-net: virtio_pci and virtio_net

Steps
  1. /boot/grub/grub.cfg line 101
     - \tlinux\t/boot/vmlinuz-6.1.0-28-amd64 root=/dev/sda1 ro quiet
     + \tlinux\t/boot/vmlinuz-6.1.0-28-amd64 root=UUID={ROOT_UUID} ro quiet
     because /dev/sda1 is UUID={ROOT_UUID}, whatever the new machine calls it
  2. /etc/fstab line 1
     - /dev/sda1 / ext4 defaults 0 1
     + UUID={ROOT_UUID} / ext4 defaults 0 1
     because /dev/sda1 is UUID={ROOT_UUID}, whatever the new machine calls it
  3. /etc/systemd/network/10-rehome-enp2s0.link, a file of ours (mode 0644)
     + # Written by rehome: the adapter of the new machine has the name that this system's configuration uses.
     + [Match]
     + Path=*
     + Type=ether
     + 
     + [Link]
     + Name=enp2s0
     because the configuration calls this interface enp2s0; there is one adapter, whatever its address
  4. /boot/initrd.img-6.1.0-28-amd64 (kernel 6.1.0-28-amd64), one more segment
     + /usr/lib/modules/6.1.0-28-amd64/kernel/drivers/virtio/virtio_pci.ko
     + /usr/lib/modules/6.1.0-28-amd64/kernel/drivers/block/virtio_blk.ko
     + loads virtio_pci and virtio_blk
     because virtio_pci and virtio_blk are not in /boot/initrd.img-6.1.0-28-amd64, and without them kernel \
6.1.0-28-amd64 finds no disk on virtio-blk
  5. /etc/initramfs-tools/modules, at the end
     + # The disks of this machine hang on virtio-blk (written by rehome).
     + virtio_pci
     + virtio_blk
     because the next kernel update makes a new initramfs, which must have the drivers too
"
    );
    assert_eq!(plan.to_string(), expected);
    assert_eq!((plan.blockers.len(), plan.warnings.len()), (0, 0));
    let json = serde_json::to_string(&plan).unwrap();
    assert_eq!(serde_json::from_str::<Plan>(&json).unwrap(), plan);
    assert_eq!(plan_for(&guest, "kvm"), plan);
    assert_ne!(plan_for(&guest, "kvm-sata").facts, plan.facts);
}

#[test]
fn drivers_that_are_in_the_initramfs_already_need_no_new_segment() {
    let plan = plan_for(&server(), "kvm-sata");
    assert_eq!(plan.machine.storage[plan.storage].model, "ahci");
    let extends = |step: &&Step| matches!(step.action, Action::ExtendInitramfs { .. });
    assert_eq!(plan.steps.iter().filter(extends).count(), 0);
    assert_eq!(plan.blockers.len(), 0);
}

#[test]
fn several_names_on_one_line_are_one_step() {
    let mut guest = server();
    let text = "GRUB_CMDLINE_LINUX=\"root=/dev/sda1 resume=/dev/sda5 quiet\"";
    guest.device_names = vec![
        name("/etc/default/grub", 9, text, "/dev/sda1", NameRole::GrubDefault),
        swap_name("/etc/default/grub", 9, text, "/dev/sda5", NameRole::GrubDefault),
    ];
    let plan = plan_for(&guest, "kvm");
    assert_eq!(
        replaced(&plan, "/etc/default/grub", 9),
        format!("GRUB_CMDLINE_LINUX=\"root=UUID={ROOT_UUID} resume=UUID={SWAP_UUID} quiet\"")
    );
}

#[test]
fn a_kernel_without_initramfs_gets_the_name_that_it_understands_itself() {
    let mut guest = server();
    if let Some(loader) = &mut guest.boot.loader {
        loader.entries = vec![entry(100, true), entry(120, false)];
    }
    let text = "linux /boot/vmlinuz-6.1.0-28-amd64 root=/dev/sda1 ro";
    for line in [101, 121] {
        let new = name(
            "/boot/grub/grub.cfg",
            line,
            text,
            "/dev/sda1",
            NameRole::KernelRoot,
        );
        guest.device_names.push(new);
    }
    let plan = plan_for(&guest, "kvm");
    assert!(replaced(&plan, "/boot/grub/grub.cfg", 101).contains("root=UUID="));
    assert!(replaced(&plan, "/boot/grub/grub.cfg", 121).contains("root=PARTUUID=cafe0001-01 "));
}

#[test]
fn partuuid_stands_in_where_there_is_no_uuid_or_two_have_the_same() {
    let mut guest = server();
    guest.device_names[0].identity = Some(Identity::default());
    assert_eq!(
        replaced(&plan_for(&guest, "kvm"), "/etc/fstab", 1),
        "PARTUUID=cafe0001-01 / ext4 defaults 0 1"
    );
    let mut guest = server();
    guest.mounts.push(Mount {
        path: Some("/mnt".into()),
        volume: "disk1/p1".into(),
        ..guest.mounts[0].clone()
    });
    let plan = plan_for(&guest, "kvm");
    assert!(replaced(&plan, "/etc/fstab", 1).starts_with("PARTUUID="));
    assert!(warned(&plan, &["disk0/p1", "disk1/p1", "same UUID"]));
}

#[test]
fn names_that_cannot_be_resolved_stay_and_are_told() {
    let mut guest = server();
    let unknown = |path, line, text, which, role| DeviceName {
        volume: None,
        identity: None,
        partuuid: None,
        ..name(path, line, text, which, role)
    };
    guest.device_names = vec![
        unknown(
            "/etc/fstab",
            4,
            "/dev/sdb1 /data ext4 defaults 0 2",
            "/dev/sdb1",
            NameRole::Fstab,
        ),
        unknown(
            "/etc/fstab",
            5,
            "/dev/sr0 /cdrom iso9660 noauto 0 0",
            "/dev/sr0",
            NameRole::Fstab,
        ),
        unknown(
            "/etc/crypttab",
            1,
            "data /dev/sdc1 none",
            "/dev/sdc1",
            NameRole::Other,
        ),
        unknown(
            "/boot/grub/device.map",
            1,
            "(hd0) /dev/sda",
            "/dev/sda",
            NameRole::InstallDevice,
        ),
        name(
            "/etc/default/grub",
            3,
            "root=/dev/sda1",
            "/dev/sda1",
            NameRole::GrubDefault,
        ),
    ];
    guest.device_names[4].column = 1;
    let entry = |line, spec: &str, options: &str| FstabEntry {
        line,
        spec: spec.into(),
        mount_point: "/data".into(),
        kind: "ext4".into(),
        options: options.into(),
        volume: None,
    };
    guest.fstab.extend([
        entry(4, "/dev/sdb1", "defaults"),
        entry(5, "/dev/sr0", "defaults"),
        entry(6, "UUID=0000-0001", "defaults,nofail"),
        entry(7, "server:/export", "defaults"),
    ]);
    let plan = plan_for(&guest, "kvm");
    assert!(warned(
        &plan,
        &["/etc/fstab line 4", "/dev/sdb1", "emergency mode"]
    ));
    assert!(warned(&plan, &["/etc/crypttab line 1", "/dev/sdc1"]));
    assert!(warned(
        &plan,
        &["/boot/grub/device.map", "dpkg-reconfigure grub-pc"]
    ));
    assert!(warned(&plan, &["/etc/default/grub line 3", "not as it was read"]));
    assert_eq!(plan.warnings.len(), 4, "{plan}");
}

#[test]
fn another_controller_is_taken_if_the_guest_has_no_driver_for_the_first_and_said() {
    let machine = machine::load("kvm", None).unwrap();
    let mut guest = server();
    guest.kernels.push(kernel("5.10.0-9-amd64", false));
    let mut all = bindings(RELEASE, &machine);
    all.extend(bindings("5.10.0-9-amd64", &machine));
    for binding in all
        .iter_mut()
        .filter(|b| b.device.starts_with("virtio") && b.role == DeviceRole::Storage)
    {
        binding.driver = None;
        binding.rejected = vec![(
            "virtio_blk".into(),
            "blacklisted in /etc/modprobe.d/x.conf".into(),
        )];
    }
    let plan = make(&guest, &machine, &all, &Options::default());
    assert_eq!(plan.machine.storage[plan.storage].model, "ahci");
    assert!(warned(
        &plan,
        &[
            "ahci",
            "virtio-blk: kernel 6.1.0-28-amd64 has no driver: virtio_blk blacklisted"
        ]
    ));
    assert!(plan.blockers.is_empty());

    let old = all
        .iter_mut()
        .find(|b| b.device == "ahci" && b.kernel == "5.10.0-9-amd64")
        .unwrap();
    old.driver = None;
    old.rejected.clear();
    let plan = make(&guest, &machine, &all, &Options::default());
    assert!(plan.blockers.is_empty());
    assert!(warned(
        &plan,
        &[
            "kernel 5.10.0-9-amd64 will not boot there",
            "pci:v00008086d00002922"
        ]
    ));

    all.iter_mut().for_each(|binding| binding.driver = None);
    let plan = make(&guest, &machine, &all, &Options::default());
    assert_eq!(plan.blockers.len(), 1);
    for word in ["virtio-blk", "virtio-scsi", "ahci", "scsi:t-0x00", "blacklisted"] {
        assert!(plan.blockers[0].contains(word), "{}", plan.blockers[0]);
    }
    assert!(warned(&plan, &["without network"]));
}

#[test]
fn a_kernel_without_initramfs_boots_only_from_what_is_built_in() {
    let machine = machine::load("kvm", None).unwrap();
    let mut guest = server();
    guest.kernels[0].initramfs = None;
    let mut all = bindings(RELEASE, &machine);
    let plan = make(&guest, &machine, &all, &Options::default());
    assert!(
        plan.blockers[0].contains("without an initramfs"),
        "{}",
        plan.blockers[0]
    );
    let ahci = all.iter_mut().find(|binding| binding.device == "ahci").unwrap();
    let driver = ahci.driver.as_mut().unwrap();
    driver.built_in = driver.modules.clone();
    driver.files.clear();
    let plan = make(&guest, &machine, &all, &Options::default());
    assert_eq!((plan.blockers.len(), plan.storage), (0, 2));
    assert!(
        plan.to_string()
            .contains("ahci: ahci (built in) and sd_mod (built in)"),
        "{plan}"
    );
}

#[test]
fn several_interfaces_go_by_the_addresses_that_the_definition_pins() {
    let mut guest = server();
    guest.interfaces = vec![
        interface("eth10", 9),
        interface("eth2", 5),
        interface("eth2:1", 7),
    ];
    guest.interfaces.push(Interface {
        physical: false,
        ..interface("br0", 20)
    });
    guest.interfaces.push(interface("wlp3s0", 30));
    let machine = machine::load("kvm", None).unwrap();
    let all = bindings(RELEASE, &machine);
    let options = Options {
        nics: vec![("eth10".into(), "00-25-90-AA-BB-CC".into())],
        seed: [7; 16],
        ..Options::default()
    };
    let plan = make(&guest, &machine, &all, &options);
    let adapters: Vec<_> = plan
        .adapters
        .iter()
        .map(|a| (a.interface.as_deref().unwrap(), a.pci_address.as_str()))
        .collect();
    assert_eq!(adapters, [("eth2", "0000:01:00.0"), ("eth10", "0000:02:00.0")]);
    assert!(plan.adapters[0].mac.starts_with("52:54:00:"));
    assert_eq!(plan.adapters[1].mac, "00:25:90:aa:bb:cc");
    let files = written(&plan);
    assert_eq!(files.len(), 2);
    assert_eq!(files[0].0, "/etc/systemd/network/10-rehome-eth2.link");
    let expected = format!(
        "[Match]\nPath=*\nMACAddress={}\n\n[Link]\nName=eth2\n",
        plan.adapters[0].mac
    );
    assert!(files[0].1.ends_with(&expected), "{}", files[0].1);
    assert!(warned(&plan, &["wireless", "wlp3s0"]));
    assert!(plan.blockers.is_empty());
    let in_images = |step: &Step| match &step.action {
        Action::ExtendInitramfs { files, .. } => Some(files.len()),
        _ => None,
    };
    assert_eq!(plan.steps.iter().filter_map(in_images).collect::<Vec<_>>(), [2]);
    assert_eq!(make(&guest, &machine, &all, &options), plan);
    let other_seed = Options {
        seed: [8; 16],
        ..options.clone()
    };
    assert_ne!(
        make(&guest, &machine, &all, &other_seed).adapters[0].mac,
        plan.adapters[0].mac
    );
}

#[test]
fn one_adapter_is_not_asked_for_its_address() {
    let old = "52:54:00:ab:00:01";
    let replaced = |by, name: Option<&str>, text: &str| {
        let mut guest = server();
        guest.interfaces = vec![Interface {
            name: name.map(str::to_owned),
            path: "/etc/file".into(),
            by,
            mac: Some(old.to_owned()),
            mac_line: Some(7),
            matches_only_mac: true,
            ..interface("x", 3)
        }];
        guest.mac_matches = vec![MacMatch {
            path: "/etc/file".into(),
            line: 7,
            text: text.into(),
            mac: old.to_owned(),
            interface: name.map(str::to_owned),
        }];
        let plan = plan_for(&guest, "kvm");
        let new = plan.steps.iter().find_map(|step| match &step.action {
            Action::ReplaceLine { new, .. } if step.because.contains("whatever its address") => {
                Some(new.to_string())
            }
            Action::ReplaceLine { new, .. } if new.to_string().contains(&plan.adapters[0].mac) => {
                Some("follows".to_owned())
            }
            _ => None,
        });
        new.unwrap_or_else(|| panic!("{plan}"))
    };
    use crate::guest::NetworkProgram::{Netplan, NetworkManager, SystemdNetworkd};
    assert_eq!(
        replaced(SystemdNetworkd, None, "MACAddress=52:54:00:AB:00:01"),
        "Name=e*"
    );
    assert_eq!(
        replaced(
            SystemdNetworkd,
            Some("lan"),
            "PermanentMACAddress=52-54-00-ab-00-01"
        ),
        "Name=lan"
    );
    for (text, new) in [
        ("        macaddress: '52:54:00:AB:00:01'", "        name: \"e*\""),
        (
            "      macaddress:  \"52:54:00:ab:00:01\" # old",
            "      name: \"e*\" # old",
        ),
        (
            "  match: {macaddress: 52:54:00:ab:00:01}",
            "  match: {name: \"e*\"}",
        ),
        ("  \"macaddress\": 52:54:00:ab:00:01", "follows"),
        ("  macaddress: !!str 52:54:00:ab:00:01", "follows"),
    ] {
        assert_eq!(replaced(Netplan, Some("eth0"), text), new, "{text}");
    }
    let line = format!("mac-address={old}");
    assert_eq!(replaced(NetworkManager, None, &line), format!("# {line}"));
}

#[test]
fn more_interfaces_than_a_machine_takes_are_told_once() {
    let mut guest = server();
    guest.interfaces = (0..500).map(|n| interface(&format!("eth{n}"), n)).collect();
    let plan = plan_for(&guest, "kvm");
    assert_eq!(plan.adapters.len(), 24);
    assert!(
        plan.adapters
            .iter()
            .all(|adapter| adapter.pci_address.len() == 12)
    );
    assert_eq!(plan.warnings.len(), 1, "{plan}");
    assert!(warned(&plan, &["476 interfaces", "eth24"]));
}

#[test]
fn what_a_guest_says_does_not_steer_the_terminal() {
    let mut guest = server();
    guest.name = "Debian\u{1b}[2J\u{7f}".into();
    guest.remarks = vec!["odd\u{9b}31m".into()];
    let plan = plan_for(&guest, "kvm").to_string();
    assert!(plan.starts_with("Debian\\u{1b}[2J\\u{7f} moves"), "{plan}");
    assert!(!plan.contains(|c: char| c.is_control() && c != '\n'));
}

#[test]
fn nic_options_that_make_no_sense_are_blockers() {
    let machine = machine::load("kvm", None).unwrap();
    let all = bindings(RELEASE, &machine);
    for (nics, word) in [
        (vec![("eth7", "00:25:90:aa:bb:cc")], "enp2s0"),
        (vec![("enp2s0", "01:25:90:aa:bb:cc")], "no MAC address"),
        (
            vec![("enp2s0", "00:25:90:aa:bb:cc"), ("enp2s0", "00:25:90:aa:bb:cd")],
            "twice",
        ),
    ] {
        let nics = nics
            .into_iter()
            .map(|(name, mac)| (name.into(), mac.into()))
            .collect();
        let options = Options {
            nics,
            ..Options::default()
        };
        let plan = make(&server(), &machine, &all, &options);
        assert!(
            plan.blockers.len() == 1 && plan.blockers[0].contains(word),
            "{:?}",
            plan.blockers
        );
    }
}

#[test]
fn lines_that_go_by_the_old_address_follow() {
    let mut guest = server();
    guest.mac_matches = vec![
        MacMatch {
            path: "/etc/udev/rules.d/70-persistent-net.rules".into(),
            line: 2,
            text: "SUBSYSTEM==\"net\", ATTR{address}==\"00:25:90:AA:BB:CC\", NAME=\"enp2s0\"".into(),
            mac: "00:25:90:aa:bb:cc".into(),
            interface: Some("enp2s0".into()),
        },
        MacMatch {
            path: "/etc/udev/rules.d/70-persistent-net.rules".into(),
            line: 5,
            text: "SUBSYSTEM==\"net\", ATTR{address}==\"00:25:90:aa:bb:cd\", NAME=\"eth5\"".into(),
            mac: "00:25:90:aa:bb:cd".into(),
            interface: Some("eth5".into()),
        },
    ];
    // A line with two addresses, and a file of an earlier move: one step for each file and line.
    guest.mac_matches.extend(guest.mac_matches.first().cloned());
    guest.mac_matches.push(MacMatch {
        path: "/etc/systemd/network/10-rehome-enp2s0.link".into(),
        line: 4,
        text: "MACAddress=52:54:00:00:00:01".into(),
        mac: "52:54:00:00:00:01".into(),
        interface: Some("enp2s0".into()),
    });
    guest.interfaces[0].dhcp = true;
    let plan = plan_for(&guest, "kvm");
    let of_ours = |step: &&Step| matches!(&step.action, Action::ReplaceLine { path, .. } if path.name().starts_with(b"10-rehome"));
    assert_eq!(plan.steps.iter().filter(of_ours).count(), 0, "{plan}");
    let mac = &plan.adapters[0].mac;
    assert_eq!(
        replaced(&plan, "/etc/udev/rules.d/70-persistent-net.rules", 2),
        format!("SUBSYSTEM==\"net\", ATTR{{address}}==\"{mac}\", NAME=\"enp2s0\"")
    );
    assert!(warned(&plan, &["DHCP", "--nic"]));
}

#[test]
fn before_systemd_240_the_initramfs_has_the_name_too() {
    for (systemd, path, words) in [
        (
            Some(237),
            "etc/systemd/network/10-rehome-enp2s0.link",
            "[Match]\nPath=*\n\n[Link]",
        ),
        (
            Some(215),
            "etc/udev/rules.d/70-rehome-enp2s0.rules",
            "DRIVERS==\"?*\", ATTR{type}==\"1\"",
        ),
        (
            None,
            "etc/udev/rules.d/70-rehome-enp2s0.rules",
            "NAME=\"enp2s0\"\n",
        ),
    ] {
        let mut guest = server();
        guest.systemd = systemd;
        // Nothing else is missing in the image.
        let plan = plan_for(&guest, "kvm-sata");
        let files: Vec<_> = plan
            .steps
            .iter()
            .filter_map(|step| match &step.action {
                Action::ExtendInitramfs { files, modules, .. } => Some((files.clone(), modules.len())),
                _ => None,
            })
            .collect();
        assert_eq!(files.len(), 1, "{plan}");
        assert_eq!((files[0].0[0].0.to_string().as_str(), files[0].1), (path, 0));
        assert!(files[0].0[0].1.contains(words), "{}", files[0].0[0].1);
        assert_eq!(written(&plan), [(format!("/{path}"), files[0].0[0].1.clone())]);
    }
}

#[test]
fn an_efi_system_partition_gets_the_fallback_loader() {
    let mut guest = server();
    guest.boot.firmware = Firmware::Uefi;
    guest.boot.esp = Some("disk0/p1".into());
    guest.boot.efi_loaders = [
        "/EFI/Microsoft/Boot/bootmgfw.efi",
        "/EFI/a/grubx64.efi",
        "/EFI/debian/SHIMX64.EFI",
        "/EFI/debian/grubx64.efi",
        "/EFI/debian/mmx64.efi",
        "/EFI/debian/fbx64.efi",
    ]
    .map(GuestPath::from)
    .to_vec();
    let copies = |plan: &Plan| -> Vec<String> {
        let copy = |step: &Step| match &step.action {
            Action::CopyOnEsp { from, to, .. } => Some(format!("{from} {to}")),
            _ => None,
        };
        plan.steps.iter().filter_map(copy).collect()
    };
    let plan = plan_for(&guest, "kvm-scsi");
    assert_eq!(plan.firmware, Firmware::Uefi);
    assert_eq!(
        copies(&plan),
        [
            "/EFI/debian/SHIMX64.EFI /EFI/BOOT/BOOTX64.EFI",
            "/EFI/debian/grubx64.efi /EFI/BOOT/grubx64.efi",
            "/EFI/debian/mmx64.efi /EFI/BOOT/mmx64.efi"
        ]
    );
    assert!(plan.warnings.is_empty(), "{plan}");
    guest.boot.efi_loaders.truncate(2);
    let plan = plan_for(&guest, "kvm-scsi");
    assert_eq!(copies(&plan), ["/EFI/a/grubx64.efi /EFI/BOOT/BOOTX64.EFI"]);
    assert!(warned(&plan, &["/EFI/a", "Debian and Ubuntu"]));
    guest.boot.efi_fallback = true;
    let plan = plan_for(&guest, "kvm-scsi");
    assert!(copies(&plan).is_empty() && warned(&plan, &["Windows"]));
    guest.boot.efi_fallback = false;
    guest.boot.efi_loaders.clear();
    assert!(plan_for(&guest, "kvm-scsi").blockers[0].contains("BOOTX64.EFI"));
    guest.boot.esp = None;
    assert!(plan_for(&guest, "kvm-scsi").blockers[0].contains("EFI system partition"));
}

#[test]
fn hibernation_leaves_no_name_behind_in_the_initramfs() {
    let mut guest = server();
    let path = "/etc/initramfs-tools/conf.d/resume";
    let old = swap_name(path, 1, "RESUME=/dev/sda5", "/dev/sda5", NameRole::KernelResume);
    guest.device_names.push(old);
    let plan = plan_for(&guest, "kvm-sata");
    assert_eq!(replaced(&plan, path, 1), format!("RESUME=UUID={SWAP_UUID}"));
    let expected = (
        GuestPath::from("conf/conf.d/zzz-rehome-resume"),
        format!("RESUME=UUID={SWAP_UUID}\n"),
    );
    let has = |step: &Step| matches!(&step.action, Action::ExtendInitramfs { files, .. } if files.contains(&expected));
    assert!(plan.steps.iter().any(has), "{plan}");
}

#[test]
fn what_makes_a_move_impossible_is_a_blocker() {
    let mut guest = server();
    guest.blockers = vec!["the system is hibernated: start it and shut it down".into()];
    guest.architecture = Some("aarch64".into());
    guest.kernels.clear();
    guest.boot.loader = None;
    guest.remarks = vec!["/etc/fstab line 9 is not understood".into()];
    let plan = plan_for(&guest, "kvm");
    for words in ["hibernated", "aarch64", "no installed kernel"] {
        assert!(
            plan.blockers.iter().any(|blocker| blocker.contains(words)),
            "{plan}"
        );
    }
    assert!(warned(&plan, &["no boot loader"]) && warned(&plan, &["line 9"]));
    let mut machine = machine::load("kvm", None).unwrap();
    machine.firmware = vec![Firmware::Uefi];
    let plan = make(
        &server(),
        &machine,
        &bindings(RELEASE, &machine),
        &Options::default(),
    );
    assert!(plan.blockers.iter().any(|blocker| blocker.contains("BIOS")));
}

#[test]
fn an_unknown_system_moves_raw_on_the_safest_devices() {
    let machine = machine::load("kvm", None).unwrap();
    let plan = make_raw(Firmware::Uefi, &machine, &Options::default());
    assert_eq!(plan.machine.storage[plan.storage].model, "ahci");
    assert_eq!(plan.adapters[0].model, "e1000e");
    assert!(warned(&plan, &["not one that is understood"]));
    assert!(plan.steps.is_empty() && plan.blockers.is_empty() && plan.guest.is_none());
}
