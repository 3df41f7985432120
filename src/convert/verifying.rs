//! Reading the manifests of packages while their disks are copied: the files are read once by both, from the host's cache.

use crate::{
    destination::Destination,
    disk::{Error, Kind, Result},
    source::Opened,
    transfer,
    watch::Watch,
};
use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

/// Passes on what it sees, and can be told to stop.
pub(super) struct Stoppable<'a> {
    watch: &'a dyn Watch,
    stopped: AtomicBool,
}

impl<'a> Stoppable<'a> {
    pub(super) fn new(watch: &'a dyn Watch) -> Self {
        Self {
            watch,
            stopped: AtomicBool::new(false),
        }
    }

    fn stop(&self) {
        self.stopped.store(true, Ordering::Release);
    }
}

impl Watch for Stoppable<'_> {
    fn stage(&self, name: &str, bytes: u64) {
        self.watch.stage(name, bytes);
    }

    fn advance(&self, bytes: u64) {
        self.watch.advance(bytes);
    }

    fn say(&self, text: &str) {
        self.watch.say(text);
    }

    fn cancelled(&self) -> bool {
        self.stopped.load(Ordering::Acquire) || self.watch.cancelled()
    }
}

/// Sees no progress: the copy beside it is what is shown.
struct Silent<'a>(Stoppable<'a>);

impl Watch for Silent<'_> {
    fn stage(&self, _name: &str, _bytes: u64) {}

    fn advance(&self, _bytes: u64) {}

    fn cancelled(&self) -> bool {
        self.0.cancelled()
    }
}

/// Runs `copy`, which looks at `watch`, and compares the manifests of `opened` meanwhile. A wrong digest stops the copy.
/// Gives how the copy ended.
///
/// # Errors
/// Those of comparing.
pub(super) fn beside<T>(
    opened: &Opened,
    watch: &Stoppable<'_>,
    copy: impl FnOnce() -> Result<T>,
) -> Result<Result<T>> {
    let silent = Silent(Stoppable::new(watch));
    thread::scope(|scope| {
        let verification = scope.spawn(|| {
            let verified = opened.verify_manifests(&silent);
            if verified
                .as_ref()
                .is_err_and(|error| error.kind != Kind::Cancelled)
            {
                watch.stop();
            }
            verified
        });
        let copied = copy();
        if copied.is_err() {
            silent.0.stop();
        }
        let verified = verification.join().unwrap_or_else(|_| {
            let text = "the reading of a manifest ended before its work was done; this is a fault of the program, please report it";
            Err(Error::new(Kind::Io, "the source", text))
        });
        match verified {
            Err(error) if error.kind != Kind::Cancelled || copied.is_ok() => Err(error),
            _ => Ok(copied),
        }
    })
}

/// Says of `copied` whether it may be gone on with: not if the package that it was read from is damaged.
///
/// # Errors
/// That of the package.
pub(super) fn worth_keeping<T>(
    copied: Result<Result<T>>,
    destination: &mut dyn Destination,
) -> Result<Result<T>> {
    if copied.as_ref().is_err_and(|error| error.kind == Kind::Corrupt) {
        transfer::mark_as_worthless(destination, "the package it was read from is damaged")?;
    }
    copied
}
