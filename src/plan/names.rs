//! Device names that do not survive the move (`/dev/sda1`) become names that do.

use super::{
    Action,
    blockers::is_removable,
    draft::{Draft, Facts, enumeration},
};
use crate::{
    fs::GuestPath,
    guest::{BootEntry, DeviceName, NameRole},
    machine::Firmware,
};
use std::collections::BTreeMap;

pub(super) fn rewrite(facts: Facts<'_>, draft: &mut Draft) {
    let mut lines: BTreeMap<(&GuestPath, u32), Vec<&DeviceName>> = BTreeMap::new();
    let mut install: Vec<String> = Vec::new();
    for name in &facts.guest.device_names {
        if is_removable(&name.name) {
            continue;
        }
        match name.role {
            NameRole::InstallDevice => {
                install.push(format!("{} line {} ({})", name.path, name.line, name.name))
            }
            NameRole::Other => draft.warn(format!(
                "{} line {} names {}, which may be called otherwise on the new machine; it stays as it is{}",
                name.path,
                name.line,
                name.name,
                stable_name(facts, name)
                    .map_or_else(String::new, |new| format!(" (a name that lasts: {new})"))
            )),
            _ => lines.entry((&name.path, name.line)).or_default().push(name),
        }
    }
    for ((path, line), names) in lines {
        rewrite_line(facts, path, line, names, draft);
    }
    // Only a BIOS boot loader lies outside of the filesystems and is installed onto a disk by its name.
    if !install.is_empty() && facts.guest.boot.firmware == Firmware::Bios {
        draft.warn(format!(
            "the disk that the boot loader's updates are installed on is named in {}: choose it again there \
             (Debian and Ubuntu: dpkg-reconfigure grub-pc)",
            enumeration(&install)
        ));
    }
}

/// All names of one line at once: two steps for one line would each find a line that they do not expect.
fn rewrite_line(
    facts: Facts<'_>,
    path: &GuestPath,
    line: u32,
    mut names: Vec<&DeviceName>,
    draft: &mut Draft,
) {
    // From the right, so that the columns to the left stay true.
    names.sort_by_key(|name| std::cmp::Reverse(name.column));
    names.dedup_by_key(|name| name.column);
    let Some(old) = names.first().map(|name| name.text.clone()) else {
        return;
    };
    let mut new = old.as_bytes().to_vec();
    let mut changes = Vec::new();
    for name in names {
        let Some(lasting) = stable_name(facts, name) else {
            warn_unknown(facts, name, draft);
            continue;
        };
        let start = usize::try_from(name.column).unwrap_or(usize::MAX);
        let end = start.saturating_add(name.name.len());
        if name.text != old || old.as_bytes().get(start..end) != Some(name.name.as_bytes()) {
            draft.warn(format!(
                "{path} line {line} is not as it was read ({} is not at byte {start}): look at it",
                name.name
            ));
            continue;
        }
        new.splice(start..end, lasting.bytes());
        changes.push(format!("{} is {lasting}", name.name));
    }
    if new == old.as_bytes() {
        return;
    }
    changes.reverse();
    let because = format!("{}, whatever the new machine calls it", enumeration(&changes));
    draft.step(
        Action::ReplaceLine {
            path: path.clone(),
            line,
            old,
            new: GuestPath(new),
        },
        because,
    );
}

/// `UUID=…`, or `PARTUUID=…` where there is no UUID or where it would not be understood.
pub(super) fn stable_name(facts: Facts<'_>, name: &DeviceName) -> Option<String> {
    let uuid = name
        .identity
        .as_ref()
        .and_then(|identity| identity.uuid.as_deref());
    let by_uuid = uuid
        .filter(|uuid| is_plain(uuid) && !is_shared(facts, uuid, name.volume.as_deref()))
        .map(|uuid| format!("UUID={uuid}"));
    let by_partition = name
        .partuuid
        .as_deref()
        .filter(|uuid| is_plain(uuid))
        .map(|uuid| format!("PARTUUID={uuid}"));
    if starts_without_initramfs(facts, name) {
        by_partition
    } else {
        by_uuid.or(by_partition)
    }
}

/// A name that a hostile filesystem made up could break the line that it is put into.
fn is_plain(uuid: &str) -> bool {
    !uuid.is_empty() && uuid.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
}

/// Does another filesystem of the guest have the same UUID?
fn is_shared(facts: Facts<'_>, uuid: &str, volume: Option<&str>) -> bool {
    facts
        .guest
        .mounts
        .iter()
        .any(|mount| mount.identity.uuid.as_deref() == Some(uuid) && Some(mount.volume.as_str()) != volume)
}

/// The kernel itself understands PARTUUID= on its command line, UUID= only what runs in an initramfs does.
fn starts_without_initramfs(facts: Facts<'_>, name: &DeviceName) -> bool {
    if !matches!(name.role, NameRole::KernelRoot | NameRole::KernelResume) {
        return false;
    }
    let Some(loader) = facts
        .guest
        .boot
        .loader
        .as_ref()
        .filter(|loader| loader.config == name.path)
    else {
        return false;
    };
    let before = |entry: &&BootEntry| entry.line <= name.line;
    loader
        .entries
        .iter()
        .filter(before)
        .max_by_key(|entry| entry.line)
        .is_some_and(|entry| entry.initramfs.is_empty())
}

fn warn_unknown(facts: Facts<'_>, name: &DeviceName, draft: &mut Draft) {
    // fstab lines for disks that are not there are told of, or are optional, where fstab is looked at.
    let told = name.role == NameRole::Fstab
        && name.volume.is_none()
        && facts
            .guest
            .fstab
            .iter()
            .any(|entry| entry.line == name.line && entry.volume.is_none());
    if told {
        return;
    }
    let why = if name.volume.is_none() {
        "none of the given disks could be identified as it"
    } else if starts_without_initramfs(facts, name) {
        "its partition has no PARTUUID, and without an initramfs nothing else is understood"
    } else {
        "its filesystem has no UUID of its own and its partition no PARTUUID"
    };
    draft.warn(format!(
        "{} line {}: {} stays as it is, because {why}; the new machine may call it otherwise",
        name.path, name.line, name.name
    ));
}
