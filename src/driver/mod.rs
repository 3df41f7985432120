//! What answers to a device: kernel module indexes, module files, initramfs archives.
