//! The boot sector: the first of `$Boot`, with a copy in the last sector of the partition (Linux-NTFS documentation,
//! "$Boot").

use super::error::{NtfsError, Parsed};
use crate::disk::field::{bytes_at, u8_at, u16_le, u64_le};

/// In bytes, whatever the sectors of the disk: the fields end before.
pub(super) const LENGTH: usize = 512;

/// The largest cluster that Windows makes (since Windows 10 1709).
const LARGEST_CLUSTER: u64 = 2 << 20;
/// File records have 1024 or 4096 bytes in practice; up to here the fields of an attribute suffice.
const RECORD_SIZES: std::ops::RangeInclusive<u64> = 1024..=16384;
/// Index blocks have 4096 bytes in practice.
const INDEX_BLOCK_SIZES: std::ops::RangeInclusive<u64> = 512..=65536;
/// Windows counts clusters with 32 bits.
const MOST_CLUSTERS: u64 = 0xffff_ffff;

/// Where things are and how large they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct BootSector {
    /// In bytes.
    pub(super) sector_size: u64,
    /// In bytes.
    pub(super) cluster_size: u64,
    /// Of the volume, without the sector of the copy.
    pub(super) clusters: u64,
    /// Bytes of the volume, without the sector of the copy.
    pub(super) length: u64,
    /// First cluster of `$MFT`.
    pub(super) mft: u64,
    /// First cluster of `$MFTMirr`.
    pub(super) mirror: u64,
    /// Bytes of a file record.
    pub(super) record_size: usize,
    /// Bytes of a block of a directory's index; an index says its own.
    pub(super) index_block_size: u64,
    /// Volume serial number.
    pub(super) serial: u64,
}

impl BootSector {
    pub(super) fn parse(raw: &[u8]) -> Parsed<Self> {
        let name = bytes_at(raw, 3, 8)?;
        if name == b"-FVE-FS-" {
            return Err(NtfsError::Unsupported(
                "is encrypted by BitLocker; decrypt it first (`manage-bde -off X:` in Windows, and wait until \
                 `manage-bde -status` says 0%)"
                    .to_owned(),
            ));
        }
        if name != b"NTFS    " {
            return Err(NtfsError::NotNtfs("\"NTFS    \" expected at byte 3"));
        }
        let sector_size = u64::from(u16_le(raw, 0x0b)?);
        if !(512..=4096).contains(&sector_size) || !sector_size.is_power_of_two() {
            return Err(wrong("bytes per sector", sector_size, "512 to 4096 are possible"));
        }
        let sectors = sectors_per_cluster(u8_at(raw, 0x0d)?)?;
        let cluster_size = sector_size.saturating_mul(sectors);
        if cluster_size > LARGEST_CLUSTER {
            return Err(wrong("bytes per cluster", cluster_size, "2 MiB are the most"));
        }
        let total = u64_le(raw, 0x28)?;
        let length = total.checked_mul(sector_size).filter(|length| *length < 1 << 63);
        let Some(length) = length else {
            return Err(wrong("number of sectors", total, "more than a disk has"));
        };
        let clusters = total / sectors;
        if clusters == 0 || clusters > MOST_CLUSTERS {
            return Err(wrong(
                "number of clusters",
                clusters,
                "1 to 2^32 - 1 are possible",
            ));
        }
        let first = |at, field| {
            let cluster = u64_le(raw, at)?;
            if cluster >= clusters {
                return Err(wrong(field, cluster, "outside of the volume"));
            }
            Ok(cluster)
        };
        let record_size = size_in_clusters(u8_at(raw, 0x40)?, cluster_size);
        if !RECORD_SIZES.contains(&record_size) || !record_size.is_power_of_two() {
            return Err(wrong(
                "bytes per file record",
                record_size,
                "1024 to 16384 are possible",
            ));
        }
        let index_block_size = size_in_clusters(u8_at(raw, 0x44)?, cluster_size);
        if !INDEX_BLOCK_SIZES.contains(&index_block_size) || !index_block_size.is_power_of_two() {
            return Err(wrong(
                "bytes per index block",
                index_block_size,
                "512 to 65536 are possible",
            ));
        }
        Ok(Self {
            sector_size,
            cluster_size,
            clusters,
            length,
            mft: first(0x30, "first cluster of $MFT")?,
            mirror: first(0x38, "first cluster of $MFTMirr")?,
            record_size: usize::try_from(record_size).unwrap_or(usize::MAX),
            index_block_size,
            serial: u64_le(raw, 0x48)?,
        })
    }
}

fn wrong(field: &'static str, found: u64, expected: &'static str) -> NtfsError {
    NtfsError::BootSector {
        field,
        found,
        expected,
    }
}

/// A power of two up to 128; above, the negative of the exponent, for clusters of more than 64 KiB.
fn sectors_per_cluster(raw: u8) -> Parsed<u64> {
    match raw {
        1..=128 if raw.is_power_of_two() => Ok(u64::from(raw)),
        0xe0.. => Ok(1 << (256 - u64::from(raw))),
        _ => Err(wrong(
            "sectors per cluster",
            u64::from(raw),
            "a power of two is expected",
        )),
    }
}

/// Clusters, or the negative of the exponent of a size in bytes.
fn size_in_clusters(raw: u8, cluster_size: u64) -> u64 {
    match raw {
        0..=0x7f => cluster_size.saturating_mul(u64::from(raw)),
        _ => 1_u64.checked_shl(256 - u32::from(raw)).unwrap_or(0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::field::{put_bytes, put_u8, put_u16_le, put_u64_le};

    fn sector(sectors: u8, record: u8) -> Vec<u8> {
        let mut raw = vec![0; LENGTH];
        put_bytes(&mut raw, 3, b"NTFS    ").unwrap();
        put_u16_le(&mut raw, 0x0b, 512).unwrap();
        put_u8(&mut raw, 0x0d, sectors).unwrap();
        put_u64_le(&mut raw, 0x28, 1 << 20).unwrap();
        put_u64_le(&mut raw, 0x30, 4).unwrap();
        put_u64_le(&mut raw, 0x38, 5).unwrap();
        put_u8(&mut raw, 0x40, record).unwrap();
        put_u8(&mut raw, 0x44, 0xf4).unwrap();
        raw
    }

    #[test]
    fn sizes_are_counts_or_exponents() {
        let boot = BootSector::parse(&sector(8, 0xf6)).unwrap();
        assert_eq!((boot.cluster_size, boot.record_size), (4096, 1024));
        let boot = BootSector::parse(&sector(8, 1)).unwrap();
        assert_eq!((boot.clusters, boot.record_size), (1 << 17, 4096));
        let boot = BootSector::parse(&sector(0xf4, 0xf4)).unwrap();
        assert_eq!((boot.cluster_size, boot.record_size), (2 << 20, 4096));
    }

    #[test]
    fn what_cannot_be_is_refused() {
        for (sectors, record) in [
            (0, 0xf6),
            (3, 0xf6),
            (0xf3, 0xf6),
            (0xe0, 1),
            (8, 0),
            (8, 0x80),
            (8, 0x7f),
        ] {
            assert!(
                BootSector::parse(&sector(sectors, record)).is_err(),
                "{sectors} {record}"
            );
        }
        let mut outside = sector(8, 0xf6);
        put_u64_le(&mut outside, 0x30, 1 << 17).unwrap();
        assert!(BootSector::parse(&outside).is_err());
        let mut locked = sector(8, 0xf6);
        put_bytes(&mut locked, 3, b"-FVE-FS-").unwrap();
        assert!(
            BootSector::parse(&locked)
                .unwrap_err()
                .to_string()
                .contains("manage-bde")
        );
    }
}
