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

/// Kept while names are given: what a run that is killed meanwhile may have made visible.
const PUBLISHING: &str = "publishing";

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
        destination.take_back()?;
        must_be_absent(out)?;
        Ok(destination)
    }

    /// What a run that was killed while it published made visible becomes a product again.
    fn take_back(&self) -> Result<()> {
        let Some(list) = self.work.kept(PUBLISHING)? else {
            return Ok(());
        };
        for name in String::from_utf8_lossy(&list).lines() {
            let product = self.work.product(name)?;
            let visible = self.parent.join(name);
            if !product.exists() && visible.exists() {
                rename_new(&visible, &product)?;
            }
        }
        Ok(())
    }

    /// The products' names; that of OUT last.
    fn products(&self) -> Result<Vec<String>> {
        let folder = self.work.products();
        let mut names = Vec::new();
        for entry in fs::read_dir(&folder).map_err(|error| failed(&folder, error))? {
            let entry = entry.map_err(|error| failed(&folder, error))?;
            let name = entry.file_name().into_string().map_err(|name| {
                let text = format!("holds {}, which this program did not make", name.display());
                Error::new(Kind::Exists, folder.display().to_string(), text)
            })?;
            names.push(name);
        }
        names.sort_by_key(|name| (**name == *self.name, name.clone()));
        Ok(names)
    }

    /// `file`, which is at `path`, with the cache that is wanted.
    fn cached(&self, file: FileDisk, path: &Path) -> Arc<dyn Disk> {
        match self.cache {
            Cache::None => Arc::new(file.directly(path)),
            Cache::Writeback | Cache::Unsafe => Arc::new(file),
        }
    }

    /// The ledger of what is a part of a product.
    pub(super) fn part_ledger(&self, name: &str, identity: &Identity) -> Result<FileLedger> {
        self.work.ledger(name, identity)
    }

    fn publish_files(&self, names: &[String]) -> Result<()> {
        for name in names {
            must_be_absent(&self.parent.join(name))?;
        }
        self.work.keep(PUBLISHING, names.join("\n").as_bytes())?;
        for (index, name) in names.iter().enumerate() {
            let renamed = self
                .work
                .product(name)
                .and_then(|product| rename_new(&product, &self.parent.join(name)));
            if let Err(error) = renamed {
                for earlier in names.iter().take(index) {
                    // What cannot be taken back now is taken back by the next run: the list is kept.
                    let _ = self
                        .work
                        .product(earlier)
                        .and_then(|product| rename_new(&self.parent.join(earlier), &product));
                }
                return Err(error);
            }
        }
        Ok(())
    }
}

impl Destination for FileDestination {
    fn disk(&mut self, name: &str, size: u64, identity: &Identity) -> Result<(Container, FileLedger)> {
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
            let disk = self.cached(FileDisk::open_writable(&path)?, &path);
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
        Ok(self.cached(FileDisk::open_writable(&path)?, &path))
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

    fn leftover(&self) -> Leftover {
        self.work.leftover()
    }

    fn space(&self) -> Result<Space> {
        space(self.work.path())
    }

    fn publish(mut self: Box<Self>) -> Result<()> {
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
            Shape::File => self.publish_files(&names)?,
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
