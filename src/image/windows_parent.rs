//! The parent of a differencing disk, that Windows names by its own paths: found beside the disk.

use super::{Format, Neighbours};
use crate::disk::{Disk, Error, Kind, Result};
use std::sync::Arc;

/// A name is tried for each path, and one for its last part; a disk has few.
const MOST_NAMES: usize = 32;

/// The names to try, in order, for `paths` as they stand in a disk: relative ones as they are, then the last part of
/// each, since an absolute path of Windows means nothing here and files are moved together.
pub(super) fn names(paths: &[String]) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    let here = |path: &String| path.replace('\\', "/");
    let is_absolute = |path: &str| path.starts_with("//") || path.chars().nth(1) == Some(':');
    let whole = paths.iter().map(here).filter(|path| !is_absolute(path));
    let last = paths.iter().map(here).filter_map(|path| {
        let last = path.rsplit(['/', ':']).next().map(str::to_owned);
        last.filter(|last| !matches!(last.as_str(), "" | "." | ".."))
    });
    for name in whole.chain(last).filter(|name| !name.is_empty()) {
        let name = name.strip_prefix("./").map_or(name.clone(), str::to_owned);
        if names.len() < MOST_NAMES && !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

/// A parent.
#[derive(Debug)]
pub(super) struct Parent {
    /// What it was found by.
    pub(super) name: String,
    pub(super) disk: Arc<dyn Disk>,
    /// It is only stood for: whoever opens the image wants to know what it says of itself, and nothing of the parent
    /// can be read.
    pub(super) absent: bool,
}

/// Opens the parent of the disk called `label` by the first of `names` that is there. `accept` looks at its file
/// before the file is opened as an image of `format`: it knows the parent by its identity, and refuses another.
pub(super) fn open(
    label: &str,
    names: &[String],
    format: &str,
    neighbours: &dyn Neighbours,
    accept: impl FnOnce(&str, &dyn Disk) -> Result<()>,
) -> Result<Parent> {
    let mut refused = None;
    for name in names {
        let container = match neighbours.open(name.as_bytes(), Some(Format::Raw.name())) {
            Ok(container) => container,
            Err(error) => {
                if error.kind != Kind::NotFound && refused.is_none() {
                    refused = Some(error);
                }
                continue;
            }
        };
        let absent = match accept(name, container.as_ref()) {
            // A file that was opened and has no bytes.
            Err(error) if error.kind == Kind::NotFound => true,
            result => result.map(|()| false)?,
        };
        let disk = neighbours.open(name.as_bytes(), Some(format))?;
        return Ok(Parent {
            name: name.clone(),
            disk,
            absent,
        });
    }
    Err(refused.unwrap_or_else(|| match names.first() {
        Some(name) => {
            let text = format!(
                "is the parent of {label}, which holds only what differs from it, and is not there (looked for as {}): \
                 put it beside the disk under that name",
                names.join(", ")
            );
            Error::new(Kind::NotFound, name.as_str(), text)
        }
        None => {
            let text = "is a differencing disk that does not name its parent in a way that is known here";
            Error::new(Kind::Unsupported, label, text)
        }
    }))
}

/// UTF-16 as Windows writes it, up to a zero; what is no text is replaced.
pub(super) fn utf16(bytes: &[u8], from: fn([u8; 2]) -> u16) -> String {
    let units = bytes.as_chunks::<2>().0.iter().map(|unit| from(*unit));
    char::decode_utf16(units.take_while(|unit| *unit != 0))
        .map(|character| character.unwrap_or(char::REPLACEMENT_CHARACTER))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_paths_are_names_beside_the_disk() {
        let paths = |list: &[&str]| list.iter().map(|path| (*path).to_owned()).collect::<Vec<_>>();
        assert_eq!(
            names(&paths(&[
                r".\a\base.vhd",
                r"C:\vm\base.vhd",
                r"\\?\d:\old\Grand.vhdx"
            ])),
            ["a/base.vhd", "base.vhd", "Grand.vhdx"]
        );
        assert_eq!(names(&paths(&["/srv/p.vhd", ""])), ["/srv/p.vhd", "p.vhd"]);
        assert_eq!(names(&paths(&[r"..\p.vhd"])), ["../p.vhd", "p.vhd"]);
        assert_eq!(names(&paths(&[r"C:\", "..", "C:p.vhd"])), ["..", "p.vhd"]);
        assert_eq!(names(&vec!["x/y".to_owned(); 100]).len(), 2);
    }

    #[test]
    fn utf16_ends_at_a_zero() {
        assert_eq!(
            utf16(&[0, b'a', 0, 0xe4, 0, 0, 0, b'b'], u16::from_be_bytes),
            "aä"
        );
        assert_eq!(utf16(&[b'a', 0, 0, 0xd8, 7], u16::from_le_bytes), "a\u{fffd}");
    }
}
