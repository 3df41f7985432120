//! Grain tables and pieces of grain directories in memory, shared by all extents of a disk.

use crate::disk::Result;
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

/// Bytes of tables that are kept: enough for 32 GiB of grains of the usual size, and within what the program may use.
const MOST_BYTES: usize = 4 << 20;

/// The place of a table: number of its extent, byte in its file.
type Place = (usize, u64);

/// Tables by their place, with the time of their last use.
#[derive(Debug, Default)]
pub(super) struct TableCache {
    cached: Mutex<Cached>,
}

#[derive(Debug, Default)]
struct Cached {
    clock: u64,
    bytes: usize,
    tables: HashMap<Place, (u64, Arc<Vec<u64>>)>,
}

impl TableCache {
    /// The table at `place`, which `load` reads if it is not here. Nobody else reads or forgets one meanwhile, so that
    /// what is here is never older than the last change.
    pub(super) fn get(&self, place: Place, load: impl FnOnce() -> Result<Vec<u64>>) -> Result<Arc<Vec<u64>>> {
        let mut cached = self.cached.lock().unwrap_or_else(PoisonError::into_inner);
        cached.clock += 1;
        let now = cached.clock;
        if let Some((used, table)) = cached.tables.get_mut(&place) {
            *used = now;
            return Ok(table.clone());
        }
        let table = Arc::new(load()?);
        cached.bytes += table.len() * 8;
        if cached.bytes > MOST_BYTES {
            cached.forget_half();
            cached.bytes += table.len() * 8;
        }
        cached.tables.insert(place, (now, table.clone()));
        Ok(table)
    }

    /// Forgets the table at `place`, after its bytes in the file have been changed.
    pub(super) fn forget(&self, place: Place) {
        let mut cached = self.cached.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, old)) = cached.tables.remove(&place) {
            cached.bytes -= old.len() * 8;
        }
    }
}

impl Cached {
    /// Leaves the half that was used last: seldom, so that looking for it costs nothing.
    fn forget_half(&mut self) {
        let mut times: Vec<u64> = self.tables.values().map(|(used, _)| *used).collect();
        times.sort_unstable();
        let middle = times.get(times.len() / 2).copied().unwrap_or(0);
        self.tables.retain(|_, (used, _)| *used >= middle);
        self.bytes = self.tables.values().map(|(_, table)| table.len() * 8).sum();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_used_for_long_is_forgotten() {
        let cache = TableCache::default();
        let missed = std::cell::Cell::new(0);
        let get = |place| {
            cache.get(place, || {
                missed.set(missed.get() + 1);
                Ok(vec![place.1; 4096])
            })
        };
        for index in 1..200 {
            assert_eq!(get((0, index)).unwrap()[5], index);
            get((0, 1)).unwrap();
            assert!(cache.cached.lock().unwrap().bytes <= MOST_BYTES);
        }
        assert_eq!(missed.get(), 199, "the first was used all the time");
        get((0, 2)).unwrap();
        assert_eq!(missed.get(), 200);
        get((0, 199)).unwrap();
        assert_eq!(missed.get(), 200);
        cache.forget((0, 199));
        get((0, 199)).unwrap();
        get((1, 199)).unwrap();
        assert_eq!(missed.get(), 202);
    }
}
