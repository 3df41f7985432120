//! `rehome drivers`: drivers for Windows.

mod list;
mod matching;
mod scan;

use super::Result;
use clap::Subcommand;
use std::path::PathBuf;

/// Version of the JSON that is printed here.
const SCHEMA: u32 = 1;

/// Look into driver packages for Windows, and what comes with Windows
///
/// PATH is a folder, a disc image (UDF or ISO 9660), or an RPM package; packages are found in it by what they hold.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(subcommand)]
    command: Command,

    /// Print as JSON
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// The storage drivers that come with Windows
    List {
        /// Only those of one Windows: xp, 7, 2008r2, 10, 2022, 10.0.17763, 10.0.17763-server
        #[arg(long, value_name = "VERSION")]
        windows: Option<String>,
    },
    /// Every driver package below PATH
    Scan {
        /// Folder, disc image or RPM package
        path: PathBuf,
    },
    /// The best driver for every device of a machine, and what else was considered
    Match {
        /// Name of a machine or path of a machine file
        #[arg(long, value_name = "MACHINE")]
        machine: String,
        /// The Windows: xp, 7, 2008r2, 10, 2022, 10.0.17763, 10.0.17763-server
        #[arg(long, value_name = "VERSION")]
        windows: String,
        /// Its processor: x86, amd64, arm64
        #[arg(long, value_name = "ARCH", default_value = "amd64")]
        arch: String,
        /// Folder with machine files of your own; they come before the shipped ones
        #[arg(long, value_name = "DIR")]
        driver_db: Option<PathBuf>,
        /// Folders, disc images or RPM packages with driver packages
        path: Vec<PathBuf>,
    },
}

pub(super) fn run(arguments: &Arguments) -> Result {
    match &arguments.command {
        Command::List { windows } => list::run(windows.as_deref(), arguments.json),
        Command::Scan { path } => scan::run(path, arguments.json),
        Command::Match {
            machine,
            windows,
            arch,
            driver_db,
            path,
        } => matching::run(machine, windows, arch, driver_db.as_deref(), path, arguments.json),
    }
}

/// What clap cannot check by itself.
fn windows_version(name: &str) -> crate::driver::windows_version::WindowsVersion {
    crate::driver::windows_version::WindowsVersion::from_name(name)
        .unwrap_or_else(|message| super::wrong_usage("drivers", format!("--windows: {message}")))
}
