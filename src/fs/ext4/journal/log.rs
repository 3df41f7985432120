//! The log as one run of blocks after another: where its blocks are on the volume, and walking from record to record.

use super::{
    super::{Ext4, block_map::Place, error::Ext4Error, inode::Inode},
    record::{Kind, Tag, header, tags},
    superblock::{JournalSuperblock, LENGTH},
};
use crate::fs::Result;

/// A journal's file is made in one piece or a few; one in more pieces than this is not believed, and would take
/// memory without limit.
const MOST_RUNS: usize = 1 << 16;

/// The journal of a filesystem.
#[derive(Debug)]
pub(super) struct Log<'a> {
    pub(super) ext4: &'a Ext4,
    pub(super) superblock: JournalSuperblock,
    /// First block of the file, first block of the volume, length.
    runs: Vec<(u64, u64, u64)>,
}

/// One record of the log.
#[derive(Debug)]
pub(super) struct Record<'a> {
    pub(super) kind: Kind,
    /// Number of the transaction.
    pub(super) sequence: u32,
    pub(super) block: &'a [u8],
    /// Of a descriptor: what follows.
    pub(super) tags: &'a [Tag],
    /// Of a descriptor: the block of the log after it.
    pub(super) first: u32,
}

/// What to do after a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Then {
    GoOn,
    Stop,
}

/// Does `a` come before `b`? Numbers of transactions wrap.
pub(super) const fn before(a: u32, b: u32) -> bool {
    a != b && b.wrapping_sub(a) < 1 << 31
}

impl<'a> Log<'a> {
    /// Opens the journal in `inode`.
    pub(super) fn open(ext4: &'a Ext4, inode: &Inode) -> Result<Self> {
        let block_size = ext4.superblock.block_size;
        let blocks = inode.size() / u64::from(block_size);
        let mut runs: Vec<(u64, u64, u64)> = Vec::new();
        ext4.each_run(inode, 0..blocks, &mut |run| {
            let Place::Written(block) = run.place else {
                return Err(ext4.damaged_inode(inode.number, "the journal has holes or unwritten blocks"));
            };
            if block
                .checked_add(run.length)
                .is_none_or(|end| end > ext4.superblock.blocks)
            {
                return Err(
                    ext4.damaged_inode(inode.number, "the journal lies past the end of the filesystem")
                );
            }
            let pieces = runs.len();
            match runs.last_mut() {
                Some((_, start, length)) if *start + *length == block => *length += run.length,
                _ if pieces >= MOST_RUNS => {
                    return Err(ext4.damaged_inode(inode.number, "the journal is in more than 65536 pieces"));
                }
                _ => runs.push((run.logical, block, run.length)),
            }
            Ok(())
        })?;
        let Some((_, first, _)) = runs.first().copied() else {
            return Err(ext4.damaged_inode(inode.number, "the journal is empty"));
        };
        let mut bytes = [0; LENGTH];
        ext4.disk.read_at(ext4.byte(first), &mut bytes)?;
        let superblock = JournalSuperblock::parse(&bytes, block_size, blocks)
            .map_err(|error| ext4.fault(error).at(ext4.byte(first)))?;
        Ok(Self {
            ext4,
            superblock,
            runs,
        })
    }

    /// Byte of the volume at which `block` of the log is.
    pub(super) fn byte(&self, block: u32) -> Result<u64> {
        let block = u64::from(block);
        let after = self.runs.partition_point(|(logical, _, _)| *logical <= block);
        let run = after.checked_sub(1).and_then(|index| self.runs.get(index));
        match run {
            Some((logical, start, length)) if block - logical < *length => {
                Ok(self.ext4.byte(start + (block - logical)))
            }
            _ => Err(self.damaged(format!(
                "the log leads to block {block} of the journal, which does not exist"
            ))),
        }
    }

    /// Reads `block` of the log.
    pub(super) fn read(&self, block: u32, buffer: &mut [u8]) -> Result<()> {
        self.ext4.disk.read_at(self.byte(block)?, buffer)
    }

    /// The block `count` after `block`.
    pub(super) fn advance(&self, block: u32, count: usize) -> u32 {
        let (first, last) = (self.superblock.first, self.superblock.last);
        let length = u64::from(last - first);
        let offset = u64::from(block.saturating_sub(first)) + count as u64;
        first + u32::try_from(offset % length.max(1)).unwrap_or(0)
    }

    /// Calls `each` with the records of one transaction after the other, from the oldest on, up to transaction `end`
    /// if it is known or else as far as they go; gives the number of the first transaction that did not end.
    pub(super) fn walk(
        &self,
        end: Option<u32>,
        each: &mut dyn FnMut(Record<'_>) -> Result<Then>,
    ) -> Result<u32> {
        let mut sequence = self.superblock.sequence;
        let mut next = self.superblock.start;
        let mut block = vec![0; self.ext4.block_length()];
        let mut walked = 0_u64;
        while end.is_none_or(|end| before(sequence, end)) {
            // No log is longer than the journal: who goes on is going in circles.
            if walked > u64::from(self.superblock.length) {
                return Err(self.damaged("the log of the journal goes round in a circle"));
            }
            self.read(next, &mut block)?;
            next = self.advance(next, 1);
            walked += 1;
            let record = header(&block).map_err(|error| self.ext4.fault(error))?;
            let Some((kind, _)) = record.filter(|(_, found)| *found == sequence) else {
                break;
            };
            let tags = if kind == Kind::Descriptor {
                tags(&block, self.superblock.format).map_err(|error| self.ext4.fault(error))?
            } else {
                Vec::new()
            };
            let then = each(Record {
                kind,
                sequence,
                block: &block,
                tags: &tags,
                first: next,
            })?;
            if then == Then::Stop {
                break;
            }
            next = self.advance(next, tags.len());
            walked += tags.len() as u64;
            if kind == Kind::Commit {
                sequence = sequence.wrapping_add(1);
            }
        }
        Ok(sequence)
    }

    /// The bytes of the journal contradict the format.
    pub(super) fn damaged(&self, what: impl Into<String>) -> crate::disk::Error {
        self.ext4.fault(Ext4Error::damaged(what))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transaction_numbers_wrap() {
        assert!(before(1, 2) && !before(2, 1) && !before(2, 2));
        assert!(before(u32::MAX, 0) && before(u32::MAX - 5, 3) && !before(3, u32::MAX - 5));
    }
}
