//! New images: version 3, 16-bit reference counts, and a layout that follows from the disk alone.
//!
//! Cluster 0 is the header, then follow the refcount table, refcount block 0, the first-level table, and in the order
//! of the guest's disk data clusters, each second-level table before the first cluster that it maps. Refcount block
//! `k`, from 1 on, is the first of the clusters that it counts. So the same data gives the same file.

use super::{
    flaw::Flaw,
    header::{Compression, Header, LARGEST_REFCOUNT_TABLE},
};
use crate::{
    disk::Result,
    image::{self, Format, create::value},
};

/// The shape of a new image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// 12 to 21: the cluster size is two to the power of this. qemu's own default is 16.
    pub cluster_bits: u32,
}

impl Default for Options {
    fn default() -> Self {
        Self { cluster_bits: 16 }
    }
}

impl Options {
    /// Reads `-o` and `-c`.
    ///
    /// # Errors
    /// Words that are not known.
    pub fn from_words(words: &image::Options) -> Result<Self> {
        let mut options = Self::default();
        words.each(Format::Qcow2, &["cluster_size"], |name, text| {
            match name {
                "cluster_size" => {
                    let size: u64 = value(text, "a number of bytes")?;
                    if !size.is_power_of_two() {
                        return Err("a power of two is expected".to_owned());
                    }
                    options.cluster_bits = size.trailing_zeros();
                }
                _ => return Ok(false),
            }
            Ok(true)
        })?;
        Ok(options)
    }
}

/// Smaller clusters make tables larger than what they map is worth.
const FEWEST_CLUSTER_BITS: u32 = 12;
const MOST_CLUSTER_BITS: u32 = 21;

/// Reference counts of 16 bits.
const REFCOUNT_ORDER: u32 = 4;

/// Where things are in a new image.
#[derive(Clone, Debug)]
pub(super) struct Layout {
    pub(super) header: Header,
    /// The first cluster that is neither header nor one of the tables that have a fixed place.
    pub(super) first_free: u64,
}

impl Layout {
    /// For a guest's disk of `size` bytes.
    pub(super) fn new(size: u64, options: Options) -> std::result::Result<Self, Flaw> {
        let bits = options.cluster_bits;
        if !(FEWEST_CLUSTER_BITS..=MOST_CLUSTER_BITS).contains(&bits) {
            return Err(Flaw::ClusterBits(bits));
        }
        let mut header = Header {
            version: 3,
            cluster_bits: bits,
            size,
            l1_size: 0,
            l1_offset: 0,
            refcount_table_offset: 1 << bits,
            refcount_table_clusters: 1,
            refcount_order: REFCOUNT_ORDER,
            snapshots: 0,
            snapshots_offset: 0,
            incompatible: 0,
            compatible: 0,
            autoclear: 0,
            compression: Compression::Deflate,
            encryption: None,
            backing_name: None,
            backing_format: None,
            data_name: None,
            bitmaps: None,
        };
        let cluster = header.cluster_size();
        let too_large =
            || Flaw::CannotGrow("is too large a disk for clusters of this size: choose larger ones");
        header.l1_size = u32::try_from(header.l1_needed().max(1)).map_err(|_| too_large())?;
        let l1_clusters = (u64::from(header.l1_size) * 8).div_ceil(cluster);
        let data = size
            .div_ceil(cluster)
            .saturating_add(header.l1_needed())
            .saturating_add(l1_clusters);
        // What a refcount table of one cluster counts, blocks and table included; for most disks it is enough.
        let per_block = cluster / 2;
        let counted_by_one = per_block * (cluster / 8);
        // Each block counts `per_block` clusters, one of which it is itself.
        let all = data / (per_block - 1) * per_block + per_block;
        let table_clusters = all / (counted_by_one - 2) + 1;
        header.refcount_table_clusters = u32::try_from(table_clusters).map_err(|_| too_large())?;
        if table_clusters.saturating_mul(cluster) > LARGEST_REFCOUNT_TABLE {
            return Err(too_large());
        }
        header.l1_offset = (1 + table_clusters + 1) * cluster;
        let first_free = 1 + table_clusters + 1 + l1_clusters;
        if first_free > per_block {
            return Err(too_large());
        }
        Ok(Self { header, first_free })
    }

    pub(super) fn clusters_per_block(&self) -> u64 {
        self.header.cluster_size() / 2
    }

    /// The cluster in which refcount block `index` lies.
    pub(super) fn refcount_block(&self, index: u64) -> u64 {
        if index == 0 {
            1 + u64::from(self.header.refcount_table_clusters)
        } else {
            index * self.clusters_per_block()
        }
    }
}
