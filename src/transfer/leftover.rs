//! What a run that broke, or went wrong, has left at its destination.

use crate::{
    destination::{Destination, Leftover},
    disk::{Error, Kind, Result},
};
use std::path::Path;

/// Name under which a destination keeps why a run is not to be gone on with.
const WORTHLESS: &str = "different";

/// What is at `destination` must not be published, now or later.
pub(crate) fn mark_as_worthless(destination: &mut dyn Destination, why: &str) -> Result<()> {
    destination.keep(WORTHLESS, why.as_bytes())
}

/// Refuses to go on with what was marked so.
pub(crate) fn must_be_worth_resuming(destination: &dyn Destination, out: &Path) -> Result<()> {
    let Some(why) = destination.kept(WORTHLESS)? else {
        return Ok(());
    };
    let text = format!(
        "cannot be gone on with: {}; remove the work folder beside it and start again",
        String::from_utf8_lossy(&why)
    );
    Err(Error::new(Kind::Unsafe, out.display().to_string(), text))
}

/// Says of a broken copy that it can be gone on with, where it can. A full destination says so itself.
pub(crate) fn resumable(error: Error, destination: &dyn Destination) -> Error {
    match destination.leftover() {
        Leftover::Resumable(folder) if error.kind != Kind::Full => {
            let text = format!(
                "{}; what is written so far is kept in {}: go on with --resume, or remove that folder",
                error.source,
                folder.display()
            );
            Error {
                source: text.into(),
                ..error
            }
        }
        _ => error,
    }
}
