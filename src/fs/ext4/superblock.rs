//! The superblock (kernel documentation, "ext4: Super Block"; `struct ext4_super_block`): 1024 bytes at byte 1024.

use super::{
    checksum::{Checksums, crc16, crc32c},
    error::Ext4Error,
    features::{check_incompat, compat, incompat, ro_compat},
};
use crate::disk::field::{array_at, put_u8, put_u16_le, put_u32_le, u8_at, u16_le, u32_le, u64_le};

/// Where the superblock is on the volume, in bytes.
pub(super) const OFFSET: u64 = 1024;
/// Its length in bytes.
pub(super) const LENGTH: usize = 1024;

const MAGIC: u16 = 0xef53;
const CHECKSUM_AT: usize = 0x3fc;
/// The kernel's limit of `s_log_block_size`: 64 KiB.
const MOST_LOG_BLOCK_SIZE: u32 = 6;
/// `EXT4_MAX_CLUSTER_LOG_SIZE` of libext2fs: 512 MiB clusters.
const MOST_LOG_CLUSTER_SIZE: u32 = 19;
/// Inodes are a power of two of at least this many bytes.
const LEAST_INODE_SIZE: u16 = 128;

/// `s_state`: cleanly unmounted.
pub(super) const STATE_VALID: u16 = 1;
/// `s_state`: errors were detected.
pub(super) const STATE_ERROR: u16 = 2;

/// `s_flags`: hash functions take `char` as signed.
const FLAG_SIGNED_HASH: u32 = 1;
/// `s_flags`: hash functions take `char` as unsigned.
const FLAG_UNSIGNED_HASH: u32 = 2;

/// The superblock. Fields that we never change are parsed once; [`Superblock::encode`] writes the changing ones back
/// over the bytes that were read, so that what we don't know stays.
#[derive(Clone, Debug)]
pub(super) struct Superblock {
    raw: [u8; LENGTH],
    /// `s_inodes_count`.
    pub(super) inodes: u32,
    /// `s_blocks_count`.
    pub(super) blocks: u64,
    /// `s_r_blocks_count`: kept for root.
    pub(super) reserved_blocks: u64,
    /// `s_free_blocks_count`: in blocks, with `bigalloc` too, where the groups count clusters.
    pub(super) free_blocks: u64,
    /// `s_free_inodes_count`.
    pub(super) free_inodes: u32,
    /// `s_first_data_block`: 1 with 1 KiB blocks (unless `bigalloc`), else 0.
    pub(super) first_data_block: u32,
    /// In bytes.
    pub(super) block_size: u32,
    /// Blocks in a cluster: 1 without `bigalloc`.
    pub(super) cluster_blocks: u32,
    /// `s_blocks_per_group`.
    pub(super) blocks_per_group: u32,
    /// `s_clusters_per_group`: bits of a block bitmap in use.
    pub(super) clusters_per_group: u32,
    /// `s_inodes_per_group`.
    pub(super) inodes_per_group: u32,
    /// `s_state`.
    pub(super) state: u16,
    /// `s_rev_level`: 0 (no feature flags, 128-byte inodes) or 1.
    pub(super) revision: u32,
    /// First inode that is not reserved.
    pub(super) first_inode: u32,
    /// In bytes.
    pub(super) inode_size: u16,
    /// `s_feature_compat`.
    pub(super) compat: u32,
    /// `s_feature_incompat`.
    pub(super) incompat: u32,
    /// `s_feature_ro_compat`.
    pub(super) ro_compat: u32,
    /// `s_uuid`.
    pub(super) uuid: [u8; 16],
    /// `s_volume_name` up to its first NUL.
    pub(super) volume_name: Vec<u8>,
    /// `s_reserved_gdt_blocks`.
    pub(super) reserved_gdt_blocks: u16,
    /// `s_journal_inum`, 0 if none.
    pub(super) journal_inode: u32,
    /// `s_journal_dev`, not 0 with an external journal.
    pub(super) journal_device: u32,
    /// `s_last_orphan`: head of the list of orphans, 0 if empty.
    pub(super) last_orphan: u32,
    /// `s_hash_seed`, as four numbers.
    pub(super) hash_seed: [u32; 4],
    /// `s_def_hash_version`: of directories that get an index from now on.
    pub(super) default_hash: u8,
    /// Do hash functions take `char` as unsigned?
    pub(super) unsigned_hash: bool,
    /// `s_desc_size` in bytes; 32 without `64bit`.
    pub(super) descriptor_size: u16,
    /// `s_first_meta_bg`.
    pub(super) first_meta_group: u32,
    /// `s_want_extra_isize`.
    pub(super) want_extra_size: u16,
    /// `s_mmp_block`.
    pub(super) mmp_block: u64,
    /// `s_error_count`.
    pub(super) error_count: u32,
    /// `s_backup_bgs` of `sparse_super2`.
    pub(super) backup_groups: [u32; 2],
    /// `s_wtime` in seconds since 1970.
    pub(super) written: u64,
    /// `s_orphan_file_inum`, 0 if none.
    pub(super) orphan_file_inode: u32,
    /// Number of block groups.
    pub(super) groups: u32,
    /// What checksums there are.
    pub(super) checksums: Checksums,
}

impl Superblock {
    /// Parses and checks 1024 bytes: magic, incompatible features, checksum, and that the geometry can be.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, Ext4Error> {
        let raw: [u8; LENGTH] = array_at(bytes, 0)?;
        let magic = u16_le(&raw, 0x38)?;
        if magic != MAGIC {
            return Err(Ext4Error::NotExt4(magic));
        }
        let revision = u32_le(&raw, 0x4c)?;
        let dynamic = revision > 0;
        // Revision 0 has no feature fields: whatever is there means nothing.
        let feature = |at| if dynamic { u32_le(&raw, at) } else { Ok(0) };
        let (compat, incompat, ro_compat) = (feature(0x5c)?, feature(0x60)?, feature(0x64)?);
        check_incompat(incompat)?;
        let uuid: [u8; 16] = array_at(&raw, 0x68)?;
        let checksums = checksums(&raw, &uuid, incompat, ro_compat)?;
        verify(&raw, checksums)?;
        let block_size = 1024 << limited("s_log_block_size", u32_le(&raw, 0x18)?, MOST_LOG_BLOCK_SIZE)?;
        let bit64 = incompat & incompat::BIT64 != 0;
        let wide = |low: usize, high: usize| -> Result<u64, Ext4Error> {
            let top = if bit64 { u32_le(&raw, high)? } else { 0 };
            Ok(u64::from(u32_le(&raw, low)?) | u64::from(top) << 32)
        };
        let volume_name: [u8; 16] = array_at(&raw, 0x78)?;
        let flags = u32_le(&raw, 0x160)?;
        let mut superblock = Self {
            inodes: u32_le(&raw, 0)?,
            blocks: wide(0x4, 0x150)?,
            reserved_blocks: wide(0x8, 0x154)?,
            free_blocks: wide(0xc, 0x158)?,
            free_inodes: u32_le(&raw, 0x10)?,
            first_data_block: u32_le(&raw, 0x14)?,
            block_size,
            cluster_blocks: 1,
            blocks_per_group: u32_le(&raw, 0x20)?,
            clusters_per_group: u32_le(&raw, 0x20)?,
            inodes_per_group: u32_le(&raw, 0x28)?,
            state: u16_le(&raw, 0x3a)?,
            revision,
            first_inode: if dynamic { u32_le(&raw, 0x54)? } else { 11 },
            inode_size: if dynamic {
                u16_le(&raw, 0x58)?
            } else {
                LEAST_INODE_SIZE
            },
            compat,
            incompat,
            ro_compat,
            uuid,
            volume_name: volume_name.into_iter().take_while(|byte| *byte != 0).collect(),
            reserved_gdt_blocks: u16_le(&raw, 0xce)?,
            journal_inode: u32_le(&raw, 0xe0)?,
            journal_device: u32_le(&raw, 0xe4)?,
            last_orphan: u32_le(&raw, 0xe8)?,
            hash_seed: [
                u32_le(&raw, 0xec)?,
                u32_le(&raw, 0xf0)?,
                u32_le(&raw, 0xf4)?,
                u32_le(&raw, 0xf8)?,
            ],
            default_hash: u8_at(&raw, 0xfc)?,
            // Neither flag: made before the difference was known, by a kernel of its own signedness. x86 has signed
            // characters, and so have all that we move; the kernel, too, decides by its own.
            unsigned_hash: flags & FLAG_UNSIGNED_HASH != 0 && flags & FLAG_SIGNED_HASH == 0,
            descriptor_size: if bit64 { u16_le(&raw, 0xfe)? } else { 32 },
            first_meta_group: u32_le(&raw, 0x104)?,
            want_extra_size: u16_le(&raw, 0x15e)?,
            mmp_block: u64_le(&raw, 0x168)?,
            error_count: u32_le(&raw, 0x194)?,
            backup_groups: [u32_le(&raw, 0x24c)?, u32_le(&raw, 0x250)?],
            written: u64::from(u32_le(&raw, 0x30)?) | u64::from(u8_at(&raw, 0x274)?) << 32,
            orphan_file_inode: u32_le(&raw, 0x280)?,
            groups: 0,
            checksums,
            raw,
        };
        if superblock.has_ro_compat(ro_compat::BIGALLOC) {
            superblock.read_clusters()?;
        }
        superblock.check_geometry()?;
        Ok(superblock)
    }

    fn read_clusters(&mut self) -> Result<(), Ext4Error> {
        let log = limited(
            "s_log_cluster_size",
            u32_le(&self.raw, 0x1c)?,
            MOST_LOG_CLUSTER_SIZE,
        )?;
        let log_block = u32_le(&self.raw, 0x18)?;
        let more = log.checked_sub(log_block).ok_or(Ext4Error::Superblock {
            field: "s_log_cluster_size",
            found: u64::from(log),
            expected: "at least s_log_block_size",
        })?;
        self.cluster_blocks = 1 << more;
        self.clusters_per_group = u32_le(&self.raw, 0x24)?;
        let blocks = u64::from(self.clusters_per_group) * u64::from(self.cluster_blocks);
        check(
            "s_blocks_per_group",
            u64::from(self.blocks_per_group),
            "s_clusters_per_group clusters",
            blocks == u64::from(self.blocks_per_group),
        )
    }

    /// Everything that the rest of this room divides by, multiplies with or takes for granted.
    fn check_geometry(&mut self) -> Result<(), Ext4Error> {
        let bitmap_bits = u64::from(self.block_size) * 8;
        check(
            "s_inode_size",
            u64::from(self.inode_size),
            "a power of two from 128 up to the block size",
            self.inode_size.is_power_of_two()
                && self.inode_size >= LEAST_INODE_SIZE
                && u32::from(self.inode_size) <= self.block_size,
        )?;
        check(
            "s_clusters_per_group",
            u64::from(self.clusters_per_group),
            "a multiple of 8 that one bitmap block has bits for",
            self.clusters_per_group != 0
                && self.clusters_per_group.is_multiple_of(8)
                && u64::from(self.clusters_per_group) <= bitmap_bits,
        )?;
        check(
            "s_inodes_per_group",
            u64::from(self.inodes_per_group),
            "a multiple of 8 that one bitmap block has bits for",
            self.inodes_per_group != 0
                && self.inodes_per_group.is_multiple_of(8)
                && u64::from(self.inodes_per_group) <= bitmap_bits,
        )?;
        check(
            "s_desc_size",
            u64::from(self.descriptor_size),
            "a power of two from 64 (32 without 64bit) up to the block size",
            self.descriptor_size.is_power_of_two()
                && self.descriptor_size
                    >= if self.has_incompat(incompat::BIT64) {
                        64
                    } else {
                        32
                    }
                && u32::from(self.descriptor_size) <= self.block_size.min(1024),
        )?;
        check(
            "s_first_inode",
            u64::from(self.first_inode),
            "11 or more",
            self.first_inode >= 11 && self.first_inode <= self.inodes,
        )?;
        let single = u64::from(self.block_size == 1024 && self.cluster_blocks == 1);
        check(
            "s_first_data_block",
            u64::from(self.first_data_block),
            "1 with 1 KiB blocks and 0 with larger ones",
            u64::from(self.first_data_block) == single,
        )?;
        // Block numbers of extents have 48 bits.
        check(
            "s_blocks_count",
            self.blocks,
            "more than s_first_data_block and less than 2^48",
            self.blocks > u64::from(self.first_data_block) && self.blocks < 1 << 48,
        )?;
        let groups =
            (self.blocks - u64::from(self.first_data_block)).div_ceil(u64::from(self.blocks_per_group));
        self.groups = u32::try_from(groups).map_err(|_| Ext4Error::Superblock {
            field: "s_blocks_count",
            found: self.blocks,
            expected: "at most 2^32 groups",
        })?;
        check(
            "s_inodes_count",
            u64::from(self.inodes),
            "s_inodes_per_group in every group",
            u64::from(self.inodes) == groups * u64::from(self.inodes_per_group),
        )?;
        Ok(())
    }

    /// Takes over what `before` says of errors: the kernel writes it past the journal, so an older superblock that is replayed
    /// must not take it back (fields `s_error_count` to before `s_mount_opts`, and the flag in `s_state`).
    pub(super) fn keep_errors(&mut self, before: &Self) {
        const ERRORS: std::ops::Range<usize> = 0x194..0x200;
        if let (Some(now), Some(then)) = (self.raw.get_mut(ERRORS), before.raw.get(ERRORS)) {
            now.copy_from_slice(then);
        }
        self.state |= before.state & STATE_ERROR;
    }

    /// The 1024 bytes as they are to be written, with their checksum.
    pub(super) fn encode(&self) -> Result<[u8; LENGTH], Ext4Error> {
        let mut raw = self.raw;
        let low = |value: u64| (value & 0xffff_ffff) as u32;
        put_u32_le(&mut raw, 0xc, low(self.free_blocks))?;
        if self.has_incompat(incompat::BIT64) {
            put_u32_le(&mut raw, 0x158, low(self.free_blocks >> 32))?;
        }
        put_u32_le(&mut raw, 0x10, self.free_inodes)?;
        put_u32_le(&mut raw, 0x30, low(self.written))?;
        put_u8(&mut raw, 0x274, (self.written >> 32 & 0xff) as u8)?;
        put_u16_le(&mut raw, 0x3a, self.state)?;
        if self.revision > 0 {
            put_u32_le(&mut raw, 0x5c, self.compat)?;
            put_u32_le(&mut raw, 0x60, self.incompat)?;
            put_u32_le(&mut raw, 0x64, self.ro_compat)?;
        }
        put_u32_le(&mut raw, 0xe8, self.last_orphan)?;
        if self.checksums.metadata_seed().is_some() {
            let checksum = crc32c(!0, raw.get(..CHECKSUM_AT).unwrap_or_default());
            put_u32_le(&mut raw, CHECKSUM_AT, checksum)?;
        }
        Ok(raw)
    }

    /// Is the bit of `s_feature_compat` set?
    pub(super) const fn has_compat(&self, bit: u32) -> bool {
        self.compat & bit != 0
    }

    /// Is the bit of `s_feature_incompat` set?
    pub(super) const fn has_incompat(&self, bit: u32) -> bool {
        self.incompat & bit != 0
    }

    /// Is the bit of `s_feature_ro_compat` set?
    pub(super) const fn has_ro_compat(&self, bit: u32) -> bool {
        self.ro_compat & bit != 0
    }

    /// Is there a journal with something in it?
    pub(super) const fn needs_recovery(&self) -> bool {
        self.has_incompat(incompat::RECOVER)
    }

    /// "ext2", "ext3" or "ext4", as `blkid` tells them apart.
    pub(super) const fn kind(&self) -> &'static str {
        let ext3_incompat = incompat::FILETYPE | incompat::RECOVER | incompat::META_BG;
        let ext3_ro_compat = ro_compat::SPARSE_SUPER | ro_compat::LARGE_FILE | 0x4;
        if self.incompat & !ext3_incompat != 0 || self.ro_compat & !ext3_ro_compat != 0 {
            "ext4"
        } else if self.has_compat(compat::HAS_JOURNAL) {
            "ext3"
        } else {
            "ext2"
        }
    }
}

fn checksums(raw: &[u8], uuid: &[u8], incompat: u32, ro_compat: u32) -> Result<Checksums, Ext4Error> {
    if ro_compat & ro_compat::METADATA_CSUM != 0 {
        // s_checksum_type 1 is crc32c, the only one that there is.
        let kind = u8_at(raw, 0x175)?;
        check(
            "s_checksum_type",
            u64::from(kind),
            "1 (crc32c), the only kind known",
            kind == 1,
        )?;
        let seed = if incompat & incompat::CSUM_SEED != 0 {
            u32_le(raw, 0x270)?
        } else {
            crc32c(!0, uuid)
        };
        return Ok(Checksums::Crc32c { seed });
    }
    Ok(if ro_compat & ro_compat::GDT_CSUM != 0 {
        Checksums::Crc16 {
            seed: crc16(!0, uuid),
        }
    } else {
        Checksums::None
    })
}

fn verify(raw: &[u8], checksums: Checksums) -> Result<(), Ext4Error> {
    let found = u32_le(raw, CHECKSUM_AT)?;
    let computed = crc32c(!0, raw.get(..CHECKSUM_AT).unwrap_or_default());
    if checksums.metadata_seed().is_some() && found != computed {
        return Err(Ext4Error::Checksum {
            structure: "superblock".to_owned(),
            found,
            computed,
        });
    }
    Ok(())
}

fn limited(field: &'static str, found: u32, most: u32) -> Result<u32, Ext4Error> {
    check(field, u64::from(found), "too large", found <= most)?;
    Ok(found)
}

fn check(field: &'static str, found: u64, expected: &'static str, holds: bool) -> Result<(), Ext4Error> {
    if holds {
        Ok(())
    } else {
        Err(Ext4Error::Superblock {
            field,
            found,
            expected,
        })
    }
}
