//! The contents of files: chains of clusters, read and written.

use super::{FatFileSystem, allocation_table::Link, directory_entry::DirectoryEntry};
use crate::{
    disk::{Error, Kind, Result},
    fs::Node,
};
use std::{io::Read, ops::Range};

/// Where the last reading stopped, so that reading a long file in pieces does not walk its chain anew each time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Position {
    first: u32,
    index: u64,
    cluster: u32,
}

impl FatFileSystem {
    /// The bytes of `cluster`.
    pub(super) fn cluster_range(&self, cluster: u32) -> Result<Range<u64>> {
        self.boot
            .cluster(cluster)
            .ok_or_else(|| self.damaged(None, format!("cluster {cluster} is in use but does not exist")))
    }

    /// The cluster after `cluster`, or `None` at the end.
    pub(super) fn next(&self, cluster: u32) -> Result<Option<u32>> {
        match self.table.link(cluster)? {
            Link::Next(next) => Ok(Some(next)),
            Link::End => Ok(None),
            other => Err(self.damaged(
                self.boot.cluster(cluster).map(|range| range.start),
                format!(
                    "a chain of clusters leads from cluster {cluster} to {other:?} instead of to its end"
                ),
            )),
        }
    }

    /// Reads from the contents that `entry` names.
    pub(super) fn read_file(&self, entry: &DirectoryEntry, offset: u64, buffer: &mut [u8]) -> Result<usize> {
        let size = u64::from(entry.size);
        let left = size.saturating_sub(offset);
        let count = usize::try_from(left).map_or(buffer.len(), |left| buffer.len().min(left));
        let mut rest = buffer.get_mut(..count).unwrap_or_default();
        if rest.is_empty() {
            return Ok(0);
        }
        let cluster_size = self.boot.cluster_size;
        let wanted = offset / cluster_size;
        let mut within = offset % cluster_size;
        let (mut index, mut cluster) = match self.position.get() {
            Some(position) if position.first == entry.cluster && position.index <= wanted => {
                (position.index, position.cluster)
            }
            _ => (0, entry.cluster),
        };
        loop {
            // `wanted` and what is read are bounded by the size (below 4 GiB): a loop in the chain ends.
            if index >= wanted {
                let range = self.cluster_range(cluster)?;
                let length = usize::try_from(cluster_size - within)
                    .unwrap_or(usize::MAX)
                    .min(rest.len());
                let (part, after) = rest.split_at_mut(length);
                self.disk.read_at(range.start + within, part)?;
                rest = after;
                within = 0;
                self.position.set(Some(Position {
                    first: entry.cluster,
                    index,
                    cluster,
                }));
            }
            if rest.is_empty() {
                return Ok(count);
            }
            cluster = self.next(cluster)?.ok_or_else(|| {
                self.damaged(
                    None,
                    format!("a file of {size} bytes has only {} clusters", index + 1),
                )
            })?;
            index += 1;
        }
    }

    /// All clusters of a chain; fails on a loop.
    pub(super) fn chain(&self, first: u32) -> Result<Vec<u32>> {
        let mut chain = Vec::new();
        let mut next = (first != 0).then_some(first);
        while let Some(cluster) = next {
            if chain.len() >= self.boot.clusters as usize {
                return Err(self.damaged(None, format!("the chain at cluster {first} is a loop")));
            }
            self.cluster_range(cluster)?;
            chain.push(cluster);
            next = self.next(cluster)?;
        }
        Ok(chain)
    }

    /// Takes a free cluster, `hint` if it is free, and marks it as the end of a chain.
    pub(super) fn allocate(&mut self, hint: u32) -> Result<u32> {
        let found = self.table.find_free(hint)?;
        let cluster = found.ok_or_else(|| self.error(Kind::Full, None, "no cluster is free"))?;
        self.table.set(cluster, Link::End)?;
        self.free_clusters = self.free_clusters.saturating_sub(1);
        self.hint = cluster.saturating_add(1);
        Ok(cluster)
    }

    /// Frees the clusters of `chain`.
    pub(super) fn release(&mut self, chain: &[u32]) -> Result<()> {
        for cluster in chain {
            self.table.set(*cluster, Link::Free)?;
            self.free_clusters = self.free_clusters.saturating_add(1);
        }
        self.position.set(None);
        Ok(())
    }

    /// Writes `contents` from byte `start` on, which is not past the end of the file; what was behind is gone.
    pub(super) fn write_file(&mut self, node: Node, start: u32, contents: &mut dyn Read) -> Result<()> {
        let mut entry = self.entry(node)?;
        let mut chain = self.chain(entry.cluster)?;
        let outcome = self.write_chain(&mut chain, start, contents);
        // Also after an error the file is left whole: what could be written, its length, its clusters.
        let (size, failure) = match outcome {
            Ok(size) => (size, None),
            Err((size, error)) => (size, Some(error)),
        };
        let kept = usize::try_from(u64::from(size).div_ceil(self.boot.cluster_size)).unwrap_or(usize::MAX);
        let surplus = chain.split_off(kept.min(chain.len()));
        if let Some(last) = chain.last() {
            self.table.set(*last, Link::End)?;
        }
        self.release(&surplus)?;
        entry.cluster = chain.first().copied().unwrap_or(0);
        entry.size = size;
        self.touch(&mut entry);
        self.put_entry(node, &entry)?;
        failure.map_or(Ok(()), Err)
    }

    /// The size reached, with the error that stopped it.
    fn write_chain(
        &mut self,
        chain: &mut Vec<u32>,
        start: u32,
        contents: &mut dyn Read,
    ) -> std::result::Result<u32, (u32, Error)> {
        let cluster_size = self.boot.cluster_size;
        let mut size = start;
        let mut buffer = vec![0; usize::try_from(cluster_size).unwrap_or(0)];
        loop {
            let within = u64::from(size) % cluster_size;
            let room = usize::try_from(cluster_size - within).unwrap_or(0);
            let part = buffer.get_mut(..room).unwrap_or_default();
            let count = fill(contents, part).map_err(|e| (size, Error::io(self.disk.label(), e)))?;
            if count == 0 {
                return Ok(size);
            }
            let end = u32::try_from(count)
                .ok()
                .and_then(|count| size.checked_add(count));
            let Some(end) = end else {
                let text = "FAT allows files of up to 4 GiB less one byte";
                return Err((size, self.error(Kind::Full, None, text)));
            };
            let index = usize::try_from(u64::from(size) / cluster_size).unwrap_or(usize::MAX);
            let cluster = match chain.get(index) {
                Some(cluster) => *cluster,
                None => self.extend(chain).map_err(|e| (size, e))?,
            };
            let range = self.cluster_range(cluster).map_err(|e| (size, e))?;
            // To the end of the cluster, in zeros: what an earlier file left there is not carried along.
            part.get_mut(count..).unwrap_or_default().fill(0);
            self.disk
                .write_at(range.start + within, part)
                .map_err(|e| (size, e))?;
            size = end;
        }
    }

    fn extend(&mut self, chain: &mut Vec<u32>) -> Result<u32> {
        let last = chain.last().copied();
        let cluster = self.allocate(last.map_or(self.hint, |last| last.saturating_add(1)))?;
        if let Some(last) = last {
            self.table.set(last, Link::Next(cluster))?;
        }
        chain.push(cluster);
        Ok(cluster)
    }
}

/// Reads until `buffer` is full or the contents end.
fn fill(contents: &mut dyn Read, buffer: &mut [u8]) -> std::io::Result<usize> {
    let mut count = 0;
    while let Some(rest) = buffer.get_mut(count..).filter(|rest| !rest.is_empty()) {
        match contents.read(rest) {
            Ok(0) => break,
            Ok(read) => count += read,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(count)
}
