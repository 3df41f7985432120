//! Which of the given volumes a name means.

use super::device_spec::{DeviceSpec, KernelName};
use crate::fs::Identity;

/// A volume, with all that it can be called by.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Row {
    pub(crate) volume: String,
    /// Index of the disk in the list of sources.
    pub(crate) disk: usize,
    /// `None` for a whole disk.
    pub(crate) partition: Option<u32>,
    pub(crate) identity: Identity,
    pub(crate) partuuid: Option<String>,
    pub(crate) partlabel: Option<String>,
}

/// All volumes, and which disk the system knew by which kernel name.
#[derive(Clone, Debug, Default)]
pub(crate) struct DeviceTable {
    rows: Vec<Row>,
    disks: usize,
    /// The disk of the system's root: where several volumes have one name, the one beside the root is meant.
    root_disk: usize,
    /// Kernel names whose disk is known, since they name the root; one of each family.
    anchors: Vec<(KernelName, usize)>,
}

/// What a name was found to mean.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Resolved<'a> {
    pub(crate) row: Option<&'a Row>,
    /// Other volumes that have the same name, if it is one that should be unique.
    pub(crate) also: Vec<&'a Row>,
    /// Was the order of the given disks relied on, with more than one of them?
    pub(crate) by_order: bool,
}

impl DeviceTable {
    /// Of `disks` disks; the system's root lies on `root`.
    pub(crate) fn new(rows: Vec<Row>, disks: usize, root: &str) -> Self {
        let root_disk = rows
            .iter()
            .find(|row| row.volume == root)
            .map_or(0, |row| row.disk);
        Self {
            rows,
            disks,
            root_disk,
            anchors: Vec::new(),
        }
    }

    pub(crate) fn row(&self, volume: &str) -> Option<&Row> {
        self.rows.iter().find(|row| row.volume == volume)
    }

    /// `name` is what the system itself calls its root, on `root`: from then on the other kernel names follow from it.
    pub(crate) fn learn_root(&mut self, name: &[u8], root: &str) {
        let DeviceSpec::Kernel(name) = DeviceSpec::parse(name) else {
            return;
        };
        let Some(row) = self.row(root).filter(|row| row.partition == name.partition) else {
            return;
        };
        let disk = row.disk;
        if !self.anchors.iter().any(|(known, _)| known.family == name.family) {
            self.anchors.push((name, disk));
        }
    }

    /// The volume that a name means.
    pub(crate) fn resolve(&self, name: &[u8]) -> Resolved<'_> {
        self.resolve_spec(&DeviceSpec::parse(name))
    }

    pub(crate) fn resolve_spec(&self, spec: &DeviceSpec) -> Resolved<'_> {
        let same = |mine: &Option<String>, wanted: &String| {
            mine.as_ref()
                .is_some_and(|mine| mine.eq_ignore_ascii_case(wanted))
        };
        match spec {
            DeviceSpec::Uuid(uuid) => self.unique(|row| same(&row.identity.uuid, uuid)),
            DeviceSpec::PartUuid(uuid) => self.unique(|row| same(&row.partuuid, uuid)),
            DeviceSpec::Label(label) => self.unique(|row| row.identity.label.as_ref() == Some(label)),
            DeviceSpec::PartLabel(label) => self.unique(|row| row.partlabel.as_ref() == Some(label)),
            DeviceSpec::Kernel(name) => self.by_kernel_name(name),
            // The only disk is the disk.
            DeviceSpec::Hardware { partition } if self.disks == 1 => Resolved {
                row: self.at(0, *partition),
                ..Resolved::default()
            },
            DeviceSpec::Hardware { .. } | DeviceSpec::Assembled | DeviceSpec::Other => Resolved::default(),
        }
    }

    /// The volume on that disk with that number.
    pub(crate) fn at(&self, disk: usize, partition: Option<u32>) -> Option<&Row> {
        self.rows
            .iter()
            .find(|row| row.disk == disk && row.partition == partition)
    }

    fn unique(&self, has: impl Fn(&Row) -> bool) -> Resolved<'_> {
        let mut found: Vec<&Row> = self.rows.iter().filter(|row| has(row)).collect();
        let best = found
            .iter()
            .position(|row| row.disk == self.root_disk)
            .unwrap_or(0);
        Resolved {
            row: (best < found.len()).then(|| found.remove(best)),
            also: found,
            by_order: false,
        }
    }

    /// With two disks of which one is called /dev/nvme0n1, /dev/sda is the other.
    fn only_other_disk(&self, name: &KernelName) -> Option<usize> {
        let (_, root) = self.anchors.first()?;
        (self.disks == 2 && name.ordinal == 0).then(|| usize::from(*root == 0))
    }

    /// Kernel names are taken to count the disks in the order in which they were given: from the root's, whose name
    /// the system itself tells, or else from the first.
    fn by_kernel_name(&self, name: &KernelName) -> Resolved<'_> {
        let anchor = self
            .anchors
            .iter()
            .find(|(anchor, _)| anchor.family == name.family);
        let disk = match anchor {
            Some((anchor, disk)) => i64::try_from(*disk)
                .ok()
                .and_then(|disk| disk.checked_add(i64::from(name.ordinal)))
                .and_then(|disk| disk.checked_sub(i64::from(anchor.ordinal)))
                .and_then(|disk| usize::try_from(disk).ok()),
            // The root's disk is of another family: where that leaves one disk, it is that one.
            None if !self.anchors.is_empty() => self.only_other_disk(name),
            None => usize::try_from(name.ordinal).ok(),
        };
        let sure = anchor.is_some_and(|(anchor, _)| anchor.ordinal == name.ordinal);
        Resolved {
            row: disk.and_then(|disk| self.at(disk, name.partition)),
            also: Vec::new(),
            by_order: self.disks > 1 && !sure,
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn row(disk: usize, partition: u32, kind: &str, uuid: &str) -> Row {
        Row {
            volume: format!("disk{disk}/p{partition}"),
            disk,
            partition: Some(partition),
            identity: Identity {
                kind: kind.into(),
                uuid: Some(uuid.into()),
                label: None,
            },
            partuuid: Some(format!("part-{disk}-{partition}")),
            partlabel: None,
        }
    }

    fn volume<'a>(table: &'a DeviceTable, name: &str) -> Option<&'a str> {
        table.resolve(name.as_bytes()).row.map(|row| &*row.volume)
    }

    #[test]
    fn kernel_names_count_from_the_root() {
        let rows = vec![
            row(0, 1, "ext4", "a"),
            row(0, 5, "swap", "b"),
            row(1, 1, "ext4", "c"),
        ];
        let table = DeviceTable::new(rows.clone(), 2, "disk0/p1");
        assert_eq!(volume(&table, "/dev/sda5"), Some("disk0/p5"));
        assert_eq!(volume(&table, "/dev/vdb1"), Some("disk1/p1"));
        assert_eq!(volume(&table, "/dev/sdc1"), None);
        assert!(table.resolve(b"/dev/sda1").by_order);
        let mut table = DeviceTable::new(rows, 2, "disk0/p1");
        table.learn_root(b"/dev/sdb1", "disk0/p1");
        assert_eq!(volume(&table, "/dev/sdb5"), Some("disk0/p5"));
        assert_eq!(volume(&table, "/dev/sdc1"), Some("disk1/p1"));
        assert_eq!(volume(&table, "/dev/sda1"), None);
        assert!(!table.resolve(b"/dev/sdb5").by_order);
        // Another family than the root's.
        assert_eq!(volume(&table, "/dev/nvme0n1p1"), Some("disk1/p1"));
        assert_eq!(volume(&table, "/dev/nvme1n1p1"), None);
        table.learn_root(b"/dev/hda1", "disk0/p1");
        assert_eq!(volume(&table, "/dev/hda5"), Some("disk0/p5"));
    }

    #[test]
    fn a_name_that_two_volumes_have_is_told() {
        let rows = vec![row(0, 1, "ext4", "same"), row(1, 1, "ext4", "same")];
        let table = DeviceTable::new(rows, 2, "disk1/p1");
        let resolved = table.resolve(b"UUID=SAME");
        assert_eq!(resolved.row.unwrap().volume, "disk1/p1");
        assert_eq!(resolved.also[0].volume, "disk0/p1");
        assert_eq!(table.resolve(b"/dev/disk/by-id/ata-x-part1").row, None);
    }
}
