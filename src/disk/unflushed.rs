//! A disk whose flushes are left out: whoever can do the whole job again has no use for them.

use super::{Disk, Extent, Result};
use std::{fs::File, ops::Range, sync::Arc};

/// The disk below, except that [`Disk::flush`] does nothing. A killed program loses nothing by that, the host's cache has
/// it all; a power cut may lose anything.
#[derive(Debug)]
pub struct Unflushed(Arc<dyn Disk>);

impl Unflushed {
    /// Over `disk`.
    pub fn new(disk: Arc<dyn Disk>) -> Self {
        Self(disk)
    }
}

impl Disk for Unflushed {
    fn label(&self) -> &str {
        self.0.label()
    }
    fn size(&self) -> u64 {
        self.0.size()
    }
    fn sector_size(&self) -> u32 {
        self.0.sector_size()
    }
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        self.0.read_at(offset, buffer)
    }
    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        self.0.write_at(offset, bytes)
    }
    fn extents(&self, range: Range<u64>) -> Result<Vec<Extent>> {
        self.0.extents(range)
    }
    fn write_zeros(&self, range: Range<u64>) -> Result<()> {
        self.0.write_zeros(range)
    }
    fn discard(&self, range: Range<u64>) -> Result<()> {
        self.0.discard(range)
    }
    fn copy_within(&self, from: Range<u64>, to: u64) -> Result<()> {
        self.0.copy_within(from, to)
    }
    fn flush(&self) -> Result<()> {
        Ok(())
    }
    fn set_size(&self, size: u64) -> Result<()> {
        self.0.set_size(size)
    }
    fn preallocate(&self, range: Range<u64>) -> Result<()> {
        self.0.preallocate(range)
    }
    fn share(&self, offset: u64, from: &File, at: u64, length: u64) -> Result<bool> {
        self.0.share(offset, from, at, length)
    }
    fn copy_from(&self, offset: u64, from: &File, at: u64, length: u64) -> Result<bool> {
        self.0.copy_from(offset, from, at, length)
    }
    fn plain(&self, offset: u64) -> Option<(&File, u64, u64)> {
        self.0.plain(offset)
    }
}
