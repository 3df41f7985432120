//! What can be wrong with an ext4 filesystem, said so that somebody can act on it.

use crate::disk::{self, Kind, field::Truncated};
use thiserror::Error;

/// This room's own error; it crosses the seam inside [`disk::Error`].
#[derive(Debug, Error)]
pub(super) enum Ext4Error {
    /// A structure is cut short.
    #[error(transparent)]
    Truncated(#[from] Truncated),
    /// No superblock here.
    #[error("not ext2, ext3 or ext4: magic 0xEF53 expected at byte 1080, {0:#06x} found")]
    NotExt4(u16),
    /// A field of the superblock can't be.
    #[error("superblock: {field} is {found}, {expected}; try a copy with `e2fsck -f -b 32768`")]
    Superblock {
        /// Name of the field.
        field: &'static str,
        /// Its value.
        found: u64,
        /// What it should be.
        expected: &'static str,
    },
    /// The bytes contradict the format.
    #[error("{0}; run `e2fsck -f` on a copy of it and look at what it says")]
    Damaged(String),
    /// A stored checksum is not that of the bytes.
    #[error(
        "{structure}: checksum {found:#x} stored, {computed:#x} computed; run `e2fsck -f` on a copy of it and look at \
         what it says"
    )]
    Checksum {
        /// Which structure, with its number.
        structure: String,
        /// As stored.
        found: u32,
        /// As it should be.
        computed: u32,
    },
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

impl Ext4Error {
    /// "… run e2fsck": the bytes contradict the format.
    pub(super) fn damaged(what: impl Into<String>) -> Self {
        Self::Damaged(what.into())
    }

    const fn kind(&self) -> Kind {
        match self {
            Self::Truncated(_)
            | Self::NotExt4(_)
            | Self::Superblock { .. }
            | Self::Damaged(_)
            | Self::Checksum { .. } => Kind::Corrupt,
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
pub(super) type Parsed<T> = Result<T, Ext4Error>;
