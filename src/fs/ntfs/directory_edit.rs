//! Names in directories: made, taken away, and told what has become of their files.

use super::{
    Ntfs,
    attribute::kind,
    edited_file::{EditedFile, OwnedAttribute, Value},
    error::{NtfsError, Parsed},
    file_name::{Facts, FileName, namespace},
    file_record::{Reference, number},
    index::DIRECTORY,
    index_node::{ENTRY_HEADER, Entry, Node, OwnedEntry, RootHeader, collation},
    name, short_name,
    standard_information::attribute,
};
use crate::{
    disk::field::{u16_le, u32_le},
    fs::Result,
};

/// Windows allows so many hard links.
const MOST_LINKS: u16 = 1024;

/// A name in a directory that is changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Named {
    /// The record of the file.
    pub(super) number: u64,
    pub(super) name: FileName,
}

impl Ntfs {
    /// A name in a directory, as in [`Ntfs::find_name`].
    pub(super) fn find_edited(&self, directory: &EditedFile, wanted: &[u16]) -> Result<Option<Named>> {
        let fail = |e: NtfsError| self.in_record(directory.number, e);
        let key = key_of(wanted).map_err(fail)?;
        let mut similar = None;
        for entry in self.neighbours(directory, &DIRECTORY, &key)? {
            let named = named(&entry).map_err(fail)?;
            if named.name.name == wanted {
                return Ok(Some(named));
            }
            if self
                .upcase
                .same(wanted.iter().copied(), named.name.name.iter().copied())
            {
                similar = Some(named);
            }
        }
        let information = directory.standard_information().map_err(fail)?;
        Ok(similar.filter(|_| !information.is_case_sensitive()))
    }

    /// What a directory keeps of a file beside its name.
    pub(super) fn facts(&self, file: &EditedFile) -> Result<Facts> {
        let fail = |e: NtfsError| self.in_record(file.number, e);
        let information = file.standard_information().map_err(fail)?;
        let mut facts = Facts {
            times: information.times,
            attributes: information.attributes,
            ..Facts::default()
        };
        if file.is_directory() {
            facts.attributes |= attribute::NAMES_DIRECTORY;
        } else if let Some(data) = file.attribute(kind::DATA, &[]) {
            facts.size = data.size();
            facts.allocated = match &data.value {
                Value::Resident { bytes, .. } => (bytes.len() as u64).next_multiple_of(8),
                Value::Clusters(clusters) if data.has_long_header() => self.byte(clusters.present()),
                Value::Clusters(clusters) => self.byte(clusters.end()),
            };
        }
        let views =
            |attribute: &&OwnedAttribute| attribute.kind == kind::INDEX_ROOT && attribute.name != DIRECTORY;
        if file.attributes.iter().any(|attribute| views(&attribute)) {
            facts.attributes |= attribute::NAMES_VIEW;
        }
        let mut start = [0; 4];
        if file.attribute(kind::REPARSE_POINT, &[]).is_some() {
            self.read_value(file, (kind::REPARSE_POINT, &[]), 0, &mut start)?;
            facts.tag = u32_le(&start, 0).map_err(|e| fail(e.into()))?;
        } else if let Some(information) = file.value(kind::EA_INFORMATION, &[]) {
            facts.tag = u16_le(information, 0)
                .map(u32::from)
                .map_err(|e| fail(e.into()))?;
        }
        Ok(facts)
    }

    /// Gives a file a name. `with_short`: its name for Windows, with one for DOS beside it if need be; else a further hard
    /// link. The caller writes both.
    pub(super) fn add_name(
        &mut self,
        directory: &mut EditedFile,
        file: &mut EditedFile,
        name: &[u16],
        with_short: bool,
    ) -> Result<()> {
        let number = directory.number;
        let fail = |ntfs: &Self, e: NtfsError| ntfs.in_record(number, e);
        let information = directory.standard_information().map_err(|e| fail(self, e))?;
        let names = if !with_short || information.is_case_sensitive() {
            vec![(name.to_vec(), namespace::POSIX)]
        } else if short_name::is_short(name) {
            vec![(name.to_vec(), namespace::BOTH)]
        } else {
            match self.short_name(directory, name)? {
                Some(short) => vec![(name.to_vec(), namespace::WINDOWS), (short, namespace::DOS)],
                None => vec![(name.to_vec(), namespace::POSIX)],
            }
        };
        if usize::from(file.header.links) + names.len() > usize::from(MOST_LINKS) {
            return Err(self.fault(NtfsError::Full(format!(
                "file record {} has {} names, and {MOST_LINKS} are the most that there can be",
                file.number, file.header.links
            ))));
        }
        let facts = self.facts(file)?;
        for (name, namespace) in names {
            let name = FileName {
                parent: directory.reference(),
                facts,
                namespace,
                name,
            };
            let key = name.encode().map_err(|e| fail(self, e))?;
            let entry = OwnedEntry::of_name(file.reference(), &key).map_err(|e| fail(self, e))?;
            self.insert_entry(directory, &DIRECTORY, entry)?;
            file.attributes
                .push(OwnedAttribute::resident(kind::FILE_NAME, &[], key));
            file.header.links = file.header.links.saturating_add(1);
        }
        Ok(())
    }

    /// A name for DOS that the directory does not have; `None` if all are taken.
    fn short_name(&self, directory: &EditedFile, name: &[u16]) -> Result<Option<Vec<u16>>> {
        for short in short_name::candidates(name) {
            if self.find_edited(directory, &short)?.is_none() {
                return Ok(Some(short));
            }
        }
        Ok(None)
    }

    /// Takes a name from a file, and the one for DOS that belongs to it. True if it was a file's name for Windows, not a
    /// further hard link. The caller writes both.
    pub(super) fn take_name(
        &mut self,
        directory: &mut EditedFile,
        file: &mut EditedFile,
        name: &FileName,
    ) -> Result<bool> {
        let pair = [namespace::WINDOWS, namespace::DOS];
        let belongs = |other: &FileName| {
            other.parent.number == directory.number
                && (other.name == name.name && other.namespace == name.namespace
                    || pair.contains(&name.namespace) && pair.contains(&other.namespace))
        };
        let mut found = Vec::new();
        for (index, attribute) in file.attributes.iter().enumerate() {
            if let (kind::FILE_NAME, Value::Resident { bytes, .. }) = (attribute.kind, &attribute.value) {
                let parsed = FileName::parse(bytes).map_err(|e| self.in_record(file.number, e))?;
                if belongs(&parsed) {
                    found.push((index, parsed));
                }
            }
        }
        if found.is_empty() {
            return Err(self.damaged(
                directory.number,
                format!(
                    "has the name \"{}\" for file record {}, which does not know of it",
                    name::shown(&name.name),
                    file.number
                ),
            ));
        }
        for (index, name) in found.into_iter().rev() {
            file.attributes.remove(index);
            file.header.links = file.header.links.saturating_sub(1);
            let key = name.encode().map_err(|e| self.in_record(file.number, e))?;
            self.remove_entry(directory, &DIRECTORY, &key)?;
        }
        Ok(name.namespace != namespace::POSIX)
    }

    /// How many names a file has, not counting those for DOS.
    pub(super) fn names_left(&self, file: &EditedFile) -> Result<usize> {
        let mut count = 0;
        for name in self.edited_names(file)? {
            count += usize::from(name.namespace != namespace::DOS);
        }
        Ok(count)
    }

    pub(super) fn edited_names(&self, file: &EditedFile) -> Result<Vec<FileName>> {
        let names = file
            .attributes
            .iter()
            .filter(|attribute| attribute.kind == kind::FILE_NAME);
        names
            .map(|attribute| match &attribute.value {
                Value::Resident { bytes, .. } => {
                    FileName::parse(bytes).map_err(|e| self.in_record(file.number, e))
                }
                Value::Clusters(_) => Err(self.damaged(file.number, "has a name in clusters")),
            })
            .collect()
    }

    /// Tells the directories of a changed file what has become of it. The directory that was told last is left `open`, since
    /// the next file is often in it too.
    pub(super) fn refresh_names(&mut self, number: u64, open: &mut Option<EditedFile>) -> Result<()> {
        if let Some(directory) = open.take_if(|directory| directory.number == number) {
            self.store(directory)?;
        }
        let file = self.load(number)?;
        let facts = self.facts(&file)?;
        let names = self.edited_names(&file)?;
        self.keep(file);
        for name in names {
            let key = name.encode().map_err(|e| self.in_record(number, e))?;
            if let Some(other) = open.take_if(|directory| directory.number != name.parent.number) {
                self.store(other)?;
            }
            let mut directory = match open.take() {
                Some(directory) => directory,
                None => self.load(name.parent.number)?,
            };
            self.update_entry(&mut directory, &DIRECTORY, &key, &mut |raw| {
                let key = raw.get_mut(ENTRY_HEADER..).unwrap_or_default();
                facts.put(key)
            })?;
            *open = Some(directory);
        }
        Ok(())
    }

    /// A directory without names.
    pub(super) fn empty_directory(&self) -> Parsed<Vec<u8>> {
        let block_size = self.boot.index_block_size;
        let per_block = if block_size >= self.boot.cluster_size {
            block_size / self.boot.cluster_size
        } else {
            block_size / 512
        };
        let header = RootHeader {
            kind: kind::FILE_NAME,
            collation: collation::FILE_NAME,
            block_size: u32::try_from(block_size).unwrap_or(u32::MAX),
            clusters_per_block: u8::try_from(per_block).unwrap_or(u8::MAX),
        };
        header.encode(&Node::default())
    }

    /// Has a directory no names?
    pub(super) fn must_be_empty(&self, directory: &EditedFile) -> Result<()> {
        if self.is_empty_index(directory, &DIRECTORY)? {
            return Ok(());
        }
        Err(self.fault(NtfsError::Exists(format!(
            "file record {} is a directory that is not empty",
            directory.number
        ))))
    }

    /// The directories above, from the nearest to the root: those that must not be moved into themselves.
    pub(super) fn is_within(&self, directory: u64, above: u64) -> Result<bool> {
        /// No path of Windows is deeper; a directory loop is.
        const MOST_DEPTH: usize = 32768;
        let mut at = directory;
        for _ in 0..MOST_DEPTH {
            if at == above {
                return Ok(true);
            }
            if at == number::ROOT {
                return Ok(false);
            }
            let names = self.names(&self.file(at)?)?;
            let name = names.first().ok_or_else(|| self.damaged(at, "has no name"))?;
            at = name.parent.number;
        }
        Err(self.damaged(directory, "the way up from this directory has no end"))
    }
}

/// A key that stands where the name would: the order of names is that of the names alone.
fn key_of(wanted: &[u16]) -> Parsed<Vec<u8>> {
    let name = FileName {
        parent: Reference::default(),
        facts: Facts::default(),
        namespace: namespace::POSIX,
        name: wanted.to_vec(),
    };
    name.encode()
}

fn named(entry: &OwnedEntry) -> Parsed<Named> {
    let entry = Entry {
        raw: &entry.raw,
        child: None,
    };
    Ok(Named {
        number: entry.reference()?.number,
        name: FileName::parse(entry.key()?)?,
    })
}
