//! What can be wrong with a VHDX file.

use crate::disk::{Error, Kind, field::Truncated};
use thiserror::Error;
use uuid::Uuid;

/// What was found, what was expected, and what to do next.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub(super) enum Flaw {
    #[error("is no VHDX: it does not begin with \"vhdxfile\"")]
    Signature,
    #[error("has no {0} that is whole, of two: it is damaged; take another copy of it")]
    NeitherWhole(&'static str),
    #[error("does not begin with its signature \"{0}\"")]
    StructureSignature(&'static str),
    #[error("has the checksum {found:#010x} where the bytes give {computed:#010x}")]
    Checksum { found: u32, computed: u32 },
    #[error("has two headers with the sequence number {0} that differ: nobody can tell which is true")]
    SameSequence(u64),
    #[error("is a VHDX of version {0}; 1 is the only one that is known")]
    Version(u16),
    #[error("has a log of version {0} that must be replayed; 0 is the only one that is known")]
    LogVersion(u16),
    #[error(
        "has a log of {length} bytes at byte {offset}, which is no place for one in a file of {size} bytes"
    )]
    LogPlace { offset: u64, length: u32, size: u64 },
    #[error(
        "was not closed, and its log of {0} bytes is larger than is replayed here (16 MiB): `qemu-img check -r all` on \
         a copy replays it, and so does Windows when it mounts the file"
    )]
    LogTooLarge(u32),
    #[error(
        "was not closed, and its log, which must be replayed, has no sequence of entries that is whole: it is damaged. \
         `qemu-img check -r all` on a copy drops the log; what was being changed may then be half changed"
    )]
    LogDamaged,
    #[error(
        "was not closed, and by its log it had {wanted} bytes where {size} are left: it was cut short; take another \
         copy of it"
    )]
    CutShort { wanted: u64, size: u64 },
    #[error("has a log entry for byte {0}, where no file reaches")]
    LogTarget(u64),
    #[error("has {0} entries in its region table; 2047 is the most")]
    Regions(u32),
    #[error("has {0} entries in its metadata table; 2047 is the most")]
    Items(u16),
    #[error("needs a region that is not known here: {0}")]
    UnknownRegion(Uuid),
    #[error("needs a metadata item that is not known here: {0}")]
    UnknownItem(Uuid),
    #[error("has no {0}")]
    Missing(&'static str),
    #[error(
        "has its {what} at byte {offset} with {length} bytes, which is no place for it in a file of {size} bytes"
    )]
    Place {
        what: &'static str,
        offset: u64,
        length: u64,
        size: u64,
    },
    #[error("has {0} twice")]
    Twice(&'static str),
    #[error("has blocks of {0} bytes; a power of two from 1 MiB to 256 MiB is possible")]
    BlockSize(u32),
    #[error("has {0} sectors of {1} bytes; 512 and 4096 are possible")]
    SectorSize(&'static str, u32),
    #[error("has a disk of {0} bytes; whole sectors and at most 64 TiB are possible")]
    Size(u64),
    #[error("has an allocation table of {there} bytes where the disk needs {needed}")]
    TableTooSmall { there: u64, needed: u64 },
    #[error("has an entry {0:#018x} in its allocation table that means nothing in a disk of its kind")]
    Entry(u64),
    #[error(
        "has its {what} at byte {offset}, past the end of the file at {size}: the file is cut short or damaged"
    )]
    PastTheEnd {
        what: &'static str,
        offset: u64,
        size: u64,
    },
    #[error("has a block of which some sectors are the parent's, and no bitmap that says which")]
    NoBitmap,
    #[error(
        "has a parent locator of the kind {0}; b04aefb7-d19e-4a81-b789-25b8e9445913, VHDX, is the only one that is \
         known"
    )]
    LocatorType(Uuid),
    #[error("has a damaged parent locator: {0}")]
    Locator(&'static str),
    #[error(transparent)]
    Truncated(#[from] Truncated),
}

impl Flaw {
    /// The error that crosses the disk seam, about the file called `label`.
    pub(super) fn of(self, label: &str) -> Error {
        let kind = match self {
            Self::Version(_)
            | Self::LogVersion(_)
            | Self::LogTooLarge(_)
            | Self::UnknownRegion(_)
            | Self::UnknownItem(_)
            | Self::LocatorType(_) => Kind::Unsupported,
            _ => Kind::Corrupt,
        };
        Error::new(kind, label, self)
    }
}
