//! ext2, ext3 and ext4: what our reader and writer do, judged by `e2fsck`, `debugfs` and the kernel's own mount.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test stops at the first surprise"
)]

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
