//! The key security item, `sk` (regf specification, "Key security"): a security descriptor that any number of keys
//! share, in a ring of all of them.

use super::{
    cell::CellOffset,
    error::{HiveError, Parsed},
};
use crate::disk::field::{bytes_at, put_bytes, put_u32_le, u8_at, u16_le, u32_le};

const SECURITY_HEADER: usize = 20;
/// `SE_SELF_RELATIVE` of a descriptor's control field (MS-DTYP 2.4.6).
const SELF_RELATIVE: u16 = 0x8000;
/// Bytes of a descriptor's header (MS-DTYP 2.4.6).
const DESCRIPTOR_HEADER: usize = 20;
/// What the root of a new hive gets: full access for SYSTEM and the administrators, inherited by all below.
const DEFAULT: [u8; 100] = [
    // Revision 1, self-relative with a discretionary list; owner at 0x48, group at 0x58, list at 0x14.
    1, 0, 4, 0x80, 0x48, 0, 0, 0, 0x58, 0, 0, 0, 0, 0, 0, 0, 0x14, 0, 0, 0,
    // The list: revision 2, 0x34 bytes, two entries.
    2, 0, 0x34, 0, 2, 0, 0, 0, // Allow, inherited by subkeys, KEY_ALL_ACCESS: S-1-5-18.
    0, 2, 20, 0, 0x3f, 0, 0x0f, 0, 1, 1, 0, 0, 0, 0, 0, 5, 18, 0, 0, 0, // The same: S-1-5-32-544.
    0, 2, 24, 0, 0x3f, 0, 0x0f, 0, 1, 2, 0, 0, 0, 0, 0, 5, 32, 0, 0, 0, 32, 2, 0, 0,
    // Owner S-1-5-32-544, group S-1-5-18.
    1, 2, 0, 0, 0, 0, 0, 5, 32, 0, 0, 0, 32, 2, 0, 0, 1, 1, 0, 0, 0, 0, 0, 5, 18, 0, 0, 0,
];

/// The fields of an item.
#[derive(Clone, Copy, Debug)]
pub(super) struct Security<'a> {
    pub(super) next: CellOffset,
    pub(super) previous: CellOffset,
    pub(super) descriptor: &'a [u8],
}

impl<'a> Security<'a> {
    /// From the contents of a cell.
    pub(super) fn parse(cell: &'a [u8]) -> Parsed<Self> {
        let magic = bytes_at(cell, 0, 2)?;
        if magic != b"sk" {
            let what = format!("\"{}\" found where security has \"sk\"", magic.escape_ascii());
            return Err(HiveError::damaged(what));
        }
        let length = usize::try_from(u32_le(cell, 16)?).unwrap_or(usize::MAX);
        Ok(Self {
            next: CellOffset(u32_le(cell, 4)?),
            previous: CellOffset(u32_le(cell, 8)?),
            descriptor: bytes_at(cell, SECURITY_HEADER, length)?,
        })
    }
}

/// The contents of the cell of a new item.
pub(super) fn build(
    next: CellOffset,
    previous: CellOffset,
    references: u32,
    descriptor: &[u8],
) -> Parsed<Vec<u8>> {
    let mut cell = vec![0; SECURITY_HEADER];
    put_bytes(&mut cell, 0, b"sk")?;
    put_next(&mut cell, next)?;
    put_previous(&mut cell, previous)?;
    put_references(&mut cell, references)?;
    let length = u32::try_from(descriptor.len())
        .map_err(|_| HiveError::Unsupported("a security descriptor of more than 4 GiB".into()))?;
    put_u32_le(&mut cell, 16, length)?;
    cell.extend_from_slice(descriptor);
    Ok(cell)
}

pub(super) fn put_next(cell: &mut [u8], next: CellOffset) -> Parsed<()> {
    Ok(put_u32_le(cell, 4, next.0)?)
}

pub(super) fn put_previous(cell: &mut [u8], previous: CellOffset) -> Parsed<()> {
    Ok(put_u32_le(cell, 8, previous.0)?)
}

pub(super) fn put_references(cell: &mut [u8], references: u32) -> Parsed<()> {
    Ok(put_u32_le(cell, 12, references)?)
}

/// Can this be the security descriptor of a key: revision 1, self-relative, its parts within it (MS-DTYP 2.4.6)?
pub(super) fn must_be_descriptor(bytes: &[u8]) -> Parsed<()> {
    let well_formed = bytes.len() >= DESCRIPTOR_HEADER
        && u8_at(bytes, 0)? == 1
        && u16_le(bytes, 2)? & SELF_RELATIVE != 0
        && (4..DESCRIPTOR_HEADER).step_by(4).all(|at| {
            let part = u32_le(bytes, at).map(|part| usize::try_from(part).unwrap_or(usize::MAX));
            part.is_ok_and(|part| part == 0 || (DESCRIPTOR_HEADER..bytes.len()).contains(&part))
        });
    if well_formed {
        return Ok(());
    }
    Err(HiveError::Unsupported(
        "these bytes are no self-relative security descriptor".into(),
    ))
}

/// The descriptor of a new hive's root.
pub(super) fn default_descriptor() -> &'static [u8] {
    &DEFAULT
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_item_is_read_back() {
        let cell = build(CellOffset(120), CellOffset(240), 7, default_descriptor()).unwrap();
        let item = Security::parse(&cell).unwrap();
        assert_eq!((item.next, item.previous), (CellOffset(120), CellOffset(240)));
        assert_eq!(item.descriptor, default_descriptor());
        assert_eq!(u32_le(&cell, 12).unwrap(), 7);
        assert!(Security::parse(&cell[..cell.len() - 1]).is_err());
        assert!(Security::parse(b"nk").is_err());
    }

    #[test]
    fn descriptors_are_self_relative() {
        must_be_descriptor(default_descriptor()).unwrap();
        assert!(must_be_descriptor(&[1, 0, 4, 0x80]).is_err());
        for (at, byte) in [(0, 2), (3, 0), (4, 1), (5, 1)] {
            let mut wrong = default_descriptor().to_vec();
            wrong[at] = byte;
            assert!(must_be_descriptor(&wrong).is_err(), "{at}");
        }
    }
}
