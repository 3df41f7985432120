//! `rehome hive`: looks into a registry hive, and edits it.

mod export;
mod get;
mod import;
mod ls;
mod rm;
mod set;

use super::{
    Outcome, Result, planning_arguments, print_text,
    progress::{Progress, Style},
    source_arguments::ReadingArguments,
};
use crate::{
    convert::{HiveFile, HivePlace, Purpose},
    disk::{Error, Kind},
    fs::GuestPath,
    hive::{Editor, Hive, Key, control_set},
    watch::Unwatched,
};
use clap::Subcommand;
use std::path::PathBuf;

/// Look into a registry hive, and edit it
///
/// FILE is a hive on this host, such as SYSTEM, SOFTWARE or BCD; with --in SRC it is a path in that guest. Transaction logs
/// beside it (FILE.LOG1, FILE.LOG2) are replayed, in memory, if the hive was not closed properly. KEY is a path of names with
/// backslashes between them, from the root of the hive, upper and lower case alike; CurrentControlSet in a SYSTEM hive is the
/// control set that Windows starts next.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(subcommand)]
    command: Command,

    /// FILE is a path in this guest: a disk image or block device, or one of its volumes, as in win.vhdx@p2
    #[arg(long = "in", global = true, value_name = "SRC")]
    guest: Option<String>,

    #[command(flatten)]
    reading: ReadingArguments,

    /// Print as JSON
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    Ls(ls::Arguments),
    Get(get::Arguments),
    Set(set::Arguments),
    Rm(rm::Arguments),
    Export(export::Arguments),
    Import(import::Arguments),
}

/// Where what is edited goes.
#[derive(Debug, clap::Args)]
struct EditArguments {
    /// Edit the hive where it lies; this new file will be able to take it back
    #[arg(long, value_name = "UNDO", required_unless_present = "out")]
    undo: Option<PathBuf>,

    /// Write the edited hive to this new file; FILE stays as it is
    #[arg(short, long, value_name = "OUT", conflicts_with = "undo")]
    out: Option<PathBuf>,
}

pub(super) fn run(arguments: &Arguments) -> Result {
    match &arguments.command {
        Command::Ls(command) => ls::run(command, arguments),
        Command::Get(command) => get::run(command, arguments),
        Command::Set(command) => set::run(command, arguments),
        Command::Rm(command) => rm::run(command, arguments),
        Command::Export(command) => export::run(command, arguments),
        Command::Import(command) => import::run(command, arguments),
    }
}

impl Arguments {
    /// Reads the hive FILE.
    fn read(
        &self,
        file: &str,
        purpose: Purpose,
    ) -> std::result::Result<HiveFile, Box<dyn std::error::Error + Send + Sync>> {
        let place = match &self.guest {
            None => HivePlace::Host(PathBuf::from(file)),
            Some(src) => {
                let (source, volume) = self.reading.split(src)?;
                HivePlace::Guest {
                    source,
                    volume,
                    path: GuestPath::from(file),
                }
            }
        };
        let file = HiveFile::read(place, purpose, &Unwatched)?;
        if let Some(text) = file.hive.recovered() {
            super::warn(&format!("{}: {text}", file.hive.label()));
        }
        if let Some(text) = file.hive.stale() {
            super::warn(&format!(
                "{}: {text}; what is shown may be out of date",
                file.hive.label()
            ));
        }
        Ok(file)
    }

    /// Reads the hive FILE, edits it, and writes it as `to` says.
    fn edit(
        &self,
        file: &str,
        to: &EditArguments,
        edit: impl FnOnce(
            &mut Editor<'_>,
        ) -> std::result::Result<String, Box<dyn std::error::Error + Send + Sync>>,
    ) -> Result {
        let purpose = match &to.undo {
            Some(_) => Purpose::EditingInPlace,
            None => Purpose::Reading,
        };
        let mut file = self.read(file, purpose)?;
        if self.reading.force_dirty {
            file.hive.force_dirty();
        }
        let clock = planning_arguments::now();
        let mut editor = file.hive.edit(clock)?;
        let said = edit(&mut editor)?;
        let changed = editor.commit()?;
        if let Some(out) = &to.out {
            file.write_to(out)?;
            return print_text(&format_args!("{said}\n"));
        }
        let (Some(undo), true) = (&to.undo, changed) else {
            return print_text(&format_args!(
                "{said}\nnothing to change: the hive is as it was\n"
            ));
        };
        let progress = Progress::start(Style::Auto)?;
        let undo_files = file.write_in_place(clock, undo, &progress)?;
        drop(progress);
        print_text(&format_args!("{said}\n"))?;
        for undo in undo_files {
            print_text(&format_args!("to take it back: rehome undo {}\n", undo.display()))?;
        }
        Ok(Outcome::Done)
    }
}

/// The key at `path`, or an error that says that there is none.
fn key_at<'h>(hive: &'h Hive, path: &str) -> crate::disk::Result<Key<'h>> {
    hive.find(&control_set::resolve(hive, path)?)?.ok_or_else(|| {
        let text = format!("there is no key {path}");
        Error::new(Kind::NotFound, hive.label(), text)
    })
}

/// The name of a value as it is given and shown: `@` is the default value, as in registration files.
fn value_name(name: &str) -> &str {
    if name == "@" { "" } else { name }
}
