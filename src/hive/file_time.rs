//! FILETIME: 100 nanoseconds since 1601 (MS-DTYP 2.3.3).

/// Seconds from 1601 to 1970.
const TO_1970: u64 = 11_644_473_600;
const PER_SECOND: u64 = 10_000_000;

/// A moment in units of 100 nanoseconds since 1601.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileTime(
    /// As on disk.
    pub u64,
);

impl FileTime {
    /// From seconds since 1970; what is past the year 60000 stays there.
    pub fn from_seconds(seconds: u64) -> Self {
        Self(seconds.saturating_add(TO_1970).saturating_mul(PER_SECOND))
    }

    /// In nanoseconds since 1970, as `fs::Attributes` has times.
    pub fn nanoseconds(self) -> i128 {
        (i128::from(self.0) - i128::from(TO_1970 * PER_SECOND)) * 100
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_epochs_are_369_years_apart() {
        assert_eq!(FileTime::from_seconds(0), FileTime(116_444_736_000_000_000));
        assert_eq!(FileTime::from_seconds(1).nanoseconds(), 1_000_000_000);
        assert_eq!(FileTime::from_seconds(u64::MAX), FileTime(u64::MAX));
    }
}
