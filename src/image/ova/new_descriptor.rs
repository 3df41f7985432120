//! The descriptor of a new package: DSP0243 1.1, in the words that VMware's and VirtualBox's importers know. Elements of
//! an item stand in alphabetical order: the schema wants that.

use super::flaw::Flaw;
use std::fmt::Write as _;

/// A virtual machine to be described.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewMachine {
    /// What it is called.
    pub name: String,
    /// Virtual hardware version of VMware: 10 is "vmx-10".
    pub hardware_version: u32,
    /// It starts by UEFI.
    pub efi: bool,
    /// The installed system in words, if it is known.
    pub system: Option<String>,
    /// In MiB.
    pub memory_mib: u64,
    /// Processors.
    pub processors: u32,
    /// What its disks hang on.
    pub controller: NewController,
    /// In order.
    pub adapters: Vec<NewAdapter>,
}

/// A controller for disks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NewController {
    /// Two disks on each of two channels.
    Ide,
    /// `AHCI`.
    Sata,
    /// `BusLogic`.
    BusLogic,
    /// LSI Logic parallel.
    LsiLogic,
    /// LSI Logic SAS.
    LsiSas,
    /// VMware's paravirtual SCSI.
    Pvscsi,
    /// `NVMe`.
    Nvme,
}

/// A network adapter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewAdapter {
    /// "E1000", "E1000e", "VmxNet3".
    pub model: String,
    /// Its address, where it must have that one and the importer can give it.
    pub mac: Option<String>,
}

/// A disk of the package.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewDisk {
    /// Its file.
    pub file: String,
    /// Size of the disk in bytes.
    pub capacity: u64,
}

impl NewController {
    /// All of them, by the names of `-o adapter_type=`.
    pub(super) const ALL: [(&str, Self); 7] = [
        ("ide", Self::Ide),
        ("sata", Self::Sata),
        ("buslogic", Self::BusLogic),
        ("lsilogic", Self::LsiLogic),
        ("lsisas", Self::LsiSas),
        ("pvscsi", Self::Pvscsi),
        ("nvme", Self::Nvme),
    ];

    /// What `ddb.adapterType` of a VMDK calls it.
    pub(super) fn disk_adapter(self) -> &'static str {
        match self {
            Self::Ide | Self::Sata | Self::Nvme => "ide",
            Self::BusLogic => "buslogic",
            Self::LsiLogic | Self::LsiSas | Self::Pvscsi => "lsilogic",
        }
    }

    /// "ResourceType" and "ResourceSubType".
    fn resource(self) -> (u32, Option<&'static str>) {
        match self {
            Self::Ide => (5, None),
            Self::Sata => (20, Some("vmware.sata.ahci")),
            Self::BusLogic => (6, Some("buslogic")),
            Self::LsiLogic => (6, Some("lsilogic")),
            Self::LsiSas => (6, Some("lsilogicsas")),
            Self::Pvscsi => (6, Some("VirtualSCSI")),
            Self::Nvme => (20, Some("vmware.nvme.controller")),
        }
    }

    /// In a name: "sataController0" is what old versions of VirtualBox look for.
    fn word(self) -> &'static str {
        match self {
            Self::Ide => "ide",
            Self::Sata => "sata",
            Self::Nvme => "nvme",
            Self::BusLogic | Self::LsiLogic | Self::LsiSas | Self::Pvscsi => "scsi",
        }
    }

    /// Disks on one, and how many of them VMware lets a machine have.
    fn limits(self) -> (usize, usize) {
        match self {
            Self::Ide => (2, 2),
            Self::Sata => (30, 4),
            Self::Nvme => (15, 4),
            // Target 7 is the controller itself.
            Self::BusLogic | Self::LsiLogic | Self::LsiSas | Self::Pvscsi => (15, 4),
        }
    }

    /// Where the disk `index` hangs on its controller.
    fn address(self, index: usize) -> usize {
        match self.word() {
            "scsi" if index >= 7 => index + 1,
            _ => index,
        }
    }

    /// The first hardware version that has it.
    fn hardware_version(self) -> u32 {
        match self {
            Self::Sata => 10,
            Self::Nvme => 13,
            _ => 4,
        }
    }
}

/// Sizes of files, which are known only after they are written, take so much room in a descriptor: that of 2^64.
const SIZE_ROOM: usize = 20;

/// The descriptor of `machine` with `disks`. All with the same machine and disks have the same length, whatever the
/// `sizes` of the files are.
///
/// # Errors
/// [`Flaw::CannotDescribe`] for what no importer takes.
pub(super) fn text(machine: &NewMachine, disks: &[NewDisk], sizes: &[u64]) -> Result<String, Flaw> {
    let needed = machine.controller.hardware_version();
    if machine.hardware_version < needed {
        let controller = machine.controller.word();
        return Err(Flaw::CannotDescribe(format!(
            "a {controller} controller needs hardware version {needed}, not {}",
            machine.hardware_version
        )));
    }
    let name = escaped(&machine.name)?;
    let mut xml = String::from(
        r#"<?xml version="1.0" encoding="UTF-8"?>
<Envelope xmlns="http://schemas.dmtf.org/ovf/envelope/1" xmlns:ovf="http://schemas.dmtf.org/ovf/envelope/1" xmlns:rasd="http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_ResourceAllocationSettingData" xmlns:vmw="http://www.vmware.com/schema/ovf" xmlns:vssd="http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_VirtualSystemSettingData">
  <References>
"#,
    );
    for (index, disk) in disks.iter().enumerate() {
        let size = sizes.get(index).copied().unwrap_or(0).to_string();
        let pad = SIZE_ROOM.saturating_sub(size.len());
        let _ = writeln!(
            xml,
            "    <File ovf:href=\"{}\" ovf:id=\"file{}\" ovf:size=\"{size}\"{:pad$}/>",
            escaped(&disk.file)?,
            index + 1,
            ""
        );
    }
    xml += "  </References>\n  <DiskSection>\n    <Info>Virtual disks</Info>\n";
    for (index, disk) in disks.iter().enumerate() {
        let _ = writeln!(
            xml,
            "    <Disk ovf:capacity=\"{}\" ovf:capacityAllocationUnits=\"byte\" ovf:diskId=\"vmdisk{number}\" \
             ovf:fileRef=\"file{number}\" \
             ovf:format=\"http://www.vmware.com/interfaces/specifications/vmdk.html#streamOptimized\"/>",
            disk.capacity,
            number = index + 1
        );
    }
    xml += "  </DiskSection>\n  <NetworkSection>\n    <Info>Logical networks</Info>\n";
    if !machine.adapters.is_empty() {
        let _ = writeln!(
            xml,
            "    <Network ovf:name=\"{NETWORK}\">\n      <Description>The network of the machine</Description>\n    \
             </Network>"
        );
    }
    let (system_id, system_type) = system(machine.system.as_deref());
    let description = match &machine.system {
        Some(system) => format!("\n      <Description>{}</Description>", escaped(system)?),
        None => String::new(),
    };
    let _ = write!(
        xml,
        r#"  </NetworkSection>
  <VirtualSystem ovf:id="{name}">
    <Info>A virtual machine</Info>
    <Name>{name}</Name>
    <OperatingSystemSection ovf:id="{system_id}" vmw:osType="{system_type}">
      <Info>The installed system</Info>{description}
    </OperatingSystemSection>
    <VirtualHardwareSection>
      <Info>Virtual hardware</Info>
      <System>
        <vssd:ElementName>Virtual Hardware Family</vssd:ElementName>
        <vssd:InstanceID>0</vssd:InstanceID>
        <vssd:VirtualSystemIdentifier>{name}</vssd:VirtualSystemIdentifier>
        <vssd:VirtualSystemType>vmx-{:02}</vssd:VirtualSystemType>
      </System>
"#,
        machine.hardware_version
    );
    hardware(&mut xml, machine, disks.len())?;
    let firmware = if machine.efi { "efi" } else { "bios" };
    let _ = write!(
        xml,
        r#"      <vmw:Config ovf:required="false" vmw:key="firmware" vmw:value="{firmware}"/>
    </VirtualHardwareSection>
  </VirtualSystem>
</Envelope>
"#
    );
    Ok(xml)
}

/// The name of an ESXi host's first network.
const NETWORK: &str = "VM Network";

/// Items with numbers of their own.
struct Items<'a> {
    xml: &'a mut String,
    last: u32,
}

impl Items<'_> {
    /// Adds an item of these elements, given in order of their names; its number goes where it belongs.
    fn add(&mut self, elements: &[(&str, String)]) -> u32 {
        self.last += 1;
        let number = ("InstanceID", self.last.to_string());
        let place = elements.partition_point(|(name, _)| *name < number.0);
        let (before, after) = elements.split_at(place);
        self.xml.push_str("      <Item>\n");
        for (name, value) in before.iter().chain([&number]).chain(after) {
            let _ = writeln!(self.xml, "        <rasd:{name}>{value}</rasd:{name}>");
        }
        self.xml.push_str("      </Item>\n");
        self.last
    }
}

fn hardware(xml: &mut String, machine: &NewMachine, disks: usize) -> Result<(), Flaw> {
    let mut items = Items { xml, last: 0 };
    let text = str::to_owned;
    items.add(&[
        ("AllocationUnits", text("hertz * 10^6")),
        ("Description", text("Number of Virtual CPUs")),
        ("ElementName", format!("{} virtual CPU(s)", machine.processors)),
        ("ResourceType", text("3")),
        ("VirtualQuantity", machine.processors.to_string()),
    ]);
    items.add(&[
        ("AllocationUnits", text("byte * 2^20")),
        ("Description", text("Memory Size")),
        ("ElementName", format!("{}MB of memory", machine.memory_mib)),
        ("ResourceType", text("4")),
        ("VirtualQuantity", machine.memory_mib.to_string()),
    ]);
    let controller = machine.controller;
    let (most, controllers) = controller.limits();
    if disks > most * controllers {
        return Err(Flaw::CannotDescribe(format!(
            "{disks} disks are more than {} on {} controllers can carry",
            most * controllers,
            controller.word()
        )));
    }
    let (kind, model) = controller.resource();
    let mut parent = 0;
    for index in 0..disks {
        let (number, on_it) = (index / most, index % most);
        if on_it == 0 {
            let mut elements = vec![
                ("Address", number.to_string()),
                ("Caption", format!("{}Controller{number}", controller.word())),
                (
                    "Description",
                    format!("{} Controller", controller.word().to_uppercase()),
                ),
                ("ElementName", format!("{}Controller{number}", controller.word())),
            ];
            elements.extend(model.map(|model| ("ResourceSubType", text(model))));
            elements.push(("ResourceType", kind.to_string()));
            parent = items.add(&elements);
        }
        items.add(&[
            ("AddressOnParent", controller.address(on_it).to_string()),
            ("ElementName", format!("Hard disk {}", index + 1)),
            ("HostResource", format!("ovf:/disk/vmdisk{}", index + 1)),
            ("Parent", parent.to_string()),
            ("ResourceType", text("17")),
        ]);
    }
    for (index, adapter) in machine.adapters.iter().enumerate() {
        let mut elements = Vec::new();
        if let Some(mac) = &adapter.mac {
            elements.push(("Address", escaped(mac)?));
        }
        elements.extend([
            // Behind what every VMware machine has on its bus already.
            ("AddressOnParent", (index + 7).to_string()),
            ("AutomaticAllocation", text("true")),
            ("Connection", text(NETWORK)),
            ("ElementName", format!("Network adapter {}", index + 1)),
            ("ResourceSubType", escaped(&adapter.model)?),
            ("ResourceType", text("10")),
        ]);
        items.add(&elements);
    }
    Ok(())
}

/// "OsType" of `CIM_OperatingSystem`, and what VMware calls it.
fn system(words: Option<&str>) -> (u32, &'static str) {
    let words = words.unwrap_or_default().to_ascii_lowercase();
    let known = [
        ("debian", 96),
        ("ubuntu", 94),
        ("red hat", 80),
        ("centos", 107),
        ("suse", 85),
    ];
    match known.iter().find(|(word, _)| words.contains(word)) {
        Some((_, id)) => (*id, "otherLinux64Guest"),
        None if words.contains("windows") => (1, "windows9Server64Guest"),
        None if words.is_empty() => (1, "otherGuest64"),
        // "Linux 64-Bit".
        None => (101, "otherLinux64Guest"),
    }
}

/// Character data or an attribute value (XML 1.0, sections 2.2 and 2.4).
fn escaped(text: &str) -> Result<String, Flaw> {
    let mut xml = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => xml.push_str("&amp;"),
            '<' => xml.push_str("&lt;"),
            '>' => xml.push_str("&gt;"),
            '"' => xml.push_str("&quot;"),
            '\0'..='\u{1f}' | '\u{7f}' | '\u{fffe}' | '\u{ffff}' => {
                return Err(Flaw::CannotDescribe(format!(
                    "{text:?} holds characters that XML cannot express"
                )));
            }
            _ => xml.push(character),
        }
    }
    Ok(xml)
}

#[cfg(test)]
mod tests {
    use super::{super::descriptor::Descriptor, *};

    fn machine(controller: NewController) -> NewMachine {
        NewMachine {
            name: "web & <db>".to_owned(),
            hardware_version: 13,
            efi: true,
            system: Some("Debian GNU/Linux 12 (bookworm)".to_owned()),
            memory_mib: 3072,
            processors: 3,
            controller,
            adapters: vec![
                NewAdapter {
                    model: "VmxNet3".to_owned(),
                    mac: Some("00:50:56:01:02:03".to_owned()),
                },
                NewAdapter {
                    model: "E1000".to_owned(),
                    mac: None,
                },
            ],
        }
    }

    fn disks(count: usize) -> Vec<NewDisk> {
        let disk = |index: usize| NewDisk {
            file: format!("web & <db>-disk{}.vmdk", index + 1),
            capacity: (index as u64 + 1) << 30,
        };
        (0..count).map(disk).collect()
    }

    #[test]
    fn our_reader_sees_what_was_meant() {
        for (name, controller) in NewController::ALL {
            let (most, controllers) = controller.limits();
            let count = most * controllers;
            let sizes: Vec<u64> = (0..count as u64).map(|index| index * 1000).collect();
            let text = text(&machine(controller), &disks(count), &sizes).unwrap();
            let read = Descriptor::parse(text.as_bytes()).unwrap();
            assert_eq!(read.disks.len(), count);
            for (index, disk) in read.disks.iter().enumerate() {
                assert_eq!(disk.id, format!("vmdisk{}", index + 1), "{name}");
                assert_eq!(disk.capacity, Some((index as u64 + 1) << 30));
                assert_eq!(disk.file, Some(index));
                assert_eq!(read.files[index].size, Some(index as u64 * 1000));
            }
            let hardware = read.hardware;
            assert_eq!(hardware.name.as_deref(), Some("web & <db>"));
            assert_eq!(hardware.firmware.as_deref(), Some("efi"));
            assert_eq!(hardware.family.as_deref(), Some("vmx-13"));
            assert_eq!((hardware.memory, hardware.processors), (Some(3 << 30), Some(3)));
            assert_eq!(hardware.controllers.len(), controllers);
            assert_eq!(hardware.controllers[0].bus, controller.word());
            assert_eq!(hardware.adapters[0].mac.as_deref(), Some("00:50:56:01:02:03"));
            assert!(super::text(&machine(controller), &disks(count + 1), &[]).is_err());
        }
    }

    #[test]
    fn its_length_does_not_depend_on_the_sizes() {
        let of = |sizes: &[u64]| {
            text(&machine(NewController::Sata), &disks(2), sizes)
                .unwrap()
                .len()
        };
        assert_eq!(of(&[]), of(&[u64::MAX, 7]));
    }

    #[test]
    fn what_no_importer_takes_is_refused() {
        let mut old = machine(NewController::Sata);
        old.hardware_version = 9;
        assert!(text(&old, &disks(1), &[]).is_err());
        let mut bell = machine(NewController::Ide);
        bell.name = "a\u{7}".to_owned();
        assert!(text(&bell, &disks(1), &[]).is_err());
    }
}
