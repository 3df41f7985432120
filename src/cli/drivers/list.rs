//! `rehome drivers list`.

use super::{SCHEMA, windows_version};
use crate::{
    cli::{Result, print_json, print_text},
    driver::windows_database::{inbox, leftovers},
};
use serde_json::json;
use std::fmt::Write as _;

pub(super) fn run(windows: Option<&str>, as_json: bool) -> Result {
    let windows = windows.map(windows_version);
    let mut drivers = inbox()?.drivers;
    drivers.retain(|driver| windows.is_none_or(|windows| driver.is_in(&windows)));
    let leftovers = leftovers()?.rows;
    if as_json {
        return print_json(&json!({ "schema": SCHEMA, "inbox": drivers, "leftovers": leftovers }));
    }
    let mut text = String::new();
    for driver in &drivers {
        let last = driver.last.as_deref().unwrap_or("");
        let since = format!("{}-{last}", driver.first);
        writeln!(
            text,
            "{:<10} {since:<10} {:<14} {}",
            driver.service,
            driver.inf,
            driver.ids.join(" ")
        )?;
    }
    writeln!(text, "\nTurned off where the target has no such device:")?;
    for row in &leftovers {
        writeln!(text, "{:<28} {}", row.from, row.services.join(" "))?;
    }
    print_text(&text)
}
