//! Writing into a disk that is there: what an edit in place needs. New grains go to the end of their file; a parent is
//! never written.

use super::{
    SECTOR, Vmdk,
    check::check,
    descriptor::Access,
    disk::Parts,
    extent::{Body, Extent},
    flaw::Flaw,
    header::LARGEST_COMPRESSED_GRAIN,
    open::open,
    sparse_extent::{Mapping, Shape, SparseExtent, TableEntry},
};
use crate::{
    disk::{Disk, Error, Kind, Result, check_range},
    image::Neighbours,
};
use std::{
    ops::Range,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// Held while something is changed.
#[derive(Debug)]
pub(super) struct Writer {
    /// The descriptor's CID is one that this disk never had before.
    cid_is_new: bool,
}

/// Entries count in sectors of 32 bits: 2 TiB. In bytes.
const LARGEST_FILE: u64 = 1 << 41;

/// Where the entry of a grain is, in the tables of both directories.
struct Slot {
    /// The first table, and the second, in bytes.
    tables: [Option<u64>; 2],
    /// The entry in each.
    index: u64,
    mapping: Mapping,
}

impl Vmdk {
    /// Opens the image in `container`, which must be writable and able to grow, for reading and writing; further files
    /// that hold its extents are opened so by `neighbours`. A parent is only read. The first change gives the disk a
    /// new CID, as the format demands: children that were made over the old contents then know that they must not be
    /// used.
    ///
    /// # Errors
    /// [`Kind::Unsupported`] for kinds that cannot be written; [`Kind::Unsafe`] for an image that is not sound.
    pub fn open_writable(container: Arc<dyn Disk>, neighbours: &dyn Neighbours) -> Result<Self> {
        let parts = open(container, neighbours, true)?;
        must_be_writable(&parts).map_err(|flaw| flaw.of(parts.container.label()))?;
        let mut disk = Self::new(parts);
        // Above all, of a file that was cut short: new grains would get the places of those that are lost.
        if let Some(error) = check(&disk)?.errors.first() {
            let text = format!(
                "is not sound and is not written in place: {error}. `rehome image convert` makes a sound one of it"
            );
            return Err(Error::new(Kind::Unsafe, disk.label(), text));
        }
        disk.writer = Some(Mutex::new(Writer { cid_is_new: false }));
        Ok(disk)
    }

    fn writer(&self) -> Result<MutexGuard<'_, Writer>> {
        let writer = self
            .writer
            .as_ref()
            .ok_or_else(|| Error::new(Kind::ReadOnly, self.label(), "opened for reading only"))?;
        let mut writer = writer.lock().unwrap_or_else(PoisonError::into_inner);
        if !writer.cid_is_new {
            self.renew_cid()?;
            writer.cid_is_new = true;
        }
        Ok(writer)
    }

    /// Replaces the CID in the descriptor by its successor, and the end of the long one, which has the same digits.
    fn renew_cid(&self) -> Result<()> {
        let place = &self.parts.descriptor_place;
        let mut text = vec![0; usize::try_from(place.end - place.start).unwrap_or(0)];
        self.parts.container.read_at(place.start, &mut text)?;
        let changes = renewed_cid(&text);
        if changes.is_empty() {
            let text = "has a CID that cannot be replaced, so its snapshots would not learn of an edit: write the line as \
                        CID=01234567 in its descriptor";
            return Err(Error::new(Kind::Unsafe, self.label(), text).at(place.start));
        }
        for (at, digits) in changes {
            self.parts.container.write_at(place.start + at as u64, &digits)?;
        }
        Ok(())
    }

    pub(super) fn write_guest(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        let _writer = self.writer()?;
        let end = check_range(self.label(), self.size(), offset, bytes.len() as u64)?;
        let mut rest = bytes;
        for (extent, piece) in self.pieces(offset..end) {
            let (now, after) = rest.split_at(usize::try_from(piece.end - piece.start).unwrap_or(0));
            must_be_read_write(extent, self.label())?;
            let within = piece.start - extent.start;
            match &extent.body {
                Body::Zero => return Err(self.error(Flaw::CannotWrite(ZEROS)).at(piece.start)),
                Body::Flat { disk, offset } => disk.write_at(offset.saturating_add(within), now)?,
                Body::Sparse(sparse) => self.write_sparse(extent, sparse, within, now)?,
            }
            rest = after;
        }
        Ok(())
    }

    fn write_sparse(&self, extent: &Extent, sparse: &SparseExtent, offset: u64, bytes: &[u8]) -> Result<()> {
        let end = offset + bytes.len() as u64;
        let mut at = offset;
        while at < end {
            // A run of data at once, anything else grain by grain.
            let run = sparse.run(at, end)?;
            let piece_end = match run.mapping {
                Mapping::Data { .. } => at + run.length,
                _ => end.min((at / sparse.grain + 1) * sparse.grain),
            };
            let index = |at: u64| usize::try_from(at - offset).unwrap_or(usize::MAX);
            let piece = bytes.get(index(at)..index(piece_end)).unwrap_or_default();
            match run.mapping {
                Mapping::Data { host } => {
                    sparse.must_exist("grain", host, piece.len() as u64)?;
                    sparse.container.write_at(host, piece)?;
                }
                _ => self.write_new_grain(extent, sparse, at, piece)?,
            }
            at = piece_end;
        }
        Ok(())
    }

    /// Gives the grain around `offset`, which has none, a place at the end of the file, filled with what it was read as
    /// and with `bytes`.
    fn write_new_grain(
        &self,
        extent: &Extent,
        sparse: &SparseExtent,
        offset: u64,
        bytes: &[u8],
    ) -> Result<()> {
        let start = offset / sparse.grain * sparse.grain;
        let slot = slot(sparse, start)?;
        let mut grain = vec![0; usize::try_from(sparse.grain).unwrap_or(0)];
        let there = usize::try_from(sparse.grain_length(start)).unwrap_or(0);
        if bytes.len() < there && slot.mapping == Mapping::Unallocated {
            let old = grain.get_mut(..there).unwrap_or_default();
            self.read_parent(extent.start + start, old)?;
        }
        let within = usize::try_from(offset - start).unwrap_or(usize::MAX);
        let place = grain.get_mut(within..within.saturating_add(bytes.len()));
        place.unwrap_or_default().copy_from_slice(bytes);
        let host = append(sparse, sparse.grain, sparse.grain)?;
        sparse.container.write_at(host, &grain)?;
        set_entry(sparse, &slot, host / SECTOR)
    }

    pub(super) fn zero_guest(&self, range: Range<u64>) -> Result<()> {
        let _writer = self.writer()?;
        let length = range.end.saturating_sub(range.start);
        check_range(self.label(), self.size(), range.start, length)?;
        for (extent, piece) in self.pieces(range) {
            let within = piece.start - extent.start..piece.end - extent.start;
            match &extent.body {
                Body::Zero => {}
                _ if extent.access != Access::ReadWrite => must_be_read_write(extent, self.label())?,
                Body::Flat { disk, offset } => {
                    disk.write_zeros(offset.saturating_add(within.start)..offset.saturating_add(within.end))?;
                }
                Body::Sparse(sparse) => self.zero_sparse(extent, sparse, within)?,
            }
        }
        Ok(())
    }

    fn zero_sparse(&self, extent: &Extent, sparse: &SparseExtent, range: Range<u64>) -> Result<()> {
        let mut at = range.start;
        while at < range.end {
            let run = sparse.run(at, range.end)?;
            match run.mapping {
                Mapping::Data { host } => {
                    sparse.must_exist("grain", host, run.length)?;
                    // The place is kept; below, the file can have a hole there.
                    sparse.container.write_zeros(host..host + run.length)?;
                }
                Mapping::Unallocated if self.parts.parent.is_some() => {
                    self.hide_parent(extent, sparse, at..at + run.length)?;
                }
                _ => {}
            }
            at += run.length;
        }
        Ok(())
    }

    /// Zeros where the parent's bytes show through.
    fn hide_parent(&self, extent: &Extent, sparse: &SparseExtent, range: Range<u64>) -> Result<()> {
        let mut at = range.start;
        while at < range.end {
            let start = at / sparse.grain * sparse.grain;
            let end = range.end.min(start + sparse.grain);
            let whole = at == start && end - start == sparse.grain_length(start);
            if whole && sparse.has_zeroed_grains() {
                set_entry(sparse, &slot(sparse, start)?, 1)?;
            } else {
                let zeros = vec![0; usize::try_from(end - at).unwrap_or(0)];
                self.write_new_grain(extent, sparse, at, &zeros)?;
            }
            at = end;
        }
        Ok(())
    }

    /// What can say zero without taking space does; a parent's bytes stay as they are.
    pub(super) fn discard_guest(&self, range: Range<u64>) -> Result<()> {
        let _writer = self.writer()?;
        let length = range.end.saturating_sub(range.start);
        check_range(self.label(), self.size(), range.start, length)?;
        for (extent, piece) in self.pieces(range) {
            if extent.access != Access::ReadWrite {
                continue;
            }
            let within = piece.start - extent.start..piece.end - extent.start;
            match &extent.body {
                Body::Zero => {}
                Body::Flat { disk, offset } => {
                    disk.discard(offset.saturating_add(within.start)..offset.saturating_add(within.end))?;
                }
                Body::Sparse(sparse) => {
                    let mut at = within.start;
                    while at < within.end {
                        let run = sparse.run(at, within.end)?;
                        if let Mapping::Data { host } = run.mapping {
                            sparse.must_exist("grain", host, run.length)?;
                            sparse.container.discard(host..host + run.length)?;
                        }
                        at += run.length;
                    }
                }
            }
        }
        Ok(())
    }
}

const ZEROS: &str = "has an extent of type ZERO here, which has no place for data";

/// Kinds that are only read, with what to do instead.
fn must_be_writable(parts: &Parts) -> std::result::Result<(), Flaw> {
    if parts.descriptor.change_tracking.is_some() {
        return Err(Flaw::CannotWrite(
            "has a file that tracks changes for backups (changeTrackPath), which would not learn of an edit: take a copy \
             without it, or switch changed block tracking off",
        ));
    }
    for sparse in parts.extents.iter().filter_map(Extent::sparse) {
        let reason = match &sparse.shape {
            Shape::Hosted(header) if header.is_compressed() => {
                "is streamOptimized, which is written once and never changed: `qemu-img convert -O vmdk -o \
                 subformat=monolithicSparse` makes one that can be edited"
            }
            Shape::Hosted(header) if header.version > 2 => {
                "is a sparse VMDK of version 3, whose changes are tracked for backups, which would not learn of an edit: \
                 `qemu-img convert -O vmdk` makes one that can be edited"
            }
            Shape::Hosted(header) if sparse.directory_is_bad || header.unclean_shutdown => {
                "was not closed properly, or its first grain directory is damaged: let VMware repair it \
                 (`vmware-vdiskmanager -R`), or make a new one with `qemu-img convert -O vmdk`"
            }
            Shape::Hosted(header) if header.grain > LARGEST_COMPRESSED_GRAIN => {
                "has grains of more than 4 MiB, which no product makes: `qemu-img convert -O vmdk` makes an image that can be \
                 edited"
            }
            Shape::Hosted(_) => continue,
            Shape::Cow(_) | Shape::SeSparse(_) => {
                "holds a snapshot of ESXi, which is only read here: `qemu-img convert -O vmdk` makes one disk of it and \
                 its parents that can be edited"
            }
        };
        return Err(Flaw::CannotWrite(reason));
    }
    Ok(())
}

fn must_be_read_write(extent: &Extent, label: &str) -> Result<()> {
    if extent.access == Access::ReadWrite {
        return Ok(());
    }
    let text = format!(
        "has the extent \"{}\", which its descriptor declares read-only",
        extent.name
    );
    Err(Error::new(Kind::ReadOnly, label, text).at(extent.start))
}

/// Room for `length` bytes at the end of the file, from a multiple of `alignment` on.
fn append(sparse: &SparseExtent, length: u64, alignment: u64) -> Result<u64> {
    let host = sparse.container.size().next_multiple_of(alignment.max(SECTOR));
    let end = host.saturating_add(length);
    if end > LARGEST_FILE {
        let text =
            "would become larger than the 2 TiB that a sparse VMDK can have: convert it to monolithicFlat";
        return Err(Error::new(Kind::Full, sparse.container.label(), text).at(host));
    }
    sparse.container.set_size(end)?;
    Ok(host)
}

/// The entry of the grain at `start`; tables that are missing are made. Both directories must say the same, or an edit
/// would be lost in one of them.
fn slot(sparse: &SparseExtent, start: u64) -> Result<Slot> {
    let part = start / sparse.coverage();
    let index = start / sparse.grain % sparse.entries_per_table;
    let mut tables = [None, None];
    let directories = [Some(sparse.directory), sparse.redundant];
    let mut found: Option<u64> = None;
    for (table, directory) in tables.iter_mut().zip(directories) {
        let Some(directory) = directory else {
            continue;
        };
        let host = table_for_writing(sparse, directory, part)?;
        let words = sparse.words(host, sparse.entries_per_table)?;
        let at = usize::try_from(index).unwrap_or(usize::MAX);
        let word = words.get(at).copied().unwrap_or(0);
        if *found.get_or_insert(word) != word {
            return Err(damaged(sparse, host));
        }
        *table = Some(host);
    }
    let mapping = sparse
        .mapping(found.unwrap_or(0), 0)
        .map_err(|flaw| sparse.flaw(flaw, start))?;
    Ok(Slot {
        tables,
        index,
        mapping,
    })
}

fn damaged(sparse: &SparseExtent, at: u64) -> Error {
    let text = "has two grain directories that do not say the same: `image check` says where. Make a new image of it \
                before it is edited";
    Error::new(Kind::Unsafe, sparse.container.label(), text).at(at)
}

fn table_for_writing(sparse: &SparseExtent, directory: u64, part: u64) -> Result<u64> {
    let word = sparse.directory_word(directory, part)?;
    let size = sparse.table_size().next_multiple_of(SECTOR);
    let first_word = match sparse
        .table_entry(word)
        .map_err(|flaw| sparse.flaw(flaw, directory))?
    {
        TableEntry::At(host) if host.saturating_add(size) <= sparse.container.size() => return Ok(host),
        TableEntry::At(host) => return Err(damaged(sparse, host)),
        TableEntry::Absent => 0_u32,
        TableEntry::Zero => 1,
    };
    let host = append(sparse, size, SECTOR)?;
    let entries = usize::try_from(sparse.entries_per_table).unwrap_or(0);
    sparse
        .container
        .write_at(host, &first_word.to_le_bytes().repeat(entries))?;
    put_word(sparse, directory + part * 4, host / SECTOR)?;
    sparse.forget_words(sparse.directory_piece(directory, part));
    Ok(host)
}

fn set_entry(sparse: &SparseExtent, slot: &Slot, word: u64) -> Result<()> {
    for table in slot.tables.into_iter().flatten() {
        put_word(sparse, table + slot.index * 4, word)?;
        sparse.forget_words(table);
    }
    Ok(())
}

fn put_word(sparse: &SparseExtent, at: u64, word: u64) -> Result<()> {
    // Within LARGEST_FILE.
    let word = u32::try_from(word).unwrap_or(0);
    sparse.container.write_at(at, &word.to_le_bytes())
}

/// The digits of the next CID, and where they go: as many as there were, so that nothing moves. qemu writes fewer than
/// eight where the first would be zeros.
fn renewed_cid(text: &[u8]) -> Vec<(usize, Vec<u8>)> {
    let text = text.split(|byte| *byte == 0).next().unwrap_or_default();
    let digits_at = |start: usize| {
        let rest = text.get(start..).unwrap_or_default();
        let length = rest.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
        (start, length)
    };
    let line_start = |at: &usize| *at == 0 || text.get(at - 1) == Some(&b'\n');
    let find = |key: &[u8]| {
        // Blanks may be around the key and the value, as for whoever parses it.
        let blanks = |at: usize| {
            let rest = text.get(at..).unwrap_or_default().iter();
            at + rest
                .take_while(|byte| **byte != b'\n' && byte.is_ascii_whitespace())
                .count()
        };
        // Of several the last counts.
        let mut found = (0..text.len()).filter(line_start).filter_map(|at| {
            let start = blanks(at);
            let end = start + key.len();
            let is_key = text
                .get(start..end)
                .is_some_and(|start| start.eq_ignore_ascii_case(key));
            let equals = blanks(end);
            (is_key && text.get(equals) == Some(&b'=')).then(|| blanks(equals + 1))
        });
        found.next_back()
    };
    let Some(value) = find(b"CID") else {
        return Vec::new();
    };
    let quoted = usize::from(text.get(value) == Some(&b'"'));
    let (at, length) = digits_at(value + quoted);
    let old = text.get(at..at + length).unwrap_or_default();
    let Some(old) = std::str::from_utf8(old)
        .ok()
        .filter(|old| (1..=8).contains(&old.len()))
    else {
        return Vec::new();
    };
    let new = successor(old);
    let mut changes = vec![(at, new.clone().into_bytes())];
    if let Some(line) = find(b"ddb.longContentID") {
        let rest = text.get(line..).unwrap_or_default();
        let quote = rest.iter().position(|byte| matches!(byte, b'"' | b'\n'));
        if let Some(quote) = quote.filter(|quote| rest.get(*quote) == Some(&b'"')) {
            let (start, length) = digits_at(line + quote + 1);
            if length == 32 {
                let padded = format!("{new:0>8}");
                changes.push((start + 24, padded.into_bytes()));
            }
        }
    }
    changes
}

/// Another CID of as many digits, which follows from the old one alone. Not one of those that mean something else.
fn successor(old: &str) -> String {
    let bits = 4 * u32::try_from(old.len()).unwrap_or(8).min(8);
    let mask = u32::MAX >> (32 - bits);
    // Always with the first digit, so that the length stays.
    let top = 1 << (bits - 1);
    let number = u32::from_str_radix(old, 16).unwrap_or(0);
    let mut seed = blake3::hash(old.to_ascii_lowercase().as_bytes());
    loop {
        let bytes = seed.as_bytes().first_chunk::<4>().copied().unwrap_or_default();
        let next = u32::from_le_bytes(bytes) & mask | top;
        if next != number && next < 0xffff_fffe {
            return format!("{next:x}");
        }
        seed = blake3::hash(seed.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cid_is_replaced_without_moving_anything() {
        let text = b"# Disk DescriptorFile\nversion=1\nCID=2e5c15f\nparentCID=ffffffff\n\
                     ddb.longContentID = \"0123456789abcdef0123456702e5c15f\"\n\0\0";
        let mut new = text.to_vec();
        for (at, digits) in renewed_cid(text) {
            new[at..at + digits.len()].copy_from_slice(&digits);
        }
        let old = super::super::descriptor::parse(text).unwrap();
        let parsed = super::super::descriptor::parse(&new).unwrap();
        assert_ne!(old.cid, parsed.cid);
        assert_eq!(old.parent_cid, parsed.parent_cid);
        let long = &parsed.database[0].1;
        assert_eq!(
            *long,
            format!("0123456789abcdef01234567{:08x}", parsed.cid.unwrap())
        );
        assert_eq!(new.len(), text.len());
        for spelling in ["CID = 2e5c15f", " cid\t=\t\"2e5c15f\" ", "CID=1\nCID=2e5c15f"] {
            let text = format!("version=1\n{spelling}\nparentCID=ffffffff\n");
            let mut new = text.clone().into_bytes();
            for (at, digits) in renewed_cid(text.as_bytes()) {
                new[at..at + digits.len()].copy_from_slice(&digits);
            }
            let cid = super::super::descriptor::parse(&new).unwrap().cid;
            assert_eq!(cid, parsed.cid, "{spelling}");
        }
        assert!(renewed_cid(b"no such line\nCID=\n").is_empty());
        assert!(renewed_cid(b"CID=123456789\n").is_empty());
    }

    #[test]
    fn a_successor_is_another_and_as_long() {
        for old in ["1", "f", "8", "a77f8ab1", "ffffffff", "fffffffe", "00000000"] {
            let next = successor(old);
            assert_eq!(next.len(), old.len());
            assert!(u32::from_str_radix(&next, 16) != u32::from_str_radix(old, 16));
            assert!(!["ffffffff", "fffffffe"].contains(&next.as_str()));
        }
    }
}
