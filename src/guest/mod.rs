//! What is installed, how it boots, what it mounts, how it is addressed. Facts only, each with the place it was
//! read from.

mod boot_loader;
mod device_names;
mod device_spec;
mod device_table;
mod files;
mod firmware;
pub mod fstab;
pub mod grub_config;
pub mod grub_environment;
mod grub_script;
mod initramfs_generator;
mod inspect;
mod kernel;
mod key_file;
pub mod network_linux;
pub mod os_release;
mod other_volume;
mod program;
pub mod swap_files;
mod text;

pub use boot_loader::{BootEntry, BootLoader, BootLoaderKind};
pub use device_names::{DeviceName, NameRole};
pub use firmware::Boot;
pub use fstab::FstabEntry;
pub use initramfs_generator::InitramfsGenerator;
pub use inspect::{Inspection, inspect};
pub use kernel::Kernel;
pub use network_linux::{Interface, MacMatch, NetworkProgram};
pub use os_release::OsRelease;
pub use other_volume::OtherVolume;
pub use swap_files::SwapFile;

use crate::fs::{GuestPath, Identity};
use serde::{Deserialize, Serialize};

/// One installed system. Everything in it was read from its disks; nothing is decided.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Guest {
    /// Id of the volume that holds its root: "disk0/p1". What `--root` names.
    pub root: String,
    /// "Debian GNU/Linux 12 (bookworm)".
    pub name: String,
    /// os-release.
    pub os: OsRelease,
    /// "x86_64", read from the ELF header of its init or shell.
    pub architecture: Option<String>,
    /// /etc/hostname.
    pub hostname: Option<String>,
    /// Major version of systemd, where it could be read.
    pub systemd: Option<u32>,
    /// What is mounted where, root first, then by path; swap has no mount point.
    pub mounts: Vec<Mount>,
    /// Every line of fstab that names a filesystem.
    pub fstab: Vec<FstabEntry>,
    /// Files that are swap space.
    pub swap_files: Vec<SwapFile>,
    /// All kernels, the one that starts by default first.
    pub kernels: Vec<Kernel>,
    /// How it boots.
    pub boot: Boot,
    /// What makes its initramfs images.
    pub initramfs_generator: Option<InitramfsGenerator>,
    /// Configured network interfaces, without loopback, in order of name.
    pub interfaces: Vec<Interface>,
    /// Every place that names a device in a way that does not survive a move.
    pub device_names: Vec<DeviceName>,
    /// Every line that names an adapter by its MAC address: of the files that configure [`Guest::interfaces`], of udev
    /// rules, of .link files.
    pub mac_matches: Vec<MacMatch>,
    /// Things that were there and not understood, one sentence each: warnings of every plan.
    pub remarks: Vec<String>,
    /// Things that make an edit unsafe (a hibernated system), with the cure: blockers of every plan.
    pub blockers: Vec<String>,
}

/// A volume of the guest.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Mount {
    /// "/", "/boot/efi"; `None` for swap.
    pub path: Option<GuestPath>,
    /// Volume id.
    pub volume: String,
    /// Names of the filesystem.
    pub identity: Identity,
    /// `PARTUUID=` of its partition.
    pub partuuid: Option<String>,
}

/// A line of a guest's text file: bytes, shown and stored as [`GuestPath`] is.
pub type GuestText = GuestPath;
