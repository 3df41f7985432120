//! Writing into an image that is there: what an edit in place needs. New clusters go to the end of the file; what a
//! snapshot still needs is never written over.

use super::{
    allocator::grow_to,
    check::check,
    disk::Qcow2,
    flaw::Flaw,
    header::incompatible,
    l2_table::{self, ALL_DATA, ALL_ZEROS, COPIED, Mapping, OFFSET, ZERO},
    refcount::Refcounts,
};
use crate::{
    disk::{Disk, Error, Kind, Result, check_range},
    image::Neighbours,
};
use std::{
    ops::Range,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// What writing needs beside what reading does. Held while an entry is changed.
#[derive(Debug)]
pub(super) struct Writer {
    pub(super) refcounts: Refcounts,
    /// Features that whoever does not keep them up must take back before the first change, such as bitmaps.
    autoclear: u64,
}

/// Where the entry of a cluster is, in a table that only the active disk uses.
struct Slot {
    table: u64,
    /// In words.
    index: usize,
    entry: Entry,
}

/// What a second-level table says of one cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    word: u64,
    /// Of extended entries: which parts are data, which are zeros.
    bitmap: u64,
}

impl Entry {
    /// A cluster that is all data.
    fn data(host: u64) -> Self {
        Self {
            word: host | COPIED,
            bitmap: ALL_DATA,
        }
    }

    /// The cluster of the file that it refers to, if nothing else does.
    fn own(self) -> Option<u64> {
        l2_table::standard_host(self.word).filter(|_| self.word & COPIED != 0)
    }
}

impl Qcow2 {
    /// Opens the image in `container`, which must be writable and able to grow, for reading and writing. The backing
    /// file is never written. Dirty bitmaps are declared out of date by the first write, as the format demands of a
    /// writer that does not keep them up; their clusters are then leaks, which `qemu-img check -r leaks` frees.
    pub fn open_writable(container: Arc<dyn Disk>, neighbours: &dyn Neighbours) -> Result<Self> {
        let mut disk = Self::open(container, neighbours)?;
        let header = &disk.header;
        for (bit, flaw) in [
            (incompatible::DIRTY, Flaw::Dirty),
            (incompatible::CORRUPT, Flaw::MarkedCorrupt),
            (incompatible::EXTERNAL_DATA, Flaw::EditOfExternalData),
        ] {
            if header.incompatible & bit != 0 {
                return Err(disk.flaw(flaw, 72));
            }
        }
        let writer = Writer {
            refcounts: Refcounts::open(&disk.container, header)?,
            autoclear: header.autoclear,
        };
        // Of a file that was cut short more would be lost: places that were errors would read as zeros.
        if writer.refcounts.counts_past_the_end()?
            && let Some(error) = check(&disk)?.errors.first()
        {
            let text = format!(
                "is not sound and is not written in place: {error}. `qemu-img check -r all` on a copy mends what it can"
            );
            return Err(Error::new(Kind::Unsafe, disk.label(), text));
        }
        disk.writer = Some(Mutex::new(writer));
        Ok(disk)
    }

    pub(super) fn writer(&self) -> Result<MutexGuard<'_, Writer>> {
        let writer = self
            .writer
            .as_ref()
            .ok_or_else(|| Error::new(Kind::ReadOnly, self.label(), "opened for reading only"))?;
        let mut writer = writer.lock().unwrap_or_else(PoisonError::into_inner);
        if writer.autoclear != 0 {
            self.container.write_at(88, &[0; 8])?;
            writer.autoclear = 0;
        }
        Ok(writer)
    }

    /// The entry of the cluster at `offset`, its table made or copied if need be.
    fn slot(&self, writer: &mut Writer, offset: u64) -> Result<Slot> {
        let cluster = self.header.cluster_size();
        let region = offset / self.header.l2_coverage();
        let position = usize::try_from(region).unwrap_or(usize::MAX);
        let entry = {
            let l1 = self.l1.read().unwrap_or_else(PoisonError::into_inner);
            l1.get(position).copied().unwrap_or(0)
        };
        let old = entry & OFFSET;
        let table = if old != 0 && entry & COPIED != 0 {
            old
        } else {
            let new = writer.refcounts.allocate()?;
            let words = if old == 0 {
                vec![0; usize::try_from(cluster / 8).unwrap_or(0)]
            } else {
                self.table(old)?.to_vec()
            };
            self.container.write_at(new, &l2_table::bytes(&words))?;
            let word = new | COPIED;
            self.container
                .write_at(self.header.l1_offset + region * 8, &word.to_be_bytes())?;
            let mut l1 = self.l1.write().unwrap_or_else(PoisonError::into_inner);
            if let Some(entry) = l1.get_mut(position) {
                *entry = word;
            }
            drop(l1);
            if old != 0 {
                writer.refcounts.release(old)?;
            }
            new
        };
        let index = offset / cluster % self.header.l2_entries() * (self.header.l2_entry_size() / 8);
        let index = usize::try_from(index).unwrap_or(usize::MAX);
        let words = self.table(table)?;
        let word = |index: usize| words.get(index).copied().unwrap_or(0);
        let entry = Entry {
            word: word(index),
            bitmap: if self.header.has_extended_l2() {
                word(index + 1)
            } else {
                0
            },
        };
        Ok(Slot { table, index, entry })
    }

    fn set_entry(&self, slot: &Slot, entry: Entry) -> Result<()> {
        let both = [entry.word, entry.bitmap];
        let words = if self.header.has_extended_l2() {
            &both[..]
        } else {
            &both[..1]
        };
        self.container
            .write_at(slot.table + slot.index as u64 * 8, &l2_table::bytes(words))?;
        self.update_cached_table(slot.table, |table| {
            for (word, new) in table.iter_mut().skip(slot.index).zip(words) {
                *word = *new;
            }
        });
        Ok(())
    }

    /// What `entry` referred to is no longer needed by the active disk. Calls `freed` with what nothing needs any more.
    fn release_entry(
        &self,
        writer: &Writer,
        entry: Entry,
        mut freed: impl FnMut(Range<u64>) -> Result<()>,
    ) -> Result<()> {
        let cluster = self.header.cluster_size();
        let touched = if let Some(host) = l2_table::standard_host(entry.word) {
            host / cluster..host / cluster + 1
        } else if l2_table::is_compressed(entry.word) {
            let (host, length) = l2_table::compressed(entry.word, self.header.cluster_bits);
            host / cluster..(host + length).div_ceil(cluster)
        } else {
            return Ok(());
        };
        for host in touched.map(|index| index * cluster) {
            if writer.refcounts.release(host)? == 0 {
                freed(host..host + cluster)?;
            }
        }
        Ok(())
    }

    /// Writes `bytes`, which lie within the cluster at `start`, from `within` on.
    fn write_in_cluster(&self, writer: &mut Writer, start: u64, within: usize, bytes: &[u8]) -> Result<()> {
        let slot = self.slot(writer, start)?;
        let own = slot.entry.own();
        let all_data = if self.header.has_extended_l2() {
            slot.entry.bitmap == ALL_DATA
        } else {
            slot.entry.word & ZERO == 0
        };
        if let Some(host) = own
            && !host.is_multiple_of(self.header.cluster_size())
        {
            return Err(self.flaw(Flaw::Unaligned("data cluster", host), slot.table));
        }
        if let (Some(host), true) = (own, all_data) {
            self.must_exist("data cluster", host, within as u64 + bytes.len() as u64)?;
            return self.container.write_at(host + within as u64, bytes);
        }
        let size = usize::try_from(self.header.cluster_size()).unwrap_or(0);
        let mut cluster = vec![0; size];
        if bytes.len() < size {
            let there = usize::try_from(self.size() - start)
                .unwrap_or(usize::MAX)
                .min(size);
            let old = cluster.get_mut(..there).unwrap_or_default();
            self.read_at(start, old)?;
        }
        let place = cluster.get_mut(within..within.saturating_add(bytes.len()));
        place.unwrap_or_default().copy_from_slice(bytes);
        // A cluster that is kept for zeros, or of which only parts are data, is ours to fill.
        if let Some(host) = own {
            self.must_exist("data cluster", host, 1)?;
            // The last cluster of a file need not be there wholly.
            grow_to(self.container.as_ref(), host + cluster.len() as u64)?;
            self.container.write_at(host, &cluster)?;
            return self.set_entry(&slot, Entry::data(host));
        }
        let host = writer.refcounts.allocate()?;
        self.container.write_at(host, &cluster)?;
        self.set_entry(&slot, Entry::data(host))?;
        self.release_entry(writer, slot.entry, |_| Ok(()))
    }

    /// Calls `each` with the start of every cluster that `range` touches, and the part of it that is meant.
    fn each_cluster(
        &self,
        range: Range<u64>,
        mut each: impl FnMut(u64, Range<u64>) -> Result<()>,
    ) -> Result<()> {
        let cluster = self.header.cluster_size();
        let mut at = range.start;
        while at < range.end {
            let start = at / cluster * cluster;
            let end = range.end.min(start + cluster);
            each(start, at..end)?;
            at = end;
        }
        Ok(())
    }

    pub(super) fn write_guest(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        let mut writer = self.writer()?;
        let end = check_range(self.label(), self.size(), offset, bytes.len() as u64)?;
        self.each_cluster(offset..end, |start, piece| {
            let index = |at: u64, base: u64| usize::try_from(at - base).unwrap_or(usize::MAX);
            let part = bytes
                .get(index(piece.start, offset)..index(piece.end, offset))
                .unwrap_or_default();
            self.write_in_cluster(&mut writer, start, index(piece.start, start), part)
        })
    }

    /// Calls `each` with every piece of `range` that lies within one cluster and holds something else than zeros of its
    /// own, and with its cluster if the piece is all of it.
    fn each_nonzero(
        &self,
        range: Range<u64>,
        mut each: impl FnMut(Range<u64>, Option<u64>) -> Result<()>,
    ) -> Result<()> {
        let length = range.end.saturating_sub(range.start);
        check_range(self.label(), self.size(), range.start, length)?;
        let cluster = self.header.cluster_size();
        let mut at = range.start;
        while at < range.end {
            // Whole runs that read as zeros without a table of their own cost nothing.
            let run = self.run(at, range.end)?;
            let nothing = match run.mapping {
                Mapping::Unallocated => self.backing.is_none(),
                Mapping::Zero { host } => host.is_none(),
                Mapping::Data { .. } | Mapping::Compressed { .. } => false,
            };
            if nothing {
                at += run.length;
                continue;
            }
            let start = at / cluster * cluster;
            let end = range.end.min(start + cluster);
            let whole = at == start && (end == start + cluster || end == self.size());
            each(at..end, whole.then_some(start))?;
            at = end;
        }
        Ok(())
    }

    pub(super) fn zero_guest(&self, range: Range<u64>) -> Result<()> {
        let mut writer = self.writer()?;
        self.each_nonzero(range, |piece, cluster| match cluster {
            Some(start) if self.header.version >= 3 => self.zero_cluster(&mut writer, start),
            _ => {
                let zeros = vec![0; usize::try_from(piece.end - piece.start).unwrap_or(0)];
                let start = piece.start / self.header.cluster_size() * self.header.cluster_size();
                let within = usize::try_from(piece.start - start).unwrap_or(usize::MAX);
                self.write_in_cluster(&mut writer, start, within, &zeros)
            }
        })
    }

    /// An entry of zeros that refers to `host`, or to nothing.
    fn zeros(&self, host: Option<u64>) -> Entry {
        let flag = if self.header.has_extended_l2() { 0 } else { ZERO };
        Entry {
            word: host.map_or(0, |host| host | COPIED) | flag,
            bitmap: ALL_ZEROS,
        }
    }

    fn zero_cluster(&self, writer: &mut Writer, start: u64) -> Result<()> {
        let slot = self.slot(writer, start)?;
        let own = slot.entry.own();
        // Keeps its place, as qemu does.
        self.set_entry(&slot, self.zeros(own))?;
        match own {
            Some(_) => Ok(()),
            None => self.release_entry(writer, slot.entry, |_| Ok(())),
        }
    }

    /// Gives whole clusters back. They read as zeros afterwards, also over a backing file; there version 2 has no way to
    /// say that, and keeps them.
    pub(super) fn discard_guest(&self, range: Range<u64>) -> Result<()> {
        let mut writer = self.writer()?;
        if self.header.version < 3 && self.backing.is_some() {
            return Ok(());
        }
        self.each_nonzero(range, |_, cluster| {
            let Some(start) = cluster else {
                return Ok(());
            };
            let slot = self.slot(&mut writer, start)?;
            let entry = match &self.backing {
                Some(_) => self.zeros(None),
                None => Entry { word: 0, bitmap: 0 },
            };
            self.set_entry(&slot, entry)?;
            self.release_entry(&writer, slot.entry, |freed| self.discard_host(freed))
        })
    }

    /// Changes one word of a table of either level, in the file and in memory.
    pub(super) fn set_word(&self, place: u64, word: u64) -> Result<()> {
        self.container.write_at(place, &word.to_be_bytes())?;
        let l1 = self.header.l1_offset..self.header.l1_offset + u64::from(self.header.l1_size) * 8;
        if l1.contains(&place) {
            let mut table = self.l1.write().unwrap_or_else(PoisonError::into_inner);
            let index = usize::try_from((place - l1.start) / 8).unwrap_or(usize::MAX);
            if let Some(entry) = table.get_mut(index) {
                *entry = word;
            }
            return Ok(());
        }
        let cluster = self.header.cluster_size();
        let index = usize::try_from(place % cluster / 8).unwrap_or(usize::MAX);
        self.update_cached_table(place / cluster * cluster, |table| {
            if let Some(entry) = table.get_mut(index) {
                *entry = word;
            }
        });
        Ok(())
    }

    /// Nothing refers to this part of the file any more.
    pub(super) fn discard_host(&self, range: Range<u64>) -> Result<()> {
        let end = range.end.min(self.container.size());
        self.container.discard(range.start.min(end)..end)
    }
}
