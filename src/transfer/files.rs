//! The files of an image, made by the destination and found again where they are.

use crate::{
    destination::{Cache, Container, Destination},
    disk::{Disk, Result, Unflushed},
    image::{Beside, Files, Neighbours, NoNeighbours},
};
use std::{ffi::OsStr, os::unix::ffi::OsStrExt, path::PathBuf, sync::Arc};

/// What a format that is written gets its files from.
pub(crate) struct ProductFiles<'a> {
    container: &'a Container,
    name: &'a str,
    cache: Cache,
    destination: &'a mut dyn Destination,
}

impl<'a> ProductFiles<'a> {
    /// Of the product `name`, whose first file is `container`.
    pub(crate) fn new(container: &'a Container, name: &'a str, destination: &'a mut dyn Destination) -> Self {
        Self {
            container,
            name,
            cache: Cache::default(),
            destination,
        }
    }

    /// Flushed as `cache` says.
    pub(crate) fn with_cache(mut self, cache: Cache) -> Self {
        self.cache = cache;
        self
    }
}

impl Files for ProductFiles<'_> {
    fn main(&self) -> Arc<dyn Disk> {
        cached(self.container.disk.clone(), self.cache)
    }

    fn name(&self) -> &str {
        self.name
    }

    fn fresh(&self) -> bool {
        self.container.fresh
    }

    fn blank(&self) -> bool {
        self.container.blank
    }

    fn beside(&mut self, name: &str, size: u64) -> Result<Arc<dyn Disk>> {
        let file = self.destination.beside(name, size, self.container.fresh)?;
        Ok(cached(file, self.cache))
    }
}

/// `disk` without its flushes, where nobody wants them.
pub(super) fn cached(disk: Arc<dyn Disk>, cache: Cache) -> Arc<dyn Disk> {
    match cache {
        Cache::Unsafe => Arc::new(Unflushed::new(disk)),
        Cache::None | Cache::Writeback => disk,
    }
}

/// What an image that is not published yet may open: its other files where they are made, and its backing file where it
/// will be found from the place that the image will have.
pub(crate) struct Published {
    made: Option<PathBuf>,
    out: Option<PathBuf>,
}

impl Published {
    /// `made`: where the image is now. `out`: where it will be.
    pub(crate) fn new(made: Option<PathBuf>, out: Option<PathBuf>) -> Self {
        Self { made, out }
    }
}

impl Neighbours for Published {
    fn open(&self, name: &[u8], format: Option<&str>) -> Result<Arc<dyn Disk>> {
        let file = OsStr::from_bytes(name);
        let is_there = |image: &&PathBuf| image.with_file_name(file).exists();
        let made = self.made.as_ref().filter(is_there);
        match made.or(self.out.as_ref()) {
            Some(image) => Beside::new(image).open(name, format),
            None => NoNeighbours.open(name, format),
        }
    }
}
