//! The command line: one file per subcommand, and nothing in them but calls to the rooms. Results go to stdout,
//! progress and errors to stderr.

mod boot;
mod convert;
mod copying_arguments;
mod drivers;
mod fs;
mod hive;
mod image;
mod in_place;
mod inspect;
mod machine;
mod plan;
mod planning_arguments;
mod progress;
mod source_arguments;
mod undo;

use crate::{locator::Locator, plan::write_printable};
use clap::{CommandFactory as _, Parser, Subcommand};
use std::{
    error::Error,
    io::{self, Write},
    process::ExitCode,
};

/// Moves an installed operating system to other hardware, physical or virtual.
///
/// It reads the disks, works out what the new machine needs, rewrites the system so that it boots there, and writes
/// the result in the format that the new machine wants. The source is never written.
///
/// Exit codes: 0 done, 1 failed, 2 wrong usage, 3 the plan has blockers, 4 a verification found a difference or a check
/// errors, 5 a check found nothing but leaks.
#[derive(Debug, Parser)]
#[command(name = "rehome", version, max_term_width = 100)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Inspect(inspect::Arguments),
    Plan(plan::Arguments),
    Convert(convert::Arguments),
    InPlace(in_place::Arguments),
    Undo(undo::Arguments),
    Fs(fs::Arguments),
    Hive(hive::Arguments),
    Image(image::Arguments),
    Machine(machine::Arguments),
    Drivers(drivers::Arguments),
    Boot(boot::Arguments),
}

/// How a subcommand ended, when it did not fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    /// All is done.
    Done,
    /// It did its work and the answer is no: a guest that does not boot.
    No,
    /// The plan has blockers.
    Blocked,
    /// A verification found a difference, or a check found errors.
    Different,
    /// A check found nothing but leaks.
    Leaks,
}

/// What every subcommand gives.
type Result = std::result::Result<Outcome, Box<dyn Error + Send + Sync>>;

/// Runs the program with the arguments of this process.
pub fn run() -> ExitCode {
    let arguments = Arguments::parse();
    let result = match arguments.command {
        Command::Inspect(arguments) => inspect::run(&arguments),
        Command::Plan(arguments) => plan::run(&arguments),
        Command::Convert(arguments) => convert::run(&arguments),
        Command::InPlace(arguments) => in_place::run(&arguments),
        Command::Undo(arguments) => undo::run(&arguments),
        Command::Fs(arguments) => fs::run(&arguments),
        Command::Hive(arguments) => hive::run(&arguments),
        Command::Image(arguments) => image::run(&arguments),
        Command::Machine(arguments) => machine::run(&arguments),
        Command::Drivers(arguments) => drivers::run(&arguments),
        Command::Boot(arguments) => boot::run(&arguments),
    };
    match result {
        Ok(Outcome::Done) => ExitCode::SUCCESS,
        Ok(Outcome::No) => ExitCode::from(1),
        Ok(Outcome::Blocked) => ExitCode::from(3),
        Ok(Outcome::Different) => ExitCode::from(4),
        Ok(Outcome::Leaks) => ExitCode::from(5),
        Err(error) => {
            complain(&*error);
            ExitCode::from(1)
        }
    }
}

/// What somebody should look at, on stderr.
fn warn(text: &str) {
    // With stderr closed there is nobody to tell.
    let _ = writeln!(io::stderr().lock(), "rehome: {}", printable(text));
}

/// `rehome … | head` is no failure, and changes no exit code: nobody reads on.
fn unless_closed(written: io::Result<()>) -> io::Result<()> {
    match written {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other,
    }
}

fn complain(error: &(dyn Error + Send + Sync + 'static)) {
    let mut text = format!("rehome: {error}");
    let mut cause = error.source();
    while let Some(below) = cause {
        // Errors that show their cause in their own text would say it twice.
        let sentence = below.to_string();
        if !text.contains(&sentence) {
            text.push_str(": ");
            text.push_str(&sentence);
        }
        cause = below.source();
    }
    // With stderr closed there is nobody to tell.
    let _ = writeln!(io::stderr().lock(), "{}", printable(&text));
}

/// Ends with exit code 2 and clap's own form, for what clap itself cannot check.
fn wrong_usage(subcommand: &str, message: impl std::fmt::Display) -> ! {
    let mut command = Arguments::command();
    command.build();
    match command.find_subcommand_mut(subcommand) {
        Some(subcommand) => subcommand
            .error(clap::error::ErrorKind::ValueValidation, message)
            .exit(),
        None => command
            .error(clap::error::ErrorKind::ValueValidation, message)
            .exit(),
    }
}

/// A result as JSON on stdout.
fn print_json(value: &impl serde::Serialize) -> Result {
    Results::ToOutput.json(value)
}

/// A result for people on stdout.
fn print_text(value: &impl std::fmt::Display) -> Result {
    Results::ToOutput.text(value)
}

/// Where results go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Results {
    /// Standard output.
    ToOutput,
    /// Standard error, since OUT itself is on standard output, where not a byte may stand beside it.
    ToErrors,
}

impl Results {
    /// Those of a job that writes `out`.
    fn beside(out: &Locator) -> Self {
        match out {
            Locator::Standard => Self::ToErrors,
            Locator::Path(_) | Locator::Nbd(_) => Self::ToOutput,
        }
    }

    fn json(self, value: &impl serde::Serialize) -> Result {
        let json = serde_json::to_string_pretty(value)?;
        self.put(&format!("{json}\n"))
    }

    fn text(self, value: &impl std::fmt::Display) -> Result {
        self.put(&printable(&value.to_string()))
    }

    fn put(self, text: &str) -> Result {
        if self == Self::ToErrors {
            // With stderr closed there is nobody to tell.
            let _ = io::stderr().lock().write_all(text.as_bytes());
            return Ok(Outcome::Done);
        }
        let mut out = io::stdout().lock();
        unless_closed(out.write_all(text.as_bytes()).and_then(|()| out.flush()))?;
        Ok(Outcome::Done)
    }
}

/// What a verification that found a difference says after the report; `in_place`: OUT was there before.
fn different(in_place: bool) -> String {
    let left = if in_place {
        "OUT is overwritten and damaged"
    } else {
        "nothing was published"
    };
    format!(
        "what was read back is not what was written, and {left}: look at the storage of OUT, remove the work \
         folder if one is left beside it, and start again\n"
    )
}

/// What guests and disks say must not steer the terminal.
fn printable(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    // A String takes everything.
    let _ = write_printable(&mut plain, text);
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Arguments::command().debug_assert();
    }
}
