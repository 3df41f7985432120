//! The Open Virtualization Format: DMTF DSP0243. A package is a descriptor (`.ovf`), disks, and a manifest of their
//! digests; it lies in a folder, or in one archive (`.ova`), which is a tar.

mod descriptor;
mod flaw;
mod forward;
mod image;
mod manifest;
mod new_archive;
mod new_descriptor;
mod package;
mod sink;
mod tar;
mod units;

pub use descriptor::{Adapter, Controller, Hardware};
pub use forward::{Beginning, ForwardOva};
pub use image::Ova;
pub use new_archive::NewArchive;
pub use new_descriptor::{NewAdapter, NewController, NewDisk, NewMachine};
pub use package::{Package, Spool};
pub use sink::{Options, OvaSink, create, disk_options, disk_words, new_disk};

pub(super) use package::{is_descriptor, look};
pub(super) use tar::Look;

/// A name out of a package, for a terminal and for comparing: what could move a cursor is replaced.
fn plain(name: &str) -> String {
    let plain = |c: char| {
        if c.is_control() {
            char::REPLACEMENT_CHARACTER
        } else {
            c
        }
    };
    name.chars().map(plain).collect()
}
