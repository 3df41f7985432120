//! OUT is a file for one disk, or a folder for many.

use super::{
    Cache, Container, Destination, Leftover, Space,
    publish::{failed, must_be_absent, rename_new, sync_file, sync_folder},
    space::space,
    work_folder::WorkFolder,
};
use crate::{
    copy::{FileLedger, Identity},
    disk::{Disk, Error, FileDisk, Kind, Result},
    watch::Watch,
};
use std::{
    ffi::OsString,
    fs,
    io::ErrorKind,
    path::{Path, PathBuf},
    sync::Arc,
};

/// What OUT will be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// A file: the one disk, whose product has OUT's file name. Definition and report lie beside it.
    File,
    /// A folder with all products in it.
    Folder,
}

/// Products become files.
#[derive(Debug)]
pub struct FileDestination {
    out: PathBuf,
    parent: PathBuf,
    name: OsString,
    shape: Shape,
    work: WorkFolder,
    cache: Cache,
    published: bool,
}

impl FileDestination {
    /// Begins anew.
    ///
    /// # Errors
    /// [`Kind::Exists`] if OUT or an unfinished run for it is there, [`Kind::Unsafe`] if another run is at work,
    /// [`Kind::NotFound`] if the folder that OUT is to be in is not there.
    pub fn create(out: &Path, shape: Shape) -> Result<Self> {
        let (parent, name) = split(out)?;
        must_be_absent(out)?;
        let work = WorkFolder::create(WorkFolder::place(&parent, &name))?;
        Ok(Self {
            out: out.to_owned(),
            parent,
            name,
            shape,
            work,
            cache: Cache::default(),
            published: false,
        })
    }

    /// Goes on with what an earlier run left.
    ///
    /// # Errors
    /// [`Kind::NotFound`] if there is nothing, [`Kind::Exists`] if OUT is there already, [`Kind::Unsafe`] if
    /// another run is at work.
    pub fn resume(out: &Path, shape: Shape) -> Result<Self> {
        let (parent, name) = split(out)?;
        let place = WorkFolder::place(&parent, &name);
        if shape == Shape::Folder && out.is_dir() && WorkFolder::is_emptied(&place) {
            // Killed after OUT got its name: only the work folder was left to remove.
            WorkFolder::open(place)?.remove()?;
            let text = "is complete: the earlier run had only to tidy up, which is done now";
            return Err(Error::new(Kind::Exists, out.display().to_string(), text));
        }
        let work = WorkFolder::open(place)?;
        let destination = Self {
            out: out.to_owned(),
            parent,
            name,
            shape,
            work,
            cache: Cache::default(),
            published: false,
        };
        destination.work.take_back(&destination.parent)?;
        must_be_absent(out)?;
        Ok(destination)
    }

    /// The products' names; that of OUT last.
    fn products(&self) -> Result<Vec<String>> {
        let mut names = self.work.product_names()?;
        names.sort_by_key(|name| **name == *self.name);
        Ok(names)
    }

    /// `file`, which is at `path`, with the cache that is wanted.
    fn cached(&self, file: FileDisk, path: &Path) -> Arc<dyn Disk> {
        match self.cache {
            Cache::None => Arc::new(file.directly(path)),
            Cache::Writeback | Cache::Unsafe => Arc::new(file),
        }
    }

    /// The file at `path` as an earlier run left it.
    fn resumed(&self, path: &Path) -> Result<FileDisk> {
        let file = FileDisk::open_writable(path)?;
        Ok(match self.cache {
            // Nothing is flushed, and nothing is heard.
            Cache::Unsafe => file,
            Cache::None | Cache::Writeback => file.forgetting_earlier_errors(),
        })
    }

    /// The ledger of what is a part of a product.
    pub(super) fn part_ledger(&self, name: &str, identity: &Identity) -> Result<FileLedger> {
        self.work.ledger(name, identity)
    }
}

impl Destination for FileDestination {
    fn disk(
        &mut self,
        name: &str,
        size: u64,
        identity: &Identity,
        _watch: &dyn Watch,
    ) -> Result<(Container, FileLedger)> {
        if self.shape == Shape::File && *name != *self.name {
            let text = format!(
                "a file takes one disk of its own name, not {name:?}; name a folder for several disks"
            );
            return Err(Error::new(
                Kind::Unsupported,
                self.out.display().to_string(),
                text,
            ));
        }
        let path = self.work.product(name)?;
        let mut ledger = self.work.ledger(name, identity)?;
        if path.exists() && !ledger.is_empty() {
            let disk = self.cached(self.resumed(&path)?, &path);
            let container = Container {
                disk,
                fresh: false,
                blank: true,
            };
            return Ok((container, ledger));
        }
        if path.exists() {
            fs::remove_file(&path).map_err(|error| failed(&path, error))?;
        } else if !ledger.is_empty() {
            ledger = self.work.forget(name, identity)?;
        }
        let disk = self.cached(FileDisk::create(&path, size)?, &path);
        let container = Container {
            disk,
            fresh: true,
            blank: true,
        };
        Ok((container, ledger))
    }

    fn beside(&mut self, name: &str, size: u64, fresh: bool) -> Result<Arc<dyn Disk>> {
        let path = self.work.product(name)?;
        if self.shape == Shape::File {
            must_be_absent(&self.parent.join(name))?;
        }
        if fresh {
            match fs::remove_file(&path) {
                Err(error) if error.kind() != ErrorKind::NotFound => return Err(failed(&path, error)),
                _ => {}
            }
            return Ok(self.cached(FileDisk::create(&path, size)?, &path));
        }
        Ok(self.cached(self.resumed(&path)?, &path))
    }

    fn place(&self, name: &str) -> Option<PathBuf> {
        self.work.product(name).ok()
    }

    fn set_cache(&mut self, cache: Cache) {
        self.cache = cache;
    }

    fn file(&mut self, name: &str, contents: &[u8]) -> Result<()> {
        if self.shape == Shape::File {
            must_be_absent(&self.parent.join(name))?;
        }
        self.work.file(name, contents)
    }

    fn keep(&mut self, name: &str, contents: &[u8]) -> Result<()> {
        self.work.keep(name, contents)
    }

    fn kept(&self, name: &str) -> Result<Option<Vec<u8>>> {
        self.work.kept(name)
    }

    fn never_resume(&mut self) {
        self.work.never_resume();
    }

    fn leftover(&self) -> Leftover {
        self.work.leftover()
    }

    fn space(&self) -> Result<Space> {
        space(self.work.path())
    }

    fn publish(mut self: Box<Self>, _watch: &dyn Watch) -> Result<()> {
        let names = self.products()?;
        let flushed = self.cache != Cache::Unsafe;
        if flushed {
            for name in &names {
                sync_file(&self.work.product(name)?)?;
            }
            sync_folder(&self.work.products())?;
        }
        match self.shape {
            Shape::Folder => rename_new(&self.work.products(), &self.out)?,
            Shape::File => self.work.give_names(&names, &self.parent)?,
        }
        self.published = true;
        if flushed {
            sync_folder(&self.parent)?;
        }
        self.work.remove()
    }
}

impl Drop for FileDestination {
    fn drop(&mut self) {
        if !self.published {
            self.work.end();
        }
    }
}

/// The folder that OUT is in, which must be there, and its name.
pub(super) fn split(out: &Path) -> Result<(PathBuf, OsString)> {
    let label = out.display().to_string();
    let Some(name) = out.file_name() else {
        let text = "is not the name of a file or folder that could be made";
        return Err(Error::new(Kind::Unsupported, label, text));
    };
    let parent = match out.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    };
    if parent.is_dir() {
        return Ok((parent, name.to_owned()));
    }
    let text = format!("the folder {} is not there; make it first", parent.display());
    Err(Error::new(Kind::NotFound, label, text))
}

#[cfg(test)]
#[path = "file_tests.rs"]
mod tests;
