//! A job from end to end: open → overlay → scan → inspect → match → plan → edit → judge → discard what is free →
//! copy → verify → publish.

mod editing;
mod hive_file;
mod in_place;
mod mending;
mod planning;
mod products;
mod stages;
mod writing;

pub use hive_file::{HiveFile, HivePlace, Purpose};
pub use in_place::{EditedInPlace, edit_in_place};
pub use mending::{Mending, mend, mount_tree};
pub use planning::make_plan;

use crate::{
    copy::{self, Identity},
    destination::{self, Destination, Leftover},
    disk::{self, Digest, Error, Kind},
    job::Job,
    machine,
    output::Report,
    plan::Plan,
    source::{Layer, Opened},
    watch::Watch,
};
use products::Products;
use stages::Stages;

/// Name under which a destination keeps why a run is not to be gone on with.
const DIFFERENT: &str = "different";

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
    let mut stages = Stages::new(watch);
    let mut report = Report::new("convert");

    stages.begin("inspect", 0);
    let opened = Opened::open(&job.source)?;
    let target = machine::load(&job.to, job.driver_db.as_deref())?;
    let mut examined = opened.examine()?;
    examined.describe(&mut report);

    stages.begin("plan", 0);
    let products = Products::of(job, examined.layer.disks.len())?;
    let mut destination = if job.dry_run {
        None
    } else {
        Some(products.open_destination(job)?)
    };
    if let Some(destination) = &destination
        && let Some(why) = destination.kept(DIFFERENT)?
    {
        let text = format!(
            "cannot be gone on with: {}; remove the work folder beside it and start again",
            String::from_utf8_lossy(&why)
        );
        return Err(Error::new(Kind::Unsafe, job.out.display().to_string(), text));
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
    let source_digest = copy::source_identity(&opened.paths())?;
    for ((disk, name), discarded) in edited.disks.iter().zip(&products.disks).zip(discarded) {
        let identity = Identity {
            plan: plan_digest,
            source: source_digest,
            size: disk.size(),
        };
        let written = writing::write_disk(&**disk, name, &identity, job, &mut *destination, &mut stages);
        let mut written = match written {
            Ok(written) => written,
            Err(error) => {
                let still_needed = copy::survey(&**disk).map_or(0, |survey| survey.data);
                let error = destination::explain_full(error, &*destination, still_needed);
                return Err(resumable(error, &*destination));
            }
        };
        written.discarded = discarded;
        report.disks.push(written);
    }
    report.stages = stages.end();
    if copy::source_identity(&opened.paths())? != source_digest {
        destination.keep(DIFFERENT, b"the source has changed")?;
        let text = "has changed while it was copied: what was written is a mixture, and nothing was published. Stop what \
                    writes to it, remove the work folder beside OUT and start again";
        return Err(Error::new(Kind::Unsafe, "the source", text));
    }
    if job.verify && !report.disks.iter().all(|disk| disk.verified) {
        destination.keep(DIFFERENT, b"what was read back is not what was written")?;
        return Ok(Converted::Different(Box::new(report)));
    }
    products.add_definition(&plan, &mut *destination)?;
    products.add_report(&report, &mut *destination)?;
    destination.publish()?;
    Ok(Converted::Done(Box::new(report)))
}

/// Says of a broken copy that it can be gone on with, where it can. A full destination says so itself.
fn resumable(error: Error, destination: &dyn Destination) -> Error {
    match destination.leftover() {
        Leftover::Resumable(folder) if error.kind != Kind::Full => {
            let text = format!(
                "{}; what is written so far is kept in {}: go on with --resume, or remove that folder",
                error.source,
                folder.display()
            );
            Error {
                source: text.into(),
                ..error
            }
        }
        _ => error,
    }
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
