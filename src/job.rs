//! What a user can say, in one place: flags end here. Options belong to the rooms that use them; this gathers them.

use crate::{
    copy::{Brake, Offload, SystemClock, Windows},
    destination::Cache,
    image::{self, Format},
    locator::Locator,
    plan::Options,
};
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
    /// `-l`: the disk as it was at the time of this snapshot inside its image.
    pub snapshot: Option<String>,
    /// `-T none`: files and devices are read past the host's cache.
    pub directly: bool,
    /// What comes through a pipe is read once, in order, where its format allows that.
    pub forward: bool,
    /// `--size`: of the raw disk that comes through a pipe, in bytes.
    pub size: Option<u64>,
    /// `--force-dirty`: filesystems that are marked as dirty are edited all the same.
    pub force_dirty: bool,
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
    /// How the disks are copied.
    pub copying: Copying,
    /// `--verify`: read the destination back and compare its hashes.
    pub verify: bool,
}

/// How a disk is copied.
#[derive(Clone, Debug)]
pub struct Copying {
    /// `-m`: how many threads read, compress and write; 0: as many as pay on this host.
    pub threads: usize,
    /// `--checkpoint`: after so many bytes written all that is there is made durable, so that a break costs no more.
    pub checkpoint: u64,
    /// `-S`: zeros are left out where so many bytes of them follow each other; 0: never; `None`: wherever the format can.
    pub sparse: Option<u64>,
    /// `-C`: what may be left to the kernel.
    pub offload: Offload,
    /// `-t`: how what is written reaches the storage.
    pub cache: Cache,
    /// `--no-hash` clears it.
    pub hashing: bool,
    /// `--rate-limit`: bytes in a second.
    pub rate: Option<u64>,
    /// `--window`: the hours of the day in which it may go on.
    pub windows: Windows,
}

impl Copying {
    /// What holds it back; `None`: nothing. `lasts`: both ends are places where another run could go on.
    pub fn brake(&self, lasts: bool) -> Option<Brake> {
        if self.rate.is_none() && self.windows.is_empty() {
            return None;
        }
        let brake = Brake::new(self.rate, self.windows.clone(), Box::new(SystemClock::default()));
        // Without hashes there is no ledger, and without flushes no power cut is survived.
        let safe = lasts && self.hashing && self.cache != Cache::Unsafe;
        Some(if safe {
            brake
        } else {
            brake.without_a_second_time()
        })
    }
}

/// A disk image of another format.
#[derive(Clone, Debug)]
pub struct ImageJob {
    /// SRC, of one disk.
    pub source: Source,
    /// OUT.
    pub out: Locator,
    /// `-O`.
    pub format: Format,
    /// It was said, and is not what is taken where nothing is.
    pub format_is_named: bool,
    /// `-o` and `-c`.
    pub options: image::Options,
    /// `-n`: OUT is there already and is written into.
    pub existing: bool,
    /// `--yes-erase`: the block devices, the exports, and with `-n` the file, that may be overwritten.
    pub yes_erase: Vec<Locator>,
    /// How it is copied.
    pub copying: Copying,
    /// `--resume`: go on after a break.
    pub resume: bool,
    /// `--verify`: read OUT back and compare its hashes.
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
