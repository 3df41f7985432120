//! What answers to a device: kernel module indexes, module files, initramfs archives. Pure over byte slices and
//! readers; where the bytes lie in a guest is the caller's business.

pub mod compression;
pub(crate) mod cpio;
pub mod initramfs;
pub mod modalias;
pub mod modprobe;
pub mod module_index;
pub mod module_info;
mod read_ahead;
