//! Clusters that were unpacked lately, for those who read less than a whole one at a time: a filesystem, or two threads
//! whose pieces meet in one cluster.

use super::{cluster::unpack, disk::Qcow2};
use crate::disk::Result;
use std::sync::{Arc, Mutex, PoisonError};

/// Clusters are kept up to this many bytes, but never less than a few: more threads than that seldom meet.
const KEPT_BYTES: u64 = 4 << 20;
const FEWEST: u64 = 4;
/// The search goes through all of them.
const MOST: u64 = 64;

/// In the order of their first use.
#[derive(Debug, Default)]
pub(super) struct Unpacked(Mutex<Vec<Arc<Cluster>>>);

/// A cluster that is kept, or that somebody is unpacking just now: others wait for it and do not do it again.
#[derive(Debug)]
struct Cluster {
    host: u64,
    length: u64,
    bytes: Mutex<Option<Arc<Vec<u8>>>>,
}

impl Qcow2 {
    /// Fills `buffer` with what unpacks from `length` bytes at `host`, from `within` on.
    pub(super) fn read_compressed(
        &self,
        (host, length): (u64, u64),
        within: usize,
        buffer: &mut [u8],
    ) -> Result<()> {
        if buffer.len() as u64 == self.header.cluster_size() {
            return self.unpack_into(host, length, buffer);
        }
        let cluster = self.unpacked(host, length)?;
        let piece = cluster.get(within..within.saturating_add(buffer.len()));
        buffer.copy_from_slice(piece.unwrap_or_default());
        Ok(())
    }

    fn unpacked(&self, host: u64, length: u64) -> Result<Arc<Vec<u8>>> {
        let cluster = {
            let mut kept = self.unpacked.0.lock().unwrap_or_else(PoisonError::into_inner);
            let there = kept
                .iter()
                .find(|cluster| (cluster.host, cluster.length) == (host, length));
            if let Some(there) = there {
                there.clone()
            } else {
                let most = (KEPT_BYTES / self.header.cluster_size()).clamp(FEWEST, MOST);
                if kept.len() as u64 >= most {
                    kept.remove(0);
                }
                let bytes = Mutex::default();
                let new = Arc::new(Cluster { host, length, bytes });
                kept.push(new.clone());
                new
            }
        };
        let mut slot = cluster.bytes.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(bytes) = &*slot {
            return Ok(bytes.clone());
        }
        let mut bytes = vec![0; usize::try_from(self.header.cluster_size()).unwrap_or(0)];
        self.unpack_into(host, length, &mut bytes)?;
        let bytes = Arc::new(bytes);
        *slot = Some(bytes.clone());
        Ok(bytes)
    }

    fn unpack_into(&self, host: u64, length: u64, cluster: &mut [u8]) -> Result<()> {
        // The last sector need not be there wholly.
        let available = self.container.size().saturating_sub(host).min(length);
        if available == 0 {
            self.must_exist("compressed cluster", host, 1)?;
        }
        // Two clusters at most, by the width of the field.
        let mut packed = vec![0; usize::try_from(available).unwrap_or(0)];
        self.container.read_at(host, &mut packed)?;
        unpack(self.header.compression, &packed, cluster).map_err(|flaw| self.flaw(flaw, host))
    }
}
