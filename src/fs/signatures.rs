//! What a volume holds that this program does not look into: recognised by its magic, named by its UUID and label
//! where they stand at a fixed place. The offsets are those of each format's own specification, as `blkid(8)` uses
//! them.

use super::{Identity, Result};
use crate::disk::{Disk, check_range};

/// Where a magic stands.
struct Signature {
    kind: &'static str,
    /// In bytes, from the start of the volume.
    at: u64,
    magic: &'static [u8],
    uuid: Uuid,
    /// Offset and length in bytes.
    label: Option<(u64, usize)>,
}

/// How a UUID is kept.
#[derive(Clone, Copy)]
enum Uuid {
    None,
    /// 16 bytes at the offset.
    Binary(u64),
    /// 40 bytes of text at the offset.
    Text(u64),
    /// NTFS: a serial number of 8 bytes at the offset.
    Serial64(u64),
    /// exFAT: a serial number of 4 bytes at the offset.
    Serial32(u64),
}

const fn plain(kind: &'static str, at: u64, magic: &'static [u8]) -> Signature {
    Signature {
        kind,
        at,
        magic,
        uuid: Uuid::None,
        label: None,
    }
}

const fn named(
    kind: &'static str,
    at: u64,
    magic: &'static [u8],
    uuid: Uuid,
    label: Option<(u64, usize)>,
) -> Signature {
    Signature {
        kind,
        at,
        magic,
        uuid,
        label,
    }
}

/// What holds other volumes comes before what may lie in it, and longer magics before shorter ones.
const CONTAINERS: [Signature; 9] = [
    named("crypto_LUKS", 0, b"LUKS\xba\xbe\0\x01", Uuid::Text(168), None),
    named(
        "crypto_LUKS",
        0,
        b"LUKS\xba\xbe\0\x02",
        Uuid::Text(168),
        Some((24, 48)),
    ),
    plain("BitLocker", 3, b"-FVE-FS-"),
    // BitLocker To Go wears the boot sector of a FAT.
    plain(
        "BitLocker",
        424,
        b"\x3b\xd6\x67\x49\x29\x2e\xd8\x4a\x83\x99\xf6\xa3\x39\xe3\xd0\x01",
    ),
    named(
        "linux_raid_member",
        0,
        b"\xfc\x4e\x2b\xa9\x01\0\0\0",
        Uuid::Binary(16),
        Some((32, 32)),
    ),
    named(
        "linux_raid_member",
        4096,
        b"\xfc\x4e\x2b\xa9\x01\0\0\0",
        Uuid::Binary(4112),
        Some((4128, 32)),
    ),
    named(
        "bcache",
        4120,
        b"\xc6\x85\x73\xf6\x4e\x1a\x45\xca\x82\x65\xf5\x7f\x48\xba\x6d\x81",
        Uuid::Binary(4136),
        None,
    ),
    plain("VMFS_volume_member", 0x0010_0000, b"\x0d\xd0\x01\xc0"),
    plain("VMFS", 0x0020_0000, b"\x5e\xf1\xab\x2f"),
];

/// Where the second header of LUKS2 may be: the sizes that the first can have.
const LUKS2_SECOND: [u64; 9] = [
    0x4000, 0x8000, 0x1_0000, 0x2_0000, 0x4_0000, 0x8_0000, 0x10_0000, 0x20_0000, 0x40_0000,
];

const FILE_SYSTEMS: [Signature; 21] = [
    named("xfs", 0, b"XFSB", Uuid::Binary(32), Some((108, 12))),
    named(
        "btrfs",
        0x1_0040,
        b"_BHRfS_M",
        Uuid::Binary(0x1_0020),
        Some((0x1_012b, 256)),
    ),
    named("ntfs", 3, b"NTFS    ", Uuid::Serial64(0x48), None),
    named("exfat", 3, b"EXFAT   ", Uuid::Serial32(100), None),
    plain("ReFS", 3, b"ReFS\0\0\0\0"),
    plain("squashfs", 0, b"hsqs"),
    plain("squashfs", 0, b"sqsh"),
    named("f2fs", 1024, b"\x10\x20\xf5\xf2", Uuid::Binary(1132), None),
    named(
        "erofs",
        1024,
        b"\xe2\xe1\xf5\xe0",
        Uuid::Binary(1072),
        Some((1088, 16)),
    ),
    named(
        "reiserfs",
        65588,
        b"ReIsEr2Fs",
        Uuid::Binary(65620),
        Some((65636, 16)),
    ),
    named(
        "reiserfs",
        65588,
        b"ReIsEr3Fs",
        Uuid::Binary(65620),
        Some((65636, 16)),
    ),
    plain("reiserfs", 65588, b"ReIsErFs"),
    named("jfs", 32768, b"JFS1", Uuid::Binary(32904), Some((32920, 16))),
    named(
        "bcachefs",
        4120,
        b"\xc6\x85\x73\xf6\x66\xce\x90\xa9\xd9\x6a\x60\xcf\x80\x3d\xf7\xef",
        Uuid::Binary(4152),
        Some((4168, 32)),
    ),
    plain("apfs", 32, b"NXSB"),
    plain("hfsplus", 1024, b"H+\0\x04"),
    plain("hfsplus", 1024, b"HX\0\x05"),
    plain("hpfs", 8192, b"\x49\xe8\x95\xf9\xc5\xe9\x53\xfa"),
    named("iso9660", 32769, b"CD001", Uuid::None, Some((32808, 32))),
    plain("udf", 32769, b"BEA01"),
    plain("nilfs2", 1030, b"\x34\x34"),
];

/// What lies around other volumes: encryption, RAID, LVM. To be asked before any filesystem, since a mirror's content
/// looks like a filesystem of its own.
pub(super) fn container(disk: &dyn Disk) -> Result<Option<Identity>> {
    for signature in &CONTAINERS {
        if let Some(identity) = signature.find(disk)? {
            return Ok(Some(identity));
        }
    }
    // The second header of LUKS2, for where the first was overwritten: its data may still be wanted.
    for at in LUKS2_SECOND {
        let uuid = Uuid::Text(at + 168);
        let second = named(
            "crypto_LUKS",
            at,
            b"SKUL\xba\xbe\0\x02",
            uuid,
            Some((at + 24, 48)),
        );
        if let Some(identity) = second.find(disk)? {
            return Ok(Some(identity));
        }
    }
    if let Some(identity) = lvm2(disk)? {
        return Ok(Some(identity));
    }
    raid_at_the_end(disk)
}

/// A filesystem that is not handled.
pub(super) fn file_system(disk: &dyn Disk) -> Result<Option<Identity>> {
    for signature in &FILE_SYSTEMS {
        if let Some(identity) = signature.find(disk)? {
            return Ok(Some(identity));
        }
    }
    zfs(disk)
}

impl Signature {
    fn find(&self, disk: &dyn Disk) -> Result<Option<Identity>> {
        if read(disk, self.at, self.magic.len())?.as_deref() != Some(self.magic) {
            return Ok(None);
        }
        let label = match self.label {
            Some((at, length)) => read(disk, at, length)?.and_then(|bytes| text(&bytes)),
            None => None,
        };
        let uuid = match self.uuid {
            Uuid::None => None,
            Uuid::Binary(at) => read(disk, at, 16)?.as_deref().and_then(binary_uuid),
            Uuid::Text(at) => read(disk, at, 40)?.and_then(|bytes| text(&bytes)),
            Uuid::Serial64(at) => number(disk, at, 8)?.map(|serial| format!("{serial:016X}")),
            Uuid::Serial32(at) => {
                number(disk, at, 4)?.map(|serial| format!("{:04X}-{:04X}", serial >> 16, serial & 0xffff))
            }
        };
        Ok(Some(Identity {
            kind: self.kind.into(),
            uuid,
            label,
        }))
    }
}

/// The bytes at `at`, or `None` if the disk ends before.
fn read(disk: &dyn Disk, at: u64, length: usize) -> Result<Option<Vec<u8>>> {
    if check_range(disk.label(), disk.size(), at, length as u64).is_err() {
        return Ok(None);
    }
    let mut bytes = vec![0; length];
    disk.read_at(at, &mut bytes)?;
    Ok(Some(bytes))
}

/// A little-endian number of up to 8 bytes.
fn number(disk: &dyn Disk, at: u64, length: usize) -> Result<Option<u64>> {
    let bytes = read(disk, at, length)?;
    Ok(bytes.map(|bytes| {
        bytes
            .iter()
            .rev()
            .fold(0, |number, byte| number << 8 | u64::from(*byte))
    }))
}

/// Up to the first NUL, without trailing spaces; `None` if nothing is left.
fn text(bytes: &[u8]) -> Option<String> {
    let bytes = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
    let text = String::from_utf8_lossy(bytes);
    let text = text.trim_end();
    (!text.is_empty()).then(|| text.to_owned())
}

/// `None` if it is all zeros.
pub(super) fn binary_uuid(bytes: &[u8]) -> Option<String> {
    let uuid = uuid::Uuid::from_slice(bytes).ok()?;
    (!uuid.is_nil()).then(|| uuid.to_string())
}

/// LVM2: a label in one of the first four sectors, which says where the physical volume's header is.
fn lvm2(disk: &dyn Disk) -> Result<Option<Identity>> {
    for sector in 0..4_u64 {
        let at = sector * 512;
        let Some(label) = read(disk, at, 32)? else { break };
        if label.get(..8) != Some(b"LABELONE") || label.get(24..32) != Some(b"LVM2 001") {
            continue;
        }
        let offset = number(disk, at + 20, 4)?.unwrap_or(0);
        let id = read(disk, at + offset.min(480), 32)?;
        let id = id.filter(|id| {
            id.iter()
                .all(|byte| byte.is_ascii_alphanumeric() || b"!#".contains(byte))
        });
        let uuid = id.map(|id| {
            // "6-4-4-4-4-4-6", as LVM's own tools show it.
            let mut shown = String::with_capacity(38);
            for (index, byte) in id.iter().enumerate() {
                if matches!(index, 6 | 10 | 14 | 18 | 22 | 26) {
                    shown.push('-');
                }
                shown.push(char::from(*byte));
            }
            shown
        });
        return Ok(Some(Identity {
            kind: "LVM2_member".into(),
            uuid,
            label: None,
        }));
    }
    Ok(None)
}

/// RAID whose metadata stands behind the data: MD 0.90 and 1.0, and the two kinds of firmware RAID that Linux runs
/// through MD.
fn raid_at_the_end(disk: &dyn Disk) -> Result<Option<Identity>> {
    const MD: &[u8] = b"\xfc\x4e\x2b\xa9";
    let size = disk.size();
    let named = |kind: &str, uuid: Option<String>| {
        Ok(Some(Identity {
            kind: kind.into(),
            uuid,
            label: None,
        }))
    };
    // MD 0.90: the last whole 64 KiB but one; its UUID is in four pieces, in the machine's byte order.
    if let Some(at) = (size & !0xffff).checked_sub(0x1_0000) {
        let block = read(disk, at, 64)?;
        if let Some(block) = block.filter(|block| block.starts_with(MD) && block.get(4..8) == Some(&[0; 4])) {
            let pieces = [20..24, 52..56, 56..60, 60..64];
            let mut uuid: Vec<u8> = pieces
                .into_iter()
                .filter_map(|piece| block.get(piece))
                .flatten()
                .copied()
                .collect();
            for piece in uuid.chunks_mut(4) {
                piece.reverse();
            }
            return named("linux_raid_member", binary_uuid(&uuid));
        }
    }
    // MD 1.0: at least 8 KiB from the end, on a multiple of 4 KiB.
    if let Some(at) = (size / 512).checked_sub(16).map(|sector| (sector & !7) * 512) {
        let signature = named_raid_1(at);
        if let Some(identity) = signature.find(disk)? {
            return Ok(Some(identity));
        }
    }
    let before_end = |length: u64, count: usize| match size.checked_sub(length) {
        Some(at) => read(disk, at, count),
        None => Ok(None),
    };
    if before_end(1024, 24)?.as_deref() == Some(b"Intel Raid ISM Cfg Sig. ") {
        return named("isw_raid_member", None);
    }
    if before_end(512, 4)?.is_some_and(|magic| magic == *b"\xde\x11\xde\x11" || magic == *b"\x11\xde\x11\xde")
    {
        return named("ddf_raid_member", None);
    }
    Ok(None)
}

fn named_raid_1(at: u64) -> Signature {
    Signature {
        kind: "linux_raid_member",
        at,
        magic: b"\xfc\x4e\x2b\xa9\x01\0\0\0",
        uuid: Uuid::Binary(at.saturating_add(16)),
        label: Some((at.saturating_add(32), 32)),
    }
}

/// ZFS: a ring of 128 uberblocks of 1 KiB from byte 128 Ki on. Four of them are proof enough for `blkid` too.
fn zfs(disk: &dyn Disk) -> Result<Option<Identity>> {
    const MAGIC: u64 = 0x00ba_b10c;
    let Some(ring) = read(disk, 128 << 10, 128 << 10)? else {
        return Ok(None);
    };
    let uberblocks = ring.chunks_exact(1024).filter(|block| {
        let magic = block.first_chunk::<8>().copied().unwrap_or_default();
        u64::from_le_bytes(magic) == MAGIC || u64::from_be_bytes(magic) == MAGIC
    });
    let found = uberblocks.count() >= 4;
    Ok(found.then(|| Identity {
        kind: "zfs_member".into(),
        ..Identity::default()
    }))
}
