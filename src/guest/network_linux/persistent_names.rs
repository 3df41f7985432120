//! Names that adapters get by their MAC address: udev rules (`70-persistent-net.rules`) and systemd's .link files
//! (systemd.link(5)), and matches in drop-ins of .network files.

use super::{MAX_INTERFACES, MacMatch};
use crate::{
    fs::GuestPath,
    guest::{
        files::Files,
        key_file::{self, all, last},
        text::{lines, lossy, mac_address},
    },
};

/// Every line of udev rules and .link files that matches an address.
pub(crate) fn inspect(files: &Files) -> Vec<MacMatch> {
    let mut found = Vec::new();
    for path in files.with_suffix("/etc/udev/rules.d", b".rules") {
        if let Some(contents) = files.config(&path) {
            udev_rules(files, &path, &contents, &mut found);
        }
    }
    for path in files.with_suffix("/etc/systemd/network", b".link") {
        if let Some(contents) = files.config(&path) {
            link(files, &path, &contents, &mut found);
        }
    }
    for path in files.matching(&"/etc/systemd/network/*.network.d/*.conf".into()) {
        if let Some(contents) = files.config(&path) {
            link(files, &path, &contents, &mut found);
        }
    }
    found
}

fn udev_rules(files: &Files, path: &GuestPath, contents: &[u8], found: &mut Vec<MacMatch>) {
    for (line, text) in lines(contents) {
        if found.len() >= MAX_INTERFACES {
            return;
        }
        if text.trim_ascii().starts_with(b"#") {
            continue;
        }
        let rule = lossy(text);
        let address = ["ATTR{address}==", "ATTRS{address}==", "SYSFS{address}=="]
            .iter()
            .find_map(|key| quoted_after(&rule, key));
        let name = ["NAME=", "NAME:="]
            .iter()
            .find_map(|key| quoted_after(&rule, key));
        match address.and_then(|address| mac_address(address.as_bytes())) {
            Some(mac) => found.push(MacMatch {
                path: path.clone(),
                line,
                text: GuestPath(text.to_vec()),
                mac,
                interface: name.map(str::to_owned),
            }),
            None if rule.contains("\"net\"") && name.is_some() && rule.contains("KERNELS==") => files.remark(format!(
                "{path} line {line} names an adapter by the place where it sits, which is another on other hardware"
            )),
            None => {}
        }
    }
}

/// What stands in quotes after a key that begins a term of the rule.
fn quoted_after<'a>(rule: &'a str, key: &str) -> Option<&'a str> {
    let mut rest = rule;
    while let Some(at) = rest.find(key) {
        let (before, after) = rest.split_at(at);
        let after = after.get(key.len()..).unwrap_or_default();
        let begins = before.is_empty() || before.ends_with([',', ' ', '\t']);
        if let (true, Some(quoted)) = (begins, after.strip_prefix('"')) {
            return quoted.split_once('"').map(|(value, _)| value);
        }
        rest = after;
    }
    None
}

/// A .link file, or another with a `[Match]`.
fn link(files: &Files, path: &GuestPath, contents: &[u8], found: &mut Vec<MacMatch>) {
    let settings = key_file::parse(contents);
    let name = last(&settings, "Link", "Name").map(|name| name.value.clone());
    for key in ["MACAddress", "PermanentMACAddress"] {
        for setting in all(&settings, "Match", key) {
            let text = lines(contents).find(|(line, _)| *line == setting.line);
            let text = text.map_or(&b""[..], |(_, text)| text);
            for mac in setting.value.split_whitespace() {
                found.extend(mac_address(mac.as_bytes()).map(|mac| MacMatch {
                    path: path.clone(),
                    line: setting.line,
                    text: GuestPath(text.to_vec()),
                    mac,
                    interface: name.clone(),
                }));
            }
        }
    }
    for setting in all(&settings, "Match", "Path") {
        if setting.value.trim() == "*" {
            // Whatever hangs on a bus, wherever that is.
            continue;
        }
        files.remark(format!(
            "{path} line {} names an adapter by the place where it sits, which is another on other hardware",
            setting.line
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::{Mounts, memory_tree::MemoryTree};

    #[test]
    fn rules_and_links() {
        let rules = "# comment ATTR{address}==\"52:54:00:00:00:09\"\nSUBSYSTEM==\"net\", ACTION==\"add\", DRIVERS==\"?*\", \
            ATTR{address}==\"52:54:00:AB:00:01\", ATTR{dev_id}==\"0x0\", KERNEL==\"eth*\", NAME=\"eth0\"\n\
            SUBSYSTEM==\"net\", KERNELS==\"0000:02:00.0\", NAME=\"lan\"\n";
        let tree = MemoryTree::new("ext4", "u")
            .file("/etc/udev/rules.d/70-persistent-net.rules", rules)
            .file(
                "/etc/systemd/network/10-a.link",
                "[Match]\nMACAddress=52:54:00:00:00:02 52:54:00:00:00:03\n[Link]\nName=wan0\n",
            )
            .file(
                "/etc/systemd/network/a.network.d/b.conf",
                "[Match]\nMACAddress=52:54:00:00:00:04\n",
            );
        let mut mounts = Mounts::new(vec![("v".into(), Box::new(tree))]);
        mounts.mount(&"/".into(), 0).unwrap();
        let files = Files::new(&mounts);
        let found = inspect(&files);
        let short: Vec<_> = found
            .iter()
            .map(|m| (m.line, &*m.mac, m.interface.as_deref()))
            .collect();
        assert_eq!(
            short,
            [
                (2, "52:54:00:ab:00:01", Some("eth0")),
                (2, "52:54:00:00:00:02", Some("wan0")),
                (2, "52:54:00:00:00:03", Some("wan0")),
                (2, "52:54:00:00:00:04", None),
            ]
        );
        assert_eq!(
            found[1].text,
            "MACAddress=52:54:00:00:00:02 52:54:00:00:00:03".into()
        );
        assert_eq!(files.into_remarks().len(), 1);
    }
}
