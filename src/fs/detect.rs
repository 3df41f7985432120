//! What a volume holds.

use super::{FileSystem, Identity, Result, ext4::Ext4, fat, fat::FatFileSystem, signatures, swap::Swap};
use crate::disk::{
    Disk,
    field::{bytes_at, u32_le},
};
use std::sync::Arc;

/// What a volume holds.
pub enum Detected {
    /// A filesystem that we read and write.
    FileSystem(Box<dyn FileSystem>),
    /// A swap area.
    Swap(Swap),
    /// Recognised by its magic, but not looked into: "xfs", "crypto_LUKS", "LVM2_member", as `blkid` names them.
    Known(Identity),
    /// Nothing that we know: perhaps nothing at all, perhaps a partition table.
    Unknown,
}

impl std::fmt::Debug for Detected {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::FileSystem(open) => f.debug_tuple("FileSystem").field(&open.identity()).finish(),
            Self::Swap(swap) => f.debug_tuple("Swap").field(swap).finish(),
            Self::Known(identity) => f.debug_tuple("Known").field(identity).finish(),
            Self::Unknown => f.write_str("Unknown"),
        }
    }
}

/// Opens what `disk` holds. A journal may be replayed into it: give an overlay.
///
/// # Errors
/// Those of opening, where the kind is known: an ext4 that is damaged, unsafe or too new is an error, not unknown.
pub fn open(disk: Arc<dyn Disk>) -> Result<Detected> {
    let detected = match look(&disk)? {
        Look::Known(identity) => Detected::Known(identity),
        Look::Ext(_) => Detected::FileSystem(Box::new(Ext4::open(disk)?)),
        Look::Fat => match FatFileSystem::open(disk)? {
            Some(fat) => Detected::FileSystem(Box::new(fat)),
            None => Detected::Unknown,
        },
        Look::Swap(swap) => Detected::Swap(swap),
        Look::Unknown => Detected::Unknown,
    };
    Ok(detected)
}

/// What `disk` holds is called; `None` if it is nothing that we know. Reads some sectors and never writes, whatever
/// state it finds.
///
/// # Errors
/// Those of reading, and of a FAT whose boot sector contradicts itself.
pub fn identify(disk: &Arc<dyn Disk>) -> Result<Option<Identity>> {
    Ok(match look(disk)? {
        Look::Known(identity) | Look::Ext(identity) => Some(identity),
        Look::Fat => fat::identify(disk)?,
        Look::Swap(swap) => Some(swap.identity()),
        Look::Unknown => None,
    })
}

enum Look {
    Known(Identity),
    Ext(Identity),
    Fat,
    Swap(Swap),
    Unknown,
}

/// As much as is needed to see an ext superblock.
const START: usize = 2048;

fn look(disk: &Arc<dyn Disk>) -> Result<Look> {
    if let Some(identity) = signatures::container(&**disk)? {
        return Ok(Look::Known(identity));
    }
    let mut start = vec![0; START.min(usize::try_from(disk.size()).unwrap_or(START))];
    disk.read_at(0, &mut start)?;
    // A boot loader in the boot block of an ext4 may wear FAT's costume, and a FAT made over an ext4 may have left
    // its superblock: the table decides which it is.
    let fat = fat::evidence(&**disk)?;
    if fat == fat::Evidence::BootSectorAndTable {
        return Ok(Look::Fat);
    }
    if Ext4::detect(&start) {
        if let Some(identity) = ext_identity(&start) {
            return Ok(if identity.kind == "jbd" {
                Look::Known(identity)
            } else {
                Look::Ext(identity)
            });
        }
    }
    if let Some(identity) = signatures::file_system(&**disk)? {
        return Ok(Look::Known(identity));
    }
    if fat == fat::Evidence::BootSector {
        return Ok(Look::Fat);
    }
    Ok(match Swap::open(disk)? {
        Some(swap) => Look::Swap(swap),
        None => Look::Unknown,
    })
}

/// Of the superblock at byte 1024 (kernel documentation, "ext4: Super Block"), whatever state it is in.
fn ext_identity(start: &[u8]) -> Option<Identity> {
    const SUPERBLOCK: usize = 1024;
    const JOURNAL_DEVICE: u32 = 0x8;
    const HAS_JOURNAL: u32 = 0x4;
    /// What ext3 may have: filetype, needs_recovery, meta_bg; sparse_super, large_file, btree_dir.
    const EXT3: (u32, u32) = (0x2 | 0x4 | 0x10, 0x1 | 0x2 | 0x4);
    let feature = |at: usize| u32_le(start, SUPERBLOCK + at).ok();
    let old = feature(0x4c)? == 0;
    let (compat, incompat, ro_compat) = if old {
        (0, 0, 0)
    } else {
        (feature(0x5c)?, feature(0x60)?, feature(0x64)?)
    };
    let kind = if incompat & JOURNAL_DEVICE != 0 {
        "jbd"
    } else if incompat & !EXT3.0 != 0 || ro_compat & !EXT3.1 != 0 {
        "ext4"
    } else if compat & HAS_JOURNAL != 0 {
        "ext3"
    } else {
        "ext2"
    };
    let label = bytes_at(start, SUPERBLOCK + 0x78, 16).ok()?;
    let label: Vec<u8> = label.iter().copied().take_while(|byte| *byte != 0).collect();
    Some(Identity {
        kind: kind.into(),
        uuid: signatures::binary_uuid(bytes_at(start, SUPERBLOCK + 0x68, 16).ok()?),
        label: (!label.is_empty()).then(|| String::from_utf8_lossy(&label).into_owned()),
    })
}
