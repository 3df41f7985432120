//! Finds the installed systems on a list of disks and gathers the facts about each.

use super::{
    Guest, InitramfsGenerator, Mount, OsRelease, OtherVolume, device_names,
    device_table::{DeviceTable, Row},
    files::Files,
    firmware::{self, Hardware},
    fstab::{self, FstabEntry},
    initramfs_generator, kernel, network_linux, os_release, program, swap_files,
    text::lossy,
};
use crate::{
    disk::{Disk, Kind},
    fs::{GuestPath, Identity, Mounts, Result},
    volume::{Scan, Volume},
};
use std::{collections::BTreeSet, sync::Arc};

/// Systems that are listed: a disk with more is no disk of a machine.
const MAX_GUESTS: usize = 64;
/// Mount points below which a move edits files.
const EDITED: [&str; 6] = ["/", "/boot", "/boot/efi", "/etc", "/usr", "/var"];
/// Lines of fstab that are mounted.
const MAX_MOUNTS: usize = 256;

/// All installed systems.
#[derive(Clone, Debug, PartialEq)]
pub struct Inspection {
    /// In the order of their roots' volumes.
    pub guests: Vec<Guest>,
    /// Index of the one that starts when nobody chooses.
    pub default: Option<usize>,
    /// Why that one: one sentence. Empty if there is none.
    pub default_because: String,
    /// What is to be said of volumes that belong to no guest that could be read, one sentence each.
    pub remarks: Vec<String>,
    /// Filesystems that could not be opened while no system was found: the system is probably in one of them, and moving
    /// it as it is would not make it start. One sentence each, with the cure.
    pub blockers: Vec<String>,
}

/// Looks into every filesystem of `mounts` for an installed system. `mounts` holds the filesystems of all volumes that
/// could be opened, in the order of the scan; `others` names what else was recognised. Afterwards nothing is mounted:
/// [`Guest::mount`] puts together the tree of one guest.
///
/// The default is, in this order: the guest whose boot loader's configuration the EFI system partition names, or else that
/// on the first disk with GRUB's boot code, or else the first with a boot loader, or the first. If that loader's default
/// entry starts another guest, it is that one.
///
/// A file that cannot be read becomes a remark. Fails only if a filesystem's top cannot be read.
pub fn inspect(
    disks: &[Arc<dyn Disk>],
    scan: &Scan,
    mounts: &mut Mounts,
    others: &[OtherVolume],
) -> Result<Inspection> {
    let hardware = Hardware { disks, scan };
    let rows = rows(scan, mounts, others)?;
    let mut candidates = Vec::new();
    let mut remarks = Vec::new();
    for index in 0..mounts.count() {
        if candidates.len() >= MAX_GUESTS {
            remarks.push(format!(
                "more than {MAX_GUESTS} installed systems were found; the rest was not looked at"
            ));
            break;
        }
        let mut look = Look {
            hardware: &hardware,
            rows: &rows,
            others,
            mounts,
        };
        candidates.extend(look.candidate(index)?);
        mounts.unmount_all();
    }
    let mut blockers = Vec::new();
    let used: BTreeSet<&str> = candidates
        .iter()
        .flat_map(|candidate| candidate.guest.mounts.iter().map(|mount| &*mount.volume))
        .collect();
    for other in others {
        if let Some(problem) = &other.problem {
            let told = if candidates.is_empty() {
                &mut blockers
            } else {
                &mut remarks
            };
            told.push(format!(
                "{} could not be opened and is moved as it is: {problem}",
                other.volume
            ));
        }
        if let Some(text) = not_handled(&other.identity.kind)
            && !used.contains(&*other.volume)
        {
            remarks.push(format!(
                "{} is {text}, which is not read here yet: a system in it is not seen, and is moved as it is",
                other.volume
            ));
        }
    }
    let (default, default_because) = default_guest(&hardware, mounts, &rows, &candidates);
    Ok(Inspection {
        guests: candidates.into_iter().map(|candidate| candidate.guest).collect(),
        default,
        default_because,
        remarks,
        blockers,
    })
}

impl Guest {
    /// Puts together the tree of this guest from the filesystems that it was found in. Volumes that are not there are
    /// left out.
    pub fn mount(&self, mounts: &mut Mounts) -> Result<()> {
        mounts.unmount_all();
        for mount in &self.mounts {
            if let (Some(path), Some(index)) = (&mount.path, mounts.index_of(&mount.volume)) {
                mounts.mount(path, index)?;
            }
        }
        Ok(())
    }
}

/// A guest, and what is needed to choose among several.
struct Candidate {
    guest: Guest,
    root_disk: usize,
    config_volume: Option<String>,
    /// The volume that the default entry's `root=` names.
    default_root: Option<String>,
}

/// What a volume holds that may have a system in it and is not handled.
fn not_handled(kind: &str) -> Option<&'static str> {
    Some(match kind {
        "LVM2_member" => "an LVM physical volume",
        "crypto_LUKS" => "an encrypted volume (LUKS)",
        "linux_raid_member" => "part of an MD array",
        "xfs" => "an XFS filesystem",
        "btrfs" => "a btrfs filesystem",
        "ntfs" => "an NTFS filesystem",
        "BitLocker" => "an encrypted volume (BitLocker)",
        "zfs_member" => "part of a ZFS pool",
        "f2fs" => "an F2FS filesystem",
        "reiserfs" => "a ReiserFS filesystem",
        "jfs" => "a JFS filesystem",
        "bcache" => "a bcache device",
        _ => return None,
    })
}

fn rows(scan: &Scan, mounts: &Mounts, others: &[OtherVolume]) -> Result<Vec<Row>> {
    let identity = |volume: &Volume| -> Result<Identity> {
        Ok(match mounts.index_of(&volume.id) {
            Some(index) => mounts.filesystem(index)?.identity(),
            None => others
                .iter()
                .find(|other| other.volume == volume.id)
                .map(|other| other.identity.clone())
                .unwrap_or_default(),
        })
    };
    scan.volumes
        .iter()
        .map(|volume| {
            let partition = volume.partition.as_ref();
            Ok(Row {
                volume: volume.id.clone(),
                disk: partition.map_or_else(|| disk_of(&volume.id), |partition| partition.disk),
                partition: partition.map(|partition| partition.number),
                identity: identity(volume)?,
                partuuid: partition.and_then(|partition| partition.partuuid.clone()),
                partlabel: partition.and_then(|partition| partition.name.clone()),
            })
        })
        .collect()
}

/// 1 of "disk1".
fn disk_of(volume: &str) -> usize {
    let digits = volume.strip_prefix("disk").unwrap_or_default();
    let digits = digits.split('/').next().unwrap_or_default();
    digits.parse().unwrap_or(usize::MAX)
}

struct Look<'a> {
    hardware: &'a Hardware<'a>,
    rows: &'a [Row],
    others: &'a [OtherVolume],
    mounts: &'a mut Mounts,
}

impl Look<'_> {
    /// The system whose root is the filesystem with that index, if there is one.
    fn candidate(&mut self, index: usize) -> Result<Option<Candidate>> {
        self.mounts.unmount_all();
        let Some(root) = self.mounts.volume(index).map(str::to_owned) else {
            return Ok(None);
        };
        self.mounts.mount(&"/".into(), index)?;
        if !looks_like_a_root(self.mounts) {
            return Ok(None);
        }
        let mut devices = DeviceTable::new(self.rows.to_vec(), self.hardware.disks.len(), &root);
        let (fstab, mut remarks) = self.mount_all(&mut devices, &root)?;
        let files = Files::new(self.mounts);
        let Some(os) = os_release(&files) else {
            return Ok(None);
        };
        if program::init(&files).is_none() {
            return Ok(None);
        }
        let root_disk = devices.row(&root).map_or(0, |row| row.disk);
        let architecture = program::architecture(&files);
        let mut boot = firmware::inspect(&files, self.hardware, root_disk, &fstab, architecture.as_deref());
        let loader = firmware::with_loader(&mut boot, &files, &devices);
        if let Some(name) = &loader.default_root {
            devices.learn_root(name, &root);
        }
        let default_root = loader.default_root.as_deref();
        let default_root = default_root.and_then(|name| Some(devices.resolve(name).row?.volume.clone()));
        let entries = boot
            .loader
            .as_ref()
            .map(|loader| &*loader.entries)
            .unwrap_or_default();
        let kernels = kernel::inspect(&files, entries);
        if kernels.is_empty() {
            files.remark("no kernel was found in /boot");
        }
        let config = boot.loader.as_ref().map(|loader| &loader.config);
        let device_names = device_names::inspect(&files, &devices, &fstab, config);
        let (interfaces, mac_matches) = network_linux::inspect(&files);
        let initramfs_generator = initramfs_generator::inspect(&files);
        if initramfs_generator != Some(InitramfsGenerator::InitramfsTools) {
            let by = match initramfs_generator {
                Some(InitramfsGenerator::Dracut) => "by dracut",
                _ => "by a program that is not known here",
            };
            files.remark(format!(
                "the initramfs images of {} are made {by}: adding drivers to them is only handled for initramfs-tools yet",
                os.id
            ));
        }
        let hostname = files
            .config(&"/etc/hostname".into())
            .map(|contents| lossy(contents.trim_ascii()))
            .and_then(|contents| contents.lines().find(|l| !l.starts_with('#')).map(str::to_owned))
            .filter(|name| !name.is_empty());
        let systemd = program::systemd_version(&files);
        let swap_files = swap_files::inspect(&files, &fstab);
        let mounts = self.guest_mounts(&fstab, &devices);
        let mut blockers = self.blockers(&mounts);
        for file in &swap_files {
            if let Some(by) = &file.hibernated {
                blockers.push(hibernated(&format!("swap file {}", file.path), by));
            }
        }
        cloud_init(&files);
        for remark in files.into_remarks() {
            if !remarks.contains(&remark) {
                remarks.push(remark);
            }
        }
        self.add_what_forbids_edits(&mut blockers);
        Ok(Some(Candidate {
            guest: Guest {
                name: os.pretty_name.clone().unwrap_or_else(|| os.id.clone()),
                root,
                os,
                architecture,
                hostname,
                systemd,
                mounts,
                fstab,
                swap_files,
                kernels,
                boot,
                initramfs_generator,
                interfaces,
                device_names,
                mac_matches,
                remarks,
                blockers,
            },
            root_disk,
            config_volume: loader.config_volume,
            default_root,
        }))
    }

    /// Mounts what fstab says, and says what of it could not be.
    fn mount_all(&mut self, devices: &mut DeviceTable, root: &str) -> Result<(Vec<FstabEntry>, Vec<String>)> {
        let files = Files::new(self.mounts);
        let contents = files.config(&"/etc/fstab".into()).unwrap_or_default();
        let mut fstab = fstab::parse(&contents);
        if let Some(entry) = fstab.iter().find(|entry| entry.mount_point == "/") {
            devices.learn_root(&fstab::unescape(entry.spec.as_bytes()), root);
        }
        let mut wanted: Vec<(GuestPath, usize)> = Vec::new();
        for entry in &mut fstab {
            let found = self.resolve(&files, devices, entry, root);
            let path = GuestPath(fstab::unescape(entry.mount_point.as_bytes()));
            let is_new = !wanted.iter().any(|(other, _)| *other == path);
            if let Some(index) = found
                && path.0.starts_with(b"/")
                && path.components().next().is_some()
                && !entry.is_swap()
                && is_new
                && wanted.len() < MAX_MOUNTS
            {
                wanted.push((path, index));
            }
        }
        let remarks = files.into_remarks();
        // Parents first, else in the order of the file.
        wanted.sort_by_key(|(path, _)| path.components().count());
        for (path, index) in wanted {
            self.mounts.mount(&path, index)?;
        }
        Ok((fstab, remarks))
    }

    /// Fills in the volume of a line, and gives the filesystem on it.
    fn resolve(
        &self,
        files: &Files,
        devices: &DeviceTable,
        entry: &mut FstabEntry,
        root: &str,
    ) -> Option<usize> {
        if !entry.names_a_device() {
            return None;
        }
        let line = entry.line;
        let spec = fstab::unescape(entry.spec.as_bytes());
        let resolved = devices.resolve(&spec);
        let Some(row) = resolved.row else {
            // Plans tell of a line without a volume.
            return None;
        };
        for other in &resolved.also {
            files.remark(format!(
                "/etc/fstab line {line}: both {} and {} are {}: one of them should get another name; {} was taken",
                row.volume, other.volume, entry.spec, row.volume
            ));
        }
        if !kinds_agree(&entry.kind, &row.identity.kind) {
            files.remark(format!(
                "/etc/fstab line {line}: {} would be {}, but that is {} and not {}: the line is left as it is",
                entry.spec, row.volume, row.identity.kind, entry.kind
            ));
            return None;
        }
        if entry.mount_point == "/" && row.volume != root {
            files.remark(format!(
                "/etc/fstab line {line} names {} as the root, but this root is {root}",
                row.volume
            ));
        }
        entry.volume = Some(row.volume.clone());
        let index = self.mounts.index_of(&row.volume);
        let problem = self.others.iter().find(|other| other.volume == row.volume);
        if let Some(problem) = problem.and_then(|other| other.problem.as_ref()) {
            files.remark(format!(
                "{} on {} could not be opened and is moved as it is: {problem}",
                entry.mount_point, row.volume
            ));
        }
        if let (None, Some(text), false) = (index, not_handled(&row.identity.kind), entry.is_swap()) {
            files.remark(format!(
                "{} on {} is {text}, which is not read here yet: it is moved as it is",
                entry.mount_point, row.volume
            ));
        }
        index
    }

    /// The root, then by path, then swap.
    fn guest_mounts(&self, fstab: &[FstabEntry], devices: &DeviceTable) -> Vec<Mount> {
        let mount = |path: Option<GuestPath>, volume: &str| {
            let row = devices.row(volume);
            Mount {
                path,
                volume: volume.to_owned(),
                identity: row.map(|row| row.identity.clone()).unwrap_or_default(),
                partuuid: row.and_then(|row| row.partuuid.clone()),
            }
        };
        let mut mounts: Vec<Mount> = self
            .mounts
            .mounted()
            .filter_map(|(path, index)| Some(mount(Some(path.clone()), self.mounts.volume(index)?)))
            .collect();
        mounts.sort_by(|a, b| a.path.cmp(&b.path));
        // What is mounted and cannot be read here belongs to the guest too.
        let unread = fstab
            .iter()
            .filter(|entry| !entry.is_swap() && entry.mount_point.starts_with('/'));
        for entry in unread {
            let Some(volume) = &entry.volume else { continue };
            if self.mounts.index_of(volume).is_none() {
                let path = GuestPath(fstab::unescape(entry.mount_point.as_bytes()));
                mounts.push(mount(Some(path), volume));
            }
        }
        mounts.sort_by(|a, b| a.path.cmp(&b.path));
        for entry in fstab.iter().filter(|entry| entry.is_swap()) {
            if let Some(volume) = &entry.volume {
                mounts.push(mount(None, volume));
            }
        }
        let mut seen = BTreeSet::new();
        mounts.retain(|mount| seen.insert((mount.path.clone(), mount.volume.clone())));
        mounts
    }

    fn blockers(&self, mounts: &[Mount]) -> Vec<String> {
        let root_disk = self.root_disk(mounts);
        let disk_of = |volume: &str| {
            self.rows
                .iter()
                .find(|row| row.volume == volume)
                .map(|row| row.disk)
        };
        self.others
            .iter()
            .filter_map(|other| Some((other, other.hibernated.as_ref()?)))
            .filter(|(other, _)| {
                // Swap that no line of fstab names can still be resumed from.
                mounts.iter().any(|mount| mount.volume == other.volume)
                    || disk_of(&other.volume) == Some(root_disk)
            })
            .map(|(other, by)| hibernated(&format!("swap space {}", other.volume), by))
            .collect()
    }

    /// A filesystem that is to be edited and says that it must not be: errors are flagged, a feature is not known.
    fn add_what_forbids_edits(&mut self, blockers: &mut Vec<String>) {
        let edited: Vec<usize> = self
            .mounts
            .mounted()
            .filter(|(path, _)| EDITED.iter().any(|edited| path.0 == edited.as_bytes()))
            .map(|(_, index)| index)
            .collect();
        for index in edited {
            if let Err(error) = self.mounts.edit(index)
                && matches!(error.kind, Kind::Unsafe | Kind::Unsupported)
            {
                blockers.push(error.to_string());
            }
        }
    }

    fn root_disk(&self, mounts: &[Mount]) -> usize {
        let root = mounts.first().map(|mount| &*mount.volume);
        let row = self.rows.iter().find(|row| Some(&*row.volume) == root);
        row.map_or(0, |row| row.disk)
    }
}

/// Why nothing can be done for a system that sleeps in `place`, put there by `by`, and the cure.
fn hibernated(place: &str, by: &str) -> String {
    format!(
        "the {place} holds a hibernated system, put there by {by}: what is in memory would be lost and its filesystems \
         damaged. Start the old machine, let it resume, shut it down (not hibernate), and read its disks again"
    )
}

/// The kind of a line of fstab against what is there: "auto" and several kinds are no contradiction, the ext family is
/// one, and what was not recognised may be anything.
fn kinds_agree(written: &str, found: &str) -> bool {
    let family = |kind: &str| match kind {
        "ext2" | "ext3" | "ext4" => "ext".to_owned(),
        "msdos" | "vfat" | "fat" => "fat".to_owned(),
        "ntfs" | "ntfs3" | "ntfs-3g" => "ntfs".to_owned(),
        other => other.to_owned(),
    };
    found.is_empty()
        || matches!(written, "auto" | "none")
        || written.split(',').any(|kind| family(kind) == family(found))
}

/// Network configuration of clouds is made anew when the machine seems to be another one.
fn cloud_init(files: &Files) {
    let disabled = |path: &GuestPath| {
        let contents = files.config(path).unwrap_or_default();
        let text: String = lossy(&contents)
            .chars()
            .filter(|c| !c.is_whitespace() && !matches!(c, '{' | '}' | '"' | '\''))
            .collect();
        text.contains("network:config:disabled")
    };
    if files.exists("/etc/cloud/cloud.cfg")
        && !files.exists("/etc/cloud/cloud-init.disabled")
        && !files
            .with_suffix("/etc/cloud/cloud.cfg.d", b".cfg")
            .iter()
            .any(disabled)
    {
        files.remark(
            "cloud-init is installed and may configure the network anew when it starts on another machine; to keep the \
             configuration write \"network: {config: disabled}\" into /etc/cloud/cloud.cfg.d/99-keep-network.cfg",
        );
    }
}

/// Cheap, before anything else is mounted: a release file (perhaps a link into a /usr that is elsewhere) or an fstab.
fn looks_like_a_root(mounts: &Mounts) -> bool {
    ["/etc/os-release", "/usr/lib/os-release", "/etc/fstab"]
        .iter()
        .any(|path| matches!(mounts.find_link(&(*path).into()), Ok(Some(_))))
}

/// os-release, or what there was before it.
fn os_release(files: &Files) -> Option<OsRelease> {
    let contents = ["/etc/os-release", "/usr/lib/os-release"]
        .iter()
        .find_map(|path| files.config(&(*path).into()));
    if let Some(contents) = contents {
        return Some(os_release::parse(&contents));
    }
    let version = files.config(&"/etc/debian_version".into())?;
    let version = lossy(version.trim_ascii());
    Some(OsRelease {
        id: "debian".into(),
        pretty_name: Some(format!("Debian GNU/Linux {version}")),
        version_id: Some(version),
        ..OsRelease::default()
    })
}

fn default_guest(
    hardware: &Hardware,
    mounts: &Mounts,
    rows: &[Row],
    candidates: &[Candidate],
) -> (Option<usize>, String) {
    if candidates.len() < 2 {
        let only = candidates.first().map(|_| 0);
        return (
            only,
            only.map_or_else(String::new, |_| "it is the only one".into()),
        );
    }
    let files = Files::new(mounts);
    let devices = DeviceTable::new(rows.to_vec(), hardware.disks.len(), "");
    let by_esp = hardware
        .system_partitions(0)
        .into_iter()
        .find_map(|(esp, _)| Some((firmware::started_by_esp(&files, &devices, &esp)?, esp)));
    let by_esp = by_esp.and_then(|(volume, esp)| {
        let has = |c: &Candidate| c.config_volume.as_ref() == Some(&volume) || c.guest.root == volume;
        let index = candidates.iter().position(has)?;
        Some((
            index,
            format!("the EFI system partition {esp} starts its boot loader"),
        ))
    });
    let by_code = || {
        let first = (0..hardware.disks.len()).find(|disk| firmware::starts_with_grub(hardware, *disk))?;
        let has = |c: &Candidate| c.root_disk == first && c.guest.boot.loader.is_some();
        let index = candidates.iter().position(has)?;
        Some((
            index,
            format!("it is the first on disk{first}, which has GRUB's boot code"),
        ))
    };
    let by_loader = || {
        let index = candidates.iter().position(|c| c.guest.boot.loader.is_some())?;
        Some((index, "it is the first with a boot loader".to_owned()))
    };
    let (index, because) = by_esp
        .or_else(by_code)
        .or_else(by_loader)
        .unwrap_or((0, "it is the first".into()));
    let starts = candidates.get(index).and_then(|c| c.default_root.as_ref());
    let other = starts.and_then(|root| candidates.iter().position(|c| c.guest.root == *root));
    match (other, candidates.get(index)) {
        (Some(other), Some(loader)) if other != index => {
            let text = format!(
                "the default entry of {}'s boot loader starts it",
                loader.guest.root
            );
            (Some(other), text)
        }
        _ => (Some(index), because),
    }
}

#[cfg(test)]
mod tests;
