//! Lines at the end of a text file, those that it has not yet.

use super::file::{Editor, New, Tree};
use crate::fs::{GuestPath, Result};

pub(super) fn apply(editor: &mut Editor<'_>, path: &GuestPath, lines: &[String]) -> Result<()> {
    let Some(found) = editor.mounts.find(path)? else {
        let new = New {
            contents: &more(b"", lines),
            mode: 0o644,
        };
        return editor.put(Tree::Guest, path, &new);
    };
    let contents = editor.read_text(&found)?;
    let more = more(&contents, lines);
    if more.is_empty() {
        return Ok(());
    }
    editor.append(&found, &more)
}

/// What is to be appended. A last line without a line feed gets one, and so does ours: programs that read by lines
/// overlook it otherwise.
fn more(contents: &[u8], lines: &[String]) -> Vec<u8> {
    let there: Vec<&[u8]> = contents.split(|b| *b == b'\n').map(<[u8]>::trim_ascii).collect();
    let new: Vec<&String> = lines
        .iter()
        .filter(|line| !there.contains(&line.trim().as_bytes()))
        .collect();
    let mut more = Vec::new();
    if !new.is_empty() && !contents.is_empty() && !contents.ends_with(b"\n") {
        more.push(b'\n');
    }
    for line in new {
        more.extend_from_slice(line.as_bytes());
        more.push(b'\n');
    }
    more
}

#[cfg(test)]
mod tests {
    use super::more;

    #[test]
    fn lines_that_are_there_are_not_repeated() {
        let lines = ["# ours".to_owned(), "virtio_pci".into(), "virtio_blk".into()];
        assert_eq!(more(b"", &lines), b"# ours\nvirtio_pci\nvirtio_blk\n");
        assert_eq!(more(b"a\n  virtio_pci \r\n# ours\n", &lines), b"virtio_blk\n");
        assert_eq!(more(b"a\nvirtio_pci", &lines), b"\n# ours\nvirtio_blk\n");
        assert_eq!(more(b"# ours\nvirtio_pci\nvirtio_blk", &lines), b"");
    }
}
