//! The volumes of a scan, each opened once.

use crate::{
    disk::Kind,
    fs::{
        FileSystem, Identity, Mounts,
        detect::{self, Detected},
        swap::Swap,
    },
    volume::Scan,
};

/// What the volumes hold. [`super::inspect`] looks for systems in it.
#[derive(Default)]
pub struct Opened {
    /// The filesystems that can be read, none mounted.
    pub mounts: Mounts,
    /// Swap areas with the ids of their volumes.
    pub swaps: Vec<(String, Swap)>,
    /// All volumes without a filesystem that can be read, swap among them.
    pub others: Vec<OtherVolume>,
}

/// A volume without a filesystem that can be read here: swap, something known by its signature only, or something
/// that is damaged.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct OtherVolume {
    /// Volume id.
    pub volume: String,
    /// Its names; the kind is as `blkid` says it ("swap", "`LVM2_member`", "`crypto_LUKS`", "xfs"), empty if it is not known.
    pub identity: Identity,
    /// Swap that holds a hibernated system: who put it to sleep.
    pub hibernated: Option<String>,
    /// Why a filesystem of a known kind could not be opened, with the cure.
    pub problem: Option<String>,
}

/// Opens every volume. Journals are replayed into the volumes, so they are to lie on overlays. A volume that cannot be
/// opened is among the others, with the reason: the rest of the machine can be moved. Fails only where a disk cannot
/// be read.
pub fn open(scan: &Scan) -> crate::disk::Result<Opened> {
    let mut filesystems: Vec<(String, Box<dyn FileSystem>)> = Vec::new();
    let mut opened = Opened::default();
    for volume in &scan.volumes {
        let mut other = OtherVolume {
            volume: volume.id.clone(),
            ..OtherVolume::default()
        };
        match detect::open(volume.disk.clone()) {
            Ok(Detected::FileSystem(filesystem)) => {
                filesystems.push((volume.id.clone(), filesystem));
                continue;
            }
            Ok(Detected::Swap(swap)) => {
                other.identity = swap.identity();
                other.hibernated = swap.hibernated().map(str::to_owned);
                opened.swaps.push((volume.id.clone(), swap));
            }
            Ok(Detected::Known(identity)) => other.identity = identity,
            Ok(Detected::Unknown) => {}
            Err(error) if error.kind == Kind::Io || error.kind == Kind::Cancelled => return Err(error),
            Err(error) => {
                other.identity = detect::identify(&volume.disk).ok().flatten().unwrap_or_default();
                other.problem = Some(error.to_string());
            }
        }
        opened.others.push(other);
    }
    opened.mounts = Mounts::new(filesystems);
    Ok(opened)
}
