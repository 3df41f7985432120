//! The devices that an INF file is for: `[Manufacturer]` and the models of each (Windows driver documentation, "INF
//! Manufacturer Section", "INF Models Section").

use super::{Decoration, Inf, InfError, Line, budget::Budget};
use crate::driver::windows_version::Target;
use serde::Serialize;

/// One line of a models section.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Model {
    /// "Red Hat, Inc.".
    pub manufacturer: String,
    /// "Red Hat VirtIO SCSI controller".
    pub description: String,
    /// The installation that it asks for, without decoration; empty: none.
    pub install_section: String,
    /// The hardware id, then compatible ids; in capitals, as Windows compares them.
    pub ids: Vec<String>,
    /// The section that it stands in.
    pub section: String,
    /// Its line, counted from 1.
    pub line: u32,
}

impl Inf {
    /// What the file has for `target`: of each manufacturer the section whose decoration is nearest to it, which may be an
    /// empty one, put there to exclude it.
    ///
    /// # Errors
    /// [`InfError::TooMuch`].
    pub fn models(&self, target: &Target) -> Result<Vec<Model>, InfError> {
        let mut budget = Budget::new();
        let mut models = Vec::new();
        for line in self.manufacturers() {
            // A manufacturer that names no section that is there still costs.
            budget.take(0)?;
            if let Some(section) = self.models_section(&line, target) {
                self.add_models(&line, &section, &mut models, &mut budget)?;
            }
        }
        Ok(models)
    }

    fn manufacturers(&self) -> impl Iterator<Item = Line<'_>> {
        self.section("Manufacturer")
            .into_iter()
            .flat_map(|section| section.lines())
    }

    /// What the file has for any Windows: all sections of each manufacturer, with their decorations.
    ///
    /// # Errors
    /// [`InfError::TooMuch`].
    pub fn all_models(&self) -> Result<Vec<(Decoration, Model)>, InfError> {
        let mut budget = Budget::new();
        let mut all = Vec::new();
        for line in self.manufacturers() {
            budget.take(0)?;
            let Some(base) = line.text(1).filter(|name| !name.is_empty()) else {
                continue;
            };
            let decorated = line
                .texts()
                .skip(1)
                .map(|text| (format!("{base}.{text}"), Decoration::parse(&text)));
            let plain = [(base.clone().into_owned(), Some(Decoration::default()))];
            for (section, decoration) in plain.into_iter().chain(decorated) {
                budget.take(section.len())?;
                let mut models = Vec::new();
                if let Some(decoration) = decoration {
                    self.add_models(&line, &section, &mut models, &mut budget)?;
                    all.extend(models.into_iter().map(|model| (decoration, model)));
                }
            }
        }
        Ok(all)
    }

    /// The name of the section that a manufacturer has for `target`; `None`: none.
    fn models_section(&self, manufacturer: &Line<'_>, target: &Target) -> Option<String> {
        let base = manufacturer.text(1).filter(|name| !name.is_empty())?;
        let decorated = manufacturer.texts().skip(1).filter_map(|text| {
            let decoration = Decoration::parse(&text)?;
            Some((decoration, text.into_owned()))
        });
        let nearest = decorated
            .filter(|(decoration, _)| decoration.applies(target))
            .max_by_key(|(decoration, _)| decoration.nearness(&target.windows));
        match nearest {
            Some((_, text)) => Some(format!("{base}.{}", text.trim())),
            None => Decoration::default().applies(target).then(|| base.into_owned()),
        }
    }

    fn add_models(
        &self,
        manufacturer: &Line<'_>,
        section: &str,
        models: &mut Vec<Model>,
        budget: &mut Budget,
    ) -> Result<(), InfError> {
        let Some(found) = self.section(section) else {
            return Ok(());
        };
        let name = manufacturer
            .key()
            .or_else(|| manufacturer.text(1))
            .unwrap_or_default();
        for line in found.lines() {
            let Some(description) = line.key() else {
                continue;
            };
            budget.take(
                name.len()
                    .saturating_add(description.len())
                    .saturating_add(section.len()),
            )?;
            let mut ids = Vec::new();
            for id in line.texts().skip(1).filter(|id| !id.is_empty()) {
                budget.take(id.len())?;
                ids.push(id.to_uppercase());
            }
            models.push(Model {
                manufacturer: name.clone().into_owned(),
                description: description.into_owned(),
                install_section: line.text(1).unwrap_or_default().into_owned(),
                ids,
                section: found.name().to_owned(),
                line: line.number(),
            });
        }
        Ok(())
    }
}
