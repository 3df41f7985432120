//! Tables that lie in a container (allocation tables, bitmaps), a bounded number of pages in memory: they are asked
//! for entry by entry, and a large or lying one must not be read whole.

use crate::disk::{Disk, Result, check_range};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

/// In bytes: what the kernel reads anyway.
const PAGE: u64 = 4096;

/// 1 MiB for each image; a chain of images has many of these.
const MOST_PAGES: usize = 256;

/// The pages that were used last.
#[derive(Debug, Default)]
pub(super) struct Pages {
    cached: Mutex<Cached>,
}

#[derive(Debug, Default)]
struct Cached {
    clock: u64,
    /// By number, with the time of the last use.
    pages: BTreeMap<u64, (u64, Arc<Vec<u8>>)>,
}

/// Bytes of a container from `start` on; the last page of one may be short.
#[derive(Clone, Debug)]
pub(super) struct Page {
    pub(super) start: u64,
    pub(super) bytes: Arc<Vec<u8>>,
}

impl Page {
    /// The `length` bytes at `at` of the container; nothing if they are not wholly in this page.
    pub(super) fn get(&self, at: u64, length: usize) -> Option<&[u8]> {
        let within = usize::try_from(at.checked_sub(self.start)?).ok()?;
        self.bytes.get(within..within.checked_add(length)?)
    }

    /// The bytes from `at` to the end of the page.
    pub(super) fn rest(&self, at: u64) -> &[u8] {
        let within = at.saturating_sub(self.start);
        usize::try_from(within)
            .ok()
            .and_then(|within| self.bytes.get(within..))
            .unwrap_or_default()
    }
}

impl Cached {
    fn page(&mut self, container: &dyn Disk, number: u64) -> Result<Arc<Vec<u8>>> {
        self.clock += 1;
        if let Some((used, bytes)) = self.pages.get_mut(&number) {
            *used = self.clock;
            return Ok(bytes.clone());
        }
        let start = number.saturating_mul(PAGE);
        let length = container.size().saturating_sub(start).min(PAGE);
        let mut bytes = vec![0; usize::try_from(length).unwrap_or(0)];
        container.read_at(start, &mut bytes)?;
        let bytes = Arc::new(bytes);
        if self.pages.len() >= MOST_PAGES {
            let oldest = self.pages.iter().min_by_key(|(_, (used, _))| *used);
            if let Some(oldest) = oldest.map(|(number, _)| *number) {
                self.pages.remove(&oldest);
            }
        }
        self.pages.insert(number, (self.clock, bytes.clone()));
        Ok(bytes)
    }
}

impl Pages {
    /// The page of `container` that holds the byte at `at`.
    pub(super) fn at(&self, container: &dyn Disk, at: u64) -> Result<Page> {
        check_range(container.label(), container.size(), at, 1)?;
        let mut cached = self.cached.lock().unwrap_or_else(PoisonError::into_inner);
        let number = at / PAGE;
        Ok(Page {
            start: number * PAGE,
            bytes: cached.page(container, number)?,
        })
    }

    /// The `N` bytes at `at`.
    pub(super) fn array<const N: usize>(&self, container: &dyn Disk, at: u64) -> Result<[u8; N]> {
        let mut array = [0; N];
        let page = self.at(container, at)?;
        match page.get(at, N) {
            Some(bytes) => array.copy_from_slice(bytes),
            // Across two pages, or past the end: the container says which.
            None => container.read_at(at, &mut array)?,
        }
        Ok(array)
    }

    /// Writes `bytes` to `container`, and to the pages that are in memory.
    pub(super) fn write(&self, container: &dyn Disk, at: u64, bytes: &[u8]) -> Result<()> {
        // Held all the while, or a reader could bring in what is being overwritten.
        let mut cached = self.cached.lock().unwrap_or_else(PoisonError::into_inner);
        container.write_at(at, bytes)?;
        let last = at.saturating_add(bytes.len() as u64).div_ceil(PAGE);
        for number in at / PAGE..last {
            cached.pages.remove(&number);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::MemoryDisk;

    #[test]
    fn pages_are_read_written_and_forgotten() {
        let size = (MOST_PAGES + 10) * PAGE as usize + 100;
        let bytes: Vec<u8> = (0..size).map(|at| (at / 7 % 251) as u8).collect();
        let disk = MemoryDisk::new("d", bytes.clone());
        let pages = Pages::default();
        for at in (0..size as u64 - 8).step_by(2044) {
            let expected = &bytes[at as usize..at as usize + 8];
            assert_eq!(pages.array::<8>(&disk, at).unwrap(), expected);
        }
        assert!(pages.cached.lock().unwrap().pages.len() <= MOST_PAGES);
        let end = size as u64;
        assert!(pages.array::<8>(&disk, end - 4).is_err());
        assert!(pages.array::<8>(&disk, u64::MAX).is_err());
        assert_eq!(pages.at(&disk, end - 1).unwrap().rest(end - 100).len(), 100);
        pages.write(&disk, PAGE - 2, &[9; 4]).unwrap();
        assert_eq!(pages.array::<4>(&disk, PAGE - 2).unwrap(), [9; 4]);
        assert_eq!(disk.contents()[PAGE as usize], 9);
    }
}
