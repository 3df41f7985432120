//! The header, `QCowHeader`, and entries of tables. Big-endian.

use super::flaw::Flaw;
use crate::disk::field::{u8_at, u32_be, u64_be};

/// Bytes of the header.
pub(super) const LENGTH: usize = 48;

const MAGIC: u32 = 0x5146_49fb; // "QFI\xfb"

/// What qemu makes and reads.
const CLUSTER_BITS: std::ops::RangeInclusive<u8> = 9..=16;
const TABLE_BITS: std::ops::RangeInclusive<u8> = 6..=13;

/// qemu reads no longer one.
const LONGEST_BACKING_NAME: u32 = 1023;

const COMPRESSED: u64 = 1 << 63;

/// What the header says; checked against the format's limits, not against the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Header {
    /// Place and length in bytes.
    pub(super) backing_name: Option<(u64, u32)>,
    /// Of the disk, in bytes.
    pub(super) size: u64,
    pub(super) cluster_bits: u32,
    pub(super) table_bits: u32,
    pub(super) encryption: u32,
    /// Where the first-level table is.
    pub(super) table: u64,
}

/// Where a cluster is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mapping {
    /// In the backing file, or zeros without one.
    Unallocated,
    /// At this byte of the file.
    Data(u64),
    /// In `length` bytes at `host`.
    Compressed { host: u64, length: u64 },
}

impl Header {
    /// Parses the first bytes of a file.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, Flaw> {
        if u32_be(bytes, 0)? != MAGIC {
            return Err(Flaw::Magic);
        }
        let version = u32_be(bytes, 4)?;
        if version != 1 {
            return Err(Flaw::Version(version));
        }
        let (backing, backing_length) = (u64_be(bytes, 8)?, u32_be(bytes, 16)?);
        if backing != 0 && backing_length > LONGEST_BACKING_NAME {
            return Err(Flaw::BackingName(backing_length));
        }
        let size = u64_be(bytes, 24)?;
        if size > 1 << 63 {
            return Err(Flaw::TooLarge(size));
        }
        let (cluster_bits, table_bits) = (u8_at(bytes, 32)?, u8_at(bytes, 33)?);
        if !CLUSTER_BITS.contains(&cluster_bits) {
            return Err(Flaw::ClusterBits(cluster_bits));
        }
        if !TABLE_BITS.contains(&table_bits) {
            return Err(Flaw::TableBits(table_bits));
        }
        Ok(Self {
            backing_name: (backing != 0).then_some((backing, backing_length)),
            size,
            cluster_bits: cluster_bits.into(),
            table_bits: table_bits.into(),
            encryption: u32_be(bytes, 36)?,
            table: u64_be(bytes, 40)?,
        })
    }

    pub(super) fn cluster_size(&self) -> u64 {
        1 << self.cluster_bits
    }

    /// Bytes of the disk that one second-level table maps: 2^29 at most.
    pub(super) fn coverage(&self) -> u64 {
        self.cluster_size() << self.table_bits
    }

    /// Bytes of the first-level table.
    pub(super) fn table_size(&self) -> u64 {
        self.size.div_ceil(self.coverage()).saturating_mul(8)
    }

    /// What an entry of a second-level table means.
    pub(super) fn mapping(&self, entry: u64) -> Mapping {
        if entry == 0 {
            return Mapping::Unallocated;
        }
        if entry & COMPRESSED == 0 {
            return Mapping::Data(entry);
        }
        let offset_bits = 63 - self.cluster_bits;
        Mapping::Compressed {
            host: entry & ((1 << offset_bits) - 1),
            length: (entry & !COMPRESSED) >> offset_bits,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::field::{put_u8, put_u32_be, put_u64_be};

    fn sample() -> Vec<u8> {
        let mut bytes = vec![0; LENGTH];
        put_u32_be(&mut bytes, 0, MAGIC).unwrap();
        put_u32_be(&mut bytes, 4, 1).unwrap();
        put_u64_be(&mut bytes, 24, 5 << 20).unwrap();
        put_u8(&mut bytes, 32, 12).unwrap();
        put_u8(&mut bytes, 33, 9).unwrap();
        put_u64_be(&mut bytes, 40, 48).unwrap();
        bytes
    }

    #[test]
    fn entries_mean_what_qemu_takes_them_for() {
        let header = Header::parse(&sample()).unwrap();
        assert_eq!((header.cluster_size(), header.coverage()), (4096, 2 << 20));
        assert_eq!(header.table_size(), 3 * 8);
        assert_eq!(header.mapping(0), Mapping::Unallocated);
        assert_eq!(header.mapping(0x1200), Mapping::Data(0x1200));
        let packed = COMPRESSED | 77 << 51 | 0x1234;
        let (host, length) = (0x1234, 77);
        assert_eq!(header.mapping(packed), Mapping::Compressed { host, length });
    }

    #[test]
    fn lies_are_refused_by_name() {
        let lies: &[(usize, &[u8], Flaw)] = &[
            (0, b"QED", Flaw::Magic),
            (4, &[0, 0, 0, 2], Flaw::Version(2)),
            (24, &[0xff; 8], Flaw::TooLarge(u64::MAX)),
            (32, &[8], Flaw::ClusterBits(8)),
            (32, &[17], Flaw::ClusterBits(17)),
            (33, &[5], Flaw::TableBits(5)),
            (8, &[1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4, 0], Flaw::BackingName(1024)),
        ];
        for (at, bytes, flaw) in lies {
            let mut lie = sample();
            lie[*at..*at + bytes.len()].copy_from_slice(bytes);
            assert_eq!(Header::parse(&lie), Err(flaw.clone()));
        }
        for length in 0..LENGTH {
            assert!(Header::parse(&sample()[..length]).is_err());
        }
    }
}
