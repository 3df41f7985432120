//! Registry hives: what our reader and writer do, judged by hivex, `dissect.regf` and `libregf`, by hives of real Windows,
//! and by a reader of a hundred lines that shares nothing with ours.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test stops at the first surprise"
)]

mod boot_stores;
mod command_line;
mod hostile;
mod logs;
mod model;
mod random_edits;
mod raw;
mod reg_files;
mod samples;
mod seen;
#[path = "../small_guest/mod.rs"]
mod small_guest;
