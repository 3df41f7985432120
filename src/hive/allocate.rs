//! Free cells: taken, given back, joined with their neighbours; and bins added where none is large enough.

use super::{
    LARGEST_HIVE,
    base_block::BASE_BLOCK_SIZE,
    cell::{BIN_HEADER, CellOffset, Cells, Extent, PAGE, cell_size},
    check::{Bits, Survey},
    error::{HiveError, Parsed},
};
use crate::disk::field::put_bytes;
use std::collections::{BTreeMap, BTreeSet};

/// Which cells are free. All that is allocated or freed goes through here.
#[derive(Clone, Debug)]
pub(super) struct Space {
    allocated: Bits,
    /// Size of each free cell.
    by_place: BTreeMap<CellOffset, usize>,
    /// The same, smallest first.
    by_size: BTreeSet<(usize, CellOffset)>,
}

impl Space {
    pub(super) fn new(survey: &Survey) -> Self {
        let mut space = Self {
            allocated: survey.allocated.clone(),
            by_place: BTreeMap::new(),
            by_size: BTreeSet::new(),
        };
        for free in &survey.free {
            space.add(*free);
        }
        space
    }

    /// A new cell that holds `contents`: in the smallest free cell that is large enough, the first of them; else in a new bin at
    /// the end. The base block must be told how many bytes of bins there are.
    pub(super) fn allocate(&mut self, cells: &mut Cells, contents: &[u8]) -> Parsed<CellOffset> {
        let size = cell_size(contents.len());
        let free = match self.by_size.range((size, CellOffset(0))..).next().copied() {
            Some((size, at)) => Extent {
                at,
                size,
                allocated: false,
            },
            None => self.add_bin(cells, size)?,
        };
        self.take(free);
        let rest = free.size.saturating_sub(size);
        if rest > 0 {
            // Sizes are multiples of the smallest cell, so what is left is one.
            let rest = Extent {
                at: behind(free.at, size)?,
                size: rest,
                allocated: false,
            };
            cells.put_extent(rest)?;
            self.add(rest);
        }
        let extent = Extent {
            at: free.at,
            size,
            allocated: true,
        };
        cells.put_extent(extent)?;
        self.allocated.set(free.at);
        overwrite(cells, free.at, contents)?;
        Ok(free.at)
    }

    /// The cell at `at` is free now.
    pub(super) fn free(&mut self, cells: &mut Cells, at: CellOffset) -> Parsed<()> {
        let mut extent = cells.extent(at)?;
        if !extent.allocated || !self.allocated.clear(at) {
            return Err(HiveError::damaged_at(
                at,
                "this cell is to be freed, and is none or free already",
            ));
        }
        extent.allocated = false;
        let bin = cells.bin(at).unwrap_or_default();
        let next = behind(at, extent.size)?;
        if next.0 < bin.end
            && let Some(size) = self.by_place.get(&next).copied()
        {
            self.take(Extent {
                at: next,
                size,
                ..extent
            });
            extent.size = extent.size.saturating_add(size);
        }
        let before = self
            .by_place
            .range(..at)
            .next_back()
            .map(|(before, size)| (*before, *size));
        if let Some((before, size)) = before
            && before.0 >= bin.start
            && behind(before, size)? == at
        {
            self.take(Extent {
                at: before,
                size,
                ..extent
            });
            extent.at = before;
            extent.size = extent.size.saturating_add(size);
        }
        cells.put_extent(extent)?;
        self.add(extent);
        Ok(())
    }

    /// Gives a cell other contents: in its place if they fit and do not leave most of it empty, else elsewhere. Where it is now.
    pub(super) fn replace(
        &mut self,
        cells: &mut Cells,
        at: CellOffset,
        contents: &[u8],
    ) -> Parsed<CellOffset> {
        let size = cell_size(contents.len());
        let there = cells.extent(at)?.size;
        if size <= there && there <= size.saturating_mul(2) {
            overwrite(cells, at, contents)?;
            return Ok(at);
        }
        let new = self.allocate(cells, contents)?;
        self.free(cells, at)?;
        Ok(new)
    }

    fn add_bin(&mut self, cells: &mut Cells, size: usize) -> Parsed<Extent> {
        let bin = size.saturating_add(BIN_HEADER).next_multiple_of(PAGE);
        let new_size = cells.size().saturating_add(bin).saturating_add(BASE_BLOCK_SIZE);
        if new_size as u64 > LARGEST_HIVE {
            return Err(HiveError::Full(format!(
                "no room for {size} bytes more: hives of up to {LARGEST_HIVE} bytes are handled"
            )));
        }
        let free = cells.add_bin(bin)?;
        self.allocated.grow(cells.size());
        self.add(free);
        Ok(free)
    }

    fn add(&mut self, free: Extent) {
        self.by_place.insert(free.at, free.size);
        self.by_size.insert((free.size, free.at));
    }

    fn take(&mut self, free: Extent) {
        self.by_place.remove(&free.at);
        self.by_size.remove(&(free.size, free.at));
    }
}

/// What was in the cell before does not stay behind the new contents.
fn overwrite(cells: &mut Cells, at: CellOffset, contents: &[u8]) -> Parsed<()> {
    let cell = cells.contents_mut(at)?;
    put_bytes(cell, 0, contents)?;
    cell.get_mut(contents.len()..).unwrap_or_default().fill(0);
    Ok(())
}

fn behind(at: CellOffset, size: usize) -> Parsed<CellOffset> {
    let end = u32::try_from(size).ok().and_then(|size| at.0.checked_add(size));
    end.map(CellOffset)
        .ok_or_else(|| HiveError::damaged_at(at, "a cell that ends past 4 GiB"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hive::{Hive, Version, check};

    fn start() -> (Space, Cells) {
        let hive = Hive::create("new", Version::Latest, 0).unwrap();
        let survey = check::survey(&hive.cells, hive.root, hive.minor).unwrap();
        (Space::new(&survey), hive.cells)
    }

    #[test]
    fn what_is_freed_is_joined_and_used_again() {
        let (mut space, mut cells) = start();
        let before = space.by_place.clone();
        let places: Vec<CellOffset> = (0..3)
            .map(|_| space.allocate(&mut cells, &[1; 100]).unwrap())
            .collect();
        assert_eq!(cells.contents(places[1]).unwrap()[..100], [1; 100]);
        space.free(&mut cells, places[1]).unwrap();
        assert_eq!(
            space.allocate(&mut cells, &[2; 99]).unwrap(),
            places[1],
            "the smallest that fits"
        );
        assert_eq!(cells.contents(places[1]).unwrap()[99], 0, "nothing old stays");
        for at in [places[0], places[2], places[1]] {
            space.free(&mut cells, at).unwrap();
        }
        assert_eq!(space.by_place, before, "all are one again");
        assert!(space.free(&mut cells, places[1]).is_err(), "a second time");
    }

    #[test]
    fn bins_are_added_and_cells_never_join_across_them() {
        let (mut space, mut cells) = start();
        let large = space.allocate(&mut cells, &[3; 20_000]).unwrap();
        assert_eq!((large, cells.size()), (CellOffset(4096 + 32), 4096 + 20480));
        let small = space.allocate(&mut cells, &[4; 3000]).unwrap();
        assert!(small.0 < 4096);
        space.free(&mut cells, small).unwrap();
        space.free(&mut cells, large).unwrap();
        assert_eq!(space.by_place.len(), 2);
        let again = Cells::new(cells.clone().into_file(), u32::try_from(cells.size()).unwrap()).unwrap();
        assert_eq!(again.bins().count(), 2);
    }

    #[test]
    fn a_cell_is_replaced_in_place_where_it_fits() {
        let (mut space, mut cells) = start();
        let at = space.allocate(&mut cells, &[1; 100]).unwrap();
        space.allocate(&mut cells, &[0; 8]).unwrap();
        assert_eq!(space.replace(&mut cells, at, &[2; 60]).unwrap(), at);
        assert_eq!(cells.contents(at).unwrap()[..61], [&[2; 60][..], &[0]].concat());
        assert_ne!(space.replace(&mut cells, at, &[3; 105]).unwrap(), at, "too long");
        let at = space.allocate(&mut cells, &[1; 1000]).unwrap();
        assert_ne!(space.replace(&mut cells, at, &[3; 8]).unwrap(), at, "too short");
    }
}
