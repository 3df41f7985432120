//! `rehome image info`: what an image says of itself.

use super::{Outcome, Result, open, print_json, print_text, source_arguments::locator};
use crate::{
    image::Format,
    locator::Locator,
    output::{ImageInfo, image_info, remote_image_info},
};

/// Say what an image is: its format, sizes, backing file, snapshots
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// The image: a file, a block device, nbd://HOST/EXPORT, nbd+unix:///EXPORT?socket=PATH, or - for standard input
    #[arg(value_name = "IMAGE", value_parser = locator())]
    image: Locator,

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
    let (format, allocation) = (arguments.format, arguments.allocation);
    let info: ImageInfo = match &arguments.image {
        Locator::Path(path) => image_info(path, format, arguments.backing_chain, allocation)?,
        elsewhere => remote_image_info(&*open(elsewhere, format)?, allocation)?,
    };
    if arguments.json || arguments.output.as_deref() == Some("json") {
        print_json(&info)?;
    } else {
        print_text(&info)?;
    }
    Ok(Outcome::Done)
}
