//! [MS-VHDX] 2.6 "Metadata Region": block size, disk size, sectors, and who the parent is.

use super::{MIB, flaw::Flaw, header::id_at};
use crate::disk::{
    Disk, Result,
    field::{Truncated, bytes_at, put_bytes, put_u16_le, put_u32_le, put_u64_le, u16_le, u32_le, u64_le},
};
use std::ops::Range;
use uuid::{Uuid, uuid};

/// Bytes of the table, before the items.
const TABLE: usize = 64 << 10;

/// Bytes of the region of a new file.
pub(super) const LENGTH: u64 = MIB;

const MOST_ENTRIES: u16 = 2047;

/// No item is larger.
const LARGEST_ITEM: u32 = 1 << 20;

/// The largest disk, in bytes.
pub(super) const LARGEST_DISK: u64 = 64 << 40;

const FILE_PARAMETERS: Uuid = uuid!("caa16737-fa36-4d43-b3b6-33f0aa44e76b");
const DISK_SIZE: Uuid = uuid!("2fa54224-cd1b-4876-b211-5dbed83bf4b8");
const DISK_ID: Uuid = uuid!("beca12ab-b2e6-4523-93ef-c309e000c746");
const LOGICAL_SECTOR: Uuid = uuid!("8141bf1d-a96f-4709-ba47-f233a8faab5f");
const PHYSICAL_SECTOR: Uuid = uuid!("cda348c7-445d-4471-9cc9-e9885251c556");
const PARENT_LOCATOR: Uuid = uuid!("a8d35f2d-b30b-454d-abf7-d3d84834ab0c");

/// Flags of an entry.
const IS_USER: u32 = 1;
const IS_VIRTUAL_DISK: u32 = 2;
const IS_REQUIRED: u32 = 4;

/// Flags of the file parameters.
const LEAVE_ALLOCATED: u32 = 1;
const HAS_PARENT: u32 = 2;

/// What the metadata says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Metadata {
    /// In bytes.
    pub(super) block_size: u32,
    /// Blocks stay where they are: a fixed disk.
    pub(super) leave_allocated: bool,
    /// Of the disk, in bytes.
    pub(super) size: u64,
    pub(super) disk_id: Uuid,
    /// In bytes, and the next.
    pub(super) logical_sector: u32,
    pub(super) physical_sector: u32,
    /// The parent locator of a differencing disk.
    pub(super) locator: Option<Vec<u8>>,
}

/// An entry of the table: an item that lies at an offset in the region.
struct Entry {
    id: Uuid,
    offset: u32,
    length: u32,
    required: bool,
}

/// Parses the table.
fn entries(bytes: &[u8]) -> std::result::Result<Vec<Entry>, Flaw> {
    let bytes = bytes_at(bytes, 0, TABLE)?;
    if !bytes.starts_with(b"metadata") {
        return Err(Flaw::StructureSignature("metadata"));
    }
    let count = u16_le(bytes, 10)?;
    if count > MOST_ENTRIES {
        return Err(Flaw::Items(count));
    }
    let mut entries = Vec::new();
    for at in (32..).step_by(32).take(count.into()) {
        let flags = u32_le(bytes, at + 24)?;
        let id = id_at(bytes, at)?;
        let required = flags & IS_REQUIRED != 0;
        // An item of the user under a known identifier is another item.
        if flags & IS_USER != 0 {
            if required {
                return Err(Flaw::UnknownItem(id));
            }
            continue;
        }
        entries.push(Entry {
            id,
            offset: u32_le(bytes, at + 16)?,
            length: u32_le(bytes, at + 20)?,
            required,
        });
    }
    Ok(entries)
}

impl Metadata {
    /// Reads the metadata in `region` of `container`.
    pub(super) fn read(container: &dyn Disk, region: &Range<u64>) -> Result<Self> {
        let error = |flaw: Flaw| flaw.of(container.label()).at(region.start);
        let mut table = vec![0; TABLE];
        // The region lies in the file, and is 1 MiB at least.
        container.read_at(region.start, &mut table)?;
        let entries = entries(&table).map_err(error)?;
        let mut items: Vec<(Uuid, Vec<u8>)> = Vec::new();
        for entry in entries {
            let what = match entry.id {
                FILE_PARAMETERS => "file parameters",
                DISK_SIZE => "disk size",
                DISK_ID => "disk id",
                LOGICAL_SECTOR => "logical sector size",
                PHYSICAL_SECTOR => "physical sector size",
                PARENT_LOCATOR => "parent locator",
                other if entry.required => return Err(error(Flaw::UnknownItem(other))),
                _ => continue,
            };
            if items.iter().any(|(id, _)| *id == entry.id) {
                return Err(error(Flaw::Twice(what)));
            }
            let start = region.start.saturating_add(entry.offset.into());
            let end = start.saturating_add(entry.length.into());
            if u64::from(entry.offset) < TABLE as u64 || end > region.end || entry.length > LARGEST_ITEM {
                return Err(error(Flaw::Place {
                    what,
                    offset: start,
                    length: entry.length.into(),
                    size: container.size(),
                }));
            }
            let mut bytes = vec![0; usize::try_from(entry.length).unwrap_or(0)];
            container.read_at(start, &mut bytes)?;
            items.push((entry.id, bytes));
        }
        Self::of_items(&mut items).map_err(error)
    }

    fn of_items(items: &mut Vec<(Uuid, Vec<u8>)>) -> std::result::Result<Self, Flaw> {
        let mut take = |wanted: Uuid| {
            let index = items.iter().position(|(id, _)| *id == wanted)?;
            Some(items.swap_remove(index).1)
        };
        let parameters = take(FILE_PARAMETERS).ok_or(Flaw::Missing("file parameters"))?;
        let size = take(DISK_SIZE).ok_or(Flaw::Missing("disk size"))?;
        let logical = take(LOGICAL_SECTOR).ok_or(Flaw::Missing("logical sector size"))?;
        let physical = take(PHYSICAL_SECTOR).ok_or(Flaw::Missing("physical sector size"))?;
        let disk_id = take(DISK_ID).ok_or(Flaw::Missing("disk id"))?;
        let flags = u32_le(&parameters, 4)?;
        let locator = if flags & HAS_PARENT != 0 {
            Some(take(PARENT_LOCATOR).ok_or(Flaw::Missing("parent locator"))?)
        } else {
            None
        };
        let metadata = Self {
            block_size: u32_le(&parameters, 0)?,
            leave_allocated: flags & LEAVE_ALLOCATED != 0,
            size: u64_le(&size, 0)?,
            disk_id: id_at(&disk_id, 0)?,
            logical_sector: u32_le(&logical, 0)?,
            physical_sector: u32_le(&physical, 0)?,
            locator,
        };
        metadata.validate()?;
        Ok(metadata)
    }

    /// Are its numbers possible?
    pub(super) fn validate(&self) -> std::result::Result<(), Flaw> {
        let block = u64::from(self.block_size);
        if !block.is_power_of_two() || !(MIB..=256 * MIB).contains(&block) {
            return Err(Flaw::BlockSize(self.block_size));
        }
        for (what, size) in [
            ("logical", self.logical_sector),
            ("physical", self.physical_sector),
        ] {
            if !matches!(size, 512 | 4096) {
                return Err(Flaw::SectorSize(what, size));
            }
        }
        if self.size > LARGEST_DISK || !self.size.is_multiple_of(self.logical_sector.into()) {
            return Err(Flaw::Size(self.size));
        }
        Ok(())
    }

    /// The beginning of the region of a new file: the table and the items. No parent.
    pub(super) fn encode(&self) -> std::result::Result<Vec<u8>, Truncated> {
        let flags = if self.leave_allocated { LEAVE_ALLOCATED } else { 0 };
        let mut parameters = [0; 8];
        put_u32_le(&mut parameters, 0, self.block_size)?;
        put_u32_le(&mut parameters, 4, flags)?;
        let mut size = [0; 8];
        put_u64_le(&mut size, 0, self.size)?;
        let disk = IS_VIRTUAL_DISK | IS_REQUIRED;
        let items: [(Uuid, &[u8], u32); 5] = [
            (FILE_PARAMETERS, &parameters, IS_REQUIRED),
            (DISK_SIZE, &size, disk),
            (LOGICAL_SECTOR, &self.logical_sector.to_le_bytes(), disk),
            (PHYSICAL_SECTOR, &self.physical_sector.to_le_bytes(), disk),
            (DISK_ID, &self.disk_id.to_bytes_le(), disk),
        ];
        let mut bytes = vec![0; TABLE + 4096];
        let b = bytes.as_mut_slice();
        put_bytes(b, 0, b"metadata")?;
        put_u16_le(b, 10, u16::try_from(items.len()).unwrap_or(0))?;
        let mut offset = TABLE;
        for (at, (id, item, flags)) in (32..).step_by(32).zip(items) {
            put_bytes(b, at, &id.to_bytes_le())?;
            put_u32_le(b, at + 16, u32::try_from(offset).unwrap_or(0))?;
            put_u32_le(b, at + 20, u32::try_from(item.len()).unwrap_or(0))?;
            put_u32_le(b, at + 24, flags)?;
            put_bytes(b, offset, item)?;
            offset += item.len();
        }
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::MemoryDisk;

    fn metadata() -> Metadata {
        Metadata {
            block_size: 32 << 20,
            leave_allocated: true,
            size: 1 << 30,
            disk_id: Uuid::from_u128(77),
            logical_sector: 4096,
            physical_sector: 4096,
            locator: None,
        }
    }

    /// Reads `bytes` as a region at 1 MiB of a file.
    fn read(bytes: &[u8]) -> Result<Metadata> {
        let mut file = vec![0; 1 << 20];
        file.extend(bytes);
        file.resize(2 << 20, 0);
        Metadata::read(&MemoryDisk::new("d", file), &(1 << 20..2 << 20))
    }

    #[test]
    fn metadata_is_read_as_it_was_written() {
        let bytes = metadata().encode().unwrap();
        assert_eq!(read(&bytes).unwrap(), metadata());
        let with = |at: usize, new: &[u8]| {
            let mut bytes = bytes.clone();
            bytes[at..at + new.len()].copy_from_slice(new);
            read(&bytes).unwrap_err().to_string()
        };
        // Five entries of 32 bytes from 32 on; the items from 64 KiB on.
        for (at, new, expected) in [
            (0, &b"METADATA"[..], "signature"),
            (10, &[0xff, 0xff], "65535 entries"),
            (10, &[4], "no disk id"),
            (32, &[1], "not known here: caa16701-fa36"),
            (32 + 24, &[5], "not known here: caa16737-fa36"),
            (32 + 16, &[0, 0, 0, 0], "is no place"),
            (32 + 20, &[0, 0, 0x20], "is no place"),
            (32 + 16, &[0xfc, 0xff, 0x0f], "is no place"),
            (65536, &[1], "blocks of"),
            (65536, &[0, 0, 0, 0x20], "blocks of 536870912"),
            (65536 + 4, &[2], "no parent locator"),
            (65536 + 8, &[1], "whole sectors"),
            (65536 + 8, &[0, 0, 0, 0, 1, 0x40], "whole sectors"),
            (65536 + 16, &[1], "logical sectors"),
            (65536 + 20, &[1], "physical sectors"),
        ] {
            let text = with(at, new);
            assert!(text.contains(expected), "{expected}: {text}");
        }
        let mut twice = bytes.clone();
        twice.copy_within(32..48, 64);
        assert!(
            read(&twice)
                .unwrap_err()
                .to_string()
                .contains("file parameters twice")
        );
        // An optional item that nobody knows.
        let mut optional = bytes;
        optional[10] = 6;
        optional[32 + 5 * 32] = 9;
        assert_eq!(read(&optional).unwrap(), metadata());
    }
}
