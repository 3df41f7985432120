//! qcow, version 1: the format before qcow2, of QEMU 0.6 to 0.8 and of Xen. Only read. There is no specification; the
//! structures are those of `block/qcow.c` in QEMU.

mod disk;
mod flaw;
mod header;

pub use disk::Qcow;
