//! POSIX access control lists: on disk (`struct ext4_acl_header`, `ext4_acl_entry`: version 1, an id only where one
//! is meant) and as `getxattr(2)` shows them (`posix_acl_xattr_header`: version 2, every entry with an id).

use super::error::Ext4Error;
use crate::disk::field::{bytes_at, u16_le, u32_le};

const DISK_VERSION: u32 = 1;
const INTERFACE_VERSION: u32 = 2;
/// An entry of four bytes: tag and permissions.
const SHORT: usize = 4;
/// An entry of eight bytes: with an id.
const LONG: usize = 8;
/// `ACL_UNDEFINED_ID`.
const NO_ID: u32 = u32::MAX;

/// Tags of entries (`ACL_USER_OBJ` …), as in acl(5).
pub(super) mod tag {
    pub(in super::super) const OWNER: u16 = 0x01;
    pub(in super::super) const USER: u16 = 0x02;
    pub(in super::super) const GROUP_OWNER: u16 = 0x04;
    pub(in super::super) const GROUP: u16 = 0x08;
    pub(in super::super) const MASK: u16 = 0x10;
    pub(in super::super) const OTHER: u16 = 0x20;
}

/// One entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct AclEntry {
    /// [`tag`].
    pub(super) tag: u16,
    /// Read 4, write 2, execute 1.
    pub(super) permissions: u16,
    /// Of [`tag::USER`] and [`tag::GROUP`].
    pub(super) id: u32,
}

impl AclEntry {
    const fn has_id(self) -> bool {
        matches!(self.tag, tag::USER | tag::GROUP)
    }
}

/// Is this `e_name_index` that of an access or default list?
pub(super) const fn is_acl(prefix: u8) -> bool {
    matches!(prefix, 2 | 3)
}

fn wrong(what: &str) -> Ext4Error {
    Ext4Error::damaged(format!("access control list: {what}"))
}

/// Parses the form on disk.
pub(super) fn parse_disk(bytes: &[u8]) -> Result<Vec<AclEntry>, Ext4Error> {
    if u32_le(bytes, 0)? != DISK_VERSION {
        return Err(wrong("version 1 expected"));
    }
    let mut at = SHORT;
    let mut entries = Vec::new();
    while at < bytes.len() {
        let mut entry = AclEntry {
            tag: u16_le(bytes, at)?,
            permissions: u16_le(bytes, at + 2)?,
            id: NO_ID,
        };
        at += SHORT;
        if entry.has_id() {
            entry.id = u32_le(bytes, at)?;
            at += SHORT;
        }
        entries.push(entry);
    }
    Ok(entries)
}

/// The form on disk.
pub(super) fn encode_disk(entries: &[AclEntry]) -> Vec<u8> {
    let mut bytes = DISK_VERSION.to_le_bytes().to_vec();
    for entry in entries {
        bytes.extend_from_slice(&entry.tag.to_le_bytes());
        bytes.extend_from_slice(&entry.permissions.to_le_bytes());
        if entry.has_id() {
            bytes.extend_from_slice(&entry.id.to_le_bytes());
        }
    }
    bytes
}

/// From the form on disk to that of `getxattr(2)`.
pub(super) fn to_interface(disk: &[u8]) -> Result<Vec<u8>, Ext4Error> {
    let mut bytes = INTERFACE_VERSION.to_le_bytes().to_vec();
    for entry in parse_disk(disk)? {
        bytes.extend_from_slice(&entry.tag.to_le_bytes());
        bytes.extend_from_slice(&entry.permissions.to_le_bytes());
        bytes.extend_from_slice(&entry.id.to_le_bytes());
    }
    Ok(bytes)
}

/// From the form of `setxattr(2)` to that on disk.
pub(super) fn from_interface(interface: &[u8]) -> Result<Vec<u8>, Ext4Error> {
    if u32_le(interface, 0)? != INTERFACE_VERSION || interface.len() % LONG != SHORT {
        return Err(wrong("version 2 and whole entries expected"));
    }
    let mut entries = Vec::new();
    for entry in interface.get(SHORT..).unwrap_or_default().chunks_exact(LONG) {
        let entry = bytes_at(entry, 0, LONG)?;
        entries.push(AclEntry {
            tag: u16_le(entry, 0)?,
            permissions: u16_le(entry, 2)?,
            id: u32_le(entry, 4)?,
        });
    }
    Ok(encode_disk(&entries))
}

/// What a new file gets from its directory's default list: the list, cut down by the mode asked for, and the mode
/// that follows from it (as `posix_acl_create` of the kernel does). No list where the mode says it all.
pub(super) fn inherit(default: &[u8], mode: u32) -> Result<(Option<Vec<u8>>, u32), Ext4Error> {
    let mut entries = parse_disk(default)?;
    let asked = |shift: u32| u16::try_from(mode >> shift & 7).unwrap_or(0);
    let has_mask = entries.iter().any(|entry| entry.tag == tag::MASK);
    let mut mode = mode;
    for entry in &mut entries {
        let shift = match entry.tag {
            tag::OWNER => 6,
            tag::MASK => 3,
            tag::GROUP_OWNER if !has_mask => 3,
            tag::OTHER => 0,
            _ => continue,
        };
        entry.permissions &= asked(shift);
        mode = mode & !(7 << shift) | u32::from(entry.permissions) << shift;
    }
    let plain = entries
        .iter()
        .all(|entry| matches!(entry.tag, tag::OWNER | tag::GROUP_OWNER | tag::OTHER));
    Ok(((!plain).then(|| encode_disk(&entries)), mode))
}

/// The list with the permissions of a new mode (as `posix_acl_chmod` of the kernel): the group's bits go to the mask,
/// where there is one.
pub(super) fn with_mode(list: &[u8], mode: u32) -> Result<Vec<u8>, Ext4Error> {
    let mut entries = parse_disk(list)?;
    let has_mask = entries.iter().any(|entry| entry.tag == tag::MASK);
    for entry in &mut entries {
        let shift = match entry.tag {
            tag::OWNER => 6,
            tag::MASK => 3,
            tag::GROUP_OWNER if !has_mask => 3,
            tag::OTHER => 0,
            _ => continue,
        };
        entry.permissions = u16::try_from(mode >> shift & 7).unwrap_or(0);
    }
    Ok(encode_disk(&entries))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(entries: &[(u16, u16, u32)]) -> Vec<u8> {
        let entries: Vec<AclEntry> = entries
            .iter()
            .map(|(tag, permissions, id)| AclEntry {
                tag: *tag,
                permissions: *permissions,
                id: *id,
            })
            .collect();
        encode_disk(&entries)
    }

    #[test]
    fn both_forms_say_the_same() {
        let disk = list(&[
            (1, 7, NO_ID),
            (2, 6, 1000),
            (4, 5, NO_ID),
            (0x10, 7, NO_ID),
            (0x20, 0, NO_ID),
        ]);
        assert_eq!(disk.len(), 4 + 4 * 5 + 4);
        let interface = to_interface(&disk).unwrap();
        assert_eq!(interface.len(), 4 + 8 * 5);
        assert_eq!(from_interface(&interface).unwrap(), disk);
        assert!(to_interface(&disk[..disk.len() - 1]).is_err());
        assert!(from_interface(&interface[..9]).is_err());
    }

    #[test]
    fn a_default_list_is_cut_down_by_the_mode() {
        let default = list(&[
            (1, 7, NO_ID),
            (2, 6, 1000),
            (4, 7, NO_ID),
            (0x10, 7, NO_ID),
            (0x20, 5, NO_ID),
        ]);
        let (inherited, mode) = inherit(&default, 0o100_640).unwrap();
        let expected = list(&[
            (1, 6, NO_ID),
            (2, 6, 1000),
            (4, 7, NO_ID),
            (0x10, 4, NO_ID),
            (0x20, 0, NO_ID),
        ]);
        assert_eq!((inherited, mode), (Some(expected), 0o100_640));
        let plain = list(&[(1, 7, NO_ID), (4, 5, NO_ID), (0x20, 0, NO_ID)]);
        assert_eq!(inherit(&plain, 0o100_666).unwrap(), (None, 0o100_640));
    }
}
