//! `rehome undo`: takes an in-place edit back, bit for bit.

use super::{
    Outcome, Result, print_text,
    progress::{Progress, Style},
};
use crate::undo::{self, Undone};
use std::path::PathBuf;

/// Take an in-place edit back, bit for bit
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// The undo file that `in-place --undo` or `fs --undo` made
    #[arg(value_name = "FILE")]
    file: PathBuf,

    /// Where the disk is now, if it was moved
    #[arg(long, value_name = "DISK")]
    disk: Option<PathBuf>,
}

pub(super) fn run(arguments: &Arguments) -> Result {
    let progress = Progress::start(Style::Auto)?;
    let undone = undo::undo(&arguments.file, arguments.disk.as_deref(), &progress)?;
    drop(progress);
    match undone {
        Undone::Restored(bytes) => print_text(&format_args!("put back {bytes} bytes\n"))?,
        Undone::Untouched => print_text(&"nothing to take back: the disk is as it was\n")?,
    };
    Ok(Outcome::Done)
}
