//! A job from end to end: open → overlay → scan → inspect → match → plan → edit → judge → discard what is free →
//! copy → verify → publish.

mod editing;
mod image;
mod in_place;
mod mending;
mod planning;
mod products;
mod standard_output;
mod verifying;

pub use image::{ImageConverted, convert_image, create_image, repair_image};
pub use in_place::{EditedInPlace, edit_in_place};
pub use mending::{Mending, mend, mount_tree};
pub use planning::make_plan;

use crate::{
    copy::{self, Braked, Identity},
    destination::{self, Destination, Leftover},
    disk::{self, Digest, Error, Kind},
    job::Job,
    locator::Locator,
    machine,
    output::{DiskWritten, Report},
    plan::Plan,
    source::{Layer, Opened},
    transfer::{self, Product, Stages, resumable},
    watch::Watch,
};
use products::Products;
use verifying::Stoppable;

/// How a conversion ended.
#[derive(Debug)]
pub enum Converted {
    /// All is there; the report says what was done.
    Done(Box<Report>),
    /// The plan has blockers, and nothing was written.
    Blocked(Box<Plan>),
    /// What was read back is not what was written, and nothing was published.
    Different(Box<Report>),
}

/// Carries out `job`.
///
/// # Errors
/// Whatever stopped it; nothing is left under the final name, and the error says if it can be resumed.
pub fn convert(job: &Job, watch: &dyn Watch) -> disk::Result<Converted> {
    if job.out == Locator::Standard {
        return standard_output::convert(job, watch);
    }
    convert_to_place(job, watch, true)
}

/// The same, to a place that can be come back to. Unless that `lasts`, nothing is kept there for another run.
fn convert_to_place(job: &Job, watch: &dyn Watch, lasts: bool) -> disk::Result<Converted> {
    let watch = Stoppable::new(watch);
    let mut stages = Stages::new(&watch);
    let mut report = Report::new("convert");

    stages.begin("inspect", 0);
    let opened = Opened::open(&job.source, &watch)?;
    if job.resume && !opened.lasts() {
        return Err(no_second_time());
    }
    let target = machine::load(&job.to, job.driver_db.as_deref())?;
    let mut examined = opened.examine()?;
    examined.describe(&mut report);

    stages.begin("plan", 0);
    let products = Products::of(job, &opened, examined.layer.disks.len())?;
    let mut destination = if job.dry_run {
        None
    } else {
        Some(products.open_destination(job)?)
    };
    if let Some(destination) = &mut destination {
        if !(lasts && opened.lasts()) {
            destination.never_resume();
        }
        transfer::must_be_worth_resuming(&mut **destination, &job.out)?;
        report.warnings.extend(destination.remarks());
    }
    let plan = planning::plan_of_job(job, &mut examined, &target, destination.as_deref())?;
    report.plan = Some(plan.clone());
    if !plan.blockers.is_empty() {
        return Ok(Converted::Blocked(Box::new(plan)));
    }
    if let Some(destination) = &mut destination {
        planning::keep(&plan, &mut **destination)?;
    }

    stages.begin("rewrite", 0);
    let mut edited = Layer::on(opened.overlays(&examined.layer.disks), &job.source)?;
    editing::edit(&plan, &examined, &mut edited, &mut report)?;
    let discarded = editing::discard_free(&edited, &examined.inspection.guests)?;

    let Some(mut destination) = destination else {
        report.stages = stages.end();
        return Ok(Converted::Done(Box::new(report)));
    };
    let plan_digest = planning::digest(&plan, job.format)?;
    let source_digest = opened.identity()?;
    if !job.resume {
        let disks = &edited.disks;
        transfer::look_for_room(disks, job.format, &job.copying, &*destination, &job.out, &watch)?;
    }
    let (format, options) = products.disk_format(&plan)?;
    products.describe(&plan, &examined, &mut *destination)?;
    let brake = job.copying.brake(lasts && opened.lasts());
    let copied = verifying::beside(&opened, &watch, || {
        let mut written = Vec::new();
        for ((disk, name), discarded) in edited.disks.iter().zip(&products.disks).zip(discarded) {
            let identity = Identity {
                plan: plan_digest,
                source: source_digest,
                size: disk.size(),
            };
            let product = Product {
                name,
                format,
                options: options.clone(),
                out: products.place_of(name),
                existing: false,
                spared: opened.paths(),
                verify: job.verify,
            };
            let one = transfer::write_disk(
                &**disk,
                &product,
                &identity,
                &job.copying,
                brake.as_ref(),
                &mut *destination,
                &mut stages,
            );
            match one {
                Ok(one) => written.push(DiskWritten { discarded, ..one }),
                Err(error) => {
                    let still_needed = copy::survey(&**disk).map_or(0, |survey| survey.data);
                    return Err(destination::explain_full(error, &*destination, still_needed));
                }
            }
        }
        Ok(written)
    });
    let copied = verifying::worth_keeping(copied, &mut *destination)?;
    report.disks = copied.map_err(|error| resumable(error, destination.leftover()))?;
    report.manifests_are_verified();
    report.stages = stages.end();
    if opened.identity()? != source_digest {
        return Err(source_has_changed(&mut *destination));
    }
    if job.verify && !report.disks.iter().all(|disk| disk.verified) {
        transfer::mark_as_worthless(&mut *destination, "what was read back is not what was written")?;
        return Ok(Converted::Different(Box::new(report)));
    }
    products.add_definition(&plan, &examined, &mut report, &mut *destination)?;
    products.add_report(&report, &mut *destination)?;
    let leftover = destination.leftover();
    destination
        .publish(&Braked::new(&watch, brake.as_ref()))
        .map_err(|error| resumable(error, leftover))?;
    Ok(Converted::Done(Box::new(report)))
}

/// Of a pipe.
fn no_second_time() -> Error {
    let text = "comes through a pipe, and nobody knows whether it is what came the first time: resume from a file, or start \
                again";
    Error::new(Kind::Unsafe, "the source", text)
}

/// Of a source that is another at the end of the copy than it was at its beginning. What is at `destination` is not gone on
/// with.
fn source_has_changed(destination: &mut dyn Destination) -> Error {
    let marked = transfer::mark_as_worthless(destination, "the source has changed");
    let (left, folder) = match destination.leftover() {
        Leftover::Nothing => ("nothing was published".to_owned(), false),
        Leftover::Resumable(_) => ("nothing was published".to_owned(), true),
        Leftover::Damaged { out, resumable } => {
            (format!("{out} is overwritten and damaged"), resumable.is_some())
        }
    };
    let next = if folder {
        ", remove the work folder beside OUT"
    } else {
        ""
    };
    let text = format!(
        "has changed while it was copied: what was written is a mixture, and {left}. Stop what writes to it{next} and start \
         again"
    );
    marked
        .err()
        .unwrap_or_else(|| Error::new(Kind::Unsafe, "the source", text))
}

/// What is made of facts that cannot be written as JSON.
fn not_json(what: &str, error: serde_json::Error) -> Error {
    Error::io(what, error.into())
}

/// Digest of a value's JSON.
fn digest_of(what: &str, value: &impl serde::Serialize) -> disk::Result<Digest> {
    let json = serde_json::to_vec(value).map_err(|error| not_json(what, error))?;
    Ok(Digest::of(&json))
}
