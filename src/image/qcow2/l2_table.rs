//! Entries of second-level tables: "L1/L2 Table Entries" and "Extended L2 Entries" of `docs/interop/qcow2.txt`.

use super::{flaw::Flaw, header::Header};

/// Host offset in entries of both levels.
pub(super) const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;
/// The reference count is exactly one: may be written in place.
pub(super) const COPIED: u64 = 1 << 63;
const COMPRESSED: u64 = 1 << 62;
/// Reads as zeros (version 3, not extended).
pub(super) const ZERO: u64 = 1;

/// Parts of a cluster that extended entries map one by one.
pub(super) const SUBCLUSTERS: u64 = 32;

/// Where a run of the guest's bytes is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mapping {
    /// In the backing file, or zeros without one.
    Unallocated,
    /// Zeros; space may be kept for them.
    Zero { allocated: bool },
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
        let (host, length) = compressed(entry, header.cluster_bits);
        return Ok(Mapping::Compressed { host, length });
    }
    let host = entry & OFFSET;
    if !host.is_multiple_of(header.cluster_size()) {
        return Err(Flaw::Unaligned("data cluster", host));
    }
    let (data, zero) = match bitmap {
        None => (host != 0 && entry & ZERO == 0, entry & ZERO != 0),
        Some((bitmap, subcluster)) => (
            bitmap >> subcluster & 1 != 0,
            bitmap >> (subcluster + SUBCLUSTERS) & 1 != 0,
        ),
    };
    match (data, zero) {
        // Version 2 has no such entries (nor have extended ones the flag in its old place).
        (_, true) if header.version < 3 => Err(Flaw::L2Entry(entry)),
        (true, true) => Err(Flaw::L2Entry(entry)),
        (true, false) if host == 0 => Err(Flaw::L2Entry(entry)),
        (true, false) => Ok(Mapping::Data { host: host + within }),
        (false, true) => Ok(Mapping::Zero { allocated: host != 0 }),
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
