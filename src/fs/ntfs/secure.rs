//! `$Secure`: the security descriptors of all files, each kept once (Linux-NTFS documentation, "$Secure"). `$SDS` has them
//! one after the other, `$SII` finds them by number, `$SDH` by hash.

use super::{
    Ntfs,
    attribute::kind,
    error::{NtfsError, Parsed},
    file::File,
    file_record::number,
    index_node::Entry,
    security_descriptor,
};
use crate::{
    disk::field::{put_u32_le, put_u64_le, u32_le, u64_le},
    fs::Result,
};
use std::cmp::Ordering;

/// Names of the stream and the indexes.
pub(super) const SDS: [u16; 4] = [0x24, 0x53, 0x44, 0x53];
pub(super) const SII: [u16; 4] = [0x24, 0x53, 0x49, 0x49];
pub(super) const SDH: [u16; 4] = [0x24, 0x53, 0x44, 0x48];

/// Where a descriptor is, as `$SDS` has it before each and both indexes as data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) hash: u32,
    pub(super) id: u32,
    /// In `$SDS`.
    pub(super) offset: u64,
    /// With this header.
    pub(super) size: u32,
}

impl Place {
    pub(super) const LENGTH: usize = 0x14;

    pub(super) fn parse(raw: &[u8]) -> Parsed<Self> {
        Ok(Self {
            hash: u32_le(raw, 0)?,
            id: u32_le(raw, 4)?,
            offset: u64_le(raw, 8)?,
            size: u32_le(raw, 16)?,
        })
    }

    pub(super) fn encode(&self) -> Parsed<[u8; Self::LENGTH]> {
        let mut raw = [0; Self::LENGTH];
        put_u32_le(&mut raw, 0, self.hash)?;
        put_u32_le(&mut raw, 4, self.id)?;
        put_u64_le(&mut raw, 8, self.offset)?;
        put_u32_le(&mut raw, 16, self.size)?;
        Ok(raw)
    }
}

/// The order of keys that are numbers of 32 bits, compared one after the other.
pub(super) fn compare_ulongs(a: &[u8], b: &[u8]) -> Ordering {
    let numbers = |raw: &[u8]| -> Vec<u32> {
        raw.chunks_exact(4)
            .filter_map(|chunk| u32_le(chunk, 0).ok())
            .collect()
    };
    numbers(a).cmp(&numbers(b))
}

impl Ntfs {
    /// The security descriptor of a file; `None` if it has none.
    pub(super) fn security_descriptor(&self, file: &File) -> Result<Option<Vec<u8>>> {
        let own = self.value(
            file,
            kind::SECURITY_DESCRIPTOR,
            &[],
            security_descriptor::MOST_BYTES,
        )?;
        if own.is_some() {
            return Ok(own);
        }
        match self.standard_information(file)?.security {
            None | Some(0) => Ok(None),
            Some(id) => self.descriptor(id),
        }
    }

    /// The descriptor of that number; `None` if there is none.
    pub(super) fn descriptor(&self, id: u32) -> Result<Option<Vec<u8>>> {
        let secure = self.file(number::SECURE)?;
        let Some(mut index) = self.index(&secure, &SII)? else {
            return Ok(None);
        };
        let wanted = id.to_le_bytes();
        let found = self.index_find(&mut index, &mut |entry| {
            let key = entry.key().map_err(|e| self.in_record(number::SECURE, e))?;
            Ok(compare_ulongs(&wanted, key))
        })?;
        let Some(raw) = found else {
            return Ok(None);
        };
        let entry = Entry {
            raw: &raw,
            child: None,
        };
        let place = entry.data().and_then(Place::parse);
        let place = place.map_err(|e| self.in_record(number::SECURE, e))?;
        if place.id != id {
            return Err(self.damaged(number::SECURE, format!("finds descriptor {} for {id}", place.id)));
        }
        self.read_descriptor(&secure, &place).map(Some)
    }

    /// Reads a descriptor from `$SDS`.
    pub(super) fn read_descriptor(&self, secure: &File, place: &Place) -> Result<Vec<u8>> {
        let mut stream = self
            .stream(secure, kind::DATA, &SDS)?
            .ok_or_else(|| self.damaged(number::SECURE, "has no $SDS"))?;
        let header = Place::LENGTH as u64;
        let end = place.offset.checked_add(u64::from(place.size));
        let fits = u64::from(place.size) >= header
            && u64::from(place.size) <= security_descriptor::MOST_BYTES + header
            && end.is_some_and(|end| end <= stream.sizes.size);
        if !fits {
            return Err(self.damaged(
                number::SECURE,
                format!(
                    "says that descriptor {} has {} bytes at {:#x}",
                    place.id, place.size, place.offset
                ),
            ));
        }
        let mut raw = vec![0; usize::try_from(place.size).unwrap_or(0)];
        self.read_plain(&mut stream, place.offset, &mut raw)?;
        let found = Place::parse(&raw).map_err(|e| self.in_record(number::SECURE, e))?;
        if found != *place {
            return Err(self.in_record(
                number::SECURE,
                NtfsError::damaged(format!("descriptor {} is not where its index says", place.id)),
            ));
        }
        Ok(raw.split_off(Place::LENGTH))
    }
}
