//! Swap files: swap space in a file of a filesystem, as Ubuntu's installer makes it.

use super::{FstabEntry, files::Files, fstab};
use crate::fs::{GuestPath, Mounts, Result, mounts::Found, swap::LARGEST_START, swap::Swap};
use serde::{Deserialize, Serialize};
use std::io::Read as _;

/// A file that a line of fstab names as swap space.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SwapFile {
    /// Its path in the guest, links resolved.
    pub path: GuestPath,
    /// Volume id of the filesystem that it is on.
    pub volume: String,
    /// Its path there.
    pub path_there: GuestPath,
    /// A hibernated system sleeps in it: who put it there.
    pub hibernated: Option<String>,
}

/// The swap files of the mounted guest. What is no swap space in spite of its line is left out.
pub(super) fn inspect(files: &Files<'_>, fstab: &[FstabEntry]) -> Vec<SwapFile> {
    let mut found = Vec::new();
    for entry in fstab.iter().filter(|entry| entry.is_swap()) {
        let path = GuestPath(fstab::unescape(entry.spec.as_bytes()));
        if !path.0.starts_with(b"/") || path.0.starts_with(b"/dev/") {
            continue;
        }
        let Some(file) = files.find(&path).filter(|file| file.attributes.is_file()) else {
            continue;
        };
        match swap_in(files.mounts, &file) {
            Ok(Some(swap)) => found.push(SwapFile {
                path: file.path,
                volume: file.volume,
                path_there: file.path_there,
                hibernated: swap.hibernated().map(str::to_owned),
            }),
            Ok(None) => files.remark(format!(
                "/etc/fstab line {}: {path} is no swap space (mkswap makes it one); it is copied as any file",
                entry.line
            )),
            Err(error) => files.remark(format!("{path} cannot be read: {error}")),
        }
    }
    found
}

/// The swap space in a regular file.
///
/// # Errors
/// Those of reading it.
pub fn swap_in(mounts: &Mounts, file: &Found) -> Result<Option<Swap>> {
    let mut start = Vec::new();
    let failed = |error: std::io::Error| {
        crate::disk::Error::io(format!("{}: {}", file.volume, file.path_there), error)
    };
    mounts
        .open_found(file)?
        .take(LARGEST_START as u64)
        .read_to_end(&mut start)
        .map_err(failed)?;
    Ok(Swap::parse(&start, file.attributes.size).unwrap_or_default())
}
