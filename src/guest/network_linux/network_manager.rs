//! NetworkManager's connections: /etc/NetworkManager/system-connections/* (nm-settings-keyfile(5)).

use super::{Interface, NetworkProgram};
use crate::{
    fs::GuestPath,
    guest::{
        files::Files,
        key_file::{self, Setting, last},
        text::mac_address,
    },
};

/// All interfaces that a connection names or takes.
pub(crate) fn inspect(files: &Files) -> Vec<Interface> {
    let mut paths = files.with_suffix("/etc/NetworkManager/system-connections", b"");
    paths.retain(|path| !path.name().ends_with(b"~") && !path.name().ends_with(b".bak"));
    let mut found = Vec::new();
    for path in paths {
        if let Some(contents) = files.config(&path) {
            found.extend(connection(files, &path, &key_file::parse(&contents)));
        }
    }
    found
}

fn connection(files: &Files, path: &GuestPath, settings: &[Setting]) -> Option<Interface> {
    let kind = &last(settings, "connection", "type")?.value;
    let physical = match &**kind {
        "ethernet" | "802-3-ethernet" => true,
        "wifi" | "802-11-wireless" => {
            files.remark(format!(
                "{path} configures a wireless adapter, which is not moved"
            ));
            return None;
        }
        "loopback" | "vpn" | "wireguard" | "gsm" | "cdma" | "bluetooth" => return None,
        _ => false,
    };
    let name = last(settings, "connection", "interface-name");
    let mac = ["ethernet", "802-3-ethernet"]
        .iter()
        .find_map(|section| last(settings, section, "mac-address"));
    let mac_value = mac.and_then(|mac| mac_address(mac.value.as_bytes()));
    let method = |section| last(settings, section, "method").map(|method| &*method.value);
    let addresses = settings
        .iter()
        .filter(|s| {
            matches!(&*s.section, "ipv4" | "ipv6") && s.key.starts_with("address") && s.key != "address-data"
        })
        // "192.0.2.10/24,192.0.2.1": the gateway follows.
        .filter_map(|s| s.value.split([',', ';']).next())
        .filter(|address| !address.is_empty())
        .map(str::to_owned)
        .collect();
    Some(Interface {
        name: name.map(|name| name.value.clone()),
        path: path.clone(),
        line: name.or(mac).map_or(1, |setting| setting.line),
        by: NetworkProgram::NetworkManager,
        addresses,
        dhcp: method("ipv4") == Some("auto") || matches!(method("ipv6"), Some("auto" | "dhcp")),
        mac_line: mac.filter(|_| mac_value.is_some()).map(|mac| mac.line),
        matches_only_mac: mac_value.is_some(),
        mac: mac_value,
        physical,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::{Mounts, memory_tree::MemoryTree};

    #[test]
    fn connections_by_name_and_by_mac() {
        let folder = "/etc/NetworkManager/system-connections";
        let tree = MemoryTree::new("ext4", "u")
            .file(
                &format!("{folder}/lan.nmconnection"),
                "[connection]\nid=lan\ntype=ethernet\ninterface-name=enp2s0\n[ipv4]\nmethod=manual\naddress1=192.0.2.10/24,192.0.2.1\n",
            )
            .file(
                &format!("{folder}/old style"),
                "[connection]\ntype=802-3-ethernet\n[802-3-ethernet]\nmac-address=52:54:00:AB:00:01\n[ipv4]\nmethod=auto\n",
            )
            .file(&format!("{folder}/br"), "[connection]\ntype=bridge\ninterface-name=br0\n")
            .file(&format!("{folder}/wlan"), "[connection]\ntype=wifi\n")
            .file(&format!("{folder}/junk"), "junk");
        let mut mounts = Mounts::new(vec![("v".into(), Box::new(tree))]);
        mounts.mount(&"/".into(), 0).unwrap();
        let files = Files::new(&mounts);
        let found = inspect(&files);
        assert_eq!(found.len(), 3);
        assert_eq!(
            (found[0].name.as_deref(), found[0].physical),
            (Some("br0"), false)
        );
        assert_eq!(found[1].addresses, ["192.0.2.10/24"]);
        assert!(!found[1].dhcp);
        assert_eq!(
            (found[2].mac.as_deref(), found[2].mac_line, found[2].dhcp),
            (Some("52:54:00:ab:00:01"), Some(4), true)
        );
        assert_eq!(files.into_remarks().len(), 1);
    }
}
