//! What can be wrong with a qcow2 file.

use crate::disk::{Error, Kind, field::Truncated};
use thiserror::Error;

/// What was found, what was expected, and what to do next.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub(super) enum Flaw {
    #[error("is no qcow2 image: its magic is not \"QFI\\xfb\"")]
    Magic,
    #[error("is qcow version {0}; qcow2 is 2 and 3 (and version 1 is the format qcow)")]
    Version(u32),
    #[error("has clusters of 2^{0} bytes; 2^9 to 2^21 are possible (2^14 and more with extended L2 entries)")]
    ClusterBits(u32),
    #[error("is encrypted with {0}: decrypt it first with `qemu-img convert`")]
    Encrypted(&'static str),
    #[error("has a header of {0} bytes; 104 to 65536 in steps of 8 are possible")]
    HeaderLength(u32),
    #[error("has refcounts of 2^{0} bits; 2^6 is the most")]
    RefcountOrder(u32),
    #[error("names compression type {0} where its feature bits do not allow it, or an unknown one")]
    CompressionType(u8),
    #[error(
        "is marked corrupt and must not be written: `qemu-img check -r all` on a copy mends it, as far as that is possible"
    )]
    MarkedCorrupt,
    #[error(
        "keeps its data in another file, whose name it does not hold: `qemu-img amend -o data_file=NAME` writes it down"
    )]
    UnnamedData,
    #[error(
        "keeps its data in another file and is not edited where it lies: `qemu-img convert -O qcow2` makes one file of both"
    )]
    EditOfExternalData,
    #[error("has a compressed cluster, and an external data file, which can hold none")]
    CompressedExternal,
    #[error("needs a feature that is not known here: bit {bit} \"{name}\"")]
    UnknownFeature { bit: u32, name: String },
    #[error("claims a first-level table of {0} entries; 4194304 is the most")]
    L1TooLarge(u32),
    #[error("has a first-level table of {entries} entries where the disk needs {needed}")]
    L1TooSmall { entries: u32, needed: u64 },
    #[error("has its {0} at byte {1}, which is not the beginning of a cluster")]
    Unaligned(&'static str, u64),
    #[error("claims a refcount table of {0} clusters; 8 MiB is the most")]
    RefcountTableTooLarge(u32),
    #[error(
        "has a name of the backing file of {size} bytes at {offset}; it must be shorter than 1024 and in the first cluster"
    )]
    BackingName { offset: u64, size: u32 },
    #[error(
        "has its {what} at byte {offset}, past the end of the file at {size}: the file is cut short or damaged"
    )]
    PastTheEnd {
        what: &'static str,
        offset: u64,
        size: u64,
    },
    #[error("has an entry {0:#018x} that means nothing in a second-level table of this version")]
    L2Entry(u64),
    #[error("has a compressed cluster that does not unpack to a whole one: {0}")]
    Compressed(String),
    #[error(
        "has a reference count of 0 for a cluster in use at byte {0}: `qemu-img check -r all` on a copy mends it"
    )]
    RefcountOfUsed(u64),
    #[error("has bitmaps with a directory of {0} bytes and tables beyond what a disk can need")]
    BitmapDirectory(u64),
    #[error("claims {0} snapshots; 65536 is the most")]
    Snapshots(u32),
    #[error("has a snapshot with {0} bytes of extra data; 1024 is the most")]
    SnapshotExtraData(u64),
    #[error("has a snapshot table of more than {0} bytes")]
    SnapshotTable(u64),
    #[error("has no snapshot \"{wanted}\"; {there}")]
    NoSnapshot { wanted: String, there: String },
    #[error(
        "was not closed in order, and its reference counts may be wrong: `qemu-img check -r all` mends it"
    )]
    Dirty,
    #[error("{0}")]
    CannotGrow(&'static str),
    #[error("{0}")]
    Options(&'static str),
    #[error("{0} needs compat=1.1")]
    NeedsVersion3(&'static str),
    #[error(transparent)]
    Truncated(#[from] Truncated),
}

impl Flaw {
    /// The error that crosses the disk seam, about the file called `label`.
    pub(super) fn of(self, label: &str) -> Error {
        let kind = match self {
            Self::Encrypted(_)
            | Self::EditOfExternalData
            | Self::UnnamedData
            | Self::Options(_)
            | Self::NeedsVersion3(_)
            | Self::UnknownFeature { .. }
            | Self::Version(_) => Kind::Unsupported,
            Self::CannotGrow(_) => Kind::Full,
            Self::Dirty | Self::MarkedCorrupt => Kind::Unsafe,
            Self::NoSnapshot { .. } => Kind::NotFound,
            _ => Kind::Corrupt,
        };
        Error::new(kind, label, self)
    }
}
