//! Names are UTF-16, in which halves of surrogate pairs may stand alone. To the rooms above they are bytes: UTF-8, with
//! a lone surrogate as the three bytes that its number would have (WTF-8), so that every name has its own bytes.

use super::error::{NtfsError, Parsed};

/// UTF-16 units of a file's or a stream's name.
pub(super) const MOST_UNITS: usize = 255;

/// The units of a name as it stands on disk.
pub(super) fn units(raw: &[u8]) -> impl Iterator<Item = u16> + Clone + '_ {
    raw.chunks_exact(2).map(|pair| match pair {
        [low, high] => u16::from_le_bytes([*low, *high]),
        _ => 0,
    })
}

/// As bytes for the rooms above.
pub(super) fn to_bytes(units: impl Iterator<Item = u16>) -> Vec<u8> {
    let mut bytes = Vec::new();
    for unit in char::decode_utf16(units) {
        match unit {
            Ok(character) => bytes.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes()),
            Err(lone) => {
                let [low, high] = lone.unpaired_surrogate().to_le_bytes();
                bytes.extend_from_slice(&[
                    0xe0 | high >> 4,
                    0x80 | (high & 0x0f) << 2 | low >> 6,
                    0x80 | low & 0x3f,
                ]);
            }
        }
    }
    bytes
}

/// The units of a name that a room above gives; `None` if it is not UTF-8 (a lone surrogate is allowed).
pub(super) fn from_bytes(bytes: &[u8]) -> Option<Vec<u16>> {
    let mut units = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    loop {
        match std::str::from_utf8(rest) {
            Ok(text) => {
                units.extend(text.encode_utf16());
                return Some(units);
            }
            Err(error) => {
                let (valid, after) = rest.split_at_checked(error.valid_up_to())?;
                units.extend(std::str::from_utf8(valid).ok()?.encode_utf16());
                let [0xed, second @ 0xa0..=0xbf, third @ 0x80..=0xbf, after @ ..] = after else {
                    return None;
                };
                units.push(0xd000 | u16::from(second & 0x3f) << 6 | u16::from(third & 0x3f));
                rest = after;
            }
        }
    }
}

/// As it stands on disk.
pub(super) fn to_disk(units: &[u16]) -> Vec<u8> {
    units.iter().flat_map(|unit| unit.to_le_bytes()).collect()
}

/// For errors.
pub(super) fn shown(units: &[u16]) -> String {
    String::from_utf16_lossy(units)
}

/// What Windows allows as the name of a new file ([MS-FSCC] 2.1.5): a name that only POSIX could open would be a file
/// that nobody can delete.
pub(super) fn check_new(bytes: &[u8]) -> Parsed<Vec<u16>> {
    let refuse = |why: &str| {
        Err(NtfsError::Unsupported(format!(
            "\"{}\" is no name that Windows can open: {why}",
            bytes.escape_ascii()
        )))
    };
    let Some(units) = from_bytes(bytes) else {
        return refuse("it is not UTF-8");
    };
    if units.is_empty() || units.len() > MOST_UNITS {
        return refuse("1 to 255 UTF-16 units are possible");
    }
    let forbidden =
        |unit: &u16| *unit < 0x20 || u8::try_from(*unit).is_ok_and(|byte| br#""*/:<>?\|"#.contains(&byte));
    if units.iter().any(forbidden) {
        return refuse("control characters and \" * / : < > ? \\ | are not possible");
    }
    if matches!(units.last(), Some(0x20 | 0x2e)) {
        return refuse("it must not end with a space or a dot");
    }
    Ok(units)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn lone_surrogates_have_bytes_of_their_own() {
        let name = [0x61, 0xd800, 0x62, 0xdc00, 0xd83d, 0xde00];
        let bytes = to_bytes(name.into_iter());
        assert_eq!(bytes, b"a\xed\xa0\x80b\xed\xb0\x80\xf0\x9f\x98\x80");
        assert_eq!(from_bytes(&bytes).unwrap(), name);
        assert_eq!(from_bytes(b"\xff"), None);
        assert_eq!(from_bytes(b"a\xed\xa0"), None);
    }

    #[test]
    fn names_that_windows_cannot_open_are_refused() {
        for name in [
            &b"a:b"[..],
            b"a ",
            b"a.",
            b".",
            b"..",
            b"",
            b"a/b",
            b"a\nb",
            b"\xff",
            &[b'a'; 256],
        ] {
            assert!(check_new(name).is_err(), "{}", name.escape_ascii());
        }
        assert_eq!(check_new(b".a").unwrap(), [0x2e, 0x61]);
        assert_eq!(check_new("é".repeat(255).as_bytes()).unwrap().len(), 255);
    }

    proptest! {
        #[test]
        fn every_name_comes_back(units in proptest::collection::vec(any::<u16>(), 0..40)) {
            prop_assert_eq!(from_bytes(&to_bytes(units.iter().copied())), Some(units));
        }
    }
}
