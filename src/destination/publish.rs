//! Making files durable and giving them their names.

use crate::disk::{Error, Kind, Result};
use rustix::{
    fs::{CWD, RenameFlags, renameat_with},
    io::Errno,
};
use std::{
    fs::{self, File},
    io,
    path::Path,
};

/// Contents and entries of `folder` survive a power cut.
pub(super) fn sync_folder(folder: &Path) -> Result<()> {
    let file = File::open(folder).map_err(|error| failed(folder, error))?;
    file.sync_all().map_err(|error| failed(folder, error))
}

/// All of a file's bytes survive a power cut.
pub(super) fn sync_file(path: &Path) -> Result<()> {
    let file = File::open(path).map_err(|error| failed(path, error))?;
    file.sync_all().map_err(|error| failed(path, error))
}

/// Gives `from` the name `to`; never replaces anything.
pub(super) fn rename_new(from: &Path, to: &Path) -> Result<()> {
    match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        Ok(()) => Ok(()),
        Err(Errno::EXIST) => Err(Error::new(Kind::Exists, to.display().to_string(), EXISTS)),
        // Filesystems that do not know the flag (NFS, some FUSE): nearly as good.
        Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => {
            must_be_absent(to)?;
            fs::rename(from, to).map_err(|error| failed(to, error))
        }
        Err(error) => Err(failed(to, error.into())),
    }
}

/// What is said of a destination that is there.
const EXISTS: &str = "exists already and is left as it is; remove it or name another destination";

/// Fails if there is anything, even a dangling link, called `path`.
pub(super) fn must_be_absent(path: &Path) -> Result<()> {
    must_be_free(path, EXISTS)
}

/// Fails with `text` if there is anything, even a dangling link, called `path`.
pub(crate) fn must_be_free(path: &Path, text: &'static str) -> Result<()> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(failed(path, error)),
        Ok(_) => Err(Error::new(Kind::Exists, path.display().to_string(), text)),
    }
}

pub(super) fn failed(path: &Path, error: io::Error) -> Error {
    Error::io(path.display().to_string(), error)
}
