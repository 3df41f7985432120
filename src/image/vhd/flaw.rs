//! What can be wrong with a VHD file.

use crate::disk::{Error, Kind, field::Truncated};
use thiserror::Error;

/// What was found, what was expected, and what to do next.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub(super) enum Flaw {
    #[error("is no VHD: neither its first nor its last sector begins with \"conectix\"")]
    NoFooter,
    #[error(
        "has the checksum {found:#010x} in its footer where the bytes give {computed:#010x}, and no other whole \
         footer: it is damaged; take another copy of it"
    )]
    FooterChecksum { found: u32, computed: u32 },
    #[error("is a VHD of version {0:#010x}; 0x00010000 is the only one that is known")]
    Version(u32),
    #[error("is a VHD of type {0}; fixed (2), dynamic (3) and differencing (4) are handled")]
    DiskType(u32),
    #[error(
        "has lost its footer, the last 512 bytes, and is fixed by its first ones: a disk of that kind has no copy of it"
    )]
    FixedAtStart,
    #[error(
        "is said by its footer to hold a disk of {size} bytes, but has only {there} bytes before the footer: it was \
         cut short; take another copy of it"
    )]
    CutShort { size: u64, there: u64 },
    #[error("is said by its footer to hold a disk of {0} bytes; 2040 GiB is the most")]
    TooLarge(u64),
    #[error("has a dynamic disk header that does not begin with \"cxsparse\"")]
    HeaderCookie,
    #[error(
        "has the checksum {found:#010x} in its dynamic disk header where the bytes give {computed:#010x}: it is \
         damaged. `qemu-img convert -f vpc` does not look at this checksum and may still read it"
    )]
    HeaderChecksum { found: u32, computed: u32 },
    #[error("has a dynamic disk header of version {0:#010x}; 0x00010000 is the only one that is known")]
    HeaderVersion(u32),
    #[error("has blocks of {0} bytes; a power of two from 512 up is possible")]
    BlockSize(u32),
    #[error(
        "has an allocation table of {entries} entries for blocks of {block} bytes, too few for {size} bytes"
    )]
    TableTooSmall { entries: u32, block: u32, size: u64 },
    #[error(
        "has its {what} at byte {offset}, past the end of the file at {size}: the file is cut short (or was split by \
         Virtual PC 2004: then append its .v01, .v02, ... to it)"
    )]
    PastTheEnd {
        what: &'static str,
        offset: u64,
        size: u64,
    },
    #[error("has its {0} at byte {1}, inside its own header")]
    InHeader(&'static str, u64),
    #[error(transparent)]
    Truncated(#[from] Truncated),
}

impl Flaw {
    /// The error that crosses the disk seam, about the file called `label`.
    pub(super) fn of(self, label: &str) -> Error {
        let kind = match self {
            Self::Version(_) | Self::DiskType(_) | Self::HeaderVersion(_) => Kind::Unsupported,
            _ => Kind::Corrupt,
        };
        Error::new(kind, label, self)
    }
}
