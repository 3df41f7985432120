//! What an image shows where it holds nothing itself, and where its maps come from: the parent, the backing file.

use crate::disk::{Disk, Extent, Result, push_extent};
use std::ops::Range;

/// What `parent` has of `buffer` at `offset`; zeros behind its end, and where there is none.
pub(super) fn read_parent(parent: Option<&dyn Disk>, offset: u64, buffer: &mut [u8]) -> Result<()> {
    let size = parent.map_or(0, |parent| parent.size());
    let there = size.saturating_sub(offset).min(buffer.len() as u64);
    let (front, rest) = buffer.split_at_mut(usize::try_from(there).unwrap_or(0));
    rest.fill(0);
    match parent {
        Some(parent) if !front.is_empty() => parent.read_at(offset, front),
        _ => Ok(()),
    }
}

/// Appends what `disk` says of `range`, as runs that begin at `offset`.
pub(super) fn push_shifted(
    map: &mut Vec<Extent>,
    disk: &dyn Disk,
    range: Range<u64>,
    offset: u64,
) -> Result<()> {
    for extent in disk.extents(range.clone())? {
        let start = extent.range.start - range.start + offset;
        let end = extent.range.end - range.start + offset;
        push_extent(map, Extent::new(start..end, extent.content));
    }
    Ok(())
}
