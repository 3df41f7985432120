//! The base block: the first 4096 bytes of a hive, and the first sector of a transaction log (regf specification,
//! "Base block").

use super::{
    error::{HiveError, Parsed},
    file_time::FileTime,
};
use crate::disk::field::{array_at, bytes_at, put_u32_le, put_u64_le, u32_le, u64_le};

/// Bytes before the hive bins data. All offsets of cells count from there.
pub(super) const BASE_BLOCK_SIZE: usize = 4096;
/// Bytes that the checksum covers, and where it stands.
const CHECKED: usize = 508;
/// Bit of [`BaseBlock::flags`]: transactions of the kernel transaction manager are pending or may come.
pub(super) const FLAG_TRANSACTIONS: u32 = 1;
/// `Major version` of every Windows NT.
const MAJOR: u32 = 1;
/// Below this is Windows NT 3.1 to 3.51, with other cells and lists.
const OLDEST_MINOR: u32 = 3;
const NEWEST_MINOR: u32 = 6;
/// `File format`: "direct memory load".
const MEMORY_FORMAT: u32 = 1;

/// What a file with a base block is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FileType {
    /// A hive.
    Primary,
    /// A transaction log with a vector of dirty pages.
    OldLog,
    /// A transaction log with entries, from Windows 8.1 on.
    NewLog,
    Unknown(u32),
}

/// The fields that matter here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct BaseBlock {
    /// One more than [`BaseBlock::secondary_sequence`] while the hive is written.
    pub(super) primary_sequence: u32,
    pub(super) secondary_sequence: u32,
    pub(super) written: FileTime,
    pub(super) major: u32,
    pub(super) minor: u32,
    pub(super) file_type: FileType,
    pub(super) format: u32,
    /// Offset of the root key's cell.
    pub(super) root: u32,
    /// Bytes of hive bins.
    pub(super) bins_size: u32,
    /// Sectors of 512 bytes in a sector of the disk.
    pub(super) clustering: u32,
    pub(super) flags: u32,
    pub(super) checksum_fits: bool,
}

impl BaseBlock {
    /// From the first 512 bytes or more of a file.
    pub(super) fn parse(bytes: &[u8]) -> Parsed<Self> {
        let magic: [u8; 4] = array_at(bytes, 0).unwrap_or_default();
        if &magic != b"regf" {
            return Err(HiveError::NotAHive(magic));
        }
        if bytes.len() < CHECKED + 4 {
            let what = format!(
                "the file is cut short: {} bytes, less than a base block",
                bytes.len()
            );
            return Err(HiveError::damaged(what));
        }
        Ok(Self {
            primary_sequence: u32_le(bytes, 4)?,
            secondary_sequence: u32_le(bytes, 8)?,
            written: FileTime(u64_le(bytes, 12)?),
            major: u32_le(bytes, 20)?,
            minor: u32_le(bytes, 24)?,
            file_type: match u32_le(bytes, 28)? {
                0 => FileType::Primary,
                1 | 2 => FileType::OldLog,
                6 => FileType::NewLog,
                other => FileType::Unknown(other),
            },
            format: u32_le(bytes, 32)?,
            root: u32_le(bytes, 36)?,
            bins_size: u32_le(bytes, 40)?,
            clustering: u32_le(bytes, 44)?,
            flags: u32_le(bytes, 144)?,
            checksum_fits: u32_le(bytes, CHECKED)? == checksum(bytes)?,
        })
    }

    /// Was the file not closed properly?
    pub(super) fn is_dirty(&self) -> bool {
        !self.checksum_fits || self.primary_sequence != self.secondary_sequence
    }

    /// Can hives of this version be read?
    pub(super) fn must_be_known(&self) -> Parsed<()> {
        let Self { major, minor, .. } = self;
        if self.file_type == FileType::OldLog || self.file_type == FileType::NewLog {
            return Err(HiveError::Unsupported(
                "is a transaction log: name the hive that it stands beside, its log is then used where it is needed".into(),
            ));
        }
        if *major != MAJOR || !(OLDEST_MINOR..=NEWEST_MINOR).contains(minor) {
            return Err(HiveError::Unsupported(format!(
                "is a hive of version {major}.{minor}; 1.{OLDEST_MINOR} to 1.{NEWEST_MINOR} are handled, Windows 2000 to 11"
            )));
        }
        if self.file_type != FileType::Primary || self.format != MEMORY_FORMAT {
            return Err(HiveError::damaged(format!(
                "file type {:?} and format {} in the base block, where a hive has {:?} and {MEMORY_FORMAT}",
                self.file_type,
                self.format,
                FileType::Primary
            )));
        }
        Ok(())
    }
}

/// The exclusive or of the first 508 bytes; 0 and all ones are never stored.
fn checksum(bytes: &[u8]) -> Parsed<u32> {
    let mut sum = 0;
    for word in bytes_at(bytes, 0, CHECKED)?.chunks_exact(4) {
        sum ^= u32_le(word, 0)?;
    }
    Ok(match sum {
        0 => 1,
        u32::MAX => u32::MAX - 1,
        other => other,
    })
}

/// Stores the checksum of what the base block holds now.
pub(super) fn seal(bytes: &mut [u8]) -> Parsed<()> {
    let sum = checksum(bytes)?;
    Ok(put_u32_le(bytes, CHECKED, sum)?)
}

/// Stores both sequence numbers. The checksum must be stored afterwards.
pub(super) fn put_sequences(bytes: &mut [u8], primary: u32, secondary: u32) -> Parsed<()> {
    put_u32_le(bytes, 4, primary)?;
    Ok(put_u32_le(bytes, 8, secondary)?)
}

/// Stores when the hive was written last. The checksum must be stored afterwards.
pub(super) fn put_written(bytes: &mut [u8], written: FileTime) -> Parsed<()> {
    Ok(put_u64_le(bytes, 12, written.0)?)
}

/// Makes the base block of a log that of a hive. The checksum must be stored afterwards.
pub(super) fn put_primary_type(bytes: &mut [u8]) -> Parsed<()> {
    Ok(put_u32_le(bytes, 28, 0)?)
}

/// Stores the size of the hive bins data. The checksum must be stored afterwards.
pub(super) fn put_bins_size(bytes: &mut [u8], size: u32) -> Parsed<()> {
    Ok(put_u32_le(bytes, 40, size)?)
}

/// Stores the flags. The checksum must be stored afterwards.
pub(super) fn put_flags(bytes: &mut [u8], flags: u32) -> Parsed<()> {
    Ok(put_u32_le(bytes, 144, flags)?)
}

/// A base block of a new hive with one bin of `bins_size` bytes, checksum included.
pub(super) fn build(minor: u32, written: FileTime, root: u32, bins_size: u32) -> Parsed<Vec<u8>> {
    let mut bytes = vec![0; BASE_BLOCK_SIZE];
    crate::disk::field::put_bytes(&mut bytes, 0, b"regf")?;
    put_sequences(&mut bytes, 1, 1)?;
    put_written(&mut bytes, written)?;
    for (at, value) in [(20, MAJOR), (24, minor), (32, MEMORY_FORMAT), (36, root), (44, 1)] {
        put_u32_le(&mut bytes, at, value)?;
    }
    put_bins_size(&mut bytes, bins_size)?;
    seal(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_built_base_block_is_clean_and_known() {
        let bytes = build(5, FileTime(7), 32, 4096).unwrap();
        let base = BaseBlock::parse(&bytes).unwrap();
        assert!(base.checksum_fits && !base.is_dirty());
        assert_eq!((base.root, base.bins_size, base.written), (32, 4096, FileTime(7)));
        base.must_be_known().unwrap();
    }

    #[test]
    fn a_changed_byte_or_an_open_write_makes_it_dirty() {
        let mut bytes = build(5, FileTime(7), 32, 4096).unwrap();
        bytes[100] ^= 1;
        assert!(BaseBlock::parse(&bytes).unwrap().is_dirty());
        let mut bytes = build(5, FileTime(7), 32, 4096).unwrap();
        put_sequences(&mut bytes, 2, 1).unwrap();
        seal(&mut bytes).unwrap();
        let base = BaseBlock::parse(&bytes).unwrap();
        assert!(base.checksum_fits && base.is_dirty());
    }

    #[test]
    fn checksums_that_would_be_zero_or_all_ones_are_replaced() {
        assert_eq!(checksum(&[0; 512]).unwrap(), 1);
        let mut bytes = [0; 512];
        bytes[..4].fill(0xff);
        assert_eq!(checksum(&bytes).unwrap(), 0xffff_fffe);
    }

    #[test]
    fn what_is_no_hive_is_refused() {
        assert!(BaseBlock::parse(b"regf").is_err());
        assert!(matches!(BaseBlock::parse(&[0; 512]), Err(HiveError::NotAHive(_))));
        for (at, value) in [(20, 2), (24, 2), (24, 7), (28, 1), (28, 6), (28, 9), (32, 0)] {
            let mut bytes = build(5, FileTime(7), 32, 4096).unwrap();
            put_u32_le(&mut bytes, at, value).unwrap();
            assert!(
                BaseBlock::parse(&bytes).unwrap().must_be_known().is_err(),
                "{at} {value}"
            );
        }
    }
}
