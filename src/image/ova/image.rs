//! A package with one disk as an image.

use super::{
    flaw::Flaw,
    package::{Package, Spool},
};
use crate::{
    disk::{Disk, Extent, Kind, Result},
    image::{Check, Format, Image, Info, Named, Neighbours},
    watch::Unwatched,
};
use std::{fs::File, ops::Range, sync::Arc};

/// The only disk of a package.
#[derive(Debug)]
pub struct Ova {
    package: Package,
    format: Format,
    label: String,
    disk: Arc<dyn Image>,
}

impl Ova {
    /// Opens the package in `container`, an archive or a descriptor by `format`.
    ///
    /// # Errors
    /// Those of the package and its disk; [`Kind::Unsupported`] if there are several.
    pub fn open(container: Arc<dyn Disk>, format: Format, neighbours: &dyn Neighbours) -> Result<Self> {
        let label = container.label().to_owned();
        let package = match format {
            Format::Ovf => Package::of_descriptor(container, neighbours)?,
            _ => Package::of_archive(container)?,
        };
        let names = package.disk_names();
        if names.len() != 1 {
            let flaw = Flaw::Disks {
                count: names.len(),
                names: names.join(", "),
            };
            return Err(flaw.of(&label));
        }
        let folder = std::env::temp_dir();
        let unpack = Spool {
            folder: &folder,
            watch: &Unwatched,
        };
        let disk = package.disks(neighbours, &unpack)?.pop();
        let disk = disk.ok_or_else(|| Flaw::NoSystem.of(&label))?;
        Ok(Self {
            package,
            format,
            label,
            disk,
        })
    }
}

impl Disk for Ova {
    fn label(&self) -> &str {
        &self.label
    }

    fn size(&self) -> u64 {
        self.disk.size()
    }

    fn sector_size(&self) -> u32 {
        self.disk.sector_size()
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        self.disk.read_at(offset, buffer)
    }

    fn extents(&self, range: Range<u64>) -> Result<Vec<Extent>> {
        self.disk.extents(range)
    }

    fn plain(&self, offset: u64) -> Option<(&File, u64, u64)> {
        self.disk.plain(offset)
    }
}

impl Image for Ova {
    fn format(&self) -> Format {
        self.format
    }

    fn info(&self) -> Result<Info> {
        let inner = self.disk.info()?;
        let mut details = vec![("machine".to_owned(), self.package.hardware().to_string())];
        details.extend(inner.details);
        let files = self.package.disk_names().into_iter().map(|name| Named {
            name,
            format: Some(self.disk.format().name().to_owned()),
        });
        Ok(Info {
            files: files.chain(inner.files).collect(),
            details,
            ..inner
        })
    }

    /// The digests of the manifest, and the structure of the disk.
    fn check(&self) -> Result<Check> {
        let mut check = self.disk.check()?;
        match self.package.verify(&Unwatched) {
            Ok(_) => {}
            Err(error) if matches!(error.kind, Kind::Corrupt | Kind::NotFound) => {
                check.errors.push(error.source.to_string());
            }
            Err(error) => return Err(error),
        }
        Ok(check)
    }
}
