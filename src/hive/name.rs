//! Names of keys and values: UTF-16 without regard to case; stored in one byte for each unit where that is enough
//! (regf specification, `KEY_COMP_NAME` and `VALUE_COMP_NAME`).

use super::{
    error::{HiveError, Parsed},
    upcase::upcase,
};
use std::{cmp::Ordering, fmt};

/// A name as UTF-16 units; not each of them need be half of a proper character.
///
/// Two names are equal, and in order, as Windows sees it: upper and lower case are the same.
#[derive(Clone, Debug, Default)]
pub struct Name(Vec<u16>);

/// Does a stored name take one byte for each unit?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Width {
    /// The units are below 256: "extended ASCII", which is Latin-1.
    Compressed,
    /// UTF-16LE.
    Wide,
}

impl Name {
    /// From UTF-16 units.
    pub fn from_units(units: Vec<u16>) -> Self {
        Self(units)
    }

    /// Its UTF-16 units, as they are and not in upper case.
    pub fn units(&self) -> &[u16] {
        &self.0
    }

    /// Is it the name of a key's default value?
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Is it the same, upper and lower case too?
    pub fn is_exactly(&self, other: &Self) -> bool {
        self.0 == other.0
    }

    /// As stored in a key or value.
    pub(super) fn parse(bytes: &[u8], width: Width) -> Parsed<Self> {
        match width {
            Width::Compressed => Ok(Self(bytes.iter().map(|byte| u16::from(*byte)).collect())),
            Width::Wide if bytes.len().is_multiple_of(2) => Ok(Self(units(bytes).collect())),
            Width::Wide => Err(HiveError::damaged(format!(
                "a name in UTF-16 with an odd number of bytes, {}",
                bytes.len()
            ))),
        }
    }

    /// As it is to be stored: the shorter way where both are possible.
    pub(super) fn stored(&self) -> (Vec<u8>, Width) {
        let narrow: Result<Vec<u8>, _> = self.0.iter().map(|unit| u8::try_from(*unit)).collect();
        match narrow {
            Ok(bytes) => (bytes, Width::Compressed),
            Err(_) => (
                self.0.iter().flat_map(|unit| unit.to_le_bytes()).collect(),
                Width::Wide,
            ),
        }
    }

    /// Bytes that it takes in UTF-16: what the largest-name fields of a key count in.
    pub(super) fn wide_length(&self) -> usize {
        self.0.len().saturating_mul(2)
    }

    /// What an element of a hash leaf holds (regf specification, "Hash leaf").
    pub(super) fn hash(&self) -> u32 {
        let add = |hash: u32, unit: &u16| hash.wrapping_mul(37).wrapping_add(u32::from(upcase(*unit)));
        self.0.iter().fold(0, add)
    }

    /// What an element of a fast leaf holds (regf specification, "Fast leaf"): the first four characters, in their own case. A
    /// name that has others than Latin-1 among them has none.
    pub(super) fn hint(&self) -> [u8; 4] {
        let mut hint = [0; 4];
        for (byte, unit) in hint.iter_mut().zip(&self.0) {
            match u8::try_from(*unit) {
                Ok(narrow) => *byte = narrow,
                Err(_) => return [0; 4],
            }
        }
        hint
    }

    fn upper(&self) -> impl Iterator<Item = u16> {
        self.0.iter().map(|unit| upcase(*unit))
    }
}

/// UTF-16LE units; an odd byte at the end is left out.
pub(super) fn units(bytes: &[u8]) -> impl Iterator<Item = u16> {
    bytes.chunks_exact(2).map(|pair| match pair {
        [low, high] => u16::from_le_bytes([*low, *high]),
        _ => 0,
    })
}

impl PartialEq for Name {
    fn eq(&self, other: &Self) -> bool {
        self.0.len() == other.0.len() && self.upper().eq(other.upper())
    }
}

impl Eq for Name {}

impl PartialOrd for Name {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Name {
    fn cmp(&self, other: &Self) -> Ordering {
        self.upper().cmp(other.upper())
    }
}

impl From<&str> for Name {
    fn from(text: &str) -> Self {
        Self(text.encode_utf16().collect())
    }
}

impl From<&Self> for Name {
    fn from(name: &Self) -> Self {
        name.clone()
    }
}

/// Halves of characters that are alone stand as U+FFFD.
impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for character in char::decode_utf16(self.0.iter().copied()) {
            write!(f, "{}", character.unwrap_or(char::REPLACEMENT_CHARACTER))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_equal_and_ordered_without_regard_to_case() {
        assert_eq!(Name::from("ControlSet001"), Name::from("CONTROLSET001"));
        assert_ne!(Name::from("ControlSet001"), Name::from("ControlSet0012"));
        assert_eq!(Name::from("\u{43f}\u{440}"), Name::from("\u{41f}\u{440}"));
        assert!(!Name::from("a").is_exactly(&Name::from("A")));
        // An underscore is behind the letters, not between upper and lower case.
        assert!(Name::from("a_") > Name::from("aZ"));
        assert!(Name::from("a_") > Name::from("az"));
        assert!(Name::from("ss1") < Name::from("SS3") && Name::from("SS3") < Name::from("\u{df}2"));
    }

    #[test]
    fn latin_1_is_stored_in_a_byte_each() {
        assert_eq!(
            Name::from("\u{eb}b").stored(),
            (vec![0xeb, b'b'], Width::Compressed)
        );
        assert_eq!(
            Name::from("\u{100}b").stored(),
            (vec![0, 1, b'b', 0], Width::Wide)
        );
        for name in ["", "Start", "\u{ff}", "\u{43a}\u{43b}\u{44e}\u{447}", "\u{10000}"] {
            let name = Name::from(name);
            let (bytes, width) = name.stored();
            assert!(Name::parse(&bytes, width).unwrap().is_exactly(&name));
        }
        assert!(Name::parse(&[1, 0, 2], Width::Wide).is_err());
    }

    /// Values from the hives of Windows that hold these keys.
    #[test]
    fn hashes_and_hints_are_those_of_windows() {
        assert_eq!(Name::from("a").hash(), 0x41);
        assert_eq!(Name::from("Ab").hash(), 0x41 * 37 + 0x42);
        assert_eq!(
            Name::from("ControlSet001").hash(),
            Name::from("controlset001").hash()
        );
        assert_eq!(Name::from("Description").hint(), *b"Desc");
        assert_eq!(Name::from("ab").hint(), *b"ab\0\0");
        assert_eq!(Name::from("a\u{43a}").hint(), [0; 4]);
        assert_eq!(Name::from("abcd\u{43a}").hint(), *b"abcd");
    }
}
