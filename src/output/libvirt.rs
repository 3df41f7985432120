//! A libvirt domain: <https://libvirt.org/formatdomain.html>.
//!
//! PCI addresses of the adapters are pinned, with the root ports they need, because the guest's interface names may
//! depend on them.

use super::{
    pci_topology::{PciAddress, PciError, PciTopology},
    virtual_machine::{DiskImage, DiskPlace, VirtualMachine},
};
use crate::{
    machine::Firmware,
    nbd::{Address, Transport},
};
use std::{
    fmt::Write as _,
    path::{Path, PathBuf},
};
use thiserror::Error;

/// Why there is no domain for a machine.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum LibvirtError {
    /// libvirt has no relative paths.
    #[error("libvirt wants absolute paths, and '{}' is none", .0.display())]
    NotAbsolute(PathBuf),
    /// XML 1.0 cannot hold control characters, and libvirt wants UTF-8.
    #[error("{what} cannot be written into a libvirt domain: {text:?} holds bytes that XML cannot express")]
    NotXml {
        /// What it is.
        what: &'static str,
        /// As it is.
        text: String,
    },
    /// A model that libvirt cannot make.
    #[error("libvirt has no {kind} '{model}': choose another target machine")]
    Model {
        /// "disk controller", "network adapter".
        kind: &'static str,
        /// As the machine file has it.
        model: String,
    },
    /// A format of disk images that libvirt has no word for.
    #[error("libvirt knows no disks in the format {0}")]
    Format(String),
    /// More disks than a controller of its kind can carry.
    #[error("{0} disks are more than one domain can carry here")]
    TooManyDisks(usize),
    /// The devices do not fit on the machine's buses.
    #[error(transparent)]
    Pci(#[from] PciError),
}

/// Ports of the AHCI controller of the chipset and of libvirt's further ones.
const SATA_PORTS: usize = 6;

/// Targets of a virtio-scsi controller.
const SCSI_TARGETS: usize = 256;

/// Formats of disk images that are made here and that libvirt has a word for, its own (`storageFormat` in its schema
/// `storagecommon.rng`): it is QEMU's.
const FORMATS: [&str; 5] = ["raw", "qcow2", "vmdk", "vpc", "vdi"];

/// The domain as `virsh define` takes it: UTF-8, ends with a line feed.
pub fn domain_xml(machine: &VirtualMachine) -> Result<String, LibvirtError> {
    let mut topology = PciTopology::default();
    let mut adapters = Vec::new();
    for adapter in &machine.adapters {
        let model = adapter_model(&adapter.model)?;
        adapters.push((model, topology.claim(&adapter.pci_address)?, adapter));
    }
    let disks = disks(machine, &mut topology)?;
    let devices = other_devices(machine, &mut topology)?;

    let mut xml = String::from("<domain type='kvm'>\n");
    let mut line = |text: &str| {
        xml.push_str(text);
        xml.push('\n');
    };
    line(&format!("  <name>{}</name>", domain_name(&machine.name)?));
    line(&format!("  <memory unit='MiB'>{}</memory>", machine.memory_mib));
    line(&format!("  <vcpu>{}</vcpu>", machine.processors));
    line(match machine.firmware {
        Firmware::Bios => "  <os>",
        Firmware::Uefi => "  <os firmware='efi'>",
    });
    line(&format!(
        "    <type arch='{}' machine='{}'>hvm</type>",
        escaped("the architecture", &machine.architecture)?,
        escaped("the machine type", &machine.model)?
    ));
    if machine.firmware == Firmware::Uefi {
        // The loader that the guest brings may be unsigned; its old machine's keys are not known here.
        line("    <firmware>");
        line("      <feature enabled='no' name='enrolled-keys'/>");
        line("      <feature enabled='no' name='secure-boot'/>");
        line("    </firmware>");
    }
    line("  </os>");
    line("  <features>");
    line("    <acpi/>");
    line("    <apic/>");
    line("  </features>");
    line("  <cpu mode='host-model'/>");
    line("  <clock offset='utc'/>");
    line("  <devices>");
    line("    <controller type='pci' index='0' model='pcie-root'/>");
    for (bus, place) in topology.root_ports()? {
        line(&format!(
            "    <controller type='pci' index='{bus}' model='pcie-root-port'>"
        ));
        line(&format!("      <target chassis='{bus}' port='{bus:#x}'/>"));
        line(&format!("      {}", address(place, true)));
        line("    </controller>");
    }
    line(&disks);
    for (model, place, adapter) in adapters {
        line("    <interface type='network'>");
        line("      <source network='default'/>");
        line(&format!(
            "      <mac address='{}'/>",
            escaped("a MAC address", &adapter.mac)?
        ));
        line(&format!("      <model type='{model}'/>"));
        line(&format!("      {}", address(place, false)));
        line("    </interface>");
    }
    // A system from a physical machine seldom has a console on its serial line, one from the cloud has no other.
    line("    <serial type='pty'/>");
    line("    <console type='pty'/>");
    line("    <input type='keyboard' bus='ps2'/>");
    line("    <graphics type='vnc' port='-1' autoport='yes' listen='127.0.0.1'/>");
    line("    <video>");
    line("      <model type='vga'/>");
    line("    </video>");
    xml.push_str(&devices);
    xml.push_str("  </devices>\n</domain>\n");
    Ok(xml)
}

fn adapter_model(model: &str) -> Result<&'static str, LibvirtError> {
    match model {
        "virtio-net" => Ok("virtio"),
        "e1000e" => Ok("e1000e"),
        "e1000" => Ok("e1000"),
        "rtl8139" => Ok("rtl8139"),
        "vmxnet3" => Ok("vmxnet3"),
        _ => Err(LibvirtError::Model {
            kind: "network adapter",
            model: model.into(),
        }),
    }
}

/// The disks, and the controllers that they hang on; without a line feed at the end.
fn disks(machine: &VirtualMachine, topology: &mut PciTopology) -> Result<String, LibvirtError> {
    let mut controllers = String::new();
    let mut disks = String::new();
    let prefix = match machine.controller.as_str() {
        "virtio-blk" => "vd",
        "virtio-scsi" | "ahci" => "sd",
        _ => {
            return Err(LibvirtError::Model {
                kind: "disk controller",
                model: machine.controller.clone(),
            });
        }
    };
    if machine.controller == "virtio-scsi" {
        if machine.disks.len() > SCSI_TARGETS {
            return Err(LibvirtError::TooManyDisks(machine.disks.len()));
        }
        let place = topology.next()?;
        let _ = writeln!(
            controllers,
            "    <controller type='scsi' index='0' model='virtio-scsi'>\n      {}\n    </controller>",
            address(place, false)
        );
    }
    for (index, disk) in machine.disks.iter().enumerate() {
        let (bus, place) = match machine.controller.as_str() {
            "virtio-blk" => ("virtio", address(topology.next()?, false)),
            "virtio-scsi" => (
                "scsi",
                format!("<address type='drive' controller='0' bus='0' target='{index}' unit='0'/>"),
            ),
            _ => {
                let (controller, port) = (index / SATA_PORTS, index % SATA_PORTS);
                if port == 0 && controller > 0 {
                    let _ = writeln!(
                        controllers,
                        "    <controller type='sata' index='{controller}'>\n      {}\n    </controller>",
                        address(topology.next()?, false)
                    );
                }
                (
                    "sata",
                    format!(
                        "<address type='drive' controller='{controller}' bus='0' target='0' unit='{port}'/>"
                    ),
                )
            }
        };
        let target = format!("{prefix}{}", letters(index));
        disks.push_str(&disk_xml(disk, bus, &target, &place, index)?);
    }
    Ok(format!("{controllers}{}", disks.trim_end_matches('\n')))
}

fn disk_xml(
    disk: &DiskImage,
    bus: &str,
    target: &str,
    place: &str,
    index: usize,
) -> Result<String, LibvirtError> {
    if !FORMATS.contains(&disk.format.as_str()) {
        return Err(LibvirtError::Format(disk.format.clone()));
    }
    let (kind, source) = match &disk.place {
        DiskPlace::File(path) => ("file", format!("<source file='{}'/>", disk_path(path)?)),
        DiskPlace::Device(path) => ("block", format!("<source dev='{}'/>", disk_path(path)?)),
        DiskPlace::Export(address) => ("network", network_source(address)?),
    };
    // `discard`: the converted disk is sparse and stays so when the guest trims.
    Ok(format!(
        "    <disk type='{kind}' device='disk'>
      <driver name='qemu' type='{}' discard='unmap'/>
      {source}
      <target dev='{target}' bus='{bus}'/>
      <boot order='{}'/>
      {place}
    </disk>
",
        disk.format,
        index.saturating_add(1)
    ))
}

fn disk_path(path: &Path) -> Result<String, LibvirtError> {
    if !path.is_absolute() {
        return Err(LibvirtError::NotAbsolute(path.to_owned()));
    }
    let text = path.to_str().ok_or_else(|| LibvirtError::NotXml {
        what: "the path of a disk",
        text: path.display().to_string(),
    })?;
    escaped("the path of a disk", text)
}

fn network_source(address: &Address) -> Result<String, LibvirtError> {
    let host = match &address.transport {
        Transport::Tcp { host, port } => {
            format!(
                "<host name='{}' port='{port}'/>",
                escaped("the name of a host", host)?
            )
        }
        Transport::Unix { socket } if !socket.is_absolute() => {
            return Err(LibvirtError::NotAbsolute(socket.clone()));
        }
        Transport::Unix { socket } => {
            let path = escaped("the path of a socket", &socket.to_string_lossy())?;
            format!("<host transport='unix' socket='{path}'/>")
        }
    };
    // The schema wants a name or none, and the server's default export has none.
    let name = match address.export.as_str() {
        "" => String::new(),
        name => format!(" name='{}'", escaped("the name of an export", name)?),
    };
    Ok(format!("<source protocol='nbd'{name}>{host}</source>"))
}

/// What is neither disk nor network. What libvirt has no word for is left out: none of it is needed to start.
fn other_devices(machine: &VirtualMachine, topology: &mut PciTopology) -> Result<String, LibvirtError> {
    let has = |model: &str| machine.devices.iter().any(|device| device == model);
    let mut xml = String::new();
    if has("virtio-rng") {
        let _ = writeln!(
            xml,
            "    <rng model='virtio'>\n      <backend model='random'>/dev/urandom</backend>\n      {}\n    </rng>",
            address(topology.next()?, false)
        );
    }
    if has("virtio-serial") {
        let _ = writeln!(
            xml,
            "    <controller type='virtio-serial' index='0'>\n      {}\n    </controller>\n    <channel type='unix'>\n      \
             <target type='virtio' name='org.qemu.guest_agent.0'/>\n    </channel>",
            address(topology.next()?, false)
        );
    }
    if has("qemu-xhci") {
        let _ = writeln!(
            xml,
            "    <controller type='usb' index='0' model='qemu-xhci'>\n      {}\n    </controller>",
            address(topology.next()?, false)
        );
    } else {
        xml.push_str("    <controller type='usb' index='0' model='none'/>\n");
    }
    if has("virtio-balloon") {
        let _ = writeln!(
            xml,
            "    <memballoon model='virtio'>\n      {}\n    </memballoon>",
            address(topology.next()?, false)
        );
    } else {
        xml.push_str("    <memballoon model='none'/>\n");
    }
    Ok(xml)
}

fn address(place: PciAddress, multifunction: bool) -> String {
    let multifunction = if multifunction && place.function == 0 {
        " multifunction='on'"
    } else {
        ""
    };
    format!(
        "<address type='pci' domain='0x0000' bus='{:#04x}' slot='{:#04x}' function='{:#x}'{multifunction}/>",
        place.bus, place.slot, place.function
    )
}

/// a … z, aa, ab …: how Linux and libvirt count disks.
fn letters(index: usize) -> String {
    let mut text = String::new();
    let mut rest = index;
    loop {
        let letter = b'a'.saturating_add(u8::try_from(rest % 26).unwrap_or(0));
        text.insert(0, char::from(letter));
        match (rest / 26).checked_sub(1) {
            Some(next) => rest = next,
            None => return text,
        }
    }
}

/// libvirt refuses names with slashes; whoever named a machine after a file will not miss them.
fn domain_name(name: &str) -> Result<String, LibvirtError> {
    let name = name.trim().replace('/', "-");
    let name = if name.is_empty() { "rehome" } else { &name };
    escaped("the name", name)
}

/// Character data or an attribute value (XML 1.0, sections 2.2 and 2.4).
fn escaped(what: &'static str, text: &str) -> Result<String, LibvirtError> {
    let mut xml = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => xml.push_str("&amp;"),
            '<' => xml.push_str("&lt;"),
            '>' => xml.push_str("&gt;"),
            '\'' => xml.push_str("&apos;"),
            '"' => xml.push_str("&quot;"),
            '\0'..='\u{1f}' | '\u{7f}' | '\u{fffe}' | '\u{ffff}' => {
                return Err(LibvirtError::NotXml {
                    what,
                    text: text.into(),
                });
            }
            _ => xml.push(character),
        }
    }
    Ok(xml)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{image::Format, plan::Adapter};
    use std::process::Command;

    fn machine(controller: &str, disks: usize) -> VirtualMachine {
        VirtualMachine {
            name: "www & <db>".into(),
            architecture: "x86_64".into(),
            model: "q35".into(),
            firmware: Firmware::Uefi,
            controller: controller.into(),
            disks: (0..disks)
                .map(|index| DiskImage {
                    place: DiskPlace::File(format!("/srv/it's \"here\" & <there>/disk{index}.qcow2").into()),
                    format: "qcow2".into(),
                })
                .collect(),
            adapters: vec![
                adapter("virtio-net", "0000:01:00.0"),
                adapter("e1000e", "0000:02:00.0"),
            ],
            devices: [
                "vga",
                "virtio-rng",
                "virtio-balloon",
                "virtio-serial",
                "qemu-xhci",
            ]
            .map(str::to_owned)
            .to_vec(),
            memory_mib: 2048,
            processors: 2,
        }
    }

    fn adapter(model: &str, pci_address: &str) -> Adapter {
        Adapter {
            model: model.into(),
            interface: None,
            mac: "52:54:00:aa:bb:cc".into(),
            pci_address: pci_address.into(),
        }
    }

    fn libvirt_accepts(xml: &str) {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("domain.xml");
        std::fs::write(&file, xml).unwrap();
        let output = Command::new("virt-xml-validate")
            .arg(&file)
            .arg("domain")
            .output()
            .expect("virt-xml-validate of the package libvirt-clients");
        assert!(
            output.status.success(),
            "{}\n{xml}",
            String::from_utf8_lossy(&output.stderr)
        );
    }

    #[test]
    fn libvirt_accepts_every_controller_and_firmware() {
        for (controller, disks) in [("virtio-blk", 30), ("virtio-scsi", 30), ("ahci", 14)] {
            for firmware in [Firmware::Bios, Firmware::Uefi] {
                let mut machine = machine(controller, disks);
                machine.firmware = firmware;
                libvirt_accepts(&domain_xml(&machine).unwrap());
                machine.devices.clear();
                machine.adapters.clear();
                libvirt_accepts(&domain_xml(&machine).unwrap());
            }
        }
    }

    #[test]
    fn libvirt_accepts_exports() {
        for address in [
            "nbd://host/disk%20%26%201",
            "nbd://[::1]:99/",
            "nbd+unix:///a/b?socket=/run/it's",
        ] {
            let mut machine = machine("virtio-blk", 1);
            machine.disks[0].place = DiskPlace::Export(address.parse().unwrap());
            libvirt_accepts(&domain_xml(&machine).unwrap());
        }
    }

    #[test]
    fn libvirt_accepts_block_devices() {
        let mut machine = machine("virtio-blk", 1);
        machine.disks[0] = DiskImage {
            place: DiskPlace::Device("/dev/disk/by-id/it's".into()),
            format: "raw".into(),
        };
        let xml = domain_xml(&machine).unwrap();
        assert!(xml.contains("<disk type='block' device='disk'>"), "{xml}");
        assert!(xml.contains("<source dev='/dev/disk/by-id/it&apos;s'/>"), "{xml}");
        libvirt_accepts(&xml);
        machine.disks[0].place = DiskPlace::Device("sda".into());
        assert!(matches!(domain_xml(&machine), Err(LibvirtError::NotAbsolute(_))));
    }

    #[test]
    fn every_format_is_one_that_libvirt_accepts_or_is_refused_by_name() {
        for format in Format::ALL {
            let mut machine = machine("virtio-blk", 1);
            machine.disks[0].format = format.to_string();
            match domain_xml(&machine) {
                Ok(xml) => libvirt_accepts(&xml),
                Err(error) => {
                    assert!(!FORMATS.contains(&format.name()));
                    assert_eq!(error, LibvirtError::Format(format.to_string()));
                }
            }
        }
        for format in FORMATS {
            assert!(format.parse::<Format>().is_ok());
        }
    }

    #[test]
    fn no_two_devices_share_a_place() {
        for controller in ["virtio-blk", "virtio-scsi", "ahci"] {
            let xml = domain_xml(&machine(controller, 14)).unwrap();
            let mut places: Vec<_> = xml
                .lines()
                .filter(|line| line.contains("<address type="))
                .collect();
            let count = places.len();
            places.sort_unstable();
            places.dedup();
            assert_eq!(places.len(), count);
        }
    }

    #[test]
    fn addresses_are_pinned_as_planned() {
        let xml = domain_xml(&machine("virtio-blk", 1)).unwrap();
        let interface = xml.split("<interface").nth(2).unwrap();
        assert!(interface.contains("52:54:00:aa:bb:cc"));
        assert!(interface.contains("<model type='e1000e'/>"));
        assert!(interface.contains("bus='0x02' slot='0x00' function='0x0'"));
    }

    #[test]
    fn what_libvirt_cannot_express_is_refused() {
        let mut relative = machine("virtio-blk", 1);
        relative.disks[0].place = DiskPlace::File("disk.qcow2".into());
        assert!(matches!(domain_xml(&relative), Err(LibvirtError::NotAbsolute(_))));
        let mut bell = machine("virtio-blk", 1);
        bell.disks[0].place = DiskPlace::File("/a\u{7}b".into());
        assert!(matches!(domain_xml(&bell), Err(LibvirtError::NotXml { .. })));
        assert!(matches!(
            domain_xml(&machine("nvme", 1)),
            Err(LibvirtError::Model { .. })
        ));
    }

    #[test]
    fn disks_are_counted_as_linux_does() {
        for (index, name) in [(0, "a"), (25, "z"), (26, "aa"), (701, "zz"), (702, "aaa")] {
            assert_eq!(letters(index), name);
        }
    }
}
