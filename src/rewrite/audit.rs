//! The first judge of an edit: what was written belongs to the changed files, to metadata, or was free. Never to the
//! data of a file that nobody meant to change.

use crate::{
    disk::{Error, Kind},
    fs::{FileSystem, GuestPath, Node, Result},
};
use std::{collections::BTreeSet, ops::Range};

/// How far the search for the name of a file that would have been harmed goes.
const MAX_SEARCHED: usize = 1_000_000;

/// Checks the ranges of `volume` that an edit has `written` (ascending, disjoint: what [`crate::disk::Recorder`] gives)
/// against a reader that was opened on the state `before` the edit. `changed` are the nodes that the edit was to change.
///
/// # Errors
/// `Corrupt`, naming the file whose data would have been overwritten: nothing of this edit may reach a disk.
pub fn audit(
    volume: &str,
    before: &dyn FileSystem,
    written: &[Range<u64>],
    changed: &BTreeSet<Node>,
) -> Result<()> {
    let mut harmed: Option<(Node, Range<u64>)> = None;
    before.data_runs(&mut |node, run| {
        if harmed.is_none() && !changed.contains(&node) {
            // The first range that ends behind the run's start is the only candidate.
            let first = written.partition_point(|range| range.end <= run.start);
            if let Some(range) = written.get(first).filter(|range| range.start < run.end) {
                harmed = Some((node, range.start.max(run.start)..range.end.min(run.end)));
            }
        }
        Ok(())
    })?;
    let Some((node, range)) = harmed else {
        return Ok(());
    };
    let name = path_of(before, node)?.map_or_else(|| format!("file {}", node.0), |path| path.to_string());
    let text = format!(
        "stopped: the edit would have overwritten {} bytes of {name}, which it was not to change; nothing was written \
         to the destination. This is a defect of this program: please report it",
        range.end.saturating_sub(range.start)
    );
    Err(Error::new(Kind::Corrupt, volume, text).at(range.start))
}

/// A path to `wanted`, breadth first.
fn path_of(filesystem: &dyn FileSystem, wanted: Node) -> Result<Option<GuestPath>> {
    let mut seen = BTreeSet::from([filesystem.root()]);
    let mut folders = vec![(filesystem.root(), GuestPath::from("/"))];
    while !folders.is_empty() {
        let mut next = Vec::new();
        for (folder, path) in folders {
            let mut entries = Vec::new();
            filesystem.list(folder, &mut |name, node| {
                if name != b"." && name != b".." && seen.len() < MAX_SEARCHED && seen.insert(node) {
                    entries.push((node, path.join(name)));
                }
                seen.len() < MAX_SEARCHED
            })?;
            for (node, path) in entries {
                if node == wanted {
                    return Ok(Some(path));
                }
                if filesystem.attributes(node)?.is_directory() {
                    next.push((node, path));
                }
            }
        }
        folders = next;
    }
    Ok(None)
}
