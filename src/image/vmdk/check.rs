//! Checking: every table and grain lies in its file, none lies in another, and both grain directories say the same.

use super::{
    SECTOR, bytes_of,
    disk::Vmdk,
    extent::Extent,
    header::{self, flag},
    marker::{Marker, grain_sectors},
    sparse_extent::{Mapping, Shape, SparseExtent, TableEntry},
};
use crate::{
    disk::{Error, Kind, Result},
    image::Check,
};
use std::ops::Range;

/// More findings of an image tell nobody anything.
const MOST_FINDINGS: usize = 100;

/// Runs of a file that are in use, 16 bytes each: 64 MiB. One for what was written in order; 256 GiB of grains written
/// in no order at all.
const MOST_RUNS: usize = 4 << 20;

/// Structure errors and leaks of `image`.
pub(super) fn check(image: &Vmdk) -> Result<Check> {
    let mut findings = Findings::default();
    let descriptor = &image.parts.descriptor;
    if descriptor.cid.is_none() {
        findings.error(|| "the descriptor has no CID, by which snapshots know their parent".to_owned());
    }
    let sparse = image.parts.extents.iter().filter_map(Extent::sparse);
    for (index, sparse) in sparse.enumerate() {
        if let (Shape::Hosted(header), [line], 0) = (&sparse.shape, descriptor.extents.as_slice(), index)
            && bytes_of(line.sectors) != sparse.size
        {
            let (capacity, said) = (header.capacity, line.sectors);
            findings.error(|| {
                format!("the descriptor says that the disk has {said} sectors, the header {capacity}")
            });
        }
        let mut checker = Checker {
            sparse,
            used: Vec::new(),
            tables: 0,
            grains: 0,
            findings: &mut findings,
        };
        checker.claim_fixed();
        checker.check_tables()?;
        checker.compare();
    }
    Ok(findings.into_check())
}

#[derive(Default)]
struct Findings {
    check: Check,
    more_errors: usize,
    more_leaks: usize,
}

impl Findings {
    fn error(&mut self, text: impl FnOnce() -> String) {
        if self.check.errors.len() < MOST_FINDINGS {
            self.check.errors.push(text());
        } else {
            self.more_errors = self.more_errors.saturating_add(1);
        }
    }

    fn leak(&mut self, bytes: u64, text: impl FnOnce() -> String) {
        self.check.leaked = self.check.leaked.saturating_add(bytes);
        if self.check.leaks.len() < MOST_FINDINGS {
            self.check.leaks.push(text());
        } else {
            self.more_leaks = self.more_leaks.saturating_add(1);
        }
    }

    fn into_check(mut self) -> Check {
        if self.more_errors > 0 {
            self.check
                .errors
                .push(format!("{} more errors", self.more_errors));
        }
        if self.more_leaks > 0 {
            self.check.leaks.push(format!("{} more leaks", self.more_leaks));
        }
        self.check
    }
}

struct Checker<'a> {
    sparse: &'a SparseExtent,
    /// Runs of the file, in the order in which they were found.
    used: Vec<Range<u64>>,
    /// Bytes of tables and of grains that were found: more than the file has would mean that some are used twice.
    tables: u64,
    grains: u64,
    findings: &'a mut Findings,
}

impl Checker<'_> {
    fn file(&self) -> &str {
        self.sparse.container.label()
    }

    fn error(&mut self, text: impl FnOnce() -> String) {
        let file = self.file().to_owned();
        self.findings.error(|| format!("{file}: {}", text()));
    }

    fn claim(&mut self, range: Range<u64>) {
        match self.used.last_mut() {
            Some(last) if last.end == range.start => last.end = range.end,
            _ if range.is_empty() => {}
            _ => self.used.push(range),
        }
    }

    fn header(&self) -> Option<&header::Header> {
        match &self.sparse.shape {
            Shape::Hosted(header) => Some(header),
            _ => None,
        }
    }

    /// Headers, descriptor, directories.
    fn claim_fixed(&mut self) {
        let sparse = self.sparse;
        let directory_bytes = (sparse.directory_entries() * sparse.entry_size()).next_multiple_of(SECTOR);
        let directories = [Some(sparse.directory), sparse.redundant];
        for directory in directories.into_iter().flatten() {
            let marker = self.marker_before(directory);
            self.claim(directory - marker..directory.saturating_add(directory_bytes));
        }
        match &sparse.shape {
            Shape::Hosted(header) => {
                self.claim(0..SECTOR);
                if header.descriptor_offset > 0 {
                    let start = bytes_of(header.descriptor_offset);
                    self.claim(start..start.saturating_add(bytes_of(header.descriptor_size)));
                }
            }
            Shape::Cow(_) => self.claim(0..4 * SECTOR),
            Shape::SeSparse(_) => {}
        }
        if sparse.directory_is_bad {
            self.error(|| "the first grain directory lies past the end: the second one is used".to_owned());
        }
    }

    /// Bytes of the marker before a table or directory of a stream.
    fn marker_before(&self, host: u64) -> u64 {
        let has_markers = self.header().is_some_and(|header| header.has(flag::MARKERS));
        let mut bytes = [0; 16];
        if !has_markers
            || host < 2 * SECTOR
            || self.sparse.container.read_at(host - SECTOR, &mut bytes).is_err()
        {
            return 0;
        }
        match Marker::parse(&bytes) {
            Ok(Marker::Table(_) | Marker::Directory(_)) => SECTOR,
            _ => 0,
        }
    }

    fn check_tables(&mut self) -> Result<()> {
        let sparse = self.sparse;
        for part in 0..sparse.directory_entries() {
            let first = self.table_of(part, sparse.directory, "first")?;
            let second = match sparse.redundant {
                Some(redundant) => self.table_of(part, redundant, "second")?,
                None => None,
            };
            for host in [first, second].into_iter().flatten() {
                self.tables = self.tables.saturating_add(sparse.table_size());
                let marker = self.marker_before(host);
                self.claim(host - marker..host + sparse.table_size().next_multiple_of(SECTOR));
            }
            if self.used.len() > MOST_RUNS {
                let text = "has too many tables and grains to be checked here: `qemu-img check` does it";
                return Err(Error::new(Kind::Unsupported, self.file(), text));
            }
            if self.tables > sparse.container.size() || self.grains > 2 * sparse.container.size() {
                self.error(|| "tables or grains are used several times: the rest was not checked".to_owned());
                return Ok(());
            }
            self.compare_tables(part, first, second)?;
            match (first, second) {
                (Some(host), _) | (None, Some(host)) => self.check_table(part, host)?,
                (None, None) => {}
            }
        }
        Ok(())
    }

    /// The table that a directory has for a part of the disk, if it lies in the file.
    fn table_of(&mut self, part: u64, directory: u64, which: &str) -> Result<Option<u64>> {
        let sparse = self.sparse;
        let word = sparse.directory_word(directory, part)?;
        match sparse.table_entry(word) {
            Ok(TableEntry::At(host))
                if host.saturating_add(sparse.table_size()) <= sparse.container.size() =>
            {
                Ok(Some(host))
            }
            Ok(TableEntry::At(host)) => {
                self.error(|| {
                    format!("entry {part} of the {which} grain directory leads to byte {host}, past the end")
                });
                Ok(None)
            }
            Ok(_) => Ok(None),
            Err(flaw) => {
                self.error(|| format!("entry {part} of the {which} grain directory: {flaw}"));
                Ok(None)
            }
        }
    }

    fn compare_tables(&mut self, part: u64, first: Option<u64>, second: Option<u64>) -> Result<()> {
        let sparse = self.sparse;
        if sparse.redundant.is_none() {
            return Ok(());
        }
        let start = part * sparse.coverage();
        match (first, second) {
            (Some(one), Some(two)) if one != two => {
                let one = sparse.words(one, sparse.entries_per_table)?;
                let two = sparse.words(two, sparse.entries_per_table)?;
                let differing = one.iter().zip(two.iter()).filter(|(a, b)| a != b).count();
                if differing > 0 {
                    self.error(|| {
                        format!(
                            "the two grain tables of the disk from byte {start} on differ in {differing} entries: the \
                             first one is used"
                        )
                    });
                }
            }
            (None, Some(_)) => self.error(|| {
                format!("the first grain directory has no table for byte {start} of the disk: the second one is used")
            }),
            (Some(_), None) => self.error(|| {
                format!("the second grain directory has no table for byte {start} of the disk")
            }),
            _ => {}
        }
        Ok(())
    }

    fn check_table(&mut self, part: u64, host: u64) -> Result<()> {
        let sparse = self.sparse;
        let table = sparse.words(host, sparse.entries_per_table)?;
        for (index, word) in (0_u64..).zip(table.iter().copied()) {
            let start = part * sparse.coverage() + index * sparse.grain;
            if start >= sparse.size {
                break;
            }
            match sparse.mapping(word, 0) {
                Ok(Mapping::Data { host }) => self.check_data(start, host),
                Ok(Mapping::Packed { host, .. }) => self.check_packed(start, host)?,
                Ok(_) => {}
                Err(flaw) => {
                    self.error(|| format!("the entry of the grain at byte {start} of the disk: {flaw}"))
                }
            }
        }
        Ok(())
    }

    fn check_data(&mut self, start: u64, host: u64) {
        let size = self.sparse.container.size();
        if host.saturating_add(self.sparse.grain_length(start)) > size {
            self.error(|| format!("the grain at byte {start} of the disk lies at byte {host}, past the end"));
            return;
        }
        let end = (host + self.sparse.grain).min(size);
        self.grains = self.grains.saturating_add(end - host);
        self.claim(host..end);
    }

    fn check_packed(&mut self, start: u64, host: u64) -> Result<()> {
        let sparse = self.sparse;
        let size = sparse.container.size();
        let mut bytes = [0; 16];
        if host.saturating_add(SECTOR) > size {
            self.error(|| format!("the grain at byte {start} of the disk lies at byte {host}, past the end"));
            return Ok(());
        }
        if !self.header().is_some_and(|header| header.has(flag::MARKERS)) {
            self.claim(host..host + SECTOR);
            return Ok(());
        }
        sparse.container.read_at(host, &mut bytes)?;
        match Marker::parse(&bytes) {
            Ok(Marker::Grain { sector, length }) => {
                if bytes_of(sector) != start {
                    self.error(|| {
                        format!(
                            "the grain at byte {start} of the disk lies at byte {host}, where the marker of another one is \
                             (sector {sector})"
                        )
                    });
                }
                let end = host.saturating_add(bytes_of(grain_sectors(length)));
                if end > size || u64::from(length) > 2 * sparse.grain {
                    self.error(|| {
                        format!("the grain at byte {start} of the disk has {length} compressed bytes, past the end")
                    });
                    return Ok(());
                }
                self.grains = self.grains.saturating_add(end - host);
                self.claim(host..end);
            }
            _ => self.error(|| {
                format!("the grain at byte {start} of the disk lies at byte {host}, where no grain is")
            }),
        }
        Ok(())
    }

    /// What is used twice, and what is not used.
    fn compare(&mut self) {
        let mut used = std::mem::take(&mut self.used);
        used.sort_unstable_by_key(|range| (range.start, range.end));
        let size = self.sparse.container.size();
        let mut gaps = Vec::new();
        let mut end = 0;
        for range in &used {
            if range.start < end {
                let at = range.start;
                self.error(|| format!("byte {at} of the file is used by more than one table or grain"));
            } else if range.start > end {
                gaps.push(end..range.start);
            }
            end = end.max(range.end);
        }
        gaps.push(end..size);
        let Some(overhead) = self.sparse_overhead() else {
            return;
        };
        for gap in gaps {
            let gap = gap.start.max(overhead)..gap.end.min(size);
            if gap.end.saturating_sub(gap.start) >= SECTOR {
                let (start, bytes) = (gap.start, gap.end - gap.start);
                let file = self.file().to_owned();
                self.findings.leak(bytes, || {
                    format!("{file}: {bytes} bytes from byte {start} on belong to no table or grain")
                });
            }
        }
    }

    /// From where on all of the file should be in use; `None` where that cannot be told.
    fn sparse_overhead(&self) -> Option<u64> {
        match &self.sparse.shape {
            // Streams have markers, footers and gaps between.
            Shape::Hosted(header) if header.is_compressed() => None,
            Shape::Hosted(header) => Some(bytes_of(header.overhead)),
            Shape::Cow(header) => {
                let entries = header.directory_entries * 4;
                Some(self.sparse.directory + entries.next_multiple_of(SECTOR))
            }
            Shape::SeSparse(_) => None,
        }
    }
}
