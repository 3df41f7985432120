//! Reference counts: "Host cluster management" of `docs/interop/qcow2.txt`.

use super::{
    flaw::Flaw,
    header::Header,
    l2_table::{self, OFFSET},
};
use crate::disk::{Disk, Error, Result};
use std::sync::Arc;

/// The count at `index` of a refcount block whose counts are 2^`order` bits wide.
pub(super) fn count_at(block: &[u8], index: usize, order: u32) -> u64 {
    if order < 3 {
        let width = 1_usize << order;
        let byte = block.get(index * width / 8).copied().unwrap_or(0);
        return u64::from(byte >> (index * width % 8)) & ((1 << width) - 1);
    }
    let width = 1 << (order - 3);
    let bytes = block.get(index * width..(index + 1) * width).unwrap_or_default();
    bytes.iter().fold(0, |count, byte| count << 8 | u64::from(*byte))
}

/// Sets the count at `index`; `false` if it does not fit.
pub(super) fn put_count(block: &mut [u8], index: usize, order: u32, count: u64) -> bool {
    let bits = 1_u32 << order;
    if bits < 64 && count >> bits != 0 {
        return false;
    }
    if order < 3 {
        let width = 1_usize << order;
        let shift = index * width % 8;
        let Some(byte) = block.get_mut(index * width / 8) else {
            return false;
        };
        let mask = u8::try_from((1_u16 << width) - 1).unwrap_or(u8::MAX) << shift;
        *byte = *byte & !mask | u8::try_from(count).unwrap_or(0) << shift;
        return true;
    }
    let width = 1 << (order - 3);
    let Some(bytes) = block.get_mut(index * width..(index + 1) * width) else {
        return false;
    };
    let count = count.to_be_bytes();
    bytes.copy_from_slice(count.get(8 - width..).unwrap_or_default());
    true
}

/// The reference counts of an image that is open for writing. Clusters are taken at the end of the file; every
/// change is written at once.
#[derive(Debug)]
pub(super) struct Refcounts {
    container: Arc<dyn Disk>,
    cluster: u64,
    order: u32,
    table_offset: u64,
    /// Places of the blocks; 0 where there is none.
    table: Vec<u64>,
    /// The first cluster after the end of the file.
    free: u64,
    /// Clusters there that were passed over, since they are counted.
    passed_over: u64,
}

/// So many clusters behind its end a file may have counted: 64 GiB of them, cut off, at the usual size. Each costs a look.
const MOST_PASSED_OVER: u64 = 1 << 20;

impl Refcounts {
    pub(super) fn open(container: &Arc<dyn Disk>, header: &Header) -> Result<Self> {
        let cluster = header.cluster_size();
        Ok(Self {
            container: container.clone(),
            cluster,
            order: header.refcount_order,
            table_offset: header.refcount_table_offset,
            table: read_table(container.as_ref(), header)?,
            free: container.size().div_ceil(cluster),
            passed_over: 0,
        })
    }

    fn flaw(&self, flaw: Flaw, offset: u64) -> Error {
        flaw.of(self.container.label()).at(offset)
    }

    fn per_block(&self) -> u64 {
        (self.cluster * 8) >> self.order
    }

    /// The place of the block that counts `cluster`.
    fn block_of(&self, cluster: u64) -> Option<u64> {
        let index = usize::try_from(cluster / self.per_block()).ok()?;
        self.table
            .get(index)
            .map(|entry| entry & !511)
            .filter(|host| *host != 0)
    }

    /// Reads the bytes around the count of `cluster` and gives it to `each` with its index; writes them back if that
    /// says so. `None` if there is no block for it.
    fn with_count<T>(
        &self,
        cluster: u64,
        each: impl FnOnce(&mut [u8], usize) -> (T, bool),
    ) -> Result<Option<T>> {
        let Some(block) = self.block_of(cluster) else {
            return Ok(None);
        };
        let index = cluster % self.per_block();
        // The eight bytes that hold it: a divisor of the block, whatever the width.
        let per_word = 64 >> self.order;
        let at = block.saturating_add(index / per_word * 8);
        let mut word = [0; 8];
        self.container.read_at(at, &mut word)?;
        let (answer, changed) = each(&mut word, usize::try_from(index % per_word).unwrap_or(0));
        if changed {
            self.container.write_at(at, &word)?;
        }
        Ok(Some(answer))
    }

    /// Counts `cluster` exactly so often.
    pub(super) fn set(&self, cluster: u64, count: u64) -> Result<()> {
        let fits = self.with_count(cluster, |word, index| {
            let fits = put_count(word, index, self.order, count);
            (fits, fits)
        })?;
        if fits == Some(true) {
            Ok(())
        } else {
            Err(self.flaw(
                Flaw::RefcountOfUsed(cluster * self.cluster),
                cluster * self.cluster,
            ))
        }
    }

    /// How often `cluster` is counted.
    fn count(&self, cluster: u64) -> Result<u64> {
        let count = self.with_count(cluster, |word, index| (count_at(word, index, self.order), false))?;
        Ok(count.unwrap_or(0))
    }

    /// Is anything counted after the end of the file, as if something led there?
    pub(super) fn counts_past_the_end(&self) -> Result<bool> {
        let index = usize::try_from(self.free / self.per_block()).unwrap_or(usize::MAX);
        let later = self.table.get(index.saturating_add(1)..).unwrap_or_default();
        if later.iter().any(|entry| entry & !511 != 0) {
            return Ok(true);
        }
        let Some(host) = self.block_of(self.free) else {
            return Ok(false);
        };
        let mut block = vec![0; usize::try_from(self.cluster).unwrap_or(0)];
        self.container.read_at(host, &mut block)?;
        let counts = self.free % self.per_block()..self.per_block();
        Ok(counts
            .filter_map(|index| usize::try_from(index).ok())
            .any(|index| count_at(&block, index, self.order) != 0))
    }

    /// Passes over clusters after the end of the file that are counted: something may refer to them.
    fn pass_over_counted(&mut self) -> Result<()> {
        while self.count(self.free)? != 0 {
            self.free += 1;
            self.passed_over += 1;
            if self.passed_over > MOST_PASSED_OVER {
                let flaw = Flaw::CannotGrow(
                    "was cut short: it counts clusters far behind its end. `qemu-img check -r all` on a copy mends what it can",
                );
                return Err(self.flaw(flaw, self.free.saturating_mul(self.cluster)));
            }
        }
        Ok(())
    }

    /// One reference less to the cluster at `host`. Gives how many are left.
    pub(super) fn release(&self, host: u64) -> Result<u64> {
        let cluster = host / self.cluster;
        let left = self.with_count(cluster, |word, index| {
            let count = count_at(word, index, self.order).checked_sub(1);
            let changed = count.is_some_and(|count| put_count(word, index, self.order, count));
            (count, changed)
        })?;
        left.flatten()
            .ok_or_else(|| self.flaw(Flaw::RefcountOfUsed(host), host))
    }

    /// A new cluster at the end of the file, of which nothing is written yet, counted once. Its place in bytes.
    pub(super) fn allocate(&mut self) -> Result<u64> {
        loop {
            self.pass_over_counted()?;
            let cluster = self.free;
            let index = usize::try_from(cluster / self.per_block()).unwrap_or(usize::MAX);
            if index >= self.table.len() {
                self.grow_table(index)?;
                continue;
            }
            self.take(1)?;
            if self.block_of(cluster).is_some() {
                self.set(cluster, 1)?;
                return Ok(cluster * self.cluster);
            }
            // The block that counts this range becomes the first cluster of it.
            let mut block = vec![0; usize::try_from(self.cluster).unwrap_or(0)];
            let own = usize::try_from(cluster % self.per_block()).unwrap_or(0);
            put_count(&mut block, own, self.order, 1);
            self.container.write_at(cluster * self.cluster, &block)?;
            let host = cluster * self.cluster;
            self.container
                .write_at(self.table_offset + index as u64 * 8, &host.to_be_bytes())?;
            if let Some(entry) = self.table.get_mut(index) {
                *entry = host;
            }
        }
    }

    fn take(&mut self, clusters: u64) -> Result<()> {
        let end = self.free + clusters;
        if end * self.cluster > OFFSET {
            return Err(self.flaw(
                Flaw::CannotGrow("has no place left that an entry could name"),
                end * self.cluster,
            ));
        }
        self.container.set_size(end * self.cluster)?;
        self.free = end;
        Ok(())
    }

    /// A larger table at the end of the file, with the blocks that count it and them, and with an entry `index`. The old
    /// table reaches no cluster there, so none of them is counted.
    fn grow_table(&mut self, index: usize) -> Result<()> {
        let entries_per_cluster = self.cluster / 8;
        let first = self.free;
        let first_block = first / self.per_block();
        // Half as much again, so that this happens seldom.
        let entries = (index as u64 + 2) * 3 / 2;
        let table_clusters = entries.div_ceil(entries_per_cluster) + 1;
        let mut blocks = 1;
        while (first + table_clusters + blocks).div_ceil(self.per_block()) - first_block > blocks {
            blocks += 1;
        }
        let end = first + table_clusters + blocks;
        let mut table = self.table.clone();
        table.resize(
            usize::try_from(table_clusters * entries_per_cluster).unwrap_or(0),
            0,
        );
        if table.len() as u64 * 8 > super::header::LARGEST_REFCOUNT_TABLE {
            return Err(self.flaw(
                Flaw::CannotGrow(
                    "has no place left in its refcount table: `qemu-img convert -O qcow2` makes a new one",
                ),
                self.table_offset,
            ));
        }
        self.take(table_clusters + blocks)?;
        for number in 0..blocks {
            let mut block = vec![0; usize::try_from(self.cluster).unwrap_or(0)];
            let start = (first_block + number) * self.per_block();
            for cluster in first.max(start)..end.min(start + self.per_block()) {
                put_count(
                    &mut block,
                    usize::try_from(cluster - start).unwrap_or(0),
                    self.order,
                    1,
                );
            }
            let host = (first + table_clusters + number) * self.cluster;
            self.container.write_at(host, &block)?;
            let slot = usize::try_from(first_block + number)
                .ok()
                .and_then(|slot| table.get_mut(slot));
            if let Some(slot) = slot {
                *slot = host;
            }
        }
        let old = self.table_offset..self.table_offset + self.table.len() as u64 * 8;
        self.container
            .write_at(first * self.cluster, &l2_table::bytes(&table))?;
        self.container.flush()?;
        // Place and size of the table lie side by side in the header: bytes 48 to 60.
        let mut place = [0; 12];
        let clusters = u32::try_from(table_clusters).unwrap_or(u32::MAX);
        crate::disk::field::put_u64_be(&mut place, 0, first * self.cluster)
            .and_then(|()| crate::disk::field::put_u32_be(&mut place, 8, clusters))
            .map_err(|error| self.flaw(error.into(), 48))?;
        self.container.write_at(48, &place)?;
        self.table = table;
        self.table_offset = first * self.cluster;
        for host in old.step_by(usize::try_from(self.cluster).unwrap_or(usize::MAX)) {
            self.release(host)?;
        }
        Ok(())
    }
}

/// Reads the refcount table: places of blocks, checked to lie in the file.
pub(super) fn read_table(container: &dyn Disk, header: &Header) -> Result<Vec<u64>> {
    let length = u64::from(header.refcount_table_clusters) * header.cluster_size();
    let past_the_end = |what, offset| {
        Flaw::PastTheEnd {
            what,
            offset,
            size: container.size(),
        }
        .of(container.label())
        .at(offset)
    };
    if header.refcount_table_offset.saturating_add(length) > container.size() {
        return Err(past_the_end("refcount table", header.refcount_table_offset));
    }
    // Within LARGEST_REFCOUNT_TABLE, and the file has as many bytes.
    let mut bytes = vec![0; usize::try_from(length).unwrap_or(0)];
    container.read_at(header.refcount_table_offset, &mut bytes)?;
    let table = l2_table::words(&bytes);
    for entry in &table {
        let host = entry & !511;
        if !host.is_multiple_of(header.cluster_size()) {
            return Err(Flaw::Unaligned("refcount block", host)
                .of(container.label())
                .at(host));
        }
        if host != 0 && host.saturating_add(header.cluster_size()) > container.size() {
            return Err(past_the_end("refcount block", host));
        }
    }
    Ok(table)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_of_every_width_are_stored_as_the_specification_says() {
        for order in 0..=6 {
            let mut block = vec![0; 64];
            let most = if order == 6 {
                u64::MAX
            } else {
                (1 << (1_u64 << order)) - 1
            };
            let count = 512 >> order;
            for index in 0..count {
                assert!(put_count(&mut block, index, order, most & (index as u64 + 1)));
            }
            for index in 0..count {
                assert_eq!(
                    count_at(&block, index, order),
                    most & (index as u64 + 1),
                    "order {order}"
                );
            }
            assert!(order == 6 || !put_count(&mut block, 0, order, most + 1));
            assert!(!put_count(&mut block, count, order, 1));
        }
        // "The least significant bit of the byte comes first", wide ones are big-endian.
        assert_eq!(count_at(&[0b0000_0010], 1, 0), 1);
        assert_eq!(count_at(&[1, 2, 3, 4], 1, 4), 0x0304);
    }
}
