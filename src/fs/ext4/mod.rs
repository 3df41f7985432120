//! ext2, ext3 and ext4 (kernel documentation, "ext4 Data Structures and Algorithms"), reading and writing.
//!
//! Inodes and groups are parsed when they are asked for: opening reads the superblock, and nothing grows with the
//! size of the filesystem.

mod acl;
mod allocate;
mod block_map;
mod checksum;
mod commit;
mod directory;
mod directory_edit;
mod edit;
mod error;
mod extent_tree;
mod features;
mod file;
mod file_edit;
mod file_system;
mod free;
mod group_descriptor;
mod group_layout;
mod hash;
mod htree;
mod htree_edit;
mod inline_data;
mod inode;
mod inode_edit;
mod journal;
mod map_edit;
mod orphan;
mod superblock;
mod witness;
mod xattr;
mod xattr_edit;

use super::{Node, Result, block_cache::BlockCache};
use crate::disk::{self, Disk};
pub use witness::Ext4View;

use error::Ext4Error;
use group_descriptor::GroupDescriptor;
use inode::Inode;
use std::{cell::RefCell, collections::BTreeMap, ops::Range, sync::Arc};
use superblock::Superblock;

/// An ext2, ext3 or ext4 filesystem on a volume.
#[derive(Debug)]
pub struct Ext4 {
    disk: Arc<dyn Disk>,
    superblock: Superblock,
    cache: RefCell<BlockCache>,
    /// Group descriptors that were changed since the last commit.
    changed_groups: BTreeMap<u32, GroupDescriptor>,
    /// Something was written since the last commit.
    changed: bool,
    /// Blocks that no file may have; known once an edit begins.
    fixed: Vec<Range<u64>>,
    /// Seconds since 1970 for new timestamps.
    clock: u64,
    recovered: Vec<String>,
}

impl Ext4 {
    /// Does the first 2048 bytes of a volume look like ext2, ext3 or ext4?
    pub fn detect(start: &[u8]) -> bool {
        disk::field::u16_le(start, 0x438).is_ok_and(|magic| magic == 0xef53)
    }

    /// Opens the filesystem on `disk`, whose label stands in errors. A journal that needs recovery is replayed into
    /// `disk`, and orphans are removed: give an overlay. Fails with [`disk::Kind::Corrupt`] where the superblock
    /// can't be, with [`disk::Kind::Unsupported`] for features that are not known, with [`disk::Kind::Unsafe`] for a
    /// journal that can't be replayed.
    pub fn open(disk: Arc<dyn Disk>) -> Result<Self> {
        let mut ext4 = Self::over(disk.clone(), read_superblock(&*disk)?);
        if ext4.superblock.needs_recovery() {
            ext4.check_mounted_elsewhere()?;
            let said = journal::recover(&ext4)?;
            ext4 = Self::over(disk.clone(), read_superblock(&*disk)?);
            ext4.recovered.extend(said);
        }
        ext4.remove_orphans()?;
        Ok(ext4)
    }

    /// Nothing is read or changed yet.
    fn over(disk: Arc<dyn Disk>, superblock: Superblock) -> Self {
        Self {
            disk,
            clock: superblock.written,
            superblock,
            cache: RefCell::default(),
            changed_groups: BTreeMap::new(),
            changed: false,
            fixed: Vec::new(),
            recovered: Vec::new(),
        }
    }

    // Errors: every one says of which volume, and where it can, of which inode and byte.

    /// `error`, found on this volume.
    fn fault(&self, error: Ext4Error) -> disk::Error {
        error.on(self.disk.label())
    }

    /// `error`, found in what belongs to inode `number`.
    fn in_inode(&self, number: u32, error: Ext4Error) -> disk::Error {
        self.fault(match error {
            Ext4Error::Damaged(what) => Ext4Error::Damaged(format!("inode {number}: {what}")),
            Ext4Error::Checksum {
                structure,
                found,
                computed,
            } if !structure.starts_with("inode") => Ext4Error::Checksum {
                structure: format!("inode {number}: {structure}"),
                found,
                computed,
            },
            Ext4Error::Truncated(truncated) => Ext4Error::Damaged(format!("inode {number}: {truncated}")),
            other => other,
        })
    }

    /// Inode `number` is damaged: `what`.
    fn damaged_inode(&self, number: u32, what: &str) -> disk::Error {
        self.in_inode(number, Ext4Error::damaged(what))
    }

    // Blocks.

    fn block_length(&self) -> usize {
        usize::try_from(self.superblock.block_size).unwrap_or(usize::MAX)
    }

    /// Byte offset of `block` on the volume. Block numbers have at most 48 bits, blocks 16.
    fn byte(&self, block: u64) -> u64 {
        block.saturating_mul(u64::from(self.superblock.block_size))
    }

    /// The bytes of a block of metadata, through the cache.
    fn block(&self, block: u64) -> Result<Arc<[u8]>> {
        if let Some(bytes) = self.cache.borrow_mut().get(block) {
            return Ok(bytes);
        }
        self.check_block(block)?;
        let mut bytes = vec![0; self.block_length()];
        self.disk.read_at(self.byte(block), &mut bytes)?;
        let bytes: Arc<[u8]> = bytes.into();
        self.cache.borrow_mut().put(block, Arc::clone(&bytes));
        Ok(bytes)
    }

    fn check_block(&self, block: u64) -> Result<()> {
        if block < self.superblock.blocks {
            return Ok(());
        }
        Err(self.fault(Ext4Error::damaged(format!(
            "block {block} is asked for, outside of the {} of the filesystem",
            self.superblock.blocks
        ))))
    }

    // Inodes.

    fn inode_seed(&self, inode: &Inode) -> Option<u32> {
        self.superblock
            .checksums
            .inode_seed(inode.number, inode.generation())
    }

    /// Where an inode is: its group, and its byte offset in the table of that group.
    fn inode_place(&self, number: u32) -> Result<(u32, u64)> {
        if number == 0 || number > self.superblock.inodes {
            return Err(self.fault(Ext4Error::damaged(format!(
                "inode {number} is asked for, where there are {}",
                self.superblock.inodes
            ))));
        }
        let index = number - 1;
        let group = index / self.superblock.inodes_per_group;
        let within = index % self.superblock.inodes_per_group;
        Ok((group, u64::from(within) * u64::from(self.superblock.inode_size)))
    }

    fn inode(&self, number: u32) -> Result<Inode> {
        let (group, within) = self.inode_place(number)?;
        let table = self.descriptor(group)?.inode_table;
        let block = table + within / u64::from(self.superblock.block_size);
        let at = usize::try_from(within % u64::from(self.superblock.block_size)).unwrap_or(usize::MAX);
        let bytes = self.block(block)?;
        disk::field::bytes_at(&bytes, at, usize::from(self.superblock.inode_size))
            .map_err(Ext4Error::from)
            .and_then(|bytes| Inode::parse(bytes, number, self.superblock.checksums))
            .and_then(|inode| self.with_possible_size(inode))
            .map_err(|e| {
                self.in_inode(number, e)
                    .at(self.byte(block).saturating_add(at as u64))
            })
    }

    /// Block numbers of files have 32 bits, whatever the map.
    fn with_possible_size(&self, inode: Inode) -> error::Parsed<Inode> {
        if inode.size() > self.byte(1 << 32) {
            return Err(Ext4Error::damaged(format!("its size is {}", inode.size())));
        }
        Ok(inode)
    }

    /// The inode of a node that is in use.
    fn node(&self, node: Node) -> Result<Inode> {
        let number = u32::try_from(node.0).unwrap_or(0);
        let inode = self.inode(number)?;
        if inode.mode() == 0 || (inode.links() == 0 && !inode.has(inode::flag::EA_INODE)) {
            return Err(self.damaged_inode(number, "is said to be a file, but it is not in use"));
        }
        Ok(inode)
    }
}

/// Reads and parses the superblock of `disk`.
fn read_superblock(disk: &dyn Disk) -> Result<Superblock> {
    let mut bytes = [0; superblock::LENGTH];
    if disk.size() < superblock::OFFSET + bytes.len() as u64 {
        return Err(Ext4Error::NotExt4(0).on(disk.label()));
    }
    disk.read_at(superblock::OFFSET, &mut bytes)?;
    let superblock = Superblock::parse(&bytes).map_err(|e| e.on(disk.label()).at(superblock::OFFSET))?;
    let length = superblock.blocks.saturating_mul(u64::from(superblock.block_size));
    if length > disk.size() {
        return Err(Ext4Error::damaged(format!(
            "the superblock says {length} bytes, the volume has {}: it is cut short",
            disk.size()
        ))
        .on(disk.label()));
    }
    Ok(superblock)
}
