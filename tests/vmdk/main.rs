//! VMDK images of every kind, judged by qemu-img in both directions, by images that VMware's products made, and by
//! plain bytes.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test stops at the first surprise"
)]

mod checking;
mod editing;
mod hand_made;
mod image;
mod parents;
mod reading;
mod refusals;
mod resuming;
mod samples;
mod writing;
