//! Where driver packages lie: a folder, a disc image, an archive. All are seen as files with paths, listed once and then
//! read in one go, so that an archive that can only be read from its beginning is read no more often than needed.

mod file_system;
mod rpm;

pub use file_system::FileSystemSource;
pub use rpm::RpmSource;

use crate::{
    disk::{Error, FileDisk, Kind},
    fs::{Result, host_folder::HostFolder, iso9660::Iso9660, udf::Udf},
};
use std::{path::Path, sync::Arc};

/// Files of one place: virtio-win has 2000, a DriverStore 20 000.
pub const MOST_FILES: usize = 200_000;

/// A file with packages in it, or beside it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceEntry {
    /// With slashes, from the top: "viostor/w10/amd64/viostor.inf".
    pub path: String,
    /// Bytes.
    pub size: u64,
}

/// Files with paths.
pub trait PackageSource {
    /// As the user named it.
    fn label(&self) -> &str;
    /// All regular files, in a fixed order.
    fn list(&self) -> Result<Vec<SourceEntry>>;
    /// Hands the whole contents of every file that is wanted to `each`, in the order of [`PackageSource::list`]. A file of
    /// more than `most` bytes is an error.
    fn visit(
        &self,
        wanted: &dyn Fn(&str) -> bool,
        most: usize,
        each: &mut dyn FnMut(&str, Vec<u8>) -> Result<()>,
    ) -> Result<()>;
}

/// Opens what lies at `path` by what it is: a folder; a disc image with UDF or ISO 9660; an RPM package.
///
/// # Errors
/// `NotFound`; `Unsupported` for a file that is neither.
pub fn open(path: &Path) -> Result<Box<dyn PackageSource>> {
    let label = path.display().to_string();
    if path.is_dir() {
        let folder = HostFolder::open(path)?;
        return Ok(Box::new(FileSystemSource::new(label, Box::new(folder))));
    }
    if RpmSource::detect(path)? {
        return Ok(Box::new(RpmSource::open(path)?));
    }
    let disk = Arc::new(FileDisk::open(path)?);
    // Windows' own discs have both, and say in ISO 9660 that UDF is wanted. One that cannot be read as UDF may have all there.
    let udf = Udf::open(disk.clone());
    if let Ok(Some(udf)) = udf {
        return Ok(Box::new(FileSystemSource::new(label, Box::new(udf))));
    }
    if let Some(iso) = Iso9660::open(disk)? {
        return Ok(Box::new(FileSystemSource::new(label, Box::new(iso))));
    }
    udf?;
    let text = "is neither a folder nor a disc image (UDF, ISO 9660) nor an RPM package; unpack it (a cabinet by cabextract or expand), and name the folder";
    Err(Error::new(Kind::Unsupported, label, text))
}

fn too_large(label: &str, path: &str, most: usize) -> Error {
    Error::new(
        Kind::Unsupported,
        label,
        format!("{path} has more than {most} bytes, which no file of a driver package has"),
    )
}

fn too_many(label: &str) -> Error {
    Error::new(
        Kind::Unsupported,
        label,
        format!("has more than {MOST_FILES} files; name a folder with driver packages"),
    )
}
