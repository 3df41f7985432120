//! Replaying the journal, as the kernel does it when it mounts (kernel documentation, "ext4 Journal (jbd2)"): the log is
//! walked to find its end, then for what was revoked, then what is left is written where it belongs. Nothing is
//! written before all of it was looked at, so that a journal that can't be replayed leaves no trace.

mod log;
mod record;
mod superblock;

use super::{
    Ext4,
    error::Ext4Error,
    features::{compat, incompat},
    read_superblock, superblock as ext4_superblock,
};
use crate::{
    disk::{
        Error,
        field::{put_u32_be, u16_le, u32_le},
    },
    fs::Result,
};
use log::{Log, Then, before};
use record::{Kind, commit_agrees, commit_is_right, commit_time, crc32_be, revocations, tail_is_right};
use std::collections::BTreeMap;
use superblock::{JournalChecksums, MAGIC};

/// Revoked blocks that are kept in memory: 48 MiB. One for every block of metadata that was freed since the oldest
/// transaction of the log; 4 GiB of directories, deleted in one go, reach this.
const MOST_REVOKED: usize = 1 << 20;

/// Brings the filesystem to the state that its journal says and empties the journal; tells what was done. `ext4` is
/// out of date afterwards: open the filesystem anew.
pub(super) fn recover(ext4: &Ext4) -> Result<Vec<String>> {
    let fs = &ext4.superblock;
    let refused = |text: &str| Err(ext4.fault(Ext4Error::Unsafe(text.to_owned())));
    if !fs.has_compat(compat::HAS_JOURNAL) {
        return refused("is marked as needing its journal, but has none; run `e2fsck -f` on a copy");
    }
    if fs.journal_inode == 0 {
        return refused(
            "needs its journal, which is on another device; mount it once together with that device, unmount it, and \
             try again",
        );
    }
    if fs.journal_device != 0 {
        return refused("names a journal of its own and one on another device; run `e2fsck -f` on a copy");
    }
    ext4.check_mounted_elsewhere()?;
    let inode = ext4.inode(fs.journal_inode)?;
    if !inode.is_file() || inode.links() == 0 {
        return Err(ext4.damaged_inode(inode.number, "is to hold the journal, but is no file in use"));
    }
    let log = Log::open(ext4, &inode)?;
    let mut said = Vec::new();
    let mut next = log.superblock.sequence.wrapping_add(1);
    if log.superblock.start != 0 {
        let end = log.find_end()?;
        log.refuse_fast_commits(end)?;
        let revoked = log.find_revoked(end)?;
        log.replay(end, &revoked, false)?;
        let blocks = log.replay(end, &revoked, true)?;
        let transactions = end.wrapping_sub(log.superblock.sequence);
        said.push(format!(
            "journal replayed: {transactions} transactions, {blocks} blocks"
        ));
        next = end.wrapping_add(1);
    }
    let emptied = log.superblock.emptied(next).map_err(|error| ext4.fault(error))?;
    ext4.disk.write_at(log.byte(0)?, &emptied)?;
    if log.superblock.error != 0 {
        said.push(format!(
            "the journal had noted an error ({}), the filesystem is flagged",
            log.superblock.error
        ));
    }
    finish(ext4, log.superblock.error != 0)?;
    Ok(said)
}

/// Fails if the kernel could not open the journal of a clean filesystem, or would flag errors on doing so.
pub(super) fn check(ext4: &Ext4) -> Result<()> {
    let inode = ext4.inode(ext4.superblock.journal_inode)?;
    let log = Log::open(ext4, &inode)?;
    if log.superblock.error == 0 {
        return Ok(());
    }
    Err(ext4.fault(Ext4Error::Unsafe(
        "its journal has noted an error that the guest's kernel met; run `e2fsck -f` on a copy and move that"
            .to_owned(),
    )))
}

/// Says in the superblock, which may have been replayed itself, that the journal is empty.
fn finish(ext4: &Ext4, error: bool) -> Result<()> {
    let mut replayed = Ext4::over(ext4.disk.clone(), read_superblock(&*ext4.disk)?);
    replayed.superblock.incompat &= !incompat::RECOVER;
    replayed.superblock.keep_errors(&ext4.superblock);
    if error {
        replayed.superblock.state |= ext4_superblock::STATE_ERROR;
    }
    // The kernel keeps these two in memory while it is mounted; they are what the groups add up to.
    let (mut blocks, mut inodes) = (0_u64, 0_u32);
    for group in 0..replayed.superblock.groups {
        let descriptor = replayed.descriptor(group)?;
        blocks = blocks.saturating_add(u64::from(descriptor.free_blocks));
        inodes = inodes.saturating_add(descriptor.free_inodes);
    }
    replayed.superblock.free_blocks = blocks.saturating_mul(u64::from(replayed.superblock.cluster_blocks));
    replayed.superblock.free_inodes = inodes;
    let bytes = replayed.superblock.encode().map_err(|error| ext4.fault(error))?;
    ext4.disk.write_at(ext4_superblock::OFFSET, &bytes)
}

/// What the first walk keeps in mind.
#[derive(Debug, Default)]
struct Scan {
    /// crc32 of the transaction so far: version 1.
    crc: Option<u32>,
    /// A block had a wrong checksum. It may be of an earlier life of the journal: its commit block will tell.
    doubtful: bool,
    /// When the last good transaction was committed.
    time: u64,
    /// The first transaction that must not be replayed.
    end: Option<u32>,
    /// A transaction that was committed and has changed since.
    failed: Option<u32>,
}

impl Log<'_> {
    fn fault(&self, error: Ext4Error) -> Error {
        self.ext4.fault(error)
    }

    /// The number of the first transaction that is not whole.
    fn find_end(&self) -> Result<u32> {
        let format = self.superblock.format;
        let mut scan = Scan {
            crc: Some(!0),
            ..Scan::default()
        };
        let mut data = vec![0; self.ext4.block_length()];
        let walked = self.walk(None, &mut |record| match record.kind {
            Kind::Descriptor | Kind::Revocation => {
                scan.doubtful |= !tail_is_right(record.block, format).map_err(|e| self.fault(e))?;
                if record.kind == Kind::Descriptor
                    && format.checksums == JournalChecksums::Commit
                    && scan.end.is_none()
                {
                    let mut crc = crc32_be(scan.crc.unwrap_or(!0), record.block);
                    for index in 0..record.tags.len() {
                        self.read(self.advance(record.first, index), &mut data)?;
                        crc = crc32_be(crc, &data);
                    }
                    scan.crc = Some(crc);
                }
                Ok(Then::GoOn)
            }
            Kind::Commit => scan.commit(record.block, record.sequence, self),
        })?;
        if let Some(failed) = scan.failed {
            return Err(self.fault(Ext4Error::Unsafe(format!(
                "transaction {failed} of its journal was committed, but its checksum is wrong now: the kernel would not \
                 mount this; run `e2fsck -f` on a copy"
            ))));
        }
        Ok(scan.end.unwrap_or(walked))
    }

    /// The transaction after the last one may have been committed in the fast way, which is another format.
    fn refuse_fast_commits(&self, end: u32) -> Result<()> {
        /// `EXT4_FC_TAG_HEAD` and its length.
        const HEAD: [u16; 2] = [9, 8];
        let Some(first) = self
            .superblock
            .fast_commits
            .filter(|first| *first < self.superblock.length)
        else {
            return Ok(());
        };
        let mut block = vec![0; self.ext4.block_length()];
        self.read(first, &mut block)?;
        let read = || Ok(([u16_le(&block, 0)?, u16_le(&block, 2)?], u32_le(&block, 8)?));
        let (head, transaction) = read().map_err(|e: crate::disk::field::Truncated| self.fault(e.into()))?;
        if head != HEAD || transaction != end {
            return Ok(());
        }
        Err(self.fault(Ext4Error::Unsafe(
            "its journal holds fast commits, which only its own kernel can replay; mount it once and unmount it (or \
             run `e2fsck -f` on a copy), and try again"
                .to_owned(),
        )))
    }

    /// Which blocks must not be replayed, and up to which transaction.
    fn find_revoked(&self, end: u32) -> Result<BTreeMap<u64, u32>> {
        let format = self.superblock.format;
        let mut revoked: BTreeMap<u64, u32> = BTreeMap::new();
        self.walk(Some(end), &mut |record| {
            if record.kind != Kind::Revocation {
                return Ok(Then::GoOn);
            }
            let done = revocations(record.block, format, &mut |block| {
                let latest = revoked.entry(block).or_insert(record.sequence);
                if before(*latest, record.sequence) {
                    *latest = record.sequence;
                }
                if revoked.len() > MOST_REVOKED {
                    return Err(Ext4Error::Unsafe(format!(
                        "its journal revokes more than {MOST_REVOKED} blocks; mount it once and unmount it, and try \
                         again"
                    )));
                }
                Ok(())
            });
            done.map_err(|error| self.fault(error))?;
            Ok(Then::GoOn)
        })?;
        Ok(revoked)
    }

    /// Writes every block where it belongs, or, unless `write`, only looks whether it could; gives how many.
    fn replay(&self, end: u32, revoked: &BTreeMap<u64, u32>, write: bool) -> Result<u64> {
        let format = self.superblock.format;
        let mut count = 0;
        let mut data = vec![0; self.ext4.block_length()];
        let reached = self.walk(Some(end), &mut |record| {
            if record.kind != Kind::Descriptor {
                return Ok(Then::GoOn);
            }
            if !tail_is_right(record.block, format).map_err(|e| self.fault(e))? {
                return Err(self.damaged(format!(
                    "a descriptor block of transaction {} of the journal has a wrong checksum",
                    record.sequence
                )));
            }
            for (index, tag) in record.tags.iter().enumerate() {
                if revoked
                    .get(&tag.block)
                    .is_some_and(|latest| !before(*latest, record.sequence))
                {
                    continue;
                }
                if tag.block >= self.ext4.superblock.blocks {
                    return Err(self.damaged(format!(
                        "transaction {} of the journal is about block {}, the filesystem has {}",
                        record.sequence, tag.block, self.ext4.superblock.blocks
                    )));
                }
                let at = self.advance(record.first, index);
                self.read(at, &mut data)?;
                if !tag.matches(&data, record.sequence, format) {
                    let error = self.damaged(format!(
                        "the journal's copy of block {} in transaction {} has a wrong checksum",
                        tag.block, record.sequence
                    ));
                    return Err(error.at(self.byte(at)?));
                }
                if tag.escaped {
                    put_u32_be(&mut data, 0, MAGIC).map_err(|e| self.fault(e.into()))?;
                }
                if write {
                    self.ext4.disk.write_at(self.ext4.byte(tag.block), &data)?;
                }
                count += 1;
            }
            Ok(Then::GoOn)
        })?;
        if reached != end {
            return Err(self.damaged(format!(
                "the journal ends at transaction {reached}, not at {end} as before"
            )));
        }
        Ok(count)
    }
}

impl Scan {
    /// A commit block was met.
    fn commit(&mut self, block: &[u8], sequence: u32, log: &Log<'_>) -> Result<Then> {
        let format = log.superblock.format;
        let fault = |error| log.fault(error);
        let time = commit_time(block).map_err(fault)?;
        if self.doubtful {
            if time >= self.time {
                return Err(log.damaged(format!(
                    "transaction {sequence} of the journal has a wrong checksum"
                )));
            }
            // Older than what came before it: the log ended there.
            return Ok(Then::Stop);
        }
        let right = if format.checksums == JournalChecksums::Commit {
            if self.end.is_some() {
                self.failed = self.end;
                return Ok(Then::Stop);
            }
            let computed = self.crc.replace(!0).unwrap_or(!0);
            commit_agrees(block, computed).map_err(fault)?
        } else {
            commit_is_right(block, format).map_err(fault)?
        };
        if !right {
            if time < self.time {
                return Ok(Then::Stop);
            }
            self.end.get_or_insert(sequence);
            if !format.async_commit {
                self.failed = Some(sequence);
                return Ok(Then::Stop);
            }
        }
        self.time = time;
        Ok(Then::GoOn)
    }
}
