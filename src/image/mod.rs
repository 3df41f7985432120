//! Image formats: a format is a [`Disk`] made of other `Disk`s, so formats nest.

mod create;
pub mod deflate;
mod detect;
mod format;
mod info;
mod neighbours;
pub mod qcow2;
mod raw;
pub mod vmdk;

pub use create::{Files, Options, Shape, create, initial_size};
pub use detect::{detect, open, open_writable};
pub use format::Format;
pub use info::{Check, Info, Named, Snapshot};
pub use neighbours::{Beside, Neighbours, NoNeighbours};
pub use raw::Raw;

use crate::disk::{Disk, Error, Kind, Result};

/// A disk with a container around it.
pub trait Image: Disk {
    /// Its format.
    fn format(&self) -> Format;
    /// What it says of itself.
    ///
    /// # Errors
    /// Those of reading the container.
    fn info(&self) -> Result<Info>;
    /// Looks for structure errors and leaks.
    ///
    /// # Errors
    /// Those of reading the container. What is wrong with its structure is in the result.
    fn check(&self) -> Result<Check>;
    /// Gives leaked space back; only of an image that was opened for editing. Gives how many bytes that was.
    ///
    /// # Errors
    /// [`Kind::Unsupported`] where a format cannot leak or has no such repair; [`Kind::Unsafe`] while
    /// [`Image::check`] finds errors.
    fn repair_leaks(&self) -> Result<u64> {
        let text = format!("leaks of the format {} cannot be repaired", self.format());
        Err(Error::new(Kind::Unsupported, self.label(), text))
    }
}
