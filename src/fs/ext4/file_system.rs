//! [`FileSystem`] over [`Ext4`].

use super::{
    Ext4, acl,
    inode::{self, Stamp},
    xattr::split_name,
};
use crate::fs::{Attributes, Edit, FileSystem, Identity, Node, Result};
use std::ops::Range;

impl FileSystem for Ext4 {
    fn identity(&self) -> Identity {
        let uuid = self.superblock.uuid;
        Identity {
            kind: self.superblock.kind().to_owned(),
            uuid: (uuid != [0; 16]).then(|| uuid::Uuid::from_bytes(uuid).hyphenated().to_string()),
            label: (!self.superblock.volume_name.is_empty())
                .then(|| String::from_utf8_lossy(&self.superblock.volume_name).into_owned()),
        }
    }

    fn root(&self) -> Node {
        Node(u64::from(inode::ROOT))
    }

    fn lookup(&self, directory: Node, name: &[u8]) -> Result<Option<Node>> {
        let directory = self.node(directory)?;
        Ok(self.find(&directory, name)?.map(|inode| Node(u64::from(inode))))
    }

    fn list(&self, directory: Node, each: &mut dyn FnMut(&[u8], Node) -> bool) -> Result<()> {
        let directory = self.node(directory)?;
        self.each_entry(&directory, &mut |name, inode| {
            name == b"." || name == b".." || each(name, Node(u64::from(inode)))
        })
    }

    fn attributes(&self, node: Node) -> Result<Attributes> {
        let inode = self.node(node)?;
        Ok(Attributes {
            size: inode.size(),
            mode: Some(inode.mode()),
            owner: Some(inode.owner()),
            links: Some(u32::from(inode.links())),
            accessed: inode.time(Stamp::Accessed),
            modified: inode.time(Stamp::Modified),
            changed: inode.time(Stamp::Changed),
            created: inode.time(Stamp::Created),
        })
    }

    fn read_at(&self, node: Node, offset: u64, buffer: &mut [u8]) -> Result<usize> {
        let inode = self.node(node)?;
        self.read_contents(&inode, offset, buffer)
    }

    fn extended(&self, node: Node, name: &[u8]) -> Result<Option<Vec<u8>>> {
        let Some((prefix, rest)) = split_name(name) else {
            return Ok(None);
        };
        let inode = self.node(node)?;
        let Some(attribute) = self.attributes_of(&inode)?.into_iter().find(|attribute| {
            attribute.prefix == prefix && attribute.name == rest && !attribute.is_inline_data()
        }) else {
            return Ok(None);
        };
        let value = self.value_of(&inode, &attribute.value)?;
        if acl::is_acl(prefix) {
            return acl::to_interface(&value)
                .map(Some)
                .map_err(|e| self.in_inode(inode.number, e));
        }
        Ok(Some(value))
    }

    fn extended_names(&self, node: Node) -> Result<Vec<Vec<u8>>> {
        let inode = self.node(node)?;
        Ok(self
            .attributes_of(&inode)?
            .iter()
            .filter(|attribute| !attribute.is_inline_data())
            .filter_map(super::xattr::Attribute::full_name)
            .collect())
    }

    fn free(&self, each: &mut dyn FnMut(Range<u64>) -> Result<()>) -> Result<()> {
        self.each_free_run(each)?;
        self.each_unwritten_run(each)
    }

    fn data_runs(&self, each: &mut dyn FnMut(Node, Range<u64>) -> Result<()>) -> Result<()> {
        self.each_data_run(each)
    }

    fn file_runs(&self, node: Node, each: &mut dyn FnMut(u64, Range<u64>) -> Result<()>) -> Result<()> {
        self.each_run_of(&self.node(node)?, each)
    }

    fn recovered(&self) -> Vec<String> {
        self.recovered.clone()
    }

    fn free_bytes(&self) -> Result<u64> {
        let free = self.superblock.free_blocks.min(self.superblock.blocks);
        Ok(self.byte(free.saturating_sub(self.superblock.reserved_blocks)))
    }

    fn edit(&mut self) -> Result<&mut dyn Edit> {
        self.check_editable()?;
        self.prepare_edit()?;
        Ok(self)
    }
}
