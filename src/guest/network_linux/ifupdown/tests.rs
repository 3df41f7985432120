//! Stanzas as they are written.

use super::*;
use crate::fs::{Mounts, memory_tree::MemoryTree};

fn inspected(interfaces: &str) -> (Vec<Interface>, Vec<String>) {
    let tree = MemoryTree::new("ext4", "u")
        .file("/etc/network/interfaces", interfaces)
        .file("/etc/network/interfaces.d/lan", "iface eth7 inet dhcp\n")
        .file("/etc/network/interfaces.d/lan.bak", "iface eth8 inet dhcp\n")
        .file(
            "/etc/network/more/a.cfg",
            "source /etc/network/more/*\niface eth9 inet dhcp\n",
        );
    let mut mounts = Mounts::new(vec![("v".into(), Box::new(tree))]);
    mounts.mount(&"/".into(), 0).unwrap();
    let files = Files::new(&mounts);
    (inspect(&files), files.into_remarks())
}

fn names(interfaces: &[Interface]) -> Vec<(&str, bool)> {
    let pair = |i: &'_ Interface| (i.name.clone().unwrap(), i.physical);
    let mut names: Vec<_> = interfaces.iter().map(pair).collect();
    names.sort();
    // Leaked in a test only, for short assertions.
    names.into_iter().map(|(n, p)| (&*n.leak(), p)).collect()
}

#[test]
fn what_the_debian_installer_writes() {
    let (found, remarks) = inspected(
        "# The loopback network interface\nauto lo\niface lo inet loopback\n\n# The primary network interface\n\
             allow-hotplug enp2s0\niface enp2s0 inet static\n\taddress 192.0.2.10/24\n\tgateway 192.0.2.1\n\
             # dns-* options\n\tdns-nameservers 192.0.2.1\niface enp2s0 inet6 auto\n",
    );
    let eth = found
        .iter()
        .find(|i| i.name.as_deref() == Some("enp2s0"))
        .unwrap();
    assert_eq!(eth.addresses, ["192.0.2.10/24"]);
    assert_eq!((eth.line, eth.dhcp, eth.physical), (7, true, true));
    assert_eq!(remarks, [""; 0]);
}

#[test]
fn bridges_bonds_vlans_and_aliases_stand_on_others() {
    let (found, _) = inspected(
        "iface br0 inet static\n  address 10.0.0.2\n  netmask 255.255.255.0\n  bridge_ports eth0 eth1\n\
             iface bond0 inet manual\n  bond-slaves eth2 \\\n   eth3\niface bond0.7 inet dhcp\niface eth4:1 inet static\n\
             \taddress 10.1.0.1\n\tnetmask 16\n\tup ip route add x\niface tun0 inet manual\n",
    );
    let expected = [
        ("bond0", false),
        ("bond0.7", false),
        ("br0", false),
        ("eth0", true),
        ("eth1", true),
        ("eth2", true),
        ("eth3", true),
        ("eth4", true),
        ("tun0", false),
    ];
    assert_eq!(names(&found), expected);
    let br0 = found.iter().find(|i| i.name.as_deref() == Some("br0")).unwrap();
    assert_eq!(br0.addresses, ["10.0.0.2/24"]);
}

#[test]
fn included_files_patterns_and_mappings() {
    let (found, remarks) = inspected(
        "source interfaces.d/*\nsource-directory /etc/network/interfaces.d\nsource /etc/network/mo*/*.cfg\n\
             auto /en*\nmapping eth0\n  script x\n  map y\n",
    );
    // `source` takes all names, `source-directory` only plain ones, and a loop ends.
    assert_eq!(names(&found), [("eth7", true), ("eth8", true), ("eth9", true)]);
    assert_eq!(remarks.len(), 2, "{remarks:?}");
    assert_eq!(inspected("iface\nauto\nsource\n\\\n").0, []);
}
