//! Where a copy goes: a disk (any order) or a writer that only goes forward.

use super::{Disk, Result};
use crate::watch::Watch;
use std::{ops::Range, sync::Arc};

/// Takes a whole disk, piece by piece. [`Sink::put`], [`Sink::skip`] and [`Sink::keep`] together cover every byte
/// of it exactly once. They may be called from many threads, but their ranges are handed out to those threads in
/// ascending order, and a bounded number is in flight: so a sink may hold a caller until all lower ranges have
/// arrived, to decide places in the order of the disk and not of arrival. A caller must therefore never wait for a
/// higher range before it has delivered its own, and who cannot deliver one calls [`Sink::abandon`].
pub trait Sink: Send + Sync {
    /// Every range begins and ends on a multiple of this (or at the end of the disk): a cluster, a grain. In bytes; a power
    /// of two, 4 MiB at most.
    fn unit(&self) -> u32;
    /// Writes data. Compresses on the calling thread.
    fn put(&self, offset: u64, bytes: &[u8]) -> Result<()>;
    /// `range` is zeros.
    fn skip(&self, range: Range<u64>) -> Result<()>;
    /// Does [`Sink::skip`] write them, so that it moves as much as [`Sink::put`] and may take as long? Then a range of zeros comes
    /// in pieces.
    fn writes_zeros(&self) -> bool {
        false
    }
    /// `range` is there already from an earlier run that was resumed: the ledger says that a checkpoint had made it
    /// lasting. Only of a sink that was opened to resume; another refuses it.
    fn keep(&self, range: Range<u64>) -> Result<()>;
    /// All that came before survives a power cut: only now may the ledger record it. Covers every call that had
    /// returned before this one began; others may go on meanwhile.
    fn checkpoint(&self) -> Result<()>;
    /// A range will never come, because it could not be read or the job was cancelled: everybody who is held in
    /// [`Sink::put`], [`Sink::skip`] or [`Sink::keep`] returns with `Kind::Cancelled`, and so does every later one
    /// of these calls. What has arrived stays, and a checkpoint can still make it lasting. Calls of its own that fail
    /// do this by themselves.
    fn abandon(&self) {}
    /// Headers, footers, tables; everything survives a power cut afterwards. Nothing may be put any more.
    fn finish(&self) -> Result<()>;
    /// The same, of a sink that has to read all of it again: `watch` is told of that, and may hold it back or stop it.
    fn finish_watched(&self, _watch: &dyn Watch) -> Result<()> {
        self.finish()
    }
    /// The disk that is written, where each byte has its place from the start and zeros need not be written: bytes may
    /// be brought there by [`Disk::share`] and [`Disk::copy_from`] instead of [`Sink::put`].
    fn target(&self) -> Option<&dyn Disk> {
        None
    }
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

    fn writes_zeros(&self) -> bool {
        !self.blank
    }

    fn keep(&self, _range: Range<u64>) -> Result<()> {
        Ok(())
    }

    fn checkpoint(&self) -> Result<()> {
        self.disk.flush()
    }

    fn finish(&self) -> Result<()> {
        self.disk.flush()
    }

    fn target(&self) -> Option<&dyn Disk> {
        self.blank.then_some(&*self.disk)
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
