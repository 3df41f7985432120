//! The header of a COWD extent, what ESX and ESXi write for snapshots on VMFS ("vmfsSparse"): VDF 5.0, "ESX Server
//! Sparse Extents".

use super::flaw::Flaw;
use crate::disk::field::{array_at, u32_le};

pub(super) const MAGIC: [u8; 4] = *b"COWD";

/// Bytes of the header that are read; all of it is four sectors.
pub(super) const LENGTH: usize = 2048;

/// Entries of every grain table.
pub(super) const ENTRIES_PER_TABLE: u64 = 4096;

/// Where `uncleanShutdown` is.
const UNCLEAN_SHUTDOWN: usize = 1648;

/// As for other sparse extents. In sectors.
const LARGEST_GRAIN: u64 = 1 << 21;

/// What the header says. Places and sizes in sectors.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) capacity: u64,
    pub(super) grain: u64,
    pub(super) directory: u64,
    pub(super) directory_entries: u64,
    pub(super) unclean_shutdown: bool,
}

impl Header {
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, Flaw> {
        if array_at(bytes, 0)? != MAGIC {
            return Err(Flaw::Magic);
        }
        let version = u32_le(bytes, 4)?;
        if version != 1 {
            return Err(Flaw::Version(version));
        }
        let field = |at| u32_le(bytes, at).map(u64::from);
        let header = Self {
            capacity: field(12)?,
            grain: field(16)?,
            directory: field(20)?,
            directory_entries: field(24)?,
            unclean_shutdown: u32_le(bytes, UNCLEAN_SHUTDOWN)? != 0,
        };
        if !header.grain.is_power_of_two() || header.grain > LARGEST_GRAIN {
            return Err(Flaw::GrainSize(header.grain, LARGEST_GRAIN));
        }
        let needed = header.capacity.div_ceil(header.grain * ENTRIES_PER_TABLE);
        if header.directory_entries < needed {
            return Err(Flaw::DirectoryTooSmall {
                entries: header.directory_entries,
                needed,
            });
        }
        Ok(header)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::field::put_u32_le;

    #[test]
    fn lies_are_refused() {
        let mut bytes = vec![0; LENGTH];
        bytes[..4].copy_from_slice(&MAGIC);
        for (at, value) in [(4, 1), (8, 3), (12, 10_000), (16, 1), (20, 4), (24, 3)] {
            put_u32_le(&mut bytes, at, value).unwrap();
        }
        let header = Header::parse(&bytes).unwrap();
        assert_eq!((header.capacity, header.grain, header.directory), (10_000, 1, 4));
        for (at, value, flaw) in [
            (0, 0, Flaw::Magic),
            (4, 2, Flaw::Version(2)),
            (16, 0, Flaw::GrainSize(0, LARGEST_GRAIN)),
            (16, 3, Flaw::GrainSize(3, LARGEST_GRAIN)),
            (
                24,
                2,
                Flaw::DirectoryTooSmall {
                    entries: 2,
                    needed: 3,
                },
            ),
        ] {
            let mut lie = bytes.clone();
            put_u32_le(&mut lie, at, value).unwrap();
            assert_eq!(Header::parse(&lie), Err(flaw));
        }
        assert!(Header::parse(&bytes[..1000]).is_err());
    }
}
