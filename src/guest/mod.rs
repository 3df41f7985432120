//! What is installed, how it boots, what it mounts, how it is addressed. Facts only, each with the place it was
//! read from.

use crate::{fs::GuestPath, fs::Identity, machine::Firmware};
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
    /// Every place that names an adapter by its MAC address outside of [`Guest::interfaces`] (udev rules, .link).
    pub mac_matches: Vec<MacMatch>,
    /// Things that were there and not understood, one sentence each: warnings of every plan.
    pub remarks: Vec<String>,
    /// Things that make an edit unsafe (a hibernated system), with the cure: blockers of every plan.
    pub blockers: Vec<String>,
}

/// The distribution.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct OsRelease {
    /// "debian".
    pub id: String,
    /// "debian" for Ubuntu.
    pub id_like: Vec<String>,
    /// "12".
    pub version_id: Option<String>,
    /// "bookworm".
    pub version_codename: Option<String>,
    /// "Debian GNU/Linux 12 (bookworm)".
    pub pretty_name: Option<String>,
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

/// A line of /etc/fstab.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FstabEntry {
    /// Counted from 1.
    pub line: u32,
    /// "UUID=…", "/dev/sda1", with its escapes as in the file.
    pub spec: String,
    /// "/home", "none".
    pub mount_point: String,
    /// "ext4".
    pub kind: String,
    /// "defaults,noatime".
    pub options: String,
    /// The volume that it names, where one of the given disks has it.
    pub volume: Option<String>,
}

/// An installed kernel.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Kernel {
    /// "6.1.0-28-amd64".
    pub release: String,
    /// "/boot/vmlinuz-6.1.0-28-amd64".
    pub image: GuestPath,
    /// "/boot/initrd.img-6.1.0-28-amd64".
    pub initramfs: Option<GuestPath>,
    /// "/lib/modules/6.1.0-28-amd64", as it can be opened (links resolved); `None`: no tree of modules.
    pub modules: Option<GuestPath>,
    /// Starts when nobody chooses.
    pub default: bool,
}

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

/// A boot loader that we know.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BootLoader {
    /// Which one.
    pub kind: BootLoaderKind,
    /// "/boot/grub/grub.cfg".
    pub config: GuestPath,
    /// Menu entries in order, submenus flattened.
    pub entries: Vec<BootEntry>,
}

/// Kinds of boot loader.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum BootLoaderKind {
    /// GNU GRUB 2.
    Grub2,
}

/// A menu entry that starts a kernel.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BootEntry {
    /// "Debian GNU/Linux, with Linux 6.1.0-28-amd64".
    pub title: String,
    /// The entry's id, where the configuration gives one.
    pub id: Option<String>,
    /// The kernel as a guest path.
    pub kernel: GuestPath,
    /// Its initramfs images as guest paths, in order.
    pub initramfs: Vec<GuestPath>,
    /// The kernel command line as written.
    pub options: String,
    /// Line of the configuration file, from 1.
    pub line: u32,
    /// Chosen when nobody chooses.
    pub default: bool,
}

/// Programs that make initramfs images.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum InitramfsGenerator {
    /// Debian's initramfs-tools.
    InitramfsTools,
    /// dracut.
    Dracut,
}

/// A configured network interface.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Interface {
    /// The name that the configuration uses ("enp2s0", "eth0"); for a netplan id with a match and no set-name, or a networkd
    /// file that matches by MAC only: the name is not known and this is `None`.
    pub name: Option<String>,
    /// The file that configures it.
    pub path: GuestPath,
    /// Line, from 1.
    pub line: u32,
    /// Which program reads that file.
    pub by: NetworkProgram,
    /// Static addresses "192.0.2.10/24".
    pub addresses: Vec<String>,
    /// DHCP for either family.
    pub dhcp: bool,
    /// The MAC address that the configuration matches, lower case with colons.
    pub mac: Option<String>,
    /// The line that matches it, from 1.
    pub mac_line: Option<u32>,
    /// Bridges, bonds, VLANs and tunnels stand on others and need no adapter.
    pub physical: bool,
}

/// Programs that configure networks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum NetworkProgram {
    /// /etc/network/interfaces.
    Ifupdown,
    /// /etc/netplan/*.yaml.
    Netplan,
    /// /etc/systemd/network/*.network.
    SystemdNetworkd,
    /// /etc/NetworkManager/system-connections/*.
    NetworkManager,
}

/// A device named in a way that does not survive a move: `/dev/sda1`, `/dev/disk/by-path/…`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DeviceName {
    /// The file.
    pub path: GuestPath,
    /// The line, from 1.
    pub line: u32,
    /// The whole line as it stands, without its line feed.
    pub text: GuestText,
    /// The name as it stands ("/dev/sda1", "/dev/disk/by-path/pci-0000:00:1f.2-ata-1-part1").
    pub name: String,
    /// Byte offset of the name in the line.
    pub column: u32,
    /// Where it stands.
    pub role: NameRole,
    /// The volume that it names, where that could be worked out.
    pub volume: Option<String>,
    /// Names of the filesystem on that volume: what it can be called instead.
    pub identity: Option<Identity>,
    /// Or by its partition.
    pub partuuid: Option<String>,
}

/// A line of a guest's text file: bytes, shown and stored as [`GuestPath`] is.
pub type GuestText = GuestPath;

/// What a device name is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum NameRole {
    /// First field of fstab.
    Fstab,
    /// `root=` on a kernel command line.
    KernelRoot,
    /// `resume=` on a kernel command line or in initramfs-tools' `conf.d/resume`.
    KernelResume,
    /// A setting in /etc/default/grub and its like.
    GrubDefault,
    /// A disk in the boot loader's `device.map` or package settings: where the loader is installed next time.
    InstallDevice,
    /// crypttab, mdadm.conf and others that are reported only.
    Other,
}

/// A line that names an adapter by its MAC address.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MacMatch {
    /// The file.
    pub path: GuestPath,
    /// The line, from 1.
    pub line: u32,
    /// The whole line as it stands, without its line feed.
    pub text: GuestText,
    /// Lower case with colons.
    pub mac: String,
    /// The name that the adapter gets there, where the line or its section gives one.
    pub interface: Option<String>,
}
