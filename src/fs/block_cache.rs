//! The blocks of metadata that were used last, so that a walk through directories reads each of them once.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

/// Bytes kept. Enough for the tables and directories that one edit goes through, little enough for a small machine.
const CAPACITY: usize = 8 << 20;

/// Least recently used goes first. What is written goes to the disk at once: nothing here is ever dirty.
#[derive(Debug, Default)]
pub(super) struct BlockCache {
    blocks: HashMap<u64, (u64, Arc<[u8]>)>,
    /// By last use: turn → block.
    order: BTreeMap<u64, u64>,
    turn: u64,
    bytes: usize,
}

impl BlockCache {
    /// The block, if it is here.
    pub(super) fn get(&mut self, block: u64) -> Option<Arc<[u8]>> {
        self.turn += 1;
        let (turn, bytes) = self.blocks.get_mut(&block)?;
        self.order.remove(turn);
        *turn = self.turn;
        self.order.insert(self.turn, block);
        Some(Arc::clone(bytes))
    }

    /// Keeps the block, and lets go of others if there are too many.
    pub(super) fn put(&mut self, block: u64, bytes: Arc<[u8]>) {
        self.forget(block);
        self.turn += 1;
        self.bytes += bytes.len();
        self.order.insert(self.turn, block);
        self.blocks.insert(block, (self.turn, bytes));
        while self.bytes > CAPACITY {
            let Some((_, oldest)) = self.order.pop_first() else {
                return;
            };
            if let Some((_, bytes)) = self.blocks.remove(&oldest) {
                self.bytes -= bytes.len();
            }
        }
    }

    /// Somebody else writes there.
    pub(super) fn forget(&mut self, block: u64) {
        if let Some((turn, bytes)) = self.blocks.remove(&block) {
            self.order.remove(&turn);
            self.bytes -= bytes.len();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_recently_used_goes_first() {
        let mut cache = BlockCache::default();
        let block: Arc<[u8]> = vec![0; CAPACITY / 4].into();
        for number in 0..4 {
            cache.put(number, Arc::clone(&block));
        }
        assert!(cache.get(0).is_some());
        cache.put(9, block);
        let here: Vec<bool> = [0, 1, 2, 3, 9].iter().map(|b| cache.get(*b).is_some()).collect();
        assert_eq!(here, [true, false, true, true, true]);
        cache.forget(9);
        assert!(cache.get(9).is_none() && cache.bytes == CAPACITY / 4 * 3);
    }
}
