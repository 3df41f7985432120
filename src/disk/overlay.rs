//! Copy-on-write over any disk: the disk below is never written. What is written is held in memory, past a limit
//! in an unlinked file; what is moved, zeroed or discarded is only noted.

use super::{
    Content, Disk, Error, Extent, Kind, Result, check_range,
    overlay_map::{OverlayMap, Source},
    push_extent,
    spill::{CHUNK, Spill},
};
use std::{
    fmt,
    fs::File,
    ops::Range,
    path::PathBuf,
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
};

/// A disk that can be changed without touching the one below.
pub struct Overlay {
    label: String,
    base: Arc<dyn Disk>,
    spill: Arc<Spill>,
    state: RwLock<State>,
}

#[derive(Clone)]
struct State {
    map: OverlayMap,
    size: u64,
    /// Size of the disk below, which shows through where the map has nothing.
    visible: u64,
}

/// A range that differs, or may differ, from the disk below.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// Offsets in bytes.
    pub range: Range<u64>,
    /// How it came to be.
    pub kind: HeldKind,
}

/// What was done to a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeldKind {
    /// Written: the bytes are in the overlay.
    Written,
    /// Moved by reference: the bytes are elsewhere on the disk below.
    Moved,
    /// Zeroed by [`Disk::write_zeros`], or by a long write of zeros.
    Zeroed,
    /// Discarded: reads as zeros, and nobody needs it.
    Discarded,
}

/// No more than this many runs are listed by one call of [`Disk::extents`].
const MOST_EXTENTS: usize = 1024;

/// A write of so many zeros is noted, not held. Shorter ones are kept as written so that a map of small edits
/// stays in few runs.
const ZEROS_WORTH_NOTING: usize = 4096;

impl Overlay {
    /// Over `base`, with at most `memory` bytes of edits in memory; more goes to a file without a name in
    /// `folder`, made when it is needed.
    pub fn new(base: Arc<dyn Disk>, memory: u64, folder: impl Into<PathBuf>) -> Self {
        let label = base.label().to_owned();
        let size = base.size();
        Self {
            spill: Arc::new(Spill::new(&label, memory, folder.into())),
            label,
            base,
            state: RwLock::new(State {
                map: OverlayMap::default(),
                size,
                visible: size,
            }),
        }
    }

    /// The same edits over another disk, which must hold what the first one held when they were made: how an
    /// in-place commit reads old bytes that it has already overwritten. Later edits of one do not show in the
    /// other.
    #[must_use]
    pub fn over(&self, base: Arc<dyn Disk>) -> Self {
        Self {
            label: self.label.clone(),
            base,
            spill: self.spill.clone(),
            state: RwLock::new(self.read().clone()),
        }
    }

    /// A new one over another disk, without edits; both share one limit of memory and one file.
    #[must_use]
    pub fn beside(&self, base: Arc<dyn Disk>) -> Self {
        let size = base.size();
        Self {
            label: base.label().to_owned(),
            base,
            spill: self.spill.clone(),
            state: RwLock::new(State {
                map: OverlayMap::default(),
                size,
                visible: size,
            }),
        }
    }

    /// The disk below.
    pub fn base(&self) -> &Arc<dyn Disk> {
        &self.base
    }

    /// Every range that is not simply the disk below, ascending and disjoint: the evidence for the audit of an
    /// edit and the work list of an in-place commit.
    pub fn held(&self) -> Vec<Held> {
        let state = self.read();
        let mut list: Vec<Held> = Vec::new();
        for (range, source) in state.map.runs() {
            let kind = match source {
                Source::Base(_) => HeldKind::Moved,
                Source::Held(..) => HeldKind::Written,
                Source::Zero => HeldKind::Zeroed,
                Source::Hole => HeldKind::Discarded,
            };
            match list.last_mut() {
                Some(last) if last.kind == kind && last.range.end == range.start => {
                    last.range.end = range.end
                }
                _ => list.push(Held { range, kind }),
            }
        }
        list
    }

    /// Bytes held in memory (bookkeeping included) and length of the spill file.
    pub fn usage(&self) -> (u64, u64) {
        self.spill.usage()
    }

    fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Marks `range` as zeros of one kind.
    fn mark(&self, range: Range<u64>, source: Source) -> Result<()> {
        let mut state = self.write();
        state.check(&self.label, &range)?;
        state.map.set(range, source);
        Ok(())
    }

    /// Overwrites or lengthens a chunk that nobody else refers to; `false` where there is none.
    fn write_in_place(&self, map: &mut OverlayMap, range: &Range<u64>, bytes: &[u8]) -> Result<bool> {
        if let Some((start, run)) = map.covering(range) {
            return match &mut run.source {
                Source::Held(chunk, offset) => match Arc::get_mut(chunk) {
                    Some(chunk) => {
                        let within = offset.saturating_add(range.start - start);
                        chunk.overwrite(within, bytes)?;
                        Ok(true)
                    }
                    None => Ok(false),
                },
                _ => Ok(false),
            };
        }
        let Some((start, run)) = map.ending_at(range.start) else {
            return Ok(false);
        };
        let length = run.end - start;
        let Source::Held(chunk, offset) = &mut run.source else {
            return Ok(false);
        };
        let whole = offset.checked_add(length) == Some(chunk.length());
        let appended = whole && Arc::get_mut(chunk).is_some_and(|chunk| self.spill.append(chunk, bytes));
        if appended {
            map.carve(range);
            if let Some((_, run)) = map.ending_at(range.start) {
                run.end = range.end;
            }
        }
        Ok(appended)
    }
}

impl State {
    fn check(&self, label: &str, range: &Range<u64>) -> Result<()> {
        let length = range.end.checked_sub(range.start).ok_or_else(|| {
            let text = format!("a range that ends at {} before it begins", range.end);
            Error::new(Kind::OutOfRange, label, text).at(range.start)
        })?;
        check_range(label, self.size, range.start, length).map(drop)
    }

    /// The pieces of `range`, all with a source; what lies past the visible part of the disk below is a hole.
    fn sources(&self, range: Range<u64>) -> impl Iterator<Item = (Range<u64>, Source)> {
        let visible = self.visible;
        self.map.pieces(range).flat_map(move |(range, source)| {
            let middle = visible.clamp(range.start, range.end);
            let (first, second) = match source {
                Some(source) => ((range, source), None),
                None => (
                    (range.start..middle, Source::Base(range.start)),
                    Some((middle..range.end, Source::Hole)),
                ),
            };
            [Some(first), second]
                .into_iter()
                .flatten()
                .filter(|(range, _)| !range.is_empty())
        })
    }
}

impl fmt::Debug for Overlay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (memory, spilled) = self.usage();
        write!(
            f,
            "Overlay({:?}, {memory} bytes in memory, {spilled} spilled)",
            self.base
        )
    }
}

impl Disk for Overlay {
    fn label(&self) -> &str {
        &self.label
    }

    fn size(&self) -> u64 {
        self.read().size
    }

    fn sector_size(&self) -> u32 {
        self.base.sector_size()
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        let state = self.read();
        let end = check_range(&self.label, state.size, offset, buffer.len() as u64)?;
        let mut rest = buffer;
        for (range, source) in state.sources(offset..end) {
            let length = usize::try_from(range.end - range.start).unwrap_or(usize::MAX);
            let (piece, after) = rest
                .split_at_mut_checked(length)
                .ok_or_else(|| Error::out_of_range(&*self.label, offset, range.end, end))?;
            rest = after;
            match source {
                Source::Base(from) => self.base.read_at(from, piece)?,
                Source::Held(chunk, from) => chunk.read(from, piece)?,
                Source::Zero | Source::Hole => piece.fill(0),
            }
        }
        Ok(())
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        let mut state = self.write();
        let end = check_range(&self.label, state.size, offset, bytes.len() as u64)?;
        let range = offset..end;
        if range.is_empty() || self.write_in_place(&mut state.map, &range, bytes)? {
            return Ok(());
        }
        if bytes.len() >= ZEROS_WORTH_NOTING && bytes.iter().all(|byte| *byte == 0) {
            state.map.set(range, Source::Zero);
            return Ok(());
        }
        let mut at = offset;
        for piece in bytes.chunks(CHUNK) {
            let chunk = self.spill.hold(piece)?;
            let next = at.saturating_add(piece.len() as u64);
            state.map.set(at..next, Source::Held(chunk, 0));
            at = next;
        }
        Ok(())
    }

    fn extents(&self, range: Range<u64>) -> Result<Vec<Extent>> {
        let state = self.read();
        state.check(&self.label, &range)?;
        let mut map = Vec::new();
        // What the disk below said last, from where it was asked: gaps between small edits share one answer.
        let mut known: Vec<Extent> = Vec::new();
        let whole = range.clone();
        for (range, source) in state.sources(range) {
            if map.len() >= MOST_EXTENTS {
                break;
            }
            let from = match source {
                Source::Base(from) => from,
                Source::Held(..) => {
                    push_extent(&mut map, Extent::new(range, Content::Data));
                    continue;
                }
                Source::Zero => {
                    push_extent(&mut map, Extent::new(range, Content::Zero));
                    continue;
                }
                Source::Hole => {
                    push_extent(&mut map, Extent::new(range, Content::Hole));
                    continue;
                }
            };
            let length = range.end - range.start;
            let mut done = 0;
            while done < length && map.len() < MOST_EXTENTS {
                let below = from.saturating_add(done);
                let index = known.partition_point(|extent| extent.range.end <= below);
                let extent = match known.get(index) {
                    Some(extent) if extent.range.start <= below => extent,
                    _ => {
                        let unmoved = from == range.start;
                        let ask = if unmoved {
                            whole.end.min(state.visible)
                        } else {
                            from + length
                        };
                        known = self.base.extents(below..ask)?;
                        known.first().ok_or_else(|| {
                            let text = "gives no map of a range that is not empty";
                            Error::new(Kind::Io, self.base.label(), text).at(below)
                        })?
                    }
                };
                let count = extent.range.end.saturating_sub(below).min(length - done);
                if count == 0 {
                    let text = "gives a map that does not begin where it was asked";
                    return Err(Error::new(Kind::Io, self.base.label(), text).at(below));
                }
                let start = range.start + done;
                push_extent(&mut map, Extent::new(start..start + count, extent.content));
                done += count;
            }
        }
        Ok(map)
    }

    fn write_zeros(&self, range: Range<u64>) -> Result<()> {
        self.mark(range, Source::Zero)
    }

    fn discard(&self, range: Range<u64>) -> Result<()> {
        self.mark(range, Source::Hole)
    }

    fn copy_within(&self, from: Range<u64>, to: u64) -> Result<()> {
        let mut state = self.write();
        state.check(&self.label, &from)?;
        let length = from.end - from.start;
        check_range(&self.label, state.size, to, length)?;
        // All of it is looked up before any of it is changed: overlapping ranges come out right.
        let start = from.start;
        let moved: Vec<_> = state.sources(from).collect();
        for (range, source) in moved {
            let place = to + (range.start - start)..to + (range.end - start);
            match source {
                Source::Base(offset) if offset == place.start && place.end <= state.visible => {
                    state.map.carve(&place);
                }
                source => state.map.set(place, source),
            }
        }
        Ok(())
    }

    /// Grows with zeros, or cuts; what was cut does not come back.
    fn set_size(&self, size: u64) -> Result<()> {
        let mut state = self.write();
        let before = state.size;
        if size < before {
            state.map.carve(&(size..before));
        } else {
            // The disk below must not show again where this one was cut.
            let hidden = before..size.min(state.visible);
            state.map.set(hidden, Source::Zero);
        }
        state.size = size;
        Ok(())
    }

    fn plain(&self, offset: u64) -> Option<(&File, u64, u64)> {
        let state = self.read();
        if offset >= state.size {
            return None;
        }
        let (range, source) = state.sources(offset..state.size).next()?;
        match source {
            Source::Base(from) => {
                let (file, at, available) = self.base.plain(from)?;
                Some((file, at, available.min(range.end - range.start)))
            }
            _ => None,
        }
    }
}

#[cfg(test)]
#[path = "overlay_tests.rs"]
mod tests;
