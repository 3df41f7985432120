//! Checking: the footers, and that every block has a place of its own in the file.

use super::{disk::Vhd, dynamic_header, footer, geometry::SECTOR};
use crate::{
    disk::{Disk, Error, Kind, Result},
    image::{Check, findings::Findings},
};

/// Places are held in memory, four bytes each: 32 MiB, for the largest disk in blocks of 256 KiB.
const MOST_BLOCKS: u64 = 8 << 20;

/// What a check gives.
#[derive(Debug)]
pub(super) struct Checked {
    pub(super) found: Check,
    /// Where the last structure before the footer ends.
    pub(super) end: u64,
}

/// Structure errors and leaks of `image`, whose footer is at `limit`, or which ends there without one.
pub(super) fn check(image: &Vhd, limit: u64) -> Result<Checked> {
    let container = image.container.as_ref();
    let mut findings = Findings::default();
    for flaw in &image.footers.flaws {
        findings.error(|| flaw.clone());
    }
    let footer = image.footer();
    let Some(blocks) = &image.blocks else {
        // What a geometry does not count is a part of the disk all the same.
        let end = image.size().max(footer.current_size);
        let behind = limit.saturating_sub(end);
        if behind > 0 {
            findings.leak(behind, || {
                format!("{behind} bytes lie between the end of the disk and the footer")
            });
        }
        let found = findings.into_check();
        return Ok(Checked { found, end });
    };
    let mut fixed = vec![
        (0..footer::LENGTH as u64, "the copy of the footer"),
        (
            footer.data_offset..footer.data_offset + dynamic_header::LENGTH as u64,
            "the dynamic disk header",
        ),
        (blocks.table(), "the allocation table"),
    ];
    for locator in &blocks.header.locators {
        let end = locator.offset.saturating_add(locator.length.into());
        fixed.push((locator.offset..end, "a name of the parent"));
    }
    fixed.sort_by_key(|(range, _)| range.start);
    for pair in fixed.windows(2) {
        if let [(one, first), (other, second)] = pair
            && one.end > other.start
        {
            let at = other.start;
            findings.error(|| format!("{first} reaches into {second} at byte {at}"));
        }
    }
    for (range, what) in &fixed {
        if range.end > limit {
            findings.error(|| format!("{what} reaches past the end of the file, to byte {}", range.end));
        }
    }

    if u64::from(blocks.header.entries) > MOST_BLOCKS {
        let text =
            "has an allocation table too large to be checked here: `qemu-img convert` makes a usual one";
        return Err(Error::new(Kind::Unsupported, image.label(), text));
    }
    let mut places = Vec::new();
    blocks.each_entry(container, |_, entry| places.push(entry))?;
    places.sort_unstable();
    let length = blocks.bitmap_size() + blocks.size();
    let head = fixed.iter().map(|(range, _)| range.end).max().unwrap_or(0);
    // Where the last structure ended; between them lie alignment and reserves, all smaller than a block.
    let mut end = head;
    for entry in &places {
        let place = u64::from(*entry) * SECTOR;
        let place_end = place + length;
        if let Some((_, what)) = fixed
            .iter()
            .find(|(range, _)| range.start < place_end && place < range.end)
        {
            findings.error(|| format!("a block at byte {place} lies on {what}"));
        } else if place < end && place >= head {
            findings
                .error(|| format!("a block at byte {place} lies on the one before it, which ends at {end}"));
        }
        if place_end > limit {
            findings.error(|| format!("a block at byte {place} reaches past the end of the file"));
        }
        let gap = place.saturating_sub(end);
        if gap >= length {
            let from = end;
            findings.leak(gap, || {
                format!("nothing refers to the {gap} bytes at byte {from}")
            });
        }
        end = end.max(place_end);
    }
    let gap = limit.saturating_sub(end);
    if gap >= length {
        findings.leak(gap, || format!("nothing refers to the {gap} bytes at byte {end}"));
    }
    let found = findings.into_check();
    Ok(Checked { found, end })
}
