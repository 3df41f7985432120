//! Writing.

use super::{
    FatFileSystem, ROOT,
    directory::Named,
    directory_entry::{ARCHIVE, DIRECTORY, DirectoryEntry, Stamp},
};
use crate::{
    disk::Kind,
    fs::{Attributes, Edit, FileSystem, Node, Result, mode},
};
use std::io::Read;

impl FatFileSystem {
    fn now(&self) -> Stamp {
        Stamp::from_nanoseconds(i128::from(self.clock) * 1_000_000_000)
    }

    /// The contents of `entry` have changed.
    pub(super) fn touch(&self, entry: &mut DirectoryEntry) {
        let now = self.now();
        entry.modified = Stamp { hundredths: 0, ..now };
        entry.accessed_date = now.date;
        entry.attributes |= ARCHIVE;
    }

    fn refused(&self, what: &str) -> crate::disk::Error {
        self.error(Kind::Unsupported, None, format!("FAT has no {what}"))
    }

    fn first_cluster(&self, directory: Node) -> Result<u32> {
        if directory == ROOT {
            Ok(0)
        } else {
            Ok(self.entry(directory)?.cluster)
        }
    }

    /// Gives a new directory its first cluster, with `.` and `..`.
    fn make_directory(&mut self, parent: Node, entry: &mut DirectoryEntry) -> Result<()> {
        let above = self.first_cluster(parent)?;
        let cluster = self.allocate(self.hint)?;
        entry.attributes = DIRECTORY;
        entry.cluster = cluster;
        let range = self.cluster_range(cluster)?;
        self.disk.write_zeros(range.clone())?;
        let dot = DirectoryEntry {
            short: *b".          ",
            ..entry.clone()
        };
        let dots = DirectoryEntry {
            short: *b"..         ",
            cluster: above,
            ..entry.clone()
        };
        self.disk.write_at(range.start, &dot.to_bytes())?;
        self.disk.write_at(range.start + 32, &dots.to_bytes())
    }

    /// Fails if the directory of `named` holds anything.
    fn must_be_empty(&self, named: &Named) -> Result<()> {
        if named.entry.is_directory()
            && !self
                .directory_at(named.entry.cluster)?
                .entries(self.large())
                .is_empty()
        {
            let name = String::from_utf8_lossy(&named.name).into_owned();
            return Err(self.error(
                Kind::Exists,
                None,
                format!("the directory \"{name}\" is not empty"),
            ));
        }
        Ok(())
    }

    fn remove_named(&mut self, directory: Node, named: &Named) -> Result<()> {
        self.must_be_empty(named)?;
        let chain = self.chain(named.entry.cluster)?;
        let mut holder = self.directory(directory)?;
        self.erase(&mut holder, named)?;
        self.nodes.remove(named.location);
        self.release(&chain)
    }

    fn must_find(&self, directory: Node, name: &[u8]) -> Result<Named> {
        let holder = self.directory(directory)?;
        self.find(&holder, name).ok_or_else(|| {
            let name = String::from_utf8_lossy(name).into_owned();
            self.error(
                Kind::NotFound,
                None,
                format!("no file is called \"{name}\" in its directory"),
            )
        })
    }

    fn regular(&self, node: Node) -> Result<DirectoryEntry> {
        if node == ROOT {
            return Err(self.error(Kind::Unsupported, None, "a directory has no contents to write"));
        }
        let entry = self.entry(node)?;
        if entry.is_directory() {
            return Err(self.error(Kind::Unsupported, None, "a directory has no contents to write"));
        }
        Ok(entry)
    }
}

impl Edit for FatFileSystem {
    fn set_clock(&mut self, seconds: u64) {
        self.clock = seconds;
    }

    fn create(&mut self, directory: Node, name: &[u8], kind: u32) -> Result<Node> {
        let mut holder = self.directory(directory)?;
        if self.find(&holder, name).is_some() {
            let name = String::from_utf8_lossy(name).into_owned();
            return Err(self.error(Kind::Exists, None, format!("\"{name}\" exists already")));
        }
        let now = self.now();
        let mut entry = DirectoryEntry {
            short: [b' '; 11],
            attributes: ARCHIVE,
            case: 0,
            created: now,
            accessed_date: now.date,
            modified: Stamp { hundredths: 0, ..now },
            cluster: 0,
            size: 0,
        };
        match kind & mode::TYPE {
            mode::FILE => {}
            mode::DIRECTORY => self.make_directory(directory, &mut entry)?,
            mode::LINK => return Err(self.refused("symbolic links")),
            _ => return Err(self.refused("special files")),
        }
        let cluster = entry.cluster;
        match self.insert(&mut holder, name, entry, None) {
            Ok(location) => Ok(self.nodes.add(location)),
            Err(error) => {
                if cluster != 0 {
                    self.release(&[cluster])?;
                }
                Err(error)
            }
        }
    }

    fn link(&mut self, _node: Node, _directory: Node, _name: &[u8]) -> Result<()> {
        Err(self.refused("hard links"))
    }

    fn replace(&mut self, node: Node, contents: &mut dyn Read) -> Result<()> {
        self.regular(node)?;
        self.write_file(node, 0, contents)
    }

    fn append(&mut self, node: Node, contents: &mut dyn Read) -> Result<()> {
        let entry = self.regular(node)?;
        self.write_file(node, entry.size, contents)
    }

    fn remove(&mut self, directory: Node, name: &[u8]) -> Result<()> {
        let named = self.must_find(directory, name)?;
        self.remove_named(directory, &named)
    }

    fn rename(&mut self, from: (Node, &[u8]), to: (Node, &[u8])) -> Result<()> {
        let moved = self.must_find(from.0, from.1)?;
        let mut target = self.directory(to.0)?;
        let replaced = self
            .find(&target, to.1)
            .filter(|there| there.location != moved.location);
        if moved.entry.is_directory() && self.lies_within(to.0, moved.entry.cluster)? {
            return Err(self.error(Kind::Unsupported, None, "a directory cannot be moved into itself"));
        }
        if let Some(replaced) = &replaced {
            match (moved.entry.is_directory(), replaced.entry.is_directory()) {
                (true, false) => {
                    return Err(self.error(Kind::Exists, None, "a directory cannot replace a file"));
                }
                (false, true) => {
                    return Err(self.error(Kind::Exists, None, "a file cannot replace a directory"));
                }
                _ => self.remove_named(to.0, replaced)?,
            }
            target = self.directory(to.0)?;
        }
        let location = self.insert(&mut target, to.1, moved.entry.clone(), Some(moved.location))?;
        let mut source = self.directory(from.0)?;
        self.erase(&mut source, &moved)?;
        self.nodes.rename(moved.location, location);
        if moved.entry.is_directory() && from.0 != to.0 {
            let above = self.first_cluster(to.0)?;
            let directory = self.directory_at(moved.entry.cluster)?;
            if let Some((at, _)) = directory.parent(self.large()) {
                let mut bytes = [0; 32];
                self.disk.read_at(at, &mut bytes)?;
                let dots = DirectoryEntry::parse(&bytes, self.large());
                let dots = dots.map_err(|error| self.damaged(Some(at), error))?;
                self.disk.write_at(
                    at,
                    &DirectoryEntry {
                        cluster: above,
                        ..dots
                    }
                    .to_bytes(),
                )?;
            }
        }
        Ok(())
    }

    fn set_attributes(&mut self, node: Node, new: &Attributes) -> Result<()> {
        let shown = self.attributes(node)?;
        let bits = |mode: Option<u32>| mode.map(|mode| mode & !mode::TYPE);
        if new.mode.is_some() && bits(new.mode) != bits(shown.mode) {
            return Err(self.refused("modes but 0755 for directories and 0644 for files"));
        }
        if node == ROOT {
            return Ok(());
        }
        let mut entry = self.entry(node)?;
        if let Some(accessed) = new.accessed {
            entry.accessed_date = Stamp::from_nanoseconds(accessed).date;
        }
        if let Some(modified) = new.modified {
            entry.modified = Stamp {
                hundredths: 0,
                ..Stamp::from_nanoseconds(modified)
            };
        }
        if let Some(created) = new.created {
            entry.created = Stamp::from_nanoseconds(created);
        }
        self.put_entry(node, &entry)
    }

    fn set_extended(&mut self, _node: Node, _name: &[u8], value: Option<&[u8]>) -> Result<()> {
        match value {
            Some(_) => Err(self.refused("extended attributes")),
            None => Ok(()),
        }
    }

    fn commit(&mut self) -> Result<()> {
        self.put_state()?;
        self.table.flush()
    }
}
