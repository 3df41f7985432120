//! `$Volume`: version, flags and label (Linux-NTFS documentation, "$Volume").

use super::{error::Parsed, name};
use crate::disk::field::{u8_at, u16_le};

/// Flags of a volume.
pub(super) mod flag {
    /// It was not unmounted, or something wrong was found.
    pub(crate) const DIRTY: u16 = 0x0001;
    /// The change journal is being deleted.
    pub(crate) const DELETE_USN: u16 = 0x0010;
    /// `chkdsk` was at work and did not end.
    pub(crate) const CHECK_UNDERWAY: u16 = 0x4000;
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct VolumeInformation {
    pub(super) version: (u8, u8),
    pub(super) flags: u16,
}

impl VolumeInformation {
    pub(super) fn parse(raw: &[u8]) -> Parsed<Self> {
        Ok(Self {
            version: (u8_at(raw, 8)?, u8_at(raw, 9)?),
            flags: u16_le(raw, 10)?,
        })
    }

    pub(super) fn has(&self, flag: u16) -> bool {
        self.flags & flag != 0
    }

    /// The version that has room for a record's own number (Windows XP).
    pub(super) fn records_have_numbers(&self) -> bool {
        self.version >= (3, 1)
    }
}

/// The label, `None` if it is empty.
pub(super) fn label(raw: &[u8]) -> Option<String> {
    let units: Vec<u16> = name::units(raw).collect();
    (!units.is_empty()).then(|| String::from_utf16_lossy(&units))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_flags_and_label() {
        let raw = [0, 0, 0, 0, 0, 0, 0, 0, 3, 1, 1, 0];
        let volume = VolumeInformation::parse(&raw).unwrap();
        assert_eq!(volume.version, (3, 1));
        assert!(volume.has(flag::DIRTY) && volume.records_have_numbers());
        assert_eq!(label(b"W\0i\0n\0"), Some("Win".to_owned()));
        assert_eq!(label(b""), None);
    }
}
