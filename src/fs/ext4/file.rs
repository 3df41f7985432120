//! Reading the contents of files and symbolic links.

use super::{
    Ext4,
    block_map::Place,
    error::Ext4Error,
    features::incompat,
    inode::{BLOCK_LENGTH, Inode, flag},
};
use crate::fs::Result;

impl Ext4 {
    /// Reads contents from `offset` on; gives how many bytes, 0 at the end.
    pub(super) fn read_contents(&self, inode: &Inode, offset: u64, buffer: &mut [u8]) -> Result<usize> {
        if inode.has(flag::ENCRYPT) {
            return Err(self.fault(Ext4Error::Unsupported(format!(
                "inode {}: its contents are encrypted by the guest (fscrypt); they can be moved, but not read",
                inode.number
            ))));
        }
        if !inode.is_file() && !inode.is_link() && !inode.is_directory() {
            return Err(self.fault(Ext4Error::Unsupported(format!(
                "inode {} is a device, a pipe or a socket; it has no contents",
                inode.number
            ))));
        }
        let left = inode.size().saturating_sub(offset);
        let count = usize::try_from(left).map_or(buffer.len(), |left| left.min(buffer.len()));
        let Some(buffer) = buffer.get_mut(..count) else {
            return Ok(0);
        };
        if count == 0 {
            return Ok(0);
        }
        if inode.has(flag::INLINE_DATA) {
            copy_from(&self.inline_contents(inode)?, offset, buffer);
        } else if self.is_short_link(inode) {
            if inode.size() >= BLOCK_LENGTH as u64 {
                return Err(self.damaged_inode(inode.number, "a short symbolic link of 60 bytes or more"));
            }
            copy_from(inode.block(), offset, buffer);
        } else {
            self.read_blocks(inode, offset, buffer)?;
        }
        Ok(count)
    }

    /// Is the target of the link in `i_block`?
    pub(super) fn is_short_link(&self, inode: &Inode) -> bool {
        if !inode.is_link() || inode.has(flag::INLINE_DATA) {
            return false;
        }
        if self.superblock.has_incompat(incompat::EA_INODE) {
            return inode.size() < BLOCK_LENGTH as u64;
        }
        let cluster = u64::from(self.superblock.block_size) * u64::from(self.superblock.cluster_blocks);
        let attributes = if inode.attribute_block() == 0 {
            0
        } else {
            cluster / 512
        };
        inode.blocks() == attributes
    }

    /// Fills `buffer` from the blocks of the file; holes and unwritten blocks are zeros.
    pub(super) fn read_blocks(&self, inode: &Inode, offset: u64, buffer: &mut [u8]) -> Result<()> {
        let block_size = u64::from(self.superblock.block_size);
        let mut done = 0;
        while let Some(rest) = buffer.get_mut(done..).filter(|rest| !rest.is_empty()) {
            let at = offset.saturating_add(done as u64);
            let run = self.map(inode, at / block_size)?;
            let into = at % block_size;
            let available = run.length.saturating_mul(block_size) - into;
            let count = usize::try_from(available).map_or(rest.len(), |available| available.min(rest.len()));
            let part = rest.get_mut(..count).unwrap_or_default();
            match run.place {
                Place::Written(block) => self.disk.read_at(self.byte(block).saturating_add(into), part)?,
                Place::Unwritten(_) | Place::Hole => part.fill(0),
            }
            done += count;
        }
        Ok(())
    }
}

fn copy_from(contents: &[u8], offset: u64, buffer: &mut [u8]) {
    let start = usize::try_from(offset).unwrap_or(usize::MAX);
    let rest = contents.get(start..).unwrap_or_default();
    for (to, from) in buffer.iter_mut().zip(rest) {
        *to = *from;
    }
}
