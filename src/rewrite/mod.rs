//! Carries out the steps of a plan; one file per kind. Every edit is judged, each change reported.

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
