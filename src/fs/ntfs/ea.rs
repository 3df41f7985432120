//! Extended attributes of OS/2, which Windows and its Subsystem for Linux use too (Linux-NTFS documentation, "$EA",
//! "$EA_INFORMATION"; [MS-FSCC] 2.4.15).

use super::error::{NtfsError, Parsed};
use crate::disk::field::{bytes_at, put_u16_le, put_u32_le, u8_at, u16_le, u32_le};

/// What is left after some were taken away.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Kept {
    pub(super) raw: Vec<u8>,
    /// The value of `$EA_INFORMATION`.
    pub(super) information: [u8; 8],
}

/// Bytes before the name.
const HEADER: usize = 8;
/// Who opens the file must know extended attributes.
const NEEDED: u8 = 0x80;

/// All but those whose name begins with `prefix`; `None` if there are none of them.
pub(super) fn without(raw: &[u8], prefix: &[u8]) -> Parsed<Option<Kept>> {
    let mut kept = Kept {
        raw: Vec::new(),
        information: [0; 8],
    };
    let mut dropped = false;
    let (mut packed, mut needed) = (0_u16, 0_u16);
    let mut rest = raw;
    while rest.len() >= HEADER {
        let length = usize::try_from(u32_le(rest, 0)?).unwrap_or(usize::MAX);
        let name_length = usize::from(u8_at(rest, 5)?);
        let value_length = usize::from(u16_le(rest, 6)?);
        let used = HEADER + name_length + 1 + value_length;
        if length < used {
            return Err(NtfsError::damaged(format!(
                "an extended attribute of {length} bytes, with {used} in use"
            )));
        }
        let entry = bytes_at(rest, 0, length.min(rest.len()))?;
        let name = bytes_at(entry, HEADER, name_length)?;
        let start = name.get(..prefix.len()).unwrap_or_default();
        if start.eq_ignore_ascii_case(prefix) {
            dropped = true;
        } else {
            kept.raw.extend_from_slice(entry);
            // As OS/2 would pack it: without the offset, and without padding.
            packed = packed.saturating_add(u16::try_from(used - 4).unwrap_or(u16::MAX));
            needed += u16::from(u8_at(entry, 4)? & NEEDED != 0);
        }
        rest = rest.get(length..).unwrap_or_default();
    }
    put_u16_le(&mut kept.information, 0, packed)?;
    put_u16_le(&mut kept.information, 2, needed)?;
    let length = u32::try_from(kept.raw.len()).unwrap_or(u32::MAX);
    put_u32_le(&mut kept.information, 4, length)?;
    Ok(dropped.then_some(kept))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(name: &[u8], value: &[u8]) -> Vec<u8> {
        let used = HEADER + name.len() + 1 + value.len();
        let mut raw = (used.next_multiple_of(4) as u32).to_le_bytes().to_vec();
        raw.extend([0, name.len() as u8]);
        raw.extend((value.len() as u16).to_le_bytes());
        raw.extend(name);
        raw.push(0);
        raw.extend(value);
        raw.resize(used.next_multiple_of(4), 0);
        raw
    }

    #[test]
    fn those_with_the_prefix_go() {
        let keep = [entry(b"$LXUID", &[1, 2, 3, 4]), entry(b"OTHER", b"")].concat();
        let all = [entry(b"$Kernel.Purge.ESBCache", &[9; 50]), keep.clone()].concat();
        let kept = without(&all, b"$KERNEL.PURGE.").unwrap().unwrap();
        assert_eq!(kept.raw, keep);
        assert_eq!(kept.information, [15 + 10, 0, 0, 0, keep.len() as u8, 0, 0, 0]);
        assert_eq!(without(&keep, b"$KERNEL.PURGE.").unwrap(), None);
        assert!(without(&[1, 0, 0, 0, 0, 0, 0, 0], b"x").is_err());
    }
}
