//! Transaction logs: what Windows had written there and not yet in the hive when it stopped (regf specification,
//! "Format of transaction log files" and "Multiple transaction log files").
//!
//! The logs themselves are never changed. A hive that was closed properly has two equal sequence numbers, and then Windows
//! does not look at its logs. What we write has a higher number than every entry in them, so that an entry left there can
//! never pass for a later one.

mod dirty_vector;
mod entry;
mod marvin32;

use super::{
    LARGEST_HIVE,
    base_block::{self, BASE_BLOCK_SIZE, BaseBlock, FLAG_TRANSACTIONS, FileType},
    cell::{CellOffset, Cells, PAGE},
    error::{HiveError, Parsed},
    tree,
};
use crate::disk::field::{bytes_at, put_bytes, u64_le};
use entry::LogEntry;
use std::ops::Range;

pub use entry::seal_log_entry;

/// Sectors of 512 bytes in the largest sector that Windows knows.
const LARGEST_CLUSTERING: u32 = 8;
/// Where a base block has the name, or the end of the path, of the hive's file.
const FILE_NAME: Range<usize> = 48..112;
/// Where the first bin has the copy of the base block's time of writing.
const FIRST_BIN_TIME: usize = BASE_BLOCK_SIZE + 20;

/// How far a hive may grow for each byte of its logs. Windows logs what it has written to new bins, at least the beginning of each;
/// far more than that is a lie, which would take memory for nothing.
const GROWTH: usize = 16;
/// And in any case: the largest cell of a hive without big data, in a bin of which only the first page was logged.
const LEAST_GROWTH: usize = (1 << 20) + PAGE;

/// What came of a hive's logs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Recovery {
    /// It was closed properly; no log was needed.
    Clean,
    /// What the logs held is in it now. The text says what was done.
    Recovered(String),
    /// It was not closed properly, and no log helps. The text says why.
    Stale(String),
}

/// The highest sequence number in `logs`: what is written after them has a higher one.
pub(super) fn latest_sequence(logs: &[Vec<u8>]) -> u32 {
    let logs = logs.iter().filter_map(|log| Log::parse(log));
    let latest = |log: Log<'_>| {
        let last = log.entries().last().map(|entry| entry.sequence);
        last.unwrap_or(0).max(log.base.primary_sequence)
    };
    logs.map(latest).max().unwrap_or(0)
}

/// Brings `file`, a hive, to what its logs say, if it was not closed properly. The base block is sealed then.
pub(super) fn recover(file: &mut Vec<u8>, logs: &[Vec<u8>]) -> Parsed<Recovery> {
    let base = BaseBlock::parse(file)?;
    if !base.is_dirty() {
        return Ok(Recovery::Clean);
    }
    let logs: Vec<Log<'_>> = logs.iter().filter_map(|log| Log::parse(log)).collect();
    if logs.is_empty() {
        return Ok(Recovery::Stale(stale(&base, 0)));
    }
    let new: Vec<&Log<'_>> = logs
        .iter()
        .filter(|log| log.base.file_type == FileType::NewLog)
        .collect();
    let old: Vec<&Log<'_>> = logs
        .iter()
        .filter(|log| log.base.file_type == FileType::OldLog)
        .collect();
    let most = logs
        .iter()
        .fold(file.len().saturating_add(LEAST_GROWTH), |most, log| {
            most.saturating_add(log.bytes.len().saturating_mul(GROWTH))
        });
    // Tried on a copy: a log that turns out damaged half-way leaves the hive as it was.
    let mut tried = file.clone();
    let replayed = if new.is_empty() {
        replay_pages(&mut tried, &base, &old, most)
    } else {
        replay_entries(&mut tried, &base, &new, most)
    };
    let done = match replayed {
        Err(HiveError::Damaged { .. }) => None,
        other => other?,
    };
    // A log of something else gives what is no hive.
    match done.and_then(|text| Some((text, holding_together(tried).ok()?))) {
        Some((text, tried)) => {
            *file = tried;
            Ok(Recovery::Recovered(text))
        }
        None => Ok(Recovery::Stale(stale(&base, logs.len()))),
    }
}

/// The file again, if it is a hive with sound bins and a root.
fn holding_together(file: Vec<u8>) -> Parsed<Vec<u8>> {
    let base = BaseBlock::parse(&file)?;
    base.must_be_known()?;
    let cells = Cells::new(file, base.bins_size)?;
    tree::node(&cells, CellOffset(base.root))?;
    Ok(cells.into_file())
}

fn stale(base: &BaseBlock, logs: usize) -> String {
    let state = if base.checksum_fits {
        format!(
            "sequence numbers {} and {} in its base block",
            base.primary_sequence, base.secondary_sequence
        )
    } else {
        "the checksum of its base block does not fit".into()
    };
    let why = match logs {
        0 => "no valid transaction log stands beside it",
        1 => "the transaction log beside it does not belong to this state",
        _ => "the transaction logs beside it do not belong to this state",
    };
    format!("the hive was not closed properly ({state}) and {why}")
}

/// A log with a valid base block.
struct Log<'a> {
    bytes: &'a [u8],
    base: BaseBlock,
    /// Bytes of a sector: the base block takes one, and all else begins at a multiple.
    sector: usize,
}

impl<'a> Log<'a> {
    fn parse(bytes: &'a [u8]) -> Option<Self> {
        let base = BaseBlock::parse(bytes).ok()?;
        let sectors = base.clustering.max(1);
        let log = matches!(base.file_type, FileType::OldLog | FileType::NewLog);
        if !log || base.is_dirty() || sectors > LARGEST_CLUSTERING {
            return None;
        }
        Some(Self {
            bytes,
            base,
            sector: usize::try_from(sectors).ok()?.checked_mul(512)?,
        })
    }

    fn entries(&self) -> impl Iterator<Item = LogEntry<'a>> {
        // Entries are from a time when a sector has 512 bytes for every purpose of a hive.
        entry::entries(self.bytes, 512, self.base.primary_sequence)
    }
}

/// Logs of Windows 8.1 and later.
fn replay_entries(
    file: &mut Vec<u8>,
    base: &BaseBlock,
    logs: &[&Log<'_>],
    most: usize,
) -> Parsed<Option<String>> {
    let mut logs: Vec<&&Log<'_>> = logs.iter().filter(|log| log.entries().next().is_some()).collect();
    logs.sort_by_key(|log| log.base.primary_sequence);
    if !base.checksum_fits {
        // Only the log with the latest entries has a base block that goes with them.
        let Some(last) = logs.pop() else { return Ok(None) };
        restore_base_block(file, last)?;
        logs = vec![last];
    }
    let (mut applied, mut pages, mut last) = (0_u32, 0_usize, None);
    for log in logs {
        let first = log.base.primary_sequence;
        let follows = match last {
            None if base.checksum_fits => first >= base.secondary_sequence,
            None => true,
            Some(last) => first == u32::wrapping_add(last, 1),
        };
        if !follows {
            continue;
        }
        for entry in log.entries() {
            // What is behind an entry that cannot be used cannot be used either.
            let Ok(changed) = entry.pages() else { break };
            apply(file, &entry, &changed, most)?;
            pages = pages.saturating_add(changed.len());
            applied = applied.saturating_add(1);
            last = Some(entry.sequence);
        }
    }
    let Some(last) = last else { return Ok(None) };
    base_block::put_sequences(file, last, last)?;
    base_block::seal(file)?;
    Ok(Some(format!(
        "{applied} entries of its transaction logs were replayed, {pages} pages"
    )))
}

fn apply(file: &mut Vec<u8>, entry: &LogEntry<'_>, pages: &[(usize, &[u8])], most: usize) -> Parsed<()> {
    grow(file, entry.bins_size, most)?;
    base_block::put_bins_size(file, entry.bins_size)?;
    let flags = BaseBlock::parse(file)?.flags & !FLAG_TRANSACTIONS | entry.flags & FLAG_TRANSACTIONS;
    base_block::put_flags(file, flags)?;
    for (at, bytes) in pages {
        put_bytes(file, at.saturating_add(BASE_BLOCK_SIZE), bytes)?;
    }
    Ok(())
}

/// Logs of Windows 8 and earlier.
fn replay_pages(
    file: &mut Vec<u8>,
    base: &BaseBlock,
    logs: &[&Log<'_>],
    most: usize,
) -> Parsed<Option<String>> {
    let written = if base.checksum_fits {
        base.written.0
    } else {
        u64_le(file, FIRST_BIN_TIME)?
    };
    let fitting = logs.iter().find(|log| log.base.written.0 == written);
    // A log of this hive that is later than it holds all that a failing disk did not take.
    let name = file.get(FILE_NAME).unwrap_or_default().to_vec();
    let later = || {
        let later = logs
            .iter()
            .filter(|log| log.base.written.0 > written && log.bytes.get(FILE_NAME) == Some(&name));
        later.max_by_key(|log| log.base.written.0)
    };
    let Some(log) = fitting.or_else(later) else {
        return Ok(None);
    };
    if !base.checksum_fits {
        restore_base_block(file, log)?;
    }
    let bins_size = log.base.bins_size;
    grow(file, bins_size, most)?;
    base_block::put_bins_size(file, bins_size)?;
    let pages = match dirty_vector::pages(log.bytes, log.sector, usize::try_from(bins_size).unwrap_or(0)) {
        Ok(pages) => pages,
        Err(_) => return Ok(None),
    };
    for (at, bytes) in &pages {
        put_bytes(file, at.saturating_add(BASE_BLOCK_SIZE), bytes)?;
    }
    base_block::put_written(file, log.base.written)?;
    base_block::put_sequences(file, log.base.primary_sequence, log.base.primary_sequence)?;
    base_block::seal(file)?;
    Ok(Some(format!(
        "its transaction log was replayed, {} pages of 512 bytes",
        pages.len()
    )))
}

/// Puts the copy of the base block that a log has into the hive.
fn restore_base_block(file: &mut [u8], log: &Log<'_>) -> Parsed<()> {
    put_bytes(file, 0, bytes_at(log.bytes, 0, 512)?)?;
    base_block::put_primary_type(file)
}

/// The file has room for so many bytes of hive bins now. It gets no longer than `most`.
fn grow(file: &mut Vec<u8>, bins_size: u32, most: usize) -> Parsed<()> {
    let size = usize::try_from(bins_size)
        .unwrap_or(usize::MAX)
        .saturating_add(BASE_BLOCK_SIZE);
    if size as u64 > LARGEST_HIVE {
        return Err(HiveError::Unsupported(format!(
            "a transaction log makes the hive {size} bytes long; hives of up to {LARGEST_HIVE} are handled"
        )));
    }
    if !size.is_multiple_of(PAGE) {
        return Err(HiveError::damaged(format!(
            "a transaction log for {bins_size} bytes of hive bins"
        )));
    }
    if file.len() < size {
        if size > most {
            return Err(HiveError::damaged(format!(
                "a transaction log makes the hive {size} bytes long, and holds far less"
            )));
        }
        file.resize(size, 0);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hive::{FileTime, Hive, Version};

    /// A sector of a log that makes the hive as large as it likes.
    #[test]
    fn a_small_log_does_not_take_much_memory() {
        let mut file = Hive::create("hive", Version::Latest, 0).unwrap().into_file();
        let mut log = base_block::build(5, FileTime(0), 32, 4096).unwrap()[..512].to_vec();
        log[28] = 6;
        base_block::put_sequences(&mut log, 3, 3).unwrap();
        base_block::seal(&mut log).unwrap();
        let mut entry = vec![0; 512];
        entry[12] = 3;
        entry[16..20].copy_from_slice(&(400_u32 << 20).to_le_bytes());
        seal_log_entry(&mut entry);
        log.extend(entry);
        base_block::put_sequences(&mut file, 3, 2).unwrap();
        base_block::seal(&mut file).unwrap();
        let before = file.clone();
        assert!(matches!(recover(&mut file, &[log]), Ok(Recovery::Stale(_))));
        assert!(file == before);
        let error = grow(&mut file, 400 << 20, LEAST_GROWTH).unwrap_err();
        assert!(error.to_string().contains("holds far less"), "{error}");
        assert!(file.capacity() < 1 << 20);
        grow(&mut file, 1 << 20, LEAST_GROWTH).unwrap();
        assert_eq!(file.len(), 4096 + (1 << 20));
    }
}
