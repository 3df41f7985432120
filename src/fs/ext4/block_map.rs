//! From a block of a file to a block of the filesystem, for both kinds of maps: extent trees and the older direct and
//! indirect blocks (kernel documentation, "ext4: The Contents of inode.i_block").

use super::{
    Ext4,
    error::Ext4Error,
    extent_tree::{self, Entries, Extent, ExtentNode},
    inode::{Inode, flag},
};
use crate::{disk::field::u32_le, fs::Result};
use std::ops::Range;

/// Pointers in `i_block`: 12 direct, then single, double and triple indirect.
pub(super) const DIRECT: u64 = 12;

/// Tables without a pointer that a file may have; kernels leave none.
const EMPTY_TABLES: u64 = 16;

/// Where a run of a file's blocks is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// From this block on.
    Written(u64),
    /// From this block on, but it reads as zeros.
    Unwritten(u64),
    /// Nowhere; it reads as zeros.
    Hole,
}

/// A run of blocks of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Run {
    /// First block of the file.
    pub(super) logical: u64,
    /// At least 1.
    pub(super) length: u64,
    /// Where it is.
    pub(super) place: Place,
}

impl Run {
    const fn hole(logical: u64, end: u64) -> Self {
        Self {
            logical,
            length: if end > logical { end - logical } else { 1 },
            place: Place::Hole,
        }
    }
}

impl Ext4 {
    /// The run that starts at block `logical` of the file. May be shorter than what is really one run.
    pub(super) fn map(&self, inode: &Inode, logical: u64) -> Result<Run> {
        if inode.has(flag::INLINE_DATA) {
            return Err(self.damaged_inode(inode.number, "blocks are asked of a file that is inline"));
        }
        if inode.has(flag::EXTENTS) {
            self.map_extents(inode, logical)
        } else {
            self.map_indirect(inode, logical)
        }
    }

    /// Calls `each` with the runs of blocks `range` of the file, holes included, in order.
    pub(super) fn each_run(
        &self,
        inode: &Inode,
        range: Range<u64>,
        each: &mut dyn FnMut(Run) -> Result<()>,
    ) -> Result<()> {
        let mut logical = range.start;
        let mut mapped = 0_u64;
        let mut holes = 0_u64;
        while logical < range.end {
            let mut run = self.map(inode, logical)?;
            run.length = run.length.min(range.end - logical);
            if run.place != Place::Hole {
                // A map that leads to the same blocks over and over would be walked for ever.
                mapped += run.length;
                if mapped > self.superblock.blocks {
                    return Err(self.damaged_inode(inode.number, "maps more blocks than there are"));
                }
            } else if !inode.has(flag::EXTENTS) {
                holes += 1;
                // So would tables that lead to nothing: above a block that is mapped are at most three.
                if holes / (3 * self.indirect_span(1)) > mapped + EMPTY_TABLES {
                    return Err(
                        self.damaged_inode(inode.number, "has a map that leads to nothing over and over")
                    );
                }
            }
            each(run)?;
            logical += run.length;
        }
        Ok(())
    }

    /// The root of the extent tree.
    pub(super) fn extent_root(&self, inode: &Inode) -> Result<ExtentNode> {
        ExtentNode::parse(inode.block(), self.superblock.blocks).map_err(|e| self.in_inode(inode.number, e))
    }

    /// The node at `block`, which has to be `depth` levels above the leaves.
    pub(super) fn extent_node(&self, inode: &Inode, block: u64, depth: u16) -> Result<ExtentNode> {
        let bytes = self.block(block)?;
        let parse = || {
            let node = ExtentNode::parse(&bytes, self.superblock.blocks)?;
            if let Some(seed) = self.inode_seed(inode) {
                extent_tree::verify(&bytes, seed)?;
            }
            if node.depth != depth {
                return Err(Ext4Error::damaged(format!(
                    "extent tree: depth {depth} expected, {} found",
                    node.depth
                )));
            }
            Ok(node)
        };
        parse().map_err(|e| self.in_inode(inode.number, e).at(self.byte(block)))
    }

    fn map_extents(&self, inode: &Inode, logical: u64) -> Result<Run> {
        // Extents have 32-bit block numbers.
        let Ok(wanted) = u32::try_from(logical) else {
            return Ok(Run::hole(logical, u64::MAX));
        };
        let mut node = self.extent_root(inode)?;
        let mut end = 1_u64 << 32;
        loop {
            match &node.entries {
                Entries::Extents(extents) => return Ok(run_in_leaf(extents, wanted, end)),
                Entries::Indexes(indexes) => {
                    let after = indexes.partition_point(|index| index.logical <= wanted);
                    if let Some(next) = indexes.get(after) {
                        end = end.min(u64::from(next.logical));
                    }
                    let Some(index) = after.checked_sub(1).and_then(|at| indexes.get(at)) else {
                        return Ok(Run::hole(logical, end));
                    };
                    let below = self.extent_node(inode, index.child, node.depth.saturating_sub(1))?;
                    // So no node is below two indexes: a small tree that shared them would have billions of leaves.
                    if let Some(first) = below.first().filter(|first| *first < index.logical) {
                        let text = format!(
                            "extent tree: the index from file block {} leads to block {}, which begins at file block \
                             {first}",
                            index.logical, index.child
                        );
                        return Err(self.damaged_inode(inode.number, &text));
                    }
                    node = below;
                }
            }
        }
    }

    /// Blocks that one pointer of `level` maps: 1 for a direct one.
    pub(super) fn indirect_span(&self, level: u32) -> u64 {
        let pointers = u64::from(self.superblock.block_size) / 4;
        // At most (65536 / 4)^3 = 2^42.
        pointers.pow(level)
    }

    /// How many pointers lead to block `logical`, and the path of their indexes: that in `i_block` first. `None` past
    /// what triple indirect blocks reach.
    pub(super) fn indirect_path(&self, logical: u64) -> Option<Vec<u64>> {
        let mut rest = logical;
        if rest < DIRECT {
            return Some(vec![rest]);
        }
        rest -= DIRECT;
        for level in 1..=3_u32 {
            let span = self.indirect_span(level);
            if rest < span {
                let mut path = vec![DIRECT + u64::from(level) - 1];
                for below in (0..level).rev() {
                    let one = self.indirect_span(below);
                    path.push(rest / one);
                    rest %= one;
                }
                return Some(path);
            }
            rest -= span;
        }
        None
    }

    /// A block pointer out of `i_block` or an indirect block, checked.
    pub(super) fn pointer(&self, inode: &Inode, pointers: &[u8], index: u64) -> Result<u64> {
        let at = usize::try_from(index).unwrap_or(usize::MAX).saturating_mul(4);
        let block = u64::from(u32_le(pointers, at).map_err(|e| self.in_inode(inode.number, e.into()))?);
        if block != 0
            && (block <= u64::from(self.superblock.first_data_block) || block >= self.superblock.blocks)
        {
            return Err(self.damaged_inode(
                inode.number,
                &format!(
                    "points to block {block}, outside of the {} of the filesystem",
                    self.superblock.blocks
                ),
            ));
        }
        Ok(block)
    }

    fn map_indirect(&self, inode: &Inode, logical: u64) -> Result<Run> {
        let Some(path) = self.indirect_path(logical) else {
            return Ok(Run::hole(logical, u64::MAX));
        };
        let depth = path.len().saturating_sub(1);
        let mut table: std::sync::Arc<[u8]> = inode.block().into();
        for (level, index) in path.iter().enumerate() {
            let block = self.pointer(inode, &table, *index)?;
            let below = u32::try_from(depth - level).unwrap_or(0);
            let last = if level == 0 && depth == 0 {
                DIRECT
            } else {
                self.indirect_span(1)
            };
            if block == 0 {
                // The whole span of this pointer is a hole, from where we are in it.
                let span = self.indirect_span(below);
                let start = path
                    .iter()
                    .skip(level + 1)
                    .enumerate()
                    .fold(0, |sum, (more, index)| {
                        let more = u32::try_from(more).unwrap_or(0);
                        sum + index * self.indirect_span(below.saturating_sub(more + 1))
                    });
                let mut end = logical + span - start;
                if below == 0 {
                    let mut next = index + 1;
                    while next < last && self.pointer(inode, &table, next)? == 0 {
                        next += 1;
                    }
                    end = logical + next - index;
                }
                return Ok(Run::hole(logical, end));
            }
            if below == 0 {
                let mut length = 1;
                while index + length < last && self.pointer(inode, &table, index + length)? == block + length
                {
                    length += 1;
                }
                return Ok(Run {
                    logical,
                    length,
                    place: Place::Written(block),
                });
            }
            table = self.block(block)?;
        }
        Err(self.damaged_inode(inode.number, "has a map without an end"))
    }
}

fn run_in_leaf(extents: &[Extent], wanted: u32, end: u64) -> Run {
    let logical = u64::from(wanted);
    let after = extents.partition_point(|extent| extent.logical <= wanted);
    let end = extents
        .get(after)
        .map_or(end, |next| u64::from(next.logical).min(end));
    let Some(extent) = after.checked_sub(1).and_then(|at| extents.get(at)) else {
        return Run::hole(logical, end);
    };
    let into = u64::from(wanted - extent.logical);
    let length = u64::from(extent.length);
    if into >= length {
        return Run::hole(logical, end);
    }
    let physical = extent.physical + into;
    Run {
        logical,
        length: length - into,
        place: if extent.unwritten {
            Place::Unwritten(physical)
        } else {
            Place::Written(physical)
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        disk::{Disk, FileDisk, MemoryDisk},
        fs::FileSystem,
    };
    use extent_tree::Index;
    use std::{process::Command, sync::Arc};

    #[test]
    fn a_node_below_many_indexes_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("image");
        FileDisk::create(&path, 300 << 10).unwrap();
        let made = Command::new("mke2fs")
            .args([
                "-q",
                "-F",
                "-t",
                "ext4",
                "-b",
                "1024",
                "-O",
                "^has_journal,^metadata_csum",
            ])
            .arg(&path)
            .status();
        assert!(made.expect("mke2fs must be installed").success());
        let disk: Arc<dyn Disk> = Arc::new(MemoryDisk::new("m", std::fs::read(&path).unwrap()));
        let node = |depth: u16, step: u32, count: u32, length: usize, child: u64| {
            let entries = (0..count).map(|i| Index {
                logical: i * step,
                child,
            });
            let mut node = ExtentNode::empty(depth, length);
            node.entries = Entries::Indexes(entries.collect());
            node.encode(length).unwrap()
        };
        // The last block of the filesystem is an empty leaf; all nodes of the levels above have only one child.
        let leaf = 299;
        disk.write_at(leaf << 10, &ExtentNode::empty(0, 1024).encode(1024).unwrap())
            .unwrap();
        for (depth, step) in [(1, 1), (2, 100), (3, 10_000), (4, 1_000_000)] {
            let child = leaf + 1 - u64::from(depth);
            disk.write_at((child - 1) << 10, &node(depth, step, 80, 1024, child))
                .unwrap();
        }
        let ext4 = Ext4::open(disk).unwrap();
        let mut inode = ext4.node(ext4.root()).unwrap();
        inode.set_block(&node(5, 100_000_000, 4, 60, leaf - 4)).unwrap();
        let mut runs = 0;
        let error = ext4
            .each_run(&inode, 0..1 << 32, &mut |_| {
                runs += 1;
                Ok(())
            })
            .unwrap_err();
        assert!(error.to_string().contains("begins at file block 0"), "{error}");
        assert_eq!(runs, 80);
    }
}
