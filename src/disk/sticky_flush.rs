//! A flush that failed has failed for good.

use super::{Error, Kind, Result};
use std::sync::{Mutex, PoisonError};

/// Lets no flush succeed after one that failed. The kernel tells of an error while writing back once for each descriptor, and
/// by then it has thrown the pages away: the next `fdatasync` succeeds and what was written before is not there (a server
/// does the same). Whoever asks again must not be told that all is well.
#[derive(Debug, Default)]
pub(crate) struct StickyFlush {
    /// How the first one failed. Held while one flushes: of two at once only one hears of the error.
    failed: Mutex<Option<Kind>>,
}

impl StickyFlush {
    /// Calls `flush` on the disk called `label`, unless an earlier one has failed.
    pub(crate) fn run(&self, label: &str, flush: impl FnOnce() -> Result<()>) -> Result<()> {
        let mut failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(kind) = *failed {
            let text = "an earlier flush has failed, so what was written before it may be lost; it must be written again";
            return Err(Error::new(kind, label, text));
        }
        let flushed = flush();
        *failed = flushed.as_ref().err().map(|error| error.kind);
        flushed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_a_flush_that_failed_none_succeeds_or_is_even_tried() {
        let sticky = StickyFlush::default();
        sticky.run("disk", || Ok(())).unwrap();
        let full = || Err(Error::new(Kind::Full, "disk", "no space is left"));
        assert!(
            sticky
                .run("disk", full)
                .unwrap_err()
                .to_string()
                .contains("space")
        );
        let error = sticky.run("disk", || panic!("it was asked again")).unwrap_err();
        assert_eq!(error.kind, Kind::Full);
        assert!(error.to_string().contains("earlier flush"), "{error}");
    }
}
