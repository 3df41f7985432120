//! Extended attributes (kernel documentation, "ext4: Extended Attributes"; `struct ext4_xattr_header`,
//! `ext4_xattr_ibody_header`, `ext4_xattr_entry`): after the fields of an inode, and in a block of their own.

use super::{
    Ext4,
    checksum::crc32c,
    error::{Ext4Error, Parsed},
    inode::{Inode, flag},
};
use crate::{
    disk::field::{bytes_at, u8_at, u16_le, u32_le},
    fs::Result,
};
use std::sync::Arc;

/// Of the block and of the space in the inode.
pub(super) const MAGIC: u32 = 0xea02_0000;
/// Header of a block.
pub(super) const HEADER: usize = 32;
/// Header of the space in an inode: the magic only. Offsets of values count from after it.
pub(super) const INODE_HEADER: usize = 4;
/// An entry without its name.
pub(super) const ENTRY: usize = 16;
/// The kernel's limit (`XATTR_SIZE_MAX`): no interface can read or set more.
const MOST_VALUE: u32 = 65536;

/// `e_name_index` of inline data ("system.data").
pub(super) const SYSTEM: u8 = 7;

/// `e_name_index` and the prefix that it stands for.
const PREFIXES: [(u8, &[u8]); 8] = [
    (1, b"user."),
    (2, b"system.posix_acl_access"),
    (3, b"system.posix_acl_default"),
    (4, b"trusted."),
    (6, b"security."),
    (7, b"system."),
    (8, b"system.richacl"),
    (10, b"gnu."),
];

/// Where a value is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Value {
    /// Beside its entry.
    Here(Vec<u8>),
    /// The contents of an inode of its own (`ea_inode`).
    InInode {
        /// Its number.
        inode: u32,
        /// In bytes.
        size: u32,
        /// `e_hash`: kept, as it is not of these bytes alone.
        hash: u32,
    },
}

/// An attribute as stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Attribute {
    /// `e_name_index`.
    pub(super) prefix: u8,
    /// The name after the prefix.
    pub(super) name: Vec<u8>,
    /// The value.
    pub(super) value: Value,
}

impl Attribute {
    /// Is it the second part of inline data, which is not an attribute to anybody else?
    pub(super) fn is_inline_data(&self) -> bool {
        self.prefix == SYSTEM && self.name == b"data"
    }

    /// "user.a"; `None` for a prefix that has no name (the key of an encrypted file).
    pub(super) fn full_name(&self) -> Option<Vec<u8>> {
        let (_, prefix) = PREFIXES.iter().find(|(index, _)| *index == self.prefix)?;
        Some([prefix, &*self.name].concat())
    }
}

/// The prefix number and the rest of a full name. The longest prefix counts.
pub(super) fn split_name(full: &[u8]) -> Option<(u8, &[u8])> {
    PREFIXES
        .iter()
        .filter_map(|(index, prefix)| {
            let rest = full.strip_prefix(*prefix)?;
            // "user." alone is no name, and "system.posix_acl_access" has no rest.
            (prefix.ends_with(b".") != rest.is_empty()).then_some((*index, rest, prefix.len()))
        })
        .max_by_key(|(_, _, length)| *length)
        .map(|(index, rest, _)| (index, rest))
}

/// Parses the entries at `at`; offsets of values count from `base`.
pub(super) fn parse(bytes: &[u8], at: usize, base: usize) -> Parsed<Vec<Attribute>> {
    let mut attributes = Vec::new();
    let mut at = at;
    // The list ends with four zero bytes, or where the space does.
    while at + 4 <= bytes.len() && u32_le(bytes, at)? != 0 {
        let entry = bytes_at(bytes, at, ENTRY)?;
        let name_length = usize::from(u8_at(entry, 0)?);
        let (inode, size) = (u32_le(entry, 4)?, u32_le(entry, 8)?);
        let value = if inode == 0 {
            let offset = base.saturating_add(usize::from(u16_le(entry, 2)?));
            let length = usize::try_from(size).unwrap_or(usize::MAX);
            Value::Here(if size == 0 {
                Vec::new()
            } else {
                bytes_at(bytes, offset, length)?.to_vec()
            })
        } else {
            Value::InInode {
                inode,
                size,
                hash: u32_le(entry, 12)?,
            }
        };
        attributes.push(Attribute {
            prefix: u8_at(entry, 1)?,
            name: bytes_at(bytes, at + ENTRY, name_length)?.to_vec(),
            value,
        });
        at += (ENTRY + name_length).next_multiple_of(4);
    }
    Ok(attributes)
}

/// The attributes in the space of an inode; none without the magic.
pub(super) fn parse_inode_space(space: &[u8]) -> Parsed<Vec<Attribute>> {
    if u32_le(space, 0).is_ok_and(|magic| magic == MAGIC) {
        parse(space, INODE_HEADER, INODE_HEADER)
    } else {
        Ok(Vec::new())
    }
}

/// `h_checksum`: over the block's number and its bytes, the checksum's own taken as zero.
pub(super) fn checksum(block: &[u8], number: u64, seed: u32) -> Parsed<u32> {
    let sum = crc32c(crc32c(seed, &number.to_le_bytes()), bytes_at(block, 0, 16)?);
    Ok(crc32c(crc32c(sum, &[0; 4]), block.get(20..).unwrap_or_default()))
}

impl Ext4 {
    /// The block of attributes at `number`, with its magic and checksum verified.
    pub(super) fn attribute_block(&self, owner: u32, number: u64) -> Result<Arc<[u8]>> {
        let bytes = self.block(number)?;
        let check = || {
            let (magic, blocks) = (u32_le(&bytes, 0)?, u32_le(&bytes, 8)?);
            if magic != MAGIC || blocks != 1 {
                return Err(Ext4Error::damaged(format!(
                    "block of extended attributes: magic {MAGIC:#x} and 1 block expected, {magic:#x} and {blocks} found"
                )));
            }
            let found = u32_le(&bytes, 16)?;
            match self.superblock.checksums.metadata_seed() {
                Some(seed) => {
                    let computed = checksum(&bytes, number, seed)?;
                    if found == computed {
                        return Ok(());
                    }
                    Err(Ext4Error::Checksum {
                        structure: "block of extended attributes".to_owned(),
                        found,
                        computed,
                    })
                }
                None => Ok(()),
            }
        };
        check().map_err(|e| self.in_inode(owner, e).at(self.byte(number)))?;
        Ok(bytes)
    }

    /// All attributes of an inode, those in the inode first.
    pub(super) fn attributes_of(&self, inode: &Inode) -> Result<Vec<Attribute>> {
        let mut attributes =
            parse_inode_space(inode.attribute_space()).map_err(|e| self.in_inode(inode.number, e))?;
        let block = inode.attribute_block();
        if block != 0 {
            let bytes = self.attribute_block(inode.number, block)?;
            let more =
                parse(&bytes, HEADER, 0).map_err(|e| self.in_inode(inode.number, e).at(self.byte(block)))?;
            attributes.extend(more);
        }
        Ok(attributes)
    }

    /// The bytes of a value, wherever they are.
    pub(super) fn value_of(&self, owner: &Inode, value: &Value) -> Result<Vec<u8>> {
        let (number, size) = match value {
            Value::Here(bytes) => return Ok(bytes.clone()),
            Value::InInode { inode, size, .. } => (*inode, *size),
        };
        let holder = self.inode(number)?;
        if size > MOST_VALUE || !holder.has(flag::EA_INODE) || holder.size() != u64::from(size) {
            return Err(self.damaged_inode(
                owner.number,
                &format!(
                    "an extended attribute of {size} bytes is said to be in inode {number}, which holds none or {} bytes",
                    holder.size()
                ),
            ));
        }
        let mut bytes = vec![0; usize::try_from(size).unwrap_or(0)];
        self.read_blocks(&holder, 0, &mut bytes)?;
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_split_at_their_longest_prefix() {
        assert_eq!(split_name(b"user.a"), Some((1, &b"a"[..])));
        assert_eq!(split_name(b"system.posix_acl_access"), Some((2, &b""[..])));
        assert_eq!(
            split_name(b"system.posix_acl_accessible"),
            Some((7, &b"posix_acl_accessible"[..]))
        );
        assert_eq!(split_name(b"security.selinux"), Some((6, &b"selinux"[..])));
        assert_eq!(split_name(b"user."), None);
        assert_eq!(split_name(b"other.a"), None);
    }
}
