//! Attributes: what a file record is made of (Linux-NTFS documentation, "Attributes").

use super::{
    error::{NtfsError, Parsed},
    name,
};
use crate::disk::field::{bytes_at, u8_at, u16_le, u32_le, u64_le};
use std::ops::Range;

/// Types of attributes.
pub(super) mod kind {
    pub(crate) const STANDARD_INFORMATION: u32 = 0x10;
    pub(crate) const ATTRIBUTE_LIST: u32 = 0x20;
    pub(crate) const FILE_NAME: u32 = 0x30;
    pub(crate) const OBJECT_ID: u32 = 0x40;
    pub(crate) const SECURITY_DESCRIPTOR: u32 = 0x50;
    pub(crate) const VOLUME_NAME: u32 = 0x60;
    pub(crate) const VOLUME_INFORMATION: u32 = 0x70;
    pub(crate) const DATA: u32 = 0x80;
    pub(crate) const INDEX_ROOT: u32 = 0x90;
    pub(crate) const INDEX_ALLOCATION: u32 = 0xa0;
    pub(crate) const BITMAP: u32 = 0xb0;
    pub(crate) const REPARSE_POINT: u32 = 0xc0;
    pub(crate) const EA_INFORMATION: u32 = 0xd0;
    pub(crate) const EA: u32 = 0xe0;
    pub(crate) const LOGGED_UTILITY_STREAM: u32 = 0x100;
    /// After the last.
    pub(crate) const END: u32 = 0xffff_ffff;
}

/// Flags of an attribute.
pub(super) mod flag {
    /// How it is compressed: 0 is not, 1 is LZNT1.
    pub(crate) const COMPRESSION: u16 = 0x00ff;
    pub(crate) const ENCRYPTED: u16 = 0x4000;
    pub(crate) const SPARSE: u16 = 0x8000;
}

/// Lengths of the two kinds of headers, before the name. The longer of the second is for compressed and sparse ones.
pub(super) const RESIDENT_HEADER: usize = 0x18;
pub(super) const NON_RESIDENT_HEADER: usize = 0x40;
pub(super) const COMPRESSED_HEADER: usize = 0x48;

/// An attribute, or the part of it that stands in one record.
#[derive(Clone, Debug)]
pub(super) struct Attribute<'a> {
    pub(super) kind: u32,
    pub(super) flags: u16,
    /// Its own number within the record.
    pub(super) instance: u16,
    /// UTF-16 as on disk.
    pub(super) name: &'a [u8],
    pub(super) form: Form<'a>,
}

/// Where the contents are.
#[derive(Clone, Debug)]
pub(super) enum Form<'a> {
    /// Here.
    Resident {
        value: &'a [u8],
        /// 1: stands in an index too.
        indexed: u8,
    },
    /// In clusters.
    NonResident(NonResident<'a>),
}

/// The header of what lies in clusters.
#[derive(Clone, Debug)]
pub(super) struct NonResident<'a> {
    /// Clusters that this part maps.
    pub(super) vcns: Range<u64>,
    /// 2^n clusters are compressed together; 0: not compressed.
    pub(super) compression_unit: u8,
    /// Of the whole attribute, as its first part says; 0 in all others.
    pub(super) sizes: Sizes,
    pub(super) runs: &'a [u8],
}

/// In bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Sizes {
    /// Holes of compressed and sparse attributes included.
    pub(super) allocated: u64,
    pub(super) size: u64,
    /// What lies behind reads as zeros.
    pub(super) initialized: u64,
}

impl Attribute<'_> {
    /// Is it the one of that name?
    pub(super) fn is(&self, kind: u32, wanted: &[u16]) -> bool {
        self.kind == kind && name::units(self.name).eq(wanted.iter().copied())
    }

    pub(super) fn is_resident(&self) -> bool {
        matches!(self.form, Form::Resident { .. })
    }

    /// The value of one that must be resident.
    pub(super) fn value(&self) -> Parsed<&[u8]> {
        match &self.form {
            Form::Resident { value, .. } => Ok(value),
            Form::NonResident(_) => Err(NtfsError::damaged(format!(
                "attribute {:#x} is not in the record, where it must be",
                self.kind
            ))),
        }
    }
}

/// Reads the attribute at the start of `raw`; gives its length too. `None` at the end mark.
pub(super) fn parse(raw: &[u8]) -> Parsed<Option<(Attribute<'_>, usize)>> {
    let kind = u32_le(raw, 0)?;
    if kind == kind::END {
        return Ok(None);
    }
    let length = usize::try_from(u32_le(raw, 4)?).unwrap_or(usize::MAX);
    if length % 8 != 0 || length < RESIDENT_HEADER || length > raw.len() {
        return Err(NtfsError::damaged(format!(
            "attribute {kind:#x} of {length} bytes, where {} are left",
            raw.len()
        )));
    }
    let raw = bytes_at(raw, 0, length)?;
    let non_resident = u8_at(raw, 8)?;
    let name_units = usize::from(u8_at(raw, 9)?);
    let name = match name_units {
        0 => &[][..],
        units => bytes_at(raw, usize::from(u16_le(raw, 10)?), units * 2)?,
    };
    let form = match non_resident {
        0 => Form::Resident {
            value: bytes_at(
                raw,
                usize::from(u16_le(raw, 20)?),
                usize::try_from(u32_le(raw, 16)?).unwrap_or(usize::MAX),
            )?,
            indexed: u8_at(raw, 22)?,
        },
        1 => Form::NonResident(parse_non_resident(raw, kind)?),
        other => {
            return Err(NtfsError::damaged(format!(
                "attribute {kind:#x} is neither resident nor not: {other}"
            )));
        }
    };
    let attribute = Attribute {
        kind,
        flags: u16_le(raw, 12)?,
        instance: u16_le(raw, 14)?,
        name,
        form,
    };
    Ok(Some((attribute, length)))
}

fn parse_non_resident(raw: &[u8], kind: u32) -> Parsed<NonResident<'_>> {
    let wrong =
        |what: &str, value: u64| NtfsError::damaged(format!("attribute {kind:#x}: {what} is {value:#x}"));
    let first = u64_le(raw, 0x10)?;
    // The last, -1 if there is none.
    let end = u64_le(raw, 0x18)?.wrapping_add(1);
    if end < first || end > MOST_CLUSTERS {
        return Err(wrong("the range of clusters", end));
    }
    let size = |at| {
        let size = u64_le(raw, at)?;
        if size > MOST_BYTES {
            return Err(wrong("a size", size));
        }
        Ok(size)
    };
    let sizes = match first {
        0 => Sizes {
            allocated: size(0x28)?,
            size: size(0x30)?,
            initialized: size(0x38)?,
        },
        _ => Sizes::default(),
    };
    if sizes.initialized > sizes.size {
        return Err(wrong("the initialized size", sizes.initialized));
    }
    let compression_unit = u8_at(raw, 0x22)?;
    // Windows makes units of 16 clusters; documentation and others' code allow up to 2^4 or so.
    if compression_unit > 8 {
        return Err(wrong("the compression unit", u64::from(compression_unit)));
    }
    let at = usize::from(u16_le(raw, 0x20)?);
    let runs = raw
        .get(at..)
        .ok_or_else(|| wrong("the offset of the data runs", at as u64))?;
    Ok(NonResident {
        vcns: first..end,
        compression_unit,
        sizes,
        runs,
    })
}

/// The largest file that NTFS's own fields allow is 2^63 bytes; clusters have at least 512.
const MOST_BYTES: u64 = i64::MAX as u64;
const MOST_CLUSTERS: u64 = MOST_BYTES / 512;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::field::{put_u8, put_u16_le, put_u32_le, put_u64_le};

    fn resident(value: &[u8]) -> Vec<u8> {
        let mut raw = vec![0; 0x18 + value.len().next_multiple_of(8)];
        let length = raw.len() as u32;
        put_u32_le(&mut raw, 0, kind::DATA).unwrap();
        put_u32_le(&mut raw, 4, length).unwrap();
        put_u32_le(&mut raw, 16, value.len() as u32).unwrap();
        put_u16_le(&mut raw, 20, 0x18).unwrap();
        raw[0x18..0x18 + value.len()].copy_from_slice(value);
        raw
    }

    #[test]
    fn values_and_ends_are_found() {
        let raw = resident(b"contents");
        let (attribute, length) = parse(&raw).unwrap().unwrap();
        assert_eq!((attribute.value().unwrap(), length), (&b"contents"[..], 0x20));
        assert!(attribute.is(kind::DATA, &[]) && !attribute.is(kind::DATA, &[1]));
        assert!(parse(&[0xff; 8]).unwrap().is_none());
    }

    #[test]
    fn lengths_that_reach_outside_are_refused() {
        let mut raw = resident(b"contents");
        put_u32_le(&mut raw, 16, 9).unwrap();
        assert!(parse(&raw).is_err());
        for length in [0, 8, 0x1c, 0x28, 0xffff_fff8] {
            let mut raw = resident(b"contents");
            put_u32_le(&mut raw, 4, length).unwrap();
            assert!(parse(&raw).is_err(), "{length}");
        }
        let mut raw = vec![0; 0x48];
        put_u32_le(&mut raw, 0, kind::DATA).unwrap();
        put_u32_le(&mut raw, 4, 0x48).unwrap();
        put_u8(&mut raw, 8, 1).unwrap();
        put_u16_le(&mut raw, 0x20, 0x40).unwrap();
        put_u64_le(&mut raw, 0x18, u64::MAX).unwrap();
        let empty = parse(&raw).unwrap().unwrap().0;
        assert!(matches!(empty.form, Form::NonResident(part) if part.vcns == (0..0)));
        put_u64_le(&mut raw, 0x38, 1).unwrap();
        assert!(parse(&raw).is_err(), "more is initialized than there is");
        put_u64_le(&mut raw, 0x38, 0).unwrap();
        put_u16_le(&mut raw, 0x20, 0x49).unwrap();
        assert!(parse(&raw).is_err());
    }
}
