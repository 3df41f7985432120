//! Security descriptors, self-relative, and what a new file inherits from its directory ([MS-DTYP] 2.4.4, 2.4.5, 2.4.6,
//! 2.5.3.4).

use super::error::{NtfsError, Parsed};
use crate::disk::field::{bytes_at, put_u8, put_u16_le, put_u32_le, u8_at, u16_le, u32_le};

/// Access control lists have at most 64 KiB, and there are two.
pub(super) const MOST_BYTES: u64 = 0x2_0400;

/// Bytes before the parts.
const HEADER: usize = 20;
const ACL_HEADER: usize = 8;
const ACE_HEADER: usize = 4;

/// Control flags.
mod control {
    pub(super) const DACL_PRESENT: u16 = 0x0004;
    pub(super) const SACL_PRESENT: u16 = 0x0010;
    pub(super) const DACL_INHERITED: u16 = 0x0400;
    pub(super) const SACL_INHERITED: u16 = 0x0800;
    pub(super) const SELF_RELATIVE: u16 = 0x8000;
}

/// Flags of an entry.
mod ace {
    pub(super) const TO_FILES: u8 = 0x01;
    pub(super) const TO_DIRECTORIES: u8 = 0x02;
    pub(super) const NOT_FURTHER: u8 = 0x04;
    pub(super) const INHERIT_ONLY: u8 = 0x08;
    pub(super) const INHERITED: u8 = 0x10;
    pub(super) const AUDITED: u8 = 0xc0;
}

/// `BUILTIN\Administrators`, which owns what the system makes.
const ADMINISTRATORS: &[u8] = &[1, 2, 0, 0, 0, 0, 0, 5, 32, 0, 0, 0, 32, 2, 0, 0];
/// `NT AUTHORITY\SYSTEM`.
const SYSTEM: &[u8] = &[1, 1, 0, 0, 0, 0, 0, 5, 18, 0, 0, 0];
/// Stand for the owner and the group of what inherits.
const CREATOR_OWNER: &[u8] = &[1, 1, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0];
const CREATOR_GROUP: &[u8] = &[1, 1, 0, 0, 0, 0, 0, 3, 1, 0, 0, 0];
/// All that can be done with a file.
const FULL_ACCESS: u32 = 0x001f_01ff;
/// Generic rights, and what they are for files ([MS-DTYP] 2.4.3).
const GENERIC: [(u32, u32); 4] = [
    (0x8000_0000, 0x0012_0089),
    (0x4000_0000, 0x0012_0116),
    (0x2000_0000, 0x0012_00a0),
    (0x1000_0000, FULL_ACCESS),
];

/// The hash by which `$Secure` finds a descriptor.
pub(super) fn hash(descriptor: &[u8]) -> u32 {
    let words = descriptor.chunks_exact(4).filter_map(|word| u32_le(word, 0).ok());
    words.fold(0, |hash: u32, word| hash.rotate_left(3).wrapping_add(word))
}

/// Is it a descriptor that Windows would take? Its parts must lie within it.
pub(super) fn check(descriptor: &[u8]) -> Parsed<()> {
    let wrong = |why: &str| {
        Err(NtfsError::Unsupported(format!(
            "no security descriptor of Windows: {why}"
        )))
    };
    if descriptor.len() as u64 > MOST_BYTES {
        return wrong("it is too long");
    }
    let control = u16_le(descriptor, 2)?;
    if u8_at(descriptor, 0)? != 1 || control & control::SELF_RELATIVE == 0 {
        return wrong("version 1, self-relative, is expected");
    }
    for (at, is_list) in [(4, false), (8, false), (12, true), (16, true)] {
        let offset = usize::try_from(u32_le(descriptor, at)?).unwrap_or(usize::MAX);
        if offset == 0 {
            continue;
        }
        let part = descriptor.get(offset..).filter(|_| offset >= HEADER);
        let fits = part.is_some_and(|part| {
            if is_list {
                entries(part).is_ok()
            } else {
                sid(part).is_ok()
            }
        });
        if !fits {
            return wrong("a part of it lies outside");
        }
    }
    Ok(())
}

/// The descriptor of something new in a directory that has `parent`, made by the system: owned by the administrators, with
/// those entries that are to be inherited. Without any, only system and administrators may do something with it.
pub(super) fn inherit(parent: Option<&[u8]>, directory: bool) -> Parsed<Vec<u8>> {
    let inherited = |present: u16, at: usize| -> Option<Vec<Vec<u8>>> {
        let parent = parent?;
        if u16_le(parent, 2).ok()? & present == 0 {
            return None;
        }
        let offset = usize::try_from(u32_le(parent, at).ok()?).ok()?;
        let list = parent.get(offset..).filter(|_| offset >= HEADER)?;
        let entries = entries(list).ok()?;
        let entries: Vec<_> = entries
            .into_iter()
            .flat_map(|entry| inherit_entry(entry, directory).unwrap_or_default())
            .collect();
        (!entries.is_empty()).then_some(entries)
    };
    let mut flags = control::SELF_RELATIVE | control::DACL_PRESENT;
    let sacl = inherited(control::SACL_PRESENT, 12);
    if sacl.is_some() {
        flags |= control::SACL_PRESENT | control::SACL_INHERITED;
    }
    let dacl = match inherited(control::DACL_PRESENT, 16) {
        Some(entries) => {
            flags |= control::DACL_INHERITED;
            entries
        }
        None => vec![allow(SYSTEM)?, allow(ADMINISTRATORS)?],
    };
    let mut raw = vec![0; HEADER];
    put_u8(&mut raw, 0, 1)?;
    put_u16_le(&mut raw, 2, flags)?;
    // In the order of Windows: the same descriptor is the same bytes.
    if let Some(sacl) = sacl {
        append(&mut raw, 12, &list(&sacl)?)?;
    }
    append(&mut raw, 16, &list(&dacl)?)?;
    append(&mut raw, 4, ADMINISTRATORS)?;
    append(&mut raw, 8, SYSTEM)?;
    Ok(raw)
}

fn append(raw: &mut Vec<u8>, field: usize, part: &[u8]) -> Parsed<()> {
    let at = u32::try_from(raw.len()).unwrap_or(u32::MAX);
    put_u32_le(raw, field, at)?;
    raw.extend_from_slice(part);
    Ok(())
}

/// An entry that allows everything.
fn allow(sid: &[u8]) -> Parsed<Vec<u8>> {
    let mut raw = vec![0; ACE_HEADER + 4];
    put_u32_le(&mut raw, 4, FULL_ACCESS)?;
    raw.extend_from_slice(sid);
    let length = u16::try_from(raw.len()).unwrap_or(u16::MAX);
    put_u16_le(&mut raw, 2, length)?;
    Ok(raw)
}

fn list(entries: &[Vec<u8>]) -> Parsed<Vec<u8>> {
    let mut raw = vec![0; ACL_HEADER];
    // Entries for kinds of objects need revision 4.
    let revision = entries
        .iter()
        .map(|entry| match entry.first() {
            Some(5..=8 | 11 | 12 | 15 | 16) => 4,
            _ => 2,
        })
        .max();
    for entry in entries {
        raw.extend_from_slice(entry);
    }
    let length = u16::try_from(raw.len())
        .map_err(|_| NtfsError::Full("an access control list would be longer than 64 KiB".to_owned()))?;
    put_u8(&mut raw, 0, revision.unwrap_or(2))?;
    put_u16_le(&mut raw, 2, length)?;
    put_u16_le(&mut raw, 4, u16::try_from(entries.len()).unwrap_or(u16::MAX))?;
    Ok(raw)
}

/// The entries of a list.
fn entries(list: &[u8]) -> Parsed<Vec<&[u8]>> {
    let length = usize::from(u16_le(list, 2)?);
    let count = u16_le(list, 4)?;
    let mut rest = bytes_at(list, 0, length)?.get(ACL_HEADER..).unwrap_or_default();
    let mut entries = Vec::new();
    for _ in 0..count {
        let length = usize::from(u16_le(rest, 2)?);
        let entry = bytes_at(rest, 0, length)?;
        if length < ACE_HEADER + 4 || length % 4 != 0 {
            return Err(NtfsError::damaged(format!(
                "an access control entry of {length} bytes"
            )));
        }
        entries.push(entry);
        rest = rest.get(length..).unwrap_or_default();
    }
    Ok(entries)
}

/// The security identifier at the start of `raw`.
fn sid(raw: &[u8]) -> Parsed<&[u8]> {
    let parts = usize::from(u8_at(raw, 1)?);
    Ok(bytes_at(raw, 0, 8 + parts * 4)?)
}

/// What an entry of the directory becomes for a new file, or directory, in it: nothing, one entry, or two.
fn inherit_entry(entry: &[u8], directory: bool) -> Parsed<Vec<Vec<u8>>> {
    let flags = u8_at(entry, 1)?;
    let kept = flags & ace::AUDITED | ace::INHERITED;
    let further = flags & (ace::TO_FILES | ace::TO_DIRECTORIES);
    let with_flags = |entry: &[u8], flags: u8| -> Parsed<Vec<u8>> {
        let mut entry = entry.to_vec();
        put_u8(&mut entry, 1, flags)?;
        Ok(entry)
    };
    if !directory {
        return match flags & ace::TO_FILES {
            0 => Ok(Vec::new()),
            _ => Ok(vec![with_flags(&effective(entry)?, kept)?]),
        };
    }
    let stops = flags & ace::NOT_FURTHER != 0;
    if flags & ace::TO_DIRECTORIES == 0 {
        // Not for the directory itself, but for the files that will be in it.
        return match (flags & ace::TO_FILES, stops) {
            (0, _) | (_, true) => Ok(Vec::new()),
            _ => Ok(vec![with_flags(entry, kept | further | ace::INHERIT_ONLY)?]),
        };
    }
    let own = effective(entry)?;
    if stops {
        return Ok(vec![with_flags(&own, kept)?]);
    }
    if own == entry {
        return Ok(vec![with_flags(entry, kept | further)?]);
    }
    // What stands for the creator is somebody else for each that inherits further.
    Ok(vec![
        with_flags(&own, kept)?,
        with_flags(entry, kept | further | ace::INHERIT_ONLY)?,
    ])
}

/// The entry with the creator and generic rights put in.
fn effective(entry: &[u8]) -> Parsed<Vec<u8>> {
    let mut entry = entry.to_vec();
    let mask = u32_le(&entry, 4)?;
    let mapped = GENERIC
        .iter()
        .filter(|(generic, _)| mask & generic != 0)
        .fold(mask & 0x0fff_ffff, |mask, (_, rights)| mask | rights);
    // Labels, attributes and policies have other things there.
    let has_mask = matches!(entry.first(), Some(0..=0x10));
    if has_mask {
        put_u32_le(&mut entry, 4, mapped)?;
    }
    let at = sid_offset(&entry)?;
    let owner = match entry.get(at..) {
        Some(CREATOR_OWNER) => ADMINISTRATORS,
        Some(CREATOR_GROUP) => SYSTEM,
        _ => return Ok(entry),
    };
    entry.truncate(at);
    entry.extend_from_slice(owner);
    let length = u16::try_from(entry.len()).unwrap_or(u16::MAX);
    put_u16_le(&mut entry, 2, length)?;
    Ok(entry)
}

/// Where the security identifier of an entry is; those for kinds of objects have up to two GUIDs before it.
fn sid_offset(entry: &[u8]) -> Parsed<usize> {
    if !matches!(entry.first(), Some(5..=8 | 11 | 12 | 15 | 16)) {
        return Ok(ACE_HEADER + 4);
    }
    let present = u32_le(entry, 8)?;
    let guids = usize::from(present & 1 != 0) + usize::from(present & 2 != 0);
    Ok(ACE_HEADER + 8 + guids * 16)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(kind: u8, flags: u8, mask: u32, sid: &[u8]) -> Vec<u8> {
        let mut raw = vec![kind, flags, 0, 0];
        raw.extend(mask.to_le_bytes());
        raw.extend(sid);
        let length = raw.len() as u16;
        put_u16_le(&mut raw, 2, length).unwrap();
        raw
    }

    fn descriptor(entries: &[Vec<u8>]) -> Vec<u8> {
        let mut raw = vec![0; HEADER];
        raw[0] = 1;
        put_u16_le(&mut raw, 2, control::SELF_RELATIVE | control::DACL_PRESENT).unwrap();
        append(&mut raw, 16, &list(entries).unwrap()).unwrap();
        append(&mut raw, 4, SYSTEM).unwrap();
        append(&mut raw, 8, SYSTEM).unwrap();
        raw
    }

    fn dacl(descriptor: &[u8]) -> Vec<Vec<u8>> {
        check(descriptor).unwrap();
        let at = u32_le(descriptor, 16).unwrap() as usize;
        entries(&descriptor[at..])
            .unwrap()
            .into_iter()
            .map(<[u8]>::to_vec)
            .collect()
    }

    const USERS: &[u8] = &[1, 2, 0, 0, 0, 0, 0, 5, 32, 0, 0, 0, 33, 2, 0, 0];

    #[test]
    fn files_and_directories_inherit_as_in_windows() {
        let parent = descriptor(&[
            entry(0, 0x03, 0x1f_01ff, SYSTEM),
            entry(0, 0x00, 0x1f_01ff, ADMINISTRATORS),
            entry(0, 0x0b, 0x1000_0000, CREATOR_OWNER),
            entry(0, 0x09, 0x12_0089, USERS),
            entry(1, 0x06, 0x2, USERS),
        ]);
        assert_eq!(
            dacl(&inherit(Some(&parent), false).unwrap()),
            [
                entry(0, 0x10, 0x1f_01ff, SYSTEM),
                entry(0, 0x10, 0x1f_01ff, ADMINISTRATORS),
                entry(0, 0x10, 0x12_0089, USERS),
            ]
        );
        assert_eq!(
            dacl(&inherit(Some(&parent), true).unwrap()),
            [
                entry(0, 0x13, 0x1f_01ff, SYSTEM),
                entry(0, 0x10, 0x1f_01ff, ADMINISTRATORS),
                entry(0, 0x1b, 0x1000_0000, CREATOR_OWNER),
                entry(0, 0x19, 0x12_0089, USERS),
                entry(1, 0x10, 0x2, USERS),
            ]
        );
    }

    #[test]
    fn without_anything_to_inherit_only_the_system_has_access() {
        let closed = [
            entry(0, 0, FULL_ACCESS, SYSTEM),
            entry(0, 0, FULL_ACCESS, ADMINISTRATORS),
        ];
        assert_eq!(dacl(&inherit(None, true).unwrap()), closed);
        let parent = descriptor(&[entry(0, 0, FULL_ACCESS, USERS)]);
        assert_eq!(dacl(&inherit(Some(&parent), false).unwrap()), closed);
        for length in 0..parent.len() {
            let _ = inherit(Some(&parent[..length]), true).unwrap();
            assert!(check(&parent[..length]).is_err());
        }
    }

    #[test]
    fn the_hash_is_that_of_windows() {
        // What mkntfs knows of the first two descriptors of every volume.
        assert_eq!(hash(&[1, 0, 0, 0, 2, 0, 0, 0]), 10);
        assert_eq!(hash(&[0, 0, 0, 0x80, 1, 0, 0, 0, 9]), 5);
    }
}
