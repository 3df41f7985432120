//! What can be wrong with a package.

use crate::disk::{Error, Kind, field::Truncated};
use thiserror::Error;

/// What was found, what was expected, and what to do next.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub(super) enum Flaw {
    #[error("is no tar archive: its first block has no header of one")]
    NoTar,
    #[error("has no header of a file at byte {0}, where the next must be: the archive is damaged")]
    TarHeader(u64),
    #[error("has a header at byte {0} whose checksum is wrong: the archive is damaged")]
    TarChecksum(u64),
    #[error("has a number that is none in its header at byte {0}")]
    TarNumber(u64),
    #[error("has a header at byte {at} with {length} bytes of names, more than any has")]
    TarNames { at: u64, length: u64 },
    #[error(
        "holds \"{0}\" as a sparse file of tar's own kind, which no package does: pack it again without --sparse"
    )]
    TarSparse(String),
    #[error("holds more than {0} files, which no package does")]
    TarMembers(usize),
    #[error(
        "is cut short: \"{name}\" has {size} bytes from byte {start} on, but the archive ends at {end}: {} bytes are \
         missing. Copy it again",
        .start.saturating_add(*.size).saturating_sub(*.end)
    )]
    TarCut {
        name: String,
        size: u64,
        start: u64,
        end: u64,
    },
    #[error("is cut short: it ends at byte {end}, in the middle of the header at {at}. Copy it again")]
    TarCutHeader { at: u64, end: u64 },
    #[error("holds no descriptor: no file in it ends with .ovf")]
    NoDescriptor,
    #[error("has a {what} of {size} bytes, more than any has")]
    TooLarge { what: &'static str, size: u64 },
    #[error("is not in UTF-8")]
    Encoding,
    #[error("is no XML that is understood: {0}")]
    Xml(String),
    #[error("is XML, but no OVF descriptor: its outermost element is \"{0}\", not \"Envelope\"")]
    Envelope(String),
    #[error("describes no virtual machine")]
    NoSystem,
    #[error(
        "describes {} virtual machines ({}), and one is wanted: export that one by itself",
        .0.len(),
        .0.join(", ")
    )]
    Systems(Vec<String>),
    #[error("has a {what} that is no number of bytes: \"{text}\"")]
    Number { what: &'static str, text: String },
    #[error("has a disk \"{disk}\" that refers to the file \"{file}\", which it does not list")]
    FileReference { disk: String, file: String },
    #[error("has hardware that refers to the disk \"{0}\", which it does not list")]
    DiskReference(String),
    #[error(
        "has a disk \"{disk}\" that holds only changes to the disk \"{parent}\": export the machine without snapshots"
    )]
    Parent { disk: String, parent: String },
    #[error("has a disk \"{0}\" without a file and without a size")]
    NoCapacity(String),
    #[error(
        "names the file \"{0}\", which does not lie beside the descriptor; only files of the package are opened"
    )]
    Elsewhere(String),
    #[error("is incomplete: \"{0}\", which the descriptor names, is not there")]
    Missing(String),
    #[error(
        "is incomplete: \"{name}\" has {found} bytes, and the descriptor says {expected}: {} bytes are missing. Copy it \
         again",
        .expected.saturating_sub(*.found)
    )]
    Short { name: String, found: u64, expected: u64 },
    #[error("has \"{name}\" compressed with \"{method}\"; gzip is what the specification knows")]
    Compression { name: String, method: String },
    #[error(
        "has a chunk size of {chunk} bytes for \"{name}\" of {size}, which would be more than {most} files"
    )]
    Chunks {
        name: String,
        chunk: u64,
        size: u64,
        most: u64,
    },
    #[error("has chunks of \"{0}\" without saying how large the whole is")]
    ChunkedSize(String),
    #[error("has a manifest whose line {0} is not understood")]
    Manifest(usize),
    #[error("has digests by \"{0}\" in its manifest; SHA1, SHA256, SHA384 and SHA512 are known")]
    Algorithm(String),
    #[error(
        "is damaged: the {algorithm} digest of \"{name}\" is {found}, and the manifest says {expected}. Copy it again"
    )]
    Digest {
        name: String,
        algorithm: &'static str,
        found: String,
        expected: String,
    },
    #[error("holds {count} disks ({names}), and one is wanted here: unpack it with tar and name the disk")]
    Disks { count: usize, names: String },
    #[error("cannot be described in OVF: {0}")]
    CannotDescribe(String),
    #[error("is a package within a package: unpack the outer one with tar")]
    Nested,
    #[error(transparent)]
    Truncated(#[from] Truncated),
}

impl Flaw {
    /// The error that crosses the disk seam, about the file called `label`.
    pub(super) fn of(self, label: &str) -> Error {
        let kind = match self {
            Self::Systems(_)
            | Self::Parent { .. }
            | Self::Compression { .. }
            | Self::TarSparse(_)
            | Self::Elsewhere(_)
            | Self::Nested
            | Self::CannotDescribe(_)
            | Self::Algorithm(_)
            | Self::Disks { .. } => Kind::Unsupported,
            Self::Missing(_) | Self::NoDescriptor | Self::NoSystem => Kind::NotFound,
            _ => Kind::Corrupt,
        };
        Error::new(kind, label, self)
    }
}
