//! Watching a long job, and stopping it: the program draws bars, the tests count.

/// Passed down by reference; nothing below knows of a terminal.
pub trait Watch: Sync {
    /// A stage begins; `bytes` is what it expects to move (0: unknown).
    fn stage(&self, name: &str, bytes: u64);
    /// `bytes` more are done.
    fn advance(&self, bytes: u64);
    /// Something that whoever watches should know at once: the job pauses, or goes on. One sentence.
    fn say(&self, _text: &str) {}
    /// Ctrl-C, a closed window, a lost operator: stop at the next safe point.
    fn cancelled(&self) -> bool;
}

/// Nobody watches and nobody cancels.
#[derive(Clone, Copy, Debug, Default)]
pub struct Unwatched;

impl Watch for Unwatched {
    fn stage(&self, _name: &str, _bytes: u64) {}
    fn advance(&self, _bytes: u64) {}
    fn cancelled(&self) -> bool {
        false
    }
}
