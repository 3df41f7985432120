//! The boot sector with its BIOS parameter block (Microsoft FAT specification 1.03, "Boot Sector and BPB"), the
//! geometry that follows from it, and the `FSInfo` sector.

use crate::disk::field::{Truncated, bytes_at, u8_at, u16_le, u32_le};
use std::ops::Range;

/// Width of an entry of the file allocation table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Width {
    Fat12,
    Fat16,
    Fat32,
}

/// Where everything is. All offsets and lengths are bytes of the volume.
#[derive(Clone, Debug)]
pub(super) struct BootSector {
    pub(super) width: Width,
    pub(super) cluster_size: u64,
    /// First byte of the first allocation table.
    pub(super) table_start: u64,
    /// Length of one allocation table.
    pub(super) table_length: u64,
    pub(super) table_count: u64,
    /// `Some(n)`: only table `n` is kept ("mirroring disabled", FAT32 `BPB_ExtFlags`).
    pub(super) only_table: Option<u64>,
    /// The root directory of FAT12 and FAT16; empty on FAT32.
    pub(super) fixed_root: Range<u64>,
    /// First cluster of the root directory of FAT32; 0 otherwise.
    pub(super) root_cluster: u32,
    /// First byte of cluster 2.
    pub(super) data_start: u64,
    /// Clusters are numbered 2 up to, without, `2 + clusters`.
    pub(super) clusters: u32,
    /// Where the last sector ends.
    pub(super) end: u64,
    /// Offset of the `FSInfo` sector.
    pub(super) info: Option<u64>,
    /// Offset of the byte whose bit 0 says "was not unmounted".
    pub(super) state: u64,
    pub(super) volume_id: Option<u32>,
    /// What the table's first byte is too.
    pub(super) media: u8,
}

/// Why a sector that looks like a FAT boot sector cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum BadBootSector {
    #[error("the boot sector is cut short: {0}")]
    Truncated(#[from] Truncated),
    #[error("the FAT boot sector says {0}; if the backup boot sector is good, `fsck.fat -r` restores it")]
    Field(String),
}

const JUMP_SHORT: u8 = 0xeb;
const JUMP_NEAR: u8 = 0xe9;
/// `BPB_ExtFlags`: bit 7 = one table only, bits 0 to 3 = which.
const MIRRORING_DISABLED: u16 = 0x80;
const ACTIVE_TABLE: u16 = 0x0f;
/// `BS_BootSig`: the volume id (and, at 0x29, the label) are present.
const EXTENDED: [u8; 2] = [0x28, 0x29];

/// Do these first 512 bytes of a volume look like FAT at all? NTFS, exFAT and partition tables do not: their
/// fields are zero or senseless where the parameter block has its own.
pub(super) fn looks_like_fat(sector: &[u8]) -> bool {
    recognise(sector).unwrap_or(false)
}

fn recognise(sector: &[u8]) -> Result<bool, Truncated> {
    let jump = u8_at(sector, 0)?;
    let signature = bytes_at(sector, 510, 2)? == [0x55, 0xaa];
    let said = bytes_at(sector, 54, 3)? == b"FAT" || bytes_at(sector, 82, 5)? == b"FAT32";
    let oem = bytes_at(sector, 3, 8)?;
    let other = oem == b"NTFS    " || oem == b"EXFAT   " || oem == b"-FVE-FS-";
    let media = u8_at(sector, 21)?;
    let sector_size = u16_le(sector, 11)?;
    let per_cluster = u8_at(sector, 13)?;
    Ok(!other
        && (said || (signature && (jump == JUMP_SHORT || jump == JUMP_NEAR)))
        && (512..=4096).contains(&sector_size)
        && sector_size.is_power_of_two()
        && per_cluster.is_power_of_two()
        && u16_le(sector, 14)? != 0
        && matches!(u8_at(sector, 16)?, 1..=4)
        && (media == 0xf0 || media >= 0xf8))
}

impl BootSector {
    /// `sector` is the first 512 bytes of a volume for which [`looks_like_fat`] holds.
    pub(super) fn parse(sector: &[u8]) -> Result<Self, BadBootSector> {
        let bad = |text: String| BadBootSector::Field(text);
        let sector_size = u64::from(u16_le(sector, 11)?);
        let cluster_size = sector_size * u64::from(u8_at(sector, 13)?);
        let reserved = u64::from(u16_le(sector, 14)?);
        let table_count = u64::from(u8_at(sector, 16)?);
        let root_entries = u64::from(u16_le(sector, 17)?);
        let small_total = u64::from(u16_le(sector, 19)?);
        let small_table = u64::from(u16_le(sector, 22)?);
        let total = if small_total == 0 {
            u64::from(u32_le(sector, 32)?)
        } else {
            small_total
        };
        let large = small_table == 0;
        let table_sectors = if large {
            u64::from(u32_le(sector, 36)?)
        } else {
            small_table
        };
        if table_sectors == 0 {
            return Err(bad("that its allocation table has no sectors".into()));
        }
        // All products below are of fields of at most 32 bits: no overflow in 64.
        let table_start = reserved * sector_size;
        let table_length = table_sectors * sector_size;
        let root_start = table_start + table_count * table_length;
        let root_length = (root_entries * 32).next_multiple_of(sector_size);
        let data_start = root_start + root_length;
        let end = total * sector_size;
        let Some(data_length) = end
            .checked_sub(data_start)
            .filter(|length| *length >= cluster_size)
        else {
            return Err(bad(format!(
                "{total} sectors in all, which end before the first cluster at byte {data_start}"
            )));
        };
        let counted = data_length / cluster_size;
        // The kernel and fsck.fat decide by the field and then by the count; mkfs.fat makes small FAT32 volumes,
        // which a decision by count alone would misread.
        let width = match counted {
            _ if large => Width::Fat32,
            0..=4084 => Width::Fat12,
            _ => Width::Fat16,
        };
        let entries = match width {
            Width::Fat12 => table_length * 2 / 3,
            Width::Fat16 => table_length / 2,
            Width::Fat32 => table_length / 4,
        };
        let most = match width {
            Width::Fat12 => 0xff4,
            Width::Fat16 => 0xfff4,
            Width::Fat32 => 0x0fff_fff4,
        };
        let clusters = u32::try_from(counted.min(entries.saturating_sub(2)).min(most)).unwrap_or(0);
        if clusters == 0 {
            return Err(bad("that its allocation table has no room for a cluster".into()));
        }
        let flags = u16_le(sector, 40)?;
        let only_table =
            (large && flags & MIRRORING_DISABLED != 0).then_some(u64::from(flags & ACTIVE_TABLE));
        if only_table.is_some_and(|active| active >= table_count) {
            return Err(bad(format!(
                "that table {} of {table_count} is the active one",
                flags & ACTIVE_TABLE
            )));
        }
        let root_cluster = if large { u32_le(sector, 44)? } else { 0 };
        if large && !(2..clusters + 2).contains(&root_cluster) {
            return Err(bad(format!(
                "that the root directory begins at cluster {root_cluster} of {clusters}"
            )));
        }
        if large && root_entries != 0 {
            return Err(bad(format!(
                "{root_entries} fixed root directory entries on FAT32"
            )));
        }
        let info_sector = u64::from(u16_le(sector, 48)?);
        let info = (large && (1..reserved).contains(&info_sector)).then_some(info_sector * sector_size);
        let extension = if large { 64 } else { 36 };
        let signature = u8_at(sector, extension + 2)?;
        let extended = EXTENDED.contains(&signature);
        Ok(Self {
            width,
            cluster_size,
            table_start,
            table_length,
            table_count,
            only_table,
            fixed_root: root_start..root_start + root_length,
            root_cluster,
            data_start,
            clusters,
            end,
            info,
            state: if large { 65 } else { 37 },
            volume_id: if extended {
                Some(u32_le(sector, extension + 3)?)
            } else {
                None
            },
            media: u8_at(sector, 21)?,
        })
    }

    /// The bytes of `cluster`, or `None` if there is no such cluster.
    pub(super) fn cluster(&self, cluster: u32) -> Option<Range<u64>> {
        let index = cluster.checked_sub(2).filter(|index| *index < self.clusters)?;
        let start = self.data_start + u64::from(index) * self.cluster_size;
        Some(start..start + self.cluster_size)
    }
}

/// Offsets in the `FSInfo` sector (specification, "FSInfo Sector Structure").
pub(super) mod info {
    use crate::disk::field::u32_le;

    pub(in crate::fs::fat) const FREE_COUNT: usize = 488;
    pub(in crate::fs::fat) const NEXT_FREE: usize = 492;

    /// Are all three signatures there?
    pub(in crate::fs::fat) fn is_valid(sector: &[u8]) -> bool {
        u32_le(sector, 0) == Ok(0x4161_5252)
            && u32_le(sector, 484) == Ok(0x6141_7272)
            && u32_le(sector, 508) == Ok(0xaa55_0000)
    }
}
