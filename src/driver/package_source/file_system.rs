//! Packages in a filesystem: a folder of the host, a disc image, a guest.

use super::{MOST_FILES, PackageSource, SourceEntry, too_large, too_many};
use crate::{
    disk::{Error, Kind},
    fs::{FileSystem, Node, Result},
};
use std::collections::HashSet;

/// Folders within folders; Windows itself knows 128 at most.
const DEEPEST: usize = 100;

/// A filesystem, from its root on.
pub struct FileSystemSource {
    label: String,
    tree: Box<dyn FileSystem>,
}

impl std::fmt::Debug for FileSystemSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FileSystemSource")
            .field("label", &self.label)
            .finish_non_exhaustive()
    }
}

impl FileSystemSource {
    /// `label` is what the user named.
    pub fn new(label: String, tree: Box<dyn FileSystem>) -> Self {
        Self { label, tree }
    }

    fn walk(&self) -> Result<Vec<(SourceEntry, Node)>> {
        let root = self.tree.root();
        let mut folders = vec![(String::new(), root, 0_usize)];
        let mut met = HashSet::from([root]);
        let mut files = Vec::new();
        while let Some((path, node, depth)) = folders.pop() {
            let mut children = Vec::new();
            let mut full = false;
            self.tree.list(node, &mut |name, child| {
                children.push((String::from_utf8_lossy(name).into_owned(), child));
                full = children.len() > MOST_FILES;
                !full
            })?;
            if full {
                return Err(too_many(&self.label));
            }
            for (name, child) in children {
                let path = if path.is_empty() {
                    name
                } else {
                    format!("{path}/{name}")
                };
                let attributes = self.tree.attributes(child)?;
                if attributes.is_directory() && depth < DEEPEST && met.insert(child) {
                    folders.push((path, child, depth + 1));
                } else if attributes.is_file() {
                    let size = attributes.size;
                    files.push((SourceEntry { path, size }, child));
                }
                if files.len() > MOST_FILES || folders.len() > MOST_FILES {
                    return Err(too_many(&self.label));
                }
            }
        }
        files.sort_by(|one, other| one.0.path.cmp(&other.0.path));
        Ok(files)
    }

    fn read(&self, file: &SourceEntry, node: Node, most: usize) -> Result<Vec<u8>> {
        let size = usize::try_from(file.size).ok().filter(|size| *size <= most);
        let size = size.ok_or_else(|| too_large(&self.label, &file.path, most))?;
        let mut contents = vec![0; size];
        let mut done = 0;
        while let Some(rest) = contents.get_mut(done..).filter(|rest| !rest.is_empty()) {
            match self.tree.read_at(node, done as u64, rest)? {
                0 => {
                    return Err(Error::new(
                        Kind::Corrupt,
                        &*self.label,
                        format!("{} ends early", file.path),
                    ));
                }
                read => done += read,
            }
        }
        Ok(contents)
    }
}

impl PackageSource for FileSystemSource {
    fn label(&self) -> &str {
        &self.label
    }

    fn list(&self) -> Result<Vec<SourceEntry>> {
        Ok(self.walk()?.into_iter().map(|(file, _)| file).collect())
    }

    fn visit(
        &self,
        wanted: &dyn Fn(&str) -> bool,
        most: usize,
        each: &mut dyn FnMut(&str, Vec<u8>) -> Result<()>,
    ) -> Result<()> {
        for (file, node) in self.walk()? {
            if wanted(&file.path) {
                each(&file.path, self.read(&file, node, most)?)?;
            }
        }
        Ok(())
    }
}
