//! Where things are in a new image: a layout that follows from the disk and the options alone.
//!
//! Cluster 0 is the header, then follow the refcount table, the refcount blocks that count these first clusters, the
//! first-level table, and in the order of the guest's disk data clusters, each second-level table before the first
//! cluster that it maps. Every later refcount block is the first of the clusters that it counts. So the same data
//! gives the same file.

use super::{
    flaw::Flaw,
    header::{
        COMPATIBLE_LAZY_REFCOUNTS, Compression, Header, LARGEST_L1, LARGEST_REFCOUNT_TABLE, autoclear,
        incompatible,
    },
    options::Options,
};

/// Where things are in a new image.
#[derive(Clone, Debug)]
pub(super) struct Layout {
    pub(super) header: Header,
    pub(super) options: Options,
    /// The first cluster that is neither header nor one of the tables that have a fixed place.
    pub(super) first_free: u64,
    /// The refcount blocks that count what is before it.
    first_blocks: u64,
}

impl Layout {
    /// For a guest's disk of `size` bytes.
    pub(super) fn new(size: u64, options: Options) -> Result<Self, Flaw> {
        options.check()?;
        let mut header = header(size, &options);
        let cluster = header.cluster_size();
        let too_large =
            || Flaw::CannotGrow("is too large a disk for clusters of this size: choose larger ones");
        let l1_bytes = header.l1_needed().max(1).saturating_mul(8);
        if l1_bytes > LARGEST_L1 {
            return Err(too_large());
        }
        header.l1_size = u32::try_from(l1_bytes / 8).map_err(|_| too_large())?;
        let l1_clusters = l1_bytes.div_ceil(cluster);
        // A compressed cluster takes no more than one more cluster of the file, as one that is not compressed.
        let data = if options.data_file.is_some() {
            0
        } else {
            size.div_ceil(cluster)
        };
        let counted = data
            .saturating_add(header.l1_needed())
            .saturating_add(l1_clusters);
        let per_block = clusters_per_block(&header);
        // Header, table and blocks are counted too; one round more settles it, since each of them is far less.
        let (mut table_clusters, mut first_blocks) = (1, 1);
        loop {
            let first_free = 1_u64
                .saturating_add(table_clusters)
                .saturating_add(first_blocks)
                .saturating_add(l1_clusters);
            // Later blocks each count themselves: one in `per_block`.
            let all = counted
                .saturating_add(first_free)
                .div_ceil(per_block - 1)
                .saturating_add(1);
            let needed = (
                all.saturating_mul(8).div_ceil(cluster),
                first_free.div_ceil(per_block),
            );
            if needed.0.saturating_mul(cluster) > LARGEST_REFCOUNT_TABLE {
                return Err(too_large());
            }
            if needed.0 <= table_clusters && needed.1 <= first_blocks {
                break;
            }
            table_clusters = table_clusters.max(needed.0);
            first_blocks = first_blocks.max(needed.1);
        }
        header.refcount_table_clusters = u32::try_from(table_clusters).map_err(|_| too_large())?;
        header.l1_offset = (1 + table_clusters + first_blocks) * cluster;
        Ok(Self {
            header,
            options,
            first_free: 1 + table_clusters + first_blocks + l1_clusters,
            first_blocks,
        })
    }

    pub(super) fn clusters_per_block(&self) -> u64 {
        clusters_per_block(&self.header)
    }

    /// The cluster in which refcount block `index` lies.
    pub(super) fn refcount_block(&self, index: u64) -> u64 {
        if index < self.first_blocks {
            1 + u64::from(self.header.refcount_table_clusters) + index
        } else {
            index * self.clusters_per_block()
        }
    }

    /// Where in its second-level table the entry of the guest's cluster at `offset` is, in words.
    pub(super) fn index_in_table(&self, offset: u64) -> usize {
        let header = &self.header;
        let entry = offset / header.cluster_size() % header.l2_entries();
        usize::try_from(entry * header.l2_entry_size() / 8).unwrap_or(usize::MAX)
    }

    /// Does refcount block `index` count itself as the first of its clusters?
    pub(super) fn counts_itself(&self, index: u64) -> bool {
        index >= self.first_blocks
    }
}

/// At least 64.
fn clusters_per_block(header: &Header) -> u64 {
    (header.cluster_size() * 8) >> header.refcount_order
}

/// The header of a new image, but for the tables.
fn header(size: u64, options: &Options) -> Header {
    let bit = |wanted: bool, bit: u64| if wanted { bit } else { 0 };
    Header {
        version: options.version,
        cluster_bits: options.cluster_bits,
        size,
        l1_size: 0,
        l1_offset: 0,
        refcount_table_offset: 1 << options.cluster_bits,
        refcount_table_clusters: 1,
        refcount_order: options.refcount_order,
        snapshots: 0,
        snapshots_offset: 0,
        incompatible: bit(options.extended_l2, incompatible::EXTENDED_L2)
            | bit(options.data_file.is_some(), incompatible::EXTERNAL_DATA)
            | bit(
                options.compression != Compression::Deflate,
                incompatible::COMPRESSION_TYPE,
            ),
        compatible: bit(options.lazy_refcounts, COMPATIBLE_LAZY_REFCOUNTS),
        autoclear: bit(options.data_file_raw, autoclear::RAW_DATA),
        compression: options.compression,
        encryption: None,
        backing_name: options
            .backing_file
            .as_ref()
            .map(|name| name.clone().into_bytes()),
        backing_format: options.backing_format.map(|format| format.name().to_owned()),
        data_name: options.data_file.as_ref().map(|name| name.clone().into_bytes()),
        bitmaps: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tables_of_every_shape_count_all_that_the_disk_can_need() {
        for cluster_bits in 9..=21 {
            for refcount_order in 0..=6 {
                for size in [0, 1, 512, 1 << 20, 100 << 30, 7 << 40] {
                    let options = Options {
                        cluster_bits,
                        refcount_order,
                        ..Options::default()
                    };
                    let Ok(layout) = Layout::new(size, options) else {
                        assert!(size > 1 << 30, "{cluster_bits} {refcount_order} {size}");
                        continue;
                    };
                    let cluster = 1_u64 << cluster_bits;
                    let per_block = layout.clusters_per_block();
                    // Every cluster full, every later block among them.
                    let mut end = layout.first_free + size.div_ceil(cluster) + layout.header.l1_needed();
                    end += (end / (per_block - 1)).saturating_sub(layout.first_blocks) + 1;
                    let table = u64::from(layout.header.refcount_table_clusters) * cluster / 8;
                    assert!(
                        end.div_ceil(per_block) <= table,
                        "{cluster_bits} {refcount_order} {size}"
                    );
                    assert!(layout.first_free <= layout.first_blocks * per_block);
                }
            }
        }
    }
}
