//! [`Edit`] over [`Ntfs`].

use super::{
    Ntfs,
    allocate_record::For,
    attribute::kind,
    edited_file::{EditedFile, OwnedAttribute, Value},
    error::NtfsError,
    extended::Name,
    file_record::{flag, number},
    index::DIRECTORY,
    name,
    reparse_point::{ReparsePoint, tag},
    security_descriptor,
    standard_information::{Stamp, StandardInformation, attribute, file_time},
    wof,
};
use crate::{
    disk::field::u32_le,
    fs::{Attributes, Edit, Node, Result, mode},
};
use std::io::Read;

/// Attributes that can be set: the others say what a file has.
const SETTABLE: u32 = attribute::READ_ONLY
    | attribute::HIDDEN
    | attribute::SYSTEM
    | attribute::ARCHIVE
    | attribute::TEMPORARY
    | attribute::OFFLINE
    | attribute::NOT_CONTENT_INDEXED;
/// As much as Linux allows for the value of an extended attribute.
const MOST_VALUE: usize = 65536;

impl Ntfs {
    /// Gets ready for edits.
    pub(super) fn prepare_edit(&mut self) -> Result<()> {
        if self.allocator.is_some() {
            return Ok(());
        }
        self.allocator = Some(self.new_allocator()?);
        self.mirrored = self.mirrored_records()?;
        // The bitmap of $MFT is changed while $MFT itself is: it must not be in its record.
        let mut mft = self.load(number::MFT)?;
        if let Some(position) = mft.position(kind::BITMAP, &[])
            && matches!(
                mft.attributes.get(position).map(|a| &a.value),
                Some(Value::Resident { .. })
            )
        {
            self.move_to_clusters(&mut mft, position)?;
        }
        self.store(mft)
    }

    /// How many records `$MFTMirr` has. It is in one piece, where the boot sector says: what is written there may be nobody
    /// else's.
    fn mirrored_records(&self) -> Result<u64> {
        let mirror = self.file(number::MIRROR)?;
        let mut stream = self
            .stream(&mirror, kind::DATA, &[])?
            .filter(|stream| stream.resident().is_none())
            .ok_or_else(|| self.damaged(number::MIRROR, "has no contents in clusters"))?;
        let run = self.run_at(&mut stream, 0)?;
        if run.lcn != Some(self.boot.mirror) {
            return Err(self.damaged(
                number::MIRROR,
                format!(
                    "$MFTMirr is at cluster {:?}, the boot sector says {}",
                    run.lcn, self.boot.mirror
                ),
            ));
        }
        Ok(stream.sizes.size.min(self.byte(run.clusters)) / self.boot.record_size as u64)
    }

    /// In 100 ns since 1601.
    fn now(&self) -> u64 {
        file_time(i128::from(self.clock) * 1_000_000_000)
    }

    fn touch(&self, file: &mut EditedFile, stamps: &[Stamp]) -> Result<()> {
        let number = file.number;
        let now = self.now();
        let mut information = file
            .standard_information()
            .map_err(|e| self.in_record(number, e))?;
        for stamp in stamps {
            if let Some(time) = information.times.get_mut(*stamp as usize) {
                *time = now;
            }
        }
        file.set_standard_information(&information)
            .map_err(|e| self.in_record(number, e))
    }

    /// A file of users, or the root.
    fn load_users(&mut self, node: Node) -> Result<EditedFile> {
        let record = self.base_record(node.0)?;
        let own = node.0 < number::FIRST_USER || record.header.has(flag::EXTENSION);
        if own && node.0 != number::ROOT {
            return Err(self.fault(NtfsError::Unsupported(format!(
                "file record {} is the filesystem's own",
                node.0
            ))));
        }
        self.load(node.0)
    }

    fn load_directory(&mut self, node: Node) -> Result<EditedFile> {
        let directory = self.load_users(node)?;
        if directory.is_directory() && directory.attribute(kind::INDEX_ROOT, &DIRECTORY).is_some() {
            return Ok(directory);
        }
        Err(self.fault(NtfsError::NotFound(format!(
            "file record {} is no directory",
            node.0
        ))))
    }

    /// Writes a file whose record has changed, and whose directories are told at the commit.
    fn store_touched(&mut self, file: EditedFile) -> Result<()> {
        self.touched.insert(file.number);
        self.store(file)
    }

    fn exists(&self, directory: &EditedFile, name: &[u16]) -> crate::disk::Error {
        self.fault(NtfsError::Exists(format!(
            "directory {} has the name \"{}\" already",
            directory.number,
            name::shown(name)
        )))
    }

    fn absent(&self, directory: &EditedFile, name: &[u8]) -> crate::disk::Error {
        self.fault(NtfsError::NotFound(format!(
            "directory {} has no name \"{}\"",
            directory.number,
            name.escape_ascii()
        )))
    }

    /// Calls `change` with a directory; it is kept if that fails before it was changed.
    fn in_directory<T>(
        &mut self,
        node: Node,
        change: impl FnOnce(&mut Self, &mut EditedFile) -> Result<T>,
    ) -> Result<T> {
        let mut directory = self.load_directory(node)?;
        let result = change(self, &mut directory)?;
        self.touch(&mut directory, &[Stamp::Modified, Stamp::Changed])?;
        self.store_touched(directory)?;
        Ok(result)
    }

    fn new_file(&mut self, directory: &EditedFile, kind: u32) -> Result<EditedFile> {
        let is_directory = kind & mode::TYPE == mode::DIRECTORY;
        let security = self.inherited_security(directory, is_directory)?;
        let record = self.allocate_record(For::File)?;
        let mut file = self.load(record.number)?;
        if is_directory {
            file.header.flags |= flag::DIRECTORY;
        }
        let number = record.number;
        let parent = directory
            .standard_information()
            .map_err(|e| self.in_record(directory.number, e))?;
        let information = StandardInformation {
            times: [self.now(); 4],
            attributes: if is_directory { 0 } else { attribute::ARCHIVE }
                | parent.attributes & attribute::NOT_CONTENT_INDEXED,
            versions: [0; 2],
            security: Some(security),
        };
        file.set_standard_information(&information)
            .map_err(|e| self.in_record(number, e))?;
        if is_directory {
            let root = self.empty_directory().map_err(|e| self.in_record(number, e))?;
            file.set_value(kind::INDEX_ROOT, &DIRECTORY, root);
        } else {
            file.set_value(kind::DATA, &[], Vec::new());
        }
        Ok(file)
    }

    /// Gives back all that a file has, and its record.
    fn delete(&mut self, mut file: EditedFile) -> Result<()> {
        if let Some(id) = file.value(kind::OBJECT_ID, &[]).map(<[u8]>::to_vec) {
            self.forget_object_id(&id)?;
        }
        if let Some(raw) = self.edited_reparse_point(&file)? {
            self.forget_reparse_point(file.reference(), &raw)?;
        }
        for attribute in std::mem::take(&mut file.attributes) {
            self.free_value(&attribute.value)?;
        }
        for place in file.list.iter().filter_map(super::Run::place) {
            self.free_clusters_of(place)?;
        }
        for record in file.more {
            self.free_record(record.number)?;
        }
        self.free_record(file.number)?;
        self.touched.remove(&file.number);
        self.open.replace(None);
        Ok(())
    }

    /// The file's record says what it has now, also where writing it ended for want of room.
    fn after_writing(&mut self, mut file: EditedFile, done: Result<()>) -> Result<()> {
        if done.is_ok() {
            self.set_attribute_bit(&mut file, attribute::ARCHIVE, true)?;
            self.touch(&mut file, &[Stamp::Modified, Stamp::Changed])?;
        }
        self.store_touched(file)?;
        done
    }

    /// Takes a name away, and the file with its last.
    fn unlink(
        &mut self,
        directory: &mut EditedFile,
        mut file: EditedFile,
        name: &super::FileName,
    ) -> Result<()> {
        if file.is_directory() {
            self.must_be_empty(&file)?;
        }
        self.take_name(directory, &mut file, name)?;
        if self.names_left(&file)? == 0 {
            return self.delete(file);
        }
        self.touch(&mut file, &[Stamp::Changed])?;
        self.store_touched(file)
    }

    fn set_stream(&mut self, file: &mut EditedFile, units: &[u16], value: Option<&[u8]>) -> Result<()> {
        let reserved = units.iter().any(|unit| matches!(*unit, 0 | 0x2f | 0x3a | 0x5c));
        if reserved || name::shown(units) == wof::STREAM {
            return Err(self.fault(NtfsError::Unsupported(format!(
                "\"{}\" is no name for a stream",
                name::shown(units)
            ))));
        }
        // The one that differs in upper and lower case only is the same.
        let same = |attribute: &&OwnedAttribute| {
            attribute.kind == kind::DATA
                && !attribute.name.is_empty()
                && self
                    .upcase
                    .same(attribute.name.iter().copied(), units.iter().copied())
        };
        let known = file
            .attributes
            .iter()
            .find(same)
            .map(|attribute| attribute.name.clone());
        match (known, value) {
            (None, None) => Ok(()),
            (Some(known), None) => self.remove_attribute(file, (kind::DATA, &known)),
            (known, Some(value)) => {
                let known = known.unwrap_or_else(|| units.to_vec());
                self.replace_value(file, (kind::DATA, &known), value.to_vec())
            }
        }
    }

    fn set_security(&mut self, file: &mut EditedFile, descriptor: &[u8]) -> Result<()> {
        let number = file.number;
        security_descriptor::check(descriptor).map_err(|e| self.in_record(number, e))?;
        let id = self.security_id(descriptor)?;
        let mut information = file
            .standard_information()
            .map_err(|e| self.in_record(number, e))?;
        information.security = Some(id);
        file.set_standard_information(&information)
            .map_err(|e| self.in_record(number, e))?;
        self.remove_attribute(file, (kind::SECURITY_DESCRIPTOR, &[]))
    }

    fn set_attribute_bits(&mut self, file: &mut EditedFile, value: &[u8]) -> Result<()> {
        let number = file.number;
        let bits = u32_le(value, 0).map_err(|e| self.fault(e.into()))?;
        let mut information = file
            .standard_information()
            .map_err(|e| self.in_record(number, e))?;
        information.attributes = information.attributes & !SETTABLE | bits & SETTABLE;
        file.set_standard_information(&information)
            .map_err(|e| self.in_record(number, e))
    }

    fn set_any_reparse_point(&mut self, file: &mut EditedFile, value: Option<&[u8]>) -> Result<()> {
        if let Some(raw) = value {
            ReparsePoint::parse(raw).map_err(|e| self.in_record(file.number, e))?;
            if file.is_directory() && !self.is_empty_index(file, &DIRECTORY)? {
                return Err(self.fault(NtfsError::Exists(format!(
                    "file record {} is a directory that is not empty, which cannot be a reparse point",
                    file.number
                ))));
            }
        }
        self.set_reparse_point(file, value.map(<[u8]>::to_vec))
    }
}

impl Edit for Ntfs {
    fn set_clock(&mut self, seconds: u64) {
        self.clock = seconds;
    }

    fn create(&mut self, directory: Node, name: &[u8], kind: u32) -> Result<Node> {
        let units = name::check_new(name).map_err(|e| self.fault(e))?;
        if !matches!(kind & mode::TYPE, mode::FILE | mode::DIRECTORY | mode::LINK) {
            return Err(self.fault(NtfsError::Unsupported(format!(
                "mode {kind:o}: files, directories and links can be made"
            ))));
        }
        self.in_directory(directory, |ntfs, parent| {
            if ntfs.find_edited(parent, &units)?.is_some() {
                return Err(ntfs.exists(parent, &units));
            }
            ntfs.must_have_room(0)?;
            let mut file = ntfs.new_file(parent, kind)?;
            ntfs.add_name(parent, &mut file, &units, true)?;
            let number = file.number;
            if kind & mode::TYPE == mode::LINK {
                // A link to nowhere, until it gets its target.
                let point = ReparsePoint::link(tag::SYMLINK, b".").and_then(|point| point.encode());
                let raw = point.map_err(|e| ntfs.in_record(number, e))?;
                ntfs.set_reparse_point(&mut file, Some(raw))?;
            }
            ntfs.store_touched(file)?;
            Ok(Node(number))
        })
    }

    fn link(&mut self, node: Node, directory: Node, name: &[u8]) -> Result<()> {
        let units = name::check_new(name).map_err(|e| self.fault(e))?;
        let file = self.load_users(node)?;
        let is_directory = file.is_directory();
        self.keep(file);
        if is_directory {
            return Err(self.fault(NtfsError::Unsupported(format!(
                "file record {} is a directory, which has one name only",
                node.0
            ))));
        }
        self.in_directory(directory, |ntfs, parent| {
            if ntfs.find_edited(parent, &units)?.is_some() {
                return Err(ntfs.exists(parent, &units));
            }
            ntfs.must_have_room(0)?;
            let mut file = ntfs.load_users(node)?;
            ntfs.add_name(parent, &mut file, &units, false)?;
            ntfs.touch(&mut file, &[Stamp::Changed])?;
            ntfs.store_touched(file)
        })
    }

    fn replace(&mut self, node: Node, contents: &mut dyn Read) -> Result<()> {
        let mut file = self.load_users(node)?;
        let is_link = match self.edited_reparse_point(&file)? {
            Some(raw) => {
                let point = ReparsePoint::parse(&raw).map_err(|e| self.in_record(node.0, e))?;
                point.target().map_err(|e| self.in_record(node.0, e))?.is_some()
            }
            None => false,
        };
        self.must_have_room(0)?;
        if is_link {
            self.replace_target(&mut file, contents)?;
            self.touch(&mut file, &[Stamp::Modified, Stamp::Changed])?;
            return self.store_touched(file);
        }
        let done = self.replace_contents(&mut file, contents);
        self.after_writing(file, done)
    }

    fn append(&mut self, node: Node, contents: &mut dyn Read) -> Result<()> {
        let mut file = self.load_users(node)?;
        self.must_have_room(0)?;
        let done = self.append_contents(&mut file, contents);
        self.after_writing(file, done)
    }

    fn remove(&mut self, directory: Node, name: &[u8]) -> Result<()> {
        let units = name::from_bytes(name);
        self.in_directory(directory, |ntfs, parent| {
            let found = match &units {
                Some(units) => ntfs.find_edited(parent, units)?,
                None => None,
            };
            let found = found.ok_or_else(|| ntfs.absent(parent, name))?;
            if found.number == parent.number {
                return Err(ntfs.absent(parent, name));
            }
            let file = ntfs.load_users(Node(found.number))?;
            ntfs.unlink(parent, file, &found.name)
        })
    }

    fn rename(&mut self, from: (Node, &[u8]), to: (Node, &[u8])) -> Result<()> {
        let new = name::check_new(to.1).map_err(|e| self.fault(e))?;
        self.must_have_room(0)?;
        let source = self.load_directory(from.0)?;
        let old = match name::from_bytes(from.1) {
            Some(units) => self.find_edited(&source, &units)?,
            None => None,
        };
        let old = old.ok_or_else(|| self.absent(&source, from.1))?;
        self.keep(source);
        let moved = self.load_users(Node(old.number))?;
        let is_directory = moved.is_directory();
        self.keep(moved);
        let target = self.load_directory(to.0)?;
        let there = self.find_edited(&target, &new)?;
        self.keep(target);
        if is_directory && self.is_within(to.0.0, old.number)? {
            return Err(self.fault(NtfsError::Unsupported(format!(
                "directory {} can't be moved into itself",
                old.number
            ))));
        }
        // The same name spelled otherwise, or the name for DOS that belongs to it.
        let same_link = |other: &super::Named| {
            let pair = |name: &super::FileName| matches!(name.namespace, 1 | 2);
            from.0 == to.0
                && other.number == old.number
                && (other.name.name == old.name.name || pair(&other.name) && pair(&old.name))
        };
        if let Some(there) = there.filter(|there| !same_link(there)) {
            if there.number == old.number {
                return Ok(());
            }
            let file = self.load_users(Node(there.number))?;
            if file.is_directory() != is_directory {
                return Err(self.fault(NtfsError::Exists(format!(
                    "\"{}\" is a directory and what is renamed is not, or the other way round",
                    to.1.escape_ascii()
                ))));
            }
            if file.is_directory() {
                self.must_be_empty(&file)?;
            }
            self.in_directory(to.0, |ntfs, parent| ntfs.unlink(parent, file, &there.name))?;
        }
        let mut moved = self.load(old.number)?;
        let with_short = self.in_directory(from.0, |ntfs, source| {
            ntfs.take_name(source, &mut moved, &old.name)
        })?;
        self.in_directory(to.0, |ntfs, target| {
            ntfs.add_name(target, &mut moved, &new, with_short)
        })?;
        self.touch(&mut moved, &[Stamp::Changed])?;
        self.store_touched(moved)
    }

    fn set_attributes(&mut self, node: Node, new: &Attributes) -> Result<()> {
        let mut file = self.load_users(node)?;
        self.touch(&mut file, &[Stamp::Changed])?;
        let mut information = file
            .standard_information()
            .map_err(|e| self.in_record(node.0, e))?;
        for (stamp, time) in [
            (Stamp::Accessed, new.accessed),
            (Stamp::Modified, new.modified),
            (Stamp::Changed, new.changed),
            (Stamp::Created, new.created),
        ] {
            if let (Some(time), Some(field)) = (time, information.times.get_mut(stamp as usize)) {
                *field = file_time(time);
            }
        }
        file.set_standard_information(&information)
            .map_err(|e| self.in_record(node.0, e))?;
        self.store_touched(file)
    }

    fn set_extended(&mut self, node: Node, name: &[u8], value: Option<&[u8]>) -> Result<()> {
        let unsupported = |ntfs: &Self, why: &str| {
            Err(ntfs.fault(NtfsError::Unsupported(format!(
                "\"{}\" {why}",
                name.escape_ascii()
            ))))
        };
        if value.is_some_and(|value| value.len() > MOST_VALUE) {
            return unsupported(self, "would have more than 65536 bytes");
        }
        let Some(parsed) = Name::parse(name) else {
            return unsupported(
                self,
                "is no name of an extended attribute: user.STREAM or system.ntfs_*",
            );
        };
        let mut file = self.load_users(node)?;
        self.must_have_room(0)?;
        match (&parsed, value) {
            (Name::Stream(units), value) => self.set_stream(&mut file, units, value)?,
            (Name::SecurityDescriptor, Some(value)) => self.set_security(&mut file, value)?,
            (Name::Attributes, Some(value)) => self.set_attribute_bits(&mut file, value)?,
            (Name::ReparsePoint, value) => self.set_any_reparse_point(&mut file, value)?,
            (Name::SecurityDescriptor | Name::Attributes, None) => {
                return unsupported(self, "cannot be taken away");
            }
            (Name::ObjectId | Name::Dos | Name::Ea, _) => {
                return unsupported(self, "can be read only");
            }
        }
        self.touch(&mut file, &[Stamp::Changed])?;
        self.store_touched(file)
    }

    fn commit(&mut self) -> Result<()> {
        self.write_changes()
    }
}
