//! `rehome inspect`: what is installed there and how it boots.

use super::{Outcome, Result, print_json, print_text, source_arguments::SourceArguments};
use crate::{output::Report, source::Opened, watch::Unwatched};

/// Say what is installed on the disks and how it boots
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    source: SourceArguments,

    /// Print the facts as JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(arguments: &Arguments) -> Result {
    let opened = Opened::open(&arguments.source.source(), &Unwatched)?;
    let examined = opened.examine()?;
    let mut report = Report::new("inspect");
    examined.describe(&mut report);
    if arguments.json {
        return print_json(&report);
    }
    print_text(&report)?;
    Ok(Outcome::Done)
}
