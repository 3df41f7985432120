//! Data of more than one cell, `db` (regf specification, "Big data").

use super::{
    cell::CellOffset,
    error::{HiveError, Parsed},
};
use crate::disk::field::{bytes_at, put_bytes, put_u16_le, put_u32_le, u16_le, u32_le};

/// Bytes of a segment; only the last one has fewer.
pub(super) const SEGMENT: usize = 16344;
/// The first minor version with big data. In older hives a value is in one cell, however long.
pub(super) const OLDEST: u32 = 4;

/// Does data of that length take a big data record in a hive of that minor version?
pub(super) const fn is_needed(length: usize, minor: u32) -> bool {
    length > SEGMENT && minor >= OLDEST
}

/// A big data record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BigData {
    pub(super) segments: usize,
    /// The cell with the list of segments.
    pub(super) list: CellOffset,
}

impl BigData {
    /// From the contents of a cell that is to hold a value of `length` bytes.
    pub(super) fn parse(cell: &[u8], length: usize) -> Parsed<Self> {
        let magic = bytes_at(cell, 0, 2)?;
        if magic != b"db" {
            let what = format!("\"{}\" found where big data has \"db\"", magic.escape_ascii());
            return Err(HiveError::damaged(what));
        }
        let record = Self {
            segments: usize::from(u16_le(cell, 2)?),
            list: CellOffset(u32_le(cell, 4)?),
        };
        if record.segments != length.div_ceil(SEGMENT) {
            return Err(HiveError::damaged(format!(
                "a value of {length} bytes in {} segments of {SEGMENT}",
                record.segments
            )));
        }
        Ok(record)
    }

    /// The contents of its cell.
    pub(super) fn build(self) -> Parsed<Vec<u8>> {
        let mut cell = vec![0; 12];
        put_bytes(&mut cell, 0, b"db")?;
        let segments = u16::try_from(self.segments).map_err(|_| {
            HiveError::Unsupported(format!(
                "a value of {} segments of {SEGMENT} bytes",
                self.segments
            ))
        })?;
        put_u16_le(&mut cell, 2, segments)?;
        put_u32_le(&mut cell, 4, self.list.0)?;
        Ok(cell)
    }
}

/// A list of cells: the segments of big data, and the values of a key.
pub(super) fn parse_list(cell: &[u8], count: usize) -> Parsed<impl Iterator<Item = CellOffset>> {
    let bytes = bytes_at(cell, 0, count.saturating_mul(4))?;
    let element = |element: &[u8]| CellOffset(u32_le(element, 0).unwrap_or(u32::MAX));
    Ok(bytes.chunks_exact(4).map(element))
}

/// The contents of the cell of a list.
pub(super) fn build_list(cells: &[CellOffset]) -> Vec<u8> {
    cells.iter().flat_map(|cell| cell.0.to_le_bytes()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn big_data_has_as_many_segments_as_it_takes() {
        let record = BigData {
            segments: 2,
            list: CellOffset(40),
        };
        let cell = record.build().unwrap();
        for length in [SEGMENT + 1, 2 * SEGMENT] {
            assert_eq!(BigData::parse(&cell, length).unwrap(), record);
        }
        for length in [0, SEGMENT, 2 * SEGMENT + 1, usize::MAX] {
            assert!(BigData::parse(&cell, length).is_err());
        }
        assert!(BigData::parse(b"db", 5).is_err());
        assert!(!is_needed(SEGMENT, 5) && is_needed(SEGMENT + 1, 5) && !is_needed(SEGMENT + 1, 3));
    }

    #[test]
    fn lists_end_within_their_cell() {
        let cells = [CellOffset(32), CellOffset(64)];
        let bytes = build_list(&cells);
        assert_eq!(parse_list(&bytes, 2).unwrap().collect::<Vec<_>>(), cells);
        assert!(parse_list(&bytes, 3).is_err());
        assert!(parse_list(&bytes, usize::MAX).is_err());
    }
}
