//! qcow2, versions 2 and 3: qemu's `docs/interop/qcow2.txt`.

mod allocator;
mod bitmap;
mod check;
mod cluster;
mod disk;
mod earlier;
mod flaw;
mod header;
mod header_extension;
mod info;
mod l2_cache;
mod l2_table;
mod layout;
mod map;
mod options;
mod pack;
mod refcount;
mod sink;
mod snapshot;
mod write;

pub use disk::Qcow2;
pub use header::Compression;
pub use options::{Options, Preallocation};
pub use sink::Qcow2Sink;
pub(super) use sink::sink;
