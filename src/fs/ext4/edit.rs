//! [`Edit`] over [`Ext4`].

use super::{
    Ext4, acl,
    directory::MOST_NAME,
    directory_edit::NewEntry,
    error::Ext4Error,
    inode::{Inode, ROOT, Stamp},
    xattr::{Attribute, Value, split_name},
};
use crate::fs::{Attributes, Edit, Node, Result, mode};
use std::io::Read;

/// `EXT4_LINK_MAX`.
const MOST_LINKS: u16 = 65000;
/// No path of a real guest is deeper; a directory loop is.
const MOST_DEPTH: u32 = 4096;
/// `e_name_index` of the access list.
const ACCESS_LIST: u8 = 2;

impl Ext4 {
    fn check_name(&self, name: &[u8]) -> Result<()> {
        let wrong = name.is_empty()
            || name.len() > MOST_NAME
            || name == b"."
            || name == b".."
            || name.iter().any(|byte| matches!(byte, 0 | b'/'));
        if wrong {
            return Err(self.fault(Ext4Error::Unsupported(format!(
                "\"{}\" is no name for a file: 1 to 255 bytes, no slash, no zero byte, not `.` or `..`",
                name.escape_ascii()
            ))));
        }
        Ok(())
    }

    fn directory_inode(&self, node: Node) -> Result<Inode> {
        let directory = self.node(node)?;
        self.must_be_editable_directory(&directory)?;
        Ok(directory)
    }

    fn must_be_absent(&self, directory: &Inode, name: &[u8]) -> Result<()> {
        if self.find(directory, name)?.is_some() {
            return Err(self.fault(Ext4Error::Exists(format!(
                "directory {} has the name \"{}\" already",
                directory.number,
                name.escape_ascii()
            ))));
        }
        Ok(())
    }

    fn must_find(&self, directory: &Inode, name: &[u8]) -> Result<Inode> {
        match self.find(directory, name)? {
            Some(number) => self.node(Node(u64::from(number))),
            None => Err(self.absent(directory, name)),
        }
    }

    fn touch(&self, inode: &mut Inode, stamps: &[Stamp]) {
        for stamp in stamps {
            inode.set_time(*stamp, self.now());
        }
    }

    fn write_directory(&mut self, directory: &mut Inode) -> Result<()> {
        self.touch(directory, &[Stamp::Modified, Stamp::Changed]);
        self.write_inode(directory)
    }

    fn must_be_empty(&self, directory: &Inode) -> Result<()> {
        let mut empty = true;
        self.each_entry(directory, &mut |name, _| {
            empty = name == b"." || name == b"..";
            empty
        })?;
        if empty {
            return Ok(());
        }
        Err(self.fault(Ext4Error::Exists(format!(
            "directory {} is not empty",
            directory.number
        ))))
    }

    /// One name less for `inode`, whose entry is gone from `parent`.
    fn drop_name(&mut self, parent: &mut Inode, mut inode: Inode) -> Result<()> {
        if inode.is_directory() {
            Self::drop_directory_link(parent);
            return self.release_inode(inode);
        }
        let links = inode.links().saturating_sub(1);
        if links == 0 {
            return self.release_inode(inode);
        }
        inode.set_links(links);
        self.touch(&mut inode, &[Stamp::Changed]);
        self.write_inode(&inode)
    }

    fn must_be_ours(&self, inode: &Inode) -> Result<()> {
        let reserved =
            inode.number < self.superblock.first_inode || inode.number == self.superblock.orphan_file_inode;
        if inode.number == ROOT || !reserved {
            return Ok(());
        }
        Err(self.fault(Ext4Error::Unsupported(format!(
            "inode {} is the filesystem's own",
            inode.number
        ))))
    }

    /// Is `directory` the directory `above`, or somewhere below it?
    fn is_within(&self, directory: &Inode, above: u32) -> Result<bool> {
        let mut at = directory.clone();
        for _ in 0..MOST_DEPTH {
            if at.number == above {
                return Ok(true);
            }
            if at.number == ROOT {
                return Ok(false);
            }
            at = self.must_find(&at, b"..")?;
        }
        Err(self.damaged_inode(directory.number, "the way up from this directory has no end"))
    }

    /// The target of a rename is there already: it goes, by the rules of `rename(2)`.
    fn rename_over(
        &mut self,
        directory: &mut Inode,
        name: &[u8],
        moved: &Inode,
        target: Inode,
    ) -> Result<()> {
        match (moved.is_directory(), target.is_directory()) {
            (true, true) => self.must_be_empty(&target)?,
            (false, false) => {}
            _ => {
                return Err(self.fault(Ext4Error::Exists(format!(
                    "\"{}\" is a directory and what is renamed is not, or the other way round",
                    name.escape_ascii()
                ))));
            }
        }
        self.must_be_ours(&target)?;
        let new = NewEntry {
            name,
            inode: moved.number,
            kind: self.entry_kind(moved.mode()),
        };
        self.redirect_entry(directory, new)?;
        self.drop_name(directory, target)
    }

    /// An access control list says what the mode says, as after `chmod(2)`.
    fn list_follows_mode(&mut self, inode: &mut Inode) -> Result<()> {
        let attributes = self.attributes_of(inode)?;
        let list = attributes
            .iter()
            .find(|attribute| attribute.prefix == ACCESS_LIST);
        if let Some(Attribute {
            value: Value::Here(list),
            ..
        }) = list
        {
            let list = acl::with_mode(list, inode.mode()).map_err(|e| self.in_inode(inode.number, e))?;
            self.set_attribute(inode, ACCESS_LIST, b"", Some(&list))?;
        }
        Ok(())
    }

    /// A mode that agrees with an access control list.
    fn mode_from_list(mode: u32, list: &[u8]) -> std::result::Result<u32, Ext4Error> {
        let entries = acl::parse_disk(list)?;
        let has_mask = entries.iter().any(|entry| entry.tag == acl::tag::MASK);
        Ok(entries.iter().fold(mode, |mode, entry| {
            let shift = match entry.tag {
                acl::tag::OWNER => 6,
                acl::tag::MASK => 3,
                acl::tag::GROUP_OWNER if !has_mask => 3,
                acl::tag::OTHER => 0,
                _ => return mode,
            };
            mode & !(7 << shift) | (u32::from(entry.permissions) & 7) << shift
        }))
    }
}

impl Edit for Ext4 {
    fn set_clock(&mut self, seconds: u64) {
        self.clock = seconds;
    }

    fn create(&mut self, directory: Node, name: &[u8], kind: u32) -> Result<Node> {
        self.check_name(name)?;
        let mut parent = self.directory_inode(directory)?;
        self.must_be_absent(&parent, name)?;
        if kind >> 16 != 0 || matches!(kind & mode::TYPE, 0 | 0o020_000 | 0o060_000) {
            return Err(self.fault(Ext4Error::Unsupported(format!(
                "mode {kind:o}: files, directories, links, pipes and sockets can be made"
            ))));
        }
        let mut inode = self.new_inode(&parent, kind)?;
        if inode.is_directory() {
            self.add_directory_link(&mut parent)?;
            self.start_directory(&mut inode, parent.number)?;
            inode.set_links(2);
        } else {
            inode.set_links(1);
        }
        self.write_inode(&inode)?;
        let new = NewEntry {
            name,
            inode: inode.number,
            kind: self.entry_kind(kind),
        };
        self.add_entry(&mut parent, new)?;
        self.write_directory(&mut parent)?;
        Ok(Node(u64::from(inode.number)))
    }

    fn link(&mut self, node: Node, directory: Node, name: &[u8]) -> Result<()> {
        self.check_name(name)?;
        let mut parent = self.directory_inode(directory)?;
        self.must_be_absent(&parent, name)?;
        let mut inode = self.node(node)?;
        self.must_be_ours(&inode)?;
        if inode.is_directory() {
            return Err(self.fault(Ext4Error::Unsupported(format!(
                "inode {} is a directory, which has one name only",
                inode.number
            ))));
        }
        if inode.links() >= MOST_LINKS {
            return Err(self.fault(Ext4Error::Full(format!(
                "inode {} has {} names, the most that there can be",
                inode.number,
                inode.links()
            ))));
        }
        let new = NewEntry {
            name,
            inode: inode.number,
            kind: self.entry_kind(inode.mode()),
        };
        self.add_entry(&mut parent, new)?;
        self.write_directory(&mut parent)?;
        inode.set_links(inode.links() + 1);
        self.touch(&mut inode, &[Stamp::Changed]);
        self.write_inode(&inode)
    }

    fn replace(&mut self, node: Node, contents: &mut dyn Read) -> Result<()> {
        let mut inode = self.node(node)?;
        self.must_be_ours(&inode)?;
        if inode.is_file() {
            self.replace_contents(&mut inode, contents)?;
        } else if inode.is_link() {
            self.replace_target(&mut inode, contents)?;
        } else {
            return Err(self.fault(Ext4Error::Unsupported(format!(
                "inode {} is neither a file nor a link",
                inode.number
            ))));
        }
        self.touch(&mut inode, &[Stamp::Modified, Stamp::Changed]);
        self.write_inode(&inode)
    }

    fn append(&mut self, node: Node, contents: &mut dyn Read) -> Result<()> {
        let mut inode = self.node(node)?;
        self.must_be_ours(&inode)?;
        if !inode.is_file() {
            return Err(self.fault(Ext4Error::Unsupported(format!(
                "inode {} is not a file",
                inode.number
            ))));
        }
        self.append_contents(&mut inode, contents)?;
        self.touch(&mut inode, &[Stamp::Modified, Stamp::Changed]);
        self.write_inode(&inode)
    }

    fn remove(&mut self, directory: Node, name: &[u8]) -> Result<()> {
        self.check_name(name)?;
        let mut parent = self.directory_inode(directory)?;
        let inode = self.must_find(&parent, name)?;
        self.must_be_ours(&inode)?;
        if inode.is_directory() {
            self.must_be_empty(&inode)?;
        }
        self.take_entry(&mut parent, name)?;
        self.drop_name(&mut parent, inode)?;
        self.write_directory(&mut parent)
    }

    fn rename(&mut self, from: (Node, &[u8]), to: (Node, &[u8])) -> Result<()> {
        self.check_name(from.1)?;
        self.check_name(to.1)?;
        let mut source = self.directory_inode(from.0)?;
        let mut target = self.directory_inode(to.0)?;
        let same = source.number == target.number;
        let moved = self.must_find(&source, from.1)?;
        self.must_be_ours(&moved)?;
        if moved.is_directory() && self.is_within(&target, moved.number)? {
            return Err(self.fault(Ext4Error::Unsupported(format!(
                "directory {} can't be moved into itself",
                moved.number
            ))));
        }
        match self.find(&target, to.1)? {
            Some(number) if number == moved.number => return Ok(()),
            Some(number) => {
                let there = self.node(Node(u64::from(number)))?;
                self.rename_over(&mut target, to.1, &moved, there)?;
            }
            None => {
                let new = NewEntry {
                    name: to.1,
                    inode: moved.number,
                    kind: self.entry_kind(moved.mode()),
                };
                self.add_entry(&mut target, new)?;
            }
        }
        if same {
            self.take_entry(&mut target, from.1)?;
        } else {
            if moved.is_directory() {
                self.add_directory_link(&mut target)?;
                Self::drop_directory_link(&mut source);
            }
            self.take_entry(&mut source, from.1)?;
            self.write_directory(&mut source)?;
        }
        self.write_directory(&mut target)?;
        let mut moved = self.inode(moved.number)?;
        if moved.is_directory() && !same {
            let new = NewEntry {
                name: b"..",
                inode: target.number,
                kind: self.entry_kind(mode::DIRECTORY),
            };
            self.redirect_entry(&mut moved, new)?;
        }
        self.touch(&mut moved, &[Stamp::Changed]);
        self.write_inode(&moved)
    }

    fn set_attributes(&mut self, node: Node, new: &Attributes) -> Result<()> {
        let mut inode = self.node(node)?;
        self.must_be_ours(&inode)?;
        self.touch(&mut inode, &[Stamp::Changed]);
        if let Some(mode) = new.mode {
            inode.set_mode(inode.mode() & mode::TYPE | mode & 0o7777);
            self.list_follows_mode(&mut inode)?;
        }
        if let Some(owner) = new.owner {
            inode.set_owner(owner);
        }
        for (stamp, time) in [
            (Stamp::Accessed, new.accessed),
            (Stamp::Modified, new.modified),
            (Stamp::Changed, new.changed),
            (Stamp::Created, new.created),
        ] {
            if let Some(time) = time {
                inode.set_time(stamp, time);
            }
        }
        self.write_inode(&inode)
    }

    fn set_extended(&mut self, node: Node, name: &[u8], value: Option<&[u8]>) -> Result<()> {
        let mut inode = self.node(node)?;
        self.must_be_ours(&inode)?;
        let named =
            split_name(name).filter(|(prefix, rest)| (*prefix, *rest) != (super::xattr::SYSTEM, b"data"));
        let Some((prefix, rest)) = named else {
            return Err(self.fault(Ext4Error::Unsupported(format!(
                "\"{}\" is no name of an extended attribute: user., trusted., security. or system.posix_acl_*",
                name.escape_ascii()
            ))));
        };
        let converted = match value {
            Some(value) if acl::is_acl(prefix) => {
                Some(acl::from_interface(value).map_err(|e| self.in_inode(inode.number, e))?)
            }
            _ => None,
        };
        let value = converted.as_deref().or(value);
        if prefix == ACCESS_LIST
            && let Some(list) = value
        {
            let mode =
                Self::mode_from_list(inode.mode(), list).map_err(|e| self.in_inode(inode.number, e))?;
            inode.set_mode(mode);
        }
        self.set_attribute(&mut inode, prefix, rest, value)?;
        self.touch(&mut inode, &[Stamp::Changed]);
        self.write_inode(&inode)
    }

    fn commit(&mut self) -> Result<()> {
        self.write_changes()
    }
}
