//! Writing into an image that is there: what an edit in place needs. A new block goes behind the last one; the entry that
//! leads to it is written when its data is lasting.

use super::{
    block_map::{Place, ZERO},
    check::check,
    disk::Vdi,
    flaw::Flaw,
    header::{ALLOCATED_AT, MODIFICATION_AT},
};
use crate::{
    disk::{Digest, Disk, Error, Kind, Result, check_range},
    image::Neighbours,
};
use std::{
    ops::Range,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use uuid::{Builder, Uuid};

/// What writing needs beside what reading does. Held while a block is changed.
#[derive(Debug)]
pub(super) struct Writer {
    /// Blocks with a place, as the header counts them.
    allocated: u32,
    /// The place behind all that are taken: there may be gaps between those.
    next: u32,
    /// The header says that the image is another than it was: whoever stands on it must know.
    modified: bool,
}

/// What is written.
#[derive(Clone, Copy)]
enum New<'a> {
    Bytes(&'a [u8]),
    Zeros,
    /// Nobody needs what is there.
    Nothing,
}

/// A block is filled in steps of this, in bytes.
const BUFFER: u64 = 1 << 20;

impl Vdi {
    /// Opens the image in `container`, which must be writable and able to grow. The parent of a differencing disk is
    /// never written.
    ///
    /// # Errors
    /// [`Kind::Unsafe`] for an image that is not sound.
    pub fn open_writable(container: Arc<dyn Disk>, neighbours: &dyn Neighbours) -> Result<Self> {
        let mut disk = Self::open(container, neighbours)?;
        if disk.header.block_extra != 0 {
            return Err(Flaw::BlockExtra(disk.header.block_extra).of(disk.label()));
        }
        if let Some(error) = check(&disk)?.errors.first() {
            let text = format!(
                "is not sound and is not written in place: {error}. `rehome image convert` makes a sound one of it"
            );
            return Err(Error::new(Kind::Unsafe, disk.label(), text));
        }
        let mut next = 0;
        disk.map.each_index(disk.container.as_ref(), |_, index| {
            next = next.max(index.saturating_add(1));
        })?;
        disk.writer = Some(Mutex::new(Writer {
            allocated: disk.header.allocated,
            next,
            modified: false,
        }));
        Ok(disk)
    }

    fn writer(&self) -> Result<MutexGuard<'_, Writer>> {
        let writer = self
            .writer
            .as_ref()
            .ok_or_else(|| Error::new(Kind::ReadOnly, self.label(), "opened for reading only"))?;
        let mut writer = writer.lock().unwrap_or_else(PoisonError::into_inner);
        if !writer.modified {
            let before = self.header.modification;
            let after = next_modification(before);
            self.container.write_at(MODIFICATION_AT, &after.to_bytes_le())?;
            writer.modified = true;
        }
        Ok(writer)
    }

    /// Cuts off what nothing refers to at the end of the file. What lies between blocks stays. The contents are the same, so
    /// the image is not called another.
    pub(super) fn cut_leaks(&self) -> Result<u64> {
        let writer = self
            .writer
            .as_ref()
            .ok_or_else(|| Error::new(Kind::ReadOnly, self.label(), "opened for reading only"))?;
        let writer = writer.lock().unwrap_or_else(PoisonError::into_inner);
        let (size, end) = (self.container.size(), self.map.host(writer.next));
        if size <= end {
            return Ok(0);
        }
        self.container.set_size(end)?;
        Ok(size - end)
    }

    pub(super) fn write_bytes(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        let end = check_range(self.label(), self.size(), offset, bytes.len() as u64)?;
        self.change(offset..end, New::Bytes(bytes))
    }

    pub(super) fn zero_bytes(&self, range: Range<u64>) -> Result<()> {
        self.change(range, New::Zeros)
    }

    /// Blocks keep their place in the file, and become holes there.
    pub(super) fn discard_bytes(&self, range: Range<u64>) -> Result<()> {
        self.change(range, New::Nothing)
    }

    fn change(&self, range: Range<u64>, new: New<'_>) -> Result<()> {
        let mut writer = self.writer()?;
        let length = range.end.saturating_sub(range.start);
        check_range(self.label(), self.size(), range.start, length)?;
        let mut at = range.start;
        while at < range.end {
            let run = self.run(at, range.end)?;
            let zero = match run.place {
                Place::At(_) => false,
                Place::Zero => true,
                Place::Unallocated => self.parent.is_none(),
            };
            // Zeros are there already, for as long as that may be.
            if zero && !matches!(new, New::Bytes(_)) {
                at += run.length;
                continue;
            }
            let block = at / self.map.block_size();
            let end = range.end.min((block + 1) * self.map.block_size());
            let part = at..end;
            let piece = match new {
                New::Bytes(bytes) => New::Bytes(window(bytes, range.start, &part)),
                other => other,
            };
            match run.place {
                Place::At(host) => self.overwrite(host, end - at, piece)?,
                Place::Zero | Place::Unallocated => self.fill(&mut writer, block, part, piece)?,
            }
            at = end;
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

    /// Changes a part of a block that has no place.
    fn fill(&self, writer: &mut Writer, block: u64, part: Range<u64>, new: New<'_>) -> Result<()> {
        let start = block * self.map.block_size();
        let there = start..(start + self.map.block_size()).min(self.size());
        let bytes = match new {
            New::Bytes(bytes) => bytes,
            New::Zeros | New::Nothing if part == there => {
                return self.map.set(self.container.as_ref(), block, ZERO);
            }
            New::Nothing => return Ok(()),
            New::Zeros => &[],
        };
        let index = writer.next;
        if index >= ZERO - 1 {
            let text = "has no place left that its block map could name";
            return Err(Error::new(Kind::Full, self.label(), text));
        }
        let container = self.container.as_ref();
        let host = self.map.host(index);
        let end = host + self.map.block_size();
        let before = container.size();
        if end > before {
            container.set_size(end)?;
        }
        if before > host {
            container.write_zeros(host..before.min(end))?;
        }
        for around in [there.start..part.start, part.end..there.end] {
            self.copy_to(around, start, host)?;
        }
        container.write_at(host + (part.start - start), bytes)?;
        container.flush()?;
        writer.next = index + 1;
        writer.allocated += 1;
        container.write_at(ALLOCATED_AT, &writer.allocated.to_le_bytes())?;
        self.map.set(container, block, index)
    }

    /// Writes what the disk has in `range` of the block that begins at `start` to where that begins in the file, `host`.
    fn copy_to(&self, range: Range<u64>, start: u64, host: u64) -> Result<()> {
        if self.parent.is_none() {
            return Ok(());
        }
        let mut at = range.start;
        while at < range.end {
            let length = (range.end - at).min(BUFFER);
            let mut bytes = vec![0; usize::try_from(length).unwrap_or(0)];
            self.read_at(at, &mut bytes)?;
            self.container.write_at(host + (at - start), &bytes)?;
            at += length;
        }
        Ok(())
    }
}

/// A modification that follows from the one before it, so that the same edit gives the same file.
fn next_modification(before: Uuid) -> Uuid {
    let Digest(digest) = Digest::of(format!("rehome vdi edit {before}").as_bytes());
    let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p, ..] = digest;
    Builder::from_custom_bytes([a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p]).into_uuid()
}

/// The bytes of a buffer that begins at `start` which stand for `part`.
fn window<'a>(bytes: &'a [u8], start: u64, part: &Range<u64>) -> &'a [u8] {
    let index = |at: u64| usize::try_from(at - start).unwrap_or(usize::MAX);
    bytes.get(index(part.start)..index(part.end)).unwrap_or_default()
}
