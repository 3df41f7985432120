//! `rehome image create`: a new image.

use super::{Outcome, Result, source_arguments::size};
use crate::{
    cli::wrong_usage,
    convert::create_image,
    image::{self, Format, Shape},
};
use std::path::PathBuf;

/// Make an image of a disk without data, or one that stands on another image
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// File that is made
    #[arg(value_name = "OUT")]
    out: PathBuf,

    /// Size of the disk; that of the backing file's where there is one
    #[arg(value_name = "SIZE", value_parser = size)]
    size: Option<u64>,

    /// Format of OUT
    #[arg(short = 'f', long, value_name = "FORMAT", default_value = "raw")]
    format: Format,

    /// Options of that format, as qemu-img spells them
    #[arg(short = 'o', long = "options", value_name = "NAME=VALUE,...")]
    options: Vec<String>,

    /// Image that OUT stands on, as OUT is to name it: a file in its folder
    #[arg(short = 'b', long, value_name = "FILE", requires = "backing_format")]
    backing: Option<String>,

    /// Format of that image
    #[arg(short = 'F', long, value_name = "FORMAT", requires = "backing")]
    backing_format: Option<Format>,

    /// Logical sector of the disk in bytes, for formats that keep it
    #[arg(long, value_name = "BYTES", default_value = "512", value_parser = ["512", "4096"])]
    sector_size: String,

    /// Print nothing; nothing is printed in any case
    #[arg(short, long)]
    _quiet: bool,
}

pub(super) fn run(arguments: &Arguments) -> Result {
    let mut options = image::Options::default();
    for text in &arguments.options {
        if let Err(text) = options.add(text) {
            wrong_usage("image", text);
        }
    }
    let mut below = None;
    if let (Some(name), Some(format)) = (&arguments.backing, arguments.backing_format) {
        // Names in an image are relative to its own folder.
        let place = arguments.out.with_file_name(name);
        below = Some(image::open_file(&place, Some(format))?.size());
        options.words.push(("backing_file".to_owned(), name.clone()));
        options
            .words
            .push(("backing_fmt".to_owned(), format.name().to_owned()));
    }
    let Some(size) = arguments.size.or(below) else {
        wrong_usage("image", "the SIZE of the disk is needed");
    };
    let shape = Shape {
        format: arguments.format,
        size,
        sector_size: arguments.sector_size.parse().unwrap_or(512),
        options,
    };
    create_image(&arguments.out, &shape)?;
    Ok(Outcome::Done)
}
