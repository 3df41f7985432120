//! The words by which every subcommand names its disks.

use crate::{
    image::{self, Format},
    job::Source,
    locator::{Locator, LocatorError},
};
use clap::builder::{OsStringValueParser, TypedValueParser};
use std::path::{Path, PathBuf};

/// SRC... and how to read it.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct SourceArguments {
    /// Disk images, block devices, nbd://HOST/EXPORT, nbd+unix:///EXPORT?socket=PATH, or - for standard input, in the
    /// order in which the machine has them; opened read-only
    #[arg(value_name = "SRC", required = true, value_parser = locator())]
    pub(crate) disks: Vec<Locator>,

    #[command(flatten)]
    pub(crate) reading: ReadingArguments,
}

/// How disks are read.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct ReadingArguments {
    /// Format of the disks (raw, qcow2, vmdk, vpc, vhdx, vdi, ...); without it files are recognised by their first bytes,
    /// and block devices and exports are raw
    #[arg(long, value_name = "FORMAT")]
    pub(crate) source_format: Option<Format>,

    /// Logical sector size of the disks in bytes, where a file cannot tell
    #[arg(long, value_name = "BYTES", value_parser = ["512", "4096"])]
    pub(crate) sector_size: Option<String>,

    /// Edit filesystems of Windows that are marked as dirty (they stay so, and Windows checks them when it starts), and
    /// registry hives that were not closed properly and have no logs that help
    #[arg(long, global = true)]
    pub(crate) force_dirty: bool,

    /// Changes held in memory before they go to a temporary file
    #[arg(long, value_name = "SIZE", default_value = "32M", value_parser = size)]
    pub(crate) overlay_memory: u64,

    /// Folder of that temporary file, which has no name there [default: $TMPDIR or /tmp]
    #[arg(long, value_name = "DIR")]
    pub(crate) temporary_folder: Option<PathBuf>,
}

impl SourceArguments {
    /// For the job.
    pub(crate) fn source(&self) -> Source {
        self.reading.source(self.disks.clone())
    }
}

impl ReadingArguments {
    /// The disk of `SRC` or `SRC@VOLUME`, read so, and the volume.
    pub(crate) fn split(&self, src: &str) -> Result<(Source, Option<String>), LocatorError> {
        // A file of that very name is what is meant.
        let (disk, volume) = match src.rsplit_once('@') {
            Some((disk, volume)) if !Path::new(src).exists() => (disk, Some(volume.to_owned())),
            _ => (src, None),
        };
        let disk = Locator::parse(disk.as_ref())?;
        Ok((self.source(vec![disk]), volume))
    }

    /// These disks, read so.
    pub(crate) fn source(&self, disks: Vec<Locator>) -> Source {
        Source {
            disks,
            format: self.source_format,
            sector_size: self.sector_size.as_deref().and_then(|size| size.parse().ok()),
            snapshot: None,
            directly: false,
            forward: false,
            size: None,
            force_dirty: self.force_dirty,
            overlay_memory: self.overlay_memory,
            temporary_folder: self.temporary_folder.clone().unwrap_or_else(std::env::temp_dir),
        }
    }
}

/// Where a disk is.
pub(crate) fn locator() -> impl TypedValueParser<Value = Locator> {
    OsStringValueParser::new().try_map(|words| Locator::parse(&words))
}

/// A size in bytes.
pub(crate) fn size(text: &str) -> Result<u64, String> {
    image::bytes(text)
}
