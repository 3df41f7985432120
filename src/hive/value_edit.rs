//! Values set and removed, their data stored and freed.

use super::{
    Editor, KeyId, Name, Result, ValueKind,
    big_data::{self, BigData, SEGMENT},
    cell::CellOffset,
    error::{HiveError, Parsed},
    key::{self, Largest, flag},
    tree,
    value::{self, MOST_INLINE, Place},
};

/// Characters of a value's name ("Registry element size limits").
const MOST_VALUE_NAME: usize = 16383;
/// Bytes of a value in a hive without big data ("Registry element size limits": 1 MB in the standard format).
const MOST_STANDARD: usize = 1 << 20;

impl Editor<'_> {
    /// Gives a key a value; one of that name gets the type and data, and keeps its name as it is spelled. False if it was
    /// just so before.
    ///
    /// # Errors
    /// [`crate::disk::Kind::Unsupported`] for what can be no name or is too long for this version of the format,
    /// [`crate::disk::Kind::Full`] for a hive that would be larger than [`super::LARGEST_HIVE`].
    pub fn set_value(
        &mut self,
        key: KeyId,
        name: impl Into<Name>,
        kind: ValueKind,
        data: &[u8],
    ) -> Result<bool> {
        let name = name.into();
        self.set(key.0, &name, kind, data)
            .map_err(|error| self.fault(error))
    }

    /// Removes a value; false if there is none of that name.
    ///
    /// # Errors
    /// As all edits.
    pub fn remove_value(&mut self, key: KeyId, name: impl Into<Name>) -> Result<bool> {
        let name = name.into();
        self.unset(key.0, &name).map_err(|error| self.fault(error))
    }

    fn set(&mut self, key: CellOffset, name: &Name, kind: ValueKind, data: &[u8]) -> Parsed<bool> {
        self.must_take_value(key, name, data.len())?;
        let cells = &self.hive.cells;
        let node = self.node(key)?;
        match tree::find_value(cells, &node, name)? {
            Some(at) => {
                let record = tree::record(cells, at)?;
                let same = record.kind == kind && !record.tombstone;
                if same && *tree::read_data(cells, &record)? == *data {
                    return Ok(false);
                }
                let (old, old_cells) = (record.place, tree::data_cells(cells, &record)?);
                let place = self.replace_data(old, &old_cells, data)?;
                value::put_data(self.cell(at)?, kind, place)?;
            }
            None => {
                let place = self.store_data(data)?;
                let at = self.allocate(&value::build(name, kind, place)?)?;
                let node = self.node(key)?;
                let mut all = tree::values(&self.hive.cells, &node)?;
                let list = Some(node.values).filter(|_| !all.is_empty());
                all.push(at);
                self.put_values(key, list, &all)?;
            }
        }
        let cell = self.cell(key)?;
        key::raise(cell, Largest::ValueName, name.wide_length())?;
        key::raise(cell, Largest::ValueData, data.len())?;
        self.touch(key)?;
        Ok(true)
    }

    fn unset(&mut self, key: CellOffset, name: &Name) -> Parsed<bool> {
        let cells = &self.hive.cells;
        let node = self.node(key)?;
        let Some(at) = tree::find_value(cells, &node, name)? else {
            return Ok(false);
        };
        let data = tree::data_cells(cells, &tree::record(cells, at)?)?;
        let mut all = tree::values(cells, &node)?;
        let list = node.values;
        all.retain(|value| *value != at);
        self.put_values(key, Some(list), &all)?;
        for cell in data.into_iter().chain([at]) {
            self.free(cell)?;
        }
        if all.is_empty() {
            let cell = self.cell(key)?;
            key::reset(cell, Largest::ValueName)?;
            key::reset(cell, Largest::ValueData)?;
        }
        self.touch(key)?;
        Ok(true)
    }

    fn must_take_value(&self, key: CellOffset, name: &Name, length: usize) -> Parsed<()> {
        if name.units().len() > MOST_VALUE_NAME || name.units().contains(&0) {
            return Err(HiveError::Unsupported(format!(
                "\"{name}\" is no name for a value: up to {MOST_VALUE_NAME} characters, no zero"
            )));
        }
        if self.node(key)?.flags & flag::PREDEFINED != 0 {
            return Err(HiveError::Unsupported(
                "the key stands for a predefined handle and can have no values".into(),
            ));
        }
        let most = if self.hive.minor < big_data::OLDEST {
            MOST_STANDARD
        } else {
            SEGMENT.saturating_mul(usize::from(u16::MAX))
        };
        if length > most {
            return Err(HiveError::Unsupported(format!(
                "a value of {length} bytes; up to {most} can be in a hive of version 1.{}",
                self.hive.minor
            )));
        }
        Ok(())
    }

    /// The key has these values now; `list` is where their list was.
    fn put_values(&mut self, key: CellOffset, list: Option<CellOffset>, values: &[CellOffset]) -> Parsed<()> {
        let contents = big_data::build_list(values);
        let place = match list {
            Some(list) if values.is_empty() => {
                self.free(list)?;
                CellOffset::NONE
            }
            Some(list) => self.replace(list, &contents)?,
            None => self.allocate(&contents)?,
        };
        let count = u32::try_from(values.len()).unwrap_or(u32::MAX);
        key::put_values(self.cell(key)?, count, place)
    }

    /// Stores other data for a value that has some; its old cells are used again or freed.
    fn replace_data(&mut self, old: Place, old_cells: &[CellOffset], data: &[u8]) -> Parsed<Place> {
        let one_cell = data.len() > MOST_INLINE && !big_data::is_needed(data.len(), self.hive.minor);
        if let (Place::Cell(at, _), [_], true) = (old, old_cells, one_cell) {
            return Ok(Place::Cell(self.replace(at, data)?, data.len()));
        }
        let place = self.store_data(data)?;
        for cell in old_cells {
            self.free(*cell)?;
        }
        Ok(place)
    }

    fn store_data(&mut self, data: &[u8]) -> Parsed<Place> {
        if data.len() <= MOST_INLINE {
            let mut bytes = [0; MOST_INLINE];
            for (to, from) in bytes.iter_mut().zip(data) {
                *to = *from;
            }
            return Ok(Place::Inline(bytes, data.len()));
        }
        if !big_data::is_needed(data.len(), self.hive.minor) {
            return Ok(Place::Cell(self.allocate(data)?, data.len()));
        }
        let mut segments = Vec::new();
        for segment in data.chunks(SEGMENT) {
            // Windows gives the last one a whole cell too, and readers take it that there is something behind its bytes.
            let mut whole = segment.to_vec();
            whole.resize(SEGMENT, 0);
            segments.push(self.allocate(&whole)?);
        }
        let record = BigData {
            segments: segments.len(),
            list: self.allocate(&big_data::build_list(&segments))?,
        };
        Ok(Place::Cell(self.allocate(&record.build()?)?, data.len()))
    }
}
