//! From the facts to a plan, one decision after the other.

use super::{
    Adapter, Options, PLAN_SCHEMA, Plan, blockers,
    draft::{Draft, Facts},
    facts_digest, firmware, initramfs, names, network, storage,
};
use crate::{
    guest::Guest,
    machine::{Firmware, Machine},
    matching::Binding,
};

/// The plan for a guest that is understood. `bindings` is what [`crate::matching::match_guest`] found on the same guest
/// and machine.
pub fn make(guest: &Guest, machine: &Machine, bindings: &[Binding], options: &Options) -> Plan {
    let facts = Facts {
        guest,
        machine,
        bindings,
        options,
    };
    let mut draft = Draft::default();
    blockers::check(facts, &mut draft);
    let controller = storage::choose(facts, &mut draft);
    names::rewrite(facts, &mut draft);
    let network = network::plan(facts, &mut draft);
    initramfs::extend(facts, controller, &network.initramfs_files, &mut draft);
    firmware::plan(facts, &mut draft);
    Plan {
        schema: PLAN_SCHEMA,
        facts: facts_digest(Some(guest), machine, bindings),
        options: options.clone(),
        guest: Some(guest.name.clone()),
        root: Some(guest.root.clone()),
        machine: machine.clone(),
        firmware: guest.boot.firmware,
        storage: controller,
        adapters: network.adapters,
        bindings: bindings.to_vec(),
        steps: draft.steps,
        blockers: draft.blockers,
        warnings: draft.warnings,
    }
}

/// The plan for a system that is not understood: its disks move as they are, onto the devices that most systems have
/// drivers for. `firmware` is what its partition table suggests.
pub fn make_raw(firmware: Firmware, machine: &Machine, options: &Options) -> Plan {
    let mut draft = Draft::default();
    draft.warn(
        "the system on these disks is not one that is understood: they move as they are, without drivers or names being \
         adapted, and it may not boot",
    );
    let storage = storage::safest(machine, firmware);
    if let Some(controller) = machine.storage.get(storage) {
        draft.warn(format!(
            "its disks are put on {}, the controller of {} that most systems can boot from",
            controller.model, machine.name
        ));
    } else {
        draft.block(format!(
            "the machine {} has no storage controller: add one to its description",
            machine.name
        ));
    }
    blockers::check_firmware(machine, firmware, &mut draft);
    let adapters: Vec<Adapter> = network::safest(machine, options).into_iter().collect();
    Plan {
        schema: PLAN_SCHEMA,
        facts: facts_digest(None, machine, &[]),
        options: options.clone(),
        guest: None,
        root: None,
        machine: machine.clone(),
        firmware,
        storage,
        adapters,
        bindings: Vec::new(),
        steps: Vec::new(),
        blockers: draft.blockers,
        warnings: draft.warnings,
    }
}
