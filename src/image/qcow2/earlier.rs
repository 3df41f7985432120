//! What an earlier run left in an image: which of the guest's clusters it had put where.

use super::{
    header::LARGEST_HEADER,
    l2_table::{self, OFFSET},
    layout::Layout,
};
use crate::disk::{Disk, Error, Kind, Result};

/// Its tables, one second-level table at a time.
#[derive(Debug)]
pub(super) struct Earlier {
    l1: Vec<u64>,
    /// Number and words of the table that was asked for last.
    table: Option<(u64, Vec<u64>)>,
}

impl Earlier {
    /// Of the image in `container`, which must be one of this `layout`.
    pub(super) fn read(container: &dyn Disk, layout: &Layout) -> Result<Self> {
        let label = container.label();
        let expected = layout.header.encode().map_err(|flaw| flaw.of(label))?;
        let mut header = vec![0; usize::try_from(container.size().min(LARGEST_HEADER)).unwrap_or(0)];
        container.read_at(0, &mut header)?;
        let cluster = layout.header.cluster_size();
        if !header.starts_with(&expected) || container.size() < layout.first_free * cluster {
            return Err(cannot_resume(
                label,
                "its header is another than this conversion writes",
            ));
        }
        let mut l1 = vec![0; layout.header.l1_size as usize * 8];
        container.read_at(layout.header.l1_offset, &mut l1)?;
        Ok(Self {
            l1: l2_table::words(&l1),
            table: None,
        })
    }

    /// The entry of the guest's cluster at `offset`; 0 if there is none.
    pub(super) fn entry(&mut self, container: &dyn Disk, layout: &Layout, offset: u64) -> Result<u64> {
        let header = &layout.header;
        let region = offset / header.l2_coverage();
        if self.table.as_ref().is_none_or(|(there, _)| *there != region) {
            let cluster = header.cluster_size();
            let entry = usize::try_from(region)
                .ok()
                .and_then(|region| self.l1.get(region));
            let host = entry.copied().unwrap_or(0) & OFFSET;
            let mut bytes = vec![0; usize::try_from(cluster).unwrap_or(0)];
            if host != 0 {
                if !host.is_multiple_of(cluster) || host.saturating_add(cluster) > container.size() {
                    return Err(cannot_resume(container.label(), "its tables are damaged"));
                }
                container.read_at(host, &mut bytes)?;
            }
            self.table = Some((region, l2_table::words(&bytes)));
        }
        let index = layout.index_in_table(offset);
        let words = self.table.as_ref().map(|(_, words)| words.as_slice());
        Ok(words.and_then(|words| words.get(index)).copied().unwrap_or(0))
    }
}

pub(super) fn cannot_resume(label: &str, why: &str) -> Error {
    Error::new(
        Kind::Unsafe,
        label,
        format!("cannot be resumed: {why}. Convert again without --resume"),
    )
}
