//! Every configured interface keeps its name and address on the new adapter.

use super::{
    Adapter, Options,
    draft::{Draft, Facts, enumeration},
    interface_names,
};
use crate::{
    fs::GuestPath,
    guest::Interface,
    machine::{Machine, NetworkAdapter, is_mac},
    matching::DeviceRole,
};
use std::cmp::Ordering;

/// More adapters than this fit on no machine that is offered: each wants a root port of its own.
const MAX_ADAPTERS: usize = 24;

/// What the network asks of other decisions.
pub(super) struct Network {
    pub(super) adapters: Vec<Adapter>,
    /// Paths in every initramfs image, and contents.
    pub(super) initramfs_files: Vec<(GuestPath, String)>,
}

/// An interface that wants an adapter.
pub(super) struct Wanted<'a> {
    /// `None`: the configuration goes by MAC address or by a pattern, the name does not matter.
    pub(super) name: Option<&'a str>,
    /// All that configures it.
    pub(super) configured: Vec<&'a Interface>,
}

impl Wanted<'_> {
    /// As it is called in a message.
    pub(super) fn called(&self) -> String {
        match (self.name, self.configured.first()) {
            (Some(name), _) => name.to_owned(),
            (None, Some(first)) => format!("the interface of {}", first.path),
            (None, None) => "an interface".to_owned(),
        }
    }

    /// The MAC address that it had.
    pub(super) fn old_mac(&self) -> Option<&str> {
        self.configured
            .iter()
            .find_map(|interface| interface.mac.as_deref())
    }
}

pub(super) fn plan(facts: Facts<'_>, draft: &mut Draft) -> Network {
    let wanted = wanted(facts, draft);
    let nics = check_nics(facts, &wanted, draft);
    let adapters = adapters(facts, &wanted, &nics, draft);
    let mut network = Network {
        adapters,
        initramfs_files: Vec::new(),
    };
    let alone = wanted.len() == 1 && network.adapters.len() == 1;
    for (interface, adapter) in wanted.iter().zip(&network.adapters) {
        if let Some(name) = interface.name {
            let mac = (!alone).then_some(adapter.mac.as_str());
            network
                .initramfs_files
                .extend(interface_names::keep(facts, name, mac, draft));
        }
        interface_names::follow_mac(facts, interface, &adapter.mac, alone, draft);
    }
    interface_names::warn_swapped(&wanted, draft);
    network
}

/// The adapter for a system that is not understood: the kind that most systems have a driver for.
pub(super) fn safest(machine: &Machine, options: &Options) -> Option<Adapter> {
    let known = |model: &&str| machine.network.iter().any(|adapter| adapter.model == **model);
    let model = ["e1000e", "e1000", "vmxnet3"].iter().find(|model| known(model));
    let port = match model {
        Some(model) => machine.network.iter().find(|adapter| adapter.model == **model),
        None => machine.network.first(),
    };
    port.map(|port| adapter(port, None, 0, None, options))
}

/// Interfaces that need an adapter, in order of their names as people count: eth2 before eth10.
fn wanted<'a>(facts: Facts<'a>, draft: &mut Draft) -> Vec<Wanted<'a>> {
    let mut wanted: Vec<Wanted<'a>> = Vec::new();
    for interface in facts
        .guest
        .interfaces
        .iter()
        .filter(|interface| interface.physical)
    {
        // ifupdown's "eth0:1" is one more address of eth0.
        let name = interface
            .name
            .as_deref()
            .map(|name| name.split(':').next().unwrap_or(name));
        if name.is_some_and(|name| name.starts_with("wl") || name.starts_with("ww")) {
            draft.warn(format!(
                "{} line {}: the wireless interface {} has no adapter on the new machine",
                interface.path,
                interface.line,
                name.unwrap_or_default()
            ));
            continue;
        }
        let name = name.filter(|name| is_interface_name(name));
        let same = |other: &&mut Wanted<'_>| match name {
            Some(_) => other.name == name,
            None => other.name.is_none() && other.old_mac() == interface.mac.as_deref(),
        };
        match wanted.iter_mut().find(same) {
            Some(there) => there.configured.push(interface),
            None => wanted.push(Wanted {
                name,
                configured: vec![interface],
            }),
        }
    }
    // A file that goes by the same MAC address as a named one configures the same interface.
    let (named, unnamed): (Vec<_>, Vec<_>) =
        wanted.into_iter().partition(|interface| interface.name.is_some());
    let mut wanted = named;
    for interface in unnamed {
        let mac = interface.old_mac();
        match wanted
            .iter_mut()
            .find(|other| mac.is_some() && other.old_mac() == mac)
        {
            Some(there) => there.configured.extend(interface.configured),
            None => wanted.push(interface),
        }
    }
    wanted.sort_by(|a, b| match (a.name, b.name) {
        (Some(a), Some(b)) => natural(a, b),
        (a, b) => b.is_some().cmp(&a.is_some()),
    });
    if let Some(first) = wanted.get(MAX_ADAPTERS) {
        draft.warn(format!(
            "{} interfaces, from {} on, have no adapter on the new machine, which takes {MAX_ADAPTERS}",
            wanted.len().saturating_sub(MAX_ADAPTERS),
            first.called()
        ));
    }
    wanted.truncate(MAX_ADAPTERS);
    wanted
}

/// What the kernel takes as a name (`dev_valid_name`), and no pattern: it is put into files.
fn is_interface_name(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    !name.is_empty() && name.len() < 16 && name != "." && name != ".." && name.chars().all(plain)
}

/// Numbers within names by value.
fn natural(a: &str, b: &str) -> Ordering {
    let split = |name: &str| -> (String, u64, String) {
        let stem = name.trim_end_matches(|c: char| c.is_ascii_digit());
        let number = name.get(stem.len()..).unwrap_or_default();
        (
            stem.to_owned(),
            number.parse().unwrap_or(u64::MAX),
            name.to_owned(),
        )
    };
    split(a).cmp(&split(b))
}

/// `--nic`, checked: name and MAC address in lower case.
fn check_nics(facts: Facts<'_>, wanted: &[Wanted<'_>], draft: &mut Draft) -> Vec<(String, String)> {
    let mut nics: Vec<(String, String)> = Vec::new();
    for (name, mac) in &facts.options.nics {
        let mac = mac.to_lowercase().replace('-', ":");
        if !is_mac(&mac) {
            draft.block(format!(
                "--nic {name}={mac}: this is no MAC address of an adapter; expected the form 52:54:00:12:34:56"
            ));
        } else if !wanted.iter().any(|interface| interface.name == Some(name)) {
            let names: Vec<_> = wanted.iter().map(Wanted::called).collect();
            draft.block(format!(
                "--nic {name}={mac}: the system configures no interface of that name; it configures {}",
                if names.is_empty() {
                    "none".to_owned()
                } else {
                    enumeration(&names)
                }
            ));
        } else if nics.iter().any(|(other, same)| other == name || *same == mac) {
            draft.block(format!(
                "--nic {name}={mac}: given twice; each interface has one address of its own"
            ));
        } else {
            nics.push((name.clone(), mac));
        }
    }
    nics
}

/// One adapter for each interface, and one if there is none: most systems configure it by themselves.
fn adapters(
    facts: Facts<'_>,
    wanted: &[Wanted<'_>],
    nics: &[(String, String)],
    draft: &mut Draft,
) -> Vec<Adapter> {
    let mut left = ports(facts, wanted.len().max(1), draft);
    let mut adapters: Vec<Adapter> = Vec::new();
    for (index, interface) in wanted.iter().enumerate() {
        let given = nics
            .iter()
            .find(|(name, _)| interface.name == Some(name))
            .map(|(_, mac)| mac.as_str());
        if left.is_empty() {
            draft.warn(format!(
                "the machine {} has no adapter left for {}",
                facts.machine.name,
                interface.called()
            ));
            continue;
        }
        // A physical port is chosen by its address.
        let at = left
            .iter()
            .position(|port| given.is_some() && port.mac.as_deref() == given)
            .unwrap_or(0);
        let mut new = adapter(left.remove(at), interface.name, index, given, facts.options);
        let taken = |mac: &str| {
            adapters.iter().any(|other| other.mac == mac) || nics.iter().any(|(_, other)| other == mac)
        };
        let mut attempt = index;
        while given.is_none() && new.mac.starts_with(PREFIX) && taken(&new.mac) {
            attempt = attempt.saturating_add(adapters.len().max(1));
            new.mac = new_mac(facts.options, attempt, interface.name);
        }
        adapters.push(new);
    }
    if wanted.is_empty()
        && let Some(port) = left.first()
    {
        adapters.push(adapter(port, None, 0, None, facts.options));
    }
    adapters
}

/// What the adapters can be made of: `count` of the best model of a virtual machine, all ports of a physical one.
fn ports<'a>(facts: Facts<'a>, count: usize, draft: &mut Draft) -> Vec<&'a NetworkAdapter> {
    let machine = facts.machine;
    let Some(kernel) = facts.default_kernel() else {
        return Vec::new();
    };
    let drives = |index: &usize| facts.driver(kernel, DeviceRole::Network, *index).is_some();
    if machine.model.is_none() {
        for (index, port) in machine.network.iter().enumerate() {
            if !drives(&index) {
                draft.warn(format!(
                    "kernel {} has no driver for the adapter {}",
                    kernel.release, port.model
                ));
            }
        }
        return machine.network.iter().collect();
    }
    let best = (0..machine.network.len()).find(drives);
    let Some(port) = machine.network.get(best.unwrap_or(0)) else {
        draft.warn(format!("the machine {} has no network adapter", machine.name));
        return Vec::new();
    };
    let models: Vec<_> = machine.network.iter().map(|port| &port.model).collect();
    match best {
        None => draft.warn(format!(
            "kernel {} has no driver for an adapter of the machine {} ({}): the system will start without network",
            kernel.release,
            machine.name,
            enumeration(&models)
        )),
        Some(0) => {}
        Some(_) => draft.warn(format!(
            "the adapters are of the kind {}: kernel {} has no driver for {}, which the machine {} prefers",
            port.model,
            kernel.release,
            models.first().map_or("", |model| model.as_str()),
            machine.name
        )),
    }
    let driver = best.and_then(|best| facts.driver(kernel, DeviceRole::Network, best));
    let missing = driver
        .map(|driver| driver.missing_firmware.as_slice())
        .unwrap_or_default();
    if !missing.is_empty() {
        draft.warn(format!(
            "the driver of {} may want firmware that the system does not have: {}",
            port.model,
            enumeration(missing)
        ));
    }
    vec![port; count]
}

fn adapter(
    port: &NetworkAdapter,
    interface: Option<&str>,
    index: usize,
    given: Option<&str>,
    options: &Options,
) -> Adapter {
    let mac = port
        .mac
        .clone()
        .or_else(|| given.map(str::to_owned))
        .unwrap_or_else(|| new_mac(options, index, interface));
    Adapter {
        model: port.model.clone(),
        interface: interface.map(str::to_owned),
        mac,
        // Every adapter behind a root port of its own: the bus numbers begin at 1.
        pci_address: port
            .pci_address
            .clone()
            .unwrap_or_else(|| format!("0000:{:02x}:00.0", index.saturating_add(1))),
    }
}

/// The prefix that QEMU and libvirt use for addresses that nobody was given.
const PREFIX: &str = "52:54:00";

/// An address from the seed.
fn new_mac(options: &Options, index: usize, interface: Option<&str>) -> String {
    let mut hasher = blake3::Hasher::new_derive_key("rehome network adapter address");
    hasher.update(&options.seed);
    hasher.update(&(index as u64).to_le_bytes());
    hasher.update(interface.unwrap_or_default().as_bytes());
    let [a, b, c, ..] = *hasher.finalize().as_bytes();
    format!("{PREFIX}:{a:02x}:{b:02x}:{c:02x}")
}
