//! Writing file records: of a changed file, and one by one.

use super::{
    Ntfs,
    allocate_record::For,
    attribute::kind,
    attribute_list::{self, Entry},
    edited_file::{Clusters, EditedFile, OwnedAttribute, Value},
    error::{NtfsError, Parsed},
    file_record::{self, FileRecord, Header, Reference, flag, number},
    layout::{self, LIST_RUNS, Layout, List, Piece, Shape},
    update_sequence,
};
use crate::{
    disk::field::{bytes_at, put_bytes, put_u16_le, put_u32_le, u16_le},
    fs::Result,
};
use std::sync::Arc;

/// Values that may leave the record when it is full, because Windows looks for them in clusters too.
const MAY_LEAVE: [u32; 5] = [
    kind::SECURITY_DESCRIPTOR,
    kind::DATA,
    kind::BITMAP,
    kind::REPARSE_POINT,
    kind::EA,
];
/// A shorter value takes less room than the data runs of where it would go.
const WORTH_LEAVING: usize = 96;
/// Changed files that are kept for the next change.
const MOST_KEPT: usize = 16;
/// One in more pieces is not kept: with 32 bytes each, all that are kept have 32 MiB at most.
const MOST_KEPT_RUNS: usize = 1 << 16;

impl Ntfs {
    /// Writes a changed file: shares its attributes out to records, and writes those that differ from what they were.
    pub(super) fn store(&mut self, mut file: EditedFile) -> Result<()> {
        let number = file.number;
        self.sort_attributes(&mut file.attributes);
        let shape = self.shape(&file)?;
        let layout = self.make_room(&mut file, &shape)?;
        let records = self.records_for(&mut file, layout.records.len())?;
        let layout = self.with_list(&mut file, &shape, layout, &records)?;
        for (reference, pieces) in records.iter().zip(&layout) {
            self.store_record(&mut file, *reference, pieces)?;
        }
        self.open.replace(None);
        if number == number::MFT {
            self.take_map(&file);
        }
        self.keep(file);
        Ok(())
    }

    /// Keeps a file, written already, for the next change.
    pub(super) fn keep(&mut self, file: EditedFile) {
        if file.runs() > MOST_KEPT_RUNS && file.number != number::MFT {
            return;
        }
        while self.edited.len() >= MOST_KEPT {
            self.edited.pop_first();
        }
        self.edited.insert(file.number, file);
    }

    /// The room that the records of a file have.
    pub(super) fn shape(&self, file: &EditedFile) -> Result<Shape> {
        let length = self.boot.record_size;
        let room = |first: u16| length.saturating_sub(usize::from(first) + file_record::END_LENGTH);
        let blank = self.blank_record(0)?;
        Ok(Shape {
            first: room(file.header.first),
            more: room(u16_le(&blank, 0x14).unwrap_or(u16::MAX)),
            cluster_size: self.boot.cluster_size,
            is_mft: file.number == number::MFT,
        })
    }

    /// Would all of the file's attributes fit in its first record?
    pub(super) fn fits_in_one(&self, file: &EditedFile) -> Result<bool> {
        let shape = self.shape(file)?;
        let layout = layout::layout(&shape, &file.attributes);
        Ok(layout.is_ok_and(|layout| layout.list == List::None))
    }

    /// Lets values leave a record that is too full, the largest first, and shares out what there is then.
    fn make_room(&mut self, file: &mut EditedFile, shape: &Shape) -> Result<Layout> {
        loop {
            let layout = layout::layout(shape, &file.attributes);
            if layout.as_ref().is_ok_and(|layout| layout.list == List::None) {
                return layout.map_err(|e| self.in_record(file.number, e));
            }
            let largest = file
                .attributes
                .iter()
                .enumerate()
                .filter(|(_, attribute)| MAY_LEAVE.contains(&attribute.kind))
                .filter_map(|(index, attribute)| match &attribute.value {
                    Value::Resident { bytes, .. } if bytes.len() > WORTH_LEAVING => {
                        Some((bytes.len(), index))
                    }
                    _ => None,
                })
                .max();
            let Some((_, index)) = largest else {
                return layout.map_err(|e| self.in_record(file.number, e));
            };
            self.move_to_clusters(file, index)?;
        }
    }

    /// The records of a file that needs so many: those that it has, new ones, and those that it needs no more are given
    /// back.
    fn records_for(&mut self, file: &mut EditedFile, count: usize) -> Result<Vec<Reference>> {
        file.more.sort_by_key(|record| record.number);
        while file.more.len() + 1 < count {
            let used = if file.number == number::MFT {
                For::Mft
            } else {
                For::More(file.reference())
            };
            let record = self.allocate_record(used)?;
            file.more.push(record);
            file.more.sort_by_key(|record| record.number);
        }
        for record in file.more.split_off(count.saturating_sub(1).min(file.more.len())) {
            self.free_record(record.number)?;
        }
        Ok(std::iter::once(file.reference())
            .chain(file.more.iter().copied())
            .collect())
    }

    /// Adds the attribute list, which names the records and the numbers that attributes get there.
    fn with_list(
        &mut self,
        file: &mut EditedFile,
        shape: &Shape,
        layout: Layout,
        records: &[Reference],
    ) -> Result<Vec<Vec<Piece>>> {
        let number = file.number;
        let fail = |ntfs: &Self, e: NtfsError| ntfs.in_record(number, e);
        let mut pieces = layout.records;
        let mut entries = Vec::new();
        let mut homes = vec![Vec::new(); file.attributes.len()];
        for (record, pieces) in records.iter().zip(&mut pieces) {
            self.number_pieces(file, *record, pieces, &mut homes)?;
            for piece in pieces.iter() {
                let Some(attribute) = file.attributes.get(piece.index) else {
                    continue;
                };
                if shape.is_mft
                    && piece.vcn > 0
                    && record
                        .number
                        .saturating_add(1)
                        .saturating_mul(self.boot.record_size as u64)
                        > self.byte(piece.vcn)
                {
                    return Err(self.fault(NtfsError::Full(
                        "$MFT has no record free near its start for more of its own map; defragment it first (`contig \
                         $Mft`)"
                            .to_owned(),
                    )));
                }
                entries.push((
                    piece.index,
                    Entry {
                        kind: attribute.kind,
                        name: attribute.name.clone(),
                        vcn: piece.vcn,
                        record: *record,
                        instance: u16_le(&piece.bytes, 14).map_err(|e| fail(self, e.into()))?,
                    },
                ));
            }
        }
        for (attribute, homes) in file.attributes.iter_mut().zip(homes) {
            attribute.homes = homes;
        }
        entries.sort_by_key(|(index, entry)| (*index, entry.vcn));
        let entries: Vec<Entry> = entries.into_iter().map(|(_, entry)| entry).collect();
        let old = std::mem::take(&mut file.list);
        for place in old.iter().filter_map(super::Run::place) {
            self.free_clusters_of(place)?;
        }
        if layout.list == List::None {
            return Ok(pieces);
        }
        let list = attribute_list::encode(&entries).map_err(|e| fail(self, e))?;
        if list.len() as u64 > attribute_list::MOST_BYTES {
            return Err(self.fault(NtfsError::Full(format!(
                "file record {}: its attribute list would have {} bytes, where Windows reads {}; defragment the file \
                 first",
                file.number,
                list.len(),
                attribute_list::MOST_BYTES
            ))));
        }
        let mut attribute = OwnedAttribute::resident(kind::ATTRIBUTE_LIST, &[], list);
        if layout.list == List::Clusters
            && let Value::Resident { bytes, .. } = &attribute.value
        {
            let clusters = self.write_to_new_clusters(bytes)?;
            file.list.clone_from(&clusters.runs);
            attribute.value = Value::Clusters(clusters);
        }
        let room = match layout.list {
            List::Clusters => attribute.header_length() + LIST_RUNS,
            _ => shape.first,
        };
        let encoded = attribute
            .encode(0, room, shape.cluster_size)
            .map_err(|e| fail(self, e))?;
        let Some((mut bytes, 0)) = encoded else {
            return Err(self.fault(NtfsError::Full(format!(
                "free space is in pieces too small for the attribute list of file record {}",
                file.number
            ))));
        };
        let instance = self.next_instance(file.number, pieces.first())?;
        put_u16_le(&mut bytes, 14, instance).map_err(|e| fail(self, e.into()))?;
        if let Some(first) = pieces.first_mut() {
            let kind_of = |piece: &Piece| {
                file.attributes
                    .get(piece.index)
                    .map_or(0, |attribute| attribute.kind)
            };
            let at = first.partition_point(|piece| kind_of(piece) < kind::ATTRIBUTE_LIST);
            first.insert(
                at,
                Piece {
                    index: usize::MAX,
                    vcn: 0,
                    bytes,
                },
            );
        }
        Ok(pieces)
    }

    /// Gives pieces their numbers in a record: those that they had there, and new ones. Notes them in `homes`.
    fn number_pieces(
        &self,
        file: &EditedFile,
        record: Reference,
        pieces: &mut [Piece],
        homes: &mut [Vec<(u64, u16)>],
    ) -> Result<()> {
        let old = self.header_if_formatted(record.number)?;
        let anew = old.is_some_and(|header| starts_anew(&header));
        let mut next = old.filter(|_| !anew).map_or(0, |header| header.next_instance);
        for piece in pieces.iter_mut() {
            let Some((attribute, homes)) = file.attributes.get(piece.index).zip(homes.get_mut(piece.index))
            else {
                continue;
            };
            let known = attribute
                .homes
                .iter()
                .find(|home| home.0 == record.number && !anew && !homes.contains(home));
            let home = known.copied().unwrap_or((record.number, next));
            next = next.max(home.1.saturating_add(1));
            homes.push(home);
            put_u16_le(&mut piece.bytes, 14, home.1).map_err(|e| self.in_record(record.number, e.into()))?;
        }
        Ok(())
    }

    /// A number that no piece of the first record has.
    fn next_instance(&self, number: u64, pieces: Option<&Vec<Piece>>) -> Result<u16> {
        let old = self
            .header_if_formatted(number)?
            .filter(|header| !starts_anew(header));
        let pieces = pieces.into_iter().flatten();
        let used = pieces.filter_map(|piece| u16_le(&piece.bytes, 14).ok()).max();
        let next = used.map_or(0, |used| used.saturating_add(1));
        Ok(next.max(old.map_or(0, |header| header.next_instance)))
    }

    /// Writes the pieces of one record, if they are not what it has.
    fn store_record(&mut self, file: &mut EditedFile, reference: Reference, pieces: &[Piece]) -> Result<()> {
        let number = reference.number;
        let old = self.record(number)?;
        let base = number == file.number;
        let mut header = Header {
            sequence: reference.sequence,
            flags: old.header.flags | flag::IN_USE,
            first: old.header.first,
            base: if base {
                Reference::default()
            } else {
                file.reference()
            },
            links: 0,
            ..old.header
        };
        if base {
            header.flags = file.header.flags;
            header.links = file.header.links;
        }
        let raw = assemble(&old, &mut header, pieces).map_err(|e| self.in_record(number, e))?;
        if base {
            file.header = header;
        }
        let used = usize::try_from(header.bytes_in_use).unwrap_or(0);
        if header == old.header && raw.get(..used) == old.bytes.get(..used) {
            return Ok(());
        }
        self.write_record(number, raw)
    }

    /// A record without attributes, as this version of NTFS has them.
    pub(super) fn blank_record(&self, number: u64) -> Result<Vec<u8>> {
        file_record::blank(number, self.boot.record_size, self.volume.records_have_numbers())
            .map_err(|e| self.in_record(number, e))
    }

    /// Writes a record, to the mirror too if it is one of the first.
    pub(super) fn write_record(&mut self, number: u64, mut raw: Vec<u8>) -> Result<()> {
        let place = self.record_place(number)?;
        update_sequence::protect(&mut raw).map_err(|e| self.in_record(number, e))?;
        self.changed = true;
        self.record_cache.borrow_mut().forget(number);
        self.write_runs(&self.mft, place, &raw)?;
        if number < self.mirrored {
            let place = self
                .byte(self.boot.mirror)
                .saturating_add(number.saturating_mul(self.boot.record_size as u64));
            self.disk.write_at(place, &raw)?;
        }
        let record = FileRecord::from_disk(number, raw).map_err(|e| self.in_record(number, e))?;
        self.record_cache
            .borrow_mut()
            .put(number, Arc::clone(&record.bytes));
        Ok(())
    }

    /// `$MFT` has grown.
    fn take_map(&mut self, file: &EditedFile) {
        if let Some(Clusters {
            runs, initialized, ..
        }) = file.clusters(kind::DATA, &[])
        {
            self.mft.clone_from(runs);
            self.records = initialized / self.boot.record_size as u64;
        }
    }
}

/// Numbers of attributes have 16 bits: a record that has nearly used them up gives them anew.
fn starts_anew(header: &Header) -> bool {
    header.next_instance > 0xf000
}

/// A record with these attributes and fields, the rest as it was; fields that follow from the attributes are set.
fn assemble(old: &FileRecord, header: &mut Header, pieces: &[Piece]) -> Parsed<Vec<u8>> {
    let mut raw = vec![0; old.bytes.len()];
    let mut at = usize::from(header.first);
    put_bytes(&mut raw, 0, bytes_at(&old.bytes, 0, at)?)?;
    let mut next = if starts_anew(&old.header) {
        0
    } else {
        old.header.next_instance
    };
    for piece in pieces {
        put_bytes(&mut raw, at, &piece.bytes)?;
        at += piece.bytes.len();
        next = next.max(u16_le(&piece.bytes, 14)?.saturating_add(1));
    }
    put_u32_le(&mut raw, at, kind::END)?;
    header.bytes_in_use = u32::try_from(at + file_record::END_LENGTH).unwrap_or(0);
    header.next_instance = next;
    header.put(&mut raw)?;
    Ok(raw)
}
