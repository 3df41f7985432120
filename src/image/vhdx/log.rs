//! [MS-VHDX] 2.3 "Log": changes of structures that may not have reached their place. They are replayed into an overlay
//! when a file is opened for reading, and into the file itself when it is opened for writing.

use super::{
    MIB,
    flaw::Flaw,
    header::{Header, SECTION, id_at},
};
use crate::disk::{
    Disk, Overlay, Result,
    field::{Truncated, bytes_at, u32_le, u64_le},
};
use std::sync::Arc;
use uuid::Uuid;

/// Entries consist of sectors of this size, in bytes.
const SECTOR: u64 = 4096;

/// Windows and qemu make logs of 1 MiB. One that is larger than this is a day's work of somebody who wants ours.
const LARGEST_LOG: u32 = 16 << 20;

/// Beyond this no structure of a disk of 64 TiB can be.
const LARGEST_FILE: u64 = 128 << 40;

/// What was replayed is held in memory up to this many bytes, and past it in a temporary file.
const OVERLAY_MEMORY: u64 = 4 << 20;

/// Bytes of the header of an entry and of a descriptor.
const HEADER: usize = 64;
const DESCRIPTOR: usize = 32;

/// A log entry that is whole.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    /// Where in the log, in bytes.
    at: u64,
    head: EntryHeader,
}

/// 2.3.1.1 "Entry Header".
#[derive(Clone, Debug, PartialEq, Eq)]
struct EntryHeader {
    checksum: u32,
    /// In bytes, and the others too.
    length: u64,
    /// Where the entry is that the sequence begins with which this one ends.
    tail: u64,
    sequence: u64,
    descriptors: u64,
    log: Uuid,
    /// How long the file was, for certain.
    flushed_size: u64,
    /// What all structures fit into.
    last_size: u64,
}

/// 2.3.1.2 "Zero Descriptor" and 2.3.1.3 "Data Descriptor".
#[derive(Clone, Debug, PartialEq, Eq)]
enum Descriptor {
    Zeros {
        offset: u64,
        length: u64,
    },
    Data {
        offset: u64,
        leading: [u8; 8],
        trailing: [u8; 4],
    },
}

impl EntryHeader {
    /// Parses the first sector of an entry; `None` if none begins there.
    fn parse(sector: &[u8]) -> std::result::Result<Option<Self>, Truncated> {
        if !sector.starts_with(b"loge") {
            return Ok(None);
        }
        Ok(Some(Self {
            checksum: u32_le(sector, 4)?,
            length: u32_le(sector, 8)?.into(),
            tail: u32_le(sector, 12)?.into(),
            sequence: u64_le(sector, 16)?,
            descriptors: u32_le(sector, 24)?.into(),
            log: id_at(sector, 32)?,
            flushed_size: u64_le(sector, 48)?,
            last_size: u64_le(sector, 56)?,
        }))
    }

    /// Sectors that hold the header and the descriptors.
    fn descriptor_sectors(&self) -> u64 {
        (HEADER as u64 + self.descriptors * DESCRIPTOR as u64).div_ceil(SECTOR)
    }

    /// Can it be an entry of the log of `length` bytes?
    fn is_possible(&self, log: Uuid, length: u64) -> bool {
        self.log == log
            && self.sequence > 0
            && self.length > 0
            && self.length <= length
            && self.length.is_multiple_of(SECTOR)
            && self.tail < length
            && self.tail.is_multiple_of(SECTOR)
            && self.descriptor_sectors() <= self.length / SECTOR
    }
}

impl Descriptor {
    /// Parses one; `None` if it is none of the entry with this number.
    fn parse(bytes: &[u8], sequence: u64) -> std::result::Result<Option<Self>, Truncated> {
        let offset = u64_le(bytes, 16)?;
        if u64_le(bytes, 24)? != sequence || !offset.is_multiple_of(SECTOR) {
            return Ok(None);
        }
        Ok(match bytes_at(bytes, 0, 4)? {
            b"zero" => {
                let length = u64_le(bytes, 8)?;
                length
                    .is_multiple_of(SECTOR)
                    .then_some(Self::Zeros { offset, length })
            }
            b"desc" => Some(Self::Data {
                offset,
                leading: crate::disk::field::array_at(bytes, 8)?,
                trailing: crate::disk::field::array_at(bytes, 4)?,
            }),
            _ => None,
        })
    }
}

/// The log of a file that was not closed.
struct Log<'a> {
    container: &'a dyn Disk,
    offset: u64,
    length: u64,
    id: Uuid,
}

impl Log<'_> {
    fn error(&self, flaw: impl Into<Flaw>, at: u64) -> crate::disk::Error {
        flaw.into()
            .of(self.container.label())
            .at(self.offset + at % self.length)
    }

    /// The sector at `at`; the log is a ring.
    fn sector(&self, at: u64) -> Result<Vec<u8>> {
        let mut sector = vec![0; usize::try_from(SECTOR).unwrap_or(0)];
        self.container
            .read_at(self.offset + at % self.length, &mut sector)?;
        Ok(sector)
    }

    /// Calls `each` with every descriptor of `head`, whose entry is at `at`, and with its data; `Ok(false)` if one of
    /// them is not whole. Every sector is looked at once, in order, and given to `every` first.
    fn walk(
        &self,
        at: u64,
        head: &EntryHeader,
        mut every: impl FnMut(u64, &[u8]),
        mut each: impl FnMut(&Descriptor, Option<Vec<u8>>) -> Result<()>,
    ) -> Result<bool> {
        let sectors = head.length / SECTOR;
        let mut left = head.descriptors;
        let mut waiting = Vec::new();
        for number in 0..head.descriptor_sectors() {
            let sector = self.sector(at + number * SECTOR)?;
            every(number, &sector);
            let start = if number == 0 { HEADER } else { 0 };
            for bytes in sector.get(start..).unwrap_or_default().chunks_exact(DESCRIPTOR) {
                if left == 0 {
                    break;
                }
                left -= 1;
                let parsed =
                    Descriptor::parse(bytes, head.sequence).map_err(|error| self.error(error, at))?;
                match parsed {
                    Some(descriptor) => waiting.push(descriptor),
                    None => return Ok(false),
                }
            }
        }
        // As many data sectors as there are data descriptors, in their order.
        let mut number = head.descriptor_sectors();
        for descriptor in &waiting {
            let data = match descriptor {
                Descriptor::Zeros { .. } => None,
                Descriptor::Data {
                    leading, trailing, ..
                } => {
                    if number >= sectors {
                        return Ok(false);
                    }
                    let mut sector = self.sector(at + number * SECTOR)?;
                    every(number, &sector);
                    number += 1;
                    let numbered = [
                        (head.sequence >> 32).to_le_bytes(),
                        (head.sequence & 0xffff_ffff).to_le_bytes(),
                    ];
                    let [high, low] =
                        numbered.map(|bytes| bytes.first_chunk::<4>().copied().unwrap_or_default());
                    if !sector.starts_with(b"data")
                        || sector.get(4..8) != Some(&high)
                        || sector.get(4092..) != Some(&low)
                    {
                        return Ok(false);
                    }
                    sector.get_mut(..8).unwrap_or_default().copy_from_slice(leading);
                    sector
                        .get_mut(4092..)
                        .unwrap_or_default()
                        .copy_from_slice(trailing);
                    Some(sector)
                }
            };
            each(descriptor, data)?;
        }
        Ok(number == sectors)
    }

    /// The entry at `at`, if a whole one is there; and whether at least its beginning is one of this log.
    fn entry(&self, at: u64) -> Result<(Option<Entry>, bool)> {
        let first = self.sector(at)?;
        let Some(head) = EntryHeader::parse(&first).map_err(|error| self.error(error, at))? else {
            return Ok((None, false));
        };
        if !head.is_possible(self.id, self.length) {
            return Ok((None, head.log == self.id));
        }
        let mut sum = 0;
        let every = |number: u64, sector: &[u8]| {
            if number == 0 {
                let (before, rest) = sector.split_at(4.min(sector.len()));
                sum = crc32c::crc32c_append(crc32c::crc32c(before), &[0; 4]);
                sum = crc32c::crc32c_append(sum, rest.get(4..).unwrap_or_default());
            } else {
                sum = crc32c::crc32c_append(sum, sector);
            }
        };
        let whole = self.walk(at, &head, every, |_, _| Ok(()))?;
        if !whole || sum != head.checksum {
            return Ok((None, true));
        }
        let at = at % self.length;
        Ok((Some(Entry { at, head }), true))
    }

    /// The newest sequence of entries that is whole, from its tail on (2.3.3 "Log Replay"). `None` if nothing of this
    /// log was ever written: then nothing was changed either.
    fn active_sequence(&self) -> Result<Option<Vec<Entry>>> {
        let mut newest: Vec<Entry> = Vec::new();
        let mut any = false;
        let mut start = 0;
        while start < self.length {
            let mut sequence: Vec<Entry> = Vec::new();
            let mut head = start;
            loop {
                let (entry, begins) = self.entry(head)?;
                any |= begins;
                let Some(entry) = entry else { break };
                let follows = sequence
                    .last()
                    .is_none_or(|last| last.head.sequence.checked_add(1) == Some(entry.head.sequence));
                if !follows || head + entry.head.length - start > self.length {
                    break;
                }
                head += entry.head.length;
                sequence.push(entry);
            }
            if let Some(last) = sequence.last() {
                let tail = sequence.iter().position(|entry| entry.at == last.head.tail);
                let newer = newest
                    .last()
                    .is_none_or(|newest| newest.head.sequence < last.head.sequence);
                if let Some(tail) = tail.filter(|_| newer) {
                    newest = sequence.get(tail..).unwrap_or_default().to_vec();
                }
            }
            // Where no entry is, the next sector is tried. Behind a sequence, also one that is not valid: a part of it
            // that began later would end alike, and be no more valid.
            start = if sequence.is_empty() { start + SECTOR } else { head };
        }
        match (newest.is_empty(), any) {
            (false, _) => Ok(Some(newest)),
            (true, false) => Ok(None),
            (true, true) => Err(self.error(Flaw::LogDamaged, 0)),
        }
    }

    /// Writes what the entries say to `target`.
    fn apply(&self, entries: &[Entry], target: &dyn Disk) -> Result<()> {
        let grow = |end: u64| -> Result<()> {
            if end > LARGEST_FILE {
                return Err(self.error(Flaw::LogTarget(end), 0));
            }
            if end > target.size() {
                target.set_size(end)?;
            }
            Ok(())
        };
        for entry in entries {
            let each = |descriptor: &Descriptor, data: Option<Vec<u8>>| match descriptor {
                Descriptor::Zeros { offset, length } => {
                    let end = offset.saturating_add(*length);
                    grow(end)?;
                    target.write_zeros(*offset..end)
                }
                Descriptor::Data { offset, .. } => {
                    grow(offset.saturating_add(SECTOR))?;
                    target.write_at(*offset, &data.unwrap_or_default())
                }
            };
            if !self.walk(entry.at, &entry.head, |_, _| {}, each)? {
                return Err(self.error(Flaw::LogDamaged, entry.at));
            }
        }
        match entries.last() {
            Some(head) => grow(head.head.last_size),
            None => Ok(()),
        }
    }
}

/// Finds what of the log of `container` must be replayed; `None` if nothing.
fn pending<'a>(container: &'a dyn Disk, header: &Header) -> Result<Option<(Log<'a>, Vec<Entry>)>> {
    if header.log.is_nil() {
        return Ok(None);
    }
    let error = |flaw: Flaw| flaw.of(container.label()).at(header.log_offset);
    if header.log_version != 0 {
        return Err(error(Flaw::LogVersion(header.log_version)));
    }
    let size = container.size();
    let (offset, length) = (header.log_offset, header.log_length);
    if !is_place(offset, length, size) || length == 0 {
        return Err(error(Flaw::LogPlace { offset, length, size }));
    }
    if length > LARGEST_LOG {
        return Err(error(Flaw::LogTooLarge(length)));
    }
    let log = Log {
        container,
        offset,
        length: length.into(),
        id: header.log,
    };
    let Some(entries) = log.active_sequence()? else {
        return Ok(None);
    };
    let wanted = entries.last().map_or(0, |entry| entry.head.flushed_size);
    if size < wanted {
        return Err(error(Flaw::CutShort { wanted, size }));
    }
    Ok(Some((log, entries)))
}

/// Can a log lie there in a file of `size` bytes?
pub(super) fn is_place(offset: u64, length: u32, size: u64) -> bool {
    let end = offset.saturating_add(length.into());
    offset >= SECTION && offset.is_multiple_of(MIB) && u64::from(length).is_multiple_of(MIB) && end <= size
}

/// The file as it is when its log was replayed. `container` itself is not written.
pub(super) fn replayed(container: &Arc<dyn Disk>, header: &Header) -> Result<Arc<dyn Disk>> {
    let Some((log, entries)) = pending(container.as_ref(), header)? else {
        return Ok(container.clone());
    };
    let overlay = Overlay::new(container.clone(), OVERLAY_MEMORY, std::env::temp_dir());
    log.apply(&entries, &overlay)?;
    Ok(Arc::new(overlay))
}

/// Replays the log of `container` into it.
pub(super) fn replay(container: &dyn Disk, header: &Header) -> Result<()> {
    if let Some((log, entries)) = pending(container, header)? {
        log.apply(&entries, container)?;
        container.flush()?;
    }
    Ok(())
}

#[cfg(test)]
#[path = "log_tests.rs"]
mod tests;
