//! The boot loader's menu in terms of the guest: which kernel, which initramfs images, which options.

use super::{
    device_table::DeviceTable,
    files::Files,
    grub_config::{self, GrubConfig, GrubDevice, GrubEntry, GrubEnvironment, GrubFile},
    grub_environment,
    text::{lossy, words},
};
use crate::{fs::GuestPath, machine::Firmware};
use serde::{Deserialize, Serialize};

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

/// The boot loader, and what it starts when nobody chooses.
#[derive(Clone, Debug, Default)]
pub(crate) struct Found {
    pub(crate) loader: Option<BootLoader>,
    /// Volume id of the filesystem that holds the configuration.
    pub(crate) config_volume: Option<String>,
    /// What the default entry's `root=` says.
    pub(crate) default_root: Option<Vec<u8>>,
}

/// Where grub-mkconfig writes: GRUB's own name first, then that of distributions that kept GRUB legacy's folder.
const CONFIGS: [&str; 2] = ["/boot/grub/grub.cfg", "/boot/grub2/grub.cfg"];

/// Reads the configuration of GRUB 2.
pub(crate) fn inspect(files: &Files, devices: &DeviceTable, firmware: Firmware) -> Found {
    // Some distributions keep it on the EFI system partition.
    let on_esp = files.matching(&"/boot/efi/EFI/*/grub.cfg".into());
    for path in CONFIGS.map(GuestPath::from).into_iter().chain(on_esp) {
        let Some(contents) = files.config(&path) else {
            continue;
        };
        let folder = path.parent();
        let environment = GrubEnvironment {
            platform: match firmware {
                Firmware::Bios => "pc",
                Firmware::Uefi => "efi",
            }
            .into(),
            prefix: lossy(folder.as_bytes()),
            saved: files
                .config(&folder.join("grubenv"))
                .and_then(|contents| grub_environment::parse(&contents)),
        };
        let config = grub_config::parse(&contents, &environment);
        return found(files, devices, path, &config);
    }
    files.remark(
        "no boot loader that is known here was found (neither /boot/grub/grub.cfg nor /boot/grub2/grub.cfg); \
         its configuration is moved as it is",
    );
    Found::default()
}

fn found(files: &Files, devices: &DeviceTable, path: GuestPath, config: &GrubConfig) -> Found {
    for problem in &config.problems {
        files.remark(format!("{path}: {problem}"));
    }
    if config.boot_loader_specification {
        files.remark(format!(
            "{path} takes its entries from /boot/loader/entries, which is not read yet: kernels are found by their names"
        ));
    }
    for source in &config.sources {
        let source = GuestPath(source.path.clone());
        if files.find(&source).is_some() {
            files.remark(format!("{path} includes {source}, which is not looked into"));
        }
    }
    let here = files.find(&path);
    let own = here.as_ref().map(|found| found.index);
    let default = config.default.and_then(|default| config.entries.get(default));
    let entries = config
        .entries
        .iter()
        .enumerate()
        .filter_map(|(i, entry)| boot_entry(files, devices, own, entry, config.default == Some(i)))
        .collect();
    Found {
        loader: Some(BootLoader {
            kind: BootLoaderKind::Grub2,
            config: path,
            entries,
        }),
        config_volume: here.map(|found| found.volume),
        default_root: default.and_then(|entry| root_of(&entry.options)),
    }
}

/// The value of the last `root=` of a command line.
pub(crate) fn root_of(options: &[u8]) -> Option<Vec<u8>> {
    let roots = words(options).filter_map(|(_, word)| word.strip_prefix(b"root="));
    roots.last().map(<[u8]>::to_vec)
}

/// `None`: the entry starts no kernel, or one of another system.
fn boot_entry(
    files: &Files,
    devices: &DeviceTable,
    own: Option<usize>,
    entry: &GrubEntry,
    default: bool,
) -> Option<BootEntry> {
    let kernel = guest_path(files, devices, own, entry.kernel.as_ref()?)?;
    let initramfs = entry.initramfs.iter();
    Some(BootEntry {
        title: entry.title.clone(),
        id: entry.id.clone(),
        kernel,
        initramfs: initramfs
            .filter_map(|file| guest_path(files, devices, own, file))
            .collect(),
        options: lossy(&entry.options),
        line: entry.line,
        default,
    })
}

/// Where a file of the boot loader is in the guest. A device that is on none of the disks is taken to be the one of
/// the configuration, as GRUB does when its search fails.
fn guest_path(
    files: &Files,
    devices: &DeviceTable,
    own: Option<usize>,
    file: &GrubFile,
) -> Option<GuestPath> {
    let index = match volume_of(files, devices, &file.device) {
        Some(volume) => files.mounts.index_of(&volume)?,
        None => own?,
    };
    let mount_point = files.mounts.mount_point(index)?;
    let path = GuestPath(file.path.clone());
    Some(
        path.components()
            .fold(mount_point.clone(), |at, name| at.join(name)),
    )
}

/// The volume that GRUB means.
pub(crate) fn volume_of(files: &Files, devices: &DeviceTable, device: &GrubDevice) -> Option<String> {
    let by = |tag: &str, value: &str| {
        let resolved = devices.resolve(format!("{tag}={value}").as_bytes());
        resolved.row.map(|row| row.volume.clone())
    };
    match device {
        GrubDevice::Own => None,
        GrubDevice::Uuid(uuid) => by("UUID", uuid),
        GrubDevice::Label(label) => by("LABEL", label),
        GrubDevice::HasFile(path) => (0..files.mounts.count())
            .find(|index| matches!(files.mounts.find_on(*index, &path.as_str().into()), Ok(Some(_))))
            .and_then(|index| files.mounts.volume(index).map(str::to_owned)),
        GrubDevice::Disk(name) => {
            let (disk, partition) = grub_disk(name)?;
            devices.at(disk, partition).map(|row| row.volume.clone())
        }
    }
}

/// "hd0,gpt2" is disk 0, partition 2; "hd0" has none.
fn grub_disk(name: &str) -> Option<(usize, Option<u32>)> {
    let mut parts = name.strip_prefix("hd")?.split(',');
    let disk = parts.next()?.parse().ok()?;
    let partition = match parts.next() {
        None => None,
        Some(partition) => {
            let digits = partition.trim_start_matches(|c: char| c.is_ascii_alphabetic());
            Some(digits.parse().ok()?)
        }
    };
    Some((disk, partition))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disks_and_roots() {
        assert_eq!(grub_disk("hd0,msdos1"), Some((0, Some(1))));
        assert_eq!(grub_disk("hd1,3"), Some((1, Some(3))));
        assert_eq!(grub_disk("hd2"), Some((2, None)));
        assert_eq!(grub_disk("lvmid/abc"), None);
        let options = b"root=/dev/sda1 ro xroot=5 root=UUID=ab quiet";
        assert_eq!(root_of(options).as_deref(), Some(&b"UUID=ab"[..]));
    }
}
