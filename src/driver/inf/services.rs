//! Services that an INF file installs (Windows driver documentation, "INF AddService Directive", "INF DelService
//! Directive").

use super::{Inf, InfError, RegistryChange, Section, budget::Budget, flags};
use serde::Serialize;

/// `SPSVCINST_ASSOCSERVICE`: the service of the device itself.
const OF_THE_DEVICE: u32 = 0x2;
/// `SPSVCINST_TAGTOFRONT`: loaded first in its group.
const FIRST_IN_GROUP: u32 = 0x1;

/// The types of services that are drivers (`winnt.h`): kernel, filesystem, recogniser.
const DRIVER_TYPES: u32 = 0x1 | 0x2 | 0x8;

/// A service as `AddService` describes it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Service {
    /// "viostor"; empty: a device that needs none.
    pub name: String,
    /// The `SPSVCINST_` bits.
    pub flags: u32,
    /// The section that describes it.
    pub section: String,
    /// Name for people.
    pub display_name: Option<String>,
    /// Sentence for people.
    pub description: Option<String>,
    /// 1 is a kernel driver.
    pub service_type: Option<u32>,
    /// 0 is "by the boot loader", 3 "on demand", 4 "never".
    pub start_type: Option<u32>,
    /// What is done when it does not start.
    pub error_control: Option<u32>,
    /// `%SystemRoot%\System32\drivers\viostor.sys`, by [`super::Folders`].
    pub binary: Option<String>,
    /// "SCSI miniport".
    pub load_order_group: Option<String>,
    /// Services, and groups behind a `+`, that come first.
    pub dependencies: Vec<String>,
    /// Account that it runs as, or the name of a driver object.
    pub start_name: Option<String>,
    /// Security descriptor in SDDL.
    pub security: Option<String>,
    /// `ServiceSidType`.
    pub sid_type: Option<u32>,
    /// Below the key of the service.
    pub registry: Vec<RegistryChange>,
    /// The source of events that goes with it.
    pub event_log: Option<EventLog>,
}

/// A source of events.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct EventLog {
    /// "System", "Security", "Application".
    pub log: String,
    /// The name of the source.
    pub name: String,
    /// Below the key of the source.
    pub registry: Vec<RegistryChange>,
}

impl Service {
    /// Is it the driver of the device itself, not one more service that comes along?
    pub fn is_of_the_device(&self) -> bool {
        self.flags & OF_THE_DEVICE != 0
    }

    /// Is it loaded before all others of its group?
    pub fn is_first_in_group(&self) -> bool {
        self.flags & FIRST_IN_GROUP != 0
    }

    /// Is it a driver, not a program?
    pub fn is_driver(&self) -> bool {
        self.service_type.is_some_and(|kind| kind & DRIVER_TYPES != 0)
    }

    /// What the value `ImagePath` is: of a driver below the folder of Windows, relative to that folder.
    pub fn image_path(&self) -> Option<String> {
        const WINDOWS: &str = "%systemroot%\\";
        let binary = self.binary.as_deref()?;
        let start = binary.get(..WINDOWS.len()).map(str::to_ascii_lowercase);
        match binary.get(WINDOWS.len()..) {
            Some(rest) if self.is_driver() && start.as_deref() == Some(WINDOWS) => Some(rest.to_owned()),
            _ => Some(binary.to_owned()),
        }
    }
}

impl Inf {
    /// What the section `DDInstall.Services` installs, in order.
    pub(super) fn services(
        &self,
        section: &Section<'_>,
        budget: &mut Budget,
        problems: &mut Vec<String>,
    ) -> Result<Vec<Service>, InfError> {
        let mut services = Vec::new();
        for line in section.find_all("AddService") {
            let text = |index| line.text(index).unwrap_or_default().into_owned();
            budget.take(line.texts().map(|text| text.len()).sum())?;
            let mut service = Service {
                name: text(1),
                flags: flags(line.text(2)).unwrap_or(0),
                section: text(3),
                ..Service::default()
            };
            match self.section(&service.section) {
                Some(own) => self.describe(&mut service, &own, budget, problems)?,
                None if service.name.is_empty() => {}
                None => problems.push(format!(
                    "AddService of {} names the section [{}], which is not there",
                    service.name, service.section
                )),
            }
            if let Some(events) = line.text(4).filter(|name| !name.is_empty()) {
                service.event_log =
                    self.event_log(&events, &text(5), &text(6), &service.name, budget, problems)?;
            }
            services.push(service);
        }
        Ok(services)
    }

    fn describe(
        &self,
        service: &mut Service,
        section: &Section<'_>,
        budget: &mut Budget,
        problems: &mut Vec<String>,
    ) -> Result<(), InfError> {
        let number = |key: &str| section.find(key).and_then(|line| flags(line.text(1)));
        let mut text = |key: &str| -> Result<Option<String>, InfError> {
            let value = section.value(key);
            budget.take(value.as_ref().map_or(0, String::len))?;
            Ok(value)
        };
        service.display_name = text("DisplayName")?;
        service.description = text("Description")?;
        service.binary = text("ServiceBinary")?;
        service.load_order_group = text("LoadOrderGroup")?;
        service.start_name = text("StartName")?;
        service.security = text("Security")?;
        service.service_type = number("ServiceType");
        service.start_type = number("StartType");
        service.error_control = number("ErrorControl");
        service.sid_type = number("ServiceSidType");
        service.dependencies = section.list("Dependencies");
        budget.take(service.dependencies.iter().map(String::len).sum())?;
        service.registry = self.all_registry_changes(section, budget, problems)?;
        Ok(())
    }

    fn event_log(
        &self,
        section: &str,
        log: &str,
        name: &str,
        service: &str,
        budget: &mut Budget,
        problems: &mut Vec<String>,
    ) -> Result<Option<EventLog>, InfError> {
        let Some(found) = self.section(section) else {
            problems.push(format!(
                "AddService of {service} names the section [{section}] for the event log, which is not there"
            ));
            return Ok(None);
        };
        let or = |text: &str, other: &str| if text.is_empty() { other } else { text }.to_owned();
        Ok(Some(EventLog {
            log: or(log, "System"),
            name: or(name, service),
            registry: self.all_registry_changes(&found, budget, problems)?,
        }))
    }

    /// What `AddReg` and `DelReg` of `section` ask for: first what goes, then what comes, as SetupAPI does it.
    pub(super) fn all_registry_changes(
        &self,
        section: &Section<'_>,
        budget: &mut Budget,
        problems: &mut Vec<String>,
    ) -> Result<Vec<RegistryChange>, InfError> {
        let mut changes = Vec::new();
        for directive in ["DelReg", "AddReg"] {
            for name in section.list(directive) {
                budget.take(name.len())?;
                changes.extend(self.registry_changes(directive, &name, budget, problems)?);
            }
        }
        Ok(changes)
    }
}
