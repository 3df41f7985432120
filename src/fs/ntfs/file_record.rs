//! File records: the entries of `$MFT` (Linux-NTFS documentation, "FILE Record").

use super::{
    attribute::{self, Attribute},
    error::{NtfsError, Parsed},
    update_sequence,
};
use crate::disk::field::{bytes_at, put_bytes, put_u16_le, put_u32_le, put_u64_le, u16_le, u32_le, u64_le};
use std::{fmt, sync::Arc};

/// Records that are the filesystem's own, by number.
pub(super) mod number {
    pub(crate) const MFT: u64 = 0;
    pub(crate) const MIRROR: u64 = 1;
    pub(crate) const LOG_FILE: u64 = 2;
    pub(crate) const VOLUME: u64 = 3;
    pub(crate) const ROOT: u64 = 5;
    pub(crate) const BITMAP: u64 = 6;
    pub(crate) const SECURE: u64 = 9;
    pub(crate) const UPCASE: u64 = 10;
    pub(crate) const EXTEND: u64 = 11;
    /// The first that may be a user's.
    pub(crate) const FIRST_USER: u64 = 16;
}

/// Flags of a record.
pub(super) mod flag {
    pub(crate) const IN_USE: u16 = 1;
    pub(crate) const DIRECTORY: u16 = 2;
    /// A file of `$Extend`.
    pub(crate) const EXTENSION: u16 = 4;
}

/// A number with the number of times that the record was used, by which stale references are known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Reference {
    pub(super) number: u64,
    pub(super) sequence: u16,
}

impl Reference {
    pub(super) fn parse(raw: u64) -> Self {
        Self {
            number: raw & NUMBERS,
            sequence: u16::try_from(raw >> 48).unwrap_or(0),
        }
    }

    pub(super) fn encode(self) -> u64 {
        self.number & NUMBERS | u64::from(self.sequence) << 48
    }
}

const NUMBERS: u64 = (1 << 48) - 1;

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (used {} times)", self.number, self.sequence)
    }
}

/// A record, its protected bytes put back.
#[derive(Clone, Debug)]
pub(super) struct FileRecord {
    pub(super) number: u64,
    pub(super) header: Header,
    /// All of it.
    pub(super) bytes: Arc<[u8]>,
}

/// The fields before the attributes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) sequence: u16,
    /// Names, those for DOS included.
    pub(super) links: u16,
    /// Offset of the first attribute.
    pub(super) first: u16,
    pub(super) flags: u16,
    pub(super) bytes_in_use: u32,
    /// Of a record that holds more attributes of another: that one.
    pub(super) base: Reference,
    pub(super) next_instance: u16,
}

impl Header {
    fn parse(raw: &[u8]) -> Parsed<Self> {
        if bytes_at(raw, 0, 4)? != b"FILE" {
            return Err(NtfsError::damaged(format!(
                "\"FILE\" expected at its start, \"{}\" found",
                bytes_at(raw, 0, 4)?.escape_ascii()
            )));
        }
        Ok(Self {
            sequence: u16_le(raw, 0x10)?,
            links: u16_le(raw, 0x12)?,
            first: u16_le(raw, 0x14)?,
            flags: u16_le(raw, 0x16)?,
            bytes_in_use: u32_le(raw, 0x18)?,
            base: Reference::parse(u64_le(raw, 0x20)?),
            next_instance: u16_le(raw, 0x28)?,
        })
    }

    /// Writes the fields to a record.
    pub(super) fn put(&self, raw: &mut [u8]) -> Parsed<()> {
        put_u16_le(raw, 0x10, self.sequence)?;
        put_u16_le(raw, 0x12, self.links)?;
        put_u16_le(raw, 0x14, self.first)?;
        put_u16_le(raw, 0x16, self.flags)?;
        put_u32_le(raw, 0x18, self.bytes_in_use)?;
        put_u64_le(raw, 0x20, self.base.encode())?;
        Ok(put_u16_le(raw, 0x28, self.next_instance)?)
    }

    pub(super) fn has(&self, flag: u16) -> bool {
        self.flags & flag != 0
    }
}

impl FileRecord {
    /// Reads record `number` from its bytes as they are on disk.
    pub(super) fn from_disk(number: u64, mut raw: Vec<u8>) -> Parsed<Self> {
        Header::parse(&raw)?;
        update_sequence::restore(&mut raw)?;
        Self::parse(number, raw.into())
    }

    /// Reads record `number`, whose protected bytes were put back.
    pub(super) fn parse(number: u64, bytes: Arc<[u8]>) -> Parsed<Self> {
        let header = Header::parse(&bytes)?;
        let used = usize::try_from(header.bytes_in_use).unwrap_or(usize::MAX);
        let first = usize::from(header.first);
        if used > bytes.len() || first % 8 != 0 || first < FIRST || first >= used {
            return Err(NtfsError::damaged(format!(
                "{used} bytes in use, attributes from byte {first}, in a record of {}",
                bytes.len()
            )));
        }
        Ok(Self {
            number,
            header,
            bytes,
        })
    }

    pub(super) fn is_directory(&self) -> bool {
        self.header.has(flag::DIRECTORY)
    }

    /// The file that its attributes belong to.
    pub(super) fn owner(&self) -> u64 {
        match self.header.base {
            Reference {
                number: 0,
                sequence: 0,
            } => self.number,
            base => base.number,
        }
    }

    pub(super) fn reference(&self) -> Reference {
        Reference {
            number: self.number,
            sequence: self.header.sequence,
        }
    }

    /// Its attributes, in order.
    pub(super) fn attributes(&self) -> Attributes<'_> {
        let used = usize::try_from(self.header.bytes_in_use).unwrap_or(usize::MAX);
        Attributes {
            rest: self
                .bytes
                .get(usize::from(self.header.first)..used)
                .unwrap_or_default(),
            offset: usize::from(self.header.first),
        }
    }

    /// The first attribute of a type and name.
    pub(super) fn find(&self, kind: u32, name: &[u16]) -> Parsed<Option<Attribute<'_>>> {
        for attribute in self.attributes() {
            let attribute = attribute?;
            if attribute.is(kind, name) {
                return Ok(Some(attribute));
            }
        }
        Ok(None)
    }
}

/// Before it are the fields of the oldest record.
const FIRST: usize = 0x2a;

/// The attributes of a record. Ends at the end mark, or after an error.
#[derive(Debug)]
pub(super) struct Attributes<'a> {
    rest: &'a [u8],
    offset: usize,
}

impl<'a> Iterator for Attributes<'a> {
    type Item = Parsed<Attribute<'a>>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        match attribute::parse(self.rest) {
            Ok(None) => {
                self.rest = &[];
                None
            }
            Ok(Some((attribute, length))) => {
                self.rest = self.rest.get(length..).unwrap_or_default();
                self.offset += length;
                Some(Ok(attribute))
            }
            Err(error) => {
                self.rest = &[];
                Some(Err(error.within(format!("attribute at byte {}", self.offset))))
            }
        }
    }
}

/// Bytes of the end mark, with padding.
pub(super) const END_LENGTH: usize = 8;

/// A new record of `length` bytes without attributes, as Windows XP and later format it; older ones have no room for the
/// record's own number.
pub(super) fn blank(number: u64, length: usize, with_number: bool) -> Parsed<Vec<u8>> {
    let mut raw = vec![0; length];
    let array = if with_number { 0x30 } else { 0x2a };
    let entries = update_sequence::entries(length);
    let first = (array + entries * 2).next_multiple_of(8);
    let short = |value: usize| u16::try_from(value).unwrap_or(u16::MAX);
    put_bytes(&mut raw, 0, b"FILE")?;
    put_u16_le(&mut raw, 4, short(array))?;
    put_u16_le(&mut raw, 6, short(entries))?;
    put_u32_le(&mut raw, 0x1c, u32::try_from(length).unwrap_or(u32::MAX))?;
    if with_number {
        put_u32_le(&mut raw, 0x2c, u32::try_from(number & 0xffff_ffff).unwrap_or(0))?;
    }
    put_u16_le(&mut raw, array, 1)?;
    put_u32_le(&mut raw, first, attribute::kind::END)?;
    let header = Header {
        sequence: 1,
        first: short(first),
        bytes_in_use: u32::try_from(first + END_LENGTH).unwrap_or(0),
        ..Header::default()
    };
    header.put(&mut raw)?;
    Ok(raw)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_blank_record_is_read_back() {
        for (length, with_number) in [(1024, true), (4096, true), (1024, false)] {
            let mut raw = blank(77, length, with_number).unwrap();
            update_sequence::protect(&mut raw).unwrap();
            let record = FileRecord::from_disk(77, raw).unwrap();
            assert_eq!(record.attributes().count(), 0);
            assert_eq!(record.owner(), 77);
            assert!(!record.header.has(flag::IN_USE));
        }
    }

    #[test]
    fn references_keep_both_numbers() {
        let reference = Reference::parse(0xabcd_1234_5678_9abc);
        assert_eq!((reference.number, reference.sequence), (0x1234_5678_9abc, 0xabcd));
        assert_eq!(reference.encode(), 0xabcd_1234_5678_9abc);
    }

    #[test]
    fn a_record_whose_fields_reach_outside_is_refused() {
        let raw = blank(1, 1024, true).unwrap();
        for (at, value) in [(0x18, 2000_u32), (0x18, 0x38), (0x14, 0), (0x14, 0x39)] {
            let mut raw = raw.clone();
            put_u32_le(&mut raw, at, value).unwrap();
            assert!(FileRecord::parse(1, raw.into()).is_err(), "{at:#x} {value}");
        }
        let mut bad = raw;
        bad[0] = b'B';
        assert!(
            FileRecord::parse(1, bad.into())
                .unwrap_err()
                .to_string()
                .contains("BILE")
        );
    }
}
