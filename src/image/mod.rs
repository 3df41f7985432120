//! Image formats: a format is a [`Disk`] made of other `Disk`s, so formats nest.

mod block_sink;
mod create;
pub mod deflate;
mod detect;
mod findings;
mod format;
mod info;
mod map;
mod neighbours;
mod open_file;
pub mod ova;
mod pages;
pub mod parallels;
pub mod qcow;
pub mod qcow2;
mod raw;
mod split_raw;
mod unpacked;
pub mod vdi;
pub mod vhd;
pub mod vhdx;
pub mod vmdk;
mod windows_parent;

pub use create::{Files, Options, Shape, bytes, create, initial_size};
pub use detect::{detect, open, open_snapshot, open_writable};
pub use format::Format;
pub use info::{Check, Info, Named, Snapshot};
pub use map::{Mapped, Mapping, map_chain};
pub use neighbours::{Beside, Neighbours, NoNeighbours};
pub use open_file::{Described, backing_of, chain, format_at, open_file};
pub use raw::Raw;
pub use split_raw::{join, parts};

use crate::disk::{Disk, Error, Kind, Result};
use std::ops::Range;

/// A disk with a container around it.
pub trait Image: Disk {
    /// Its format.
    fn format(&self) -> Format;
    /// What it says of itself.
    ///
    /// # Errors
    /// Those of reading the container.
    fn info(&self) -> Result<Info>;
    /// Where the bytes in `range` of its disk come from, in order and without gaps; may stop early, like [`Disk::extents`].
    /// An image that can stand on another one must say which of it is its own.
    ///
    /// # Errors
    /// Those of reading the container.
    fn map(&self, range: Range<u64>) -> Result<Vec<Mapping>> {
        map::by_extents(self, range)
    }
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
