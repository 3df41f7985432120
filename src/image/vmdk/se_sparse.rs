//! Headers and entries of seSparse extents, what ESXi writes for snapshots of large disks and on VMFS 6. VMware has
//! not published the format: this is what its readers expect of it.

use super::{bytes_of, flaw::Flaw, header::LARGEST_CAPACITY, sparse_extent::Mapping};
use crate::disk::field::u64_le;

/// The first eight bytes.
pub(super) const MAGIC: [u8; 8] = 0x0000_0000_cafe_babe_u64.to_le_bytes();

const VOLATILE_MAGIC: u64 = 0x0000_0000_cafe_cafe;
const VERSION: u64 = 0x0000_0002_0000_0001;

/// The only sizes that are known, in sectors.
const GRAIN: u64 = 8;
const TABLE: u64 = 64;

/// Bytes of each of the two headers.
pub(super) const LENGTH: usize = 512;

/// Entries of a grain table, of eight bytes each.
pub(super) const ENTRIES_PER_TABLE: u64 = bytes_in(TABLE) / 8;

const fn bytes_in(sectors: u64) -> u64 {
    sectors * super::SECTOR
}

/// What the constant header says. Places and sizes in sectors.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) capacity: u64,
    pub(super) grain: u64,
    pub(super) volatile_header: u64,
    pub(super) directory: u64,
    pub(super) tables: u64,
    pub(super) tables_size: u64,
    pub(super) grains: u64,
}

impl Header {
    /// Parses the constant header, at the beginning of the file.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, Flaw> {
        let field = |index: usize| u64_le(bytes, index * 8);
        if field(0)?.to_le_bytes() != MAGIC {
            return Err(Flaw::Magic);
        }
        let version = field(1)?;
        if version != VERSION {
            return Err(Flaw::SeSparseVersion(version));
        }
        let fixed = [
            ("a grain size of", 3, GRAIN),
            ("a table size of", 4, TABLE),
            ("flags", 5, 0),
            ("a reserved field of", 6, 0),
            ("a reserved field of", 7, 0),
            ("a reserved field of", 8, 0),
            ("a reserved field of", 9, 0),
        ];
        for (what, index, expected) in fixed {
            let found = field(index)?;
            if found != expected {
                return Err(Flaw::SeSparseField {
                    what,
                    found,
                    expected,
                });
            }
        }
        let header = Self {
            capacity: field(2)?,
            grain: GRAIN,
            volatile_header: field(10)?,
            directory: field(16)?,
            tables: field(18)?,
            tables_size: field(19)?,
            grains: field(24)?,
        };
        if header.capacity > LARGEST_CAPACITY {
            return Err(Flaw::Capacity(header.capacity));
        }
        let entries = bytes_of(field(17)?) / 8;
        let needed = header.capacity.div_ceil(GRAIN * ENTRIES_PER_TABLE);
        if entries < needed {
            return Err(Flaw::DirectoryTooSmall { entries, needed });
        }
        Ok(header)
    }
}

/// Parses the volatile header: a journal that is not replayed leaves tables that cannot be trusted.
pub(super) fn must_be_replayed(bytes: &[u8]) -> Result<(), Flaw> {
    if u64_le(bytes, 0)? != VOLATILE_MAGIC {
        return Err(Flaw::Magic);
    }
    if u64_le(bytes, 24)? != 0 {
        return Err(Flaw::SeSparseJournal);
    }
    Ok(())
}

/// The number of the grain table that a directory entry names.
pub(super) fn table_number(entry: u64) -> Result<Option<u64>, Flaw> {
    match entry >> 32 {
        _ if entry == 0 => Ok(None),
        0x1000_0000 => Ok(Some(entry & 0xffff_ffff)),
        _ => Err(Flaw::Entry(entry, "a grain directory")),
    }
}

/// What an entry of a grain table says; grains count from byte `grains` on.
pub(super) fn mapping(entry: u64, grains: u64) -> Result<Mapping, Flaw> {
    match entry >> 60 {
        _ if entry == 0 => Ok(Mapping::Unallocated),
        // Given back by the guest, and written with zeros.
        1 | 2 => Ok(Mapping::Zero),
        3 => {
            // The low twelve bits of the number stand above the others.
            let number = (entry >> 48 & 0xfff) | (entry & 0xffff_ffff_ffff) << 12;
            let host = bytes_of(number.saturating_mul(GRAIN)).saturating_add(grains);
            Ok(Mapping::Data { host })
        }
        _ => Err(Flaw::Entry(entry, "a grain table")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_name_grains_by_two_pieces_of_their_number() {
        let entry = 3 << 60 | 0x123 << 48 | 0x4567;
        let number = 0x0456_7123;
        assert_eq!(
            mapping(entry, 1 << 20),
            Ok(Mapping::Data {
                host: number * 4096 + (1 << 20)
            })
        );
        assert_eq!(mapping(0, 0), Ok(Mapping::Unallocated));
        assert_eq!(mapping(1 << 60, 0), Ok(Mapping::Zero));
        assert_eq!(mapping(2 << 60, 0), Ok(Mapping::Zero));
        assert!(mapping(5, 0).is_err());
        assert!(mapping(4 << 60, 0).is_err());
        assert!(mapping(u64::MAX, u64::MAX).is_err());
        assert!(mapping(3 << 60 | 0x0fff_ffff_ffff_ffff, u64::MAX).is_ok());
        assert_eq!(table_number(0), Ok(None));
        assert_eq!(table_number(0x1000_0000_0000_0007), Ok(Some(7)));
        assert!(table_number(7).is_err());
        assert!(table_number(0x2000_0000_0000_0007).is_err());
    }
}
