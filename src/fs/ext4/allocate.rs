//! Taking and giving back blocks and inodes: bitmaps, the counts of groups and superblock, and the flags of groups
//! that were never used (kernel documentation, "ext4: Block and Inode Allocation Policy", "Lazy Block Group
//! Initialization").

use super::{
    Ext4,
    checksum::crc32c,
    error::Ext4Error,
    free::zero_runs,
    group_descriptor::{BLOCK_UNINIT, GroupDescriptor, INODE_UNINIT, INODE_ZEROED},
    inode::Inode,
};
use crate::fs::Result;
use std::ops::Range;

/// How many groups with free blocks are looked through for a run that is long enough, before the longest seen is taken.
const GROUPS_TRIED: usize = 32;

fn bit_position(bit: u64) -> (usize, u8) {
    (usize::try_from(bit / 8).unwrap_or(usize::MAX), 1 << (bit % 8))
}

fn is_set(bitmap: &[u8], bit: u64) -> bool {
    let (byte, mask) = bit_position(bit);
    // Past the bitmap nothing is free.
    bitmap.get(byte).is_none_or(|byte| byte & mask != 0)
}

fn set_bits(bitmap: &mut [u8], bits: Range<u64>, value: bool) {
    for bit in bits {
        let (byte, mask) = bit_position(bit);
        if let Some(byte) = bitmap.get_mut(byte) {
            if value {
                *byte |= mask;
            } else {
                *byte &= !mask;
            }
        }
    }
}

/// Overlap of two runs.
fn overlap(a: &Range<u64>, b: &Range<u64>) -> Option<Range<u64>> {
    let both = a.start.max(b.start)..a.end.min(b.end);
    (!both.is_empty()).then_some(both)
}

impl Ext4 {
    /// The descriptor of a group, to be changed; written by the next commit.
    fn descriptor_mut(&mut self, group: u32) -> Result<&mut GroupDescriptor> {
        let descriptor = self.descriptor(group)?;
        Ok(self.changed_groups.entry(group).or_insert(descriptor))
    }

    /// The first of the filesystem's fixed metadata that `blocks` overlaps.
    fn fixed_overlap(&self, blocks: &Range<u64>) -> Option<Range<u64>> {
        let first = self.fixed.partition_point(|zone| zone.end <= blocks.start);
        self.fixed.get(first).and_then(|zone| overlap(zone, blocks))
    }

    /// Fails if `blocks` is not a run that a file may have: within the filesystem, and no fixed metadata.
    pub(super) fn must_be_for_files(&self, blocks: &Range<u64>) -> Result<()> {
        let outside = blocks.end > self.superblock.blocks;
        match self.fixed_overlap(blocks) {
            None if !outside => Ok(()),
            _ => Err(self.fault(Ext4Error::damaged(format!(
                "blocks {} to {} are said to belong to a file, but they hold the filesystem's own tables or lie \
                 outside of it",
                blocks.start,
                blocks.end.saturating_sub(1)
            )))),
        }
    }

    fn clusters_in(&self, group: u32) -> u64 {
        let blocks = self.superblock.group_blocks(group);
        blocks.end.saturating_sub(blocks.start)
    }

    /// The block bitmap of a group; that of a group never used is made up: only metadata is taken.
    fn block_bitmap(&self, group: u32) -> Result<Vec<u8>> {
        let descriptor = self.descriptor(group)?;
        if descriptor.has(BLOCK_UNINIT) {
            let blocks = self.superblock.group_blocks(group);
            let mut bitmap = vec![0; self.block_length()];
            let first = self.fixed.partition_point(|zone| zone.end <= blocks.start);
            for zone in self.fixed.iter().skip(first) {
                let Some(taken) = overlap(zone, &blocks) else {
                    break;
                };
                set_bits(
                    &mut bitmap,
                    taken.start - blocks.start..taken.end - blocks.start,
                    true,
                );
            }
            let bits = u64::from(self.superblock.block_size) * 8;
            set_bits(&mut bitmap, self.clusters_in(group)..bits, true);
            return Ok(bitmap);
        }
        let bitmap = self.block(descriptor.block_bitmap)?;
        self.verify_bitmap(
            group,
            "block",
            &bitmap,
            self.superblock.clusters_per_group,
            &descriptor,
        )?;
        Ok(bitmap.to_vec())
    }

    fn verify_bitmap(
        &self,
        group: u32,
        what: &str,
        bitmap: &[u8],
        bits: u32,
        descriptor: &GroupDescriptor,
    ) -> Result<()> {
        let Some(computed) = self.bitmap_checksum(bitmap, bits, descriptor) else {
            return Ok(());
        };
        let found = if what == "block" {
            descriptor.block_bitmap_checksum
        } else {
            descriptor.inode_bitmap_checksum
        };
        if found == computed {
            return Ok(());
        }
        Err(self.fault(Ext4Error::Checksum {
            structure: format!("{what} bitmap of group {group}"),
            found,
            computed,
        }))
    }

    fn bitmap_checksum(&self, bitmap: &[u8], bits: u32, descriptor: &GroupDescriptor) -> Option<u32> {
        let seed = self.superblock.checksums.metadata_seed()?;
        let length = usize::try_from(bits / 8).unwrap_or(usize::MAX);
        let checksum = crc32c(seed, bitmap.get(..length).unwrap_or_default());
        Some(descriptor.stored_width(checksum))
    }

    /// Writes a block bitmap, and what the descriptor says of it.
    fn put_block_bitmap(&mut self, group: u32, bitmap: Vec<u8>, free: u32) -> Result<()> {
        let bits = self.superblock.clusters_per_group;
        let mut descriptor = self.descriptor(group)?;
        descriptor.flags &= !BLOCK_UNINIT;
        descriptor.free_blocks = free;
        if let Some(checksum) = self.bitmap_checksum(&bitmap, bits, &descriptor) {
            descriptor.block_bitmap_checksum = checksum;
        }
        let block = descriptor.block_bitmap;
        *self.descriptor_mut(group)? = descriptor;
        self.write_block(block, bitmap)
    }

    /// Takes a run of free blocks, at `goal` if that is free, else near it; at least one block, at most `most`, all
    /// below `below`.
    pub(super) fn allocate_blocks(&mut self, goal: u64, most: u64, below: u64) -> Result<Range<u64>> {
        let below = below.min(self.superblock.blocks);
        let goal = if goal <= u64::from(self.superblock.first_data_block) || goal >= below {
            u64::from(self.superblock.first_data_block)
        } else {
            goal
        };
        let first_group = self.superblock.group_of(goal);
        let mut best: Option<Range<u64>> = None;
        let mut tried = 0;
        for step in 0..self.superblock.groups {
            let group = (u64::from(first_group) + u64::from(step)) % u64::from(self.superblock.groups);
            let group = u32::try_from(group).unwrap_or(0);
            if self.superblock.group_start(group) >= below || self.descriptor(group)?.free_blocks == 0 {
                continue;
            }
            let from = if step == 0 { goal } else { 0 };
            let Some(run) = self.free_run_in(group, from, most, below)? else {
                continue;
            };
            tried += 1;
            let length = |run: &Range<u64>| run.end - run.start;
            let good = run.start == goal || length(&run) >= most;
            if good || best.as_ref().is_none_or(|best| length(best) < length(&run)) {
                best = Some(run);
            }
            if good || tried >= GROUPS_TRIED {
                break;
            }
        }
        let Some(run) = best else {
            return Err(self.fault(Ext4Error::Full(format!(
                "no free block is left; {} are said to be free",
                self.superblock.free_blocks
            ))));
        };
        self.take_blocks(run.clone())?;
        Ok(run)
    }

    /// The run at `goal`, or the first in the group of `most` blocks, or the longest.
    fn free_run_in(&self, group: u32, goal: u64, most: u64, below: u64) -> Result<Option<Range<u64>>> {
        let bitmap = self.block_bitmap(group)?;
        let start = self.superblock.group_start(group);
        let count = self.clusters_in(group).min(below.saturating_sub(start));
        let goal = goal.saturating_sub(start);
        let mut best: Option<Range<u64>> = None;
        let mut done = false;
        zero_runs(&bitmap, count, &mut |run| {
            let exact = run.contains(&goal);
            let run = if exact { goal..run.end } else { run };
            let length = run.end - run.start;
            let enough = length >= most && run.start >= goal;
            let longer = best.as_ref().is_none_or(|best| best.end - best.start < length);
            if !done && (exact || enough || longer) {
                best = Some(run.start..run.start + length.min(most));
                done = (exact && goal != 0) || enough;
            }
            Ok(())
        })?;
        Ok(best.map(|run| start + run.start..start + run.end))
    }

    fn take_blocks(&mut self, run: Range<u64>) -> Result<()> {
        if let Some(fixed) = self.fixed_overlap(&run) {
            return Err(self.fault(Ext4Error::damaged(format!(
                "the block bitmap of group {} says that block {} is free, which holds the filesystem's own tables",
                self.superblock.group_of(run.start),
                fixed.start
            ))));
        }
        let group = self.superblock.group_of(run.start);
        let length = run.end - run.start;
        let mut bitmap = self.block_bitmap(group)?;
        let start = self.superblock.group_start(group);
        set_bits(&mut bitmap, run.start - start..run.end - start, true);
        let free = self.descriptor(group)?.free_blocks;
        let left = u32::try_from(length)
            .ok()
            .and_then(|length| free.checked_sub(length));
        let total = self.superblock.free_blocks.checked_sub(length);
        let (Some(left), Some(total)) = (left, total) else {
            return Err(self.fault(Ext4Error::damaged(format!(
                "group {group} counts {free} free blocks, its bitmap has more"
            ))));
        };
        self.superblock.free_blocks = total;
        self.put_block_bitmap(group, bitmap, left)
    }

    /// Gives blocks back.
    pub(super) fn free_blocks(&mut self, run: Range<u64>) -> Result<()> {
        self.must_be_for_files(&run)?;
        let mut at = run.start;
        while at < run.end {
            let group = self.superblock.group_of(at);
            let blocks = self.superblock.group_blocks(group);
            let end = run.end.min(blocks.end);
            let mut bitmap = self.block_bitmap(group)?;
            let bits = at - blocks.start..end - blocks.start;
            if let Some(bit) = bits.clone().find(|bit| !is_set(&bitmap, *bit)) {
                return Err(self.fault(Ext4Error::damaged(format!(
                    "block {} belongs to a file, but the bitmap of group {group} says that it is free",
                    blocks.start + bit
                ))));
            }
            set_bits(&mut bitmap, bits, false);
            let count = u32::try_from(end - at).unwrap_or(u32::MAX);
            let free = self.descriptor(group)?.free_blocks.saturating_add(count);
            self.superblock.free_blocks = self.superblock.free_blocks.saturating_add(end - at);
            self.put_block_bitmap(group, bitmap, free)?;
            at = end;
        }
        for block in run {
            self.cache.borrow_mut().forget(block);
        }
        Ok(())
    }

    /// The inode bitmap of a group; that of a group never used is made up.
    fn inode_bitmap(&self, group: u32) -> Result<Vec<u8>> {
        let descriptor = self.descriptor(group)?;
        if descriptor.has(INODE_UNINIT) {
            let mut bitmap = vec![0; self.block_length()];
            let bits = u64::from(self.superblock.block_size) * 8;
            set_bits(
                &mut bitmap,
                u64::from(self.superblock.inodes_per_group)..bits,
                true,
            );
            return Ok(bitmap);
        }
        let bitmap = self.block(descriptor.inode_bitmap)?;
        self.verify_bitmap(
            group,
            "inode",
            &bitmap,
            self.superblock.inodes_per_group,
            &descriptor,
        )?;
        Ok(bitmap.to_vec())
    }

    fn put_inode_bitmap(
        &mut self,
        group: u32,
        bitmap: Vec<u8>,
        mut descriptor: GroupDescriptor,
    ) -> Result<()> {
        descriptor.flags &= !INODE_UNINIT;
        let bits = self.superblock.inodes_per_group;
        if let Some(checksum) = self.bitmap_checksum(&bitmap, bits, &descriptor) {
            descriptor.inode_bitmap_checksum = checksum;
        }
        let block = descriptor.inode_bitmap;
        *self.descriptor_mut(group)? = descriptor;
        self.write_block(block, bitmap)
    }

    /// Takes a free inode, in the group of `near` or the next that has one.
    pub(super) fn allocate_inode(&mut self, near: u32, directory: bool) -> Result<u32> {
        let (first_group, _) = self.inode_place(near)?;
        for step in 0..self.superblock.groups {
            let group = (u64::from(first_group) + u64::from(step)) % u64::from(self.superblock.groups);
            let group = u32::try_from(group).unwrap_or(0);
            if self.descriptor(group)?.free_inodes == 0 {
                continue;
            }
            let bitmap = self.inode_bitmap(group)?;
            let first = group.saturating_mul(self.superblock.inodes_per_group);
            // Reserved inodes are taken in the bitmap too; looking past them costs nothing.
            let reserved = self
                .superblock
                .first_inode
                .saturating_sub(1)
                .saturating_sub(first);
            let count = self.superblock.inodes_per_group;
            if let Some(index) = (reserved..count).find(|index| !is_set(&bitmap, u64::from(*index))) {
                self.take_inode(group, index, bitmap, directory)?;
                return Ok(first.saturating_add(index).saturating_add(1));
            }
        }
        Err(self.fault(Ext4Error::Full(format!(
            "no free inode is left; {} are said to be free",
            self.superblock.free_inodes
        ))))
    }

    fn take_inode(&mut self, group: u32, index: u32, mut bitmap: Vec<u8>, directory: bool) -> Result<()> {
        let mut descriptor = self.descriptor(group)?;
        // As the kernel does: a group that has inodes has a block bitmap, too.
        if descriptor.has(BLOCK_UNINIT) {
            let blocks = self.block_bitmap(group)?;
            let free = descriptor.free_blocks;
            self.put_block_bitmap(group, blocks, free)?;
            descriptor = self.descriptor(group)?;
        }
        set_bits(&mut bitmap, u64::from(index)..u64::from(index) + 1, true);
        let per_group = self.superblock.inodes_per_group;
        if self.superblock.checksums.of_groups() {
            let unused = if descriptor.has(INODE_UNINIT) {
                per_group
            } else {
                descriptor.unused_inodes
            };
            let used = per_group.saturating_sub(unused);
            if index >= used {
                if !descriptor.has(INODE_ZEROED) {
                    self.zero_inodes(&descriptor, used..index)?;
                }
                descriptor.unused_inodes = per_group.saturating_sub(index).saturating_sub(1);
            } else {
                descriptor.unused_inodes = unused;
            }
        }
        let (Some(free), Some(total)) = (
            descriptor.free_inodes.checked_sub(1),
            self.superblock.free_inodes.checked_sub(1),
        ) else {
            return Err(self.fault(Ext4Error::damaged(format!(
                "group {group} or the superblock counts no free inode, the bitmap has one"
            ))));
        };
        descriptor.free_inodes = free;
        self.superblock.free_inodes = total;
        if directory {
            descriptor.used_directories = descriptor.used_directories.saturating_add(1);
        }
        self.put_inode_bitmap(group, bitmap, descriptor)
    }

    /// Inodes of a table that was not zeroed are junk until they come into use.
    fn zero_inodes(&mut self, descriptor: &GroupDescriptor, indexes: Range<u32>) -> Result<()> {
        let size = u64::from(self.superblock.inode_size);
        let table = self.byte(descriptor.inode_table);
        let bytes = table + u64::from(indexes.start) * size..table + u64::from(indexes.end) * size;
        if bytes.is_empty() {
            return Ok(());
        }
        let block_size = u64::from(self.superblock.block_size);
        for block in bytes.start / block_size..bytes.end.div_ceil(block_size) {
            self.cache.borrow_mut().forget(block);
        }
        self.disk.write_zeros(bytes)
    }

    /// Gives an inode back.
    pub(super) fn free_inode(&mut self, inode: &Inode, directory: bool) -> Result<()> {
        let (group, _) = self.inode_place(inode.number)?;
        let index = u64::from((inode.number - 1) % self.superblock.inodes_per_group);
        let mut bitmap = self.inode_bitmap(group)?;
        if !is_set(&bitmap, index) {
            return Err(self.damaged_inode(inode.number, "is in use, but the bitmap says that it is free"));
        }
        set_bits(&mut bitmap, index..index + 1, false);
        let mut descriptor = self.descriptor(group)?;
        descriptor.free_inodes = descriptor.free_inodes.saturating_add(1);
        if directory {
            descriptor.used_directories = descriptor.used_directories.saturating_sub(1);
        }
        self.superblock.free_inodes = self.superblock.free_inodes.saturating_add(1);
        self.put_inode_bitmap(group, bitmap, descriptor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_beyond_the_bitmap_are_taken() {
        let mut bitmap = [0_u8; 2];
        set_bits(&mut bitmap, 3..9, true);
        assert_eq!(bitmap, [0b1111_1000, 1]);
        set_bits(&mut bitmap, 4..20, false);
        assert_eq!(bitmap, [0b0000_1000, 0]);
        assert!(is_set(&bitmap, 3) && !is_set(&bitmap, 15) && is_set(&bitmap, 16));
    }
}
