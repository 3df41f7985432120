//! "Hard Disk Footer Format" of the specification: what every VHD ends with, and all but fixed ones begin with too.

use super::{
    flaw::Flaw,
    geometry::{Geometry, SECTOR},
};
use crate::disk::field::{
    Truncated, array_at, bytes_at, put_bytes, put_u8, put_u16_be, put_u32_be, put_u64_be, u8_at, u16_be,
    u32_be, u64_be,
};

/// What a footer begins with.
pub(super) const COOKIE: &[u8; 8] = b"conectix";

/// Bytes of a footer. Versions of Virtual PC before 2004 wrote one byte less.
pub(super) const LENGTH: usize = 512;
pub(super) const OLD_LENGTH: usize = 511;

const CHECKSUM: usize = 64;

/// The only version of the format.
pub(super) const VERSION: u32 = 0x0001_0000;

/// qemu writes and reads no larger disk, and sector numbers of 32 bits allow little more: 2040 GiB.
pub(super) const LARGEST_DISK: u64 = 0xff00_0000 * SECTOR;

/// Creators of disks whose size is "Current Size", as qemu has them in its table; others count by their geometry, as
/// Virtual PC does. With "vbox", which qemu does not list: VirtualBox reads and writes the current size.
const BY_CURRENT_SIZE: [&[u8]; 7] = [b"win ", b"qem2", b"d2v", b"CTXS", b"tap", b"wa", b"vbox"];

/// What is written as creator here: any that is not in a table is as good.
pub(super) const CREATOR: [u8; 4] = *b"rhme";

/// How a disk is kept: "Disk Type".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum DiskType {
    Fixed,
    Dynamic,
    Differencing,
}

impl DiskType {
    fn number(self) -> u32 {
        match self {
            Self::Fixed => 2,
            Self::Dynamic => 3,
            Self::Differencing => 4,
        }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Fixed => "fixed",
            Self::Dynamic => "dynamic",
            Self::Differencing => "differencing",
        }
    }
}

/// What the footer says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Footer {
    pub(super) disk_type: DiskType,
    /// Where the dynamic disk header is. Means nothing in a fixed disk.
    pub(super) data_offset: u64,
    /// Seconds since 2000.
    pub(super) timestamp: u32,
    pub(super) creator: [u8; 4],
    pub(super) creator_version: u32,
    pub(super) creator_host: [u8; 4],
    /// In bytes, and the next.
    pub(super) original_size: u64,
    pub(super) current_size: u64,
    pub(super) geometry: Geometry,
    pub(super) unique_id: [u8; 16],
    pub(super) saved_state: bool,
}

/// The ones' complement of the sum of all bytes of a structure but those of the checksum `at`.
pub(super) fn checksum(structure: &[u8], at: usize) -> u32 {
    let bytes = structure.iter().enumerate();
    let counted = bytes.filter(|(index, _)| !(at..at + 4).contains(index));
    !counted.fold(0_u32, |sum, (_, byte)| sum.wrapping_add(u32::from(*byte)))
}

impl Footer {
    /// Parses a footer of 512 or 511 bytes.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, Flaw> {
        // All that is reserved is zero, and so is the byte that an old footer lacks.
        bytes_at(bytes, 0, OLD_LENGTH)?;
        if !bytes.starts_with(COOKIE) {
            return Err(Flaw::NoFooter);
        }
        let found = u32_be(bytes, CHECKSUM)?;
        let computed = checksum(bytes, CHECKSUM);
        if found != computed {
            return Err(Flaw::FooterChecksum { found, computed });
        }
        let version = u32_be(bytes, 12)?;
        if version >> 16 != VERSION >> 16 {
            return Err(Flaw::Version(version));
        }
        let disk_type = match u32_be(bytes, 60)? {
            2 => DiskType::Fixed,
            3 => DiskType::Dynamic,
            4 => DiskType::Differencing,
            other => return Err(Flaw::DiskType(other)),
        };
        Ok(Self {
            disk_type,
            data_offset: u64_be(bytes, 16)?,
            timestamp: u32_be(bytes, 24)?,
            creator: array_at(bytes, 28)?,
            creator_version: u32_be(bytes, 32)?,
            creator_host: array_at(bytes, 36)?,
            original_size: u64_be(bytes, 40)?,
            current_size: u64_be(bytes, 48)?,
            geometry: Geometry {
                cylinders: u16_be(bytes, 56)?,
                heads: u8_at(bytes, 58)?,
                sectors: u8_at(bytes, 59)?,
            },
            unique_id: array_at(bytes, 68)?,
            saved_state: u8_at(bytes, 84)? != 0,
        })
    }

    /// The footer in 512 bytes.
    pub(super) fn encode(&self) -> Result<Vec<u8>, Truncated> {
        let mut bytes = vec![0; LENGTH];
        let b = bytes.as_mut_slice();
        put_bytes(b, 0, COOKIE)?;
        // No features; this bit is always set.
        put_u32_be(b, 8, 2)?;
        put_u32_be(b, 12, VERSION)?;
        put_u64_be(b, 16, self.data_offset)?;
        put_u32_be(b, 24, self.timestamp)?;
        put_bytes(b, 28, &self.creator)?;
        put_u32_be(b, 32, self.creator_version)?;
        put_bytes(b, 36, &self.creator_host)?;
        put_u64_be(b, 40, self.original_size)?;
        put_u64_be(b, 48, self.current_size)?;
        put_u16_be(b, 56, self.geometry.cylinders)?;
        put_u8(b, 58, self.geometry.heads)?;
        put_u8(b, 59, self.geometry.sectors)?;
        put_u32_be(b, 60, self.disk_type.number())?;
        put_bytes(b, 68, &self.unique_id)?;
        put_u8(b, 84, self.saved_state.into())?;
        let sum = checksum(b, CHECKSUM);
        put_u32_be(b, CHECKSUM, sum)?;
        Ok(bytes)
    }

    /// Size of the disk in bytes, as qemu decides it. Virtual PC shows a guest the sectors that the geometry counts,
    /// everybody else the current size, and the creator tells them apart. The greatest geometry stands for "larger
    /// than a geometry can say", and an empty one for nothing.
    pub(super) fn disk_size(&self) -> u64 {
        let counted = self.geometry.total();
        let by_current_size = BY_CURRENT_SIZE
            .iter()
            .any(|creator| self.creator.starts_with(creator));
        if by_current_size || counted == 0 || self.geometry == Geometry::GREATEST {
            self.current_size / SECTOR * SECTOR
        } else {
            counted * SECTOR
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn footer() -> Footer {
        Footer {
            disk_type: DiskType::Dynamic,
            data_offset: 512,
            timestamp: 7,
            creator: *b"vpc ",
            creator_version: 0x0005_0003,
            creator_host: *b"Wi2k",
            original_size: 4 << 20,
            current_size: 4 << 20,
            geometry: Geometry::of(8192),
            unique_id: [3; 16],
            saved_state: true,
        }
    }

    #[test]
    fn a_footer_is_read_as_it_was_written_even_by_an_old_virtual_pc() {
        let bytes = footer().encode().unwrap();
        assert_eq!(Footer::parse(&bytes), Ok(footer()));
        assert_eq!(Footer::parse(&bytes[..511]), Ok(footer()));
        assert!(matches!(Footer::parse(&bytes[..510]), Err(Flaw::Truncated(_))));
        for at in [0, 12, 30, 60, 64, 84, 300] {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0x10;
            assert!(Footer::parse(&damaged).is_err(), "{at}");
        }
    }

    #[test]
    fn the_creator_tells_which_size_is_meant() {
        let size = |creator: &[u8; 4], geometry| {
            Footer {
                creator: *creator,
                geometry,
                ..footer()
            }
            .disk_size()
        };
        let small = Geometry::of(8192);
        let nothing = Geometry {
            cylinders: 0,
            ..small
        };
        for creator in [b"vpc ", b"vs  ", b"qemu", b"rhme", b"xyz\0"] {
            assert_eq!(size(creator, small), 120 * 4 * 17 * 512);
            assert_eq!(size(creator, Geometry::GREATEST), 4 << 20);
            assert_eq!(size(creator, nothing), 4 << 20);
        }
        for creator in [
            b"win ", b"qem2", b"d2v\0", b"d2v ", b"CTXS", b"tap\0", b"wa\0\0", b"vbox",
        ] {
            assert_eq!(size(creator, small), 4 << 20);
        }
    }
}
