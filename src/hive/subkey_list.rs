//! Lists of subkeys: index leaf `li`, fast leaf `lf`, hash leaf `lh`, index root `ri` (regf specification, sections of
//! those names).

use super::{
    cell::CellOffset,
    error::{HiveError, Parsed},
    name::Name,
};
use crate::disk::field::{bytes_at, put_bytes, put_u16_le, u16_le, u32_le};

const LIST_HEADER: usize = 4;

/// Which list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ListKind {
    /// `li`: keys only.
    Index,
    /// `lf`: keys with the beginnings of their names.
    Fast,
    /// `lh`: keys with hashes of their names.
    Hash,
    /// `ri`: other lists.
    Root,
}

impl ListKind {
    /// What Windows writes into a hive of that version where all subkeys fit one leaf (regf specification, "Hash leaf").
    pub(super) const fn of_version(minor: u32) -> Self {
        if minor > 4 { Self::Hash } else { Self::Fast }
    }

    /// What Windows writes below an index root, where one leaf of this kind is not enough: fast leaves become index leaves.
    pub(super) const fn below_a_root(self) -> Self {
        match self {
            Self::Fast => Self::Index,
            other => other,
        }
    }

    const fn magic(self) -> &'static [u8; 2] {
        match self {
            Self::Index => b"li",
            Self::Fast => b"lf",
            Self::Hash => b"lh",
            Self::Root => b"ri",
        }
    }

    const fn element(self) -> usize {
        match self {
            Self::Index | Self::Root => 4,
            Self::Fast | Self::Hash => 8,
        }
    }

    /// The most elements that a list gets: as many as fill a hive bin of 4096 bytes, which is where Windows divides too. Longer
    /// ones are read.
    pub(super) const fn most(self) -> usize {
        match self {
            Self::Index => 1012,
            Self::Fast | Self::Hash => 507,
            // Any number of lists: the field's own limit.
            Self::Root => 65535,
        }
    }
}

/// A list, parsed.
#[derive(Clone, Copy, Debug)]
pub(super) struct SubkeyList<'a> {
    pub(super) kind: ListKind,
    elements: &'a [u8],
}

impl<'a> SubkeyList<'a> {
    /// From the contents of a cell.
    pub(super) fn parse(cell: &'a [u8]) -> Parsed<Self> {
        let kind = match bytes_at(cell, 0, 2)? {
            b"li" => ListKind::Index,
            b"lf" => ListKind::Fast,
            b"lh" => ListKind::Hash,
            b"ri" => ListKind::Root,
            other => {
                let what = format!(
                    "\"{}\" found where a list of subkeys has \"li\", \"lf\", \"lh\" or \"ri\"",
                    other.escape_ascii()
                );
                return Err(HiveError::damaged(what));
            }
        };
        let length = usize::from(u16_le(cell, 2)?).saturating_mul(kind.element());
        Ok(Self {
            kind,
            elements: bytes_at(cell, LIST_HEADER, length)?,
        })
    }

    pub(super) fn len(&self) -> usize {
        self.elements.len() / self.kind.element()
    }

    /// The cells that it refers to.
    pub(super) fn offsets(&self) -> impl Iterator<Item = CellOffset> + use<'a> {
        let element = |element: &[u8]| CellOffset(u32_le(element, 0).unwrap_or(u32::MAX));
        self.elements.chunks_exact(self.kind.element()).map(element)
    }

    /// Its elements, to be put together anew with [`build`].
    pub(super) fn elements(&self) -> Vec<Element> {
        let element = |element: &[u8]| Element {
            at: CellOffset(u32_le(element, 0).unwrap_or(u32::MAX)),
            hint: u32_le(element, 4).unwrap_or(0).to_le_bytes(),
        };
        self.elements
            .chunks_exact(self.kind.element())
            .map(element)
            .collect()
    }
}

/// One element of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Element {
    pub(super) at: CellOffset,
    /// Of a fast or hash leaf, as stored.
    pub(super) hint: [u8; 4],
}

impl Element {
    /// For a key called `name` in a leaf of that kind.
    pub(super) fn new(kind: ListKind, at: CellOffset, name: &Name) -> Self {
        let hint = match kind {
            ListKind::Fast => name.hint(),
            ListKind::Hash => name.hash().to_le_bytes(),
            ListKind::Index | ListKind::Root => [0; 4],
        };
        Self { at, hint }
    }
}

/// The contents of the cell of a list.
pub(super) fn build(kind: ListKind, elements: &[Element]) -> Parsed<Vec<u8>> {
    let count = u16::try_from(elements.len())
        .map_err(|_| HiveError::Full(format!("{} elements in one list of subkeys", elements.len())))?;
    let mut cell = vec![0; LIST_HEADER];
    put_bytes(&mut cell, 0, kind.magic())?;
    put_u16_le(&mut cell, 2, count)?;
    for element in elements {
        cell.extend_from_slice(&element.at.0.to_le_bytes());
        if kind.element() == 8 {
            cell.extend_from_slice(&element.hint);
        }
    }
    Ok(cell)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_every_kind_are_read_back() {
        for kind in [ListKind::Index, ListKind::Fast, ListKind::Hash, ListKind::Root] {
            let name = Name::from("Abcdef");
            let elements = [
                Element::new(kind, CellOffset(32), &name),
                Element::new(kind, CellOffset(800), &Name::from("b")),
            ];
            let mut cell = build(kind, &elements).unwrap();
            // A cell is often longer than its list.
            cell.extend_from_slice(&[0xff; 12]);
            let list = SubkeyList::parse(&cell).unwrap();
            assert_eq!((list.kind, list.len()), (kind, 2));
            assert_eq!(
                list.offsets().collect::<Vec<_>>(),
                [CellOffset(32), CellOffset(800)]
            );
            if matches!(kind, ListKind::Fast | ListKind::Hash) {
                assert_eq!(list.elements(), elements);
            }
        }
    }

    #[test]
    fn elements_past_the_cell_are_refused() {
        let mut cell = build(ListKind::Hash, &[]).unwrap();
        put_u16_le(&mut cell, 2, 1).unwrap();
        assert!(SubkeyList::parse(&cell).is_err());
        assert!(SubkeyList::parse(b"lx\0\0").is_err());
        assert!(SubkeyList::parse(b"lh").is_err());
    }

    #[test]
    fn the_largest_leaf_fills_a_bin() {
        for kind in [ListKind::Fast, ListKind::Hash] {
            assert_eq!(32 + 4 + LIST_HEADER + kind.most() * kind.element(), 4096);
        }
    }
}
