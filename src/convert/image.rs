//! Jobs on disk images, whatever is in them: another format, a new one, leaks given back.

use super::{digest_of, in_place};
use crate::{
    copy::{self, Identity},
    destination::{
        self, BlockDeviceDestination, Destination, ExistingDestination, FileDestination, Shape, share_a_disk,
    },
    disk::{self, Digest, Error, Kind, Overlay, Result},
    image::{self, Beside, Check, Files, Format, Image},
    job::ImageJob,
    output::{Report, SourceFacts},
    transfer::{self, Product, Stages, resumable},
    undo,
    watch::Watch,
};
use std::{
    os::unix::fs::FileTypeExt as _,
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
    let mut stages = Stages::new(watch);
    let mut report = Report::new("image convert");
    let source = open_source(job)?;
    report.sources.push(SourceFacts {
        disk: source.label().to_owned(),
        format: source.format().to_string(),
        size: source.size(),
        sector_size: source.sector_size(),
        table: None,
    });
    let source_digest = identity_of(&job.source)?;
    let identity = Identity {
        plan: plan_digest(job, source.format())?,
        source: source_digest,
        size: source.size(),
    };
    let (mut destination, name) = open_destination(job)?;
    transfer::must_be_worth_resuming(&*destination, &job.out)?;
    let product = Product {
        name: &name,
        format: job.format,
        options: job.options.clone(),
        out: Some(absolute(&job.out).map_err(|error| Error::io(job.out.display().to_string(), error))?),
        existing: job.existing,
        verify: job.verify,
    };
    let brake = job.copying.brake();
    let written = transfer::write_disk(
        &*source,
        &product,
        &identity,
        &job.copying,
        brake.as_ref(),
        &mut *destination,
        &mut stages,
    );
    let written = match written {
        Ok(written) => written,
        Err(error) => {
            let still_needed = copy::survey(&*source).map_or(0, |survey| survey.data);
            let error = destination::explain_full(error, &*destination, still_needed);
            return Err(resumable(error, &*destination));
        }
    };
    let verified = written.verified;
    report.disks.push(written);
    report.stages = stages.end();
    if identity_of(&job.source)? != source_digest {
        transfer::mark_as_worthless(&mut *destination, "the source has changed")?;
        let text = "has changed while it was copied: what was written is a mixture, and nothing was published. Stop what \
                    writes to it, remove the work folder beside OUT and start again";
        return Err(Error::new(Kind::Unsafe, job.source.display().to_string(), text));
    }
    if job.verify && !verified {
        transfer::mark_as_worthless(&mut *destination, "what was read back is not what was written")?;
        return Ok(ImageConverted::Different(Box::new(report)));
    }
    destination.publish()?;
    Ok(ImageConverted::Done(Box::new(report)))
}

/// That of all files that hold the source, as far as their names tell.
fn identity_of(source: &Path) -> Result<Digest> {
    let parts = image::parts(source);
    let parts: Vec<&Path> = parts.iter().map(PathBuf::as_path).collect();
    copy::source_identity(&parts)
}

fn open_source(job: &ImageJob) -> Result<Arc<dyn Image>> {
    let container = if job.source_directly {
        disk::open_source_directly(&job.source)?
    } else {
        disk::open_source(&job.source, None)?
    };
    let beside = Beside::new(&job.source);
    let container = image::join(&job.source, container, &beside)?;
    let format = image::format_at(&job.source, &*container, job.source_format)?;
    image::open(container, Some(format), &beside)
}

/// What a resumed run must have in common with the first one: all that decides a byte of the result.
fn plan_digest(job: &ImageJob, source: Format) -> Result<Digest> {
    let options = (
        &job.options.words,
        job.options.compress,
        job.copying.sparse,
        job.existing,
    );
    digest_of("job", &("image convert", source, job.format, options))
}

/// The destination, begun or resumed, and what the image is called there.
fn open_destination(job: &ImageJob) -> Result<(Box<dyn Destination>, String)> {
    let label = job.out.display().to_string();
    let out = absolute(&job.out).map_err(|error| Error::io(&*label, error))?;
    let Some(name) = out.file_name().and_then(|name| name.to_str()).map(str::to_owned) else {
        let text = "is no name for a file that can be made: give OUT a name in UTF-8";
        return Err(Error::new(Kind::Unsupported, label, text));
    };
    if is_same_file(&job.source, &out) {
        let text = "is the source, which is never written: name another file";
        return Err(Error::new(Kind::Unsafe, label, text));
    }
    let metadata = out.metadata().ok();
    if metadata.is_some_and(|metadata| metadata.file_type().is_block_device()) {
        return Ok((on_device(job, out)?, name));
    }
    let destination: Box<dyn Destination> = match (job.existing, job.resume) {
        (true, false) => Box::new(ExistingDestination::create(&job.out, &job.yes_erase)?),
        (true, true) => Box::new(ExistingDestination::resume(&job.out, &job.yes_erase)?),
        (false, false) => Box::new(FileDestination::create(&job.out, Shape::File)?),
        (false, true) => Box::new(FileDestination::resume(&job.out, Shape::File)?),
    };
    Ok((destination, name))
}

fn is_same_file(one: &Path, other: &Path) -> bool {
    match (one.canonicalize(), other.canonicalize()) {
        (Ok(one), Ok(other)) => one == other,
        _ => false,
    }
}

fn on_device(job: &ImageJob, device: PathBuf) -> Result<Box<dyn Destination>> {
    let label = job.out.display().to_string();
    if job.format != Format::Raw {
        let text = format!("a block device holds raw disks, not {}: say -O raw", job.format);
        return Err(Error::new(Kind::Unsupported, label, text));
    }
    if share_a_disk(&job.source, &device) {
        let text = format!(
            "is on the same disk as the source {}, which would be overwritten",
            job.source.display()
        );
        return Err(Error::new(Kind::Unsafe, label, text));
    }
    let folder = std::env::current_dir().map_err(|error| Error::io(".", error))?;
    let devices = [device];
    Ok(if job.resume {
        Box::new(BlockDeviceDestination::resume(&devices, &job.yes_erase, &folder)?)
    } else {
        Box::new(BlockDeviceDestination::create(&devices, &job.yes_erase, &folder)?)
    })
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
