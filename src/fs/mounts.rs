//! A guest's filesystems as one tree: the only place that walks paths, symbolic links and mount points. Nothing
//! here can leave the guest: links are resolved within it, and `..` of the root is the root.

use super::{Attributes, Edit, FileSystem, GuestPath, Node, Result};
use crate::disk::{Error, Kind};
use std::io::{self, Read};

/// Links followed in one walk, as Linux allows (`MAXSYMLINKS`, path_resolution(7)).
const MAX_LINKS: u32 = 40;
/// Bytes of a path or of a link's target, as Linux allows (`PATH_MAX`).
const MAX_PATH: usize = 4096;
/// Components that one walk may take: links can make a short path long, 40 of them no longer than this.
const MAX_COMPONENTS: u32 = MAX_LINKS * 2048;
/// Names that [`Mounts::list`] gives at most: configuration folders have some dozens, a hostile one may have
/// millions.
const MAX_NAMES: usize = 65_536;

/// All filesystems of the guests on a list of disks, and where one guest mounts them. A filesystem keeps its
/// index for ever; where it is mounted can be changed with [`Mounts::unmount_all`] and [`Mounts::mount`].
#[derive(Default)]
pub struct Mounts {
    filesystems: Vec<Entry>,
    /// Mount points without links, longest first; of two that are equal the later is before the earlier.
    table: Vec<(GuestPath, usize)>,
}

struct Entry {
    volume: String,
    filesystem: Box<dyn FileSystem>,
}

/// Where something really is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Index of the filesystem, for [`Mounts::filesystem`] and [`Mounts::edit`].
    pub index: usize,
    /// Its node there.
    pub node: Node,
    /// Volume id of the filesystem.
    pub volume: String,
    /// The path on that filesystem, without links.
    pub path_there: GuestPath,
    /// The path in the guest, without links.
    pub path: GuestPath,
    /// Type, size, owner, times.
    pub attributes: Attributes,
}

/// Where a name is or would be: what an edit needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The folder.
    pub directory: Found,
    /// The name in it.
    pub name: Vec<u8>,
    /// What is there now.
    pub node: Option<Node>,
    /// The path on the folder's filesystem, without links.
    pub path_there: GuestPath,
}

/// Is a link at the end of the path followed?
#[derive(Clone, Copy, PartialEq, Eq)]
enum LastLink {
    Follow,
    Keep,
}

/// One step from a root to where the walk is.
#[derive(Clone)]
struct Step {
    index: usize,
    node: Node,
    /// The name of this step; empty for the root.
    name: Vec<u8>,
    /// Is it the top of its filesystem?
    top: bool,
    attributes: Attributes,
}

/// How a walk ended.
enum End {
    There(Vec<Step>),
    /// All but the last name is there: the folder and that name.
    NameMissing(Vec<Step>, Vec<u8>),
    /// Something before the last name is not there or is no folder.
    Missing,
}

/// Which tree a walk is in.
#[derive(Clone, Copy)]
enum Tree {
    /// The guest, with its mount points.
    Guest,
    /// One filesystem alone.
    Only(usize),
}

impl Mounts {
    /// Filesystems by the id of their volume, none mounted yet.
    pub fn new(filesystems: Vec<(String, Box<dyn FileSystem>)>) -> Self {
        let entry = |(volume, filesystem)| Entry { volume, filesystem };
        Self {
            filesystems: filesystems.into_iter().map(entry).collect(),
            table: Vec::new(),
        }
    }

    /// How many filesystems there are, mounted or not; indexes are below.
    pub fn count(&self) -> usize {
        self.filesystems.len()
    }

    /// The filesystem with that index.
    pub fn filesystem(&self, index: usize) -> Result<&dyn FileSystem> {
        self.filesystems
            .get(index)
            .map(|entry| &*entry.filesystem)
            .ok_or_else(|| no_filesystem(index))
    }

    /// The volume id of the filesystem with that index.
    pub fn volume(&self, index: usize) -> Option<&str> {
        self.filesystems.get(index).map(|entry| &*entry.volume)
    }

    /// The filesystem on a volume.
    pub fn index_of(&self, volume: &str) -> Option<usize> {
        self.filesystems.iter().position(|entry| entry.volume == volume)
    }

    /// Mount points with the index of what is mounted there, longest first.
    pub fn mounted(&self) -> impl Iterator<Item = (&GuestPath, usize)> {
        self.table.iter().map(|(path, index)| (path, *index))
    }

    /// Where a filesystem is mounted.
    pub fn mount_point(&self, index: usize) -> Option<&GuestPath> {
        let at = |(_, mounted): &&(GuestPath, usize)| *mounted == index;
        self.table.iter().find(at).map(|(path, _)| path)
    }

    /// Back to no mount points.
    pub fn unmount_all(&mut self) {
        self.table.clear();
    }

    /// Mounts a filesystem. Links on the way to `path` are followed as the guest's own `mount` would, so mount the
    /// root first, then in the order of fstab. A mount point that does not exist is still mounted, under its name.
    pub fn mount(&mut self, path: &GuestPath, index: usize) -> Result<()> {
        self.filesystem(index)?;
        let real = if self.table.is_empty() {
            GuestPath::from("/")
        } else {
            match self.find(path)? {
                Some(found) => found.path,
                None => without_dots(path)?,
            }
        };
        let before = |(other, _): &(GuestPath, usize)| other.0.len() > real.0.len();
        let at = self.table.partition_point(before);
        self.table.insert(at, (real, index));
        Ok(())
    }

    /// What is at `path`, following links; `None` if there is nothing, or a link that leads nowhere.
    pub fn find(&self, path: &GuestPath) -> Result<Option<Found>> {
        self.found(Tree::Guest, path, LastLink::Follow)
    }

    /// What is at `path`; a link at its end is not followed.
    pub fn find_link(&self, path: &GuestPath) -> Result<Option<Found>> {
        self.found(Tree::Guest, path, LastLink::Keep)
    }

    /// What is at `path` of one filesystem, mounted or not, with its top as the root; links are followed.
    pub fn find_on(&self, index: usize, path: &GuestPath) -> Result<Option<Found>> {
        self.found(Tree::Only(index), path, LastLink::Follow)
    }

    /// Is something there? A link that leads nowhere is not.
    pub fn exists(&self, path: &GuestPath) -> Result<bool> {
        Ok(self.find(path)?.is_some())
    }

    /// Type, size, owner, times; links are followed.
    pub fn attributes(&self, path: &GuestPath) -> Result<Option<Attributes>> {
        Ok(self.find(path)?.map(|found| found.attributes))
    }

    /// The contents of a regular file; `None` if there is nothing. Fails on what is no regular file and on files
    /// of more than `limit` bytes.
    pub fn read(&self, path: &GuestPath, limit: u64) -> Result<Option<Vec<u8>>> {
        self.find(path)?
            .map(|found| self.read_found(&found, limit))
            .transpose()
    }

    /// The contents of a regular file that was found.
    pub fn read_found(&self, found: &Found, limit: u64) -> Result<Vec<u8>> {
        if found.attributes.size > limit {
            let text = format!(
                "{} has {} bytes, more than the {limit} that such a file is read up to",
                found.path, found.attributes.size
            );
            return Err(Error::new(Kind::Unsupported, &*found.volume, text));
        }
        let mut contents = Vec::new();
        let reader = self.open_found(found)?;
        reader
            .take(limit)
            .read_to_end(&mut contents)
            .map_err(|error| within(&found.volume, &found.path, error))?;
        Ok(contents)
    }

    /// A stream of a regular file, for those that are too big to hold; `None` if there is nothing.
    pub fn open(&self, path: &GuestPath) -> Result<Option<FileReader<'_>>> {
        self.find(path)?.map(|found| self.open_found(&found)).transpose()
    }

    /// A stream of a regular file that was found.
    pub fn open_found(&self, found: &Found) -> Result<FileReader<'_>> {
        if !found.attributes.is_file() {
            let text = format!("{} is not a regular file", found.path);
            return Err(Error::new(Kind::Unsupported, &*found.volume, text));
        }
        Ok(FileReader {
            filesystem: self.filesystem(found.index)?,
            node: found.node,
            offset: 0,
            size: found.attributes.size,
        })
    }

    /// The names in a folder, sorted; `None` if there is no folder. Fails on folders of more than 65536 names.
    pub fn list(&self, path: &GuestPath) -> Result<Option<Vec<Vec<u8>>>> {
        match self.find(path)? {
            Some(found) if found.attributes.is_directory() => self.list_found(&found).map(Some),
            _ => Ok(None),
        }
    }

    /// The names in a folder that was found, sorted.
    pub fn list_found(&self, found: &Found) -> Result<Vec<Vec<u8>>> {
        let mut names = Vec::new();
        let mut complete = true;
        self.filesystem(found.index)?.list(found.node, &mut |name, _| {
            complete = names.len() < MAX_NAMES;
            if complete && name != b"." && name != b".." {
                names.push(name.to_vec());
            }
            complete
        })?;
        if !complete {
            let text = format!(
                "{} has more than {MAX_NAMES} names, more than is read of a folder",
                found.path
            );
            return Err(Error::new(Kind::Unsupported, &*found.volume, text));
        }
        names.sort_unstable();
        names.dedup();
        Ok(names)
    }

    /// Where a link points, as it stands; `None` if there is no link.
    pub fn read_link(&self, path: &GuestPath) -> Result<Option<GuestPath>> {
        match self.find_link(path)? {
            Some(found) if found.attributes.is_link() => self
                .link_target(found.index, found.node)
                .map(|t| Some(GuestPath(t))),
            _ => Ok(None),
        }
    }

    /// Where `path` is or would be made, following links, also one at its end that leads nowhere yet. `None` if
    /// its folder does not exist.
    pub fn place(&self, path: &GuestPath) -> Result<Option<Place>> {
        self.place_in(Tree::Guest, path)
    }

    /// The same on one filesystem alone, mounted or not.
    pub fn place_on(&self, index: usize, path: &GuestPath) -> Result<Option<Place>> {
        self.place_in(Tree::Only(index), path)
    }

    /// Writing on one of the filesystems, by index.
    pub fn edit(&mut self, index: usize) -> Result<&mut dyn Edit> {
        self.filesystems
            .get_mut(index)
            .ok_or_else(|| no_filesystem(index))?
            .filesystem
            .edit()
    }

    /// Gives the filesystems back, by the id of their volume.
    pub fn into_filesystems(self) -> Vec<(String, Box<dyn FileSystem>)> {
        self.filesystems
            .into_iter()
            .map(|entry| (entry.volume, entry.filesystem))
            .collect()
    }

    fn found(&self, tree: Tree, path: &GuestPath, last: LastLink) -> Result<Option<Found>> {
        match self.walk(tree, path, last)? {
            End::There(steps) => Ok(self.found_at(&steps)),
            End::NameMissing(..) | End::Missing => Ok(None),
        }
    }

    fn found_at(&self, steps: &[Step]) -> Option<Found> {
        let last = steps.last()?;
        Some(Found {
            index: last.index,
            node: last.node,
            volume: self.volume(last.index)?.to_owned(),
            path_there: path_there(steps),
            path: path_of(steps),
            attributes: last.attributes.clone(),
        })
    }

    fn place_in(&self, tree: Tree, path: &GuestPath) -> Result<Option<Place>> {
        let (steps, name, node) = match self.walk(tree, path, LastLink::Follow)? {
            End::Missing => return Ok(None),
            End::NameMissing(steps, name) => (steps, name, None),
            End::There(mut steps) => match steps.pop() {
                // The top of a filesystem has no name that could be edited.
                Some(step) if !step.top => (steps, step.name, Some(step.node)),
                _ => return Ok(None),
            },
        };
        Ok(self.found_at(&steps).map(|directory| Place {
            path_there: directory.path_there.join(&name),
            directory,
            name,
            node,
        }))
    }

    /// path_resolution(7), with the guest's root as the root.
    fn walk(&self, tree: Tree, path: &GuestPath, last: LastLink) -> Result<End> {
        let Some(root) = self.root(tree)? else {
            return Ok(End::Missing);
        };
        if path.0.len() > MAX_PATH {
            return Ok(End::Missing);
        }
        let mut steps = vec![root.clone()];
        let mut links = 0;
        // What is still to be walked, last component first.
        let mut ahead = components_backwards(path);
        for _ in 0..MAX_COMPONENTS {
            let Some(name) = ahead.pop() else {
                return Ok(End::There(steps));
            };
            if name == b".." {
                if steps.len() > 1 {
                    steps.pop();
                }
                continue;
            }
            let Some(here) = steps.last() else {
                return Ok(End::Missing);
            };
            if !here.attributes.is_directory() {
                return Ok(End::Missing);
            }
            if let Some(step) = self.mounted_below(tree, &steps, &name)? {
                steps.push(step);
                continue;
            }
            let filesystem = self.filesystem(here.index)?;
            let Some(node) = filesystem.lookup(here.node, &name)? else {
                return Ok(if ahead.is_empty() {
                    End::NameMissing(steps, name)
                } else {
                    End::Missing
                });
            };
            let attributes = filesystem.attributes(node)?;
            if attributes.is_link() && !(ahead.is_empty() && last == LastLink::Keep) {
                links += 1;
                if links > MAX_LINKS {
                    return Ok(End::Missing);
                }
                let target = GuestPath(self.link_target(here.index, node)?);
                if target.0.is_empty() {
                    return Ok(End::Missing);
                }
                if target.0.first() == Some(&b'/') {
                    steps = vec![root.clone()];
                }
                ahead.extend(components_backwards(&target));
            } else {
                let index = here.index;
                steps.push(Step {
                    index,
                    node,
                    name,
                    top: false,
                    attributes,
                });
            }
        }
        Ok(End::Missing)
    }

    fn root(&self, tree: Tree) -> Result<Option<Step>> {
        let index = match tree {
            Tree::Only(index) => Some(index),
            Tree::Guest => {
                let root = |(path, _): &&(GuestPath, usize)| path.0 == b"/";
                self.table.iter().find(root).map(|(_, index)| *index)
            }
        };
        index.map(|index| self.top(index, Vec::new())).transpose()
    }

    fn top(&self, index: usize, name: Vec<u8>) -> Result<Step> {
        let filesystem = self.filesystem(index)?;
        let node = filesystem.root();
        Ok(Step {
            index,
            node,
            name,
            top: true,
            attributes: filesystem.attributes(node)?,
        })
    }

    fn mounted_below(&self, tree: Tree, steps: &[Step], name: &[u8]) -> Result<Option<Step>> {
        // Most guests mount little: the path is only put together if something could be mounted here.
        if matches!(tree, Tree::Only(_)) || self.table.iter().all(|(path, _)| path.name() != name) {
            return Ok(None);
        }
        let path = path_of(steps).join(name);
        let here = |(mount_point, _): &&(GuestPath, usize)| *mount_point == path;
        let mounted = self.table.iter().find(here);
        mounted
            .map(|(_, index)| self.top(*index, name.to_vec()))
            .transpose()
    }

    fn link_target(&self, index: usize, node: Node) -> Result<Vec<u8>> {
        let filesystem = self.filesystem(index)?;
        let mut target = Vec::new();
        let mut buffer = [0; 512];
        // One more than is allowed, so that a longer one is noticed.
        while target.len() <= MAX_PATH {
            let count = filesystem.read_at(node, target.len() as u64, &mut buffer)?;
            if count == 0 {
                return Ok(target);
            }
            target.extend_from_slice(buffer.get(..count).unwrap_or_default());
        }
        Err(Error::new(
            Kind::Corrupt,
            self.volume(index).unwrap_or_default(),
            format!("a symbolic link points to a path of more than {MAX_PATH} bytes"),
        ))
    }
}

/// A file of a guest from its start to its end. Reading stops at the size that the file says, so a file that never
/// ends does.
pub struct FileReader<'a> {
    filesystem: &'a dyn FileSystem,
    node: Node,
    offset: u64,
    size: u64,
}

impl FileReader<'_> {
    /// In bytes.
    pub fn size(&self) -> u64 {
        self.size
    }
}

impl Read for FileReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.size.saturating_sub(self.offset);
        let count = usize::try_from(left).map_or(buffer.len(), |left| left.min(buffer.len()));
        if count == 0 {
            return Ok(0);
        }
        let buffer = buffer.get_mut(..count).unwrap_or_default();
        let count = self.filesystem.read_at(self.node, self.offset, buffer)?;
        self.offset = self.offset.saturating_add(count as u64);
        Ok(count)
    }
}

fn components_backwards(path: &GuestPath) -> Vec<Vec<u8>> {
    let mut components: Vec<_> = path.components().map(<[u8]>::to_vec).collect();
    components.reverse();
    components
}

/// `path` with its `..` taken literally.
fn without_dots(path: &GuestPath) -> Result<GuestPath> {
    if path.0.len() > MAX_PATH {
        let text = format!("a mount point of {} bytes", path.0.len());
        return Err(Error::new(Kind::Unsupported, "guest", text));
    }
    let mut names: Vec<&[u8]> = Vec::new();
    for name in path.components() {
        if name == b".." {
            names.pop();
        } else {
            names.push(name);
        }
    }
    Ok(joined(names.into_iter()))
}

fn path_of(steps: &[Step]) -> GuestPath {
    joined(steps.iter().skip(1).map(|step| &*step.name))
}

fn path_there(steps: &[Step]) -> GuestPath {
    let top = steps.iter().rposition(|step| step.top).unwrap_or(0);
    let below = steps.iter().skip(top.saturating_add(1));
    joined(below.map(|step| &*step.name))
}

fn joined<'a>(names: impl Iterator<Item = &'a [u8]>) -> GuestPath {
    names.fold(GuestPath::from("/"), |path, name| path.join(name))
}

fn no_filesystem(index: usize) -> Error {
    Error::new(Kind::NotFound, "guest", format!("has no filesystem {index}"))
}

/// The filesystem's own error if there is one inside, with the file's name added.
fn within(volume: &str, path: &GuestPath, error: io::Error) -> Error {
    let kind = error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<Error>())
        .map_or(Kind::Io, |inner| inner.kind);
    Error::new(kind, volume, format!("reading {path}: {error}"))
}

#[cfg(test)]
mod tests;
