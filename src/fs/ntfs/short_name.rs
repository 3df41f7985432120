//! Names for DOS: eight characters, a dot and three, made from the long name as Windows makes them
//! (`RtlGenerate8dot3Name`).

/// Characters of the two parts.
const BASE: usize = 8;
const EXTENSION: usize = 3;
/// Of the long name at most these stand before the number.
const KEPT: usize = 6;
/// Of the long name these stand before the checksum.
const KEPT_BEFORE_CHECKSUM: usize = 2;
/// From the fifth name on that would be the same, a checksum of the long name tells them apart.
const PLAIN_NUMBERS: u32 = 4;
/// Tried before giving up: with so many numbers nothing of the long name is left.
const MOST_NUMBERS: u32 = 999;

/// Is the name fit for DOS as it is? Lower case letters are: DOS does not see the difference.
pub(super) fn is_short(name: &[u16]) -> bool {
    let Some(bytes) = ascii(name) else {
        return false;
    };
    let mut parts = bytes.split(|byte| *byte == b'.');
    let base = parts.next().unwrap_or_default();
    let extension = parts.next();
    let fits = |part: &[u8], most: usize| {
        (1..=most).contains(&part.len()) && part.iter().all(|byte| is_allowed(*byte))
    };
    fits(base, BASE) && extension.is_none_or(|part| fits(part, EXTENSION)) && parts.next().is_none()
}

fn ascii(name: &[u16]) -> Option<Vec<u8>> {
    name.iter()
        .map(|unit| u8::try_from(*unit).ok().filter(u8::is_ascii))
        .collect()
}

/// May it stand in a name for DOS?
fn is_allowed(byte: u8) -> bool {
    byte > b' ' && byte < 0x7f && !br#""*+,./:;<=>?[\]|"#.contains(&byte)
}

/// Short names for a long one, in the order in which Windows tries them.
pub(super) fn candidates(name: &[u16]) -> impl Iterator<Item = Vec<u16>> {
    let dot = extension_dot(name);
    let base = letters(name.get(..dot).unwrap_or_default(), KEPT);
    let extension = letters(name.get(dot..).unwrap_or_default(), EXTENSION);
    let sum = format!("{:04X}", checksum(name));
    // A name that gives next to nothing gets the checksum at once.
    let plain = if base.len() <= KEPT_BEFORE_CHECKSUM {
        0
    } else {
        PLAIN_NUMBERS
    };
    let plain = (1..=plain).map(|number| (false, number));
    let summed = (1..=MOST_NUMBERS).map(|number| (true, number));
    plain.chain(summed).map(move |(summed, number)| {
        let tail = format!("{}~{number}", if summed { &*sum } else { "" });
        let most = if summed { KEPT_BEFORE_CHECKSUM } else { KEPT };
        let kept = most.min(BASE.saturating_sub(tail.len()));
        let mut short: String = base.chars().take(kept).collect();
        short.push_str(&tail);
        if !extension.is_empty() {
            short.push('.');
            short.push_str(&extension);
        }
        short.encode_utf16().collect()
    })
}

/// Where the extension begins: at the last dot, unless only dots and spaces stand before it. The length of the name if there
/// is none.
fn extension_dot(name: &[u16]) -> usize {
    let dot = name.iter().rposition(|unit| *unit == u16::from(b'.'));
    dot.filter(|dot| {
        let before = name.get(..*dot).unwrap_or_default();
        before.iter().any(|unit| !matches!(*unit, 0x20 | 0x2e))
    })
    .unwrap_or(name.len())
}

/// The first `most` characters that DOS may have, in upper case. Dots and spaces, and what is not ASCII, are left out; what
/// DOS does not allow is an underscore.
fn letters(name: &[u16], most: usize) -> String {
    let character = |unit: &u16| match u8::try_from(*unit) {
        Ok(b'.' | 0..=b' ' | 0x7f..) | Err(_) => None,
        Ok(byte) if is_allowed(byte) => Some(char::from(byte.to_ascii_uppercase())),
        Ok(_) => Some('_'),
    };
    name.iter().filter_map(character).take(most).collect()
}

/// The checksum of a long name (Thomas Galvin, "A Tale of Two File Names", 2015).
fn checksum(name: &[u16]) -> u16 {
    let sum = name
        .iter()
        .fold(0_u16, |sum, unit| sum.wrapping_mul(0x25).wrapping_add(*unit));
    let mixed = i32::from(sum).wrapping_mul(314_159_269).wrapping_abs();
    let quotient = i64::from(mixed).wrapping_mul(1_152_921_497) >> 60;
    let rest = i64::from(mixed).wrapping_sub(quotient.wrapping_mul(1_000_000_007));
    let [low, high, ..] = rest.to_le_bytes();
    // The hexadecimal digits stand in reverse.
    let reversed = |byte: u8| u16::from(byte.rotate_right(4));
    reversed(low) << 8 | reversed(high)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn units(name: &str) -> Vec<u16> {
        name.encode_utf16().collect()
    }

    fn nth(name: &str, index: usize) -> String {
        String::from_utf16(&candidates(&units(name)).nth(index).unwrap()).unwrap()
    }

    #[test]
    fn names_that_dos_can_have() {
        for name in [
            "A",
            "a.b",
            "README.TXT",
            "readme.txt",
            "12345678.123",
            "A~1",
            "$x{y}!",
        ] {
            assert!(is_short(&units(name)), "{name}");
        }
        for name in [
            "123456789",
            "a.b.c",
            "a.html",
            ".a",
            "a b",
            "é.txt",
            "a+b",
            "a,b",
            "a.",
            "[x]",
        ] {
            assert!(!is_short(&units(name)), "{name}");
        }
    }

    #[test]
    fn names_are_made_as_windows_makes_them() {
        assert_eq!(nth("Program Files", 0), "PROGRA~1");
        assert_eq!(nth("Program Files (x86)", 1), "PROGRA~2");
        assert_eq!(nth("Documents and Settings", 0), "DOCUME~1");
        assert_eq!(nth("1+2+3 Hello World.exe", 0), "1_2_3H~1.EXE");
        assert_eq!(nth("a.testing.file.bat", 0), "ATESTI~1.BAT");
        assert_eq!(nth(".bashrc", 0), "BASHRC~1");
        assert_eq!(nth("ü long name.jpeg", 0), "LONGNA~1.JPE");
        // The two that are published with their checksums.
        assert_eq!(nth("SomeStuff.aspx", 3), "SOMEST~4.ASP");
        assert_eq!(nth("SomeStuff.aspx", 4), "SOBC84~1.ASP");
        assert_eq!(nth("a.txt3", 0), "AEE90~1.TXT");
        assert_eq!(nth("SomeStuff.aspx", 4 + 9), "SBC84~10.ASP");
    }

    #[test]
    fn every_candidate_is_a_short_name_and_no_two_are_the_same() {
        for name in ["Program Files", "日本", "....", " x", "a+b.c+d+e+f"] {
            let all: Vec<_> = candidates(&units(name)).collect();
            assert!(all.iter().all(|short| is_short(short)), "{name}");
            let mut unique = all.clone();
            unique.sort();
            unique.dedup();
            assert_eq!(unique.len(), all.len());
        }
    }
}
