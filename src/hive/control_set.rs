//! Control sets of a SYSTEM hive: which of `ControlSet001`, `ControlSet002`, … Windows starts with, or could.
//!
//! `CurrentControlSet` is not in the hive: it is a link that Windows makes at each start from `Select`.

use super::{Hive, Key, Name, Result};
use crate::disk::{Error, Kind};

/// The highest number that a control set's name has room for.
const LAST: u32 = 999;

/// What the key `Select` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Select {
    /// `Current`: what the last start used; what `Default` says where it is missing, since each start writes it anew.
    pub current: u32,
    /// `Default`: what the next start uses.
    pub default: Option<u32>,
    /// `LastKnownGood`: what can be chosen instead, if it was ever started well.
    pub last_known_good: Option<u32>,
    /// `Failed`: what was given up when that was chosen.
    pub failed: Option<u32>,
}

/// A control set that Windows can start with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ControlSet {
    /// As in `Select`.
    pub number: u32,
    /// The name of its key.
    pub name: String,
}

/// What `Select` says; `None` if the hive has none: it is no SYSTEM hive.
///
/// # Errors
/// Those of reading; [`Kind::Corrupt`] if neither `Current` nor `Default` is a number that a control set can have.
pub fn select(hive: &Hive) -> Result<Option<Select>> {
    let Some(key) = hive.find("Select")? else {
        return Ok(None);
    };
    let number = |name| Ok(key.dword(name)?.filter(|number| (1..=LAST).contains(number)));
    let default = number("Default")?;
    let Some(current) = number("Current")?.or(default) else {
        let text = "neither Current nor Default in the key Select names a control set: this Windows cannot start; restore the \
                    SYSTEM hive";
        return Err(Error::new(Kind::Corrupt, hive.label(), text));
    };
    Ok(Some(Select {
        current,
        default,
        last_known_good: number("LastKnownGood")?,
        failed: number("Failed")?,
    }))
}

/// All control sets that Windows can start with, the next start's first: those that `Default`, `Current` and `LastKnownGood`
/// name and that are there.
///
/// # Errors
/// Those of reading; [`Kind::NotFound`] if it is no SYSTEM hive, [`Kind::Corrupt`] if none of them is there.
pub fn bootable(hive: &Hive) -> Result<Vec<ControlSet>> {
    let select = select(hive)?.ok_or_else(|| {
        Error::new(
            Kind::NotFound,
            hive.label(),
            "there is no key Select: it is no SYSTEM hive",
        )
    })?;
    let mut found: Vec<ControlSet> = Vec::new();
    let named = [select.default, Some(select.current), select.last_known_good];
    for number in named.into_iter().flatten() {
        let name = key_name(number);
        if found.iter().all(|set| set.number != number) && hive.find(&name)?.is_some() {
            found.push(ControlSet { number, name });
        }
    }
    if found.is_empty() {
        let text = format!(
            "{} is not there: this Windows cannot start; restore the SYSTEM hive",
            key_name(select.current)
        );
        return Err(Error::new(Kind::Corrupt, hive.label(), text));
    }
    Ok(found)
}

/// The key of the control set that `CurrentControlSet` would stand for: that of the next start.
///
/// # Errors
/// As [`bootable`].
pub fn current(hive: &Hive) -> Result<Key<'_>> {
    let name = bootable(hive)?
        .into_iter()
        .next()
        .map(|set| set.name)
        .unwrap_or_default();
    hive.find(&name)?
        .ok_or_else(|| Error::new(Kind::Corrupt, hive.label(), format!("{name} is not there")))
}

/// `path` with `CurrentControlSet` at its start replaced by the control set that it stands for, if `hive` is a SYSTEM hive.
///
/// # Errors
/// As [`bootable`], only if the path begins so.
pub fn resolve(hive: &Hive, path: &str) -> Result<String> {
    let names = path.split('\\').filter(|name| !name.is_empty()).map(Name::from);
    let names = resolve_names(hive, names.collect())?;
    Ok(names.iter().map(Name::to_string).collect::<Vec<_>>().join("\\"))
}

/// [`resolve`], name by name.
pub(super) fn resolve_names(hive: &Hive, mut path: Vec<Name>) -> Result<Vec<Name>> {
    let link = Name::from("CurrentControlSet");
    if let Some(first) = path.first_mut()
        && *first == link
        && hive.find("Select")?.is_some()
        && hive.root()?.subkey(&link)?.is_none()
    {
        let set = bootable(hive)?.into_iter().next();
        *first = Name::from(set.map(|set| set.name).unwrap_or_default().as_str());
    }
    Ok(path)
}

fn key_name(number: u32) -> String {
    format!("ControlSet{number:03}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hive::{ValueKind, Version};

    fn hive(select: &[(&str, u32)], sets: &[&str]) -> Hive {
        let mut hive = Hive::create("SYSTEM", Version::Latest, 0).unwrap();
        let mut editor = hive.edit(0).unwrap();
        let key = editor.make_path("Select").unwrap();
        for (name, number) in select {
            editor
                .set_value(key, *name, ValueKind::DWORD, &number.to_le_bytes())
                .unwrap();
        }
        for set in sets {
            editor.make_path(set).unwrap();
        }
        editor.commit().unwrap();
        hive
    }

    #[test]
    fn all_that_can_start_are_found_once_the_next_first() {
        let values = [
            ("Current", 2),
            ("Default", 1),
            ("LastKnownGood", 3),
            ("Failed", 0),
        ];
        let hive = hive(
            &values,
            &["ControlSet001", "ControlSet002", "ControlSet003", "ControlSet004"],
        );
        let select = select(&hive).unwrap().unwrap();
        assert_eq!(
            (select.current, select.default, select.failed),
            (2, Some(1), None)
        );
        let numbers: Vec<u32> = bootable(&hive).unwrap().iter().map(|set| set.number).collect();
        assert_eq!(numbers, [1, 2, 3]);
        assert_eq!(
            current(&hive).unwrap().name().unwrap(),
            Name::from("ControlSet001")
        );
        assert_eq!(
            resolve(&hive, "\\currentcontrolset\\Services").unwrap(),
            "ControlSet001\\Services"
        );
        assert_eq!(resolve(&hive, "Select").unwrap(), "Select");
    }

    #[test]
    fn what_is_named_and_missing_is_left_out() {
        let hive1 = hive(
            &[("Current", 1), ("Default", 1), ("LastKnownGood", 2)],
            &["ControlSet001"],
        );
        assert_eq!(bootable(&hive1).unwrap().len(), 1);
        assert!(bootable(&hive(&[("Current", 1)], &[])).is_err());
        let hive2 = hive(&[("Default", 2)], &["ControlSet002"]);
        assert_eq!(bootable(&hive2).unwrap()[0].name, "ControlSet002");
        assert!(select(&hive(&[("LastKnownGood", 1)], &["ControlSet001"])).is_err());
        assert!(select(&hive(&[("Current", 0)], &[])).is_err());
        let other = Hive::create("SOFTWARE", Version::Latest, 0).unwrap();
        assert_eq!(select(&other).unwrap(), None);
        assert_eq!(bootable(&other).unwrap_err().kind, Kind::NotFound);
        assert_eq!(
            resolve(&other, "CurrentControlSet\\x").unwrap(),
            "CurrentControlSet\\x"
        );
    }
}
