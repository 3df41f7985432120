//! Orphans (kernel documentation, "ext4: Orphan file" and `s_last_orphan`): inodes that were deleted while somebody
//! had them open, and files that were being cut down, when the guest stopped. The kernel finishes both when it mounts,
//! and so do we: what has no name is released, what has one is cut to its size.

use super::{
    Ext4,
    block_map::Place,
    checksum::crc32c,
    error::Ext4Error,
    features::{compat, ro_compat},
    inode::{Inode, flag},
    superblock::STATE_ERROR,
};
use crate::{
    disk::field::{put_u32_le, u32_le},
    fs::Result,
};

/// `EXT4_ORPHAN_BLOCK_MAGIC`, at the end of each block of the orphan file, before its checksum.
const MAGIC: u32 = 0x0b10_ca04;
const TAIL: usize = 8;

/// How many of each kind were there.
#[derive(Debug, Default)]
struct Counts {
    released: u64,
    truncated: u64,
}

impl Ext4 {
    /// Is there anything that the next mount would clear away?
    pub(super) fn has_orphans(&self) -> bool {
        self.superblock.last_orphan != 0 || self.superblock.has_ro_compat(ro_compat::ORPHAN_PRESENT)
    }

    /// Clears away all orphans, unless the filesystem is one that must not be written: then they stay, as they do when
    /// the kernel mounts it read-only.
    pub(super) fn remove_orphans(&mut self) -> Result<()> {
        if !self.has_orphans() || self.superblock.state & STATE_ERROR != 0 || self.check_writable().is_err() {
            return Ok(());
        }
        self.prepare_edit()?;
        let mut counts = Counts::default();
        // Each step takes one inode off the list, or fails: there is an end.
        while self.superblock.last_orphan != 0 {
            let number = self.superblock.last_orphan;
            let inode = self.orphan(number)?;
            self.superblock.last_orphan = inode.deletion_time();
            self.changed = true;
            self.remove_orphan(inode, &mut counts)?;
        }
        if self.superblock.has_ro_compat(ro_compat::ORPHAN_PRESENT) {
            self.empty_orphan_file(&mut counts)?;
            self.superblock.ro_compat &= !ro_compat::ORPHAN_PRESENT;
            self.changed = true;
        }
        self.write_changes()?;
        if counts.released > 0 {
            self.recovered
                .push(format!("{} orphaned inodes released", counts.released));
        }
        if counts.truncated > 0 {
            self.recovered.push(format!(
                "{} files cut to their size, as was begun",
                counts.truncated
            ));
        }
        Ok(())
    }

    /// The orphan `number`, or what is wrong with it.
    fn orphan(&self, number: u32) -> Result<Inode> {
        let wrong = |what: &str| {
            self.fault(Ext4Error::Unsafe(format!(
                "inode {number} is on the list of orphans, but {what}; run `e2fsck -f` on a copy"
            )))
        };
        if number < self.superblock.first_inode || number > self.superblock.inodes {
            return Err(wrong("is none that a file can have"));
        }
        let inode = self.inode(number)?;
        if inode.mode() == 0 {
            return Err(wrong("it is not in use"));
        }
        if inode.links() != 0 && !inode.is_file() && !inode.is_directory() && !inode.is_link() {
            return Err(wrong("has a name and nothing to cut"));
        }
        Ok(inode)
    }

    fn remove_orphan(&mut self, mut inode: Inode, counts: &mut Counts) -> Result<()> {
        if inode.links() == 0 {
            counts.released += 1;
            return self.release_inode(inode);
        }
        counts.truncated += 1;
        inode.set_deletion_time(0);
        let size = inode.size();
        if inode.has(flag::ENCRYPT) && inode.is_file() && !inode.has(flag::INLINE_DATA) {
            // Zeros in the last block would be noise to the guest; its kernel writes them when the file grows.
            self.truncate_map(&mut inode, size.div_ceil(u64::from(self.superblock.block_size)))?;
            return self.write_inode(&inode);
        }
        self.truncate_inode(&mut inode, size)
    }

    /// Clears away what the orphan file lists, and empties it.
    fn empty_orphan_file(&mut self, counts: &mut Counts) -> Result<()> {
        let number = self.superblock.orphan_file_inode;
        if !self.superblock.has_compat(compat::ORPHAN_FILE) || number == 0 {
            return Err(self.fault(Ext4Error::Unsafe(
                "is marked as having an orphan file in use, but has none; run `e2fsck -f` on a copy"
                    .to_owned(),
            )));
        }
        let file = self.inode(number)?;
        if !file.is_file() || file.links() == 0 {
            return Err(self.damaged_inode(number, "is to be the orphan file, but is no file in use"));
        }
        for logical in 0..file.size() / u64::from(self.superblock.block_size) {
            let Place::Written(block) = self.map(&file, logical)?.place else {
                return Err(self.damaged_inode(number, "the orphan file has holes"));
            };
            let bytes = self.block(block)?;
            let listed = self.parse_orphan_block(&file, block, &bytes)?;
            if listed.is_empty() {
                continue;
            }
            for number in listed {
                let inode = self.orphan(number)?;
                self.remove_orphan(inode, counts)?;
            }
            let mut empty = bytes.to_vec();
            let end = empty.len().saturating_sub(TAIL);
            empty.get_mut(..end).unwrap_or_default().fill(0);
            if let Some(checksum) = self.orphan_checksum(&file, block, &empty) {
                put_u32_le(&mut empty, end + 4, checksum).map_err(|e| self.fault(e.into()))?;
            }
            self.write_file_block(block, empty)?;
        }
        Ok(())
    }

    /// The inodes that a block of the orphan file lists.
    fn parse_orphan_block(&self, file: &Inode, block: u64, bytes: &[u8]) -> Result<Vec<u32>> {
        let end = bytes.len().saturating_sub(TAIL);
        let field = |at| u32_le(bytes, at).map_err(|e| self.fault(e.into()).at(self.byte(block)));
        let magic = field(end)?;
        if magic != MAGIC {
            let text = format!("the orphan file: magic {MAGIC:#010x} expected, {magic:#010x} found");
            return Err(self.damaged_inode(file.number, &text).at(self.byte(block)));
        }
        let found = field(end + 4)?;
        if let Some(computed) = self
            .orphan_checksum(file, block, bytes)
            .filter(|computed| *computed != found)
        {
            let error = Ext4Error::Checksum {
                structure: "the orphan file".to_owned(),
                found,
                computed,
            };
            return Err(self.in_inode(file.number, error).at(self.byte(block)));
        }
        let mut listed = Vec::new();
        for at in (0..end).step_by(4) {
            match field(at)? {
                0 => {}
                number => listed.push(number),
            }
        }
        Ok(listed)
    }

    /// Over the number of the block and the inodes that it lists.
    fn orphan_checksum(&self, file: &Inode, block: u64, bytes: &[u8]) -> Option<u32> {
        let seed = crc32c(self.inode_seed(file)?, &block.to_le_bytes());
        let listed = bytes.get(..bytes.len().checked_sub(TAIL)?)?;
        Some(crc32c(seed, listed))
    }
}
