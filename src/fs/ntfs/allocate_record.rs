//! Finding file records that are free: the bitmap of `$MFT` says which, and `$MFT` grows when none is.

use super::{
    Ntfs,
    attribute::kind,
    data_runs::{self, Run},
    edited_file::EditedFile,
    error::NtfsError,
    file_record::{FileRecord, Header, Reference, flag, number},
    update_sequence,
};
use crate::fs::Result;

/// What a record is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum For {
    /// A new file.
    File,
    /// More attributes of a file.
    More(Reference),
    /// More of the map of `$MFT`, which must be near its start, where it can be found before the rest of the map is known.
    Mft,
}

/// Records from 24 on are for users, but those up to here are left for the map of `$MFT`, as `ntfs-3g` does.
const FIRST_FOR_FILES: u64 = 64;
/// Windows takes this one first for more of the map of `$MFT`.
const FIRST_FOR_MFT: u64 = 15;
/// `$MFT` grows by so many records.
const GROWTH: u64 = 64;
/// Record numbers have 32 bits in Windows.
const MOST_RECORDS: u64 = 1 << 32;

impl Ntfs {
    /// Takes a free record and formats it, in use and without attributes.
    pub(super) fn allocate_record(&mut self, used: For) -> Result<Reference> {
        let mut mft = self.load(number::MFT)?;
        let (start, end) = match used {
            For::Mft => (FIRST_FOR_MFT, FIRST_FOR_FILES.min(self.records)),
            _ => (self.record_hint.max(FIRST_FOR_FILES), self.records),
        };
        let found = self.find_free_record(&mft, start, end)?;
        let number = match (found, used) {
            (Some(number), _) => number,
            (None, For::Mft) => {
                self.edited.insert(number::MFT, mft);
                return Err(self.fault(NtfsError::Full(
                    "no file record near the start of $MFT is free for more of its own map; defragment it first \
                     (`contig $Mft`)"
                        .to_owned(),
                )));
            }
            (None, _) => {
                let number = self.records.max(FIRST_FOR_FILES);
                mft = self.grow_mft(mft, number)?;
                number
            }
        };
        self.mark_record(&mut mft, number, true)?;
        if used != For::Mft {
            self.record_hint = number + 1;
        }
        self.edited.insert(number::MFT, mft);
        self.format_record(number, used)
    }

    fn format_record(&mut self, number: u64, used: For) -> Result<Reference> {
        let old = self.header_if_formatted(number)?;
        if old.is_some_and(|header| header.has(flag::IN_USE)) {
            return Err(self.damaged(number, "is in use, but the bitmap of $MFT says that it is free"));
        }
        let sequence = match old.map_or(1, |header| header.sequence) {
            0 => 1,
            sequence => sequence,
        };
        let base = match used {
            For::File => Reference::default(),
            For::More(file) => file,
            For::Mft => self.record(number::MFT)?.reference(),
        };
        let mut raw = self.blank_record(number)?;
        let record = FileRecord::parse(number, raw.clone().into()).map_err(|e| self.in_record(number, e))?;
        let header = Header {
            sequence,
            base,
            flags: flag::IN_USE,
            ..record.header
        };
        header.put(&mut raw).map_err(|e| self.in_record(number, e))?;
        self.write_record(number, raw)?;
        Ok(Reference { number, sequence })
    }

    /// The header of a record; `None` if none is there.
    pub(super) fn header_if_formatted(&self, number: u64) -> Result<Option<Header>> {
        match self.record(number) {
            Ok(record) => Ok(Some(record.header)),
            Err(error) if error.kind == crate::disk::Kind::Corrupt => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Gives a record back. Who still refers to it sees that its sequence number is another.
    pub(super) fn free_record(&mut self, number: u64) -> Result<()> {
        let record = self.record(number)?;
        let mut raw = record.bytes.to_vec();
        let header = Header {
            sequence: match record.header.sequence.wrapping_add(1) {
                0 => 1,
                next => next,
            },
            flags: record.header.flags & !flag::IN_USE,
            links: 0,
            ..record.header
        };
        header.put(&mut raw).map_err(|e| self.in_record(number, e))?;
        self.write_record(number, raw)?;
        self.edited.remove(&number);
        let mut mft = self.load(number::MFT)?;
        self.mark_record(&mut mft, number, false)?;
        self.edited.insert(number::MFT, mft);
        self.record_hint = self.record_hint.min(number);
        Ok(())
    }

    fn find_free_record(&self, mft: &EditedFile, start: u64, end: u64) -> Result<Option<u64>> {
        let mut buffer = [0; 4096];
        let mut at = start / 8 * 8;
        while at < end {
            let length = (end - at).div_ceil(8).min(buffer.len() as u64);
            let piece = buffer
                .get_mut(..usize::try_from(length).unwrap_or(0))
                .unwrap_or_default();
            self.read_value(mft, (kind::BITMAP, &[]), at / 8, piece)?;
            for (index, byte) in (0_u64..).zip(piece.iter()) {
                if *byte == 0xff {
                    continue;
                }
                let number = at + index * 8;
                let free = (0..8).map(|bit| (number + bit, byte >> bit & 1));
                let mut free = free.filter(|(number, used)| *used == 0 && (start..end).contains(number));
                if let Some((number, _)) = free.next() {
                    return Ok(Some(number));
                }
            }
            at += length * 8;
        }
        Ok(None)
    }

    fn mark_record(&mut self, mft: &mut EditedFile, number: u64, used: bool) -> Result<()> {
        let mut byte = [0];
        self.read_value(mft, (kind::BITMAP, &[]), number / 8, &mut byte)?;
        let bit = 1_u8 << (number % 8);
        let [old] = byte;
        let new = if used { old | bit } else { old & !bit };
        if old == new {
            return Err(self.damaged(
                number,
                format!(
                    "is {} already, says the bitmap of $MFT",
                    if used { "used" } else { "free" }
                ),
            ));
        }
        // It was moved out of the record, if it was there.
        self.write_value(mft, (kind::BITMAP, &[]), number / 8, &[new])
    }

    /// Makes `$MFT` longer, so that it has record `number`.
    fn grow_mft(&mut self, mut mft: EditedFile, number: u64) -> Result<EditedFile> {
        let size = self.boot.record_size as u64;
        let records = (number + 1).next_multiple_of(GROWTH).max(self.records + GROWTH);
        if records > MOST_RECORDS {
            return Err(self.fault(NtfsError::Full(
                "$MFT has as many records as there can be".to_owned(),
            )));
        }
        let damaged = || self.damaged(number::MFT, "has no map or no bitmap");
        // The bitmap first: a record that has no bit is worse than a bit that has no record.
        let bits = mft.attribute(kind::BITMAP, &[]).ok_or_else(damaged)?.size();
        let needed = records.div_ceil(64) * 8;
        if bits < needed {
            self.resize_value(&mut mft, (kind::BITMAP, &[]), needed)?;
        }
        let clusters = mft
            .clusters(kind::DATA, &[])
            .ok_or_else(|| self.damaged(number::MFT, "has no map"))?;
        let old_end = clusters.end();
        let needed = (records * size).div_ceil(self.boot.cluster_size);
        let goal = clusters.runs.last().and_then(Run::place).map(|place| place.end);
        let mut new = Vec::new();
        if needed > old_end {
            new = self.allocate_clusters(needed - old_end, goal)?;
        }
        let from = self.records;
        let clusters = mft
            .clusters_mut(kind::DATA, &[])
            .ok_or_else(|| NtfsError::damaged("has no map").on(self.disk.label()))?;
        for run in new {
            let run = Run {
                vcn: clusters.end(),
                lcn: Some(run.start),
                clusters: run.end - run.start,
            };
            data_runs::push(&mut clusters.runs, run);
        }
        clusters.size = records * size;
        clusters.initialized = records * size;
        let runs = clusters.runs.clone();
        for number in from..records {
            let mut raw = self.blank_record(number)?;
            update_sequence::protect(&mut raw).map_err(|e| self.in_record(number, e))?;
            self.write_runs(&runs, number * size, &raw)?;
        }
        self.store(mft)?;
        self.load(number::MFT)
    }
}
