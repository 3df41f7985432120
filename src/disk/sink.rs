//! Where a copy goes: a disk (any order) or a writer that only goes forward.

use super::Result;
use std::ops::Range;

/// Takes a whole disk, piece by piece. [`Sink::put`], [`Sink::skip`] and [`Sink::keep`] together cover every byte
/// of it exactly once. They may be called from many threads, but their ranges are handed out to those threads in
/// ascending order, and a bounded number is in flight: so a sink may hold a caller until all lower ranges have
/// arrived, to decide places in the order of the disk and not of arrival. A caller must therefore never wait for a
/// higher range before it has delivered its own, and who cannot deliver one calls [`Sink::abandon`].
pub trait Sink: Send + Sync {
    /// Every range begins and ends on a multiple of this (or at the end of the disk): a cluster, a grain. In bytes.
    fn unit(&self) -> u32;
    /// Writes data. Compresses on the calling thread.
    fn put(&self, offset: u64, bytes: &[u8]) -> Result<()>;
    /// `range` is zeros.
    fn skip(&self, range: Range<u64>) -> Result<()>;
    /// `range` is there already from an earlier run that was resumed: the ledger says that a checkpoint had made it
    /// lasting. Only of a sink that was opened to resume; another refuses it.
    fn keep(&self, range: Range<u64>) -> Result<()>;
    /// All that came before survives a power cut: only now may the ledger record it. Covers every call that had
    /// returned before this one began; others may go on meanwhile.
    fn checkpoint(&self) -> Result<()>;
    /// A range will never come, because it could not be read or the job was cancelled: everybody who is held in
    /// [`Sink::put`], [`Sink::skip`] or [`Sink::keep`] returns with `Kind::Cancelled`, and so does every later call.
    /// What a checkpoint has made lasting stays. Calls of its own that fail do this by themselves.
    fn abandon(&self) {}
    /// Headers, footers, tables; nothing may be put afterwards.
    fn finish(&self) -> Result<()>;
}
