//! Where each cluster of the guest's disk is: in this file, in the one below, or nowhere.

use super::{disk::Qcow2, l2_table::Mapping as Entry};
use crate::{
    disk::{Content, Disk, Result, check_range},
    image::{Mapping, map::push_mapping},
};
use std::ops::Range;

/// No more than this many runs come from one look.
const MOST_MAPPINGS: usize = 1024;

/// The map of `range`; may stop early.
pub(super) fn map(image: &Qcow2, range: Range<u64>) -> Result<Vec<Mapping>> {
    let length = range.end.saturating_sub(range.start);
    check_range(image.label(), image.size(), range.start, length)?;
    let mut map = Vec::new();
    let mut at = range.start;
    while at < range.end && map.len() < MOST_MAPPINGS {
        let run = image.run(at, range.end)?;
        let (content, present, compressed, offset) = match run.mapping {
            Entry::Unallocated => (Content::Hole, false, false, None),
            Entry::Zero { host } => (Content::Zero, true, false, host),
            Entry::Data { host } => (Content::Data, true, false, Some(host)),
            Entry::Compressed { .. } => (Content::Data, true, true, None),
        };
        let mapping = Mapping {
            start: at,
            length: run.length,
            content,
            present,
            compressed,
            offset,
        };
        push_mapping(&mut map, mapping);
        at += run.length;
    }
    Ok(map)
}
