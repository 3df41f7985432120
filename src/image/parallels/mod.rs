//! Parallels HDD ("hds") in its two versions, without and with large offsets. Only read. Specification: qemu's
//! `docs/interop/parallels.txt`.

mod bundle;
mod disk;
mod flaw;
mod header;

pub use disk::Parallels;
