//! QEMU's command line for a machine.

use super::{Accelerator, QemuError, firmware};
use crate::{
    machine::Firmware,
    output::{
        pci_topology::{PciAddress, PciTopology},
        virtual_machine::{DiskImage, DiskPlace, VirtualMachine},
    },
};
use std::{
    ffi::{OsStr, OsString},
    fs::File,
    os::unix::ffi::{OsStrExt, OsStringExt},
    process::Command,
};

/// The program.
pub(super) const PROGRAM: &str = "qemu-system-x86_64";

/// Ports of the chipset's AHCI controller, and of every further one.
const SATA_PORTS: usize = 6;

/// The command that starts `machine` on throw-away snapshots of its disks, with its serial console on stdout.
pub(super) fn command(
    machine: &VirtualMachine,
    accelerator: Accelerator,
    memory_mib: u64,
    processors: u32,
) -> Result<Command, QemuError> {
    if machine.architecture != "x86_64" {
        return Err(QemuError::Architecture(machine.architecture.clone()));
    }
    let mut topology = PciTopology::default();
    // Adapters first: their addresses are asked for, all other devices take what is left.
    let mut adapters = Vec::new();
    for adapter in &machine.adapters {
        adapters.push((adapter, topology.claim(&adapter.pci_address)?));
    }
    let disks = disks(machine, &mut topology)?;
    let mut devices = Vec::new();
    if machine.devices.iter().any(|device| device == "virtio-rng") {
        // A guest without randomness waits for it; the translator gives it none.
        devices.push(format!("virtio-rng-pci,{}", place(topology.next()?)));
    }

    let mut command = Command::new(PROGRAM);
    // Without a display SeaBIOS, GRUB and OVMF write to the serial console.
    command
        .args([
            "-nodefaults",
            "-no-user-config",
            "-display",
            "none",
            "-vga",
            "none",
        ])
        .arg("-machine")
        .arg(format!("{},graphics=off", option_value(&machine.model)))
        .args(accelerator.arguments())
        .args(["-m", &format!("{memory_mib}M"), "-smp", &processors.to_string()])
        .args([
            "-chardev",
            "stdio,id=console,signal=off",
            "-serial",
            "chardev:console",
        ]);
    if machine.firmware == Firmware::Uefi {
        let image = firmware::find()?;
        command.arg("-drive").arg(drive(
            "if=pflash,unit=0,format=raw,readonly=on",
            image.code.as_os_str(),
        ));
        // The variables of a new machine: nothing in them says where a loader is.
        command.arg("-drive").arg(drive(
            "if=pflash,unit=1,format=raw,snapshot=on",
            image.variables.as_os_str(),
        ));
        // Otherwise OVMF would wait for minutes for somebody to start it over the network.
        for name in ["IPv4PXESupport", "IPv6PXESupport"] {
            command
                .arg("-fw_cfg")
                .arg(format!("name=opt/org.tianocore/{name},string=n"));
        }
    }
    for (bus, at) in topology.root_ports()? {
        command.arg("-device").arg(format!(
            "pcie-root-port,id=bus{bus},chassis={bus},bus=pcie.0,addr={:x}.{:x},multifunction=on",
            at.slot, at.function
        ));
    }
    for (index, disk) in machine.disks.iter().enumerate() {
        // QEMU's own message would come without its cause, and after others.
        if let DiskPlace::File(path) | DiskPlace::Device(path) = &disk.place {
            File::open(path).map_err(|cause| QemuError::Disk {
                path: path.clone(),
                cause,
            })?;
        }
        command.arg("-drive").arg(disk_drive(disk, index)?);
    }
    for device in disks.into_iter().chain(devices) {
        command.arg("-device").arg(device);
    }
    for (index, (adapter, at)) in adapters.into_iter().enumerate() {
        let model = match adapter.model.as_str() {
            "virtio-net" => "virtio-net-pci",
            known @ ("e1000e" | "e1000" | "rtl8139" | "vmxnet3") => known,
            _ => {
                return Err(QemuError::Model {
                    kind: "network adapter",
                    model: adapter.model.clone(),
                });
            }
        };
        // Cut off from the world; every adapter has a subnet of its own.
        command.arg("-netdev").arg(format!(
            "user,id=net{index},restrict=on,net=10.0.{}.0/24",
            (index % 250).saturating_add(2)
        ));
        // Without the option ROM: nobody starts from the network.
        command.arg("-device").arg(format!(
            "{model},netdev=net{index},mac={},romfile=,{}",
            option_value(&adapter.mac),
            place(at)
        ));
    }
    Ok(command)
}

/// The devices that carry the disks, and the controllers in front of them.
fn disks(machine: &VirtualMachine, topology: &mut PciTopology) -> Result<Vec<String>, QemuError> {
    let mut devices = Vec::new();
    let controller = machine.controller.as_str();
    if controller == "virtio-scsi" {
        devices.push(format!("virtio-scsi-pci,id=scsi0,{}", place(topology.next()?)));
    }
    for index in 0..machine.disks.len() {
        let common = format!("drive=disk{index},bootindex={}", index.saturating_add(1));
        let device = match controller {
            "virtio-blk" => format!("virtio-blk-pci,{common},{}", place(topology.next()?)),
            "virtio-scsi" => format!("scsi-hd,{common},bus=scsi0.0,scsi-id={index}"),
            "nvme" => format!("nvme,{common},serial=rehome{index},{}", place(topology.next()?)),
            "ahci" => {
                let (number, port) = (index / SATA_PORTS, index % SATA_PORTS);
                if number == 0 {
                    // The chipset's own.
                    format!("ide-hd,{common},bus=ide.{port}")
                } else {
                    if port == 0 {
                        devices.push(format!("ich9-ahci,id=sata{number},{}", place(topology.next()?)));
                    }
                    format!("ide-hd,{common},bus=sata{number}.{port}")
                }
            }
            _ => {
                return Err(QemuError::Model {
                    kind: "disk controller",
                    model: machine.controller.clone(),
                });
            }
        };
        devices.push(device);
    }
    Ok(devices)
}

fn place(address: PciAddress) -> String {
    match address.bus {
        0 => format!("bus=pcie.0,addr={:x}.{:x}", address.slot, address.function),
        bus => format!("bus=bus{bus},addr={:x}.{:x}", address.slot, address.function),
    }
}

fn disk_drive(disk: &DiskImage, index: usize) -> Result<OsString, QemuError> {
    if disk.format.is_empty() || !disk.format.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        return Err(QemuError::Format(disk.format.clone()));
    }
    let file = match &disk.place {
        // Absolute: in a relative path what stands before a colon could be taken for a protocol.
        DiskPlace::File(path) | DiskPlace::Device(path) => std::path::absolute(path)
            .map_err(|cause| QemuError::Disk {
                path: path.clone(),
                cause,
            })?
            .into_os_string(),
        DiskPlace::Export(address) => address.to_string().into(),
    };
    Ok(drive(
        &format!(
            "id=disk{index},if=none,format={},snapshot=on,cache=unsafe",
            disk.format
        ),
        &file,
    ))
}

/// A value of `-drive`; commas in file names are doubled.
fn drive(options: &str, file: &OsStr) -> OsString {
    let mut text = options.as_bytes().to_vec();
    text.extend_from_slice(b",file=");
    for &byte in file.as_bytes() {
        if byte == b',' {
            text.push(b',');
        }
        text.push(byte);
    }
    OsString::from_vec(text)
}

/// A word of a machine file as a value: a comma in it must not become an option.
fn option_value(text: &str) -> String {
    text.replace(',', ",,")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commas_in_names_do_not_become_options() {
        let disk = DiskImage {
            place: DiskPlace::File("/a,if=x/b".into()),
            format: "raw".into(),
        };
        let text = disk_drive(&disk, 0).unwrap();
        assert!(text.to_str().unwrap().ends_with(",file=/a,,if=x/b"));
        let format = DiskImage {
            place: DiskPlace::File("/a".into()),
            format: "raw,file=/etc/shadow".into(),
        };
        assert!(matches!(disk_drive(&format, 0), Err(QemuError::Format(_))));
    }
}
