//! The descriptor of a package: DSP0243, sections 7 to 9. Versions 1.x, and of 2.x what has taken the place of 1.x.

use super::{flaw::Flaw, plain, units};
use roxmltree::{Document, Node, ParsingOptions};
use serde::{Deserialize, Serialize};
use std::fmt;

/// What a package says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Descriptor {
    pub(super) files: Vec<FileReference>,
    /// In the order of the hardware that they hang on.
    pub(super) disks: Vec<DiskDescription>,
    pub(super) hardware: Hardware,
}

/// `References/File`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct FileReference {
    id: String,
    pub(super) href: String,
    pub(super) size: Option<u64>,
    pub(super) compression: Option<String>,
    pub(super) chunk_size: Option<u64>,
}

/// `DiskSection/Disk`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct DiskDescription {
    pub(super) id: String,
    /// In bytes.
    pub(super) capacity: Option<u64>,
    /// An index into the files; `None`: it is empty.
    pub(super) file: Option<usize>,
    /// A URI.
    pub(super) format: String,
}

/// The machine that a package describes, as far as it does.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hardware {
    /// What it is called.
    pub name: Option<String>,
    /// What sort of machine: "vmx-13", "virtualbox-2.2".
    pub family: Option<String>,
    /// "efi" or "bios", where it is said.
    pub firmware: Option<String>,
    /// The installed system, in the words of whoever exported it.
    pub system: Option<String>,
    /// In bytes.
    pub memory: Option<u64>,
    /// Processors.
    pub processors: Option<u32>,
    /// In the order in which they are listed.
    pub controllers: Vec<Controller>,
    /// Likewise.
    pub adapters: Vec<Adapter>,
}

/// A controller of disks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Controller {
    /// "ide", "scsi", "sata".
    pub bus: String,
    /// "lsilogic", "VirtualSCSI", "AHCI".
    pub model: Option<String>,
}

/// A network adapter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Adapter {
    /// "E1000", "VmxNet3".
    pub model: Option<String>,
    /// Its address, where it has a fixed one.
    pub mac: Option<String>,
    /// The network that it is connected to.
    pub network: Option<String>,
}

impl fmt::Display for Hardware {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts: Vec<String> = Vec::new();
        parts.extend(self.name.iter().map(|name| format!("\"{name}\"")));
        parts.extend(self.family.clone());
        parts.extend(self.system.clone());
        parts.extend(self.firmware.clone());
        parts.extend(self.processors.map(|count| format!("processors: {count}")));
        parts.extend(self.memory.map(|bytes| format!("memory: {} MiB", bytes >> 20)));
        parts.extend(self.controllers.iter().map(|controller| {
            let model = controller.model.iter().map(|model| format!(" {model}"));
            format!("{}{}", controller.bus, model.collect::<String>())
        }));
        parts.extend(self.adapters.iter().map(|adapter| {
            let mac = adapter.mac.iter().map(|mac| format!(" {mac}"));
            format!(
                "adapter {}{}",
                adapter.model.as_deref().unwrap_or("of any model"),
                mac.collect::<String>()
            )
        }));
        f.write_str(&parts.join(", "))
    }
}

/// Text of some pages; more than this is something else.
pub(super) const LARGEST: u64 = 16 << 20;

/// Elements, attributes' texts and the like in that text: bounds what the parsed form takes.
const MOST_NODES: u32 = 200_000;

/// "ResourceType" of CIM_ResourceAllocationSettingData.
mod resource {
    pub(super) const PROCESSOR: &str = "3";
    pub(super) const MEMORY: &str = "4";
    pub(super) const IDE: &str = "5";
    pub(super) const SCSI: &str = "6";
    pub(super) const ETHERNET: &str = "10";
    pub(super) const DISK: &str = "17";
    pub(super) const OTHER_STORAGE: &str = "20";
}

impl Descriptor {
    /// Reads a descriptor.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, Flaw> {
        let text = std::str::from_utf8(bytes).map_err(|_| Flaw::Encoding)?;
        // What pads a descriptor in an archive that was written in one go.
        let text = text
            .trim_start_matches('\u{feff}')
            .trim_end_matches(['\0', ' ', '\n', '\r']);
        let options = ParsingOptions {
            nodes_limit: MOST_NODES,
            ..ParsingOptions::default()
        };
        let document =
            Document::parse_with_options(text, options).map_err(|error| Flaw::Xml(error.to_string()))?;
        let envelope = document.root_element();
        if name(envelope) != "Envelope" {
            return Err(Flaw::Envelope(name(envelope).chars().take(40).collect()));
        }
        let files: Vec<FileReference> = child(envelope, "References")
            .into_iter()
            .flat_map(|references| children(references, "File"))
            .map(file_reference)
            .collect::<Result<_, _>>()?;
        let listed: Vec<DiskDescription> = children(envelope, "DiskSection")
            .flat_map(|section| children(section, "Disk"))
            .map(|disk| disk_description(disk, &files))
            .collect::<Result<_, _>>()?;
        let system = the_system(envelope)?;
        let items = items(system, default_configuration(envelope).as_deref());
        let hardware = hardware(system, &items);
        Ok(Self {
            disks: in_order(&items, listed, &files)?,
            files,
            hardware,
        })
    }
}

/// The name without its prefix: makers choose those freely, and some get the namespaces wrong.
fn name<'a>(node: Node<'a, '_>) -> &'a str {
    node.tag_name().name()
}

fn children<'a, 'i>(node: Node<'a, 'i>, wanted: &'static str) -> impl Iterator<Item = Node<'a, 'i>> {
    node.children()
        .filter(move |node| node.is_element() && name(*node) == wanted)
}

fn child<'a, 'i>(node: Node<'a, 'i>, wanted: &'static str) -> Option<Node<'a, 'i>> {
    children(node, wanted).next()
}

fn attribute(node: Node<'_, '_>, wanted: &str) -> Option<String> {
    let mut attributes = node.attributes();
    let value = attributes
        .find(|attribute| attribute.name() == wanted)?
        .value()
        .trim();
    Some(plain(value)).filter(|value| !value.is_empty())
}

/// The text of a child element.
fn text(node: Node<'_, '_>, wanted: &'static str) -> Option<String> {
    let text = child(node, wanted)?.text()?.trim();
    Some(plain(text)).filter(|text| !text.is_empty())
}

fn number(text: &str, what: &'static str) -> Result<u64, Flaw> {
    text.parse().map_err(|_| Flaw::Number {
        what,
        text: text.chars().take(40).collect(),
    })
}

fn file_reference(node: Node<'_, '_>) -> Result<FileReference, Flaw> {
    let size = |wanted, what| {
        attribute(node, wanted)
            .map(|text| number(&text, what))
            .transpose()
    };
    Ok(FileReference {
        id: attribute(node, "id").unwrap_or_default(),
        href: attribute(node, "href").unwrap_or_default(),
        size: size("size", "size of a file")?,
        compression: attribute(node, "compression").filter(|method| method != "identity"),
        chunk_size: size("chunkSize", "chunk size")?.filter(|size| *size > 0),
    })
}

fn disk_description(node: Node<'_, '_>, files: &[FileReference]) -> Result<DiskDescription, Flaw> {
    let id = attribute(node, "diskId").unwrap_or_default();
    if let Some(parent) = attribute(node, "parentRef") {
        return Err(Flaw::Parent { disk: id, parent });
    }
    let file = match attribute(node, "fileRef") {
        None => None,
        Some(reference) => {
            let index = files.iter().position(|file| file.id == reference);
            Some(index.ok_or_else(|| Flaw::FileReference {
                disk: id.clone(),
                file: reference,
            })?)
        }
    };
    let units = attribute(node, "capacityAllocationUnits").unwrap_or_else(|| "byte".to_owned());
    let capacity = match attribute(node, "capacity") {
        // A property that a person fills in on deployment: only the disk itself knows.
        Some(text) if text.starts_with("${") => None,
        Some(text) => {
            let capacity = units::bytes(number(&text, "capacity of a disk")?, &units);
            Some(capacity.ok_or_else(|| Flaw::Number {
                what: "capacity of a disk",
                text: format!("{text} {units}").chars().take(80).collect(),
            })?)
        }
        None => None,
    };
    if file.is_none() && capacity.is_none() {
        return Err(Flaw::NoCapacity(id));
    }
    Ok(DiskDescription {
        id,
        capacity,
        file,
        format: attribute(node, "format").unwrap_or_default(),
    })
}

/// The one virtual machine of the package.
fn the_system<'a, 'i>(envelope: Node<'a, 'i>) -> Result<Node<'a, 'i>, Flaw> {
    let systems: Vec<Node<'a, 'i>> = envelope
        .descendants()
        .filter(|node| node.is_element() && name(*node) == "VirtualSystem")
        .collect();
    match systems.as_slice() {
        [system] => Ok(*system),
        [] => Err(Flaw::NoSystem),
        several => {
            let names = several.iter().take(16).map(|system| {
                let name = text(*system, "Name");
                name.or_else(|| attribute(*system, "id"))
                    .unwrap_or_else(|| "one without a name".to_owned())
            });
            Err(Flaw::Systems(names.collect()))
        }
    }
}

/// `DeploymentOptionSection`: what is installed when nobody chooses.
fn default_configuration(envelope: Node<'_, '_>) -> Option<String> {
    let section = child(envelope, "DeploymentOptionSection")?;
    let configurations: Vec<Node<'_, '_>> = children(section, "Configuration").collect();
    let is_default = |configuration: &&Node<'_, '_>| {
        matches!(
            attribute(**configuration, "default").as_deref(),
            Some("true" | "1")
        )
    };
    let chosen = configurations
        .iter()
        .find(is_default)
        .or_else(|| configurations.first());
    attribute(*chosen?, "id")
}

/// An element of the hardware.
struct Item<'a, 'i> {
    node: Node<'a, 'i>,
    id: Option<String>,
    kind: String,
}

/// What the machine has: no ranges of what it may have, nothing of another configuration.
fn items<'a, 'i>(system: Node<'a, 'i>, configuration: Option<&str>) -> Vec<Item<'a, 'i>> {
    let Some(section) = child(system, "VirtualHardwareSection") else {
        return Vec::new();
    };
    // 2.x has names of their own for what 1.x calls items.
    let is_item = |node: &Node<'_, '_>| matches!(name(*node), "Item" | "StorageItem" | "EthernetPortItem");
    let is_there = |node: &Node<'_, '_>| {
        let wanted = attribute(*node, "configuration");
        let here = wanted.is_none_or(|names| {
            configuration.is_some_and(|chosen| names.split_ascii_whitespace().any(|name| name == chosen))
        });
        here && attribute(*node, "bound").is_none()
    };
    section
        .children()
        .filter(Node::is_element)
        .filter(is_item)
        .filter(is_there)
        .map(|node| Item {
            node,
            id: text(node, "InstanceID").or_else(|| text(node, "InstanceId")),
            kind: text(node, "ResourceType").unwrap_or_default(),
        })
        .collect()
}

fn is_controller(item: &Item<'_, '_>) -> bool {
    matches!(
        item.kind.as_str(),
        resource::IDE | resource::SCSI | resource::OTHER_STORAGE
    )
}

/// The disks as the hardware has them: by controller, and on it by their address. What hangs on none comes last; a
/// package without any hardware for its disks has them in the order of its list.
fn in_order(
    items: &[Item<'_, '_>],
    listed: Vec<DiskDescription>,
    files: &[FileReference],
) -> Result<Vec<DiskDescription>, Flaw> {
    let mut placed = Vec::new();
    for item in items.iter().filter(|item| item.kind == resource::DISK) {
        let Some(resource) = text(item.node, "HostResource") else {
            continue;
        };
        let path = resource
            .strip_prefix("ovf:")
            .unwrap_or(&resource)
            .trim_start_matches('/');
        let disk = match path.split_once('/') {
            Some(("disk", id)) => listed
                .iter()
                .find(|disk| disk.id == id)
                .cloned()
                .ok_or_else(|| Flaw::DiskReference(id.to_owned()))?,
            Some(("file", id)) => {
                let file = files.iter().position(|file| file.id == id);
                DiskDescription {
                    id: id.to_owned(),
                    capacity: None,
                    file: Some(file.ok_or_else(|| Flaw::DiskReference(id.to_owned()))?),
                    format: String::new(),
                }
            }
            _ => return Err(Flaw::DiskReference(resource.clone())),
        };
        let parent = text(item.node, "Parent");
        let controller = items
            .iter()
            .filter(|item| is_controller(item))
            .position(|controller| parent.is_some() && controller.id == parent);
        let address: Option<u64> = text(item.node, "AddressOnParent").and_then(|text| text.parse().ok());
        placed.push((
            (controller.unwrap_or(usize::MAX), address.unwrap_or(u64::MAX)),
            disk,
        ));
    }
    if placed.is_empty() {
        return Ok(listed);
    }
    // Equal places keep the order of the items.
    placed.sort_by_key(|(place, _)| *place);
    Ok(placed.into_iter().map(|(_, disk)| disk).collect())
}

fn hardware(system: Node<'_, '_>, items: &[Item<'_, '_>]) -> Hardware {
    let section = child(system, "VirtualHardwareSection");
    let system_section = child(system, "OperatingSystemSection");
    let mut hardware = Hardware {
        name: text(system, "Name").or_else(|| attribute(system, "id")),
        family: section
            .and_then(|section| child(section, "System"))
            .and_then(|settings| text(settings, "VirtualSystemType")),
        firmware: firmware(system, section),
        system: system_section.and_then(|section| {
            let said = text(section, "Description");
            said.or_else(|| attribute(section, "osType"))
        }),
        ..Hardware::default()
    };
    for item in items {
        let quantity = || text(item.node, "VirtualQuantity").and_then(|text| text.parse::<u64>().ok());
        let model = text(item.node, "ResourceSubType");
        match item.kind.as_str() {
            resource::PROCESSOR => {
                hardware.processors = quantity().and_then(|count| u32::try_from(count).ok());
            }
            resource::MEMORY => {
                let units = text(item.node, "AllocationUnits").unwrap_or_else(|| "byte * 2^20".to_owned());
                hardware.memory = quantity().and_then(|count| units::bytes(count, &units));
            }
            resource::ETHERNET => hardware.adapters.push(Adapter {
                model,
                mac: text(item.node, "Address"),
                network: text(item.node, "Connection"),
            }),
            _ if is_controller(item) => hardware.controllers.push(Controller {
                bus: bus(&item.kind, model.as_deref()).to_owned(),
                model,
            }),
            _ => {}
        }
    }
    hardware
}

fn bus(kind: &str, model: Option<&str>) -> &'static str {
    let is = |word: &str| model.is_some_and(|model| model.to_ascii_lowercase().contains(word));
    match kind {
        resource::IDE => "ide",
        resource::SCSI => "scsi",
        _ if is("nvme") => "nvme",
        _ if is("scsi") || is("sas") => "scsi",
        _ if is("virtio") => "virtio",
        _ => "sata",
    }
}

/// VMware writes `<vmw:Config vmw:key="firmware" vmw:value="efi"/>`, in older versions as `ExtraConfig`; VirtualBox
/// `<vbox:Machine>` with `<Firmware type="EFI"/>` in its hardware.
fn firmware(system: Node<'_, '_>, section: Option<Node<'_, '_>>) -> Option<String> {
    let mut configurations = section.into_iter().flat_map(|section| {
        section
            .children()
            .filter(|node| node.is_element() && matches!(name(*node), "Config" | "ExtraConfig"))
    });
    let vmware = configurations.find(|node| attribute(*node, "key").as_deref() == Some("firmware"));
    if let Some(value) = vmware.and_then(|node| attribute(node, "value")) {
        return Some(value.to_ascii_lowercase());
    }
    let machine = child(system, "Machine")?;
    let firmware = machine
        .descendants()
        .find(|node| node.is_element() && name(*node) == "Firmware")?;
    let value = attribute(firmware, "type")?.to_ascii_lowercase();
    // "EFI", "EFI32", "EFIDUAL".
    Some(if value.starts_with("efi") {
        "efi".to_owned()
    } else {
        value
    })
}

#[cfg(test)]
#[path = "descriptor_tests.rs"]
mod tests;
