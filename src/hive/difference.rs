//! What differs between two hives: the judge of an edit, and its report.

use super::{Hive, Key, Name, Result, ValueKind};
use std::collections::BTreeMap;

/// One thing that differs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// The path of the key, from the root.
    pub key: String,
    /// What became of it.
    pub change: Change,
}

/// What became of a key or of one of its values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// The key is new. Its values, and the keys below it, come as differences of their own.
    KeyAdded,
    /// The key is gone, with all that was below it.
    KeyRemoved,
    /// The class name is another.
    Class,
    /// The security descriptor is another.
    Security,
    /// A value is new, gone, or another.
    Value {
        /// Its name; empty for the default value.
        name: String,
        /// Type and bytes as they were.
        before: Option<(ValueKind, Vec<u8>)>,
        /// Type and bytes as they are.
        after: Option<(ValueKind, Vec<u8>)>,
    },
}

/// What differs from `before` to `after`, by path. Times are not looked at, nor where things lie.
///
/// # Errors
/// Those of reading: damaged hives are not compared.
pub fn difference(before: &Hive, after: &Hive) -> Result<Vec<Difference>> {
    before.check()?;
    after.check()?;
    let mut found = Vec::new();
    let mut ahead = vec![(String::new(), before.root()?, after.root()?)];
    while let Some((path, before, after)) = ahead.pop() {
        same_key(&path, &before, &after, &mut found)?;
        let old = by_name(before.subkeys()?, Key::name)?;
        let mut new = by_name(after.subkeys()?, Key::name)?;
        for (name, before) in old {
            let path = join(&path, &name);
            match new.remove(&name) {
                Some(after) => ahead.push((path, before, after)),
                None => found.push(Difference {
                    key: path,
                    change: Change::KeyRemoved,
                }),
            }
        }
        for (name, key) in new {
            added(&join(&path, &name), &key, &mut found)?;
        }
    }
    found.sort_by(|a, b| a.key.cmp(&b.key));
    Ok(found)
}

fn added(path: &str, key: &Key<'_>, found: &mut Vec<Difference>) -> Result<()> {
    key.hive.walk(key, &mut |below, key| {
        let path = below.iter().fold(path.to_owned(), |path, name| join(&path, name));
        found.push(Difference {
            key: path.clone(),
            change: Change::KeyAdded,
        });
        for value in key.values()? {
            found.push(Difference {
                key: path.clone(),
                change: Change::Value {
                    name: value.name().to_string(),
                    before: None,
                    after: Some((value.kind(), value.data()?.into_owned())),
                },
            });
        }
        Ok(())
    })
}

fn same_key(path: &str, before: &Key<'_>, after: &Key<'_>, found: &mut Vec<Difference>) -> Result<()> {
    let mut push = |change| {
        found.push(Difference {
            key: path.to_owned(),
            change,
        });
    };
    if before.class()? != after.class()? {
        push(Change::Class);
    }
    if before.security()? != after.security()? {
        push(Change::Security);
    }
    let old = by_name(before.values()?, |value| Ok(value.name().clone()))?;
    let mut new = by_name(after.values()?, |value| Ok(value.name().clone()))?;
    for (name, value) in old {
        let before = (value.kind(), value.data()?);
        let after = match new.remove(&name) {
            Some(value) => Some((value.kind(), value.data()?)),
            None => None,
        };
        if after.as_ref() != Some(&before) {
            push(Change::Value {
                name: name.to_string(),
                before: Some((before.0, before.1.into_owned())),
                after: after.map(|(kind, data)| (kind, data.into_owned())),
            });
        }
    }
    for (name, value) in new {
        push(Change::Value {
            name: name.to_string(),
            before: None,
            after: Some((value.kind(), value.data()?.into_owned())),
        });
    }
    Ok(())
}

/// By name; of two of the same name, which a hive should not have, the first.
fn by_name<T>(all: Vec<T>, name: impl Fn(&T) -> Result<Name>) -> Result<BTreeMap<Name, T>> {
    let mut map = BTreeMap::new();
    for one in all {
        map.entry(name(&one)?).or_insert(one);
    }
    Ok(map)
}

fn join(path: &str, name: &Name) -> String {
    if path.is_empty() {
        name.to_string()
    } else {
        format!("{path}\\{name}")
    }
}
