//! Checksums of a VHDX that are right, so that the fields behind them are met.

/// Recomputes the CRC-32C of the structure of `length` bytes at `at`.
pub fn seal_structure(image: &mut [u8], at: usize, length: usize) {
    if let Some(structure) = image.get_mut(at..at + length) {
        structure[4..8].fill(0);
        let sum = crc32c::crc32c(structure);
        structure[4..8].copy_from_slice(&sum.to_le_bytes());
    }
}

/// Those of both headers and both region tables.
pub fn seal(image: &mut [u8]) {
    for (at, length) in [
        (64 << 10, 4096),
        (128 << 10, 4096),
        (192 << 10, 65536),
        (256 << 10, 65536),
    ] {
        seal_structure(image, at, length);
    }
}
