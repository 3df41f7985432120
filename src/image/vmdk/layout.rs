//! Where things are in a new sparse extent: as qemu-img has them, so that it follows from the size alone.
//!
//! Sector 0 is the header; the descriptor follows if it lies here; then the second grain directory with all of its
//! tables, the first with all of its, and from a multiple of a grain on the grains, in the order of the disk.

use super::{
    SECTOR, bytes_of,
    flaw::Flaw,
    header::{Header, flag},
};

/// As every product makes them. In sectors.
pub(super) const GRAIN: u64 = 128;

/// Entries of a grain table, and the sectors that it takes.
pub(super) const ENTRIES_PER_TABLE: u32 = 512;
pub(super) const TABLE: u64 = 4;

/// What VMware and qemu keep for a descriptor inside an extent. In sectors.
pub(super) const DESCRIPTOR: u64 = 20;

/// Bytes of the disk that one table maps.
pub(super) const COVERAGE: u64 = GRAIN * SECTOR * ENTRIES_PER_TABLE as u64;

/// 128 TiB, twice what any product of VMware takes; their directories take 16 MiB each.
const MOST_TABLES: u64 = 1 << 22;

/// Where things are. The header counts in sectors.
#[derive(Clone, Debug)]
pub(super) struct Layout {
    pub(super) header: Header,
    pub(super) tables: u64,
}

impl Layout {
    /// For an extent that holds `size` bytes of a disk, with the descriptor inside if it is `embedded`.
    pub(super) fn new(size: u64, embedded: bool, zeroed_grains: bool) -> Result<Self, Flaw> {
        let tables = tables_of(size)?;
        let descriptor_size = if embedded { DESCRIPTOR } else { 0 };
        let redundant_directory = 1 + descriptor_size;
        let directory = redundant_directory + directory_sectors(tables) + tables * TABLE;
        let end = directory + directory_sectors(tables) + tables * TABLE;
        let zeroed = if zeroed_grains { flag::ZEROED_GRAINS } else { 0 };
        let header = Header {
            version: if zeroed_grains { 2 } else { 1 },
            flags: flag::LINE_ENDS | flag::REDUNDANT | zeroed,
            capacity: size.div_ceil(SECTOR),
            grain: GRAIN,
            descriptor_offset: u64::from(embedded),
            descriptor_size,
            entries_per_table: ENTRIES_PER_TABLE,
            redundant_directory,
            directory,
            overhead: end.next_multiple_of(GRAIN),
            unclean_shutdown: false,
            compression: 0,
        };
        Ok(Self { header, tables })
    }

    /// Both directories, with the first sector of their tables, in sectors.
    pub(super) fn directories(&self) -> [(u64, u64); 2] {
        let sectors = directory_sectors(self.tables);
        [self.header.directory, self.header.redundant_directory].map(|at| (at, at + sectors))
    }

    /// Where the two copies of table `index` are, in bytes.
    pub(super) fn table(&self, index: u64) -> [u64; 2] {
        self.directories()
            .map(|(_, first)| bytes_of(first + index * TABLE))
    }

    /// Where the grains begin, in bytes.
    pub(super) fn grains(&self) -> u64 {
        bytes_of(self.header.overhead)
    }
}

/// Tables that a disk of `size` bytes needs.
pub(super) fn tables_of(size: u64) -> Result<u64, Flaw> {
    let tables = size.div_ceil(COVERAGE);
    if tables > MOST_TABLES {
        let text = format!("a disk of {size} bytes is larger than the 128 TiB that are written as VMDK");
        return Err(Flaw::CannotCreate(text));
    }
    Ok(tables)
}

/// Sectors of a directory of so many tables.
pub(super) fn directory_sectors(tables: u64) -> u64 {
    (tables * 4).div_ceil(SECTOR)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_qemu_img_lays_out_10_mib() {
        let layout = Layout::new(10 << 20, true, false).unwrap();
        let header = &layout.header;
        assert_eq!((header.redundant_directory, header.directory), (21, 26));
        assert_eq!((header.overhead, layout.tables), (128, 1));
        assert_eq!(layout.table(0), [27 * 512, 22 * 512]);
        assert!(Layout::new(1 << 50, true, false).is_err());
    }
}
