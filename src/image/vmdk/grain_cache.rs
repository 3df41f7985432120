//! Unpacked grains in memory: compressed images are read in small steps by whoever looks into a filesystem.

use std::sync::{Arc, Mutex, PoisonError};

/// Bytes that are kept, but at least one grain.
const MOST_BYTES: usize = 1 << 20;

/// Grains by the place of their compressed bytes; the one that was used last is at the end.
#[derive(Debug, Default)]
pub(super) struct GrainCache {
    grains: Mutex<Vec<(u64, Arc<Vec<u8>>)>>,
}

impl GrainCache {
    pub(super) fn get(&self, host: u64) -> Option<Arc<Vec<u8>>> {
        let mut grains = self.grains.lock().unwrap_or_else(PoisonError::into_inner);
        let at = grains.iter().position(|(place, _)| *place == host)?;
        let found = grains.remove(at);
        let bytes = found.1.clone();
        grains.push(found);
        Some(bytes)
    }

    pub(super) fn put(&self, host: u64, grain: &Arc<Vec<u8>>) {
        let mut grains = self.grains.lock().unwrap_or_else(PoisonError::into_inner);
        let most = (MOST_BYTES / grain.len().max(1)).max(1);
        grains.retain(|(place, _)| *place != host);
        while grains.len() >= most {
            grains.remove(0);
        }
        grains.push((host, grain.clone()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_are_kept_and_those_that_were_used_last() {
        let cache = GrainCache::default();
        let grain = Arc::new(vec![0; 65536]);
        for host in 0..16 {
            cache.put(host, &grain);
        }
        assert!(cache.get(0).is_some());
        cache.put(16, &grain);
        cache.put(16, &grain);
        assert!(cache.get(0).is_some() && cache.get(1).is_none() && cache.get(2).is_some());
        cache.put(99, &Arc::new(vec![0; 4 << 20]));
        assert!(cache.get(99).is_some() && cache.get(0).is_none());
    }
}
