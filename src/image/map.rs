//! Where the bytes of an image's disk come from.

use super::Image;
use crate::disk::{Content, Disk, Result};
use std::{ops::Range, sync::Arc};

/// A run of a disk, as one image has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// Offset in the disk.
    pub start: u64,
    /// In bytes, never 0.
    pub length: u64,
    /// What is there. Not [`Content::Data`]: reads as zeros.
    pub content: Content,
    /// This image says so itself. `false`: it leaves it to the image that it stands on; zeros if there is none.
    pub present: bool,
    /// Compressed: in the file, but not byte for byte.
    pub compressed: bool,
    /// Where it is in the image's file, byte for byte; `None` if it is not.
    pub offset: Option<u64>,
}

impl Mapping {
    fn end(&self) -> u64 {
        self.start.saturating_add(self.length)
    }

    /// Does `next` go on as this one ends?
    fn is_continued_by(&self, next: &Self) -> bool {
        let offset = self.offset.map(|offset| offset.saturating_add(self.length));
        self.end() == next.start
            && (self.content, self.present, self.compressed) == (next.content, next.present, next.compressed)
            && offset == next.offset
    }

    /// The part of it in `range`.
    fn within(mut self, range: &Range<u64>) -> Option<Self> {
        let start = self.start.max(range.start);
        let end = self.end().min(range.end);
        self.offset = self
            .offset
            .map(|offset| offset.saturating_add(start - self.start));
        self.length = end.checked_sub(start).filter(|length| *length > 0)?;
        self.start = start;
        Some(self)
    }
}

/// Appends `next`, joined with the last one where it goes on.
pub(super) fn push_mapping(map: &mut Vec<Mapping>, next: Mapping) {
    match map.last_mut() {
        Some(last) if last.is_continued_by(&next) => last.length += next.length,
        _ => map.push(next),
    }
}

/// No more than this many runs come from one look.
const MOST_MAPPINGS: usize = 1024;

/// What any disk tells of itself by its extents and the places of its bytes: right for every image that stands on no other.
/// May stop early, like [`Disk::extents`].
pub(super) fn by_extents(disk: &(impl Disk + ?Sized), range: Range<u64>) -> Result<Vec<Mapping>> {
    let mut map = Vec::new();
    for extent in disk.extents(range)? {
        let mut at = extent.range.start;
        while at < extent.range.end && map.len() < MOST_MAPPINGS {
            let rest = extent.range.end - at;
            let place = match extent.content {
                Content::Data => disk.plain(at),
                Content::Zero | Content::Hole => None,
            };
            let length = place.map_or(rest, |(_, _, length)| length.clamp(1, rest));
            let mapping = Mapping {
                start: at,
                length,
                content: extent.content,
                present: extent.content != Content::Hole,
                compressed: false,
                offset: place.map(|(_, offset, _)| offset),
            };
            push_mapping(&mut map, mapping);
            at += length;
        }
    }
    Ok(map)
}

/// A run of a disk, and which image of a chain has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mapped {
    /// 0: the topmost.
    pub depth: usize,
    /// What that image says.
    pub mapping: Mapping,
}

/// Calls `each` with every run of the disk of the topmost image of `chain`, in order and joined as far as they go on.
///
/// # Errors
/// Those of the images, and of `each`.
pub fn map_chain(chain: &[Arc<dyn Image>], each: &mut dyn FnMut(Mapped) -> Result<()>) -> Result<()> {
    let Some(top) = chain.first() else {
        return Ok(());
    };
    let mut last: Option<Mapped> = None;
    let size = top.size();
    walk(chain, 0, 0..size, &mut |next| {
        match &mut last {
            Some(before) if before.depth == next.depth && before.mapping.is_continued_by(&next.mapping) => {
                before.mapping.length += next.mapping.length;
            }
            _ => {
                if let Some(before) = last.replace(next) {
                    each(before)?;
                }
            }
        }
        Ok(())
    })?;
    last.map_or(Ok(()), each)
}

fn walk(
    chain: &[Arc<dyn Image>],
    depth: usize,
    range: Range<u64>,
    each: &mut dyn FnMut(Mapped) -> Result<()>,
) -> Result<()> {
    let Some((image, below)) = chain.split_first() else {
        return Ok(());
    };
    let mut at = range.start;
    while at < range.end {
        let before = at;
        for mapping in image.map(at..range.end)? {
            at = mapping.end().min(range.end);
            let Some(mapping) = mapping.within(&range) else {
                continue;
            };
            // An image may be larger than the one that it stands on: zeros follow that.
            let there = below.first().map_or(mapping.start, |image| image.size());
            let there = there.clamp(mapping.start, mapping.end());
            if !mapping.present && there > mapping.start {
                walk(below, depth + 1, mapping.start..there, each)?;
                if let Some(mapping) = mapping.within(&(there..u64::MAX)) {
                    each(Mapped { depth, mapping })?;
                }
            } else {
                each(Mapped { depth, mapping })?;
            }
        }
        if at == before {
            let text = "gives no map of its contents";
            return Err(crate::disk::Error::new(crate::disk::Kind::Io, image.label(), text).at(at));
        }
    }
    Ok(())
}
