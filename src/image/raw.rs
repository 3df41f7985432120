//! No container at all: the file is the disk.

use super::{Check, Format, Image, Info};
use crate::disk::{Disk, Extent, Result};
use std::{fs::File, ops::Range, sync::Arc};

/// A raw image.
#[derive(Debug)]
pub struct Raw(Arc<dyn Disk>);

impl Raw {
    /// The disk whose bytes are those of `container`.
    pub fn new(container: Arc<dyn Disk>) -> Self {
        Self(container)
    }
}

impl Disk for Raw {
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
        self.0.flush()
    }

    fn set_size(&self, size: u64) -> Result<()> {
        self.0.set_size(size)
    }

    fn plain(&self, offset: u64) -> Option<(&File, u64, u64)> {
        self.0.plain(offset)
    }
}

impl Image for Raw {
    fn format(&self) -> Format {
        Format::Raw
    }

    fn info(&self) -> Result<Info> {
        Ok(Info::default())
    }

    fn check(&self) -> Result<Check> {
        Ok(Check::default())
    }
}
