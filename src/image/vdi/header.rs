//! The header: `VDIPREHEADER` and `VDIHEADER1` (`VDIHEADER1PLUS`) of VirtualBox, little-endian.

use super::flaw::Flaw;
use crate::disk::field::{array_at, bytes_at, put_bytes, put_u32_le, put_u64_le, u16_le, u32_le, u64_le};
use uuid::Uuid;

/// Bytes that hold all of it.
pub(super) const LENGTH: usize = 512;

/// What VirtualBox writes, and other programs after it, at the very beginning. Nobody goes by it: it was another text in
/// the days of innotek and Sun.
const TEXT: &[u8] = b"<<< Oracle VM VirtualBox Disk Image >>>\n";

const SIGNATURE: [u8; 4] = [0x7f, 0x10, 0xda, 0xbe];

/// Fields by their place in the file.
mod at {
    pub(super) const SIGNATURE: usize = 64;
    pub(super) const VERSION: usize = 68;
    pub(super) const HEADER_SIZE: usize = 72;
    pub(super) const IMAGE_TYPE: usize = 76;
    pub(super) const COMMENT: usize = 84;
    pub(super) const MAP: usize = 340;
    pub(super) const DATA: usize = 344;
    pub(super) const SECTOR_SIZE: usize = 360;
    pub(super) const DISK_SIZE: usize = 368;
    pub(super) const BLOCK_SIZE: usize = 376;
    pub(super) const BLOCK_EXTRA: usize = 380;
    pub(super) const BLOCKS: usize = 384;
    pub(super) const ALLOCATED: usize = 388;
    pub(super) const ID: usize = 392;
    pub(super) const MODIFICATION: usize = 408;
    pub(super) const PARENT_ID: usize = 424;
    pub(super) const PARENT_MODIFICATION: usize = 440;
    pub(super) const LOGICAL_SECTOR_SIZE: usize = 468;
}

/// Where the two fields are that an edit changes.
pub(super) const ALLOCATED_AT: u64 = at::ALLOCATED as u64;
pub(super) const MODIFICATION_AT: u64 = at::MODIFICATION as u64;

const COMMENT_LENGTH: usize = 256;

/// The sizes of the header without and with the second geometry, counted from its size field on.
const SIZE: u32 = 384;
const SIZE_PLUS: u32 = 400;

const SECTOR: u32 = 512;

/// As much as qemu reads: its limit for blocks of 1 MiB. In bytes.
pub(super) const LARGEST_DISK: u64 = 1 << 50;

/// How the disk is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ImageType {
    /// What of it holds something.
    Dynamic,
    /// All of it.
    Fixed,
    /// What differs from another disk.
    Differencing,
}

impl ImageType {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Dynamic => "dynamic",
            Self::Fixed => "static",
            Self::Differencing => "differencing",
        }
    }

    fn number(self) -> u32 {
        match self {
            Self::Dynamic => 1,
            Self::Fixed => 2,
            Self::Differencing => 4,
        }
    }
}

/// What the header says; sizes checked against each other, not against the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) image_type: ImageType,
    pub(super) comment: String,
    /// Where the block map is in the file, in bytes.
    pub(super) map: u32,
    /// Where the first block is, in bytes.
    pub(super) data: u32,
    /// In bytes.
    pub(super) disk_size: u64,
    pub(super) block_size: u32,
    /// Bytes in the file before the data of each block.
    pub(super) block_extra: u32,
    /// Entries of the map.
    pub(super) blocks: u32,
    /// Of them with a place in the file.
    pub(super) allocated: u32,
    pub(super) id: Uuid,
    /// Changes when the image is written to.
    pub(super) modification: Uuid,
    pub(super) parent_id: Uuid,
    pub(super) parent_modification: Uuid,
}

impl Header {
    /// Parses the first [`LENGTH`] bytes of a file; one that ends before is refused where it does.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, Flaw> {
        if array_at::<4>(bytes, at::SIGNATURE)? != SIGNATURE {
            return Err(Flaw::Signature);
        }
        let (minor, major) = (u16_le(bytes, at::VERSION)?, u16_le(bytes, at::VERSION + 2)?);
        if (major, minor) != (1, 1) {
            return Err(Flaw::Version(major, minor));
        }
        let size = u32_le(bytes, at::HEADER_SIZE)?;
        if size < SIZE {
            return Err(Flaw::HeaderSize(size));
        }
        let image_type = match u32_le(bytes, at::IMAGE_TYPE)? {
            1 => ImageType::Dynamic,
            2 => ImageType::Fixed,
            3 => return Err(Flaw::Undo),
            4 => ImageType::Differencing,
            other => return Err(Flaw::ImageType(other)),
        };
        let sector = u32_le(bytes, at::SECTOR_SIZE)?;
        if sector != SECTOR {
            return Err(Flaw::SectorSize(sector));
        }
        let comment = bytes_at(bytes, at::COMMENT, COMMENT_LENGTH)?;
        let comment = comment.split(|byte| *byte == 0).next().unwrap_or_default();
        let id = |at: usize| -> Result<Uuid, Flaw> { Ok(Uuid::from_bytes_le(array_at(bytes, at)?)) };
        let header = Self {
            image_type,
            comment: String::from_utf8_lossy(comment).into_owned(),
            map: u32_le(bytes, at::MAP)?,
            data: u32_le(bytes, at::DATA)?,
            disk_size: u64_le(bytes, at::DISK_SIZE)?,
            block_size: u32_le(bytes, at::BLOCK_SIZE)?,
            block_extra: u32_le(bytes, at::BLOCK_EXTRA)?,
            blocks: u32_le(bytes, at::BLOCKS)?,
            allocated: u32_le(bytes, at::ALLOCATED)?,
            id: id(at::ID)?,
            modification: id(at::MODIFICATION)?,
            parent_id: id(at::PARENT_ID)?,
            parent_modification: id(at::PARENT_MODIFICATION)?,
        };
        header.check()?;
        Ok(header)
    }

    fn check(&self) -> Result<(), Flaw> {
        let (blocks, block, size) = (self.blocks, self.block_size, self.disk_size);
        if !block.is_power_of_two() || block < SECTOR {
            return Err(Flaw::BlockSize(block));
        }
        if size > LARGEST_DISK {
            return Err(Flaw::TooLarge(size));
        }
        if u64::from(blocks) * u64::from(block) < size {
            return Err(Flaw::MapTooSmall { blocks, block, size });
        }
        Ok(())
    }

    /// The first [`LENGTH`] bytes of a file.
    pub(super) fn encode(&self) -> Result<Vec<u8>, Flaw> {
        let mut bytes = vec![0; LENGTH];
        put_bytes(&mut bytes, 0, TEXT)?;
        put_bytes(&mut bytes, at::SIGNATURE, &SIGNATURE)?;
        put_u32_le(&mut bytes, at::VERSION, 0x0001_0001)?;
        put_u32_le(&mut bytes, at::HEADER_SIZE, SIZE_PLUS)?;
        put_u32_le(&mut bytes, at::IMAGE_TYPE, self.image_type.number())?;
        let comment = self.comment.as_bytes();
        let comment = comment.get(..COMMENT_LENGTH - 1).unwrap_or(comment);
        put_bytes(&mut bytes, at::COMMENT, comment)?;
        put_u32_le(&mut bytes, at::MAP, self.map)?;
        put_u32_le(&mut bytes, at::DATA, self.data)?;
        put_u32_le(&mut bytes, at::SECTOR_SIZE, SECTOR)?;
        put_u64_le(&mut bytes, at::DISK_SIZE, self.disk_size)?;
        put_u32_le(&mut bytes, at::BLOCK_SIZE, self.block_size)?;
        put_u32_le(&mut bytes, at::BLOCK_EXTRA, self.block_extra)?;
        put_u32_le(&mut bytes, at::BLOCKS, self.blocks)?;
        put_u32_le(&mut bytes, at::ALLOCATED, self.allocated)?;
        // Geometries stay zero: VirtualBox then makes its own.
        put_u32_le(&mut bytes, at::LOGICAL_SECTOR_SIZE, SECTOR)?;
        for (at, id) in [
            (at::ID, self.id),
            (at::MODIFICATION, self.modification),
            (at::PARENT_ID, self.parent_id),
            (at::PARENT_MODIFICATION, self.parent_modification),
        ] {
            put_bytes(&mut bytes, at, &id.to_bytes_le())?;
        }
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Header {
        Header {
            image_type: ImageType::Dynamic,
            comment: "of a test".to_owned(),
            map: 512,
            data: 4096,
            disk_size: 10 << 20,
            block_size: 1 << 20,
            block_extra: 0,
            blocks: 10,
            allocated: 3,
            id: Uuid::from_u128(0x0123_4567_89ab_cdef_0123_4567_89ab_cdef),
            modification: Uuid::from_u128(2),
            parent_id: Uuid::nil(),
            parent_modification: Uuid::nil(),
        }
    }

    #[test]
    fn what_is_encoded_is_parsed() {
        for image_type in [ImageType::Dynamic, ImageType::Fixed, ImageType::Differencing] {
            let header = Header {
                image_type,
                ..sample()
            };
            assert_eq!(Header::parse(&header.encode().unwrap()), Ok(header));
        }
    }

    #[test]
    fn lies_are_refused_by_name() {
        let sound = sample().encode().unwrap();
        let lies: &[(usize, &[u8], Flaw)] = &[
            (64, &[0], Flaw::Signature),
            (68, &[1, 0, 0, 0], Flaw::Version(0, 1)),
            (68, &[2, 0, 1, 0], Flaw::Version(1, 2)),
            (72, &[0x7f, 1, 0, 0], Flaw::HeaderSize(383)),
            (76, &[3], Flaw::Undo),
            (76, &[5], Flaw::ImageType(5)),
            (360, &[0, 16, 0, 0], Flaw::SectorSize(4096)),
            (376, &[0; 4], Flaw::BlockSize(0)),
            (376, &[1, 2, 0, 0], Flaw::BlockSize(513)),
            (368, &[0xff; 8], Flaw::TooLarge(u64::MAX)),
            (
                384,
                &[9, 0, 0, 0],
                Flaw::MapTooSmall {
                    blocks: 9,
                    block: 1 << 20,
                    size: 10 << 20,
                },
            ),
        ];
        for (at, bytes, flaw) in lies {
            let mut lie = sound.clone();
            lie[*at..*at + bytes.len()].copy_from_slice(bytes);
            assert_eq!(Header::parse(&lie), Err(flaw.clone()));
        }
        for length in 0..456 {
            assert!(Header::parse(&sound[..length]).is_err(), "{length}");
        }
    }
}
