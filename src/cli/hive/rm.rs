//! `rehome hive rm`: removes a value, or a key with all below it.

use super::{EditArguments, Result, key_at, value_name};
use crate::hive::control_set;

/// Remove a value, or a key with all that is below it
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// The hive
    file: String,
    /// The key
    key: String,
    /// The value; @ is the default value; without it the key goes, and all below it
    name: Option<String>,
    #[command(flatten)]
    to: EditArguments,
}

pub(super) fn run(command: &Arguments, arguments: &super::Arguments) -> Result {
    arguments.edit(&command.file, &command.to, |editor| {
        let path = control_set::resolve(editor.hive(), &command.key)?;
        let key = key_at(editor.hive(), &path)?.id();
        if let Some(name) = &command.name {
            if editor.remove_value(key, value_name(name))? {
                return Ok(format!("{path}: {name} removed"));
            }
            return Err(format!("{}: the key {path} has no value {name}", editor.hive().label()).into());
        }
        let (above, name) = path.rsplit_once('\\').unwrap_or(("", &path));
        if name.is_empty() {
            return Err(format!("{}: the root of a hive cannot be removed", editor.hive().label()).into());
        }
        let above = key_at(editor.hive(), above)?.id();
        editor.remove_key(above, name)?;
        Ok(format!("{path}: removed"))
    })
}
