//! What the bytes of values mean: text, lists of text, numbers.

use super::{name::units, value::ValueKind};
use crate::disk::field::{array_at, u32_le};
use thiserror::Error;

/// A value does not hold what is asked of it.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{found} of {length} bytes found, {expected} expected")]
pub struct DataError {
    /// The type that was found.
    pub found: ValueKind,
    /// Bytes that were found.
    pub length: usize,
    /// What was expected.
    pub expected: &'static str,
}

/// The text of a `REG_SZ` as stored: UTF-16LE with a zero at its end.
pub fn encode_text(text: &str) -> Vec<u8> {
    text.encode_utf16()
        .chain([0])
        .flat_map(u16::to_le_bytes)
        .collect()
}

/// The strings of a `REG_MULTI_SZ` as stored. An empty string among them cannot be told from the end, and is left out.
pub fn encode_strings<S: AsRef<str>>(strings: &[S]) -> Vec<u8> {
    let some = strings.iter().filter(|text| !text.as_ref().is_empty());
    let mut bytes: Vec<u8> = some.flat_map(|text| encode_text(text.as_ref())).collect();
    bytes.extend([0, 0]);
    bytes
}

/// The text in a value: up to the first zero, or to its end. Halves of characters become U+FFFD.
pub fn decode_text(bytes: &[u8]) -> String {
    let text: Vec<u16> = units(bytes).take_while(|unit| *unit != 0).collect();
    String::from_utf16_lossy(&text)
}

/// The strings in a value: up to the first that is empty, or to its end.
pub fn decode_strings(bytes: &[u8]) -> Vec<String> {
    let all: Vec<u16> = units(bytes).collect();
    let strings = all.split(|unit| *unit == 0).take_while(|text| !text.is_empty());
    strings.map(String::from_utf16_lossy).collect()
}

pub(super) fn decode_dword(kind: ValueKind, bytes: &[u8]) -> Result<u32, DataError> {
    let error = DataError {
        found: kind,
        length: bytes.len(),
        expected: "a REG_DWORD of 4 bytes",
    };
    match kind {
        ValueKind::DWORD if bytes.len() == 4 => u32_le(bytes, 0).map_err(|_| error),
        ValueKind::DWORD_BIG_ENDIAN if bytes.len() == 4 => {
            array_at(bytes, 0).map(u32::from_be_bytes).map_err(|_| error)
        }
        _ => Err(error),
    }
}

pub(super) fn decode_text_of(kind: ValueKind, bytes: &[u8]) -> Result<String, DataError> {
    match kind {
        ValueKind::SZ | ValueKind::EXPAND_SZ => Ok(decode_text(bytes)),
        _ => Err(DataError {
            found: kind,
            length: bytes.len(),
            expected: "a REG_SZ or REG_EXPAND_SZ",
        }),
    }
}

pub(super) fn decode_strings_of(kind: ValueKind, bytes: &[u8]) -> Result<Vec<String>, DataError> {
    match kind {
        ValueKind::MULTI_SZ => Ok(decode_strings(bytes)),
        _ => Err(DataError {
            found: kind,
            length: bytes.len(),
            expected: "a REG_MULTI_SZ",
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_ends_at_its_zero() {
        assert_eq!(encode_text("ab"), [b'a', 0, b'b', 0, 0, 0]);
        assert_eq!(decode_text(&encode_text("\u{e4}\u{1f600}")), "\u{e4}\u{1f600}");
        assert_eq!(decode_text(b"a\0b"), "a", "an odd byte is left out");
        assert_eq!(decode_text(b"a\0\0\0b\0"), "a");
        assert_eq!(decode_text(&[0x3d, 0xd8]), "\u{fffd}");
        assert_eq!(decode_text(&[]), "");
    }

    #[test]
    fn strings_end_at_an_empty_one() {
        assert_eq!(encode_strings(&["a", "bc"]).len(), 2 * (2 + 3 + 1));
        for strings in [&["a", "bc"][..], &[], &["x"]] {
            assert_eq!(decode_strings(&encode_strings(strings)), strings);
        }
        assert_eq!(
            decode_strings(b"a\0\0\0b\0"),
            ["a", "b"],
            "without zeros at the end"
        );
        assert_eq!(encode_strings(&["a", "", "b"]), encode_strings(&["a", "b"]));
    }

    #[test]
    fn numbers_have_four_bytes() {
        assert_eq!(decode_dword(ValueKind::DWORD, &[1, 2, 0, 0]), Ok(0x201));
        assert_eq!(
            decode_dword(ValueKind::DWORD_BIG_ENDIAN, &[0, 0, 2, 1]),
            Ok(0x201)
        );
        let error = decode_dword(ValueKind::SZ, &[1, 2]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "REG_SZ of 2 bytes found, a REG_DWORD of 4 bytes expected"
        );
        assert!(decode_dword(ValueKind::DWORD, &[1, 2]).is_err());
        assert!(decode_text_of(ValueKind::BINARY, &[]).is_err());
        assert!(decode_strings_of(ValueKind::SZ, &[]).is_err());
    }
}
