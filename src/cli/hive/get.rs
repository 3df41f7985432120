//! `rehome hive get`: the data of a value.

use super::{
    super::{Outcome, print_json, unless_closed},
    Result, key_at, print_text, value_name,
};
use crate::{
    convert::Purpose,
    hive::{Shown, show},
};
use serde_json::json;
use std::io::{self, Write};

/// The data of a value
///
/// Text as it is, each string of a REG_MULTI_SZ on a line, numbers in decimal, all else in hexadecimal.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// The hive
    file: String,
    /// The key
    key: String,
    /// The value; @ is the default value
    name: String,
    /// Its bytes as they are stored
    #[arg(long, conflicts_with = "json")]
    raw: bool,
}

pub(super) fn run(command: &Arguments, arguments: &super::Arguments) -> Result {
    let file = arguments.read(&command.file, Purpose::Reading)?;
    let key = key_at(&file.hive, &command.key)?;
    let value = key.value(value_name(&command.name))?.ok_or_else(|| {
        format!(
            "{}: the key {} has no value {}",
            file.hive.label(),
            command.key,
            command.name
        )
    })?;
    let data = value.data()?;
    if command.raw {
        let mut out = io::stdout().lock();
        unless_closed(out.write_all(&data).and_then(|()| out.flush()))?;
        return Ok(Outcome::Done);
    }
    let shown = show(value.kind(), &data);
    if arguments.json {
        return print_json(&json!({
            "name": value.name().to_string(),
            "type": value.kind().to_string(),
            "data": shown,
        }));
    }
    match shown {
        Shown::Text(text) | Shown::Bytes(text) => print_text(&format_args!("{text}\n")),
        Shown::Texts(texts) => print_text(&texts.iter().map(|text| format!("{text}\n")).collect::<String>()),
        Shown::Number(number) => print_text(&format_args!("{number}\n")),
    }
}
