//! What can be wrong with a registry hive, said so that somebody can act on it.

use super::cell::CellOffset;
use crate::disk::{self, Kind, field::Truncated};
use thiserror::Error;

/// What to do about a hive that contradicts its format.
const CURE: &str = "start that Windows once so that it mends the hive, or put back the copy that it keeps in \
                    System32\\config\\RegBack or in a restore point";

/// This room's own error; it crosses the seam inside [`disk::Error`].
#[derive(Debug, Error)]
pub(super) enum HiveError {
    /// A structure is cut short.
    #[error(transparent)]
    Truncated(#[from] Truncated),
    /// No base block here.
    #[error("not a registry hive: \"regf\" expected at its start, \"{}\" found", .0.escape_ascii())]
    NotAHive([u8; 4]),
    /// The bytes contradict the format.
    #[error("{what}; {CURE}")]
    Damaged {
        /// The cell that is to blame.
        cell: Option<CellOffset>,
        /// What contradicts what.
        what: String,
    },
    /// Valid, but beyond us.
    #[error("{0}")]
    Unsupported(String),
    /// The thing to be made is there already.
    #[error("{0}")]
    Exists(String),
    /// No room is left.
    #[error("{0}")]
    Full(String),
}

impl HiveError {
    /// The bytes contradict the format, in no cell that could be named.
    pub(super) fn damaged(what: impl Into<String>) -> Self {
        Self::Damaged {
            cell: None,
            what: what.into(),
        }
    }

    /// The bytes contradict the format in this cell.
    pub(super) fn damaged_at(cell: CellOffset, what: impl Into<String>) -> Self {
        Self::Damaged {
            cell: Some(cell),
            what: what.into(),
        }
    }

    /// What a parser said about the contents of `cell`.
    pub(super) fn in_cell(self, cell: CellOffset) -> Self {
        match self {
            Self::Truncated(truncated) => Self::damaged_at(cell, truncated.to_string()),
            Self::Damaged { cell: None, what } => Self::damaged_at(cell, what),
            other => other,
        }
    }

    const fn kind(&self) -> Kind {
        match self {
            Self::Truncated(_) | Self::NotAHive(_) | Self::Damaged { .. } => Kind::Corrupt,
            Self::Unsupported(_) => Kind::Unsupported,
            Self::Exists(_) => Kind::Exists,
            Self::Full(_) => Kind::Full,
        }
    }

    /// The seam's error, about the hive called `label`.
    pub(super) fn on(self, label: &str) -> disk::Error {
        let at = match &self {
            Self::Damaged { cell: Some(cell), .. } => Some(cell.in_file()),
            _ => None,
        };
        let error = disk::Error::new(self.kind(), label, self);
        match at {
            Some(at) => error.at(at),
            None => error,
        }
    }
}

/// What parsing a structure gives: it does not know which file the bytes are from.
pub(super) type Parsed<T> = Result<T, HiveError>;
