//! The header of a hosted sparse extent, "KDMV": VDF 5.0, "Hosted Sparse Extents", "Hosted Sparse Extent Header".

use super::flaw::Flaw;
use crate::disk::field::{
    array_at, put_bytes, put_u16_le, put_u32_le, put_u64_le, u8_at, u16_le, u32_le, u64_le,
};

pub(super) const MAGIC: [u8; 4] = *b"KDMV";

/// Bytes of the header: one sector.
pub(super) const LENGTH: usize = 512;

/// `gdOffset` of a stream: the true one is in the footer.
pub(super) const DIRECTORY_AT_END: u64 = u64::MAX;

/// What the header says of the extent.
pub(super) mod flag {
    /// The line ends in the header are there to be checked.
    pub(in super::super) const LINE_ENDS: u32 = 1;
    /// There is a second grain directory.
    pub(in super::super) const REDUNDANT: u32 = 1 << 1;
    /// An entry of 1 is a grain of zeros.
    pub(in super::super) const ZEROED_GRAINS: u32 = 1 << 2;
    /// Grains are compressed.
    pub(in super::super) const COMPRESSED: u32 = 1 << 16;
    /// Markers stand before grains and tables.
    pub(in super::super) const MARKERS: u32 = 1 << 17;
}

/// Of the upper half of the flags a reader must know every one.
const INCOMPATIBLE: u32 = 0xffff_0000;

/// `compressAlgorithm` for deflate.
pub(super) const DEFLATE: u16 = 1;

/// A file of text mode transfers loses one of these.
const LINE_ENDS: [u8; 4] = *b"\n \r\n";

/// qemu reads grains of up to 1 GiB; VMware makes 64 KiB. In sectors.
const LARGEST_GRAIN: u64 = 1 << 21;

/// A grain that is compressed, or written, is held in memory: 4 MiB. In sectors.
pub(super) const LARGEST_COMPRESSED_GRAIN: u64 = 1 << 13;

/// VMware's own tables have 512 entries; more is allowed in streams. One is held in memory.
const LARGEST_TABLE: u64 = 1 << 16;

/// 4 EiB: a disk beyond that is a lie, and below it no sum of places overflows. In sectors.
pub(super) const LARGEST_CAPACITY: u64 = 1 << 53;

/// What the header says; checked against the format's limits, not against the file. Places and sizes in sectors.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) version: u32,
    pub(super) flags: u32,
    pub(super) capacity: u64,
    pub(super) grain: u64,
    pub(super) descriptor_offset: u64,
    pub(super) descriptor_size: u64,
    pub(super) entries_per_table: u32,
    pub(super) redundant_directory: u64,
    pub(super) directory: u64,
    /// Where the grains begin.
    pub(super) overhead: u64,
    pub(super) unclean_shutdown: bool,
    pub(super) compression: u16,
}

impl Header {
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, Flaw> {
        if array_at(bytes, 0)? != MAGIC {
            return Err(Flaw::Magic);
        }
        let header = Self {
            version: u32_le(bytes, 4)?,
            flags: u32_le(bytes, 8)?,
            capacity: u64_le(bytes, 12)?,
            grain: u64_le(bytes, 20)?,
            descriptor_offset: u64_le(bytes, 28)?,
            descriptor_size: u64_le(bytes, 36)?,
            entries_per_table: u32_le(bytes, 44)?,
            redundant_directory: u64_le(bytes, 48)?,
            directory: u64_le(bytes, 56)?,
            overhead: u64_le(bytes, 64)?,
            unclean_shutdown: u8_at(bytes, 72)? != 0,
            compression: u16_le(bytes, 77)?,
        };
        if !(1..=3).contains(&header.version) {
            return Err(Flaw::Version(header.version));
        }
        if header.has(flag::LINE_ENDS) && array_at(bytes, 73)? != LINE_ENDS {
            return Err(Flaw::LineEnds);
        }
        let unknown = header.flags & INCOMPATIBLE & !(flag::COMPRESSED | flag::MARKERS);
        if unknown != 0 {
            return Err(Flaw::UnknownFlag(unknown.trailing_zeros()));
        }
        if header.compression > DEFLATE || header.has(flag::COMPRESSED) && header.compression != DEFLATE {
            return Err(Flaw::Compression(header.compression));
        }
        let largest = if header.is_compressed() {
            LARGEST_COMPRESSED_GRAIN
        } else {
            LARGEST_GRAIN
        };
        if !header.grain.is_power_of_two() || header.grain > largest {
            return Err(Flaw::GrainSize(header.grain, largest));
        }
        if !(1..=LARGEST_TABLE).contains(&u64::from(header.entries_per_table)) {
            return Err(Flaw::TableSize(u64::from(header.entries_per_table)));
        }
        if header.capacity > LARGEST_CAPACITY {
            return Err(Flaw::Capacity(header.capacity));
        }
        Ok(header)
    }

    pub(super) fn encode(&self) -> Result<[u8; LENGTH], Flaw> {
        let mut bytes = [0; LENGTH];
        put_bytes(&mut bytes, 0, &MAGIC)?;
        put_u32_le(&mut bytes, 4, self.version)?;
        put_u32_le(&mut bytes, 8, self.flags)?;
        put_u64_le(&mut bytes, 12, self.capacity)?;
        put_u64_le(&mut bytes, 20, self.grain)?;
        put_u64_le(&mut bytes, 28, self.descriptor_offset)?;
        put_u64_le(&mut bytes, 36, self.descriptor_size)?;
        put_u32_le(&mut bytes, 44, self.entries_per_table)?;
        put_u64_le(&mut bytes, 48, self.redundant_directory)?;
        put_u64_le(&mut bytes, 56, self.directory)?;
        put_u64_le(&mut bytes, 64, self.overhead)?;
        put_bytes(&mut bytes, 72, &[u8::from(self.unclean_shutdown)])?;
        put_bytes(&mut bytes, 73, &LINE_ENDS)?;
        put_u16_le(&mut bytes, 77, self.compression)?;
        Ok(bytes)
    }

    pub(super) fn has(&self, flag: u32) -> bool {
        self.flags & flag != 0
    }

    pub(super) fn is_compressed(&self) -> bool {
        self.compression == DEFLATE
    }

    /// Sectors of the disk that one grain table maps.
    pub(super) fn table_coverage(&self) -> u64 {
        self.grain.saturating_mul(u64::from(self.entries_per_table))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Header {
        Header {
            version: 1,
            flags: 3,
            capacity: 20480,
            grain: 128,
            descriptor_offset: 1,
            descriptor_size: 20,
            entries_per_table: 512,
            redundant_directory: 21,
            directory: 26,
            overhead: 128,
            unclean_shutdown: false,
            compression: 0,
        }
    }

    #[test]
    fn what_is_written_is_read() {
        let header = sample();
        assert_eq!(Header::parse(&header.encode().unwrap()), Ok(header));
    }

    #[test]
    fn lies_are_refused() {
        type Lie = fn(&mut Header);
        let lies: [(Lie, Flaw); 11] = [
            (|h| h.version = 0, Flaw::Version(0)),
            (|h| h.version = 4, Flaw::Version(4)),
            (|h| h.flags |= 1 << 18, Flaw::UnknownFlag(18)),
            (|h| h.flags |= flag::COMPRESSED, Flaw::Compression(0)),
            (|h| h.compression = 2, Flaw::Compression(2)),
            (|h| h.grain = 0, Flaw::GrainSize(0, LARGEST_GRAIN)),
            (|h| h.grain = 96, Flaw::GrainSize(96, LARGEST_GRAIN)),
            (|h| h.grain = 1 << 22, Flaw::GrainSize(1 << 22, LARGEST_GRAIN)),
            (|h| h.entries_per_table = 0, Flaw::TableSize(0)),
            (|h| h.entries_per_table = 1 << 20, Flaw::TableSize(1 << 20)),
            (|h| h.capacity = u64::MAX, Flaw::Capacity(u64::MAX)),
        ];
        for (lie, flaw) in lies {
            let mut header = sample();
            lie(&mut header);
            assert_eq!(Header::parse(&header.encode().unwrap()), Err(flaw));
        }
        let mut compressed = sample();
        compressed.compression = DEFLATE;
        compressed.grain = 1 << 14;
        assert!(matches!(
            Header::parse(&compressed.encode().unwrap()),
            Err(Flaw::GrainSize(..))
        ));
        let mut bytes = sample().encode().unwrap();
        bytes[75] = b'\n';
        assert_eq!(Header::parse(&bytes), Err(Flaw::LineEnds));
        bytes[8] &= !1;
        assert!(Header::parse(&bytes).is_ok(), "without the flag nobody looks");
        assert!(Header::parse(&bytes[..78]).is_err());
    }
}
