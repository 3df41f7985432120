//! `$UpCase`: the volume's own table of upper case letters. Names are looked up and ordered by it, whatever today's Unicode
//! says (Linux-NTFS documentation, "$UpCase").

use super::name;
use std::cmp::Ordering;

/// For each of the 65536 units its upper case.
#[derive(Clone, Debug)]
pub(super) struct UpcaseTable(Vec<u16>);

/// Bytes of the table.
pub(super) const LENGTH: u64 = 65536 * 2;

impl UpcaseTable {
    /// Units past the end of a short table stay as they are.
    pub(super) fn parse(raw: &[u8]) -> Self {
        Self(name::units(raw).collect())
    }

    pub(super) fn upper(&self, unit: u16) -> u16 {
        self.0.get(usize::from(unit)).copied().unwrap_or(unit)
    }

    /// The order of names in a directory: by upper case, then by length, and only of what is the same then by the units
    /// themselves, which can happen between names of POSIX and in case sensitive directories.
    pub(super) fn compare(
        &self,
        a: impl Iterator<Item = u16> + Clone,
        b: impl Iterator<Item = u16> + Clone,
    ) -> Ordering {
        let upper = |unit| self.upper(unit);
        a.clone()
            .map(upper)
            .cmp(b.clone().map(upper))
            .then_with(|| a.cmp(b))
    }

    /// Are they the same name to somebody who does not see upper and lower case?
    pub(super) fn same(&self, a: impl Iterator<Item = u16>, b: impl Iterator<Item = u16>) -> bool {
        a.map(|unit| self.upper(unit)).eq(b.map(|unit| self.upper(unit)))
    }
}

#[cfg(test)]
pub(super) fn ascii() -> UpcaseTable {
    UpcaseTable(
        (0..=0xffff_u16)
            .map(|unit| u8::try_from(unit).map_or(unit, |byte| u16::from(byte.to_ascii_uppercase())))
            .collect(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_ordered_by_upper_case_first() {
        let table = ascii();
        let compare = |a: &str, b: &str| table.compare(a.encode_utf16(), b.encode_utf16());
        assert_eq!(compare("b", "A"), Ordering::Greater);
        assert_eq!(compare("a", "B"), Ordering::Less);
        assert_eq!(compare("ab", "A"), Ordering::Greater);
        assert_eq!(compare("a", "A"), Ordering::Greater);
        // Upper case letters come before what lies between the two alphabets.
        assert_eq!(compare("a", "_"), Ordering::Less);
        assert!(table.same("Ab".encode_utf16(), "aB".encode_utf16()));
        assert_eq!(UpcaseTable::parse(&[0, 0, 5]).upper(7), 7);
    }
}
