//! Changing the map of a file: blocks are added at its end and taken off its end, never in between.

use super::{
    Ext4,
    block_map::{DIRECT, Place},
    error::Ext4Error,
    extent_tree::{self, Entries, Extent, ExtentNode, Index, MOST_DEPTH, MOST_WRITTEN},
    features::ro_compat,
    inode::{BLOCK_LENGTH, Inode, flag},
};
use crate::{disk::field::put_u32_le, fs::Result};
use std::ops::Range;

/// A node of an extent tree on the way down its right edge; the root has no block.
struct EdgeNode {
    block: Option<u64>,
    node: ExtentNode,
}

impl Ext4 {
    /// Block numbers that the map of this inode can say.
    fn reach(&self, inode: &Inode) -> u64 {
        if inode.has(flag::EXTENTS) {
            1 << 48
        } else {
            1 << 32
        }
    }

    /// Takes blocks for an inode's contents or map, and counts them to it.
    pub(super) fn allocate_for(&mut self, inode: &mut Inode, goal: u64, most: u64) -> Result<Range<u64>> {
        let run = self.allocate_blocks(goal, most, self.reach(inode))?;
        self.count_blocks(inode, run.end - run.start, true)?;
        Ok(run)
    }

    /// Gives blocks of an inode back.
    pub(super) fn free_of(&mut self, inode: &mut Inode, run: Range<u64>) -> Result<()> {
        self.free_blocks(run.clone())?;
        self.count_blocks(inode, run.end - run.start, false)
    }

    /// `i_blocks` counts sectors of 512 bytes; blocks, if the inode says so.
    pub(super) fn count_blocks(&self, inode: &mut Inode, blocks: u64, more: bool) -> Result<()> {
        let unit = if inode.has(flag::HUGE_FILE) {
            1
        } else {
            u64::from(self.superblock.block_size) / 512
        };
        let change = blocks.saturating_mul(unit);
        let now = inode.blocks();
        // A count that was too small already ends at 0; the checker finds such things, we don't make them.
        let next = if more {
            now.saturating_add(change)
        } else {
            now.saturating_sub(change)
        };
        let most = if self.superblock.has_ro_compat(ro_compat::HUGE_FILE) {
            (1 << 48) - 1
        } else {
            u64::from(u32::MAX)
        };
        if next > most {
            return Err(self.fault(Ext4Error::Full(format!(
                "inode {} would be larger than its block count can say",
                inode.number
            ))));
        }
        inode.set_blocks(next);
        Ok(())
    }

    /// Where the next block of a file should be: after its last, or in the group of its inode.
    pub(super) fn goal_for(&self, inode: &Inode, logical: u64) -> Result<u64> {
        if let Some(before) = logical.checked_sub(1)
            && let Place::Written(block) = self.map(inode, before)?.place
        {
            return Ok(block + 1);
        }
        let (group, _) = self.inode_place(inode.number)?;
        Ok(self.superblock.group_start(group))
    }

    /// An empty map of the kind that new inodes get.
    pub(super) fn start_map(&self, inode: &mut Inode) -> Result<()> {
        let with_extents = self.superblock.has_incompat(super::features::incompat::EXTENTS);
        let block = if with_extents {
            inode.set_flags(inode.flags() | flag::EXTENTS);
            ExtentNode::empty(0, BLOCK_LENGTH).encode(BLOCK_LENGTH)
        } else {
            inode.set_flags(inode.flags() & !flag::EXTENTS);
            Ok(Vec::new())
        };
        block
            .and_then(|block| inode.set_block(&block))
            .map_err(|e| self.in_inode(inode.number, e))
    }

    /// Maps the blocks from `logical` on, which is at or past the end of the map, to `run`.
    pub(super) fn append_run(&mut self, inode: &mut Inode, logical: u64, run: Range<u64>) -> Result<()> {
        if !inode.has(flag::EXTENTS) {
            return self.append_pointers(inode, logical, run);
        }
        let (mut logical, mut physical) = (logical, run.start);
        while physical < run.end {
            let length = (run.end - physical).min(u64::from(MOST_WRITTEN));
            let (Ok(first), Ok(count)) = (u32::try_from(logical), u32::try_from(length)) else {
                return Err(self.too_large(inode));
            };
            if logical + length > u64::from(u32::MAX) {
                return Err(self.too_large(inode));
            }
            self.append_extent(
                inode,
                Extent {
                    logical: first,
                    length: count,
                    physical,
                    unwritten: false,
                },
            )?;
            logical += length;
            physical += length;
        }
        Ok(())
    }

    fn too_large(&self, inode: &Inode) -> crate::disk::Error {
        self.fault(Ext4Error::Full(format!(
            "inode {} would be larger than a file of this filesystem can be",
            inode.number
        )))
    }

    /// The nodes from the root down its right edge.
    fn right_edge(&self, inode: &Inode) -> Result<Vec<EdgeNode>> {
        let mut edge = vec![EdgeNode {
            block: None,
            node: self.extent_root(inode)?,
        }];
        loop {
            let Some(EdgeNode { node, .. }) = edge.last() else {
                return Ok(edge);
            };
            let Entries::Indexes(indexes) = &node.entries else {
                return Ok(edge);
            };
            let child = indexes.last().map_or(0, |index| index.child);
            let node = self.extent_node(inode, child, node.depth.saturating_sub(1))?;
            edge.push(EdgeNode {
                block: Some(child),
                node,
            });
        }
    }

    fn put_extent_node(&mut self, inode: &mut Inode, block: Option<u64>, node: &ExtentNode) -> Result<()> {
        let Some(block) = block else {
            return node
                .encode(BLOCK_LENGTH)
                .and_then(|bytes| inode.set_block(&bytes))
                .map_err(|e| self.in_inode(inode.number, e));
        };
        let mut bytes = node
            .encode(self.block_length())
            .map_err(|e| self.in_inode(inode.number, e))?;
        if let Some(seed) = self.inode_seed(inode) {
            extent_tree::seal(&mut bytes, seed).map_err(|e| self.in_inode(inode.number, e))?;
        }
        self.write_file_block(block, bytes)
    }

    fn append_extent(&mut self, inode: &mut Inode, new: Extent) -> Result<()> {
        loop {
            let mut edge = self.right_edge(inode)?;
            let Some(leaf) = edge.last_mut() else {
                return Err(self.damaged_inode(inode.number, "extent tree without a root"));
            };
            if let Entries::Extents(extents) = &mut leaf.node.entries {
                let grown = extents.last_mut().is_some_and(|last| {
                    let continues = last.logical.checked_add(last.length) == Some(new.logical)
                        && last.physical + u64::from(last.length) == new.physical
                        && !last.unwritten
                        && !new.unwritten
                        && last.length + new.length <= MOST_WRITTEN;
                    if continues {
                        last.length += new.length;
                    }
                    continues
                });
                if grown || extents.len() < usize::from(leaf.node.capacity) {
                    if !grown {
                        extents.push(new);
                    }
                    let (block, node) = (leaf.block, leaf.node.clone());
                    return self.put_extent_node(inode, block, &node);
                }
            }
            self.widen_edge(inode, edge, new.logical)?;
        }
    }

    /// Makes room for one more extent at the right edge: a new branch below the lowest node with room, or, if there
    /// is none, one level more.
    fn widen_edge(&mut self, inode: &mut Inode, mut edge: Vec<EdgeNode>, logical: u32) -> Result<()> {
        let length = self.block_length();
        let goal = edge
            .iter()
            .rev()
            .find_map(|node| node.block)
            .map_or_else(|| self.goal_for(inode, 0), Ok)?;
        if let Some(level) = edge.iter().rposition(|node| !node.node.is_full()) {
            let mut child = None;
            // From the leaf up to below the node with room.
            for depth in 0..u16::try_from(edge.len() - level - 1).unwrap_or(u16::MAX) {
                let mut node = ExtentNode::empty(depth, length);
                if let (Entries::Indexes(indexes), Some(child)) = (&mut node.entries, child) {
                    indexes.push(Index { logical, child });
                }
                let block = self.allocate_for(inode, goal, 1)?.start;
                self.put_extent_node(inode, Some(block), &node)?;
                child = Some(block);
            }
            if let Some(parent) = edge.get_mut(level)
                && let (Entries::Indexes(indexes), Some(child)) = (&mut parent.node.entries, child)
            {
                indexes.push(Index { logical, child });
                let (block, node) = (parent.block, parent.node.clone());
                return self.put_extent_node(inode, block, &node);
            }
            return Err(self.damaged_inode(inode.number, "extent tree: a leaf above another"));
        }
        let root = edge.swap_remove(0).node;
        if root.depth >= MOST_DEPTH {
            return Err(self.too_large(inode));
        }
        let first = match &root.entries {
            Entries::Extents(extents) => extents.first().map_or(0, |extent| extent.logical),
            Entries::Indexes(indexes) => indexes.first().map_or(0, |index| index.logical),
        };
        let block = self.allocate_for(inode, goal, 1)?.start;
        let moved = ExtentNode {
            capacity: ExtentNode::empty(root.depth, length).capacity,
            ..root
        };
        self.put_extent_node(inode, Some(block), &moved)?;
        let mut above = ExtentNode::empty(moved.depth + 1, BLOCK_LENGTH);
        above.entries = Entries::Indexes(vec![Index {
            logical: first,
            child: block,
        }]);
        self.put_extent_node(inode, None, &above)
    }

    fn append_pointers(&mut self, inode: &mut Inode, logical: u64, run: Range<u64>) -> Result<()> {
        let (mut logical, mut physical) = (logical, run.start);
        while physical < run.end {
            let Some(path) = self.indirect_path(logical) else {
                return Err(self.too_large(inode));
            };
            let last = path.last().copied().unwrap_or(0);
            let room = if path.len() == 1 {
                DIRECT
            } else {
                self.indirect_span(1)
            };
            let count = (run.end - physical).min(room.saturating_sub(last));
            let table = self.pointer_table(inode, &path, physical)?;
            let mut bytes = match table {
                None => inode.block().to_vec(),
                Some(block) => self.block(block)?.to_vec(),
            };
            for step in 0..count {
                self.put_pointer(inode, &mut bytes, last + step, physical + step)?;
            }
            self.put_pointers(inode, table, bytes)?;
            logical += count;
            physical += count;
        }
        Ok(())
    }

    /// The block of the pointers that `path` ends in, made if it is not there; `None` for `i_block` itself.
    fn pointer_table(&mut self, inode: &mut Inode, path: &[u64], goal: u64) -> Result<Option<u64>> {
        let mut table = None;
        for index in path.get(..path.len().saturating_sub(1)).unwrap_or_default() {
            let mut bytes = match table {
                None => inode.block().to_vec(),
                Some(block) => self.block(block)?.to_vec(),
            };
            let mut next = self.pointer(inode, &bytes, *index)?;
            if next == 0 {
                next = self.allocate_for(inode, goal, 1)?.start;
                self.write_file_block(next, vec![0; self.block_length()])?;
                self.put_pointer(inode, &mut bytes, *index, next)?;
                self.put_pointers(inode, table, bytes)?;
            }
            table = Some(next);
        }
        Ok(table)
    }

    fn put_pointer(&self, inode: &Inode, pointers: &mut [u8], index: u64, block: u64) -> Result<()> {
        let at = usize::try_from(index).unwrap_or(usize::MAX).saturating_mul(4);
        let put = u32::try_from(block)
            .map_err(|_| Ext4Error::damaged(format!("block {block} in a map of 32-bit numbers")))
            .and_then(|block| Ok(put_u32_le(pointers, at, block)?));
        put.map_err(|e| self.in_inode(inode.number, e))
    }

    fn put_pointers(&mut self, inode: &mut Inode, table: Option<u64>, bytes: Vec<u8>) -> Result<()> {
        match table {
            None => inode
                .set_block(&bytes)
                .map_err(|e| self.in_inode(inode.number, e)),
            Some(block) => self.write_file_block(block, bytes),
        }
    }

    /// Takes the blocks from `from` on off the file, with what of the map is not needed any more.
    pub(super) fn truncate_map(&mut self, inode: &mut Inode, from: u64) -> Result<()> {
        // EOFBLOCKS (0x400000): blocks past the end, which there are none of from here.
        inode.set_flags(inode.flags() & !0x40_0000);
        if inode.has(flag::EXTENTS) {
            self.truncate_extents(inode, from)
        } else {
            self.truncate_pointers(inode, from)
        }
    }

    /// The tree is taken down, and built anew from what is kept: nothing is left that could be narrower.
    fn truncate_extents(&mut self, inode: &mut Inode, from: u64) -> Result<()> {
        let mut kept = Vec::new();
        let mut nodes = vec![self.extent_root(inode)?];
        while let Some(node) = nodes.pop() {
            match node.entries {
                Entries::Extents(extents) => {
                    for mut extent in extents {
                        let length = u64::from(extent.length);
                        let keep = from.saturating_sub(u64::from(extent.logical)).min(length);
                        if keep < length {
                            self.free_of(inode, extent.physical + keep..extent.physical + length)?;
                        }
                        extent.length = u32::try_from(keep).unwrap_or(0);
                        if keep > 0 {
                            kept.push(extent);
                        }
                    }
                }
                Entries::Indexes(indexes) => {
                    // Popped in order, so that what is kept stays in order.
                    for index in indexes.iter().rev() {
                        nodes.push(self.extent_node(inode, index.child, node.depth.saturating_sub(1))?);
                    }
                    for index in &indexes {
                        self.free_of(inode, index.child..index.child + 1)?;
                    }
                }
            }
        }
        self.put_extent_node(inode, None, &ExtentNode::empty(0, BLOCK_LENGTH))?;
        kept.into_iter()
            .try_for_each(|extent| self.append_extent(inode, extent))
    }

    fn truncate_pointers(&mut self, inode: &mut Inode, from: u64) -> Result<()> {
        let mut root = inode.block().to_vec();
        let mut start = 0;
        for index in 0..DIRECT + 3 {
            let level = u32::try_from(index.saturating_sub(DIRECT - 1)).unwrap_or(0);
            let span = self.indirect_span(level);
            let block = self.pointer(inode, &root, index)?;
            if block != 0
                && start + span > from
                && self.free_branch(inode, block, level, from.saturating_sub(start))?
            {
                self.put_pointer(inode, &mut root, index, 0)?;
            }
            start += span;
        }
        self.put_pointers(inode, None, root)
    }

    /// Frees what a pointer of `level` (0: a data block, at most 3) maps from its own block `from` on; true if
    /// nothing is left of it.
    fn free_branch(&mut self, inode: &mut Inode, block: u64, level: u32, from: u64) -> Result<bool> {
        if level > 0 {
            let mut table = self.block(block)?.to_vec();
            let span = self.indirect_span(level - 1);
            for index in from / span..self.indirect_span(1) {
                let child = self.pointer(inode, &table, index)?;
                let below = from.saturating_sub(index * span);
                if child != 0 && self.free_branch(inode, child, level - 1, below)? {
                    self.put_pointer(inode, &mut table, index, 0)?;
                }
            }
            if from > 0 {
                self.write_file_block(block, table)?;
                return Ok(false);
            }
        }
        self.free_of(inode, block..block + 1)?;
        Ok(true)
    }
}
