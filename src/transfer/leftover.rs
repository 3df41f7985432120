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

/// Refuses to go on with what was marked so, or with what a restart of the host may have taken back. Looks once at what the
/// earlier run left of all disks, before this one adds anything to that.
pub(crate) fn must_be_worth_resuming(destination: &mut dyn Destination, out: &Locator) -> Result<()> {
    must_have_survived(destination)?;
    let Some(why) = destination.kept(WORTHLESS)? else {
        return Ok(());
    };
    let text = format!(
        "cannot be gone on with: {}; remove the work folder beside it and start again",
        String::from_utf8_lossy(&why)
    );
    Err(Error::new(Kind::Unsafe, out.to_string(), text))
}

/// Name under which a destination keeps the run of the host in which it was written without flushes; empty: it was not.
const UNFLUSHED: &str = "unflushed";

/// Notes that `destination` is written without flushes from now on. A kill takes nothing away from that, but the ledger is
/// ahead of the storage: after a power cut nothing of it can be trusted.
pub(crate) fn without_flushes(destination: &mut dyn Destination) -> Result<()> {
    destination.keep(UNFLUSHED, &this_boot())
}

fn must_have_survived(destination: &mut dyn Destination) -> Result<()> {
    let kept = destination.kept(UNFLUSHED)?.unwrap_or_default();
    if kept.is_empty() || kept == this_boot() {
        return Ok(());
    }
    if matches!(
        destination.leftover(),
        Leftover::Nothing | Leftover::Damaged { resumable: None, .. }
    ) {
        // No ledger knows anything, so nothing is trusted.
        return destination.keep(UNFLUSHED, &[]);
    }
    let text = "was written with -t unsafe, and the host has been restarted since: what is there cannot be trusted. \
                Remove the work folder beside OUT and start again";
    Err(Error::new(Kind::Unsafe, "the unfinished run", text))
}

/// What tells this run of the host from the one before.
fn this_boot() -> Vec<u8> {
    std::fs::read("/proc/sys/kernel/random/boot_id").unwrap_or_default()
}

/// Says of a broken copy that it can be gone on with, or what it has damaged, where `leftover` tells that. A full
/// destination says so itself.
pub(crate) fn resumable(error: Error, leftover: Leftover) -> Error {
    if leftover == Leftover::Nothing || error.kind == Kind::Full {
        return error;
    }
    let text = format!("{}; {leftover}", error.source);
    Error {
        source: text.into(),
        ..error
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        copy::{CHUNK, Identity, Ledger, Run},
        destination::{FileDestination, Shape},
        disk::Digest,
        watch::Unwatched,
    };

    #[test]
    fn what_was_not_flushed_is_trusted_only_until_the_host_restarts() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("out");
        let place = Locator::Path(out.clone());
        let mut destination = FileDestination::create(&out, Shape::Folder).unwrap();
        without_flushes(&mut destination).unwrap();
        must_be_worth_resuming(&mut destination, &place).unwrap();
        // What begins afresh trusts nothing, and is not suspected later of what was before it.
        destination.keep(UNFLUSHED, b"another boot").unwrap();
        must_be_worth_resuming(&mut destination, &place).unwrap();
        assert_eq!(destination.kept(UNFLUSHED).unwrap().unwrap(), b"");

        // The ledger of the second disk knows something, that of the first does not.
        let identity = Identity {
            plan: Digest::of(b"plan"),
            source: Digest::of(b"source"),
            size: 2 * CHUNK,
        };
        let run = Run {
            first: 0,
            count: 1,
            hash: None,
        };
        let disk = |destination: &mut FileDestination, name| destination.disk(name, 0, &identity, &Unwatched);
        drop(disk(&mut destination, "one").unwrap());
        disk(&mut destination, "two").unwrap().1.record(&[run]).unwrap();
        destination.keep(UNFLUSHED, b"another boot").unwrap();
        for _ in 0..2 {
            let error = must_be_worth_resuming(&mut destination, &place).unwrap_err();
            assert!(error.to_string().contains("restarted"), "{error}");
        }
    }

    #[test]
    fn what_is_worthless_stays_so() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("out");
        let mut destination = FileDestination::create(&out, Shape::File).unwrap();
        must_be_worth_resuming(&mut destination, &Locator::Path(out.clone())).unwrap();
        mark_as_worthless(&mut destination, "the source has changed").unwrap();
        let error = must_be_worth_resuming(&mut destination, &Locator::Path(out.clone())).unwrap_err();
        assert!(error.to_string().contains("the source has changed"), "{error}");
    }
}
