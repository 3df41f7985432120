//! What the bytes of values mean: text, lists of text, numbers.

use super::{name::units, value::ValueKind};
use crate::disk::field::{array_at, u32_le, u64_le};
use serde::Serialize;
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

/// What a value holds, as far as its type and its bytes tell: what people and scripts are shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Shown {
    /// Text.
    Text(String),
    /// Texts.
    Texts(Vec<String>),
    /// A number.
    Number(u64),
    /// Bytes, in hexadecimal.
    Bytes(String),
}

/// What `bytes` of a value of type `kind` say. Bytes that are not as their type says are shown as bytes.
pub fn show(kind: ValueKind, bytes: &[u8]) -> Shown {
    let as_bytes = || Shown::Bytes(bytes.iter().map(|byte| format!("{byte:02x}")).collect());
    match (kind, bytes.len()) {
        (ValueKind::SZ | ValueKind::EXPAND_SZ | ValueKind::LINK, length) if length % 2 == 0 => {
            let units: Vec<u16> = units(bytes).collect();
            // The zero at the end is missing more often than it should be.
            let text = units.strip_suffix(&[0]).unwrap_or(&units);
            match String::from_utf16(text) {
                Ok(text) if !text.contains('\0') => Shown::Text(text),
                _ => as_bytes(),
            }
        }
        (ValueKind::MULTI_SZ, _) => {
            let strings = decode_strings(bytes);
            if encode_strings(&strings) == bytes {
                Shown::Texts(strings)
            } else {
                as_bytes()
            }
        }
        (ValueKind::DWORD | ValueKind::DWORD_BIG_ENDIAN, 4) => {
            decode_dword(kind, bytes).map_or_else(|_| as_bytes(), |number| Shown::Number(number.into()))
        }
        (ValueKind::QWORD, 8) => u64_le(bytes, 0).map_or_else(|_| as_bytes(), Shown::Number),
        _ => as_bytes(),
    }
}

/// The bytes of a value of type `kind` that `words` say: a text, texts, a number (decimal, or with `0x`), or bytes in
/// hexadecimal.
///
/// # Errors
/// What is wrong with them.
pub fn from_words(kind: ValueKind, words: &[String]) -> Result<Vec<u8>, String> {
    let one = || match words {
        [word] => Ok(word.as_str()),
        _ => Err(format!("{} words given, one is expected for {kind}", words.len())),
    };
    Ok(match kind {
        ValueKind::SZ | ValueKind::EXPAND_SZ => encode_text(one()?),
        ValueKind::LINK => one()?.encode_utf16().flat_map(u16::to_le_bytes).collect(),
        ValueKind::MULTI_SZ if words.iter().any(String::is_empty) => {
            return Err("an empty word cannot be in a REG_MULTI_SZ, where it is the end".into());
        }
        ValueKind::MULTI_SZ => encode_strings(words),
        ValueKind::DWORD => number::<u32>(one()?)?.to_le_bytes().to_vec(),
        ValueKind::DWORD_BIG_ENDIAN => number::<u32>(one()?)?.to_be_bytes().to_vec(),
        ValueKind::QWORD => number::<u64>(one()?)?.to_le_bytes().to_vec(),
        _ => bytes_of(&words.concat())?,
    })
}

fn number<T: TryFrom<u64>>(word: &str) -> Result<T, String> {
    let number = match word.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16),
        None => word.parse(),
    };
    let fitting = number.ok().and_then(|number| T::try_from(number).ok());
    fitting.ok_or_else(|| format!("`{word}` is no number that fits: decimal, or hexadecimal with 0x"))
}

fn bytes_of(digits: &str) -> Result<Vec<u8>, String> {
    let wrong = || format!("`{digits}` are no bytes: two hexadecimal digits for each");
    let digits: Vec<char> = digits.chars().filter(|c| !matches!(c, ',' | ' ')).collect();
    let byte = |pair: &[char]| match pair {
        [high, low] => {
            let (high, low) = (high.to_digit(16)?, low.to_digit(16)?);
            u8::try_from(high << 4 | low).ok()
        }
        _ => None,
    };
    digits
        .chunks(2)
        .map(byte)
        .collect::<Option<_>>()
        .ok_or_else(wrong)
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
    fn what_is_shown_can_be_given_back() {
        let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        for (kind, given, shown) in [
            (ValueKind::SZ, words(&["a b"]), Shown::Text("a b".into())),
            (ValueKind::EXPAND_SZ, words(&[""]), Shown::Text(String::new())),
            (
                ValueKind::LINK,
                words(&["\\Registry"]),
                Shown::Text("\\Registry".into()),
            ),
            (
                ValueKind::MULTI_SZ,
                words(&["a", "b"]),
                Shown::Texts(words(&["a", "b"])),
            ),
            (ValueKind::MULTI_SZ, words(&[]), Shown::Texts(vec![])),
            (ValueKind::DWORD, words(&["0x1f"]), Shown::Number(31)),
            (ValueKind::DWORD_BIG_ENDIAN, words(&["7"]), Shown::Number(7)),
            (
                ValueKind::QWORD,
                words(&["18446744073709551615"]),
                Shown::Number(u64::MAX),
            ),
            (ValueKind::BINARY, words(&["01ff"]), Shown::Bytes("01ff".into())),
            (ValueKind::NONE, words(&[]), Shown::Bytes(String::new())),
            (
                ValueKind(0x200),
                words(&["01,", "ff"]),
                Shown::Bytes("01ff".into()),
            ),
        ] {
            assert_eq!(show(kind, &from_words(kind, &given).unwrap()), shown, "{kind}");
        }
        for (kind, given) in [
            (ValueKind::DWORD, words(&["4294967296"])),
            (ValueKind::DWORD, words(&["-1"])),
            (ValueKind::DWORD, words(&[])),
            (ValueKind::SZ, words(&["a", "b"])),
            (ValueKind::BINARY, words(&["123"])),
            (ValueKind::BINARY, words(&["0g"])),
            (ValueKind::MULTI_SZ, words(&["a", ""])),
        ] {
            assert!(from_words(kind, &given).is_err(), "{kind} {given:?}");
        }
        assert_eq!(show(ValueKind::SZ, b"a\0"), Shown::Text("a".into()));
        assert_eq!(show(ValueKind::SZ, b"a"), Shown::Bytes("61".into()));
        assert_eq!(
            show(ValueKind::SZ, b"a\0\0\0b\0"),
            Shown::Bytes("610000006200".into())
        );
        assert_eq!(show(ValueKind::MULTI_SZ, b"a\0"), Shown::Bytes("6100".into()));
        assert_eq!(show(ValueKind::DWORD, &[1]), Shown::Bytes("01".into()));
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
