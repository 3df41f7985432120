//! Volumes that hold something that a guest may name, and that cannot be looked into.

use crate::fs::Identity;

/// A volume without a filesystem that can be read here: swap, something known by its signature only, or something
/// that is damaged.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct OtherVolume {
    /// Volume id.
    pub volume: String,
    /// Its names; the kind is as `blkid` says it ("swap", "`LVM2_member`", "`crypto_LUKS`", "xfs"), empty if it is not known.
    pub identity: Identity,
    /// Swap that holds a hibernated system: who put it to sleep.
    pub hibernated: Option<String>,
    /// Why a filesystem of a known kind could not be opened, with the cure.
    pub problem: Option<String>,
}
