//! A virtual machine as a package of the Open Virtualization Format describes it.

use super::virtual_machine::VirtualMachine;
use crate::{
    image::ova::{NewAdapter, NewController, NewMachine},
    machine::Firmware,
};
use thiserror::Error;

/// Why a machine cannot be described.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum OvfError {
    /// VMware and VirtualBox have no such device.
    #[error(
        "an OVA is for machines of VMware and VirtualBox, which have no {kind} \"{model}\": choose another target machine, \
         or another format"
    )]
    Model {
        /// "disk controller", "network adapter".
        kind: &'static str,
        /// As the machine file has it.
        model: String,
    },
}

/// The virtual hardware version of a machine that does not name one: what ESXi 5.5 and everything since then runs.
const HARDWARE_VERSION: u32 = 10;

/// The first with `NVMe`.
const HARDWARE_VERSION_OF_NVME: u32 = 13;

/// `machine`, on which `system` is installed.
///
/// # Errors
/// A device that no importer of packages has.
pub fn describe(machine: &VirtualMachine, system: Option<&str>) -> Result<NewMachine, OvfError> {
    let controller = controller(&machine.controller)?;
    let named = machine
        .model
        .strip_prefix("vmx-")
        .and_then(|version| version.parse().ok());
    let version = named.unwrap_or(match controller {
        NewController::Nvme => HARDWARE_VERSION_OF_NVME,
        _ => HARDWARE_VERSION,
    });
    let adapters = machine.adapters.iter().map(|adapter| {
        Ok(NewAdapter {
            model: adapter_model(&adapter.model)?.to_owned(),
            mac: Some(adapter.mac.clone()).filter(|mac| can_be_fixed(mac)),
        })
    });
    Ok(NewMachine {
        name: machine.name.clone(),
        hardware_version: version,
        efi: machine.firmware == Firmware::Uefi,
        system: system.map(str::to_owned),
        memory_mib: machine.memory_mib,
        processors: machine.processors,
        controller,
        adapters: adapters.collect::<Result<_, OvfError>>()?,
    })
}

fn controller(model: &str) -> Result<NewController, OvfError> {
    match model {
        "ahci" => Ok(NewController::Sata),
        "ide" => Ok(NewController::Ide),
        "nvme" => Ok(NewController::Nvme),
        "pvscsi" => Ok(NewController::Pvscsi),
        "lsilogic" => Ok(NewController::LsiLogic),
        "lsisas" => Ok(NewController::LsiSas),
        "buslogic" => Ok(NewController::BusLogic),
        _ => Err(OvfError::Model {
            kind: "disk controller",
            model: model.to_owned(),
        }),
    }
}

fn adapter_model(model: &str) -> Result<&'static str, OvfError> {
    match model {
        "e1000" => Ok("E1000"),
        "e1000e" => Ok("E1000e"),
        "vmxnet3" => Ok("VmxNet3"),
        "pcnet32" => Ok("PCNet32"),
        _ => Err(OvfError::Model {
            kind: "network adapter",
            model: model.to_owned(),
        }),
    }
}

/// VMware lets a machine start with an address that somebody gave it only in this range: 00:50:56:00:00:00 to
/// 00:50:56:3f:ff:ff.
fn can_be_fixed(mac: &str) -> bool {
    let Some(rest) = mac
        .to_ascii_lowercase()
        .strip_prefix("00:50:56:")
        .map(str::to_owned)
    else {
        return false;
    };
    let fourth = rest.split(':').next().unwrap_or_default();
    u8::from_str_radix(fourth, 16).is_ok_and(|fourth| fourth <= 0x3f)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Adapter;

    fn machine() -> VirtualMachine {
        VirtualMachine {
            name: "web".into(),
            architecture: "x86_64".into(),
            model: "q35".into(),
            firmware: Firmware::Uefi,
            controller: "ahci".into(),
            disks: Vec::new(),
            adapters: ["52:54:00:00:00:01", "00:50:56:3F:00:01", "00:50:56:40:00:01"]
                .map(|mac| Adapter {
                    model: "e1000e".into(),
                    interface: None,
                    mac: mac.into(),
                    pci_address: "0000:01:00.0".into(),
                })
                .to_vec(),
            devices: Vec::new(),
            memory_mib: 1000,
            processors: 2,
        }
    }

    #[test]
    fn what_the_importers_have_is_described() {
        let described = describe(&machine(), Some("Debian")).unwrap();
        assert_eq!(described.controller, NewController::Sata);
        assert_eq!((described.hardware_version, described.efi), (10, true));
        let macs: Vec<bool> = described
            .adapters
            .iter()
            .map(|adapter| adapter.mac.is_some())
            .collect();
        assert_eq!(macs, [false, true, false]);
        let mut vmware = machine();
        vmware.model = "vmx-19".into();
        vmware.controller = "nvme".into();
        assert_eq!(describe(&vmware, None).unwrap().hardware_version, 19);
    }

    #[test]
    fn what_they_do_not_have_is_refused_by_name() {
        let mut kvm = machine();
        kvm.controller = "virtio-blk".into();
        let error = describe(&kvm, None).unwrap_err();
        assert!(
            error.to_string().contains("no disk controller \"virtio-blk\""),
            "{error}"
        );
        let mut kvm = machine();
        kvm.adapters[0].model = "virtio-net".into();
        assert!(describe(&kvm, None).is_err());
    }
}
