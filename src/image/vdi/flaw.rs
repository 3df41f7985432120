//! What can be wrong with a VDI file.

use crate::disk::{Error, Kind, field::Truncated};
use thiserror::Error;

/// What was found, what was expected, and what to do next.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub(super) enum Flaw {
    #[error("is no VDI: its signature is not 0xbeda107f")]
    Signature,
    #[error(
        "is a VDI of version {0}.{1}; 1.1, that of every VirtualBox since 2006, is handled: `VBoxManage clonemedium` makes \
         one"
    )]
    Version(u16, u16),
    #[error("has a VDI header of {0} bytes; 384 and more are possible")]
    HeaderSize(u32),
    #[error(
        "is an undo image of VirtualBox, which no version of it finished: `VBoxManage clonemedium` may know it"
    )]
    Undo,
    #[error("is a VDI of type {0}; dynamic (1), fixed (2) and differencing (4) are handled")]
    ImageType(u32),
    #[error("has sectors of {0} bytes; 512 is what VDI has")]
    SectorSize(u32),
    #[error("has blocks of {0} bytes; a power of two from 512 up is possible")]
    BlockSize(u32),
    #[error("has a map of {blocks} blocks of {block} bytes, too few for its disk of {size} bytes")]
    MapTooSmall { blocks: u32, block: u32, size: u64 },
    #[error("claims a disk of {0} bytes; 1 PiB is the most")]
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
        "has {0} bytes before the data of each block, and is only read: `VBoxManage clonemedium` makes a usual one"
    )]
    BlockExtra(u32),
    #[error(transparent)]
    Truncated(#[from] Truncated),
}

impl Flaw {
    /// The error that crosses the disk seam, about the file called `label`.
    pub(super) fn of(self, label: &str) -> Error {
        let kind = match self {
            Self::Version(..)
            | Self::Undo
            | Self::ImageType(_)
            | Self::SectorSize(_)
            | Self::BlockExtra(_) => Kind::Unsupported,
            _ => Kind::Corrupt,
        };
        Error::new(kind, label, self)
    }
}
