//! The two checksums of ext4 (kernel documentation, "ext4: Checksums"): crc32c for `metadata_csum`, and the crc16 of
//! group descriptors for the older `uninit_bg`.

/// crc32c as the kernel chains it: without the inversions at start and end that the usual crc32c has.
pub(super) fn crc32c(seed: u32, bytes: &[u8]) -> u32 {
    !crc32c::crc32c_append(!seed, bytes)
}

/// The low half of a checksum: what two-byte fields hold.
pub(super) const fn low_half(checksum: u32) -> u16 {
    (checksum & 0xffff) as u16
}

/// The high half of a checksum.
pub(super) const fn high_half(checksum: u32) -> u16 {
    (checksum >> 16) as u16
}

/// CRC-16 with the reflected polynomial 0xA001, as group descriptors of `uninit_bg` have it. Start with `!0`.
pub(super) fn crc16(seed: u16, bytes: &[u8]) -> u16 {
    let mut crc = seed;
    for byte in bytes {
        crc ^= u16::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 {
                (crc >> 1) ^ 0xa001
            } else {
                crc >> 1
            };
        }
    }
    crc
}

/// The checksums of one filesystem: which kind, and what they start from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Checksums {
    /// No checksums at all.
    None,
    /// Group descriptors only, crc16 over the UUID first: `uninit_bg`.
    Crc16 {
        /// crc16 of the UUID.
        seed: u16,
    },
    /// All metadata: `metadata_csum`.
    Crc32c {
        /// crc32c of the UUID, or `s_checksum_seed` with `metadata_csum_seed`.
        seed: u32,
    },
}

impl Checksums {
    /// The seed of all metadata checksums; `None` without `metadata_csum`.
    pub(super) const fn metadata_seed(self) -> Option<u32> {
        match self {
            Self::Crc32c { seed } => Some(seed),
            Self::None | Self::Crc16 { .. } => None,
        }
    }

    /// Have group descriptors a checksum, and so the `*_UNINIT` flags a meaning?
    pub(super) const fn of_groups(self) -> bool {
        !matches!(self, Self::None)
    }

    /// What the checksums of everything that belongs to an inode start from: its number and generation come first.
    pub(super) fn inode_seed(self, inode: u32, generation: u32) -> Option<u32> {
        self.metadata_seed()
            .map(|seed| crc32c(crc32c(seed, &inode.to_le_bytes()), &generation.to_le_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn check_values_of_the_two_polynomials() {
        assert_eq!(!crc32c(!0, b"123456789"), 0xe306_9283);
        assert_eq!(crc32c(crc32c(!0, b"1234"), b"56789"), crc32c(!0, b"123456789"));
        assert_eq!(crc16(0, b"123456789"), 0xbb3d);
        assert_eq!(crc16(!0, b"123456789"), 0x4b37);
    }
}
