//! One disk into its image, and read back if that is wanted.

use super::{
    Stages,
    files::{ProductFiles, Published, cached},
    without_flushes,
};
use crate::{
    copy::{self, Brake, Braked, Copied, FileLedger, Identity, Pace},
    destination::{Cache, Container, Destination},
    disk::{Composite, Disk, DiskSink, Error, Kind, MemoryDisk, Part, Result, Sink},
    image::{self, Beside, Format, Shape},
    job::Copying,
    output::DiskWritten,
};
use std::{ops::Range, path::PathBuf, sync::Arc};

/// What is made of a disk.
pub(crate) struct Product<'a> {
    /// File name at the destination.
    pub(crate) name: &'a str,
    /// Of the image.
    pub(crate) format: Format,
    /// Of the format.
    pub(crate) options: image::Options,
    /// Where it will be, as far as that is a file.
    pub(crate) out: Option<PathBuf>,
    /// An image that is there already is written into.
    pub(crate) existing: bool,
    /// Files of the source: none of them is written, whatever that image names as a part of it.
    pub(crate) spared: &'a [PathBuf],
    /// It is read back.
    pub(crate) verify: bool,
}

/// Copies `disk` to `destination`, going on with what is there when resuming.
pub(crate) fn write_disk(
    disk: &dyn Disk,
    product: &Product<'_>,
    identity: &Identity,
    copying: &Copying,
    brake: Option<&Brake>,
    destination: &mut dyn Destination,
    stages: &mut Stages<'_>,
) -> Result<DiskWritten> {
    stages.begin("copy", disk.size());
    destination.set_cache(copying.cache);
    let shape = Shape {
        format: product.format,
        size: disk.size(),
        sector_size: disk.sector_size(),
        options: product.options.clone(),
    };
    if copying.cache == Cache::Unsafe {
        without_flushes(destination)?;
    }
    let begins_with = image::initial_size(&shape);
    let (container, ledger) = destination.disk(product.name, begins_with, identity, stages.watch())?;
    let pace = Pace {
        threads: copying.threads,
        checkpoint_bytes: copying.checkpoint,
        sparse: copying.sparse,
        offload: copying.offload,
        brake,
        ..Pace::default()
    };
    let sink = if product.existing {
        into_existing(
            &container,
            product,
            disk.size(),
            copying,
            destination,
            brake,
            stages,
        )?
    } else {
        let files = ProductFiles::new(&container, product.name, destination);
        let mut files = files.with_cache(copying.cache);
        image::create(&shape, &mut files)?
    };
    let copied = if copying.hashing {
        copy::copy(disk, &*sink, &ledger, pace, stages.watch())?
    } else {
        copy::copy_unhashed(disk, &*sink, pace, stages.watch())?
    };
    drop(sink);
    let mut verified = false;
    if product.verify {
        stages.begin("verify", disk.size());
        let made = destination.place(product.name);
        verified = read_back(container.disk, product, made, &ledger, &copied, pace, stages)?;
    }
    Ok(DiskWritten {
        name: product.name.to_owned(),
        format: product.format.to_string(),
        size: disk.size(),
        read: copied.read,
        written: copied.put,
        skipped: copied.skipped,
        resumed: copied.known,
        discarded: 0,
        hash: copying.hashing.then_some(copied.digest),
        verified,
    })
}

/// Is the disk in the image what was copied? Where that is larger, the rest must be zeros.
fn read_back(
    container: Arc<dyn Disk>,
    product: &Product<'_>,
    made: Option<PathBuf>,
    ledger: &FileLedger,
    copied: &Copied,
    pace: Pace<'_>,
    stages: &Stages<'_>,
) -> Result<bool> {
    let neighbours = Published::new(made, product.out.clone());
    let written = image::open(container, Some(product.format), &neighbours)?;
    let size = copied.put + copied.skipped + copied.known;
    let part = |range: Range<u64>| {
        let (offset, length) = (range.start, range.end.saturating_sub(range.start));
        let disk = written.clone();
        let parts = vec![Part::Of { disk, offset, length }];
        Composite::new(written.label().to_owned(), written.sector_size(), parts)
    };
    let rest = part(size..written.size())?;
    let nothing = MemoryDisk::new("nothing", Vec::new());
    let found = copy::verify_at(&part(0..size)?, ledger, pace, stages.watch())?;
    let rest = copy::compare(&rest, &nothing, pace.threads, stages.watch())?;
    Ok(found.differing == 0 && found.digest == copied.digest && rest.first_difference.is_none())
}

/// Into an image that is there: everything that is not data is zeroed, what lies behind the disk too.
fn into_existing(
    container: &Container,
    product: &Product<'_>,
    size: u64,
    copying: &Copying,
    destination: &mut dyn Destination,
    brake: Option<&Brake>,
    stages: &mut Stages<'_>,
) -> Result<Box<dyn Sink>> {
    let disk = cached(container.disk.clone(), copying.cache);
    let out = product.out.clone().unwrap_or_default();
    let beside = Beside::new(&out).writing().sparing(product.spared);
    let image = image::open_writable(disk, product.format, &beside)?;
    if image.size() < size {
        let text = format!(
            "holds a disk of {} bytes, {size} are needed: make a larger image, or leave -n out",
            image.size()
        );
        return Err(Error::new(Kind::Full, image.label(), text));
    }
    destination.overwrites();
    if container.fresh && image.size() > size {
        let behind = size..image.size();
        stages.begin("zero", behind.end - behind.start);
        copy::write_zeros(&*image, behind, &Braked::new(stages.watch(), brake))?;
        stages.begin("copy", size);
    }
    Ok(Box::new(DiskSink::new(image, false)))
}
