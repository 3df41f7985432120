//! `rehome drivers scan`.

use super::SCHEMA;
use crate::{
    cli::{Result, print_json, print_text},
    driver::{
        inf::{Decoration, Version},
        package::Packages,
        package_source,
    },
};
use serde::Serialize;
use serde_json::json;
use std::{collections::BTreeSet, fmt::Write as _, path::Path};

/// One package, as it is printed.
#[derive(Serialize)]
struct Scanned {
    path: String,
    #[serde(flatten)]
    version: Option<Version>,
    /// Which Windows it is for, by the decorations of its models.
    #[serde(rename = "for")]
    targets: Vec<Decoration>,
    ids: BTreeSet<String>,
    /// Why it cannot be used.
    error: Option<String>,
}

pub(super) fn run(path: &Path, as_json: bool) -> Result {
    let source = package_source::open(path)?;
    let packages = Packages::find(&*source)?;
    let scanned: Vec<Scanned> = packages
        .packages
        .iter()
        .map(|package| {
            let mut scanned = Scanned {
                path: package.path.clone(),
                version: None,
                targets: Vec::new(),
                ids: BTreeSet::new(),
                error: None,
            };
            match &package.inf {
                Ok(inf) => {
                    scanned.version = Some(inf.version());
                    scanned.targets = inf.decorations();
                    match inf.all_models() {
                        Ok(models) => {
                            scanned.ids = models.into_iter().flat_map(|(_, model)| model.ids).collect()
                        }
                        Err(error) => scanned.error = Some(error.to_string()),
                    }
                }
                Err(error) => scanned.error = Some(error.to_string()),
            }
            scanned
        })
        .collect();
    if as_json {
        return print_json(&json!({ "schema": SCHEMA, "source": packages.label, "packages": scanned }));
    }
    let mut text = String::new();
    for package in &scanned {
        writeln!(text, "{}", package.path)?;
        if let Some(error) = &package.error {
            writeln!(text, "    not usable: {error}")?;
        }
        let Some(version) = &package.version else {
            continue;
        };
        let named = |text: &Option<String>| text.clone().unwrap_or_else(|| "?".into());
        let driver = version
            .driver
            .map_or("no version".to_owned(), |driver| driver.to_string());
        writeln!(
            text,
            "    {}, {}, {driver}",
            named(&version.provider),
            named(&version.class)
        )?;
        let targets: Vec<String> = package
            .targets
            .iter()
            .map(|target| {
                if target.nt {
                    target.to_string()
                } else {
                    "any x86".into()
                }
            })
            .collect();
        if !package.ids.is_empty() {
            writeln!(text, "    for {}: {} ids", targets.join(", "), package.ids.len())?;
        }
    }
    let bad = scanned.iter().filter(|package| package.error.is_some()).count();
    writeln!(text, "{} packages, {bad} of them not usable", scanned.len())?;
    print_text(&text)
}
