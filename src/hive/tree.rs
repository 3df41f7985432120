//! What is read from a hive: keys and values.

use super::{
    Hive, Result,
    big_data::{self, BigData},
    cell::{CellOffset, Cells},
    check::Bits,
    data::{self, DataError},
    error::{HiveError, Parsed},
    file_time::FileTime,
    key::KeyNode,
    name::Name,
    security::Security,
    subkey_list::{ListKind, SubkeyList},
    value::{Place, ValueKind, ValueRecord},
};
use crate::disk::field::bytes_at;
use std::{borrow::Cow, iter};

/// Keys below each other, as Windows allows ("Registry element size limits"). A longer way is a ring.
pub(super) const MOST_DEPTH: usize = 512;
/// No key and no value takes fewer bytes, so that a list of more of them than the hive has room for is a lie.
const SMALLEST: usize = 24;

/// Which key, for an [`super::Editor`]. Valid for the hive that gave it, until the key is removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId(pub(super) CellOffset);

/// A key of a hive.
#[derive(Clone, Debug)]
pub struct Key<'h> {
    pub(super) hive: &'h Hive,
    pub(super) at: CellOffset,
    pub(super) node: KeyNode<'h>,
}

/// A value of a key.
#[derive(Clone, Debug)]
pub struct Value<'h> {
    hive: &'h Hive,
    at: CellOffset,
    name: Name,
    record: ValueRecord<'h>,
}

impl Hive {
    /// The root key.
    ///
    /// # Errors
    /// [`crate::disk::Kind::Corrupt`], as for all that reads.
    pub fn root(&self) -> Result<Key<'_>> {
        self.key(KeyId(self.root))
    }

    /// The key that an [`super::Editor`] or [`Key::id`] named.
    ///
    /// # Errors
    /// If there is none (any more).
    pub fn key(&self, id: KeyId) -> Result<Key<'_>> {
        self.key_at(id.0).map_err(|error| self.fault(error))
    }

    /// The key at a path of names with backslashes between them, without regard to case; the root for an empty one.
    ///
    /// # Errors
    /// As [`Hive::root`].
    pub fn find(&self, path: &str) -> Result<Option<Key<'_>>> {
        let mut key = self.root()?;
        for name in components(path) {
            match key.subkey(&name)? {
                Some(below) => key = below,
                None => return Ok(None),
            }
        }
        Ok(Some(key))
    }

    /// Calls `each` with `from` and every key below it: names on the way from `from`, and the key; a key before its subkeys, those
    /// in the order of the hive.
    ///
    /// # Errors
    /// As [`Hive::root`], also for a key that is met twice; and those of `each`.
    pub fn walk<'h>(
        &'h self,
        from: &Key<'h>,
        each: &mut dyn FnMut(&[Name], &Key<'h>) -> Result<()>,
    ) -> Result<()> {
        // Marked when they are listed: so the list of those ahead is never longer than the hive has keys.
        let mut seen = Bits::new(self.cells.size());
        let mut path: Vec<Name> = Vec::new();
        let mut ahead = vec![(from.at, 0_usize)];
        seen.set(from.at);
        while let Some((at, depth)) = ahead.pop() {
            let key = self.key(KeyId(at))?;
            path.truncate(depth.saturating_sub(1));
            if depth > 0 {
                path.push(key.name()?);
            }
            each(&path, &key)?;
            let below = subkeys(&self.cells, &key.node).map_err(|error| self.fault(error.in_cell(at)))?;
            for below in &below {
                if !seen.set(*below) || depth >= MOST_DEPTH {
                    let what = "this key is met twice, or lies too deep";
                    return Err(self.fault(HiveError::damaged_at(*below, what)));
                }
            }
            ahead.extend(below.into_iter().rev().zip(iter::repeat(depth.saturating_add(1))));
        }
        Ok(())
    }

    fn key_at(&self, at: CellOffset) -> Parsed<Key<'_>> {
        Ok(Key {
            hive: self,
            at,
            node: node(&self.cells, at)?,
        })
    }
}

/// The names of a path.
pub(super) fn components(path: &str) -> impl Iterator<Item = Name> {
    path.split('\\').filter(|name| !name.is_empty()).map(Name::from)
}

impl<'h> Key<'h> {
    /// For an [`super::Editor`].
    pub fn id(&self) -> KeyId {
        KeyId(self.at)
    }

    /// Its own name.
    ///
    /// # Errors
    /// As [`Hive::root`].
    pub fn name(&self) -> Result<Name> {
        self.node.name().map_err(|error| self.fault(error))
    }

    /// When a value or a subkey of it was set or removed last.
    pub fn written(&self) -> FileTime {
        self.node.written
    }

    /// Its class name, as stored: most often none, else most often UTF-16LE.
    ///
    /// # Errors
    /// As [`Hive::root`].
    pub fn class(&self) -> Result<Option<&'h [u8]>> {
        let class = || {
            if self.node.class.is_none() || self.node.class_length == 0 {
                return Ok(None);
            }
            let cell = self.hive.cells.contents(self.node.class)?;
            Ok(Some(bytes_at(cell, 0, usize::from(self.node.class_length))?))
        };
        class().map_err(|error| self.fault(error))
    }

    /// Its security descriptor, self-relative.
    ///
    /// # Errors
    /// As [`Hive::root`].
    pub fn security(&self) -> Result<&'h [u8]> {
        let at = self.node.security;
        let cell = self.hive.cells.contents(at).map_err(|error| self.fault(error))?;
        let item = Security::parse(cell).map_err(|error| self.hive.fault(error.in_cell(at)))?;
        Ok(item.descriptor)
    }

    /// Its subkeys, in the order of the hive: by name.
    ///
    /// # Errors
    /// As [`Hive::root`].
    pub fn subkeys(&self) -> Result<Vec<Key<'h>>> {
        let offsets = subkeys(&self.hive.cells, &self.node).map_err(|error| self.fault(error))?;
        let key = |at: CellOffset| self.hive.key_at(at).map_err(|error| self.hive.fault(error));
        offsets.into_iter().map(key).collect()
    }

    /// The subkey of that name, if there is one.
    ///
    /// # Errors
    /// As [`Hive::root`].
    pub fn subkey(&self, name: &Name) -> Result<Option<Key<'h>>> {
        let found = find_subkey(&self.hive.cells, &self.node, name).map_err(|error| self.fault(error))?;
        let key = |at: CellOffset| self.hive.key_at(at).map_err(|error| self.hive.fault(error));
        found.map(key).transpose()
    }

    /// Its values, in the order of the hive.
    ///
    /// # Errors
    /// As [`Hive::root`].
    pub fn values(&self) -> Result<Vec<Value<'h>>> {
        let offsets = values(&self.hive.cells, &self.node).map_err(|error| self.fault(error))?;
        offsets.into_iter().map(|at| self.value_at(at)).collect()
    }

    /// The value of that name, if there is one; the default value for an empty name.
    ///
    /// # Errors
    /// As [`Hive::root`].
    pub fn value(&self, name: impl Into<Name>) -> Result<Option<Value<'h>>> {
        let found =
            find_value(&self.hive.cells, &self.node, &name.into()).map_err(|error| self.fault(error))?;
        found.map(|at| self.value_at(at)).transpose()
    }

    /// The number in a `REG_DWORD`; `None` if there is no value of that name.
    ///
    /// # Errors
    /// Also if the value is of another type or length.
    pub fn dword(&self, name: &str) -> Result<Option<u32>> {
        self.value(name)?.map(|value| value.dword()).transpose()
    }

    /// The text in a `REG_SZ` or `REG_EXPAND_SZ`; `None` if there is no value of that name.
    ///
    /// # Errors
    /// Also if the value is of another type.
    pub fn text(&self, name: &str) -> Result<Option<String>> {
        self.value(name)?.map(|value| value.text()).transpose()
    }

    /// The strings in a `REG_MULTI_SZ`; `None` if there is no value of that name.
    ///
    /// # Errors
    /// Also if the value is of another type.
    pub fn strings(&self, name: &str) -> Result<Option<Vec<String>>> {
        self.value(name)?.map(|value| value.strings()).transpose()
    }

    fn value_at(&self, at: CellOffset) -> Result<Value<'h>> {
        let cell = self
            .hive
            .cells
            .contents(at)
            .map_err(|error| self.hive.fault(error))?;
        let parse = || {
            let record = ValueRecord::parse(cell)?;
            Ok(Value {
                hive: self.hive,
                at,
                name: record.name()?,
                record,
            })
        };
        parse().map_err(|error: HiveError| self.hive.fault(error.in_cell(at)))
    }

    fn fault(&self, error: HiveError) -> crate::disk::Error {
        self.hive.fault(error.in_cell(self.at))
    }
}

impl<'h> Value<'h> {
    /// Its name; empty for the default value.
    pub fn name(&self) -> &Name {
        &self.name
    }

    /// Its type.
    pub fn kind(&self) -> ValueKind {
        self.record.kind
    }

    /// Does it say that a value of the layer below is gone? Only layered hives of Windows 10 and later have such.
    pub fn is_tombstone(&self) -> bool {
        self.record.tombstone
    }

    /// Its bytes.
    ///
    /// # Errors
    /// As [`Hive::root`].
    pub fn data(&self) -> Result<Cow<'h, [u8]>> {
        read_data(&self.hive.cells, &self.record).map_err(|error| self.hive.fault(error.in_cell(self.at)))
    }

    /// The number in a `REG_DWORD`.
    ///
    /// # Errors
    /// Also if the value is of another type or length.
    pub fn dword(&self) -> Result<u32> {
        self.typed(data::decode_dword)
    }

    /// The text in a `REG_SZ` or `REG_EXPAND_SZ`.
    ///
    /// # Errors
    /// Also if the value is of another type.
    pub fn text(&self) -> Result<String> {
        self.typed(data::decode_text_of)
    }

    /// The strings in a `REG_MULTI_SZ`.
    ///
    /// # Errors
    /// Also if the value is of another type.
    pub fn strings(&self) -> Result<Vec<String>> {
        self.typed(data::decode_strings_of)
    }

    fn typed<T>(&self, decode: fn(ValueKind, &[u8]) -> std::result::Result<T, DataError>) -> Result<T> {
        decode(self.kind(), &self.data()?).map_err(|error| {
            let text = format!("value \"{}\": {error}", self.name);
            self.hive.fault(HiveError::damaged_at(self.at, text))
        })
    }
}

/// The key in the cell at `at`.
pub(super) fn node(cells: &Cells, at: CellOffset) -> Parsed<KeyNode<'_>> {
    KeyNode::parse(cells.contents(at)?).map_err(|error| error.in_cell(at))
}

/// The list in the cell at `at`.
pub(super) fn list(cells: &Cells, at: CellOffset) -> Parsed<SubkeyList<'_>> {
    SubkeyList::parse(cells.contents(at)?).map_err(|error| error.in_cell(at))
}

/// The leaves of a key's list, in order: one, or those of its index root.
pub(super) fn leaves<'c>(cells: &'c Cells, node: &KeyNode<'_>) -> Parsed<Vec<(CellOffset, SubkeyList<'c>)>> {
    if node.subkey_count == 0 {
        return Ok(Vec::new());
    }
    let top = list(cells, node.subkeys)?;
    if top.kind != ListKind::Root {
        return Ok(vec![(node.subkeys, top)]);
    }
    let leaf = |at: CellOffset| match list(cells, at)? {
        leaf if leaf.kind == ListKind::Root => {
            Err(HiveError::damaged_at(at, "an index root below an index root"))
        }
        leaf => Ok((at, leaf)),
    };
    top.offsets().map(leaf).collect()
}

/// The cells of a key's subkeys.
fn subkeys(cells: &Cells, node: &KeyNode<'_>) -> Parsed<Vec<CellOffset>> {
    let leaves = leaves(cells, node)?;
    let found = leaves
        .iter()
        .fold(0_usize, |sum, (_, leaf)| sum.saturating_add(leaf.len()));
    if usize::try_from(node.subkey_count) != Ok(found) || found > cells.size() / SMALLEST {
        return Err(HiveError::damaged(format!(
            "{} subkeys by the key, {found} by its list",
            node.subkey_count
        )));
    }
    Ok(leaves.iter().flat_map(|(_, leaf)| leaf.offsets()).collect())
}

/// The cell of the subkey called `name`.
pub(super) fn find_subkey(cells: &Cells, node: &KeyNode<'_>, name: &Name) -> Parsed<Option<CellOffset>> {
    for at in subkeys(cells, node)? {
        if self::node(cells, at)?.is_called(name)? {
            return Ok(Some(at));
        }
    }
    Ok(None)
}

/// The cells of a key's values.
pub(super) fn values(cells: &Cells, node: &KeyNode<'_>) -> Parsed<Vec<CellOffset>> {
    let count = usize::try_from(node.value_count()).unwrap_or(usize::MAX);
    if count == 0 {
        return Ok(Vec::new());
    }
    let list = cells.contents(node.values)?;
    Ok(big_data::parse_list(list, count)?.collect())
}

/// The cell of the value called `name`.
pub(super) fn find_value(cells: &Cells, node: &KeyNode<'_>, name: &Name) -> Parsed<Option<CellOffset>> {
    for at in values(cells, node)? {
        if record(cells, at)?.name()? == *name {
            return Ok(Some(at));
        }
    }
    Ok(None)
}

/// The value in the cell at `at`.
pub(super) fn record(cells: &Cells, at: CellOffset) -> Parsed<ValueRecord<'_>> {
    ValueRecord::parse(cells.contents(at)?).map_err(|error| error.in_cell(at))
}

/// The cells that the data of a value takes besides its own: none, one, or those of big data, record and list first.
pub(super) fn data_cells(cells: &Cells, record: &ValueRecord<'_>) -> Parsed<Vec<CellOffset>> {
    let Place::Cell(at, length) = record.place else {
        return Ok(Vec::new());
    };
    let mut all = vec![at];
    if let Some(big) = big_data_at(cells, at, length)? {
        all.push(big.list);
        all.extend(big_data::parse_list(cells.contents(big.list)?, big.segments)?);
    }
    Ok(all)
}

/// The big data record at `at`, if what is there is not the data itself.
fn big_data_at(cells: &Cells, at: CellOffset, length: usize) -> Parsed<Option<BigData>> {
    let cell = cells.contents(at)?;
    if length <= cell.len() {
        return Ok(None);
    }
    if length > cells.size() {
        return Err(HiveError::damaged_at(
            at,
            format!("a value of {length} bytes, more than the hive has"),
        ));
    }
    BigData::parse(cell, length)
        .map(Some)
        .map_err(|error| error.in_cell(at))
}

/// The data of a value.
pub(super) fn read_data<'c>(cells: &'c Cells, record: &ValueRecord<'c>) -> Parsed<Cow<'c, [u8]>> {
    match record.place {
        Place::Inline(bytes, length) => Ok(Cow::Owned(bytes.get(..length).unwrap_or_default().to_vec())),
        Place::Cell(at, length) => match big_data_at(cells, at, length)? {
            None => Ok(Cow::Borrowed(bytes_at(cells.contents(at)?, 0, length)?)),
            Some(big) => {
                let mut data = Vec::new();
                for segment in big_data::parse_list(cells.contents(big.list)?, big.segments)? {
                    let wanted = length.saturating_sub(data.len()).min(big_data::SEGMENT);
                    let bytes = bytes_at(cells.contents(segment)?, 0, wanted);
                    data.extend_from_slice(bytes.map_err(|error| HiveError::from(error).in_cell(segment))?);
                }
                Ok(Cow::Owned(data))
            }
        },
    }
}
