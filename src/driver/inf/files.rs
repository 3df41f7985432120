//! Files that an INF file copies: where they come from and where they go (Windows driver documentation, "INF CopyFiles
//! Directive", "INF SourceDisksFiles Section", "INF SourceDisksNames Section", "INF DestinationDirs Section").

use super::{DirectoryId, Inf, InfError, Line, budget::Budget, flags, same_name};
use crate::driver::windows_version::Architecture;
use serde::Serialize;

/// One file to copy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CopyFile {
    /// Where it lies in the package.
    pub source: SourceFile,
    /// Where it goes.
    pub destination: Destination,
    /// The `COPYFLG_` bits.
    pub flags: u32,
}

/// A file of a package.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SourceFile {
    /// Its name.
    pub name: String,
    /// Folders below the one of the INF file that it lies in.
    pub folder: Vec<String>,
    /// A cabinet there that holds it.
    pub cabinet: Option<String>,
    /// `[SourceDisksFiles]` names it. If not, it is a file of Windows' own media where `[Version]` has a layout file, and
    /// else lies beside the INF file.
    pub listed: bool,
}

/// A place on the system.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Destination {
    /// Which folder.
    pub directory: DirectoryId,
    /// Folders below it. Of [`DirectoryId::ABSOLUTE`] the first is a drive ("C:").
    pub folder: Vec<String>,
    /// The file's name there.
    pub name: String,
}

/// Folders of a Windows path. An error, in words, for what would lead out of it or is no name.
pub(super) fn folders(path: &str) -> Result<Vec<String>, String> {
    let names = path
        .split(['\\', '/'])
        .filter(|name| !name.is_empty() && *name != ".");
    names
        .map(
            |name| match name == ".." || name.chars().any(|c| c.is_control() || "<>\"|?*".contains(c)) {
                true => Err(format!("{path:?} is no path below a folder")),
                false => Ok(name.to_owned()),
            },
        )
        .collect()
}

/// The name of a file, without a path.
fn file_name(name: &str) -> Result<String, String> {
    match folders(name)?.as_slice() {
        [only] if only == name => Ok(name.to_owned()),
        _ => Err(format!("{name:?} is no name of a file")),
    }
}

/// The questions that files of one INF file for one processor raise.
pub(super) struct Layout<'a> {
    pub(super) inf: &'a Inf,
    pub(super) architecture: Architecture,
}

impl Layout<'_> {
    /// What `CopyFiles = name` copies: `@file`, or the lines of a section. What makes no sense goes to `problems`.
    pub(super) fn copies(
        &self,
        name: &str,
        budget: &mut Budget,
        problems: &mut Vec<String>,
    ) -> Result<Vec<CopyFile>, InfError> {
        let mut copies = Vec::new();
        let mut add = |copy: Result<CopyFile, String>| match copy {
            Ok(copy) => copies.push(copy),
            Err(problem) => problems.push(problem),
        };
        if let Some(file) = name.strip_prefix('@') {
            budget.take(file.len().saturating_mul(2))?;
            // Without a section of its own it goes where the default is.
            add(self.copy(file.trim(), file.trim(), "", 0));
            return Ok(copies);
        }
        let Some(section) = self.inf.section(name) else {
            problems.push(format!(
                "CopyFiles names the section [{name}], which is not there"
            ));
            return Ok(copies);
        };
        for line in section.lines() {
            let Some(target) = line.text(1).filter(|name| !name.is_empty()) else {
                continue;
            };
            let source = line
                .text(2)
                .filter(|name| !name.is_empty())
                .unwrap_or_else(|| target.clone());
            budget.take(target.len().saturating_add(source.len()))?;
            let flags = flags(line.text(4)).unwrap_or(0);
            add(self.copy(&target, &source, name, flags));
        }
        Ok(copies)
    }

    /// What `DelFiles = name` deletes.
    pub(super) fn deletes(
        &self,
        name: &str,
        budget: &mut Budget,
        problems: &mut Vec<String>,
    ) -> Result<Vec<Destination>, InfError> {
        let mut deletes = Vec::new();
        let Some(section) = self.inf.section(name) else {
            problems.push(format!("DelFiles names the section [{name}], which is not there"));
            return Ok(deletes);
        };
        for file in section
            .lines()
            .filter_map(|line| line.text(1))
            .filter(|file| !file.is_empty())
        {
            budget.take(file.len())?;
            match self.destination(&file, name) {
                Ok(destination) => deletes.push(destination),
                Err(problem) => problems.push(problem),
            }
        }
        Ok(deletes)
    }

    fn copy(&self, target: &str, source: &str, section: &str, flags: u32) -> Result<CopyFile, String> {
        Ok(CopyFile {
            source: self.source(source)?,
            destination: self.destination(target, section)?,
            flags,
        })
    }

    fn destination(&self, name: &str, section: &str) -> Result<Destination, String> {
        let name = file_name(name)?;
        let directories = self.inf.section("DestinationDirs");
        let own = directories.and_then(|section_of| section_of.find(section).filter(|_| !section.is_empty()));
        let line = own.or_else(|| directories?.find("DefaultDestDir"));
        let Some(line) = line else {
            return Err(format!("[DestinationDirs] does not say where {name} goes"));
        };
        let id = line.integer(1).and_then(|id| i32::try_from(id).ok());
        let id = id.ok_or_else(|| format!("[DestinationDirs] does not say by a number where {name} goes"))?;
        let folder = folders(&line.text(2).unwrap_or_default())?;
        Ok(Destination {
            directory: DirectoryId(id),
            folder,
            name,
        })
    }

    /// Where a file lies, by the sections for this processor and those for all.
    pub(super) fn source(&self, name: &str) -> Result<SourceFile, String> {
        let mut source = SourceFile {
            name: file_name(name)?,
            folder: Vec::new(),
            cabinet: None,
            listed: false,
        };
        let Some(line) = self.decorated("SourceDisksFiles", |key| same_name(key, name)) else {
            return Ok(source);
        };
        source.listed = true;
        let disk = line.integer(1);
        let disk = self.decorated("SourceDisksNames", |key| {
            disk.is_some() && super::integer(key) == disk
        });
        if let Some(disk) = disk {
            source.folder = folders(&disk.text(4).unwrap_or_default())?;
            let tag = disk.text(2).unwrap_or_default();
            if tag.to_lowercase().ends_with(".cab") {
                source.cabinet = Some(file_name(&tag)?);
            }
        }
        source.folder.extend(folders(&line.text(2).unwrap_or_default())?);
        Ok(source)
    }

    fn decorated(&self, section: &str, wanted: impl Fn(&str) -> bool) -> Option<Line<'_>> {
        let names = [format!("{section}.{}", self.architecture), section.to_owned()];
        names.iter().find_map(|name| {
            let mut lines = self.inf.section(name)?.lines();
            lines.find(|line| line.key().is_some_and(|key| wanted(&key)))
        })
    }
}
