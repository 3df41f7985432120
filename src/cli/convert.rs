//! `rehome convert`: does it.

use super::{
    Outcome, Result, Results,
    copying_arguments::CopyingArguments,
    different,
    planning_arguments::PlanningArguments,
    progress::{Progress, Style},
    source_arguments::{SourceArguments, locator},
    wrong_usage,
};
use crate::{
    convert::{self, Converted},
    image::Format,
    job::Job,
    locator::{Locator, is_block_device},
};
use std::path::PathBuf;

/// Move the system: read it, rewrite it for the target machine, write the result
///
/// The destination appears whole or not at all. What a break leaves is in a folder beside it, with which --resume
/// goes on.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    source: SourceArguments,

    #[command(flatten)]
    planning: PlanningArguments,

    /// File for one disk, folder for many (or with a slash at its end), a block device, nbd://HOST/EXPORT or
    /// nbd+unix:///EXPORT?socket=PATH, or - for a raw disk or a package on standard output
    #[arg(short, long, value_name = "OUT", value_parser = locator())]
    output: Locator,

    /// Format of the disks that are written (raw, qcow2, vmdk, vpc, vhdx, vdi), or ova for a package of all disks and the definition [default: qcow2, and raw for a block device or an export]
    #[arg(short = 'O', long, value_name = "FORMAT")]
    format: Option<Format>,

    /// Name the block device or export OUT again: all that is on it will be overwritten
    #[arg(long, value_name = "DEVICE", value_parser = locator())]
    yes_erase: Vec<Locator>,

    /// Carry out this plan, which `rehome plan -o` saved
    #[arg(long, value_name = "FILE")]
    plan: Option<PathBuf>,

    /// Do everything but the writing
    #[arg(long)]
    dry_run: bool,

    /// Go on where an earlier run was broken off
    #[arg(long, conflicts_with_all = ["dry_run", "plan"])]
    resume: bool,

    #[command(flatten)]
    copying: CopyingArguments,

    /// Read the destination back and compare it
    #[arg(long)]
    verify: bool,

    /// Print the report as JSON; on stderr where OUT is standard output
    #[arg(long)]
    json: bool,

    /// How progress is shown on stderr
    #[arg(long, value_enum, default_value_t)]
    progress: Style,
}

pub(super) fn run(arguments: &Arguments) -> Result {
    let device = match &arguments.output {
        Locator::Path(path) => path.exists() && is_block_device(path)?,
        Locator::Nbd(_) => true,
        Locator::Standard => false,
    };
    if !arguments.yes_erase.is_empty() && !device {
        let text = format!(
            "--yes-erase is for a block device or an export, and {} is none",
            arguments.output
        );
        wrong_usage("convert", text);
    }
    if device && arguments.format == Some(Format::Qcow2) {
        wrong_usage(
            "convert",
            "a block device or an export holds a raw disk: leave -O out, or say -O raw",
        );
    }
    let job = Job {
        source: arguments.source.source(),
        to: arguments.planning.to.clone(),
        driver_db: arguments.planning.driver_db.clone(),
        out: arguments.output.clone(),
        yes_erase: arguments.yes_erase.clone(),
        format: arguments
            .format
            .unwrap_or(if device { Format::Raw } else { Format::Qcow2 }),
        plan: arguments.plan.clone(),
        options: arguments.planning.options(),
        dry_run: arguments.dry_run,
        resume: arguments.resume,
        copying: arguments.copying.copying(),
        verify: arguments.verify,
    };
    let progress = Progress::start(arguments.progress)?;
    let converted = convert::convert(&job, &progress)?;
    drop(progress);
    let results = Results::beside(&arguments.output);
    let (outcome, report) = match &converted {
        Converted::Blocked(plan) => {
            if arguments.json {
                results.json(plan)?;
            } else {
                results.text(plan)?;
            }
            return Ok(Outcome::Blocked);
        }
        Converted::Done(report) => (Outcome::Done, report),
        Converted::Different(report) => (Outcome::Different, report),
    };
    if arguments.json {
        results.json(report)?;
        return Ok(outcome);
    }
    if let Some(plan) = report.plan.as_ref().filter(|_| results == Results::ToOutput) {
        results.text(plan)?;
    }
    results.text(report)?;
    if outcome == Outcome::Different && results == Results::ToOutput {
        results.text(&different(device))?;
    }
    Ok(outcome)
}
