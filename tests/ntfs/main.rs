//! NTFS: what our reader and writer do, judged by `ntfsfix`, `ntfsinfo`, `ntfs-3g` and a checker of its own.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test stops at the first surprise"
)]

mod checker;
mod compression;
mod dissect;
mod free_space;
mod hostile;
mod image;
mod large_structures;
mod model;
mod page_files;
mod program;
mod random_edits;
mod reading;
mod refusals;
mod samples;
mod security;
mod speed;
mod turns;
