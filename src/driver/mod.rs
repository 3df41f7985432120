//! What answers to a device: kernel module indexes, module files, initramfs archives. Pure over byte slices and
//! readers; where the bytes lie in a guest is the caller's business.

pub mod catalog;
pub mod compression;
pub(crate) mod cpio;
pub mod hardware_id;
pub mod inf;
pub mod inf_rank;
pub mod initramfs;
pub mod modalias;
pub mod modprobe;
pub mod module_index;
pub mod module_info;
pub mod package;
pub mod package_source;
pub mod pe;
mod read_ahead;
pub mod signed_data;
pub mod windows_database;
pub mod windows_version;
