//! A virtual machine as every definition of one needs it: libvirt's XML and QEMU's command line are made from this.

use crate::{
    machine::{Firmware, Machine},
    nbd,
    plan::{Adapter, Plan},
};
use std::path::PathBuf;

/// One virtual machine with its disks.
#[derive(Clone, Debug, PartialEq)]
pub struct VirtualMachine {
    /// What the hypervisor lists it as.
    pub name: String,
    /// "x86_64".
    pub architecture: String,
    /// QEMU's machine type: "q35".
    pub model: String,
    /// What starts the boot loader.
    pub firmware: Firmware,
    /// Model of the controller that carries the disks, as in [`crate::machine::StorageController::model`].
    pub controller: String,
    /// In order; the first is started from.
    pub disks: Vec<DiskImage>,
    /// Every one with its address.
    pub adapters: Vec<Adapter>,
    /// Models of the other devices, as in [`crate::machine::OtherDevice::model`].
    pub devices: Vec<String>,
    /// Memory in MiB.
    pub memory_mib: u64,
    /// Processors.
    pub processors: u32,
}

/// What holds a disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskImage {
    /// Where it is.
    pub place: DiskPlace,
    /// As QEMU calls it: "raw", "qcow2". Never probed.
    pub format: String,
}

/// Where a disk of a virtual machine is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DiskPlace {
    /// A file; absolute for libvirt.
    File(PathBuf),
    /// A block device of the host; absolute for libvirt.
    Device(PathBuf),
    /// An export of a server.
    Export(nbd::Address),
}

/// Enough for an installed server to start; nobody is asked, so the definition is where it is changed.
const MEMORY_MIB: u64 = 2048;

/// As [`MEMORY_MIB`].
const PROCESSORS: u32 = 2;

impl VirtualMachine {
    /// The machine that `plan` was made for. `None`: the plan names a controller that its machine does not have.
    pub fn of_plan(name: &str, plan: &Plan, disks: Vec<DiskImage>) -> Option<Self> {
        let controller = plan.machine.storage.get(plan.storage)?;
        let bare = Self::bare(name, &plan.machine, plan.firmware, &controller.model, disks);
        Some(Self {
            adapters: plan.adapters.clone(),
            ..bare
        })
    }

    /// `machine` as it is when nothing was planned: its preferred controller, one adapter of its preferred model.
    /// `None`: it has no controller.
    pub fn of_machine(
        name: &str,
        machine: &Machine,
        firmware: Firmware,
        disks: Vec<DiskImage>,
    ) -> Option<Self> {
        let controller = machine.storage.first()?;
        let adapters = machine.network.first().map(|adapter| Adapter {
            model: adapter.model.clone(),
            interface: None,
            mac: adapter.mac.clone().unwrap_or_else(|| "52:54:00:00:00:01".into()),
            pci_address: adapter
                .pci_address
                .clone()
                .unwrap_or_else(|| "0000:01:00.0".into()),
        });
        let bare = Self::bare(name, machine, firmware, &controller.model, disks);
        Some(Self {
            adapters: adapters.into_iter().collect(),
            ..bare
        })
    }

    /// The same machine with so much memory and so many processors, where that is known.
    #[must_use]
    pub fn sized(self, (memory_mib, processors): (Option<u64>, Option<u32>)) -> Self {
        Self {
            memory_mib: memory_mib.unwrap_or(self.memory_mib),
            processors: processors.unwrap_or(self.processors),
            ..self
        }
    }

    fn bare(
        name: &str,
        machine: &Machine,
        firmware: Firmware,
        controller: &str,
        disks: Vec<DiskImage>,
    ) -> Self {
        Self {
            name: name.into(),
            architecture: machine.architecture.clone(),
            model: machine.model.clone().unwrap_or_else(|| "q35".into()),
            firmware,
            controller: controller.into(),
            disks,
            adapters: Vec::new(),
            devices: machine
                .devices
                .iter()
                .map(|device| device.model.clone())
                .collect(),
            memory_mib: MEMORY_MIB,
            processors: PROCESSORS,
        }
    }
}
