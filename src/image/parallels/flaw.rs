//! What can be wrong with a Parallels disk.

use crate::disk::{Error, Kind, field::Truncated};
use thiserror::Error;

/// What was found, what was expected, and what to do next.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub(super) enum Flaw {
    #[error("is no Parallels disk: it begins with neither \"WithoutFreeSpace\" nor \"WithouFreSpacExt\"")]
    Magic,
    #[error("is a Parallels disk of version {0}; 2 is the only one that is known")]
    Version(u32),
    #[error("has blocks of {0} sectors; 1 to 4194304 are possible")]
    BlockSize(u32),
    #[error("has a table of {entries} blocks of {block} bytes, too few for its disk of {size} bytes")]
    TableTooSmall { entries: u32, block: u64, size: u64 },
    #[error("claims a disk of {0} sectors; 2^50 bytes is the most")]
    TooLarge(u64),
    #[error(
        "has its {what} at byte {offset}, past the end of the file at {size}: the file is cut short or damaged"
    )]
    PastTheEnd {
        what: &'static str,
        offset: u64,
        size: u64,
    },
    #[error(
        "is one of {0} files that hold the disk together (snapshots, or parts), and is not read without the others: \
         `prl_disk_tool merge` or `prl_disk_tool convert --merge` makes one file of a copy"
    )]
    OneOfMany(usize),
    #[error("is encrypted: decrypt it first, in the settings of the virtual machine")]
    Encrypted,
    #[error(transparent)]
    Truncated(#[from] Truncated),
}

impl Flaw {
    /// The error that crosses the disk seam, about the file called `label`.
    pub(super) fn of(self, label: &str) -> Error {
        let kind = match self {
            Self::Version(_) | Self::OneOfMany(_) | Self::Encrypted => Kind::Unsupported,
            _ => Kind::Corrupt,
        };
        Error::new(kind, label, self)
    }
}
