//! Entries of a log of Windows 8.1 and later, `HvLE` (regf specification, "Log entries").

use super::marvin32::marvin32;
use crate::{
    disk::field::{Truncated, bytes_at, put_bytes, put_u32_le, put_u64_le, u32_le, u64_le},
    hive::{
        cell::PAGE,
        error::{HiveError, Parsed},
    },
};
use std::iter;

const ENTRY_HEADER: usize = 40;
/// Bytes that the second hash covers: the header as far as the first hash.
const HEADER_HASHED: usize = 32;
/// Sizes of entries are multiples of this.
const ENTRY_GRAIN: usize = 512;
/// Sizes of pages are multiples of this; Windows writes multiples of 4096.
const PAGE_GRAIN: usize = 512;
/// Bytes of a reference to a page.
const REFERENCE: usize = 8;

/// One entry: pages as they are to be in the hive.
#[derive(Clone, Copy, Debug)]
pub(super) struct LogEntry<'a> {
    pub(super) sequence: u32,
    /// Bit 0 is that of the base block's flags.
    pub(super) flags: u32,
    /// Bytes of hive bins when it was written.
    pub(super) bins_size: u32,
    /// In bytes.
    pub(super) size: usize,
    references: &'a [u8],
    pages: &'a [u8],
}

impl<'a> LogEntry<'a> {
    /// From the bytes from its start on; what is behind it is not looked at.
    pub(super) fn parse(bytes: &'a [u8]) -> Parsed<Self> {
        if bytes_at(bytes, 0, 4)? != b"HvLE" {
            return Err(HiveError::damaged("no log entry"));
        }
        let size = length(u32_le(bytes, 4)?);
        if size < ENTRY_GRAIN || !size.is_multiple_of(ENTRY_GRAIN) {
            return Err(HiveError::damaged(format!("a log entry of {size} bytes")));
        }
        let entry = bytes_at(bytes, 0, size)?;
        let body = entry.get(ENTRY_HEADER..).unwrap_or_default();
        let hashed = bytes_at(entry, 0, HEADER_HASHED)?;
        if u64_le(entry, 24)? != marvin32(body) || u64_le(entry, 32)? != marvin32(hashed) {
            return Err(HiveError::damaged("a log entry whose hashes do not fit"));
        }
        let bins_size = u32_le(entry, 16)?;
        if bins_size == 0 || !length(bins_size).is_multiple_of(PAGE) {
            return Err(HiveError::damaged(format!(
                "a log entry for {bins_size} bytes of hive bins"
            )));
        }
        let references = length(u32_le(entry, 20)?).saturating_mul(REFERENCE);
        Ok(Self {
            sequence: u32_le(entry, 12)?,
            flags: u32_le(entry, 8)?,
            bins_size,
            size,
            references: bytes_at(body, 0, references)?,
            pages: body.get(references..).unwrap_or_default(),
        })
    }

    /// Its pages: where each is to be, in bytes of the hive bins data, and what is to be there.
    pub(super) fn pages(&self) -> Parsed<Vec<(usize, &'a [u8])>> {
        let mut pages = Vec::new();
        let mut from: usize = 0;
        for reference in self.references.chunks_exact(REFERENCE) {
            let (at, size) = (length(u32_le(reference, 0)?), length(u32_le(reference, 4)?));
            let fits = at
                .checked_add(size)
                .is_some_and(|end| end <= length(self.bins_size));
            if !fits || size == 0 || !size.is_multiple_of(PAGE_GRAIN) {
                let what = format!("a log entry has {size} bytes for {at:#x}");
                return Err(HiveError::damaged(what));
            }
            pages.push((at, bytes_at(self.pages, from, size)?));
            from = from.saturating_add(size);
        }
        Ok(pages)
    }
}

/// The entries that follow each other in a log from its second sector on, the first of which has the number that the log's base
/// block says. What is behind the last of them is left from older times.
pub(super) fn entries(log: &[u8], start: usize, first: u32) -> impl Iterator<Item = LogEntry<'_>> {
    let mut at = start;
    let mut expected = first;
    iter::from_fn(move || {
        let entry = LogEntry::parse(log.get(at..)?).ok()?;
        if entry.sequence != expected {
            return None;
        }
        at = at.checked_add(entry.size)?;
        expected = expected.wrapping_add(1);
        Some(entry)
    })
}

/// Makes `entry` a log entry: stores its signature, its size and the hashes of what it holds now. For those who make logs, as
/// tests do; one of less than 40 bytes stays as it is.
pub fn seal_log_entry(entry: &mut [u8]) {
    let mut seal = || -> Result<(), Truncated> {
        bytes_at(entry, 0, ENTRY_HEADER)?;
        let size = u32::try_from(entry.len()).unwrap_or(u32::MAX);
        put_bytes(entry, 0, b"HvLE")?;
        put_u32_le(entry, 4, size)?;
        let body = marvin32(entry.get(ENTRY_HEADER..).unwrap_or_default());
        put_u64_le(entry, 24, body)?;
        let header = marvin32(bytes_at(entry, 0, HEADER_HASHED)?);
        put_u64_le(entry, 32, header)
    };
    // Every place is within the 40 bytes that were asked for first.
    let _ = seal();
}

fn length(field: u32) -> usize {
    usize::try_from(field).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(sequence: u32, pages: &[(u32, u32)]) -> Vec<u8> {
        let mut bytes = vec![0; ENTRY_HEADER];
        put_u32_le(&mut bytes, 12, sequence).unwrap();
        put_u32_le(&mut bytes, 16, 8192).unwrap();
        put_u32_le(&mut bytes, 20, pages.len() as u32).unwrap();
        for (at, size) in pages {
            bytes.extend_from_slice(&at.to_le_bytes());
            bytes.extend_from_slice(&size.to_le_bytes());
        }
        for (at, size) in pages {
            bytes.extend(iter::repeat_n(*at as u8 + 1, *size as usize));
        }
        bytes.resize(bytes.len().next_multiple_of(ENTRY_GRAIN), 0);
        seal_log_entry(&mut bytes);
        bytes
    }

    #[test]
    fn entries_follow_each_other_by_number() {
        let mut log = vec![0; 512];
        for sequence in [7, 8, 10] {
            log.extend(entry(sequence, &[(0, 512), (4096, 4096)]));
        }
        let found: Vec<u32> = entries(&log, 512, 7).map(|entry| entry.sequence).collect();
        assert_eq!(found, [7, 8], "9 is missing");
        assert_eq!(entries(&log, 512, 8).count(), 0);
        let first = entries(&log, 512, 7).next().unwrap();
        let pages = first.pages().unwrap();
        assert_eq!(pages, [(0, &[1; 512][..]), (4096, &[1; 4096][..])]);
    }

    #[test]
    fn a_changed_byte_ends_it() {
        let good = entry(7, &[(0, 512)]);
        for at in [0, 5, 8, 13, 17, 21, 25, 33, 41, 60, good.len() - 1] {
            let mut bad = good.clone();
            bad[at] ^= 1;
            assert!(LogEntry::parse(&bad).is_err(), "{at}");
        }
        assert!(LogEntry::parse(&good[..good.len() - 1]).is_err());
    }

    #[test]
    fn pages_past_the_end_are_refused() {
        for pages in [
            &[(8192, 512)][..],
            &[(4096, 4097)],
            &[(u32::MAX, 1)],
            &[(0, u32::MAX)],
        ] {
            let mut bytes = entry(7, &[(0, 512); 1]);
            put_u32_le(&mut bytes, 40, pages[0].0).unwrap();
            put_u32_le(&mut bytes, 44, pages[0].1).unwrap();
            seal_log_entry(&mut bytes);
            assert!(LogEntry::parse(&bytes).unwrap().pages().is_err(), "{pages:?}");
        }
        let mut bytes = entry(7, &[(0, 512)]);
        put_u32_le(&mut bytes, 20, u32::MAX).unwrap();
        seal_log_entry(&mut bytes);
        assert!(LogEntry::parse(&bytes).is_err());
    }
}
