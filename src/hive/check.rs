//! Is a hive consistent? Every cell in its bin, every cell used once, every key met once: what must hold before an edit can
//! be trusted to free nothing that something else uses.

use super::{
    big_data,
    cell::{BIN_HEADER, CellOffset, Cells, Extent, GRAIN},
    error::{HiveError, Parsed},
    key::KeyNode,
    security::Security,
    subkey_list::ListKind,
    tree,
};
use crate::disk::field::bytes_at;
use std::collections::BTreeMap;

/// A bit for each place where a cell can begin.
#[derive(Clone, Debug)]
pub(super) struct Bits(Vec<u64>);

impl Bits {
    /// For `size` bytes of hive bins.
    pub(super) fn new(size: usize) -> Self {
        Self(vec![0; (size / GRAIN).div_ceil(64)])
    }

    /// There are `size` bytes of hive bins now.
    pub(super) fn grow(&mut self, size: usize) {
        self.0.resize((size / GRAIN).div_ceil(64), 0);
    }

    /// Sets the bit of `at`; false if it was set, or there is no such place.
    pub(super) fn set(&mut self, at: CellOffset) -> bool {
        let (word, bit) = Self::place(at);
        match self.0.get_mut(word) {
            Some(word) if *word & bit == 0 => {
                *word |= bit;
                true
            }
            _ => false,
        }
    }

    /// Clears the bit of `at`; false if it was not set.
    pub(super) fn clear(&mut self, at: CellOffset) -> bool {
        let (word, bit) = Self::place(at);
        match self.0.get_mut(word) {
            Some(word) if *word & bit != 0 => {
                *word &= !bit;
                true
            }
            _ => false,
        }
    }

    fn place(at: CellOffset) -> (usize, u64) {
        let index = usize::try_from(at.0).unwrap_or(usize::MAX) / GRAIN;
        (index / 64, 1 << (index % 64))
    }
}

/// What is where.
#[derive(Clone, Debug)]
pub(super) struct Survey {
    /// Where allocated cells begin.
    pub(super) allocated: Bits,
    pub(super) free: Vec<Extent>,
    /// How many keys have each security item.
    pub(super) security: BTreeMap<CellOffset, u32>,
}

/// Looks at every cell, and at every key from `root` on.
pub(super) fn survey(cells: &Cells, root: CellOffset, minor: u32) -> Parsed<Survey> {
    let mut survey = Survey {
        allocated: Bits::new(cells.size()),
        free: Vec::new(),
        security: BTreeMap::new(),
    };
    for bin in cells.bins() {
        let mut at = bin.start.saturating_add(u32::try_from(BIN_HEADER).unwrap_or(0));
        while at < bin.end {
            let extent = cells.extent(CellOffset(at))?;
            if extent.allocated {
                survey.allocated.set(extent.at);
            } else {
                survey.free.push(extent);
            }
            at = at.saturating_add(u32::try_from(extent.size).unwrap_or(u32::MAX));
        }
    }
    let unclaimed = survey.allocated.clone();
    let mut tree = Tree {
        cells,
        minor,
        unclaimed,
        security: &mut survey.security,
    };
    tree.check(root)?;
    let items: Vec<CellOffset> = tree.security.keys().copied().collect();
    for item in items {
        tree.claim(item)?;
    }
    Ok(survey)
}

struct Tree<'c> {
    cells: &'c Cells,
    minor: u32,
    /// Allocated cells that nothing refers to, as far as was looked.
    unclaimed: Bits,
    security: &'c mut BTreeMap<CellOffset, u32>,
}

impl Tree<'_> {
    /// `at` is an allocated cell that nothing else has.
    fn claim(&mut self, at: CellOffset) -> Parsed<()> {
        if self.unclaimed.clear(at) {
            return Ok(());
        }
        let what = match self.cells.contents(at) {
            Err(error) => return Err(error),
            Ok(_) => {
                "something refers to this place, which is in the middle of a cell or belongs to something else"
            }
        };
        Err(HiveError::damaged_at(at, what))
    }

    fn check(&mut self, root: CellOffset) -> Parsed<()> {
        // Every key is claimed before it is looked into, so the list is never longer than the hive has cells.
        let mut ahead = vec![root];
        self.claim(root)?;
        while let Some(at) = ahead.pop() {
            let node = tree::node(self.cells, at)?;
            node.name().map_err(|error| error.in_cell(at))?;
            self.subkeys(at, &node, &mut ahead)?;
            self.values(at, &node)?;
            if node.class_length > 0 && !node.class.is_none() {
                self.claim(node.class)?;
                bytes_at(
                    self.cells.contents(node.class)?,
                    0,
                    usize::from(node.class_length),
                )
                .map_err(|error| HiveError::from(error).in_cell(node.class))?;
            }
            if !node.security.is_none() {
                let users = self.security.entry(node.security).or_insert(0);
                if *users == 0 {
                    Security::parse(self.cells.contents(node.security)?)
                        .map_err(|error| error.in_cell(node.security))?;
                }
                *users = users.saturating_add(1);
            }
        }
        Ok(())
    }

    fn subkeys(&mut self, at: CellOffset, node: &KeyNode<'_>, ahead: &mut Vec<CellOffset>) -> Parsed<()> {
        if node.subkey_count == 0 {
            return Ok(());
        }
        self.claim(node.subkeys)?;
        let mut found: u32 = 0;
        let is_root = tree::list(self.cells, node.subkeys)?.kind == ListKind::Root;
        for (leaf, list) in tree::leaves(self.cells, node)? {
            if is_root {
                self.claim(leaf)?;
            }
            for key in list.offsets() {
                self.claim(key)?;
                ahead.push(key);
                found = found.saturating_add(1);
            }
        }
        if found == node.subkey_count {
            return Ok(());
        }
        let what = format!("{} subkeys by the key, {found} by its list", node.subkey_count);
        Err(HiveError::damaged_at(at, what))
    }

    fn values(&mut self, at: CellOffset, node: &KeyNode<'_>) -> Parsed<()> {
        if node.value_count() == 0 {
            return Ok(());
        }
        self.claim(node.values)?;
        for value in tree::values(self.cells, node).map_err(|error| error.in_cell(at))? {
            self.claim(value)?;
            let record = tree::record(self.cells, value)?;
            record.name().map_err(|error| error.in_cell(value))?;
            let data = tree::data_cells(self.cells, &record).map_err(|error| error.in_cell(value))?;
            for cell in &data {
                self.claim(*cell)?;
            }
            // Segments are read to be sure that each is as long as it must be; other data was measured by `data_cells`.
            if data.len() > 1 {
                tree::read_data(self.cells, &record).map_err(|error| error.in_cell(value))?;
                if self.minor < big_data::OLDEST {
                    return Err(HiveError::damaged_at(
                        value,
                        "big data in a hive of a version that has none",
                    ));
                }
            }
        }
        Ok(())
    }
}
