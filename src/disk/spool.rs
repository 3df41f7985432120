//! A stream that has to be read at any offset is written to a temporary file first.

use super::{Disk, Error, FileDisk, Kind, Result, spill::unlinked_file};
use crate::watch::Watch;
use std::{
    io::{ErrorKind, Read},
    path::Path,
};

/// Read at once; zeros are left out in pieces of [`UNIT`].
const BUFFER: usize = 1 << 20;
const UNIT: usize = 4096;

/// Writes all of `stream`, called `label`, to a file in `folder` that has no name there and is gone with the disk. What
/// is zeros takes no space. A stream of more than `most` bytes is refused.
///
/// # Errors
/// Those of the stream and the file; [`Kind::Cancelled`] if `watch` says so.
pub fn spool(
    stream: &mut dyn Read,
    label: &str,
    folder: &Path,
    most: u64,
    watch: &dyn Watch,
) -> Result<FileDisk> {
    let copy = temporary_file(folder, &format!("temporary copy of {label}"))?;
    let mut buffer = vec![0; BUFFER];
    let mut at = 0_u64;
    loop {
        if watch.cancelled() {
            return Err(Error::new(Kind::Cancelled, label, "cancelled"));
        }
        let count = fill(stream, &mut buffer).map_err(|error| Error::io(label, error).at(at))?;
        let read = buffer.get(..count).unwrap_or_default();
        let end = at.saturating_add(count as u64);
        if end > most {
            let text = format!("holds more than the {most} bytes that it can have");
            return Err(Error::new(Kind::Corrupt, label, text));
        }
        copy.set_size(end)?;
        let full = |unit: &[u8]| unit.iter().any(|byte| *byte != 0);
        let units: Vec<&[u8]> = read.chunks(UNIT).collect();
        for run in units.chunk_by(|one, next| full(one) == full(next)) {
            let length = run.iter().map(|unit| unit.len()).sum::<usize>();
            if run.first().is_some_and(|unit| full(unit)) {
                copy.write_at(at, &run.concat())?;
            }
            at = at.saturating_add(length as u64);
        }
        watch.advance(count as u64);
        if count < buffer.len() {
            return Ok(copy.into_source(label.to_owned()));
        }
    }
}

/// A file of `what` in `folder` that can be written, has no name there, and is gone with the disk.
///
/// # Errors
/// Those of making it.
pub fn temporary_file(folder: &Path, what: &str) -> Result<FileDisk> {
    let place = format!("{what} in {}", folder.display());
    let file = unlinked_file(folder).map_err(|error| {
        let text = format!("cannot be made ({error}); name another folder with --temporary-folder");
        Error::new(Error::io("", error).kind, &*place, text)
    })?;
    FileDisk::from_file(place, file, true)
}

/// Fills `buffer`, or as much of it as there is.
fn fill(stream: &mut dyn Read, buffer: &mut [u8]) -> std::io::Result<usize> {
    let mut done = 0;
    while let Some(rest) = buffer.get_mut(done..).filter(|rest| !rest.is_empty()) {
        match stream.read(rest) {
            Ok(0) => break,
            Ok(count) => done += count,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        disk::{Content, Extent},
        watch::Unwatched,
    };

    #[test]
    fn a_stream_becomes_a_disk_with_holes_that_cannot_be_written() {
        let folder = tempfile::tempdir().unwrap();
        let mut bytes = vec![0; 5 << 20];
        bytes[3 << 20] = 1;
        bytes.push(7);
        let disk = spool(&mut &bytes[..], "pipe", folder.path(), u64::MAX, &Unwatched).unwrap();
        assert_eq!((disk.label(), disk.size()), ("pipe", (5 << 20) + 1));
        let mut back = vec![9; bytes.len()];
        disk.read_at(0, &mut back).unwrap();
        assert!(back == bytes);
        let first = Extent::new(0..3 << 20, Content::Hole);
        assert_eq!(disk.extents(0..disk.size()).unwrap().first(), Some(&first));
        assert_eq!(disk.write_at(0, &[1]).unwrap_err().kind, Kind::ReadOnly);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_stream_without_end_is_cut_off() {
        let folder = tempfile::tempdir().unwrap();
        let endless = &mut std::io::repeat(1);
        let error = spool(endless, "bomb", folder.path(), 3 << 20, &Unwatched).unwrap_err();
        assert_eq!(error.kind, Kind::Corrupt);
        assert!(error.to_string().contains("3145728"), "{error}");
    }
}
