//! Binds each device of the target machine to a driver of the guest, and says what was rejected and why. Does the
//! reading, so that the plan can be pure.

mod bind;
mod built_in_names;
mod firmware_files;
mod image;
mod kernel_files;
mod match_guest;
#[cfg(test)]
pub(crate) mod sample_guest;
#[cfg(test)]
mod tests;
pub mod windows;

pub(crate) use kernel_files::index_files;
pub use match_guest::match_guest;

use crate::fs::GuestPath;
use serde::{Deserialize, Serialize};

/// What one kernel of the guest has for one device of the target.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Binding {
    /// The device: "virtio-blk", "e1000e".
    pub device: String,
    /// What the device is for.
    pub role: DeviceRole,
    /// The kernel's release.
    pub kernel: String,
    /// `None`: this kernel has no driver for it.
    pub driver: Option<Driver>,
    /// What else was considered: module and reason ("blacklisted in /etc/modprobe.d/a.conf").
    pub rejected: Vec<(String, String)>,
}

/// What a device is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DeviceRole {
    /// Index into [`crate::machine::Machine::storage`] is in the order of the bindings.
    Storage,
    /// A network adapter.
    Network,
    /// Neither.
    Other,
}

/// A driver, and all that it needs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Driver {
    /// The modules that the device's modaliases ask for, controller first: "virtio_pci", "virtio_blk".
    pub modules: Vec<String>,
    /// Those that are built into the kernel.
    pub built_in: Vec<String>,
    /// Every file that must be loaded for them, dependencies first.
    pub files: Vec<ModuleFile>,
    /// Firmware that a module names and the guest has not.
    pub missing_firmware: Vec<String>,
}

/// A module file of the guest.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModuleFile {
    /// "virtio_blk".
    pub module: String,
    /// Where it lies in the guest ("/lib/modules/6.1.0-28-amd64/kernel/drivers/block/virtio_blk.ko.xz").
    pub path: GuestPath,
    /// Does the kernel's initramfs hold it already?
    pub in_initramfs: bool,
}
