//! Long names, and the short ones that go with them (specification, "Long File Name Implementation", "The
//! Basis-Name Generation Algorithm", "The Numeric-Tail Generation Algorithm").

use super::directory_entry::{LENGTH, LONG_NAME};
use crate::disk::field::{Truncated, put_bytes, put_u16_le, u8_at, u16_le};

/// UTF-16 units in one slot, and where they are.
const UNITS: usize = 13;
const PLACES: [usize; UNITS] = [1, 3, 5, 7, 9, 14, 16, 18, 20, 22, 24, 28, 30];
/// Set in the order number of the slot that comes first on disk and holds the end of the name.
const LAST_SLOT: u8 = 0x40;
const ORDER: u8 = 0x1f;
/// The specification allows names of up to 255 UTF-16 units.
const MOST_UNITS: usize = 255;
/// The largest number that the numeric tail of a short name may have.
const MOST_TAILS: u32 = 999_999;

/// Ties the slots of a long name to their short entry.
pub(super) fn checksum(short: &[u8; 11]) -> u8 {
    short
        .iter()
        .fold(0_u8, |sum, byte| sum.rotate_right(1).wrapping_add(*byte))
}

/// Collects the slots that stand before a short entry.
#[derive(Debug, Default)]
pub(super) struct Collector {
    /// Order number of the slot seen last; 0: nothing is being collected.
    order: u8,
    checksum: u8,
    slots: usize,
    /// Slots come from the end of the name to its start.
    units: Vec<[u16; UNITS]>,
}

impl Collector {
    pub(super) fn push(&mut self, slot: &[u8]) -> Result<(), Truncated> {
        let first = u8_at(slot, 0)?;
        let sum = u8_at(slot, 13)?;
        let order = first & ORDER;
        if first & LAST_SLOT != 0 {
            *self = Self {
                order: order.saturating_add(1),
                checksum: sum,
                ..Self::default()
            };
        }
        if order == 0 || self.order.checked_sub(1) != Some(order) || sum != self.checksum {
            *self = Self::default();
            return Ok(());
        }
        let mut units = [0; UNITS];
        for (unit, place) in units.iter_mut().zip(PLACES) {
            *unit = u16_le(slot, place)?;
        }
        self.units.push(units);
        self.slots += 1;
        self.order = order;
        Ok(())
    }

    /// The long name that belongs to the entry called `short`, with the number of its slots. What does not
    /// belong to it is left aside, as the kernel does.
    pub(super) fn take(&mut self, short: &[u8; 11]) -> Option<(Vec<u16>, usize)> {
        let collected = std::mem::take(self);
        if collected.order != 1 || collected.checksum != checksum(short) {
            return None;
        }
        let units = collected.units.iter().rev().flatten().copied();
        let name: Vec<u16> = units.take_while(|unit| *unit != 0).collect();
        (!name.is_empty()).then_some((name, collected.slots))
    }
}

/// The slots of `name` in the order they have on disk, tied to `short`.
pub(super) fn slots(name: &[u16], short: &[u8; 11]) -> Vec<[u8; LENGTH]> {
    let count = name.len().div_ceil(UNITS);
    let mut slots = Vec::with_capacity(count);
    for (index, units) in name.chunks(UNITS).enumerate().rev() {
        let mut slot = [0; LENGTH];
        let order = u8::try_from(index + 1).unwrap_or(ORDER);
        let order = if index + 1 == count {
            order | LAST_SLOT
        } else {
            order
        };
        // The offsets are constants within 32 bytes: none can fail.
        let _ = put_bytes(&mut slot, 0, &[order]);
        let _ = put_bytes(&mut slot, 11, &[LONG_NAME, 0, checksum(short)]);
        for (position, place) in PLACES.into_iter().enumerate() {
            // One zero ends the name, ones fill the rest.
            let filler = if position == units.len() { 0 } else { 0xffff };
            let _ = put_u16_le(&mut slot, place, units.get(position).copied().unwrap_or(filler));
        }
        slots.push(slot);
    }
    slots
}

/// UTF-16 as bytes; a lone surrogate, which UTF-8 cannot say, becomes its three bytes all the same.
pub(super) fn to_bytes(name: &[u16]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(name.len());
    for unit in char::decode_utf16(name.iter().copied()) {
        match unit {
            Ok(character) => bytes.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes()),
            Err(lone) => {
                let unit = lone.unpaired_surrogate();
                let low = |shift: u32| (unit >> shift & 0x3f) as u8 | 0x80;
                bytes.extend_from_slice(&[(unit >> 12) as u8 | 0xe0, low(6), low(0)]);
            }
        }
    }
    bytes
}

/// For comparing names: simple upper-casing, character by character.
pub(super) fn fold(name: &[u8]) -> Vec<u8> {
    let mut folded = Vec::with_capacity(name.len());
    for chunk in name.utf8_chunks() {
        for character in chunk.valid().chars() {
            let character = upper(character);
            folded.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
        }
        folded.extend_from_slice(chunk.invalid());
    }
    folded
}

/// One character for one; "ß" and the like, whose upper case is two, stay.
fn upper(character: char) -> char {
    let mut upper = character.to_uppercase();
    match (upper.next(), upper.next()) {
        (Some(single), None) => single,
        _ => character,
    }
}

/// A name that a file may get, as UTF-16, or what is wrong with it.
pub(super) fn check(name: &[u8]) -> Result<Vec<u16>, String> {
    let shown = String::from_utf8_lossy(name);
    let text = std::str::from_utf8(name).map_err(|_| format!("the name \"{shown}\" is not UTF-8"))?;
    let forbidden = |c: char| c < ' ' || c == '\x7f' || "\"*/:<>?\\|".contains(c);
    if let Some(character) = text.chars().find(|c| forbidden(*c)) {
        return Err(format!(
            "FAT allows no {character:?} in a name, as in \"{}\"",
            text.escape_debug()
        ));
    }
    if text.is_empty() || text.ends_with('.') || text.ends_with(' ') || text.starts_with(' ') {
        return Err(format!(
            "FAT allows no name that is empty, ends with a dot or a space, or begins with a space: \"{text}\""
        ));
    }
    let units: Vec<u16> = text.encode_utf16().collect();
    if units.len() > MOST_UNITS {
        return Err(format!(
            "FAT allows names of {MOST_UNITS} UTF-16 units, this has {}: \"{text}\"",
            units.len()
        ));
    }
    Ok(units)
}

/// The short name for `name` (one that [`check`] allows), and whether it says all of it, so that no long one is
/// needed. `taken` tells which names the folder has already. `None`: all numeric tails are taken.
pub(super) fn short_name(name: &str, taken: impl Fn(&[u8; 11]) -> bool) -> Option<([u8; 11], bool)> {
    let (base, extension) = match name.rsplit_once('.') {
        Some((base, extension)) if !base.trim_start_matches('.').is_empty() => (base, extension),
        _ => (name, ""),
    };
    let (base, base_lost) = short_part(base);
    let (extension, extension_lost) = short_part(extension);
    let fits = base.len() <= 8 && extension.len() <= 3 && !base_lost && !extension_lost;
    let extension = extension.get(..extension.len().min(3)).unwrap_or_default();
    let assemble = |base: &[u8]| {
        let mut short = [b' '; 11];
        for (place, byte) in short.iter_mut().zip(base) {
            *place = *byte;
        }
        for (place, byte) in short.iter_mut().skip(8).zip(extension) {
            *place = *byte;
        }
        short
    };
    if fits {
        let short = assemble(&base);
        if !taken(&short) {
            let exact = dotted(&short) == name;
            return Some((short, exact));
        }
    }
    for number in 1..=MOST_TAILS {
        let tail = format!("~{number}");
        let kept = base.len().min(8_usize.saturating_sub(tail.len()));
        let mut numbered = base.get(..kept).unwrap_or_default().to_vec();
        numbered.extend_from_slice(tail.as_bytes());
        let short = assemble(&numbered);
        if !taken(&short) {
            return Some((short, false));
        }
    }
    None
}

/// Upper case, without dots and spaces, what a short name cannot say replaced by `_`; and whether anything was lost.
fn short_part(part: &str) -> (Vec<u8>, bool) {
    let mut short = Vec::new();
    let mut lost = false;
    for character in part.chars() {
        match character.to_ascii_uppercase() {
            ' ' | '.' => lost = true,
            upper if upper.is_ascii_alphanumeric() || "$%'-_@~`!(){}^#&".contains(upper) => {
                short.extend(u8::try_from(upper));
            }
            _ => {
                lost = true;
                short.push(b'_');
            }
        }
    }
    (short, lost)
}

/// An ASCII short name with its dot.
fn dotted(short: &[u8; 11]) -> String {
    let text = String::from_utf8_lossy(short);
    let base = text.get(..8).unwrap_or_default().trim_end();
    match text.get(8..).unwrap_or_default().trim_end() {
        "" => base.to_owned(),
        extension => format!("{base}.{extension}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn short(name: &str, taken: &[&str]) -> (String, bool) {
        let (short, exact) = short_name(name, |short| taken.contains(&&*dotted(short))).unwrap();
        (dotted(&short), exact)
    }

    #[test]
    fn short_names_follow_the_specification() {
        assert_eq!(short("BOOTX64.EFI", &[]), ("BOOTX64.EFI".into(), true));
        assert_eq!(short("bootx64.efi", &[]), ("BOOTX64.EFI".into(), false));
        assert_eq!(short("The quick brown.fox", &[]), ("THEQUI~1.FOX".into(), false));
        assert_eq!(
            short("The quick brown.fox", &["THEQUI~1.FOX"]),
            ("THEQUI~2.FOX".into(), false)
        );
        assert_eq!(short("a+b.text", &[]), ("A_B~1.TEX".into(), false));
        assert_eq!(short(".bashrc", &[]), ("BASHRC~1".into(), false));
        assert_eq!(short("x.tar.gz", &[]), ("XTAR~1.GZ".into(), false));
        assert_eq!(short("ä", &[]), ("_~1".into(), false));
        let nine: Vec<String> = (1..10).map(|n| format!("LONGNA~{n}")).collect();
        let nine: Vec<&str> = nine.iter().map(String::as_str).collect();
        assert_eq!(short("longname1", &nine), ("LONGN~10".into(), false));
    }

    #[test]
    fn long_names_are_cut_into_slots_and_collected_again() {
        for length in [1, 12, 13, 14, 26, 255] {
            let name: Vec<u16> = (0..length).map(|i| 0x100 + i).collect();
            let short = *b"ABCDEF~1TXT";
            let mut collector = Collector::default();
            for slot in slots(&name, &short) {
                collector.push(&slot).unwrap();
            }
            let count = name.len().div_ceil(13);
            assert_eq!(collector.take(&short), Some((name.clone(), count)));
            for slot in slots(&name, &short) {
                collector.push(&slot).unwrap();
            }
            assert_eq!(collector.take(b"ABCDEF~2TXT"), None);
        }
    }

    #[test]
    fn names_compare_without_case() {
        assert_eq!(fold("Größe".as_bytes()), fold("gRÖßE".as_bytes()));
        assert_ne!(fold(b"a"), fold(b"b"));
        assert_eq!(to_bytes(&[0xd800, 0x61]), b"\xed\xa0\x80a");
        assert!(check(b"a:b").is_err() && check(b"a.").is_err() && check(&[b'a'; 256]).is_err());
        assert!(check(&[b'a'; 255]).is_ok());
    }
}
