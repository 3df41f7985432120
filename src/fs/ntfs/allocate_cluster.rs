//! Finding clusters that are free, and marking them: `$Bitmap`.

use super::{
    Ntfs,
    attribute::kind,
    data_runs::{self, Run},
    error::NtfsError,
    file_record::number,
};
use crate::fs::Result;
use std::{ops::Range, sync::Arc};

/// How much of the bitmap is read and written at once; a cluster, if that is less.
const PAGE: u64 = 4096;
/// Once some free clusters were found, so many more are looked at for a run that is long enough: 32 GiB of clusters of
/// 4 KiB.
const LOOKED_AT: u64 = 8 << 20;
/// Windows keeps this part of a volume behind `$MFT` for it to grow into, unless the rest is full.
const ZONE: u64 = 8;

/// Files whose clusters come and go like those of users' files, though they are the filesystem's own.
const CHANGING: [u64; 2] = [number::ROOT, number::SECURE];

/// What is needed to allocate.
#[derive(Debug)]
pub(super) struct Allocator {
    /// Where `$Bitmap` is.
    bitmap: Vec<Run>,
    /// Clusters of the filesystem's own tables, whatever the bitmap says.
    fixed: Vec<Range<u64>>,
    /// Where the search goes on.
    hint: u64,
}

impl Ntfs {
    /// Reads what is needed to allocate.
    pub(super) fn new_allocator(&self) -> Result<Allocator> {
        let file = self.file(number::BITMAP)?;
        let mut stream = self
            .stream(&file, kind::DATA, &[])?
            .ok_or_else(|| self.damaged(number::BITMAP, "has no contents"))?;
        let length = self.boot.clusters.div_ceil(8);
        let enough = stream.sizes.initialized >= length;
        if stream.resident().is_some() || stream.is_compressed() || !enough {
            return Err(self.damaged(number::BITMAP, "is not the bitmap of this volume"));
        }
        let mut bitmap = Vec::new();
        self.each_run(
            &mut stream,
            0..length.div_ceil(self.boot.cluster_size),
            &mut |run| {
                data_runs::push(&mut bitmap, run);
                Ok(())
            },
        )?;
        Ok(Allocator {
            bitmap,
            fixed: self.fixed_clusters(&CHANGING)?,
            hint: 0,
        })
    }

    fn allocator(&mut self) -> Result<&mut Allocator> {
        let label = self.disk.label();
        match &mut self.allocator {
            Some(allocator) => Ok(allocator),
            None => Err(NtfsError::Unsupported("is open for reading".to_owned()).on(label)),
        }
    }

    /// Clusters that one page of the bitmap has bits for.
    fn page_clusters(&self) -> u64 {
        PAGE.min(self.boot.cluster_size) * 8
    }

    /// Byte offset of a page of the bitmap on the volume.
    fn page_place(&mut self, page: u64) -> Result<u64> {
        let offset = page * self.page_clusters() / 8;
        let cluster_size = self.boot.cluster_size;
        let run = data_runs::find(&self.allocator()?.bitmap, offset / cluster_size);
        let lcn = run
            .and_then(|run| run.lcn)
            .ok_or_else(|| self.damaged(number::BITMAP, "has a hole"))?;
        Ok(self.byte(lcn).saturating_add(offset % cluster_size))
    }

    fn page(&mut self, page: u64) -> Result<Arc<[u8]>> {
        let place = self.page_place(page)?;
        let length = usize::try_from(self.page_clusters() / 8).unwrap_or(0);
        let cached = self.block_cache.borrow_mut().get(place);
        if let Some(bytes) = cached.filter(|bytes| bytes.len() == length) {
            return Ok(bytes);
        }
        let mut raw = vec![0; length];
        self.disk.read_at(place, &mut raw)?;
        let bytes: Arc<[u8]> = raw.into();
        self.block_cache.borrow_mut().put(place, Arc::clone(&bytes));
        Ok(bytes)
    }

    /// The first cluster from `start` on that is free, or used, as wanted; `end` if there is none before.
    fn next(&mut self, free: bool, start: u64, end: u64) -> Result<u64> {
        let per_page = self.page_clusters();
        let skipped = if free { 0xff } else { 0 };
        let mut at = start;
        while at < end {
            let page = self.page(at / per_page)?;
            let page_end = (at / per_page + 1).saturating_mul(per_page).min(end);
            while at < page_end {
                let index = usize::try_from(at % per_page / 8).unwrap_or(usize::MAX);
                let byte = page.get(index).copied().unwrap_or(0xff);
                if byte == skipped {
                    at = (at / 8 + 1) * 8;
                    continue;
                }
                if (byte >> (at % 8) & 1 == 0) == free {
                    return Ok(at.min(end));
                }
                at += 1;
            }
        }
        Ok(end)
    }

    /// The first free run in `range` that has `wanted` clusters, or the longest of the ones that were looked at.
    fn find_free(&mut self, range: Range<u64>, wanted: u64) -> Result<Option<Range<u64>>> {
        let mut best: Option<Range<u64>> = None;
        let mut limit = range.end;
        let mut at = range.start;
        while at < limit {
            let mut start = self.next(true, at, limit)?;
            let mut end = self.next(false, start, limit.min(start.saturating_add(wanted)))?;
            at = end;
            let fixed = &self.allocator()?.fixed;
            let first = fixed.partition_point(|taken| taken.end <= start);
            if let Some(taken) = fixed.get(first).filter(|taken| taken.start < end) {
                if taken.start <= start {
                    at = taken.end;
                    start = start.max(taken.end).min(end);
                } else {
                    end = taken.start;
                    at = taken.end;
                }
            }
            let length = end - start;
            if length == 0 {
                continue;
            }
            if best.is_none() {
                limit = limit.min(start.saturating_add(LOOKED_AT));
            }
            if best.as_ref().is_none_or(|best| length > best.end - best.start) {
                best = Some(start..end);
            }
            if length >= wanted {
                break;
            }
        }
        Ok(best)
    }

    /// A free run: from `goal` on, if that is free, else one of `wanted` clusters or as long as there is.
    fn find_run(&mut self, goal: Option<u64>, wanted: u64) -> Result<Option<Range<u64>>> {
        let clusters = self.boot.clusters;
        if let Some(goal) = goal.filter(|goal| *goal < clusters) {
            let end = goal.saturating_add(wanted).min(clusters);
            if let Some(run) = self.find_free(goal..end.min(goal + 1), 1)? {
                let end = self.next(false, run.start, end)?;
                let fixed = &self.allocator()?.fixed;
                let first = fixed.partition_point(|taken| taken.end <= run.start);
                let end = fixed.get(first).map_or(end, |taken| end.min(taken.start));
                if run.start == goal && end > goal {
                    return Ok(Some(goal..end));
                }
            }
        }
        let zone_start = self
            .mft
            .iter()
            .filter_map(Run::place)
            .map(|place| place.end)
            .max()
            .unwrap_or(0);
        let zone = zone_start..zone_start.saturating_add(clusters / ZONE).min(clusters);
        let hint = match self.allocator()?.hint {
            0 => zone.end,
            hint => hint.min(clusters),
        };
        let mut best: Option<Range<u64>> = None;
        let searched = [
            hint.max(zone.end)..clusters,
            hint..zone.start,
            zone.end..hint,
            0..zone.start.min(hint),
            zone,
        ];
        for range in searched {
            if range.start >= range.end {
                continue;
            }
            if let Some(run) = self.find_free(range, wanted)? {
                let length = run.end - run.start;
                if best.as_ref().is_none_or(|best| length > best.end - best.start) {
                    best = Some(run);
                }
                if length >= wanted {
                    break;
                }
            }
        }
        Ok(best)
    }

    /// Clusters that contents leave free, so that the tables have room for what belongs to them: new blocks of directories,
    /// more records, a descriptor. An edit that fails for want of room has then changed nothing, or all of it.
    pub(super) fn reserve(&self) -> u64 {
        const BYTES: u64 = 1 << 20;
        const CLUSTERS: u64 = 24;
        BYTES.div_ceil(self.boot.cluster_size).max(CLUSTERS)
    }

    /// Is there room for `count` more clusters of contents?
    pub(super) fn must_have_room(&self, count: u64) -> Result<()> {
        let free = self.free_clusters()?;
        if free >= count.saturating_add(self.reserve()) {
            return Ok(());
        }
        Err(self.fault(NtfsError::Full(format!(
            "has {free} clusters of {} bytes free, where {count} are wanted and {} are kept for the filesystem's own tables",
            self.boot.cluster_size,
            self.reserve()
        ))))
    }

    /// Takes `count` clusters, in as few runs as can be, the first from `goal` on if that is free.
    pub(super) fn allocate_clusters(&mut self, count: u64, goal: Option<u64>) -> Result<Vec<Range<u64>>> {
        self.allocate_with_room(count, goal, 0)
    }

    /// The same; `more` will be wanted soon and should find room behind.
    pub(super) fn allocate_with_room(
        &mut self,
        count: u64,
        goal: Option<u64>,
        more: u64,
    ) -> Result<Vec<Range<u64>>> {
        let mut runs: Vec<Range<u64>> = Vec::new();
        let mut goal = goal;
        let mut left = count;
        // Where none was as long as wanted, the longest: there is no use in looking for a longer one again.
        let mut longest = u64::MAX;
        while left > 0 {
            let wanted = left.saturating_add(more).min(longest);
            let found = self.find_run(goal, wanted)?;
            if let Some(run) = found.as_ref().filter(|run| Some(run.start) != goal) {
                let length = run.end - run.start;
                longest = if length < wanted { length } else { longest };
            }
            let Some(run) = found.map(|run| run.start..run.end.min(run.start.saturating_add(left))) else {
                for run in runs {
                    self.mark_clusters(&run, false)?;
                }
                return Err(self.fault(NtfsError::Full(format!(
                    "has no {count} clusters of {} bytes free",
                    self.boot.cluster_size
                ))));
            };
            self.mark_clusters(&run, true)?;
            self.allocator()?.hint = run.end;
            left -= run.end - run.start;
            goal = Some(run.end);
            runs.push(run);
        }
        Ok(runs)
    }

    /// The next search begins so many clusters later, which leaves room to grow behind what was just taken.
    pub(super) fn leave_room(&mut self, clusters: u64) -> Result<()> {
        let allocator = self.allocator()?;
        allocator.hint = allocator.hint.saturating_add(clusters);
        Ok(())
    }

    /// Gives clusters back.
    pub(super) fn free_clusters_of(&mut self, run: Range<u64>) -> Result<()> {
        let fixed = &self.allocator()?.fixed;
        let first = fixed.partition_point(|taken| taken.end <= run.start);
        if fixed.get(first).is_some_and(|taken| taken.start < run.end) {
            return Err(self.fault(NtfsError::damaged(format!(
                "clusters {} to {} belong to a file and to the filesystem's own tables",
                run.start, run.end
            ))));
        }
        self.mark_clusters(&run, false)
    }

    fn mark_clusters(&mut self, run: &Range<u64>, used: bool) -> Result<()> {
        let per_page = self.page_clusters();
        let mut at = run.start;
        while at < run.end {
            let number = at / per_page;
            let end = (number + 1).saturating_mul(per_page).min(run.end);
            let mut page = self.page(number)?.to_vec();
            for cluster in at..end {
                let index = usize::try_from(cluster % per_page / 8).unwrap_or(usize::MAX);
                let bit = 1_u8 << (cluster % 8);
                let Some(byte) = page.get_mut(index).filter(|byte| (**byte & bit != 0) != used) else {
                    return Err(self.damaged(
                        number::BITMAP,
                        format!(
                            "says that cluster {cluster} is {} already",
                            if used { "used" } else { "free" }
                        ),
                    ));
                };
                *byte ^= bit;
            }
            let place = self.page_place(number)?;
            self.changed = true;
            self.block_cache.borrow_mut().forget(place);
            self.disk.write_at(place, &page)?;
            self.block_cache.borrow_mut().put(place, page.into());
            at = end;
        }
        let count = run.end - run.start;
        if let Some(free) = self.free_count.get() {
            let free = if used {
                free.saturating_sub(count)
            } else {
                free.saturating_add(count)
            };
            self.free_count.set(Some(free));
        }
        Ok(())
    }
}
