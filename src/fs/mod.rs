//! Filesystems. By node, not by path: paths, links and mounts are walked once, in [`mounts`], for all of them.
//! Names are byte strings. Opening may replay a journal, so even an inspection opens over an overlay.

mod block_cache;
pub mod detect;
pub mod ext4;
pub mod fat;
mod guest_path;
pub mod host_folder;
pub mod iso9660;
#[cfg(test)]
pub(crate) mod memory_tree;
pub mod mounts;
pub mod ntfs;
mod signatures;
pub mod swap;
pub mod udf;

pub use guest_path::GuestPath;
pub use mounts::Mounts;

use crate::disk::{Digest, Error};
use std::{io::Read, ops::Range};

/// This room's result; the error is the disk room's: its label names the volume, its text the file.
pub type Result<T> = std::result::Result<T, Error>;

/// Inode or file record number. Valid for the filesystem that gave it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Node(
    /// As on disk.
    pub u64,
);

/// The type bits of [`Attributes::mode`], as in `stat(2)`.
pub mod mode {
    /// All type bits.
    pub const TYPE: u32 = 0o170_000;
    /// A directory.
    pub const DIRECTORY: u32 = 0o040_000;
    /// A regular file.
    pub const FILE: u32 = 0o100_000;
    /// A symbolic link.
    pub const LINK: u32 = 0o120_000;
}

/// Common to all; what a filesystem hasn't got is `None`. In [`Edit::set_attributes`] `None` stays as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attributes {
    /// Bytes. Not changed by [`Edit::set_attributes`].
    pub size: u64,
    /// Unix type and mode. Filesystems without modes give the type with 0755 or 0644. Only the mode can be set.
    pub mode: Option<u32>,
    /// User, group.
    pub owner: Option<(u32, u32)>,
    /// Hard links. Not changed by [`Edit::set_attributes`].
    pub links: Option<u32>,
    /// Last reading, in nanoseconds since 1970.
    pub accessed: Option<i128>,
    /// Last change of the contents, likewise.
    pub modified: Option<i128>,
    /// Last change of the inode, likewise.
    pub changed: Option<i128>,
    /// Birth, likewise.
    pub created: Option<i128>,
}

impl Attributes {
    /// Is it a directory?
    pub fn is_directory(&self) -> bool {
        self.mode.is_some_and(|mode| mode & mode::TYPE == mode::DIRECTORY)
    }

    /// Is it a regular file?
    pub fn is_file(&self) -> bool {
        self.mode.is_some_and(|mode| mode & mode::TYPE == mode::FILE)
    }

    /// Is it a symbolic link?
    pub fn is_link(&self) -> bool {
        self.mode.is_some_and(|mode| mode & mode::TYPE == mode::LINK)
    }
}

/// How a filesystem is named from outside: in fstab, on a kernel command line, by `blkid`.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Identity {
    /// "ext4", "vfat", "swap": as `mount -t` spells it.
    pub kind: String,
    /// As `UUID=` spells it ("0a1b…-…", "ABCD-1234"); `None` if it has none.
    pub uuid: Option<String>,
    /// As `LABEL=` spells it.
    pub label: Option<String>,
}

/// Reading. Also implemented over a host folder.
pub trait FileSystem: Send {
    /// How it is named from outside.
    fn identity(&self) -> Identity;
    /// The top.
    fn root(&self) -> Node;
    /// By the filesystem's own rule for upper and lower case. An error if `directory` is none.
    fn lookup(&self, directory: Node, name: &[u8]) -> Result<Option<Node>>;
    /// Calls `each` with names in directory order, without `.` and `..`, until it says false.
    fn list(&self, directory: Node, each: &mut dyn FnMut(&[u8], Node) -> bool) -> Result<()>;
    /// Type, size, owner, times.
    fn attributes(&self, node: Node) -> Result<Attributes>;
    /// Bytes read; 0 at the end. A symbolic link's contents are its target.
    fn read_at(&self, node: Node, offset: u64, buffer: &mut [u8]) -> Result<usize>;
    /// An extended attribute by its full name ("user.a", "security.selinux"). A kind of filesystem without them has none.
    fn extended(&self, _node: Node, _name: &[u8]) -> Result<Option<Vec<u8>>> {
        Ok(None)
    }
    /// Full names of all extended attributes.
    fn extended_names(&self, _node: Node) -> Result<Vec<Vec<u8>>> {
        Ok(Vec::new())
    }
    /// Runs of bytes of the volume that nobody needs: free clusters, unwritten extents, swap pages. The caller
    /// passes them to [`crate::disk::Disk::discard`] of the volume. Knowing of none is safe: then all is copied.
    fn free(&self, _each: &mut dyn FnMut(Range<u64>) -> Result<()>) -> Result<()> {
        Ok(())
    }
    /// Every run of bytes of the volume that holds data of a regular file, with its node: what the audit of an
    /// edit protects. All else that is written must be metadata or was free.
    fn data_runs(&self, each: &mut dyn FnMut(Node, Range<u64>) -> Result<()>) -> Result<()>;
    /// Where the contents of one regular file lie: offset in the file, and the run of bytes of the volume, ascending. Without
    /// what lies nowhere (holes, unwritten extents). Knowing of none is safe.
    fn file_runs(&self, _node: Node, _each: &mut dyn FnMut(u64, Range<u64>) -> Result<()>) -> Result<()> {
        Ok(())
    }
    /// Runs of bytes of the volume that hold paged out memory, with the name of the file, where no system that was put to
    /// sleep needs it: not free, but not worth moving either, if whoever asks decides so. Knowing of none is safe.
    fn page_file_runs(&self, _each: &mut dyn FnMut(&str, Range<u64>) -> Result<()>) -> Result<()> {
        Ok(())
    }
    /// What was done on opening, for the report: a journal replayed, orphans removed. Empty if nothing was.
    fn recovered(&self) -> Vec<String> {
        Vec::new()
    }
    /// Free bytes for files.
    fn free_bytes(&self) -> Result<u64>;
    /// From here on [`FileSystem::edit`] does not mind that the filesystem is marked as dirty: the user has said so, and
    /// its own system will check it. It stays marked. Other reasons against an edit stay, too.
    fn allow_dirty(&mut self) {}
    /// Writing, or the reason why not (hibernated, errors flagged, a read-only kind) and its cure.
    fn edit(&mut self) -> Result<&mut dyn Edit>;
}

/// Writing, always onto an overlay. The overlay is the transaction: no order of writes is promised before
/// [`Edit::commit`]. New timestamps are what [`Edit::set_clock`] said last: same plan, same bytes.
pub trait Edit: FileSystem {
    /// The time, in seconds since 1970, that new and changed inodes get. Random numbers that a filesystem wants (inode
    /// generations) are drawn from it and the node, so that the same edit gives the same bytes.
    fn set_clock(&mut self, seconds: u64);
    /// `kind` is the Unix type and mode; a link's target is its contents ([`Edit::replace`]). Owner: root.
    fn create(&mut self, directory: Node, name: &[u8], kind: u32) -> Result<Node>;
    /// One more name for a file (not a directory).
    fn link(&mut self, node: Node, directory: Node, name: &[u8]) -> Result<()>;
    /// New contents; owner, mode, extended attributes stay.
    fn replace(&mut self, node: Node, contents: &mut dyn Read) -> Result<()>;
    /// Adds to the end; nothing before it is touched.
    fn append(&mut self, node: Node, contents: &mut dyn Read) -> Result<()>;
    /// Removes one name, and the file with its last. Fails on a directory that is not empty.
    fn remove(&mut self, directory: Node, name: &[u8]) -> Result<()>;
    /// Replaces what is there, by the rules of `rename(2)`.
    fn rename(&mut self, from: (Node, &[u8]), to: (Node, &[u8])) -> Result<()>;
    /// `None` stays as it is.
    fn set_attributes(&mut self, node: Node, new: &Attributes) -> Result<()>;
    /// `None` removes it.
    fn set_extended(&mut self, node: Node, name: &[u8], value: Option<&[u8]>) -> Result<()>;
    /// The filesystem's own checker is clean from here.
    fn commit(&mut self) -> Result<()>;
}

/// What an independent reader sees: the third judge of every edit.
pub trait Witness {
    /// Its name, for the report: "ext4-view".
    fn name(&self) -> &'static str;
    /// Digest of the contents of the file at `path` (components from the root of this filesystem, no links
    /// followed; a symbolic link's contents are its target); `None` if it is absent.
    fn see(&self, path: &GuestPath) -> Result<Option<Digest>>;
}
