//! Where OUT is: whole or not at all is decided here.
//!
//! One conversion's products are made in a work folder beside OUT, under their final names but out of sight, and
//! renamed together by [`Destination::publish`]. A run that breaks leaves a work folder that can be resumed, or
//! nothing.

mod archive;
mod cache;
mod device;
mod existing;
mod file;
mod in_use;
mod overlap;
mod publish;
mod space;
mod work_folder;

pub use archive::ArchiveDestination;
pub use cache::Cache;
pub use device::DeviceDestination;
pub use existing::ExistingDestination;
pub use file::{FileDestination, Shape};
pub use in_use::in_use;
pub use overlap::overlap;
pub(crate) use publish::must_be_free;
pub use space::{Space, explain_full};
pub use work_folder::Leftover;

use crate::{
    copy::{FileLedger, Identity},
    disk::{Disk, Error, Kind, Result},
    image::ova::{NewDisk, NewMachine},
    watch::Watch,
};
use std::{fmt::Debug, path::PathBuf, sync::Arc};

/// One conversion's products, invisible until they are published. Dropped before that, it removes what it made unless
/// that is worth a resume.
pub trait Destination: Debug + Send {
    /// Says what will come, before the first disk: an archive begins with that. Others have no need of it.
    ///
    /// # Errors
    /// Of what cannot be described.
    fn describe(&mut self, _machine: &NewMachine, _disks: &[NewDisk]) -> Result<()> {
        Ok(())
    }
    /// The container of a disk, which begins with `size` bytes (0 for a format that grows), and its ledger. When
    /// resuming, both as they were left; if the ledger knows nothing the container is made afresh.
    ///
    /// # Errors
    /// [`Unsafe`](crate::disk::Kind) if what is there was made by another plan or of another source than
    /// `identity`; [`Full`](crate::disk::Kind) if a device is too small; [`Cancelled`](crate::disk::Kind) if `watch` says so
    /// while what is there is made blank.
    fn disk(
        &mut self,
        name: &str,
        size: u64,
        identity: &Identity,
        watch: &dyn Watch,
    ) -> Result<(Container, FileLedger)>;
    /// A further file of the image of a disk, of `size` bytes to begin with; when resuming (not `fresh`), as it was left.
    ///
    /// # Errors
    /// [`Unsupported`](crate::disk::Kind) where an image can only be one file.
    fn beside(&mut self, name: &str, _size: u64, _fresh: bool) -> Result<Arc<dyn Disk>> {
        let text =
            "would be a second file of one image: choose a kind of image that is one file, or a file as OUT";
        Err(Error::new(Kind::Unsupported, name, text))
    }
    /// Where the file `name` is until it is published; `None` if it is none.
    fn place(&self, _name: &str) -> Option<PathBuf> {
        None
    }
    /// How what is written from now on reaches the storage.
    fn set_cache(&mut self, _cache: Cache) {}
    /// A finished file of the set: definition, report.
    fn file(&mut self, name: &str, contents: &[u8]) -> Result<()>;
    /// Keeps `contents` in the work folder for a resume: the plan. Not published.
    fn keep(&mut self, name: &str, contents: &[u8]) -> Result<()>;
    /// What [`Destination::keep`] kept in the run that is resumed.
    fn kept(&self, name: &str) -> Result<Option<Vec<u8>>>;
    /// What somebody should know of the place that is written to.
    fn remarks(&self) -> Vec<String> {
        Vec::new()
    }
    /// Nobody can go on with this run: if it ends before it published, its work folder goes with it.
    fn never_resume(&mut self);
    /// From now on what is there already is written over, where that is an image: what a run leaves that ends now is
    /// neither the old nor the new one.
    fn overwrites(&mut self) {}
    /// What is left if the run ends here, for the error message.
    fn leftover(&self) -> Leftover;
    /// Room where the products are made: compare it with what [`crate::copy::survey`] says before copying.
    fn space(&self) -> Result<Space>;
    /// Everything becomes durable and visible at once; an error leaves nothing under the final names. What is still to be
    /// read or written before that may be much: `watch` is told of it, and may hold it back or stop it.
    fn publish(self: Box<Self>, watch: &dyn Watch) -> Result<()>;
}

/// Where an image format or a raw copy writes.
#[derive(Clone, Debug)]
pub struct Container {
    /// Writable; a file grows.
    pub disk: Arc<dyn Disk>,
    /// Just made: nothing of an earlier run is in it. Otherwise a format goes on with what it finds.
    pub fresh: bool,
    /// Reads zeros wherever nothing was put: zeros need not be written.
    pub blank: bool,
}
