//! The second and third judge of an edit: our reader, opened afresh, and an independent one see what was meant.

use super::{
    apply::Edits,
    file::{self, Expected},
};
use crate::{
    disk::{Error, Kind},
    fs::{FileSystem, GuestPath, Result, Witness},
};

/// Looks at every changed file of `volume` through `fresh`, a reader opened on the edited volume after the commit:
/// contents, mode, owner, number of links and extended attributes.
///
/// # Errors
/// `Corrupt`, naming the file and what is wrong with it.
pub fn judge(edits: &Edits, volume: &str, fresh: &dyn FileSystem) -> Result<()> {
    for file in of_volume(edits, volume) {
        let wrong = |what: &str| disagreement(volume, "a reader opened afresh", &file.path, what);
        let mut node = fresh.root();
        for name in file.path.components() {
            node = fresh.lookup(node, name)?.ok_or_else(|| wrong("is not there"))?;
        }
        let attributes = fresh.attributes(node)?;
        let mut reader = Whole {
            filesystem: fresh,
            node,
            offset: 0,
        };
        let contents = file::digest(&mut reader).map_err(|error| Error::io(volume, error))?;
        if contents != file.contents {
            return Err(wrong("has other contents than were written"));
        }
        if attributes.mode != file.mode || attributes.owner != file.owner || attributes.links != file.links {
            return Err(wrong("has another mode, owner or number of links"));
        }
        let names = fresh.extended_names(node)?;
        if names.len() != file.extended.len() {
            return Err(wrong("has other extended attributes"));
        }
        for (name, value) in &file.extended {
            if fresh.extended(node, name)?.as_ref() != Some(value) {
                return Err(wrong("has other extended attributes"));
            }
        }
    }
    Ok(())
}

/// Asks an independent reader, opened on the edited volume, for the contents of every changed file. `true`: it agrees
/// with all; `false`: it could not read some of them, and the report must say "read back by one reader".
///
/// # Errors
/// `Corrupt`: it read something else.
pub fn ask_witness(edits: &Edits, volume: &str, witness: &dyn Witness) -> Result<bool> {
    let mut agrees = true;
    for file in of_volume(edits, volume) {
        match witness.see(&file.path) {
            Ok(Some(contents)) if contents == file.contents => {}
            Ok(Some(_)) => {
                let what = "has other contents than were written";
                return Err(disagreement(volume, witness.name(), &file.path, what));
            }
            Ok(None) => return Err(disagreement(volume, witness.name(), &file.path, "is not there")),
            // A witness that refuses is no judge.
            Err(_) => agrees = false,
        }
    }
    Ok(agrees)
}

fn of_volume<'a>(edits: &'a Edits, volume: &str) -> impl Iterator<Item = &'a Expected> {
    edits.expected.iter().filter(move |file| file.volume == volume)
}

fn disagreement(volume: &str, judge: &str, path: &GuestPath, what: &str) -> Error {
    let text = format!(
        "stopped: {judge} finds that {path} {what}; nothing was written to the destination. This is a defect of this \
         program: please report it"
    );
    Error::new(Kind::Corrupt, volume, text)
}

/// A file from its start to its end, whatever size it says.
struct Whole<'a> {
    filesystem: &'a dyn FileSystem,
    node: crate::fs::Node,
    offset: u64,
}

impl std::io::Read for Whole<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = self.filesystem.read_at(self.node, self.offset, buffer)?;
        self.offset = self.offset.saturating_add(count as u64);
        Ok(count)
    }
}
