//! One disk into its container, and read back if that is wanted.

use super::stages::Stages;
use crate::{
    copy::{self, Identity, Pace},
    destination::{Container, Destination},
    disk::{Disk, Error, Kind, Result},
    image::{self, Files, NoNeighbours, Shape},
    job::Job,
    output::DiskWritten,
};
use std::sync::Arc;

/// Copies `disk` to `destination` as `name`, going on with what is there when resuming.
pub(super) fn write_disk(
    disk: &dyn Disk,
    name: &str,
    identity: &Identity,
    job: &Job,
    destination: &mut dyn Destination,
    stages: &mut Stages<'_>,
) -> Result<DiskWritten> {
    stages.begin("copy", disk.size());
    let shape = Shape {
        format: job.format,
        size: disk.size(),
        sector_size: disk.sector_size(),
        options: image::Options::default(),
    };
    let (container, ledger) = destination.disk(name, image::initial_size(&shape), identity)?;
    let mut files = OneFile {
        container: &container,
        name,
    };
    let sink = image::create(&shape, &mut files)?;
    let pace = Pace {
        checkpoint_bytes: job.checkpoint,
        ..Pace::default()
    };
    let copied = copy::copy(disk, &*sink, &ledger, pace, stages.watch())?;
    drop(sink);
    let mut verified = false;
    if job.verify {
        stages.begin("verify", disk.size());
        let written = image::open(container.disk, Some(job.format), &NoNeighbours)?;
        let found = copy::verify(&*written, &ledger, stages.watch())?;
        verified = found.differing == 0 && found.digest == copied.digest;
    }
    Ok(DiskWritten {
        name: name.to_owned(),
        format: job.format.to_string(),
        size: disk.size(),
        read: copied.read,
        written: copied.put,
        skipped: copied.skipped,
        resumed: copied.known,
        discarded: 0,
        hash: copied.digest,
        verified,
    })
}

/// A disk that is one file.
struct OneFile<'a> {
    container: &'a Container,
    name: &'a str,
}

impl Files for OneFile<'_> {
    fn main(&self) -> Arc<dyn Disk> {
        self.container.disk.clone()
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

    fn beside(&mut self, name: &str, _size: u64) -> Result<Arc<dyn Disk>> {
        let text = format!("would need a second file, {name}: choose a kind of image that is one file");
        Err(Error::new(Kind::Unsupported, self.name, text))
    }
}
