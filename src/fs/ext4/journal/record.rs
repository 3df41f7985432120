//! What the log consists of (kernel documentation, "ext4 Journal (jbd2)": "Block Header", "Descriptor Block",
//! "Revocation Block", "Commit Block"). All numbers are big-endian.

use super::{
    super::{checksum::crc32c, error::Ext4Error},
    superblock::{Format, JournalChecksums, MAGIC},
};
use crate::disk::field::{bytes_at, put_u32_be, u16_be, u32_be, u64_be};

/// Bytes of the header of every block of the log.
const HEADER: usize = 12;
/// Bytes of the checksum at the end of descriptor and revocation blocks.
const TAIL: usize = 4;
/// Bytes of the UUID that follows a tag without `SAME_UUID`.
const UUID: usize = 16;
const COMMIT_CHECKSUM_AT: usize = 16;

const FLAG_ESCAPED: u16 = 0x1;
const FLAG_SAME_UUID: u16 = 0x2;
const FLAG_LAST: u16 = 0x8;

/// What a block of the log is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Says where the blocks after it belong.
    Descriptor,
    /// Ends a transaction.
    Commit,
    /// Says which blocks must not be replayed from what came before.
    Revocation,
}

/// Kind and transaction of a block of the log; `None`: it is none, or a superblock.
pub(super) fn header(block: &[u8]) -> Result<Option<(Kind, u32)>, Ext4Error> {
    if u32_be(block, 0)? != MAGIC {
        return Ok(None);
    }
    let kind = match u32_be(block, 4)? {
        1 => Kind::Descriptor,
        2 => Kind::Commit,
        5 => Kind::Revocation,
        _ => return Ok(None),
    };
    Ok(Some((kind, u32_be(block, 8)?)))
}

/// Where one block of a transaction belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tag {
    /// Block of the filesystem.
    pub(super) block: u64,
    /// Its first four bytes were the magic number, and are zeros in the log.
    pub(super) escaped: bool,
    /// 16 bits in version 2.
    checksum: u32,
}

/// The tags of a descriptor block.
pub(super) fn tags(block: &[u8], format: Format) -> Result<Vec<Tag>, Ext4Error> {
    let end = block.len().saturating_sub(if format.checksums.seed().is_some() {
        TAIL
    } else {
        0
    });
    let length = match (format.checksums, format.wide) {
        (JournalChecksums::Version3(_), _) => 16,
        // Two bytes more than their fields need: once a slip, now the format.
        (JournalChecksums::Version2(_), wide) => {
            if wide {
                14
            } else {
                10
            }
        }
        (_, wide) => {
            if wide {
                12
            } else {
                8
            }
        }
    };
    let mut tags = Vec::new();
    let mut at = HEADER;
    while at + length <= end {
        let flags = u16_be(block, at + 6)?;
        let high = if format.wide {
            u64::from(u32_be(block, at + 8)?)
        } else {
            0
        };
        tags.push(Tag {
            block: u64::from(u32_be(block, at)?) | high << 32,
            escaped: flags & FLAG_ESCAPED != 0,
            checksum: match format.checksums {
                JournalChecksums::Version3(_) => u32_be(block, at + 12)?,
                _ => u32::from(u16_be(block, at + 4)?),
            },
        });
        at += length;
        if flags & FLAG_SAME_UUID == 0 {
            at += UUID;
        }
        if flags & FLAG_LAST != 0 {
            break;
        }
    }
    Ok(tags)
}

impl Tag {
    /// Is `data`, as it stands in the log, what was written there for transaction `sequence`?
    pub(super) fn matches(&self, data: &[u8], sequence: u32, format: Format) -> bool {
        let computed = |seed| crc32c(crc32c(seed, &sequence.to_be_bytes()), data);
        match format.checksums {
            JournalChecksums::None | JournalChecksums::Commit => true,
            JournalChecksums::Version2(seed) => computed(seed) & 0xffff == self.checksum,
            JournalChecksums::Version3(seed) => computed(seed) == self.checksum,
        }
    }
}

/// Is the checksum at the end of a descriptor or revocation block right (or is there none)?
pub(super) fn tail_is_right(block: &[u8], format: Format) -> Result<bool, Ext4Error> {
    let at = block.len().saturating_sub(TAIL);
    checksum_is_right(block, at, format)
}

/// Is the checksum of a commit block right, where blocks have one each?
pub(super) fn commit_is_right(block: &[u8], format: Format) -> Result<bool, Ext4Error> {
    checksum_is_right(block, COMMIT_CHECKSUM_AT, format)
}

fn checksum_is_right(block: &[u8], at: usize, format: Format) -> Result<bool, Ext4Error> {
    let Some(seed) = format.checksums.seed() else {
        return Ok(true);
    };
    let mut plain = block.to_vec();
    put_u32_be(&mut plain, at, 0)?;
    Ok(crc32c(seed, &plain) == u32_be(block, at)?)
}

/// Does the commit block agree with `computed`, the crc32 of its whole transaction? One without a checksum does.
pub(super) fn commit_agrees(block: &[u8], computed: u32) -> Result<bool, Ext4Error> {
    /// `JBD2_CRC32_CHKSUM` and its size.
    const CRC32: [u8; 2] = [1, 4];
    let kind = bytes_at(block, HEADER, 2)?;
    let found = u32_be(block, COMMIT_CHECKSUM_AT)?;
    Ok((kind == CRC32 && found == computed) || (kind == [0, 0] && found == 0))
}

/// Seconds since 1970 at which a transaction was committed.
pub(super) fn commit_time(block: &[u8]) -> Result<u64, Ext4Error> {
    Ok(u64_be(block, 48)?)
}

/// Calls `each` with every block number of a revocation block.
pub(super) fn revocations(
    block: &[u8],
    format: Format,
    each: &mut dyn FnMut(u64) -> Result<(), Ext4Error>,
) -> Result<(), Ext4Error> {
    let most = block.len().saturating_sub(if format.checksums.seed().is_some() {
        TAIL
    } else {
        0
    });
    let used = usize::try_from(u32_be(block, HEADER)?).unwrap_or(usize::MAX);
    if used > most {
        return Err(Ext4Error::damaged(format!(
            "a revocation block of the journal claims {used} bytes, {most} fit into it"
        )));
    }
    let length = if format.wide { 8 } else { 4 };
    let mut at = HEADER + 4;
    while at + length <= used {
        each(if format.wide {
            u64_be(block, at)?
        } else {
            u64::from(u32_be(block, at)?)
        })?;
        at += length;
    }
    Ok(())
}

/// crc32 with the most significant bit first (polynomial 0x04C11DB7), without inversions: the checksum of version 1.
pub(super) fn crc32_be(seed: u32, bytes: &[u8]) -> u32 {
    bytes.iter().fold(seed, |crc, byte| {
        let index = (crc >> 24) as usize ^ usize::from(*byte);
        crc << 8 ^ CRC32_BE.get(index).copied().unwrap_or(0)
    })
}

static CRC32_BE: [u32; 256] = crc32_be_table();

#[allow(clippy::indexing_slicing)] // Both count to 256; a constant function has no other way to fill an array.
const fn crc32_be_table() -> [u32; 256] {
    let mut table = [0; 256];
    let mut index = 0;
    let mut number = 0_u32;
    while index < 256 {
        let mut crc = number << 24;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 0x8000_0000 == 0 {
                crc << 1
            } else {
                crc << 1 ^ 0x04c1_1db7
            };
            bit += 1;
        }
        table[index] = crc;
        index += 1;
        number += 1;
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Format = Format {
        wide: false,
        checksums: JournalChecksums::None,
        async_commit: false,
    };

    #[test]
    fn check_value_of_the_old_checksum() {
        // CRC-32/MPEG-2 is this one, from all ones.
        assert_eq!(crc32_be(!0, b"123456789"), 0x0376_e6e7);
    }

    #[test]
    fn tags_have_their_length_and_end_with_the_block() {
        for (wide, checksums, length) in [
            (false, JournalChecksums::None, 8),
            (true, JournalChecksums::Commit, 12),
            (false, JournalChecksums::Version2(1), 10),
            (true, JournalChecksums::Version2(1), 14),
            (false, JournalChecksums::Version3(1), 16),
            (true, JournalChecksums::Version3(1), 16),
        ] {
            let format = Format {
                wide,
                checksums,
                ..PLAIN
            };
            let mut block = vec![0; 1024];
            for index in 0..3 {
                // The first is followed by a UUID.
                let at = 12 + index * length + if index > 0 { 16 } else { 0 };
                block[at + 3] = 7 + index as u8;
                block[at + 7] = [1, 2, 2 | 8][index];
                if wide {
                    block[at + 11] = 1;
                }
            }
            let found: Vec<_> = tags(&block, format)
                .unwrap()
                .iter()
                .map(|t| (t.block, t.escaped))
                .collect();
            let high = if wide { 1 << 32 } else { 0 };
            assert_eq!(found, [(high | 7, true), (high | 8, false), (high | 9, false)]);
            // Without a last tag the block is full of them.
            let mut full = vec![0; 1024];
            for at in (0..1024 - 8).step_by(1) {
                full[at] = 2;
            }
            let most = (1024 - 12 - if checksums.seed().is_some() { 4 } else { 0 }) / length;
            assert_eq!(tags(&full, format).unwrap().len(), most);
        }
    }

    #[test]
    fn a_revocation_block_that_lies_about_its_length_is_refused() {
        let mut block = vec![0; 1024];
        block[12..16].copy_from_slice(&28_u32.to_be_bytes());
        block[16..28].copy_from_slice(&[0, 0, 0, 5, 0, 0, 0, 6, 0, 0, 0, 7]);
        let mut found = Vec::new();
        revocations(&block, PLAIN, &mut |b| {
            found.push(b);
            Ok(())
        })
        .unwrap();
        assert_eq!(found, [5, 6, 7]);
        block[12] = 1;
        assert!(revocations(&block, PLAIN, &mut |_| Ok(())).is_err());
    }
}
