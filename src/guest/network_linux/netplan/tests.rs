//! Files as they are written, and hostile ones.

use super::*;
use crate::fs::{Mounts, memory_tree::MemoryTree};

#[test]
fn what_cloud_init_and_the_ubuntu_installer_write() {
    let tree = MemoryTree::new("ext4", "u")
            .file(
                "/etc/netplan/50-cloud-init.yaml",
                "# This file is generated from information provided by the datasource.\nnetwork:\n    ethernets:\n        \
                 eth0:\n            dhcp4: true\n            match:\n                macaddress: '52:54:00:AB:00:01'\n            \
                 set-name: eth0\n        lan:\n            match: {macaddress: 52:54:00:ab:00:02}\n    version: 2\n",
            )
            .file(
                "/etc/netplan/60-more.yaml",
                "network:\n  version: 2\n  renderer: networkd\n  ethernets:\n    enp3s0:\n      addresses:\n      - 192.0.2.10/24\n      \
                 - \"2001:db8::1/64\":\n          label: x\n    eth0: {addresses: [192.0.2.11/24]}\n    any: {match: {name: \"en*\"}}\n  \
                 bridges:\n    br0:\n      interfaces: [enp3s0]\n  wifis:\n    wlp1s0: {}\n",
            )
            .file("/lib/netplan/60-more.yaml", "hidden: [")
            .file("/etc/netplan/70-broken.yaml", "network: [")
            .file("/etc/netplan/80-empty.yaml", "");
    let mut mounts = Mounts::new(vec![("v".into(), Box::new(tree))]);
    mounts.mount(&"/".into(), 0).unwrap();
    let files = Files::new(&mounts);
    let found = inspect(&files);
    let short: Vec<_> = found
        .iter()
        .map(|i| {
            (
                i.name.as_deref(),
                i.line,
                i.mac.as_deref(),
                i.mac_line,
                i.dhcp,
                i.physical,
            )
        })
        .collect();
    assert_eq!(
        short,
        [
            (Some("eth0"), 4, Some("52:54:00:ab:00:01"), Some(7), true, true),
            (None, 9, Some("52:54:00:ab:00:02"), Some(10), false, true),
            (Some("enp3s0"), 5, None, None, false, true),
            (None, 11, None, None, false, true),
            (Some("br0"), 13, None, None, false, false),
        ]
    );
    assert_eq!(found[0].addresses, ["192.0.2.11/24"]);
    assert_eq!(found[2].addresses, ["192.0.2.10/24", "2001:db8::1/64"]);
    let remarks = files.into_remarks();
    assert_eq!(remarks.len(), 3, "{remarks:?}");
    assert!(remarks[0].contains("70-broken.yaml"), "{remarks:?}");
}

#[test]
fn hostile_files_end() {
    for text in [
        "[".repeat(100_000),
        "{a: ".repeat(10_000),
        "- ".repeat(50_000),
        "a: &a [*a, *a]".into(),
        "- a\n".repeat(100_000),
        "? [x]\n: y".into(),
        "network: {ethernets: {e: {match: {macaddress: [1]}, addresses: {a: b}, interfaces: c}}}".into(),
        "%YAML 9.9\n---\n!!x &y |+9\n".into(),
    ] {
        let _ = parse(text.as_bytes());
    }
    assert!(parse(b"\xff").is_err());
}
