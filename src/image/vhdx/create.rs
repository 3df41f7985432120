//! New images: their options, and a layout that follows from the disk alone.
//!
//! The header section, the log (empty), the metadata region, the allocation table, and the blocks that hold something
//! in the order of the disk; all of them in a fixed image.

use super::{
    MIB,
    block::{Geometry, PLACE, state},
    derived_id,
    flaw::Flaw,
    header::{self, Header, SECTION, SIGNATURE},
    metadata::{self, Metadata},
    region,
};
use crate::{
    disk::Result,
    image::{
        self, Format, Shape,
        block_sink::BlockLayout,
        create::{bytes, switch},
    },
};
use std::ops::Range;
use uuid::Uuid;

/// How the disk is kept: `subformat`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// All of it.
    Fixed,
    /// What of it holds something.
    Dynamic,
}

/// The shape of a new image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// `subformat`, dynamic unless something else is said.
    pub kind: Kind,
    /// `block_size` in bytes, a power of two from 1 MiB to 256 MiB; 0: by the size of the disk, as qemu-img has it.
    pub block_size: u32,
    /// `log_size` in bytes, whole MiB; 1 MiB unless something else is said.
    pub log_size: u32,
    /// `block_state_zero`: blocks that hold nothing are marked as zeros, which is the default here and in qemu-img.
    /// Off, they are marked as not present: every program reads zeros there too, but the specification lets it read
    /// anything.
    pub block_state_zero: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            kind: Kind::Dynamic,
            block_size: 0,
            log_size: 1 << 20,
            block_state_zero: true,
        }
    }
}

impl Options {
    /// Reads `-o` and `-c`.
    ///
    /// # Errors
    /// Words that are not known.
    pub fn from_words(words: &image::Options) -> Result<Self> {
        let mut options = Self::default();
        let known = ["subformat", "block_size", "log_size", "block_state_zero"];
        words.each(Format::Vhdx, &known, |name, text| {
            let number = |text: &str| -> std::result::Result<u32, String> {
                u32::try_from(bytes(text)?).map_err(|_| "less than 4 GiB is expected".to_owned())
            };
            match name {
                "subformat" => {
                    options.kind = match text {
                        "fixed" => Kind::Fixed,
                        "dynamic" => Kind::Dynamic,
                        _ => return Err("dynamic or fixed is expected".to_owned()),
                    };
                }
                "block_size" => {
                    let size = number(text)?;
                    let possible = size.is_power_of_two() && (1 << 20..=256 << 20).contains(&size);
                    if size != 0 && !possible {
                        return Err("a power of two from 1M to 256M is expected".to_owned());
                    }
                    options.block_size = size;
                }
                "log_size" => {
                    let size = number(text)?;
                    if size == 0 || !u64::from(size).is_multiple_of(MIB) {
                        return Err("whole MiB are expected".to_owned());
                    }
                    options.log_size = size;
                }
                "block_state_zero" => options.block_state_zero = switch(text)?,
                _ => return Ok(false),
            }
            Ok(true)
        })?;
        if words.compress {
            let text = "cannot be compressed: leave -c out";
            let kind = crate::disk::Kind::Unsupported;
            return Err(crate::disk::Error::new(kind, Format::Vhdx.name(), text));
        }
        Ok(options)
    }

    /// Bytes of a block of a disk of `size` bytes.
    fn block_size_for(self, size: u64) -> u32 {
        const GIB: u64 = 1 << 30;
        match size {
            _ if self.block_size != 0 => self.block_size,
            size if size > 32 << 40 => 64 << 20,
            size if size > 100 * GIB => 32 << 20,
            size if size > GIB => 16 << 20,
            _ => 8 << 20,
        }
    }
}

/// Where things are in a new image.
#[derive(Debug)]
pub(super) struct Layout {
    /// Of the disk that is put, in bytes; the image's may be larger.
    size: u64,
    options: Options,
    pub(super) geometry: Geometry,
    metadata: Metadata,
    header: Header,
    bat: Range<u64>,
    metadata_region: Range<u64>,
}

impl Layout {
    /// For a disk of `shape` in the file called `name`.
    pub(super) fn new(shape: &Shape, name: &str, options: Options) -> std::result::Result<Self, Flaw> {
        let sector = u64::from(shape.sector_size);
        let size = shape.size.checked_next_multiple_of(sector.max(1));
        let size = size.ok_or(Flaw::Size(shape.size))?;
        let mut metadata = Metadata {
            block_size: options.block_size_for(size),
            leave_allocated: options.kind == Kind::Fixed,
            size,
            disk_id: Uuid::nil(),
            logical_sector: shape.sector_size,
            // A larger one would be a promise that programs in the guest lay out their files by.
            physical_sector: shape.sector_size,
            locator: None,
        };
        metadata.validate()?;
        // Identifiers follow from what the image is; disks of one machine have different names.
        let id = |what: &str| {
            let facts = format!("rehome vhdx {what} {name} {metadata:?} {}", options.log_size);
            derived_id(facts.as_bytes())
        };
        let header = Header {
            sequence: 1,
            file_write: id("file"),
            data_write: id("data"),
            log: Uuid::nil(),
            log_version: 0,
            log_length: options.log_size,
            log_offset: SECTION,
        };
        metadata.disk_id = id("disk");
        let geometry = Geometry::of(&metadata);
        let metadata_start = SECTION + u64::from(options.log_size);
        let bat_start = metadata_start + metadata::LENGTH;
        let bat_length = (geometry.entries() * 8).max(1).next_multiple_of(MIB);
        Ok(Self {
            size: shape.size,
            options,
            geometry,
            metadata,
            header,
            metadata_region: metadata_start..bat_start,
            bat: bat_start..bat_start + bat_length,
        })
    }

    /// Where the first block is.
    pub(super) fn data(&self) -> u64 {
        self.bat.end
    }

    /// The pieces that are the same whatever the disk holds.
    fn fixed_pieces(&self) -> std::result::Result<Vec<(u64, Vec<u8>)>, Flaw> {
        let mut identifier = SIGNATURE.to_vec();
        identifier.extend("rehome".encode_utf16().flat_map(u16::to_le_bytes));
        let regions = region::encode(self.bat.clone(), self.metadata_region.clone())?;
        let second = Header {
            sequence: self.header.sequence + 1,
            ..self.header.clone()
        };
        let mut pieces = vec![
            (0, identifier),
            (self.metadata_region.start, self.metadata.encode()?),
        ];
        pieces.extend(region::PLACES.into_iter().map(|at| (at, regions.clone())));
        for (at, header) in header::PLACES.into_iter().zip([&self.header, &second]) {
            pieces.push((at, header.encode()?));
        }
        pieces.sort_by_key(|(at, _)| *at);
        Ok(pieces)
    }

    /// The table of a new image, in pieces.
    fn put_table(&self, put: &mut dyn FnMut(u64, &[u8]) -> Result<()>) -> Result<()> {
        let fixed = self.options.kind == Kind::Fixed;
        if !fixed && !self.options.block_state_zero {
            return Ok(());
        }
        let entries = self.geometry.entries();
        let mut place = self.data();
        let mut number = 0;
        while number < entries {
            let mut piece = Vec::with_capacity(64 << 10);
            while number + (piece.len() as u64 / 8) < entries && piece.len() < 64 << 10 {
                let entry = if self.geometry.is_bitmap(number + piece.len() as u64 / 8) {
                    0
                } else if fixed {
                    place += self.geometry.block;
                    (place - self.geometry.block) | state::FULLY_PRESENT
                } else {
                    state::ZERO
                };
                piece.extend(entry.to_le_bytes());
            }
            put(self.bat.start + number * 8, &piece)?;
            number += piece.len() as u64 / 8;
        }
        Ok(())
    }
}

impl BlockLayout for Layout {
    fn size(&self) -> u64 {
        self.size
    }

    fn block(&self) -> u64 {
        self.geometry.block
    }

    fn table(&self) -> Range<u64> {
        self.bat.start..self.bat.start + self.geometry.entries() * 8
    }

    fn entry(&self, block: u64) -> u64 {
        self.geometry.entry(block) * 8
    }

    fn encode(&self, place: u64) -> std::result::Result<Vec<u8>, &'static str> {
        Ok((place & PLACE | state::FULLY_PRESENT).to_le_bytes().to_vec())
    }

    fn decode(&self, entry: &[u8]) -> Option<u64> {
        let entry = u64::from_le_bytes(*entry.first_chunk()?);
        (entry & state::MASK == state::FULLY_PRESENT).then_some(entry & PLACE)
    }

    fn place(&self, slot: u64) -> u64 {
        self.data() + slot * self.geometry.block
    }

    fn prefix(&self) -> &[u8] {
        &[]
    }

    fn head(&self, put: &mut dyn FnMut(u64, &[u8]) -> Result<()>) -> Result<()> {
        let pieces = self.fixed_pieces().map_err(|flaw| flaw.of(Format::Vhdx.name()))?;
        for (at, piece) in pieces {
            put(at, &piece)?;
        }
        self.put_table(put)
    }

    fn trailer(&self) -> &[u8] {
        &[]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(text: &str) -> Result<Options> {
        let mut words = image::Options::default();
        words.add(text).unwrap();
        Options::from_words(&words)
    }

    fn layout(size: u64, sector_size: u32, text: &str) -> std::result::Result<Layout, Flaw> {
        let shape = Shape {
            format: Format::Vhdx,
            size,
            sector_size,
            options: image::Options::default(),
        };
        Layout::new(&shape, "sda.vhdx", options(text).unwrap())
    }

    #[test]
    fn options_are_those_of_qemu_img() {
        assert_eq!(options("").unwrap(), Options::default());
        let all = options("subformat=fixed,block_size=2M,log_size=4194304,block_state_zero=off").unwrap();
        assert_eq!(
            (all.kind, all.block_size, all.log_size),
            (Kind::Fixed, 2 << 20, 4 << 20)
        );
        assert!(!all.block_state_zero);
        for (text, expected) in [
            ("subformat=thin", "dynamic or fixed"),
            ("block_size=3M", "power of two"),
            ("block_size=512M", "power of two"),
            ("block_size=8G", "less than 4 GiB"),
            ("log_size=0", "whole MiB"),
            ("log_size=1000", "whole MiB"),
            (
                "cluster_size=1M",
                "there are: subformat, block_size, log_size, block_state_zero",
            ),
        ] {
            let error = options(text).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn blocks_are_as_large_as_qemu_img_makes_them() {
        let block = |size| layout(size, 512, "").unwrap().geometry.block;
        assert_eq!(block(1 << 30), 8 << 20);
        assert_eq!(block((1 << 30) + 512), 16 << 20);
        assert_eq!(block((100 << 30) + 512), 32 << 20);
        assert_eq!(block(64 << 40), 64 << 20);
        assert!(matches!(layout((64 << 40) + 512, 512, ""), Err(Flaw::Size(_))));
        assert!(matches!(layout(1 << 30, 520, ""), Err(Flaw::SectorSize(..))));
        assert_eq!(layout(5000, 4096, "").unwrap().geometry.size, 8192);
    }

    #[test]
    fn identifiers_differ_from_each_other_and_from_disk_to_disk() {
        let one = layout(1 << 30, 512, "").unwrap();
        let ids = |layout: &Layout| {
            [
                layout.header.file_write,
                layout.header.data_write,
                layout.metadata.disk_id,
            ]
        };
        let mut all = ids(&one).to_vec();
        all.extend(ids(&layout(1 << 29, 512, "").unwrap()));
        all.extend(ids(&layout(1 << 30, 4096, "").unwrap()));
        all.sort();
        all.dedup();
        assert_eq!(all.len(), 9);
        assert_eq!(ids(&one), ids(&layout(1 << 30, 512, "").unwrap()));
    }
}
