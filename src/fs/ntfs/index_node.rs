//! Nodes of an index: the root, which is an attribute, and blocks in clusters (Linux-NTFS documentation, "$INDEX_ROOT",
//! "$INDEX_ALLOCATION", "Index Header", "Index Entry").
//!
//! An index is a B-tree: entries stand in inner nodes too, each with the node of what comes before it. The last entry of a
//! node has no key, only, in inner nodes, the node of what comes after all.

use super::{
    error::{NtfsError, Parsed},
    file_record::Reference,
    update_sequence,
};
use crate::disk::field::{
    bytes_at, put_bytes, put_u8, put_u16_le, put_u32_le, put_u64_le, u8_at, u16_le, u32_le, u64_le,
};

/// Flags of an entry.
const HAS_CHILD: u16 = 1;
const LAST: u16 = 2;
/// Flag of a node: its entries have children.
const INNER: u8 = 1;

/// Bytes of an entry before its key.
pub(super) const ENTRY_HEADER: usize = 0x10;
/// Bytes of a node's header, before which a root has its own and a block has that of a protected record.
pub(super) const NODE_HEADER: usize = 0x10;
/// Where the header of the node is.
pub(super) const ROOT_NODE: usize = 0x10;
pub(super) const BLOCK_NODE: usize = 0x18;
/// Bytes of a child's number.
const CHILD: usize = 8;

/// How the keys of an index are ordered.
pub(super) mod collation {
    pub(crate) const FILE_NAME: u32 = 0x01;
    pub(crate) const ULONG: u32 = 0x10;
    pub(crate) const SECURITY_HASH: u32 = 0x12;
    pub(crate) const ULONGS: u32 = 0x13;
}

/// An entry as it stands in a node.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry<'a> {
    /// All but the child's number.
    pub(super) raw: &'a [u8],
    /// The first virtual cluster of the child's block, in the index's own unit.
    pub(super) child: Option<u64>,
}

impl<'a> Entry<'a> {
    /// In a directory: the file.
    pub(super) fn reference(&self) -> Parsed<Reference> {
        Ok(Reference::parse(u64_le(self.raw, 0)?))
    }

    pub(super) fn key(&self) -> Parsed<&'a [u8]> {
        key(self.raw)
    }

    /// In other indexes: what belongs to the key.
    pub(super) fn data(&self) -> Parsed<&'a [u8]> {
        Ok(bytes_at(
            self.raw,
            usize::from(u16_le(self.raw, 0)?),
            usize::from(u16_le(self.raw, 2)?),
        )?)
    }
}

/// The key of an entry.
pub(super) fn key(raw: &[u8]) -> Parsed<&[u8]> {
    Ok(bytes_at(raw, ENTRY_HEADER, usize::from(u16_le(raw, 10)?))?)
}

/// The entries of a node, and the child after the last. `node` begins with the node's header.
pub(super) fn entries(node: &[u8]) -> Parsed<(Vec<Entry<'_>>, Option<u64>)> {
    let start = usize::try_from(u32_le(node, 0)?).unwrap_or(usize::MAX);
    let end = usize::try_from(u32_le(node, 4)?).unwrap_or(usize::MAX);
    let mut rest = node
        .get(start..end)
        .filter(|_| start >= NODE_HEADER)
        .ok_or_else(|| {
            NtfsError::damaged(format!(
                "entries from byte {start} to {end}, in an index node of {}",
                node.len()
            ))
        })?;
    let mut entries = Vec::new();
    loop {
        let length = usize::from(u16_le(rest, 8)?);
        let flags = u16_le(rest, 12)?;
        let raw_length = match flags & HAS_CHILD {
            0 => Some(length),
            _ => length.checked_sub(CHILD),
        };
        let Some(raw_length) = raw_length.filter(|raw| *raw >= ENTRY_HEADER && length % 8 == 0) else {
            return Err(NtfsError::damaged(format!("an index entry of {length} bytes")));
        };
        let raw = bytes_at(rest, 0, raw_length)?;
        let child = match flags & HAS_CHILD {
            0 => None,
            _ => Some(u64_le(rest, raw_length)?),
        };
        if flags & LAST != 0 {
            return Ok((entries, child));
        }
        key(raw)?;
        entries.push(Entry { raw, child });
        rest = rest.get(length..).unwrap_or_default();
    }
}

/// The header of an index's root.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RootHeader {
    /// Type of the attribute that is indexed; 0 for other indexes.
    pub(super) kind: u32,
    pub(super) collation: u32,
    /// Bytes of a block.
    pub(super) block_size: u32,
    /// As it stands there: blocks in clusters, or in sectors of 512 bytes.
    pub(super) clusters_per_block: u8,
}

impl RootHeader {
    pub(super) fn parse(raw: &[u8]) -> Parsed<Self> {
        let header = Self {
            kind: u32_le(raw, 0)?,
            collation: u32_le(raw, 4)?,
            block_size: u32_le(raw, 8)?,
            clusters_per_block: u8_at(raw, 12)?,
        };
        if !(512..=65536).contains(&header.block_size) || !header.block_size.is_power_of_two() {
            return Err(NtfsError::damaged(format!(
                "an index with blocks of {} bytes",
                header.block_size
            )));
        }
        Ok(header)
    }

    /// The root with its node.
    pub(super) fn encode(&self, node: &Node) -> Parsed<Vec<u8>> {
        let mut raw = vec![0; ROOT_NODE + NODE_HEADER + node.length()];
        put_u32_le(&mut raw, 0, self.kind)?;
        put_u32_le(&mut raw, 4, self.collation)?;
        put_u32_le(&mut raw, 8, self.block_size)?;
        put_u8(&mut raw, 12, self.clusters_per_block)?;
        node.put(raw.get_mut(ROOT_NODE..).unwrap_or_default(), NODE_HEADER)?;
        Ok(raw)
    }
}

/// A block of an index from disk, its protected bytes put back and checked to be the one that is wanted.
pub(super) fn restore_block(raw: &mut [u8], vcn: u64) -> Parsed<()> {
    let magic = bytes_at(raw, 0, 4)?;
    if magic != b"INDX" {
        return Err(NtfsError::damaged(format!(
            "index block {vcn}: \"INDX\" expected, \"{}\" found",
            magic.escape_ascii()
        )));
    }
    update_sequence::restore(raw).map_err(|error| error.within(format!("index block {vcn}")))?;
    let found = u64_le(raw, 0x10)?;
    if found != vcn {
        return Err(NtfsError::damaged(format!(
            "index block {found} stands where block {vcn} should"
        )));
    }
    Ok(())
}

/// Is it the block that is wanted, read before?
pub(super) fn is_block(raw: &[u8], vcn: u64) -> bool {
    raw.starts_with(b"INDX") && u64_le(raw, 0x10).is_ok_and(|found| found == vcn)
}

/// A node that is changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Node {
    pub(super) entries: Vec<OwnedEntry>,
    /// The child after the last entry.
    pub(super) last: Option<u64>,
}

/// An entry that is changed or moved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct OwnedEntry {
    /// All but the child's number, and what depends on it.
    pub(super) raw: Vec<u8>,
    pub(super) child: Option<u64>,
}

impl OwnedEntry {
    /// Of a directory.
    pub(super) fn of_name(file: Reference, key: &[u8]) -> Parsed<Self> {
        let mut raw = vec![0; (ENTRY_HEADER + key.len()).next_multiple_of(8)];
        put_u64_le(&mut raw, 0, file.encode())?;
        put_u16_le(&mut raw, 10, short(key.len()))?;
        put_bytes(&mut raw, ENTRY_HEADER, key)?;
        Ok(Self { raw, child: None })
    }

    /// Of another index. `padding` stands after the data.
    pub(super) fn of_data(key: &[u8], data: &[u8], padding: &[u8]) -> Parsed<Self> {
        let at = ENTRY_HEADER + key.len();
        let mut raw = vec![0; (at + data.len() + padding.len()).next_multiple_of(8)];
        put_u16_le(&mut raw, 0, short(at))?;
        put_u16_le(&mut raw, 2, short(data.len()))?;
        put_u16_le(&mut raw, 10, short(key.len()))?;
        put_bytes(&mut raw, ENTRY_HEADER, key)?;
        put_bytes(&mut raw, at, data)?;
        put_bytes(&mut raw, at + data.len(), padding)?;
        Ok(Self { raw, child: None })
    }

    pub(super) fn key(&self) -> Parsed<&[u8]> {
        key(&self.raw)
    }

    /// Bytes in a node.
    pub(super) fn length(&self) -> usize {
        self.raw.len() + self.child.map_or(0, |_| CHILD)
    }
}

fn short(value: usize) -> u16 {
    u16::try_from(value).unwrap_or(u16::MAX)
}

impl Node {
    /// Reads one; `raw` begins with the node's header.
    pub(super) fn parse(raw: &[u8]) -> Parsed<Self> {
        let (entries, last) = entries(raw)?;
        let inner = last.is_some();
        if entries.iter().any(|entry| entry.child.is_some() != inner) {
            return Err(NtfsError::damaged(
                "an index node where some entries have children and some have none",
            ));
        }
        let owned = |entry: &Entry<'_>| OwnedEntry {
            raw: entry.raw.to_vec(),
            child: entry.child,
        };
        Ok(Self {
            entries: entries.iter().map(owned).collect(),
            last,
        })
    }

    /// Bytes of all entries, the last one included.
    pub(super) fn length(&self) -> usize {
        let last = ENTRY_HEADER + self.last.map_or(0, |_| CHILD);
        self.entries.iter().map(OwnedEntry::length).sum::<usize>() + last
    }

    /// The child before entry `index`, or after all.
    pub(super) fn child(&self, index: usize) -> Option<u64> {
        match self.entries.get(index) {
            Some(entry) => entry.child,
            None => self.last,
        }
    }

    /// Writes header and entries; `raw` begins with the node's header and is all of the room for it, entries begin
    /// at byte `start`.
    fn put(&self, raw: &mut [u8], start: usize) -> Parsed<()> {
        let used = start + self.length();
        let long = |value: usize| u32::try_from(value).unwrap_or(u32::MAX);
        put_u32_le(raw, 0, long(start))?;
        put_u32_le(raw, 4, long(used))?;
        put_u32_le(raw, 8, long(raw.len()))?;
        put_u8(raw, 12, if self.last.is_some() { INNER } else { 0 })?;
        let mut at = start;
        let ends = [OwnedEntry {
            raw: vec![0; ENTRY_HEADER],
            child: self.last,
        }];
        let all = self.entries.iter().map(|entry| (entry, 0));
        for (entry, last) in all.chain(ends.iter().map(|end| (end, LAST))) {
            put_bytes(raw, at, &entry.raw)?;
            put_u16_le(raw, at + 8, short(entry.length()))?;
            let has_child = if entry.child.is_some() { HAS_CHILD } else { 0 };
            put_u16_le(raw, at + 12, last | has_child)?;
            if let Some(child) = entry.child {
                put_u64_le(raw, at + entry.raw.len(), child)?;
            }
            at += entry.length();
        }
        Ok(())
    }

    /// Writes it to the block `vcn`, of which `old` is what it was (none for a new one), and protects it.
    pub(super) fn encode_block(&self, old: Option<&[u8]>, vcn: u64, length: usize) -> Parsed<Vec<u8>> {
        let mut raw = vec![0; length];
        put_bytes(&mut raw, 0, b"INDX")?;
        put_u16_le(&mut raw, 4, short(UPDATE_SEQUENCE))?;
        put_u16_le(&mut raw, 6, short(update_sequence::entries(length)))?;
        put_u64_le(&mut raw, 0x10, vcn)?;
        let number = match old {
            Some(old) => {
                // The last record of the journal that was about it.
                put_bytes(&mut raw, 8, bytes_at(old, 8, 8)?)?;
                u16_le(old, usize::from(u16_le(old, 4)?))?
            }
            None => 0,
        };
        put_u16_le(&mut raw, UPDATE_SEQUENCE, number)?;
        let start = block_start(length) - BLOCK_NODE;
        self.put(raw.get_mut(BLOCK_NODE..).unwrap_or_default(), start)?;
        Ok(raw)
    }
}

/// Where the update sequence array of a block is.
const UPDATE_SEQUENCE: usize = 0x28;

/// Where the entries of a block begin.
fn block_start(length: usize) -> usize {
    (UPDATE_SEQUENCE + update_sequence::entries(length) * 2).next_multiple_of(8)
}

/// Bytes that the entries of a block may take.
pub(super) fn block_room(length: usize) -> usize {
    length.saturating_sub(block_start(length))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(inner: bool) -> Node {
        let entry = |number: u64, key: &[u8]| OwnedEntry {
            child: inner.then_some(number * 4),
            ..OwnedEntry::of_name(Reference { number, sequence: 1 }, key).unwrap()
        };
        Node {
            entries: vec![entry(30, b"first key"), entry(31, b"second"), entry(32, b"3")],
            last: inner.then_some(4),
        }
    }

    #[test]
    fn a_block_comes_back() {
        for inner in [false, true] {
            for length in [1024, 4096] {
                let node = node(inner);
                let mut raw = node.encode_block(None, 12, length).unwrap();
                update_sequence::protect(&mut raw).unwrap();
                restore_block(&mut raw, 12).unwrap();
                let read = Node::parse(&raw[BLOCK_NODE..]).unwrap();
                assert_eq!(read.last, node.last);
                assert_eq!(read.length(), node.length());
                for (read, written) in read.entries.iter().zip(&node.entries) {
                    assert_eq!(read.key().unwrap(), written.key().unwrap());
                    assert_eq!(read.child, written.child);
                }
                assert!(restore_block(&mut raw.clone(), 13).is_err());
                let again = read.encode_block(Some(&raw), 12, length).unwrap();
                assert_eq!(again[0x40..], raw[0x40..]);
            }
        }
    }

    #[test]
    fn a_root_comes_back() {
        let header = RootHeader {
            kind: 0x30,
            collation: collation::FILE_NAME,
            block_size: 4096,
            clusters_per_block: 1,
        };
        let raw = header.encode(&node(true)).unwrap();
        assert_eq!(RootHeader::parse(&raw).unwrap(), header);
        assert_eq!(Node::parse(&raw[ROOT_NODE..]).unwrap().entries.len(), 3);
        assert_eq!(entries(&raw[ROOT_NODE..]).unwrap().1, Some(4));
    }

    #[test]
    fn data_stands_behind_its_key() {
        let entry = OwnedEntry::of_data(b"key8byte", &[7; 20], b"I\0I\0").unwrap();
        assert_eq!(entry.raw.len(), 0x30);
        let node = Node {
            entries: vec![entry],
            last: None,
        };
        let raw = node.encode_block(None, 0, 4096).unwrap();
        let (entries, _) = entries(&raw[BLOCK_NODE..]).unwrap();
        assert_eq!(entries[0].key().unwrap(), b"key8byte");
        assert_eq!(entries[0].data().unwrap(), [7; 20]);
    }

    #[test]
    fn entries_that_reach_outside_are_refused() {
        let raw = node(false).encode_block(None, 0, 1024).unwrap();
        let first = block_start(1024);
        for (at, value) in [
            (first + 8, 0_u16),
            (first + 8, 0x10),
            (first + 8, 0x1f8),
            (first + 10, 500),
            (first + 12, 1),
        ] {
            let mut raw = raw.clone();
            put_u16_le(&mut raw, at, value).unwrap();
            assert!(Node::parse(&raw[BLOCK_NODE..]).is_err(), "{at:#x} {value:#x}");
        }
        for (at, value) in [(0x18, 8_u32), (0x18, 2000), (0x1c, 2000), (0x1c, 0x30)] {
            let mut raw = raw.clone();
            put_u32_le(&mut raw, at, value).unwrap();
            assert!(Node::parse(&raw[BLOCK_NODE..]).is_err(), "{at:#x} {value:#x}");
        }
    }
}
