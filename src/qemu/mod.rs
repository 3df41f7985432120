//! Starts a throw-away snapshot under QEMU and reads its console.
//!
//! Nothing that the guest does reaches its disks, and its network ends at QEMU. What it prints is a stranger's text:
//! escape sequences and control characters are taken out before anybody sees it.

mod accelerator;
mod boot;
mod command;
mod console;
mod firmware;
mod verdict;

pub use accelerator::Accelerator;
pub use boot::{BootOptions, BootReport, boot};
pub use verdict::Verdict;

use crate::output::pci_topology::PciError;
use std::{io, path::PathBuf};
use thiserror::Error;

/// Why no guest could be started. How a guest fared once it ran is a [`Verdict`], never an error.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum QemuError {
    /// The program is not there.
    #[error("{program} cannot be started: {cause}; install it (Debian: qemu-system-x86)")]
    Start {
        /// Its name.
        program: String,
        /// What the system said.
        cause: io::Error,
    },
    /// UEFI was asked for, and there is no image of it.
    #[error("no UEFI firmware image was found in {}; install it (Debian: ovmf)", .searched.join(", "))]
    NoUefiImage {
        /// The folders.
        searched: Vec<String>,
    },
    /// Another architecture than ours.
    #[error("machines of architecture {0} cannot be started here, only x86_64")]
    Architecture(String),
    /// A model that QEMU is not told to make here.
    #[error("no QEMU device is known for the {kind} '{model}'")]
    Model {
        /// "disk controller", "network adapter".
        kind: &'static str,
        /// As the machine file has it.
        model: String,
    },
    /// The devices do not fit on the machine's buses.
    #[error(transparent)]
    Pci(#[from] PciError),
    /// A disk is not there, or may not be read.
    #[error("the disk {} cannot be read: {cause}", .path.display())]
    Disk {
        /// The file.
        path: PathBuf,
        /// What the system said.
        cause: io::Error,
    },
    /// Neither "raw" nor anything else that is a name of a format.
    #[error("'{0}' is not the name of a disk format")]
    Format(String),
    /// It ended before the guest printed anything.
    #[error("{program} stopped at once: {message}")]
    Refused {
        /// Its name.
        program: String,
        /// The end of what it said.
        message: String,
    },
}
