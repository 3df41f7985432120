//! What can be wrong with a qcow file.

use crate::disk::{Error, Kind, field::Truncated};
use thiserror::Error;

/// What was found, what was expected, and what to do next.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub(super) enum Flaw {
    #[error("is no qcow image: its magic is not \"QFI\\xfb\"")]
    Magic,
    #[error("is qcow version {0}; 1 is what the format qcow means, 2 and 3 are qcow2")]
    Version(u32),
    #[error("has clusters of 2^{0} bytes; 2^9 to 2^16 are possible")]
    ClusterBits(u8),
    #[error("has second-level tables of 2^{0} entries; 2^6 to 2^13 are possible")]
    TableBits(u8),
    #[error("is encrypted with AES: decrypt it first with `qemu-img convert`")]
    Encrypted,
    #[error("is encrypted with an unknown method, {0}")]
    UnknownEncryption(u32),
    #[error("claims a disk of {0} bytes; 2^63 is the most")]
    TooLarge(u64),
    #[error("has a name of the backing file of {0} bytes; 1023 is the most")]
    BackingName(u32),
    #[error(
        "has its {what} at byte {offset}, past the end of the file at {size}: the file is cut short or damaged"
    )]
    PastTheEnd {
        what: &'static str,
        offset: u64,
        size: u64,
    },
    #[error("has a compressed cluster that does not unpack to a whole one: {0}")]
    Compressed(String),
    #[error(
        "stands on the file {name}, whose format it does not say, and which begins like an image itself ({found}): it may \
         be one, or a raw disk in which a guest wrote that. `qemu-img convert -O qcow2` of both makes one image"
    )]
    BackingFormat { name: String, found: String },
    #[error(transparent)]
    Truncated(#[from] Truncated),
}

impl Flaw {
    /// The error that crosses the disk seam, about the file called `label`.
    pub(super) fn of(self, label: &str) -> Error {
        let kind = match self {
            Self::Version(_) | Self::Encrypted | Self::UnknownEncryption(_) | Self::BackingFormat { .. } => {
                Kind::Unsupported
            }
            _ => Kind::Corrupt,
        };
        Error::new(kind, label, self)
    }
}
