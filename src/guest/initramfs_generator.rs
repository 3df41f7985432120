//! What makes the system's initramfs images.

use super::files::Files;
use serde::{Deserialize, Serialize};

/// Programs that make initramfs images.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum InitramfsGenerator {
    /// Debian's initramfs-tools.
    InitramfsTools,
    /// dracut.
    Dracut,
}

/// By the program that writes images: `update-initramfs` is also there with dracut, and /etc/initramfs-tools stays
/// when the package goes.
pub(crate) fn inspect(files: &Files) -> Option<InitramfsGenerator> {
    let there = |paths: &[&str]| paths.iter().any(|path| files.exists(path));
    if there(&["/usr/sbin/mkinitramfs", "/usr/bin/mkinitramfs"]) {
        Some(InitramfsGenerator::InitramfsTools)
    } else if there(&["/usr/bin/dracut", "/usr/sbin/dracut", "/sbin/dracut"]) {
        Some(InitramfsGenerator::Dracut)
    } else if there(&["/etc/initramfs-tools", "/usr/sbin/update-initramfs"]) {
        Some(InitramfsGenerator::InitramfsTools)
    } else {
        None
    }
}
