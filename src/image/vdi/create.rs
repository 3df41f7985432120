//! New images: their options, and a layout that follows from the disk alone.
//!
//! The header, at 1 MiB the block map, at the next MiB behind it the blocks: as VirtualBox lays disks out, so that data is
//! aligned. Dynamic: the blocks that hold something, in the order of the disk. Fixed: all of them.

use super::{
    block_map::{UNALLOCATED, ZERO},
    flaw::Flaw,
    header::{Header, ImageType, LARGEST_DISK},
};
use crate::{
    disk::{Digest, Error, Kind, Result},
    image::{self, Format, block_sink::BlockLayout, create::switch},
};
use std::ops::Range;
use uuid::Uuid;

/// The shape of a new image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// `static`: all blocks have a place from the start. Off, as in qemu-img, unless something else is said.
    pub fixed: bool,
}

impl Options {
    /// Reads `-o` and `-c`.
    ///
    /// # Errors
    /// Words that are not known.
    pub fn from_words(words: &image::Options) -> Result<Self> {
        let mut options = Self::default();
        words.each(Format::Vdi, &["static"], |name, text| {
            match name {
                "static" => options.fixed = switch(text)?,
                _ => return Ok(false),
            }
            Ok(true)
        })?;
        if words.compress {
            let text = "cannot be compressed: leave -c out";
            return Err(Error::new(Kind::Unsupported, Format::Vdi.name(), text));
        }
        Ok(options)
    }
}

/// The usual block, and what structures are aligned to, in bytes. qemu reads no other block.
pub(super) const BLOCK: u64 = 1 << 20;

/// The structures are put in pieces of this size, in bytes.
const PIECE: u64 = 64 << 10;

/// Where things are in a new image.
#[derive(Debug)]
pub(super) struct Layout {
    /// Of the disk that is put, in bytes; the image's is rounded up to sectors.
    size: u64,
    /// Without what is known only at the end: the count of blocks that have a place, and the UUIDs.
    pub(super) header: Header,
}

impl Layout {
    /// For a disk of `size` bytes.
    pub(super) fn new(size: u64, options: Options) -> std::result::Result<Self, Flaw> {
        let too_large = || Flaw::TooLarge(size);
        let disk_size = size
            .checked_next_multiple_of(512)
            .filter(|size| *size <= LARGEST_DISK)
            .ok_or_else(too_large)?;
        let blocks = u32::try_from(disk_size.div_ceil(BLOCK)).map_err(|_| too_large())?;
        let data = BLOCK + (u64::from(blocks) * 4).next_multiple_of(BLOCK);
        let header = Header {
            image_type: if options.fixed {
                ImageType::Fixed
            } else {
                ImageType::Dynamic
            },
            comment: String::new(),
            map: u32::try_from(BLOCK).unwrap_or(u32::MAX),
            data: u32::try_from(data).map_err(|_| too_large())?,
            disk_size,
            block_size: u32::try_from(BLOCK).unwrap_or(u32::MAX),
            block_extra: 0,
            blocks,
            allocated: 0,
            id: Uuid::nil(),
            modification: Uuid::nil(),
            parent_id: Uuid::nil(),
            parent_modification: Uuid::nil(),
        };
        Ok(Self { size, header })
    }

    /// Where the data of a fixed disk is.
    pub(super) fn data(&self) -> Range<u64> {
        let start = u64::from(self.header.data);
        start..start + u64::from(self.header.blocks) * BLOCK
    }

    /// Puts all that is before the first block; `entry` gives that of each block in the map.
    pub(super) fn put_head(
        &self,
        entry: impl Fn(u32) -> u32,
        put: &mut dyn FnMut(u64, &[u8]) -> Result<()>,
    ) -> Result<()> {
        let header = self.header.encode().map_err(|flaw| flaw.of(Format::Vdi.name()))?;
        put(0, &header)?;
        let start = u64::from(self.header.map);
        let mut piece = Vec::new();
        let mut at = start;
        for block in 0..self.header.blocks {
            piece.extend_from_slice(&entry(block).to_le_bytes());
            if piece.len() as u64 == PIECE || block + 1 == self.header.blocks {
                put(at, &piece)?;
                at += piece.len() as u64;
                piece.clear();
            }
        }
        Ok(())
    }
}

impl BlockLayout for Layout {
    fn size(&self) -> u64 {
        self.size
    }

    fn block(&self) -> u64 {
        BLOCK
    }

    fn table(&self) -> Range<u64> {
        let start = u64::from(self.header.map);
        start..start + u64::from(self.header.blocks) * 4
    }

    fn entry(&self, block: u64) -> u64 {
        block * 4
    }

    fn encode(&self, place: u64) -> std::result::Result<Vec<u8>, &'static str> {
        let index = place.saturating_sub(self.data().start) / BLOCK;
        match u32::try_from(index) {
            Ok(index) if index < ZERO => Ok(index.to_le_bytes().to_vec()),
            _ => Err("has no place left that its block map could name"),
        }
    }

    fn decode(&self, entry: &[u8]) -> Option<u64> {
        let index = u32::from_le_bytes(*entry.first_chunk()?);
        (index < ZERO).then(|| self.place(index.into()))
    }

    fn place(&self, slot: u64) -> u64 {
        self.data().start + slot * BLOCK
    }

    fn prefix(&self) -> &[u8] {
        &[]
    }

    fn head(&self, put: &mut dyn FnMut(u64, &[u8]) -> Result<()>) -> Result<()> {
        self.put_head(|_| UNALLOCATED, put)
    }

    fn trailer(&self) -> &[u8] {
        &[]
    }
}

/// How much of a disk decides about its UUID: tables and UUIDs of its own lie here.
pub(super) const BEGINNING: u64 = 1 << 20;

/// A UUID that follows from what the image is: RFC 9562, version 8. VirtualBox takes no two disks of one UUID, so the
/// beginning of the disk has its part in it, where other disks of the same name and size have other contents.
pub(super) fn id(what: &str, name: &str, header: &Header, beginning: &[u8]) -> Uuid {
    let facts = format!(
        "rehome vdi {what} {} {} {} {name}",
        header.image_type.name(),
        header.disk_size,
        Digest::of(beginning)
    );
    let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p, ..] = Digest::of(facts.as_bytes()).0;
    uuid::Builder::from_custom_bytes([a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p]).into_uuid()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_layout_is_aligned_and_ends_where_the_format_does() {
        for (size, blocks, data) in [
            (0, 0, 1 << 20),
            (1, 1, 2 << 20),
            ((1 << 20) + 512, 2, 2 << 20),
            (1 << 40, 1 << 20, 5 << 20),
            (64 << 40, 64 << 20, 257 << 20),
        ] {
            let header = Layout::new(size, Options::default()).unwrap().header;
            assert_eq!((header.blocks, header.data), (blocks, data), "{size}");
            assert!(header.disk_size >= size && header.disk_size.is_multiple_of(512));
        }
        for size in [u64::MAX, LARGEST_DISK + 1, LARGEST_DISK] {
            assert_eq!(
                Layout::new(size, Options::default()).unwrap_err(),
                Flaw::TooLarge(size)
            );
        }
    }

    #[test]
    fn ids_follow_from_the_disk() {
        let header = |size| Layout::new(size, Options::default()).unwrap().header;
        let first = id("image", "a", &header(512), &[1]);
        assert_eq!(first, id("image", "a", &header(512), &[1]));
        assert_ne!(first, id("image", "b", &header(512), &[1]));
        assert_ne!(first, id("image", "a", &header(1024), &[1]));
        assert_ne!(first, id("image", "a", &header(512), &[2]));
        assert_ne!(first, id("modification", "a", &header(512), &[1]));
        assert_eq!(first.get_version_num(), 8);
    }
}
