//! The section `[Version]` of an INF file (Windows driver documentation, "INF Version Section", "INF DriverVer Directive").

use super::{Decoration, Inf, Line, Section};
use crate::driver::windows_version::Target;
use jiff::civil::Date;
use serde::{Serialize, Serializer};
use std::fmt;
use uuid::Uuid;

/// What an INF file says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Version {
    /// "SCSIAdapter".
    pub class: Option<String>,
    /// {4d36e97b-e325-11ce-bfc1-08002be10318}.
    pub class_guid: Option<Uuid>,
    /// "Red Hat, Inc.".
    pub provider: Option<String>,
    /// Of `DriverVer`. The installation of a device can name another.
    pub driver: Option<DriverVersion>,
    /// Catalogs with the decoration that they are for, as in `CatalogFile.NTamd64`; an empty one is for all.
    pub catalogs: Vec<(String, String)>,
    /// INF files that say where files lie which `[SourceDisksFiles]` does not name: "layout.inf".
    pub layout_files: Vec<String>,
    /// Windows protects the files from being changed.
    pub pnp_lockdown: bool,
    /// An extension of other packages: the GUID that its versions share.
    pub extension_id: Option<Uuid>,
}

/// Date and version of a driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct DriverVersion {
    /// The date, which decides first.
    pub date: Date,
    /// Four numbers; zeros where the file names none.
    pub version: [u16; 4],
}

/// 1601-01-01, where the times of Windows begin.
const FILETIME_EPOCH: Date = jiff::civil::date(1601, 1, 1);
/// In units of 100 ns.
const DAY: u64 = 86_400 * 10_000_000;

impl DriverVersion {
    /// The date as a Windows file time: midnight, in units of 100 ns since 1601. Zero for earlier dates.
    pub fn file_time(&self) -> u64 {
        let days = self.date.duration_since(FILETIME_EPOCH).as_hours() / 24;
        u64::try_from(days).unwrap_or(0).saturating_mul(DAY)
    }

    /// The four numbers in one, major highest, as the registry keeps them.
    pub fn packed(&self) -> u64 {
        self.version
            .iter()
            .fold(0, |packed, part| packed << 16 | u64::from(*part))
    }

    /// Of a line `DriverVer = mm/dd/yyyy[, w.x.y.z]`.
    pub(super) fn of_line(line: &Line<'_>) -> Option<Self> {
        let date = line.text(1)?;
        let parts: Vec<&str> = date.split(['/', '-']).map(str::trim).collect();
        let [month, day, year] = parts.as_slice() else {
            return None;
        };
        let date = Date::new(year.parse().ok()?, month.parse().ok()?, day.parse().ok()?).ok()?;
        let mut version = [0; 4];
        if let Some(text) = line.text(2).filter(|text| !text.is_empty()) {
            let parts: Vec<&str> = text.split('.').collect();
            if parts.len() > version.len() {
                return None;
            }
            for (number, part) in version.iter_mut().zip(&parts) {
                *number = part.trim().parse().ok()?;
            }
        }
        Some(Self { date, version })
    }
}

impl fmt::Display for DriverVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [major, minor, build, revision] = self.version;
        write!(f, "{major}.{minor}.{build}.{revision} of {}", self.date)
    }
}

impl Serialize for DriverVersion {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeStruct;
        let [major, minor, build, revision] = self.version;
        let mut fields = serializer.serialize_struct("DriverVersion", 2)?;
        fields.serialize_field("date", &self.date.to_string())?;
        fields.serialize_field("version", &format!("{major}.{minor}.{build}.{revision}"))?;
        fields.end()
    }
}

/// A GUID with or without its braces.
pub(crate) fn guid(text: &str) -> Option<Uuid> {
    let text = text.trim();
    let inner = text.strip_prefix('{').and_then(|rest| rest.strip_suffix('}'));
    Uuid::try_parse(inner.unwrap_or(text)).ok()
}

impl Version {
    fn of_section(section: &Section<'_>) -> Self {
        let mut version = Self {
            class: section.value("Class"),
            class_guid: section.value("ClassGUID").as_deref().and_then(guid),
            provider: section.value("Provider"),
            driver: section
                .find("DriverVer")
                .as_ref()
                .and_then(DriverVersion::of_line),
            layout_files: section.list("LayoutFile"),
            pnp_lockdown: section.find("PnpLockdown").and_then(|line| line.integer(1)) == Some(1),
            extension_id: section.value("ExtensionId").as_deref().and_then(guid),
            ..Self::default()
        };
        for line in section.lines() {
            let (Some(key), Some(file)) = (line.key(), line.text(1)) else {
                continue;
            };
            let lower = key.to_lowercase();
            let Some(decoration) = lower.strip_prefix("catalogfile") else {
                continue;
            };
            let decoration = match decoration.strip_prefix('.') {
                Some(decoration) => decoration,
                None if decoration.is_empty() => "",
                None => continue,
            };
            if !file.is_empty() {
                version.catalogs.push((decoration.to_owned(), file.into_owned()));
            }
        }
        version
    }

    /// The catalog that Windows looks at on `target`: the one for its processor, for NT, for all.
    pub fn catalog(&self, target: &Target) -> Option<&str> {
        let wanted = [
            format!("nt{}", target.architecture),
            "nt".to_owned(),
            String::new(),
        ];
        let of = |wanted: &String| self.catalogs.iter().find(|(decoration, _)| decoration == wanted);
        let (_, file) = wanted.iter().find_map(of)?;
        Some(file)
    }
}

impl Inf {
    /// What `[Version]` says.
    pub fn version(&self) -> Version {
        self.section("Version")
            .map(|section| Version::of_section(&section))
            .unwrap_or_default()
    }

    /// The decorations of all models, as `[Manufacturer]` names them: what Windows the file is for. A manufacturer without
    /// any gives an empty one.
    pub fn decorations(&self) -> Vec<Decoration> {
        let mut all = Vec::new();
        let lines = self
            .section("Manufacturer")
            .into_iter()
            .flat_map(|section| section.lines());
        for line in lines {
            let found = line.texts().skip(1).filter_map(|text| Decoration::parse(&text));
            let before = all.len();
            all.extend(found);
            if all.len() == before {
                all.push(Decoration::default());
            }
        }
        all.sort();
        all.dedup();
        all
    }
}
