//! Checking: the headers and region tables, and that every structure and block has a place of its own in the file.

use super::{
    MIB,
    block::{PLACE, state},
    disk::Vhdx,
    header::SECTION,
    log,
};
use crate::{
    disk::{Disk, Error, Kind, Result},
    image::{Check, findings::Findings},
};
use std::ops::Range;

/// One bit for each MiB of the file is held in memory: 16 MiB, for twice what the largest disk needs.
const LARGEST_FILE: u64 = 128 << 40;

/// Between the tables and the first block qemu leaves 4 MiB free. So little there is a reserve and no leak.
const RESERVE: u64 = 8 * MIB;

/// The MiB of a file, and which of them are used.
struct Used {
    bits: Vec<u64>,
    count: u64,
}

impl Used {
    /// Uses `range`, in whole MiB, as far as it lies in the file; gives the first MiB that was used before.
    fn take(&mut self, range: &Range<u64>) -> Option<u64> {
        let mut taken = None;
        let last = range.end.div_ceil(MIB).min(self.count);
        for unit in range.start / MIB..last {
            let mask = 1 << (unit % 64);
            let word = usize::try_from(unit / 64)
                .ok()
                .and_then(|index| self.bits.get_mut(index));
            if let Some(word) = word {
                if *word & mask != 0 && taken.is_none() {
                    taken = Some(unit * MIB);
                }
                *word |= mask;
            }
        }
        taken
    }

    /// Runs of what is not used.
    fn each_free(&self, mut each: impl FnMut(Range<u64>)) {
        let is_used = |unit: u64| {
            let word = usize::try_from(unit / 64)
                .ok()
                .and_then(|index| self.bits.get(index));
            word.is_some_and(|word| word & 1 << (unit % 64) != 0)
        };
        let mut start = None;
        for unit in 0..=self.count {
            let free = unit < self.count && !is_used(unit);
            match (free, start) {
                (true, None) => start = Some(unit),
                (false, Some(first)) => {
                    each(first * MIB..unit * MIB);
                    start = None;
                }
                _ => {}
            }
        }
    }
}

/// What a check gives.
#[derive(Debug)]
pub(super) struct Checked {
    pub(super) found: Check,
    /// Where the last structure ends.
    pub(super) end: u64,
}

/// Structure errors and leaks of `image`.
pub(super) fn check(image: &Vhdx) -> Result<Checked> {
    let container = image.container.as_ref();
    let size = container.size();
    if size > LARGEST_FILE {
        let text = "is too large a file to be checked here: `qemu-img check` does it";
        return Err(Error::new(Kind::Unsupported, image.label(), text));
    }
    let mut findings = Findings::default();
    for flaw in image.headers.flaws.iter().chain(&image.regions.flaws) {
        findings.error(|| flaw.clone());
    }
    let count = size.div_ceil(MIB);
    let mut used = Used {
        bits: vec![0; usize::try_from(count.div_ceil(64)).unwrap_or(0)],
        count,
    };
    let mut claim = |findings: &mut Findings, range: Range<u64>, what: &str| {
        let at = range.start;
        if at < SECTION && at != 0 {
            findings.error(|| format!("{what} at byte {at} lies in the header section"));
        }
        if range.end > size {
            findings.error(|| {
                format!(
                    "{what} at byte {at} reaches past the end of the file, to byte {}",
                    range.end
                )
            });
        }
        if let Some(taken) = used.take(&range) {
            findings.error(|| format!("{what} at byte {at} lies on something else, at byte {taken}"));
        }
    };
    claim(&mut findings, 0..SECTION, "the header section");
    let header = &image.headers.current;
    let (log_offset, log_length) = (header.log_offset, header.log_length);
    if log_length > 0 {
        if !log::is_place(log_offset, log_length, size) {
            findings
                .error(|| format!("the log of {log_length} bytes at byte {log_offset} has no place there"));
        }
        let end = log_offset.saturating_add(log_length.into());
        claim(&mut findings, log_offset..end, "the log");
    }
    for region in &image.regions.all {
        let what = format!("the region {}", region.id);
        claim(&mut findings, region.range(), &what);
    }

    let geometry = image.blocks.geometry;
    let mut first_block = size;
    let mut partial_without_bitmap = 0_u64;
    // The last chunk with a partial block: its bitmap comes behind it.
    let mut has_partial = false;
    let mut previous_bitmap = None;
    image.blocks.each_entry(container, |number, entry| {
        let place = entry & PLACE;
        let kind = entry & state::MASK;
        let chunk = number / (geometry.chunk_ratio() + 1);
        if previous_bitmap != Some(chunk) {
            partial_without_bitmap += u64::from(has_partial);
            has_partial = false;
            previous_bitmap = Some(chunk);
        }
        if geometry.is_bitmap(number) {
            // Without a parent nobody reads it, and qemu up to 7.2 left anything there.
            if !geometry.has_parent {
                return;
            }
            match kind {
                state::FULLY_PRESENT => {
                    has_partial = false;
                    claim(&mut findings, place..place.saturating_add(MIB), "a sector bitmap");
                }
                state::NOT_PRESENT => {}
                _ => findings.error(|| format!("the entry {entry:#018x} of a sector bitmap means nothing")),
            }
            return;
        }
        if place != 0 {
            first_block = first_block.min(place);
        }
        match kind {
            state::FULLY_PRESENT | state::PARTIALLY_PRESENT => {
                if kind == state::PARTIALLY_PRESENT {
                    if geometry.has_parent {
                        has_partial = true;
                    } else {
                        findings.error(|| {
                            format!("the entry {entry:#018x} says that the parent has a part, but there is no parent")
                        });
                    }
                }
                claim(&mut findings, place..place.saturating_add(geometry.block), "a block");
            }
            // These may keep what they had.
            state::UNDEFINED | state::UNMAPPED | state::UNMAPPED_DRAFT => {
                if place != 0 {
                    claim(&mut findings, place..place.saturating_add(geometry.block), "a block");
                }
            }
            state::NOT_PRESENT | state::ZERO => {}
            _ => findings.error(|| format!("the entry {entry:#018x} of a block means nothing")),
        }
    })?;
    partial_without_bitmap += u64::from(has_partial);
    if partial_without_bitmap > 0 {
        findings.error(|| {
            format!(
                "{partial_without_bitmap} chunks have blocks of which the parent has a part, and no bitmap that says \
                 which"
            )
        });
    }
    let mut end = size;
    used.each_free(|range| {
        if range.end >= size {
            end = range.start;
        }
        let length = range.end.min(size) - range.start;
        if range.end >= first_block && range.start < first_block && length <= RESERVE {
            return;
        }
        findings.leak(length, || {
            format!("nothing refers to the {length} bytes at byte {}", range.start)
        });
    });
    let found = findings.into_check();
    Ok(Checked { found, end })
}
