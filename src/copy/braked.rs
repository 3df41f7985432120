//! What is no copy but moves as much: held back all the same.

use super::brake::Brake;
use crate::watch::Watch;
use std::fmt;

/// Watches, and holds back whoever tells of an advance until the brake lets go.
pub struct Braked<'a> {
    watch: &'a dyn Watch,
    brake: Option<&'a Brake>,
}

impl<'a> Braked<'a> {
    /// `watch`, held back by `brake` if there is one.
    pub fn new(watch: &'a dyn Watch, brake: Option<&'a Brake>) -> Self {
        Self { watch, brake }
    }
}

impl fmt::Debug for Braked<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Braked")
            .field("brake", &self.brake)
            .finish_non_exhaustive()
    }
}

impl Watch for Braked<'_> {
    fn stage(&self, name: &str, bytes: u64) {
        self.watch.stage(name, bytes);
    }

    fn advance(&self, bytes: u64) {
        self.watch.advance(bytes);
        if let Some(brake) = self.brake {
            let rest_until = brake.charge(bytes);
            // Nothing is to be made lasting here, so nothing can fail.
            let _ = brake.wait(rest_until, self.watch, &|| self.watch.cancelled(), &|| Ok(()));
        }
    }

    fn say(&self, text: &str) {
        self.watch.say(text);
    }

    fn cancelled(&self) -> bool {
        self.watch.cancelled()
    }
}
