//! OUT is an image that is there already and is written into where it lies (`-n`): it has the options, the place and the
//! identity that somebody gave it. Nothing is published: a run that breaks leaves an image that is neither the old nor
//! the new one, and a work folder beside it with which the run can be gone on with.

use super::{
    Cache, Container, Destination, Leftover, Space,
    file::split,
    publish::{must_be_absent, rename_new, sync_file, sync_folder},
    space::space,
    work_folder::WorkFolder,
};
use crate::{
    copy::{FileLedger, Identity},
    disk::{Disk, Error, FileDisk, Kind, Result},
    locator::Locator,
    watch::Watch,
};
use rustix::fs::{FlockOperation, fcntl_lock};
use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

/// One file that is written over.
#[derive(Debug)]
pub struct ExistingDestination {
    out: PathBuf,
    parent: PathBuf,
    /// Open as long as we live: it carries the lock.
    _locked: fs::File,
    work: WorkFolder,
    cache: Cache,
    overwriting: bool,
    published: bool,
}

impl ExistingDestination {
    /// Begins anew on the file `out`, which must be named again in `yes_erase`.
    ///
    /// # Errors
    /// [`Kind::Unsafe`] if it is not named again, or somebody works with it.
    pub fn create(out: &Path, yes_erase: &[Locator]) -> Result<Self> {
        Self::new(out, yes_erase, false)
    }

    /// Goes on with what an earlier run on the same file left.
    ///
    /// # Errors
    /// As [`ExistingDestination::create`]; [`Kind::NotFound`] if no run was broken off there.
    pub fn resume(out: &Path, yes_erase: &[Locator]) -> Result<Self> {
        Self::new(out, yes_erase, true)
    }

    fn new(out: &Path, yes_erase: &[Locator], resume: bool) -> Result<Self> {
        let label = out.display().to_string();
        if !yes_erase.iter().any(|named| named.path() == Some(out)) {
            let text =
                format!("the disk in it would be overwritten: say --yes-erase {label} if that is meant");
            return Err(Error::new(Kind::Unsafe, label, text));
        }
        let failed = |error| Error::io(&*label, error);
        let file = fs::File::options()
            .read(true)
            .write(true)
            .open(out)
            .map_err(failed)?;
        if !file.metadata().map_err(failed)?.is_file() {
            return Err(Error::new(Kind::Unsupported, label, "is no regular file"));
        }
        // What QEMU holds while a machine runs from it.
        if fcntl_lock(&file, FlockOperation::NonBlockingLockExclusive)
            .is_err_and(|error| matches!(error, rustix::io::Errno::AGAIN | rustix::io::Errno::ACCESS))
        {
            let text = "another program works with it (a running virtual machine?); stop that first";
            return Err(Error::new(Kind::Unsafe, label, text));
        }
        let (parent, name) = split(out)?;
        let place = WorkFolder::place(&parent, &name);
        let work = if resume {
            WorkFolder::open(place)?
        } else {
            WorkFolder::create(place)?
        };
        Ok(Self {
            out: out.to_owned(),
            parent,
            _locked: file,
            work,
            cache: Cache::default(),
            overwriting: false,
            published: false,
        })
    }
}

impl Destination for ExistingDestination {
    fn disk(
        &mut self,
        name: &str,
        _size: u64,
        identity: &Identity,
        _watch: &dyn Watch,
    ) -> Result<(Container, FileLedger)> {
        let ledger = self.work.ledger(name, identity)?;
        let fresh = ledger.is_empty();
        let mut file = FileDisk::open_writable(&self.out)?;
        if !fresh {
            file = file.forgetting_earlier_errors();
        }
        let disk: Arc<dyn Disk> = match self.cache {
            Cache::None => Arc::new(file.directly(&self.out)),
            Cache::Writeback | Cache::Unsafe => Arc::new(file),
        };
        let container = Container {
            disk,
            fresh,
            blank: false,
        };
        Ok((container, ledger))
    }

    fn place(&self, _name: &str) -> Option<PathBuf> {
        Some(self.out.clone())
    }

    fn set_cache(&mut self, cache: Cache) {
        self.cache = cache;
    }

    fn file(&mut self, name: &str, contents: &[u8]) -> Result<()> {
        must_be_absent(&self.parent.join(name))?;
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

    fn overwrites(&mut self) {
        self.overwriting = true;
    }

    fn leftover(&self) -> Leftover {
        self.work
            .leftover_in_place(self.out.display().to_string(), self.overwriting)
    }

    fn space(&self) -> Result<Space> {
        space(self.work.path())
    }

    fn publish(mut self: Box<Self>, _watch: &dyn Watch) -> Result<()> {
        if self.cache != Cache::Unsafe {
            sync_file(&self.out)?;
        }
        for name in self.work.product_names()? {
            sync_file(&self.work.product(&name)?)?;
            rename_new(&self.work.product(&name)?, &self.parent.join(&name))?;
        }
        self.published = true;
        sync_folder(&self.parent)?;
        self.work.remove()
    }
}

impl Drop for ExistingDestination {
    fn drop(&mut self) {
        if !self.published {
            self.work.end();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        copy::{Pace, copy},
        disk::{Digest, DiskSink, MemoryDisk},
        watch::Unwatched,
    };

    #[test]
    fn a_file_is_written_over_only_when_it_is_named_twice_and_zeros_replace_what_was_there() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("disk.raw");
        fs::write(&out, vec![7; 3 << 20]).unwrap();
        let error = ExistingDestination::create(&out, &[]).unwrap_err();
        assert_eq!(error.kind, Kind::Unsafe);
        assert!(error.to_string().contains("--yes-erase"), "{error}");

        let mut bytes = vec![0; 3 << 20];
        bytes[5000..6000].fill(1);
        let source = MemoryDisk::new("source", bytes.clone());
        let identity = Identity {
            plan: Digest::of(b"plan"),
            source: Digest::of(b"source"),
            size: 3 << 20,
        };
        let mut destination =
            Box::new(ExistingDestination::create(&out, &[Locator::Path(out.clone())]).unwrap());
        let (container, ledger) = destination.disk("disk.raw", 0, &identity, &Unwatched).unwrap();
        assert!(container.fresh && !container.blank);
        let sink = DiskSink::new(container.disk, container.blank);
        copy(&source, &sink, &ledger, Pace::default(), &Unwatched).unwrap();
        destination.publish(&Unwatched).unwrap();
        assert!(fs::read(&out).unwrap() == bytes);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
