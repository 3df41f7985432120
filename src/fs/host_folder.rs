//! A folder of the host as a filesystem to read: driver packages, and the trees that tests make. Symbolic links are
//! shown as such and never followed, so nothing outside of the folder is reached.

use super::{Attributes, Edit, FileSystem, Identity, Node, Result};
use crate::disk::{Error, Kind};
use std::{
    collections::BTreeMap,
    ffi::OsStr,
    fs::{File, Metadata},
    io,
    ops::Range,
    os::unix::{
        ffi::{OsStrExt, OsStringExt},
        fs::{FileExt, MetadataExt},
    },
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};

/// The root.
const ROOT: Node = Node(0);

/// A folder of the host, for reading.
#[derive(Debug)]
pub struct HostFolder {
    label: String,
    known: Mutex<Known>,
}

/// Nodes are handed out in the order in which they are asked for; host inode numbers would depend on the host.
#[derive(Debug)]
struct Known {
    paths: Vec<PathBuf>,
    nodes: BTreeMap<PathBuf, Node>,
}

impl HostFolder {
    /// Opens the folder at `path`.
    ///
    /// # Errors
    /// If there is none.
    pub fn open(path: &Path) -> Result<Self> {
        let label = path.display().to_string();
        // The folder itself may be named through a link; what is in it may not.
        let root = path.canonicalize().map_err(|error| Error::io(&*label, error))?;
        if !root.is_dir() {
            return Err(Error::new(Kind::NotFound, label, "not a folder"));
        }
        let known = Known {
            paths: vec![root.clone()],
            nodes: BTreeMap::from([(root, ROOT)]),
        };
        Ok(Self {
            label,
            known: Mutex::new(known),
        })
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn path(&self, node: Node) -> Result<PathBuf> {
        let known = self.known();
        let path = usize::try_from(node.0)
            .ok()
            .and_then(|index| known.paths.get(index));
        path.cloned().ok_or_else(|| {
            Error::new(
                Kind::NotFound,
                &*self.label,
                format!("no file has the node {}", node.0),
            )
        })
    }

    /// The path of a node that is a folder, not a link to one.
    fn directory(&self, node: Node) -> Result<PathBuf> {
        let directory = self.path(node)?;
        if !self.metadata(&directory)?.is_dir() {
            return Err(Error::new(
                Kind::NotFound,
                &*self.label,
                format!("{}: not a folder", directory.display()),
            ));
        }
        Ok(directory)
    }

    fn node(&self, path: PathBuf) -> Node {
        let mut known = self.known();
        if let Some(node) = known.nodes.get(&path) {
            return *node;
        }
        let node = Node(known.paths.len() as u64);
        known.paths.push(path.clone());
        known.nodes.insert(path, node);
        node
    }

    fn error(&self, path: &Path, error: &io::Error) -> Error {
        let text = format!("{}: {error}", path.display());
        Error::io(&*self.label, io::Error::new(error.kind(), text))
    }

    fn metadata(&self, path: &Path) -> Result<Metadata> {
        path.symlink_metadata().map_err(|error| self.error(path, &error))
    }
}

impl FileSystem for HostFolder {
    fn identity(&self) -> Identity {
        Identity {
            kind: "folder".into(),
            ..Identity::default()
        }
    }

    fn root(&self) -> Node {
        ROOT
    }

    fn lookup(&self, directory: Node, name: &[u8]) -> Result<Option<Node>> {
        let directory = self.directory(directory)?;
        if name.is_empty() || name == b"." || name == b".." || name.contains(&b'/') || name.contains(&0) {
            return Ok(None);
        }
        let path = directory.join(OsStr::from_bytes(name));
        match path.symlink_metadata() {
            Ok(_) => Ok(Some(self.node(path))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(self.error(&path, &error)),
        }
    }

    fn list(&self, directory: Node, each: &mut dyn FnMut(&[u8], Node) -> bool) -> Result<()> {
        let directory = self.directory(directory)?;
        let entries = directory
            .read_dir()
            .map_err(|error| self.error(&directory, &error))?;
        let mut names = Vec::new();
        for entry in entries {
            names.push(entry.map_err(|error| self.error(&directory, &error))?.file_name());
        }
        // The host's order is by chance.
        names.sort_unstable();
        for name in names {
            let node = self.node(directory.join(&name));
            if !each(name.as_bytes(), node) {
                break;
            }
        }
        Ok(())
    }

    fn attributes(&self, node: Node) -> Result<Attributes> {
        let metadata = self.metadata(&self.path(node)?)?;
        let time = |seconds: i64, nanoseconds: i64| {
            Some(i128::from(seconds) * 1_000_000_000 + i128::from(nanoseconds))
        };
        Ok(Attributes {
            size: metadata.len(),
            mode: Some(metadata.mode()),
            owner: Some((metadata.uid(), metadata.gid())),
            links: u32::try_from(metadata.nlink()).ok(),
            accessed: time(metadata.atime(), metadata.atime_nsec()),
            modified: time(metadata.mtime(), metadata.mtime_nsec()),
            changed: time(metadata.ctime(), metadata.ctime_nsec()),
            created: None,
        })
    }

    fn read_at(&self, node: Node, offset: u64, buffer: &mut [u8]) -> Result<usize> {
        let path = self.path(node)?;
        let kind = self.metadata(&path)?.file_type();
        let fault = |error: io::Error| self.error(&path, &error);
        if kind.is_symlink() {
            let target = path.read_link().map_err(fault)?.into_os_string().into_vec();
            let rest = usize::try_from(offset)
                .ok()
                .and_then(|at| target.get(at..))
                .unwrap_or_default();
            let count = rest.len().min(buffer.len());
            for (place, byte) in buffer.iter_mut().zip(rest) {
                *place = *byte;
            }
            return Ok(count);
        }
        // Opening a pipe or a device could block, or do something.
        if !kind.is_file() {
            return Err(Error::new(
                Kind::Unsupported,
                &*self.label,
                format!("{}: not a regular file", path.display()),
            ));
        }
        let file = File::open(&path).map_err(fault)?;
        let mut count = 0;
        while let Some(rest) = buffer.get_mut(count..).filter(|rest| !rest.is_empty()) {
            match file.read_at(rest, offset.saturating_add(count as u64)) {
                Ok(0) => break,
                Ok(read) => count += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(fault(error)),
            }
        }
        Ok(count)
    }

    fn data_runs(&self, _each: &mut dyn FnMut(Node, Range<u64>) -> Result<()>) -> Result<()> {
        // A folder lies on no volume.
        Ok(())
    }

    fn free_bytes(&self) -> Result<u64> {
        Ok(0)
    }

    fn edit(&mut self) -> Result<&mut dyn Edit> {
        Err(Error::new(
            Kind::ReadOnly,
            &*self.label,
            "a folder of the host is only read",
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn a_folder_is_read_and_never_left() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        std::fs::create_dir_all(path.join("b/deep")).unwrap();
        std::fs::write(path.join("b/deep/driver.inf"), b"[Version]").unwrap();
        std::fs::write(path.join("a"), b"0123456789").unwrap();
        symlink("/etc", path.join("out")).unwrap();
        let mut fs = HostFolder::open(path).unwrap();
        let mut names = Vec::new();
        fs.list(ROOT, &mut |name, _| {
            names.push(name.to_vec());
            true
        })
        .unwrap();
        assert_eq!(names, [&b"a"[..], b"b", b"out"]);
        let a = fs.lookup(ROOT, b"a").unwrap().unwrap();
        let mut buffer = [0; 20];
        assert_eq!(fs.read_at(a, 7, &mut buffer).unwrap(), 3);
        assert_eq!(&buffer[..3], b"789");
        let b = fs.lookup(ROOT, b"b").unwrap().unwrap();
        let deep = fs.lookup(b, b"deep").unwrap().unwrap();
        assert!(fs.attributes(deep).unwrap().is_directory());
        assert!(fs.lookup(deep, b"driver.inf").unwrap().is_some());
        assert_eq!(fs.lookup(b, b"deep").unwrap(), Some(deep));
        for name in [&b".."[..], b".", b"b/deep", b"", b"none"] {
            assert_eq!(fs.lookup(ROOT, name).unwrap(), None);
        }
        let out = fs.lookup(ROOT, b"out").unwrap().unwrap();
        assert!(fs.attributes(out).unwrap().is_link());
        assert_eq!(fs.read_at(out, 0, &mut buffer).unwrap(), 4);
        assert_eq!(&buffer[..4], b"/etc");
        assert_eq!(fs.lookup(out, b"passwd").unwrap_err().kind, Kind::NotFound);
        assert!(fs.list(out, &mut |_, _| true).is_err());
        assert!(fs.read_at(b, 0, &mut buffer).is_err() && fs.edit().is_err());
        assert!(fs.attributes(Node(99)).is_err());
    }
}
