//! Entries of second-level tables: "L1/L2 Table Entries" and "Extended L2 Entries" of `docs/interop/qcow2.txt`.

use super::{flaw::Flaw, header::Header};

/// Host offset in entries of both levels.
pub(super) const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;
/// The reference count is exactly one: may be written in place.
pub(super) const COPIED: u64 = 1 << 63;
const COMPRESSED: u64 = 1 << 62;
/// Reads as zeros (version 3, not extended).
pub(super) const ZERO: u64 = 1;

/// All parts of an extended entry are data; are zeros.
pub(super) const ALL_DATA: u64 = 0xffff_ffff;
pub(super) const ALL_ZEROS: u64 = ALL_DATA << 32;

/// Parts of a cluster that extended entries map one by one.
pub(super) const SUBCLUSTERS: u64 = 32;

/// Where a run of the guest's bytes is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mapping {
    /// In the backing file, or zeros without one.
    Unallocated,
    /// Zeros; space may be kept for them, at `host` in the file.
    Zero { host: Option<u64> },
    /// At `host` in the file.
    Data { host: u64 },
    /// In up to `length` bytes at `host`, of which one cluster unpacks.
    Compressed { host: u64, length: u64 },
}

/// Where `offset` of the guest's disk is, by the second-level `table` that maps it: 64-bit words in host order.
pub(super) fn mapping_at(table: &[u64], header: &Header, offset: u64) -> Result<Mapping, Flaw> {
    let cluster = header.cluster_size();
    let within = offset % cluster;
    let index = usize::try_from(offset / cluster % header.l2_entries()).unwrap_or(usize::MAX);
    if !header.has_extended_l2() {
        return mapping(table.get(index).copied().unwrap_or(0), None, header, within);
    }
    let words = table.get(index.saturating_mul(2)..).unwrap_or_default();
    let (entry, bitmap) = match words {
        [entry, bitmap, ..] => (*entry, *bitmap),
        _ => (0, 0),
    };
    let subcluster = within / (cluster / SUBCLUSTERS);
    mapping(entry, Some((bitmap, subcluster)), header, within)
}

fn mapping(entry: u64, bitmap: Option<(u64, u64)>, header: &Header, within: u64) -> Result<Mapping, Flaw> {
    if entry & COMPRESSED != 0 {
        if header.has_external_data() {
            return Err(Flaw::CompressedExternal);
        }
        let (host, length) = compressed(entry, header.cluster_bits);
        return Ok(Mapping::Compressed { host, length });
    }
    let host = entry & OFFSET;
    if !host.is_multiple_of(header.cluster_size()) {
        return Err(Flaw::Unaligned("data cluster", host));
    }
    // Only in a data file of its own can a guest's cluster lie at the very beginning.
    let there = host != 0 || header.has_external_data() && entry & COPIED != 0;
    let (data, zero) = match bitmap {
        None => (there && entry & ZERO == 0, entry & ZERO != 0),
        Some((bitmap, subcluster)) => (
            bitmap >> subcluster & 1 != 0,
            bitmap >> (subcluster + SUBCLUSTERS) & 1 != 0,
        ),
    };
    match (data, zero) {
        // Version 2 has no such entries (nor have extended ones the flag in its old place).
        (_, true) if header.version < 3 => Err(Flaw::L2Entry(entry)),
        (true, true) => Err(Flaw::L2Entry(entry)),
        (true, false) if !there => Err(Flaw::L2Entry(entry)),
        (true, false) => Ok(Mapping::Data { host: host + within }),
        (false, true) => Ok(Mapping::Zero {
            host: there.then_some(host + within),
        }),
        (false, false) => Ok(Mapping::Unallocated),
    }
}

/// Place and greatest length of a compressed cluster: "Compressed Clusters Descriptor".
pub(super) fn compressed(entry: u64, cluster_bits: u32) -> (u64, u64) {
    let offset_bits = 62_u32.saturating_sub(cluster_bits.saturating_sub(8));
    let host = entry & ((1 << offset_bits) - 1);
    let sectors = (entry & (COMPRESSED - 1)) >> offset_bits;
    (host, (sectors + 1) * 512 - host % 512)
}

/// The entry of a compressed cluster of `length` bytes at `host`.
pub(super) fn compressed_entry(host: u64, length: u64, cluster_bits: u32) -> u64 {
    let offset_bits = 62_u32.saturating_sub(cluster_bits.saturating_sub(8));
    let sectors = (host + length - 1) / 512 - host / 512;
    COMPRESSED | sectors << offset_bits | host
}

/// The cluster that `entry` refers to and uses up, whether data or kept for zeros; `None` for a compressed one.
pub(super) fn standard_host(entry: u64) -> Option<u64> {
    (entry & COMPRESSED == 0 && entry & OFFSET != 0).then_some(entry & OFFSET)
}

/// Is it a compressed cluster?
pub(super) fn is_compressed(entry: u64) -> bool {
    entry & COMPRESSED != 0
}

/// Big-endian 64-bit words, as tables of both levels have them.
pub(super) fn words(bytes: &[u8]) -> Vec<u64> {
    bytes
        .as_chunks::<8>()
        .0
        .iter()
        .map(|word| u64::from_be_bytes(*word))
        .collect()
}

/// The reverse of [`words`].
pub(super) fn bytes(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_be_bytes()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::qcow2::{layout::Layout, options::Options};

    fn header(incompatible: u64) -> Header {
        let mut header = Layout::new(1 << 30, Options::default()).unwrap().header;
        header.incompatible = incompatible;
        header
    }

    #[test]
    fn entries_mean_what_the_specification_says() {
        let header = header(0);
        let table = [
            0,
            COPIED | 0x5_0000,
            ZERO,
            COPIED | 0x6_0000 | ZERO,
            COMPRESSED | 1 << 54 | 0x7_1234,
            0x1_0200,
        ];
        let at = |cluster: u64| mapping_at(&table, &header, cluster * 65536 + 5);
        assert_eq!(at(0), Ok(Mapping::Unallocated));
        assert_eq!(at(1), Ok(Mapping::Data { host: 0x5_0005 }));
        assert_eq!(at(2), Ok(Mapping::Zero { host: None }));
        assert_eq!(at(3), Ok(Mapping::Zero { host: Some(0x6_0005) }));
        // One sector more than the first, which begins 0x34 bytes before the data.
        let length = 1024 - 0x34;
        assert_eq!(
            at(4),
            Ok(Mapping::Compressed {
                host: 0x7_1234,
                length
            })
        );
        assert_eq!(at(5), Err(Flaw::Unaligned("data cluster", 0x1_0200)));
        assert_eq!(at(6), Ok(Mapping::Unallocated));
    }

    #[test]
    fn extended_entries_map_the_thirty_second_parts_of_a_cluster() {
        let header = header(crate::image::qcow2::header::incompatible::EXTENDED_L2);
        // Part 0 is data, part 1 zeros, part 2 nothing; part 3 says both.
        let table = [COPIED | 0x5_0000, 0b1001 | 0b1010 << 32];
        let at = |part: u64| mapping_at(&table, &header, part * 2048 + 7);
        assert_eq!(at(0), Ok(Mapping::Data { host: 0x5_0007 }));
        assert_eq!(at(1), Ok(Mapping::Zero { host: Some(0x5_0807) }));
        assert_eq!(at(2), Ok(Mapping::Unallocated));
        assert!(matches!(at(3), Err(Flaw::L2Entry(_))));
    }
}
