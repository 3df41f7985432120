//! The ids under which Windows looks for the driver of a device, from what Linux says the device is (Windows driver
//! documentation, "Identifiers for PCI Devices"; VMBus and ACPI by what their INF files name).

use serde::{Deserialize, Serialize};

/// What a bus driver of Windows reports of a device, in capitals and from the most special to the most general.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceIds {
    /// What it is.
    pub hardware: Vec<String>,
    /// What it works like.
    pub compatible: Vec<String>,
}

/// Are an id of a device and one of an INF file the same? In whatever case, and with a revision that is not known.
pub fn same_id(of_device: &str, of_driver: &str) -> bool {
    let mut pairs = of_device.bytes().zip(of_driver.bytes());
    of_device.len() == of_driver.len()
        && pairs.all(|(one, other)| one == b'?' || one.eq_ignore_ascii_case(&other))
}

/// The vendor of virtio devices.
const VIRTIO: &str = "1AF4";
/// From this id on a virtio device has no transitional interface (Virtual I/O Device specification 1.2, section 4.1.2).
const FIRST_MODERN_VIRTIO: u32 = 0x1040;

impl DeviceIds {
    /// Of a modalias as `/sys/bus/*/devices/*/modalias` shows it; `None`: a bus whose devices Windows finds by other means
    /// (disks behind a controller) or not at all (virtio's own bus). A modalias does not tell the revision of a PCI device;
    /// where it is not known otherwise, ids have `??` in its place, which [`same_id`] takes for any.
    pub fn of_modalias(modalias: &str) -> Option<Self> {
        let (bus, id) = modalias.split_once(':')?;
        match bus {
            "pci" => of_pci(id),
            "vmbus" => of_vmbus(id),
            "acpi" => Some(of_acpi(id)),
            _ => None,
        }
    }

    /// All of them, hardware ids first.
    pub fn all(&self) -> impl Iterator<Item = &str> {
        self.hardware.iter().chain(&self.compatible).map(String::as_str)
    }
}

/// `v00001AF4d00001042sv00001AF4sd00001100bc01sc00i00`.
fn of_pci(id: &str) -> Option<DeviceIds> {
    let mut rest = id;
    let mut field = |key: &str, digits: usize, kept: usize| {
        let (number, after) = rest.strip_prefix(key)?.split_at_checked(digits)?;
        rest = after;
        let plain = number.bytes().all(|byte| byte.is_ascii_hexdigit());
        let number = number.get(digits.checked_sub(kept)?..)?;
        plain.then(|| number.to_ascii_uppercase())
    };
    let vendor = field("v", 8, 4)?;
    let device = field("d", 8, 4)?;
    let sub_vendor = field("sv", 8, 4)?;
    let sub_device = field("sd", 8, 4)?;
    let (class, sub_class, interface) = (field("bc", 2, 2)?, field("sc", 2, 2)?, field("i", 2, 2)?);
    let revision = match virtio_revision(&vendor, &device) {
        Some(revision) => format!("&REV_{revision:02X}"),
        None => "&REV_??".to_owned(),
    };
    let this = format!("PCI\\VEN_{vendor}&DEV_{device}");
    let long = format!("{class}{sub_class}{interface}");
    let short = format!("{class}{sub_class}");
    let mut hardware = Vec::new();
    if (sub_vendor.as_str(), sub_device.as_str()) != ("0000", "0000") {
        let with_subsystem = format!("{this}&SUBSYS_{sub_device}{sub_vendor}");
        hardware.push(format!("{with_subsystem}{revision}"));
        hardware.push(with_subsystem);
    } else {
        hardware.push(format!("{this}{revision}"));
        hardware.push(this.clone());
    }
    hardware.push(format!("{this}&CC_{long}"));
    hardware.push(format!("{this}&CC_{short}"));
    let mut compatible = Vec::new();
    compatible.push(format!("{this}{revision}"));
    compatible.push(this);
    compatible.push(format!("PCI\\VEN_{vendor}&CC_{long}"));
    compatible.push(format!("PCI\\VEN_{vendor}&CC_{short}"));
    compatible.push(format!("PCI\\VEN_{vendor}"));
    compatible.push(format!("PCI\\CC_{long}"));
    compatible.push(format!("PCI\\CC_{short}"));
    compatible.retain(|id| !hardware.contains(id));
    Some(DeviceIds { hardware, compatible })
}

/// Section 4.1.2.1 of that specification: 0 where the device is transitional, 1 or more where not; every hypervisor says 1.
fn virtio_revision(vendor: &str, device: &str) -> Option<u8> {
    let device = u32::from_str_radix(device, 16)
        .ok()
        .filter(|_| vendor == VIRTIO)?;
    Some(u8::from(device >= FIRST_MODERN_VIRTIO))
}

/// The class of a channel as 32 digits: its 16 bytes in their order in memory (Linux, `drivers/hv/vmbus_drv.c`).
fn of_vmbus(id: &str) -> Option<DeviceIds> {
    let number = u128::from_str_radix(id, 16).ok().filter(|_| id.len() == 32)?;
    let guid = uuid::Uuid::from_bytes_le(number.to_be_bytes());
    Some(DeviceIds {
        hardware: vec![format!("VMBUS\\{guid:X}", guid = guid.braced()).to_uppercase()],
        compatible: Vec::new(),
    })
}

/// "VMBUS:" or "PNP0501:": ids with a colon behind each.
fn of_acpi(id: &str) -> DeviceIds {
    let names: Vec<&str> = id.split(':').filter(|name| !name.is_empty()).collect();
    let of = |name: &&str| [format!("ACPI\\{name}"), format!("*{name}")].map(|id| id.to_uppercase());
    DeviceIds {
        hardware: names.first().into_iter().flat_map(of).collect(),
        compatible: names.iter().skip(1).flat_map(of).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_of_pci_devices_are_those_of_windows() {
        let ids = DeviceIds::of_modalias("pci:v00001AF4d00001042sv00001AF4sd00001100bc01sc00i00").unwrap();
        assert_eq!(
            ids.hardware,
            [
                "PCI\\VEN_1AF4&DEV_1042&SUBSYS_11001AF4&REV_01",
                "PCI\\VEN_1AF4&DEV_1042&SUBSYS_11001AF4",
                "PCI\\VEN_1AF4&DEV_1042&CC_010000",
                "PCI\\VEN_1AF4&DEV_1042&CC_0100",
            ]
        );
        assert_eq!(
            ids.compatible,
            [
                "PCI\\VEN_1AF4&DEV_1042&REV_01",
                "PCI\\VEN_1AF4&DEV_1042",
                "PCI\\VEN_1AF4&CC_010000",
                "PCI\\VEN_1AF4&CC_0100",
                "PCI\\VEN_1AF4",
                "PCI\\CC_010000",
                "PCI\\CC_0100",
            ]
        );
        let transitional =
            DeviceIds::of_modalias("pci:v00001AF4d00001001sv00001AF4sd00000002bc01sc00i00").unwrap();
        assert_eq!(
            transitional.hardware[0],
            "PCI\\VEN_1AF4&DEV_1001&SUBSYS_00021AF4&REV_00"
        );
        let ide = DeviceIds::of_modalias("pci:v00008086d00007111sv00000000sd00000000bc01sc01i80").unwrap();
        assert_eq!(ide.hardware[0], "PCI\\VEN_8086&DEV_7111&REV_??");
        assert!(same_id(&ide.hardware[0], "pci\\ven_8086&dev_7111&rev_05"));
        assert!(
            ide.compatible.contains(&"PCI\\CC_0101".to_owned()) && !ide.compatible.contains(&ide.hardware[1])
        );
    }

    #[test]
    fn other_buses_have_ids_of_their_own() {
        let storage = DeviceIds::of_modalias("vmbus:d96361baa104294db60572e2ffb1dc7f").unwrap();
        assert_eq!(
            storage.hardware,
            ["VMBUS\\{BA6163D9-04A1-4D29-B605-72E2FFB1DC7F}"]
        );
        let bus = DeviceIds::of_modalias("acpi:VMBUS:").unwrap();
        assert_eq!(bus.hardware, ["ACPI\\VMBUS", "*VMBUS"]);
        for none in [
            "virtio:d00000002v00001AF4",
            "scsi:t-0x00",
            "pci:v1",
            "vmbus:12",
            "pci",
        ] {
            assert_eq!(DeviceIds::of_modalias(none), None);
        }
    }
}
