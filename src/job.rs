//! What a user can say, in one place: flags end here. Options belong to the rooms that use them; this gathers them.

use crate::{image::Format, locator::Locator, plan::Options};
use std::path::PathBuf;

/// Where the system is read from, and how.
#[derive(Clone, Debug, Default)]
pub struct Source {
    /// The disks, in the order in which the old machine had them.
    pub disks: Vec<Locator>,
    /// `--source-format`: wins over what the bytes look like.
    pub format: Option<Format>,
    /// `--sector-size`: logical sector in bytes where the file cannot say it (512 unless a table tells otherwise).
    pub sector_size: Option<u32>,
    /// `--overlay-memory`: how many bytes of changes are held in memory before they go to a temporary file.
    pub overlay_memory: u64,
    /// `--temporary-folder`: where that file is made (and at once unlinked).
    pub temporary_folder: PathBuf,
}

/// A conversion.
#[derive(Clone, Debug)]
pub struct Job {
    /// Where from.
    pub source: Source,
    /// Name of a shipped machine, or the path of a machine file.
    pub to: String,
    /// `--driver-db`: a folder with machine files of the user's own.
    pub driver_db: Option<PathBuf>,
    /// OUT: a file for one disk, a folder for many, a block device, or an export of a server.
    pub out: Locator,
    /// `--yes-erase`: the block devices and exports that may be overwritten.
    pub yes_erase: Vec<Locator>,
    /// Format of the disks there.
    pub format: Format,
    /// `--plan`: the saved plan to carry out; refused if the facts are others.
    pub plan: Option<PathBuf>,
    /// What the user decided.
    pub options: Options,
    /// `--dry-run`: everything but the writing.
    pub dry_run: bool,
    /// `--resume`: go on after a break.
    pub resume: bool,
    /// `--checkpoint`: after so many bytes written all that is there is made durable, so that a break costs no more.
    pub checkpoint: u64,
    /// `--verify`: read the destination back and compare its hashes.
    pub verify: bool,
}

/// An edit where the disks lie.
#[derive(Clone, Debug)]
pub struct InPlaceJob {
    /// The disks that are edited.
    pub source: Source,
    /// Name of a shipped machine, or the path of a machine file.
    pub to: String,
    /// `--driver-db`: a folder with machine files of the user's own.
    pub driver_db: Option<PathBuf>,
    /// What the user decided.
    pub options: Options,
    /// `--undo`: the file that takes it back; for several disks its name gets a number.
    pub undo: PathBuf,
}
