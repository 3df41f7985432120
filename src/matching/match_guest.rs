//! Every kernel against every device of the target.

use super::{
    Binding, DeviceRole,
    bind::{Kernel, Wanted},
    kernel_files,
};
use crate::{
    fs::{Mounts, Result},
    guest::Guest,
    machine::Machine,
};

/// What each kernel of the guest has for each device of the target: kernels in the order of the guest, and of each the
/// storage controllers, the network adapters and the other devices in the order of the machine.
///
/// # Errors
/// Only what keeps the guest's files from being read; a kernel without modules, a damaged index or a damaged initramfs
/// image is a binding without a driver that says so.
pub fn match_guest(guest: &Guest, mounts: &Mounts, machine: &Machine) -> Result<Vec<Binding>> {
    let config = kernel_files::modprobe_config(mounts)?;
    let wanted = wanted(machine);
    let mut bindings = Vec::with_capacity(wanted.len().saturating_mul(guest.kernels.len()));
    for kernel in &guest.kernels {
        let mut kernel = Kernel::read(guest, kernel, mounts, &config)?;
        for device in &wanted {
            bindings.push(kernel.bind(device)?);
        }
    }
    Ok(bindings)
}

/// The devices of the target, storage first.
fn wanted(machine: &Machine) -> Vec<Wanted<'_>> {
    let storage = machine.storage.iter().map(|controller| Wanted {
        model: &controller.model,
        role: DeviceRole::Storage,
        modaliases: &controller.modaliases,
        behind: &controller.behind,
    });
    let network = machine.network.iter().map(|adapter| Wanted {
        model: &adapter.model,
        role: DeviceRole::Network,
        modaliases: &adapter.modaliases,
        behind: &adapter.behind,
    });
    let other = machine.devices.iter().map(|device| Wanted {
        model: &device.model,
        role: DeviceRole::Other,
        modaliases: &device.modaliases,
        behind: &device.behind,
    });
    storage.chain(network).chain(other).collect()
}
