//! Decisions. Pure: facts in, ordered steps with reasons, warnings and blockers out. No I/O, no clock, no
//! randomness: what those would give is in [`Options`] or in the facts.

mod blockers;
mod draft;
mod facts;
mod firmware;
mod initramfs;
mod interface_names;
mod make;
mod names;
mod network;
mod print;
mod storage;
#[cfg(test)]
mod tests;

pub use facts::facts_digest;
pub use make::{make, make_raw};
pub use print::write_printable;

use crate::{
    disk::Digest,
    fs::GuestPath,
    machine::{Firmware, Machine},
    matching::Binding,
};
use serde::{Deserialize, Serialize};

/// What the user may decide.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Options {
    /// `--root`: volume id of the system to move, where there are several.
    pub root: Option<String>,
    /// `--nic NAME=MAC`: interface and the address it gets or keeps.
    pub nics: Vec<(String, String)>,
    /// `--as-is`: the disks move without anything on them being adapted.
    #[serde(default)]
    pub as_is: bool,
    /// New UUIDs and MAC addresses come from here.
    pub seed: [u8; 16],
    /// Every new timestamp, in seconds since 1970.
    pub clock: u64,
}

/// Schema version of [`Plan`] as JSON.
pub const PLAN_SCHEMA: u32 = 1;

/// The same plan on the same source gives the same bytes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// [`PLAN_SCHEMA`].
    pub schema: u32,
    /// Digest of the facts that it was made from; with another digest it is refused as stale.
    pub facts: Digest,
    /// What the user decided.
    pub options: Options,
    /// Name of the guest, `None` for an unknown system that moves raw.
    pub guest: Option<String>,
    /// Volume id of the guest's root.
    pub root: Option<String>,
    /// The machine it moves to.
    pub machine: Machine,
    /// How it will start there.
    pub firmware: Firmware,
    /// Index into [`Machine::storage`]: the controller that carries the disks.
    pub storage: usize,
    /// One adapter for each configured interface, in order.
    pub adapters: Vec<Adapter>,
    /// What was bound to what.
    pub bindings: Vec<Binding>,
    /// In order.
    pub steps: Vec<Step>,
    /// Cannot boot there or cannot be done safely.
    pub blockers: Vec<String>,
    /// Will boot; somebody should look.
    pub warnings: Vec<String>,
}

/// A network adapter of the target machine as the definition will pin it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Adapter {
    /// "virtio-net", as in [`crate::machine::NetworkAdapter::model`].
    pub model: String,
    /// The interface of the guest that lives on it.
    pub interface: Option<String>,
    /// Its address; always pinned in the definition.
    pub mac: String,
    /// Where it sits, "0000:01:00.0".
    pub pci_address: String,
}

/// One thing to do, and the fact that led to it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Step {
    /// What.
    pub action: Action,
    /// Why.
    pub because: String,
}

/// What a step does. `rewrite/` has one file per kind. All paths are the guest's; those on the ESP begin at its root and
/// say so by their volume.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "do")]
#[non_exhaustive]
pub enum Action {
    /// One line of a text file.
    ReplaceLine {
        /// Guest path.
        path: GuestPath,
        /// From 1.
        line: u32,
        /// As found, without its line feed; another text there is an error.
        old: GuestPath,
        /// As left.
        new: GuestPath,
    },
    /// Lines at the end of a text file, made if it is absent.
    AppendLines {
        /// Guest path.
        path: GuestPath,
        /// Without line feeds; those that are there already are not repeated.
        lines: Vec<String>,
    },
    /// A new file of ours, or the whole of one that we made before.
    WriteFile {
        /// Guest path; missing directories are made.
        path: GuestPath,
        /// All of it.
        contents: String,
        /// Permission bits.
        mode: u32,
    },
    /// One more segment at the end of an initramfs image.
    ExtendInitramfs {
        /// The kernel's release.
        kernel: String,
        /// The image, a guest path.
        image: GuestPath,
        /// Modules that are missing in it, dependencies first.
        modules: Vec<crate::matching::ModuleFile>,
        /// Modules to load even if nothing asks for them (their aliases come too late or not at all).
        load: Vec<String>,
        /// Other files: path in the image and contents.
        files: Vec<(GuestPath, String)>,
    },
    /// The fallback boot loader of an EFI system partition.
    CopyOnEsp {
        /// Volume id of the ESP.
        volume: String,
        /// Path on it.
        from: GuestPath,
        /// Path on it; missing directories are made.
        to: GuestPath,
    },
}
