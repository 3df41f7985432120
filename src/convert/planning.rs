//! Which plan is carried out: a new one, a saved one, or that of the run that is resumed.

use super::{digest_of, not_json};
use crate::{
    destination::Destination,
    disk::{Digest, Error, Kind, Result},
    image::Format,
    job::Job,
    machine::Machine,
    matching,
    plan::{self, Options, PLAN_SCHEMA, Plan},
    source::Examined,
};
use std::fs;

/// Name of the plan among what a destination keeps for a resume.
const KEPT: &str = "plan.json";

/// A plan is text of some pages; more than this is something else.
const LARGEST_PLAN: u64 = 64 << 20;

/// What is to be done with `examined` so that it starts on `target`.
///
/// # Errors
/// `NotFound` if `--root` names no installed system; those of reading the guest's modules.
pub fn make_plan(examined: &mut Examined, target: &Machine, options: &Options) -> Result<Plan> {
    let mut options = options.clone();
    if options.seed == [0; 16] {
        options.seed = examined.seed()?;
    }
    let guest = if options.as_is {
        None
    } else {
        examined.choose(options.root.as_deref())?
    };
    let mut plan = match guest {
        Some(guest) => {
            guest.mount(&mut examined.layer.mounts)?;
            let bindings = matching::match_guest(&guest, &examined.layer.mounts, target)?;
            plan::make(&guest, target, &bindings, &options)
        }
        None => {
            let mut plan = plan::make_raw(examined.likely_firmware(), target, &options);
            let unopened = examined.inspection.blockers.iter().cloned();
            if options.as_is {
                plan.warnings.extend(unopened);
            } else {
                plan.blockers.extend(
                    unopened.map(|text| format!("{text}; or move the disks as they are with --as-is")),
                );
            }
            plan
        }
    };
    plan.warnings.extend(examined.warnings.iter().cloned());
    Ok(plan)
}

/// The plan of `job`: that of the run that is resumed, or the saved one, or a new one.
pub(super) fn plan_of_job(
    job: &Job,
    examined: &mut Examined,
    target: &Machine,
    destination: Option<&dyn Destination>,
) -> Result<Plan> {
    let kept = match destination {
        Some(destination) if job.resume => destination.kept(KEPT)?,
        _ => None,
    };
    let (place, json) = match (kept, &job.plan) {
        (Some(json), _) => ("the plan of the run that is resumed".to_owned(), json),
        (None, Some(path)) => {
            let place = path.display().to_string();
            let metadata = fs::metadata(path).map_err(|error| Error::io(&*place, error))?;
            if metadata.len() > LARGEST_PLAN {
                return Err(Error::new(Kind::Unsupported, place, "too large for a plan"));
            }
            let json = fs::read(path).map_err(|error| Error::io(&*place, error))?;
            (place, json)
        }
        (None, None) => return make_plan(examined, target, &job.options),
    };
    let saved: Plan = serde_json::from_slice(&json)
        .map_err(|error| Error::new(Kind::Corrupt, &*place, format!("is not a plan: {error}")))?;
    if saved.schema != PLAN_SCHEMA {
        let text = format!(
            "has schema {}; this program knows schema {PLAN_SCHEMA}",
            saved.schema
        );
        return Err(Error::new(Kind::Unsupported, place, text));
    }
    let fresh = make_plan(examined, target, &saved.options)?;
    if fresh.facts != saved.facts {
        let text = "is stale: the disks, the machine or this program are not as they were when it was made; make it anew \
                    with `rehome plan`";
        return Err(Error::new(Kind::Unsafe, place, text));
    }
    Ok(saved)
}

/// Keeps `plan` for a resume.
pub(super) fn keep(plan: &Plan, destination: &mut dyn Destination) -> Result<()> {
    let json = serde_json::to_vec(plan).map_err(|error| not_json("plan", error))?;
    destination.keep(KEPT, &json)
}

/// What a ledger calls `plan`: with the format, since a container of one format cannot be gone on with in another.
pub(super) fn digest(plan: &Plan, format: Format) -> Result<Digest> {
    digest_of("plan", &(plan, format))
}
