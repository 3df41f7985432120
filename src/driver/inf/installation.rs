//! What is done to install one device: the section `DDInstall` that is for a given Windows, and those that go with it
//! (Windows driver documentation, "INF DDInstall Section", "INF DDInstall.Services Section", "INF DDInstall.HW Section").

use super::{
    CopyFile, Decoration, Destination, DriverVersion, Inf, InfError, RegistryChange, Section, Service,
    budget::Budget, files::Layout, same_name,
};
use crate::driver::windows_version::Target;
use serde::Serialize;

/// From this build of Windows on the name of an installation can have a version in its decoration.
const VERSIONED_FROM: u32 = 25952;
/// Kept of what makes no sense in a file.
const MOST_PROBLEMS: usize = 200;

/// All that an INF file does to install a device.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Installation {
    /// The section that was chosen: "rhelscsi_inst.NTamd64".
    pub section: String,
    /// Files to copy, in order.
    pub copies: Vec<CopyFile>,
    /// Files to delete.
    pub deletes: Vec<Destination>,
    /// Below the software key of the device.
    pub registry: Vec<RegistryChange>,
    /// Below the hardware key of the device (`.HW`).
    pub hardware: Vec<RegistryChange>,
    /// Co-installers: below the software key too.
    pub co_installers: Vec<RegistryChange>,
    /// Services to install.
    pub services: Vec<Service>,
    /// Services to remove.
    pub removed_services: Vec<String>,
    /// 0 is the best; Windows takes 255 where there is none.
    pub feature_score: Option<u8>,
    /// Another date and version than those of `[Version]`.
    pub driver: Option<DriverVersion>,
    /// INF files of Windows that sections are taken from.
    pub includes: Vec<String>,
    /// Those sections: they are in none of this file's own.
    pub needs: Vec<String>,
    /// What the file asks for and does not hold, or says wrongly.
    pub problems: Vec<String>,
}

impl Inf {
    /// The section that Windows installs by for `name`: with the decoration of the processor, of NT, with none.
    pub fn install_section(&self, name: &str, target: &Target) -> Option<Section<'_>> {
        if target.windows.build >= VERSIONED_FROM
            && let Some(section) = self.versioned_section(name, target)
        {
            return Some(section);
        }
        let names = [
            format!("{name}.NT{}", target.architecture),
            format!("{name}.NT"),
            name.to_owned(),
        ];
        names.iter().find_map(|name| self.section(name))
    }

    fn versioned_section(&self, name: &str, target: &Target) -> Option<Section<'_>> {
        let prefix = format!("{}.", name.to_lowercase());
        let decorated = self.sections().filter_map(|section| {
            let lower = section.name().to_lowercase();
            let decoration = Decoration::parse(lower.strip_prefix(&prefix)?)?;
            Some((decoration, section))
        });
        let nearest = decorated
            .filter(|(decoration, _)| {
                decoration.major.is_some() && decoration.applies_to_installation(target)
            })
            .max_by_key(|(decoration, _)| decoration.nearness(&target.windows));
        nearest.map(|(_, section)| section)
    }

    /// What installing by the section `name` of a model does on `target`; `None`: there is no such section.
    ///
    /// # Errors
    /// [`InfError::TooMuch`].
    pub fn installation(&self, name: &str, target: &Target) -> Result<Option<Installation>, InfError> {
        let Some(section) = self.install_section(name, target) else {
            return Ok(None);
        };
        let mut work = Work {
            inf: self,
            target,
            budget: Budget::new(),
            done: Installation {
                section: section.name().to_owned(),
                driver: section
                    .find("DriverVer")
                    .as_ref()
                    .and_then(DriverVersion::of_line),
                feature_score: section.value("FeatureScore").as_deref().and_then(feature_score),
                ..Installation::default()
            },
        };
        work.run(section.name())?;
        work.done.problems.truncate(MOST_PROBLEMS);
        Ok(Some(work.done))
    }
}

/// A byte in hexadecimal, with or without `0x`.
fn feature_score(text: &str) -> Option<u8> {
    let text = text.trim().to_ascii_lowercase();
    let digits = text
        .strip_prefix("0x")
        .or_else(|| text.strip_prefix('x'))
        .unwrap_or(&text);
    u8::from_str_radix(digits, 16).ok()
}

struct Work<'a> {
    inf: &'a Inf,
    target: &'a Target,
    budget: Budget,
    done: Installation,
}

impl<'a> Work<'a> {
    fn run(&mut self, base: &str) -> Result<(), InfError> {
        for section in self.with_needs(base)? {
            self.copy_files(&section)?;
            for name in section.list("DelFiles") {
                let deletes = self
                    .layout()
                    .deletes(&name, &mut self.budget, &mut self.done.problems)?;
                self.done.deletes.extend(deletes);
            }
            let changes = self.registry(&section)?;
            self.done.registry.extend(changes);
        }
        for section in self.with_needs(&format!("{base}.HW"))? {
            let changes = self.registry(&section)?;
            self.done.hardware.extend(changes);
        }
        for section in self.with_needs(&format!("{base}.CoInstallers"))? {
            self.copy_files(&section)?;
            let changes = self.registry(&section)?;
            self.done.co_installers.extend(changes);
        }
        for section in self.with_needs(&format!("{base}.Services"))? {
            let services = self
                .inf
                .services(&section, &mut self.budget, &mut self.done.problems)?;
            self.done.services.extend(services);
            for line in section.find_all("DelService") {
                let name = line.text(1).unwrap_or_default().into_owned();
                self.budget.take(name.len())?;
                self.done.removed_services.push(name);
            }
        }
        Ok(())
    }

    fn layout(&self) -> Layout<'a> {
        Layout {
            inf: self.inf,
            architecture: self.target.architecture,
        }
    }

    fn copy_files(&mut self, section: &Section<'a>) -> Result<(), InfError> {
        for name in section.list("CopyFiles") {
            let copies = self
                .layout()
                .copies(&name, &mut self.budget, &mut self.done.problems)?;
            self.done.copies.extend(copies);
        }
        Ok(())
    }

    fn registry(&mut self, section: &Section<'a>) -> Result<Vec<RegistryChange>, InfError> {
        self.inf
            .all_registry_changes(section, &mut self.budget, &mut self.done.problems)
    }

    /// The section, if it is there, and those of this file that it needs, each once. What it needs of other files is noted.
    fn with_needs(&mut self, name: &str) -> Result<Vec<Section<'a>>, InfError> {
        let mut sections: Vec<Section<'a>> = Vec::new();
        sections.extend(self.inf.section(name));
        let mut next = 0;
        while let Some(section) = sections.get(next).copied() {
            next += 1;
            for file in section.list("Include") {
                self.budget.take(file.len())?;
                if !self.done.includes.iter().any(|known| same_name(known, &file)) {
                    self.done.includes.push(file);
                }
            }
            for need in section.list("Needs") {
                self.budget.take(need.len())?;
                match self.inf.section(&need) {
                    Some(found) if sections.iter().any(|known| same_name(known.name(), found.name())) => {}
                    Some(found) => sections.push(found),
                    None if self.done.needs.contains(&need) => {}
                    None => self.done.needs.push(need),
                }
            }
        }
        Ok(sections)
    }
}
