//! What can be wrong with a VMDK.

use crate::disk::{Error, Kind, field::Truncated};
use thiserror::Error;

/// What was found, what was expected, and what to do next.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub(super) enum Flaw {
    #[error("is no VMDK: it begins neither with \"KDMV\" nor with \"# Disk DescriptorFile\"")]
    Magic,
    #[error(
        "holds {sectors} sectors of a VMDK, but not its descriptor, which says whether there are more of them and \
         whether it has a parent: name the descriptor, the small text file beside it. If there never was one, this makes \
         one for a disk that is this file alone: printf '{text}' >disk.vmdk"
    )]
    NoDescriptor { sectors: u64, text: String },
    #[error("is VMDK version {0}; 1 to 3 are handled")]
    Version(u32),
    #[error(
        "was damaged by a transfer that changed its line ends (as text, not as bytes): transfer it again, in binary mode"
    )]
    LineEnds,
    #[error("needs a feature that is not known here: bit {0} of its flags")]
    UnknownFlag(u32),
    #[error("is compressed with method {0}; deflate, 1, is the only one that there is")]
    Compression(u16),
    #[error("has grains of {0} sectors; a power of two up to {1} is possible")]
    GrainSize(u64, u64),
    #[error("has grain tables of {0} entries; 1 to 65536 are possible")]
    TableSize(u64),
    #[error("claims {0} sectors, more than any disk can have")]
    Capacity(u64),
    #[error("has a grain directory of {entries} entries where its size needs {needed}")]
    DirectoryTooSmall { entries: u64, needed: u64 },
    #[error(
        "ends without the footer that its header announces: it is cut short, or was still being written. Transfer or \
         export it again"
    )]
    Footer,
    #[error(
        "has its {what} at byte {offset}, past the end of the file at {size}: the file is cut short or damaged"
    )]
    PastTheEnd {
        what: &'static str,
        offset: u64,
        size: u64,
    },
    #[error("has an entry {0:#018x} that means nothing in {1}")]
    Entry(u64, &'static str),
    #[error("has a compressed grain at byte {offset} that does not unpack: {why}")]
    Compressed { offset: u64, why: String },
    #[error("is seSparse of version {0:#x}; 0x200000001 is the only one known")]
    SeSparseVersion(u64),
    #[error("is seSparse with {what} {found}, where {expected} is expected")]
    SeSparseField {
        what: &'static str,
        found: u64,
        expected: u64,
    },
    #[error(
        "has a journal that must be replayed, which only ESXi can: let the virtual machine start and stop there once, or \
         consolidate its snapshots, and copy it again"
    )]
    SeSparseJournal,
    #[error(
        "has a descriptor that cannot be: line {line}, \"{text}\": {why}. It is text and can be mended in an editor"
    )]
    Descriptor {
        line: usize,
        text: String,
        why: &'static str,
    },
    #[error("has a descriptor without any extent")]
    NoExtents,
    #[error("has a descriptor with more than {0} extents")]
    TooManyExtents(usize),
    #[error("has a descriptor of more than {0} bytes")]
    DescriptorTooLarge(u64),
    #[error(
        "is encrypted by VMware: remove the encryption of the virtual machine there (VM settings, options, access \
         control; or its storage policy), and copy it again"
    )]
    Encrypted,
    #[error(
        "stands for a physical device (extent \"{0}\", type {1}): name that device itself as the source, on the host \
         that has it"
    )]
    Device(String, String),
    #[error("has an extent of type {0}, which is not known here")]
    ExtentType(String),
    #[error("has the extent \"{0}\", to which its descriptor allows no access (NOACCESS)")]
    NoAccess(String),
    #[error(
        "has the extent \"{name}\" of {found} bytes, where its descriptor needs {expected}: it is cut short"
    )]
    ExtentTooShort { name: String, found: u64, expected: u64 },
    #[error(
        "has the extent \"{name}\" for {found} sectors, where its descriptor needs {expected}: they do not belong together"
    )]
    ExtentSectors { name: String, found: u64, expected: u64 },
    #[error("has the extent \"{name}\", which is said to be {expected} and is not")]
    ExtentKind { name: String, expected: &'static str },
    #[error(
        "has a parent (parentCID={0:08x}) but does not name it: add the line parentFileNameHint=\"FILE\" to its descriptor"
    )]
    ParentNotNamed(u32),
    #[error(
        "names the parent \"{0}\" but says that it has none (parentCID=ffffffff): take one of the two lines out of its \
         descriptor"
    )]
    ParentDenied(String),
    #[error(
        "was made over \"{parent}\" when that had CID {expected:08x}; now it has {found}, so its contents have changed \
         since, and both together would be a mixture. If you know that they have not, set parentCID in the descriptor \
         to the CID of the parent"
    )]
    ParentChanged {
        parent: String,
        expected: u32,
        found: String,
    },
    #[error("{0}")]
    CannotWrite(&'static str),
    #[error("{0}")]
    CannotCreate(String),
    #[error(transparent)]
    Truncated(#[from] Truncated),
}

impl Flaw {
    /// The error that crosses the disk seam, about the file called `label`.
    pub(super) fn of(self, label: &str) -> Error {
        let kind = match self {
            Self::NoDescriptor { .. }
            | Self::Version(_)
            | Self::UnknownFlag(_)
            | Self::Encrypted
            | Self::Device(..)
            | Self::ExtentType(_)
            | Self::NoAccess(_)
            | Self::SeSparseVersion(_)
            | Self::SeSparseField { .. }
            | Self::CannotWrite(_)
            | Self::CannotCreate(_)
            | Self::TooManyExtents(_) => Kind::Unsupported,
            Self::SeSparseJournal | Self::ParentChanged { .. } => Kind::Unsafe,
            _ => Kind::Corrupt,
        };
        Error::new(kind, label, self)
    }
}
