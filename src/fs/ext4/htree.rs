//! The index of a directory (kernel documentation, "ext4: Hash Tree Directories"; `struct dx_root`, `dx_node`,
//! `dx_entry`, `dx_tail`): a tree of hashes, kept in blocks that look empty to those that don't know it.

use super::{
    Ext4,
    checksum::crc32c,
    error::{Ext4Error, Parsed},
    features::incompat,
    hash::NameHash,
    inode::{Inode, flag},
};
use crate::{
    disk::field::{bytes_at, put_u8, put_u16_le, put_u32_le, u8_at, u16_le, u32_le},
    fs::Result,
};

/// The limit and count of the root: after `.`, `..` and 8 bytes of information.
pub(super) const ROOT_AT: usize = 32;
/// The limit and count of a node: after one empty entry.
pub(super) const NODE_AT: usize = 8;
const ENTRY: usize = 8;
const TAIL: usize = 8;

/// Hash and block of one entry; the first entry of a block has no hash of its own, it is the least.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct IndexEntry {
    /// Names from this hash on; the lowest bit says that names of the same hash are in the block before, too.
    pub(super) hash: u32,
    /// Block of the directory.
    pub(super) block: u32,
}

/// The entries of an index block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct IndexBlock {
    /// Room.
    pub(super) limit: u16,
    /// Ascending by hash; never empty.
    pub(super) entries: Vec<IndexEntry>,
}

/// What the root says of the whole index.
#[derive(Clone, Debug)]
pub(super) struct Index {
    /// The hash function.
    pub(super) hash: NameHash,
    /// Levels of nodes between root and leaves.
    pub(super) levels: u8,
    /// The root's own entries.
    pub(super) root: IndexBlock,
}

/// One step on the way from the root to a leaf.
#[derive(Clone, Debug)]
pub(super) struct Step {
    /// Block of the directory that the entries are in.
    pub(super) block: u64,
    /// Its entries.
    pub(super) entries: IndexBlock,
    /// Which of them was taken.
    pub(super) taken: usize,
}

impl Step {
    /// The block that the entry taken leads to.
    pub(super) fn child(&self) -> u64 {
        self.entries
            .entries
            .get(self.taken)
            .map_or(0, |entry| u64::from(entry.block & 0x0fff_ffff))
    }
}

impl IndexBlock {
    /// Parses the limit, the count and the entries at `at`.
    pub(super) fn parse(block: &[u8], at: usize) -> Parsed<Self> {
        let (limit, count) = (u16_le(block, at)?, u16_le(block, at + 2)?);
        let room = block.len().saturating_sub(at) / ENTRY;
        if count == 0 || count > limit || usize::from(limit) > room {
            return Err(Ext4Error::damaged(format!(
                "directory index: {count} entries where {limit} fit, in a block with room for {room}"
            )));
        }
        let mut entries: Vec<IndexEntry> = Vec::with_capacity(usize::from(count));
        for (number, entry) in bytes_at(block, at, usize::from(count) * ENTRY)?
            .chunks_exact(ENTRY)
            .enumerate()
        {
            let hash = if number == 0 { 0 } else { u32_le(entry, 0)? };
            if entries.last().is_some_and(|last| last.hash > hash) {
                return Err(Ext4Error::damaged("directory index: hashes are out of order"));
            }
            entries.push(IndexEntry {
                hash,
                block: u32_le(entry, 4)?,
            });
        }
        Ok(Self { limit, entries })
    }

    /// Writes the limit, the count and the entries at `at`.
    pub(super) fn put(&self, block: &mut [u8], at: usize) -> Parsed<()> {
        let count = u16::try_from(self.entries.len()).unwrap_or(u16::MAX);
        if count > self.limit {
            return Err(Ext4Error::damaged(
                "directory index: more entries than there is room for",
            ));
        }
        for (number, entry) in self.entries.iter().enumerate() {
            if number > 0 {
                put_u32_le(block, at + number * ENTRY, entry.hash)?;
            }
            put_u32_le(block, at + number * ENTRY + 4, entry.block)?;
        }
        put_u16_le(block, at, self.limit)?;
        Ok(put_u16_le(block, at + 2, count)?)
    }

    /// The last entry whose hash is not above `hash`.
    pub(super) fn position(&self, hash: u32) -> usize {
        self.entries
            .partition_point(|entry| entry.hash <= hash)
            .saturating_sub(1)
    }
}

/// How many entries fit into an index block whose limit and count are at `at`.
pub(super) fn room(block_size: usize, at: usize, with_checksum: bool) -> u16 {
    let tail = if with_checksum { TAIL } else { 0 };
    u16::try_from(block_size.saturating_sub(at + tail) / ENTRY).unwrap_or(u16::MAX)
}

/// Where the limit and count are in an index block: in the root the first entry is `.`, in a node it is empty.
fn counts_at(block: &[u8]) -> Parsed<usize> {
    Ok(if u32_le(block, 0)? == 0 { NODE_AT } else { ROOT_AT })
}

/// The checksum goes over the entries in use, then over the tail with the checksum taken as zero.
fn checksum(block: &[u8], seed: u32) -> Parsed<(usize, u32)> {
    let at = counts_at(block)?;
    let (limit, count) = (
        usize::from(u16_le(block, at)?),
        usize::from(u16_le(block, at + 2)?),
    );
    let tail_at = at + limit * ENTRY;
    if count > limit {
        return Err(Ext4Error::damaged(
            "directory index: more entries than there is room for",
        ));
    }
    let sum = crc32c(seed, bytes_at(block, 0, at + count * ENTRY)?);
    let sum = crc32c(sum, bytes_at(block, tail_at, 4)?);
    Ok((tail_at + 4, crc32c(sum, &[0; 4])))
}

/// Verifies the checksum in the tail of an index block.
pub(super) fn verify(block: &[u8], seed: u32) -> Parsed<()> {
    let (at, computed) = checksum(block, seed)?;
    let found = u32_le(block, at)?;
    if found == computed {
        return Ok(());
    }
    Err(Ext4Error::Checksum {
        structure: "directory index".to_owned(),
        found,
        computed,
    })
}

/// Puts the checksum into the tail of an index block.
pub(super) fn seal(block: &mut [u8], seed: u32) -> Parsed<()> {
    let (at, computed) = checksum(block, seed)?;
    Ok(put_u32_le(block, at, computed)?)
}

/// Writes the information of a root: the hash function and the levels.
pub(super) fn put_information(block: &mut [u8], version: u8, levels: u8) -> Parsed<()> {
    put_u32_le(block, 24, 0)?;
    put_u8(block, 28, version)?;
    put_u8(block, 29, 8)?;
    put_u8(block, 30, levels)?;
    Ok(put_u8(block, 31, 0)?)
}

impl Ext4 {
    /// Levels of nodes that an index may have below its root.
    pub(super) fn most_levels(&self) -> u8 {
        if self.superblock.has_incompat(incompat::LARGE_DIR) {
            2
        } else {
            1
        }
    }

    /// The root of a directory's index; `None` where names are found by looking through all: an unknown hash
    /// function, or one over case-folded or encrypted names.
    pub(super) fn index_of(&self, directory: &Inode) -> Result<Option<Index>> {
        if directory.has(flag::CASEFOLD | flag::ENCRYPT) {
            return Ok(None);
        }
        let Some((block, bytes)) = self.directory_block(directory, 0)? else {
            return Err(self.damaged_inode(directory.number, "an indexed directory has no first block"));
        };
        let parse = || {
            let (version, length) = (u8_at(&bytes, 28)?, u8_at(&bytes, 29)?);
            let (levels, flags) = (u8_at(&bytes, 30)?, u8_at(&bytes, 31)?);
            let Some(hash) = NameHash::of_version(version, &self.superblock) else {
                return Ok(None);
            };
            if length != 8 || flags & 1 != 0 || levels > self.most_levels() {
                return Err(Ext4Error::damaged(format!(
                    "directory index: information of {length} bytes, flags {flags:#x}, {levels} levels"
                )));
            }
            Ok(Some(Index {
                hash,
                levels,
                root: IndexBlock::parse(&bytes, ROOT_AT)?,
            }))
        };
        parse().map_err(|e| self.in_inode(directory.number, e).at(self.byte(block)))
    }

    /// The steps from the root down to the first leaf that may have names of `hash`.
    pub(super) fn descend(&self, directory: &Inode, index: &Index, hash: u32) -> Result<Vec<Step>> {
        let mut steps = vec![Step {
            block: 0,
            taken: index.root.position(hash),
            entries: index.root.clone(),
        }];
        for _ in 0..index.levels {
            let block = steps.last().map_or(0, Step::child);
            let entries = self.index_node(directory, block)?;
            steps.push(Step {
                block,
                taken: entries.position(hash),
                entries,
            });
        }
        Ok(steps)
    }

    fn index_node(&self, directory: &Inode, block: u64) -> Result<IndexBlock> {
        let Some((_, bytes)) = self.directory_block(directory, block)? else {
            return Err(self.damaged_inode(
                directory.number,
                &format!("directory index: node {block} is in a hole"),
            ));
        };
        IndexBlock::parse(&bytes, NODE_AT).map_err(|e| self.in_inode(directory.number, e))
    }

    /// Goes on to the next leaf, if it continues the names of `hash`.
    pub(super) fn next_leaf(&self, directory: &Inode, steps: &mut [Step], hash: u32) -> Result<bool> {
        let mut level = steps.len();
        loop {
            let Some(step) = level.checked_sub(1).and_then(|at| steps.get_mut(at)) else {
                return Ok(false);
            };
            if let Some(next) = step.entries.entries.get(step.taken + 1) {
                if next.hash & !1 != hash || next.hash & 1 == 0 {
                    return Ok(false);
                }
                step.taken += 1;
                break;
            }
            level -= 1;
        }
        let mut child = level
            .checked_sub(1)
            .and_then(|at| steps.get(at))
            .map_or(0, Step::child);
        for step in steps.iter_mut().skip(level) {
            step.block = child;
            step.entries = self.index_node(directory, child)?;
            step.taken = 0;
            child = step.child();
        }
        Ok(true)
    }
}
