//! A disk that notes what is written through it: the evidence that the judges of an edit look at.

use super::{Disk, Extent, Result};
use std::{
    collections::BTreeMap,
    fs::File,
    ops::Range,
    sync::{Arc, Mutex, PoisonError},
};

/// Passes everything on to the disk below and remembers every range that was written, zeroed or discarded.
#[derive(Debug)]
pub struct Recorder {
    below: Arc<dyn Disk>,
    /// Disjoint, not touching: start → end.
    written: Mutex<BTreeMap<u64, u64>>,
}

impl Recorder {
    /// Nothing noted yet.
    pub fn new(below: Arc<dyn Disk>) -> Self {
        Self {
            below,
            written: Mutex::new(BTreeMap::new()),
        }
    }

    /// All that was written so far: disjoint ranges in ascending order.
    pub fn written(&self) -> Vec<Range<u64>> {
        let written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        written.iter().map(|(start, end)| *start..*end).collect()
    }

    /// Begins anew: what was written so far is not of interest.
    pub fn forget(&self) {
        self.written
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
    }

    fn note(&self, mut range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some((&start, &end)) = written.range(..=range.end).next_back() {
            if end < range.start {
                break;
            }
            range = range.start.min(start)..range.end.max(end);
            written.remove(&start);
        }
        written.insert(range.start, range.end);
    }
}

impl Disk for Recorder {
    fn label(&self) -> &str {
        self.below.label()
    }

    fn size(&self) -> u64 {
        self.below.size()
    }

    fn sector_size(&self) -> u32 {
        self.below.sector_size()
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        self.below.read_at(offset, buffer)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        self.below.write_at(offset, bytes)?;
        self.note(offset..offset.saturating_add(bytes.len() as u64));
        Ok(())
    }

    fn extents(&self, range: Range<u64>) -> Result<Vec<Extent>> {
        self.below.extents(range)
    }

    fn write_zeros(&self, range: Range<u64>) -> Result<()> {
        self.below.write_zeros(range.clone())?;
        self.note(range);
        Ok(())
    }

    fn discard(&self, range: Range<u64>) -> Result<()> {
        self.below.discard(range.clone())?;
        self.note(range);
        Ok(())
    }

    fn copy_within(&self, from: Range<u64>, to: u64) -> Result<()> {
        let length = from.end.saturating_sub(from.start);
        self.below.copy_within(from, to)?;
        self.note(to..to.saturating_add(length));
        Ok(())
    }

    fn flush(&self) -> Result<()> {
        self.below.flush()
    }

    fn plain(&self, offset: u64) -> Option<(&File, u64, u64)> {
        self.below.plain(offset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::MemoryDisk;

    #[test]
    fn touching_and_overlapping_writes_become_one_range() {
        let recorder = Recorder::new(Arc::new(MemoryDisk::new("m", vec![0; 100])));
        recorder.write_at(50, &[1; 10]).unwrap();
        recorder.write_at(10, &[1; 5]).unwrap();
        recorder.write_at(15, &[1; 5]).unwrap();
        recorder.write_zeros(55..70).unwrap();
        recorder.copy_within(0..4, 90).unwrap();
        assert_eq!(recorder.written(), [10..20, 50..70, 90..94]);
        recorder.write_at(0, &[1; 95]).unwrap();
        assert_eq!(recorder.written().first(), Some(&(0..95)));
    }
}
