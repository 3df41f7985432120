//! Before a copy: how much there is to move, and what the source is known by.

use crate::disk::{Content, Digest, Disk, Error, Kind, Result};
use std::{
    fs,
    os::unix::{ffi::OsStrExt, fs::MetadataExt},
    path::Path,
};

/// Bytes of a disk by what its map says of them; together its size.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Survey {
    /// To be read: the most that a copy puts.
    pub data: u64,
    /// Zeros that take space.
    pub zero: u64,
    /// Zeros that take none.
    pub hole: u64,
}

/// Walks the map of `disk`; reads no data.
pub fn survey(disk: &dyn Disk) -> Result<Survey> {
    let mut survey = Survey::default();
    let (mut at, size) = (0, disk.size());
    while at < size {
        let before = at;
        for extent in disk.extents(at..size)? {
            let length = extent.range.end.saturating_sub(extent.range.start);
            match extent.content {
                Content::Data => survey.data += length,
                Content::Zero => survey.zero += length,
                Content::Hole => survey.hole += length,
            }
            at = extent.range.end;
        }
        if at <= before {
            return Err(Error::new(Kind::Io, disk.label(), "gives no map of its contents").at(before));
        }
    }
    Ok(survey)
}

/// What tells one source from another, or from itself after a change: path, size and time of the last change of
/// every file. Block devices have no such time: for them the path and the device number speak.
pub fn source_identity(paths: &[&Path]) -> Result<Digest> {
    let mut hasher = blake3::Hasher::new();
    for path in paths {
        let label = path.display().to_string();
        let real = fs::canonicalize(path).map_err(|error| Error::io(&label, error))?;
        let metadata = fs::metadata(&real).map_err(|error| Error::io(&label, error))?;
        let name = real.as_os_str().as_bytes();
        hasher.update(&(name.len() as u64).to_le_bytes());
        hasher.update(name);
        hasher.update(&metadata.len().to_le_bytes());
        if metadata.is_file() {
            hasher.update(&metadata.mtime().to_le_bytes());
            hasher.update(&metadata.mtime_nsec().to_le_bytes());
        } else {
            hasher.update(&metadata.rdev().to_le_bytes());
        }
    }
    Ok(Digest(*hasher.finalize().as_bytes()))
}
