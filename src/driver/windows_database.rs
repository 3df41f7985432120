//! What is known of Windows without asking one: the storage drivers that come with it, and what old machines leave in it.
//! The tables are data (`driver-db/windows/*.toml`); this reads and checks them.

use super::{hardware_id::DeviceIds, inf::DriverVersion, inf_rank::IdMatch, windows_version::WindowsVersion};
use crate::disk::{Error, Kind, Result};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

const INBOX: &str = include_str!("../../driver-db/windows/inbox.toml");
const LEFTOVERS: &str = include_str!("../../driver-db/windows/leftovers.toml");

/// Storage drivers that come with Windows.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Inbox {
    schema: u32,
    /// In the order of the file.
    #[serde(rename = "driver")]
    pub drivers: Vec<InboxDriver>,
}

/// A driver that comes with Windows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InboxDriver {
    /// "storahci".
    pub service: String,
    /// Below the folder of Windows.
    pub image: String,
    /// The INF file of Windows that installs it.
    pub inf: String,
    /// "SCSIAdapter".
    pub class: String,
    /// Of the class.
    pub class_guid: Uuid,
    /// The group that it is loaded with.
    #[serde(default)]
    pub group: Option<String>,
    /// As in its service key.
    pub error_control: u32,
    /// What it answers to, in capitals. Of many ids of single vendors only the ones that machines of the database show.
    pub ids: Vec<String>,
    /// Services of the buses above it, from the top: all must start at boot for it to find its device.
    pub chain: Vec<String>,
    /// The first Windows that has it: "6.2".
    pub first: String,
    /// The last one; absent: every later one.
    #[serde(default)]
    pub last: Option<String>,
    /// Where the row is from.
    pub source: String,
}

/// The date that every driver of Windows itself has had since Vista, so that any other driver counts as newer.
pub const INBOX_DATE: jiff::civil::Date = jiff::civil::date(2006, 6, 21);

impl InboxDriver {
    /// Does this Windows have it?
    pub fn is_in(&self, windows: &WindowsVersion) -> bool {
        let from = release(&self.first).is_some_and(|first| first <= windows.release());
        from && self
            .last
            .as_deref()
            .is_none_or(|last| release(last).is_some_and(|last| windows.release() <= last))
    }

    /// Which id of the device it answers to. In the INF files of Windows each stands alone, as a hardware id.
    pub fn answers(&self, device: &DeviceIds) -> Option<IdMatch> {
        self.ids
            .iter()
            .filter_map(|id| IdMatch::best(device, std::slice::from_ref(id)))
            .min_by_key(IdMatch::score)
    }

    /// Date and version that it has in `windows`.
    pub fn version(windows: &WindowsVersion) -> DriverVersion {
        let part = |number: u32| u16::try_from(number).unwrap_or(u16::MAX);
        DriverVersion {
            date: INBOX_DATE,
            version: [part(windows.major), part(windows.minor), part(windows.build), 0],
        }
    }
}

/// What old machines leave in a Windows.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Leftovers {
    schema: u32,
    /// In the order of the file.
    #[serde(rename = "leftover")]
    pub rows: Vec<Leftover>,
}

/// What one kind of machine leaves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Leftover {
    /// "VMware".
    pub from: String,
    /// Services that are turned off.
    pub services: Vec<String>,
    /// Filters that are taken out of device classes.
    #[serde(default)]
    pub class_filters: Vec<ClassFilter>,
    /// Ids, or beginnings of ids, of devices that want them: where the target has one, all of this stays.
    pub needed_by: Vec<String>,
    /// Where the row is from.
    pub source: String,
}

/// A filter of a device class.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClassFilter {
    /// Of the class.
    pub class_guid: Uuid,
    /// Which of the two lists.
    pub kind: FilterKind,
    /// The service in it.
    pub service: String,
}

/// `UpperFilters` or `LowerFilters`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FilterKind {
    /// Above the driver of the device.
    Upper,
    /// Below it.
    Lower,
}

impl Leftover {
    /// Does one of the target's devices want it?
    pub fn is_needed_by(&self, device: &DeviceIds) -> bool {
        device.all().any(|id| {
            self.needed_by
                .iter()
                .any(|wanted| id.starts_with(wanted.as_str()))
        })
    }
}

/// The table of inbox drivers.
///
/// # Errors
/// `Corrupt`: what is wrong with it.
pub fn inbox() -> Result<Inbox> {
    parse_inbox("driver-db/windows/inbox.toml", INBOX)
}

/// The table of leftovers.
///
/// # Errors
/// `Corrupt`: what is wrong with it.
pub fn leftovers() -> Result<Leftovers> {
    parse_leftovers("driver-db/windows/leftovers.toml", LEFTOVERS)
}

fn parse_inbox(label: &str, text: &str) -> Result<Inbox> {
    let corrupt = |message: String| Error::new(Kind::Corrupt, label, message);
    let inbox: Inbox = toml::from_str(text).map_err(|error| corrupt(error.to_string()))?;
    check_schema(inbox.schema).map_err(corrupt)?;
    for driver in &inbox.drivers {
        check_driver(&inbox, driver).map_err(|problem| corrupt(format!("{}: {problem}", driver.service)))?;
    }
    Ok(inbox)
}

fn parse_leftovers(label: &str, text: &str) -> Result<Leftovers> {
    let corrupt = |message: String| Error::new(Kind::Corrupt, label, message);
    let leftovers: Leftovers = toml::from_str(text).map_err(|error| corrupt(error.to_string()))?;
    check_schema(leftovers.schema).map_err(corrupt)?;
    for row in &leftovers.rows {
        check_leftover(row).map_err(|problem| corrupt(format!("{}: {problem}", row.from)))?;
    }
    Ok(leftovers)
}

fn check_schema(schema: u32) -> std::result::Result<(), String> {
    match schema {
        1 => Ok(()),
        other => Err(format!("has schema {other}; this program knows schema 1")),
    }
}

/// What the types cannot say: versions in order, ids as Windows writes them, chains that lead to rows of the same Windows.
fn check_driver(inbox: &Inbox, driver: &InboxDriver) -> std::result::Result<(), String> {
    let first = release(&driver.first).ok_or("`first` is no version like \"6.2\"")?;
    let last = driver
        .last
        .as_deref()
        .map(|last| release(last).ok_or("`last` is no version like \"6.2\""));
    let last = last.transpose()?;
    if last.is_some_and(|last| last < first) {
        return Err("`last` is before `first`".into());
    }
    if driver.service.is_empty() || driver.source.is_empty() || !driver.inf.ends_with(".inf") {
        return Err("`service`, `source` or `inf` is not what it should be".into());
    }
    if !driver.image.starts_with("System32\\drivers\\") || !driver.image.ends_with(".sys") {
        return Err(format!(
            "`image` is {:?}; expected System32\\drivers\\NAME.sys",
            driver.image
        ));
    }
    if driver.ids.is_empty() {
        return Err("`ids` must name at least one".into());
    }
    for id in &driver.ids {
        check_id(id)?;
    }
    for bus in &driver.chain {
        let found = inbox.drivers.iter().find(|other| other.service == *bus);
        let found = found.ok_or_else(|| format!("`chain` names {bus}, which has no row"))?;
        if release(&found.first) > Some(first) {
            return Err(format!(
                "`chain` names {bus}, which comes with a later Windows only"
            ));
        }
    }
    Ok(())
}

fn check_leftover(row: &Leftover) -> std::result::Result<(), String> {
    if row.from.is_empty() || row.source.is_empty() || row.services.is_empty() || row.needed_by.is_empty() {
        return Err("no key may be empty".into());
    }
    for id in &row.needed_by {
        check_id(id)?;
    }
    let lower: Vec<String> = row
        .services
        .iter()
        .map(|service| service.to_lowercase())
        .collect();
    for (place, service) in lower.iter().enumerate() {
        if lower.iter().skip(place + 1).any(|other| other == service) {
            return Err(format!("`services` names {service} twice"));
        }
    }
    Ok(())
}

fn check_id(id: &str) -> std::result::Result<(), String> {
    let plain = |c: char| c.is_ascii_graphic() && !c.is_ascii_lowercase() && c != ',';
    if id.len() > 3 && id.chars().all(plain) {
        return Ok(());
    }
    Err(format!(
        "{id:?} is no id as Windows compares them: in capitals, without blanks"
    ))
}

/// Major and minor version.
fn release(text: &str) -> Option<(u32, u32)> {
    let (major, minor) = text.split_once('.')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shipped_tables_are_sound() {
        let inbox = inbox().unwrap();
        assert!(inbox.drivers.len() >= 20);
        let leftovers = leftovers().unwrap();
        assert_eq!(leftovers.rows.len(), 6);
        // Nothing that a machine may boot from is ever turned off as a leftover of a machine that it is not from.
        let boots = |service: &str| {
            inbox
                .drivers
                .iter()
                .any(|driver| driver.service.eq_ignore_ascii_case(service))
        };
        for row in &leftovers.rows {
            assert!(!row.services.iter().any(|service| boots(service)), "{}", row.from);
        }
    }

    #[test]
    fn every_windows_finds_its_own_driver() {
        let inbox = inbox().unwrap();
        let device = |modalias| DeviceIds::of_modalias(modalias).unwrap();
        let ahci = device("pci:v00008086d00002922sv00001AF4sd00001100bc01sc06i01");
        let nvme = device("pci:v00001B36d00000010sv00001AF4sd00001100bc01sc08i02");
        let ide = device("pci:v00008086d00007111sv00000000sd00000000bc01sc01i80");
        let sas = device("pci:v00001000d00000054sv000015ADsd00001976bc01sc00i00");
        let hyper_v = device("vmbus:d96361baa104294db60572e2ffb1dc7f");
        for (windows, device, expected) in [
            ("7", &ahci, &["msahci"][..]),
            ("8", &ahci, &["storahci"]),
            ("xp", &ahci, &[]),
            ("2008r2", &nvme, &[]),
            ("8.1", &nvme, &["stornvme"]),
            ("xp", &ide, &["intelide", "pciide"]),
            ("11", &ide, &["intelide", "pciide"]),
            ("2003", &sas, &[]),
            ("2025", &sas, &["LSI_SAS"]),
            ("vista", &hyper_v, &[]),
            ("10", &hyper_v, &["storvsc"]),
        ] {
            let windows = WindowsVersion::from_name(windows).unwrap();
            let found = inbox
                .drivers
                .iter()
                .filter(|driver| driver.is_in(&windows) && driver.answers(device).is_some());
            let names: Vec<_> = found.map(|driver| driver.service.as_str()).collect();
            assert_eq!(names, expected, "{windows}");
        }
    }

    #[test]
    fn what_the_target_needs_is_no_leftover() {
        let leftovers = leftovers().unwrap();
        let needed = |modalias| {
            let device = DeviceIds::of_modalias(modalias).unwrap();
            let rows = leftovers.rows.iter().filter(|row| row.is_needed_by(&device));
            rows.map(|row| row.from.as_str()).collect::<Vec<_>>()
        };
        assert_eq!(
            needed("pci:v000015ADd000007C0sv000015ADsd000007C0bc01sc07i00"),
            ["VMware"]
        );
        assert_eq!(needed("acpi:VMBUS:"), ["Hyper-V integration services"]);
        assert_eq!(
            needed("pci:v00008086d00002822sv00000000sd00000000bc01sc04i00"),
            ["RAID of vendors"]
        );
        assert!(needed("pci:v00008086d00002922sv00001AF4sd00001100bc01sc06i01").is_empty());
        assert!(needed("pci:v00001AF4d00001042sv00001AF4sd00001100bc01sc00i00").is_empty());
    }

    #[test]
    fn mistakes_are_named() {
        for (from, to, complaint) in [
            ("schema = 1", "schema = 2", "schema 2"),
            (
                "chain = [\"ACPI\", \"pci\"]",
                "chain = [\"nobus\"]",
                "nobus, which has no row",
            ),
            (
                "chain = [\"ACPI\", \"pci\"]",
                "chain = [\"stornvme\"]",
                "later Windows",
            ),
            ("PCI\\\\CC_010601", "pci\\\\cc_010601", "in capitals"),
            ("last = \"6.1\"", "last = \"5.1\"", "before `first`"),
            ("first = \"6.2\"", "first = \"eight\"", "no version"),
            ("error_control", "errorcontrol", "errorcontrol"),
            (
                "System32\\\\drivers\\\\storahci.sys",
                "storahci.sys",
                "expected System32",
            ),
        ] {
            assert!(INBOX.contains(from), "{from}");
            let error = parse_inbox("inbox", &INBOX.replacen(from, to, 1))
                .unwrap_err()
                .to_string();
            assert!(error.contains(complaint), "{complaint}: {error}");
        }
        let twice = LEFTOVERS.replacen("\"prl_dd\"", "\"PRL_BOOT\"", 1);
        assert!(
            parse_leftovers("l", &twice)
                .unwrap_err()
                .to_string()
                .contains("prl_boot twice")
        );
    }
}
