//! An interface keeps its configured name on the new adapter: a .link file of systemd, or a rule of udev where .link
//! files do not decide.

use super::{
    Action,
    draft::{Draft, Facts, enumeration},
    network::Wanted,
};
use crate::{
    fs::GuestPath,
    guest::{MacMatch, NetworkProgram},
};

/// From this version on, udev in the root renames an interface again that udev in the initramfs has renamed already.
const RENAMES_AGAIN: u32 = 240;
/// From this version on, `Type=` of a .link file knows "ether"; before, only kernel device types like "wlan".
const KNOWS_ETHER: u32 = 245;
/// Before this version, distributions had rules that gave every new MAC address a new name, and those came first.
const LINK_FILES_DECIDE: u32 = 220;

/// The adapter with the address `mac`, or the only one there is (`None`), gets the name `name`. Gives the file that the
/// initramfs images must have for that too, if any: path in the image and contents.
pub(super) fn keep(
    facts: Facts<'_>,
    name: &str,
    mac: Option<&str>,
    draft: &mut Draft,
) -> Option<(GuestPath, String)> {
    let systemd = facts.guest.systemd;
    let (path, contents) = if systemd.is_some_and(|version| version >= LINK_FILES_DECIDE) {
        let path = format!("/etc/systemd/network/10-rehome-{name}.link");
        (path, link_file(name, mac, systemd))
    } else {
        let path = format!("/etc/udev/rules.d/70-rehome-{name}.rules");
        (path, udev_rule(name, mac))
    };
    let because = match mac {
        Some(mac) => {
            format!("the configuration calls this interface {name}; its adapter has the address {mac}")
        }
        None => format!(
            "the configuration calls this interface {name}; there is one adapter, whatever its address"
        ),
    };
    draft.step(
        Action::WriteFile {
            path: GuestPath::from(path.as_str()),
            contents: contents.clone(),
            mode: 0o644,
        },
        because,
    );
    let in_image = path.trim_start_matches('/');
    // Of several, one may have been given in the initramfs the name that another has in the configuration.
    let needed = mac.is_some() || systemd.is_none_or(|version| version < RENAMES_AGAIN);
    needed.then(|| (GuestPath::from(in_image), contents))
}

/// systemd.link(5). `Path=*` matches whatever hangs on a bus, and no bridge, VLAN or tunnel, which may have the same
/// MAC address. Without a `NamePolicy=` the `Name=` counts.
fn link_file(name: &str, mac: Option<&str>, systemd: Option<u32>) -> String {
    let adapter = match mac {
        Some(mac) => format!("MACAddress={mac}\n"),
        None if systemd.is_some_and(|version| version >= KNOWS_ETHER) => "Type=ether\n".to_owned(),
        None => String::new(),
    };
    format!(
        "# Written by rehome: the adapter of the new machine has the name that this system's configuration uses.\n\
         [Match]\nPath=*\n{adapter}\n[Link]\nName={name}\n"
    )
}

/// udev(7). `DRIVERS=="?*"` matches whatever hangs on a bus; type 1 is Ethernet.
fn udev_rule(name: &str, mac: Option<&str>) -> String {
    let address = mac.map_or_else(String::new, |mac| format!(", ATTR{{address}}==\"{mac}\""));
    format!(
        "# Written by rehome: the adapter of the new machine has the name that this system's configuration uses.\n\
         SUBSYSTEM==\"net\", ACTION==\"add\", DRIVERS==\"?*\", ATTR{{type}}==\"1\", KERNEL==\"eth*\"{address}, \
         NAME=\"{name}\"\n"
    )
}

/// Lines that name the interface's old adapter by its MAC address name the new one; or any, where there is but one (`alone`)
/// and the configuration takes that: people also start the disk under a definition of their own.
pub(super) fn follow_mac(
    facts: Facts<'_>,
    interface: &Wanted<'_>,
    new: &str,
    alone: bool,
    draft: &mut Draft,
) {
    let mine = |line: &&MacMatch| match (&line.interface, interface.name) {
        (Some(other), Some(name)) => other == name,
        _ => Some(line.mac.as_str()) == interface.old_mac(),
    };
    for line in facts.guest.mac_matches.iter().filter(mine) {
        if is_decided(draft, line) {
            continue;
        }
        let configured = interface
            .configured
            .iter()
            .find(|configured| configured.path == line.path && configured.mac_line == Some(line.line))
            .filter(|configured| alone && configured.matches_only_mac);
        if let Some(configured) = configured
            && let Some(text) = any_adapter(configured.by, interface.name, line)
        {
            draft.step(
                Action::ReplaceLine {
                    path: line.path.clone(),
                    line: line.line,
                    old: line.text.clone(),
                    new: text,
                },
                format!(
                    "there is one adapter for {}, whatever its address",
                    interface.called()
                ),
            );
            continue;
        }
        match replace_mac(&line.text, &line.mac, new) {
            Some(text) if text != line.text => draft.step(
                Action::ReplaceLine {
                    path: line.path.clone(),
                    line: line.line,
                    old: line.text.clone(),
                    new: text,
                },
                format!(
                    "the adapter of {} has the address {new} there",
                    interface.called()
                ),
            ),
            Some(_) => {}
            None => draft.warn(format!(
                "{} line {} goes by the address {} of an old adapter; put {new} there",
                line.path, line.line, line.mac
            )),
        }
    }
    let dhcp = interface.configured.iter().any(|configured| configured.dhcp);
    let kept = interface.old_mac() == Some(new);
    if dhcp
        && !kept
        && !facts
            .options
            .nics
            .iter()
            .any(|(name, _)| interface.name == Some(name))
    {
        draft.warn(format!(
            "{} asks for its address by DHCP and has a new MAC address, {new}: a reservation must follow, or keep the \
             old address with --nic NAME=MAC",
            interface.called()
        ));
    }
}

/// Is the file one that we write (of an earlier move), or the line one with two addresses and the first has followed?
fn is_decided(draft: &Draft, line: &MacMatch) -> bool {
    draft.steps.iter().any(|step| match &step.action {
        Action::WriteFile { path, .. } => *path == line.path,
        Action::ReplaceLine {
            path, line: number, ..
        } => *path == line.path && *number == line.line,
        _ => false,
    })
}

/// Names that the kernel and udev give to Ethernet adapters.
const ETHERNET: &str = "e*";

/// A line that matches by address as one that any Ethernet adapter fits, in the words of the program that reads it. `None`
/// if the line is written in a way that this does not know.
fn any_adapter(by: NetworkProgram, name: Option<&str>, line: &MacMatch) -> Option<GuestPath> {
    let text = line.text.as_bytes();
    let word_at = |word: &[u8]| {
        text.windows(word.len())
            .position(|window| window.eq_ignore_ascii_case(word))
    };
    match by {
        // systemd.network(5): the name that it has when it is matched, which is that of the .link file.
        NetworkProgram::SystemdNetworkd => {
            let start = word_at(b"permanentmacaddress").or(word_at(b"macaddress"))?;
            let blank = text.get(..start)?.iter().all(u8::is_ascii_whitespace);
            let new = format!("Name={}", name.unwrap_or(ETHERNET));
            blank.then(|| GuestPath(new.into_bytes()))
        }
        // netplan's `match: name` is the name that the kernel gave; `set-name` may give another.
        NetworkProgram::Netplan => {
            let start = word_at(b"macaddress")?;
            let value = start.checked_add(b"macaddress".len())?;
            let (_, rest) = text.split_at_checked(value)?;
            let colon = rest.iter().position(|byte| *byte == b':')?;
            let between = rest.get(..colon)?;
            let (_, rest) = rest.split_at_checked(colon.checked_add(1)?)?;
            let blanks = rest.iter().take_while(|byte| byte.is_ascii_whitespace()).count();
            let (_, rest) = rest.split_at_checked(blanks)?;
            let quote = rest.first().copied().filter(|byte| matches!(byte, b'"' | b'\''));
            let quotes = usize::from(quote.is_some());
            let (address, rest) = rest
                .split_at_checked(quotes)?
                .1
                .split_at_checked(line.mac.len())?;
            let is_it = is_address(address, &line.mac);
            let closed = quote.is_none() || rest.first().copied() == quote;
            if !is_it || !closed || !between.iter().all(u8::is_ascii_whitespace) {
                return None;
            }
            let mut new = text.get(..start)?.to_vec();
            new.extend_from_slice(format!("name: \"{ETHERNET}\"").as_bytes());
            new.extend_from_slice(rest.get(quotes..)?);
            Some(GuestPath(new))
        }
        // A connection without an address or a name is for any adapter of its type (nm-settings(5)).
        NetworkProgram::NetworkManager => Some(GuestPath([b"# ", text].concat())),
        NetworkProgram::Ifupdown => None,
    }
}

/// Is `text` the address `mac` (lower case with colons), in whatever case and with whatever between its bytes?
fn is_address(text: &[u8], mac: &str) -> bool {
    let plain = |byte: &u8| match byte {
        b'-' => b':',
        other => other.to_ascii_lowercase(),
    };
    text.iter().map(plain).eq(mac.bytes())
}

/// `old` in its first place in `text`, in whatever case and with whatever between its bytes, becomes `new`.
fn replace_mac(text: &GuestPath, old: &str, new: &str) -> Option<GuestPath> {
    let bytes = text.as_bytes();
    let at = bytes
        .windows(old.len().max(1))
        .position(|window| is_address(window, old))?;
    let mut line = bytes.to_vec();
    line.splice(at..at.saturating_add(old.len()), new.bytes());
    Some(GuestPath(line))
}

/// The kernel's own names cannot be exchanged: while it calls one adapter eth1, no other can be renamed to it.
pub(super) fn warn_swapped(wanted: &[Wanted<'_>], draft: &mut Draft) {
    let swapped: Vec<&str> = wanted
        .iter()
        .enumerate()
        .filter_map(|(index, interface)| {
            let name = interface.name?;
            let number: usize = name.strip_prefix("eth")?.parse().ok()?;
            (number != index && number < wanted.len()).then_some(name)
        })
        .collect();
    if !swapped.is_empty() {
        draft.warn(format!(
            "the new machine's kernel may give {} to another adapter first; see that each interface has its name after \
             the first start",
            enumeration(&swapped)
        ));
    }
}
