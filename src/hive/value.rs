//! The key value, `vk` (regf specification, "Key value"), and the types that values have.

use super::{
    cell::CellOffset,
    error::{HiveError, Parsed},
    name::{Name, Width},
};
use crate::disk::field::{array_at, bytes_at, put_bytes, put_u16_le, put_u32_le, u16_le, u32_le};
use std::fmt;

/// Bytes before the name.
const VALUE_HEADER: usize = 20;
/// `VALUE_COMP_NAME`.
const COMPRESSED: u16 = 1;
/// `IsTombstone`: in a layer over another hive, the value of that one is gone.
const TOMBSTONE: u16 = 2;
/// In the size: the data is in the value itself.
const INLINE: u32 = 1 << 31;
/// The most bytes that are.
pub(super) const MOST_INLINE: usize = 4;

/// The type of a value: any number, of which a dozen have names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ValueKind(
    /// As on disk.
    pub u32,
);

impl ValueKind {
    /// No type.
    pub const NONE: Self = Self(0);
    /// A string in UTF-16LE with a zero at its end.
    pub const SZ: Self = Self(1);
    /// The same, with names of environment variables in it.
    pub const EXPAND_SZ: Self = Self(2);
    /// Bytes.
    pub const BINARY: Self = Self(3);
    /// Four bytes, little-endian.
    pub const DWORD: Self = Self(4);
    /// Four bytes, big-endian.
    pub const DWORD_BIG_ENDIAN: Self = Self(5);
    /// The target of a key that is a link, in UTF-16LE without a zero at its end.
    pub const LINK: Self = Self(6);
    /// Strings, each with a zero at its end, and one more zero.
    pub const MULTI_SZ: Self = Self(7);
    /// Eight bytes, little-endian.
    pub const QWORD: Self = Self(11);

    const NAMES: [&'static str; 12] = [
        "REG_NONE",
        "REG_SZ",
        "REG_EXPAND_SZ",
        "REG_BINARY",
        "REG_DWORD",
        "REG_DWORD_BIG_ENDIAN",
        "REG_LINK",
        "REG_MULTI_SZ",
        "REG_RESOURCE_LIST",
        "REG_FULL_RESOURCE_DESCRIPTOR",
        "REG_RESOURCE_REQUIREMENTS_LIST",
        "REG_QWORD",
    ];

    /// By its name, as `reg.exe` spells it, or by its number, decimal or with `0x`.
    pub fn from_name(name: &str) -> Option<Self> {
        let named = Self::NAMES
            .iter()
            .position(|other| other.eq_ignore_ascii_case(name));
        if let Some(index) = named {
            return u32::try_from(index).ok().map(Self);
        }
        let number = match name.strip_prefix("0x") {
            Some(digits) => u32::from_str_radix(digits, 16),
            None => name.parse(),
        };
        number.ok().map(Self)
    }
}

/// `REG_SZ`, or the number in hexadecimal where it has no name.
impl fmt::Display for ValueKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let index = usize::try_from(self.0).unwrap_or(usize::MAX);
        match Self::NAMES.get(index) {
            Some(name) => f.write_str(name),
            None => write!(f, "{:#x}", self.0),
        }
    }
}

/// Where the data of a value is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// In the value: so many of these bytes.
    Inline([u8; MOST_INLINE], usize),
    /// So many bytes in a cell, or in the segments that a big data record there names.
    Cell(CellOffset, usize),
}

/// The fields that matter here.
#[derive(Clone, Debug)]
pub(super) struct ValueRecord<'a> {
    pub(super) kind: ValueKind,
    pub(super) place: Place,
    pub(super) tombstone: bool,
    width: Width,
    name: &'a [u8],
}

impl<'a> ValueRecord<'a> {
    /// From the contents of a cell.
    pub(super) fn parse(cell: &'a [u8]) -> Parsed<Self> {
        let magic = bytes_at(cell, 0, 2)?;
        if magic != b"vk" {
            let what = format!("\"{}\" found where a value has \"vk\"", magic.escape_ascii());
            return Err(HiveError::damaged(what));
        }
        let name_length = usize::from(u16_le(cell, 2)?);
        let size = u32_le(cell, 4)?;
        let flags = u16_le(cell, 16)?;
        let length = usize::try_from(size & !INLINE).unwrap_or(usize::MAX);
        let place = if length == 0 {
            Place::Inline([0; MOST_INLINE], 0)
        } else if size & INLINE == 0 {
            Place::Cell(CellOffset(u32_le(cell, 8)?), length)
        } else if length <= MOST_INLINE {
            Place::Inline(array_at(cell, 8)?, length)
        } else {
            let what = format!("a value of {length} bytes is said to lie in a field of {MOST_INLINE}");
            return Err(HiveError::damaged(what));
        };
        Ok(Self {
            kind: ValueKind(u32_le(cell, 12)?),
            place,
            tombstone: flags & TOMBSTONE != 0,
            width: if flags & COMPRESSED == 0 {
                Width::Wide
            } else {
                Width::Compressed
            },
            name: bytes_at(cell, VALUE_HEADER, name_length)?,
        })
    }

    pub(super) fn name(&self) -> Parsed<Name> {
        Name::parse(self.name, self.width)
    }
}

/// The contents of the cell of a new value.
pub(super) fn build(name: &Name, kind: ValueKind, place: Place) -> Parsed<Vec<u8>> {
    let (name, width) = name.stored();
    let mut cell = vec![0; VALUE_HEADER.saturating_add(name.len())];
    put_bytes(&mut cell, 0, b"vk")?;
    let length = u16::try_from(name.len())
        .map_err(|_| HiveError::Unsupported(format!("a name of {} bytes", name.len())))?;
    put_u16_le(&mut cell, 2, length)?;
    put_data(&mut cell, kind, place)?;
    // The default value has no name, and Windows sets no flag about it.
    if width == Width::Compressed && !name.is_empty() {
        put_u16_le(&mut cell, 16, COMPRESSED)?;
    }
    put_bytes(&mut cell, VALUE_HEADER, &name)?;
    Ok(cell)
}

/// Gives an existing value another type and data.
pub(super) fn put_data(cell: &mut [u8], kind: ValueKind, place: Place) -> Parsed<()> {
    match place {
        Place::Inline(bytes, length) => {
            put_u32_le(cell, 4, INLINE | u32::try_from(length).unwrap_or(0))?;
            put_bytes(cell, 8, &bytes)?;
        }
        Place::Cell(at, length) => {
            let length = u32::try_from(length).ok().filter(|length| *length < INLINE);
            let length = length.ok_or_else(|| HiveError::Unsupported("a value of more than 2 GiB".into()))?;
            put_u32_le(cell, 4, length)?;
            put_u32_le(cell, 8, at.0)?;
        }
    }
    put_u32_le(cell, 12, kind.0)?;
    let flags = u16_le(cell, 16)? & !TOMBSTONE;
    Ok(put_u16_le(cell, 16, flags)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_read_back() {
        for place in [
            Place::Inline([1, 2, 0, 0], 2),
            Place::Inline([0; 4], 0),
            Place::Cell(CellOffset(4128), 5),
        ] {
            for name in ["", "Start", "\u{43a}"] {
                let cell = build(&Name::from(name), ValueKind::DWORD, place).unwrap();
                let record = ValueRecord::parse(&cell).unwrap();
                assert_eq!((record.place, record.kind), (place, ValueKind::DWORD));
                assert!(record.name().unwrap().is_exactly(&Name::from(name)));
                assert!(!record.tombstone);
            }
        }
    }

    #[test]
    fn data_that_cannot_lie_in_the_value_is_refused() {
        let mut cell = build(&Name::from("a"), ValueKind::BINARY, Place::Inline([0; 4], 4)).unwrap();
        put_u32_le(&mut cell, 4, INLINE | 5).unwrap();
        assert!(ValueRecord::parse(&cell).is_err());
        assert!(ValueRecord::parse(&cell[..19]).is_err());
        assert!(ValueRecord::parse(b"nk").is_err());
    }

    #[test]
    fn types_have_the_names_of_reg_exe() {
        for kind in (0..12).map(ValueKind) {
            assert_eq!(ValueKind::from_name(&kind.to_string()), Some(kind));
        }
        assert_eq!(ValueKind(0x0020_0000).to_string(), "0x200000");
        assert_eq!(ValueKind::from_name("0x200000"), Some(ValueKind(0x0020_0000)));
        assert_eq!(ValueKind::from_name("reg_dword"), Some(ValueKind::DWORD));
        assert_eq!(ValueKind::from_name("12"), Some(ValueKind(12)));
        assert_eq!(ValueKind::from_name("REG_TEXT"), None);
    }
}
