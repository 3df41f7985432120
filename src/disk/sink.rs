//! Where a copy goes: a disk (any order) or a writer that only goes forward.

use super::{Disk, Result};
use std::{ops::Range, sync::Arc};

/// Takes a whole disk, piece by piece.
///
/// A copy that is resumed neither puts nor skips what was recorded after an earlier checkpoint; what was put
/// after that checkpoint comes again, byte for byte the same. A sink over a container file therefore keeps all that it needs in
/// the container: at each checkpoint the file describes itself.
pub trait Sink: Send + Sync {
    /// Every `put` begins and ends on a multiple of this (or at the end of the disk): a cluster, a grain. In bytes.
    fn unit(&self) -> u32;
    /// Writes data; may be called from many threads. Compresses on the calling thread. Chunks are handed out in
    /// ascending order; a forward-only sink holds a caller until the lower ones are in.
    fn put(&self, offset: u64, bytes: &[u8]) -> Result<()>;
    /// `range` is zeros. With `put` it covers the whole disk, once.
    fn skip(&self, range: Range<u64>) -> Result<()>;
    /// All puts and skips that had returned before this was called survive a power cut: only now may the ledger
    /// record them. Other threads may put meanwhile.
    fn checkpoint(&self) -> Result<()>;
    /// Headers, footers, tables; everything survives a power cut afterwards. Nothing may be put any more.
    fn finish(&self) -> Result<()>;
    /// The copy has failed elsewhere: callers that are held, and all that come later, get an error
    /// ([`Kind::Cancelled`](super::Kind)) instead of waiting for what will not come.
    fn abort(&self) {}
}

/// A [`Disk`] as a [`Sink`]: a raw file, a block device, an image that is written at random.
#[derive(Debug)]
pub struct DiskSink {
    disk: Arc<dyn Disk>,
    blank: bool,
}

/// What a raw file can leave out: less than a page would not save space.
const RAW_UNIT: u32 = 4096;

impl DiskSink {
    /// Writes to `disk`. A `blank` one reads zeros wherever nothing was put (a new file), so zeros cost nothing;
    /// on any other they are written.
    pub fn new(disk: Arc<dyn Disk>, blank: bool) -> Self {
        Self { disk, blank }
    }
}

impl Sink for DiskSink {
    fn unit(&self) -> u32 {
        RAW_UNIT
    }

    fn put(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        self.disk.write_at(offset, bytes)
    }

    fn skip(&self, range: Range<u64>) -> Result<()> {
        if self.blank {
            Ok(())
        } else {
            self.disk.write_zeros(range)
        }
    }

    fn checkpoint(&self) -> Result<()> {
        self.disk.flush()
    }

    fn finish(&self) -> Result<()> {
        self.disk.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::MemoryDisk;

    #[test]
    fn zeros_are_written_only_where_the_disk_is_not_blank() {
        for (blank, expected) in [(true, 7), (false, 0)] {
            let disk = Arc::new(MemoryDisk::new("d", vec![7; 8192]));
            let sink = DiskSink::new(disk.clone(), blank);
            sink.put(0, &[1; 4096]).unwrap();
            sink.skip(4096..8192).unwrap();
            sink.checkpoint().unwrap();
            sink.finish().unwrap();
            assert_eq!((disk.contents()[4095], disk.contents()[4096]), (1, expected));
        }
    }
}
