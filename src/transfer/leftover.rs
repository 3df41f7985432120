//! What a run that broke, or went wrong, has left at its destination.

use crate::{
    destination::{Destination, Leftover},
    disk::{Error, Kind, Result},
    locator::Locator,
};

/// Name under which a destination keeps why a run is not to be gone on with.
const WORTHLESS: &str = "different";

/// What is at `destination` must not be published, now or later.
pub(crate) fn mark_as_worthless(destination: &mut dyn Destination, why: &str) -> Result<()> {
    destination.keep(WORTHLESS, why.as_bytes())
}

/// Refuses to go on with what was marked so.
pub(crate) fn must_be_worth_resuming(destination: &dyn Destination, out: &Locator) -> Result<()> {
    let Some(why) = destination.kept(WORTHLESS)? else {
        return Ok(());
    };
    let text = format!(
        "cannot be gone on with: {}; remove the work folder beside it and start again",
        String::from_utf8_lossy(&why)
    );
    Err(Error::new(Kind::Unsafe, out.to_string(), text))
}

/// Name under which a destination keeps the run of the host in which it was written without flushes.
const UNFLUSHED: &str = "unflushed";

/// Notes that `destination` is written without flushes; what is `fresh` begins so, anything else goes on. A kill takes
/// nothing away from that, but the ledger is ahead of the storage: after a power cut nothing of it can be trusted.
pub(crate) fn without_flushes(destination: &mut dyn Destination, fresh: bool, unflushed: bool) -> Result<()> {
    let kept = destination.kept(UNFLUSHED)?;
    if let Some(boot) = kept.filter(|_| !fresh)
        && boot != this_boot()
    {
        let text = "was written with -t unsafe, and the host has been restarted since: what is there cannot be trusted. \
                    Remove the work folder beside OUT and start again";
        return Err(Error::new(Kind::Unsafe, "the unfinished run", text));
    }
    if unflushed {
        destination.keep(UNFLUSHED, &this_boot())?;
    }
    Ok(())
}

/// What tells this run of the host from the one before.
fn this_boot() -> Vec<u8> {
    std::fs::read("/proc/sys/kernel/random/boot_id").unwrap_or_default()
}

/// Says of a broken copy that it can be gone on with, where `leftover` tells that. A full destination says so itself.
pub(crate) fn resumable(error: Error, leftover: Leftover) -> Error {
    match leftover {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::destination::{FileDestination, Shape};

    #[test]
    fn what_was_not_flushed_is_trusted_only_until_the_host_restarts() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("out");
        let mut destination = FileDestination::create(&out, Shape::File).unwrap();
        without_flushes(&mut destination, true, true).unwrap();
        without_flushes(&mut destination, false, false).unwrap();
        destination.keep(UNFLUSHED, b"another boot").unwrap();
        let error = without_flushes(&mut destination, false, true).unwrap_err();
        assert!(error.to_string().contains("restarted"), "{error}");
        // What begins afresh trusts nothing.
        without_flushes(&mut destination, true, true).unwrap();
        without_flushes(&mut destination, false, true).unwrap();
    }

    #[test]
    fn what_is_worthless_stays_so() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("out");
        let mut destination = FileDestination::create(&out, Shape::File).unwrap();
        must_be_worth_resuming(&destination, &Locator::Path(out.clone())).unwrap();
        mark_as_worthless(&mut destination, "the source has changed").unwrap();
        let error = must_be_worth_resuming(&destination, &Locator::Path(out.clone())).unwrap_err();
        assert!(error.to_string().contains("the source has changed"), "{error}");
    }
}
