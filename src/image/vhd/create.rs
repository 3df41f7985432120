//! New images: their options, and a layout that follows from the disk alone.
//!
//! A fixed image is the disk, then the footer. A dynamic one is a copy of the footer, the dynamic disk header, the
//! allocation table, the blocks that hold something in the order of the disk, and the footer. Between them are a few
//! bytes so that data begins on multiples of 4096, as Windows 8 and later have it.

use super::{
    block::{ABSENT, bitmap_size},
    dynamic_header::{self, DynamicHeader},
    flaw::Flaw,
    footer::{self, CREATOR, DiskType, Footer, LARGEST_DISK},
    geometry::{Geometry, SECTOR},
    write::next_place,
};
use crate::{
    disk::{Digest, Result},
    image::{self, Format, block_sink::BlockLayout, create::switch},
};
use std::ops::Range;

/// How the disk is kept: `subformat`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// All of it, in one piece.
    Fixed,
    /// What of it holds something.
    Dynamic,
}

/// The shape of a new image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// `subformat`, dynamic unless something else is said.
    pub kind: Kind,
    /// `force_size`: the image has the size of the disk to the sector, which is the default here. Off, as it is in
    /// qemu-img, the size is rounded up to what a geometry of cylinders, heads and sectors counts: Virtual PC would not
    /// show the rest to its guest.
    pub force_size: bool,
    /// `azure`: what Azure takes: fixed, the exact size, rounded up to whole MiB.
    pub azure: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            kind: Kind::Dynamic,
            force_size: true,
            azure: false,
        }
    }
}

/// What Azure wants sizes to be a multiple of, in bytes.
const AZURE_UNIT: u64 = 1 << 20;

/// The usual block, in bytes. Others exist in the specification, and Virtual PC was never tested with them.
const BLOCK: u64 = 2 << 20;

/// Where things are in a dynamic image.
const HEADER: u64 = footer::LENGTH as u64;
const TABLE: u64 = HEADER + dynamic_header::LENGTH as u64;

impl Options {
    /// Reads `-o` and `-c`.
    ///
    /// # Errors
    /// Words that are not known, or contradict each other.
    pub fn from_words(words: &image::Options) -> Result<Self> {
        let mut options = Self::default();
        let (mut kind, mut force_size) = (None, None);
        words.each(
            Format::Vhd,
            &["subformat", "force_size", "azure"],
            |name, text| {
                match name {
                    "subformat" => {
                        kind = Some(match text {
                            "fixed" => Kind::Fixed,
                            "dynamic" => Kind::Dynamic,
                            _ => return Err("dynamic or fixed is expected".to_owned()),
                        });
                    }
                    "force_size" => force_size = Some(switch(text)?),
                    "azure" => options.azure = switch(text)?,
                    _ => return Ok(false),
                }
                Ok(true)
            },
        )?;
        let refuse = |text: &str| {
            let kind = crate::disk::Kind::Unsupported;
            Err(crate::disk::Error::new(kind, Format::Vhd.name(), text))
        };
        if words.compress {
            return refuse("cannot be compressed: leave -c out");
        }
        if options.azure {
            if kind == Some(Kind::Dynamic) {
                return refuse("option azure=on: Azure takes fixed disks only; leave subformat=dynamic out");
            }
            if force_size == Some(false) {
                return refuse("option azure=on: Azure wants exact sizes; leave force_size=off out");
            }
            options.kind = Kind::Fixed;
        }
        options.kind = kind.unwrap_or(options.kind);
        options.force_size = force_size.unwrap_or(options.force_size);
        Ok(options)
    }

    /// Size of the disk that the image shows, and its geometry, for a disk of `size` bytes.
    fn disk(self, size: u64) -> std::result::Result<(u64, Geometry), Flaw> {
        let unit = if self.azure { AZURE_UNIT } else { SECTOR };
        let size = size.checked_next_multiple_of(unit).unwrap_or(u64::MAX);
        let sectors = size / SECTOR;
        let covering = Geometry::covering(sectors);
        let exact = covering.total() == sectors;
        // The greatest geometry says that the size is what is meant, whoever the creator is.
        let geometry = if self.force_size && !exact {
            Geometry::GREATEST
        } else {
            covering
        };
        let size = if geometry == Geometry::GREATEST {
            size
        } else {
            geometry.total() * SECTOR
        };
        if size > LARGEST_DISK {
            return Err(Flaw::TooLarge(size));
        }
        Ok((size, geometry))
    }
}

/// The footer of a new image of a disk of `size` bytes in the file called `name`.
pub(super) fn new_footer(name: &str, size: u64, options: Options) -> std::result::Result<Footer, Flaw> {
    let (disk, geometry) = options.disk(size)?;
    let (disk_type, data_offset) = match options.kind {
        Kind::Fixed => (DiskType::Fixed, u64::MAX),
        Kind::Dynamic => (DiskType::Dynamic, HEADER),
    };
    Ok(Footer {
        disk_type,
        data_offset,
        // The same disk gives the same file, whenever it is made.
        timestamp: 0,
        creator: CREATOR,
        creator_version: 0x0001_0000,
        creator_host: *b"Wi2k",
        original_size: disk,
        current_size: disk,
        geometry,
        unique_id: unique_id(name, disk, disk_type),
        saved_state: false,
    })
}

/// An id that follows from what the image is: RFC 9562, version 8. Disks of one machine have different names.
fn unique_id(name: &str, size: u64, disk_type: DiskType) -> [u8; 16] {
    let facts = format!("rehome vpc {} {size} {name}", disk_type.name());
    let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p, ..] = Digest::of(facts.as_bytes()).0;
    *uuid::Builder::from_custom_bytes([a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p])
        .into_uuid()
        .as_bytes()
}

/// Where things are in a new dynamic image.
#[derive(Debug)]
pub(super) struct Layout {
    /// Of the disk that is put, in bytes; the image's may be larger.
    size: u64,
    entries: u32,
    header: Vec<u8>,
    footer: Vec<u8>,
    /// The bitmap of a block: all its sectors are there.
    bitmap: Vec<u8>,
    first: u64,
}

impl Layout {
    /// For a disk of `size` bytes that `footer` describes.
    pub(super) fn new(size: u64, footer: &Footer) -> std::result::Result<Self, Flaw> {
        // Within LARGEST_DISK, about a million.
        let entries = u32::try_from(footer.current_size.div_ceil(BLOCK)).unwrap_or(u32::MAX);
        let header = DynamicHeader {
            table_offset: TABLE,
            entries,
            block_size: u32::try_from(BLOCK).unwrap_or(u32::MAX),
            parent_id: [0; 16],
            parent_timestamp: 0,
            parent_name: String::new(),
            locators: Vec::new(),
        };
        let bitmap = vec![0xff; usize::try_from(bitmap_size(BLOCK)).unwrap_or(0)];
        let table_end = TABLE + (u64::from(entries) * 4).next_multiple_of(SECTOR);
        Ok(Self {
            size,
            entries,
            header: header.encode()?,
            footer: footer.encode()?,
            first: next_place(table_end, bitmap.len() as u64),
            bitmap,
        })
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
        TABLE..TABLE + u64::from(self.entries) * 4
    }

    fn entry(&self, block: u64) -> u64 {
        block * 4
    }

    fn encode(&self, place: u64) -> std::result::Result<Vec<u8>, &'static str> {
        match u32::try_from(place / SECTOR) {
            Ok(sector) if sector != ABSENT => Ok(sector.to_be_bytes().to_vec()),
            _ => Err("has no place left that its allocation table could name: make a VHDX"),
        }
    }

    fn decode(&self, entry: &[u8]) -> Option<u64> {
        let sector = u32::from_be_bytes(*entry.first_chunk()?);
        (sector != ABSENT).then(|| u64::from(sector) * SECTOR)
    }

    fn place(&self, slot: u64) -> u64 {
        let bitmap = self.bitmap.len() as u64;
        self.first + slot * (next_place(BLOCK, bitmap) + bitmap)
    }

    fn prefix(&self) -> &[u8] {
        &self.bitmap
    }

    fn head(&self, put: &mut dyn FnMut(u64, &[u8]) -> Result<()>) -> Result<()> {
        put(0, &self.footer)?;
        put(HEADER, &self.header)?;
        let length = (u64::from(self.entries) * 4).next_multiple_of(SECTOR);
        let absent = vec![0xff; 64 << 10];
        let mut at = 0;
        while at < length {
            let count = (length - at).min(absent.len() as u64);
            let count = usize::try_from(count).unwrap_or(0);
            put(TABLE + at, absent.get(..count).unwrap_or_default())?;
            at += count as u64;
        }
        Ok(())
    }

    fn trailer(&self) -> &[u8] {
        &self.footer
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

    #[test]
    fn options_are_those_of_qemu_img_and_one_more() {
        assert_eq!(options("").unwrap(), Options::default());
        let fixed = options("subformat=fixed,force_size=off").unwrap();
        assert_eq!((fixed.kind, fixed.force_size), (Kind::Fixed, false));
        let azure = options("azure=on").unwrap();
        assert_eq!(
            (azure.kind, azure.force_size, azure.azure),
            (Kind::Fixed, true, true)
        );
        for (text, expected) in [
            ("subformat=thin", "dynamic or fixed"),
            ("force_size=1", "on or off"),
            ("block_size=1M", "there are: subformat, force_size, azure"),
            ("azure=on,subformat=dynamic", "fixed disks only"),
            ("azure=on,force_size=off", "exact sizes"),
        ] {
            let error = options(text).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn sizes_are_exact_unless_something_else_is_asked_for() {
        let size = |size: u64, text: &str| {
            let footer = new_footer("sda.vhd", size, options(text).unwrap()).unwrap();
            assert_eq!(footer.disk_size(), footer.current_size);
            footer.current_size
        };
        assert_eq!(size(4 << 20, ""), 4 << 20);
        assert_eq!(size((4 << 20) + 1, ""), (4 << 20) + 512);
        assert_eq!(size(4 << 20, "force_size=off"), 4_212_736);
        assert_eq!(size(4_212_736, ""), 4_212_736);
        assert_eq!(size((4 << 20) + 512, "azure=on"), 5 << 20);
        assert_eq!(size(4_212_736, "azure=on"), 5 << 20);
        assert_eq!(size(LARGEST_DISK, ""), LARGEST_DISK);
        let too_large = new_footer("sda.vhd", LARGEST_DISK + 1, Options::default());
        assert!(matches!(too_large, Err(Flaw::TooLarge(_))));
    }

    #[test]
    fn ids_follow_from_the_disk() {
        let id = |name, size| unique_id(name, size, DiskType::Dynamic);
        assert_eq!(id("a", 1), id("a", 1));
        assert_ne!(id("a", 1), id("b", 1));
        assert_ne!(id("a", 1), id("a", 2));
        assert_eq!(uuid::Uuid::from_bytes(id("a", 1)).get_version_num(), 8);
    }
}
