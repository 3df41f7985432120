//! OUT is an OVA: all disks, the definition of the machine and a manifest in one file. The report lies beside it.

use super::{Cache, Container, Destination, FileDestination, Leftover, Shape, Space};
use crate::{
    copy::{FileLedger, Identity},
    disk::{Disk, Error, Kind, Result},
    image::ova::{NewArchive, NewDisk, NewMachine},
    watch::Watch,
};
use std::{path::Path, sync::Arc};

/// The disks become files of an archive, one behind the other, each as streamOptimized.
#[derive(Debug)]
pub struct ArchiveDestination {
    /// Where the archive is one file among others.
    files: FileDestination,
    name: String,
    contents: Option<(NewMachine, Vec<NewDisk>)>,
    archive: Option<NewArchive>,
    /// The disk that is being written.
    current: Option<Arc<dyn Disk>>,
}

impl ArchiveDestination {
    /// Begins anew.
    ///
    /// # Errors
    /// As [`FileDestination::create`].
    pub fn create(out: &Path) -> Result<Self> {
        Self::of(FileDestination::create(out, Shape::File)?, out)
    }

    /// Goes on with what an earlier run left.
    ///
    /// # Errors
    /// As [`FileDestination::resume`].
    pub fn resume(out: &Path) -> Result<Self> {
        Self::of(FileDestination::resume(out, Shape::File)?, out)
    }

    fn of(files: FileDestination, out: &Path) -> Result<Self> {
        let Some(name) = out.file_name().and_then(|name| name.to_str()) else {
            let text = "is no name for an archive: give OUT a name in UTF-8";
            return Err(Error::new(Kind::Unsupported, out.display().to_string(), text));
        };
        Ok(Self {
            files,
            name: name.to_owned(),
            contents: None,
            archive: None,
            current: None,
        })
    }

    /// The disk that was written last is complete.
    fn complete_current(&mut self) -> Result<()> {
        match (&self.archive, self.current.take()) {
            (Some(archive), Some(disk)) => archive.complete_disk(&*disk),
            _ => Ok(()),
        }
    }

    fn undescribed(&self) -> Error {
        let text =
            "was not described before its first disk; this is a fault of the program, please report it";
        Error::new(Kind::Io, &*self.name, text)
    }
}

impl Destination for ArchiveDestination {
    fn describe(&mut self, machine: &NewMachine, disks: &[NewDisk]) -> Result<()> {
        self.contents = Some((machine.clone(), disks.to_vec()));
        Ok(())
    }

    fn disk(
        &mut self,
        name: &str,
        _size: u64,
        identity: &Identity,
        _watch: &dyn Watch,
    ) -> Result<(Container, FileLedger)> {
        self.complete_current()?;
        let ledger = self.files.part_ledger(name, identity)?;
        let fresh = ledger.is_empty();
        if self.archive.is_none() {
            let (machine, disks) = self.contents.take().ok_or_else(|| self.undescribed())?;
            let file = self.files.beside(&self.name, 0, fresh)?;
            self.archive = Some(NewArchive::new(file, machine, disks)?);
        }
        let archive = self.archive.as_ref().ok_or_else(|| self.undescribed())?;
        let disk = archive.next_disk(fresh)?;
        self.current = Some(disk.clone());
        let container = Container {
            disk,
            fresh,
            blank: true,
        };
        Ok((container, ledger))
    }

    fn set_cache(&mut self, cache: Cache) {
        self.files.set_cache(cache);
    }

    fn file(&mut self, name: &str, contents: &[u8]) -> Result<()> {
        self.files.file(name, contents)
    }

    fn keep(&mut self, name: &str, contents: &[u8]) -> Result<()> {
        self.files.keep(name, contents)
    }

    fn kept(&self, name: &str) -> Result<Option<Vec<u8>>> {
        self.files.kept(name)
    }

    fn never_resume(&mut self) {
        self.files.never_resume();
    }

    fn leftover(&self) -> Leftover {
        self.files.leftover()
    }

    fn space(&self) -> Result<Space> {
        self.files.space()
    }

    fn publish(mut self: Box<Self>, watch: &dyn Watch) -> Result<()> {
        self.complete_current()?;
        let archive = self.archive.take().ok_or_else(|| self.undescribed())?;
        archive.finish(watch)?;
        drop(archive);
        Box::new(self.files).publish(watch)
    }
}
