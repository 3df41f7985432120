//! Image formats: a format is a [`Disk`] made of other `Disk`s, so formats nest.

mod detect;
mod neighbours;
pub mod qcow2;
mod raw;

pub use detect::{Format, detect, open};
pub use neighbours::{Beside, Neighbours, NoNeighbours};
pub use raw::Raw;

use crate::disk::{Disk, Result};

/// A disk with a container around it.
pub trait Image: Disk {
    /// "qcow2", as `-O` spells it.
    fn format(&self) -> &'static str;
    /// Structure errors and leaks, one sentence each.
    fn check(&self) -> Result<Vec<String>>;
}
