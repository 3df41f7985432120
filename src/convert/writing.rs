//! One disk into its container, and read back if that is wanted.

use super::stages::Stages;
use crate::{
    copy::{self, Identity, Pace},
    destination::{Container, Destination},
    disk::{Disk, DiskSink, Result, Sink},
    image::{self, Format, NoNeighbours, qcow2},
    job::Job,
    output::DiskWritten,
};

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
    // A raw file has its size from the start; other formats grow.
    let initial = if job.format == Format::Raw { disk.size() } else { 0 };
    let (container, ledger) = destination.disk(name, initial, identity)?;
    let sink = sink(&container, disk.size(), job.format)?;
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

fn sink(container: &Container, size: u64, format: Format) -> Result<Box<dyn Sink>> {
    let disk = container.disk.clone();
    Ok(match format {
        Format::Raw => Box::new(DiskSink::new(disk, container.blank)),
        Format::Qcow2 if container.fresh => {
            Box::new(qcow2::Qcow2Sink::create(disk, size, qcow2::Options::default())?)
        }
        Format::Qcow2 => Box::new(qcow2::Qcow2Sink::resume(disk, size, qcow2::Options::default())?),
    })
}
