//! The header: "Header" of the specification. Little-endian.

use super::flaw::Flaw;
use crate::disk::field::{array_at, u32_le, u64_le};

/// Bytes of the header; the table follows.
pub(super) const LENGTH: usize = 64;

const SECTOR: u64 = 512;

/// Where the table counts in sectors, and sizes in 32 bits; and where it counts in blocks.
const WITHOUT_LARGE_OFFSETS: &[u8; 16] = b"WithoutFreeSpace";
const WITH_LARGE_OFFSETS: &[u8; 16] = b"WithouFreSpacExt";

/// The image is in use, or its program crashed: "Inuse" field.
const IN_USE: u32 = 0x746f_6e59;

/// qemu takes no larger block (`INT32_MAX / 513`).
const LARGEST_BLOCK: u32 = 4 << 20;

/// Nobody has a larger one; keeps all that follows far from 2^64.
const LARGEST_DISK: u64 = 1 << 50;

/// What the header says; checked against the format's limits, not against the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) large_offsets: bool,
    /// Bytes of the disk in one block.
    pub(super) block: u64,
    /// Entries of the table.
    pub(super) entries: u32,
    /// Of the disk, in bytes.
    pub(super) size: u64,
    pub(super) in_use: bool,
}

impl Header {
    /// Parses the first bytes of a file.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, Flaw> {
        let magic: [u8; 16] = array_at(bytes, 0)?;
        let large_offsets = match &magic {
            WITHOUT_LARGE_OFFSETS => false,
            WITH_LARGE_OFFSETS => true,
            _ => return Err(Flaw::Magic),
        };
        let version = u32_le(bytes, 16)?;
        if version != 2 {
            return Err(Flaw::Version(version));
        }
        let sectors = u32_le(bytes, 28)?;
        if sectors == 0 || sectors > LARGEST_BLOCK {
            return Err(Flaw::BlockSize(sectors));
        }
        let mut disk = u64_le(bytes, 36)?;
        if !large_offsets {
            // The upper half meant nothing then.
            disk &= u64::from(u32::MAX);
        }
        let size = disk
            .checked_mul(SECTOR)
            .filter(|size| *size <= LARGEST_DISK)
            .ok_or(Flaw::TooLarge(disk))?;
        let header = Self {
            large_offsets,
            block: u64::from(sectors) * SECTOR,
            entries: u32_le(bytes, 32)?,
            size,
            in_use: u32_le(bytes, 44)? == IN_USE,
        };
        if u64::from(header.entries) * header.block < size {
            let (entries, block) = (header.entries, header.block);
            return Err(Flaw::TableTooSmall { entries, block, size });
        }
        Ok(header)
    }

    /// Where the data of a block with this entry in the table is; `None` if it has none.
    pub(super) fn place(&self, entry: u32) -> Option<u64> {
        let unit = if self.large_offsets { self.block } else { SECTOR };
        (entry != 0).then(|| u64::from(entry) * unit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::field::{put_bytes, put_u32_le, put_u64_le};

    fn sample(magic: &[u8; 16]) -> Vec<u8> {
        let mut bytes = vec![0; LENGTH];
        put_bytes(&mut bytes, 0, magic).unwrap();
        put_u32_le(&mut bytes, 16, 2).unwrap();
        put_u32_le(&mut bytes, 28, 128).unwrap();
        put_u32_le(&mut bytes, 32, 32).unwrap();
        put_u64_le(&mut bytes, 36, 4096).unwrap();
        bytes
    }

    #[test]
    fn the_two_versions_count_differently() {
        let old = Header::parse(&sample(WITHOUT_LARGE_OFFSETS)).unwrap();
        let new = Header::parse(&sample(WITH_LARGE_OFFSETS)).unwrap();
        assert_eq!((old.size, old.block), (2 << 20, 65536));
        assert_eq!((old.place(0), old.place(128)), (None, Some(65536)));
        assert_eq!((new.place(0), new.place(1)), (None, Some(65536)));
        let mut high = sample(WITHOUT_LARGE_OFFSETS);
        high[40..44].fill(0xff);
        assert_eq!(Header::parse(&high).unwrap().size, 2 << 20);
    }

    #[test]
    fn lies_are_refused_by_name() {
        let sound = sample(WITH_LARGE_OFFSETS);
        let lies: &[(usize, &[u8], Flaw)] = &[
            (0, b"w", Flaw::Magic),
            (16, &[1], Flaw::Version(1)),
            (28, &[0], Flaw::BlockSize(0)),
            (28, &[0xff; 4], Flaw::BlockSize(u32::MAX)),
            (36, &[0xff; 8], Flaw::TooLarge(u64::MAX)),
            (
                32,
                &[31],
                Flaw::TableTooSmall {
                    entries: 31,
                    block: 65536,
                    size: 2 << 20,
                },
            ),
        ];
        for (at, bytes, flaw) in lies {
            let mut lie = sound.clone();
            lie[*at..*at + bytes.len()].copy_from_slice(bytes);
            assert_eq!(Header::parse(&lie), Err(flaw.clone()));
        }
        for length in 0..48 {
            assert!(Header::parse(&sound[..length]).is_err());
        }
    }
}
