//! Contents kept within the inode (kernel documentation, "ext4: Inline Data"): the first 60 bytes in `i_block`, the
//! rest as the value of the attribute `system.data`.

use super::{
    Ext4,
    inode::{BLOCK_LENGTH, Inode},
    xattr::Value,
};
use crate::{disk::field::u32_le, fs::Result};

/// An inline directory: the parent's number stands for `.` and `..`; entries are in two parts.
#[derive(Clone, Debug)]
pub(super) struct InlineDirectory {
    /// Inode of the parent.
    pub(super) parent: u32,
    contents: Vec<u8>,
}

impl InlineDirectory {
    /// The two runs of entries; none goes from one into the other.
    pub(super) fn parts(&self) -> impl Iterator<Item = &[u8]> {
        let first = self.contents.get(4..BLOCK_LENGTH.min(self.contents.len()));
        let second = self.contents.get(BLOCK_LENGTH..);
        [first, second]
            .into_iter()
            .flatten()
            .filter(|part| !part.is_empty())
    }
}

impl Ext4 {
    /// The contents, `i_size` bytes.
    pub(super) fn inline_contents(&self, inode: &Inode) -> Result<Vec<u8>> {
        let mut contents = inode.block().to_vec();
        for attribute in self.attributes_of(inode)? {
            if attribute.is_inline_data() {
                match attribute.value {
                    Value::Here(value) => contents.extend_from_slice(&value),
                    Value::InInode { .. } => {
                        return Err(self
                            .damaged_inode(inode.number, "its inline data is said to be in another inode"));
                    }
                }
            }
        }
        let size = usize::try_from(inode.size()).unwrap_or(usize::MAX);
        if size > contents.len() {
            return Err(self.damaged_inode(
                inode.number,
                &format!(
                    "{size} bytes are said to be inline, where there are {}",
                    contents.len()
                ),
            ));
        }
        contents.truncate(size);
        Ok(contents)
    }

    /// An inline directory's contents.
    pub(super) fn inline_directory(&self, inode: &Inode) -> Result<InlineDirectory> {
        let contents = self.inline_contents(inode)?;
        Ok(InlineDirectory {
            parent: u32_le(&contents, 0).map_err(|e| self.in_inode(inode.number, e.into()))?,
            contents,
        })
    }
}
