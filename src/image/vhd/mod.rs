//! VHD: "Virtual Hard Disk Image Format Specification", version 1.0 of October 11, 2006. qemu calls it vpc.

mod block;
mod check;
mod create;
mod disk;
mod dynamic_header;
mod flaw;
mod footer;
mod footers;
mod geometry;
mod parent;
mod sink;
mod write;

pub use create::{Kind, Options};
pub use disk::Vhd;
pub(super) use footers::{Ending, ending};
pub(super) use sink::{initial_size, sink};
