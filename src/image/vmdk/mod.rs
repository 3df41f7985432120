//! VMDK, as VMware's products write it: VMware's "Virtual Disk Format 5.0" (2011), cited here as "VDF 5.0" with its
//! headings; and the two kinds that it does not describe in full: COWD ("ESX Server Sparse Extents" there, and
//! libvmdk's documentation), and seSparse, known from what its readers expect.
//!
//! A disk is a descriptor, which is text, and extents. The descriptor lies in a file of its own or in the first extent.
//! A disk whose descriptor names a parent holds only what differs from it.

mod check;
mod cow;
mod create;
mod descriptor;
mod disk;
mod extent;
mod flaw;
mod forward;
mod grain_cache;
mod header;
mod layout;
mod map;
mod marker;
mod name;
mod new_descriptor;
mod open;
mod se_sparse;
mod sparse_extent;
mod sparse_sink;
mod stream;
mod table_cache;
mod turn;
mod write;

pub use create::{Adapter, Options, Subformat, create};
pub use disk::Vmdk;
pub use forward::ForwardVmdk;
pub use stream::{Container, Forward, Output, StreamOptimized};

/// All places and sizes in the format count in these, whatever the sectors of the disk are. In bytes.
const SECTOR: u64 = 512;

/// Bytes in so many sectors; what cannot be is as large as can be, and no file is so large.
fn bytes_of(sectors: u64) -> u64 {
    sectors.saturating_mul(SECTOR)
}
