//! Directory blocks (kernel documentation, "ext4: Linear (Classic) Directories"; `struct ext4_dir_entry_2`,
//! `ext4_dir_entry_tail`), and finding a name in a directory of any kind.

use super::{
    Ext4,
    block_map::Place,
    checksum::crc32c,
    error::{Ext4Error, Parsed},
    features::{compat, incompat},
    inode::{Inode, flag},
};
use crate::{
    disk::field::{bytes_at, put_bytes, put_u8, put_u16_le, put_u32_le, u8_at, u16_le, u32_le},
    fs::{Result, mode},
};
use std::sync::Arc;

/// Inode number, lengths and type.
pub(super) const HEADER: usize = 8;
/// `struct ext4_dir_entry_tail`: an entry without inode and name, of the file type 0xDE.
pub(super) const TAIL: usize = 12;
const TAIL_TYPE: u8 = 0xde;
/// The longest name.
pub(super) const MOST_NAME: usize = 255;

/// Lengths in a block of 64 KiB need more than 16 bits: the two lowest, always 0, are bits 16 and 17 there.
pub(super) fn record_length(stored: u16, block_size: usize) -> usize {
    let stored = usize::from(stored);
    if block_size < 1 << 16 {
        return stored;
    }
    if stored == 0xffff || stored == 0 {
        return block_size;
    }
    stored & 0xfffc | (stored & 3) << 16
}

/// A record length as stored.
pub(super) fn stored_length(length: usize, block_size: usize) -> Parsed<u16> {
    if block_size >= 1 << 16 && length == 1 << 16 {
        return Ok(0xffff);
    }
    u16::try_from(length).map_err(|_| Ext4Error::damaged(format!("a directory entry of {length} bytes")))
}

/// Bytes that an entry with a name of this length needs.
pub(super) const fn entry_length(name_length: usize) -> usize {
    (HEADER + name_length).next_multiple_of(4)
}

/// An entry of a directory block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry<'a> {
    /// Where in the block.
    pub(super) at: usize,
    /// To the next entry.
    pub(super) length: usize,
    /// 0 if unused.
    pub(super) inode: u32,
    /// `EXT4_FT_*`; 0 without the `filetype` feature.
    pub(super) kind: u8,
    /// Empty if unused.
    pub(super) name: &'a [u8],
}

impl Entry<'_> {
    /// Bytes of it that are in use.
    pub(super) fn used(&self) -> usize {
        if self.inode == 0 {
            0
        } else {
            entry_length(self.name.len())
        }
    }
}

/// The entries of `block`, used or not, the tail among them.
pub(super) fn entries(
    block: &[u8],
    with_type: bool,
) -> impl Iterator<Item = std::result::Result<Entry<'_>, Ext4Error>> {
    let mut at = 0;
    let mut broken = false;
    std::iter::from_fn(move || {
        if broken || at >= block.len() {
            return None;
        }
        let entry = entry_at(block, at, with_type);
        match &entry {
            Ok(entry) => at += entry.length,
            Err(_) => broken = true,
        }
        Some(entry)
    })
}

/// The entry at `at`.
pub(super) fn entry_at(
    block: &[u8],
    at: usize,
    with_type: bool,
) -> std::result::Result<Entry<'_>, Ext4Error> {
    let header = bytes_at(block, at, HEADER)?;
    let inode = u32_le(header, 0)?;
    let length = record_length(u16_le(header, 4)?, block.len());
    // Without the feature the name's length has 16 bits, of which the upper 8 are always 0.
    let (name_length, kind) = (usize::from(u8_at(header, 6)?), u8_at(header, 7)?);
    let needed = if inode == 0 {
        entry_length(0)
    } else {
        entry_length(name_length)
    };
    if !length.is_multiple_of(4) || length < needed || length > block.len() - at {
        return Err(Ext4Error::damaged(format!(
            "directory entry at byte {at} of its block: record length {length}, where its name needs {needed} and \
             the block has {} more",
            block.len() - at
        )));
    }
    Ok(Entry {
        at,
        length,
        inode,
        kind: if with_type { kind } else { 0 },
        name: if inode == 0 {
            &[]
        } else {
            bytes_at(block, at + HEADER, name_length)?
        },
    })
}

/// Writes an entry; what was there is overwritten up to the end of the name.
pub(super) fn put_entry(block: &mut [u8], entry: &Entry<'_>) -> Parsed<()> {
    let block_size = block.len();
    let name_length =
        u8::try_from(entry.name.len()).map_err(|_| Ext4Error::damaged("a name of more than 255 bytes"))?;
    put_u32_le(block, entry.at, entry.inode)?;
    put_u16_le(block, entry.at + 4, stored_length(entry.length, block_size)?)?;
    put_u8(block, entry.at + 6, name_length)?;
    put_u8(block, entry.at + 7, entry.kind)?;
    Ok(put_bytes(block, entry.at + HEADER, entry.name)?)
}

/// `EXT4_FT_*` of a mode.
pub(super) const fn kind_of(mode: u32) -> u8 {
    match mode & mode::TYPE {
        mode::FILE => 1,
        mode::DIRECTORY => 2,
        0o020_000 => 3,
        0o060_000 => 4,
        0o010_000 => 5,
        0o140_000 => 6,
        mode::LINK => 7,
        _ => 0,
    }
}

/// Puts the tail and its checksum at the end of a block of entries.
pub(super) fn seal(block: &mut [u8], seed: u32) -> Parsed<()> {
    let at = block.len().saturating_sub(TAIL);
    let checksum = crc32c(seed, bytes_at(block, 0, at)?);
    put_u32_le(block, at, 0)?;
    put_u16_le(block, at + 4, 12)?;
    put_u8(block, at + 6, 0)?;
    put_u8(block, at + 7, TAIL_TYPE)?;
    Ok(put_u32_le(block, at + 8, checksum)?)
}

/// Verifies the checksum in the tail of a block of entries.
fn verify(block: &[u8], seed: u32) -> Parsed<()> {
    let at = block.len().saturating_sub(TAIL);
    if u32_le(block, at)? != 0 || u16_le(block, at + 4)? != 12 || u8_at(block, at + 7)? != TAIL_TYPE {
        return Err(Ext4Error::damaged(
            "a directory block has no room for its checksum",
        ));
    }
    let found = u32_le(block, at + 8)?;
    let computed = crc32c(seed, bytes_at(block, 0, at)?);
    if found == computed {
        return Ok(());
    }
    Err(Ext4Error::Checksum {
        structure: "directory block".to_owned(),
        found,
        computed,
    })
}

impl Ext4 {
    /// Have directory entries a type?
    pub(super) fn with_type(&self) -> bool {
        self.superblock.has_incompat(incompat::FILETYPE)
    }

    /// Is the directory indexed, and is the index in force?
    pub(super) fn is_indexed(&self, directory: &Inode) -> bool {
        directory.has(flag::INDEX) && self.superblock.has_compat(compat::DIR_INDEX)
    }

    /// Block `logical` of a directory: its number and bytes, checked; `None` for a hole.
    pub(super) fn directory_block(
        &self,
        directory: &Inode,
        logical: u64,
    ) -> Result<Option<(u64, Arc<[u8]>)>> {
        let Place::Written(block) = self.map(directory, logical)?.place else {
            return Ok(None);
        };
        let bytes = self.block(block)?;
        if let Some(seed) = self.inode_seed(directory) {
            let checked = if self.is_index_block(directory, logical, &bytes) {
                super::htree::verify(&bytes, seed)
            } else {
                verify(&bytes, seed)
            };
            checked.map_err(|e| self.in_inode(directory.number, e).at(self.byte(block)))?;
        }
        Ok(Some((block, bytes)))
    }

    /// Root and nodes of an index look like blocks of entries without any.
    pub(super) fn is_index_block(&self, directory: &Inode, logical: u64, bytes: &[u8]) -> bool {
        let covers_all = || {
            u32_le(bytes, 0).is_ok_and(|inode| inode == 0)
                && u16_le(bytes, 4).is_ok_and(|length| record_length(length, bytes.len()) == bytes.len())
        };
        directory.has(flag::INDEX) && (logical == 0 || covers_all())
    }

    /// Blocks of a directory that is not inline.
    pub(super) fn directory_length(&self, directory: &Inode) -> u64 {
        directory.size() / u64::from(self.superblock.block_size)
    }

    fn must_be_directory(&self, inode: &Inode) -> Result<()> {
        if inode.is_directory() {
            return Ok(());
        }
        Err(self.fault(Ext4Error::NotFound(format!(
            "inode {} is not a directory",
            inode.number
        ))))
    }

    /// Calls `each` with every entry in use, `.` and `..` among them unless it is inline, until it says false.
    pub(super) fn each_entry(
        &self,
        directory: &Inode,
        each: &mut dyn FnMut(&[u8], u32) -> bool,
    ) -> Result<()> {
        self.must_be_directory(directory)?;
        let mut offer = |bytes: &[u8]| -> Result<bool> {
            for entry in entries(bytes, self.with_type()) {
                let entry = entry.map_err(|e| self.in_inode(directory.number, e))?;
                if entry.inode != 0 && !each(entry.name, entry.inode) {
                    return Ok(false);
                }
            }
            Ok(true)
        };
        if directory.has(flag::INLINE_DATA) {
            for part in self.inline_directory(directory)?.parts() {
                if !offer(part)? {
                    return Ok(());
                }
            }
            return Ok(());
        }
        self.each_directory_block(directory, &mut |block| {
            Ok(match self.directory_block(directory, block)? {
                Some((_, bytes)) => offer(&bytes)?,
                None => true,
            })
        })
    }

    /// Calls `each` with the blocks of a directory that is not inline, holes left out, until it says false.
    pub(super) fn each_directory_block(
        &self,
        directory: &Inode,
        each: &mut dyn FnMut(u64) -> Result<bool>,
    ) -> Result<()> {
        let mut going = true;
        let length = self.directory_length(directory);
        let mut logical = 0;
        let mut left = self.superblock.blocks;
        while going && logical < length {
            let run = self.map(directory, logical)?;
            let end = logical.saturating_add(run.length).min(length);
            // A small map that leads to the same blocks over and over, or to nothing, would be walked for hours.
            let steps = if run.place == Place::Hole {
                1
            } else {
                end - logical
            };
            left = left.checked_sub(steps).ok_or_else(|| {
                self.damaged_inode(
                    directory.number,
                    "a directory with more blocks than the filesystem has",
                )
            })?;
            if run.place != Place::Hole {
                for block in logical..end {
                    going = each(block)?;
                    if !going {
                        break;
                    }
                }
            }
            logical = end;
        }
        Ok(())
    }

    /// The inode that `name` leads to. `..` and `.` are found like any other name.
    pub(super) fn find(&self, directory: &Inode, name: &[u8]) -> Result<Option<u32>> {
        self.must_be_directory(directory)?;
        if !directory.has(flag::INLINE_DATA) {
            return Ok(self.locate(directory, name)?.map(|found| found.inode));
        }
        if name == b"." {
            return Ok(Some(directory.number));
        }
        if name == b".." {
            return Ok(Some(self.inline_directory(directory)?.parent));
        }
        let mut found = None;
        self.each_entry(directory, &mut |there, inode| {
            if there == name {
                found = Some(inode);
            }
            found.is_none()
        })?;
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        disk::{Disk, FileDisk, MemoryDisk},
        fs::FileSystem,
    };
    use std::process::Command;

    #[test]
    fn a_map_that_shares_its_tables_is_not_walked_for_hours() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("image");
        FileDisk::create(&path, 300 << 10).unwrap();
        let made = Command::new("mke2fs")
            .args(["-q", "-F", "-t", "ext2", "-b", "1024"])
            .arg(&path)
            .status();
        assert!(made.expect("mke2fs must be installed").success());
        let disk: Arc<dyn Disk> = Arc::new(MemoryDisk::new("m", std::fs::read(&path).unwrap()));
        // One block with one unused entry, and three tables that lead only to the next: 256^3 times the same block.
        let mut unused = [0; 1024];
        put_u16_le(&mut unused, 4, 1024).unwrap();
        disk.write_at(296 << 10, &unused).unwrap();
        for table in 297..300_u32 {
            let pointers = (table - 1).to_le_bytes().repeat(256);
            disk.write_at(u64::from(table) << 10, &pointers).unwrap();
        }
        let ext4 = Ext4::open(disk.clone()).unwrap();
        let mut inode = ext4.node(ext4.root()).unwrap();
        let mut pointers = [0; 60];
        put_u32_le(&mut pointers, 56, 299).unwrap();
        inode.set_block(&pointers).unwrap();
        inode.set_size(1 << 34);
        let too_many = |result: Result<()>| {
            let error = result.unwrap_err().to_string();
            assert!(error.contains("more blocks than the filesystem has"), "{error}");
        };
        too_many(ext4.each_entry(&inode, &mut |_, _| true));
        too_many(ext4.locate(&inode, b"a").map(drop));
        // The same without a block at the end: 256^2 holes.
        disk.write_at(297 << 10, &[0; 1024]).unwrap();
        let ext4 = Ext4::open(disk).unwrap();
        too_many(ext4.each_entry(&inode, &mut |_, _| true));
        let error = ext4.each_run(&inode, 0..1 << 24, &mut |_| Ok(())).unwrap_err();
        assert!(error.to_string().contains("nothing"), "{error}");
    }

    #[test]
    fn record_lengths_of_64_kib_blocks() {
        for length in [12, 65532, 65536] {
            let stored = stored_length(length, 65536).unwrap();
            assert_eq!(record_length(stored, 65536), length);
        }
        assert_eq!(record_length(0, 65536), 65536);
        assert_eq!(record_length(4096, 4096), 4096);
    }

    #[test]
    fn an_entry_of_length_zero_ends_the_walk_with_an_error() {
        let block = [0_u8; 1024];
        let seen: Vec<_> = entries(&block, true).collect();
        assert!(seen.len() == 1 && seen[0].is_err());
        let mut block = [0_u8; 1024];
        let entry = Entry {
            at: 0,
            length: 1028,
            inode: 11,
            kind: 2,
            name: b"lost+found",
        };
        put_entry(&mut block, &entry).unwrap();
        assert!(entry_at(&block, 0, true).is_err());
        put_entry(
            &mut block,
            &Entry {
                length: 1024,
                ..entry
            },
        )
        .unwrap();
        assert_eq!(entry_at(&block, 0, true).unwrap().name, b"lost+found");
    }
}
