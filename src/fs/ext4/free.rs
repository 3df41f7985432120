//! What nobody needs: free blocks by the bitmaps, and unwritten blocks of files. And its counterpart, where the data
//! of files is.

use super::{
    Ext4,
    block_map::{Place, Run},
    checksum::crc32c,
    features::{compat, incompat},
    group_descriptor::{BLOCK_UNINIT, GroupDescriptor, INODE_UNINIT},
    inode::{BASE_SIZE, Inode, flag},
    superblock::{STATE_ERROR, STATE_VALID},
};
use crate::{
    disk::field::{bytes_at, u16_le},
    fs::{Node, Result},
};
use std::ops::Range;

/// Bytes of bitmaps and of inode tables that are read at once.
const BATCH: u64 = 1 << 20;

/// Calls `each` with the runs of zero bits among the first `count` bits.
pub(super) fn zero_runs(
    bitmap: &[u8],
    count: u64,
    each: &mut dyn FnMut(Range<u64>) -> Result<()>,
) -> Result<()> {
    let mut run: Option<u64> = None;
    for (word_number, word_bytes) in bitmap.chunks(8).enumerate() {
        let first = word_number as u64 * 64;
        if first >= count {
            break;
        }
        let mut bytes = [0xff; 8];
        for (to, from) in bytes.iter_mut().zip(word_bytes) {
            *to = *from;
        }
        let word = u64::from_le_bytes(bytes);
        match (word, run) {
            (0, None) => run = Some(first),
            (0, Some(_)) | (u64::MAX, None) => {}
            _ => {
                for bit in 0..64 {
                    let at = first + bit;
                    match (word >> bit & 1 == 1 || at >= count, run) {
                        (true, Some(start)) => {
                            each(start..at.min(count))?;
                            run = None;
                        }
                        (false, None) => run = Some(at),
                        _ => {}
                    }
                }
            }
        }
    }
    match run {
        Some(start) => each(start..count),
        None => Ok(()),
    }
}

impl Ext4 {
    /// Are the bitmaps to be believed?
    fn bitmaps_are_current(&self) -> bool {
        self.superblock.state & STATE_ERROR == 0
            && (self.superblock.state & STATE_VALID != 0 || self.superblock.has_compat(compat::HAS_JOURNAL))
    }

    /// Runs of free blocks, group by group. A group whose bitmap contradicts its descriptor is taken as full: what is
    /// copied needlessly does no harm.
    pub(super) fn each_free_run(&self, each: &mut dyn FnMut(Range<u64>) -> Result<()>) -> Result<()> {
        if !self.bitmaps_are_current() {
            return Ok(());
        }
        let fixed = self.fixed_metadata()?;
        let mut group = 0;
        while group < self.superblock.groups {
            let descriptor = self.descriptor(group)?;
            if descriptor.has(BLOCK_UNINIT) {
                self.free_in_unused_group(group, &descriptor, &fixed, each)?;
                group += 1;
                continue;
            }
            // Bitmaps of a flex group lie one after the other.
            let mut batch = vec![descriptor];
            while (batch.len() as u64) < BATCH / u64::from(self.superblock.block_size) {
                let next = group.saturating_add(u32::try_from(batch.len()).unwrap_or(u32::MAX));
                if next >= self.superblock.groups {
                    break;
                }
                let descriptor = self.descriptor(next)?;
                let follows = batch
                    .last()
                    .is_some_and(|last| descriptor.block_bitmap == last.block_bitmap + 1);
                if !follows || descriptor.has(BLOCK_UNINIT) {
                    break;
                }
                batch.push(descriptor);
            }
            let first = batch.first().map_or(0, |descriptor| descriptor.block_bitmap);
            let mut bitmaps = vec![0; self.block_length().saturating_mul(batch.len())];
            self.disk.read_at(self.byte(first), &mut bitmaps)?;
            for (bitmap, descriptor) in bitmaps.chunks(self.block_length()).zip(&batch) {
                self.free_in_group(group, descriptor, bitmap, each)?;
                group += 1;
            }
        }
        Ok(())
    }

    fn free_in_unused_group(
        &self,
        group: u32,
        descriptor: &GroupDescriptor,
        fixed: &[Range<u64>],
        each: &mut dyn FnMut(Range<u64>) -> Result<()>,
    ) -> Result<()> {
        let blocks = self.superblock.group_blocks(group);
        let mut runs = Vec::new();
        let mut at = blocks.start;
        let first = fixed.partition_point(|zone| zone.end <= blocks.start);
        for zone in fixed
            .iter()
            .skip(first)
            .take_while(|zone| zone.start < blocks.end)
        {
            if zone.start > at {
                runs.push(at..zone.start);
            }
            at = zone.end;
        }
        if at < blocks.end {
            runs.push(at..blocks.end);
        }
        let free: u64 = runs.iter().map(|run| run.end - run.start).sum();
        if free / u64::from(self.superblock.cluster_blocks) != u64::from(descriptor.free_blocks) {
            return Ok(());
        }
        runs.into_iter().try_for_each(|run| self.each_in_bytes(run, each))
    }

    fn free_in_group(
        &self,
        group: u32,
        descriptor: &GroupDescriptor,
        bitmap: &[u8],
        each: &mut dyn FnMut(Range<u64>) -> Result<()>,
    ) -> Result<()> {
        if let Some(seed) = self.superblock.checksums.metadata_seed() {
            let length = usize::try_from(self.superblock.clusters_per_group / 8).unwrap_or(usize::MAX);
            let computed = crc32c(seed, bitmap.get(..length).unwrap_or_default());
            if descriptor.stored_width(computed) != descriptor.block_bitmap_checksum {
                return Ok(());
            }
        }
        let blocks = self.superblock.group_blocks(group);
        let cluster = u64::from(self.superblock.cluster_blocks);
        let clusters = (blocks.end - blocks.start).div_ceil(cluster);
        let mut free = 0;
        zero_runs(bitmap, clusters, &mut |run| {
            free += run.end - run.start;
            Ok(())
        })?;
        if free != u64::from(descriptor.free_blocks) {
            return Ok(());
        }
        zero_runs(bitmap, clusters, &mut |run| {
            let end = (blocks.start + run.end * cluster).min(blocks.end);
            self.each_in_bytes(blocks.start + run.start * cluster..end, each)
        })
    }

    fn each_in_bytes(&self, run: Range<u64>, each: &mut dyn FnMut(Range<u64>) -> Result<()>) -> Result<()> {
        each(self.byte(run.start)..self.byte(run.end))
    }

    /// Calls `each` with every inode in use that is a regular file; those that hold the filesystem's own things
    /// are left out.
    fn each_file(&self, each: &mut dyn FnMut(&Inode) -> Result<()>) -> Result<()> {
        let size = usize::from(self.superblock.inode_size);
        for group in 0..self.superblock.groups {
            let descriptor = self.descriptor(group)?;
            if descriptor.has(INODE_UNINIT) {
                continue;
            }
            let used = self
                .superblock
                .inodes_per_group
                .saturating_sub(descriptor.unused_inodes);
            let length = u64::from(used) * u64::from(self.superblock.inode_size);
            let start = self.byte(descriptor.inode_table);
            let mut number = group.saturating_mul(self.superblock.inodes_per_group);
            let mut at = 0;
            while at < length {
                let count = (length - at).min(BATCH);
                let mut table = vec![0; usize::try_from(count).unwrap_or(0)];
                self.disk.read_at(start.saturating_add(at), &mut table)?;
                for bytes in table.chunks_exact(size) {
                    number = number.saturating_add(1);
                    if number >= self.superblock.first_inode
                        && number != self.superblock.orphan_file_inode
                        && is_used_file(bytes)
                    {
                        let inode = Inode::parse(bytes, number, self.superblock.checksums)
                            .map_err(|e| self.in_inode(number, e))?;
                        each(&inode)?;
                    }
                }
                at += count;
            }
        }
        Ok(())
    }

    /// Runs that hold data of regular files, in bytes.
    pub(super) fn each_data_run(&self, each: &mut dyn FnMut(Node, Range<u64>) -> Result<()>) -> Result<()> {
        self.each_file(&mut |inode| {
            self.each_run_of(inode, &mut |_, run| each(Node(u64::from(inode.number)), run))
        })
    }

    /// Runs that hold data of one file, in bytes: offset in the file, place on the volume.
    pub(super) fn each_run_of(
        &self,
        inode: &Inode,
        each: &mut dyn FnMut(u64, Range<u64>) -> Result<()>,
    ) -> Result<()> {
        self.each_mapped_run(inode, &mut |run| match run.place {
            Place::Written(block) => each(
                self.byte(run.logical),
                self.byte(block)..self.byte(block + run.length),
            ),
            _ => Ok(()),
        })
    }

    /// Runs that belong to a file but read as zeros, in bytes.
    pub(super) fn each_unwritten_run(&self, each: &mut dyn FnMut(Range<u64>) -> Result<()>) -> Result<()> {
        if !self.superblock.has_incompat(incompat::EXTENTS) || !self.bitmaps_are_current() {
            return Ok(());
        }
        self.each_file(&mut |inode| {
            if !inode.has(flag::EXTENTS) {
                return Ok(());
            }
            self.each_mapped_run(inode, &mut |run| match run.place {
                Place::Unwritten(block) => each(self.byte(block)..self.byte(block + run.length)),
                _ => Ok(()),
            })
        })
    }

    fn each_mapped_run(&self, inode: &Inode, each: &mut dyn FnMut(Run) -> Result<()>) -> Result<()> {
        if inode.has(flag::INLINE_DATA) {
            return Ok(());
        }
        // Space may be kept past the end of a file, by extents only.
        let end = if inode.has(flag::EXTENTS) {
            1 << 32
        } else {
            inode.size().div_ceil(u64::from(self.superblock.block_size))
        };
        self.each_run(inode, 0..end, each)
    }
}

fn is_used_file(bytes: &[u8]) -> bool {
    let in_use = bytes_at(bytes, 0, BASE_SIZE)
        .and_then(|bytes| Ok((u16_le(bytes, 0)?, u16_le(bytes, 0x1a)?)))
        .unwrap_or_default();
    u32::from(in_use.0) & crate::fs::mode::TYPE == crate::fs::mode::FILE && in_use.1 != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_of_zero_bits() {
        let runs = |bitmap: &[u8], count| {
            let mut runs = Vec::new();
            zero_runs(bitmap, count, &mut |run| {
                runs.push(run);
                Ok(())
            })
            .unwrap();
            runs
        };
        assert_eq!(runs(&[0; 32], 200), vec![(0..200)]);
        assert_eq!(runs(&[0xff; 32], 256), []);
        let mut bitmap = [0xff_u8; 24];
        bitmap[0] = 0b1110_0111;
        bitmap[7] = 0x7f;
        bitmap[8..16].fill(0);
        assert_eq!(runs(&bitmap, 192), [3..5, 63..128]);
        assert_eq!(runs(&bitmap, 100), [3..5, 63..100]);
    }
}
