//! A hive's bytes as hive bins and cells (regf specification, "Hive bin" and "Cell").

use super::{
    base_block::BASE_BLOCK_SIZE,
    error::{HiveError, Parsed},
};
use crate::disk::field::{array_at, bytes_at, put_bytes, put_u32_le, u32_le};
use std::{fmt, ops::Range};

/// Hive bins begin and end at multiples of this.
pub(super) const PAGE: usize = 4096;
/// Bytes before the first cell of a bin.
pub(super) const BIN_HEADER: usize = 32;
/// Sizes and places of cells are multiples of this, and no cell is smaller.
pub(super) const GRAIN: usize = 8;
/// Of a cell's own size field.
const CELL_HEADER: usize = 4;

/// Bytes of the cell that holds `length` bytes.
pub(super) const fn cell_size(length: usize) -> usize {
    length.saturating_add(CELL_HEADER).next_multiple_of(GRAIN)
}

/// Where a cell is: bytes from the start of the hive bins data.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct CellOffset(pub(super) u32);

impl CellOffset {
    /// Points nowhere.
    pub(super) const NONE: Self = Self(u32::MAX);

    pub(super) fn is_none(self) -> bool {
        self == Self::NONE
    }

    /// The byte of the file.
    pub(super) fn in_file(self) -> u64 {
        u64::from(self.0).saturating_add(BASE_BLOCK_SIZE as u64)
    }

    fn index(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

impl fmt::Debug for CellOffset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

/// The whole file, and which bin each page belongs to.
#[derive(Clone, Debug)]
pub(super) struct Cells {
    file: Vec<u8>,
    /// For each page of the hive bins data, the bytes that its bin has there.
    bins: Vec<Range<u32>>,
}

/// A cell with its size field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Extent {
    pub(super) at: CellOffset,
    /// In bytes, with the size field.
    pub(super) size: usize,
    pub(super) allocated: bool,
}

impl Cells {
    /// Of a file that holds a base block and `size` bytes of hive bins.
    pub(super) fn new(file: Vec<u8>, size: u32) -> Parsed<Self> {
        let bins = bins(&file, size, Strict::Yes)?;
        Ok(Self { file, bins })
    }

    /// Of a file whose base block cannot be trusted: as far as there are hive bins.
    pub(super) fn as_far_as_they_go(file: Vec<u8>) -> Parsed<Self> {
        let bins = bins(&file, u32::MAX, Strict::No)?;
        Ok(Self { file, bins })
    }

    /// The whole file, with what is behind the hive bins.
    pub(super) fn file(&self) -> &[u8] {
        &self.file
    }

    pub(super) fn into_file(self) -> Vec<u8> {
        self.file
    }

    pub(super) fn base_block(&mut self) -> &mut [u8] {
        self.file.get_mut(..BASE_BLOCK_SIZE).unwrap_or_default()
    }

    /// The header of the first bin.
    pub(super) fn first_bin(&mut self) -> Option<&mut [u8]> {
        self.file.get_mut(BASE_BLOCK_SIZE..BASE_BLOCK_SIZE + BIN_HEADER)
    }

    /// Bytes of hive bins.
    pub(super) fn size(&self) -> usize {
        self.bins.len().saturating_mul(PAGE)
    }

    /// The bin that `at` is in, if it can be a cell's place.
    pub(super) fn bin(&self, at: CellOffset) -> Option<Range<u32>> {
        self.bins.get(at.index() / PAGE).cloned()
    }

    /// Every bin, in order.
    pub(super) fn bins(&self) -> impl Iterator<Item = Range<u32>> {
        let starts =
            |(page, bin): &(usize, &Range<u32>)| usize::try_from(bin.start) == Ok(page.saturating_mul(PAGE));
        self.bins
            .iter()
            .enumerate()
            .filter(starts)
            .map(|(_, bin)| bin.clone())
    }

    /// The cell at `at`, free or not.
    pub(super) fn extent(&self, at: CellOffset) -> Parsed<Extent> {
        let nowhere = || HiveError::damaged_at(at, "no cell can begin here");
        let bin = self.bin(at).ok_or_else(nowhere)?;
        let first = bin
            .start
            .saturating_add(u32::try_from(BIN_HEADER).unwrap_or(u32::MAX));
        if at.0 < first || !at.index().is_multiple_of(GRAIN) {
            return Err(nowhere());
        }
        let stored = i32::from_le_bytes(array_at(&self.file, in_file(at))?);
        let size = stored.unsigned_abs();
        let fits = at.0.checked_add(size).is_some_and(|end| end <= bin.end);
        let size = usize::try_from(size).unwrap_or(usize::MAX);
        if size < GRAIN || !size.is_multiple_of(GRAIN) || !fits {
            let what = format!(
                "a cell of {size} bytes in a hive bin that ends at {:#x}, where a multiple of {GRAIN} that fits is expected",
                bin.end
            );
            return Err(HiveError::damaged_at(at, what));
        }
        Ok(Extent {
            at,
            size,
            allocated: stored < 0,
        })
    }

    /// What the cell at `at` holds.
    pub(super) fn contents(&self, at: CellOffset) -> Parsed<&[u8]> {
        let range = self.contents_range(at)?;
        self.file
            .get(range)
            .ok_or_else(|| HiveError::damaged_at(at, "past the end of the file"))
    }

    /// What the cell at `at` holds, to be changed.
    pub(super) fn contents_mut(&mut self, at: CellOffset) -> Parsed<&mut [u8]> {
        let range = self.contents_range(at)?;
        self.file
            .get_mut(range)
            .ok_or_else(|| HiveError::damaged_at(at, "past the end of the file"))
    }

    fn contents_range(&self, at: CellOffset) -> Parsed<Range<usize>> {
        let extent = self.extent(at)?;
        if !extent.allocated {
            return Err(HiveError::damaged_at(
                at,
                "something refers to this cell, which is free",
            ));
        }
        let start = in_file(at);
        Ok(start.saturating_add(CELL_HEADER)..start.saturating_add(extent.size))
    }

    /// Makes what lies at `at` a cell of `size` bytes. The caller knows that the place is its own.
    pub(super) fn put_extent(&mut self, extent: Extent) -> Parsed<()> {
        let size = i32::try_from(extent.size).unwrap_or(i32::MAX);
        let stored = if extent.allocated {
            size.saturating_neg()
        } else {
            size
        };
        Ok(put_bytes(
            &mut self.file,
            in_file(extent.at),
            &stored.to_le_bytes(),
        )?)
    }

    /// Adds a bin of `size` bytes, a multiple of [`PAGE`], with one free cell that fills it. The base block must be told.
    pub(super) fn add_bin(&mut self, size: usize) -> Parsed<Extent> {
        let start = self.size();
        let too_big = || HiveError::Full(format!("no hive bin of {size} bytes fits behind {start:#x}"));
        let offset = u32::try_from(start).map_err(|_| too_big())?;
        let length = u32::try_from(size).map_err(|_| too_big())?;
        let end = offset.checked_add(length).ok_or_else(too_big)?;
        let begin = BASE_BLOCK_SIZE.saturating_add(start);
        let file_end = begin.saturating_add(size);
        if self.file.len() < file_end {
            self.file.resize(file_end, 0);
        }
        // What is there is left from a time when the hive was larger.
        if let Some(bin) = self.file.get_mut(begin..file_end) {
            bin.fill(0);
            put_bytes(bin, 0, b"hbin")?;
            put_u32_le(bin, 4, offset)?;
            put_u32_le(bin, 8, length)?;
        }
        self.bins.extend(std::iter::repeat_n(offset..end, size / PAGE));
        let free = Extent {
            at: CellOffset(offset.saturating_add(u32::try_from(BIN_HEADER).unwrap_or(u32::MAX))),
            size: size.saturating_sub(BIN_HEADER),
            allocated: false,
        };
        self.put_extent(free)?;
        Ok(free)
    }
}

fn in_file(at: CellOffset) -> usize {
    at.index().saturating_add(BASE_BLOCK_SIZE)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Strict {
    /// There must be `size` bytes of hive bins.
    Yes,
    /// It ends where the hive bins do.
    No,
}

fn bins(file: &[u8], size: u32, strict: Strict) -> Parsed<Vec<Range<u32>>> {
    let data = file.get(BASE_BLOCK_SIZE..).unwrap_or_default();
    let wanted = usize::try_from(size).unwrap_or(usize::MAX);
    if strict == Strict::Yes {
        if wanted == 0 || !wanted.is_multiple_of(PAGE) {
            let what = format!(
                "the base block says {size} bytes of hive bins, where a multiple of {PAGE} is expected"
            );
            return Err(HiveError::damaged(what));
        }
        if data.len() < wanted {
            return Err(HiveError::damaged(format!(
                "the file is cut short: {wanted} bytes of hive bins by its base block, {} are there",
                data.len()
            )));
        }
    }
    let mut bins = Vec::new();
    let mut at: u32 = 0;
    while at < size {
        let end = match bin_end(data, at) {
            Ok(end) if end <= size => end,
            Ok(_) if strict == Strict::Yes => {
                return Err(HiveError::damaged_at(
                    CellOffset(at),
                    "the last hive bin is too long",
                ));
            }
            Err(error) if strict == Strict::Yes => return Err(error),
            _ => break,
        };
        let pages = usize::try_from(end.saturating_sub(at)).unwrap_or(0) / PAGE;
        bins.extend(std::iter::repeat_n(at..end, pages));
        at = end;
    }
    if bins.is_empty() {
        return Err(HiveError::damaged("there is no hive bin behind the base block"));
    }
    Ok(bins)
}

/// Where the bin at `at` ends.
fn bin_end(data: &[u8], at: u32) -> Parsed<u32> {
    let place = CellOffset(at);
    let header = bytes_at(data, place.index(), BIN_HEADER)?;
    let (magic, offset, size) = (array_at(header, 0)?, u32_le(header, 4)?, u32_le(header, 8)?);
    if &magic != b"hbin" || offset != at {
        let what = format!(
            "\"{}\" with offset {offset:#x} found, where a hive bin has \"hbin\" and {at:#x}",
            magic.escape_ascii()
        );
        return Err(HiveError::damaged_at(place, what));
    }
    let long = usize::try_from(size).unwrap_or(usize::MAX);
    let end = place.index().checked_add(long).filter(|end| *end <= data.len());
    match (at.checked_add(size), end) {
        (Some(end), Some(_)) if long >= PAGE && long.is_multiple_of(PAGE) => Ok(end),
        _ => Err(HiveError::damaged_at(
            place,
            format!("a hive bin of {size} bytes"),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cells() -> Cells {
        let mut cells = Cells {
            file: vec![0; BASE_BLOCK_SIZE],
            bins: Vec::new(),
        };
        cells.add_bin(PAGE).unwrap();
        cells.add_bin(2 * PAGE).unwrap();
        cells
    }

    #[test]
    fn a_new_bin_is_one_free_cell_and_is_read_back() {
        let cells = cells();
        assert_eq!(cells.size(), 3 * PAGE);
        let again = Cells::new(cells.file.clone(), 3 * 4096).unwrap();
        assert_eq!(again.bins().collect::<Vec<_>>(), [0..4096, 4096..12288]);
        let free = again.extent(CellOffset(4096 + 32)).unwrap();
        assert_eq!((free.size, free.allocated), (2 * PAGE - 32, false));
        assert!(again.contents(CellOffset(4096 + 32)).is_err(), "it is free");
    }

    #[test]
    fn cells_lie_within_one_bin() {
        let mut cells = cells();
        for at in [0, 8, 31, 33, 36, 4096, 12288, u32::MAX] {
            assert!(cells.extent(CellOffset(at)).is_err(), "{at}");
        }
        for (at, size) in [(32, 4072), (32, 4), (32, 12), (4088, 16), (8192, 4104)] {
            let extent = Extent {
                at: CellOffset(at),
                size,
                allocated: true,
            };
            cells.put_extent(extent).unwrap();
            assert!(cells.contents(CellOffset(at)).is_err(), "{at} {size}");
        }
        let extent = Extent {
            at: CellOffset(8192),
            size: 4096,
            allocated: true,
        };
        cells.put_extent(extent).unwrap();
        assert_eq!(cells.contents(CellOffset(8192)).unwrap().len(), 4092);
    }

    #[test]
    fn bins_must_stand_where_they_say() {
        let good = cells().into_file();
        for (at, value) in [(0, 0), (4, 4096), (8, 0), (8, 4095), (8, 8192), (8, u32::MAX)] {
            let mut file = good.clone();
            put_u32_le(&mut file, BASE_BLOCK_SIZE + at, value).unwrap();
            assert!(Cells::new(file, 3 * 4096).is_err(), "{at} {value}");
        }
        let mut file = good.clone();
        put_u32_le(&mut file, BASE_BLOCK_SIZE + PAGE, 0).unwrap();
        assert_eq!(Cells::as_far_as_they_go(file).unwrap().size(), PAGE);
        assert!(Cells::as_far_as_they_go(vec![0; 3 * PAGE]).is_err());
        assert!(Cells::new(good.clone(), 4 * 4096).is_err(), "cut short");
        assert!(Cells::new(good.clone(), 4097).is_err());
        assert!(Cells::new(good.clone(), 0).is_err());
        assert_eq!(Cells::as_far_as_they_go(good).unwrap().size(), 3 * PAGE);
    }
}
