//! Jobs on disk images, whatever is in them: another format, a new one, leaks given back.

use super::{
    digest_of, in_place, no_second_time,
    products::must_fit_a_device,
    source_has_changed, standard_output,
    verifying::{self, Stoppable},
};
use crate::{
    copy::{self, Braked, Identity},
    destination::{self, Destination, DeviceDestination, ExistingDestination, FileDestination, Shape},
    disk::{self, Digest, Error, FileDisk, Kind, Overlay, Result},
    image::{self, Beside, Check, Files, Format},
    job::ImageJob,
    locator::{Locator, is_block_device},
    output::{Report, SourceFacts},
    source::Opened,
    transfer::{self, Product, Stages, resumable},
    undo,
    watch::{Unwatched, Watch},
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
    let brake = job.copying.brake(opened.lasts() && job.out != Locator::Standard);
    if job.out == Locator::Standard {
        let written = verifying::beside(&opened, &watch, || {
            standard_output::write(&**source, job, brake.as_ref(), &mut stages)
        });
        report.disks.push(written??);
        manifests_were_compared(opened.must_be_at_end()?, &mut report);
        report.stages = stages.end();
        return Ok(ImageConverted::Done(Box::new(report)));
    }
    let source_digest = opened.identity()?;
    let identity = Identity {
        plan: plan_digest(job, format)?,
        source: source_digest,
        size: source.size(),
    };
    let (mut destination, name) = open_destination(job, &opened)?;
    if !opened.lasts() {
        destination.never_resume();
    }
    transfer::must_be_worth_resuming(&mut *destination, &job.out)?;
    report.warnings.extend(destination.remarks());
    // A pipe tells nothing of what is to come.
    if !job.resume && opened.lasts() {
        let disks = std::slice::from_ref(source);
        transfer::look_for_room(disks, job.format, &job.copying, &*destination, &job.out, &watch)?;
    }
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
        spared: opened.paths(),
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
    // Is what came through a pipe all that should have come?
    let compared = opened
        .must_be_at_end()
        .map_err(|error| resumable(error, destination.leftover()))?;
    manifests_were_compared(compared, &mut report);
    if opened.identity()? != source_digest {
        return Err(source_has_changed(&mut *destination));
    }
    if job.verify && !verified {
        transfer::mark_as_worthless(&mut *destination, "what was read back is not what was written")?;
        return Ok(ImageConverted::Different(Box::new(report)));
    }
    let leftover = destination.leftover();
    destination
        .publish(&Braked::new(&watch, brake.as_ref()))
        .map_err(|error| resumable(error, leftover))?;
    Ok(ImageConverted::Done(Box::new(report)))
}

/// Every manifest that is `there` is as it should be.
fn manifests_were_compared(there: bool, report: &mut Report) {
    if there {
        report.manifests_are_verified();
    } else {
        report.manifests_are_absent();
    }
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
fn open_destination(job: &ImageJob, opened: &Opened) -> Result<(Box<dyn Destination>, String)> {
    let label = job.out.to_string();
    let path = match &job.out {
        Locator::Path(path) if path.exists() && is_block_device(path)? => return on_device(job, opened),
        Locator::Path(path) => path,
        Locator::Nbd(_) => return on_device(job, opened),
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
    opened.must_not_be_at(&job.out)?;
    if job.existing && !job.format_is_named {
        must_be_raw(path)?;
    }
    let destination: Box<dyn Destination> = match (job.existing, job.resume) {
        (true, false) => Box::new(ExistingDestination::create(path, &job.yes_erase)?),
        (true, true) => Box::new(ExistingDestination::resume(path, &job.yes_erase)?),
        (false, false) => Box::new(FileDestination::create(path, Shape::File)?),
        (false, true) => Box::new(FileDestination::resume(path, Shape::File)?),
    };
    Ok((destination, name))
}

/// Of a file that is written into where nobody has named its format.
fn must_be_raw(out: &Path) -> Result<()> {
    let format = image::detect(&FileDisk::open(out)?)?;
    if format == Format::Raw {
        return Ok(());
    }
    let text = format!(
        "is a {format} image, and without -O it would be taken for a raw disk and be no image any more: say -O {format} to \
         write into its disk, or -O raw if it is to be written over as a whole"
    );
    Err(Error::new(Kind::Unsafe, out.display().to_string(), text))
}

fn on_device(job: &ImageJob, opened: &Opened) -> Result<(Box<dyn Destination>, String)> {
    let folder = std::env::current_dir().map_err(|error| Error::io(".", error))?;
    must_fit_a_device(&job.out, job.format, opened)?;
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
    let (container, _) = destination.disk(name, image::initial_size(shape), &identity, &Unwatched)?;
    let mut files = transfer::ProductFiles::new(&container, name, &mut *destination);
    let files: &mut dyn Files = &mut files;
    let sink = image::create(shape, files)?;
    if shape.size > 0 {
        sink.skip(0..shape.size)?;
    }
    sink.finish()?;
    drop(sink);
    destination.publish(&Unwatched)
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
