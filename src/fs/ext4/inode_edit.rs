//! Inodes come and go.

use super::{
    Ext4, acl,
    checksum::crc32c,
    error::Ext4Error,
    features::incompat,
    inode::{BASE_SIZE, Inode, Stamp, flag},
    xattr::Value,
};
use crate::fs::{Result, mode};

/// What the kernel gives to new inodes of their directory's flags (`EXT4_FL_INHERITED`).
const INHERITED: u32 = 0x1 // secure deletion
    | 0x2 // undelete
    | 0x8 // synchronous
    | 0x40 // no dump
    | 0x80 // no access time
    | flag::JOURNAL_DATA
    | flag::NOTAIL
    | flag::DIRSYNC
    | flag::PROJECT_INHERIT
    | flag::DAX;
/// Of these, what only directories have.
const OF_DIRECTORIES: u32 = flag::DIRSYNC | flag::TOPDIR | flag::PROJECT_INHERIT | flag::CASEFOLD;
/// What is left for links and special files: no dump, no access time.
const OF_OTHERS: u32 = 0x40 | 0x80;
/// `i_extra_isize` of today: up to and with `i_projid`.
const EXTRA_SIZE: u16 = 32;

/// `e_name_index` of the access list, the default list, "security.".
const ACCESS_LIST: u8 = 2;
const DEFAULT_LIST: u8 = 3;
const SECURITY: u8 = 6;

impl Ext4 {
    /// The clock in nanoseconds.
    pub(super) fn now(&self) -> i128 {
        i128::from(self.clock) * 1_000_000_000
    }

    /// A new inode in `parent`, of this type and mode, with what it inherits, not written and in no directory yet.
    /// As the kernel does: the parent's default access control list becomes the access list. And one simple rule:
    /// where the directory has an SELinux label, what is made in it gets the same.
    pub(super) fn new_inode(&mut self, parent: &Inode, kind: u32) -> Result<Inode> {
        let directory = kind & mode::TYPE == mode::DIRECTORY;
        let number = self.allocate_inode(parent.number, directory)?;
        let size = self.superblock.inode_size;
        let room = usize::from(size).saturating_sub(BASE_SIZE);
        let extra = EXTRA_SIZE
            .max(self.superblock.want_extra_size & !3)
            .min(u16::try_from(room).unwrap_or(0));
        let mut inode = Inode::zeroed(number, size, extra).map_err(|e| self.fault(e))?;
        let inherited = parent.flags() & INHERITED;
        inode.set_flags(match kind & mode::TYPE {
            mode::DIRECTORY => inherited,
            mode::FILE => inherited & !OF_DIRECTORIES,
            _ => inherited & OF_OTHERS,
        });
        if parent.has(flag::PROJECT_INHERIT) {
            inode.set_project(parent.project());
        }
        inode.set_mode(kind);
        let seed = crc32c(!0, &self.clock.to_le_bytes());
        inode.set_generation(crc32c(seed, &number.to_le_bytes()));
        for stamp in [Stamp::Accessed, Stamp::Changed, Stamp::Modified, Stamp::Created] {
            inode.set_time(stamp, self.now());
        }
        if matches!(kind & mode::TYPE, mode::DIRECTORY | mode::FILE | mode::LINK) {
            self.start_map(&mut inode)?;
        }
        self.inherit_attributes(parent, &mut inode, kind)?;
        Ok(inode)
    }

    fn inherit_attributes(&mut self, parent: &Inode, inode: &mut Inode, kind: u32) -> Result<()> {
        for attribute in self.attributes_of(parent)? {
            let value = match (&attribute.value, attribute.prefix) {
                (Value::Here(value), SECURITY) if attribute.name == b"selinux" => {
                    self.set_attribute(inode, SECURITY, b"selinux", Some(value))?;
                    continue;
                }
                (Value::Here(value), DEFAULT_LIST) if kind & mode::TYPE != mode::LINK => value,
                _ => continue,
            };
            let (list, mode) = acl::inherit(value, kind).map_err(|e| self.in_inode(parent.number, e))?;
            inode.set_mode(mode);
            if let Some(list) = list {
                self.set_attribute(inode, ACCESS_LIST, b"", Some(&list))?;
            }
            if kind & mode::TYPE == mode::DIRECTORY {
                self.set_attribute(inode, DEFAULT_LIST, b"", Some(value))?;
            }
        }
        Ok(())
    }

    /// Has the inode blocks of its own, by `i_block`?
    fn has_map(&self, inode: &Inode) -> bool {
        let kind = inode.mode() & mode::TYPE;
        matches!(kind, mode::DIRECTORY | mode::FILE | mode::LINK)
            && !inode.has(flag::INLINE_DATA)
            && !self.is_short_link(inode)
    }

    /// Cuts a file or directory down to its first `size` bytes; what is past them in the last block becomes zeros.
    pub(super) fn truncate_inode(&mut self, inode: &mut Inode, size: u64) -> Result<()> {
        let block_size = u64::from(self.superblock.block_size);
        if self.has_map(inode) {
            self.truncate_map(inode, size.div_ceil(block_size))?;
            self.zero_tail(inode, size)?;
        }
        inode.set_size(size);
        self.write_inode(inode)
    }

    fn zero_tail(&mut self, inode: &Inode, size: u64) -> Result<()> {
        let block_size = u64::from(self.superblock.block_size);
        let into = size % block_size;
        if into == 0 || !inode.is_file() {
            return Ok(());
        }
        if let super::block_map::Place::Written(block) = self.map(inode, size / block_size)?.place {
            self.must_be_for_files(&(block..block.saturating_add(1)))?;
            self.cache.borrow_mut().forget(block);
            self.disk
                .write_zeros(self.byte(block).saturating_add(into)..self.byte(block + 1))?;
        }
        Ok(())
    }

    /// Gives back all that an inode has, and the inode. Nothing of it stays in the table but its generation and the
    /// time: contents and attributes kept in it are gone.
    pub(super) fn release_inode(&mut self, mut inode: Inode) -> Result<()> {
        if inode.number < self.superblock.first_inode {
            return Err(self.fault(Ext4Error::Unsupported(format!(
                "inode {} is the filesystem's own",
                inode.number
            ))));
        }
        if self.has_map(&inode) {
            self.truncate_map(&mut inode, 0)?;
        }
        self.release_attributes(&mut inode)?;
        self.free_inode(&inode, inode.is_directory())?;
        let mut gone =
            Inode::zeroed(inode.number, self.superblock.inode_size, 0).map_err(|e| self.fault(e))?;
        gone.set_generation(inode.generation());
        // A time of 0 would be no time of deletion.
        gone.set_deletion_time(u32::try_from(self.clock & 0xffff_ffff).unwrap_or(1).max(1));
        self.write_inode(&gone)
    }

    /// Are types of directory entries kept in them?
    pub(super) fn entry_kind(&self, mode: u32) -> u8 {
        if self.superblock.has_incompat(incompat::FILETYPE) {
            super::directory::kind_of(mode)
        } else {
            0
        }
    }
}
