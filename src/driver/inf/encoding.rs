//! From the bytes of an INF file to text. SetupAPI takes UTF-16 and UTF-8 by their byte order marks, UTF-16 without one
//! by its looks, and all else in the ANSI code page of the Windows that runs; here Windows-1252, which most are written in.

use encoding_rs::{Encoding, UTF_8, UTF_16BE, UTF_16LE, WINDOWS_1252};
use std::borrow::Cow;

/// What ends a text file of DOS.
const CONTROL_Z: char = '\u{1a}';

/// The text of an INF file, up to a Control-Z. What is no character of its encoding is replaced.
pub(super) fn decode(bytes: &[u8]) -> Cow<'_, str> {
    let (encoding, mark) = encoding(bytes);
    let (text, _) = encoding.decode_without_bom_handling(bytes.get(mark..).unwrap_or_default());
    match text.find(CONTROL_Z) {
        Some(end) => Cow::Owned(text.get(..end).unwrap_or_default().to_owned()),
        None => text,
    }
}

/// The encoding and the length of its mark.
fn encoding(bytes: &[u8]) -> (&'static Encoding, usize) {
    match bytes {
        [0xff, 0xfe, ..] => (UTF_16LE, 2),
        [0xfe, 0xff, ..] => (UTF_16BE, 2),
        [0xef, 0xbb, 0xbf, ..] => (UTF_8, 3),
        // An INF file begins with ASCII: a semicolon, a bracket, a blank.
        [first, 0, second, 0, ..] if *first != 0 && *second != 0 => (UTF_16LE, 0),
        [0, first, 0, second, ..] if *first != 0 && *second != 0 => (UTF_16BE, 0),
        _ => (WINDOWS_1252, 0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_encoding_gives_the_same_text() {
        let text = "[Version] ; é";
        let units: Vec<u16> = text.encode_utf16().collect();
        let little: Vec<u8> = units.iter().flat_map(|unit| unit.to_le_bytes()).collect();
        let big: Vec<u8> = units.iter().flat_map(|unit| unit.to_be_bytes()).collect();
        assert_eq!(decode(&[&b"\xff\xfe"[..], &little].concat()), text);
        assert_eq!(decode(&[&b"\xfe\xff"[..], &big].concat()), text);
        assert_eq!((decode(&little), decode(&big)), (text.into(), text.into()));
        assert_eq!(decode(&[&b"\xef\xbb\xbf"[..], text.as_bytes()].concat()), text);
        assert_eq!(decode(b"[Version] ; \xe9\x1arest"), text);
        assert_eq!(decode(b""), "");
    }
}
