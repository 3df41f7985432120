//! How a Linux system configures its network: one file per program, and here what they have in common.

pub mod ifupdown;
pub mod netplan;
mod network_manager;
mod networkd;
mod persistent_names;

use super::{GuestText, files::Files, text::lines};
use crate::fs::GuestPath;
use serde::{Deserialize, Serialize};

/// Interfaces that are listed: no machine has more ports, and a hostile configuration could have millions.
pub(crate) const MAX_INTERFACES: usize = 256;

/// A configured network interface.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Interface {
    /// The name that the configuration uses ("enp2s0", "eth0"); for a netplan id with a match and no set-name, or a networkd
    /// file that matches by MAC only: the name is not known and this is `None`.
    pub name: Option<String>,
    /// The file that configures it.
    pub path: GuestPath,
    /// Line, from 1.
    pub line: u32,
    /// Which program reads that file.
    pub by: NetworkProgram,
    /// Static addresses "192.0.2.10/24".
    pub addresses: Vec<String>,
    /// DHCP for either family.
    pub dhcp: bool,
    /// The MAC address that the configuration matches, lower case with colons.
    pub mac: Option<String>,
    /// The line that matches it, from 1.
    pub mac_line: Option<u32>,
    /// It goes by that address alone, and its program would take a pattern of names, or nothing, in its place.
    pub matches_only_mac: bool,
    /// Bridges, bonds, VLANs and tunnels stand on others and need no adapter.
    pub physical: bool,
}

/// Programs that configure networks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum NetworkProgram {
    /// /etc/network/interfaces.
    Ifupdown,
    /// /etc/netplan/*.yaml.
    Netplan,
    /// /etc/systemd/network/*.network.
    SystemdNetworkd,
    /// /etc/NetworkManager/system-connections/*.
    NetworkManager,
}

/// A line that names an adapter by its MAC address.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MacMatch {
    /// The file.
    pub path: GuestPath,
    /// The line, from 1.
    pub line: u32,
    /// The whole line as it stands, without its line feed.
    pub text: GuestText,
    /// Lower case with colons.
    pub mac: String,
    /// The name that the adapter gets there, where the line or its section gives one.
    pub interface: Option<String>,
}

/// The configured interfaces without loopback, by name (those without one last), and every line that names an adapter by
/// its address.
pub(crate) fn inspect(files: &Files) -> (Vec<Interface>, Vec<MacMatch>) {
    let mut interfaces = Vec::new();
    let mut mac_matches = Vec::new();
    for found in [
        ifupdown::inspect(files),
        netplan::inspect(files),
        networkd::inspect(files),
        network_manager::inspect(files),
    ]
    .into_iter()
    .flatten()
    {
        // Each of them reads its file once more.
        if mac_matches.len() < MAX_INTERFACES {
            mac_matches.extend(mac_match(files, &found));
        }
        merge(&mut interfaces, found);
    }
    interfaces.retain(|interface| interface.name.as_deref() != Some("lo"));
    interfaces.sort_by(|a, b| {
        let key = |i: &Interface| (i.name.is_none(), i.name.clone(), i.path.clone(), i.line);
        key(a).cmp(&key(b))
    });
    mac_matches.extend(persistent_names::inspect(files));
    (interfaces, mac_matches)
}

/// The line by which an interface's configuration matches an address.
fn mac_match(files: &Files, interface: &Interface) -> Option<MacMatch> {
    let (mac, number) = interface.mac.clone().zip(interface.mac_line)?;
    let contents = files.config(&interface.path)?;
    let (line, text) = lines(&contents).find(|(line, _)| *line == number)?;
    Some(MacMatch {
        path: interface.path.clone(),
        line,
        text: text.into(),
        mac,
        interface: interface.name.clone(),
    })
}

/// Several stanzas for one name are one interface: IPv4 and IPv6 of ifupdown, or two programs.
fn merge(interfaces: &mut Vec<Interface>, new: Interface) {
    let same = |old: &&mut Interface| new.name.is_some() && old.name == new.name;
    let Some(old) = interfaces.iter_mut().find(same) else {
        if interfaces.len() < MAX_INTERFACES {
            interfaces.push(new);
        }
        return;
    };
    for address in new.addresses {
        if !old.addresses.contains(&address) {
            old.addresses.push(address);
        }
    }
    old.dhcp |= new.dhcp;
    // What one of them says to stand on others does.
    old.physical &= new.physical;
    if old.mac.is_none() && new.mac.is_some() {
        // The line of the match belongs to its file.
        (old.path, old.line, old.by) = (new.path, new.line, new.by);
        (old.mac, old.mac_line) = (new.mac, new.mac_line);
        old.matches_only_mac = new.matches_only_mac;
    }
}

/// Names that no adapter has: what software makes without saying so in the configuration.
fn is_virtual_name(name: &str) -> bool {
    let made = [
        "tun", "tap", "wg", "dummy", "ppp", "veth", "docker", "virbr", "vnet", "vxlan", "gre", "sit",
        "ip6tnl",
    ];
    name.contains('.') || made.iter().any(|prefix| name.starts_with(prefix))
}
