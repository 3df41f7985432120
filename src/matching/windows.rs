//! Binds each device of the target to a driver for a Windows: one that comes with it, or one of a package. What else was
//! considered, and why it was not taken, is kept.

use super::DeviceRole;
use crate::{
    disk::{Error, Kind, Result},
    driver::{
        hardware_id::DeviceIds,
        inf::{DriverVersion, Inf, Installation, Model, Version},
        inf_rank::{IdMatch, Ranking, SignatureClass},
        package::{LookedInto, Package, PackageFiles, Packages},
        package_source::PackageSource,
        windows_database::{InboxDriver, inbox},
        windows_version::Target,
    },
    machine::Machine,
};
use serde::Serialize;

/// Of one device: reasons beyond these would not be read.
const MOST_CONSIDERED: usize = 100;

/// What a Windows has for one device of the target.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct WindowsBinding {
    /// "virtio-blk".
    pub device: String,
    /// What the device is for.
    pub role: DeviceRole,
    /// What Windows says that it is; of a device that shows itself in several ways the one that a driver was found for.
    pub ids: DeviceIds,
    /// `None`: no driver.
    pub driver: Option<WindowsDriver>,
    /// What else was considered, and why it was not taken.
    pub considered: Vec<Considered>,
}

/// A driver that was not taken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Considered {
    /// "viostor/w7/amd64/viostor.inf".
    pub driver: String,
    /// "is for NTamd64.6.1 …".
    pub reason: String,
}

/// A driver of Windows or of a package.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct WindowsDriver {
    /// The place that the package lies in; `None`: it comes with Windows.
    pub source: Option<String>,
    /// The path of the INF file there, or its name in Windows.
    pub inf: String,
    /// "Red Hat VirtIO SCSI controller".
    pub description: Option<String>,
    /// "Red Hat, Inc.".
    pub provider: Option<String>,
    /// The service of the device.
    pub service: Option<String>,
    /// The section that installs it.
    pub install_section: Option<String>,
    /// Which ids met.
    pub matched: IdMatch,
    /// How well it fits.
    pub ranking: Ranking,
    /// How it is signed, as far as Windows ranks it.
    pub signature: SignatureClass,
    /// All files of the package that it needs.
    pub files: Vec<String>,
    /// Services of buses above the device that must start with it.
    pub chain: Vec<String>,
    /// What somebody should know.
    pub warnings: Vec<String>,
}

/// A device, and all ways in which it may show itself.
struct Wanted<'a> {
    model: &'a str,
    role: DeviceRole,
    ids: Vec<DeviceIds>,
}

/// A model of a package that met a device.
struct Met<'a> {
    package: &'a Package,
    version: Version,
    model: Model,
    installation: Installation,
    files: PackageFiles,
    device: usize,
    /// Index into the ways in which the device shows itself.
    way: usize,
    matched: IdMatch,
}

/// What was found for the devices, by their places.
#[derive(Default)]
struct Found {
    /// Device, way, driver.
    drivers: Vec<(usize, usize, WindowsDriver)>,
    /// Device, what, why.
    refused: Vec<(usize, Considered)>,
}

/// Binds the devices of `machine` for `target`, by what comes with Windows and by the packages of `sources`.
///
/// # Errors
/// Those of reading the sources, and an INF file that gives more than any real one.
pub fn match_windows(
    machine: &Machine,
    target: &Target,
    sources: &[Box<dyn PackageSource>],
) -> Result<Vec<WindowsBinding>> {
    let wanted = wanted(machine);
    let mut found = Found::default();
    for driver in &inbox()?.drivers {
        if driver.is_in(&target.windows) {
            found.add_inbox(&wanted, driver, target);
        }
    }
    for source in sources {
        found.add_source(&wanted, &**source, target)?;
    }
    let bindings = wanted
        .into_iter()
        .enumerate()
        .map(|(place, wanted)| found.bind(place, wanted));
    Ok(bindings.collect())
}

fn wanted(machine: &Machine) -> Vec<Wanted<'_>> {
    let storage = machine
        .storage
        .iter()
        .map(|own| (own.model.as_str(), DeviceRole::Storage, &own.modaliases));
    let network = machine
        .network
        .iter()
        .map(|own| (own.model.as_str(), DeviceRole::Network, &own.modaliases));
    let other = machine
        .devices
        .iter()
        .map(|own| (own.model.as_str(), DeviceRole::Other, &own.modaliases));
    let all = storage.chain(network).chain(other);
    all.map(|(model, role, modaliases)| Wanted {
        model,
        role,
        ids: modaliases
            .iter()
            .filter_map(|modalias| DeviceIds::of_modalias(modalias))
            .collect(),
    })
    .collect()
}

/// Every way of every device that a list of ids meets.
fn meetings<'a>(
    wanted: &'a [Wanted<'_>],
    ids: &'a [String],
) -> impl Iterator<Item = (usize, usize, IdMatch)> + 'a {
    wanted.iter().enumerate().flat_map(move |(device, wanted)| {
        let ways = wanted.ids.iter().enumerate();
        ways.filter_map(move |(way, own)| Some((device, way, IdMatch::best(own, ids)?)))
    })
}

/// Buses above a device of a package, by the bus that its id names.
fn chain_of(id: &str) -> Vec<String> {
    let buses: &[&str] = match id.split('\\').next().unwrap_or_default() {
        "PCI" => &["ACPI", "pci"],
        "VMBUS" => &["ACPI", "vmbus"],
        _ => &["ACPI"],
    };
    buses.iter().map(|bus| (*bus).to_owned()).collect()
}

impl Found {
    fn add_inbox(&mut self, wanted: &[Wanted<'_>], driver: &InboxDriver, target: &Target) {
        for (device, wanted) in wanted.iter().enumerate() {
            for (way, ids) in wanted.ids.iter().enumerate() {
                let Some(matched) = driver.answers(ids) else {
                    continue;
                };
                let signature = SignatureClass::Signed;
                let version = InboxDriver::version(&target.windows);
                let found = WindowsDriver {
                    source: None,
                    inf: driver.inf.clone(),
                    description: None,
                    provider: Some("Microsoft".into()),
                    service: Some(driver.service.clone()),
                    install_section: None,
                    ranking: Ranking::new(signature, None, &matched, Some(version)),
                    matched,
                    signature,
                    files: Vec::new(),
                    chain: driver.chain.clone(),
                    warnings: Vec::new(),
                };
                self.drivers.push((device, way, found));
            }
        }
    }

    fn add_source(
        &mut self,
        wanted: &[Wanted<'_>],
        source: &dyn PackageSource,
        target: &Target,
    ) -> Result<()> {
        let packages = Packages::find(source)?;
        let mut met = Vec::new();
        for package in &packages.packages {
            // One that cannot be used may have been for any device: `scan` names it.
            if let Ok(inf) = &package.inf {
                self.meet(wanted, &packages, package, inf, target, &mut met)?;
            }
        }
        let drivers: Vec<String> = met
            .iter()
            .filter_map(|met| met.files.binary_of(&met.installation))
            .map(str::to_owned)
            .collect();
        let catalogs: Vec<String> = met.iter().filter_map(|met| met.files.catalog.clone()).collect();
        let seen = LookedInto::read(source, &drivers, &catalogs)?;
        for met in met {
            self.judge(&packages, met, &seen, target);
        }
        Ok(())
    }

    fn meet<'a>(
        &mut self,
        wanted: &[Wanted<'_>],
        packages: &Packages,
        package: &'a Package,
        inf: &Inf,
        target: &Target,
        met: &mut Vec<Met<'a>>,
    ) -> Result<()> {
        let failed = |error| {
            Error::new(
                Kind::Unsupported,
                format!("{}: {}", packages.label, package.path),
                error,
            )
        };
        let version = inf.version();
        let models = inf.models(target).map_err(failed)?;
        let mut reached = Vec::new();
        for model in models {
            for (device, way, matched) in meetings(wanted, &model.ids) {
                reached.push(device);
                let name = &model.install_section;
                let Some(installation) = inf.installation(name, target).map_err(failed)? else {
                    self.refuse(
                        device,
                        package,
                        format!("its model names the section [{name}], which is not there"),
                    );
                    continue;
                };
                let files = packages.files_of(package, &version, &installation, target);
                met.push(Met {
                    package,
                    version: version.clone(),
                    model: model.clone(),
                    installation,
                    files,
                    device,
                    way,
                    matched,
                });
            }
        }
        // What the file has for another Windows, or another processor, is worth a word.
        let mut others: Vec<(usize, Vec<String>)> = Vec::new();
        for (decoration, model) in inf.all_models().map_err(failed)? {
            for (device, _, _) in meetings(wanted, &model.ids) {
                let name = if decoration.nt {
                    decoration.to_string()
                } else {
                    "x86".to_owned()
                };
                match others.iter_mut().find(|(other, _)| *other == device) {
                    _ if reached.contains(&device) => {}
                    Some((_, names)) if names.contains(&name) => {}
                    Some((_, names)) => names.push(name),
                    None => others.push((device, vec![name])),
                }
            }
        }
        for (device, names) in others {
            self.refuse(
                device,
                package,
                format!("is for {}, not for {target}", names.join(", ")),
            );
        }
        Ok(())
    }

    fn refuse(&mut self, device: usize, package: &Package, reason: String) {
        let driver = package.path.clone();
        self.refused.push((device, Considered { driver, reason }));
    }

    fn judge(&mut self, packages: &Packages, met: Met<'_>, seen: &LookedInto, target: &Target) {
        let service = met
            .installation
            .services
            .iter()
            .find(|service| service.is_of_the_device());
        let starts_at_boot = service.is_some_and(|service| service.start_type == Some(0));
        // Without its catalog a package is unsigned, not useless.
        let files = met
            .files
            .missing
            .iter()
            .filter(|missing| !missing.starts_with("its catalog"));
        let missing: Vec<&str> = files.map(String::as_str).collect();
        if !missing.is_empty() {
            let text = format!("lacks files that its INF file names: {}", missing.join(", "));
            self.refuse(met.device, met.package, text);
            return;
        }
        let mut warnings = Vec::new();
        if let Some(path) = met.files.binary_of(&met.installation) {
            let judgement = seen.judge(path, starts_at_boot, target);
            if !judgement.objections.is_empty() {
                self.refuse(met.device, met.package, judgement.objections.join("; "));
                return;
            }
            warnings.extend(judgement.warnings);
        }
        let signature = seen.signature_class(&met.files, &met.installation);
        if signature != SignatureClass::Signed {
            warnings.push("has no catalog with a signature: Windows takes the package for unsigned".into());
        }
        if !met.installation.needs.is_empty() {
            warnings.push(format!(
                "needs sections of INF files of Windows: {}",
                met.installation.needs.join(", ")
            ));
        }
        let version: Option<DriverVersion> = met.installation.driver.or(met.version.driver);
        let mut files: Vec<String> = met
            .files
            .present
            .values()
            .cloned()
            .chain(met.files.catalog.clone())
            .collect();
        files.push(met.package.path.clone());
        files.sort();
        files.dedup();
        let driver = WindowsDriver {
            source: Some(packages.label.clone()),
            inf: met.package.path.clone(),
            description: Some(met.model.description),
            provider: met.version.provider,
            service: service
                .map(|service| service.name.clone())
                .filter(|name| !name.is_empty()),
            install_section: Some(met.installation.section),
            ranking: Ranking::new(signature, met.installation.feature_score, &met.matched, version),
            chain: chain_of(&met.matched.id),
            matched: met.matched,
            signature,
            files,
            warnings,
        };
        self.drivers.push((met.device, met.way, driver));
    }

    fn bind(&self, place: usize, wanted: Wanted<'_>) -> WindowsBinding {
        let mut own: Vec<_> = self
            .drivers
            .iter()
            .filter(|(device, _, _)| *device == place)
            .collect();
        // The first way that there is a driver for, then the best driver; the order of finding decides the rest.
        own.sort_by_key(|(_, way, driver)| (*way, driver.ranking));
        let mut considered = Vec::new();
        let best = own.first().map(|(_, way, driver)| (*way, driver));
        if let Some((_, best)) = best {
            for (_, _, other) in own.iter().skip(1) {
                // A package often has several lines for one device.
                if (&other.inf, &other.source) != (&best.inf, &best.source) {
                    considered.push(Considered {
                        driver: other.inf.clone(),
                        reason: other.ranking.why_not(&best.ranking),
                    });
                }
            }
        }
        let refused = self.refused.iter().filter(|(device, _)| *device == place);
        considered.extend(refused.map(|(_, considered)| considered.clone()));
        considered.dedup();
        considered.truncate(MOST_CONSIDERED);
        let way = best.map_or(0, |(way, _)| way);
        WindowsBinding {
            device: wanted.model.to_owned(),
            role: wanted.role,
            ids: wanted.ids.into_iter().nth(way).unwrap_or_default(),
            driver: best.map(|(_, driver)| driver.clone()),
            considered,
        }
    }
}
