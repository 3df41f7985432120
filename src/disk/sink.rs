//! Where a copy goes: a disk (any order) or a writer that only goes forward.

use super::Result;
use std::ops::Range;

/// Takes a whole disk, piece by piece.
pub trait Sink: Send + Sync {
    /// Every `put` begins and ends on a multiple of this (or at the end of the disk): a cluster, a grain. In bytes.
    fn unit(&self) -> u32;
    /// Writes data; may be called from many threads. Compresses on the calling thread. Chunks are handed out in
    /// ascending order; a forward-only sink holds a caller until the lower ones are in.
    fn put(&self, offset: u64, bytes: &[u8]) -> Result<()>;
    /// `range` is zeros. With `put` it covers the whole disk, once.
    fn skip(&self, range: Range<u64>) -> Result<()>;
    /// All that came before survives a power cut: only now may the ledger record it.
    fn checkpoint(&self) -> Result<()>;
    /// Headers, footers, tables; nothing may be put afterwards.
    fn finish(&self) -> Result<()>;
}
