//! What can be wrong with an NTFS volume, said so that somebody can act on it.

use crate::disk::{self, Kind, field::Truncated};
use thiserror::Error;

/// This room's own error; it crosses the seam inside [`disk::Error`].
#[derive(Debug, Error)]
pub(super) enum NtfsError {
    /// A structure is cut short.
    #[error(transparent)]
    Truncated(#[from] Truncated),
    /// No boot sector of NTFS here.
    #[error("not NTFS: {0}")]
    NotNtfs(&'static str),
    /// A field of the boot sector can't be.
    #[error(
        "boot sector: {field} is {found}, {expected}; a copy of it is in the last sector of the partition (`testdisk` \
         puts it back)"
    )]
    BootSector {
        /// Name of the field.
        field: &'static str,
        /// Its value.
        found: u64,
        /// What it should be.
        expected: &'static str,
    },
    /// The bytes contradict the format.
    #[error("{0}; run `chkdsk /f` on it in Windows, then shut down and try again")]
    Damaged(String),
    /// Valid, but beyond us.
    #[error("{0}")]
    Unsupported(String),
    /// Valid, but an edit would do harm; the text names the cure.
    #[error("{0}")]
    Unsafe(String),
    /// The thing asked for is not there.
    #[error("{0}")]
    NotFound(String),
    /// The thing to be made is there already.
    #[error("{0}")]
    Exists(String),
    /// No room is left.
    #[error("{0}")]
    Full(String),
}

impl NtfsError {
    /// "… run chkdsk": the bytes contradict the format.
    pub(super) fn damaged(what: impl Into<String>) -> Self {
        Self::Damaged(what.into())
    }

    /// Within something: "file record 31: …". Only what is wrong with bytes needs it.
    #[must_use]
    pub(super) fn within(self, what: impl std::fmt::Display) -> Self {
        match self {
            Self::Damaged(text) => Self::Damaged(format!("{what}: {text}")),
            Self::Truncated(truncated) => Self::Damaged(format!("{what}: {truncated}")),
            other => other,
        }
    }

    const fn kind(&self) -> Kind {
        match self {
            Self::Truncated(_) | Self::NotNtfs(_) | Self::BootSector { .. } | Self::Damaged(_) => {
                Kind::Corrupt
            }
            Self::Unsupported(_) => Kind::Unsupported,
            Self::Unsafe(_) => Kind::Unsafe,
            Self::NotFound(_) => Kind::NotFound,
            Self::Exists(_) => Kind::Exists,
            Self::Full(_) => Kind::Full,
        }
    }

    /// The seam's error, on the volume called `label`.
    pub(super) fn on(self, label: &str) -> disk::Error {
        disk::Error::new(self.kind(), label, self)
    }
}

/// What parsing a structure gives: it does not know which volume the bytes are from.
pub(super) type Parsed<T> = Result<T, NtfsError>;
