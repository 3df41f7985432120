//! netplan: the YAML files of /etc/netplan (netplan's "YAML configuration" reference).

use super::{Interface, MAX_INTERFACES, NetworkProgram};
use crate::{
    fs::GuestPath,
    guest::{
        files::{Files, has_wildcards},
        text::{lossy, mac_address},
    },
};
use saphyr_parser::{Event, Parser};
use std::collections::{BTreeMap, BTreeSet};

/// Levels of mappings and lists: netplan's own schema has seven.
const MAX_DEPTH: usize = 32;
/// Values in one file: far above what configures a machine.
const MAX_VALUES: usize = 50_000;
/// Bytes of one file.
const MAX_FILE: usize = 1 << 20;

/// A value of a YAML file.
#[derive(Clone, Debug, PartialEq)]
enum Value {
    Scalar(String, u32),
    List(Vec<Value>),
    /// Key, its line, value.
    Map(Vec<(String, u32, Value)>),
}

/// One file.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Configuration {
    /// Does it hand interfaces to NetworkManager, all of them or some?
    pub network_manager: bool,
    /// Its interfaces.
    pub definitions: Vec<Definition>,
}

/// A definition of an interface in one file.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Definition {
    /// "ethernets", "bridges".
    pub section: String,
    /// The name, or an id if it matches.
    pub id: String,
    /// Line of the id, from 1.
    pub line: u32,
    /// Has it a `match`?
    pub matches: bool,
    /// `match: macaddress`, in lower case with colons, and its line.
    pub mac: Option<(String, u32)>,
    /// `match: name`.
    pub match_name: Option<String>,
    /// `match: driver` as far as it is one name.
    pub match_driver: Option<String>,
    /// `set-name`.
    pub set_name: Option<String>,
    /// `addresses`, as far as they are written here.
    pub addresses: Vec<String>,
    /// `dhcp4` or `dhcp6`.
    pub dhcp: bool,
    /// The interfaces that it stands on.
    pub parts: Vec<String>,
}

/// Reads one file. Fails, with a sentence, on what is no YAML and on aliases, which netplan does not take either.
pub fn parse(contents: &[u8]) -> Result<Configuration, String> {
    let text = std::str::from_utf8(contents).map_err(|_| "is not UTF-8".to_owned())?;
    let root = document(text)?;
    let mut configuration = Configuration::default();
    let Some(network) = root.get("network") else {
        return Ok(configuration);
    };
    let to_network_manager = |value: &Value| value.text("renderer") == Some("NetworkManager");
    configuration.network_manager = to_network_manager(network);
    for (section, _, devices) in network.entries() {
        if matches!(&**section, "version" | "renderer") {
            continue;
        }
        configuration.network_manager |= to_network_manager(devices);
        for (id, line, settings) in devices.entries().iter().filter(|(id, _, _)| id != "renderer") {
            if configuration.definitions.len() >= MAX_INTERFACES {
                return Err(format!("configures more than {MAX_INTERFACES} interfaces"));
            }
            configuration.network_manager |= to_network_manager(settings);
            configuration
                .definitions
                .push(definition(section, id, *line, settings));
        }
    }
    Ok(configuration)
}

fn definition(section: &str, id: &str, line: u32, settings: &Value) -> Definition {
    let matches = settings.get("match");
    let mac = matches.and_then(|matches| match matches.get("macaddress")? {
        Value::Scalar(text, line) => Some((mac_address(text.as_bytes())?, *line)),
        _ => None,
    });
    let yes = |key| {
        settings
            .text(key)
            .is_some_and(|text| matches!(text, "true" | "yes" | "on" | "True" | "TRUE" | "y"))
    };
    let mut parts: Vec<String> = settings
        .get("interfaces")
        .map(Value::texts)
        .unwrap_or_default()
        .into_iter()
        .map(str::to_owned)
        .collect();
    parts.extend(settings.text("link").map(str::to_owned));
    Definition {
        section: section.to_owned(),
        id: id.to_owned(),
        line,
        matches: matches.is_some(),
        mac,
        match_name: matches.and_then(|m| m.text("name")).map(str::to_owned),
        match_driver: matches.and_then(|m| m.text("driver")).map(str::to_owned),
        set_name: settings.text("set-name").map(str::to_owned),
        addresses: settings
            .get("addresses")
            .map(Value::texts)
            .unwrap_or_default()
            .into_iter()
            .map(str::to_owned)
            .collect(),
        dhcp: yes("dhcp4") || yes("dhcp6"),
        parts,
    }
}

impl Value {
    fn entries(&self) -> &[(String, u32, Value)] {
        match self {
            Self::Map(entries) => entries,
            _ => &[],
        }
    }

    fn get(&self, key: &str) -> Option<&Value> {
        let found = self.entries().iter().rev().find(|(name, _, _)| name == key)?;
        Some(&found.2)
    }

    fn text(&self, key: &str) -> Option<&str> {
        match self.get(key)? {
            Self::Scalar(text, _) => Some(text),
            _ => None,
        }
    }

    /// The scalars of a list; of a mapping in it (an address with options) the key.
    fn texts(&self) -> Vec<&str> {
        match self {
            Self::List(values) => values
                .iter()
                .filter_map(|value| match value {
                    Self::Scalar(text, _) => Some(&**text),
                    Self::Map(entries) => entries.first().map(|(key, _, _)| &**key),
                    Self::List(_) => None,
                })
                .collect(),
            _ => Vec::new(),
        }
    }
}

/// A collection that is still open.
enum Open {
    List(Vec<Value>),
    /// And the key that waits for its value.
    Map(Vec<(String, u32, Value)>, Option<(String, u32)>),
}

/// The first document.
fn document(text: &str) -> Result<Value, String> {
    if text.len() > MAX_FILE {
        return Err(format!("is longer than {MAX_FILE} bytes"));
    }
    let mut open: Vec<Open> = Vec::new();
    for (count, event) in Parser::new_from_str(text).enumerate() {
        let (event, span) = event.map_err(|error| format!("is no valid YAML: {error}"))?;
        let line = u32::try_from(span.start.line()).unwrap_or(u32::MAX);
        if count > MAX_VALUES {
            return Err(format!("has more than {MAX_VALUES} values"));
        }
        if open.len() > MAX_DEPTH {
            return Err(format!("is nested more than {MAX_DEPTH} deep"));
        }
        let value = match event {
            Event::SequenceStart(..) => {
                open.push(Open::List(Vec::new()));
                continue;
            }
            Event::MappingStart(..) => {
                open.push(Open::Map(Vec::new(), None));
                continue;
            }
            Event::Scalar(text, ..) => Value::Scalar(text.into_owned(), line),
            Event::Alias(_) => return Err(format!("line {line} has an alias")),
            Event::SequenceEnd | Event::MappingEnd => match open.pop() {
                Some(Open::List(values)) => Value::List(values),
                Some(Open::Map(entries, _)) => Value::Map(entries),
                None => return Err("is no valid YAML: a collection ends that never began".into()),
            },
            Event::DocumentEnd => break,
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentStart(_) => continue,
        };
        match open.last_mut() {
            None => return Ok(value),
            Some(Open::List(values)) => values.push(value),
            Some(Open::Map(entries, key)) => match (key.take(), value) {
                (Some((key, line)), value) => entries.push((key, line, value)),
                (None, Value::Scalar(text, line)) => *key = Some((text, line)),
                (None, _) => return Err(format!("line {line}: a key that is no text")),
            },
        }
    }
    // An empty file.
    Ok(Value::Map(Vec::new()))
}

/// What all files together say of one id.
struct Merged {
    path: GuestPath,
    definition: Definition,
}

/// All interfaces of netplan's files. /run is made anew at every start.
pub(crate) fn inspect(files: &Files) -> Vec<Interface> {
    // A file of /etc hides one of the same name in /lib; files are read in the order of their names.
    let mut paths: BTreeMap<Vec<u8>, GuestPath> = BTreeMap::new();
    for folder in ["/lib/netplan", "/etc/netplan"] {
        for path in files.with_suffix(folder, b".yaml") {
            paths.insert(path.name().to_vec(), path);
        }
    }
    let mut merged: Vec<Merged> = Vec::new();
    let mut network_manager = false;
    for path in paths.values() {
        let Some(contents) = files.config(path) else {
            continue;
        };
        match parse(&contents) {
            Ok(configuration) => {
                network_manager |= configuration.network_manager;
                for definition in configuration.definitions {
                    add(&mut merged, path, definition);
                }
            }
            Err(problem) => files.remark(format!("{path} {problem}: its interfaces are not known")),
        }
    }
    merged
        .iter()
        .filter_map(|merged| interface(files, merged, network_manager))
        .collect()
}

/// Later files add to earlier ones, and override them where they say something else.
fn add(merged: &mut Vec<Merged>, path: &GuestPath, new: Definition) {
    let Some(old) = merged.iter_mut().find(|old| old.definition.id == new.id) else {
        merged.push(Merged {
            path: path.clone(),
            definition: new,
        });
        return;
    };
    let definition = &mut old.definition;
    if new.mac.is_some() {
        // The line of the match belongs to its file.
        (old.path, definition.line) = (path.clone(), new.line);
        definition.mac = new.mac;
    }
    definition.matches |= new.matches;
    definition.match_name = new.match_name.or(definition.match_name.take());
    definition.set_name = new.set_name.or(definition.set_name.take());
    definition.dhcp |= new.dhcp;
    let known: BTreeSet<String> = definition.addresses.iter().cloned().collect();
    let fresh = new
        .addresses
        .into_iter()
        .filter(|address| !known.contains(address));
    definition.addresses.extend(fresh);
    definition.parts.extend(new.parts);
}

fn interface(files: &Files, merged: &Merged, network_manager: bool) -> Option<Interface> {
    let (path, definition) = (&merged.path, &merged.definition);
    if definition.section == "wifis" || definition.section == "modems" {
        files.remark(format!(
            "{path} line {} configures {}, an adapter without a cable, which is not moved",
            definition.line, definition.id
        ));
        return None;
    }
    let pattern = definition.match_name.as_deref();
    let literal = pattern.filter(|name| !has_wildcards(name.as_bytes()));
    if let (Some(pattern), None) = (pattern, literal) {
        files.remark(format!(
            "{path} line {}: {} applies to every adapter named {pattern}; look whether it fits the new ones",
            definition.line, definition.id
        ));
    }
    if let Some(driver) = &definition.match_driver {
        files.remark(format!(
            "{path} line {}: {} applies to adapters with the driver {driver}, which is another on other hardware",
            definition.line, definition.id
        ));
    }
    let name = match (&definition.set_name, definition.matches) {
        (Some(name), _) => Some(name.clone()),
        (None, true) => literal.map(str::to_owned),
        (None, false) => Some(lossy(definition.id.as_bytes())),
    };
    Some(Interface {
        name,
        path: path.clone(),
        line: definition.line,
        by: NetworkProgram::Netplan,
        addresses: definition.addresses.clone(),
        dhcp: definition.dhcp,
        mac: definition.mac.as_ref().map(|(mac, _)| mac.clone()),
        mac_line: definition.mac.as_ref().map(|(_, line)| *line),
        // Patterns of names are for systemd-networkd alone ("match" of netplan's reference).
        matches_only_mac: definition.mac.is_some()
            && definition.match_name.is_none()
            && definition.match_driver.is_none()
            && !network_manager,
        physical: definition.section == "ethernets",
    })
}

#[cfg(test)]
mod tests;
