//! Where the groups' own metadata is: descriptors, copies of the superblock, bitmaps and inode tables (kernel
//! documentation, "ext4: Layout", "Meta Block Groups", "Flexible Block Groups").

use super::{
    Ext4,
    features::{compat, incompat, ro_compat},
    group_descriptor::{GroupDescriptor, table_blocks},
    superblock::Superblock,
};
use crate::{disk::field::bytes_at, fs::Result};
use std::ops::Range;

impl Superblock {
    /// Descriptors in one block.
    pub(super) fn descriptors_per_block(&self) -> u32 {
        // At least one: a descriptor is at most a block long.
        (self.block_size / u32::from(self.descriptor_size)).max(1)
    }

    /// First block of a group.
    pub(super) fn group_start(&self, group: u32) -> u64 {
        u64::from(self.first_data_block) + u64::from(group) * u64::from(self.blocks_per_group)
    }

    /// All blocks of a group; the last group may be short.
    pub(super) fn group_blocks(&self, group: u32) -> Range<u64> {
        let start = self.group_start(group);
        start..(start + u64::from(self.blocks_per_group)).min(self.blocks)
    }

    /// The group that a block is in.
    pub(super) fn group_of(&self, block: u64) -> u32 {
        let group = block.saturating_sub(u64::from(self.first_data_block)) / u64::from(self.blocks_per_group);
        u32::try_from(group).unwrap_or(u32::MAX)
    }

    /// Has the group a copy of the superblock?
    pub(super) fn has_superblock(&self, group: u32) -> bool {
        if group == 0 {
            return true;
        }
        if self.has_compat(compat::SPARSE_SUPER2) {
            return self.backup_groups.contains(&group);
        }
        group == 1
            || !self.has_ro_compat(ro_compat::SPARSE_SUPER)
            || [3, 5, 7].into_iter().any(|base| is_power(group, base))
    }

    /// Are the descriptors of this group kept by `meta_bg`: within its own meta group?
    fn in_meta_group(&self, group: u32) -> bool {
        self.has_incompat(incompat::META_BG) && group / self.descriptors_per_block() >= self.first_meta_group
    }

    /// The block that holds the descriptor of `group`.
    fn descriptor_block(&self, group: u32) -> u64 {
        let table_block = group / self.descriptors_per_block();
        // Bigalloc with 1 KiB blocks counts groups from block 0, but its superblock is in block 1 all the same.
        let shifted = u64::from(self.block_size == 1024 && self.first_data_block == 0);
        if self.in_meta_group(group) {
            let first = table_block.saturating_mul(self.descriptors_per_block());
            let shifted = if first == 0 { shifted } else { 0 };
            return self.group_start(first) + u64::from(self.has_superblock(first)) + shifted;
        }
        u64::from(self.first_data_block) + shifted + 1 + u64::from(table_block)
    }

    /// Blocks at the start of a group that hold copies of the superblock and of descriptors.
    pub(super) fn copies(&self, group: u32) -> u64 {
        let superblock = u64::from(self.has_superblock(group));
        let shifted = u64::from(group == 0 && self.block_size == 1024 && self.first_data_block == 0);
        if self.in_meta_group(group) {
            let place = group % self.descriptors_per_block();
            let last = self.descriptors_per_block() - 1;
            return superblock + shifted + u64::from(place == 0 || place == 1 || place == last);
        }
        if superblock == 0 {
            return 0;
        }
        let all = u64::from(self.groups.div_ceil(self.descriptors_per_block()));
        let table = if self.has_incompat(incompat::META_BG) {
            all.min(u64::from(self.first_meta_group))
        } else {
            all
        };
        1 + shifted + table + u64::from(self.reserved_gdt_blocks)
    }
}

fn is_power(number: u32, base: u32) -> bool {
    let mut power = base;
    while power < number {
        power = power.saturating_mul(base);
    }
    power == number
}

impl Ext4 {
    /// The descriptor of a group, as changed since the last commit.
    pub(super) fn descriptor(&self, group: u32) -> Result<GroupDescriptor> {
        if let Some(changed) = self.changed_groups.get(&group) {
            return Ok(changed.clone());
        }
        let block = self.superblock.descriptor_block(group);
        let bytes = self.block(block)?;
        let at = self.descriptor_at(group);
        bytes_at(&bytes, at, usize::from(self.superblock.descriptor_size))
            .map_err(Into::into)
            .and_then(|bytes| GroupDescriptor::parse(bytes, group, &self.superblock))
            .map_err(|e| self.fault(e).at(self.byte(block).saturating_add(at as u64)))
    }

    /// The block of a group's descriptor, and its byte offset there.
    pub(super) fn descriptor_place(&self, group: u32) -> (u64, usize) {
        (self.superblock.descriptor_block(group), self.descriptor_at(group))
    }

    fn descriptor_at(&self, group: u32) -> usize {
        let within = group % self.superblock.descriptors_per_block();
        usize::try_from(within).unwrap_or(usize::MAX) * usize::from(self.superblock.descriptor_size)
    }

    /// All blocks that hold the filesystem's own fixed metadata: ascending, disjoint. A few megabytes for the largest
    /// filesystems, since flex groups lie together.
    pub(super) fn fixed_metadata(&self) -> Result<Vec<Range<u64>>> {
        let table = table_blocks(&self.superblock);
        let add = |zones: &mut Vec<Range<u64>>, zone: Range<u64>| match zones.last_mut() {
            Some(last) if last.end == zone.start => last.end = zone.end,
            _ if zone.is_empty() => {}
            _ => zones.push(zone),
        };
        let mut zones: Vec<Range<u64>> = Vec::new();
        add(&mut zones, 0..u64::from(self.superblock.first_data_block));
        // Each kind by itself: with flex_bg the bitmaps and tables of neighbours lie side by side.
        let mut kinds: [Vec<Range<u64>>; 3] = Default::default();
        for group in 0..self.superblock.groups {
            let start = self.superblock.group_start(group);
            add(&mut zones, start..start + self.superblock.copies(group));
            let descriptor = self.descriptor(group)?;
            let places = [
                descriptor.block_bitmap..descriptor.block_bitmap + 1,
                descriptor.inode_bitmap..descriptor.inode_bitmap + 1,
                descriptor.inode_table..descriptor.inode_table + table,
            ];
            for (kind, place) in kinds.iter_mut().zip(places) {
                add(kind, place);
            }
        }
        for zone in &kinds {
            zones.extend_from_slice(zone);
        }
        zones.sort_by_key(|zone| zone.start);
        let mut merged: Vec<Range<u64>> = Vec::with_capacity(zones.len());
        for zone in zones {
            match merged.last_mut() {
                Some(last) if zone.start < last.end => {
                    return Err(self.fault(super::Ext4Error::damaged(format!(
                        "the metadata of two groups overlaps at block {}",
                        zone.start
                    ))));
                }
                Some(last) if zone.start == last.end => last.end = zone.end,
                _ => merged.push(zone),
            }
        }
        Ok(merged)
    }
}

#[cfg(test)]
mod tests {
    use super::is_power;

    #[test]
    fn powers_that_carry_a_copy_of_the_superblock() {
        let three: Vec<u32> = (1..1000).filter(|n| is_power(*n, 3)).collect();
        assert_eq!(three, [3, 9, 27, 81, 243, 729]);
        assert!(!is_power(u32::MAX - 1, 7));
    }
}
