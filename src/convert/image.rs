//! Jobs on disk images, whatever is in them: another format, a new one, leaks given back.

use super::{
    digest_of, in_place, no_second_time,
    products::must_fit_a_device,
    standard_output,
    verifying::{self, Stoppable},
};
use crate::{
    copy::{self, Identity},
    destination::{self, Destination, DeviceDestination, ExistingDestination, FileDestination, Shape},
    disk::{self, Digest, Error, Kind, Overlay, Result},
    image::{self, Beside, Check, Files, Format},
    job::ImageJob,
    locator::{Locator, is_block_device},
    output::{Report, SourceFacts},
    source::Opened,
    transfer::{self, Product, Stages, resumable},
    undo,
    watch::Watch,
};
use std::{
    path::{Path, PathBuf, absolute},
    sync::Arc,
};

/// How a conversion of an image ended.
#[derive(Debug)]
pub enum ImageConverted {
    /// OUT is there.
    Done(Box<Report>),
    /// What was read back is not what was written, and nothing was published.
    Different(Box<Report>),
}

/// Carries out `job`.
///
/// # Errors
/// Whatever stopped it; nothing is left under the final name, and the error says if it can be resumed.
pub fn convert_image(job: &ImageJob, watch: &dyn Watch) -> Result<ImageConverted> {
    let watch = Stoppable::new(watch);
    let mut stages = Stages::new(&watch);
    let mut report = Report::new("image convert");
    must_stand_alone(job)?;
    let opened = Opened::open(&job.source, &watch)?;
    if job.resume && !opened.lasts() {
        return Err(no_second_time());
    }
    let (source, format) = opened.the_disk()?;
    report.sources.push(SourceFacts {
        disk: source.label().to_owned(),
        format: format.to_string(),
        size: source.size(),
        sector_size: source.sector_size(),
        table: None,
    });
    report.packages = opened.packages();
    report.warnings.extend_from_slice(opened.remarks());
    let brake = job.copying.brake();
    if job.out == Locator::Standard {
        let written = verifying::beside(&opened, &watch, || {
            standard_output::write(&**source, job, brake.as_ref(), &mut stages)
        });
        report.disks.push(written??);
        opened.must_be_at_end()?;
        report.stages = stages.end();
        return Ok(ImageConverted::Done(Box::new(report)));
    }
    let source_digest = opened.identity()?;
    let identity = Identity {
        plan: plan_digest(job, format)?,
        source: source_digest,
        size: source.size(),
    };
    let (mut destination, name) = open_destination(job)?;
    transfer::must_be_worth_resuming(&*destination, &job.out)?;
    report.warnings.extend(destination.remarks());
    let out = match job.out.path() {
        Some(path) => Some(absolute(path).map_err(|error| Error::io(path.display().to_string(), error))?),
        None => None,
    };
    let product = Product {
        name: &name,
        format: job.format,
        options: job.options.clone(),
        out,
        existing: job.existing,
        verify: job.verify,
    };
    let written = verifying::beside(&opened, &watch, || {
        transfer::write_disk(
            &**source,
            &product,
            &identity,
            &job.copying,
            brake.as_ref(),
            &mut *destination,
            &mut stages,
        )
    });
    let written = verifying::worth_keeping(written, &mut *destination)?;
    let written = written.map_err(|error| {
        // A pipe tells nothing of what is still to come.
        let still_needed = match opened.lasts() {
            true => copy::survey(&**source).map_or(0, |survey| survey.data),
            false => source.size(),
        };
        let error = destination::explain_full(error, &*destination, still_needed);
        resumable(error, destination.leftover())
    })?;
    let verified = written.verified;
    report.disks.push(written);
    report.stages = stages.end();
    passed_well(&opened, &mut report, &mut *destination)?;
    if opened.identity()? != source_digest {
        transfer::mark_as_worthless(&mut *destination, "the source has changed")?;
        let text = "has changed while it was copied: what was written is a mixture, and nothing was published. Stop what \
                    writes to it, remove the work folder beside OUT and start again";
        return Err(Error::new(Kind::Unsafe, "the source", text));
    }
    if job.verify && !verified {
        transfer::mark_as_worthless(&mut *destination, "what was read back is not what was written")?;
        return Ok(ImageConverted::Different(Box::new(report)));
    }
    let leftover = destination.leftover();
    destination
        .publish()
        .map_err(|error| resumable(error, leftover))?;
    Ok(ImageConverted::Done(Box::new(report)))
}

/// Is what came through a pipe all that should have come?
fn passed_well(opened: &Opened, report: &mut Report, destination: &mut dyn Destination) -> Result<()> {
    match opened.must_be_at_end() {
        Ok(true) => report.manifests_are_verified(),
        Ok(false) => report.manifests_are_absent(),
        Err(error) => {
            transfer::mark_as_worthless(destination, "what came through the pipe is damaged")?;
            return Err(error);
        }
    }
    Ok(())
}

/// Zeros are left out of what is converted, and would show what lies below.
fn must_stand_alone(job: &ImageJob) -> Result<()> {
    if !job.options.words.iter().any(|(name, _)| name == "backing_file") {
        return Ok(());
    }
    let text = "a converted image stands alone; `rehome image create -b` makes one that stands on another";
    Err(Error::new(Kind::Unsupported, "-o backing_file", text))
}

/// What a resumed run must have in common with the first one: all that decides a byte of the result.
fn plan_digest(job: &ImageJob, source: Format) -> Result<Digest> {
    let options = (
        &job.options.words,
        job.options.compress,
        job.copying.sparse,
        job.existing,
        &job.source.snapshot,
    );
    digest_of("job", &("image convert", source, job.format, options))
}

/// The destination, begun or resumed, and what the image is called there.
fn open_destination(job: &ImageJob) -> Result<(Box<dyn Destination>, String)> {
    let label = job.out.to_string();
    let path = match &job.out {
        Locator::Path(path) if path.exists() && is_block_device(path)? => return on_device(job),
        Locator::Path(path) => path,
        Locator::Nbd(_) => return on_device(job),
        Locator::Standard => {
            let text = "cannot be written to: name a file";
            return Err(Error::new(Kind::Unsupported, "standard output", text));
        }
    };
    let out = absolute(path).map_err(|error| Error::io(&*label, error))?;
    let Some(name) = out.file_name().and_then(|name| name.to_str()).map(str::to_owned) else {
        let text = "is no name for a file that can be made: give OUT a name in UTF-8";
        return Err(Error::new(Kind::Unsupported, label, text));
    };
    let mut sources = job.source.disks.iter().filter_map(Locator::path);
    if sources.any(|source| is_same_file(source, &out)) {
        let text = "is the source, which is never written: name another file";
        return Err(Error::new(Kind::Unsafe, label, text));
    }
    let destination: Box<dyn Destination> = match (job.existing, job.resume) {
        (true, false) => Box::new(ExistingDestination::create(path, &job.yes_erase)?),
        (true, true) => Box::new(ExistingDestination::resume(path, &job.yes_erase)?),
        (false, false) => Box::new(FileDestination::create(path, Shape::File)?),
        (false, true) => Box::new(FileDestination::resume(path, Shape::File)?),
    };
    Ok((destination, name))
}

fn is_same_file(one: &Path, other: &Path) -> bool {
    match (one.canonicalize(), other.canonicalize()) {
        (Ok(one), Ok(other)) => one == other,
        _ => false,
    }
}

fn on_device(job: &ImageJob) -> Result<(Box<dyn Destination>, String)> {
    let folder = std::env::current_dir().map_err(|error| Error::io(".", error))?;
    must_fit_a_device(&job.out, job.format, &job.source)?;
    let devices = [job.out.clone()];
    let destination = if job.resume {
        DeviceDestination::resume(&devices, &job.yes_erase, &folder)?
    } else {
        DeviceDestination::create(&devices, &job.yes_erase, &folder)?
    };
    Ok((Box::new(destination), job.out.short_name()))
}

/// Makes an image of a disk without data; on a backing file that is the disk of that.
///
/// # Errors
/// Those of the destination; [`Kind::Unsupported`] for what the format cannot be. Nothing is left under the final name.
pub fn create_image(out: &Path, shape: &image::Shape) -> Result<()> {
    let label = out.display().to_string();
    let Some(name) = out.file_name().and_then(|name| name.to_str()) else {
        let text = "is no name for a file that can be made: give it a name in UTF-8";
        return Err(Error::new(Kind::Unsupported, label, text));
    };
    let mut destination = Box::new(FileDestination::create(out, Shape::File)?);
    let identity = Identity {
        plan: Digest::of(b"image create"),
        source: Digest::of(b"nothing"),
        size: shape.size,
    };
    let (container, _) = destination.disk(name, image::initial_size(shape), &identity)?;
    let mut files = transfer::ProductFiles::new(&container, name, &mut *destination);
    let files: &mut dyn Files = &mut files;
    let sink = image::create(shape, files)?;
    if shape.size > 0 {
        sink.skip(0..shape.size)?;
    }
    sink.finish()?;
    drop(sink);
    destination.publish()
}

/// What a repair did.
#[derive(Clone, Debug)]
pub struct Repaired {
    /// Bytes that were given back.
    pub freed: u64,
    /// What a check finds now.
    pub check: Check,
    /// What takes the repair back; `None` if nothing was changed.
    pub undo: Option<PathBuf>,
}

/// Changes held in memory before they go to a temporary file, in bytes.
const OVERLAY_MEMORY: u64 = 32 << 20;

/// Gives back the leaks of the image at `path`, in place; `undo_file` takes that back bit for bit.
///
/// # Errors
/// [`Kind::Unsupported`] for a format that cannot leak, [`Kind::Unsafe`] for an image that is damaged or in use. Before the
/// first byte is written the image is as it was.
pub fn repair_image(
    path: &Path,
    format: Option<Format>,
    undo_file: &Path,
    watch: &dyn Watch,
) -> Result<Repaired> {
    in_place::must_be_absent(undo_file)?;
    let _lock = undo::lock_file(path)?;
    let container = disk::open_source(path, None)?;
    let format = image::format_at(path, &*container, format)?;
    let overlay = Arc::new(Overlay::new(container, OVERLAY_MEMORY, std::env::temp_dir()));
    let image = image::open_writable(overlay.clone(), format, &Beside::new(path))?;
    let freed = image.repair_leaks()?;
    image.flush()?;
    let check = image.check()?;
    if !check.errors.is_empty() {
        let text = "would be damaged by the repair; nothing was written. Please report this";
        return Err(Error::new(Kind::Unsafe, path.display().to_string(), text));
    }
    if overlay.held().is_empty() {
        return Ok(Repaired {
            freed,
            check,
            undo: None,
        });
    }
    watch.stage("commit", 0);
    undo::commit_in_place(&overlay, path, undo_file, watch)?;
    Ok(Repaired {
        freed,
        check,
        undo: Some(undo_file.to_owned()),
    })
}
