//! Inodes (kernel documentation, "ext4: Index Nodes"; `struct ext4_inode`): the bytes as on disk, with named fields.

use super::{
    checksum::{Checksums, crc32c, high_half, low_half},
    error::Ext4Error,
};
use crate::disk::field::{bytes_at, put_bytes, put_u16_le, put_u32_le, u16_le, u32_le};
use crate::fs::mode;

/// The root directory.
pub(super) const ROOT: u32 = 2;

/// `i_flags`.
pub(super) mod flag {
    pub(in super::super) const COMPRESSED: u32 = 0x4;
    pub(in super::super) const ENCRYPT: u32 = 0x800;
    pub(in super::super) const INDEX: u32 = 0x1000;
    pub(in super::super) const JOURNAL_DATA: u32 = 0x4000;
    pub(in super::super) const NOTAIL: u32 = 0x8000;
    pub(in super::super) const DIRSYNC: u32 = 0x1_0000;
    pub(in super::super) const TOPDIR: u32 = 0x2_0000;
    pub(in super::super) const HUGE_FILE: u32 = 0x4_0000;
    pub(in super::super) const EXTENTS: u32 = 0x8_0000;
    pub(in super::super) const VERITY: u32 = 0x10_0000;
    pub(in super::super) const EA_INODE: u32 = 0x20_0000;
    pub(in super::super) const DAX: u32 = 0x200_0000;
    pub(in super::super) const INLINE_DATA: u32 = 0x1000_0000;
    pub(in super::super) const PROJECT_INHERIT: u32 = 0x2000_0000;
    pub(in super::super) const CASEFOLD: u32 = 0x4000_0000;
}

/// `i_block`: 60 bytes.
pub(super) const BLOCK_AT: usize = 0x28;
/// Its length.
pub(super) const BLOCK_LENGTH: usize = 60;
const CHECKSUM_LOW_AT: usize = 0x7c;
const CHECKSUM_HIGH_AT: usize = 0x82;
/// What every inode has; the rest is `i_extra_isize` and extended attributes.
pub(super) const BASE_SIZE: usize = 128;
/// `i_extra_isize` from which a field that ends at this byte offset is there: offset − 128.
const fn extra_for(end: usize) -> usize {
    end - BASE_SIZE
}

/// The four timestamps, by the offset of their seconds and of their extra field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stamp {
    /// `i_atime`.
    Accessed,
    /// `i_ctime`: change of the inode.
    Changed,
    /// `i_mtime`.
    Modified,
    /// `i_crtime`: birth.
    Created,
}

impl Stamp {
    const fn offsets(self) -> (usize, usize) {
        match self {
            Self::Accessed => (0x08, 0x8c),
            Self::Changed => (0x0c, 0x84),
            Self::Modified => (0x10, 0x88),
            Self::Created => (0x90, 0x94),
        }
    }
}

/// An inode in memory: all `s_inode_size` bytes of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Inode {
    /// Its number.
    pub(super) number: u32,
    raw: Vec<u8>,
}

impl Inode {
    /// Parses the bytes of inode `number` and verifies its checksum. An inode of zeros (never used) has none.
    pub(super) fn parse(bytes: &[u8], number: u32, checksums: Checksums) -> Result<Self, Ext4Error> {
        bytes_at(bytes, 0, BASE_SIZE)?;
        let inode = Self {
            number,
            raw: bytes.to_vec(),
        };
        let extra = inode.extra_size();
        if inode.raw.len() > BASE_SIZE
            && extra != 0
            && (!extra.is_multiple_of(4) || BASE_SIZE + extra > inode.raw.len())
        {
            return Err(Ext4Error::damaged(format!(
                "inode {number}: i_extra_isize is {extra} in an inode of {} bytes",
                inode.raw.len()
            )));
        }
        if let Some(computed) = inode.checksum(checksums)? {
            let (found, computed) = if inode.has_extra(extra_for(CHECKSUM_HIGH_AT + 2)) {
                (inode.stored_checksum()?, computed)
            } else {
                (inode.stored_checksum()? & 0xffff, computed & 0xffff)
            };
            if found != computed && bytes.iter().any(|byte| *byte != 0) {
                return Err(Ext4Error::Checksum {
                    structure: format!("inode {number}"),
                    found,
                    computed,
                });
            }
        }
        Ok(inode)
    }

    /// A new inode of zeros.
    pub(super) fn zeroed(number: u32, size: u16, extra: u16) -> Result<Self, Ext4Error> {
        let mut inode = Self {
            number,
            raw: vec![0; usize::from(size).max(BASE_SIZE)],
        };
        if inode.raw.len() > BASE_SIZE {
            put_u16_le(&mut inode.raw, BASE_SIZE, extra)?;
        }
        Ok(inode)
    }

    /// The bytes as they are to be written, with their checksum.
    pub(super) fn encode(&self, checksums: Checksums) -> Result<Vec<u8>, Ext4Error> {
        let mut raw = self.raw.clone();
        if let Some(checksum) = self.checksum(checksums)? {
            put_u16_le(&mut raw, CHECKSUM_LOW_AT, low_half(checksum))?;
            if self.has_extra(extra_for(CHECKSUM_HIGH_AT + 2)) {
                put_u16_le(&mut raw, CHECKSUM_HIGH_AT, high_half(checksum))?;
            }
        }
        Ok(raw)
    }

    /// Over number, generation and all bytes, the checksum's own taken as zero.
    fn checksum(&self, checksums: Checksums) -> Result<Option<u32>, Ext4Error> {
        let Some(seed) = checksums.inode_seed(self.number, self.generation()) else {
            return Ok(None);
        };
        let mut raw = self.raw.clone();
        put_u16_le(&mut raw, CHECKSUM_LOW_AT, 0)?;
        if self.has_extra(extra_for(CHECKSUM_HIGH_AT + 2)) {
            put_u16_le(&mut raw, CHECKSUM_HIGH_AT, 0)?;
        }
        Ok(Some(crc32c(seed, &raw)))
    }

    fn stored_checksum(&self) -> Result<u32, Ext4Error> {
        let high = if self.has_extra(extra_for(CHECKSUM_HIGH_AT + 2)) {
            u16_le(&self.raw, CHECKSUM_HIGH_AT)?
        } else {
            0
        };
        Ok(u32::from(u16_le(&self.raw, CHECKSUM_LOW_AT)?) | u32::from(high) << 16)
    }

    // The fields below lie within the 128 bytes that `parse` made sure of, or are guarded by `has_extra`: reading
    // them can't fail, and a zero for the impossible keeps their users readable.
    fn u16(&self, at: usize) -> u16 {
        u16_le(&self.raw, at).unwrap_or_default()
    }

    fn u32(&self, at: usize) -> u32 {
        u32_le(&self.raw, at).unwrap_or_default()
    }

    fn put16(&mut self, at: usize, value: u16) {
        let done = put_u16_le(&mut self.raw, at, value);
        debug_assert!(done.is_ok(), "field at {at} lies within the inode");
    }

    fn put32(&mut self, at: usize, value: u32) {
        let done = put_u32_le(&mut self.raw, at, value);
        debug_assert!(done.is_ok(), "field at {at} lies within the inode");
    }

    /// `i_extra_isize`: bytes of fields past the first 128.
    pub(super) fn extra_size(&self) -> usize {
        if self.raw.len() > BASE_SIZE {
            usize::from(self.u16(BASE_SIZE))
        } else {
            0
        }
    }

    /// Are there `extra` bytes of fields past the first 128?
    fn has_extra(&self, extra: usize) -> bool {
        self.extra_size() >= extra && self.raw.len() >= BASE_SIZE + extra
    }

    /// Type and mode.
    pub(super) fn mode(&self) -> u32 {
        u32::from(self.u16(0))
    }

    /// Sets type and mode.
    pub(super) fn set_mode(&mut self, mode: u32) {
        self.put16(0, low_half(mode));
    }

    /// Is it a directory?
    pub(super) fn is_directory(&self) -> bool {
        self.mode() & mode::TYPE == mode::DIRECTORY
    }

    /// Is it a regular file?
    pub(super) fn is_file(&self) -> bool {
        self.mode() & mode::TYPE == mode::FILE
    }

    /// Is it a symbolic link?
    pub(super) fn is_link(&self) -> bool {
        self.mode() & mode::TYPE == mode::LINK
    }

    /// User and group.
    pub(super) fn owner(&self) -> (u32, u32) {
        (
            u32::from(self.u16(0x02)) | u32::from(self.u16(0x78)) << 16,
            u32::from(self.u16(0x18)) | u32::from(self.u16(0x7a)) << 16,
        )
    }

    /// Sets user and group.
    pub(super) fn set_owner(&mut self, (user, group): (u32, u32)) {
        self.put16(0x02, low_half(user));
        self.put16(0x78, high_half(user));
        self.put16(0x18, low_half(group));
        self.put16(0x7a, high_half(group));
    }

    /// `i_size` in bytes.
    pub(super) fn size(&self) -> u64 {
        u64::from(self.u32(0x04)) | u64::from(self.u32(0x6c)) << 32
    }

    /// Sets `i_size`.
    pub(super) fn set_size(&mut self, size: u64) {
        self.put32(0x04, (size & 0xffff_ffff) as u32);
        self.put32(0x6c, (size >> 32) as u32);
    }

    /// `i_links_count`.
    pub(super) fn links(&self) -> u16 {
        self.u16(0x1a)
    }

    /// Sets `i_links_count`.
    pub(super) fn set_links(&mut self, links: u16) {
        self.put16(0x1a, links);
    }

    /// `i_blocks` as stored, 48 bits: in sectors of 512 bytes, or in blocks with [`flag::HUGE_FILE`].
    pub(super) fn blocks(&self) -> u64 {
        u64::from(self.u32(0x1c)) | u64::from(self.u16(0x74)) << 32
    }

    /// Sets `i_blocks`.
    pub(super) fn set_blocks(&mut self, blocks: u64) {
        self.put32(0x1c, (blocks & 0xffff_ffff) as u32);
        self.put16(0x74, (blocks >> 32 & 0xffff) as u16);
    }

    /// `i_flags`.
    pub(super) fn flags(&self) -> u32 {
        self.u32(0x20)
    }

    /// Sets `i_flags`.
    pub(super) fn set_flags(&mut self, flags: u32) {
        self.put32(0x20, flags);
    }

    /// Is one of the bits of `i_flags` set?
    pub(super) fn has(&self, flag: u32) -> bool {
        self.flags() & flag != 0
    }

    /// `i_dtime`: time of deletion; of an orphan, the next one.
    pub(super) fn deletion_time(&self) -> u32 {
        self.u32(0x14)
    }

    /// Sets `i_dtime`.
    pub(super) fn set_deletion_time(&mut self, time: u32) {
        self.put32(0x14, time);
    }

    /// `i_generation`.
    pub(super) fn generation(&self) -> u32 {
        self.u32(0x64)
    }

    /// Sets `i_generation`.
    pub(super) fn set_generation(&mut self, generation: u32) {
        self.put32(0x64, generation);
    }

    /// `i_file_acl`: the block of extended attributes, 0 if none.
    pub(super) fn attribute_block(&self) -> u64 {
        u64::from(self.u32(0x68)) | u64::from(self.u16(0x76)) << 32
    }

    /// Sets `i_file_acl`.
    pub(super) fn set_attribute_block(&mut self, block: u64) {
        self.put32(0x68, (block & 0xffff_ffff) as u32);
        self.put16(0x76, (block >> 32 & 0xffff) as u16);
    }

    /// Of an inode that holds the value of an attribute: how many refer to it. High half in `i_ctime`, low half in
    /// `i_version` (`osd1`).
    pub(super) fn holder_references(&self) -> u64 {
        u64::from(self.u32(0x24)) | u64::from(self.u32(0x0c)) << 32
    }

    /// Sets how many refer to the value.
    pub(super) fn set_holder_references(&mut self, references: u64) {
        self.put32(0x24, (references & 0xffff_ffff) as u32);
        self.put32(0x0c, (references >> 32) as u32);
    }

    /// `i_projid`; 0 where there is no room for one.
    pub(super) fn project(&self) -> u32 {
        if self.has_extra(extra_for(0xa0)) {
            self.u32(0x9c)
        } else {
            0
        }
    }

    /// Sets `i_projid` where there is room for one.
    pub(super) fn set_project(&mut self, project: u32) {
        if self.has_extra(extra_for(0xa0)) {
            self.put32(0x9c, project);
        }
    }

    /// `i_block`: extents, block pointers, a short link's target or inline data.
    pub(super) fn block(&self) -> &[u8] {
        bytes_at(&self.raw, BLOCK_AT, BLOCK_LENGTH).unwrap_or_default()
    }

    /// Sets `i_block`; what `bytes` does not reach becomes zero.
    pub(super) fn set_block(&mut self, bytes: &[u8]) -> Result<(), Ext4Error> {
        let mut block = [0; BLOCK_LENGTH];
        put_bytes(&mut block, 0, bytes)?;
        Ok(put_bytes(&mut self.raw, BLOCK_AT, &block)?)
    }

    /// A timestamp in nanoseconds since 1970; `None` for a birth that there is no room for.
    /// Two bits of the extra field extend the signed 32-bit seconds, the other 30 are nanoseconds.
    pub(super) fn time(&self, stamp: Stamp) -> Option<i128> {
        let (seconds_at, extra_at) = stamp.offsets();
        if seconds_at >= BASE_SIZE && !self.has_extra(extra_for(seconds_at + 4)) {
            return None;
        }
        let seconds = i64::from(i32::from_le_bytes(self.u32(seconds_at).to_le_bytes()));
        let extra = if self.has_extra(extra_for(extra_at + 4)) {
            self.u32(extra_at)
        } else {
            0
        };
        let seconds = seconds + (i64::from(extra & 3) << 32);
        Some(i128::from(seconds) * 1_000_000_000 + i128::from(extra >> 2))
    }

    /// Sets a timestamp where there is room; what it can't express becomes the nearest that it can.
    pub(super) fn set_time(&mut self, stamp: Stamp, nanoseconds: i128) {
        let (seconds_at, extra_at) = stamp.offsets();
        if seconds_at >= BASE_SIZE && !self.has_extra(extra_for(seconds_at + 4)) {
            return;
        }
        let wide = self.has_extra(extra_for(extra_at + 4));
        let least = i128::from(i32::MIN);
        let most = if wide {
            i128::from(i32::MAX) + (3 << 32)
        } else {
            i128::from(i32::MAX)
        };
        let seconds = nanoseconds.div_euclid(1_000_000_000).clamp(least, most);
        let low = u32::try_from(seconds & 0xffff_ffff).unwrap_or_default();
        self.put32(seconds_at, low);
        if wide {
            let low_signed = i128::from(i32::from_le_bytes(low.to_le_bytes()));
            let epoch = u32::try_from(((seconds - low_signed) >> 32) & 3).unwrap_or_default();
            let fraction = u32::try_from(nanoseconds.rem_euclid(1_000_000_000)).unwrap_or_default();
            self.put32(extra_at, fraction << 2 | epoch);
        }
    }

    /// What is after the fields of `i_extra_isize`: extended attributes.
    pub(super) fn attribute_space(&self) -> &[u8] {
        let extra = self.extra_size();
        // Without extra fields there is nowhere to begin: the kernel looks for no attributes either.
        if extra == 0 {
            return &[];
        }
        self.raw.get(BASE_SIZE + extra..).unwrap_or_default()
    }

    /// The same, to be changed.
    pub(super) fn attribute_space_mut(&mut self) -> &mut [u8] {
        let extra = self.extra_size();
        if extra == 0 {
            return &mut [];
        }
        self.raw.get_mut(BASE_SIZE + extra..).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_keep_their_nanoseconds_and_their_epoch() {
        let mut inode = Inode::zeroed(12, 256, 32).unwrap();
        for seconds in [
            -2_147_483_648_i128,
            -1,
            0,
            1_700_000_000,
            2_147_483_648,
            15_032_385_535,
        ] {
            let time = seconds * 1_000_000_000 + 123_456_789;
            inode.set_time(Stamp::Modified, time);
            assert_eq!(inode.time(Stamp::Modified), Some(time));
        }
        let mut small = Inode::zeroed(12, 128, 0).unwrap();
        small.set_time(Stamp::Modified, 5_000_000_007);
        small.set_time(Stamp::Created, 5_000_000_007);
        assert_eq!(small.time(Stamp::Modified), Some(5_000_000_000));
        assert_eq!(small.time(Stamp::Created), None);
    }

    #[test]
    fn a_changed_byte_breaks_the_checksum() {
        let checksums = Checksums::Crc32c { seed: 7 };
        let mut inode = Inode::zeroed(12, 256, 32).unwrap();
        inode.set_mode(0o100_644);
        inode.set_owner((70_000, 80_000));
        let mut bytes = inode.encode(checksums).unwrap();
        let again = Inode::parse(&bytes, 12, checksums).unwrap();
        assert_eq!((again.owner(), again.mode()), ((70_000, 80_000), 0o100_644));
        assert!(Inode::parse(&bytes, 13, checksums).is_err());
        bytes[200] ^= 1;
        assert!(Inode::parse(&bytes, 12, checksums).is_err());
    }
}
