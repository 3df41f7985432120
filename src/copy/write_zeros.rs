//! Zeros over what is there, as long as that takes.

use crate::{
    disk::{Disk, Error, Kind, Result},
    watch::Watch,
};
use std::ops::Range;

/// Zeroed at once, in bytes: whoever cancels or holds back waits no longer than for this.
pub(super) const ZEROS_AT_ONCE: u64 = 16 << 20;

/// Makes `range` of `disk` zeros, which are no part of a copy: what lies behind the disk that was copied.
///
/// # Errors
/// Those of the disk; [`Kind::Cancelled`] if `watch` says so.
pub fn write_zeros(disk: &dyn Disk, range: Range<u64>, watch: &dyn Watch) -> Result<()> {
    let mut at = range.start;
    // Who holds back does so before the first of them too.
    watch.advance(0);
    while at < range.end {
        if watch.cancelled() {
            return Err(Error::new(Kind::Cancelled, disk.label(), "cancelled"));
        }
        let end = range.end.min(at.saturating_add(ZEROS_AT_ONCE));
        disk.write_zeros(at..end)?;
        watch.advance(end - at);
        at = end;
    }
    Ok(())
}
