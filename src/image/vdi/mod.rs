//! VDI 1.1, the disks of VirtualBox. There is no specification: the structures are those of `VDICore.h` in the sources
//! of VirtualBox and of `block/vdi.c` in those of qemu, and of disks that both have made.

mod block_map;
mod check;
mod create;
mod disk;
mod flaw;
mod header;
mod parent;
mod sink;
mod write;

pub use create::Options;
pub use disk::Vdi;
pub(super) use sink::{initial_size, sink};
