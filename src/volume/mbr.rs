//! Master boot records, with extended and logical partitions.
//!
//! The layout is that of the UEFI specification 2.10, section 5.2 (which describes the legacy record); chains of
//! extended boot records are followed as Linux does (`block/partitions/msdos.c`), so that numbers agree with the
//! names in the guest's files. One sector is parsed by `mbrman`; the chain is walked here, because a hostile one
//! loops, and because `mbrman` computes addresses in 32 bits.

use super::{
    Partition, TableKind,
    table::{DiskFacts, Table},
};
use crate::disk::{Disk, Result, field};
use mbrman::{MBRHeader, MBRPartitionEntry};
use std::{collections::BTreeSet, io, sync::Arc};

/// The first sector of a disk, whatever the sector size: the record is its first 512 bytes.
pub(super) const RECORD: usize = 512;

/// Type of the entry that protects a GUID partition table (UEFI 5.2.3) from tools that know only records.
const PROTECTIVE: u8 = 0xee;

/// Types of entries that hold a chain of extended boot records: CHS, LBA, and Linux's own.
const EXTENDED: [u8; 3] = [0x05, 0x0f, 0x85];

/// Linux has minor numbers for no more, so no partition beyond can be in use.
const MOST_PARTITIONS: u32 = 256;

/// Linux gives up after as many extended boot records in a row without a partition.
const MOST_EMPTY_RECORDS: u32 = 100;

/// What the first sector of a disk is.
#[derive(Debug)]
pub(super) enum FirstSector {
    /// No record, or one without a single entry: the disk is not divided by it.
    NoTable,
    /// The boot sector of a filesystem, which ends in the same two bytes as a record.
    BootSector,
    /// The record in front of a GUID partition table.
    Protective {
        /// It has entries beside the protective one.
        hybrid: bool,
    },
    /// A record with entries.
    Table(Box<MBRHeader>),
}

/// Judges the first sector of a disk of `size` bytes that counts in sectors of `sector_size` bytes.
pub(super) fn classify(record: &[u8], size: u64, sector_size: u32) -> FirstSector {
    // mbrman checks the signature 55 AA and, as Linux does, that all four boot flags are 00 or 80.
    let Ok(header) = MBRHeader::read_from(&mut io::Cursor::new(record)) else {
        return if is_boot_sector(record) {
            FirstSector::BootSector
        } else {
            FirstSector::NoTable
        };
    };
    let used: Vec<&MBRPartitionEntry> = header
        .iter()
        .map(|(_, entry)| entry)
        .filter(|entry| entry.sectors > 0)
        .collect();
    if used.iter().any(|entry| entry.sys == PROTECTIVE) {
        return FirstSector::Protective {
            hybrid: used.iter().any(|entry| entry.sys != PROTECTIVE),
        };
    }
    // A boot loader that is installed into a record may leave the parameter block of a filesystem that was there
    // before, so such a block counts only if the entries make no sense.
    if is_boot_sector(record) && !are_sound(&used, size, sector_size) {
        return FirstSector::BootSector;
    }
    let begins_on_the_disk =
        |entry: &&MBRPartitionEntry| u64::from(entry.starting_lba) * u64::from(sector_size) < size;
    if used.iter().any(begins_on_the_disk) {
        FirstSector::Table(Box::new(header))
    } else {
        FirstSector::NoTable
    }
}

/// Is there an entry, and do all lie on the disk, behind the record, and apart from each other?
fn are_sound(entries: &[&MBRPartitionEntry], size: u64, sector_size: u32) -> bool {
    let mut ranges: Vec<(u64, u64)> = entries
        .iter()
        .map(|entry| {
            let start = u64::from(entry.starting_lba) * u64::from(sector_size);
            (start, start + u64::from(entry.sectors) * u64::from(sector_size))
        })
        .collect();
    ranges.sort_unstable();
    let apart = ranges.iter().zip(ranges.iter().skip(1)).all(|(a, b)| a.1 <= b.0);
    !ranges.is_empty() && apart && ranges.iter().all(|(start, end)| *start > 0 && *end <= size)
}

/// Has `sector` the parameter block of FAT, or the name of NTFS, exFAT or BitLocker?
fn is_boot_sector(sector: &[u8]) -> bool {
    let name = field::array_at::<8>(sector, 3).unwrap_or_default();
    matches!(&name, b"NTFS    " | b"EXFAT   " | b"-FVE-FS-") || has_fat_parameters(sector).unwrap_or(false)
}

/// The checks that Microsoft's FAT specification (`fatgen103`, "Boot Sector and BPB") lets a reader make.
fn has_fat_parameters(sector: &[u8]) -> std::result::Result<bool, field::Truncated> {
    let jump = field::array_at::<3>(sector, 0)?;
    let bytes_per_sector = field::u16_le(sector, 11)?;
    let sectors_per_cluster = field::u8_at(sector, 13)?;
    let reserved_sectors = field::u16_le(sector, 14)?;
    let tables = field::u8_at(sector, 16)?;
    let root_entries = field::u16_le(sector, 17)?;
    let total_sectors = field::u16_le(sector, 19)?;
    let media = field::u8_at(sector, 21)?;
    let sectors_per_table = field::u16_le(sector, 22)?;
    let total_sectors_32 = field::u32_le(sector, 32)?;
    let sectors_per_table_32 = field::u32_le(sector, 36)?;
    let fat32 = root_entries == 0 && sectors_per_table == 0 && sectors_per_table_32 > 0;
    let fat16 = root_entries > 0 && sectors_per_table > 0;
    Ok(matches!(jump, [0xeb, _, 0x90] | [0xe9, _, _])
        && matches!(bytes_per_sector, 512 | 1024 | 2048 | 4096)
        && sectors_per_cluster.is_power_of_two()
        && reserved_sectors > 0
        && matches!(tables, 1 | 2)
        && matches!(media, 0xf0 | 0xf8..=0xff)
        && (total_sectors > 0 || total_sectors_32 > 0)
        && (fat16 || fat32))
}

/// Reads the partitions that `header` lists, logical ones included.
pub(super) fn read(disk: &Arc<dyn Disk>, facts: &DiskFacts, header: &MBRHeader) -> Result<Table> {
    let mut reader = Reader {
        disk,
        sector_size: disk.sector_size(),
        signature: u32::from_le_bytes(header.disk_signature),
        table: Table::new(TableKind::Mbr, disk.sector_size(), facts),
        next_logical: 5,
    };
    let mut chains = Vec::new();
    for (number, entry) in (1_u32..).zip(header.iter().map(|(_, entry)| entry)) {
        if entry.sectors == 0 {
            continue;
        }
        if is_extended(entry) {
            chains.push((number, entry));
        } else {
            reader.add(number, entry, u64::from(entry.starting_lba));
        }
    }
    for (number, extended) in chains {
        reader.walk(number, extended)?;
    }
    let mut table = reader.table;
    table.warn_of_overlaps();
    Ok(table)
}

fn is_extended(entry: &MBRPartitionEntry) -> bool {
    EXTENDED.contains(&entry.sys)
}

struct Reader<'a> {
    disk: &'a Arc<dyn Disk>,
    sector_size: u32,
    signature: u32,
    table: Table,
    next_logical: u32,
}

/// One extended boot record: where it is, and how many sectors the link to it claims. In sectors.
#[derive(Clone, Copy)]
struct Link {
    sector: u64,
    sectors: u64,
}

impl Reader<'_> {
    fn add(&mut self, number: u32, entry: &MBRPartitionEntry, start: u64) {
        let bytes = |sectors: u64| sectors.saturating_mul(u64::from(self.sector_size));
        let partition = Partition {
            disk: 0,
            number,
            offset: bytes(start),
            length: bytes(u64::from(entry.sectors)),
            kind: format!("{:02x}", entry.sys),
            // Without a signature there is nothing to name it by; blkid says none either.
            partuuid: (self.signature != 0).then(|| format!("{:08x}-{number:02x}", self.signature)),
            name: None,
            bootable: entry.is_active(),
        };
        self.table.add(partition);
    }

    /// Follows the chain of extended boot records that begins in `extended`, the primary entry `number`.
    fn walk(&mut self, number: u32, extended: &MBRPartitionEntry) -> Result<()> {
        let first = Link {
            sector: u64::from(extended.starting_lba),
            sectors: u64::from(extended.sectors),
        };
        let end = first.sector + first.sectors;
        let mut seen = BTreeSet::new();
        let mut empty = 0;
        let mut at = first;
        loop {
            let stop = |why: &str| {
                format!(
                    "the chain of logical partitions in extended partition {number} {why} at sector {}: those that \
                     would follow are not found",
                    at.sector
                )
            };
            if !seen.insert(at.sector) {
                self.table.warnings.say(stop("runs in a circle"));
                return Ok(());
            }
            let Some(offset) = at
                .sector
                .checked_mul(u64::from(self.sector_size))
                .filter(|offset| offset.saturating_add(RECORD as u64) <= self.disk.size())
            else {
                self.table.warnings.say(stop("leaves the disk"));
                return Ok(());
            };
            let mut sector = [0; RECORD];
            self.disk.read_at(offset, &mut sector)?;
            let Some(record) = parse_extended(&sector) else {
                // An extended partition without any logical one needs no record.
                if seen.len() > 1 || sector.iter().any(|byte| *byte != 0) {
                    self.table.warnings.say(stop("meets no extended boot record"));
                }
                return Ok(());
            };
            let before = self.next_logical;
            for (slot, entry) in record.iter() {
                let start = at.sector + u64::from(entry.starting_lba);
                let past = start + u64::from(entry.sectors);
                // As Linux has it: the third and fourth entries sometimes hold garbage.
                let garbage = slot > 2
                    && (u64::from(entry.starting_lba) + u64::from(entry.sectors) > at.sectors
                        || start < first.sector
                        || past > end);
                if entry.sectors == 0 || is_extended(entry) || garbage {
                    continue;
                }
                if self.next_logical > MOST_PARTITIONS {
                    self.table
                        .warnings
                        .say(stop("has more partitions than Linux counts"));
                    return Ok(());
                }
                self.add(self.next_logical, entry, start);
                self.next_logical += 1;
            }
            empty = if self.next_logical > before { 0 } else { empty + 1 };
            if empty > MOST_EMPTY_RECORDS {
                self.table.warnings.say(stop("has only empty records"));
                return Ok(());
            }
            let next = record
                .iter()
                .map(|(_, entry)| entry)
                .find(|entry| entry.sectors > 0 && is_extended(entry));
            let Some(next) = next else {
                return Ok(());
            };
            at = Link {
                sector: first.sector + u64::from(next.starting_lba),
                sectors: u64::from(next.sectors),
            };
        }
    }
}

/// An extended boot record has the shape of a master boot record. Its boot flags mean nothing, so odd ones must
/// not make mbrman refuse it; `None` without the signature 55 AA.
fn parse_extended(sector: &[u8; RECORD]) -> Option<MBRHeader> {
    let mut sector = *sector;
    for entry in sector.get_mut(446..510)?.chunks_exact_mut(16) {
        if let Some(flag) = entry.first_mut().filter(|flag| **flag != mbrman::BOOT_ACTIVE) {
            *flag = mbrman::BOOT_INACTIVE;
        }
    }
    MBRHeader::read_from(&mut io::Cursor::new(&sector)).ok()
}
