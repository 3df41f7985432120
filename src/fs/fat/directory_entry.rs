//! A directory entry of 32 bytes and its times (specification, "FAT Directory Structure", "Date and Time Formats").

use crate::disk::field::{Truncated, array_at, put_bytes, put_u16_le, put_u32_le, u8_at, u16_le, u32_le};

pub(super) const VOLUME_LABEL: u8 = 0x08;
pub(super) const DIRECTORY: u8 = 0x10;
pub(super) const ARCHIVE: u8 = 0x20;
/// All of the first four attributes: a slot of a long name.
pub(super) const LONG_NAME: u8 = 0x0f;
pub(super) const LONG_NAME_MASK: u8 = 0x3f;
/// First byte of a slot that is free.
pub(super) const FREE: u8 = 0xe5;
/// First byte of a slot that is free, as are all after it.
pub(super) const LAST: u8 = 0x00;
/// Stands for a first byte 0xE5 of a name.
const ESCAPED_E5: u8 = 0x05;
/// Bytes of one entry.
pub(super) const LENGTH: usize = 32;

/// Windows NT's flags at byte 12: base or extension are lower case.
const LOWER_BASE: u8 = 0x08;
const LOWER_EXTENSION: u8 = 0x10;

/// The entry that holds the short name and everything else about a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct DirectoryEntry {
    /// As on disk: base 8, extension 3, padded with spaces.
    pub(super) short: [u8; 11],
    pub(super) attributes: u8,
    /// Windows NT's lower-case flags.
    pub(super) case: u8,
    pub(super) created: Stamp,
    pub(super) accessed_date: u16,
    pub(super) modified: Stamp,
    /// 0: no cluster.
    pub(super) cluster: u32,
    pub(super) size: u32,
}

impl DirectoryEntry {
    /// `large`: the upper half of the cluster number counts (FAT32).
    pub(super) fn parse(bytes: &[u8], large: bool) -> Result<Self, Truncated> {
        let high = if large { u32::from(u16_le(bytes, 20)?) } else { 0 };
        Ok(Self {
            short: array_at(bytes, 0)?,
            attributes: u8_at(bytes, 11)?,
            case: u8_at(bytes, 12)?,
            created: Stamp {
                date: u16_le(bytes, 16)?,
                time: u16_le(bytes, 14)?,
                hundredths: u8_at(bytes, 13)?,
            },
            accessed_date: u16_le(bytes, 18)?,
            modified: Stamp {
                date: u16_le(bytes, 24)?,
                time: u16_le(bytes, 22)?,
                hundredths: 0,
            },
            cluster: high << 16 | u32::from(u16_le(bytes, 26)?),
            size: u32_le(bytes, 28)?,
        })
    }

    pub(super) fn to_bytes(&self) -> [u8; LENGTH] {
        let mut bytes = [0; LENGTH];
        // The offsets are constants within 32 bytes: none can fail.
        let _ = self.put(&mut bytes);
        bytes
    }

    fn put(&self, bytes: &mut [u8]) -> Result<(), Truncated> {
        put_bytes(bytes, 0, &self.short)?;
        put_bytes(bytes, 11, &[self.attributes, self.case, self.created.hundredths])?;
        put_u16_le(bytes, 14, self.created.time)?;
        put_u16_le(bytes, 16, self.created.date)?;
        put_u16_le(bytes, 18, self.accessed_date)?;
        put_u16_le(bytes, 20, (self.cluster >> 16) as u16)?;
        put_u16_le(bytes, 22, self.modified.time)?;
        put_u16_le(bytes, 24, self.modified.date)?;
        put_u16_le(bytes, 26, (self.cluster & 0xffff) as u16)?;
        put_u32_le(bytes, 28, self.size)
    }

    pub(super) fn is_directory(&self) -> bool {
        self.attributes & DIRECTORY != 0
    }

    /// `.` or `..`, which every directory but the root begins with.
    pub(super) fn is_dot(&self) -> bool {
        self.short.starts_with(b".")
    }

    /// The short name as it is shown: dotted, in lower case where Windows NT's flags say so.
    pub(super) fn short_name(&self) -> String {
        let (base, extension) = self.short.split_at(8);
        let mut name = part(base, self.case & LOWER_BASE != 0);
        let extension = part(extension, self.case & LOWER_EXTENSION != 0);
        if !extension.is_empty() {
            name.push('.');
            name.push_str(&extension);
        }
        name
    }
}

fn part(bytes: &[u8], lower: bool) -> String {
    let length = bytes.iter().rposition(|b| *b != b' ').map_or(0, |last| last + 1);
    let text = bytes
        .iter()
        .take(length)
        .enumerate()
        .map(|(index, byte)| match byte {
            &ESCAPED_E5 if index == 0 => oem_character(FREE),
            byte => oem_character(*byte),
        });
    if lower {
        text.map(|character| character.to_ascii_lowercase()).collect()
    } else {
        text.collect()
    }
}

/// The upper half of code page 437, the one that the kernel takes by default.
const UPPER_HALF: &str = "ÇüéâäàåçêëèïîìÄÅÉæÆôöòûùÿÖÜ¢£¥₧ƒáíóúñÑªº¿⌐¬½¼¡«»░▒▓│┤╡╢╖╕╣║╗╝╜╛┐└┴┬├─┼╞╟╚╔╩╦╠═╬╧╨╤╥╙╘╒╓╫╪┘┌█▄▌▐▀\
                          αßΓπΣσµτΦΘΩδ∞φε∩≡±≥≤⌠⌡÷≈°∙·√ⁿ²■\u{a0}";

/// A byte of a short name as a character.
pub(super) fn oem_character(byte: u8) -> char {
    match byte.checked_sub(0x80) {
        None => char::from(byte),
        Some(index) => UPPER_HALF.chars().nth(usize::from(index)).unwrap_or('_'),
    }
}

/// A point in time as FAT has it; taken as UTC. Date 0 means "not known".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Stamp {
    /// Years since 1980, month, day.
    pub(super) date: u16,
    /// Hours, minutes, seconds / 2.
    pub(super) time: u16,
    /// Hundredths of a second, 0 to 199, on top of `time`; only creation times have them.
    pub(super) hundredths: u8,
}

const NANOSECONDS: i128 = 1_000_000_000;
/// Days from 1970 to 1980, and to the end of 2107, the last year that a date can say.
const DAY_1980: i64 = 3652;
const DAY_2108: i64 = 50403;

impl Stamp {
    /// Nanoseconds since 1970, or `None` if the date is none.
    pub(super) fn nanoseconds(self) -> Option<i128> {
        let (year, month, day) = (self.date >> 9, self.date >> 5 & 0xf, self.date & 0x1f);
        if !(1..=12).contains(&month) || day == 0 {
            return None;
        }
        let days = days_from_civil(1980 + i64::from(year), i64::from(month), i64::from(day));
        let (hours, minutes, pairs) = (self.time >> 11, self.time >> 5 & 0x3f, self.time & 0x1f);
        let seconds = days * 86400 + i64::from(hours) * 3600 + i64::from(minutes) * 60 + i64::from(pairs) * 2;
        Some(i128::from(seconds) * NANOSECONDS + i128::from(self.hundredths) * (NANOSECONDS / 100))
    }

    /// The nearest point in time, rounded down, that FAT can say.
    pub(super) fn from_nanoseconds(nanoseconds: i128) -> Self {
        let first = i128::from(DAY_1980 * 86400) * NANOSECONDS;
        let last = i128::from(DAY_2108 * 86400) * NANOSECONDS - 1;
        let nanoseconds = nanoseconds.clamp(first, last);
        let seconds = i64::try_from(nanoseconds.div_euclid(NANOSECONDS)).unwrap_or(0);
        let (days, second) = (seconds.div_euclid(86400), seconds.rem_euclid(86400));
        let (year, month, day) = civil_from_days(days);
        let rest = nanoseconds.rem_euclid(2 * NANOSECONDS) / (NANOSECONDS / 100);
        let field = |value: i64| u16::try_from(value).unwrap_or(0);
        Self {
            date: field(year - 1980) << 9 | field(month) << 5 | field(day),
            time: field(second / 3600) << 11 | field(second / 60 % 60) << 5 | field(second % 60 / 2),
            hundredths: u8::try_from(rest).unwrap_or(0),
        }
    }
}

/// Days since 1970-01-01 of a date of the Gregorian calendar. Years are counted from March, so that the leap day
/// is the last; an era has 400 of them.
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let month = (shifted_month + 2) % 12 + 1;
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, month, day_of_year - (153 * shifted_month + 2) / 5 + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_survive_the_way_to_the_disk_and_back() {
        for seconds in [
            315_532_800,
            951_782_399,
            951_782_400,
            1_700_000_001,
            4_354_819_199_i128,
        ] {
            let nanoseconds = seconds * NANOSECONDS + 230_000_000;
            let stamp = Stamp::from_nanoseconds(nanoseconds);
            assert_eq!(stamp.nanoseconds(), Some(nanoseconds), "{seconds}");
        }
        let stamp = Stamp::from_nanoseconds(1_709_210_097 * NANOSECONDS); // 2024-02-29 12:34:57
        assert_eq!(
            (stamp.date, stamp.time),
            (44 << 9 | 2 << 5 | 29, 12 << 11 | 34 << 5 | 28)
        );
        assert_eq!(Stamp::from_nanoseconds(0).date, 1 << 5 | 1);
        assert_eq!(Stamp::from_nanoseconds(i128::MAX).date, 127 << 9 | 12 << 5 | 31);
        assert_eq!(Stamp::default().nanoseconds(), None);
    }

    #[test]
    fn short_names_are_shown_with_their_dot_and_case() {
        let mut entry = DirectoryEntry::parse(&[b' '; 32], false).unwrap();
        entry.short = *b"GRUBX64 EFI";
        entry.case = 0;
        assert_eq!(entry.short_name(), "GRUBX64.EFI");
        entry.case = LOWER_BASE;
        assert_eq!(entry.short_name(), "grubx64.EFI");
        entry.short = *b"\x05A         ";
        assert_eq!(entry.short_name(), "σa");
        assert_eq!(UPPER_HALF.chars().count(), 128);
    }
}
