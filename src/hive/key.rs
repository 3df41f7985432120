//! The key node, `nk` (regf specification, "Key node").

use super::{
    cell::CellOffset,
    error::{HiveError, Parsed},
    file_time::FileTime,
    name::{Name, Width},
};
use crate::disk::field::{
    bytes_at, put_bytes, put_u8, put_u16_le, put_u32_le, put_u64_le, u8_at, u16_le, u32_le, u64_le,
};

/// Bytes before the name.
pub(super) const KEY_HEADER: usize = 76;
/// Of the byte whose high half has the virtualization control flags; `REG_KEY_RECURSE_FLAG` hands them on to new subkeys. In the
/// low half are user flags, such as that of a 32-bit key, which are the key's own.
const VIRTUALIZATION: usize = 54;
const RECURSE: u8 = 8;

/// Bits of [`KeyNode::flags`].
pub(super) mod flag {
    /// `KEY_HIVE_ENTRY`: the root of a hive.
    pub(in crate::hive) const ROOT: u16 = 0x04;
    /// `KEY_NO_DELETE`.
    pub(in crate::hive) const NO_DELETE: u16 = 0x08;
    /// `KEY_COMP_NAME`.
    pub(in crate::hive) const COMPRESSED: u16 = 0x20;
    /// `KEY_PREDEF_HANDLE`: the number of values is a handle, and there are none.
    pub(in crate::hive) const PREDEFINED: u16 = 0x40;
}

/// Fields that hold the largest of what a key has. Only the low half of the first is one: flags stand in the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Largest {
    SubkeyName,
    SubkeyClass,
    ValueName,
    ValueData,
}

/// The fields that matter here.
#[derive(Clone, Debug)]
pub(super) struct KeyNode<'a> {
    pub(super) flags: u16,
    pub(super) written: FileTime,
    pub(super) parent: CellOffset,
    pub(super) subkey_count: u32,
    pub(super) subkeys: CellOffset,
    /// As stored; see [`KeyNode::value_count`].
    stored_value_count: u32,
    pub(super) values: CellOffset,
    pub(super) security: CellOffset,
    pub(super) class: CellOffset,
    pub(super) class_length: u16,
    /// How writing to it is virtualised: four bits.
    pub(super) virtualization: u8,
    name: &'a [u8],
}

impl<'a> KeyNode<'a> {
    /// From the contents of a cell.
    pub(super) fn parse(cell: &'a [u8]) -> Parsed<Self> {
        let magic = bytes_at(cell, 0, 2)?;
        if magic != b"nk" {
            let what = format!("\"{}\" found where a key has \"nk\"", magic.escape_ascii());
            return Err(HiveError::damaged(what));
        }
        Ok(Self {
            flags: u16_le(cell, 2)?,
            written: FileTime(u64_le(cell, 4)?),
            parent: CellOffset(u32_le(cell, 16)?),
            subkey_count: u32_le(cell, 20)?,
            subkeys: CellOffset(u32_le(cell, 28)?),
            stored_value_count: u32_le(cell, 36)?,
            values: CellOffset(u32_le(cell, 40)?),
            security: CellOffset(u32_le(cell, 44)?),
            class: CellOffset(u32_le(cell, 48)?),
            class_length: u16_le(cell, 74)?,
            virtualization: u8_at(cell, VIRTUALIZATION)? >> 4,
            name: bytes_at(cell, KEY_HEADER, usize::from(u16_le(cell, 72)?))?,
        })
    }

    /// How many values the list at [`KeyNode::values`] has.
    pub(super) fn value_count(&self) -> u32 {
        if self.flags & flag::PREDEFINED == 0 {
            self.stored_value_count
        } else {
            0
        }
    }

    pub(super) fn name(&self) -> Parsed<Name> {
        let width = if self.flags & flag::COMPRESSED == 0 {
            Width::Wide
        } else {
            Width::Compressed
        };
        Name::parse(self.name, width)
    }

    /// Has it this name? As `name() == *name`, without making one.
    pub(super) fn is_called(&self, name: &Name) -> Parsed<bool> {
        let length = match self.flags & flag::COMPRESSED {
            0 => self.name.len() / 2,
            _ => self.name.len(),
        };
        Ok(length == name.units().len() && self.name()? == *name)
    }
}

/// A new key without subkeys and values.
pub(super) struct NewKey<'a> {
    pub(super) name: &'a Name,
    pub(super) parent: CellOffset,
    pub(super) security: CellOffset,
    pub(super) written: FileTime,
    /// More flags than that of the name's width.
    pub(super) flags: u16,
    /// [`KeyNode::virtualization`] of the key above.
    pub(super) virtualization: u8,
}

impl NewKey<'_> {
    /// The contents of its cell.
    pub(super) fn build(&self) -> Parsed<Vec<u8>> {
        let (name, width) = self.name.stored();
        let mut cell = vec![0; KEY_HEADER.saturating_add(name.len())];
        put_bytes(&mut cell, 0, b"nk")?;
        let compressed = match width {
            Width::Compressed => flag::COMPRESSED,
            Width::Wide => 0,
        };
        put_u16_le(&mut cell, 2, self.flags | compressed)?;
        put_u64_le(&mut cell, 4, self.written.0)?;
        put_u32_le(&mut cell, 16, self.parent.0)?;
        for at in [28, 32, 40, 48] {
            put_u32_le(&mut cell, at, CellOffset::NONE.0)?;
        }
        put_u32_le(&mut cell, 44, self.security.0)?;
        if self.virtualization & RECURSE != 0 {
            put_u8(&mut cell, VIRTUALIZATION, self.virtualization << 4)?;
        }
        let length = u16::try_from(name.len())
            .map_err(|_| HiveError::Unsupported(format!("a name of {} bytes", name.len())))?;
        put_u16_le(&mut cell, 72, length)?;
        put_bytes(&mut cell, KEY_HEADER, &name)?;
        Ok(cell)
    }
}

pub(super) fn put_written(cell: &mut [u8], written: FileTime) -> Parsed<()> {
    Ok(put_u64_le(cell, 4, written.0)?)
}

pub(super) fn put_subkeys(cell: &mut [u8], count: u32, list: CellOffset) -> Parsed<()> {
    put_u32_le(cell, 20, count)?;
    Ok(put_u32_le(cell, 28, list.0)?)
}

pub(super) fn put_values(cell: &mut [u8], count: u32, list: CellOffset) -> Parsed<()> {
    put_u32_le(cell, 36, count)?;
    Ok(put_u32_le(cell, 40, list.0)?)
}

pub(super) fn put_security(cell: &mut [u8], security: CellOffset) -> Parsed<()> {
    Ok(put_u32_le(cell, 44, security.0)?)
}

pub(super) fn put_class(cell: &mut [u8], class: CellOffset, length: u16) -> Parsed<()> {
    put_u32_le(cell, 48, class.0)?;
    Ok(put_u16_le(cell, 74, length)?)
}

/// The largest is now at least `length` bytes.
pub(super) fn raise(cell: &mut [u8], largest: Largest, length: usize) -> Parsed<()> {
    let length = u32::try_from(length).unwrap_or(u32::MAX);
    if length > stored(cell, largest)? {
        put_largest(cell, largest, length)?;
    }
    Ok(())
}

/// There is none any more.
pub(super) fn reset(cell: &mut [u8], largest: Largest) -> Parsed<()> {
    put_largest(cell, largest, 0)
}

const fn place(largest: Largest) -> usize {
    match largest {
        Largest::SubkeyName => 52,
        Largest::SubkeyClass => 56,
        Largest::ValueName => 60,
        Largest::ValueData => 64,
    }
}

fn stored(cell: &[u8], largest: Largest) -> Parsed<u32> {
    Ok(match largest {
        Largest::SubkeyName => u32::from(u16_le(cell, place(largest))?),
        _ => u32_le(cell, place(largest))?,
    })
}

fn put_largest(cell: &mut [u8], largest: Largest, length: u32) -> Parsed<()> {
    match largest {
        Largest::SubkeyName => put_u16_le(cell, place(largest), u16::try_from(length).unwrap_or(u16::MAX))?,
        _ => put_u32_le(cell, place(largest), length)?,
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cell(name: &str) -> Vec<u8> {
        let new = NewKey {
            name: &Name::from(name),
            parent: CellOffset(32),
            security: CellOffset(120),
            written: FileTime(9),
            flags: flag::ROOT,
            virtualization: 2,
        };
        new.build().unwrap()
    }

    #[test]
    fn a_built_key_is_read_back() {
        for (name, flags) in [
            ("Select", flag::ROOT | flag::COMPRESSED),
            ("\u{43a}\u{43b}", flag::ROOT),
        ] {
            let cell = cell(name);
            let key = KeyNode::parse(&cell).unwrap();
            assert_eq!(key.flags, flags);
            assert!(key.name().unwrap().is_exactly(&Name::from(name)));
            assert!(key.is_called(&Name::from(name)).unwrap());
            assert!(!key.is_called(&Name::from("Selec")).unwrap());
            assert_eq!(
                (key.subkey_count, key.value_count(), key.written),
                (0, 0, FileTime(9))
            );
            assert!(key.subkeys.is_none() && key.values.is_none() && key.class.is_none());
            assert_eq!(key.security, CellOffset(120));
        }
    }

    #[test]
    fn virtualization_is_handed_on_where_it_says_so() {
        for (above, below) in [(0, 0), (2, 0), (0xa, 0xa)] {
            let new = NewKey {
                name: &Name::from("a"),
                parent: CellOffset(32),
                security: CellOffset(120),
                written: FileTime(9),
                flags: 0,
                virtualization: above,
            };
            let mut cell = new.build().unwrap();
            raise(&mut cell, Largest::SubkeyName, 6).unwrap();
            assert_eq!(KeyNode::parse(&cell).unwrap().virtualization, below);
            assert_eq!(cell[VIRTUALIZATION] & 0xf, 0, "no user flags");
        }
    }

    #[test]
    fn user_flags_are_not_handed_on() {
        let mut above = cell("a");
        above[VIRTUALIZATION] = 0x28;
        assert_eq!(KeyNode::parse(&above).unwrap().virtualization, 2);
    }

    #[test]
    fn a_predefined_handle_has_no_values() {
        let mut cell = cell("a");
        put_values(&mut cell, 0x8000_0002, CellOffset(0)).unwrap();
        put_u16_le(&mut cell, 2, flag::COMPRESSED | flag::PREDEFINED).unwrap();
        assert_eq!(KeyNode::parse(&cell).unwrap().value_count(), 0);
    }

    #[test]
    fn the_largest_subkey_name_leaves_the_flags_beside_it() {
        let mut cell = cell("a");
        put_u32_le(&mut cell, 52, 0x0045_0004).unwrap();
        raise(&mut cell, Largest::SubkeyName, 2).unwrap();
        assert_eq!(u32_le(&cell, 52).unwrap(), 0x0045_0004);
        raise(&mut cell, Largest::SubkeyName, 10).unwrap();
        assert_eq!(u32_le(&cell, 52).unwrap(), 0x0045_000a);
        reset(&mut cell, Largest::SubkeyName).unwrap();
        assert_eq!(u32_le(&cell, 52).unwrap(), 0x0045_0000);
    }

    #[test]
    fn names_that_reach_past_the_cell_are_refused() {
        let mut cell = cell("Select");
        put_u16_le(&mut cell, 72, 7).unwrap();
        assert!(KeyNode::parse(&cell).is_err());
        assert!(KeyNode::parse(&cell[..70]).is_err());
        assert!(KeyNode::parse(b"vk").is_err());
    }
}
