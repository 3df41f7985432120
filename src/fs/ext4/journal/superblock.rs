//! The journal's superblock (kernel documentation, "ext4 Journal (jbd2): Super Block"; `struct journal_superblock_s`),
//! in the first block of the journal. All numbers are big-endian.

use super::super::{checksum::crc32c, error::Ext4Error};
use crate::disk::field::{array_at, put_u32_be, u32_be};

/// Its length in bytes.
pub(super) const LENGTH: usize = 1024;
/// `JBD2_MAGIC_NUMBER`: the first field of every block that is not a copy of one of the filesystem's.
pub(super) const MAGIC: u32 = 0xc03b_3998;

/// `h_blocktype` of the two kinds of superblock; the older has no feature flags.
const VERSION_1: u32 = 3;
const VERSION_2: u32 = 4;

const COMPAT_CHECKSUM: u32 = 0x1;
const INCOMPAT_REVOKE: u32 = 0x1;
const INCOMPAT_64BIT: u32 = 0x2;
const INCOMPAT_ASYNC_COMMIT: u32 = 0x4;
const INCOMPAT_CSUM_V2: u32 = 0x8;
const INCOMPAT_CSUM_V3: u32 = 0x10;
const INCOMPAT_FAST_COMMIT: u32 = 0x20;
const INCOMPAT_KNOWN: u32 = INCOMPAT_REVOKE
    | INCOMPAT_64BIT
    | INCOMPAT_ASYNC_COMMIT
    | INCOMPAT_CSUM_V2
    | INCOMPAT_CSUM_V3
    | INCOMPAT_FAST_COMMIT;

/// `JBD2_DEFAULT_FAST_COMMIT_BLOCKS`: what `s_num_fc_blks` of 0 means.
const DEFAULT_FAST_COMMIT_BLOCKS: u32 = 256;
/// `JBD2_MIN_JOURNAL_BLOCKS`: with less left, nothing is taken for fast commits.
const LEAST_BLOCKS: u32 = 1024;

const SEQUENCE_AT: usize = 0x18;
const START_AT: usize = 0x1c;
const ERROR_AT: usize = 0x20;
const CHECKSUM_AT: usize = 0xfc;

/// How the blocks of a journal are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Format {
    /// Block numbers have 64 bits.
    pub(super) wide: bool,
    pub(super) checksums: JournalChecksums,
    /// A commit block may be on disk before what it commits.
    pub(super) async_commit: bool,
}

/// The three generations of checksums.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum JournalChecksums {
    None,
    /// One crc32 over a whole transaction, in its commit block.
    Commit,
    /// crc32c of every block; 16 bits of it in tags. The seed is that of the journal's UUID.
    Version2(u32),
    /// The same with all 32 bits.
    Version3(u32),
}

impl JournalChecksums {
    /// What the checksums of single blocks start from.
    pub(super) const fn seed(self) -> Option<u32> {
        match self {
            Self::Version2(seed) | Self::Version3(seed) => Some(seed),
            Self::None | Self::Commit => None,
        }
    }
}

#[derive(Clone, Debug)]
pub(super) struct JournalSuperblock {
    raw: [u8; LENGTH],
    /// Blocks, this one included.
    pub(super) length: u32,
    /// First block of the log; it goes on there after `last`.
    pub(super) first: u32,
    /// The block after the last of the log.
    pub(super) last: u32,
    /// Number of the oldest transaction in the log.
    pub(super) sequence: u32,
    /// Where it begins; 0: the log is empty.
    pub(super) start: u32,
    /// An error that the kernel had no time to note in the filesystem.
    pub(super) error: u32,
    pub(super) format: Format,
    /// First block for fast commits, if there may be any.
    pub(super) fast_commits: Option<u32>,
}

impl JournalSuperblock {
    /// `block_size` is the filesystem's; `available` the blocks that the journal's inode has.
    pub(super) fn parse(bytes: &[u8], block_size: u32, available: u64) -> Result<Self, Ext4Error> {
        let raw: [u8; LENGTH] = array_at(bytes, 0)?;
        let field = |at| u32_be(&raw, at);
        let (magic, version) = (field(0)?, field(4)?);
        if magic != MAGIC || (version != VERSION_1 && version != VERSION_2) {
            return Err(Ext4Error::damaged(format!(
                "the journal has no superblock: magic {magic:#x} and type {version} found, {MAGIC:#x} and 3 or 4 \
                 expected"
            )));
        }
        let feature = |at| if version == VERSION_2 { field(at) } else { Ok(0) };
        let (compat, incompat, ro_compat) = (feature(0x24)?, feature(0x28)?, feature(0x2c)?);
        let unknown = incompat & !INCOMPAT_KNOWN;
        if unknown != 0 || ro_compat != 0 {
            return Err(Ext4Error::Unsafe(format!(
                "its journal must be replayed, but has features that are not known here (incompatible {unknown:#x}, \
                 read-only {ro_compat:#x}); mount it once with the guest's own kernel and unmount it"
            )));
        }
        let checksums = journal_checksums(&raw, compat, incompat)?;
        let (length, first) = (field(0x10)?, field(0x14)?);
        let found = field(0xc)?;
        if found != block_size {
            return Err(Ext4Error::damaged(format!(
                "the journal has blocks of {found} bytes, the filesystem of {block_size}"
            )));
        }
        if u64::from(length) > available || first == 0 || first >= length {
            return Err(Ext4Error::damaged(format!(
                "the journal claims {length} blocks with the log from block {first} on; its file has {available}"
            )));
        }
        let mut last = length;
        let mut fast_commits = None;
        if incompat & INCOMPAT_FAST_COMMIT != 0 {
            let wanted = match field(0x54)? {
                0 => DEFAULT_FAST_COMMIT_BLOCKS,
                wanted => wanted,
            };
            if let Some(rest) = length.checked_sub(wanted).filter(|rest| *rest >= LEAST_BLOCKS) {
                last = rest;
            }
            fast_commits = last.checked_add(1);
        }
        let start = field(START_AT)?;
        if start != 0 && !(first..last).contains(&start) {
            return Err(Ext4Error::damaged(format!(
                "the journal's log begins at block {start}, which is not between {first} and {last}"
            )));
        }
        Ok(Self {
            length,
            first,
            last,
            sequence: field(SEQUENCE_AT)?,
            start,
            error: field(ERROR_AT)?,
            format: Format {
                wide: incompat & INCOMPAT_64BIT != 0,
                checksums,
                async_commit: incompat & INCOMPAT_ASYNC_COMMIT != 0,
            },
            fast_commits,
            raw,
        })
    }

    /// The bytes of an empty log whose next transaction is `sequence`, with its checksum.
    pub(super) fn emptied(&self, sequence: u32) -> Result<[u8; LENGTH], Ext4Error> {
        let mut raw = self.raw;
        put_u32_be(&mut raw, SEQUENCE_AT, sequence)?;
        put_u32_be(&mut raw, START_AT, 0)?;
        put_u32_be(&mut raw, ERROR_AT, 0)?;
        if self.format.checksums.seed().is_some() {
            put_u32_be(&mut raw, CHECKSUM_AT, 0)?;
            let checksum = crc32c(!0, &raw);
            put_u32_be(&mut raw, CHECKSUM_AT, checksum)?;
        }
        Ok(raw)
    }
}

fn journal_checksums(raw: &[u8; LENGTH], compat: u32, incompat: u32) -> Result<JournalChecksums, Ext4Error> {
    let (two, three) = (incompat & INCOMPAT_CSUM_V2 != 0, incompat & INCOMPAT_CSUM_V3 != 0);
    if two && three {
        return Err(Ext4Error::damaged(
            "the journal claims checksums of versions 2 and 3 at once",
        ));
    }
    if !two && !three {
        return Ok(if compat & COMPAT_CHECKSUM != 0 {
            JournalChecksums::Commit
        } else {
            JournalChecksums::None
        });
    }
    if compat & COMPAT_CHECKSUM != 0 {
        return Err(Ext4Error::damaged(
            "the journal claims checksums of version 1 and of a later one at once",
        ));
    }
    // `s_checksum_type` 4 is crc32c, the only one that there is.
    let [kind]: [u8; 1] = array_at(raw, 0x50)?;
    if kind != 4 {
        return Err(Ext4Error::damaged(format!(
            "the journal has checksums of kind {kind}, 4 (crc32c) expected"
        )));
    }
    let found = u32_be(raw, CHECKSUM_AT)?;
    let mut plain = *raw;
    put_u32_be(&mut plain, CHECKSUM_AT, 0)?;
    let computed = crc32c(!0, &plain);
    if found != computed {
        return Err(Ext4Error::Checksum {
            structure: "journal superblock".to_owned(),
            found,
            computed,
        });
    }
    let uuid: [u8; 16] = array_at(raw, 0x30)?;
    let seed = crc32c(!0, &uuid);
    Ok(if two {
        JournalChecksums::Version2(seed)
    } else {
        JournalChecksums::Version3(seed)
    })
}
