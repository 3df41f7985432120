//! Carries out the steps of a plan; one file per kind. Every edit is judged, each change reported.
//!
//! The order of a conversion: [`apply`] on the guest's filesystems over an overlay with a [`crate::disk::Recorder`]
//! below each; then for each volume that was changed [`audit()`] against a reader of the state before, [`judge`] against
//! a reader opened afresh, and [`ask_witness`] where an independent reader can open the filesystem.

mod append_lines;
mod apply;
mod audit;
mod copy_on_esp;
mod extend_initramfs;
mod file;
mod judge;
mod replace_line;
#[cfg(test)]
mod tests;
mod write_file;

pub use apply::{Edits, apply};
pub use audit::audit;
pub use judge::{ask_witness, judge};

use crate::disk::Digest;
use serde::{Deserialize, Serialize};

/// Before and after of one file; goes into the report as it is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Change {
    /// Index of the step in the plan.
    pub step: usize,
    /// Volume id.
    pub volume: String,
    /// Path on that volume, without links.
    pub path: crate::fs::GuestPath,
    /// Digest of the contents before; absent: was not there.
    pub was: Option<Digest>,
    /// Digest of the contents after; absent: is gone.
    pub is: Option<Digest>,
}
