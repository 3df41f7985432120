//! FAT12, FAT16 and FAT32 with long names (Microsoft, "FAT: General Overview of On-Disk Format" 1.03): what an EFI
//! system partition has.
//!
//! A [`Node`] is the place of a file's directory entry, in units of 32 bytes; a file that is renamed keeps its node
//! as long as the filesystem stays open. The root has no entry and is node 1.

mod allocation_table;
mod boot_sector;
mod check;
mod directory;
mod directory_entry;
mod edit;
mod file;
mod long_name;
mod nodes;
#[cfg(test)]
mod tests;

use super::{Attributes, Edit, FileSystem, Identity, Node, Result, mode};
use crate::disk::{Disk, Error, Kind};
use allocation_table::AllocationTable;
use boot_sector::{BadBootSector, BootSector};
use directory_entry::{DirectoryEntry, FREE, LAST, LENGTH, LONG_NAME, LONG_NAME_MASK, Stamp, VOLUME_LABEL};
use file::Position;
use nodes::Nodes;
use std::{cell::Cell, ops::Range, sync::Arc};

/// The root directory. No entry lies in the first sector, so this is no other node.
const ROOT: Node = Node(1);
/// As `mount -t` and `blkid` spell it.
const KIND: &str = "vfat";
/// How much of the volume [`FatFileSystem::open`] looks at to recognise it.
const BOOT_SECTOR: usize = 512;

/// An open FAT volume.
#[derive(Debug)]
pub struct FatFileSystem {
    disk: Arc<dyn Disk>,
    boot: BootSector,
    table: AllocationTable,
    identity: Identity,
    nodes: Nodes,
    position: Cell<Option<Position>>,
    /// Seconds since 1970.
    clock: u64,
    /// Checked, and its lost clusters released: ready to be edited.
    prepared: bool,
    /// Known once it is `prepared`.
    free_clusters: u32,
    /// Where the search for a free cluster begins.
    hint: u32,
    remarks: Vec<String>,
}

impl FatFileSystem {
    /// Opens the FAT filesystem on `disk`; `None` if it is something else. Writes nothing.
    ///
    /// # Errors
    /// [`Kind::Corrupt`] if it is FAT, but its boot sector or root directory contradict themselves.
    pub fn open(disk: Arc<dyn Disk>) -> Result<Option<Self>> {
        let Some(boot) = read_boot_sector(&*disk)? else {
            return Ok(None);
        };
        if boot.end > disk.size() {
            let text = format!(
                "the FAT boot sector says {} bytes, the volume has {}: it is cut short",
                boot.end,
                disk.size()
            );
            return Err(Error::new(Kind::Corrupt, disk.label(), text).at(0));
        }
        let mut fat = Self::over(disk, boot);
        fat.identity = identity(&fat.boot, fat.label()?);
        Ok(Some(fat))
    }

    fn over(disk: Arc<dyn Disk>, boot: BootSector) -> Self {
        let table = AllocationTable::new(disk.clone(), boot.clone());
        Self {
            disk,
            identity: identity(&boot, None),
            boot,
            table,
            nodes: Nodes::default(),
            position: Cell::new(None),
            clock: 0,
            prepared: false,
            free_clusters: 0,
            hint: 2,
            remarks: Vec::new(),
        }
    }

    /// The label that counts, also for `LABEL=`, is the root directory's; the boot sector's is a leftover.
    fn label(&self) -> Result<Option<String>> {
        Ok(self.directory_at(self.boot.root_cluster)?.label(self.large()))
    }

    fn large(&self) -> bool {
        self.boot.width == boot_sector::Width::Fat32
    }

    fn error(&self, kind: Kind, offset: Option<u64>, text: impl Into<String>) -> Error {
        let error = Error::new(kind, self.disk.label(), text.into());
        match offset {
            Some(offset) => error.at(offset),
            None => error,
        }
    }

    /// The bytes contradict the format.
    fn damaged(&self, offset: Option<u64>, what: impl std::fmt::Display) -> Error {
        self.error(
            Kind::Corrupt,
            offset,
            format!("{what}; repair it with `fsck.fat -a`"),
        )
    }

    /// The directory entry of a node that is not the root.
    fn entry(&self, node: Node) -> Result<DirectoryEntry> {
        let stale = || self.error(Kind::NotFound, None, format!("no file has the node {}", node.0));
        let location = self.entry_location(node).ok_or_else(stale)?;
        let mut bytes = [0; LENGTH];
        self.disk.read_at(location, &mut bytes)?;
        let entry = DirectoryEntry::parse(&bytes, self.large()).map_err(|_| stale())?;
        let first = bytes.first().copied().unwrap_or(LAST);
        let no_file = entry.attributes & LONG_NAME_MASK == LONG_NAME || entry.attributes & VOLUME_LABEL != 0;
        if first == FREE || first == LAST || no_file {
            return Err(stale());
        }
        Ok(entry)
    }

    fn entry_location(&self, node: Node) -> Option<u64> {
        let location = self.nodes.location(node)?;
        let data_end = self.boot.data_start + u64::from(self.boot.clusters) * self.boot.cluster_size;
        let entries = self.boot.fixed_root.start..data_end;
        entries.contains(&location).then_some(location)
    }

    /// Overwrites the directory entry of `node`.
    fn put_entry(&mut self, node: Node, entry: &DirectoryEntry) -> Result<()> {
        match self.entry_location(node) {
            Some(location) => self.disk.write_at(location, &entry.to_bytes()),
            None => Err(self.error(Kind::NotFound, None, format!("no file has the node {}", node.0))),
        }
    }
}

/// What the FAT volume on `disk` is called, whatever state it is in; `None` if it is no FAT.
pub(super) fn identify(disk: &Arc<dyn Disk>) -> Result<Option<Identity>> {
    let boot = match read_boot_sector(&**disk) {
        Ok(Some(boot)) => boot,
        Ok(None) => return Ok(None),
        Err(error) if error.kind == Kind::Corrupt => {
            return Ok(Some(Identity {
                kind: KIND.into(),
                ..Identity::default()
            }));
        }
        Err(error) => return Err(error),
    };
    let fat = FatFileSystem::over(disk.clone(), boot);
    match fat.label() {
        Ok(label) => Ok(Some(identity(&fat.boot, label))),
        Err(error) if matches!(error.kind, Kind::Corrupt | Kind::OutOfRange) => Ok(Some(fat.identity)),
        Err(error) => Err(error),
    }
}

/// How sure it is that a volume is FAT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Evidence {
    None,
    /// The boot sector looks like it.
    BootSector,
    /// And the table begins with the media byte that the boot sector has (specification, "FAT[0]").
    BootSectorAndTable,
}

/// How sure it is that `disk` is FAT.
pub(super) fn evidence(disk: &dyn Disk) -> Result<Evidence> {
    let mut sector = [0; BOOT_SECTOR];
    if disk.size() < BOOT_SECTOR as u64 {
        return Ok(Evidence::None);
    }
    disk.read_at(0, &mut sector)?;
    if !boot_sector::looks_like_fat(&sector) {
        return Ok(Evidence::None);
    }
    let Ok(boot) = BootSector::parse(&sector) else {
        return Ok(Evidence::BootSector);
    };
    let mut first = [0; 2];
    if boot.table_start + first.len() as u64 <= disk.size() {
        disk.read_at(boot.table_start, &mut first)?;
    }
    Ok(if first == [boot.media, 0xff] {
        Evidence::BootSectorAndTable
    } else {
        Evidence::BootSector
    })
}

fn read_boot_sector(disk: &dyn Disk) -> Result<Option<BootSector>> {
    let mut sector = [0; BOOT_SECTOR];
    if disk.size() < BOOT_SECTOR as u64 {
        return Ok(None);
    }
    disk.read_at(0, &mut sector)?;
    if !boot_sector::looks_like_fat(&sector) {
        return Ok(None);
    }
    match BootSector::parse(&sector) {
        Ok(boot) => Ok(Some(boot)),
        Err(bad @ (BadBootSector::Truncated(_) | BadBootSector::Field(_))) => {
            Err(Error::new(Kind::Corrupt, disk.label(), bad).at(0))
        }
    }
}

fn identity(boot: &BootSector, label: Option<String>) -> Identity {
    let id = boot.volume_id.filter(|id| *id != 0);
    Identity {
        kind: KIND.into(),
        uuid: id.map(|id| format!("{:04X}-{:04X}", id >> 16, id & 0xffff)),
        label,
    }
}

impl FileSystem for FatFileSystem {
    fn identity(&self) -> Identity {
        self.identity.clone()
    }

    fn root(&self) -> Node {
        ROOT
    }

    fn lookup(&self, directory: Node, name: &[u8]) -> Result<Option<Node>> {
        let directory = self.directory(directory)?;
        Ok(self
            .find(&directory, name)
            .map(|named| self.nodes.node(named.location)))
    }

    fn list(&self, directory: Node, each: &mut dyn FnMut(&[u8], Node) -> bool) -> Result<()> {
        for named in self.directory(directory)?.entries(self.large()) {
            if !each(&named.name, self.nodes.node(named.location)) {
                break;
            }
        }
        Ok(())
    }

    fn attributes(&self, node: Node) -> Result<Attributes> {
        if node == ROOT {
            return Ok(Attributes {
                mode: Some(mode::DIRECTORY | 0o755),
                ..Attributes::default()
            });
        }
        let entry = self.entry(node)?;
        let date = Stamp {
            date: entry.accessed_date,
            ..Stamp::default()
        };
        let kind = if entry.is_directory() {
            mode::DIRECTORY | 0o755
        } else {
            mode::FILE | 0o644
        };
        Ok(Attributes {
            size: u64::from(entry.size),
            mode: Some(kind),
            accessed: date.nanoseconds(),
            modified: entry.modified.nanoseconds(),
            created: entry.created.nanoseconds(),
            ..Attributes::default()
        })
    }

    fn read_at(&self, node: Node, offset: u64, buffer: &mut [u8]) -> Result<usize> {
        if node != ROOT {
            let entry = self.entry(node)?;
            if !entry.is_directory() {
                return self.read_file(&entry, offset, buffer);
            }
        }
        Err(self.error(Kind::Unsupported, None, "a directory has no contents to read"))
    }

    fn free(&self, each: &mut dyn FnMut(Range<u64>) -> Result<()>) -> Result<()> {
        // A cluster that the table calls free and a file uses all the same must be kept: nothing is free then.
        if !self.prepared && self.survey(&mut |_, _| Ok(())).is_err() {
            return Ok(());
        }
        self.table.free_runs(&mut |first, count| {
            let start = self.cluster_range(first)?.start;
            each(start..start + u64::from(count) * self.boot.cluster_size)
        })
    }

    fn data_runs(&self, each: &mut dyn FnMut(Node, Range<u64>) -> Result<()>) -> Result<()> {
        self.survey(&mut |node, chain| {
            let mut run: Option<Range<u64>> = None;
            for cluster in chain {
                let range = self.cluster_range(*cluster)?;
                match &mut run {
                    Some(run) if run.end == range.start => run.end = range.end,
                    _ => {
                        if let Some(run) = run.replace(range) {
                            each(node, run)?;
                        }
                    }
                }
            }
            run.map_or(Ok(()), |run| each(node, run))
        })?;
        Ok(())
    }

    fn recovered(&self) -> Vec<String> {
        self.remarks.clone()
    }

    fn free_bytes(&self) -> Result<u64> {
        let mut free = 0;
        self.table.free_runs(&mut |_, count| {
            free += u64::from(count);
            Ok(())
        })?;
        Ok(free * self.boot.cluster_size)
    }

    fn edit(&mut self) -> Result<&mut dyn Edit> {
        self.prepare()?;
        Ok(self)
    }
}
