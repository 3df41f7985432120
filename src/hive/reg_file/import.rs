//! Carrying out what a registration file says.

use super::parse::{RegFile, Section, ValueChange};
use crate::{
    disk::{Error, Kind},
    hive::{Editor, KeyId, Name, Result, control_set},
};

/// What was done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Imported {
    /// Keys that were made.
    pub keys_made: usize,
    /// Keys that were removed; those below them are not counted.
    pub keys_removed: usize,
    /// Values that are other than they were.
    pub values_set: usize,
    /// Values that were removed.
    pub values_removed: usize,
}

/// Does to a hive what `file` says. `prefix` is what the paths in the file have before those of the hive, such as
/// `HKEY_LOCAL_MACHINE\SYSTEM`. `CurrentControlSet` of a SYSTEM hive is the control set that it stands for.
///
/// # Errors
/// [`Kind::NotFound`] for a key that is not below `prefix`, [`Kind::Unsupported`] for removing the root; those of editing. Nothing
/// must be committed then.
pub fn import(file: &RegFile, prefix: &str, editor: &mut Editor<'_>) -> Result<Imported> {
    let prefix: Vec<Name> = prefix
        .split('\\')
        .filter(|name| !name.is_empty())
        .map(Name::from)
        .collect();
    let mut done = Imported::default();
    for section in &file.sections {
        match section {
            Section::Key { path, values } => {
                let path = below(path, &prefix, editor)?;
                let key = make(&path, editor, &mut done)?;
                for value in values {
                    apply(value, key, editor, &mut done)?;
                }
            }
            Section::Remove { path } => {
                let mut path = below(path, &prefix, editor)?;
                let Some(name) = path.pop() else {
                    let text = "the registration file removes the root, which a hive always has";
                    return Err(Error::new(Kind::Unsupported, editor.hive().label(), text));
                };
                if let Some(parent) = find(&path, editor)?
                    && editor.remove_key(parent, &name)?
                {
                    done.keys_removed = done.keys_removed.saturating_add(1);
                }
            }
        }
    }
    Ok(done)
}

/// The path within the hive.
fn below(path: &[Name], prefix: &[Name], editor: &Editor<'_>) -> Result<Vec<Name>> {
    let within = path
        .strip_prefix(prefix)
        .filter(|within| !within.first().is_some_and(is_of_the_registry));
    match within {
        Some(path) => control_set::resolve_names(editor.hive(), path.to_vec()),
        None => {
            let join = |names: &[Name]| names.iter().map(Name::to_string).collect::<Vec<_>>().join("\\");
            let text = format!(
                "the registration file has the key {}, which is not below \"{}\": give the prefix that its keys have, or take \
                 out what belongs to another hive",
                join(path),
                join(prefix)
            );
            Err(Error::new(Kind::NotFound, editor.hive().label(), text))
        }
    }
}

/// Is it the name of a part of the whole registry, which no key of a hive has?
fn is_of_the_registry(name: &Name) -> bool {
    name.to_string().to_ascii_uppercase().starts_with("HKEY_")
}

fn make(path: &[Name], editor: &mut Editor<'_>, done: &mut Imported) -> Result<KeyId> {
    let mut key = editor.hive().root()?.id();
    for name in path {
        let there = editor.hive().key(key)?.subkey(name)?.map(|key| key.id());
        key = match there {
            Some(there) => there,
            None => {
                done.keys_made = done.keys_made.saturating_add(1);
                editor.create_key(key, name)?
            }
        };
    }
    Ok(key)
}

fn find(path: &[Name], editor: &Editor<'_>) -> Result<Option<KeyId>> {
    let mut key = editor.hive().root()?;
    for name in path {
        match key.subkey(name)? {
            Some(below) => key = below,
            None => return Ok(None),
        }
    }
    Ok(Some(key.id()))
}

fn apply(value: &ValueChange, key: KeyId, editor: &mut Editor<'_>, done: &mut Imported) -> Result<()> {
    match &value.data {
        Some((kind, data)) => {
            if editor.set_value(key, &value.name, *kind, data)? {
                done.values_set = done.values_set.saturating_add(1);
            }
        }
        None => {
            if editor.remove_value(key, &value.name)? {
                done.values_removed = done.values_removed.saturating_add(1);
            }
        }
    }
    Ok(())
}
