//! A partition table as it was read: what both kinds of tables have in common.

use super::{Partition, TableKind};

/// The partitions of one disk, and what somebody should look at.
#[derive(Debug)]
pub(super) struct Table {
    pub(super) kind: TableKind,
    /// In bytes, as the table counts; not always what the disk says of itself.
    pub(super) sector_size: u32,
    /// In order of number; all within the disk.
    pub(super) partitions: Vec<Partition>,
    pub(super) warnings: Warnings,
    disk: DiskFacts,
}

/// What is to be known of the disk that a table divides.
#[derive(Clone, Debug)]
pub(super) struct DiskFacts {
    /// Its place in the list of sources.
    pub(super) index: usize,
    pub(super) label: String,
    /// In bytes.
    pub(super) size: u64,
}

/// Warnings of one disk, each beginning with its label; a table made to flood the report is cut off.
#[derive(Debug)]
pub(super) struct Warnings {
    label: String,
    said: Vec<String>,
    more: usize,
}

/// More warnings than this about one disk tell nobody anything.
const MOST_WARNINGS: usize = 32;

impl Warnings {
    pub(super) fn new(label: &str) -> Self {
        Self {
            label: label.to_owned(),
            said: Vec::new(),
            more: 0,
        }
    }

    pub(super) fn say(&mut self, text: impl AsRef<str>) {
        if self.said.len() < MOST_WARNINGS {
            self.said.push(format!("{}: {}", self.label, text.as_ref()));
        } else {
            self.more = self.more.saturating_add(1);
        }
    }

    pub(super) fn into_vec(mut self) -> Vec<String> {
        if self.more > 0 {
            self.said.push(format!(
                "{}: {} more warnings about its partition table",
                self.label, self.more
            ));
        }
        self.said
    }
}

impl Table {
    pub(super) fn new(kind: TableKind, sector_size: u32, disk: &DiskFacts) -> Self {
        Self {
            kind,
            sector_size,
            partitions: Vec::new(),
            warnings: Warnings::new(&disk.label),
            disk: disk.clone(),
        }
    }

    /// Takes `partition` in. As Linux does, one that begins past the end of the disk is left out and one that ends
    /// past it is cut there; both are said.
    pub(super) fn add(&mut self, mut partition: Partition) {
        let size = self.disk.size;
        let number = partition.number;
        if partition.offset >= size {
            self.warnings.say(format!(
                "partition {number} begins at byte {}, past the end of the disk at {size}: left out. Is the image \
                 cut short?",
                partition.offset
            ));
            return;
        }
        let available = size - partition.offset;
        if partition.length > available {
            self.warnings.say(format!(
                "partition {number} ends {} bytes past the end of the disk at {size}: cut there. Is the image cut \
                 short?",
                partition.length - available
            ));
            partition.length = available;
        }
        partition.disk = self.disk.index;
        self.partitions.push(partition);
    }

    /// Says which partitions share bytes. To be called when all are in.
    pub(super) fn warn_of_overlaps(&mut self) {
        let mut order: Vec<&Partition> = self.partitions.iter().collect();
        order.sort_by_key(|partition| (partition.offset, partition.number));
        let mut furthest: Option<(u64, u32)> = None;
        for partition in order {
            let end = partition.offset.saturating_add(partition.length);
            if let Some((reached, other)) = furthest {
                if partition.offset < reached {
                    self.warnings.say(format!(
                        "partitions {other} and {} share the bytes from {} on: writing to one damages the other",
                        partition.number, partition.offset
                    ));
                }
                if end <= reached {
                    continue;
                }
            }
            furthest = Some((end, partition.number));
        }
    }
}
