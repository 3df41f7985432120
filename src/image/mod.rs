//! Image formats: a format is a [`Disk`] made of other `Disk`s, so formats nest.

use crate::disk::{Disk, Result};
use std::sync::Arc;

/// A disk with a container around it.
pub trait Image: Disk {
    /// "qcow2", as `-O` spells it.
    fn format(&self) -> &'static str;
    /// Structure errors and leaks, one sentence each.
    fn check(&self) -> Result<Vec<String>>;
}

/// May this image open the file that it names? The caller's answer; the image has no other way out.
pub trait Neighbours {
    /// `format` as the image declares it; never probed.
    fn open(&self, name: &[u8], format: Option<&str>) -> Result<Arc<dyn Disk>>;
}
