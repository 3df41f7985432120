//! Descriptors of UDF: parsed from bytes, nothing read (ECMA-167, 3rd edition, parts 3 and 4; OSTA UDF 1.02 to 2.60).

use crate::disk::field::{Truncated, bytes_at, u8_at, u16_le, u32_le, u64_le};
use encoding_rs::UTF_16BE;
use thiserror::Error;

/// Tags ("3/7.2.1", "4/7.2.1").
pub(super) mod tag {
    pub(crate) const ANCHOR: u16 = 2;
    pub(crate) const PARTITION: u16 = 5;
    pub(crate) const LOGICAL_VOLUME: u16 = 6;
    pub(crate) const TERMINATING: u16 = 8;
    pub(crate) const FILE_SET: u16 = 256;
    pub(crate) const FILE_IDENTIFIER: u16 = 257;
    pub(crate) const ALLOCATION_EXTENT: u16 = 258;
    pub(crate) const FILE_ENTRY: u16 = 261;
    pub(crate) const EXTENDED_FILE_ENTRY: u16 = 266;
}

/// Why bytes are no descriptor.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub(super) enum DescriptorError {
    #[error(transparent)]
    Truncated(#[from] Truncated),
    #[error("a descriptor with a wrong checksum")]
    Checksum,
    #[error("a descriptor with a wrong CRC")]
    Crc,
    #[error("a descriptor of type {found} where one of type {expected} should be")]
    Type { found: u16, expected: u16 },
    #[error("{0}, which is not read here")]
    Unsupported(&'static str),
}

/// The type of the descriptor in `bytes`, once its checksum and CRC are found right.
pub(super) fn check(bytes: &[u8]) -> Result<u16, DescriptorError> {
    let header = bytes_at(bytes, 0, 16)?;
    let others = header.iter().enumerate().filter(|(at, _)| *at != 4);
    let sum = others.fold(0_u8, |sum, (_, byte)| sum.wrapping_add(*byte));
    if sum != u8_at(header, 4)? {
        return Err(DescriptorError::Checksum);
    }
    let covered = bytes_at(bytes, 16, usize::from(u16_le(header, 10)?))?;
    if crc(covered) != u16_le(header, 8)? {
        return Err(DescriptorError::Crc);
    }
    Ok(u16_le(header, 0)?)
}

/// Likewise, of one that must be of that type.
pub(super) fn expect(bytes: &[u8], expected: u16) -> Result<(), DescriptorError> {
    match check(bytes)? {
        found if found == expected => Ok(()),
        found => Err(DescriptorError::Type { found, expected }),
    }
}

/// CRC-16 of the polynomial 0x1021 ("3/7.2.6").
fn crc(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0_u16, |mut crc, byte| {
        crc ^= u16::from(*byte) << 8;
        for _ in 0..8 {
            let carry = crc & 0x8000 != 0;
            crc <<= 1;
            if carry {
                crc ^= 0x1021;
            }
        }
        crc
    })
}

/// A block in a partition of the logical volume ("4/7.1").
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Address {
    pub(super) block: u32,
    pub(super) partition: u16,
}

/// What a run of an allocation descriptor is ("4/14.14.1.1").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RunKind {
    /// Recorded.
    Recorded,
    /// Reads as zeros.
    Zeros,
    /// Holds more allocation descriptors.
    More,
}

/// A run of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Run {
    pub(super) kind: RunKind,
    pub(super) length: u32,
    pub(super) start: Address,
}

impl Run {
    fn new(length: u32, start: Address) -> Self {
        let kind = match length >> 30 {
            0 => RunKind::Recorded,
            3 => RunKind::More,
            _ => RunKind::Zeros,
        };
        Self {
            kind,
            length: length & 0x3fff_ffff,
            start,
        }
    }

    /// A long allocation descriptor ("4/14.14.2").
    pub(super) fn long(bytes: &[u8], at: usize) -> Result<Self, Truncated> {
        let start = Address {
            block: u32_le(bytes, at + 4)?,
            partition: u16_le(bytes, at + 8)?,
        };
        Ok(Self::new(u32_le(bytes, at)?, start))
    }

    /// All runs in `bytes`, up to one of no length. `short` ones are in `partition`.
    pub(super) fn list(bytes: &[u8], short: bool, partition: u16) -> Result<Vec<Self>, Truncated> {
        let size = if short { 8 } else { 16 };
        let mut runs = Vec::new();
        for bytes in bytes.chunks_exact(size) {
            let run = if short {
                let block = u32_le(bytes, 4)?;
                Self::new(u32_le(bytes, 0)?, Address { block, partition })
            } else {
                Self::long(bytes, 0)?
            };
            if run.length == 0 {
                break;
            }
            runs.push(run);
        }
        Ok(runs)
    }
}

/// A partition map ("3/10.7", UDF 2.2.8 to 2.2.10).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PartitionMap {
    /// By the number of a partition.
    Physical(u16),
    /// Blocks of a file in such a partition, and of its mirror.
    Metadata { partition: u16, file: u32, mirror: u32 },
}

/// A logical volume ("3/10.6").
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct LogicalVolume {
    pub(super) sequence: u32,
    pub(super) label: String,
    pub(super) block_size: u32,
    /// Where the file set descriptor is.
    pub(super) file_set: Address,
    pub(super) maps: Vec<PartitionMap>,
}

impl LogicalVolume {
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, DescriptorError> {
        let count = u32_le(bytes, 268)?;
        let mut maps = Vec::new();
        let mut at = 440;
        // A descriptor has one block, so there are few.
        for _ in 0..count.min(64) {
            let length = usize::from(u8_at(bytes, at + 1)?);
            let map = bytes_at(bytes, at, length)?;
            maps.push(Self::map(map)?);
            at += length;
        }
        Ok(Self {
            sequence: u32_le(bytes, 16)?,
            label: dstring(bytes_at(bytes, 84, 128)?),
            block_size: u32_le(bytes, 212)?,
            file_set: Run::long(bytes, 248)?.start,
            maps,
        })
    }

    fn map(map: &[u8]) -> Result<PartitionMap, DescriptorError> {
        if u8_at(map, 0)? == 1 {
            return Ok(PartitionMap::Physical(u16_le(map, 4)?));
        }
        match bytes_at(map, 5, 23)? {
            id if id.starts_with(b"*UDF Metadata Partition") => Ok(PartitionMap::Metadata {
                partition: u16_le(map, 38)?,
                file: u32_le(map, 40)?,
                mirror: u32_le(map, 44)?,
            }),
            id if id.starts_with(b"*UDF Virtual Partition") => Err(DescriptorError::Unsupported(
                "a disc written in sessions (virtual partition)",
            )),
            id if id.starts_with(b"*UDF Sparable Partition") => Err(DescriptorError::Unsupported(
                "a rewritable disc with a sparing table",
            )),
            _ => Err(DescriptorError::Unsupported(
                "a partition of a kind that UDF does not name",
            )),
        }
    }
}

/// What a file entry, plain or extended, says ("4/14.9", "4/14.17").
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct FileEntry {
    pub(super) file_type: u8,
    pub(super) size: u64,
    pub(super) owner: (u32, u32),
    pub(super) links: u16,
    /// Nanoseconds since 1970.
    pub(super) modified: Option<i128>,
    pub(super) contents: Contents,
}

/// Where the contents of a file are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Contents {
    /// In the entry itself.
    Embedded(Vec<u8>),
    /// In runs; `short` says how more of them are written.
    Runs { runs: Vec<Run>, short: bool },
}

/// "4/14.6.6".
pub(super) const DIRECTORY: u8 = 4;
pub(super) const LINK: u8 = 12;

impl FileEntry {
    /// Of a block that was read from `partition`.
    pub(super) fn parse(bytes: &[u8], partition: u16) -> Result<Self, DescriptorError> {
        let extended = match check(bytes)? {
            tag::FILE_ENTRY => false,
            tag::EXTENDED_FILE_ENTRY => true,
            found => {
                return Err(DescriptorError::Type {
                    found,
                    expected: tag::FILE_ENTRY,
                });
            }
        };
        if u16_le(bytes, 20)? != 4 {
            return Err(DescriptorError::Unsupported(
                "a file written by another strategy than 4",
            ));
        }
        let (lengths, data, modified) = if extended { (208, 216, 92) } else { (168, 176, 84) };
        let skipped = usize::try_from(u32_le(bytes, lengths)?).unwrap_or(usize::MAX);
        let length = usize::try_from(u32_le(bytes, lengths + 4)?).unwrap_or(usize::MAX);
        let allocation = bytes_at(bytes, skipped.saturating_add(data), length)?;
        let contents = match u16_le(bytes, 34)? & 7 {
            3 => Contents::Embedded(allocation.to_vec()),
            kind @ (0 | 1) => Contents::Runs {
                runs: Run::list(allocation, kind == 0, partition)?,
                short: kind == 0,
            },
            _ => {
                return Err(DescriptorError::Unsupported(
                    "a file with extended allocation descriptors",
                ));
            }
        };
        Ok(Self {
            file_type: u8_at(bytes, 27)?,
            size: u64_le(bytes, 56)?,
            owner: (u32_le(bytes, 36)?, u32_le(bytes, 40)?),
            links: u16_le(bytes, 48)?,
            modified: time(bytes_at(bytes, modified, 12)?),
            contents,
        })
    }
}

/// "1/7.3": zone in minutes in the lower 12 bits, year, month, day, hour, minute, second.
fn time(bytes: &[u8]) -> Option<i128> {
    let zone = u16_le(bytes, 0).ok()? & 0xfff;
    let zone = i32::from(zone) - if zone & 0x800 != 0 { 0x1000 } else { 0 };
    let year = i16::from_le_bytes(bytes.get(2..4)?.try_into().ok()?);
    let part = |at: usize| i8::try_from(*bytes.get(at)?).ok();
    let date = jiff::civil::DateTime::new(year, part(4)?, part(5)?, part(6)?, part(7)?, part(8)?, 0).ok()?;
    // -2047 is "unknown".
    let zone = if zone == -2047 { 0 } else { zone };
    let offset = jiff::tz::Offset::from_seconds(zone * 60).ok()?;
    Some(offset.to_timestamp(date).ok()?.as_nanosecond())
}

/// An entry of a directory ("4/14.4").
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Identifier {
    /// Bytes that it takes.
    pub(super) length: usize,
    /// Of the directory above, or of what was deleted.
    pub(super) hidden: bool,
    pub(super) name: String,
    pub(super) entry: Address,
}

impl Identifier {
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, DescriptorError> {
        const DELETED_OR_PARENT: u8 = 0x04 | 0x08;
        expect(bytes, tag::FILE_IDENTIFIER)?;
        let name_length = usize::from(u8_at(bytes, 19)?);
        let used = usize::from(u16_le(bytes, 36)?);
        let name = bytes_at(bytes, 38 + used, name_length)?;
        Ok(Self {
            length: (38 + used + name_length).next_multiple_of(4),
            hidden: u8_at(bytes, 18)? & DELETED_OR_PARENT != 0,
            name: characters(name),
            entry: Run::long(bytes, 20)?.start,
        })
    }
}

/// A string whose last byte is its length (UDF 2.1.3).
fn dstring(bytes: &[u8]) -> String {
    let length = usize::from(bytes.last().copied().unwrap_or(0));
    characters(bytes.get(..length).unwrap_or_default())
}

/// Compressed Unicode: one byte or two for each character (UDF 2.1.1).
pub(super) fn characters(bytes: &[u8]) -> String {
    match bytes.split_first() {
        Some((8 | 254, rest)) => rest.iter().map(|byte| char::from(*byte)).collect(),
        Some((16 | 255, rest)) => UTF_16BE.decode_without_bom_handling(rest).0.into_owned(),
        _ => String::new(),
    }
}
