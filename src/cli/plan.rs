//! `rehome plan`: what would be done and why; writes nothing but the plan file.

use super::{
    Outcome, Result, planning_arguments::PlanningArguments, print_json, print_text,
    source_arguments::SourceArguments,
};
use crate::{convert, source::Opened, watch::Unwatched};
use std::{fs, path::PathBuf};

/// Say what would be done to move the system, and why; writes nothing to the disks
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    source: SourceArguments,

    #[command(flatten)]
    planning: PlanningArguments,

    /// Write the plan as JSON, for `convert --plan`
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,

    /// Print the plan as JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(arguments: &Arguments) -> Result {
    let opened = Opened::open(&arguments.source.source(), &Unwatched)?;
    let mut examined = opened.examine()?;
    let target = crate::machine::load(&arguments.planning.to, arguments.planning.driver_db.as_deref())?;
    let plan = convert::make_plan(&mut examined, &target, &arguments.planning.options())?;
    if let Some(path) = &arguments.output {
        let mut json = serde_json::to_vec_pretty(&plan)?;
        json.push(b'\n');
        fs::write(path, json).map_err(|e| format!("{}: cannot write the plan: {e}", path.display()))?;
    }
    if arguments.json {
        print_json(&plan)?;
    } else {
        print_text(&plan)?;
    }
    Ok(if plan.blockers.is_empty() {
        Outcome::Done
    } else {
        Outcome::Blocked
    })
}
