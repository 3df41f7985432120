//! `rehome image`: disk images, any format to any format.

mod check;
mod compare;
mod convert;
mod create;
mod info;
mod map;

use super::{Outcome, Result, print_json, print_text, progress, source_arguments};
use crate::{
    disk,
    image::{self, Format, Image},
    locator::{Locator, Reading, open_one},
    watch::Unwatched,
};
use clap::Subcommand;
use std::sync::Arc;

/// Look at, check, compare, convert and make disk images
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Info(info::Arguments),
    Map(map::Arguments),
    Check(check::Arguments),
    Compare(compare::Arguments),
    Convert(convert::Arguments),
    Create(create::Arguments),
}

pub(super) fn run(arguments: &Arguments) -> Result {
    match &arguments.command {
        Command::Info(arguments) => info::run(arguments),
        Command::Map(arguments) => map::run(arguments),
        Command::Check(arguments) => check::run(arguments),
        Command::Compare(arguments) => compare::run(arguments),
        Command::Convert(arguments) => convert::run(arguments),
        Command::Create(arguments) => create::run(arguments),
    }
}

/// Opens the image that `locator` names.
fn open(locator: &Locator, format: Option<Format>) -> disk::Result<Arc<dyn Image>> {
    if let Locator::Path(path) = locator {
        return image::open_file(path, format);
    }
    let reading = Reading {
        format,
        temporary_folder: std::env::temp_dir(),
        ..Reading::default()
    };
    open_one(locator, &reading, &Unwatched)
}
