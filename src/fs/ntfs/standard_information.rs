//! `$STANDARD_INFORMATION`: times, attributes and security of a file (Linux-NTFS documentation,
//! "$STANDARD_INFORMATION").

use super::error::Parsed;
use crate::disk::field::{put_u32_le, put_u64_le, u32_le, u64_le};

/// Attributes of files ([MS-FSCC] 2.6).
pub(super) mod attribute {
    pub(crate) const READ_ONLY: u32 = 0x1;
    pub(crate) const HIDDEN: u32 = 0x2;
    pub(crate) const SYSTEM: u32 = 0x4;
    pub(crate) const ARCHIVE: u32 = 0x20;
    pub(crate) const TEMPORARY: u32 = 0x100;
    pub(crate) const SPARSE: u32 = 0x200;
    pub(crate) const REPARSE_POINT: u32 = 0x400;
    pub(crate) const COMPRESSED: u32 = 0x800;
    pub(crate) const OFFLINE: u32 = 0x1000;
    pub(crate) const NOT_CONTENT_INDEXED: u32 = 0x2000;
    pub(crate) const RECALL_ON_OPEN: u32 = 0x4_0000;
    pub(crate) const RECALL_ON_DATA_ACCESS: u32 = 0x40_0000;
    /// In names only: it is a directory.
    pub(crate) const NAMES_DIRECTORY: u32 = 0x1000_0000;
    /// In names only: it has another kind of index.
    pub(crate) const NAMES_VIEW: u32 = 0x2000_0000;
}

/// Up to Windows NT 4, and since Windows 2000.
const SHORT: usize = 0x30;
const LONG: usize = 0x48;

/// Index into the times.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stamp {
    Created = 0,
    Modified = 1,
    Changed = 2,
    Accessed = 3,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct StandardInformation {
    /// By [`Stamp`], in 100 ns since 1601.
    pub(super) times: [u64; 4],
    pub(super) attributes: u32,
    /// 0 and 1 together mark a case sensitive directory (since Windows 10 1803).
    pub(super) versions: [u32; 2],
    /// The descriptor in `$Secure`; `None` before Windows 2000.
    pub(super) security: Option<u32>,
}

impl StandardInformation {
    pub(super) fn parse(raw: &[u8]) -> Parsed<Self> {
        Ok(Self {
            times: [
                u64_le(raw, 0)?,
                u64_le(raw, 8)?,
                u64_le(raw, 16)?,
                u64_le(raw, 24)?,
            ],
            attributes: u32_le(raw, 32)?,
            versions: [u32_le(raw, 36)?, u32_le(raw, 40)?],
            security: match raw.len() {
                LONG.. => Some(u32_le(raw, 0x34)?),
                _ => None,
            },
        })
    }

    /// Upper and lower case differ in this directory.
    pub(super) fn is_case_sensitive(&self) -> bool {
        self.versions == [0, 1]
    }

    /// Writes it over what is there; what it does not know stays. One of Windows NT 4 becomes longer if it gets a security
    /// number.
    pub(super) fn put(&self, raw: &mut Vec<u8>) -> Parsed<()> {
        let length = if self.security.is_some() { LONG } else { SHORT };
        if raw.len() < length {
            raw.resize(length, 0);
        }
        for (index, time) in self.times.iter().enumerate() {
            put_u64_le(raw, index * 8, *time)?;
        }
        put_u32_le(raw, 32, self.attributes)?;
        put_u32_le(raw, 36, self.versions[0])?;
        put_u32_le(raw, 40, self.versions[1])?;
        if let Some(security) = self.security {
            put_u32_le(raw, 0x34, security)?;
        }
        Ok(())
    }
}

/// 100 ns between 1601 and 1970.
const EPOCH: i128 = 116_444_736_000_000_000;

/// In nanoseconds since 1970.
pub(super) fn nanoseconds(time: u64) -> i128 {
    (i128::from(time) - EPOCH) * 100
}

/// In 100 ns since 1601, as near as it can be.
pub(super) fn file_time(nanoseconds: i128) -> u64 {
    let time = nanoseconds.div_euclid(100).saturating_add(EPOCH);
    u64::try_from(time.clamp(0, i128::from(i64::MAX))).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_known_stays() {
        let mut raw: Vec<u8> = (0..0x48).collect();
        let mut information = StandardInformation::parse(&raw).unwrap();
        assert_eq!(information.security, Some(0x3736_3534));
        information.security = Some(256);
        information.times[Stamp::Changed as usize] = 5;
        information.put(&mut raw).unwrap();
        assert_eq!(StandardInformation::parse(&raw).unwrap(), information);
        assert_eq!(raw[0x38..], (0x38..0x48).collect::<Vec<u8>>());
        let old = StandardInformation::parse(&raw[..0x30]).unwrap();
        assert_eq!(old.security, None);
    }

    #[test]
    fn times_are_converted_both_ways() {
        assert_eq!(nanoseconds(116_444_736_000_000_000), 0);
        assert_eq!(file_time(1_700_000_000_123_456_789), 133_444_736_001_234_567);
        assert_eq!(nanoseconds(file_time(-1_000_000_000)), -1_000_000_000);
        assert_eq!(file_time(i128::MIN), 0);
    }
}
