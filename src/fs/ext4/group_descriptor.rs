//! Block group descriptors (kernel documentation, "ext4: Block Group Descriptors"; `struct ext4_group_desc`).

use super::{
    checksum::{Checksums, crc16, crc32c, high_half, low_half},
    error::Ext4Error,
    superblock::Superblock,
};
use crate::disk::field::{put_u16_le, u16_le, u32_le};

/// `bg_flags`: the inode bitmap and table are not initialised: all inodes are free.
pub(super) const INODE_UNINIT: u16 = 1;
/// `bg_flags`: the block bitmap is not initialised: all blocks are free that hold no metadata.
pub(super) const BLOCK_UNINIT: u16 = 2;
/// `bg_flags`: the inode table was zeroed; unset, what is in it past the used inodes is junk.
pub(super) const INODE_ZEROED: u16 = 4;

const CHECKSUM_AT: usize = 0x1e;
/// From this size on, descriptors have high halves.
const WIDE: usize = 64;

/// One group's descriptor. Counts and flags may be changed; [`GroupDescriptor::encode`] puts them back over the bytes
/// that were read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct GroupDescriptor {
    raw: Vec<u8>,
    /// Block of the block bitmap.
    pub(super) block_bitmap: u64,
    /// Block of the inode bitmap.
    pub(super) inode_bitmap: u64,
    /// First block of the inode table.
    pub(super) inode_table: u64,
    /// With `bigalloc`, in clusters.
    pub(super) free_blocks: u32,
    /// Free inodes.
    pub(super) free_inodes: u32,
    /// Directories.
    pub(super) used_directories: u32,
    /// [`INODE_UNINIT`], [`BLOCK_UNINIT`], [`INODE_ZEROED`].
    pub(super) flags: u16,
    /// Inodes at the end of the table that were never used.
    pub(super) unused_inodes: u32,
    /// crc32c of the block bitmap, as stored (16 bits only in small descriptors).
    pub(super) block_bitmap_checksum: u32,
    /// crc32c of the inode bitmap, likewise.
    pub(super) inode_bitmap_checksum: u32,
}

impl GroupDescriptor {
    /// Parses the descriptor of group `number` and verifies its checksum.
    pub(super) fn parse(bytes: &[u8], number: u32, superblock: &Superblock) -> Result<Self, Ext4Error> {
        let wide = bytes.len() >= WIDE;
        let high16 = |at| if wide { u16_le(bytes, at) } else { Ok(0) };
        let high32 = |at| if wide { u32_le(bytes, at) } else { Ok(0) };
        let block = |low, high| -> Result<u64, Ext4Error> {
            Ok(u64::from(u32_le(bytes, low)?) | u64::from(high32(high)?) << 32)
        };
        let count = |low, high| -> Result<u32, Ext4Error> {
            Ok(u32::from(u16_le(bytes, low)?) | u32::from(high16(high)?) << 16)
        };
        if let Some(computed) = checksum(bytes, number, superblock.checksums) {
            let found = u16_le(bytes, CHECKSUM_AT)?;
            if found != computed {
                return Err(Ext4Error::Checksum {
                    structure: format!("descriptor of group {number}"),
                    found: u32::from(found),
                    computed: u32::from(computed),
                });
            }
        }
        let descriptor = Self {
            raw: bytes.to_vec(),
            block_bitmap: block(0x0, 0x20)?,
            inode_bitmap: block(0x4, 0x24)?,
            inode_table: block(0x8, 0x28)?,
            free_blocks: count(0xc, 0x2c)?,
            free_inodes: count(0xe, 0x2e)?,
            used_directories: count(0x10, 0x30)?,
            // Without checksums of descriptors the flags and the unused count have no meaning.
            flags: if superblock.checksums.of_groups() {
                u16_le(bytes, 0x12)?
            } else {
                INODE_ZEROED
            },
            unused_inodes: if superblock.checksums.of_groups() {
                count(0x1c, 0x32)?
            } else {
                0
            },
            block_bitmap_checksum: count(0x18, 0x38)?,
            inode_bitmap_checksum: count(0x1a, 0x3a)?,
        };
        descriptor.check(number, superblock)?;
        Ok(descriptor)
    }

    fn check(&self, number: u32, superblock: &Superblock) -> Result<(), Ext4Error> {
        let first = u64::from(superblock.first_data_block);
        for (what, start, length) in [
            ("block bitmap", self.block_bitmap, 1),
            ("inode bitmap", self.inode_bitmap, 1),
            ("inode table", self.inode_table, table_blocks(superblock)),
        ] {
            let end = start.checked_add(length);
            if start <= first || end.is_none_or(|end| end > superblock.blocks) {
                return Err(Ext4Error::damaged(format!(
                    "group {number}: its {what} is said to be at block {start}, outside of the {} blocks of the \
                     filesystem",
                    superblock.blocks
                )));
            }
        }
        for (what, found, most) in [
            ("free blocks", self.free_blocks, superblock.clusters_per_group),
            ("free inodes", self.free_inodes, superblock.inodes_per_group),
            ("unused inodes", self.unused_inodes, superblock.inodes_per_group),
            ("directories", self.used_directories, superblock.inodes_per_group),
        ] {
            if found > most {
                return Err(Ext4Error::damaged(format!(
                    "group {number}: {found} {what} are counted where there is room for {most}"
                )));
            }
        }
        Ok(())
    }

    /// The bytes as they are to be written, with their checksum.
    pub(super) fn encode(&self, number: u32, superblock: &Superblock) -> Result<Vec<u8>, Ext4Error> {
        let mut raw = self.raw.clone();
        let wide = raw.len() >= WIDE;
        let mut put = |low: usize, high: usize, value: u32| -> Result<(), Ext4Error> {
            put_u16_le(&mut raw, low, low_half(value))?;
            if wide {
                put_u16_le(&mut raw, high, high_half(value))?;
            }
            Ok(())
        };
        put(0xc, 0x2c, self.free_blocks)?;
        put(0xe, 0x2e, self.free_inodes)?;
        put(0x10, 0x30, self.used_directories)?;
        if superblock.checksums.of_groups() {
            put(0x1c, 0x32, self.unused_inodes)?;
        }
        if superblock.checksums.metadata_seed().is_some() {
            put(0x18, 0x38, self.block_bitmap_checksum)?;
            put(0x1a, 0x3a, self.inode_bitmap_checksum)?;
        }
        if superblock.checksums.of_groups() {
            put_u16_le(&mut raw, 0x12, self.flags)?;
        }
        if let Some(checksum) = checksum(&raw, number, superblock.checksums) {
            put_u16_le(&mut raw, CHECKSUM_AT, checksum)?;
        }
        Ok(raw)
    }

    /// Is the bit of `bg_flags` set?
    pub(super) const fn has(&self, flag: u16) -> bool {
        self.flags & flag != 0
    }

    /// A bitmap's checksum as this descriptor has room for it.
    pub(super) const fn stored_width(&self, checksum: u32) -> u32 {
        if self.raw.len() >= WIDE {
            checksum
        } else {
            checksum & 0xffff
        }
    }
}

/// Blocks of one group's inode table.
pub(super) fn table_blocks(superblock: &Superblock) -> u64 {
    (u64::from(superblock.inodes_per_group) * u64::from(superblock.inode_size))
        .div_ceil(u64::from(superblock.block_size))
}

/// `bg_checksum`: crc16 skips the field, crc32c takes it as zero.
fn checksum(bytes: &[u8], number: u32, checksums: Checksums) -> Option<u16> {
    let before = bytes.get(..CHECKSUM_AT)?;
    let after = bytes.get(CHECKSUM_AT + 2..)?;
    match checksums {
        Checksums::None => None,
        Checksums::Crc16 { seed } => Some(crc16(crc16(crc16(seed, &number.to_le_bytes()), before), after)),
        Checksums::Crc32c { seed } => {
            let seed = crc32c(crc32c(seed, &number.to_le_bytes()), before);
            Some(low_half(crc32c(crc32c(seed, &[0; 2]), after)))
        }
    }
}
