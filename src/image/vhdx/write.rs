//! Writing into an image that is there: what an edit in place needs. Every change of a structure is one entry of the
//! allocation table, eight bytes that no sector boundary divides, and is made when what it leads to is lasting: so the
//! file is whole at every moment, and the log stays empty.

use super::{
    MIB,
    block::{Blocks, Geometry, Kept, PLACE, state},
    check::check,
    derived_id,
    disk::Vhdx,
    header::{Header, Headers},
    log,
};
use crate::{
    disk::{Disk, Error, Kind, Result, check_range},
    image::Neighbours,
};
use std::{
    ops::Range,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// What writing needs beside what reading does. Held while a block is changed.
#[derive(Debug)]
pub(super) struct Writer {
    headers: Headers,
    /// The identifiers of the file and of its data are new already.
    begun: bool,
}

/// What is written.
#[derive(Clone, Copy)]
enum New<'a> {
    Bytes(&'a [u8]),
    Zeros,
    /// Nobody needs what is there.
    Nothing,
}

impl Vhdx {
    /// Opens the image in `container`, which must be writable and, for a dynamic disk, able to grow. Only fixed and
    /// dynamic disks are written. If it was not closed, its log is replayed into it at once.
    pub fn open_writable(container: Arc<dyn Disk>, neighbours: &dyn Neighbours) -> Result<Self> {
        let mut disk = Self::open(container.clone(), neighbours)?;
        let refuse = |kind, text: &str| Err(Error::new(kind, disk.label(), text));
        if disk.has_parent() {
            let text = "is a differencing disk and is not written in place: `rehome image convert` makes one disk of it and \
                        its parent";
            return refuse(Kind::Unsupported, text);
        }
        if let Some(error) = check(&disk)?.found.errors.first() {
            let text = format!(
                "is not sound and is not written in place: {error}. `rehome image convert` makes a sound one of it"
            );
            return refuse(Kind::Unsafe, &text);
        }
        let mut headers = disk.headers.clone();
        if !headers.current.log.is_nil() {
            // The identifier of the file changes before anything else does; the log is empty when all is in place.
            let header = with_new_file_id(&headers.current);
            headers.update(container.as_ref(), header)?;
            log::replay(container.as_ref(), &headers.current)?;
            let header = Header {
                log: uuid::Uuid::nil(),
                ..headers.current.clone()
            };
            headers.update(container.as_ref(), header)?;
            disk.blocks = Blocks::new(Geometry::of(&disk.metadata), &disk.regions.bat)
                .map_err(|flaw| flaw.of(container.label()))?;
            disk.headers = headers.clone();
            disk.container = container;
        }
        disk.writer = Some(Mutex::new(Writer {
            headers,
            begun: false,
        }));
        Ok(disk)
    }

    fn writer(&self) -> Result<MutexGuard<'_, Writer>> {
        let writer = self
            .writer
            .as_ref()
            .ok_or_else(|| Error::new(Kind::ReadOnly, self.label(), "opened for reading only"))?;
        Ok(writer.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Before the first change: differencing disks of this one know it by the identifier of its data, and must not be
    /// taken for its children any more.
    fn begin(&self, writer: &mut Writer) -> Result<()> {
        if writer.begun {
            return Ok(());
        }
        let old = &writer.headers.current;
        let header = Header {
            data_write: derived_id(&facts("data", old)),
            ..with_new_file_id(old)
        };
        writer.headers.update(self.container.as_ref(), header)?;
        writer.begun = true;
        Ok(())
    }

    /// Cuts off what nothing refers to at the end of the file. What lies between blocks stays.
    pub(super) fn cut_leaks(&self) -> Result<u64> {
        let mut writer = self.writer()?;
        let checked = check(self)?;
        if let Some(error) = checked.found.errors.first() {
            let text = format!("is not sound, and nothing of it is cut off: {error}");
            return Err(Error::new(Kind::Unsafe, self.label(), text));
        }
        let size = self.container.size();
        // A fixed disk must keep room for every block.
        if self.metadata.leave_allocated || checked.end >= size {
            return Ok(0);
        }
        if !writer.begun {
            let header = with_new_file_id(&writer.headers.current);
            writer.headers.update(self.container.as_ref(), header)?;
        }
        self.container.set_size(checked.end)?;
        Ok(size - checked.end)
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
            let mut end = range.end;
            if matches!(new, New::Bytes(_)) {
                let block = self.blocks.geometry.block;
                end = end.min((at / block + 1).saturating_mul(block));
            }
            let run = self.run(at, end)?;
            let part = at..at + run.length;
            match (run.kept, new) {
                (Kept::There(host), new) => {
                    self.begin(&mut writer)?;
                    self.overwrite(host..host + run.length, window(new, range.start, &part))?;
                }
                (_, New::Bytes(_)) => {
                    self.begin(&mut writer)?;
                    let piece = window(new, range.start, &part);
                    self.fill(part, piece)?;
                }
                // What is not there is zeros.
                (_, New::Zeros | New::Nothing) => {}
            }
            at += run.length;
        }
        Ok(())
    }

    /// Changes bytes that are in the file.
    fn overwrite(&self, host: Range<u64>, new: New<'_>) -> Result<()> {
        match new {
            New::Bytes(bytes) => self.container.write_at(host.start, bytes),
            New::Zeros => self.container.write_zeros(host),
            New::Nothing => self.container.discard(host),
        }
    }

    /// Gives a block a place at the end of the file, and writes to it.
    fn fill(&self, part: Range<u64>, new: New<'_>) -> Result<()> {
        let container = self.container.as_ref();
        let size = self.blocks.geometry.block;
        let block = part.start / size;
        let place = container.size().next_multiple_of(MIB);
        let within = part.start % size;
        // What grows is zeros.
        container.set_size(place + size)?;
        self.overwrite(place + within..place + within + (part.end - part.start), new)?;
        container.flush()?;
        let entry = place & PLACE | state::FULLY_PRESENT;
        self.blocks.set_entry(container, block, entry)
    }
}

/// The part of what is written to a range that begins at `start`.
fn window<'a>(new: New<'a>, start: u64, part: &Range<u64>) -> New<'a> {
    let index = |at: u64| usize::try_from(at - start).unwrap_or(usize::MAX);
    match new {
        New::Bytes(bytes) => New::Bytes(bytes.get(index(part.start)..index(part.end)).unwrap_or_default()),
        other => other,
    }
}

/// What a new identifier follows from: the header that it replaces, so that it is another each time.
fn facts(what: &str, old: &Header) -> Vec<u8> {
    let ids = [old.file_write, old.data_write, old.log].map(|id| id.to_string());
    format!("rehome vhdx {what} {} {}", old.sequence, ids.join(" ")).into_bytes()
}

fn with_new_file_id(old: &Header) -> Header {
    Header {
        file_write: derived_id(&facts("file", old)),
        ..old.clone()
    }
}
