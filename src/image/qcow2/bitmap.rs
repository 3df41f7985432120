//! Persistent dirty bitmaps: "Bitmaps extension" of `docs/interop/qcow2.txt`. Only what accounting for clusters
//! needs: which clusters they take. Who writes to the image without keeping them up declares them out of date.

use super::{
    flaw::Flaw,
    header::{BitmapDirectory, Header},
    l2_table::{self, OFFSET},
};
use crate::disk::{
    Disk, Result,
    field::{u16_be, u32_be, u64_be},
};

/// Backup programs keep a handful; the format allows 65535. Directories are read whole.
const LARGEST_DIRECTORY: u64 = 1 << 20;

/// Entries of all bitmap tables together: bitmaps of a disk of 32 TiB with the usual sizes have 8192 of them each.
const MOST_ENTRIES: u64 = 4 << 20;

/// Bytes of a directory entry before its extra data and name.
const ENTRY: usize = 24;

/// Calls `each` with place, length and name of everything that the bitmaps of an image take.
pub(super) fn each_range(
    container: &dyn Disk,
    header: &Header,
    each: &mut dyn FnMut(u64, u64, &str),
) -> Result<()> {
    let Some(BitmapDirectory { offset, size }) = header.bitmaps else {
        return Ok(());
    };
    let error = |flaw: Flaw, at: u64| flaw.of(container.label()).at(at);
    let read = |offset: u64, length: u64, what: &'static str| -> Result<Vec<u8>> {
        if offset.saturating_add(length) > container.size() {
            let size = container.size();
            return Err(error(Flaw::PastTheEnd { what, offset, size }, offset));
        }
        let mut bytes = vec![0; usize::try_from(length).unwrap_or(0)];
        container.read_at(offset, &mut bytes)?;
        Ok(bytes)
    };
    if size > LARGEST_DIRECTORY {
        return Err(error(Flaw::BitmapDirectory(size), offset));
    }
    let directory = read(offset, size, "bitmap directory")?;
    each(offset, size, "the bitmap directory");
    let mut entries = 0_u64;
    let mut rest = directory.as_slice();
    while rest.len() >= ENTRY {
        let entry = parse(rest).map_err(|flaw| error(flaw, offset))?;
        entries = entries.saturating_add(u64::from(entry.entries));
        if entries > MOST_ENTRIES {
            return Err(error(Flaw::BitmapDirectory(size), offset));
        }
        let length = u64::from(entry.entries) * 8;
        each(entry.table, length, "a bitmap table");
        for word in l2_table::words(&read(entry.table, length, "bitmap table")?) {
            if word & OFFSET != 0 {
                each(word & OFFSET, header.cluster_size(), "a cluster of a bitmap");
            }
        }
        rest = rest.get(entry.length..).unwrap_or_default();
    }
    Ok(())
}

struct Entry {
    table: u64,
    entries: u32,
    /// Bytes of the directory until the next one.
    length: usize,
}

fn parse(entry: &[u8]) -> std::result::Result<Entry, Flaw> {
    let name = usize::from(u16_be(entry, 18)?);
    let extra = usize::try_from(u32_be(entry, 20)?).unwrap_or(usize::MAX);
    Ok(Entry {
        table: u64_be(entry, 0)?,
        entries: u32_be(entry, 8)?,
        length: ENTRY
            .saturating_add(name)
            .saturating_add(extra)
            .checked_next_multiple_of(8)
            .unwrap_or(usize::MAX),
    })
}

/// Parses the data of the header extension.
pub(super) fn parse_extension(data: &[u8]) -> std::result::Result<BitmapDirectory, Flaw> {
    Ok(BitmapDirectory {
        size: u64_be(data, 8)?,
        offset: u64_be(data, 16)?,
    })
}
