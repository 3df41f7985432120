//! `rehome hive ls`: subkeys and values of a key.

use super::{super::print_json, Result, key_at, print_text};
use crate::{
    convert::Purpose,
    hive::{Key, Shown, Value, show},
};
use serde_json::json;

/// Bytes of a value that are shown on its line; `hive get` has all.
const MOST_SHOWN: usize = 32;

/// Subkeys and values of a key
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// The hive
    file: String,
    /// The key; without it the root
    #[arg(default_value = "", hide_default_value = true)]
    key: String,
}

pub(super) fn run(command: &Arguments, arguments: &super::Arguments) -> Result {
    let file = arguments.read(&command.file, Purpose::Reading)?;
    let key = key_at(&file.hive, &command.key)?;
    if arguments.json {
        return print_json(&facts(&key)?);
    }
    let mut text = String::new();
    for subkey in key.subkeys()? {
        text += &format!("{}\\\n", subkey.name()?);
    }
    for value in key.values()? {
        text += &line(&value)?;
    }
    print_text(&text)
}

fn line(value: &Value<'_>) -> crate::disk::Result<String> {
    let name = match value.name() {
        name if name.is_empty() => "@".to_owned(),
        name => name.to_string(),
    };
    let data = match show(value.kind(), &value.data()?) {
        Shown::Text(text) => text,
        Shown::Texts(texts) => texts.join(" | "),
        Shown::Number(number) => format!("{number:#x}"),
        Shown::Bytes(digits) => match digits.get(..2 * MOST_SHOWN) {
            Some(first) if first.len() < digits.len() => format!("{first}… {} bytes", digits.len() / 2),
            _ => digits,
        },
    };
    Ok(format!("{name}  {}  {data}\n", value.kind()))
}

fn facts(key: &Key<'_>) -> crate::disk::Result<serde_json::Value> {
    let subkeys = key.subkeys()?.into_iter().map(|key| Ok(key.name()?.to_string()));
    let values = key.values()?.into_iter().map(|value| {
        Ok(json!({
            "name": value.name().to_string(),
            "type": value.kind().to_string(),
            "data": show(value.kind(), &value.data()?),
        }))
    });
    Ok(json!({
        "name": key.name()?.to_string(),
        "written": i64::try_from(key.written().nanoseconds().div_euclid(1_000_000_000)).ok(),
        "class": key.class()?.map(crate::hive::decode_text),
        "subkeys": subkeys.collect::<crate::disk::Result<Vec<_>>>()?,
        "values": values.collect::<crate::disk::Result<Vec<_>>>()?,
    }))
}
