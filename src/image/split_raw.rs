//! A file in parts: `NAME.001`, `NAME.002` and so on, as imaging programs and `split` make them.
//!
//! It is known by its name, since parts hold nothing but bytes: if the file that is named ends in `.001`, `.000` or `.aa`
//! and the next one (`.002`, `.001`, `.ab`) is beside it, all that follow without a gap are one file with it. All but the
//! last have one size. A file that only looks like the first of a series, say the first of several backups, is taken
//! alone under another name; a symbolic link will do. What is in the joined file is told by its magic, as always.

use super::{Format, Neighbours};
use crate::disk::{Composite, Disk, Error, Kind, Part, Result};
use std::{
    ffi::OsStr,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    sync::Arc,
};

/// The name of the part after the one called `name`; `None` where the numbers or letters end.
pub(super) fn next_name(name: &[u8]) -> Option<Vec<u8>> {
    let (stem, suffix) = split(name)?;
    let mut suffix = suffix.to_vec();
    for place in suffix.iter_mut().rev() {
        match place {
            b'9' => *place = b'0',
            b'z' => *place = b'a',
            _ => {
                *place += 1;
                return Some([stem, &suffix].concat());
            }
        }
    }
    None
}

/// May `name` be that of a first part?
pub(super) fn is_first_name(name: &[u8]) -> bool {
    split(name).is_some_and(|(_, suffix)| matches!(suffix, b"001" | b"000" | b"aa"))
}

/// A name without and with its suffix: three digits or two small letters behind a dot.
fn split(name: &[u8]) -> Option<(&[u8], &[u8])> {
    let dot = name.iter().rposition(|byte| *byte == b'.')?;
    let (stem, suffix) = name.split_at_checked(dot.checked_add(1)?)?;
    let digits = suffix.len() == 3 && suffix.iter().all(u8::is_ascii_digit);
    let letters = suffix.len() == 2 && suffix.iter().all(u8::is_ascii_lowercase);
    (dot > 0 && (digits || letters)).then_some((stem, suffix))
}

/// The file at `path`, and if it is the first of a series those that follow it.
pub fn parts(path: &Path) -> Vec<PathBuf> {
    let mut parts = vec![path.to_owned()];
    let mut name = path.file_name().unwrap_or_default().as_bytes().to_vec();
    if !is_first_name(&name) {
        return parts;
    }
    while let Some(next) = next_name(&name) {
        let place = path.with_file_name(OsStr::from_bytes(&next));
        if !place.exists() {
            break;
        }
        parts.push(place);
        name = next;
    }
    parts
}

/// The whole file of which `first`, at `path`, is the first part; `first` itself if it is not one of a series.
///
/// # Errors
/// [`Kind::Unsupported`] for the second part of a series, [`Kind::Corrupt`] for a series that lacks a part or has one that
/// was cut short.
pub fn join(path: &Path, first: Arc<dyn Disk>, neighbours: &dyn Neighbours) -> Result<Arc<dyn Disk>> {
    let name = path.file_name().unwrap_or_default().as_bytes();
    if !is_first_name(name) {
        return Ok(first);
    }
    let open = |name: &[u8]| match neighbours.open(name, Some(Format::Raw.name())) {
        Ok(disk) => Ok(Some(disk)),
        Err(error) if error.kind == Kind::NotFound => Ok(None),
        Err(error) => Err(error),
    };
    if let Some((stem, b"001")) = split(name) {
        let zeroth = [stem, b"000"].concat();
        if open(&zeroth)?.is_some() {
            let text = format!(
                "is the second part of a series that begins with {}: name that one; or, if it is a disk of its own, give it \
                 a name without a number (a symbolic link will do)",
                String::from_utf8_lossy(&zeroth)
            );
            return Err(Error::new(Kind::Unsupported, first.label(), text));
        }
    }
    let mut parts = vec![first.clone()];
    let mut last = name.to_vec();
    // As many as the numbers or letters count.
    while let Some(next) = next_name(&last) {
        let Some(part) = open(&next)? else {
            if let Some(after) = next_name(&next).filter(|_| parts.len() > 1)
                && open(&after)?.is_some()
            {
                let text = format!(
                    "is the first part of a series of which {} is missing, though {} is there",
                    String::from_utf8_lossy(&next),
                    String::from_utf8_lossy(&after)
                );
                return Err(Error::new(Kind::Corrupt, first.label(), text));
            }
            break;
        };
        parts.push(part);
        last = next;
    }
    if parts.len() == 1 {
        return Ok(first);
    }
    let label = format!("{} to {}", first.label(), String::from_utf8_lossy(&last));
    must_fit(&label, &parts)?;
    let sector_size = first.sector_size();
    let parts = parts.into_iter().map(|disk| Part::Of {
        offset: 0,
        length: disk.size(),
        disk,
    });
    Ok(Arc::new(Composite::new(label, sector_size, parts.collect())?))
}

/// All parts but the last are as long as the first.
fn must_fit(label: &str, parts: &[Arc<dyn Disk>]) -> Result<()> {
    let size = parts.first().map_or(0, |first| first.size());
    for (index, part) in parts.iter().enumerate() {
        let is_last = index + 1 == parts.len();
        let length = part.size();
        if length == size || is_last && length > 0 && length < size {
            continue;
        }
        let text = format!(
            "are parts of one file by their names, but {} has {length} bytes where the first has {size}: it was cut short, \
             or belongs to something else",
            part.label()
        );
        return Err(Error::new(Kind::Corrupt, label, text));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_counted_on() {
        for (name, next) in [
            ("disk.001", Some("disk.002")),
            ("disk.000", Some("disk.001")),
            ("disk.img.009", Some("disk.img.010")),
            ("disk.199", Some("disk.200")),
            ("disk.999", None),
            ("disk.aa", Some("disk.ab")),
            ("disk.az", Some("disk.ba")),
            ("disk.zz", None),
            ("disk.img", None),
            ("disk.01", None),
            ("disk", None),
            (".001", None),
            ("001", None),
        ] {
            let found = next_name(name.as_bytes());
            assert_eq!(found.as_deref(), next.map(str::as_bytes), "{name}");
        }
        for (name, first) in [
            ("d.001", true),
            ("d.000", true),
            ("d.aa", true),
            ("d.002", false),
            ("d.ab", false),
        ] {
            assert_eq!(is_first_name(name.as_bytes()), first, "{name}");
        }
    }
}
