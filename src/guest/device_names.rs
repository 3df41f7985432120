//! Every place that names a device in a way that does not survive a move: by the order in which the kernel found the
//! disks, or by where and what the disk is.

use super::{
    FstabEntry, GuestText,
    device_spec::DeviceSpec,
    device_table::{DeviceTable, Row},
    files::Files,
    fstab::unescape,
    text::{lines, lossy, offset_in, words},
};
use crate::fs::{GuestPath, Identity};
use serde::{Deserialize, Serialize};

/// Places that are listed. A hostile grub.cfg could have millions.
const MAX_NAMES: usize = 10_000;
/// debconf's answers of a large installation have one or two MiB.
const MAX_DEBCONF: u64 = 8 << 20;

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

/// All such places, in the order of their files. `grub` is the boot loader's configuration, where there is one.
pub(crate) fn inspect(
    files: &Files,
    devices: &DeviceTable,
    fstab: &[FstabEntry],
    grub: Option<&GuestPath>,
) -> Vec<DeviceName> {
    let mut names = Gathering {
        files,
        devices,
        found: Vec::new(),
    };
    names.fstab(fstab);
    if let Some(grub) = grub {
        names.command_lines(grub);
    }
    names.command_lines(&"/etc/kernel/cmdline".into());
    names.grub_defaults();
    names.resume();
    names.install_devices();
    for path in [
        "/etc/crypttab",
        "/etc/smartd.conf",
        "/etc/hdparm.conf",
        "/etc/mdadm/mdadm.conf",
        "/etc/mdadm.conf",
    ] {
        names.everywhere(&path.into(), NameRole::Other);
    }
    names.found
}

struct Gathering<'a> {
    files: &'a Files<'a>,
    devices: &'a DeviceTable,
    found: Vec<DeviceName>,
}

impl Gathering<'_> {
    /// Notes the name that stands at `column` of the line, if it does not survive.
    fn note(&mut self, path: &GuestPath, line: u32, text: &[u8], column: usize, name: &[u8], role: NameRole) {
        let spec = DeviceSpec::parse(&if role == NameRole::Fstab {
            unescape(name)
        } else {
            name.to_vec()
        });
        if spec.survives() || self.found.len() >= MAX_NAMES {
            return;
        }
        let resolved = self.devices.resolve_spec(&spec);
        if resolved.by_order && resolved.row.is_some() {
            self.files.remark(
                "disks named by the order in which the kernel found them (/dev/sda, /dev/sdb) were taken to be the disks \
                 in the order in which they were given; look whether that order is right",
            );
        }
        let row = resolved.row.filter(|row| self.fits(row, path, line, role));
        self.found.push(DeviceName {
            path: path.clone(),
            line,
            text: GuestPath(text.to_vec()),
            name: lossy(name),
            column: u32::try_from(column).unwrap_or(u32::MAX),
            role,
            volume: row.map(|row| row.volume.clone()),
            identity: row.map(|row| row.identity.clone()).filter(|i| !i.kind.is_empty()),
            partuuid: row.and_then(|row| row.partuuid.clone()),
        });
    }

    /// A swap partition is no root, and a filesystem no place to resume from.
    fn fits(&self, row: &Row, path: &GuestPath, line: u32, role: NameRole) -> bool {
        let is_swap = row.identity.kind == "swap";
        let fits = match role {
            NameRole::KernelRoot => !is_swap,
            _ => true,
        };
        if !fits {
            self.files.remark(format!(
                "{path} line {line}: the device named as root would be {}, which is swap space: its name is left as it is",
                row.volume
            ));
        }
        fits
    }

    fn fstab(&mut self, entries: &[FstabEntry]) {
        let path = GuestPath::from("/etc/fstab");
        let Some(contents) = self.files.config(&path).filter(|_| !entries.is_empty()) else {
            return;
        };
        let mut entries = entries.iter().peekable();
        for (line, text) in lines(&contents) {
            if entries.next_if(|entry| entry.line == line).is_some()
                && let Some((column, name)) = words(text).next()
            {
                self.note(&path, line, text, column, name, NameRole::Fstab);
            }
        }
    }

    /// `root=` and `resume=` wherever they stand, comments aside, and other devices on lines that have one.
    fn command_lines(&mut self, path: &GuestPath) {
        let contents = self.files.config(path).unwrap_or_default();
        for (line, text) in lines(&contents) {
            if text.trim_ascii_start().starts_with(b"#") {
                continue;
            }
            let is_kernel = words(text)
                .next()
                .is_some_and(|(_, word)| matches!(word, b"linux" | b"linuxefi" | b"linux16"));
            for (column, name) in device_paths(text) {
                let before = text.get(..column).unwrap_or_default();
                let role = if is_parameter(before, b"root=") {
                    NameRole::KernelRoot
                } else if is_parameter(before, b"resume=") {
                    NameRole::KernelResume
                } else if is_kernel {
                    NameRole::Other
                } else {
                    continue;
                };
                self.note(path, line, text, column, name, role);
            }
        }
    }

    fn grub_defaults(&mut self) {
        let mut paths = vec![GuestPath::from("/etc/default/grub")];
        paths.extend(self.files.with_suffix("/etc/default/grub.d", b".cfg"));
        for path in paths {
            self.everywhere(&path, NameRole::GrubDefault);
            let contents = self.files.config(&path).unwrap_or_default();
            for (line, text) in lines(&contents) {
                let setting = text.trim_ascii();
                for (key, name) in [
                    (&b"GRUB_DISABLE_LINUX_UUID="[..], "GRUB_DISABLE_LINUX_UUID"),
                    (b"GRUB_DISABLE_UUID=", "GRUB_DISABLE_UUID"),
                ] {
                    let value = setting.strip_prefix(key).map(super::os_release::unquote);
                    if value.as_deref() == Some(b"true") {
                        self.files.remark(format!(
                            "{path} line {line}: {name}=true makes the next run of update-grub name the root by its place \
                             again (/dev/sda1); take it out"
                        ));
                    }
                }
            }
        }
    }

    /// initramfs-tools(7): `RESUME=` in initramfs.conf and conf.d.
    fn resume(&mut self) {
        let folder = GuestPath::from("/etc/initramfs-tools/conf.d");
        let mut paths = vec![GuestPath::from("/etc/initramfs-tools/initramfs.conf")];
        paths.extend(self.files.names(&folder).iter().map(|name| folder.join(name)));
        for path in paths {
            let contents = self.files.config(&path).unwrap_or_default();
            for (line, text) in lines(&contents) {
                if text.trim_ascii_start().starts_with(b"RESUME=") {
                    for (column, name) in device_paths(text) {
                        self.note(&path, line, text, column, name, NameRole::KernelResume);
                    }
                }
            }
        }
    }

    /// GRUB's device.map, and the disks that Debian's packages install GRUB on at every update.
    fn install_devices(&mut self) {
        for path in ["/boot/grub/device.map", "/boot/grub2/device.map"] {
            self.everywhere(&path.into(), NameRole::InstallDevice);
        }
        let path = GuestPath::from("/var/cache/debconf/config.dat");
        let Ok(Some(contents)) = self.files.mounts.read(&path, MAX_DEBCONF) else {
            return;
        };
        let mut is_ours = false;
        for (line, text) in lines(&contents) {
            if let Some(name) = text.strip_prefix(b"Name: ") {
                is_ours = matches!(
                    name,
                    b"grub-pc/install_devices" | b"grub-efi/install_devices" | b"grub-installer/bootdev"
                );
            } else if is_ours && text.starts_with(b"Value: ") {
                for (column, name) in device_paths(text) {
                    self.note(&path, line, text, column, name, NameRole::InstallDevice);
                }
            }
        }
    }

    /// All device names of a file, comments aside.
    fn everywhere(&mut self, path: &GuestPath, role: NameRole) {
        let contents = self.files.config(path).unwrap_or_default();
        for (line, text) in lines(&contents) {
            if !text.trim_ascii_start().starts_with(b"#") {
                for (column, name) in device_paths(text) {
                    self.note(path, line, text, column, name, role);
                }
            }
        }
    }
}

/// What looks like a device in a line, with its offset.
fn device_paths(text: &[u8]) -> impl Iterator<Item = (usize, &[u8])> {
    let is_end = |byte: &u8| {
        byte.is_ascii_whitespace()
            || matches!(
                byte,
                b'"' | b'\'' | b',' | b';' | b'(' | b')' | b'{' | b'}' | b'`'
            )
    };
    text.split(is_end).filter_map(move |part| {
        let start = part.windows(5).position(|window| window == b"/dev/")?;
        let name = part.get(start..)?;
        Some((offset_in(text, name), name))
    })
}

/// Does the text before a value end in that kernel parameter, which begins a word?
fn is_parameter(before: &[u8], parameter: &[u8]) -> bool {
    before.strip_suffix(parameter).is_some_and(|rest| {
        rest.last()
            .is_none_or(|byte| matches!(byte, b' ' | b'\t' | b'"' | b'\'' | b'='))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        fs::{Mounts, memory_tree::MemoryTree},
        guest::{device_table::tests::row, fstab},
    };

    #[test]
    fn every_place_with_its_line_and_column() {
        let fstab_text = "# /dev/sda9\n/dev/sda1 / ext4 defaults 0 1\nUUID=x /home ext4 defaults\n /dev/sda5\tnone swap sw\n\
            /dev/sr0 /media/cdrom0 udf,iso9660 user,noauto 0 0\n/dev/mapper/a-b /srv xfs defaults\n";
        let tree = MemoryTree::new("ext4", "u")
            .file("/etc/fstab", fstab_text)
            .file(
                "/boot/grub/grub.cfg",
                "set root='hd0,msdos1'\n\tlinux\t/boot/vmlinuz root=/dev/sda1 ro xroot=/dev/sda1 resume=/dev/sda5\n\
                 # root=/dev/sda1\nset kernelopts=\"root=/dev/sda1 ro\"\n",
            )
            .file(
                "/etc/default/grub",
                "GRUB_CMDLINE_LINUX_DEFAULT=\"quiet resume=/dev/sda5\"\nGRUB_DISABLE_LINUX_UUID=\"true\"\n",
            )
            .file("/etc/initramfs-tools/conf.d/resume", "RESUME=/dev/sda5\n")
            .file("/boot/grub/device.map", "(hd0)\t/dev/disk/by-id/ata-QEMU_HARDDISK_QM00001\n")
            .file(
                "/var/cache/debconf/config.dat",
                "Name: a/b\nValue: /dev/sdz\n\nName: grub-pc/install_devices\nTemplate: x\nValue: /dev/sda, /dev/sdb\n",
            );
        let mut mounts = Mounts::new(vec![("disk0/p1".into(), Box::new(tree))]);
        mounts.mount(&"/".into(), 0).unwrap();
        let files = Files::new(&mounts);
        let rows = vec![row(0, 1, "ext4", "root"), row(0, 5, "swap", "swap")];
        let devices = DeviceTable::new(rows, 1, "disk0/p1");
        let entries = fstab::parse(fstab_text.as_bytes());
        let found = inspect(&files, &devices, &entries, Some(&"/boot/grub/grub.cfg".into()));
        let short: Vec<_> = found
            .iter()
            .map(|n| {
                (
                    n.path.to_string(),
                    n.line,
                    n.column,
                    &*n.name,
                    n.role,
                    n.volume.as_deref(),
                )
            })
            .collect();
        let at = |path: &str, line, column, name, role, volume| {
            (path.to_owned(), line, column, name, role, volume)
        };
        let (root, swap) = (Some("disk0/p1"), Some("disk0/p5"));
        let grub = "/boot/grub/grub.cfg";
        assert_eq!(
            short,
            [
                at("/etc/fstab", 2, 0, "/dev/sda1", NameRole::Fstab, root),
                at("/etc/fstab", 4, 1, "/dev/sda5", NameRole::Fstab, swap),
                at(grub, 2, 26, "/dev/sda1", NameRole::KernelRoot, root),
                at(grub, 2, 45, "/dev/sda1", NameRole::Other, root),
                at(grub, 2, 62, "/dev/sda5", NameRole::KernelResume, swap),
                at(grub, 4, 21, "/dev/sda1", NameRole::KernelRoot, root),
                at(
                    "/etc/default/grub",
                    1,
                    41,
                    "/dev/sda5",
                    NameRole::GrubDefault,
                    swap
                ),
                at(
                    "/etc/initramfs-tools/conf.d/resume",
                    1,
                    7,
                    "/dev/sda5",
                    NameRole::KernelResume,
                    swap
                ),
                at(
                    "/boot/grub/device.map",
                    1,
                    6,
                    "/dev/disk/by-id/ata-QEMU_HARDDISK_QM00001",
                    NameRole::InstallDevice,
                    None
                ),
                at(
                    "/var/cache/debconf/config.dat",
                    6,
                    7,
                    "/dev/sda",
                    NameRole::InstallDevice,
                    None
                ),
                at(
                    "/var/cache/debconf/config.dat",
                    6,
                    17,
                    "/dev/sdb",
                    NameRole::InstallDevice,
                    None
                ),
            ]
        );
        for name in &found {
            let column = name.column as usize;
            assert_eq!(
                &name.text.0[column..column + name.name.len()],
                name.name.as_bytes()
            );
        }
        assert_eq!(found[0].identity.as_ref().unwrap().uuid.as_deref(), Some("root"));
        let remarks = files.into_remarks();
        assert!(
            remarks.len() == 1 && remarks[0].contains("GRUB_DISABLE_LINUX_UUID"),
            "{remarks:?}"
        );
    }
}
