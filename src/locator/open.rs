//! Opening what a locator names, for reading.

use super::{
    Locator,
    standard_input::{self, Passing},
};
use crate::{
    disk::{self, Disk, Error, Kind, Result},
    image::{
        self, Beside, Format, Image, Neighbours, NoNeighbours,
        ova::{Package, Spool},
    },
    nbd::{Access, NbdDisk},
    watch::Watch,
};
use std::{
    os::unix::fs::FileTypeExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

/// How sources are read.
#[derive(Clone, Debug, Default)]
pub struct Reading {
    /// What the user says the format is: it wins over what the bytes look like.
    pub format: Option<Format>,
    /// Logical sector in bytes, where the source cannot tell.
    pub sector_size: Option<u32>,
    /// The disk as it was at the time of this snapshot inside the image: its identifier or name.
    pub snapshot: Option<String>,
    /// Files and devices are read past the host's cache.
    pub directly: bool,
    /// What comes through a pipe is read once, in order, where its format allows that: for who copies the one disk in it.
    pub forward: bool,
    /// Size of the raw disk that comes through a pipe; without it, the pipe has to be read to its end first.
    pub size: Option<u64>,
    /// Where copies are made of what cannot be read at any offset; they have no name there.
    pub temporary_folder: PathBuf,
}

/// What a locator named, opened for reading only.
#[derive(Debug)]
pub struct OpenSource {
    /// Its disks, in the order in which the machine has them; all but packages have one.
    pub disks: Vec<Arc<dyn Image>>,
    /// The package that they are of: it describes the machine, and may have a manifest to verify.
    pub package: Option<Package>,
    /// It is read once, as it passes; afterwards [`Passing::must_be_at_end`] tells whether all was well.
    pub passing: Option<Passing>,
    /// The file or block device, where that is what it is.
    pub path: Option<PathBuf>,
    /// The other files that it is made of: further parts, extents, and what it stands on.
    pub files: Vec<PathBuf>,
    /// It can be opened again, and is the same then: not what came through a pipe.
    pub lasts: bool,
    /// What somebody should know of how they are read.
    pub remarks: Vec<String>,
}

/// Opens what `locator` names.
///
/// # Errors
/// Those of the file, the server and the format.
pub fn open_source(locator: &Locator, reading: &Reading, watch: &dyn Watch) -> Result<OpenSource> {
    must_be_a_sector(reading.sector_size, &locator.to_string())?;
    match locator {
        Locator::Path(path) => {
            let container = if reading.directly {
                disk::open_source_directly(path)?
            } else {
                disk::open_source(path, reading.sector_size)?
            };
            let beside = Beside::new(path);
            let container = image::join(path, container, &beside)?;
            let format = match reading.format {
                None if is_block_device(path)? => Some(Format::Raw),
                named => named,
            };
            let source = open_container(container, format, &beside, reading, watch)?;
            Ok(OpenSource {
                path: Some(path.clone()),
                files: beside.opened(),
                ..source
            })
        }
        Locator::Nbd(address) => {
            let export = NbdDisk::open(address, Access::Read)?;
            let export: Arc<dyn Disk> = match reading.sector_size {
                Some(size) => Arc::new(export.with_sector_size(size)),
                None => Arc::new(export),
            };
            let format = reading.format.unwrap_or(Format::Raw);
            open_container(export, Some(format), &NoNeighbours, reading, watch)
        }
        // A file or a device that was redirected is read like any other.
        Locator::Standard if standard_input::is_pipe()? => standard_input::open(reading, watch),
        // A file or a device that was redirected is read like any other.
        Locator::Standard => open_source(&Locator::Path(standard_input::PATH.into()), reading, watch),
    }
}

/// The disks in `container`.
pub(super) fn open_container(
    container: Arc<dyn Disk>,
    format: Option<Format>,
    neighbours: &dyn Neighbours,
    reading: &Reading,
    watch: &dyn Watch,
) -> Result<OpenSource> {
    let format = match format {
        Some(format) => format,
        None => image::detect(&*container)?,
    };
    let package = match format {
        Format::Ova => Some(Package::of_archive(container.clone())?),
        Format::Ovf => Some(Package::of_descriptor(container.clone(), neighbours)?),
        _ => None,
    };
    let disks = match &package {
        Some(package) => {
            let unpack = Spool {
                folder: &reading.temporary_folder,
                watch,
            };
            package.disks(neighbours, &unpack)?
        }
        None => vec![match &reading.snapshot {
            Some(snapshot) => image::open_snapshot(container, format, snapshot, neighbours)?,
            None => image::open(container, Some(format), neighbours)?,
        }],
    };
    Ok(OpenSource {
        disks,
        package,
        passing: None,
        path: None,
        files: Vec::new(),
        lasts: true,
        remarks: Vec::new(),
    })
}

/// Opens the one disk that `locator` names.
///
/// # Errors
/// As [`open_source`]; [`Kind::Unsupported`] if there are several.
pub fn open_one(locator: &Locator, reading: &Reading, watch: &dyn Watch) -> Result<Arc<dyn Image>> {
    let mut source = open_source(locator, reading, watch)?;
    match (source.disks.pop(), source.disks.len()) {
        (Some(disk), 0) => Ok(disk),
        (_, others) => {
            let names = source.package.map(|package| package.disk_names().join(", "));
            let text = format!(
                "holds {} disks ({}), and one is wanted here: unpack it with tar and name the disk",
                others + 1,
                names.unwrap_or_default()
            );
            Err(Error::new(Kind::Unsupported, locator.to_string(), text))
        }
    }
}

/// Is there a block device at `path`?
///
/// # Errors
/// Those of looking.
pub fn is_block_device(path: &Path) -> Result<bool> {
    let metadata = path
        .metadata()
        .map_err(|error| Error::io(path.display().to_string(), error))?;
    Ok(metadata.file_type().is_block_device())
}

fn must_be_a_sector(size: Option<u32>, label: &str) -> Result<()> {
    match size {
        None | Some(512 | 4096) => Ok(()),
        Some(bad) => {
            let text = format!("a sector size of {bad} is not handled: 512 or 4096");
            Err(Error::new(Kind::Unsupported, label, text))
        }
    }
}
