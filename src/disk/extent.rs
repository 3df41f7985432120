//! Maps of what a disk holds.

use std::ops::Range;

/// What a run of bytes holds. `Zero` and `Hole` read as zeros; whoever is not sure says `Data`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// Must be read.
    Data,
    /// Reads as zeros; space is taken.
    Zero,
    /// Reads as zeros; no space is taken.
    Hole,
}

/// A run of bytes of one content, in the address space of the disk that was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Offsets in bytes.
    pub range: Range<u64>,
    /// What is there.
    pub content: Content,
}

impl Extent {
    /// A run of `content`.
    pub fn new(range: Range<u64>, content: Content) -> Self {
        Self { range, content }
    }
}

/// Appends `extent` to a map, joining it with the last run if it continues it.
pub fn push_extent(map: &mut Vec<Extent>, extent: Extent) {
    if extent.range.is_empty() {
        return;
    }
    match map.last_mut() {
        Some(last) if last.content == extent.content && last.range.end == extent.range.start => {
            last.range.end = extent.range.end;
        }
        _ => map.push(extent),
    }
}
