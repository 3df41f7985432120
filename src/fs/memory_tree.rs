//! A filesystem in memory for tests, built from a list of paths.

use super::{Attributes, Edit, FileSystem, GuestPath, Identity, Node, Result, mode};
use crate::disk::{Error, Kind};
use std::{collections::BTreeMap, io::Read, ops::Range};

/// Directories, files and links in memory. Small and simple: errors only where the trait promises them.
pub(crate) struct MemoryTree {
    identity: Identity,
    items: Vec<Item>,
    clock: u64,
    case_blind: bool,
}

#[derive(Default)]
struct Item {
    attributes: Attributes,
    contents: Vec<u8>,
    names: BTreeMap<Vec<u8>, usize>,
    extended: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl MemoryTree {
    /// Empty, with the kind ("ext4"; "vfat" is blind to upper and lower case) and `UUID=` that it says it has.
    pub(crate) fn new(kind: &str, uuid: &str) -> Self {
        let mut tree = Self {
            identity: Identity {
                kind: kind.into(),
                uuid: Some(uuid.into()),
                label: None,
            },
            items: Vec::new(),
            clock: 0,
            case_blind: kind == "vfat",
        };
        tree.add(mode::DIRECTORY | 0o755);
        tree
    }

    /// A regular file; missing folders are made.
    pub(crate) fn file(mut self, path: &str, contents: impl AsRef<[u8]>) -> Self {
        let node = self.make(path, mode::FILE | 0o644);
        self.items[node].contents = contents.as_ref().to_vec();
        self
    }

    /// A symbolic link.
    pub(crate) fn link(mut self, path: &str, target: &str) -> Self {
        let node = self.make(path, mode::LINK | 0o777);
        self.items[node].contents = target.into();
        self
    }

    /// A folder.
    pub(crate) fn directory(mut self, path: &str) -> Self {
        self.make(path, mode::DIRECTORY | 0o755);
        self
    }

    /// A folder that lies in itself.
    pub(crate) fn directory_loop(mut self, path: &str) -> Self {
        let node = self.make(path, mode::DIRECTORY | 0o755);
        self.items[node].names.insert(b"again".to_vec(), node);
        self
    }

    fn add(&mut self, kind: u32) -> usize {
        self.items.push(Item {
            attributes: Attributes {
                mode: Some(kind),
                owner: Some((0, 0)),
                links: Some(1),
                ..Attributes::default()
            },
            ..Item::default()
        });
        self.items.len() - 1
    }

    fn make(&mut self, path: &str, kind: u32) -> usize {
        let path = GuestPath::from(path);
        let names: Vec<_> = path.components().map(<[u8]>::to_vec).collect();
        let mut at = 0;
        for (i, name) in names.iter().enumerate() {
            at = match self.items[at].names.get(name) {
                Some(there) => *there,
                None => {
                    let last = i + 1 == names.len();
                    let new = self.add(if last { kind } else { mode::DIRECTORY | 0o755 });
                    self.items[at].names.insert(name.clone(), new);
                    new
                }
            };
        }
        at
    }

    fn item(&self, node: Node) -> Result<&Item> {
        self.items
            .get(node.0 as usize)
            .ok_or_else(|| fail("no such node"))
    }

    fn item_mut(&mut self, node: Node) -> Result<&mut Item> {
        self.items
            .get_mut(node.0 as usize)
            .ok_or_else(|| fail("no such node"))
    }

    fn directory_at(&self, node: Node) -> Result<&Item> {
        let item = self.item(node)?;
        if item.attributes.is_directory() {
            Ok(item)
        } else {
            Err(fail("not a directory"))
        }
    }
}

fn fail(text: &str) -> Error {
    Error::new(Kind::Corrupt, "memory tree", text)
}

impl FileSystem for MemoryTree {
    fn identity(&self) -> Identity {
        self.identity.clone()
    }

    fn root(&self) -> Node {
        Node(0)
    }

    fn lookup(&self, directory: Node, name: &[u8]) -> Result<Option<Node>> {
        let names = &self.directory_at(directory)?.names;
        let blind = |(other, _): &(&Vec<u8>, &usize)| self.case_blind && other.eq_ignore_ascii_case(name);
        let found = names.get(name).or_else(|| Some(names.iter().find(blind)?.1));
        Ok(found.map(|node| Node(*node as u64)))
    }

    fn list(&self, directory: Node, each: &mut dyn FnMut(&[u8], Node) -> bool) -> Result<()> {
        for (name, node) in &self.directory_at(directory)?.names {
            if !each(name, Node(*node as u64)) {
                break;
            }
        }
        Ok(())
    }

    fn attributes(&self, node: Node) -> Result<Attributes> {
        let item = self.item(node)?;
        Ok(Attributes {
            size: item.contents.len() as u64,
            ..item.attributes.clone()
        })
    }

    fn read_at(&self, node: Node, offset: u64, buffer: &mut [u8]) -> Result<usize> {
        let contents = &self.item(node)?.contents;
        let rest = contents.get(offset as usize..).unwrap_or_default();
        let count = rest.len().min(buffer.len());
        buffer[..count].copy_from_slice(&rest[..count]);
        Ok(count)
    }

    fn extended(&self, node: Node, name: &[u8]) -> Result<Option<Vec<u8>>> {
        Ok(self.item(node)?.extended.get(name).cloned())
    }

    fn extended_names(&self, node: Node) -> Result<Vec<Vec<u8>>> {
        Ok(self.item(node)?.extended.keys().cloned().collect())
    }

    fn data_runs(&self, _each: &mut dyn FnMut(Node, Range<u64>) -> Result<()>) -> Result<()> {
        Ok(())
    }

    fn free_bytes(&self) -> Result<u64> {
        Ok(1 << 30)
    }

    fn edit(&mut self) -> Result<&mut dyn Edit> {
        Ok(self)
    }
}

impl Edit for MemoryTree {
    fn set_clock(&mut self, seconds: u64) {
        self.clock = seconds;
    }

    fn create(&mut self, directory: Node, name: &[u8], kind: u32) -> Result<Node> {
        if self.lookup(directory, name)?.is_some() {
            return Err(Error::new(Kind::Exists, "memory tree", "is there already"));
        }
        let new = self.add(kind);
        self.item_mut(directory)?.names.insert(name.to_vec(), new);
        Ok(Node(new as u64))
    }

    fn link(&mut self, node: Node, directory: Node, name: &[u8]) -> Result<()> {
        self.item_mut(directory)?
            .names
            .insert(name.to_vec(), node.0 as usize);
        Ok(())
    }

    fn replace(&mut self, node: Node, contents: &mut dyn Read) -> Result<()> {
        let mut new = Vec::new();
        contents
            .read_to_end(&mut new)
            .map_err(|error| Error::io("memory tree", error))?;
        let modified = Some(i128::from(self.clock) * 1_000_000_000);
        let item = self.item_mut(node)?;
        item.contents = new;
        item.attributes.modified = modified;
        Ok(())
    }

    fn append(&mut self, node: Node, contents: &mut dyn Read) -> Result<()> {
        let item = self.item_mut(node)?;
        contents
            .read_to_end(&mut item.contents)
            .map_err(|error| Error::io("memory tree", error))?;
        Ok(())
    }

    fn remove(&mut self, directory: Node, name: &[u8]) -> Result<()> {
        let node = self.lookup(directory, name)?.ok_or_else(|| fail("not there"))?;
        if !self.item(node)?.names.is_empty() {
            return Err(fail("directory not empty"));
        }
        self.item_mut(directory)?.names.remove(name);
        Ok(())
    }

    fn rename(&mut self, from: (Node, &[u8]), to: (Node, &[u8])) -> Result<()> {
        let node = self
            .item_mut(from.0)?
            .names
            .remove(from.1)
            .ok_or_else(|| fail("not there"))?;
        self.item_mut(to.0)?.names.insert(to.1.to_vec(), node);
        Ok(())
    }

    fn set_attributes(&mut self, node: Node, new: &Attributes) -> Result<()> {
        let attributes = &mut self.item_mut(node)?.attributes;
        if let (Some(old), Some(new)) = (attributes.mode, new.mode) {
            attributes.mode = Some(old & mode::TYPE | new & !mode::TYPE);
        }
        attributes.owner = new.owner.or(attributes.owner);
        attributes.accessed = new.accessed.or(attributes.accessed);
        attributes.modified = new.modified.or(attributes.modified);
        attributes.changed = new.changed.or(attributes.changed);
        attributes.created = new.created.or(attributes.created);
        Ok(())
    }

    fn set_extended(&mut self, node: Node, name: &[u8], value: Option<&[u8]>) -> Result<()> {
        let extended = &mut self.item_mut(node)?.extended;
        match value {
            Some(value) => extended.insert(name.to_vec(), value.to_vec()),
            None => extended.remove(name),
        };
        Ok(())
    }

    fn commit(&mut self) -> Result<()> {
        Ok(())
    }
}
