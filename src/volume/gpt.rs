//! GUID partition tables: UEFI specification 2.10, section 5.3.
//!
//! Headers and entry arrays are read and checked here (sizes, places, both checksums), because their numbers come
//! from a stranger; entries that have passed are taken apart by the `gpt` crate.

use super::{
    Partition, TableKind,
    table::{DiskFacts, Table},
};
use crate::disk::{Disk, Result, field};
use std::{io, sync::Arc};
use thiserror::Error;

const SIGNATURE: &[u8; 8] = b"EFI PART";

/// Bytes of the header that version 1.0 defines; the rest of the sector is reserved (table 5.5).
const HEADER: usize = 92;

/// Bytes of an entry that version 1.0 defines (table 5.6); longer ones have reserved bytes at their end.
const ENTRY: u32 = 128;

/// A longer entry holds nothing that anybody has defined.
const LONGEST_ENTRY: u32 = 4096;

/// The entry array is read whole; Linux refuses more as well. Tools make 16 KiB.
const LARGEST_ARRAY: u64 = 4 << 20;

/// Why a header, or the array that it names, is not used.
#[derive(Debug, Error)]
enum Flaw {
    #[error("lies past the end of the disk")]
    PastTheEnd,
    #[error("has no signature \"EFI PART\"")]
    Signature,
    #[error("claims {0} bytes; 92 to the sector size are possible")]
    HeaderSize(u32),
    #[error("has checksum {found:08x} where its bytes give {computed:08x}")]
    HeaderChecksum { found: u32, computed: u32 },
    #[error("says that it lies in sector {0}")]
    Place(u64),
    #[error("has entries of {0} bytes; 128 times a power of two are possible")]
    EntrySize(u32),
    #[error("claims an array of {0} entries, more than can be real")]
    Entries(u32),
    #[error("names an entry array that lies past the end of the disk")]
    ArrayPastTheEnd,
    #[error("names an entry array with checksum {found:08x} where its bytes give {computed:08x}")]
    ArrayChecksum { found: u32, computed: u32 },
    #[error("has an entry array that cannot be taken apart: {0}")]
    Entry(io::Error),
    #[error("is cut short: {0}")]
    Truncated(#[from] field::Truncated),
}

/// A header that has passed all checks that need no other sector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Header {
    /// Where the other header lies, in sectors.
    other: u64,
    /// First sector of the entry array.
    array: u64,
    entries: u32,
    entry_size: u32,
    array_checksum: u32,
}

/// Parses the header in `sector`, which lies at `lba`.
fn parse_header(sector: &[u8], lba: u64) -> std::result::Result<Header, Flaw> {
    if &field::array_at::<8>(sector, 0)? != SIGNATURE {
        return Err(Flaw::Signature);
    }
    let size = field::u32_le(sector, 12)?;
    let length = usize::try_from(size)
        .ok()
        .filter(|length| (HEADER..=sector.len()).contains(length))
        .ok_or(Flaw::HeaderSize(size))?;
    let found = field::u32_le(sector, 16)?;
    let mut checked = field::bytes_at(sector, 0, length)?.to_vec();
    field::put_u32_le(&mut checked, 16, 0)?;
    let computed = crc32fast::hash(&checked);
    if found != computed {
        return Err(Flaw::HeaderChecksum { found, computed });
    }
    let place = field::u64_le(sector, 24)?;
    if place != lba {
        return Err(Flaw::Place(place));
    }
    let entries = field::u32_le(sector, 80)?;
    let entry_size = field::u32_le(sector, 84)?;
    if !(ENTRY..=LONGEST_ENTRY).contains(&entry_size) || !entry_size.is_power_of_two() {
        return Err(Flaw::EntrySize(entry_size));
    }
    if u64::from(entries) * u64::from(entry_size) > LARGEST_ARRAY {
        return Err(Flaw::Entries(entries));
    }
    Ok(Header {
        other: field::u64_le(sector, 32)?,
        array: field::u64_le(sector, 72)?,
        entries,
        entry_size,
        array_checksum: field::u32_le(sector, 88)?,
    })
}

/// Parses the checked entry array of `header`: number from 1 and entry, in order, unused ones left out.
fn parse_entries(array: &[u8], header: &Header) -> std::result::Result<Entries, Flaw> {
    let computed = crc32fast::hash(array);
    if computed != header.array_checksum {
        return Err(Flaw::ArrayChecksum {
            found: header.array_checksum,
            computed,
        });
    }
    // The crate knows entries of 128 bytes only: hand it those bytes of each.
    let entry_size = usize::try_from(header.entry_size).unwrap_or(usize::MAX);
    let defined: Vec<u8> = array
        .chunks_exact(entry_size)
        .flat_map(|entry| entry.get(..ENTRY as usize).unwrap_or_default())
        .copied()
        .collect();
    let crate_header = gpt::header::Header {
        signature: "EFI PART".to_owned(),
        revision: (1, 0),
        header_size_le: 92,
        crc32: 0,
        reserved: 0,
        current_lba: 0,
        backup_lba: header.other,
        first_usable: 0,
        last_usable: 0,
        disk_guid: uuid::Uuid::nil(),
        part_start: 0,
        num_parts: header.entries,
        part_size: ENTRY,
        crc32_parts: crc32fast::hash(&defined),
    };
    let entries = gpt::partition::file_read_partitions(
        &mut io::Cursor::new(defined),
        &crate_header,
        gpt::disk::LogicalBlockSize::Lb512,
    )
    .map_err(Flaw::Entry)?;
    Ok(entries.into_iter().filter(|(_, entry)| entry.is_used()).collect())
}

type Entries = Vec<(u32, gpt::partition::Partition)>;

/// A header with its entries, or why not; and the header, if it is only the array that is not sound.
type Copy = std::result::Result<(Header, Entries), (Flaw, Option<Header>)>;

/// Reads the header at `lba` and its entry array. The outer error is the disk's own.
fn read_header(disk: &Arc<dyn Disk>, lba: u64, sector_size: u32) -> Result<Copy> {
    let read = |lba: u64, length: u64| -> Result<Option<Vec<u8>>> {
        let end_of = |offset: u64| offset.checked_add(length).filter(|end| *end <= disk.size());
        let Some(offset) = lba
            .checked_mul(u64::from(sector_size))
            .filter(|offset| end_of(*offset).is_some())
        else {
            return Ok(None);
        };
        // No more than LARGEST_ARRAY, and the disk has as many bytes.
        let mut bytes = vec![0; usize::try_from(length).unwrap_or_default()];
        disk.read_at(offset, &mut bytes)?;
        Ok(Some(bytes))
    };
    let Some(sector) = read(lba, u64::from(sector_size))? else {
        return Ok(Err((Flaw::PastTheEnd, None)));
    };
    let header = match parse_header(&sector, lba) {
        Ok(header) => header,
        Err(flaw) => return Ok(Err((flaw, None))),
    };
    let length = u64::from(header.entries) * u64::from(header.entry_size);
    let Some(array) = read(header.array, length)? else {
        return Ok(Err((Flaw::ArrayPastTheEnd, Some(header))));
    };
    Ok(parse_entries(&array, &header)
        .map(|entries| (header, entries))
        .map_err(|flaw| (flaw, Some(header))))
}

/// The sector sizes to try: the disk's own first, since an image file cannot say that it came from a disk of
/// 4096-byte sectors.
fn sector_sizes(disk: &Arc<dyn Disk>) -> [u32; 2] {
    if disk.sector_size() == 4096 {
        [4096, 512]
    } else {
        [512, 4096]
    }
}

/// Has the disk a sound primary header? For disks whose first sector does not announce one.
pub(super) fn has_sound_primary(disk: &Arc<dyn Disk>) -> Result<bool> {
    for sector_size in sector_sizes(disk) {
        if read_header(disk, 1, sector_size)?.is_ok() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Reads the table of a disk whose first sector announces one. A table of which neither copy is sound divides the
/// disk into nothing, with warnings.
pub(super) fn read(disk: &Arc<dyn Disk>, facts: &DiskFacts) -> Result<Table> {
    let mut flaws = Vec::new();
    for sector_size in sector_sizes(disk) {
        match read_header(disk, 1, sector_size)? {
            Ok((header, entries)) => {
                let mut table = new_table(disk, facts, sector_size);
                if let Err((flaw, _)) = read_header(disk, header.other, sector_size)? {
                    table.warnings.say(format!(
                        "the backup GPT header in sector {} {flaw}: the primary one is used",
                        header.other
                    ));
                }
                add_entries(&mut table, entries, sector_size);
                return Ok(table);
            }
            Err(flaw) => flaws.push((sector_size, flaw)),
        }
    }
    for (sector_size, (flaw, header)) in &flaws {
        let last = (disk.size() / u64::from(*sector_size)).saturating_sub(1);
        // On a disk that grew, only the primary header knows where the backup is; its own checksum may be right
        // while the array is not.
        let places = [
            Some(last),
            header.map(|header| header.other).filter(|other| *other != last),
        ];
        for place in places.into_iter().flatten().filter(|place| *place > 1) {
            if let Ok((_, entries)) = read_header(disk, place, *sector_size)? {
                let mut table = new_table(disk, facts, *sector_size);
                table.warnings.say(format!(
                    "the primary GPT header {flaw}: the backup in sector {place} is used. The source is left as it \
                     is; `sgdisk -e` on a copy would mend it"
                ));
                add_entries(&mut table, entries, *sector_size);
                return Ok(table);
            }
        }
    }
    let mut table = Table::new(TableKind::Gpt, disk.sector_size(), facts);
    if let Some((_, (flaw, _))) = flaws.first() {
        table.warnings.say(format!(
            "has a protective MBR, but the primary GPT header {flaw} and no backup is sound at the end of the disk: \
             no partition is known. `gdisk` or `testdisk` on a copy may bring them back"
        ));
    }
    Ok(table)
}

fn new_table(disk: &Arc<dyn Disk>, facts: &DiskFacts, sector_size: u32) -> Table {
    let mut table = Table::new(TableKind::Gpt, sector_size, facts);
    if sector_size != disk.sector_size() {
        table.warnings.say(format!(
            "its GPT was made for sectors of {sector_size} bytes, not {}: read so. The new disk must have sectors of \
             {sector_size} bytes as well",
            disk.sector_size()
        ));
    }
    table
}

fn add_entries(table: &mut Table, entries: Entries, sector_size: u32) {
    for (number, entry) in entries {
        let bytes = |sectors: u64| sectors.checked_mul(u64::from(sector_size));
        let sectors = entry
            .last_lba
            .checked_sub(entry.first_lba)
            .and_then(|n| n.checked_add(1));
        let (Some(length), Some(offset)) = (sectors.and_then(bytes), bytes(entry.first_lba)) else {
            table.warnings.say(format!(
                "partition {number} claims the sectors {} to {}: left out",
                entry.first_lba, entry.last_lba
            ));
            continue;
        };
        table.add(Partition {
            disk: 0,
            number,
            offset,
            length,
            kind: format!("{:X}", entry.part_type_guid.guid.hyphenated()),
            partuuid: Some(entry.part_guid.hyphenated().to_string()),
            name: Some(entry.name).filter(|name| !name.is_empty()),
            bootable: entry.flags & gpt::partition::PartitionAttributes::BOOTABLE.bits() != 0,
        });
    }
    table.warn_of_overlaps();
}
