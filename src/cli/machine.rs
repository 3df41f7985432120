//! `rehome machine`: machine descriptions.

use super::{Outcome, Result, print_json, print_text};
use crate::machine;
use clap::Subcommand;
use std::path::PathBuf;

/// List and show the machines that a system can move to
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(subcommand)]
    command: Command,

    /// Folder with machine files of your own; they come before the shipped ones
    #[arg(long, value_name = "DIR", global = true)]
    driver_db: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Every machine, one to a line
    List {
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// One machine as TOML: a file to start from for one of your own
    Show {
        /// Name of a machine or path of a machine file
        machine: String,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
}

pub(super) fn run(arguments: &Arguments) -> Result {
    match &arguments.command {
        Command::List { json } => {
            let machines = machine::list(arguments.driver_db.as_deref())?;
            if *json {
                return print_json(&machines);
            }
            let lines = machines
                .iter()
                .map(|m| format!("{:<16} {}\n", m.name, m.description));
            print_text(&lines.collect::<String>())
        }
        Command::Show { machine, json } => {
            let machine = machine::load(machine, arguments.driver_db.as_deref())?;
            if *json {
                return print_json(&machine);
            }
            print_text(&toml::to_string_pretty(&machine)?)?;
            Ok(Outcome::Done)
        }
    }
}
