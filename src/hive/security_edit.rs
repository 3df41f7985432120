//! Security items shared, made and given up.

use super::{
    Editor, KeyId, Result,
    cell::CellOffset,
    error::Parsed,
    key,
    security::{self, Security},
};

impl Editor<'_> {
    /// Gives a key another security descriptor, self-relative; keys below it keep theirs. False if it had that one.
    ///
    /// # Errors
    /// [`crate::disk::Kind::Unsupported`] if it is none.
    pub fn set_security(&mut self, key: KeyId, descriptor: &[u8]) -> Result<bool> {
        self.put_descriptor(key.0, descriptor)
            .map_err(|error| self.fault(error))
    }

    fn put_descriptor(&mut self, key: CellOffset, descriptor: &[u8]) -> Parsed<bool> {
        security::must_be_descriptor(descriptor)?;
        let old = self.node(key)?.security;
        if !old.is_none() && self.item(old)?.descriptor == descriptor {
            return Ok(false);
        }
        let new = match self.item_with(descriptor)? {
            Some(item) => item,
            None => self.new_item(old, descriptor)?,
        };
        self.add_security_user(new)?;
        key::put_security(self.cell(key)?, new)?;
        self.drop_security_user(old)?;
        self.touch(key)?;
        Ok(true)
    }

    /// One more key has this item.
    pub(super) fn add_security_user(&mut self, item: CellOffset) -> Parsed<()> {
        if item.is_none() {
            return Ok(());
        }
        let users = self.security.entry(item).or_insert(0);
        *users = users.saturating_add(1);
        // What was counted is stored, whatever was stored before.
        let users = *users;
        security::put_references(self.cell(item)?, users)
    }

    /// One key less has this item; the last one takes it along.
    pub(super) fn drop_security_user(&mut self, item: CellOffset) -> Parsed<()> {
        let Some(users) = self.security.get_mut(&item) else {
            return Ok(());
        };
        *users = users.saturating_sub(1);
        let users = *users;
        if users > 0 {
            return security::put_references(self.cell(item)?, users);
        }
        self.security.remove(&item);
        let Security { next, previous, .. } = self.item(item)?;
        let in_ring = next != item
            && self.item(next).is_ok_and(|next| next.previous == item)
            && self.item(previous).is_ok_and(|previous| previous.next == item);
        if !in_ring {
            // Its neighbours do not know it: it stays, unused.
            return security::put_references(self.cell(item)?, 0);
        }
        security::put_previous(self.cell(next)?, previous)?;
        security::put_next(self.cell(previous)?, next)?;
        self.free(item)
    }

    fn item(&self, at: CellOffset) -> Parsed<Security<'_>> {
        Security::parse(self.hive.cells.contents(at)?).map_err(|error| error.in_cell(at))
    }

    fn item_with(&self, descriptor: &[u8]) -> Parsed<Option<CellOffset>> {
        for at in self.security.keys() {
            if self.item(*at)?.descriptor == descriptor {
                return Ok(Some(*at));
            }
        }
        Ok(None)
    }

    /// A new item in the ring, behind `neighbour`; a ring of its own if that is none.
    fn new_item(&mut self, neighbour: CellOffset, descriptor: &[u8]) -> Parsed<CellOffset> {
        if neighbour.is_none() {
            let at = self.allocate(&security::build(neighbour, neighbour, 0, descriptor)?)?;
            let cell = self.cell(at)?;
            security::put_next(cell, at)?;
            security::put_previous(cell, at)?;
            return Ok(at);
        }
        let next = self.item(neighbour)?.next;
        self.item(next)?;
        let at = self.allocate(&security::build(next, neighbour, 0, descriptor)?)?;
        security::put_next(self.cell(neighbour)?, at)?;
        security::put_previous(self.cell(next)?, at)?;
        Ok(at)
    }
}
