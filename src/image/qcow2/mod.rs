//! qcow2, versions 2 and 3: qemu's `docs/interop/qcow2.txt`.

mod bitmap;
mod check;
mod cluster;
mod create;
mod disk;
mod flaw;
mod header;
mod l2_table;
mod map;
mod refcount;
mod sink;
mod snapshot;
mod write;

pub use create::Options;
pub use disk::Qcow2;
pub use sink::Qcow2Sink;
