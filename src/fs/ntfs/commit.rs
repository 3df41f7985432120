//! What is left to do at the end of an edit, so that Windows finds a volume that was unmounted cleanly.

use super::{
    Ntfs, attribute::kind, data_runs, error::NtfsError, file_record::number, volume_information::flag,
};
use crate::fs::Result;

/// The log is filled in pieces of so many bytes.
const PIECE: u64 = 1 << 20;

impl Ntfs {
    /// Tells directories what has become of their files, and the filesystem's own journals that they missed something.
    pub(super) fn write_changes(&mut self) -> Result<()> {
        if !self.changed {
            return Ok(());
        }
        let mut open = None;
        while let Some(file) = self.touched.pop_first() {
            self.refresh_names(file, &mut open)?;
        }
        if let Some(directory) = open {
            self.store(directory)?;
        }
        self.make_quotas_out_of_date()?;
        if !self.volume.has(flag::DELETE_USN) {
            self.stamp_usn_journal()?;
        }
        self.reset_log()?;
        self.changed = false;
        self.disk.flush()
    }

    /// Fills the log with bytes 0xff: Windows takes it for one that was just made. What it held was clean, and is older than
    /// the edit.
    fn reset_log(&mut self) -> Result<()> {
        if self.log_is_reset {
            return Ok(());
        }
        let log = self.load(number::LOG_FILE)?;
        let clusters = log
            .clusters(kind::DATA, &[])
            .ok_or_else(|| self.fault(NtfsError::damaged("$LogFile has no contents")))?;
        let size = clusters.size;
        let mut old = vec![0; usize::try_from(size.min(PIECE)).unwrap_or(0)];
        let filled = vec![0xff; old.len()];
        // Where a whole piece is filled already: from there it is copied, which an overlay only has to note.
        let mut copied: Option<u64> = None;
        let mut offset = 0;
        while offset < size {
            let count = usize::try_from((size - offset).min(PIECE)).unwrap_or(0);
            let old = old.get_mut(..count).unwrap_or_default();
            self.read_runs(&clusters.runs, offset, old)?;
            let place = data_runs::find(&clusters.runs, offset / self.boot.cluster_size)
                .filter(|run| self.byte(run.clusters) >= count as u64)
                .and_then(|run| run.lcn)
                .map(|lcn| self.byte(lcn).saturating_add(offset % self.boot.cluster_size));
            // A log that was reset before has few other bytes.
            if old.iter().any(|byte| *byte != 0xff) {
                match (copied, place) {
                    (Some(from), Some(to)) => self.disk.copy_within(from..from + count as u64, to)?,
                    _ => self.write_runs(&clusters.runs, offset, filled.get(..count).unwrap_or_default())?,
                }
            }
            if count as u64 == PIECE {
                copied = copied.or(place);
            }
            offset += count as u64;
        }
        self.log_is_reset = true;
        self.edited.insert(number::LOG_FILE, log);
        Ok(())
    }
}
