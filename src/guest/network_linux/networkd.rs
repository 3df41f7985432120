//! systemd-networkd: /etc/systemd/network/*.network with drop-ins, and *.netdev (systemd.network(5), systemd.netdev(5)).

use super::{Interface, MAX_INTERFACES, NetworkProgram, is_virtual_name};
use crate::{
    fs::GuestPath,
    guest::{
        files::{Files, has_wildcards},
        key_file::{self, Setting, all, is_true, last},
        text::{lossy, mac_address},
    },
};

/// All interfaces that a .network file names.
pub(crate) fn inspect(files: &Files) -> Vec<Interface> {
    let made: Vec<String> = files
        .with_suffix("/etc/systemd/network", b".netdev")
        .iter()
        .filter_map(|path| files.config(path))
        .filter_map(|contents| Some(last(&key_file::parse(&contents), "NetDev", "Name")?.value.clone()))
        .collect();
    let mut found = Vec::new();
    for path in files.with_suffix("/etc/systemd/network", b".network") {
        let Some(contents) = files.config(&path) else {
            continue;
        };
        let mut settings = key_file::parse(&contents);
        let own = settings.len();
        for drop_in in files.with_suffix(&format!("{}.d", lossy(path.as_bytes())), b".conf") {
            let contents = files.config(&drop_in).unwrap_or_default();
            settings.extend(key_file::parse(&contents));
        }
        found.extend(network(files, &path, &settings, own, &made));
    }
    found
}

/// The interfaces of one file; `own` is how many of the settings stand in it and not in a drop-in.
fn network(
    files: &Files,
    path: &GuestPath,
    settings: &[Setting],
    own: usize,
    made: &[String],
) -> Vec<Interface> {
    let matched: Vec<&Setting> = settings.iter().filter(|s| s.section == "Match").collect();
    let dhcp = last(settings, "Network", "DHCP")
        .is_some_and(|dhcp| is_true(&dhcp.value) || dhcp.value.starts_with("ipv"));
    let addresses: Vec<String> = all(settings, "Network", "Address")
        .chain(all(settings, "Address", "Address"))
        .map(|address| address.value.clone())
        .filter(|address| !address.is_empty())
        .collect();
    let is_own = |setting: &&Setting| settings.iter().take(own).any(|s| std::ptr::eq(s, *setting));
    let is_mac = |setting: &&Setting| matches!(&*setting.key, "MACAddress" | "PermanentMACAddress");
    let macs: Vec<(&Setting, String)> = matched
        .iter()
        .filter(|setting| is_mac(setting))
        .flat_map(|s| s.value.split_whitespace().map(move |mac| (*s, mac)))
        .filter_map(|(s, mac)| Some((s, mac_address(mac.as_bytes())?)))
        .take(MAX_INTERFACES)
        .collect();
    for setting in matched
        .iter()
        .filter(|s| matches!(&*s.key, "Path" | "Property" | "Driver"))
    {
        files.remark(format!(
            "{path} line {}: {}={} goes by the place or the driver of an adapter, which are others on other hardware",
            setting.line, setting.key, setting.value
        ));
    }
    let names: Vec<(&Setting, &str)> = matched
        .iter()
        .filter(|s| s.key == "Name")
        .flat_map(|s| s.value.split_whitespace().map(move |name| (*s, name)))
        .filter(|(_, name)| !name.starts_with('!'))
        .take(MAX_INTERFACES)
        .collect();
    let kind_is_virtual = matched.iter().any(|s| s.key == "Kind")
        || matched
            .iter()
            .any(|s| s.key == "Type" && !s.value.split_whitespace().any(|t| matches!(t, "ether" | "wlan")));
    let interface = |name: Option<&str>, line, mac: Option<&(&Setting, String)>| Interface {
        name: name.map(str::to_owned),
        path: path.clone(),
        line,
        by: NetworkProgram::SystemdNetworkd,
        addresses: addresses.clone(),
        dhcp,
        mac: mac.map(|(_, mac)| mac.clone()),
        mac_line: mac.filter(|(s, _)| is_own(s)).map(|(setting, _)| setting.line),
        matches_only_mac: macs.len() == 1 && matched.iter().all(|s| s.key == "Name" || is_mac(s)),
        physical: !kind_is_virtual
            && name.is_none_or(|name| !made.iter().any(|made| made == name) && !is_virtual_name(name)),
    };
    if names.is_empty() {
        return match &*macs {
            [] if matched.is_empty() => Vec::new(),
            [] => vec![interface(None, matched.first().map_or(1, |s| s.line), None)],
            macs => macs
                .iter()
                .map(|mac| interface(None, mac.0.line, Some(mac)))
                .collect(),
        };
    }
    names
        .iter()
        .map(|(setting, name)| {
            if has_wildcards(name.as_bytes()) {
                files.remark(format!(
                    "{path} line {}: the pattern {name} applies to every adapter whose name fits; look whether it fits the new ones",
                    setting.line
                ));
                interface(None, setting.line, macs.first())
            } else {
                interface(Some(name), setting.line, macs.first())
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::{Mounts, memory_tree::MemoryTree};

    #[test]
    fn names_addresses_and_matches() {
        let tree = MemoryTree::new("ext4", "u")
            .file(
                "/etc/systemd/network/10-lan.network",
                "[Match]\nName=enp2s0 enp3s0\n[Network]\nAddress=192.0.2.10/24\n[Address]\nAddress=2001:db8::1/64\n",
            )
            .file(
                "/etc/systemd/network/10-lan.network.d/more.conf",
                "[Network]\nDHCP=ipv6\n",
            )
            .file(
                "/etc/systemd/network/20-mac.network",
                "[Match]\nPermanentMACAddress=52-54-00-AB-00-01\n[Network]\nDHCP=yes\n",
            )
            .file("/etc/systemd/network/25-br.netdev", "[NetDev]\nName=br0\nKind=bridge\n")
            .file("/etc/systemd/network/30-br.network", "[Match]\nName=br0\n")
            .file("/etc/systemd/network/40-all.network", "[Match]\nName=en* !enp9s0\nPath=pci-0000:02*\n")
            .file("/etc/systemd/network/50-empty.network", "");
        let mut mounts = Mounts::new(vec![("v".into(), Box::new(tree))]);
        mounts.mount(&"/".into(), 0).unwrap();
        let files = Files::new(&mounts);
        let found = inspect(&files);
        let short: Vec<_> = found
            .iter()
            .map(|i| (i.name.as_deref(), i.line, i.dhcp, i.mac.as_deref(), i.physical))
            .collect();
        assert_eq!(
            short,
            [
                (Some("enp2s0"), 2, true, None, true),
                (Some("enp3s0"), 2, true, None, true),
                (None, 2, true, Some("52:54:00:ab:00:01"), true),
                (Some("br0"), 2, false, None, false),
                (None, 2, false, None, true),
            ]
        );
        assert_eq!(found[0].addresses, ["192.0.2.10/24", "2001:db8::1/64"]);
        assert_eq!(found[2].mac_line, Some(2));
        assert_eq!(files.into_remarks().len(), 2);
    }
}
