//! Nodes of extent trees (kernel documentation, "ext4: Extent Tree"; `struct ext4_extent_header`, `ext4_extent`,
//! `ext4_extent_idx`, `ext4_extent_tail`): the root in `i_block`, all others a block each.

use super::{checksum::crc32c, error::Ext4Error};
use crate::disk::field::{bytes_at, put_bytes, put_u16_le, put_u32_le, u16_le, u32_le};

const MAGIC: u16 = 0xf30a;
const ENTRY: usize = 12;
/// `EXT4_MAX_EXTENT_DEPTH`: a tree of this depth maps all that 32-bit block numbers can say.
pub(super) const MOST_DEPTH: u16 = 5;
/// `EXT_INIT_MAX_LEN`: longer lengths mean unwritten, by what they are longer.
pub(super) const MOST_WRITTEN: u32 = 32768;

/// A run of blocks of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Extent {
    /// First block of the file.
    pub(super) logical: u32,
    /// Blocks, at least 1.
    pub(super) length: u32,
    /// First block of the filesystem.
    pub(super) physical: u64,
    /// Allocated, but reads as zeros.
    pub(super) unwritten: bool,
}

/// What leads to a node one level down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Index {
    /// First block of the file that the child maps.
    pub(super) logical: u32,
    /// Block of the child.
    pub(super) child: u64,
}

/// The entries of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Entries {
    /// Of a leaf.
    Extents(Vec<Extent>),
    /// Of a node above.
    Indexes(Vec<Index>),
}

/// A node, parsed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ExtentNode {
    /// `eh_max`: how many entries there is room for.
    pub(super) capacity: u16,
    /// `eh_depth`: 0 for a leaf.
    pub(super) depth: u16,
    /// In order of their logical block.
    pub(super) entries: Entries,
}

impl ExtentNode {
    /// Parses a node: `i_block` or a whole block. `blocks` is the size of the filesystem; no entry may go beyond it.
    pub(super) fn parse(bytes: &[u8], blocks: u64) -> Result<Self, Ext4Error> {
        let magic = u16_le(bytes, 0)?;
        if magic != MAGIC {
            return Err(Ext4Error::damaged(format!(
                "extent tree: magic 0xf30a expected, {magic:#06x} found"
            )));
        }
        let (count, capacity, depth) = (u16_le(bytes, 2)?, u16_le(bytes, 4)?, u16_le(bytes, 6)?);
        let room = bytes.len().saturating_sub(ENTRY) / ENTRY;
        if count > capacity || usize::from(capacity) > room || depth > MOST_DEPTH {
            return Err(Ext4Error::damaged(format!(
                "extent tree: {count} of {capacity} entries at depth {depth}, where there is room for {room} and the \
                 depth is at most {MOST_DEPTH}"
            )));
        }
        let raw = bytes_at(bytes, ENTRY, usize::from(count) * ENTRY)?;
        let entries = if depth == 0 {
            Entries::Extents(extents(raw, blocks)?)
        } else {
            Entries::Indexes(indexes(raw, blocks)?)
        };
        Ok(Self {
            capacity,
            depth,
            entries,
        })
    }

    /// The node as bytes, `length` long; a block's checksum is put at its end by [`seal`].
    pub(super) fn encode(&self, length: usize) -> Result<Vec<u8>, Ext4Error> {
        let mut bytes = vec![0; length];
        put_u16_le(&mut bytes, 0, MAGIC)?;
        put_u16_le(&mut bytes, 4, self.capacity)?;
        put_u16_le(&mut bytes, 6, self.depth)?;
        let mut count = 0_u16;
        let mut put = |entry: [u8; ENTRY]| -> Result<(), Ext4Error> {
            put_bytes(&mut bytes, ENTRY + usize::from(count) * ENTRY, &entry)?;
            count += 1;
            Ok(())
        };
        match &self.entries {
            Entries::Extents(extents) => {
                for extent in extents {
                    put(encode_extent(extent)?)?;
                }
            }
            Entries::Indexes(indexes) => {
                for index in indexes {
                    let mut entry = [0; ENTRY];
                    put_u32_le(&mut entry, 0, index.logical)?;
                    put_u32_le(&mut entry, 4, (index.child & 0xffff_ffff) as u32)?;
                    put_u16_le(&mut entry, 8, (index.child >> 32 & 0xffff) as u16)?;
                    put(entry)?;
                }
            }
        }
        put_u16_le(&mut bytes, 2, count)?;
        Ok(bytes)
    }

    /// An empty node of `depth` for `length` bytes.
    pub(super) fn empty(depth: u16, length: usize) -> Self {
        Self {
            capacity: u16::try_from(length.saturating_sub(ENTRY) / ENTRY).unwrap_or(u16::MAX),
            depth,
            entries: if depth == 0 {
                Entries::Extents(Vec::new())
            } else {
                Entries::Indexes(Vec::new())
            },
        }
    }

    /// Entries in use.
    pub(super) fn count(&self) -> usize {
        match &self.entries {
            Entries::Extents(extents) => extents.len(),
            Entries::Indexes(indexes) => indexes.len(),
        }
    }

    /// First block of the file that is mapped here; `None` for a leaf without entries.
    pub(super) fn first(&self) -> Option<u32> {
        match &self.entries {
            Entries::Extents(extents) => extents.first().map(|extent| extent.logical),
            Entries::Indexes(indexes) => indexes.first().map(|index| index.logical),
        }
    }

    /// Is there no room for one more?
    pub(super) fn is_full(&self) -> bool {
        self.count() >= usize::from(self.capacity)
    }
}

fn extents(raw: &[u8], blocks: u64) -> Result<Vec<Extent>, Ext4Error> {
    let mut extents = Vec::with_capacity(raw.len() / ENTRY);
    let mut free_from = 0_u64;
    for entry in raw.chunks_exact(ENTRY) {
        let stored = u32::from(u16_le(entry, 4)?);
        let unwritten = stored > MOST_WRITTEN;
        let extent = Extent {
            logical: u32_le(entry, 0)?,
            length: if unwritten { stored - MOST_WRITTEN } else { stored },
            physical: u64::from(u32_le(entry, 8)?) | u64::from(u16_le(entry, 6)?) << 32,
            unwritten,
        };
        let logical_end = u64::from(extent.logical) + u64::from(extent.length);
        let physical_end = extent.physical + u64::from(extent.length);
        if extent.length == 0
            || u64::from(extent.logical) < free_from
            || logical_end > 1 << 32
            || extent.physical == 0
            || physical_end > blocks
        {
            return Err(Ext4Error::damaged(format!(
                "extent tree: {} blocks from file block {} at block {}, where the entry before ends at {free_from} \
                 and the filesystem at {blocks}",
                extent.length, extent.logical, extent.physical
            )));
        }
        free_from = logical_end;
        extents.push(extent);
    }
    Ok(extents)
}

fn indexes(raw: &[u8], blocks: u64) -> Result<Vec<Index>, Ext4Error> {
    let mut indexes: Vec<Index> = Vec::with_capacity(raw.len() / ENTRY);
    for entry in raw.chunks_exact(ENTRY) {
        let index = Index {
            logical: u32_le(entry, 0)?,
            child: u64::from(u32_le(entry, 4)?) | u64::from(u16_le(entry, 8)?) << 32,
        };
        let ascends = indexes.last().is_none_or(|last| last.logical < index.logical);
        if !ascends || index.child == 0 || index.child >= blocks {
            return Err(Ext4Error::damaged(format!(
                "extent tree: the index from file block {} leads to block {} of {blocks}, or is out of order",
                index.logical, index.child
            )));
        }
        indexes.push(index);
    }
    if indexes.is_empty() {
        return Err(Ext4Error::damaged("extent tree: an index node without entries"));
    }
    Ok(indexes)
}

fn encode_extent(extent: &Extent) -> Result<[u8; ENTRY], Ext4Error> {
    let stored = if extent.unwritten {
        extent.length.saturating_add(MOST_WRITTEN)
    } else {
        extent.length
    };
    let stored = u16::try_from(stored)
        .map_err(|_| Ext4Error::damaged(format!("extent tree: a run of {} blocks", extent.length)))?;
    let mut entry = [0; ENTRY];
    put_u32_le(&mut entry, 0, extent.logical)?;
    put_u16_le(&mut entry, 4, stored)?;
    put_u16_le(&mut entry, 6, (extent.physical >> 32 & 0xffff) as u16)?;
    put_u32_le(&mut entry, 8, (extent.physical & 0xffff_ffff) as u32)?;
    Ok(entry)
}

/// Offset of `et_checksum` in a block: right after the room for entries.
fn checksum_at(block: &[u8]) -> Result<usize, Ext4Error> {
    Ok(ENTRY + ENTRY * usize::from(u16_le(block, 4)?))
}

/// Verifies the checksum of a node that is a block; `seed` is the inode's.
pub(super) fn verify(block: &[u8], seed: u32) -> Result<(), Ext4Error> {
    let at = checksum_at(block)?;
    let found = u32_le(block, at)?;
    let computed = crc32c(seed, bytes_at(block, 0, at)?);
    if found == computed {
        return Ok(());
    }
    Err(Ext4Error::Checksum {
        structure: "extent tree".to_owned(),
        found,
        computed,
    })
}

/// Puts the checksum into a node that is a block.
pub(super) fn seal(block: &mut [u8], seed: u32) -> Result<(), Ext4Error> {
    let at = checksum_at(block)?;
    let computed = crc32c(seed, bytes_at(block, 0, at)?);
    Ok(put_u32_le(block, at, computed)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaf(extents: Vec<Extent>) -> ExtentNode {
        ExtentNode {
            entries: Entries::Extents(extents),
            ..ExtentNode::empty(0, 60)
        }
    }

    #[test]
    fn nodes_survive_encoding() {
        let extent = |logical, length, unwritten| Extent {
            logical,
            length,
            physical: 0x1234_5678_9abc,
            unwritten,
        };
        let node = leaf(vec![extent(0, 32768, false), extent(40000, 1, true)]);
        let bytes = node.encode(60).unwrap();
        assert_eq!(ExtentNode::parse(&bytes, 1 << 48).unwrap(), node);
        assert!(ExtentNode::parse(&bytes, 0x1234_5678_9abc).is_err());
        let overlapping = leaf(vec![extent(0, 10, false), extent(9, 1, false)]);
        assert!(ExtentNode::parse(&overlapping.encode(60).unwrap(), 1 << 48).is_err());
    }

    #[test]
    fn lying_headers_are_refused() {
        let good = leaf(Vec::new()).encode(60).unwrap();
        for (at, value) in [(2, 5_u16), (4, 99), (6, 6), (0, 0)] {
            let mut bad = good.clone();
            put_u16_le(&mut bad, at, value).unwrap();
            assert!(ExtentNode::parse(&bad, 1000).is_err(), "{at}");
        }
    }
}
