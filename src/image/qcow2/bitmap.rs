//! Persistent dirty bitmaps: "Bitmaps extension" of `docs/interop/qcow2.txt`. What they are called and which clusters
//! they take, not their bits. Who writes to the image without keeping them up declares them out of date.

use super::{
    flaw::Flaw,
    header::{BitmapDirectory, Header},
    l2_table::{self, OFFSET},
};
use crate::disk::{
    Disk, Result,
    field::{bytes_at, u8_at, u16_be, u32_be, u64_be},
};

/// Backup programs keep a handful; the format allows 65535. Directories are read whole.
const LARGEST_DIRECTORY: u64 = 1 << 20;

/// Entries of all bitmap tables together: bitmaps of a disk of 32 TiB with the usual sizes have 8192 of them each.
const MOST_ENTRIES: u64 = 4 << 20;

/// Bytes of a directory entry before its extra data and name.
const ENTRY: usize = 24;

/// A bitmap, as its directory entry has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Bitmap {
    table: u64,
    /// Entries of the table.
    entries: u32,
    /// Was not saved in order: says nothing.
    in_use: bool,
    /// Notes writes as soon as the image is opened.
    auto: bool,
    granularity_bits: u8,
    name: Vec<u8>,
}

impl Bitmap {
    /// Name, and what qemu-img says of it.
    pub(super) fn describe(&self) -> (String, String) {
        let name = String::from_utf8_lossy(&self.name).into_owned();
        let granularity = 1_u64.checked_shl(u32::from(self.granularity_bits));
        let mut text = format!("granularity {}", granularity.unwrap_or(0));
        for (flag, word) in [(self.in_use, "in-use"), (self.auto, "auto")] {
            if flag {
                text.push_str(", ");
                text.push_str(word);
            }
        }
        (name, text)
    }
}

/// Reads the directory.
pub(super) fn read(container: &dyn Disk, header: &Header) -> Result<Vec<Bitmap>> {
    let Some(BitmapDirectory { offset, size }) = header.bitmaps else {
        return Ok(Vec::new());
    };
    let error = |flaw: Flaw| flaw.of(container.label()).at(offset);
    if size > LARGEST_DIRECTORY {
        return Err(error(Flaw::BitmapDirectory(size)));
    }
    let directory = read_bytes(container, offset, size, "bitmap directory")?;
    let mut bitmaps = Vec::new();
    let mut entries = 0_u64;
    let mut rest = directory.as_slice();
    while rest.len() >= ENTRY {
        let (bitmap, length) = parse(rest).map_err(error)?;
        entries = entries.saturating_add(u64::from(bitmap.entries));
        if entries > MOST_ENTRIES {
            return Err(error(Flaw::BitmapDirectory(size)));
        }
        bitmaps.push(bitmap);
        rest = rest.get(length..).unwrap_or_default();
    }
    Ok(bitmaps)
}

/// Calls `each` with place, length and name of everything that the bitmaps of an image take.
pub(super) fn each_range(
    container: &dyn Disk,
    header: &Header,
    each: &mut dyn FnMut(u64, u64, &str),
) -> Result<()> {
    let Some(BitmapDirectory { offset, size }) = header.bitmaps else {
        return Ok(());
    };
    let bitmaps = read(container, header)?;
    each(offset, size, "the bitmap directory");
    for bitmap in bitmaps {
        let length = u64::from(bitmap.entries) * 8;
        each(bitmap.table, length, "a bitmap table");
        let table = read_bytes(container, bitmap.table, length, "bitmap table")?;
        for word in l2_table::words(&table) {
            if word & OFFSET != 0 {
                each(word & OFFSET, header.cluster_size(), "a cluster of a bitmap");
            }
        }
    }
    Ok(())
}

fn read_bytes(container: &dyn Disk, offset: u64, length: u64, what: &'static str) -> Result<Vec<u8>> {
    let size = container.size();
    if offset.saturating_add(length) > size {
        return Err(Flaw::PastTheEnd { what, offset, size }
            .of(container.label())
            .at(offset));
    }
    let mut bytes = vec![0; usize::try_from(length).unwrap_or(0)];
    container.read_at(offset, &mut bytes)?;
    Ok(bytes)
}

/// The entry at the beginning of `entry`, and the bytes of the directory until the next one.
fn parse(entry: &[u8]) -> std::result::Result<(Bitmap, usize), Flaw> {
    let flags = u32_be(entry, 12)?;
    let name = usize::from(u16_be(entry, 18)?);
    let extra = usize::try_from(u32_be(entry, 20)?).unwrap_or(usize::MAX);
    let name_at = ENTRY.saturating_add(extra);
    let bitmap = Bitmap {
        table: u64_be(entry, 0)?,
        entries: u32_be(entry, 8)?,
        in_use: flags & 1 != 0,
        auto: flags & 2 != 0,
        granularity_bits: u8_at(entry, 17)?,
        name: bytes_at(entry, name_at, name)?.to_vec(),
    };
    let end = name_at.saturating_add(name).checked_next_multiple_of(8);
    Ok((bitmap, end.unwrap_or(usize::MAX)))
}

/// Parses the data of the header extension.
pub(super) fn parse_extension(data: &[u8]) -> std::result::Result<BitmapDirectory, Flaw> {
    Ok(BitmapDirectory {
        size: u64_be(data, 8)?,
        offset: u64_be(data, 16)?,
    })
}
