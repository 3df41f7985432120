//! What all kinds of steps do with files: reading them whole, writing them, noting what was and what is.

use super::{Change, Edits};
use crate::{
    disk::{Digest, Error, Kind},
    fs::{
        Attributes, Edit, GuestPath, Mounts, Node, Result, mode,
        mounts::{Found, Place},
    },
};
use std::{
    collections::BTreeSet,
    io::{self, Read},
};

/// A text file that is edited by lines: grub.cfg with hundreds of entries has some hundred KiB.
const LARGEST_TEXT: u64 = 16 << 20;

/// SELinux's label: a new file gets that of its folder, as the kernel would give it.
const SELINUX: &[u8] = b"security.selinux";

/// A changed file as it must be found by whoever looks.
#[derive(Clone, Debug)]
pub(super) struct Expected {
    pub(super) volume: String,
    pub(super) path: GuestPath,
    pub(super) node: Node,
    /// It was there before.
    pub(super) existed: bool,
    pub(super) contents: Digest,
    pub(super) mode: Option<u32>,
    pub(super) owner: Option<(u32, u32)>,
    pub(super) links: Option<u32>,
    pub(super) extended: Vec<(Vec<u8>, Vec<u8>)>,
}

/// The guest's filesystems while the steps are carried out.
pub(super) struct Editor<'a> {
    pub(super) mounts: &'a mut Mounts,
    clock: u64,
    step: usize,
    touched: BTreeSet<usize>,
    edits: Edits,
}

/// A new file or new contents.
pub(super) struct New<'a> {
    pub(super) contents: &'a [u8],
    /// Permission bits of a file that is not there yet.
    pub(super) mode: u32,
}

impl<'a> Editor<'a> {
    pub(super) fn new(mounts: &'a mut Mounts, clock: u64) -> Self {
        Self {
            mounts,
            clock,
            step: 0,
            touched: BTreeSet::new(),
            edits: Edits::default(),
        }
    }

    pub(super) fn begin(&mut self, step: usize) {
        self.step = step;
    }

    /// Every new timestamp, in seconds since 1970.
    pub(super) fn clock(&self) -> u64 {
        self.clock
    }

    /// For the report.
    pub(super) fn remark(&mut self, text: String) {
        self.edits.remarks.push(text);
    }

    /// The file that a step wants to change.
    pub(super) fn find(&self, path: &GuestPath) -> Result<Found> {
        self.mounts.find(path)?.ok_or_else(|| {
            let text = format!("{path} is not there any more; plan again");
            Error::new(Kind::NotFound, "guest", text)
        })
    }

    pub(super) fn read_text(&self, found: &Found) -> Result<Vec<u8>> {
        self.mounts.read_found(found, LARGEST_TEXT)
    }

    /// New contents for a file that is there; owner, mode and extended attributes stay.
    pub(super) fn replace(&mut self, found: &Found, old: &[u8], new: &[u8]) -> Result<()> {
        if old == new {
            return Ok(());
        }
        let grows = (new.len() as u64).saturating_sub(old.len() as u64);
        self.check_space(found.index, &found.path, grows)?;
        self.edit(found.index)?.replace(found.node, &mut &*new)?;
        let (was, is) = (Digest::of(old), Digest::of(new));
        self.note(found.index, &found.path_there, found.node, Some(was), is)
    }

    /// More at the end of a file that is there. `old` is all of what it holds now, for its digest.
    pub(super) fn append(&mut self, found: &Found, more: &[u8]) -> Result<()> {
        let mut hasher = blake3::Hasher::new();
        io::copy(&mut self.mounts.open_found(found)?, &mut hasher).map_err(|error| reading(found, error))?;
        let was = Digest(*hasher.finalize().as_bytes());
        hasher.update(more);
        let is = Digest(*hasher.finalize().as_bytes());
        self.check_space(found.index, &found.path, more.len() as u64)?;
        self.edit(found.index)?.append(found.node, &mut &*more)?;
        self.note(found.index, &found.path_there, found.node, Some(was), is)
    }

    /// Makes the file, or gives it new contents if it is there and has others; missing folders are made.
    pub(super) fn put(&mut self, tree: Tree, path: &GuestPath, new: &New<'_>) -> Result<()> {
        let parent = path.parent();
        self.make_folders(tree, &parent)?;
        let Some(place) = self.place(tree, path)? else {
            let text = format!("{parent} is no folder; {path} cannot be made");
            return Err(Error::new(Kind::Unsupported, "guest", text));
        };
        if place.node.is_some() {
            let Some(found) = tree
                .find(self.mounts, path)?
                .filter(|found| found.attributes.is_file())
            else {
                let text = format!("{path} is there and is no regular file; move it away first");
                return Err(Error::new(Kind::Exists, place.directory.volume, text));
            };
            let old = self.mounts.read_found(&found, LARGEST_TEXT)?;
            return self.replace(&found, &old, new.contents);
        }
        let index = place.directory.index;
        self.check_space(index, path, new.contents.len() as u64)?;
        let node = self.create(&place, mode::FILE | new.mode & 0o7777)?;
        let edit = self.edit(index)?;
        edit.replace(node, &mut &*new.contents)?;
        self.note(index, &place.path_there, node, None, Digest::of(new.contents))
    }

    /// Missing folders get the mode and owner of the folder that they are made in.
    fn make_folders(&mut self, tree: Tree, path: &GuestPath) -> Result<()> {
        let mut folder = GuestPath::from("/");
        for name in path.components().map(<[u8]>::to_vec).collect::<Vec<_>>() {
            folder = folder.join(name);
            if tree.find(self.mounts, &folder)?.is_none()
                && let Some(place) = self.place(tree, &folder)?
            {
                let permissions = place.directory.attributes.mode.unwrap_or(0o755) & 0o777;
                let node = self.create(&place, mode::DIRECTORY | permissions)?;
                let attributes = Attributes {
                    owner: place.directory.attributes.owner,
                    ..Attributes::default()
                };
                self.edit(place.directory.index)?
                    .set_attributes(node, &attributes)?;
            }
        }
        Ok(())
    }

    fn place(&self, tree: Tree, path: &GuestPath) -> Result<Option<Place>> {
        match tree {
            Tree::Guest => self.mounts.place(path),
            Tree::Volume(index) => self.mounts.place_on(index, path),
        }
    }

    fn create(&mut self, place: &Place, kind: u32) -> Result<Node> {
        let index = place.directory.index;
        let label = self
            .mounts
            .filesystem(index)?
            .extended(place.directory.node, SELINUX)?;
        let edit = self.edit(index)?;
        let node = edit.create(place.directory.node, &place.name, kind)?;
        if let Some(label) = label {
            edit.set_extended(node, SELINUX, Some(&label))?;
        }
        Ok(node)
    }

    fn edit(&mut self, index: usize) -> Result<&mut dyn Edit> {
        let edit = self.mounts.edit(index)?;
        if self.touched.insert(index) {
            edit.set_clock(self.clock);
        }
        Ok(edit)
    }

    /// Notes a change, and what the judges must find. Several changes of one file end in what the last made of it.
    fn note(
        &mut self,
        index: usize,
        path: &GuestPath,
        node: Node,
        was: Option<Digest>,
        is: Digest,
    ) -> Result<()> {
        let volume = self.mounts.volume(index).unwrap_or_default().to_owned();
        let filesystem = self.mounts.filesystem(index)?;
        let attributes = filesystem.attributes(node)?;
        let mut extended = Vec::new();
        for name in filesystem.extended_names(node)? {
            if let Some(value) = filesystem.extended(node, &name)? {
                extended.push((name, value));
            }
        }
        self.edits.changes.push(Change {
            step: self.step,
            volume: volume.clone(),
            path: path.clone(),
            was,
            is: Some(is),
        });
        let before = self
            .edits
            .expected
            .iter()
            .position(|file| file.volume == volume && file.path == *path);
        let existed = before
            .and_then(|at| self.edits.expected.get(at))
            .map_or(was.is_some(), |file| file.existed);
        let expected = Expected {
            volume,
            path: path.clone(),
            node,
            existed,
            contents: is,
            mode: attributes.mode,
            owner: attributes.owner,
            links: attributes.links,
            extended,
        };
        match before.and_then(|at| self.edits.expected.get_mut(at)) {
            Some(there) => *there = expected,
            None => self.edits.expected.push(expected),
        }
        Ok(())
    }

    /// A filesystem that fills up in the middle gives a worse message than this one.
    fn check_space(&self, index: usize, path: &GuestPath, needed: u64) -> Result<()> {
        let filesystem = self.mounts.filesystem(index)?;
        let free = filesystem.free_bytes()?;
        if needed <= free {
            return Ok(());
        }
        let place = self.mounts.mount_point(index).map_or_else(
            || "a filesystem that is not mounted".to_owned(),
            |path| format!("the filesystem of {path}"),
        );
        let text = format!(
            "{place} has {free} bytes free, and {path} needs {needed} more: make room there (an old kernel with its \
             initramfs takes about 100 MB) and plan again"
        );
        Err(Error::new(
            Kind::Full,
            self.mounts.volume(index).unwrap_or_default(),
            text,
        ))
    }

    /// Commits what was touched.
    pub(super) fn finish(self) -> Result<Edits> {
        for index in self.touched {
            self.mounts.edit(index)?.commit()?;
        }
        Ok(self.edits)
    }
}

/// Where paths begin.
#[derive(Clone, Copy)]
pub(super) enum Tree {
    /// At the guest's root, with its mount points.
    Guest,
    /// At the top of the filesystem with that index, mounted or not.
    Volume(usize),
}

impl Tree {
    pub(super) fn find(self, mounts: &Mounts, path: &GuestPath) -> Result<Option<Found>> {
        match self {
            Self::Guest => mounts.find(path),
            Self::Volume(index) => mounts.find_on(index, path),
        }
    }
}

/// An error of a stream, with the file that it is of.
pub(super) fn reading(found: &Found, error: io::Error) -> Error {
    let kind = if error.kind() == io::ErrorKind::InvalidData {
        Kind::Corrupt
    } else {
        Kind::Io
    };
    Error::new(kind, &*found.volume, format!("reading {}: {error}", found.path))
}

/// The digest of all that `reader` gives.
pub(super) fn digest(reader: &mut dyn Read) -> io::Result<Digest> {
    let mut hasher = blake3::Hasher::new();
    io::copy(reader, &mut hasher)?;
    Ok(Digest(*hasher.finalize().as_bytes()))
}
