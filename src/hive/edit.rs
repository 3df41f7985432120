//! [`Editor`]: what is changed in a hive. Keys here; values, lists and security in files of their own.

use super::{
    FileTime, Hive, KeyId, Name, Result,
    allocate::Space,
    base_block::{self, BaseBlock},
    cell::CellOffset,
    check::{self, Bits},
    error::{HiveError, Parsed},
    key::{self, KeyNode, Largest, NewKey, flag},
    log::Recovery,
    tree::{self, MOST_DEPTH, components},
};
use crate::disk::field::put_u64_le;
use std::collections::BTreeMap;

/// Characters of a key's name ("Registry element size limits").
const MOST_KEY_NAME: usize = 255;
/// Of the time of writing in the first bin.
const FIRST_BIN_TIME: usize = 20;

/// Changes a hive in memory; [`Editor::commit`] makes it one that was closed properly. What is not named stays where it is. A change
/// that changes nothing (a value set to what it is) is none, so that the same edits twice give what they gave once.
#[derive(Debug)]
pub struct Editor<'h> {
    pub(super) hive: &'h mut Hive,
    pub(super) space: Space,
    /// How many keys have each security item.
    pub(super) security: BTreeMap<CellOffset, u32>,
    pub(super) clock: FileTime,
    /// What both sequence numbers will be.
    sequence: u32,
    changed: bool,
}

impl<'h> Editor<'h> {
    pub(super) fn start(hive: &'h mut Hive, clock: FileTime) -> Result<Self> {
        let look = || {
            let survey = check::survey(&hive.cells, hive.root, hive.minor)?;
            Ok((survey, BaseBlock::parse(hive.cells.file())?))
        };
        let (survey, base) = look().map_err(|error| hive.fault(error))?;
        Ok(Self {
            space: Space::new(&survey),
            security: survey.security,
            clock,
            // Higher than all in the logs: nothing that is left there can pass for what Windows writes after this.
            sequence: base
                .primary_sequence
                .max(base.secondary_sequence)
                .max(hive.latest_logged)
                .wrapping_add(1),
            changed: false,
            hive,
        })
    }

    /// The hive, to be read.
    pub fn hive(&self) -> &Hive {
        self.hive
    }

    /// The key at a path.
    ///
    /// # Errors
    /// As [`Hive::find`].
    pub fn find(&self, path: &str) -> Result<Option<KeyId>> {
        Ok(self.hive.find(path)?.map(|key| key.id()))
    }

    /// The key at a path; it and what is missing above it is made.
    ///
    /// # Errors
    /// As [`Editor::create_key`].
    pub fn make_path(&mut self, path: &str) -> Result<KeyId> {
        let mut at = self.hive.root;
        for name in components(path) {
            at = match self.child(at, &name).map_err(|error| self.fault(error))? {
                Some(below) => below,
                None => self.create_key(KeyId(at), &name)?.0,
            };
        }
        Ok(KeyId(at))
    }

    /// A new key below `parent`, with the security of `parent`.
    ///
    /// # Errors
    /// [`crate::disk::Kind::Exists`] if there is one of that name, [`crate::disk::Kind::Unsupported`] for what can be no name,
    /// [`crate::disk::Kind::Full`] for a hive that would be larger than [`super::LARGEST_HIVE`].
    pub fn create_key(&mut self, parent: KeyId, name: impl Into<Name>) -> Result<KeyId> {
        let name = name.into();
        match self.create(parent.0, &name) {
            Ok(at) => Ok(KeyId(at)),
            Err(error) => Err(self.fault(error)),
        }
    }

    /// Removes the key called `name` below `parent`, with all that is below it; false if there is none.
    ///
    /// # Errors
    /// [`crate::disk::Kind::Unsupported`] if one of them is marked as one that cannot be deleted.
    pub fn remove_key(&mut self, parent: KeyId, name: impl Into<Name>) -> Result<bool> {
        let name = name.into();
        self.remove(parent.0, &name).map_err(|error| self.fault(error))
    }

    /// Gives a key another class name; none for `None`.
    ///
    /// # Errors
    /// [`crate::disk::Kind::Unsupported`] for more than 65535 bytes.
    pub fn set_class(&mut self, key: KeyId, class: Option<&[u8]>) -> Result<bool> {
        let there = self.hive.key(key)?.class()?;
        let new = class.filter(|class| !class.is_empty());
        if there == new {
            return Ok(false);
        }
        self.replace_class(key.0, new)
            .map_err(|error| self.fault(error))?;
        Ok(true)
    }

    /// Makes the hive one that was closed properly: sequence numbers, times, checksum. False if nothing was changed, not on
    /// opening either: then it is as it was, byte for byte.
    ///
    /// # Errors
    /// None that a caller could cause.
    pub fn commit(mut self) -> Result<bool> {
        if !self.changed && !matches!(self.hive.recovery, Recovery::Recovered(_)) {
            return Ok(false);
        }
        self.seal().map_err(|error| self.fault(error))?;
        Ok(true)
    }

    fn seal(&mut self) -> Parsed<()> {
        self.change()?;
        let (sequence, clock) = (self.sequence, self.clock);
        if let Some(first) = self.hive.cells.first_bin() {
            put_u64_le(first, FIRST_BIN_TIME, clock.0)?;
        }
        let base = self.hive.cells.base_block();
        base_block::put_sequences(base, sequence, sequence)?;
        base_block::put_written(base, clock)?;
        base_block::seal(base)
    }

    /// To be called before the first byte is changed, and whenever a bin was added: the hive is marked as one that is being
    /// written.
    pub(super) fn change(&mut self) -> Parsed<()> {
        self.changed = true;
        let size = u32::try_from(self.hive.cells.size()).unwrap_or(u32::MAX);
        let base = self.hive.cells.base_block();
        base_block::put_sequences(base, self.sequence, self.sequence.wrapping_sub(1))?;
        base_block::put_bins_size(base, size)?;
        base_block::seal(base)
    }

    pub(super) fn allocate(&mut self, contents: &[u8]) -> Parsed<CellOffset> {
        self.change()?;
        let size = self.hive.cells.size();
        let at = self.space.allocate(&mut self.hive.cells, contents)?;
        if self.hive.cells.size() != size {
            self.change()?;
        }
        Ok(at)
    }

    pub(super) fn free(&mut self, at: CellOffset) -> Parsed<()> {
        self.change()?;
        self.space.free(&mut self.hive.cells, at)
    }

    pub(super) fn replace(&mut self, at: CellOffset, contents: &[u8]) -> Parsed<CellOffset> {
        self.change()?;
        let size = self.hive.cells.size();
        let at = self.space.replace(&mut self.hive.cells, at, contents)?;
        if self.hive.cells.size() != size {
            self.change()?;
        }
        Ok(at)
    }

    /// The contents of a cell, to be changed.
    pub(super) fn cell(&mut self, at: CellOffset) -> Parsed<&mut [u8]> {
        self.change()?;
        self.hive.cells.contents_mut(at)
    }

    pub(super) fn node(&self, at: CellOffset) -> Parsed<KeyNode<'_>> {
        tree::node(&self.hive.cells, at)
    }

    pub(super) fn fault(&self, error: HiveError) -> crate::disk::Error {
        self.hive.fault(error)
    }

    fn child(&self, parent: CellOffset, name: &Name) -> Parsed<Option<CellOffset>> {
        tree::find_subkey(&self.hive.cells, &self.node(parent)?, name).map_err(|error| error.in_cell(parent))
    }

    fn create(&mut self, parent: CellOffset, name: &Name) -> Parsed<CellOffset> {
        must_be_key_name(name)?;
        if self.child(parent, name)?.is_some() {
            return Err(HiveError::Exists(format!("the key \"{name}\" is there already")));
        }
        self.must_not_be_too_deep(parent)?;
        let above = self.node(parent)?;
        let security = above.security;
        let new = NewKey {
            name,
            parent,
            security,
            written: self.clock,
            flags: 0,
            virtualization: above.virtualization,
        };
        let at = self.allocate(&new.build()?)?;
        self.add_subkey(parent, at, name)?;
        self.add_security_user(security)?;
        Ok(at)
    }

    fn remove(&mut self, parent: CellOffset, name: &Name) -> Parsed<bool> {
        let Some(at) = self.child(parent, name)? else {
            return Ok(false);
        };
        let below = self.all_below(at)?;
        for key in &below {
            let node = self.node(*key)?;
            if node.flags & (flag::NO_DELETE | flag::ROOT) != 0 {
                let name = node.name()?;
                return Err(HiveError::Unsupported(format!(
                    "the key \"{name}\" is marked as one that cannot be deleted"
                )));
            }
        }
        self.take_subkey(parent, at)?;
        for key in below {
            self.free_key(key)?;
        }
        Ok(true)
    }

    /// `at` and every key below it.
    fn all_below(&self, at: CellOffset) -> Parsed<Vec<CellOffset>> {
        let mut seen = Bits::new(self.hive.cells.size());
        seen.set(at);
        let mut all = vec![at];
        let mut next = 0;
        while let Some(key) = all.get(next).copied() {
            next = next.saturating_add(1);
            for (_, leaf) in tree::leaves(&self.hive.cells, &self.node(key)?)? {
                for below in leaf.offsets() {
                    if !seen.set(below) {
                        return Err(HiveError::damaged_at(below, "this key is met twice"));
                    }
                    all.push(below);
                }
            }
        }
        Ok(all)
    }

    /// Frees a key that is in no list any more; its subkeys are somebody else's business.
    fn free_key(&mut self, at: CellOffset) -> Parsed<()> {
        let cells = &self.hive.cells;
        let node = self.node(at)?;
        let mut to_free = vec![at];
        if node.class_length > 0 && !node.class.is_none() {
            to_free.push(node.class);
        }
        if node.subkey_count > 0 {
            to_free.push(node.subkeys);
            let leaves = tree::leaves(cells, &node)?;
            to_free.extend(
                leaves
                    .into_iter()
                    .map(|(leaf, _)| leaf)
                    .filter(|leaf| *leaf != node.subkeys),
            );
        }
        if node.value_count() > 0 {
            to_free.push(node.values);
            for value in tree::values(cells, &node)? {
                to_free.push(value);
                to_free.extend(tree::data_cells(cells, &tree::record(cells, value)?)?);
            }
        }
        let security = node.security;
        for cell in to_free {
            self.free(cell)?;
        }
        self.drop_security_user(security)
    }

    fn replace_class(&mut self, at: CellOffset, class: Option<&[u8]>) -> Parsed<()> {
        let node = self.node(at)?;
        let (parent, root) = (node.parent, node.flags & flag::ROOT != 0);
        let old = Some(node.class).filter(|class| node.class_length > 0 && !class.is_none());
        let (place, length) = match class {
            None => (CellOffset::NONE, 0),
            Some(class) => {
                let length = u16::try_from(class.len())
                    .map_err(|_| HiveError::Unsupported(format!("a class name of {} bytes", class.len())))?;
                let place = match old {
                    Some(old) => self.replace(old, class)?,
                    None => self.allocate(class)?,
                };
                (place, length)
            }
        };
        key::put_class(self.cell(at)?, place, length)?;
        self.touch(at)?;
        if class.is_none()
            && let Some(old) = old
        {
            self.free(old)?;
        }
        if !root && self.node(parent).is_ok() {
            key::raise(self.cell(parent)?, Largest::SubkeyClass, usize::from(length))?;
        }
        Ok(())
    }

    /// The key was changed now.
    pub(super) fn touch(&mut self, at: CellOffset) -> Parsed<()> {
        let clock = self.clock;
        key::put_written(self.cell(at)?, clock)
    }

    fn must_not_be_too_deep(&self, parent: CellOffset) -> Parsed<()> {
        let mut at = parent;
        for _ in 0..MOST_DEPTH.saturating_sub(1) {
            // Where the way up is not as it should be, the check of the way down was what counts.
            match self.node(at) {
                Ok(node) if at != self.hive.root => at = node.parent,
                _ => return Ok(()),
            }
        }
        Err(HiveError::Unsupported(format!(
            "more than {MOST_DEPTH} keys below each other"
        )))
    }
}

fn must_be_key_name(name: &Name) -> Parsed<()> {
    let wrong = name.is_empty()
        || name.units().len() > MOST_KEY_NAME
        || name.units().iter().any(|unit| matches!(unit, 0 | 0x5c));
    if wrong {
        return Err(HiveError::Unsupported(format!(
            "\"{name}\" is no name for a key: 1 to {MOST_KEY_NAME} characters, no backslash, no zero"
        )));
    }
    Ok(())
}
