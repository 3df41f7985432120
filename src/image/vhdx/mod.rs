//! VHDX: [MS-VHDX], "Virtual Hard Disk v2 (VHDX) File Format".

mod block;
mod check;
mod create;
mod disk;
mod flaw;
mod header;
mod log;
mod metadata;
mod parent;
mod region;
mod sink;
mod write;

pub use create::{Kind, Options};
pub use disk::Vhdx;
pub(super) use sink::{initial_size, sink};

/// Everything but headers, log entries and metadata items begins on a multiple of this, in bytes.
const MIB: u64 = 1 << 20;

/// CRC-32C of a structure whose own field for it, four bytes at `at`, counts as zeros.
fn checksum(structure: &[u8], at: usize) -> u32 {
    let (before, rest) = structure.split_at(at.min(structure.len()));
    let after = rest.get(4..).unwrap_or_default();
    let sum = crc32c::crc32c_append(crc32c::crc32c(before), &[0; 4]);
    crc32c::crc32c_append(sum, after)
}

/// An identifier that follows from `facts`, so that the same disk gives the same file: RFC 9562, version 8.
fn derived_id(facts: &[u8]) -> uuid::Uuid {
    let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p, ..] = crate::disk::Digest::of(facts).0;
    uuid::Builder::from_custom_bytes([a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p]).into_uuid()
}
