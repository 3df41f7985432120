//! ext2, ext3 and ext4: what our reader and writer do, judged by `e2fsck`, `debugfs` and the kernel's own mount.

mod attributes;
mod free_space;
mod hostile;
mod image;
mod kernel;
mod large_structures;
mod model;
mod random_edits;
mod refusals;
mod samples;
