//! "Dynamic Disk Header Format" of the specification.

use super::{
    flaw::Flaw,
    footer::{VERSION, checksum},
};
use crate::{
    disk::field::{Truncated, array_at, bytes_at, put_bytes, put_u32_be, put_u64_be, u32_be, u64_be},
    image::windows_parent::utf16,
};

const COOKIE: &[u8; 8] = b"cxsparse";

/// Bytes of the header.
pub(super) const LENGTH: usize = 1024;

const CHECKSUM: usize = 36;

/// Where a platform keeps the name of the parent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Locator {
    pub(super) platform: [u8; 4],
    /// In bytes.
    pub(super) offset: u64,
    pub(super) length: u32,
}

/// What the header says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct DynamicHeader {
    pub(super) table_offset: u64,
    pub(super) entries: u32,
    /// In bytes; a power of two.
    pub(super) block_size: u32,
    pub(super) parent_id: [u8; 16],
    /// Seconds since 2000.
    pub(super) parent_timestamp: u32,
    pub(super) parent_name: String,
    pub(super) locators: Vec<Locator>,
}

impl DynamicHeader {
    /// Parses a header.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, Flaw> {
        let bytes = bytes_at(bytes, 0, LENGTH)?;
        if !bytes.starts_with(COOKIE) {
            return Err(Flaw::HeaderCookie);
        }
        let found = u32_be(bytes, CHECKSUM)?;
        let computed = checksum(bytes, CHECKSUM);
        if found != computed {
            return Err(Flaw::HeaderChecksum { found, computed });
        }
        let version = u32_be(bytes, 24)?;
        if version >> 16 != VERSION >> 16 {
            return Err(Flaw::HeaderVersion(version));
        }
        let block_size = u32_be(bytes, 32)?;
        if !block_size.is_power_of_two() || block_size < 512 {
            return Err(Flaw::BlockSize(block_size));
        }
        let mut locators = Vec::new();
        for at in (576..576 + 8 * 24).step_by(24) {
            let locator = Locator {
                platform: array_at(bytes, at)?,
                // The data space at +4 is in sectors or in bytes, depending on who wrote it; nobody needs it.
                length: u32_be(bytes, at + 8)?,
                offset: u64_be(bytes, at + 16)?,
            };
            if locator.platform != [0; 4] {
                locators.push(locator);
            }
        }
        Ok(Self {
            table_offset: u64_be(bytes, 16)?,
            entries: u32_be(bytes, 28)?,
            block_size,
            parent_id: array_at(bytes, 40)?,
            parent_timestamp: u32_be(bytes, 56)?,
            parent_name: utf16(bytes_at(bytes, 64, 512)?, u16::from_be_bytes),
            locators,
        })
    }

    /// The header of a disk without a parent.
    pub(super) fn encode(&self) -> Result<Vec<u8>, Truncated> {
        let mut bytes = vec![0; LENGTH];
        let b = bytes.as_mut_slice();
        put_bytes(b, 0, COOKIE)?;
        put_u64_be(b, 8, u64::MAX)?;
        put_u64_be(b, 16, self.table_offset)?;
        put_u32_be(b, 24, VERSION)?;
        put_u32_be(b, 28, self.entries)?;
        put_u32_be(b, 32, self.block_size)?;
        let sum = checksum(b, CHECKSUM);
        put_u32_be(b, CHECKSUM, sum)?;
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> DynamicHeader {
        DynamicHeader {
            table_offset: 1536,
            entries: 2,
            block_size: 2 << 20,
            parent_id: [0; 16],
            parent_timestamp: 0,
            parent_name: String::new(),
            locators: Vec::new(),
        }
    }

    #[test]
    fn a_header_is_read_as_it_was_written() {
        let bytes = header().encode().unwrap();
        assert_eq!(DynamicHeader::parse(&bytes), Ok(header()));
        assert!(matches!(
            DynamicHeader::parse(&bytes[..1023]),
            Err(Flaw::Truncated(_))
        ));
        let with = |at: usize, new: &[u8]| {
            let mut bytes = bytes.clone();
            bytes[at..at + new.len()].copy_from_slice(new);
            let sum = checksum(&bytes, CHECKSUM).to_be_bytes();
            bytes[CHECKSUM..CHECKSUM + 4].copy_from_slice(&sum);
            DynamicHeader::parse(&bytes)
        };
        assert_eq!(with(0, b"X"), Err(Flaw::HeaderCookie));
        assert_eq!(with(24, &[0, 2]), Err(Flaw::HeaderVersion(0x0002_0000)));
        assert_eq!(with(32, &[0, 0, 1, 0]), Err(Flaw::BlockSize(256)));
        assert_eq!(with(33, &[0x21]), Err(Flaw::BlockSize(0x0021_0000)));
        let named = with(576 + 24, b"W2ru\0\0\x02\0\0\0\0\x10\0\0\0\0\0\0\0\0\0\0\x30\0").unwrap();
        let locator = Locator {
            platform: *b"W2ru",
            offset: 0x3000,
            length: 16,
        };
        assert_eq!(named.locators, [locator]);
        assert_eq!(with(64, &[0, b'p', 0, b'q']).unwrap().parent_name, "pq");
        let mut damaged = bytes.clone();
        damaged[1000] = 1;
        assert!(matches!(
            DynamicHeader::parse(&damaged),
            Err(Flaw::HeaderChecksum { .. })
        ));
    }
}
