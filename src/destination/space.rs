//! Is there room?

use super::{Destination, Leftover};
use crate::disk::{Error, Kind, Result};
use std::path::Path;

/// Of the filesystem that a path is on, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    /// Free for this user.
    pub free: u64,
    /// In all.
    pub total: u64,
}

/// Asks the filesystem that `path` is on.
pub(super) fn space(path: &Path) -> Result<Space> {
    let stat =
        rustix::fs::statvfs(path).map_err(|error| Error::io(path.display().to_string(), error.into()))?;
    Ok(Space {
        free: stat.f_bavail.saturating_mul(stat.f_frsize),
        total: stat.f_blocks.saturating_mul(stat.f_frsize),
    })
}

impl Space {
    /// Fails with [`Kind::Full`] where `needed` bytes do not fit; `place` is for the text.
    pub fn must_hold(&self, place: &str, needed: u64) -> Result<()> {
        if needed <= self.free {
            return Ok(());
        }
        let text = format!(
            "{needed} bytes are needed and {} are free; free at least {} more, or name another place",
            self.free,
            needed - self.free
        );
        Err(Error::new(Kind::Full, place, text))
    }
}

/// Says of a full destination what an administrator needs: how much is free, how much is still to come, and what is
/// left of the run. Other errors pass.
pub fn explain_full(error: Error, destination: &dyn Destination, still_needed: u64) -> Error {
    if error.kind != Kind::Full {
        return error;
    }
    let free = destination
        .space()
        .map_or_else(|_| "an unknown number".to_owned(), |space| space.free.to_string());
    let next = match destination.leftover() {
        Leftover::Nothing => "what was made is removed; free space, or name another place".to_owned(),
        Leftover::Resumable(folder) => format!(
            "free space and go on with --resume, or remove {}",
            folder.display()
        ),
        damaged @ Leftover::Damaged { .. } => format!("free space, or name another place; {damaged}"),
    };
    let text = format!(
        "{}: up to {still_needed} more bytes are needed, {free} are free; {next}",
        error.source
    );
    Error {
        source: text.into(),
        ..error
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_said_in_bytes() {
        let folder = tempfile::tempdir().unwrap();
        let here = space(folder.path()).unwrap();
        assert!(here.free <= here.total && here.total > 0);
        let small = Space {
            free: 1000,
            total: 5000,
        };
        small.must_hold("out", 1000).unwrap();
        let error = small.must_hold("out", 1500).unwrap_err();
        assert_eq!(error.kind, Kind::Full);
        assert!(
            error
                .to_string()
                .contains("1500 bytes are needed and 1000 are free; free at least 500"),
            "{error}"
        );
    }
}
