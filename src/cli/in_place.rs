//! `rehome in-place`: edits a copy where it lies.

use super::{
    Outcome, Result,
    planning_arguments::PlanningArguments,
    print_json, print_text,
    progress::{Progress, Style},
    source_arguments::SourceArguments,
};
use crate::{
    convert::{self, EditedInPlace},
    job::InPlaceJob,
};
use std::path::PathBuf;

/// Make a copy fit another machine where it lies; `rehome undo` takes it back bit for bit
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    source: SourceArguments,

    #[command(flatten)]
    planning: PlanningArguments,

    /// File that will be able to take it back; for several disks FILE.1, FILE.2 and so on
    #[arg(long, value_name = "FILE")]
    undo: PathBuf,

    /// Print the report as JSON
    #[arg(long)]
    json: bool,

    /// How progress is shown on stderr
    #[arg(long, value_enum, default_value_t)]
    progress: Style,
}

pub(super) fn run(arguments: &Arguments) -> Result {
    let job = InPlaceJob {
        source: arguments.source.source(),
        to: arguments.planning.to.clone(),
        driver_db: arguments.planning.driver_db.clone(),
        options: arguments.planning.options(),
        undo: arguments.undo.clone(),
    };
    let progress = Progress::start(arguments.progress)?;
    let edited = convert::edit_in_place(&job, &progress)?;
    drop(progress);
    match edited {
        EditedInPlace::Blocked(plan) => {
            if arguments.json {
                print_json(&plan)?;
            } else {
                print_text(&plan)?;
            }
            Ok(Outcome::Blocked)
        }
        EditedInPlace::Done(report, _) if arguments.json => print_json(&report),
        EditedInPlace::Done(report, undo_files) => {
            if let Some(plan) = &report.plan {
                print_text(plan)?;
            }
            print_text(&report)?;
            for file in undo_files {
                print_text(&format_args!("to take it back: rehome undo {}\n", file.display()))?;
            }
            Ok(Outcome::Done)
        }
    }
}
