//! Changing extended attributes. An attribute goes into the inode if there is room, else into the block; those that
//! are not changed stay where they are.

use super::{
    Ext4,
    error::{Ext4Error, Parsed},
    features::compat,
    inode::{Inode, flag},
    xattr::{self, Attribute, ENTRY, HEADER, INODE_HEADER, MAGIC, Value},
};
use crate::{
    disk::field::{put_bytes, put_u8, put_u16_le, put_u32_le, u32_le},
    fs::Result,
};

/// The list ends with this many zero bytes.
const END: usize = 4;

/// `e_hash` (`ext4_xattr_hash_entry`): over the name, then over the value as padded words.
fn entry_hash(name: &[u8], value: &[u8]) -> u32 {
    let mut hash = 0_u32;
    for byte in name {
        hash = hash.rotate_left(5) ^ u32::from(*byte);
    }
    for word in value.chunks(4) {
        let mut bytes = [0; 4];
        for (to, from) in bytes.iter_mut().zip(word) {
            *to = *from;
        }
        hash = hash.rotate_left(16) ^ u32::from_le_bytes(bytes);
    }
    hash
}

/// Bytes that the attributes need, header and end included.
fn needed(attributes: &[Attribute], header: usize) -> usize {
    attributes.iter().fold(header + END, |sum, attribute| {
        let value = match &attribute.value {
            Value::Here(bytes) => bytes.len().next_multiple_of(4),
            Value::InInode { .. } => 0,
        };
        sum + (ENTRY + attribute.name.len()).next_multiple_of(4) + value
    })
}

/// Writes the entries at `at` and their values down from the end of `space`; offsets of values count from `base`.
/// Gives the hashes of the entries.
fn encode(
    space: &mut [u8],
    attributes: &[Attribute],
    at: usize,
    base: usize,
    hashed: bool,
) -> Parsed<Vec<u32>> {
    let mut at = at;
    let mut end = space.len();
    let mut hashes = Vec::with_capacity(attributes.len());
    for attribute in attributes {
        let name_length = u8::try_from(attribute.name.len()).map_err(|_| {
            Ext4Error::Unsupported("the name of an extended attribute has over 255 bytes".to_owned())
        })?;
        put_u8(space, at, name_length)?;
        put_u8(space, at + 1, attribute.prefix)?;
        let hash = match &attribute.value {
            Value::Here(bytes) => {
                let mut offset = 0;
                if !bytes.is_empty() {
                    end = end.saturating_sub(bytes.len().next_multiple_of(4));
                    put_bytes(space, end, bytes)?;
                    offset = end.saturating_sub(base);
                }
                let offset = u16::try_from(offset)
                    .map_err(|_| Ext4Error::damaged("a value of an extended attribute lies past 64 KiB"))?;
                put_u16_le(space, at + 2, offset)?;
                put_u32_le(space, at + 8, u32::try_from(bytes.len()).unwrap_or(u32::MAX))?;
                // Within an inode the kernel leaves it 0.
                if hashed {
                    entry_hash(&attribute.name, bytes)
                } else {
                    0
                }
            }
            Value::InInode { inode, size, hash } => {
                put_u32_le(space, at + 4, *inode)?;
                put_u32_le(space, at + 8, *size)?;
                *hash
            }
        };
        put_u32_le(space, at + 12, hash)?;
        put_bytes(space, at + ENTRY, &attribute.name)?;
        hashes.push(hash);
        at += (ENTRY + attribute.name.len()).next_multiple_of(4);
    }
    Ok(hashes)
}

/// A whole block of attributes with one owner, without its checksum.
fn encode_block(attributes: &mut [Attribute], length: usize) -> Parsed<Vec<u8>> {
    // The kernel finds them by this order.
    attributes.sort_by(|a, b| (a.prefix, a.name.len(), &a.name).cmp(&(b.prefix, b.name.len(), &b.name)));
    let mut block = vec![0; length];
    let hashes = encode(&mut block, attributes, HEADER, 0, true)?;
    let mut hash = 0_u32;
    for entry in hashes {
        // A block with an entry of hash 0 is shared with nobody.
        if entry == 0 {
            hash = 0;
            break;
        }
        hash = hash.rotate_left(16) ^ entry;
    }
    put_u32_le(&mut block, 0, MAGIC)?;
    put_u32_le(&mut block, 4, 1)?;
    put_u32_le(&mut block, 8, 1)?;
    put_u32_le(&mut block, 12, hash)?;
    Ok(block)
}

impl Ext4 {
    /// Sets an attribute, or removes it.
    pub(super) fn set_attribute(
        &mut self,
        inode: &mut Inode,
        prefix: u8,
        name: &[u8],
        value: Option<&[u8]>,
    ) -> Result<()> {
        let number = inode.number;
        let old_block = inode.attribute_block();
        let mut near =
            xattr::parse_inode_space(inode.attribute_space()).map_err(|e| self.in_inode(number, e))?;
        let mut far = if old_block == 0 {
            Vec::new()
        } else {
            let bytes = self.attribute_block(number, old_block)?;
            xattr::parse(&bytes, HEADER, 0).map_err(|e| self.in_inode(number, e))?
        };
        let is_it = |attribute: &Attribute| attribute.prefix == prefix && attribute.name == name;
        if let Some(Attribute {
            value: Value::InInode { inode: holder, .. },
            ..
        }) = near.iter().chain(&far).find(|attribute| is_it(attribute))
        {
            return Err(self.fault(Ext4Error::Unsupported(format!(
                "inode {number}: the attribute is kept in inode {holder} (ea_inode), which rehome reads but does not \
                 change"
            ))));
        }
        let (near_before, far_before) = (near.len(), far.len());
        near.retain(|attribute| !is_it(attribute));
        far.retain(|attribute| !is_it(attribute));
        let mut far_changed = far.len() != far_before;
        let mut near_changed = near.len() != near_before;
        if let Some(value) = value {
            let new = Attribute {
                prefix,
                name: name.to_vec(),
                value: Value::Here(value.to_vec()),
            };
            near.push(new);
            if needed(&near, INODE_HEADER) <= inode.attribute_space().len() {
                near_changed = true;
            } else if let Some(new) = near.pop() {
                far.push(new);
                if needed(&far, HEADER) > self.block_length() {
                    return Err(self.fault(Ext4Error::Full(format!(
                        "inode {number} has no room for an extended attribute of {} bytes",
                        value.len()
                    ))));
                }
                far_changed = true;
            }
            self.allow_attributes()?;
        }
        if near_changed {
            self.put_near(inode, &near)?;
        }
        if far_changed {
            self.put_far(inode, &mut far)?;
        }
        Ok(())
    }

    /// Extended attributes are a feature that is set with the first of them.
    fn allow_attributes(&mut self) -> Result<()> {
        if self.superblock.revision == 0 {
            return Err(self.fault(Ext4Error::Unsupported(
                "a filesystem of revision 0 has no extended attributes; `tune2fs -O ext_attr` on a copy gives it them"
                    .to_owned(),
            )));
        }
        self.superblock.compat |= compat::EXT_ATTR;
        Ok(())
    }

    fn put_near(&self, inode: &mut Inode, attributes: &[Attribute]) -> Result<()> {
        let number = inode.number;
        let space = inode.attribute_space_mut();
        space.fill(0);
        if attributes.is_empty() {
            return Ok(());
        }
        let put = put_u32_le(space, 0, MAGIC)
            .map_err(Ext4Error::from)
            .and_then(|()| encode(space, attributes, INODE_HEADER, INODE_HEADER, false));
        put.map(|_| ()).map_err(|e| self.in_inode(number, e))
    }

    fn put_far(&mut self, inode: &mut Inode, attributes: &mut [Attribute]) -> Result<()> {
        let old = inode.attribute_block();
        if attributes.is_empty() {
            return self.release_attribute_block(inode);
        }
        let bytes =
            encode_block(attributes, self.block_length()).map_err(|e| self.in_inode(inode.number, e))?;
        let alone = old != 0 && self.attribute_references(inode.number, old)? == 1;
        if alone {
            return self.write_attribute_block(old, bytes);
        }
        // A block that others share stays as it is for them.
        if attributes
            .iter()
            .any(|attribute| matches!(attribute.value, Value::InInode { .. }))
            && old != 0
        {
            return Err(self.fault(Ext4Error::Unsupported(format!(
                "inode {}: it shares extended attributes that are kept in other inodes (ea_inode), which rehome reads \
                 but does not change",
                inode.number
            ))));
        }
        self.release_attribute_block(inode)?;
        let goal = self.goal_for(inode, 0)?;
        let block = self.allocate_for_attributes(inode, goal)?;
        inode.set_attribute_block(block);
        self.write_attribute_block(block, bytes)
    }

    fn allocate_for_attributes(&mut self, inode: &mut Inode, goal: u64) -> Result<u64> {
        // Without 64bit the block's number has 32 bits, and so has every block's.
        let run = self.allocate_blocks(goal, 1, 1 << 48)?;
        self.count_blocks(inode, 1, true)?;
        Ok(run.start)
    }

    /// `h_refcount`.
    fn attribute_references(&self, owner: u32, block: u64) -> Result<u32> {
        let bytes = self.attribute_block(owner, block)?;
        let references = u32_le(&bytes, 4).map_err(|e| self.in_inode(owner, e.into()))?;
        if references == 0 {
            return Err(self.damaged_inode(owner, "a block of extended attributes that nobody refers to"));
        }
        Ok(references)
    }

    fn write_attribute_block(&mut self, block: u64, mut bytes: Vec<u8>) -> Result<()> {
        if let Some(seed) = self.superblock.checksums.metadata_seed() {
            let sealed =
                xattr::checksum(&bytes, block, seed).and_then(|sum| Ok(put_u32_le(&mut bytes, 16, sum)?));
            sealed.map_err(|e| self.fault(e))?;
        }
        self.write_file_block(block, bytes)
    }

    /// The inode refers to its block of attributes no more.
    fn release_attribute_block(&mut self, inode: &mut Inode) -> Result<()> {
        let block = inode.attribute_block();
        if block == 0 {
            return Ok(());
        }
        let references = self.attribute_references(inode.number, block)?;
        if references > 1 {
            let mut bytes = self.attribute_block(inode.number, block)?.to_vec();
            put_u32_le(&mut bytes, 4, references - 1).map_err(|e| self.in_inode(inode.number, e.into()))?;
            self.write_attribute_block(block, bytes)?;
        } else {
            self.free_blocks(block..block.saturating_add(1))?;
        }
        self.count_blocks(inode, 1, false)?;
        inode.set_attribute_block(0);
        Ok(())
    }

    /// The inode goes: so do its attributes, and the inodes that hold their values.
    pub(super) fn release_attributes(&mut self, inode: &mut Inode) -> Result<()> {
        let mut values =
            xattr::parse_inode_space(inode.attribute_space()).map_err(|e| self.in_inode(inode.number, e))?;
        let block = inode.attribute_block();
        if block != 0 && self.attribute_references(inode.number, block)? == 1 {
            let bytes = self.attribute_block(inode.number, block)?;
            values.extend(xattr::parse(&bytes, HEADER, 0).map_err(|e| self.in_inode(inode.number, e))?);
        }
        self.release_attribute_block(inode)?;
        for attribute in values {
            if let Value::InInode { inode: holder, .. } = attribute.value {
                self.release_holder(inode.number, holder)?;
            }
        }
        Ok(())
    }

    /// One reference less to an inode that holds a value. Its count is in `i_ctime` (high half) and `i_version` (low
    /// half): `ext4_xattr_inode_get_ref`.
    fn release_holder(&mut self, owner: u32, number: u32) -> Result<()> {
        let mut holder = self.inode(number)?;
        if !holder.has(flag::EA_INODE) || holder.links() == 0 {
            return Err(self.damaged_inode(owner, &format!("inode {number} holds no extended attribute")));
        }
        match holder.holder_references() {
            0 | 1 => self.release_inode(holder),
            references => {
                holder.set_holder_references(references - 1);
                self.write_inode(&holder)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_survive_encoding() {
        let attribute = |prefix, name: &[u8], value: &[u8]| Attribute {
            prefix,
            name: name.to_vec(),
            value: Value::Here(value.to_vec()),
        };
        let mut all = vec![
            attribute(6, b"selinux", b"system_u:object_r:etc_t:s0\0"),
            attribute(1, b"bb", b""),
            attribute(1, b"c", b"12345"),
        ];
        let block = encode_block(&mut all, 1024).unwrap();
        let parsed = xattr::parse(&block, HEADER, 0).unwrap();
        assert_eq!(parsed, all);
        assert_eq!(parsed[0].name, b"c");
        let mut space = vec![0; needed(&all, INODE_HEADER)];
        put_u32_le(&mut space, 0, MAGIC).unwrap();
        encode(&mut space, &all, INODE_HEADER, INODE_HEADER, false).unwrap();
        assert_eq!(xattr::parse_inode_space(&space).unwrap(), all);
        assert_eq!(space[..4], MAGIC.to_le_bytes());
    }
}
