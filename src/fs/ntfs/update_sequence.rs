//! Update sequence arrays: what tells a record that was written only in part. The last two bytes of every 512 hold
//! the update sequence number; what belongs there is kept in the array (Linux-NTFS documentation, "Fixup").

use super::error::{NtfsError, Parsed};
use crate::disk::field::{put_u16_le, u16_le};

/// Bytes that one entry of the array protects, whatever the sectors of the disk.
const STRIDE: usize = 512;

/// Puts the protected bytes back where they belong. `record` is as long as the structure.
pub(super) fn restore(record: &mut [u8]) -> Parsed<()> {
    let (offset, number, count) = array(record)?;
    for index in 1..count {
        let at = index * STRIDE - 2;
        let found = u16_le(record, at)?;
        if found != number {
            return Err(NtfsError::damaged(format!(
                "update sequence number {number:#06x} expected at byte {at}, {found:#06x} found: it was written only \
                 in part"
            )));
        }
        let kept = u16_le(record, offset + index * 2)?;
        put_u16_le(record, at, kept)?;
    }
    Ok(())
}

/// Takes the next number and protects every 512 bytes with it.
pub(super) fn protect(record: &mut [u8]) -> Parsed<()> {
    let (offset, number, count) = array(record)?;
    let next = match number.wrapping_add(1) {
        0 | 0xffff => 1,
        next => next,
    };
    put_u16_le(record, offset, next)?;
    for index in 1..count {
        let at = index * STRIDE - 2;
        let kept = u16_le(record, at)?;
        put_u16_le(record, offset + index * 2, kept)?;
        put_u16_le(record, at, next)?;
    }
    Ok(())
}

/// Entries that a structure of `length` bytes has, the number included.
pub(super) const fn entries(length: usize) -> usize {
    1 + length / STRIDE
}

/// Offset of the array, the number, and how many entries there are.
fn array(record: &[u8]) -> Parsed<(usize, u16, usize)> {
    let offset = usize::from(u16_le(record, 4)?);
    let count = usize::from(u16_le(record, 6)?);
    let fits = offset % 2 == 0 && offset >= 8 && offset + count * 2 <= STRIDE - 2;
    if !fits || count != entries(record.len()) || !record.len().is_multiple_of(STRIDE) {
        return Err(NtfsError::damaged(format!(
            "an update sequence array of {count} entries at byte {offset}, where {} bytes are protected",
            record.len()
        )));
    }
    Ok((offset, u16_le(record, offset)?, count))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_protected_comes_back_and_a_torn_write_is_seen() {
        let mut record: Vec<u8> = (0..1024).map(|byte| byte as u8).collect();
        put_u16_le(&mut record, 4, 0x30).unwrap();
        put_u16_le(&mut record, 6, 3).unwrap();
        put_u16_le(&mut record, 0x30, 0xfffe).unwrap();
        let before = record.clone();
        protect(&mut record).unwrap();
        assert_eq!(u16_le(&record, 510), Ok(1));
        let mut restored = record.clone();
        restore(&mut restored).unwrap();
        assert_eq!(restored[0x36..], before[0x36..]);
        record[1023] ^= 1;
        assert!(restore(&mut record).unwrap_err().to_string().contains("in part"));
    }

    #[test]
    fn an_array_outside_of_the_first_sector_is_refused() {
        for (offset, count) in [(0x30, 2), (0x31, 3), (506, 3), (2, 3), (0xfffe, 3)] {
            let mut record = vec![0; 1024];
            put_u16_le(&mut record, 4, offset).unwrap();
            put_u16_le(&mut record, 6, count).unwrap();
            assert!(restore(&mut record).is_err(), "{offset} {count}");
        }
        assert!(restore(&mut [0; 4]).is_err());
    }
}
