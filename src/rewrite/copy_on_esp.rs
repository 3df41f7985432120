//! The fallback boot loader of an EFI system partition, from the guest's own.

use super::file::{Editor, New, Tree};
use crate::{
    disk::{Error, Kind},
    fs::{GuestPath, Result},
};

/// Boot loaders have some MB at most.
const LARGEST_LOADER: u64 = 16 << 20;

pub(super) fn apply(editor: &mut Editor<'_>, volume: &str, from: &GuestPath, to: &GuestPath) -> Result<()> {
    let missing = |text: String| Error::new(Kind::NotFound, volume, text);
    let index = editor
        .mounts
        .index_of(volume)
        .ok_or_else(|| missing("this EFI system partition is not there any more; plan again".to_owned()))?;
    let tree = Tree::Volume(index);
    let found = tree.find(editor.mounts, from)?.ok_or_else(|| {
        missing(format!(
            "the boot loader {from} is not there any more; plan again"
        ))
    })?;
    let contents = editor.mounts.read_found(&found, LARGEST_LOADER)?;
    let new = New {
        contents: &contents,
        mode: found.attributes.mode.unwrap_or(0o644),
    };
    editor.put(tree, to, &new)
}
