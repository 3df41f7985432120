//! `rehome hive import`: does what a registration file says.

use super::{EditArguments, Result};
use crate::hive::reg_file::{self, CodePage};
use std::{fs::File, io::Read, path::PathBuf};

/// The largest registration file that is read, in bytes: a whole SOFTWARE hive as text takes a few hundred MiB.
const LARGEST_FILE: u64 = 1 << 30;

/// Do to a hive what a registration file (.reg) says
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// The hive
    file: String,
    /// The registration file: version 5.00 in UTF-16 or UTF-8, or REGEDIT4
    reg: PathBuf,
    /// What the keys in it have before those of the hive, as in 'HKEY_LOCAL_MACHINE\SYSTEM'
    #[arg(long, value_name = "PATH", default_value = "", hide_default_value = true)]
    prefix: String,
    /// Code page of a REGEDIT4
    #[arg(long, value_name = "NAME", default_value = "windows-1252")]
    code_page: CodePage,
    #[command(flatten)]
    to: EditArguments,
}

pub(super) fn run(command: &Arguments, arguments: &super::Arguments) -> Result {
    let named = |error: &dyn std::fmt::Display| format!("{}: {error}", command.reg.display());
    let mut bytes = Vec::new();
    let read = File::open(&command.reg).and_then(|file| file.take(LARGEST_FILE).read_to_end(&mut bytes));
    if read.map_err(|error| named(&error))? as u64 == LARGEST_FILE {
        return Err(named(&format_args!(
            "has {LARGEST_FILE} bytes or more, more than is read"
        ))
        .into());
    }
    let reg = reg_file::parse(&bytes, command.code_page).map_err(|error| named(&error))?;
    drop(bytes);
    arguments.edit(&command.file, &command.to, |editor| {
        let done = reg_file::import(&reg, &command.prefix, editor)?;
        Ok(format!(
            "{} keys made, {} removed; {} values set, {} removed",
            done.keys_made, done.keys_removed, done.values_set, done.values_removed
        ))
    })
}
