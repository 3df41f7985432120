//! ext2, ext3 and ext4: what our reader and writer do, judged by `e2fsck`, `debugfs` and the kernel's own mount.

mod image;
mod model;
mod random_edits;
