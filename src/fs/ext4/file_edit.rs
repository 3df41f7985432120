//! Changing the contents of files and symbolic links.

use super::{
    Ext4,
    block_map::Place,
    error::Ext4Error,
    features::ro_compat,
    inode::{BLOCK_LENGTH, Inode, flag},
    xattr::SYSTEM,
};
use crate::fs::Result;
use std::io::{self, Read};

/// Contents are written in pieces of this many bytes: a multiple of every block size.
const PIECE: usize = 1 << 20;
/// From this size on (2 GiB − 1) `large_file` has to be set.
const LARGE_FILE: u64 = 0x7fff_ffff;

/// Fills `buffer` unless the contents end before; gives how many bytes.
fn fill(contents: &mut dyn Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut done = 0;
    while let Some(rest) = buffer.get_mut(done..).filter(|rest| !rest.is_empty()) {
        match contents.read(rest) {
            Ok(0) => break,
            Ok(count) => done += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}

impl Ext4 {
    /// Contents that the guest's kernel would refuse to change, or that we can't.
    fn must_have_plain_contents(&self, inode: &Inode) -> Result<()> {
        let why = if inode.has(flag::ENCRYPT) {
            "is encrypted (fscrypt)"
        } else if inode.has(flag::VERITY) {
            "is sealed (fs-verity)"
        } else if inode.has(flag::COMPRESSED) {
            "is marked as compressed (e2compr)"
        } else if inode.has(flag::EA_INODE) {
            "holds an extended attribute"
        } else {
            return Ok(());
        };
        Err(self.fault(Ext4Error::Unsupported(format!(
            "inode {} {why}; its contents can't be changed from outside",
            inode.number
        ))))
    }

    /// New contents for a file; its blocks are given back first.
    pub(super) fn replace_contents(&mut self, inode: &mut Inode, contents: &mut dyn Read) -> Result<()> {
        self.must_have_plain_contents(inode)?;
        self.clear_contents(inode)?;
        self.append_to_blocks(inode, Vec::new(), contents)
    }

    /// Takes all contents away; an inline file becomes one of blocks.
    fn clear_contents(&mut self, inode: &mut Inode) -> Result<()> {
        if inode.has(flag::INLINE_DATA) {
            self.set_attribute(inode, SYSTEM, b"data", None)?;
            inode.set_flags(inode.flags() & !flag::INLINE_DATA);
            self.start_map(inode)?;
        } else {
            self.truncate_map(inode, 0)?;
        }
        inode.set_size(0);
        Ok(())
    }

    /// Adds to the end of a file.
    pub(super) fn append_contents(&mut self, inode: &mut Inode, contents: &mut dyn Read) -> Result<()> {
        self.must_have_plain_contents(inode)?;
        let start = if inode.has(flag::INLINE_DATA) {
            let start = self.inline_contents(inode)?;
            self.clear_contents(inode)?;
            start
        } else {
            self.prepare_tail(inode, contents)?
        };
        self.append_to_blocks(inode, start, contents)
    }

    /// Makes the end of a file fit for appending: no space kept past the end, and a last block that is full, or not
    /// there. Gives what has to be written before what is appended: the start of the last block, where that had none.
    fn prepare_tail(&mut self, inode: &mut Inode, contents: &mut dyn Read) -> Result<Vec<u8>> {
        let block_size = u64::from(self.superblock.block_size);
        let size = inode.size();
        let mut end = size.div_ceil(block_size);
        let into = size % block_size;
        let mut start = Vec::new();
        if into != 0 {
            let last = size / block_size;
            match self.map(inode, last)?.place {
                Place::Written(block) => {
                    self.must_be_for_files(&(block..block.saturating_add(1)))?;
                    let used = usize::try_from(into).unwrap_or(usize::MAX);
                    // What is past the end of the file in its last block must be zeros.
                    let mut bytes = vec![0; self.block_length()];
                    self.disk
                        .read_at(self.byte(block), bytes.get_mut(..used).unwrap_or_default())?;
                    let count = fill(contents, bytes.get_mut(used..).unwrap_or_default())
                        .map_err(|e| crate::disk::Error::io(self.disk.label(), e))?;
                    self.write_data(block, &bytes)?;
                    self.set_contents_size(inode, size + count as u64)?;
                }
                Place::Unwritten(_) | Place::Hole => {
                    // The block reads as zeros so far: it is made anew.
                    start = vec![0; usize::try_from(into).unwrap_or(0)];
                    end = last;
                    inode.set_size(last * block_size);
                }
            }
        }
        if self.maps_beyond(inode, end)? {
            self.truncate_map(inode, end)?;
        }
        Ok(start)
    }

    /// Is anything mapped from block `end` on?
    fn maps_beyond(&self, inode: &Inode, end: u64) -> Result<bool> {
        let mut found = false;
        let reach = if inode.has(flag::EXTENTS) { 1 << 32 } else { end };
        self.each_run(inode, end..reach, &mut |run| {
            found |= run.place != Place::Hole;
            Ok(())
        })?;
        Ok(found)
    }

    /// Appends `start` and `contents` to a file whose size is a multiple of the block size and whose map ends there.
    fn append_to_blocks(&mut self, inode: &mut Inode, start: Vec<u8>, contents: &mut dyn Read) -> Result<()> {
        let block_size = u64::from(self.superblock.block_size);
        let mut buffer = start;
        let mut used = buffer.len();
        loop {
            buffer.resize(PIECE, 0);
            let count = fill(contents, buffer.get_mut(used..).unwrap_or_default())
                .map_err(|e| crate::disk::Error::io(self.disk.label(), e))?;
            used += count;
            if used == 0 || !inode.size().is_multiple_of(block_size) {
                return Ok(());
            }
            let length = used as u64;
            let padded = usize::try_from(length.next_multiple_of(block_size)).unwrap_or(usize::MAX);
            buffer.get_mut(used..padded).unwrap_or_default().fill(0);
            let mut logical = inode.size() / block_size;
            let mut rest = buffer.get(..padded).unwrap_or_default();
            while !rest.is_empty() {
                let wanted = (rest.len() as u64).div_ceil(block_size);
                let goal = self.goal_for(inode, logical)?;
                let run = self.allocate_for(inode, goal, wanted)?;
                let blocks = run.end - run.start;
                let bytes = usize::try_from(blocks * block_size).unwrap_or(usize::MAX);
                let (now, later) = rest.split_at(bytes.min(rest.len()));
                self.write_data(run.start, now)?;
                self.append_run(inode, logical, run)?;
                logical += blocks;
                rest = later;
            }
            let size = inode.size() + length;
            self.set_contents_size(inode, size)?;
            if used < PIECE {
                return Ok(());
            }
            used = 0;
        }
    }

    fn set_contents_size(&mut self, inode: &mut Inode, size: u64) -> Result<()> {
        if size > LARGE_FILE {
            if self.superblock.revision == 0 {
                return Err(self.fault(Ext4Error::Full(
                    "a filesystem of revision 0 has no files of 2 GiB or more".to_owned(),
                )));
            }
            self.superblock.ro_compat |= ro_compat::LARGE_FILE;
        }
        inode.set_size(size);
        Ok(())
    }

    /// Writes contents to blocks that were allocated for them.
    fn write_data(&mut self, block: u64, bytes: &[u8]) -> Result<()> {
        self.changed = true;
        let blocks = (bytes.len() as u64).div_ceil(u64::from(self.superblock.block_size));
        for number in block..block + blocks {
            self.cache.borrow_mut().forget(number);
        }
        self.disk.write_at(self.byte(block), bytes)
    }

    /// The target of a symbolic link: within the inode if it is short, else in one block, with a NUL after it.
    pub(super) fn replace_target(&mut self, inode: &mut Inode, contents: &mut dyn Read) -> Result<()> {
        self.must_have_plain_contents(inode)?;
        let mut target = vec![0; self.block_length()];
        let count = fill(contents, &mut target).map_err(|e| crate::disk::Error::io(self.disk.label(), e))?;
        if count == 0 || count >= target.len() {
            return Err(self.fault(Ext4Error::Unsupported(format!(
                "the target of a symbolic link has from 1 to {} bytes",
                target.len() - 1
            ))));
        }
        target.truncate(count);
        if target.contains(&0) {
            return Err(self.fault(Ext4Error::Unsupported(
                "the target of a symbolic link has no zero bytes".to_owned(),
            )));
        }
        if self.is_short_link(inode) {
            self.start_map(inode)?;
            inode.set_size(0);
        } else {
            self.clear_contents(inode)?;
        }
        if count < BLOCK_LENGTH {
            inode.set_flags(inode.flags() & !flag::EXTENTS);
            inode
                .set_block(&target)
                .map_err(|e| self.in_inode(inode.number, e))?;
            inode.set_size(count as u64);
            return Ok(());
        }
        self.start_map(inode)?;
        self.append_to_blocks(inode, Vec::new(), &mut &*target)
    }
}
