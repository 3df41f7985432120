//! What is used and what is not: `$Bitmap` (Linux-NTFS documentation, "$Bitmap"), and the clusters of every file.

use super::{
    Ntfs,
    attribute::{Form, NonResident, kind},
    data_runs::{self, Run},
    error::NtfsError,
    file::File,
    file_record::{self, FileRecord, number},
};
use crate::{
    disk::Kind,
    fs::{Node, Result},
};
use std::ops::Range;

/// How much of a bitmap, and of `$MFT`, is looked at once.
const PIECE: usize = 1 << 20;

/// The filesystem's own tables may be in no more pieces, 16 bytes each.
const MOST_FIXED: usize = 1 << 20;

/// Attributes that hold what users put there; all others are the filesystem's own.
const CONTENTS: [u32; 4] = [
    kind::DATA,
    kind::REPARSE_POINT,
    kind::EA,
    kind::LOGGED_UTILITY_STREAM,
];

/// In order, and apart.
fn merged(mut runs: Vec<Range<u64>>) -> Vec<Range<u64>> {
    runs.sort_unstable_by_key(|run| (run.start, run.end));
    let mut merged: Vec<Range<u64>> = Vec::new();
    for run in runs {
        match merged.last_mut() {
            Some(last) if run.start <= last.end => last.end = last.end.max(run.end),
            _ => merged.push(run),
        }
    }
    merged
}

impl Ntfs {
    /// Calls `each` with the free runs of the volume, in bytes; with none where the bitmap may be older than what Windows
    /// knows. Clusters that a file has kept and not initialized are not free: the shadow copies, the crash dump and the boot
    /// loader write there without asking NTFS.
    pub(super) fn each_free_run(&self, each: &mut dyn FnMut(Range<u64>) -> Result<()>) -> Result<()> {
        if self.check_settled().is_err() {
            return Ok(());
        }
        // Tables that the bitmap forgot are not free. Where tables or bitmap can't be read, nothing is known to be free, and
        // all is moved as it is.
        let damaged = |error: &crate::disk::Error| matches!(error.kind, Kind::Corrupt | Kind::Unsupported);
        let fixed = match self
            .fixed_clusters(&[])
            .and_then(|fixed| self.free_clusters().map(|_| fixed))
        {
            Ok(fixed) => fixed,
            Err(error) if damaged(&error) => return Ok(()),
            Err(error) => return Err(error),
        };
        self.each_free_cluster_run(&mut |run| {
            let mut start = run.start;
            let from = fixed.partition_point(|taken| taken.end <= run.start);
            for taken in fixed.iter().skip(from).take_while(|taken| taken.start < run.end) {
                if start < taken.start {
                    each(self.byte(start)..self.byte(taken.start))?;
                }
                start = start.max(taken.end);
            }
            if start < run.end {
                each(self.byte(start)..self.byte(run.end))?;
            }
            Ok(())
        })
    }

    /// Calls `each` with the runs of clusters that `$Bitmap` says are free.
    pub(super) fn each_free_cluster_run(&self, each: &mut dyn FnMut(Range<u64>) -> Result<()>) -> Result<()> {
        let mut bitmap = self
            .stream(&self.file(number::BITMAP)?, kind::DATA, &[])?
            .ok_or_else(|| self.damaged(number::BITMAP, "has no contents"))?;
        if bitmap.sizes.size < self.boot.clusters.div_ceil(8) {
            return Err(self.damaged(
                number::BITMAP,
                format!(
                    "has {} bytes for {} clusters",
                    bitmap.sizes.size, self.boot.clusters
                ),
            ));
        }
        let mut buffer = vec![0; PIECE];
        let mut open: Option<u64> = None;
        let mut cluster = 0;
        while cluster < self.boot.clusters {
            let read = self.read_plain(&mut bitmap, cluster / 8, &mut buffer)?;
            for byte in buffer.get(..read).unwrap_or_default() {
                // Mostly eight clusters are alike.
                match (byte, open) {
                    (0xff, None) | (0, Some(_)) => {}
                    _ => {
                        for bit in 0..8 {
                            let at = (cluster + bit).min(self.boot.clusters);
                            match (byte >> bit & 1, open) {
                                (0, None) if at < self.boot.clusters => open = Some(at),
                                (1, Some(start)) => {
                                    open = None;
                                    each(start..at)?;
                                }
                                _ => {}
                            }
                        }
                    }
                }
                cluster += 8;
                if cluster >= self.boot.clusters {
                    break;
                }
            }
        }
        match open {
            Some(start) => each(start..self.boot.clusters),
            None => Ok(()),
        }
    }

    /// How many clusters are free.
    pub(super) fn free_clusters(&self) -> Result<u64> {
        if let Some(known) = self.free_count.get() {
            return Ok(known);
        }
        let mut free = 0;
        self.each_free_cluster_run(&mut |run| {
            free += run.end - run.start;
            Ok(())
        })?;
        self.free_count.set(Some(free));
        Ok(free)
    }

    /// Clusters of the filesystem's own tables, without the files `but`, in order and apart: what no file may have, and what is never
    /// free.
    pub(super) fn fixed_clusters(&self, but: &[u64]) -> Result<Vec<Range<u64>>> {
        let mut taken: Vec<Range<u64>> = self.mft.iter().filter_map(Run::place).collect();
        // A boot sector has 8 KiB of `$Boot`.
        taken.push(0..8192_u64.div_ceil(self.boot.cluster_size));
        for number in (number::MFT..number::EXTEND).filter(|number| !but.contains(number)) {
            let file = match self.file(number) {
                Ok(file) => file,
                // Not every volume has all of them.
                Err(error) if error.kind == crate::disk::Kind::NotFound => continue,
                Err(error) => return Err(error),
            };
            self.each_attribute(&file, &mut |record, attribute| {
                // Attribute lists come and go.
                if let Form::NonResident(part) = &attribute.form
                    && attribute.kind != kind::ATTRIBUTE_LIST
                {
                    let runs = data_runs::parse(part.runs, part.vcns.clone(), self.boot.clusters);
                    let runs = runs.map_err(|e| self.in_record(record.number, e))?;
                    taken.extend(runs.iter().filter_map(Run::place));
                    if taken.len() > MOST_FIXED {
                        taken = merged(std::mem::take(&mut taken));
                    }
                    if taken.len() > MOST_FIXED {
                        return Err(self.fault(NtfsError::Unsupported(format!(
                            "the filesystem's own tables are in more than {MOST_FIXED} pieces; defragment it first \
                             (`contig`)"
                        ))));
                    }
                }
                Ok(true)
            })?;
        }
        Ok(merged(taken))
    }

    /// Calls `each` with every record that is in use.
    fn each_record(&self, each: &mut dyn FnMut(&FileRecord) -> Result<()>) -> Result<()> {
        let size = self.boot.record_size;
        let mut buffer = vec![0; PIECE];
        let mut number = 0;
        while number < self.records {
            let count = (self.records - number).min((PIECE / size) as u64);
            let length = usize::try_from(count).unwrap_or(0) * size;
            let piece = buffer.get_mut(..length).unwrap_or_default();
            self.read_runs(&self.mft, number * size as u64, piece)?;
            for raw in piece.chunks_exact(size) {
                let in_use =
                    crate::disk::field::u16_le(raw, 0x16).unwrap_or(0) & file_record::flag::IN_USE != 0;
                if in_use && raw.starts_with(b"FILE") {
                    let record = FileRecord::from_disk(number, raw.to_vec());
                    each(&record.map_err(|e| self.in_record(number, e))?)?;
                }
                number += 1;
            }
        }
        Ok(())
    }

    /// Calls `each` with the parts of every attribute of users' files that lie in clusters, and the file's number.
    fn each_part_of_contents(&self, each: &mut dyn FnMut(u64, &NonResident<'_>) -> Result<()>) -> Result<()> {
        self.each_record(&mut |record| {
            let owner = record.owner();
            if owner < number::FIRST_USER {
                return Ok(());
            }
            let mut of_system = None;
            for attribute in record.attributes() {
                let attribute = attribute.map_err(|e| self.in_record(record.number, e))?;
                let Form::NonResident(part) = &attribute.form else {
                    continue;
                };
                if !CONTENTS.contains(&attribute.kind) {
                    continue;
                }
                // The journal of changes, for example.
                let of_system = match of_system {
                    Some(known) => known,
                    None => {
                        let base = if owner == record.number {
                            record.clone()
                        } else {
                            self.record(owner)?
                        };
                        *of_system.insert(base.header.has(file_record::flag::EXTENSION))
                    }
                };
                if !of_system {
                    each(owner, part)?;
                }
            }
            Ok(())
        })
    }

    pub(super) fn each_data_run(&self, each: &mut dyn FnMut(Node, Range<u64>) -> Result<()>) -> Result<()> {
        self.each_part_of_contents(&mut |owner, part| {
            let runs = data_runs::parse(part.runs, part.vcns.clone(), self.boot.clusters)
                .map_err(|e| self.in_record(owner, e))?;
            for place in runs.iter().filter_map(Run::place) {
                each(Node(owner), self.byte(place.start)..self.byte(place.end))?;
            }
            Ok(())
        })
    }

    /// Where the unnamed data of a plain file are.
    pub(super) fn each_run_of(
        &self,
        file: &File,
        each: &mut dyn FnMut(u64, Range<u64>) -> Result<()>,
    ) -> Result<()> {
        if file.record.is_directory() || file.number() < number::FIRST_USER {
            return Ok(());
        }
        let Some(mut stream) = self.stream(file, kind::DATA, &[])? else {
            return Ok(());
        };
        if stream.resident().is_some() || stream.is_compressed() || stream.is_encrypted() {
            return Ok(());
        }
        let size = stream.sizes.size;
        let end = size.div_ceil(self.boot.cluster_size);
        self.each_run(&mut stream, 0..end, &mut |run| {
            let Some(place) = run.place() else {
                return Ok(());
            };
            let offset = self.byte(run.vcn);
            let start = self.byte(place.start);
            let length = (self.byte(place.end) - start).min(size.saturating_sub(offset));
            each(offset, start..start + length)
        })
    }
}
