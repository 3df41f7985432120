//! Which bytes of an overlay come from where: disjoint runs of any length at any byte.

use super::spill::Chunk;
use std::{collections::BTreeMap, ops::Range, sync::Arc};

/// Where the bytes of a run come from.
#[derive(Clone, Debug)]
pub(super) enum Source {
    /// The disk below, from this offset on; it is never written, so this stays true.
    Base(u64),
    /// Bytes that the overlay holds, from this offset in the chunk on.
    Held(Arc<Chunk>, u64),
    /// Zeros that were written.
    Zero,
    /// Zeros because nobody needs them.
    Hole,
}

impl Source {
    /// The same run without its first `by` bytes.
    fn advanced(&self, by: u64) -> Self {
        match self {
            Self::Base(offset) => Self::Base(offset.saturating_add(by)),
            Self::Held(chunk, offset) => Self::Held(chunk.clone(), offset.saturating_add(by)),
            Self::Zero => Self::Zero,
            Self::Hole => Self::Hole,
        }
    }

    /// Does `next` go on where a run of `length` bytes from here ends?
    fn goes_on(&self, length: u64, next: &Self) -> bool {
        match (self, next) {
            (Self::Zero, Self::Zero) | (Self::Hole, Self::Hole) => true,
            (Self::Base(a), Self::Base(b)) => a.checked_add(length) == Some(*b),
            (Self::Held(chunk, a), Self::Held(other, b)) => {
                Arc::ptr_eq(chunk, other) && a.checked_add(length) == Some(*b)
            }
            _ => false,
        }
    }
}

/// A run; it begins where the map says.
#[derive(Clone, Debug)]
pub(super) struct Run {
    pub(super) end: u64,
    pub(super) source: Source,
}

/// Runs by their first byte, disjoint, none empty. What no run covers is the disk below, unmoved.
#[derive(Clone, Debug, Default)]
pub(super) struct OverlayMap {
    runs: BTreeMap<u64, Run>,
}

impl OverlayMap {
    /// Forgets all that is known of `range`.
    pub(super) fn carve(&mut self, range: &Range<u64>) {
        if range.is_empty() {
            return;
        }
        if let Some((&start, run)) = self.runs.range_mut(..range.start).next_back() {
            if run.end > range.end {
                let rest = Run {
                    end: run.end,
                    source: run.source.advanced(range.end - start),
                };
                run.end = range.start;
                self.runs.insert(range.end, rest);
                return;
            }
            run.end = run.end.min(range.start);
        }
        while let Some((&start, _)) = self.runs.range(range.clone()).next() {
            let Some(run) = self.runs.remove(&start) else {
                return;
            };
            if run.end > range.end {
                let rest = Run {
                    end: run.end,
                    source: run.source.advanced(range.end - start),
                };
                self.runs.insert(range.end, rest);
                return;
            }
        }
    }

    /// `range` comes from `source` now.
    pub(super) fn set(&mut self, mut range: Range<u64>, mut source: Source) {
        if range.is_empty() {
            return;
        }
        self.carve(&range);
        if let Some((&start, run)) = self.runs.range(..range.start).next_back()
            && run.end == range.start
            && run.source.goes_on(run.end - start, &source)
            && let Some(before) = self.runs.remove(&start)
        {
            range.start = start;
            source = before.source;
        }
        if let Some(after) = self.runs.get(&range.end)
            && source.goes_on(range.end - range.start, &after.source)
            && let Some(after) = self.runs.remove(&range.end)
        {
            range.end = after.end;
        }
        self.runs.insert(
            range.start,
            Run {
                end: range.end,
                source,
            },
        );
    }

    /// The run that covers all of `range`, with its first byte.
    pub(super) fn covering(&mut self, range: &Range<u64>) -> Option<(u64, &mut Run)> {
        let (&start, run) = self.runs.range_mut(..=range.start).next_back()?;
        (run.end >= range.end).then_some((start, run))
    }

    /// The run that ends at `offset`, with its first byte.
    pub(super) fn ending_at(&mut self, offset: u64) -> Option<(u64, &mut Run)> {
        let (&start, run) = self.runs.range_mut(..offset).next_back()?;
        (run.end == offset).then_some((start, run))
    }

    /// The pieces of `range` in order and without gaps: `None` is the disk below.
    pub(super) fn pieces(&self, range: Range<u64>) -> Pieces<'_> {
        let first = self.runs.range(..=range.start).next_back();
        let first = first.filter(|(_, run)| run.end > range.start);
        let start = first.map_or(range.start, |(start, _)| *start);
        Pieces {
            runs: self.runs.range(start..range.end.max(start)),
            waiting: None,
            range,
        }
    }

    /// All runs in order.
    pub(super) fn runs(&self) -> impl Iterator<Item = (Range<u64>, &Source)> {
        self.runs
            .iter()
            .map(|(start, run)| (*start..run.end, &run.source))
    }

    /// How many runs there are.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.runs.len()
    }
}

/// See [`OverlayMap::pieces`].
pub(super) struct Pieces<'a> {
    runs: std::collections::btree_map::Range<'a, u64, Run>,
    /// The next run, when a gap comes before it.
    waiting: Option<(u64, &'a Run)>,
    /// What is left to give.
    range: Range<u64>,
}

impl Iterator for Pieces<'_> {
    type Item = (Range<u64>, Option<Source>);

    fn next(&mut self) -> Option<Self::Item> {
        if self.range.is_empty() {
            return None;
        }
        let next = self
            .waiting
            .take()
            .or_else(|| self.runs.next().map(|(start, run)| (*start, run)));
        let at = self.range.start;
        let (end, source) = match next {
            None => (self.range.end, None),
            Some((start, run)) if start > at => {
                self.waiting = Some((start, run));
                (start.min(self.range.end), None)
            }
            Some((start, run)) => (
                run.end.min(self.range.end),
                Some(run.source.advanced(at.saturating_sub(start))),
            ),
        };
        self.range.start = end;
        Some((at..end, source))
    }
}
