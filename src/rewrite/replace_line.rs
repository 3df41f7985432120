//! One line of a text file, only if it is still as the plan found it.

use super::file::Editor;
use crate::{
    disk::{Error, Kind},
    fs::{GuestPath, Result},
};

pub(super) fn apply(
    editor: &mut Editor<'_>,
    path: &GuestPath,
    line: u32,
    old: &GuestPath,
    new: &GuestPath,
) -> Result<()> {
    let found = editor.find(path)?;
    let contents = editor.read_text(&found)?;
    let replaced = replace(&contents, line, old.as_bytes(), new.as_bytes()).map_err(|there| {
        let there = there.map_or("there is no such line".to_owned(), |there| {
            format!("it is {:?}", GuestPath::from(there))
        });
        let text = format!(
            "{path} line {line} is not as it was planned with: expected {old:?}, {there}; plan again"
        );
        Error::new(Kind::Corrupt, &*found.volume, text)
    })?;
    editor.replace(&found, &contents, &replaced)
}

/// `contents` with another line, counted from 1. Otherwise the line that stands there instead.
fn replace<'a>(
    contents: &'a [u8],
    line: u32,
    old: &[u8],
    new: &[u8],
) -> std::result::Result<Vec<u8>, Option<&'a [u8]>> {
    let number = usize::try_from(line).ok().and_then(|line| line.checked_sub(1));
    let lines: Vec<&'a [u8]> = contents.split(|b| *b == b'\n').collect();
    let number = number.ok_or(None)?;
    let there = lines.get(number).copied().ok_or(None)?;
    // A line feed in it would move all lines behind it.
    if there != old || new.contains(&b'\n') {
        return Err(Some(there));
    }
    let mut lines: Vec<&[u8]> = lines;
    if let Some(line) = lines.get_mut(number) {
        *line = new;
    }
    Ok(lines.join(&b'\n'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_that_line_changes() {
        let text = b"one\r\ntwo\n\n\xff four";
        assert_eq!(replace(text, 2, b"two", b"2").unwrap(), b"one\r\n2\n\n\xff four");
        assert_eq!(replace(text, 4, b"\xff four", b"4").unwrap(), b"one\r\ntwo\n\n4");
        assert_eq!(
            replace(text, 1, b"one\r", b"1\r").unwrap(),
            b"1\r\ntwo\n\n\xff four"
        );
    }

    #[test]
    fn another_text_there_is_refused() {
        assert_eq!(replace(b"a\nb\n", 2, b"c", b"d"), Err(Some(&b"b"[..])));
        assert_eq!(replace(b"a\nb\n", 4, b"b", b"d"), Err(None));
        assert_eq!(replace(b"a\nb\n", 0, b"a", b"d"), Err(None));
        assert_eq!(replace(b"a\nb\n", 1, b"a", b"d\ne"), Err(Some(&b"a"[..])));
    }
}
