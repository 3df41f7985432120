//! Giving files their security descriptors: one that `$Secure` has already is shared, another is added.

use super::{
    Ntfs,
    attribute::kind,
    edited_file::EditedFile,
    error::NtfsError,
    file_record::number,
    index_node::{Entry, OwnedEntry},
    secure::{Place, SDH, SDS, SII},
    security_descriptor,
};
use crate::fs::Result;

/// Every block of so many bytes of `$SDS` is followed by a copy of it.
const BLOCK: u64 = 0x4_0000;
/// Descriptors begin at multiples of this.
const ALIGNMENT: u64 = 16;
/// Numbers below are not for files.
const FIRST_ID: u32 = 0x100;
/// Descriptors with one hash that are looked at: the hash has 32 bits.
const MOST_ALIKE: usize = 64;

impl Ntfs {
    /// The number of the descriptor that something new in a directory gets.
    pub(super) fn inherited_security(&mut self, parent: &EditedFile, directory: bool) -> Result<u32> {
        let own = parent.attribute(kind::SECURITY_DESCRIPTOR, &[]).is_some();
        let information = parent.standard_information();
        let id = information
            .map_err(|e| self.in_record(parent.number, e))?
            .security;
        let id = id.filter(|id| !own && *id != 0);
        if let Some(known) = id.and_then(|id| self.inherited.get(&(id, directory))) {
            return Ok(*known);
        }
        let of_parent = match id {
            Some(id) => self.descriptor(id)?,
            None => {
                let value = parent.attribute(kind::SECURITY_DESCRIPTOR, &[]);
                let size = value.map_or(0, super::edited_file::OwnedAttribute::size);
                let mut raw =
                    vec![0; usize::try_from(size.min(security_descriptor::MOST_BYTES)).unwrap_or(0)];
                if own {
                    self.read_value(parent, (kind::SECURITY_DESCRIPTOR, &[]), 0, &mut raw)?;
                }
                Some(raw).filter(|_| own)
            }
        };
        let new = security_descriptor::inherit(of_parent.as_deref(), directory)
            .map_err(|e| self.in_record(parent.number, e))?;
        let new = self.security_id(&new)?;
        if let Some(id) = id {
            self.inherited.insert((id, directory), new);
        }
        Ok(new)
    }

    /// The number of a descriptor, which is added if `$Secure` has none that is the same.
    pub(super) fn security_id(&mut self, descriptor: &[u8]) -> Result<u32> {
        let hash = security_descriptor::hash(descriptor);
        let mut secure = self.load(number::SECURE)?;
        if let Some(id) = self.find_descriptor(&secure, hash, descriptor)? {
            self.edited.insert(number::SECURE, secure);
            return Ok(id);
        }
        let last = match &self.last_entry(&secure, &SII)? {
            Some(entry) => Some(self.place_of(entry)?),
            None => None,
        };
        let id = last.map_or(Some(FIRST_ID), |last| last.id.checked_add(1));
        let id = id.map(|id| id.max(FIRST_ID));
        let id = id.ok_or_else(|| self.fault(NtfsError::Full("$Secure has no number left".to_owned())))?;
        let size = Place::LENGTH as u64 + descriptor.len() as u64;
        let place = Place {
            hash,
            id,
            offset: self.room_in_stream(&secure, last, size)?,
            size: u32::try_from(size).unwrap_or(u32::MAX),
        };
        let header = place.encode().map_err(|e| self.in_record(number::SECURE, e))?;
        let raw = [&header[..], descriptor].concat();
        // The copy comes last, and the stream ends with it.
        self.resize_value(&mut secure, (kind::DATA, &SDS), place.offset + BLOCK + size)?;
        for offset in [place.offset, place.offset + BLOCK] {
            self.write_value(&mut secure, (kind::DATA, &SDS), offset, &raw)?;
        }
        let by_id = OwnedEntry::of_data(&id.to_le_bytes(), &header, &[]);
        let by_hash = OwnedEntry::of_data(
            &[hash.to_le_bytes(), id.to_le_bytes()].concat(),
            &header,
            b"I\0I\0",
        );
        for (name, entry) in [(SII, by_id), (SDH, by_hash)] {
            let entry = entry.map_err(|e| self.in_record(number::SECURE, e))?;
            self.insert_entry(&mut secure, &name, entry)?;
        }
        self.store(secure)?;
        Ok(id)
    }

    /// A descriptor that is there already.
    fn find_descriptor(&self, secure: &EditedFile, hash: u32, descriptor: &[u8]) -> Result<Option<u32>> {
        let mut id = 0_u32;
        for _ in 0..MOST_ALIKE {
            // The next one with this hash and the same or a higher number.
            let key = [hash.to_le_bytes(), id.to_le_bytes()].concat();
            let mut next: Option<Place> = None;
            for entry in self.neighbours(secure, &SDH, &key)? {
                let place = self.place_of(&entry)?;
                if place.hash == hash && place.id >= id && next.is_none_or(|next| place.id < next.id) {
                    next = Some(place);
                }
            }
            let Some(place) = next else {
                return Ok(None);
            };
            let size = usize::try_from(place.size).unwrap_or(usize::MAX);
            if size == Place::LENGTH + descriptor.len() {
                let mut raw = vec![0; size];
                self.read_value(secure, (kind::DATA, &SDS), place.offset, &mut raw)?;
                if raw.get(Place::LENGTH..) == Some(descriptor) {
                    return Ok(Some(place.id));
                }
            }
            let Some(following) = place.id.checked_add(1) else {
                return Ok(None);
            };
            id = following;
        }
        Ok(None)
    }

    fn place_of(&self, entry: &OwnedEntry) -> Result<Place> {
        let entry = Entry {
            raw: &entry.raw,
            child: None,
        };
        let place = entry.data().and_then(Place::parse);
        place.map_err(|e| self.in_record(number::SECURE, e))
    }

    /// Where the next descriptor goes: behind the last one, in a block that is no copy.
    fn room_in_stream(&self, secure: &EditedFile, last: Option<Place>, size: u64) -> Result<u64> {
        let end = secure
            .attribute(kind::DATA, &SDS)
            .ok_or_else(|| self.damaged(number::SECURE, "has no $SDS"))?
            .size();
        // The stream ends with the copy of what came last.
        let last = last.map_or(0, |last| last.offset.saturating_add(u64::from(last.size)));
        if last > end {
            return Err(self.damaged(
                number::SECURE,
                format!("has a descriptor that ends at byte {last} of {end}"),
            ));
        }
        let end = end.saturating_sub(BLOCK).max(last).next_multiple_of(ALIGNMENT);
        let block = end / BLOCK;
        let next_block = |block: u64| (block / 2 + 1) * 2 * BLOCK;
        if block % 2 == 1 {
            return Ok(next_block(block));
        }
        if end % BLOCK + size > BLOCK {
            return Ok(next_block(block));
        }
        Ok(end)
    }
}
