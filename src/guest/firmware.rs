//! Which firmware starts the system: from the partition types, the EFI system partition and the boot code.

use super::{BootLoader, FstabEntry, boot_loader, device_table::DeviceTable, files::Files, text::lossy};
use crate::{
    disk::Disk,
    fs::GuestPath,
    guest::{
        boot_loader::volume_of,
        grub_config::{self, GrubEnvironment},
    },
    machine::Firmware,
    volume::{Scan, TableKind},
};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// UEFI specification 2.10, section 5.3.3, "Defined GPT Partition Entry: Partition Type GUIDs".
const ESP_GUID: &str = "C12A7328-F81F-11D2-BA4B-00A0C93EC93B";
/// GRUB manual, "BIOS installation".
const BIOS_BOOT_GUID: &str = "21686148-6449-6E6F-744E-656564454649";
/// UEFI specification 2.10, section 5.2.2, "OS Types".
const ESP_MBR_TYPE: &str = "ef";
/// Loaders that are listed: a real ESP has a dozen.
const MAX_LOADERS: usize = 256;

/// How the system boots.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Boot {
    /// From the partition types, the ESP and the boot code.
    pub firmware: Firmware,
    /// Why that firmware was concluded: one sentence.
    pub firmware_because: String,
    /// `None`: no boot loader that we know.
    pub loader: Option<BootLoader>,
    /// Volume id of the EFI system partition.
    pub esp: Option<String>,
    /// Where the ESP is mounted ("/boot/efi"), if it is.
    pub esp_mount: Option<GuestPath>,
    /// The EFI loaders on the ESP, as paths on the ESP ("/EFI/debian/grubx64.efi").
    pub efi_loaders: Vec<GuestPath>,
    /// Is there a fallback loader `/EFI/BOOT/BOOTX64.EFI` on the ESP?
    pub efi_fallback: bool,
}

/// What is on the disks, apart from the guests.
pub(crate) struct Hardware<'a> {
    pub(crate) disks: &'a [Arc<dyn Disk>],
    pub(crate) scan: &'a Scan,
}

impl Hardware<'_> {
    /// Ids of the volumes whose partition has that type, those on the given disk first.
    fn partitions(&self, first: usize, is: impl Fn(&str, Option<TableKind>) -> bool) -> Vec<(String, usize)> {
        let mut found: Vec<(String, usize)> = self
            .scan
            .volumes
            .iter()
            .filter_map(|volume| {
                let partition = volume.partition.as_ref()?;
                let table = self.scan.tables.get(partition.disk).copied().flatten();
                is(&partition.kind, table).then(|| (volume.id.clone(), partition.disk))
            })
            .collect();
        // Stable: the order of the disks stays otherwise.
        found.sort_by_key(|(_, disk)| *disk != first);
        found
    }

    pub(crate) fn system_partitions(&self, first: usize) -> Vec<(String, usize)> {
        self.partitions(first, |kind, _| {
            kind.eq_ignore_ascii_case(ESP_GUID) || kind.eq_ignore_ascii_case(ESP_MBR_TYPE)
        })
    }

    /// The first sector of a disk, where BIOS firmware finds its boot code.
    fn boot_code(&self, disk: usize) -> BootCode {
        let mut sector = [0; 512];
        let Some(disk) = self.disks.get(disk) else {
            return BootCode::None;
        };
        if disk.read_at(0, &mut sector).is_err() {
            return BootCode::None;
        }
        boot_code(&sector)
    }
}

/// What the first sector holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum BootCode {
    None,
    Other,
    Grub,
}

/// Master boot record: code in the first 440 bytes, 0x55 0xAA at 510. GRUB's boot.img says "GRUB " before its error
/// messages, in the second half of that code.
fn boot_code(sector: &[u8; 512]) -> BootCode {
    let code = sector.get(..440).unwrap_or_default();
    if sector.get(510..) != Some(&[0x55, 0xaa]) || code.iter().all(|byte| *byte == 0) {
        BootCode::None
    } else if code.windows(5).any(|text| text == b"GRUB ") {
        BootCode::Grub
    } else {
        BootCode::Other
    }
}

/// Everything but the loader's menu, which depends on the firmware.
pub(crate) fn inspect(
    files: &Files,
    hardware: &Hardware,
    root_disk: usize,
    fstab: &[FstabEntry],
    architecture: Option<&str>,
) -> Boot {
    let esps = hardware.system_partitions(root_disk);
    let mounted = |volume: &str| {
        let index = files.mounts.index_of(volume)?;
        files.mounts.mount_point(index).cloned()
    };
    let in_fstab = |volume: &str| fstab.iter().any(|entry| entry.volume.as_deref() == Some(volume));
    let esp = esps
        .iter()
        .find(|(volume, _)| in_fstab(volume))
        .or_else(|| {
            esps.iter()
                .find(|(volume, _)| !efi_loaders(files, volume).is_empty())
        })
        .or_else(|| esps.first());
    let esp = esp.map(|(volume, _)| volume.clone());
    let efi_loaders = esp
        .as_deref()
        .map(|esp| efi_loaders(files, esp))
        .unwrap_or_default();
    let esp_mount = esp.as_deref().and_then(mounted);
    let efi_fallback = esp
        .as_deref()
        .is_some_and(|esp| has_fallback(files, esp, architecture));
    let evidence = Evidence {
        esp: esp.as_deref(),
        loaders: efi_loaders.len(),
        esp_mounted: esp_mount.is_some(),
        code: hardware.boot_code(root_disk),
        root_disk,
        bios_boot: hardware
            .partitions(root_disk, |kind, _| kind.eq_ignore_ascii_case(BIOS_BOOT_GUID))
            .into_iter()
            .next()
            .map(|(volume, _)| volume),
        grub_on: (0..hardware.disks.len()).find(|disk| hardware.boot_code(*disk) == BootCode::Grub),
        table: hardware.scan.tables.get(root_disk).copied().flatten(),
        for_bios: files.exists("/boot/grub/i386-pc") || files.exists("/boot/grub2/i386-pc"),
        for_uefi: ["x86_64-efi", "arm64-efi", "i386-efi"]
            .iter()
            .any(|platform| files.exists(&format!("/boot/grub/{platform}"))),
    };
    let (firmware, firmware_because) = evidence.conclude();
    Boot {
        firmware,
        firmware_because,
        loader: None,
        esp,
        esp_mount,
        efi_loaders,
        efi_fallback,
    }
}

/// What speaks for either firmware.
struct Evidence<'a> {
    esp: Option<&'a str>,
    loaders: usize,
    esp_mounted: bool,
    code: BootCode,
    root_disk: usize,
    bios_boot: Option<String>,
    grub_on: Option<usize>,
    table: Option<TableKind>,
    /// /boot/grub/i386-pc: GRUB's modules for BIOS are installed.
    for_bios: bool,
    for_uefi: bool,
}

impl Evidence<'_> {
    fn conclude(&self) -> (Firmware, String) {
        let esp = self.esp.unwrap_or_default();
        let grub = self
            .grub_on
            .map(|disk| format!("disk{disk} has GRUB's boot code in its first sector"));
        let loaders = format!("the EFI system partition {esp} has {} EFI loaders", self.loaders);
        let has_efi = self.esp.is_some() && self.loaders > 0;
        match (grub, has_efi) {
            (Some(grub), true) => self.conclude_from_both(&grub, &loaders),
            (Some(grub), false) => (Firmware::Bios, format!("{grub}, and no EFI loader was found")),
            (None, true) => (
                Firmware::Uefi,
                format!("{loaders}, and no disk has GRUB's boot code in its first sector"),
            ),
            (None, false) => self.conclude_from_little(),
        }
    }

    /// Images for both firmwares, as clouds use them.
    fn conclude_from_both(&self, grub: &str, loaders: &str) -> (Firmware, String) {
        let both = format!("both are possible ({grub}; {loaders})");
        match (self.for_bios, self.for_uefi, self.esp_mounted) {
            (true, false, _) => (
                Firmware::Bios,
                format!("{both}; GRUB's modules are installed for BIOS only"),
            ),
            (false, true, _) => (
                Firmware::Uefi,
                format!("{both}; GRUB's modules are installed for UEFI only"),
            ),
            (_, _, true) => (
                Firmware::Uefi,
                format!("{both}; the system mounts its EFI system partition"),
            ),
            (_, _, false) => (
                Firmware::Bios,
                format!("{both}; the system does not mount its EFI system partition"),
            ),
        }
    }

    fn conclude_from_little(&self) -> (Firmware, String) {
        if self.code == BootCode::Other {
            let text = format!("disk{} has boot code in its first sector", self.root_disk);
            (
                Firmware::Bios,
                format!("{text}, though not GRUB's, and no EFI loader was found"),
            )
        } else if let Some(bios_boot) = &self.bios_boot {
            (Firmware::Bios, format!("{bios_boot} is a BIOS boot partition"))
        } else if let Some(esp) = self.esp {
            let text = format!("{esp} is an EFI system partition, though without a loader");
            (Firmware::Uefi, text)
        } else {
            let table = match self.table {
                Some(TableKind::Gpt) => "a GPT",
                Some(TableKind::Mbr) => "an MBR",
                None => "no partition table",
            };
            let text = format!(
                "nothing tells: disk{} has {table}, no boot code and no EFI system partition",
                self.root_disk
            );
            (Firmware::Bios, text)
        }
    }
}

/// "/EFI/debian/grubx64.efi" and its like, two folders deep as vendors put them (UEFI specification 2.10, section 13.3.1).
fn efi_loaders(files: &Files, esp: &str) -> Vec<GuestPath> {
    let mut loaders = Vec::new();
    let Some(index) = files.mounts.index_of(esp) else {
        return loaders;
    };
    for vendor in names_on(files, index, &"/EFI".into()) {
        let folder = GuestPath::from("/EFI").join(&vendor);
        for name in names_on(files, index, &folder) {
            if lossy(&name).to_ascii_lowercase().ends_with(".efi") && loaders.len() < MAX_LOADERS {
                loaders.push(folder.join(&name));
            }
        }
    }
    loaders
}

fn names_on(files: &Files, index: usize, path: &GuestPath) -> Vec<Vec<u8>> {
    match files.mounts.find_on(index, path) {
        Ok(Some(found)) if found.attributes.is_directory() => {
            files.mounts.list_found(&found).unwrap_or_default()
        }
        Ok(_) => Vec::new(),
        Err(error) => {
            files.remark(format!(
                "{path} of an EFI system partition could not be read: {error}"
            ));
            Vec::new()
        }
    }
}

/// UEFI specification 2.10, section 3.5.1.1, "Removable Media Boot Behavior".
fn has_fallback(files: &Files, esp: &str, architecture: Option<&str>) -> bool {
    let name = match architecture {
        Some("aarch64") => "BOOTAA64.EFI",
        Some("riscv64") => "BOOTRISCV64.EFI",
        _ => "BOOTX64.EFI",
    };
    let path = GuestPath::from("/EFI/BOOT").join(name);
    let index = files.mounts.index_of(esp);
    index.is_some_and(
        |index| matches!(files.mounts.find_on(index, &path), Ok(Some(f)) if f.attributes.is_file()),
    )
}

/// The volume that the loaders of the ESP start from: Debian's `grub.cfg` beside them only says where the real one is.
pub(crate) fn started_by_esp(files: &Files, devices: &DeviceTable, esp: &str) -> Option<String> {
    let index = files.mounts.index_of(esp)?;
    let vendors = names_on(files, index, &"/EFI".into());
    vendors.iter().find_map(|vendor| {
        let path = GuestPath::from("/EFI").join(vendor).join("grub.cfg");
        let found = files.mounts.find_on(index, &path).ok()??;
        let stub = files.mounts.read_found(&found, super::files::MAX_CONFIG).ok()?;
        let stub = grub_config::parse(&stub, &GrubEnvironment::default());
        volume_of(files, devices, &stub.hands_over_to?.device)
    })
}

/// Does that disk start with GRUB's boot code?
pub(crate) fn starts_with_grub(hardware: &Hardware, disk: usize) -> bool {
    hardware.boot_code(disk) == BootCode::Grub
}

/// Reads the menu, now that the firmware is known.
pub(crate) fn with_loader(boot: &mut Boot, files: &Files, devices: &DeviceTable) -> boot_loader::Found {
    let found = boot_loader::inspect(files, devices, boot.firmware);
    boot.loader.clone_from(&found.loader);
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn boot_code_of_a_first_sector() {
        let mut sector = [0; 512];
        assert_eq!(boot_code(&sector), BootCode::None);
        sector[510..].copy_from_slice(&[0x55, 0xaa]);
        assert_eq!(boot_code(&sector), BootCode::None);
        sector[..2].copy_from_slice(&[0xeb, 0x63]);
        assert_eq!(boot_code(&sector), BootCode::Other);
        sector[0x180..0x185].copy_from_slice(b"GRUB ");
        assert_eq!(boot_code(&sector), BootCode::Grub);
    }
}
