//! Which controller of the target carries the disks: the first that the guest can boot from.

use super::{
    blockers,
    draft::{Draft, Facts, enumeration},
};
use crate::{
    guest::Kernel,
    machine::{Firmware, Machine},
    matching::DeviceRole,
};

/// Index of the controller. Without one that the default kernel can boot from: a blocker, and the first.
pub(super) fn choose(facts: Facts<'_>, draft: &mut Draft) -> usize {
    let Facts { guest, machine, .. } = facts;
    let Some(default) = facts.default_kernel() else {
        return 0;
    };
    let mut refused: Vec<String> = Vec::new();
    for (index, controller) in machine.storage.iter().enumerate() {
        if !controller.boots.contains(&guest.boot.firmware) {
            refused.push(format!(
                "{}: {} does not boot from it",
                controller.model,
                blockers::name(guest.boot.firmware)
            ));
            continue;
        }
        if let Err(reason) = can_boot(facts, default, index) {
            refused.push(format!("{}: {reason}", controller.model));
            continue;
        }
        if !refused.is_empty() {
            draft.warn(format!(
                "the disks are put on {}, not on the controller that the machine {} prefers ({})",
                controller.model,
                machine.name,
                refused.join("; ")
            ));
        }
        for kernel in guest
            .kernels
            .iter()
            .filter(|kernel| kernel.release != default.release)
        {
            if let Err(reason) = can_boot(facts, kernel, index) {
                draft.warn(format!("kernel {} will not boot there: {reason}", kernel.release));
            }
        }
        return index;
    }
    draft.block(format!(
        "kernel {} cannot boot from any controller of the machine {}{}",
        default.release,
        machine.name,
        refused
            .iter()
            .map(|reason| format!("\n    {reason}"))
            .collect::<String>()
    ));
    0
}

/// Why `kernel` could not boot from the controller with that index.
fn can_boot(facts: Facts<'_>, kernel: &Kernel, index: usize) -> Result<(), String> {
    let Some(driver) = facts.driver(kernel, DeviceRole::Storage, index) else {
        let rejected: Vec<String> = facts
            .binding(kernel, DeviceRole::Storage, index)
            .map(|binding| binding.rejected.as_slice())
            .unwrap_or_default()
            .iter()
            .map(|(what, why)| format!("{what} {why}"))
            .collect();
        return Err(if rejected.is_empty() {
            let wanted = facts.machine.storage.get(index);
            let wanted: Vec<_> = wanted
                .map(|controller| controller.modaliases.iter().chain(&controller.behind).collect())
                .unwrap_or_default();
            format!(
                "kernel {} has no driver for {}",
                kernel.release,
                enumeration(&wanted)
            )
        } else {
            format!("kernel {} has no driver: {}", kernel.release, rejected.join(", "))
        });
    };
    if kernel.initramfs.is_none() && !driver.files.is_empty() {
        let modules: Vec<_> = driver.files.iter().map(|file| &file.module).collect();
        return Err(format!(
            "kernel {} starts without an initramfs, and {} would have to come from one",
            kernel.release,
            enumeration(&modules)
        ));
    }
    Ok(())
}

/// The controller that most systems have a driver for.
pub(super) fn safest(machine: &Machine, firmware: Firmware) -> usize {
    let boots = |model: &str| {
        machine
            .storage
            .iter()
            .position(|controller| controller.model == model && controller.boots.contains(&firmware))
    };
    ["ahci", "ide", "nvme", "lsi-sas"]
        .into_iter()
        .find_map(boots)
        .or_else(|| machine.storage.iter().position(|c| c.boots.contains(&firmware)))
        .unwrap_or(0)
}
