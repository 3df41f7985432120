//! `rehome image convert`: the disk of an image into an image of another format.

use super::{
    Outcome, Result,
    progress::{Progress, Style},
};
use crate::{
    cli::{
        Results,
        copying_arguments::CopyingArguments,
        different,
        source_arguments::{locator, size},
        wrong_usage,
    },
    convert::{self, ImageConverted},
    copy::Offload,
    image::{self, Format},
    job::{ImageJob, Source},
    locator::{Locator, is_block_device},
};
use std::path::PathBuf;

/// Write the disk of an image into an image of another format; what is in it stays as it is
///
/// OUT appears whole or not at all. What a break leaves is in a folder beside it, with which --resume goes on; after a
/// pipe there is none. No file or device that SRC is read from is taken as OUT. Exit codes: 0 done; 1 failed; 4 what
/// was read back is not what was written.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Image, block device, nbd://HOST/EXPORT, nbd+unix:///EXPORT?socket=PATH, or - for standard input; opened read-only
    #[arg(value_name = "SRC", value_parser = locator())]
    source: Locator,

    /// File that is made, block device, export of a server, or - for standard output
    #[arg(value_name = "OUT", value_parser = locator())]
    out: Locator,

    /// Format of SRC, whatever its first bytes are
    #[arg(short = 'f', long, value_name = "FORMAT")]
    source_format: Option<Format>,

    /// The disk of SRC as it was at the time of this snapshot, by identifier or name
    #[arg(short = 'l', long, value_name = "SNAPSHOT")]
    snapshot: Option<String>,

    /// Format of OUT; with -n it must be said unless OUT is raw [default: raw]
    #[arg(short = 'O', long, value_name = "FORMAT")]
    format: Option<Format>,

    /// Options of that format, as qemu-img spells them
    #[arg(short = 'o', long = "options", value_name = "NAME=VALUE,...")]
    options: Vec<String>,

    /// Compress
    #[arg(short = 'c', long)]
    compress: bool,

    #[command(flatten)]
    copying: CopyingArguments,

    /// How SRC is read: writeback (through the host's cache) or none (past it)
    #[arg(short = 'T', long, value_name = "CACHE", default_value = "writeback", value_parser = ["writeback", "none"])]
    source_cache: String,

    /// Let the kernel, or the server that has both files, copy what it can (copy_file_range); zeros in the data of SRC are
    /// then copied too. Blocks are shared (reflink) in any case where that is possible
    #[arg(short = 'C', long, conflicts_with = "sparse")]
    copy_offloading: bool,

    /// Never share blocks with SRC: OUT gets its own
    #[arg(long, conflicts_with = "copy_offloading")]
    no_reflink: bool,

    /// Do not hash the disk: the report has no hash, and a break cannot be gone on with
    #[arg(long, conflicts_with_all = ["resume", "verify"])]
    no_hash: bool,

    /// Write into the image OUT, which is there already and at least as large; --yes-erase must name it again
    #[arg(short = 'n', long)]
    existing: bool,

    /// Name OUT again if it is a block device, an export, or there already: the disk on it will be overwritten
    #[arg(long, value_name = "OUT", value_parser = locator())]
    yes_erase: Vec<Locator>,

    /// Size of SRC, where that is a raw disk that comes through a pipe: it is copied as it comes then. Without it, it is kept
    /// in a temporary file first, since OUT has to know the size of its disk from the beginning
    #[arg(long, value_name = "SIZE", value_parser = size)]
    size: Option<u64>,

    /// Folder for what must be kept to be read at any place, which has no name there [default: $TMPDIR or /tmp]
    #[arg(long, value_name = "DIR")]
    temporary_folder: Option<PathBuf>,

    /// Go on where an earlier run was broken off
    #[arg(long)]
    resume: bool,

    /// Read OUT back and compare it
    #[arg(long)]
    verify: bool,

    /// Write in any order: always done, whatever the order
    #[arg(short = 'W')]
    _any_order: bool,

    /// Show progress; it is shown on a terminal in any case
    #[arg(short = 'p')]
    _progress: bool,

    /// Print nothing
    #[arg(short, long)]
    quiet: bool,

    /// Print the report as JSON; on stderr where OUT is standard output
    #[arg(long)]
    json: bool,

    /// How progress is shown on stderr
    #[arg(long, value_enum, default_value_t)]
    progress: Style,
}

pub(super) fn run(arguments: &Arguments) -> Result {
    let mut options = image::Options {
        compress: arguments.compress,
        ..image::Options::default()
    };
    for text in &arguments.options {
        if let Err(text) = options.add(text) {
            wrong_usage("image", text);
        }
    }
    let mut copying = arguments.copying.copying();
    copying.hashing = !arguments.no_hash;
    copying.offload = match (arguments.copy_offloading, arguments.no_reflink) {
        (true, _) => Offload::Copy,
        (_, true) => Offload::Never,
        _ => Offload::Share,
    };
    let device = match &arguments.out {
        Locator::Path(path) => path.exists() && is_block_device(path)?,
        Locator::Nbd(_) => true,
        Locator::Standard => false,
    };
    if !arguments.yes_erase.is_empty() && !device && !arguments.existing {
        let text = format!(
            "--yes-erase is for a block device, an export, or an image that is written into with -n, and {} is none of \
             these",
            arguments.out
        );
        wrong_usage("image", text);
    }
    let job = ImageJob {
        source: Source {
            disks: vec![arguments.source.clone()],
            format: arguments.source_format,
            snapshot: arguments.snapshot.as_deref().map(snapshot_name),
            directly: arguments.source_cache == "none",
            forward: true,
            size: arguments.size,
            temporary_folder: arguments
                .temporary_folder
                .clone()
                .unwrap_or_else(std::env::temp_dir),
            ..Source::default()
        },
        out: arguments.out.clone(),
        format: arguments.format.unwrap_or(Format::Raw),
        format_is_named: arguments.format.is_some(),
        options,
        existing: arguments.existing && !device,
        yes_erase: arguments.yes_erase.clone(),
        copying,
        resume: arguments.resume,
        verify: arguments.verify,
    };
    let style = if arguments.quiet {
        Style::None
    } else {
        arguments.progress
    };
    let progress = Progress::start(style)?;
    let converted = convert::convert_image(&job, &progress)?;
    drop(progress);
    let (outcome, report) = match &converted {
        ImageConverted::Done(report) => (Outcome::Done, report),
        ImageConverted::Different(report) => (Outcome::Different, report),
    };
    let results = Results::beside(&arguments.out);
    if arguments.json {
        results.json(report)?;
    } else if !arguments.quiet {
        results.text(&report.written())?;
        if outcome == Outcome::Different {
            results.text(&different(device || arguments.existing))?;
        }
    }
    Ok(outcome)
}

/// qemu-img has `snapshot.id=` and `snapshot.name=` before it, or nothing.
fn snapshot_name(text: &str) -> String {
    let name = text.strip_prefix("snapshot.id=");
    name.or_else(|| text.strip_prefix("snapshot.name="))
        .unwrap_or(text)
        .to_owned()
}
