//! What the firmware of the new machine, which remembers nothing, needs to find the boot loader.

use super::{
    Action,
    draft::{Draft, Facts},
};
use crate::{fs::GuestPath, machine::Firmware};

/// The path that UEFI starts when its boot variables name nothing (UEFI specification 2.10, 3.5.1.1).
const FALLBACK_FOLDER: &str = "/EFI/BOOT";

/// The distributions whose GRUB is known to find its configuration from the fallback path: its own folder is built in.
const KNOWN_TO_WORK: [&str; 2] = ["debian", "ubuntu"];

pub(super) fn plan(facts: Facts<'_>, draft: &mut Draft) {
    let boot = &facts.guest.boot;
    if boot.firmware != Firmware::Uefi {
        return;
    }
    if boot.efi_fallback {
        let windows = |loader: &GuestPath| loader.name().eq_ignore_ascii_case(b"bootmgfw.efi");
        if boot.efi_loaders.iter().any(windows) {
            draft.warn(format!(
                "the EFI system partition has Windows' boot manager too, and the fallback loader \
                 {FALLBACK_FOLDER}/BOOTX64.EFI may be Windows' own: choose the loader in the new machine's firmware"
            ));
        }
        return;
    }
    let Some(esp) = &boot.esp else {
        draft.block("the system boots by UEFI, but none of the given disks has an EFI system partition: give that disk too");
        return;
    };
    let Some(folder) = folder_of_loader(facts) else {
        draft.block(format!(
            "the EFI system partition ({esp}) has no boot loader that could be started without the old machine's boot \
             variables: put one at {FALLBACK_FOLDER}/BOOTX64.EFI"
        ));
        return;
    };
    let vendor = String::from_utf8_lossy(folder.name()).to_lowercase();
    if !KNOWN_TO_WORK.contains(&vendor.as_str()) {
        draft.warn(format!(
            "the boot loader of {folder} becomes the fallback loader too; whether it finds its configuration from \
             there is known of Debian and Ubuntu only"
        ));
    }
    let with = |name: &str| find(facts, &folder, name);
    let mut copies: Vec<(GuestPath, &str, &str)> = Vec::new();
    let first = "the new machine's firmware has no boot variables and starts only the fallback loader";
    let grub = ["grubx64.efi", "systemd-bootx64.efi"].into_iter().find_map(with);
    match (with("shimx64.efi"), grub) {
        (Some(shim), Some(grub)) => {
            copies.push((shim, "BOOTX64.EFI", first));
            copies.push((grub, "grubx64.efi", "shim starts the loader that lies beside it"));
            if let Some(manager) = with("mmx64.efi") {
                copies.push((manager, "mmx64.efi", "shim starts its key manager from beside it"));
            }
        }
        (_, Some(grub)) => copies.push((grub, "BOOTX64.EFI", first)),
        (_, None) => {}
    }
    for (from, to, because) in copies {
        draft.step(
            Action::CopyOnEsp {
                volume: esp.clone(),
                from,
                to: GuestPath::from(FALLBACK_FOLDER).join(to),
            },
            because,
        );
    }
}

/// The folder of the ESP whose loader starts this guest: its own distribution's before others.
fn folder_of_loader(facts: Facts<'_>) -> Option<GuestPath> {
    let os = &facts.guest.os;
    let mut folders: Vec<GuestPath> = facts
        .guest
        .boot
        .efi_loaders
        .iter()
        .filter(|loader| {
            let name = loader.name().to_ascii_lowercase();
            name == b"grubx64.efi" || name == b"systemd-bootx64.efi"
        })
        .map(GuestPath::parent)
        .filter(|folder| !folder.name().eq_ignore_ascii_case(b"boot"))
        .collect();
    folders.sort_by_key(|folder| {
        let name = String::from_utf8_lossy(folder.name()).to_lowercase();
        let rank = if name == os.id {
            0
        } else if os.id_like.contains(&name) || KNOWN_TO_WORK.contains(&name.as_str()) {
            1
        } else {
            2
        };
        (rank, folder.clone())
    });
    folders.into_iter().next()
}

/// The loader called `name` in `folder`, as it is spelled there.
fn find(facts: Facts<'_>, folder: &GuestPath, name: &str) -> Option<GuestPath> {
    let wanted = folder.join(name);
    let loaders = &facts.guest.boot.efi_loaders;
    loaders
        .iter()
        .find(|loader| loader.as_bytes().eq_ignore_ascii_case(wanted.as_bytes()))
        .cloned()
}
