//! Gives out the clusters of a new image in ascending order, and counts them. Compressed clusters are packed byte by
//! byte, as qemu packs them; a cluster of the file is then counted once for each piece that touches it.

use super::{
    l2_table,
    layout::Layout,
    refcount::{count_at, put_count},
};
use crate::disk::{Disk, Result};

/// The container grows in such steps (sparse), since every growth is a system call.
const GROWTH: u64 = 64 << 20;

/// Of one image. Only the refcount block that is being filled is in memory: what it does not count is final.
#[derive(Debug)]
pub(super) struct Allocator {
    cluster: u64,
    per_block: u64,
    order: u32,
    /// The cluster of the file that is free.
    free: u64,
    /// Number of the block in memory, and its bytes.
    block: u64,
    counts: Vec<u8>,
    packed: Packed,
    /// Going over what an earlier run allocated: its blocks are in the file already, and may count more than this run
    /// knows by now.
    replaying: bool,
}

/// Where the last compressed piece ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Packed {
    /// The next one begins a new cluster.
    Nowhere,
    /// At this byte of the file, of which the cluster before it is still in the block in memory.
    At(u64),
    /// It is of an earlier run, and begins at `host`; by its entry it has `length` bytes or up to 511 fewer.
    Within { host: u64, length: u64 },
}

/// Compressed pieces have a length in sectors of this size.
const SECTOR: u64 = 512;

impl Allocator {
    /// Has counted what has a fixed place.
    pub(super) fn new(layout: &Layout, replaying: bool) -> Self {
        let cluster = layout.header.cluster_size();
        let per_block = layout.clusters_per_block();
        let block = (layout.first_free - 1) / per_block;
        let order = layout.header.refcount_order;
        let mut counts = vec![0; usize::try_from(cluster).unwrap_or(0)];
        for index in 0..layout.first_free - block * per_block {
            put_count(
                &mut counts,
                usize::try_from(index).unwrap_or(usize::MAX),
                order,
                1,
            );
        }
        Self {
            cluster,
            per_block,
            order,
            free: layout.first_free,
            block,
            counts,
            packed: Packed::Nowhere,
            replaying,
        }
    }

    /// Clusters of the file up to the last one in use.
    pub(super) fn end(&self) -> u64 {
        self.free
    }

    /// From now on this run's blocks are written.
    pub(super) fn stop_replaying(&mut self) {
        self.replaying = false;
    }

    fn index(&self, cluster: u64) -> usize {
        usize::try_from(cluster % self.per_block).unwrap_or(usize::MAX)
    }

    /// Bytes of a new cluster of the file begin here.
    pub(super) fn allocate(&mut self, container: &dyn Disk, layout: &Layout) -> Result<u64> {
        let block = self.free / self.per_block;
        if block != self.block {
            if !self.replaying {
                self.write_block(container, layout)?;
            }
            self.counts.fill(0);
            self.block = block;
            // A piece that went on here would have to be counted in the block that is done.
            self.packed = Packed::Nowhere;
            if layout.counts_itself(block) {
                put_count(&mut self.counts, 0, self.order, 1);
                self.free += 1;
            }
        }
        let cluster = self.free;
        let end = (cluster + 1) * self.cluster;
        if end > container.size() {
            grow_to(container, end.next_multiple_of(GROWTH))?;
        }
        let index = self.index(cluster);
        put_count(&mut self.counts, index, self.order, 1);
        self.free = cluster + 1;
        Ok(cluster * self.cluster)
    }

    /// The place of a compressed piece of `length` bytes, which is less than a cluster. `measure` gives the length of the
    /// piece of an earlier run that is at a place, in at most so many bytes.
    pub(super) fn pack(
        &mut self,
        container: &dyn Disk,
        layout: &Layout,
        length: u64,
        measure: impl FnOnce(u64, u64) -> Result<u64>,
    ) -> Result<u64> {
        if let Packed::Within { host, length } = self.packed {
            self.packed = Packed::At(host + measure(host, length)?);
        }
        if let Packed::At(at) = self.packed
            && let Some(room) = self.room(at)
        {
            let crosses = length > room;
            // Only where the next cluster follows at once.
            let follows = self.free == at / self.cluster + 1 && self.free / self.per_block == self.block;
            if (!crosses || follows) && self.count_again(at / self.cluster) {
                if crosses {
                    self.allocate(container, layout)?;
                }
                self.packed = Packed::At(at + length);
                return Ok(at);
            }
        }
        let host = self.allocate(container, layout)?;
        self.packed = Packed::At(host + length);
        Ok(host)
    }

    /// Allocates what an earlier run gave to a compressed piece at `host`, which has up to `length` bytes by its entry.
    /// `false`: it could not have given that.
    pub(super) fn repack(
        &mut self,
        container: &dyn Disk,
        layout: &Layout,
        host: u64,
        length: u64,
    ) -> Result<bool> {
        if host.is_multiple_of(self.cluster) {
            let is_the_next = self.allocate(container, layout)? == host;
            self.packed = Packed::Within { host, length };
            return Ok(is_the_next);
        }
        let follows = match self.packed {
            Packed::Nowhere => false,
            Packed::At(end) => host == end,
            Packed::Within { host: last, length } => {
                let most = last.saturating_add(length);
                host <= most && host > most.saturating_sub(SECTOR)
            }
        };
        let last = host.saturating_add(length).saturating_sub(1) / self.cluster;
        if !follows || !self.count_again(host / self.cluster) {
            return Ok(false);
        }
        if last != host / self.cluster && self.allocate(container, layout)? != last * self.cluster {
            return Ok(false);
        }
        self.packed = Packed::Within { host, length };
        Ok(true)
    }

    /// Bytes from `at` to the end of its cluster, if that is begun and counted here.
    fn room(&self, at: u64) -> Option<u64> {
        let room = (self.cluster - at % self.cluster) % self.cluster;
        (room > 0 && at / self.cluster / self.per_block == self.block).then_some(room)
    }

    /// One piece more touches `cluster`; `false` if its count is as large as it can be.
    fn count_again(&mut self, cluster: u64) -> bool {
        let index = self.index(cluster);
        let count = count_at(&self.counts, index, self.order);
        count != u64::MAX && put_count(&mut self.counts, index, self.order, count + 1)
    }

    /// Writes the counts up to the last cluster in use.
    pub(super) fn write_block(&self, container: &dyn Disk, layout: &Layout) -> Result<()> {
        let place = layout.refcount_block(self.block);
        grow_to(container, (place + 1) * self.cluster)?;
        container.write_at(place * self.cluster, &self.counts)?;
        let entry = (place * self.cluster).to_be_bytes();
        container.write_at(layout.header.refcount_table_offset + self.block * 8, &entry)
    }

    /// Writes the blocks of what has a fixed place, up to the one in memory: of a new image.
    pub(super) fn write_fixed_blocks(&self, container: &dyn Disk, layout: &Layout) -> Result<()> {
        let mut full = vec![0; self.counts.len()];
        for index in 0..usize::try_from(self.per_block).unwrap_or(0) {
            put_count(&mut full, index, self.order, 1);
        }
        for index in 0..self.block {
            container.write_at(layout.refcount_block(index) * self.cluster, &full)?;
        }
        Ok(())
    }

    /// Writes all of the refcount table, and the block in memory.
    pub(super) fn write_table(&self, container: &dyn Disk, layout: &Layout) -> Result<()> {
        let entries = u64::from(layout.header.refcount_table_clusters) * self.cluster / 8;
        let mut table = vec![0; usize::try_from(entries).unwrap_or(0)];
        for (index, entry) in (0..=self.block).zip(&mut table) {
            *entry = layout.refcount_block(index) * self.cluster;
        }
        container.write_at(layout.header.refcount_table_offset, &l2_table::bytes(&table))?;
        self.write_block(container, layout)
    }
}

/// A container that is too short grows.
pub(super) fn grow_to(container: &dyn Disk, end: u64) -> Result<()> {
    if end > container.size() {
        container.set_size(end)?;
    }
    Ok(())
}
