//! What divides or joins disks. Not a trait: every kind yields a [`Volume`].

mod gpt;
mod mbr;
mod scan;
mod table;

pub use scan::scan;

use crate::disk::Disk;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// A range of storage that may hold a filesystem, or more volumes.
#[derive(Clone, Debug)]
pub struct Volume {
    /// "disk0/p2", later "disk0/p2/vg0/root"; a whole disk without a table is "disk0". Stable, sorts, prints.
    pub id: String,
    /// Ids of what it is made of: two for a mirror.
    pub parents: Vec<String>,
    /// Its bytes.
    pub disk: Arc<dyn Disk>,
    /// The entry of the partition table that it comes from.
    pub partition: Option<Partition>,
}

/// What a partition table says of a partition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Partition {
    /// Index of the disk in the list of sources, from 0.
    pub disk: usize,
    /// As Linux counts: 1 to 4 primary, from 5 logical; GPT entry number from 1.
    pub number: u32,
    /// First byte on the disk.
    pub offset: u64,
    /// In bytes.
    pub length: u64,
    /// MBR type as two hexadecimal digits ("83"), GPT type GUID in upper case.
    pub kind: String,
    /// As `PARTUUID=` spells it: the GPT partition GUID in lower case, or "1234abcd-01" from the MBR disk signature.
    pub partuuid: Option<String>,
    /// The GPT name.
    pub name: Option<String>,
    /// MBR: the active flag. GPT: attribute bit 2, "legacy BIOS bootable".
    pub bootable: bool,
}

impl Partition {
    /// Does it belong to a dynamic disk of Windows (Logical Disk Manager)? Where the volumes in it are, and whether they go on
    /// elsewhere, only the database at the end of the disk says.
    pub fn is_dynamic(&self) -> bool {
        /// The type of MBR partitions, and of GPT partitions with data and with the database.
        const KINDS: [&str; 3] = [
            "42",
            "AF9B60A0-1431-4F62-BC68-3311714A69AD",
            "5808C8AA-7E8F-42E0-85D2-E1E90434CFB3",
        ];
        KINDS.contains(&&*self.kind)
    }
}

/// Which table divides a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TableKind {
    /// A master boot record, with or without logical partitions.
    Mbr,
    /// A GUID partition table.
    Gpt,
}

/// All that was found on a list of disks.
#[derive(Clone, Debug, Default)]
pub struct Scan {
    /// Per disk, in order: its table, `None` for a disk without one.
    pub tables: Vec<Option<TableKind>>,
    /// In order of disk and number.
    pub volumes: Vec<Volume>,
    /// What somebody should look at: the primary GPT is damaged and the backup was used.
    pub warnings: Vec<String>,
}
