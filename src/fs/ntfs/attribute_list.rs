//! `$ATTRIBUTE_LIST`: where the attributes of a file are that has more than one record (Linux-NTFS documentation,
//! "$ATTRIBUTE_LIST").

use super::{
    error::{NtfsError, Parsed},
    file_record::Reference,
    name,
};
use crate::disk::field::{
    bytes_at, put_bytes, put_u8, put_u16_le, put_u32_le, put_u64_le, u8_at, u16_le, u32_le, u64_le,
};

/// As much as Windows reads of one.
pub(super) const MOST_BYTES: u64 = 0x4_0000;

/// Where one attribute, or a part of one, is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) kind: u32,
    pub(super) name: Vec<u16>,
    /// The first cluster of the part.
    pub(super) vcn: u64,
    pub(super) record: Reference,
    pub(super) instance: u16,
}

/// Bytes before the name.
const HEADER: usize = 0x1a;

pub(super) fn parse(raw: &[u8]) -> Parsed<Vec<Entry>> {
    let mut entries = Vec::new();
    let mut rest = raw;
    while !rest.is_empty() {
        // What is left of the last cluster may be zeros.
        if rest.len() < HEADER || u32_le(rest, 0)? == 0 {
            break;
        }
        let length = usize::from(u16_le(rest, 4)?);
        if length < HEADER || length > rest.len() {
            return Err(NtfsError::damaged(format!(
                "an entry of {length} bytes in the attribute list, where {} are left",
                rest.len()
            )));
        }
        let (entry, after) = rest.split_at(length);
        rest = after;
        let name_length = usize::from(u8_at(entry, 6)?) * 2;
        let name = match name_length {
            0 => &[][..],
            length => bytes_at(entry, usize::from(u8_at(entry, 7)?), length)?,
        };
        entries.push(Entry {
            kind: u32_le(entry, 0)?,
            name: name::units(name).collect(),
            vcn: u64_le(entry, 8)?,
            record: Reference::parse(u64_le(entry, 16)?),
            instance: u16_le(entry, 24)?,
        });
    }
    Ok(entries)
}

pub(super) fn encode(entries: &[Entry]) -> Parsed<Vec<u8>> {
    let mut raw = Vec::new();
    for entry in entries {
        let name = name::to_disk(&entry.name);
        let start = raw.len();
        let length = (HEADER + name.len()).next_multiple_of(8);
        raw.resize(start + length, 0);
        let bytes = raw.get_mut(start..).unwrap_or_default();
        put_u32_le(bytes, 0, entry.kind)?;
        // A name has at most 255 units.
        put_u16_le(bytes, 4, u16::try_from(length).unwrap_or(u16::MAX))?;
        put_u8(bytes, 6, u8::try_from(entry.name.len()).unwrap_or(u8::MAX))?;
        put_u8(bytes, 7, 0x1a)?;
        put_u64_le(bytes, 8, entry.vcn)?;
        put_u64_le(bytes, 16, entry.record.encode())?;
        put_u16_le(bytes, 24, entry.instance)?;
        put_bytes(bytes, HEADER, &name)?;
    }
    Ok(raw)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_come_back() {
        let entry = |kind, name: &str, vcn| Entry {
            kind,
            name: name.encode_utf16().collect(),
            vcn,
            record: Reference {
                number: 70,
                sequence: 3,
            },
            instance: 4,
        };
        let entries = [
            entry(0x10, "", 0),
            entry(0x80, "", 0),
            entry(0x80, "", 99),
            entry(0x80, "stream", 0),
        ];
        let mut raw = encode(&entries).unwrap();
        assert_eq!(parse(&raw).unwrap(), entries);
        raw.resize(raw.len() + 40, 0);
        assert_eq!(parse(&raw).unwrap(), entries);
        for length in [0_u16, 0x10, 0x1f0] {
            let mut raw = raw.clone();
            put_u16_le(&mut raw, 4, length).unwrap();
            assert!(parse(&raw).is_err(), "{length}");
        }
    }
}
