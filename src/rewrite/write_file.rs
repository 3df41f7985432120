//! A file of ours.

use super::file::{Editor, New, Tree};
use crate::fs::{GuestPath, Result};

pub(super) fn apply(editor: &mut Editor<'_>, path: &GuestPath, contents: &str, mode: u32) -> Result<()> {
    let new = New {
        contents: contents.as_bytes(),
        mode,
    };
    editor.put(Tree::Guest, path, &new)
}
