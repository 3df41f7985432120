//! VHD and VHDX images, judged by qemu-img in both directions, and by images of other programs.

// Clippy's exemption for tests does not reach the functions that they share.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic
)]

mod differencing_vhd;
mod differencing_vhdx;
mod edits;
mod hostile;
mod judge;
mod making;
mod sinks;
mod vhd;
mod vhdx;
