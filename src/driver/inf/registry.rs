//! What an INF file writes to the registry (Windows driver documentation, "INF AddReg Directive", "INF DelReg Directive").

use super::{Inf, InfError, Line, budget::Budget, flags, integer};
use serde::Serialize;

/// The `FLG_ADDREG_` and `FLG_DELREG_` bits of `setupapi.h`.
mod flag {
    /// The data is bytes; with bits of the upper half another type than `REG_BINARY`.
    pub(super) const BINARY: u32 = 0x1;
    pub(super) const DELETE_VALUE: u32 = 0x4;
    pub(super) const APPEND: u32 = 0x8;
    pub(super) const KEY_ONLY: u32 = 0x10;
    pub(super) const DELETE: u32 = 0x8000;
    /// The upper half, and [`BINARY`]: the type.
    pub(super) const TYPE: u32 = 0xffff_0001;
    pub(super) const MULTI_TEXT: u32 = 0x0001_0000;
    pub(super) const EXPANDED_TEXT: u32 = 0x0002_0000;
    pub(super) const NUMBER: u32 = 0x0001_0001;
    pub(super) const NONE: u32 = 0x0002_0001;
}

/// Where a key is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum RegistryRoot {
    /// `HKEY_CLASSES_ROOT`.
    #[serde(rename = "HKCR")]
    ClassesRoot,
    /// `HKEY_CURRENT_USER`.
    #[serde(rename = "HKCU")]
    CurrentUser,
    /// `HKEY_LOCAL_MACHINE`.
    #[serde(rename = "HKLM")]
    LocalMachine,
    /// `HKEY_USERS`.
    #[serde(rename = "HKU")]
    Users,
    /// What the section is about: the device's software key, its hardware key (`.HW`), the key of the service, of the event log.
    #[serde(rename = "HKR")]
    Relative,
}

/// One line of a section for the registry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RegistryChange {
    /// Where the key is.
    pub root: RegistryRoot,
    /// Names with backslashes between them; empty: the root itself.
    pub key: String,
    /// `None`: no value is named. Empty is the default value.
    pub value: Option<String>,
    /// What is done.
    pub action: RegistryAction,
    /// All bits as they stand there: do not replace (2), only replace (0x20), and more.
    pub flags: u32,
}

/// What is done to a key or a value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum RegistryAction {
    /// The key is made, no value is set.
    MakeKey,
    /// The value is set.
    Set(RegistryData),
    /// Texts are added to a value of many.
    Append(Vec<String>),
    /// The value is removed.
    DeleteValue,
    /// The text is removed from a value of many.
    DeleteText(String),
    /// The key is removed with all below it.
    DeleteKey,
}

/// Data of a value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum RegistryData {
    /// `REG_SZ`.
    Text(String),
    /// `REG_EXPAND_SZ`.
    ExpandedText(String),
    /// `REG_MULTI_SZ`.
    Texts(Vec<String>),
    /// `REG_DWORD`.
    Number(u32),
    /// Bytes of any type: 3 is `REG_BINARY`, 0 `REG_NONE`, 11 `REG_QWORD`.
    Bytes {
        /// The type's number.
        kind: u32,
        /// The data.
        bytes: Vec<u8>,
    },
}

/// `REG_BINARY`.
const REG_BINARY: u32 = 3;

impl Inf {
    /// The changes of the section that `AddReg = name` or `DelReg = name` asks for.
    pub(super) fn registry_changes(
        &self,
        directive: &str,
        name: &str,
        budget: &mut Budget,
        problems: &mut Vec<String>,
    ) -> Result<Vec<RegistryChange>, InfError> {
        let mut changes = Vec::new();
        let Some(section) = self.section(name) else {
            problems.push(format!(
                "{directive} names the section [{name}], which is not there"
            ));
            return Ok(changes);
        };
        let deletes = directive.eq_ignore_ascii_case("DelReg");
        for line in section.lines() {
            budget.take(line.texts().map(|text| text.len()).sum())?;
            match change(&line, deletes) {
                Ok(change) => changes.push(change),
                Err(problem) => problems.push(format!("line {}: {problem}", line.number())),
            }
        }
        Ok(changes)
    }
}

fn change(line: &Line<'_>, deletes: bool) -> Result<RegistryChange, String> {
    let root = match line.text(1).unwrap_or_default().to_ascii_uppercase().as_str() {
        "HKCR" => RegistryRoot::ClassesRoot,
        "HKCU" => RegistryRoot::CurrentUser,
        "HKLM" => RegistryRoot::LocalMachine,
        "HKU" => RegistryRoot::Users,
        "HKR" => RegistryRoot::Relative,
        other => return Err(format!("{other:?} is no root of the registry")),
    };
    let bits = match line.text(4).filter(|text| !text.is_empty()) {
        Some(text) => flags(Some(text)).ok_or("the flags are no number")?,
        None => 0,
    };
    let named = line.text(3).map(|text| text.into_owned());
    let key = line.text(2).unwrap_or_default();
    let action = if deletes {
        deletion(line, bits, named.as_deref())
    } else {
        addition(line, bits)?
    };
    let value = match action {
        RegistryAction::MakeKey | RegistryAction::DeleteKey => None,
        _ => Some(named.unwrap_or_default()),
    };
    Ok(RegistryChange {
        root,
        key: key.trim_matches('\\').to_owned(),
        value,
        action,
        flags: bits,
    })
}

/// Without the name of a value the whole key goes. An empty name is the default value only where flags say more.
fn deletion(line: &Line<'_>, bits: u32, value: Option<&str>) -> RegistryAction {
    let text = line.text(5).filter(|text| !text.is_empty());
    match text {
        Some(text) if bits & flag::TYPE == flag::MULTI_TEXT => RegistryAction::DeleteText(text.into_owned()),
        _ if value.is_none_or(str::is_empty) => RegistryAction::DeleteKey,
        _ => RegistryAction::DeleteValue,
    }
}

fn addition(line: &Line<'_>, bits: u32) -> Result<RegistryAction, String> {
    if bits & flag::DELETE != 0 {
        let text = line.text(5).unwrap_or_default().into_owned();
        return Ok(match bits & flag::TYPE {
            flag::MULTI_TEXT => RegistryAction::DeleteText(text),
            _ if line.text(3).is_none_or(|name| name.is_empty()) => RegistryAction::DeleteKey,
            _ => RegistryAction::DeleteValue,
        });
    }
    if bits & flag::DELETE_VALUE != 0 {
        return Ok(RegistryAction::DeleteValue);
    }
    if bits & flag::KEY_ONLY != 0 {
        return Ok(RegistryAction::MakeKey);
    }
    // A line that names neither a value nor data only makes the key.
    if line.count() < 3 || line.count() == 3 && line.text(3).is_none_or(|name| name.is_empty()) {
        return Ok(RegistryAction::MakeKey);
    }
    let text = || line.text(5).unwrap_or_default().into_owned();
    let texts = || {
        line.texts()
            .skip(4)
            .filter(|text| !text.is_empty())
            .map(|text| text.into_owned())
    };
    Ok(match bits & flag::TYPE {
        0 => RegistryAction::Set(RegistryData::Text(text())),
        flag::EXPANDED_TEXT => RegistryAction::Set(RegistryData::ExpandedText(text())),
        flag::MULTI_TEXT if bits & flag::APPEND != 0 => RegistryAction::Append(texts().collect()),
        flag::MULTI_TEXT => RegistryAction::Set(RegistryData::Texts(texts().collect())),
        flag::NUMBER => RegistryAction::Set(RegistryData::Number(number(line)?)),
        flag::BINARY => RegistryAction::Set(RegistryData::Bytes {
            kind: REG_BINARY,
            bytes: bytes(line)?,
        }),
        flag::NONE => RegistryAction::Set(RegistryData::Bytes {
            kind: 0,
            bytes: bytes(line)?,
        }),
        other if other & flag::BINARY != 0 => RegistryAction::Set(RegistryData::Bytes {
            kind: other >> 16,
            bytes: bytes(line)?,
        }),
        other => {
            return Err(format!(
                "the flags 0x{other:x} name no type of data that there is"
            ));
        }
    })
}

/// A number of 32 bits: one field, or four bytes with the lowest first.
fn number(line: &Line<'_>) -> Result<u32, String> {
    if line.count() > 5 {
        let bytes: [u8; 4] = bytes(line)?
            .try_into()
            .map_err(|_| "a number of 32 bits has four bytes")?;
        return Ok(u32::from_le_bytes(bytes));
    }
    match line.text(5).filter(|text| !text.is_empty()) {
        None => Ok(0),
        text => flags(text).ok_or_else(|| "the data is no number of 32 bits".to_owned()),
    }
}

/// Bytes, each a field of its own in hexadecimal, with or without `0x`.
fn bytes(line: &Line<'_>) -> Result<Vec<u8>, String> {
    let fields = line.texts().skip(4).filter(|text| !text.is_empty());
    fields
        .map(|field| {
            let plain = field.trim();
            let hexadecimal = match plain.get(..2) {
                Some("0x" | "0X") => integer(plain),
                _ => integer(&format!("0x{plain}")),
            };
            hexadecimal
                .and_then(|number| u8::try_from(number).ok())
                .ok_or_else(|| format!("{plain:?} is no byte in hexadecimal"))
        })
        .collect()
}
