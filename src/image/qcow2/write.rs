//! Writing into an image that is there: what an edit in place needs. New clusters go to the end of the file; what a
//! snapshot still needs is never written over.

use super::{
    disk::Qcow2,
    flaw::Flaw,
    header::incompatible,
    l2_table::{self, COPIED, Mapping, OFFSET, ZERO, mapping_at},
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
    refcounts: Refcounts,
    /// Features that whoever does not keep them up must take back before the first change, such as bitmaps.
    autoclear: u64,
}

/// Where the entry of a cluster is, in a table that only the active disk uses.
struct Slot {
    table: u64,
    index: usize,
    entry: u64,
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
        if header.has_extended_l2() {
            return Err(Error::new(
                Kind::Unsupported,
                disk.label(),
                "has extended L2 entries and is not written in place: `qemu-img convert -O qcow2` makes one without",
            ));
        }
        let writer = Writer {
            refcounts: Refcounts::open(&disk.container, header)?,
            autoclear: header.autoclear,
        };
        disk.writer = Some(Mutex::new(writer));
        Ok(disk)
    }

    fn writer(&self) -> Result<MutexGuard<'_, Writer>> {
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
                vec![0; usize::try_from(self.header.l2_entries()).unwrap_or(0)]
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
        let index = usize::try_from(offset / cluster % self.header.l2_entries()).unwrap_or(usize::MAX);
        let entry = self.table(table)?.get(index).copied().unwrap_or(0);
        Ok(Slot { table, index, entry })
    }

    fn set_entry(&self, slot: &Slot, entry: u64) -> Result<()> {
        self.container
            .write_at(slot.table + slot.index as u64 * 8, &entry.to_be_bytes())?;
        self.update_cached_table(slot.table, |words| {
            if let Some(word) = words.get_mut(slot.index) {
                *word = entry;
            }
        });
        Ok(())
    }

    /// What `entry` referred to is no longer needed by the active disk.
    fn release_entry(&self, writer: &Writer, entry: u64) -> Result<()> {
        if let Some(host) = l2_table::standard_host(entry) {
            return writer.refcounts.release(host);
        }
        if l2_table::is_compressed(entry) {
            let cluster = self.header.cluster_size();
            let (host, length) = l2_table::compressed(entry, self.header.cluster_bits);
            for touched in host / cluster..(host + length).div_ceil(cluster) {
                writer.refcounts.release(touched * cluster)?;
            }
        }
        Ok(())
    }

    /// Writes `bytes`, which lie within the cluster at `start`, from `within` on.
    fn write_in_cluster(&self, writer: &mut Writer, start: u64, within: usize, bytes: &[u8]) -> Result<()> {
        let slot = self.slot(writer, start)?;
        let word = [slot.entry];
        // A table of one entry, so that the entry is judged as reading judges it.
        let mapping = mapping_at(&word, &self.header, 0).map_err(|flaw| self.flaw(flaw, slot.table))?;
        let own = slot.entry & COPIED != 0;
        if let (Mapping::Data { host }, true) = (mapping, own) {
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
        // A cluster that is kept for zeros is ours to fill.
        if let (Mapping::Zero { allocated: true }, true) = (mapping, own) {
            let host = slot.entry & OFFSET;
            self.must_exist("data cluster", host, 1)?;
            self.container.write_at(host, &cluster)?;
            return self.set_entry(&slot, host | COPIED);
        }
        let host = writer.refcounts.allocate()?;
        self.container.write_at(host, &cluster)?;
        self.set_entry(&slot, host | COPIED)?;
        self.release_entry(writer, slot.entry)
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

    pub(super) fn zero_guest(&self, range: Range<u64>) -> Result<()> {
        let mut writer = self.writer()?;
        let length = range.end.saturating_sub(range.start);
        check_range(self.label(), self.size(), range.start, length)?;
        let cluster = self.header.cluster_size();
        let mut at = range.start;
        while at < range.end {
            // Whole runs that read as zeros without a table of their own cost nothing.
            let run = self.run(at, range.end)?;
            let nothing = match run.mapping {
                Mapping::Unallocated => self.backing.is_none(),
                Mapping::Zero { .. } => true,
                Mapping::Data { .. } | Mapping::Compressed { .. } => false,
            };
            if !nothing {
                self.each_cluster(at..at + run.length, |start, piece| {
                    let whole =
                        piece.start == start && (piece.end == start + cluster || piece.end == self.size());
                    if whole && self.header.version >= 3 {
                        return self.zero_cluster(&mut writer, start);
                    }
                    let zeros = vec![0; usize::try_from(piece.end - piece.start).unwrap_or(0)];
                    let within = usize::try_from(piece.start - start).unwrap_or(usize::MAX);
                    self.write_in_cluster(&mut writer, start, within, &zeros)
                })?;
            }
            at += run.length;
        }
        Ok(())
    }

    fn zero_cluster(&self, writer: &mut Writer, start: u64) -> Result<()> {
        let slot = self.slot(writer, start)?;
        match l2_table::standard_host(slot.entry) {
            // Keeps its place, as qemu does.
            Some(host) if slot.entry & COPIED != 0 => self.set_entry(&slot, host | COPIED | ZERO),
            _ => {
                self.set_entry(&slot, ZERO)?;
                self.release_entry(writer, slot.entry)
            }
        }
    }
}
