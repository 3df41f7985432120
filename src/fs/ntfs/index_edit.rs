//! Adding entries to an index and taking them away. A node that becomes too long is split, one that becomes short is joined
//! with its neighbour, and the root, which stands in the file's record, hands its entries down to a block, or takes them
//! back.

use super::{
    Ntfs,
    attribute::kind,
    data_runs,
    edited_file::{Clusters, EditedFile, OwnedAttribute, Value},
    error::{NtfsError, Parsed},
    file_name,
    index_node::{self, BLOCK_NODE, Node, OwnedEntry, ROOT_NODE, RootHeader, collation},
    name,
    secure::compare_ulongs,
    update_sequence,
};
use crate::fs::Result;
use std::{cmp::Ordering, sync::Arc};

/// Names in a directory make four levels at most; a loop makes more.
const MOST_LEVELS: usize = 32;
/// Blocks of an index find room to grow behind each other: so many clusters are left.
const ROOM_TO_GROW: u64 = 32;

/// One node on the way from the root to an entry.
#[derive(Debug)]
struct Level {
    /// `None` for the root.
    block: Option<u64>,
    node: Node,
    /// The entry, or the child that the way goes on to.
    at: usize,
    changed: bool,
}

impl Ntfs {
    /// How a key stands to another.
    pub(super) fn collate(&self, rule: u32, a: &[u8], b: &[u8]) -> Parsed<Ordering> {
        match rule {
            collation::FILE_NAME => Ok(self.upcase.compare(
                name::units(file_name::units(a)?),
                name::units(file_name::units(b)?),
            )),
            collation::ULONG | collation::SECURITY_HASH | collation::ULONGS => Ok(compare_ulongs(a, b)),
            other => Err(NtfsError::Unsupported(format!(
                "an index in the order {other:#x}, which is not known"
            ))),
        }
    }

    fn root_header(&self, file: &EditedFile, name: &[u16]) -> Result<RootHeader> {
        let root = file
            .value(kind::INDEX_ROOT, name)
            .ok_or_else(|| self.damaged(file.number, "has no root of its index"))?;
        RootHeader::parse(root).map_err(|e| self.in_record(file.number, e))
    }

    fn root_node(&self, file: &EditedFile, name: &[u16]) -> Result<Node> {
        let root = file.value(kind::INDEX_ROOT, name).unwrap_or_default();
        Node::parse(root.get(ROOT_NODE..).unwrap_or_default()).map_err(|e| self.in_record(file.number, e))
    }

    // Blocks.

    /// Bytes of a block, where it begins in the index, and where that is on the volume.
    fn block_place(&self, file: &EditedFile, name: &[u16], vcn: u64) -> Result<(usize, u64, u64)> {
        let block_size = self.root_header(file, name)?.block_size;
        let missing = |what: &str| self.damaged(file.number, format!("block {vcn} of its index {what}"));
        let blocks = file
            .clusters(kind::INDEX_ALLOCATION, name)
            .ok_or_else(|| missing("is nowhere"))?;
        let offset = vcn.saturating_mul(self.block_unit(block_size));
        let length = u64::from(block_size);
        if !offset.is_multiple_of(length) || offset.saturating_add(length) > blocks.initialized {
            return Err(missing("lies outside of it"));
        }
        let run = data_runs::find(&blocks.runs, offset / self.boot.cluster_size).and_then(|run| run.lcn);
        let place = self.byte(run.ok_or_else(|| missing("is a hole"))?);
        let place = place.saturating_add(offset % self.boot.cluster_size);
        Ok((usize::try_from(length).unwrap_or(0), offset, place))
    }

    /// The bytes of a block, its protected bytes put back.
    fn edited_block(&self, file: &EditedFile, name: &[u16], vcn: u64) -> Result<Arc<[u8]>> {
        let (length, offset, place) = self.block_place(file, name, vcn)?;
        let cached = self.block_cache.borrow_mut().get(place);
        if let Some(bytes) = cached.filter(|bytes| bytes.len() == length && index_node::is_block(bytes, vcn))
        {
            return Ok(bytes);
        }
        let mut raw = vec![0; length];
        let runs = file
            .clusters(kind::INDEX_ALLOCATION, name)
            .map(|blocks| &*blocks.runs);
        self.read_runs(runs.unwrap_or_default(), offset, &mut raw)?;
        index_node::restore_block(&mut raw, vcn).map_err(|e| self.in_record(file.number, e).at(place))?;
        let bytes: Arc<[u8]> = raw.into();
        self.block_cache.borrow_mut().put(place, Arc::clone(&bytes));
        Ok(bytes)
    }

    fn block_node(&self, file: &EditedFile, name: &[u16], vcn: u64) -> Result<Node> {
        let block = self.edited_block(file, name, vcn)?;
        Node::parse(block.get(BLOCK_NODE..).unwrap_or_default())
            .map_err(|e| self.in_record(file.number, e.within(format!("index block {vcn}"))))
    }

    /// Writes a node to its block; a `new` one has nothing there yet.
    fn write_block(
        &mut self,
        file: &EditedFile,
        name: &[u16],
        vcn: u64,
        node: &Node,
        new: bool,
    ) -> Result<()> {
        let (length, offset, place) = self.block_place(file, name, vcn)?;
        let old = if new {
            None
        } else {
            Some(self.edited_block(file, name, vcn)?)
        };
        let fail = |ntfs: &Self, e: NtfsError| ntfs.in_record(file.number, e);
        let mut raw = node
            .encode_block(old.as_deref(), vcn, length)
            .map_err(|e| fail(self, e))?;
        update_sequence::protect(&mut raw).map_err(|e| fail(self, e))?;
        self.changed = true;
        self.block_cache.borrow_mut().forget(place);
        let runs = file
            .clusters(kind::INDEX_ALLOCATION, name)
            .map(|blocks| &*blocks.runs);
        self.write_runs(runs.unwrap_or_default(), offset, &raw)?;
        index_node::restore_block(&mut raw, vcn).map_err(|e| fail(self, e))?;
        self.block_cache.borrow_mut().put(place, raw.into());
        Ok(())
    }

    /// A block that is free, or a new one at the end.
    fn allocate_block(&mut self, file: &mut EditedFile, name: &[u16]) -> Result<u64> {
        let block_size = self.root_header(file, name)?.block_size;
        let length = u64::from(block_size);
        let step = length / self.block_unit(block_size);
        if file.attribute(kind::INDEX_ALLOCATION, name).is_none() {
            let mut blocks = OwnedAttribute::resident(kind::INDEX_ALLOCATION, name, Vec::new());
            blocks.value = Value::Clusters(Clusters::default());
            file.attributes.push(blocks);
            file.set_value(kind::BITMAP, name, vec![0; 8]);
        }
        let missing = || self.damaged(file.number, "has an index without blocks or bitmap");
        let bits = file.attribute(kind::BITMAP, name).ok_or_else(missing)?.size();
        let count = file
            .clusters(kind::INDEX_ALLOCATION, name)
            .ok_or_else(missing)?
            .initialized
            / length;
        if count > self.boot.length / length {
            return Err(self.damaged(
                file.number,
                format!("has {count} blocks of its index, more than the volume has room for"),
            ));
        }
        let free = self.find_free_block(file, name, count)?;
        let index = free.unwrap_or(count);
        if index / 8 >= bits {
            self.resize_value(file, (kind::BITMAP, name), (index / 8 + 1).next_multiple_of(8))?;
        }
        if free.is_none() {
            let Some(position) = file.position(kind::INDEX_ALLOCATION, name) else {
                return Err(self.damaged(file.number, "has no blocks of its index"));
            };
            if let Some(Value::Clusters(blocks)) = file.attributes.get_mut(position).map(|a| &mut a.value) {
                let end = (count + 1) * length;
                let needed = end.div_ceil(self.boot.cluster_size).saturating_sub(blocks.end());
                if needed > 0 {
                    self.extend(blocks, needed, ROOM_TO_GROW)?;
                    self.leave_room(ROOM_TO_GROW)?;
                }
                blocks.size = end;
                blocks.initialized = end;
            }
        }
        self.mark_block(file, name, index, true)?;
        Ok(index * step)
    }

    /// The first of `count` blocks that is free.
    fn find_free_block(&self, file: &EditedFile, name: &[u16], count: u64) -> Result<Option<u64>> {
        let mut buffer = [0; 4096];
        let mut at = 0;
        while at < count {
            let length = (count - at).div_ceil(8).min(buffer.len() as u64);
            let piece = buffer
                .get_mut(..usize::try_from(length).unwrap_or(0))
                .unwrap_or_default();
            self.read_value(file, (kind::BITMAP, name), at / 8, piece)?;
            for (index, byte) in (0_u64..).zip(piece.iter()).filter(|(_, byte)| **byte != 0xff) {
                let free = at + index * 8 + u64::from(byte.trailing_ones());
                if free < count {
                    return Ok(Some(free));
                }
            }
            at += length * 8;
        }
        Ok(None)
    }

    fn free_block(&mut self, file: &mut EditedFile, name: &[u16], vcn: u64) -> Result<()> {
        let block_size = self.root_header(file, name)?.block_size;
        let index = vcn.saturating_mul(self.block_unit(block_size)) / u64::from(block_size);
        self.mark_block(file, name, index, false)
    }

    fn mark_block(&mut self, file: &mut EditedFile, name: &[u16], index: u64, used: bool) -> Result<()> {
        let mut byte = [0];
        self.read_value(file, (kind::BITMAP, name), index / 8, &mut byte)?;
        let bit = 1_u8 << (index % 8);
        let [old] = byte;
        self.write_value(
            file,
            (kind::BITMAP, name),
            index / 8,
            &[if used { old | bit } else { old & !bit }],
        )
    }

    // Entries.

    /// The way to where `key` is or would be, and whether it is there.
    fn way_to(&self, file: &EditedFile, name: &[u16], key: &[u8]) -> Result<(Vec<Level>, bool)> {
        let rule = self.root_header(file, name)?.collation;
        let mut way = Vec::new();
        let mut block = None;
        for _ in 0..MOST_LEVELS {
            let node = match block {
                None => self.root_node(file, name)?,
                Some(vcn) => self.block_node(file, name, vcn)?,
            };
            let mut at = node.entries.len();
            let mut found = false;
            for (index, entry) in node.entries.iter().enumerate() {
                let order = entry.key().and_then(|other| self.collate(rule, key, other));
                match order.map_err(|e| self.in_record(file.number, e))? {
                    Ordering::Greater => {}
                    order => {
                        found = order == Ordering::Equal;
                        at = index;
                        break;
                    }
                }
            }
            let child = node.child(at);
            way.push(Level {
                block,
                node,
                at,
                changed: false,
            });
            match child {
                Some(child) if !found => block = Some(child),
                _ => return Ok((way, found)),
            }
        }
        Err(self.damaged(file.number, "its index has no end"))
    }

    /// Adds an entry. The caller writes the file.
    pub(super) fn insert_entry(
        &mut self,
        file: &mut EditedFile,
        name: &[u16],
        entry: OwnedEntry,
    ) -> Result<()> {
        let key = entry.key().map_err(|e| self.in_record(file.number, e))?.to_vec();
        let (mut way, found) = self.way_to(file, name, &key)?;
        if found {
            return Err(self.damaged(file.number, "its index has the new key already"));
        }
        if let Some(level) = way.last_mut() {
            level.node.entries.insert(level.at, entry);
            level.changed = true;
        }
        self.settle(file, name, way)
    }

    /// Takes the entry with this key away; gives it, or `None` if there is none. The caller writes the file.
    pub(super) fn remove_entry(
        &mut self,
        file: &mut EditedFile,
        name: &[u16],
        key: &[u8],
    ) -> Result<Option<OwnedEntry>> {
        let (mut way, found) = self.way_to(file, name, key)?;
        if !found {
            return Ok(None);
        }
        let depth = way.len();
        let Some(level) = way.last_mut() else {
            return Ok(None);
        };
        let mut removed = level.node.entries.remove(level.at);
        level.changed = true;
        let Some(child) = removed.child.take() else {
            self.settle(file, name, way)?;
            return Ok(Some(removed));
        };
        // Its place in the inner node is taken by what comes right before it, which is in a leaf.
        let mut block = child;
        loop {
            if way.len() > MOST_LEVELS {
                return Err(self.damaged(file.number, "its index has no end"));
            }
            let node = self.block_node(file, name, block)?;
            let last = node.last;
            way.push(Level {
                block: Some(block),
                at: node.entries.len(),
                node,
                changed: false,
            });
            match last {
                Some(child) => block = child,
                None => break,
            }
        }
        let before = way.last_mut().and_then(|leaf| {
            leaf.changed = true;
            leaf.node.entries.pop()
        });
        let mut before = before.ok_or_else(|| self.damaged(file.number, "its index has an empty block"))?;
        before.child = Some(child);
        if let Some(level) = way.get_mut(depth - 1) {
            level.node.entries.insert(level.at, before);
        }
        self.settle(file, name, way)?;
        Ok(Some(removed))
    }

    /// Changes the entry with this key, whose length and key stay; false if there is none. The caller writes the file.
    pub(super) fn update_entry(
        &mut self,
        file: &mut EditedFile,
        name: &[u16],
        key: &[u8],
        change: &mut dyn FnMut(&mut [u8]) -> Parsed<()>,
    ) -> Result<bool> {
        let (mut way, found) = self.way_to(file, name, key)?;
        let Some(level) = way.last_mut().filter(|_| found) else {
            return Ok(false);
        };
        let Some(entry) = level.node.entries.get_mut(level.at) else {
            return Ok(false);
        };
        let before = entry.raw.clone();
        change(&mut entry.raw).map_err(|e| self.in_record(file.number, e))?;
        level.changed = entry.raw != before;
        if level.changed {
            self.settle(file, name, way)?;
        }
        Ok(true)
    }

    /// The entry with this key.
    pub(super) fn find_entry(
        &self,
        file: &EditedFile,
        name: &[u16],
        key: &[u8],
    ) -> Result<Option<OwnedEntry>> {
        let (mut way, found) = self.way_to(file, name, key)?;
        Ok(way
            .pop()
            .filter(|_| found)
            .and_then(|level| level.node.entries.get(level.at).cloned()))
    }

    /// The entries right before and after where `key` is or would be.
    pub(super) fn neighbours(&self, file: &EditedFile, name: &[u16], key: &[u8]) -> Result<Vec<OwnedEntry>> {
        let (way, _) = self.way_to(file, name, key)?;
        let mut all = Vec::new();
        for level in way {
            let from = level.at.saturating_sub(1);
            all.extend(level.node.entries.into_iter().skip(from).take(2));
        }
        Ok(all)
    }

    /// The last entry of an index.
    pub(super) fn last_entry(&self, file: &EditedFile, name: &[u16]) -> Result<Option<OwnedEntry>> {
        let mut node = self.root_node(file, name)?;
        for _ in 0..MOST_LEVELS {
            match node.last {
                None => return Ok(node.entries.pop()),
                Some(vcn) => node = self.block_node(file, name, vcn)?,
            }
        }
        Err(self.damaged(file.number, "its index has no end"))
    }

    /// Has an index no entries?
    pub(super) fn is_empty_index(&self, file: &EditedFile, name: &[u16]) -> Result<bool> {
        Ok(self.last_entry(file, name)?.is_none() && self.root_node(file, name)?.entries.is_empty())
    }

    // Balance.

    /// Writes the nodes that were changed, from the leaf up, and splits and joins them as it must be.
    fn settle(&mut self, file: &mut EditedFile, name: &[u16], mut way: Vec<Level>) -> Result<()> {
        let length = usize::try_from(self.root_header(file, name)?.block_size).unwrap_or(0);
        let room = index_node::block_room(length);
        while let Some(level) = way.pop() {
            let Some(vcn) = level.block else {
                return if level.changed {
                    self.settle_root(file, name, level.node)
                } else {
                    Ok(())
                };
            };
            if !level.changed {
                continue;
            }
            let Some(parent) = way.last_mut() else {
                return Ok(());
            };
            let size = level.node.length();
            if size > room {
                let (left, middle, right) = self.split(file, level.node, room)?;
                let new = self.allocate_block(file, name)?;
                self.write_block(file, name, new, &left, true)?;
                self.write_block(file, name, vcn, &right, false)?;
                let middle = OwnedEntry {
                    child: Some(new),
                    ..middle
                };
                parent.node.entries.insert(parent.at, middle);
                parent.changed = true;
            } else if size < room / 3 && !parent.node.entries.is_empty() {
                self.join(file, name, parent, (vcn, level.node), room)?;
            } else {
                self.write_block(file, name, vcn, &level.node, false)?;
                // The root may take back what its only child has.
                parent.changed |= size < room / 3;
            }
        }
        Ok(())
    }

    /// Two nodes, and the entry between them.
    fn split(&self, file: &EditedFile, node: Node, room: usize) -> Result<(Node, OwnedEntry, Node)> {
        let half = node.length() / 2;
        let last = node.last;
        let mut left = Node::default();
        let mut rest = node.entries.into_iter();
        let mut length = 0;
        let mut middle = None;
        let count = rest.len();
        for (index, entry) in rest.by_ref().enumerate() {
            length += entry.length();
            // Both halves have something.
            if index > 0 && (length > half || index + 2 == count) {
                middle = Some(entry);
                break;
            }
            left.entries.push(entry);
        }
        let right = Node {
            entries: rest.collect(),
            last,
        };
        let Some(mut middle) = middle.filter(|_| !right.entries.is_empty()) else {
            return Err(self.too_small(file));
        };
        left.last = middle.child.take();
        if left.length() > room || right.length() > room {
            return Err(self.too_small(file));
        }
        Ok((left, middle, right))
    }

    fn too_small(&self, file: &EditedFile) -> crate::disk::Error {
        self.fault(NtfsError::Full(format!(
            "file record {}: the blocks of its index are too small for its names",
            file.number
        )))
    }

    /// A short node is joined with a neighbour, if both fit in one; an empty one takes some of the neighbour's entries.
    fn join(
        &mut self,
        file: &mut EditedFile,
        name: &[u16],
        parent: &mut Level,
        (vcn, node): (u64, Node),
        room: usize,
    ) -> Result<()> {
        // The entry of the parent between both.
        let between = parent.at.saturating_sub(1);
        let (left, right) = (parent.node.child(between), parent.node.child(between + 1));
        let other = if left == Some(vcn) { right } else { left };
        let (Some(left), Some(right), Some(other)) = (left, right, other) else {
            return self.write_block(file, name, vcn, &node, false);
        };
        let empty = node.entries.is_empty();
        let neighbour = self.block_node(file, name, other)?;
        if neighbour.last.is_some() != node.last.is_some() {
            return Err(self.damaged(file.number, "its index has branches of different lengths"));
        }
        let Some(separator) = parent.node.entries.get(between) else {
            return self.write_block(file, name, vcn, &node, false);
        };
        let (mut first, second) = if left == vcn {
            (node.clone(), neighbour)
        } else {
            (neighbour, node.clone())
        };
        first.entries.push(OwnedEntry {
            child: first.last,
            raw: separator.raw.clone(),
        });
        first.entries.extend(second.entries);
        let both = Node {
            entries: first.entries,
            last: second.last,
        };
        // Room is left for the next ones, so that the next one does not split it again.
        let limit = if empty { room } else { room / 4 * 3 };
        if both.length() <= limit {
            self.write_block(file, name, right, &both, false)?;
            self.free_block(file, name, left)?;
            parent.node.entries.remove(between);
            parent.at = between;
            parent.changed = true;
        } else if empty {
            let (first, middle, second) = self.split(file, both, room)?;
            self.write_block(file, name, left, &first, false)?;
            self.write_block(file, name, right, &second, false)?;
            if let Some(entry) = parent.node.entries.get_mut(between) {
                *entry = OwnedEntry {
                    child: Some(left),
                    ..middle
                };
            }
            parent.changed = true;
        } else {
            self.write_block(file, name, vcn, &node, false)?;
        }
        Ok(())
    }

    /// Puts the root into the file, in one way or another.
    fn settle_root(&mut self, file: &mut EditedFile, name: &[u16], mut node: Node) -> Result<()> {
        let length = usize::try_from(self.root_header(file, name)?.block_size).unwrap_or(0);
        let room = index_node::block_room(length);
        // A root with nothing but one child takes what that has, if there is room.
        if let (true, Some(child)) = (node.entries.is_empty(), node.last) {
            let below = self.block_node(file, name, child)?;
            let leaf = below.last.is_none();
            self.put_root(file, name, &below)?;
            if self.root_fits(file, name)? {
                self.free_block(file, name, child)?;
                if leaf {
                    self.remove_attribute(file, (kind::INDEX_ALLOCATION, name))?;
                    self.remove_attribute(file, (kind::BITMAP, name))?;
                }
                return Ok(());
            }
        }
        self.put_root(file, name, &node)?;
        if node.entries.is_empty() || self.root_fits(file, name)? {
            return Ok(());
        }
        // The root hands all down to a new block, or to two.
        let first = self.allocate_block(file, name)?;
        if node.length() > room {
            let (left, middle, right) = self.split(file, node, room)?;
            let second = self.allocate_block(file, name)?;
            self.write_block(file, name, first, &left, true)?;
            self.write_block(file, name, second, &right, true)?;
            node = Node {
                entries: vec![OwnedEntry {
                    child: Some(first),
                    ..middle
                }],
                last: Some(second),
            };
        } else {
            self.write_block(file, name, first, &node, true)?;
            node = Node {
                entries: Vec::new(),
                last: Some(first),
            };
        }
        self.put_root(file, name, &node)
    }

    fn put_root(&self, file: &mut EditedFile, name: &[u16], node: &Node) -> Result<()> {
        let header = self.root_header(file, name)?;
        let raw = header.encode(node).map_err(|e| self.in_record(file.number, e))?;
        file.set_value(kind::INDEX_ROOT, name, raw);
        Ok(())
    }

    /// May the root stay as long as it is? It may fill the file's record; a file with more records lets it have a part of
    /// one.
    fn root_fits(&self, file: &EditedFile, name: &[u16]) -> Result<bool> {
        if self.fits_in_one(file)? {
            return Ok(true);
        }
        let length = file.value(kind::INDEX_ROOT, name).map_or(0, <[u8]>::len);
        Ok(!file.more.is_empty() && length <= self.boot.record_size / 4)
    }
}
