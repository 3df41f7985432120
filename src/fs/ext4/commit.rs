//! Writing: blocks of metadata and inodes at once, group descriptors and the superblock at a commit. The disk is an
//! overlay, which is the transaction: no order is kept, and the journal is written around, which a clean filesystem
//! allows.

use super::{
    Ext4,
    error::Ext4Error,
    features::{compat, incompat, ro_compat},
    inode::Inode,
    superblock::{self, STATE_ERROR, STATE_VALID},
};
use crate::{
    disk::field::{put_bytes, u32_le},
    fs::Result,
};

/// `EXT4_MMP_SEQ_CLEAN`: no host has the filesystem mounted.
const MMP_CLEAN: u32 = 0xff4d_4d50;

/// Features that an edit would leave wrong, and what to do about each.
const BLOCKERS: [(u32, &str); 3] = [
    (
        ro_compat::QUOTA,
        "keeps quota files (feature quota), whose sums an edit would leave wrong; `tune2fs -O ^quota` on a copy takes \
         them away, `tune2fs -O quota` in the moved guest brings them back",
    ),
    (
        ro_compat::BIGALLOC,
        "allocates clusters of several blocks (feature bigalloc), which rehome reads but does not edit; move it \
         unchanged, or copy its files to a filesystem without bigalloc",
    ),
    (
        ro_compat::READONLY,
        "is marked as read-only (feature read-only); `tune2fs -O ^read-only` on a copy allows edits",
    ),
];

impl Ext4 {
    /// Why an edit would do harm, and the cure.
    pub(super) fn check_editable(&self) -> Result<()> {
        self.check_writable()?;
        if self.superblock.needs_recovery() || self.has_orphans() {
            return Err(self.fault(Ext4Error::Unsafe(
                "files that were deleted while open have not been cleared away; run `e2fsck -f` on a copy"
                    .to_owned(),
            )));
        }
        Ok(())
    }

    /// Why nothing must be written, not even to finish what the guest's kernel has begun, and the cure.
    pub(super) fn check_writable(&self) -> Result<()> {
        let refuse = |error: Ext4Error| Err(self.fault(error));
        for (feature, why) in BLOCKERS {
            if self.superblock.has_ro_compat(feature) {
                return refuse(Ext4Error::Unsupported(why.to_owned()));
            }
        }
        let unknown = self.superblock.ro_compat & !ro_compat::EDITABLE;
        if unknown != 0 {
            return refuse(Ext4Error::Unsupported(format!(
                "has features that allow reading only ({unknown:#x} in s_feature_ro_compat), which rehome does not \
                 know; `dumpe2fs -h` names them, `tune2fs -O ^FEATURE` on a copy may take them away"
            )));
        }
        if self.superblock.state & STATE_ERROR != 0 || self.superblock.error_count != 0 {
            return refuse(Ext4Error::Unsafe(
                "the guest's kernel has found errors in it; run `e2fsck -f` on a copy and move that"
                    .to_owned(),
            ));
        }
        let journaled = self.superblock.has_compat(compat::HAS_JOURNAL);
        if self.superblock.state & STATE_VALID == 0 && !journaled {
            return refuse(Ext4Error::Unsafe(
                "it was not unmounted cleanly and has no journal; run `e2fsck -f` on a copy and move that"
                    .to_owned(),
            ));
        }
        if journaled && self.superblock.journal_inode == 0 {
            return refuse(Ext4Error::Unsupported(
                "its journal is on another device; `tune2fs -O ^has_journal` on a copy, with that device present, \
                 brings it home"
                    .to_owned(),
            ));
        }
        if journaled {
            super::journal::check(self)?;
        }
        self.check_mounted_elsewhere()
    }

    /// Multiple mount protection says whether another host has the filesystem mounted (kernel documentation, "ext4:
    /// Multiple Mount Protection").
    pub(super) fn check_mounted_elsewhere(&self) -> Result<()> {
        if !self.superblock.has_incompat(incompat::MMP) || self.superblock.mmp_block == 0 {
            return Ok(());
        }
        let bytes = self.block(self.superblock.mmp_block)?;
        let sequence = u32_le(&bytes, 4).map_err(|e| self.fault(e.into()))?;
        if sequence == MMP_CLEAN {
            return Ok(());
        }
        Err(self.fault(Ext4Error::Unsafe(format!(
            "multiple mount protection says that it is mounted somewhere, or was not unmounted (sequence \
             {sequence:#x}); unmount it there; if no host has it mounted, `tune2fs -f -E clear_mmp` on a copy"
        ))))
    }

    /// Gets ready for edits: where files must never be written is known from here.
    pub(super) fn prepare_edit(&mut self) -> Result<()> {
        if self.fixed.is_empty() {
            self.fixed = self.fixed_metadata()?;
        }
        Ok(())
    }

    /// Writes a block of metadata.
    pub(super) fn write_block(&mut self, block: u64, bytes: Vec<u8>) -> Result<()> {
        self.check_block(block)?;
        self.cache.borrow_mut().forget(block);
        self.disk.write_at(self.byte(block), &bytes)?;
        self.cache.borrow_mut().put(block, bytes.into());
        Ok(())
    }

    /// Writes a block that belongs to an inode: entries, pointers, extents, attributes.
    pub(super) fn write_file_block(&mut self, block: u64, bytes: Vec<u8>) -> Result<()> {
        self.must_be_for_files(&(block..block.saturating_add(1)))?;
        self.write_block(block, bytes)
    }

    /// Writes an inode to its table.
    pub(super) fn write_inode(&mut self, inode: &Inode) -> Result<()> {
        let (group, within) = self.inode_place(inode.number)?;
        let block_size = u64::from(self.superblock.block_size);
        let block = self.descriptor(group)?.inode_table + within / block_size;
        let at = usize::try_from(within % block_size).unwrap_or(usize::MAX);
        let mut bytes = self.block(block)?.to_vec();
        let raw = inode
            .encode(self.superblock.checksums)
            .and_then(|raw| Ok(put_bytes(&mut bytes, at, &raw)?));
        raw.map_err(|e| self.in_inode(inode.number, e))?;
        self.changed = true;
        self.write_block(block, bytes)
    }

    /// Writes what was kept back: group descriptors, then the superblock. Copies of both stay as they are; the kernel,
    /// too, updates them only when it resizes.
    pub(super) fn write_changes(&mut self) -> Result<()> {
        if !self.changed && self.changed_groups.is_empty() {
            return Ok(());
        }
        for (group, descriptor) in std::mem::take(&mut self.changed_groups) {
            let (block, at) = self.descriptor_place(group);
            let mut bytes = self.block(block)?.to_vec();
            descriptor
                .encode(group, &self.superblock)
                .and_then(|raw| Ok(put_bytes(&mut bytes, at, &raw)?))
                .map_err(|e| self.fault(e))?;
            self.write_block(block, bytes)?;
        }
        self.superblock.written = self.clock;
        self.write_superblock()?;
        self.changed = false;
        self.disk.flush()
    }

    /// Writes the superblock.
    pub(super) fn write_superblock(&mut self) -> Result<()> {
        let raw = self.superblock.encode().map_err(|e| self.fault(e))?;
        let block = superblock::OFFSET / u64::from(self.superblock.block_size);
        self.cache.borrow_mut().forget(block);
        self.disk.write_at(superblock::OFFSET, &raw)
    }
}
