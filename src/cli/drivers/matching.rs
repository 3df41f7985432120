//! `rehome drivers match`.

use super::{SCHEMA, windows_version};
use crate::{
    cli::{Outcome, Result, print_json, print_text, wrong_usage},
    driver::{
        package_source,
        windows_version::{Architecture, Target},
    },
    machine,
    matching::{
        DeviceRole,
        windows::{WindowsBinding, match_windows},
    },
};
use serde_json::json;
use std::{
    fmt::Write as _,
    path::{Path, PathBuf},
};

pub(super) fn run(
    machine: &str,
    windows: &str,
    arch: &str,
    driver_db: Option<&Path>,
    paths: &[PathBuf],
    as_json: bool,
) -> Result {
    let architecture = Architecture::from_name(arch);
    let target = Target {
        windows: windows_version(windows),
        architecture: architecture.unwrap_or_else(|| {
            wrong_usage(
                "drivers",
                format!("--arch: {arch:?} is none of x86, amd64, arm64, arm, ia64"),
            )
        }),
    };
    let machine = machine::load(machine, driver_db)?;
    let sources = paths
        .iter()
        .map(|path| package_source::open(path))
        .collect::<std::result::Result<Vec<_>, _>>()?;
    let bindings = match_windows(&machine, &target, &sources)?;
    // One controller that it can boot from is enough.
    let boots = machine.storage.is_empty()
        || bindings
            .iter()
            .any(|binding| binding.role == DeviceRole::Storage && binding.driver.is_some());
    if as_json {
        print_json(
            &json!({ "schema": SCHEMA, "machine": machine.name, "target": target, "bindings": bindings }),
        )?;
    } else {
        print_text(&in_words(&machine.name, &target, &bindings)?)?;
    }
    Ok(if boots { Outcome::Done } else { Outcome::Blocked })
}

fn in_words(
    machine: &str,
    target: &Target,
    bindings: &[WindowsBinding],
) -> std::result::Result<String, std::fmt::Error> {
    let mut text = format!("{target} on {machine}\n");
    for binding in bindings {
        write!(text, "{:<18} ", binding.device)?;
        match &binding.driver {
            None => writeln!(text, "no driver")?,
            Some(driver) => {
                let from = driver
                    .source
                    .as_deref()
                    .map_or("comes with Windows".to_owned(), |source| format!("in {source}"));
                let service = driver.service.as_deref().unwrap_or("no service");
                writeln!(text, "{service}: {} ({from})", driver.inf)?;
                let version = driver
                    .ranking
                    .driver()
                    .map_or("no version".to_owned(), |version| version.to_string());
                writeln!(
                    text,
                    "    rank {}, {version}: {}",
                    driver.ranking.rank, driver.matched
                )?;
                for warning in &driver.warnings {
                    writeln!(text, "    warning: {warning}")?;
                }
            }
        }
        for considered in &binding.considered {
            writeln!(text, "    not {}: {}", considered.driver, considered.reason)?;
        }
    }
    Ok(text)
}
