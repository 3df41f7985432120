//! interfaces(5) of ifupdown: /etc/network/interfaces and what it includes.

use super::{Interface, NetworkProgram, is_virtual_name, merge};
use crate::{
    fs::GuestPath,
    guest::{
        files::{Files, has_wildcards},
        text::{lines, lossy},
    },
};
use std::collections::BTreeSet;

/// Files in files in files: people include one folder.
const MAX_DEPTH: u32 = 8;
/// Files that are read in all.
const MAX_FILES: usize = 256;

/// Stanzas that are read of one file.
const MAX_STANZAS: usize = 4096;

/// What one file says.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Interfaces {
    /// The `iface` stanzas.
    pub stanzas: Vec<Stanza>,
    /// Names in `auto` and `allow-…` with their line.
    pub started: Vec<(u32, String)>,
    /// `source` (false) and `source-directory` (true) with their patterns.
    pub sources: Vec<(bool, Vec<u8>)>,
    /// The line of every `mapping` and `rename`, which are not followed.
    pub not_followed: Vec<u32>,
}

/// An `iface` stanza.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Stanza {
    /// "eth0".
    pub name: String,
    /// "inet".
    pub family: String,
    /// "static".
    pub method: String,
    /// Line of `iface`, from 1.
    pub line: u32,
    /// Its options with their lines: "address", "192.0.2.10".
    pub options: Vec<(u32, String, String)>,
}

/// Reads one file. What is not known is passed over.
pub fn parse(contents: &[u8]) -> Interfaces {
    let mut interfaces = Interfaces::default();
    let mut in_stanza = false;
    for (line, text) in logical_lines(contents) {
        if interfaces.stanzas.len() > MAX_STANZAS || interfaces.started.len() > MAX_STANZAS {
            break;
        }
        let text = lossy(&text);
        let mut words = text.split_whitespace();
        let Some(keyword) = words.next().filter(|word| !word.starts_with('#')) else {
            continue;
        };
        let was_in_stanza = in_stanza;
        in_stanza = false;
        match keyword {
            "iface" => {
                let mut word = || words.next().unwrap_or_default().to_owned();
                interfaces.stanzas.push(Stanza {
                    name: word(),
                    family: word(),
                    method: word(),
                    line,
                    options: Vec::new(),
                });
                in_stanza = true;
            }
            "auto" => interfaces
                .started
                .extend(words.map(|name| (line, name.to_owned()))),
            _ if keyword.starts_with("allow-") => {
                interfaces
                    .started
                    .extend(words.map(|name| (line, name.to_owned())));
            }
            "source" => interfaces.sources.extend(words.map(|path| (false, path.into()))),
            "source-directory" => interfaces.sources.extend(words.map(|path| (true, path.into()))),
            "mapping" | "rename" | "template" => interfaces.not_followed.push(line),
            "no-auto-down" | "no-scripts" => {}
            _ => {
                if let (true, Some(stanza)) = (was_in_stanza, interfaces.stanzas.last_mut()) {
                    let value = text.trim_start().strip_prefix(keyword).unwrap_or_default().trim();
                    stanza.options.push((line, keyword.to_owned(), value.to_owned()));
                }
                in_stanza = was_in_stanza;
            }
        }
    }
    interfaces
}

/// Lines with those joined that end in a backslash.
fn logical_lines(contents: &[u8]) -> Vec<(u32, Vec<u8>)> {
    let mut joined: Vec<(u32, Vec<u8>)> = Vec::new();
    let mut continued = false;
    for (number, text) in lines(contents) {
        let text = text.strip_suffix(b"\r").unwrap_or(text);
        let (text, continues) = match text.strip_suffix(b"\\") {
            Some(text) => (text, true),
            None => (text, false),
        };
        match joined.last_mut().filter(|_| continued) {
            Some((_, last)) => last.extend_from_slice(text),
            None => joined.push((number, text.to_vec())),
        }
        continued = continues;
    }
    joined
}

/// All interfaces of /etc/network/interfaces.
pub(crate) fn inspect(files: &Files) -> Vec<Interface> {
    let mut gathering = Gathering {
        files,
        found: Vec::new(),
        seen: BTreeSet::new(),
    };
    gathering.file(&"/etc/network/interfaces".into(), 0);
    gathering.found
}

struct Gathering<'a> {
    files: &'a Files<'a>,
    found: Vec<Interface>,
    seen: BTreeSet<GuestPath>,
}

impl Gathering<'_> {
    fn file(&mut self, path: &GuestPath, depth: u32) {
        if depth > MAX_DEPTH || self.seen.len() >= MAX_FILES || !self.seen.insert(path.clone()) {
            return;
        }
        let Some(contents) = self.files.config(path) else {
            return;
        };
        let interfaces = parse(&contents);
        for stanza in &interfaces.stanzas {
            self.stanza(path, stanza);
        }
        for (line, name) in &interfaces.started {
            if name.starts_with('/') || has_wildcards(name.as_bytes()) {
                self.files.remark(format!(
                    "{path} line {line}: the pattern {name} names adapters by what the old machine has; look whether it fits the new ones"
                ));
            }
        }
        for line in &interfaces.not_followed {
            self.files.remark(format!(
                "{path} line {line}: mappings and renamings of interfaces are not followed; look whether the names fit"
            ));
        }
        for (is_directory, pattern) in &interfaces.sources {
            for included in self.included(*is_directory, pattern) {
                self.file(&included, depth.saturating_add(1));
            }
        }
    }

    fn included(&self, is_directory: bool, pattern: &[u8]) -> Vec<GuestPath> {
        let pattern = if pattern.starts_with(b"/") {
            GuestPath(pattern.to_vec())
        } else {
            GuestPath::from("/etc/network").join(pattern)
        };
        let paths = self.files.matching(&pattern);
        if !is_directory {
            return paths;
        }
        let plain = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
        paths
            .iter()
            .flat_map(|directory| {
                let names = self.files.names(directory);
                let names = names.into_iter().filter(|name| name.iter().all(plain));
                names.map(|name| directory.join(name)).collect::<Vec<_>>()
            })
            .collect()
    }

    fn stanza(&mut self, path: &GuestPath, stanza: &Stanza) {
        if has_wildcards(stanza.name.as_bytes()) || stanza.name.starts_with('/') || stanza.name.is_empty() {
            self.files.remark(format!(
                "{path} line {}: the pattern {} names adapters by what the old machine has; look whether it fits the new ones",
                stanza.line, stanza.name
            ));
            return;
        }
        // "eth0:1" is another address of eth0.
        let name = stanza.name.split(':').next().unwrap_or_default();
        let mut parts: Vec<(u32, String)> = Vec::new();
        let mut stands_on_others = is_virtual_name(name)
            || matches!(
                &*stanza.method,
                "tunnel" | "v4tunnel" | "6to4" | "ppp" | "wvdial" | "loopback"
            );
        for (line, key, value) in &stanza.options {
            let key = key.replace('_', "-");
            match &*key {
                "bridge-ports" | "bond-slaves" | "slaves" | "vlan-raw-device" | "bond-primary"
                | "batman-ifaces" => {
                    stands_on_others = true;
                    let names = value.split_whitespace();
                    // `bridge_ports regex eth.*`, `all`, `none` name nothing.
                    let names = names
                        .take_while(|name| *name != "regex")
                        .filter(|name| !matches!(*name, "all" | "none") && !has_wildcards(name.as_bytes()));
                    parts.extend(names.map(|name| (*line, name.to_owned())));
                }
                "bond-mode" | "vlan-id" | "ovs-type" => stands_on_others = true,
                _ => {}
            }
        }
        if let Some((under, _)) = name.split_once('.') {
            parts.push((stanza.line, under.to_owned()));
        }
        let mut add = |name: &str, line, addresses, dhcp, physical| {
            merge(
                &mut self.found,
                Interface {
                    name: Some(name.to_owned()),
                    path: path.clone(),
                    line,
                    by: NetworkProgram::Ifupdown,
                    addresses,
                    dhcp,
                    mac: None,
                    mac_line: None,
                    matches_only_mac: false,
                    physical,
                },
            );
        };
        let dhcp = stanza.method == "dhcp" || (stanza.family == "inet6" && stanza.method == "auto");
        add(name, stanza.line, addresses(stanza), dhcp, !stands_on_others);
        for (line, part) in parts {
            add(&part, line, Vec::new(), false, !is_virtual_name(&part));
        }
    }
}

fn addresses(stanza: &Stanza) -> Vec<String> {
    let option = |name: &str| {
        let found = stanza.options.iter().find(|(_, key, _)| key == name)?;
        found.2.split_whitespace().next()
    };
    let mask = option("netmask").and_then(prefix_length);
    stanza
        .options
        .iter()
        .filter(|(_, key, _)| key == "address")
        .filter_map(|(_, _, value)| value.split_whitespace().next())
        .map(|address| match (address.contains('/'), mask) {
            (false, Some(length)) => format!("{address}/{length}"),
            _ => address.to_owned(),
        })
        .collect()
}

/// "255.255.255.0" or "24".
fn prefix_length(mask: &str) -> Option<u32> {
    match mask.parse::<std::net::Ipv4Addr>() {
        Ok(address) => Some(address.to_bits().count_ones()),
        Err(_) => mask.parse().ok().filter(|length| *length <= 128),
    }
}

#[cfg(test)]
mod tests;
