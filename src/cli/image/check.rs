//! `rehome image check`: is an image sound?

use super::{
    Outcome, Result, open, print_json, print_text,
    progress::{Progress, Style},
    source_arguments::locator,
};
use crate::{
    convert::repair_image,
    image::Format,
    locator::Locator,
    output::{CHECK_SCHEMA, Checked},
};
use std::path::PathBuf;

/// Look for errors in the structure of an image, and for space in it that is lost
///
/// Exit codes: 0 sound; 1 the check could not be made; 4 there are errors; 5 no errors, but leaks, which are harmless.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// The image, or nbd://HOST/EXPORT, nbd+unix:///EXPORT?socket=PATH, or - for standard input
    #[arg(value_name = "IMAGE", value_parser = locator())]
    image: Locator,

    /// Its format, whatever its first bytes are
    #[arg(short, long, value_name = "FORMAT")]
    format: Option<Format>,

    /// Give leaks back, in the image itself. Nothing else is repaired: what is damaged is better converted
    #[arg(short, long, value_name = "WHAT", value_parser = ["leaks"], requires = "undo")]
    repair: Option<String>,

    /// Write what takes the repair back, bit for bit, to this file (`rehome undo FILE`)
    #[arg(long, value_name = "FILE", requires = "repair")]
    undo: Option<PathBuf>,

    /// Print the findings as JSON
    #[arg(long, conflicts_with = "output")]
    json: bool,

    /// The same, as qemu-img spells it
    #[arg(long, value_name = "OUTPUT", value_parser = ["human", "json"])]
    output: Option<String>,

    /// Print nothing; the exit code tells
    #[arg(short, long)]
    quiet: bool,
}

pub(super) fn run(arguments: &Arguments) -> Result {
    let mut checked = Checked {
        schema: CHECK_SCHEMA,
        image: arguments.image.to_string(),
        ..Checked::default()
    };
    if let Some(undo) = &arguments.undo {
        let progress = Progress::start(Style::Auto)?;
        let Some(path) = arguments.image.path() else {
            return Err("a repair needs a file, with an undo file beside it".into());
        };
        let repaired = repair_image(path, arguments.format, undo, &progress)?;
        checked.freed = Some(repaired.freed);
        checked.undo = repaired.undo.map(|undo| undo.display().to_string());
    }
    let image = open(&arguments.image, arguments.format)?;
    checked.format = image.format().to_string();
    checked.found = image.check()?;
    if arguments.json || arguments.output.as_deref() == Some("json") {
        print_json(&checked)?;
    } else if !arguments.quiet {
        print_text(&checked)?;
    }
    Ok(if !checked.found.errors.is_empty() {
        Outcome::Different
    } else if !checked.found.leaks.is_empty() {
        Outcome::Leaks
    } else {
        Outcome::Done
    })
}
