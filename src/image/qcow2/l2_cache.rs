//! Second-level tables in memory, those used last.

use super::{disk::Qcow2, flaw::Flaw, l2_table};
use crate::disk::Result;
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

/// Tables are kept up to this many bytes, but never less than a few: enough for 32 GiB at the usual cluster size, and
/// within what the whole program may use.
const CACHED_BYTES: u64 = 4 << 20;
const FEWEST: u64 = 4;
/// More would make the search for the oldest one cost something.
const MOST: u64 = 256;

/// By their place in the file, with the time of their last use.
#[derive(Debug, Default)]
pub(super) struct L2Cache(Mutex<Tables>);

#[derive(Debug, Default)]
struct Tables {
    clock: u64,
    cached: BTreeMap<u64, (u64, Arc<Vec<u64>>)>,
}

impl Qcow2 {
    /// The second-level table at `host`.
    pub(super) fn table(&self, host: u64) -> Result<Arc<Vec<u64>>> {
        let mut tables = self.tables.0.lock().unwrap_or_else(PoisonError::into_inner);
        tables.clock += 1;
        let now = tables.clock;
        if let Some((used, table)) = tables.cached.get_mut(&host) {
            *used = now;
            return Ok(table.clone());
        }
        let size = self.header.cluster_size();
        if !host.is_multiple_of(size) {
            return Err(self.flaw(Flaw::Unaligned("second-level table", host), host));
        }
        self.must_exist("second-level table", host, size)?;
        let mut bytes = vec![0; usize::try_from(size).unwrap_or(0)];
        self.container.read_at(host, &mut bytes)?;
        let table = Arc::new(l2_table::words(&bytes));
        let most = (CACHED_BYTES / size).clamp(FEWEST, MOST);
        if tables.cached.len() as u64 >= most {
            let oldest = tables
                .cached
                .iter()
                .min_by_key(|(_, (used, _))| *used)
                .map(|(host, _)| *host);
            if let Some(oldest) = oldest {
                tables.cached.remove(&oldest);
            }
        }
        tables.cached.insert(host, (now, table.clone()));
        Ok(table)
    }

    /// Changes the cached copy of the table at `host`, after its bytes in the file have been changed.
    pub(super) fn update_cached_table(&self, host: u64, change: impl FnOnce(&mut Vec<u64>)) {
        let mut tables = self.tables.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, table)) = tables.cached.get_mut(&host) {
            change(Arc::make_mut(table));
        }
    }
}
