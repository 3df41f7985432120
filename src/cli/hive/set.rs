//! `rehome hive set`: makes a key, or gives it a value.

use super::{EditArguments, Result, value_name};
use crate::hive::{ValueKind, control_set, from_words};

/// Make a key, or give it a value; what is missing above it is made
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// The hive
    file: String,
    /// The key
    key: String,
    /// The value; @ is the default value; without it only the key is made
    name: Option<String>,
    /// Its data: a text, the strings of a REG_MULTI_SZ, a number (decimal or with 0x), or bytes in hexadecimal
    #[arg(allow_negative_numbers = true)]
    data: Vec<String>,
    /// Its type, by name or number [default: as it is, or REG_SZ]
    #[arg(long = "type", value_name = "TYPE", value_parser = kind, requires = "name")]
    kind: Option<ValueKind>,
    #[command(flatten)]
    to: EditArguments,
}

fn kind(name: &str) -> std::result::Result<ValueKind, String> {
    ValueKind::from_name(name)
        .ok_or_else(|| format!("`{name}` is no type: REG_SZ, REG_DWORD, REG_MULTI_SZ, ..., or a number"))
}

pub(super) fn run(command: &Arguments, arguments: &super::Arguments) -> Result {
    arguments.edit(&command.file, &command.to, |editor| {
        let path = control_set::resolve(editor.hive(), &command.key)?;
        let there = editor.find(&path)?;
        let key = editor.make_path(&path)?;
        let Some(name) = &command.name else {
            return Ok(match there {
                Some(_) => format!("{path}: is there"),
                None => format!("{path}: made"),
            });
        };
        let before = editor
            .hive()
            .key(key)?
            .value(value_name(name))?
            .map(|value| value.kind());
        let kind = command.kind.or(before).unwrap_or(ValueKind::SZ);
        let data = from_words(kind, &command.data)?;
        let changed = editor.set_value(key, value_name(name), kind, &data)?;
        Ok(match (changed, before) {
            (true, Some(_)) => format!("{path}: {name} changed, {kind}"),
            (true, None) => format!("{path}: {name} made, {kind}"),
            (false, _) => format!("{path}: {name} is just so"),
        })
    })
}
