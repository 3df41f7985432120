//! Markers in streams: VDF 5.0, "Stream-Optimized Compressed Sparse Extents", "Markers".

use super::{SECTOR, header::LENGTH};
use crate::disk::field::{Truncated, put_u32_le, put_u64_le, u32_le, u64_le};

/// Bytes before the compressed data of a grain.
pub(super) const GRAIN_HEADER: usize = 12;

/// What begins at a sector of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Marker {
    /// A grain of the disk, from sector `sector` of it on; `length` bytes of compressed data follow at once.
    Grain { sector: u64, length: u32 },
    /// Nothing more follows.
    EndOfStream,
    /// A grain table of so many sectors follows in the next one.
    Table(u64),
    /// A grain directory of so many sectors follows in the next one.
    Directory(u64),
    /// The footer follows in the next sector.
    Footer,
    /// Something else, of so many sectors. VMware knows a kind 4, "progress".
    Other(u64),
}

impl Marker {
    /// Parses the first sixteen bytes of a sector.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, Truncated> {
        let value = u64_le(bytes, 0)?;
        let length = u32_le(bytes, 8)?;
        if length != 0 {
            return Ok(Self::Grain {
                sector: value,
                length,
            });
        }
        Ok(match u32_le(bytes, 12)? {
            0 => Self::EndOfStream,
            1 => Self::Table(value),
            2 => Self::Directory(value),
            3 => Self::Footer,
            _ => Self::Other(value),
        })
    }

    /// The sector of a marker that is no grain.
    pub(super) fn encode(self) -> Result<[u8; LENGTH], Truncated> {
        let (value, length, kind) = match self {
            Self::Grain { sector, length } => (sector, length, 0),
            Self::EndOfStream => (0, 0, 0),
            Self::Table(sectors) => (sectors, 0, 1),
            Self::Directory(sectors) => (sectors, 0, 2),
            Self::Footer => (1, 0, 3),
            Self::Other(sectors) => (sectors, 0, 4),
        };
        let mut bytes = [0; LENGTH];
        put_u64_le(&mut bytes, 0, value)?;
        put_u32_le(&mut bytes, 8, length)?;
        put_u32_le(&mut bytes, 12, kind)?;
        Ok(bytes)
    }
}

/// Sectors that a grain of `length` compressed bytes takes, its marker included.
pub(super) fn grain_sectors(length: u32) -> u64 {
    (GRAIN_HEADER as u64 + u64::from(length)).div_ceil(SECTOR)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        for marker in [
            Marker::Grain {
                sector: 1 << 40,
                length: 700,
            },
            Marker::EndOfStream,
            Marker::Table(4),
            Marker::Directory(3),
            Marker::Footer,
            Marker::Other(9),
        ] {
            assert_eq!(Marker::parse(&marker.encode().unwrap()), Ok(marker));
        }
        assert!(Marker::parse(&[0; 15]).is_err());
        assert_eq!((grain_sectors(500), grain_sectors(501)), (1, 2));
    }
}
