//! Adding names to indexed directories: leaves and nodes are split, the tree gets higher (kernel documentation, "ext4:
//! Hash Tree Directories").

use super::{
    Ext4,
    directory::{Entry, entries, entry_length, put_entry},
    directory_edit::{Located, NewEntry, insert},
    error::{Ext4Error, Parsed},
    hash::NameHash,
    htree::{self, Index, IndexBlock, IndexEntry, NODE_AT, ROOT_AT, Step},
    inode::{Inode, flag},
};
use crate::{
    disk::field::{put_u16_le, u8_at},
    fs::Result,
};

/// Splitting makes room each time: a leaf, a node of each level, and a new level, and then once more for names that
/// are very long.
const MOST_SPLITS: usize = 16;

/// A name out of a leaf, to be sorted by its hash.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Hashed {
    hash: u32,
    inode: u32,
    kind: u8,
    name: Vec<u8>,
}

/// Two halves of about the same size, and the hash from which on names are in the second; its lowest bit says that
/// names of the same hash are in both.
fn halves(mut names: Vec<Hashed>) -> Option<(Vec<Hashed>, Vec<Hashed>, u32)> {
    names.sort_by_key(|name| name.hash);
    let total: usize = names.iter().map(|name| entry_length(name.name.len())).sum();
    let mut first = 0;
    let mut size = 0;
    for name in &names {
        let length = entry_length(name.name.len());
        if first > 0 && size + length / 2 > total / 2 {
            break;
        }
        size += length;
        first += 1;
    }
    let first = first.min(names.len().checked_sub(1)?);
    if first == 0 {
        return None;
    }
    let second = names.split_off(first);
    let from = second.first()?.hash;
    let continued = u32::from(names.last()?.hash == from);
    Some((names, second, from | continued))
}

/// A leaf of these names.
fn pack(names: &[Hashed], length: usize, usable: usize) -> Parsed<Vec<u8>> {
    let mut bytes = vec![0; length];
    let mut at = 0;
    for (number, name) in names.iter().enumerate() {
        let needed = entry_length(name.name.len());
        let last = number + 1 == names.len();
        let entry = Entry {
            at,
            length: if last { usable.saturating_sub(at) } else { needed },
            inode: name.inode,
            kind: name.kind,
            name: &name.name,
        };
        put_entry(&mut bytes, &entry)?;
        at += needed;
    }
    if names.is_empty() {
        put_u16_le(&mut bytes, 4, super::directory::stored_length(usable, length)?)?;
    }
    Ok(bytes)
}

impl Ext4 {
    fn has_checksums(&self) -> bool {
        self.superblock.checksums.metadata_seed().is_some()
    }

    /// The names of a leaf with their hashes.
    fn hashed(&self, directory: &Inode, hash: &NameHash, bytes: &[u8]) -> Result<Vec<Hashed>> {
        let mut names = Vec::new();
        for entry in entries(bytes, self.with_type()) {
            let entry = entry.map_err(|e| self.in_inode(directory.number, e))?;
            if entry.inode != 0 {
                names.push(Hashed {
                    hash: hash.of(entry.name),
                    inode: entry.inode,
                    kind: entry.kind,
                    name: entry.name.to_vec(),
                });
            }
        }
        Ok(names)
    }

    /// Gives a directory of one block an index: the names go to a second block, the first becomes the root.
    pub(super) fn make_index(&mut self, directory: &mut Inode, version: u8) -> Result<()> {
        let (root_block, bytes) = self.existing_block(directory, 0)?;
        let mut names = Vec::new();
        let mut dots = Vec::new();
        for entry in entries(&bytes, self.with_type()) {
            let entry = entry.map_err(|e| self.in_inode(directory.number, e))?;
            if entry.name == b"." || entry.name == b".." {
                dots.push((entry.name.to_vec(), entry.inode, entry.kind));
            } else if entry.inode != 0 {
                names.push(Hashed {
                    hash: 0,
                    inode: entry.inode,
                    kind: entry.kind,
                    name: entry.name.to_vec(),
                });
            }
        }
        let [(dot, itself, dot_kind), (dotdot, parent, dotdot_kind)] = &*dots else {
            return Err(self.damaged_inode(directory.number, "a directory without `.` and `..`"));
        };
        let (leaf, leaf_block) = self.grow_directory(directory)?;
        directory.set_flags(directory.flags() | flag::INDEX);
        let length = self.block_length();
        let usable = self.usable();
        let make = || -> Parsed<(Vec<u8>, Vec<u8>)> {
            let mut root = vec![0; length];
            let put = |root: &mut [u8], at, length, inode, kind, name: &[u8]| {
                let entry = Entry {
                    at,
                    length,
                    inode,
                    kind,
                    name,
                };
                put_entry(root, &entry)
            };
            put(&mut root, 0, 12, *itself, *dot_kind, dot)?;
            put(&mut root, 12, length - 12, *parent, *dotdot_kind, dotdot)?;
            htree::put_information(&mut root, version, 0)?;
            let block = IndexBlock {
                limit: htree::room(length, ROOT_AT, self.has_checksums()),
                entries: vec![IndexEntry {
                    hash: 0,
                    block: u32::try_from(leaf).unwrap_or(u32::MAX),
                }],
            };
            block.put(&mut root, ROOT_AT)?;
            Ok((root, pack(&names, length, usable)?))
        };
        let (root, leaf_bytes) = make().map_err(|e| self.in_inode(directory.number, e))?;
        self.write_directory_block(directory, leaf, leaf_block, leaf_bytes)?;
        self.write_directory_block(directory, 0, root_block, root)
    }

    /// Finds a name by its hash.
    pub(super) fn locate_in_index(
        &self,
        directory: &Inode,
        index: &Index,
        name: &[u8],
    ) -> Result<Option<Located>> {
        let hash = index.hash.of(name);
        let mut steps = self.descend(directory, index, hash)?;
        // Every step forward takes the next entry of a finite tree; a node that is its own child would not end.
        let most = self.directory_length(directory).min(self.superblock.blocks);
        for _ in 0..=most {
            let leaf = steps.last().map_or(0, Step::child);
            if let Some(found) = self.locate_in_block(directory, leaf, name)? {
                return Ok(Some(found));
            }
            if !self.next_leaf(directory, &mut steps, hash)? {
                return Ok(None);
            }
        }
        Err(self.damaged_inode(directory.number, "directory index: it has no end"))
    }

    /// Adds a name that is not there yet.
    pub(super) fn add_indexed(&mut self, directory: &mut Inode, new: NewEntry<'_>) -> Result<()> {
        for _ in 0..MOST_SPLITS {
            let Some(index) = self.index_of(directory)? else {
                return Err(self.fault(Ext4Error::Unsupported(format!(
                    "directory {} has an index of a kind that rehome does not know",
                    directory.number
                ))));
            };
            let hash = index.hash.of(new.name);
            let steps = self.descend(directory, &index, hash)?;
            let leaf = steps.last().map_or(0, Step::child);
            let (block, mut bytes) = self.existing_block(directory, leaf)?;
            if self.is_index_block(directory, leaf, &bytes) && self.has_checksums() {
                return Err(self.damaged_inode(directory.number, "directory index: a leaf that is a node"));
            }
            let usable = self.usable();
            if insert(&mut bytes, usable, new, self.with_type())
                .map_err(|e| self.in_inode(directory.number, e))?
            {
                return self.write_directory_block(directory, leaf, block, bytes);
            }
            let is_full = |step: &Step| step.entries.entries.len() >= usize::from(step.entries.limit);
            if !steps.last().is_some_and(is_full) {
                self.split_leaf(directory, &index.hash, &steps, (leaf, block, &bytes))?;
            } else if let Some(level) = steps.iter().rposition(|step| !is_full(step)) {
                self.split_node(directory, &steps, level)?;
            } else {
                self.raise_index(directory, &index)?;
            }
        }
        Err(self.damaged_inode(
            directory.number,
            "directory index: splitting its leaves makes no room",
        ))
    }

    /// Writes the entries of an index block back.
    fn put_index_entries(&mut self, directory: &Inode, logical: u64, entries: &IndexBlock) -> Result<()> {
        let (block, mut bytes) = self.existing_block(directory, logical)?;
        let at = if logical == 0 { ROOT_AT } else { NODE_AT };
        entries
            .put(&mut bytes, at)
            .map_err(|e| self.in_inode(directory.number, e))?;
        self.write_directory_block(directory, logical, block, bytes)
    }

    /// Tells an index block of a new child, right after the one taken.
    fn add_child(&mut self, directory: &Inode, step: &Step, hash: u32, child: u64) -> Result<()> {
        let mut entries = step.entries.clone();
        let block = u32::try_from(child).map_err(|_| {
            self.fault(Ext4Error::Full(format!(
                "directory {} has as many blocks as it can have",
                directory.number
            )))
        })?;
        let at = (step.taken + 1).min(entries.entries.len());
        entries.entries.insert(at, IndexEntry { hash, block });
        self.put_index_entries(directory, step.block, &entries)
    }

    fn split_leaf(
        &mut self,
        directory: &mut Inode,
        hash: &NameHash,
        steps: &[Step],
        (leaf, block, bytes): (u64, u64, &[u8]),
    ) -> Result<()> {
        let names = self.hashed(directory, hash, bytes)?;
        let Some((first, second, from)) = halves(names) else {
            return Err(self.damaged_inode(directory.number, "directory index: a leaf is full of one name"));
        };
        let (length, usable) = (self.block_length(), self.usable());
        let (new_leaf, new_block) = self.grow_directory(directory)?;
        let packed =
            pack(&first, length, usable).and_then(|first| Ok((first, pack(&second, length, usable)?)));
        let (first, second) = packed.map_err(|e| self.in_inode(directory.number, e))?;
        self.write_directory_block(directory, new_leaf, new_block, second)?;
        self.write_directory_block(directory, leaf, block, first)?;
        match steps.last() {
            Some(step) => self.add_child(directory, step, from, new_leaf),
            None => Err(self.damaged_inode(directory.number, "directory index: a leaf without a root")),
        }
    }

    /// An empty node.
    fn new_node(&self, entries: Vec<IndexEntry>) -> Parsed<Vec<u8>> {
        let length = self.block_length();
        let mut bytes = vec![0; length];
        put_u16_le(&mut bytes, 4, super::directory::stored_length(length, length)?)?;
        let block = IndexBlock {
            limit: htree::room(length, NODE_AT, self.has_checksums()),
            entries,
        };
        block.put(&mut bytes, NODE_AT)?;
        Ok(bytes)
    }

    /// Splits the node below `level`, whose block has room for one more.
    fn split_node(&mut self, directory: &mut Inode, steps: &[Step], level: usize) -> Result<()> {
        let (Some(parent), Some(step)) = (steps.get(level), steps.get(level + 1)) else {
            return Err(self.damaged_inode(directory.number, "directory index: a node without a parent"));
        };
        let mut first = step.entries.clone();
        let second = first.entries.split_off(first.entries.len() / 2);
        let Some(from) = second.first().map(|entry| entry.hash) else {
            return Err(self.damaged_inode(directory.number, "directory index: a full node without entries"));
        };
        let (node, block) = self.grow_directory(directory)?;
        let bytes = self
            .new_node(second)
            .map_err(|e| self.in_inode(directory.number, e))?;
        self.write_directory_block(directory, node, block, bytes)?;
        self.put_index_entries(directory, step.block, &first)?;
        self.add_child(directory, parent, from, node)
    }

    /// One level more: what the root says goes to a node of its own.
    fn raise_index(&mut self, directory: &mut Inode, index: &Index) -> Result<()> {
        if index.levels >= self.most_levels() {
            return Err(self.fault(Ext4Error::Full(format!(
                "the index of directory {} is full; `tune2fs -O large_dir` on a copy gives it one level more",
                directory.number
            ))));
        }
        let (node, block) = self.grow_directory(directory)?;
        let bytes = self
            .new_node(index.root.entries.clone())
            .map_err(|e| self.in_inode(directory.number, e))?;
        self.write_directory_block(directory, node, block, bytes)?;
        let (root_block, mut root) = self.existing_block(directory, 0)?;
        let entries = IndexBlock {
            limit: index.root.limit,
            entries: vec![IndexEntry {
                hash: 0,
                block: u32::try_from(node).unwrap_or(u32::MAX),
            }],
        };
        let put = u8_at(&root, 28).map_err(Ext4Error::from).and_then(|version| {
            htree::put_information(&mut root, version, index.levels + 1)?;
            entries.put(&mut root, ROOT_AT)
        });
        put.map_err(|e| self.in_inode(directory.number, e))?;
        self.write_directory_block(directory, 0, root_block, root)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(hashes: &[u32]) -> Vec<Hashed> {
        hashes
            .iter()
            .map(|hash| Hashed {
                hash: *hash,
                inode: 12,
                kind: 1,
                name: b"twelve_chars".to_vec(),
            })
            .collect()
    }

    #[test]
    fn halves_say_when_a_hash_is_in_both() {
        let (first, second, from) = halves(names(&[8, 2, 6, 4])).unwrap();
        assert_eq!((first, second, from), (names(&[2, 4]), names(&[6, 8]), 6));
        let (first, second, from) = halves(names(&[2, 4, 4, 4])).unwrap();
        assert_eq!((first, second, from), (names(&[2, 4]), names(&[4, 4]), 5));
        assert!(halves(names(&[2])).is_none() && halves(Vec::new()).is_none());
    }
}
