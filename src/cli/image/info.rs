//! `rehome image info`: what an image says of itself.

use super::{Outcome, Result, print_json, print_text};
use crate::{
    image::Format,
    output::{ImageInfo, image_info},
};
use std::path::PathBuf;

/// Say what an image is: its format, sizes, backing file, snapshots
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// The image
    #[arg(value_name = "IMAGE")]
    image: PathBuf,

    /// Its format, whatever its first bytes are
    #[arg(short, long, value_name = "FORMAT")]
    format: Option<Format>,

    /// Say it of every image that this one stands on too
    #[arg(long)]
    backing_chain: bool,

    /// Add up what of its disk is data, zeros and holes; walks the whole map
    #[arg(long)]
    allocation: bool,

    /// Print it as JSON
    #[arg(long, conflicts_with = "output")]
    json: bool,

    /// The same, as qemu-img spells it
    #[arg(long, value_name = "OUTPUT", value_parser = ["human", "json"])]
    output: Option<String>,
}

pub(super) fn run(arguments: &Arguments) -> Result {
    let info: ImageInfo = image_info(
        &arguments.image,
        arguments.format,
        arguments.backing_chain,
        arguments.allocation,
    )?;
    if arguments.json || arguments.output.as_deref() == Some("json") {
        print_json(&info)?;
    } else {
        print_text(&info)?;
    }
    Ok(Outcome::Done)
}
