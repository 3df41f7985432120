//! `rehome image compare`: do two images hold the same disk?

use super::{
    Outcome, Result, open, print_json, print_text,
    progress::{Progress, Style},
    source_arguments::locator,
};
use crate::{
    copy::{compare, compare_maps},
    image::Format,
    locator::Locator,
    output::{COMPARE_SCHEMA, Compared},
    watch::Watch as _,
};

/// Compare the disks in two images, whatever their formats
///
/// What one has beyond the end of the other must be zeros. Exit codes: 0 they are the same; 1 the comparison could not be
/// made; 4 they differ.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// One image: a file, a block device, nbd://HOST/EXPORT, nbd+unix:///EXPORT?socket=PATH, or - for standard input
    #[arg(value_name = "IMAGE1", value_parser = locator())]
    one: Locator,

    /// The other
    #[arg(value_name = "IMAGE2", value_parser = locator())]
    other: Locator,

    /// Format of the first, whatever its first bytes are
    #[arg(short = 'f', long, value_name = "FORMAT")]
    format: Option<Format>,

    /// Format of the second
    #[arg(short = 'F', long, value_name = "FORMAT")]
    other_format: Option<Format>,

    /// The sizes must be the same too, and data, zeros and holes at the same places
    #[arg(short, long)]
    strict: bool,

    /// Threads, 1 to 32 [default: four for each processor]
    #[arg(short = 'm', long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=32))]
    threads: Option<u8>,

    /// Show progress; it is shown on a terminal in any case
    #[arg(short = 'p')]
    _progress: bool,

    /// Print the result as JSON
    #[arg(long)]
    json: bool,

    /// Print nothing; the exit code tells
    #[arg(short, long)]
    quiet: bool,
}

pub(super) fn run(arguments: &Arguments) -> Result {
    let one = open(&arguments.one, arguments.format)?;
    let other = open(&arguments.other, arguments.other_format)?;
    let progress = Progress::start(Style::Auto)?;
    progress.stage("compare", one.size().max(other.size()));
    let threads = arguments.threads.map_or(0, usize::from);
    let mut found = Compared {
        schema: COMPARE_SCHEMA,
        sizes: (one.size(), other.size()),
        strict: arguments.strict,
        ..Compared::default()
    };
    if arguments.strict {
        found.map_differs_at = compare_maps(&*one, &*other)?;
    }
    if !arguments.strict || found.is_same() {
        found.first_difference = compare(&*one, &*other, threads, &progress)?.first_difference;
    }
    found.same = found.is_same();
    drop(progress);
    if arguments.json {
        print_json(&found)?;
    } else if !arguments.quiet {
        print_text(&found)?;
    }
    Ok(if found.same {
        Outcome::Done
    } else {
        Outcome::Different
    })
}
