//! A filesystem in memory that can only be read.

use rehome::{
    disk::{Error, Kind},
    fs::{Attributes, Edit, FileSystem, GuestPath, Identity, Node, Result, mode},
};
use std::{collections::BTreeMap, ops::Range};

/// Directories, files and links; node 0 is the top.
pub struct MemoryFileSystem {
    items: Vec<Item>,
}

struct Item {
    mode: u32,
    contents: Vec<u8>,
    names: BTreeMap<Vec<u8>, usize>,
}

impl MemoryFileSystem {
    /// Empty.
    pub fn new() -> Self {
        let mut new = Self { items: Vec::new() };
        new.add(mode::DIRECTORY | 0o755);
        new
    }

    /// A file or a link; missing folders are made. Nothing happens if a file is in the way.
    pub fn put(&mut self, path: &str, mode: u32, contents: &[u8]) {
        let path = GuestPath::from(path);
        let names: Vec<_> = path.components().map(<[u8]>::to_vec).collect();
        let mut at = 0;
        for (index, name) in names.iter().enumerate() {
            if self.items[at].mode & mode::TYPE != mode::DIRECTORY {
                return;
            }
            let last = index + 1 == names.len();
            let there = self.items[at].names.get(name).copied();
            let next = there.unwrap_or_else(|| self.add(if last { mode } else { mode::DIRECTORY | 0o755 }));
            self.items[at].names.insert(name.clone(), next);
            at = next;
        }
        if self.items[at].mode & mode::TYPE != mode::DIRECTORY {
            self.items[at].contents = contents.to_vec();
        }
    }

    fn add(&mut self, mode: u32) -> usize {
        self.items.push(Item {
            mode,
            contents: Vec::new(),
            names: BTreeMap::new(),
        });
        self.items.len() - 1
    }

    fn item(&self, node: Node) -> Result<&Item> {
        let index = usize::try_from(node.0).expect("a node of ours");
        self.items
            .get(index)
            .ok_or_else(|| Error::new(Kind::NotFound, "memory", "no such node"))
    }

    fn directory(&self, node: Node) -> Result<&Item> {
        let item = self.item(node)?;
        if item.mode & mode::TYPE == mode::DIRECTORY {
            return Ok(item);
        }
        Err(Error::new(Kind::Corrupt, "memory", "not a directory"))
    }
}

impl FileSystem for MemoryFileSystem {
    fn identity(&self) -> Identity {
        Identity {
            kind: "ext4".to_owned(),
            uuid: Some("0d2f6c0b-6c5e-4a57-9f0f-7d1f3a8e21b1".to_owned()),
            label: Some("root".to_owned()),
        }
    }

    fn root(&self) -> Node {
        Node(0)
    }

    fn lookup(&self, directory: Node, name: &[u8]) -> Result<Option<Node>> {
        Ok(self
            .directory(directory)?
            .names
            .get(name)
            .map(|index| Node(*index as u64)))
    }

    fn list(&self, directory: Node, each: &mut dyn FnMut(&[u8], Node) -> bool) -> Result<()> {
        for (name, index) in &self.directory(directory)?.names {
            if !each(name, Node(*index as u64)) {
                break;
            }
        }
        Ok(())
    }

    fn attributes(&self, node: Node) -> Result<Attributes> {
        let item = self.item(node)?;
        Ok(Attributes {
            size: item.contents.len() as u64,
            mode: Some(item.mode),
            ..Attributes::default()
        })
    }

    fn read_at(&self, node: Node, offset: u64, buffer: &mut [u8]) -> Result<usize> {
        let contents = &self.item(node)?.contents;
        let start = usize::try_from(offset).unwrap_or(usize::MAX).min(contents.len());
        let count = buffer.len().min(contents.len() - start);
        buffer[..count].copy_from_slice(&contents[start..start + count]);
        Ok(count)
    }

    fn data_runs(&self, _each: &mut dyn FnMut(Node, Range<u64>) -> Result<()>) -> Result<()> {
        Ok(())
    }

    fn free_bytes(&self) -> Result<u64> {
        Ok(1 << 40)
    }

    fn edit(&mut self) -> Result<&mut dyn Edit> {
        Err(Error::new(Kind::ReadOnly, "memory", "only for reading"))
    }
}
