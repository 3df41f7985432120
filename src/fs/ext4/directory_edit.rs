//! Adding names to directories and taking them away. Inline directories become directories of blocks at the first
//! change; a directory of one block that is full becomes an indexed one, where the filesystem has indexes.

use super::{
    Ext4,
    directory::{self, Entry, TAIL, entries, entry_at, entry_length, put_entry},
    error::{Ext4Error, Parsed},
    features::{compat, incompat, ro_compat},
    hash::NameHash,
    htree,
    inode::{Inode, flag},
    xattr::SYSTEM,
};
use crate::{
    disk::field::{put_u16_le, put_u32_le},
    fs::Result,
};

/// A directory without `large_dir` may not grow past this: its size has 32 bits, of which one is a sign.
const MOST_SIZE: u64 = 1 << 31;

/// A new entry.
#[derive(Clone, Copy, Debug)]
pub(super) struct NewEntry<'a> {
    /// The name.
    pub(super) name: &'a [u8],
    /// Where it leads.
    pub(super) inode: u32,
    /// `EXT4_FT_*`; 0 without the `filetype` feature.
    pub(super) kind: u8,
}

/// Where a name is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Located {
    /// Block of the directory.
    pub(super) logical: u64,
    /// Byte offset of the entry there.
    pub(super) at: usize,
    /// Where it leads.
    pub(super) inode: u32,
}

/// Puts an entry where a block has room for it; false if there is none.
pub(super) fn insert(block: &mut [u8], usable: usize, new: NewEntry<'_>, with_type: bool) -> Parsed<bool> {
    let needed = entry_length(new.name.len());
    let mut at = 0;
    while at < usable {
        let entry = entry_at(block, at, with_type)?;
        let (length, used) = (entry.length, entry.used());
        if length - used >= needed {
            if used > 0 {
                let stored = directory::stored_length(used, block.len())?;
                put_u16_le(block, at + 4, stored)?;
            }
            let entry = Entry {
                at: at + used,
                length: length - used,
                inode: new.inode,
                kind: new.kind,
                name: new.name,
            };
            put_entry(block, &entry)?;
            return Ok(true);
        }
        at += length;
    }
    Ok(false)
}

/// Takes the entry at `at` out: the one before it gets its room. What it said is wiped.
fn take_out(block: &mut [u8], at: usize, with_type: bool) -> Parsed<()> {
    let mut before = None;
    let mut position = 0;
    while position < at {
        let entry = entry_at(block, position, with_type)?;
        before = Some((position, entry.length));
        position += entry.length;
    }
    let entry = entry_at(block, at, with_type)?;
    let length = entry.length;
    if let Some(bytes) = block.get_mut(at + 8..at + length) {
        bytes.fill(0);
    }
    put_u32_le(block, at, 0)?;
    put_u16_le(block, at + 6, 0)?;
    if let Some((position, before)) = before {
        let stored = directory::stored_length(before + length, block.len())?;
        put_u16_le(block, position + 4, stored)?;
        put_u16_le(block, at + 4, 0)?;
    }
    Ok(())
}

impl Ext4 {
    /// Bytes of a directory block that entries may use.
    pub(super) fn usable(&self) -> usize {
        let tail = if self.superblock.checksums.metadata_seed().is_some() {
            TAIL
        } else {
            0
        };
        self.block_length().saturating_sub(tail)
    }

    /// Writes a block of a directory with the checksum that its kind has.
    pub(super) fn write_directory_block(
        &mut self,
        directory: &Inode,
        logical: u64,
        block: u64,
        mut bytes: Vec<u8>,
    ) -> Result<()> {
        if let Some(seed) = self.inode_seed(directory) {
            let sealed = if self.is_index_block(directory, logical, &bytes) {
                htree::seal(&mut bytes, seed)
            } else {
                directory::seal(&mut bytes, seed)
            };
            sealed.map_err(|e| self.in_inode(directory.number, e))?;
        }
        self.write_file_block(block, bytes)
    }

    /// A block of a directory that has to be there.
    pub(super) fn existing_block(&self, directory: &Inode, logical: u64) -> Result<(u64, Vec<u8>)> {
        match self.directory_block(directory, logical)? {
            Some((block, bytes)) => Ok((block, bytes.to_vec())),
            None => Err(self.damaged_inode(
                directory.number,
                &format!("its directory block {logical} is in a hole"),
            )),
        }
    }

    /// One block more at the end of a directory: its place in the directory and its number. It is not written yet.
    pub(super) fn grow_directory(&mut self, directory: &mut Inode) -> Result<(u64, u64)> {
        let block_size = u64::from(self.superblock.block_size);
        let logical = self.directory_length(directory);
        if directory.size() + block_size > MOST_SIZE && !self.superblock.has_incompat(incompat::LARGE_DIR) {
            return Err(self.fault(Ext4Error::Full(format!(
                "directory {} would be larger than 2 GiB",
                directory.number
            ))));
        }
        let goal = self.goal_for(directory, logical)?;
        let run = self.allocate_for(directory, goal, 1)?;
        let block = run.start;
        self.append_run(directory, logical, run)?;
        directory.set_size((logical + 1) * block_size);
        Ok((logical, block))
    }

    /// An empty block of entries.
    pub(super) fn empty_block(&self) -> Result<Vec<u8>> {
        let mut bytes = vec![0; self.block_length()];
        let stored = directory::stored_length(self.usable(), bytes.len());
        stored
            .and_then(|stored| Ok(put_u16_le(&mut bytes, 4, stored)?))
            .map_err(|e| self.fault(e))?;
        Ok(bytes)
    }

    /// Directories that can't be changed from outside.
    pub(super) fn must_be_editable_directory(&self, directory: &Inode) -> Result<()> {
        if !directory.is_directory() {
            return Err(self.fault(Ext4Error::NotFound(format!(
                "inode {} is not a directory",
                directory.number
            ))));
        }
        let why = if directory.has(flag::ENCRYPT) {
            "has encrypted names (fscrypt)"
        } else if directory.has(flag::CASEFOLD) {
            "ignores upper and lower case (casefold), by Unicode tables that rehome has not"
        } else if directory.has(flag::INDEX) && !self.superblock.has_compat(compat::DIR_INDEX) {
            "has an index, but the filesystem has none any more: run `e2fsck -fD` on a copy"
        } else {
            return Ok(());
        };
        Err(self.fault(Ext4Error::Unsupported(format!(
            "directory {} {why}; it can't be changed from outside",
            directory.number
        ))))
    }

    /// Makes an inline directory one of blocks.
    pub(super) fn give_blocks(&mut self, directory: &mut Inode) -> Result<()> {
        if !directory.has(flag::INLINE_DATA) {
            return Ok(());
        }
        let inline = self.inline_directory(directory)?;
        let mut names = Vec::new();
        for part in inline.parts() {
            for entry in entries(part, self.with_type()) {
                let entry = entry.map_err(|e| self.in_inode(directory.number, e))?;
                if entry.inode != 0 {
                    names.push((entry.name.to_vec(), entry.inode, entry.kind));
                }
            }
        }
        self.set_attribute(directory, SYSTEM, b"data", None)?;
        directory.set_flags(directory.flags() & !flag::INLINE_DATA);
        self.start_map(directory)?;
        directory.set_size(0);
        self.start_directory(directory, inline.parent)?;
        for (name, inode, kind) in names {
            let new = NewEntry {
                name: &name,
                inode,
                kind,
            };
            self.add_entry(directory, new)?;
        }
        Ok(())
    }

    /// The first block of a directory: `.` and `..`.
    pub(super) fn start_directory(&mut self, directory: &mut Inode, parent: u32) -> Result<()> {
        let (logical, block) = self.grow_directory(directory)?;
        let mut bytes = self.empty_block()?;
        let kind = if self.with_type() { 2 } else { 0 };
        let usable = self.usable();
        for (name, inode) in [(&b"."[..], directory.number), (b"..", parent)] {
            insert(
                &mut bytes,
                usable,
                NewEntry { name, inode, kind },
                self.with_type(),
            )
            .map_err(|e| self.in_inode(directory.number, e))?;
        }
        self.write_directory_block(directory, logical, block, bytes)
    }

    /// Adds a name that is not there yet.
    pub(super) fn add_entry(&mut self, directory: &mut Inode, new: NewEntry<'_>) -> Result<()> {
        self.give_blocks(directory)?;
        if self.is_indexed(directory) {
            return self.add_indexed(directory, new);
        }
        let length = self.directory_length(directory);
        let usable = self.usable();
        for logical in 0..length {
            let (block, mut bytes) = self.existing_block(directory, logical)?;
            if insert(&mut bytes, usable, new, self.with_type())
                .map_err(|e| self.in_inode(directory.number, e))?
            {
                return self.write_directory_block(directory, logical, block, bytes);
            }
        }
        let version = self.superblock.default_hash;
        if length == 1
            && self.superblock.has_compat(compat::DIR_INDEX)
            && version <= 2
            && NameHash::of_version(version, &self.superblock).is_some()
        {
            self.make_index(directory, version)?;
            return self.add_indexed(directory, new);
        }
        let (logical, block) = self.grow_directory(directory)?;
        let mut bytes = self.empty_block()?;
        insert(&mut bytes, usable, new, self.with_type()).map_err(|e| self.in_inode(directory.number, e))?;
        self.write_directory_block(directory, logical, block, bytes)
    }

    /// Where a name is, in a directory of blocks.
    pub(super) fn locate(&self, directory: &Inode, name: &[u8]) -> Result<Option<Located>> {
        if self.is_indexed(directory)
            && name != b"."
            && name != b".."
            && let Some(index) = self.index_of(directory)?
        {
            return self.locate_in_index(directory, &index, name);
        }
        let mut found = None;
        self.each_directory_block(directory, &mut |block| {
            found = self.locate_in_block(directory, block, name)?;
            Ok(found.is_none())
        })?;
        Ok(found)
    }

    /// Where a name is in one block.
    pub(super) fn locate_in_block(
        &self,
        directory: &Inode,
        logical: u64,
        name: &[u8],
    ) -> Result<Option<Located>> {
        let Some((_, bytes)) = self.directory_block(directory, logical)? else {
            return Ok(None);
        };
        for entry in entries(&bytes, self.with_type()) {
            let entry = entry.map_err(|e| self.in_inode(directory.number, e))?;
            if entry.inode != 0 && entry.name == name {
                return Ok(Some(Located {
                    logical,
                    at: entry.at,
                    inode: entry.inode,
                }));
            }
        }
        Ok(None)
    }

    /// Takes a name away.
    pub(super) fn take_entry(&mut self, directory: &mut Inode, name: &[u8]) -> Result<u32> {
        self.give_blocks(directory)?;
        let Some(found) = self.locate(directory, name)? else {
            return Err(self.absent(directory, name));
        };
        let (block, mut bytes) = self.existing_block(directory, found.logical)?;
        take_out(&mut bytes, found.at, self.with_type()).map_err(|e| self.in_inode(directory.number, e))?;
        self.write_directory_block(directory, found.logical, block, bytes)?;
        Ok(found.inode)
    }

    /// Makes a name that is there lead to another inode.
    pub(super) fn redirect_entry(&mut self, directory: &mut Inode, new: NewEntry<'_>) -> Result<()> {
        self.give_blocks(directory)?;
        let Some(found) = self.locate(directory, new.name)? else {
            return Err(self.absent(directory, new.name));
        };
        let (block, mut bytes) = self.existing_block(directory, found.logical)?;
        let put = entry_at(&bytes, found.at, self.with_type()).map(|entry| entry.length);
        put.and_then(|length| {
            let entry = Entry {
                at: found.at,
                length,
                inode: new.inode,
                kind: new.kind,
                name: new.name,
            };
            put_entry(&mut bytes, &entry)
        })
        .map_err(|e| self.in_inode(directory.number, e))?;
        self.write_directory_block(directory, found.logical, block, bytes)
    }

    /// There is no such name.
    pub(super) fn absent(&self, directory: &Inode, name: &[u8]) -> crate::disk::Error {
        self.fault(Ext4Error::NotFound(format!(
            "directory {} has no name \"{}\"",
            directory.number,
            name.escape_ascii()
        )))
    }

    /// One more link to a directory from a directory in it. Past 65000 the count is 1, "many", if the filesystem
    /// allows it.
    pub(super) fn add_directory_link(&self, directory: &mut Inode) -> Result<()> {
        const MOST_LINKS: u16 = 65000;
        let links = directory.links();
        if links == 1 {
            return Ok(());
        }
        if links < MOST_LINKS {
            directory.set_links(links + 1);
        } else if self.superblock.has_ro_compat(ro_compat::DIR_NLINK) && directory.has(flag::INDEX) {
            directory.set_links(1);
        } else {
            return Err(self.fault(Ext4Error::Full(format!(
                "directory {} has {links} links, the most that there can be",
                directory.number
            ))));
        }
        Ok(())
    }

    /// One link less.
    pub(super) fn drop_directory_link(directory: &mut Inode) {
        if directory.links() > 2 {
            directory.set_links(directory.links() - 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn new(name: &[u8]) -> NewEntry<'_> {
        NewEntry {
            name,
            inode: 12,
            kind: 1,
        }
    }

    #[test]
    fn names_fill_a_block_and_leave_it_again() {
        let mut block = vec![0; 1024];
        put_u16_le(&mut block, 4, 1024).unwrap();
        let mut names = Vec::new();
        for number in 0.. {
            let name = format!("name-{number}").into_bytes();
            if !insert(&mut block, 1024, new(&name), true).unwrap() {
                break;
            }
            names.push(name);
        }
        assert_eq!(names.len(), 10 + 54);
        for name in names.iter().step_by(2).chain(names.iter().skip(1).step_by(2)) {
            let at = entries(&block, true)
                .map(|entry| entry.unwrap())
                .find(|entry| entry.name == name)
                .unwrap()
                .at;
            take_out(&mut block, at, true).unwrap();
        }
        let left: Vec<_> = entries(&block, true).map(|entry| entry.unwrap()).collect();
        assert!(left.len() == 1 && left[0].inode == 0 && left[0].length == 1024);
        assert!(!block.windows(4).any(|window| window == b"name"));
    }
}
