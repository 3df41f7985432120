//! Fixed-width fields of on-disk structures, read and written with every bound checked.

use thiserror::Error;

/// A structure is shorter than the field that is asked of it.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error("truncated: {length} bytes wanted at offset {at} of a structure of {available} bytes")]
pub struct Truncated {
    /// Offset of the field in bytes.
    pub at: usize,
    /// Length of the field in bytes.
    pub length: usize,
    /// Length of the structure in bytes.
    pub available: usize,
}

/// The `length` bytes at `at`.
pub fn bytes_at(structure: &[u8], at: usize, length: usize) -> Result<&[u8], Truncated> {
    at.checked_add(length)
        .and_then(|end| structure.get(at..end))
        .ok_or(Truncated {
            at,
            length,
            available: structure.len(),
        })
}

/// The `N` bytes at `at`, as an array: UUIDs, magics, labels.
pub fn array_at<const N: usize>(structure: &[u8], at: usize) -> Result<[u8; N], Truncated> {
    let mut array = [0; N];
    array.copy_from_slice(bytes_at(structure, at, N)?);
    Ok(array)
}

/// Overwrites the bytes at `at`.
pub fn put_bytes(structure: &mut [u8], at: usize, bytes: &[u8]) -> Result<(), Truncated> {
    let available = structure.len();
    let truncated = Truncated {
        at,
        length: bytes.len(),
        available,
    };
    let end = at.checked_add(bytes.len()).ok_or(truncated)?;
    structure
        .get_mut(at..end)
        .ok_or(truncated)?
        .copy_from_slice(bytes);
    Ok(())
}

macro_rules! fields {
    ($($read:ident $write:ident $type:ident $from:ident $to:ident $text:literal;)*) => {$(
        #[doc = concat!("Reads the ", $text, " at byte `at`.")]
        pub fn $read(structure: &[u8], at: usize) -> Result<$type, Truncated> {
            Ok($type::$from(array_at(structure, at)?))
        }
        #[doc = concat!("Writes the ", $text, " at byte `at`.")]
        pub fn $write(structure: &mut [u8], at: usize, value: $type) -> Result<(), Truncated> {
            put_bytes(structure, at, &value.$to())
        }
    )*};
}

fields! {
    u8_at put_u8 u8 from_le_bytes to_le_bytes "byte";
    u16_le put_u16_le u16 from_le_bytes to_le_bytes "little-endian 16-bit field";
    u32_le put_u32_le u32 from_le_bytes to_le_bytes "little-endian 32-bit field";
    u64_le put_u64_le u64 from_le_bytes to_le_bytes "little-endian 64-bit field";
    u16_be put_u16_be u16 from_be_bytes to_be_bytes "big-endian 16-bit field";
    u32_be put_u32_be u32 from_be_bytes to_be_bytes "big-endian 32-bit field";
    u64_be put_u64_be u64 from_be_bytes to_be_bytes "big-endian 64-bit field";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_read_and_written_at_their_offsets() {
        let mut structure = [0_u8; 8];
        put_u16_le(&mut structure, 1, 0x1234).unwrap();
        put_u32_be(&mut structure, 4, 0xdead_beef).unwrap();
        assert_eq!(structure, [0, 0x34, 0x12, 0, 0xde, 0xad, 0xbe, 0xef]);
        assert_eq!(u16_le(&structure, 1), Ok(0x1234));
        assert_eq!(u32_be(&structure, 4), Ok(0xdead_beef));
    }

    #[test]
    fn a_field_past_the_end_is_refused_even_when_the_offset_would_wrap() {
        assert_eq!(
            u32_le(&[0; 6], 4),
            Err(Truncated {
                at: 4,
                length: 4,
                available: 6
            })
        );
        assert!(u64_le(&[0; 6], usize::MAX).is_err());
        assert!(put_u16_le(&mut [0; 2], usize::MAX, 1).is_err());
    }
}
