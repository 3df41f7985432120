//! Machine descriptions: one end of a move. Shipped in `driver-db/machines/*.toml`, or written by the user.

mod load;
mod shipped;

pub(crate) use load::is_mac;
pub use load::{list, load, parse};

use serde::{Deserialize, Serialize};

/// Firmware and devices; the schema of a machine file. `driver-db/README.md` describes it for people.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Machine {
    /// Version of this schema: 1.
    pub schema: u32,
    /// "kvm".
    pub name: String,
    /// One sentence for `machine list`.
    pub description: String,
    /// "x86_64".
    pub architecture: String,
    /// Which firmware the machine can have. A virtual machine offers both; the guest's own is then kept.
    pub firmware: Vec<Firmware>,
    /// How the definition for a hypervisor names the machine ("q35"); absent for physical machines.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Storage controllers in order of preference; the first that the guest can boot from carries the disks.
    #[serde(default)]
    pub storage: Vec<StorageController>,
    /// Network adapters. Of a virtual machine ([`Machine::model`] is there): the models in order of preference, each
    /// configured interface gets an adapter of the first that the guest can drive. Of a physical one: each port.
    #[serde(default)]
    pub network: Vec<NetworkAdapter>,
    /// Other devices that want a driver (display, console, random numbers): never blockers.
    #[serde(default)]
    pub devices: Vec<OtherDevice>,
}

/// What starts the boot loader.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Firmware {
    /// Or UEFI's compatibility module.
    Bios,
    /// UEFI.
    Uefi,
}

/// A controller that disks hang on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StorageController {
    /// "virtio-blk", "virtio-scsi", "ahci", "nvme": how `output` and `qemu` name it.
    pub model: String,
    /// Modaliases of the controller itself ("pci:v00001AF4d00001042sv…bc01sc00i00"), best first.
    pub modaliases: Vec<String>,
    /// Modaliases of what appears behind it: "virtio:d00000002v00001AF4", then "scsi:t-0x00".
    #[serde(default)]
    pub behind: Vec<String>,
    /// What Linux calls a disk on it: "vd", "sd", "nvme".
    pub disk_prefix: String,
    /// Which firmware can boot from it.
    pub boots: Vec<Firmware>,
}

/// A network adapter.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetworkAdapter {
    /// "virtio-net", "e1000e".
    pub model: String,
    /// Modaliases of the adapter, best first.
    pub modaliases: Vec<String>,
    /// Modaliases of what appears behind it.
    #[serde(default)]
    pub behind: Vec<String>,
    /// The port's own address "52:54:00:12:34:56"; absent: the definition gives one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,
    /// Where it sits ("0000:01:00.0"); absent: the definition gives one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pci_address: Option<String>,
}

/// Any other device.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OtherDevice {
    /// "virtio-rng".
    pub model: String,
    /// Modaliases, best first.
    pub modaliases: Vec<String>,
    /// Modaliases of what appears behind it.
    #[serde(default)]
    pub behind: Vec<String>,
}
