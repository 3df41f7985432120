//! Writing into an image that is there: what an edit in place needs. A new block goes to the end of the file, before
//! the footer, in an order that leaves a whole image at every moment: first the footer in its new place, the bitmap
//! and the data, then, when those are lasting, the entry that leads to them.

use super::{
    block::{ABSENT, Blocks},
    check::check,
    disk::Vhd,
    footer::{DiskType, LENGTH},
    geometry::SECTOR,
};
use crate::{
    disk::{Disk, Error, Kind, Result, check_range},
    image::Neighbours,
};
use std::{
    ops::Range,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// Data of a block begins on a multiple of this, as Windows 8 and later have it: for host disks with such sectors, and
/// so that the host can share it.
pub(super) const ALIGNMENT: u64 = 4096;

/// What writing needs beside what reading does. Held while a block is changed.
#[derive(Debug)]
pub(super) struct Writer {
    /// Where the footer is, and so the next block may begin.
    end: u64,
    footer: Vec<u8>,
}

/// What is written.
#[derive(Clone, Copy)]
enum New<'a> {
    Bytes(&'a [u8]),
    Zeros,
    /// Nobody needs what is there.
    Nothing,
}

/// Where a block whose bitmap has `bitmap` bytes may begin, from `end` on.
pub(super) fn next_place(end: u64, bitmap: u64) -> u64 {
    (end + bitmap).next_multiple_of(ALIGNMENT) - bitmap
}

impl Vhd {
    /// Opens the image in `container`, which must be writable and, for a dynamic disk, able to grow. Only fixed and
    /// dynamic disks are written.
    pub fn open_writable(container: Arc<dyn Disk>, neighbours: &dyn Neighbours) -> Result<Self> {
        let mut disk = Self::open(container, neighbours)?;
        let refuse = |kind, text: &str| Err(Error::new(kind, disk.label(), text));
        if disk.footer().disk_type == DiskType::Differencing {
            let text = "is a differencing disk and is not written in place: `rehome image convert` makes one disk of it and \
                        its parent";
            return refuse(Kind::Unsupported, text);
        }
        if disk.footer().saved_state {
            let text = "belongs to a machine that is suspended, and an edit would harm it: start that machine and shut it \
                        down";
            return refuse(Kind::Unsafe, text);
        }
        if let Some(error) = check(&disk, disk.footer_place()?)?.found.errors.first() {
            let text = format!(
                "is not sound and is not written in place: {error}. `rehome image convert` makes a sound one of it"
            );
            return refuse(Kind::Unsafe, &text);
        }
        let end = disk.footers.last.unwrap_or(disk.container.size());
        // One of 511 bytes is followed by a zero.
        let mut footer = vec![0; LENGTH];
        let there = usize::try_from(disk.container.size() - end)
            .unwrap_or(0)
            .min(LENGTH);
        disk.container
            .read_at(end, footer.get_mut(..there).unwrap_or_default())?;
        disk.writer = Some(Mutex::new(Writer { end, footer }));
        Ok(disk)
    }

    fn writer(&self) -> Result<MutexGuard<'_, Writer>> {
        let writer = self
            .writer
            .as_ref()
            .ok_or_else(|| Error::new(Kind::ReadOnly, self.label(), "opened for reading only"))?;
        Ok(writer.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Where the footer is now; the end of the file if there is none.
    pub(super) fn footer_place(&self) -> Result<u64> {
        match &self.writer {
            Some(_) => Ok(self.writer()?.end),
            None => Ok(self.footers.last.unwrap_or(self.container.size())),
        }
    }

    /// Cuts off what nothing refers to before the footer. What lies between blocks stays.
    pub(super) fn cut_leaks(&self) -> Result<u64> {
        let mut writer = self.writer()?;
        let checked = check(self, writer.end)?;
        if let Some(error) = checked.found.errors.first() {
            let text = format!("is not sound, and nothing of it is cut off: {error}");
            return Err(Error::new(Kind::Unsafe, self.label(), text));
        }
        if self.blocks.is_none() || checked.end >= writer.end {
            return Ok(0);
        }
        let freed = writer.end - checked.end;
        self.container.write_at(checked.end, &writer.footer)?;
        self.container.flush()?;
        self.container.set_size(checked.end + LENGTH as u64)?;
        writer.end = checked.end;
        Ok(freed)
    }

    pub(super) fn write_bytes(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        let end = check_range(self.label(), self.size(), offset, bytes.len() as u64)?;
        self.change(offset..end, New::Bytes(bytes))
    }

    pub(super) fn zero_bytes(&self, range: Range<u64>) -> Result<()> {
        let length = range.end.saturating_sub(range.start);
        check_range(self.label(), self.size(), range.start, length)?;
        self.change(range, New::Zeros)
    }

    pub(super) fn discard_bytes(&self, range: Range<u64>) -> Result<()> {
        let length = range.end.saturating_sub(range.start);
        check_range(self.label(), self.size(), range.start, length)?;
        if self.writer.is_none() {
            return Ok(());
        }
        self.change(range, New::Nothing)
    }

    fn change(&self, range: Range<u64>, new: New<'_>) -> Result<()> {
        let mut writer = self.writer()?;
        let mut at = range.start;
        while at < range.end {
            // What is not there is looked at block by block.
            let end = match &self.blocks {
                Some(blocks) => range
                    .end
                    .min((at / blocks.size() + 1).saturating_mul(blocks.size())),
                None => range.end,
            };
            let run = self.run(at, end)?;
            let part = at..at + run.length;
            let piece = match new {
                New::Bytes(bytes) => New::Bytes(window(bytes, range.start, &part)),
                other => other,
            };
            match (run.host, &self.blocks) {
                (Some(host), _) => self.overwrite(host, run.length, piece)?,
                (None, Some(blocks)) => self.fill(&mut writer, blocks, part, piece)?,
                (None, None) => {}
            }
            at += run.length;
        }
        Ok(())
    }

    /// Changes `length` bytes that are in the file at `host`.
    fn overwrite(&self, host: u64, length: u64, new: New<'_>) -> Result<()> {
        match new {
            New::Bytes(bytes) => self.container.write_at(host, bytes),
            New::Zeros => self.container.write_zeros(host..host + length),
            New::Nothing => self.container.discard(host..host + length),
        }
    }

    /// Writes to bytes of one block that the file does not have yet: neither the block, or not these sectors of it.
    fn fill(&self, writer: &mut Writer, blocks: &Blocks, part: Range<u64>, new: New<'_>) -> Result<()> {
        // Zeros are there already: a disk without a parent has them where it has nothing.
        let New::Bytes(bytes) = new else {
            return Ok(());
        };
        let container = self.container.as_ref();
        let block = part.start / blocks.size();
        let start = block * blocks.size();
        // Whole sectors: what lies around the bytes is zeros.
        let sectors = (part.start - start) / SECTOR..(part.end - start).div_ceil(SECTOR);
        let mut whole = vec![0; usize::try_from((sectors.end - sectors.start) * SECTOR).unwrap_or(0)];
        let within = usize::try_from(part.start - start - sectors.start * SECTOR).unwrap_or(usize::MAX);
        let place = whole.get_mut(within..within.saturating_add(bytes.len()));
        place.unwrap_or_default().copy_from_slice(bytes);
        let data = blocks.bitmap_size() + sectors.start * SECTOR;
        if let Some(place) = blocks.place(container, block)? {
            container.write_at(place + data, &whole)?;
            return blocks.set_sectors(container, place, sectors);
        }
        let place = self.append(writer, blocks)?;
        container.write_at(place + data, &whole)?;
        container.flush()?;
        blocks.set_place(container, block, place)
    }

    /// A new block at the end of the file, all zeros, all its sectors said to be there.
    fn append(&self, writer: &mut Writer, blocks: &Blocks) -> Result<u64> {
        let container = self.container.as_ref();
        let bitmap = blocks.bitmap_size();
        let place = next_place(writer.end, bitmap);
        let end = place + bitmap + blocks.size();
        if place / SECTOR >= u64::from(ABSENT) {
            let text =
                "has no place left that its allocation table could name: `rehome image convert` makes a VHDX";
            return Err(Error::new(Kind::Full, self.label(), text));
        }
        let before = container.size();
        if before < end + LENGTH as u64 {
            container.set_size(end + LENGTH as u64)?;
        }
        container.write_at(end, &writer.footer)?;
        // Without what was there, the old footer among it.
        container.write_zeros(writer.end..before.min(end))?;
        let ones = vec![0xff; usize::try_from(blocks.size() / SECTOR / 8).unwrap_or(0).max(1)];
        container.write_at(place, &ones)?;
        writer.end = end;
        Ok(place)
    }
}

/// The bytes of a buffer that begins at `start` which stand for `part`.
fn window<'a>(bytes: &'a [u8], start: u64, part: &Range<u64>) -> &'a [u8] {
    let index = |at: u64| usize::try_from(at - start).unwrap_or(usize::MAX);
    bytes.get(index(part.start)..index(part.end)).unwrap_or_default()
}
