//! How much one question to an INF file may give: sections can name each other many times, and strings are longer than
//! what names them, so that a small hostile file could fill the memory.

use super::InfError;

/// Everything that Windows' largest INF file gives for all its devices takes less.
const MOST: usize = 32 << 20;
/// What a part takes beside its text.
const PART: usize = 64;

#[derive(Debug)]
pub(super) struct Budget {
    left: usize,
}

impl Budget {
    pub(super) fn new() -> Self {
        Self { left: MOST }
    }

    /// One more part of the answer, with so many bytes of text.
    pub(super) fn take(&mut self, bytes: usize) -> Result<(), InfError> {
        let whole = bytes.saturating_add(PART);
        self.left = self
            .left
            .checked_sub(whole)
            .ok_or(InfError::TooMuch { most: MOST })?;
        Ok(())
    }
}
