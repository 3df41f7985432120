//! The one error that crosses the disk seam.

use std::{error, fmt, io};

/// What was being done, where, and why it failed: a stable kind for control flow, the disk's label, the byte
/// offset on that disk, and the room's own error inside.
#[derive(Debug)]
pub struct Error {
    /// For control flow.
    pub kind: Kind,
    /// The label of the disk, as an administrator would say it.
    pub disk: String,
    /// Byte offset on that disk, where one is to blame.
    pub offset: Option<u64>,
    /// The room's own error: its text says what was found, what was expected and what to do next.
    pub source: Box<dyn error::Error + Send + Sync>,
}

/// Reasons that a caller may act on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Kind {
    /// The device, the file or the network failed.
    Io,
    /// A range reaches past the end of the disk.
    OutOfRange,
    /// Opened for reading, or of a kind that cannot be written.
    ReadOnly,
    /// No space is left below.
    Full,
    /// The bytes contradict their format.
    Corrupt,
    /// Valid, but not handled here.
    Unsupported,
    /// Valid, but in a state in which an edit would do harm (hibernated, errors flagged); the text names the cure.
    Unsafe,
    /// The thing asked for is not there.
    NotFound,
    /// The thing to be made is there already.
    Exists,
    /// The job was cancelled.
    Cancelled,
}

/// This room's result.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// An error on `disk` with no offset.
    pub fn new(
        kind: Kind,
        disk: impl Into<String>,
        source: impl Into<Box<dyn error::Error + Send + Sync>>,
    ) -> Self {
        Self {
            kind,
            disk: disk.into(),
            offset: None,
            source: source.into(),
        }
    }

    /// The same error, with the byte offset that is to blame.
    #[must_use]
    pub fn at(mut self, offset: u64) -> Self {
        self.offset = Some(offset);
        self
    }

    /// A system error on `disk`; a full device and a missing file keep a kind of their own.
    pub fn io(disk: impl Into<String>, error: io::Error) -> Self {
        let kind = match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Kind::Full,
            io::ErrorKind::NotFound => Kind::NotFound,
            io::ErrorKind::AlreadyExists => Kind::Exists,
            io::ErrorKind::ReadOnlyFilesystem => Kind::ReadOnly,
            _ => Kind::Io,
        };
        Self::new(kind, disk, error)
    }

    /// `range` reaches past the `size` of `disk`.
    pub fn out_of_range(disk: impl Into<String>, offset: u64, length: u64, size: u64) -> Self {
        Self::new(
            Kind::OutOfRange,
            disk,
            format!("{length} bytes at offset {offset} reach past the end at {size}"),
        )
        .at(offset)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.disk)?;
        if let Some(offset) = self.offset {
            write!(f, " at byte {offset}")?;
        }
        write!(f, ": {}", self.source)
    }
}

impl error::Error for Error {
    fn source(&self) -> Option<&(dyn error::Error + 'static)> {
        self.source.source()
    }
}

impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        let kind = match error.kind {
            Kind::Full => io::ErrorKind::StorageFull,
            Kind::OutOfRange => io::ErrorKind::UnexpectedEof,
            Kind::ReadOnly => io::ErrorKind::ReadOnlyFilesystem,
            Kind::NotFound => io::ErrorKind::NotFound,
            Kind::Exists => io::ErrorKind::AlreadyExists,
            Kind::Unsupported => io::ErrorKind::Unsupported,
            Kind::Corrupt => io::ErrorKind::InvalidData,
            Kind::Io | Kind::Unsafe | Kind::Cancelled => io::ErrorKind::Other,
        };
        Self::new(kind, error)
    }
}
