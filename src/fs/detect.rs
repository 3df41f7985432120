//! What a volume holds.

use super::{
    FileSystem, Identity, Result, Witness,
    ext4::{Ext4, Ext4View},
    fat,
    fat::FatFileSystem,
    ntfs::{Ntfs, NtfsCrate},
    signatures,
    swap::Swap,
};
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

/// Opens what `disk` holds. A journal may be replayed into it and orphans removed: give an overlay, and throw it away
/// after an error, which may have come in the middle of that.
///
/// # Errors
/// Those of opening, where the kind is known: an ext4 that is damaged, unsafe or too new is an error, not unknown.
pub fn open(disk: Arc<dyn Disk>) -> Result<Detected> {
    let detected = match look(&disk)? {
        Look::Known(identity) => Detected::Known(identity),
        Look::Ntfs(_) => Detected::FileSystem(Box::new(Ntfs::open(disk)?)),
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
/// Those of reading.
pub fn identify(disk: &Arc<dyn Disk>) -> Result<Option<Identity>> {
    Ok(match look(disk)? {
        Look::Known(identity) | Look::Ext(identity) => Some(identity),
        // The label is in a file of the filesystem.
        Look::Ntfs(identity) => Some(Ntfs::open(disk.clone()).map_or(identity, |ntfs| ntfs.identity())),
        Look::Fat => fat::identify(disk)?,
        Look::Swap(swap) => Some(swap.identity()),
        Look::Unknown => None,
    })
}

/// An independent reader of the filesystem that `disk` holds, opened afresh; `None` where there is none that could open
/// it, which is not an objection.
///
/// # Errors
/// Those of reading.
pub fn witness(disk: &Arc<dyn Disk>) -> Result<Option<Box<dyn Witness>>> {
    Ok(match look(disk)? {
        Look::Ext(_) => Ext4View::open(disk.clone()).map(|view| Box::new(view) as Box<dyn Witness>),
        Look::Ntfs(_) => NtfsCrate::open(disk.clone()).map(|reader| Box::new(reader) as Box<dyn Witness>),
        Look::Known(_) | Look::Fat | Look::Swap(_) | Look::Unknown => None,
    })
}

enum Look {
    Known(Identity),
    Ext(Identity),
    Ntfs(Identity),
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
    match Ext4::detect(&start).then(|| ext_identity(&start)).flatten() {
        Some(identity) if identity.kind == "jbd" => return Ok(Look::Known(identity)),
        Some(identity) => return Ok(Look::Ext(identity)),
        None => {}
    }
    if let Some(identity) = signatures::file_system(&**disk)? {
        return Ok(if Ntfs::detect(&start) {
            Look::Ntfs(identity)
        } else {
            Look::Known(identity)
        });
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::{FileDisk, MemoryDisk};
    use std::{
        path::{Path, PathBuf},
        process::Command,
    };

    fn must(program: &str, arguments: &[&str]) -> String {
        let output = Command::new(program).args(arguments).output();
        let output = output.unwrap_or_else(|error| panic!("{program} must be installed: {error}"));
        assert!(
            output.status.success(),
            "{program}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// What `blkid` says: TYPE, UUID, LABEL.
    fn blkid(path: &Path) -> (String, Option<String>, Option<String>) {
        let said = |tag: &str| {
            let output = Command::new("blkid")
                .args(["-p", "-o", "value", "-s", tag])
                .arg(path)
                .output();
            let output = output.expect("blkid must be installed").stdout;
            let text = String::from_utf8_lossy(&output).trim_end_matches('\n').to_owned();
            (!text.is_empty()).then_some(text)
        };
        (said("TYPE").unwrap_or_default(), said("UUID"), said("LABEL"))
    }

    fn disk(path: &Path) -> Arc<dyn Disk> {
        Arc::new(FileDisk::open(path).unwrap())
    }

    fn compare(path: &Path) {
        let identity = identify(&disk(path)).unwrap().unwrap_or_default();
        let (kind, uuid, label) = blkid(path);
        assert_eq!(
            (&identity.kind, &identity.uuid, &identity.label),
            (&kind, &uuid, &label),
            "{}",
            path.display()
        );
    }

    #[test]
    fn what_the_tools_make_is_called_what_blkid_calls_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let make = |name: &str, program: &str, options: &[&str]| {
            let path = path(name);
            FileDisk::create(&path, 48 << 20).unwrap();
            let mut arguments = options.to_vec();
            arguments.push(path.to_str().unwrap());
            must(program, &arguments);
            path
        };
        for path in [
            make("fat", "mkfs.fat", &["-F", "32", "-n", "EFI PART"]),
            make("swap", "mkswap", &["-q", "-L", "rest"]),
            make("ext2", "mkfs.ext2", &["-q", "-L", "old"]),
            make("ext3", "mkfs.ext3", &["-q"]),
            make("ext4", "mkfs.ext4", &["-q", "-L", "sixteen letters!"]),
            make("jbd", "mkfs.ext4", &["-q", "-b", "4096", "-O", "journal_dev"]),
        ] {
            compare(&path);
        }
        compare(&make(
            "ntfs",
            "mkntfs",
            &["-q", "-Q", "-F", "-L", "System Ünïcödé"],
        ));
        let tree = path("tree");
        std::fs::create_dir(&tree).unwrap();
        std::fs::write(tree.join("file"), b"contents").unwrap();
        let squashfs = path("squashfs");
        must(
            "mksquashfs",
            &[
                tree.to_str().unwrap(),
                squashfs.to_str().unwrap(),
                "-quiet",
                "-no-progress",
            ],
        );
        compare(&squashfs);
    }

    #[test]
    fn each_kind_opens_as_what_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("disk");
        let make = |program: &str, options: &[&str]| {
            let _ = std::fs::remove_file(&path);
            FileDisk::create(&path, 48 << 20).unwrap();
            let mut arguments = options.to_vec();
            arguments.push(path.to_str().unwrap());
            must(program, &arguments);
            open(disk(&path))
        };
        assert!(
            matches!(make("mkfs.fat", &[]), Ok(Detected::FileSystem(open)) if open.identity().kind == "vfat")
        );
        assert!(
            matches!(make("mkfs.ext4", &["-q"]), Ok(Detected::FileSystem(open)) if open.identity().kind == "ext4")
        );
        assert!(matches!(make("mkswap", &["-q"]), Ok(Detected::Swap(_))));
        assert!(
            matches!(make("mkntfs", &["-q", "-Q", "-F"]), Ok(Detected::FileSystem(open)) if open.identity().kind == "ntfs")
        );
        assert_eq!(witness(&disk(&path)).unwrap().unwrap().name(), "the ntfs crate");
        let unknown: Arc<dyn Disk> = Arc::new(MemoryDisk::new("m", vec![0; 1 << 20]));
        assert!(matches!(open(unknown), Ok(Detected::Unknown)));
        for size in [0, 1, 511, 512, 1024, 2000, 4096, 70_000] {
            let small: Arc<dyn Disk> = Arc::new(MemoryDisk::new("m", vec![0; size]));
            assert!(matches!(open(small), Ok(Detected::Unknown)), "{size}");
        }
        // An ext4 that cannot be opened says why.
        make("mkfs.ext4", &["-q"]).unwrap();
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[1024 + 0x60 + 3] |= 0x80;
        let newer: Arc<dyn Disk> = Arc::new(MemoryDisk::new("m", bytes));
        assert!(identify(&newer).unwrap().is_some());
        assert!(open(newer).is_err());
    }

    #[test]
    fn a_filesystem_made_over_another_is_what_it_is_now() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("disk");
        FileDisk::create(&path, 48 << 20).unwrap();
        let shown = path.to_str().unwrap();
        let kind = || identify(&disk(&path)).unwrap().unwrap().kind;
        must("mkfs.ext4", &["-q", shown]);
        must("mkfs.fat", &[shown]);
        assert_eq!(kind(), "vfat");
        must("mkfs.ext4", &["-q", "-F", shown]);
        assert_eq!(kind(), "ext4");
        must("mkswap", &["-q", "-f", shown]);
        assert_eq!(kind(), "swap");
        // A boot sector with FAT's fields in front of an ext4: the table is missing.
        must("mkfs.ext4", &["-q", "-F", shown]);
        let mut bytes = std::fs::read(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        FileDisk::create(&path, 48 << 20).unwrap();
        must("mkfs.fat", &[shown]);
        bytes[..512].copy_from_slice(&std::fs::read(&path).unwrap()[..512]);
        let costume: Arc<dyn Disk> = Arc::new(MemoryDisk::new("m", bytes));
        assert_eq!(identify(&costume).unwrap().unwrap().kind, "ext4");
    }

    /// Kinds that are too rare to know, and labels in places that are not worth looking at.
    const NOT_KNOWN: [&str; 5] = ["adaptec-raid", "promise-raid", "xfs-log", "iso-", "fat32_cp850"];

    #[test]
    fn real_images_are_called_what_blkid_calls_them() {
        let Some(samples) = std::env::var_os("REHOME_SAMPLES").map(PathBuf::from) else {
            eprintln!("skipped: REHOME_SAMPLES is not set");
            return;
        };
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("image");
        let mut seen = 0;
        let mut files: Vec<_> = samples
            .join("fs/util-linux")
            .read_dir()
            .unwrap()
            .map(|e| e.unwrap().path())
            .collect();
        files.sort();
        for packed in files {
            let name = packed.file_name().unwrap().to_string_lossy().into_owned();
            if !name.ends_with(".img.xz") || NOT_KNOWN.iter().any(|known| name.starts_with(known)) {
                continue;
            }
            let output = std::fs::File::create(&path).unwrap();
            let done = Command::new("xz").arg("-dc").arg(&packed).stdout(output).status();
            assert!(done.expect("xz must be installed").success());
            let identity = identify(&disk(&path)).unwrap().unwrap_or_default();
            let (kind, uuid, label) = blkid(&path);
            assert_eq!(identity.kind, kind, "{name}");
            // What stands at no fixed place is left out.
            let left_out = [
                "udf",
                "VMFS",
                "iso9660",
                "hpfs",
                "ddf_raid_member",
                "VMFS_volume_member",
            ];
            if !left_out.contains(&&*kind) {
                assert_eq!(identity.uuid, uuid, "{name}");
                let no_label = ["exfat", "f2fs"];
                assert!(
                    identity.label == label || no_label.contains(&&*kind),
                    "{name}: {identity:?} {label:?}"
                );
            }
            seen += 1;
        }
        assert!(seen > 40, "{seen}");
    }
}
