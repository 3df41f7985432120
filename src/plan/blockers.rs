//! What cannot boot there or cannot be done safely, whatever else is decided; and what somebody should look at.

use super::draft::{Draft, Facts};
use crate::{guest::FstabEntry, machine::Firmware, machine::Machine};

pub(super) fn check(facts: Facts<'_>, draft: &mut Draft) {
    let Facts { guest, machine, .. } = facts;
    for blocker in &guest.blockers {
        draft.block(blocker.clone());
    }
    for remark in &guest.remarks {
        draft.warn(remark.clone());
    }
    match guest.architecture.as_deref() {
        Some(own) if own != machine.architecture => draft.block(format!(
            "the system is built for {own}, the machine {} has {} processors: choose a machine of the same architecture",
            machine.name, machine.architecture
        )),
        Some(_) => {}
        None => draft.warn(format!(
            "it could not be seen which processor the system is built for; the machine {} has {}",
            machine.name, machine.architecture
        )),
    }
    check_firmware(machine, guest.boot.firmware, draft);
    if guest.kernels.is_empty() {
        draft.block("no installed kernel was found: nothing could be started there");
    }
    if guest.boot.loader.is_none() {
        draft.warn(
            "no boot loader that is understood was found: device names in its configuration stay as they are, and \
             the system may not boot",
        );
    }
    check_fstab(facts, draft);
    check_same_uuid(facts, draft);
}

pub(super) fn check_firmware(machine: &Machine, firmware: Firmware, draft: &mut Draft) {
    if !machine.firmware.contains(&firmware) {
        draft.block(format!(
            "the system boots by {}, which the machine {} does not have",
            name(firmware),
            machine.name
        ));
    }
}

/// As people write it.
pub(super) fn name(firmware: Firmware) -> &'static str {
    match firmware {
        Firmware::Bios => "BIOS",
        Firmware::Uefi => "UEFI",
    }
}

/// A filesystem that fstab wants and no given disk has: systemd waits for it, then stops in emergency mode.
fn check_fstab(facts: Facts<'_>, draft: &mut Draft) {
    for entry in &facts.guest.fstab {
        if entry.volume.is_none() && wants_a_disk(entry) && !is_optional(entry) {
            draft.warn(format!(
                "/etc/fstab line {}: none of the given disks has {} ({}); without it the system stops in emergency mode: \
                 give that disk too, or mark the line nofail",
                entry.line, entry.spec, entry.mount_point
            ));
        }
    }
}

fn wants_a_disk(entry: &FstabEntry) -> bool {
    let by_name = ["UUID=", "LABEL=", "PARTUUID=", "PARTLABEL=", "/dev/"]
        .iter()
        .any(|prefix| entry.spec.starts_with(prefix));
    by_name && !is_removable(&entry.spec)
}

/// Neither at boot, nor waited for.
fn is_optional(entry: &FstabEntry) -> bool {
    entry
        .options
        .split(',')
        .any(|option| matches!(option, "noauto" | "nofail"))
}

/// Optical drives and floppy disks keep their names, or are not there to be missed.
pub(super) fn is_removable(device: &str) -> bool {
    let Some(name) = device.strip_prefix("/dev/") else {
        return false;
    };
    let numbered = |prefix: &str| {
        name.strip_prefix(prefix)
            .is_some_and(|rest| rest.chars().all(|c| c.is_ascii_digit()))
    };
    ["sr", "scd", "fd", "cdrom", "dvd", "cdrw", "floppy"]
        .into_iter()
        .any(numbered)
}

fn check_same_uuid(facts: Facts<'_>, draft: &mut Draft) {
    let mounts = &facts.guest.mounts;
    for (i, mount) in mounts.iter().enumerate() {
        for other in mounts.iter().skip(i.saturating_add(1)) {
            if let Some(uuid) = &mount.identity.uuid
                && other.identity.uuid.as_ref() == Some(uuid)
                && other.volume != mount.volume
            {
                draft.warn(format!(
                    "{} and {} have the same UUID {uuid}: which of them is mounted is chance; give one a new UUID",
                    mount.volume, other.volume
                ));
            }
        }
    }
}
