//! From a name or a file to a checked machine description.

use super::{Firmware, Machine, shipped::SHIPPED};
use crate::disk::{Error, Kind, Result};
use std::{
    fs::File,
    io::Read,
    path::{Path, PathBuf},
};

/// A machine file is a page or two of text; more than this is something else.
const LARGEST_FILE: u64 = 1 << 20;

/// The machine called `name`: a path to a TOML file (anything with a slash or ending in `.toml`), else a machine of the
/// `driver_db` folder, else a shipped one.
///
/// # Errors
/// `NotFound` with the names that there are; `Corrupt` for a file that is not a machine description, saying what is
/// wrong with it.
pub fn load(name: &str, driver_db: Option<&Path>) -> Result<Machine> {
    if name.contains('/') || name.ends_with(".toml") {
        return read(Path::new(name));
    }
    let machines = list(driver_db)?;
    let names: Vec<_> = machines.iter().map(|machine| machine.name.as_str()).collect();
    let message = format!(
        "there is no machine of this name; there are {}; or give the path of a TOML file",
        names.join(", ")
    );
    machines
        .iter()
        .find(|machine| machine.name == name)
        .cloned()
        .ok_or_else(|| Error::new(Kind::NotFound, format!("machine {name}"), message))
}

/// All machines that can be named: those of the `driver_db` folder (its `machines/*.toml`), then the shipped ones that
/// it does not replace. In order of name within each.
///
/// # Errors
/// A file of the folder that is not a machine description, or a folder that cannot be read.
pub fn list(driver_db: Option<&Path>) -> Result<Vec<Machine>> {
    let mut machines = Vec::new();
    for path in driver_db.map(files).transpose()?.unwrap_or_default() {
        let machine = read(&path)?;
        if path.file_stem().and_then(|stem| stem.to_str()) != Some(machine.name.as_str()) {
            let message = format!("describes the machine {:?}: name the file after it", machine.name);
            return Err(Error::new(Kind::Corrupt, path.display().to_string(), message));
        }
        machines.push(machine);
    }
    for (name, text) in SHIPPED {
        if !machines.iter().any(|machine: &Machine| machine.name == *name) {
            machines.push(parse(&format!("shipped machine {name}"), text)?);
        }
    }
    Ok(machines)
}

/// Reads and checks a machine description; `label` names its place in errors.
///
/// # Errors
/// `Corrupt`: not TOML, an unknown key, a value that makes no sense.
pub fn parse(label: &str, text: &str) -> Result<Machine> {
    let corrupt = |message: String| Error::new(Kind::Corrupt, label, message);
    let machine: Machine = toml::from_str(text).map_err(|error| {
        corrupt(format!(
            "is no machine description: {}",
            error.to_string().trim_end()
        ))
    })?;
    check(&machine).map_err(corrupt)?;
    Ok(machine)
}

fn files(driver_db: &Path) -> Result<Vec<PathBuf>> {
    let folder = driver_db.join("machines");
    let mut files = Vec::new();
    for entry in walkdir::WalkDir::new(&folder).max_depth(1).sort_by_file_name() {
        let entry = entry.map_err(|error| Error::io(folder.display().to_string(), error.into()))?;
        if entry
            .path()
            .extension()
            .is_some_and(|extension| extension == "toml")
        {
            files.push(entry.into_path());
        }
    }
    Ok(files)
}

fn read(path: &Path) -> Result<Machine> {
    let label = path.display().to_string();
    let mut text = String::new();
    File::open(path)
        .and_then(|file| {
            file.take(LARGEST_FILE.saturating_add(1))
                .read_to_string(&mut text)
        })
        .map_err(|error| Error::io(&*label, error))?;
    if text.len() as u64 > LARGEST_FILE {
        return Err(Error::new(
            Kind::Corrupt,
            label,
            "is too large for a machine description",
        ));
    }
    parse(&label, &text)
}

/// What the types cannot say.
fn check(machine: &Machine) -> std::result::Result<(), String> {
    if machine.schema != 1 {
        return Err(format!(
            "has schema {}; this program knows schema 1",
            machine.schema
        ));
    }
    if machine.name.is_empty() || machine.architecture.is_empty() {
        return Err("`name` and `architecture` must not be empty".into());
    }
    if machine.firmware.is_empty() {
        return Err("`firmware` must name \"bios\", \"uefi\" or both".into());
    }
    for controller in &machine.storage {
        let place = format!("storage {:?}", controller.model);
        check_modaliases(&place, &controller.modaliases, &controller.behind)?;
        check_boots(&place, &controller.boots, &machine.firmware)?;
        if controller.disk_prefix.is_empty() {
            return Err(format!("{place}: `disk_prefix` must not be empty"));
        }
    }
    for adapter in &machine.network {
        let place = format!("network {:?}", adapter.model);
        check_modaliases(&place, &adapter.modaliases, &adapter.behind)?;
        if let Some(mac) = adapter.mac.as_deref().filter(|mac| !is_mac(mac)) {
            return Err(format!(
                "{place}: `mac` is {mac:?}; expected the form 52:54:00:12:34:56, in lower case"
            ));
        }
        if let Some(address) = adapter
            .pci_address
            .as_deref()
            .filter(|address| !is_pci_address(address))
        {
            return Err(format!(
                "{place}: `pci_address` is {address:?}; expected the form 0000:01:00.0"
            ));
        }
    }
    for device in &machine.devices {
        check_modaliases(
            &format!("device {:?}", device.model),
            &device.modaliases,
            &device.behind,
        )?;
    }
    Ok(())
}

fn check_boots(place: &str, boots: &[Firmware], machine: &[Firmware]) -> std::result::Result<(), String> {
    if boots.iter().all(|firmware| machine.contains(firmware)) {
        return Ok(());
    }
    Err(format!(
        "{place}: `boots` names a firmware that the machine has not"
    ))
}

fn check_modaliases(place: &str, own: &[String], behind: &[String]) -> std::result::Result<(), String> {
    if place.ends_with("\"\"") {
        return Err(format!("{place}: `model` must not be empty"));
    }
    if own.is_empty() {
        return Err(format!("{place}: `modaliases` must name at least one"));
    }
    for modalias in own.iter().chain(behind) {
        let (bus, id) = modalias.split_once(':').unwrap_or_default();
        // A pattern in a machine file would match patterns of the guest by accident.
        let plain = modalias
            .chars()
            .all(|c| c.is_ascii_graphic() && !"*?[]".contains(c));
        if bus.is_empty() || id.is_empty() || !plain || bus == "pci" && !is_pci(id) {
            return Err(format!(
                "{place}: {modalias:?} is no full modalias as the kernel prints it in sysfs"
            ));
        }
    }
    Ok(())
}

/// `v%08Xd%08Xsv%08Xsd%08Xbc%02Xsc%02Xi%02x`: the kernel's `pci_uevent`.
fn is_pci(id: &str) -> bool {
    let mut rest = id;
    for (key, digits) in [
        ("v", 8),
        ("d", 8),
        ("sv", 8),
        ("sd", 8),
        ("bc", 2),
        ("sc", 2),
        ("i", 2),
    ] {
        let Some((number, after)) = rest
            .strip_prefix(key)
            .and_then(|rest| rest.split_at_checked(digits))
        else {
            return false;
        };
        let lower = |c: char| c.is_ascii_lowercase() && key != "i";
        if !number.chars().all(|c| c.is_ascii_hexdigit() && !lower(c)) {
            return false;
        }
        rest = after;
    }
    rest.is_empty()
}

/// Six bytes in lower case with colons, not a group address and not all zeros.
pub(crate) fn is_mac(text: &str) -> bool {
    let bytes: Vec<_> = text.split(':').collect();
    let digits = |byte: &&str| byte.len() == 2 && byte.chars().all(|c| matches!(c, '0'..='9' | 'a'..='f'));
    let first = bytes.first().and_then(|byte| u8::from_str_radix(byte, 16).ok());
    bytes.len() == 6
        && bytes.iter().all(digits)
        && first.is_some_and(|first| first & 1 == 0)
        && text != "00:00:00:00:00:00"
}

/// Domain, bus, device, function: "0000:01:00.0".
fn is_pci_address(text: &str) -> bool {
    let form = "hhhh:hh:hh.o";
    text.len() == form.len()
        && text.chars().zip(form.chars()).all(|(c, form)| match form {
            'h' => matches!(c, '0'..='9' | 'a'..='f'),
            'o' => matches!(c, '0'..='7'),
            mark => c == mark,
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shipped_machine_is_valid_and_complete() {
        let machines = list(None).unwrap();
        let names: Vec<_> = machines.iter().map(|machine| machine.name.as_str()).collect();
        let expected = [
            "kvm",
            "kvm-scsi",
            "kvm-sata",
            "vmware",
            "vmware-lsi",
            "hyperv-gen1",
            "hyperv-gen2",
            "generic-ahci",
            "generic-nvme",
        ];
        assert_eq!(names, expected);
        // Definitions are written for these; the others are taken as they are.
        for machine in &machines[3..] {
            assert_eq!(machine.model, None, "{}", machine.name);
            assert!(!machine.storage.is_empty(), "{}", machine.name);
        }
        for machine in &machines[..3] {
            assert_eq!(
                machine.firmware,
                [Firmware::Bios, Firmware::Uefi],
                "{}",
                machine.name
            );
            assert_eq!(machine.model.as_deref(), Some("q35"));
            assert!(!machine.network.is_empty() && !machine.storage.is_empty());
        }
        let kvm = load("kvm", None).unwrap();
        assert_eq!(kvm.storage[0].model, "virtio-blk");
        assert_eq!(kvm.storage[0].behind, ["virtio:d00000002v00001AF4"]);
        assert_eq!(
            load("kvm-scsi", None).unwrap().storage[0].behind[1],
            "scsi:t-0x00"
        );
        assert_eq!(load("kvm-sata", None).unwrap().network[0].model, "e1000e");
    }

    #[test]
    fn a_name_that_nobody_has_is_answered_with_those_that_there_are() {
        let error = load("vmwere", None).unwrap_err();
        assert_eq!(error.kind, Kind::NotFound);
        assert!(error.to_string().contains("kvm, kvm-scsi, kvm-sata"), "{error}");
    }

    #[test]
    fn a_folder_adds_machines_and_replaces_shipped_ones() {
        let folder = tempfile::tempdir().unwrap();
        let machines = folder.path().join("machines");
        std::fs::create_dir(&machines).unwrap();
        let text = SHIPPED[0].1.replace("description = \"", "description = \"Ours: ");
        std::fs::write(machines.join("kvm.toml"), &text).unwrap();
        let other = text.replace("name = \"kvm\"", "name = \"rack7\"");
        std::fs::write(machines.join("rack7.toml"), &other).unwrap();
        std::fs::write(machines.join("notes.txt"), "not read").unwrap();
        let names: Vec<_> = list(Some(folder.path()))
            .unwrap()
            .into_iter()
            .map(|m| m.name)
            .collect();
        assert_eq!(names[..4], ["kvm", "rack7", "kvm-scsi", "kvm-sata"]);
        assert!(
            load("kvm", Some(folder.path()))
                .unwrap()
                .description
                .starts_with("Ours")
        );
        let path = machines.join("rack7.toml");
        assert_eq!(load(path.to_str().unwrap(), None).unwrap().name, "rack7");
        std::fs::write(machines.join("rack8.toml"), &other).unwrap();
        let error = list(Some(folder.path())).unwrap_err().to_string();
        assert!(error.contains("rack8.toml") && error.contains("rack7"), "{error}");
    }

    #[test]
    fn mistakes_are_named() {
        let kvm = SHIPPED[0].1;
        for (from, to, complaint) in [
            ("schema = 1", "schema = 2", "schema 2"),
            ("disk_prefix", "disc_prefix", "disc_prefix"),
            (
                "boots = [\"bios\", \"uefi\"]",
                "boots = [\"coreboot\"]",
                "coreboot",
            ),
            (
                "firmware = [\"bios\", \"uefi\"]",
                "firmware = [\"bios\"]",
                "a firmware that the machine has not",
            ),
            (
                "pci:v00001AF4d00001042sv",
                "pci:v00001AF4d*sv",
                "no full modalias",
            ),
            (
                "pci:v00001AF4d00001042sv",
                "pci:v00001af4d00001042sv",
                "no full modalias",
            ),
            ("behind = [\"virtio:", "behind = [\"virtio", "no full modalias"),
            (
                "model = \"virtio-net\"",
                "model = \"virtio-net\"\nmac = \"52:54:00:AA:00:01\"",
                "52:54:00:AA:00:01",
            ),
            (
                "model = \"virtio-net\"",
                "model = \"virtio-net\"\nmac = \"53:54:00:aa:00:01\"",
                "expected the form",
            ),
            (
                "model = \"virtio-net\"",
                "model = \"virtio-net\"\npci_address = \"1:0.0\"",
                "0000:01:00.0",
            ),
        ] {
            assert!(kvm.contains(from), "{from}");
            let error = parse("m.toml", &kvm.replacen(from, to, 1)).unwrap_err();
            assert_eq!(error.kind, Kind::Corrupt);
            assert!(error.to_string().contains(complaint), "{error}");
        }
    }
}
