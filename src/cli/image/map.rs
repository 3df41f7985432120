//! `rehome image map`: where the bytes of a disk are.

use super::{Outcome, Result, open, source_arguments::locator};
use crate::{
    disk::Error,
    image::{self, Format},
    locator::Locator,
    output::{MapStyle, print_map},
};
use std::io::{self, Write as _};

/// Say where the bytes of an image's disk are: which run is data, which zeros, in which image of its chain and at which
/// place of the file
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// The image: a file, a block device, nbd://HOST/EXPORT, nbd+unix:///EXPORT?socket=PATH, or - for standard input
    #[arg(value_name = "IMAGE", value_parser = locator())]
    image: Locator,

    /// Its format, whatever its first bytes are
    #[arg(short, long, value_name = "FORMAT")]
    format: Option<Format>,

    /// Print it as JSON, as `qemu-img map --output=json` does
    #[arg(long, conflicts_with = "output")]
    json: bool,

    /// The same, as qemu-img spells it
    #[arg(long, value_name = "OUTPUT", value_parser = ["human", "json"])]
    output: Option<String>,
}

pub(super) fn run(arguments: &Arguments) -> Result {
    let chain = match &arguments.image {
        Locator::Path(path) => image::chain(path, arguments.format)?,
        elsewhere => vec![open(elsewhere, arguments.format)?],
    };
    let json = arguments.json || arguments.output.as_deref() == Some("json");
    let style = if json { MapStyle::Json } else { MapStyle::Table };
    let mut out = io::BufWriter::new(io::stdout().lock());
    let printed = print_map(&chain, style, &mut out)
        .and_then(|()| out.flush().map_err(|error| Error::io("standard output", error)));
    match printed {
        // `rehome image map … | head`: nobody reads on.
        Err(error) if is_closed_output(&error) => Ok(Outcome::Done),
        other => Ok(other.map(|()| Outcome::Done)?),
    }
}

fn is_closed_output(error: &Error) -> bool {
    let cause = error.source.downcast_ref::<io::Error>();
    cause.is_some_and(|cause| cause.kind() == io::ErrorKind::BrokenPipe)
}
