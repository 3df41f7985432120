//! Hives of real Windows, and edge cases that others made: read as hivex and the readers of the Python world do, edited where a
//! key is needed, and unchanged in all else.

use crate::{
    raw::{Raw, untouched_must_be_unchanged},
    seen::{
        KeyPath, PYTHON_READERS, Seen, by_hivex, by_us, join, judges_agree, must_be_alike, python_agrees,
        text,
    },
};
use rehome::hive::{Hive, ValueKind, control_set, encode_text};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// The hives by name, logs and other things left out; `None` if the samples are not there, which is said.
pub(crate) fn all() -> Option<BTreeMap<String, Vec<u8>>> {
    let Some(samples) = std::env::var_os("REHOME_SAMPLES") else {
        eprintln!("skipped: REHOME_SAMPLES is not set: the hives of other people were not looked at");
        return None;
    };
    let root = Path::new(&samples).join("hives");
    let mut files = Vec::new();
    files_below(&root, &mut files);
    let mut hives = BTreeMap::new();
    for path in files {
        let name = path.strip_prefix(&root).unwrap().display().to_string();
        let bytes = read(&path);
        // A hive, not a log.
        if bytes.starts_with(b"regf") && bytes.get(28..32) == Some(&[0; 4]) {
            hives.insert(name, bytes);
        }
    }
    assert!(hives.len() > 50);
    Some(hives)
}

/// Those of less than a MiB.
pub(crate) fn small() -> Option<BTreeMap<String, Vec<u8>>> {
    let mut hives = all()?;
    hives.retain(|_, bytes| bytes.len() < 1 << 20);
    Some(hives)
}

/// The bytes of one sample, unpacked.
pub(crate) fn sample(name: &str) -> Option<Vec<u8>> {
    let samples = PathBuf::from(std::env::var_os("REHOME_SAMPLES")?);
    let path = samples.join("hives").join(name);
    let packed = samples.join("hives").join(format!("{name}.xz"));
    let there = [path, packed].into_iter().find(|path| path.exists());
    if there.is_none() {
        eprintln!("skipped: there is no sample {name}");
    }
    there.map(|path| read(&path))
}

fn read(path: &Path) -> Vec<u8> {
    if path.extension().is_some_and(|extension| extension == "xz") {
        let output = Command::new("xz").args(["-dc"]).arg(path).output().unwrap();
        assert!(output.status.success());
        return output.stdout;
    }
    fs::read(path).unwrap()
}

fn files_below(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files_below(&path, files);
        } else {
            files.push(path);
        }
    }
}

/// No two keys of one name beside each other, no name with a zero, no parent that is none: what a model and other readers can follow.
pub(crate) fn is_plain(name: &str) -> bool {
    ![
        "DupName",
        "DuplicateSubkeys",
        "InvalidParent",
        "special",
        "Bogus",
        "Delta",
        "TruncatedPair",
        "SAN",
    ]
    .iter()
    .any(|odd| name.contains(odd))
}

/// What is read of a sample that hivex sees differently, and why.
fn hivex_is_wrong_about(name: &str) -> Option<&'static str> {
    let reasons = [
        ("InvalidParent", "it goes by parents"),
        ("Bogus", "names with line feeds"),
        ("special", "a name with a zero"),
        ("BadList", "it shows what is in use twice"),
        ("BadSubkey", "it shows what is in use twice"),
        ("NewDirtyHive2", "it does not look at logs"),
    ];
    reasons
        .iter()
        .find(|(odd, _)| name.contains(odd))
        .map(|(_, why)| *why)
}

/// The samples, in three parts that run beside each other.
fn read_alike(part: usize, python: bool) {
    let Some(all) = all() else { return };
    let folder = tempfile::tempdir().unwrap();
    let (mut alike, mut refused) = (0, 0);
    for (index, (name, bytes)) in all.iter().enumerate() {
        if index % 3 != part {
            continue;
        }
        let hive = match Hive::open(&**name, bytes.clone(), &[]) {
            Ok(hive) if hive.check().is_ok() => hive,
            Ok(hive) => {
                eprintln!("{}", hive.check().unwrap_err());
                refused += 1;
                continue;
            }
            Err(error) => {
                eprintln!("{error}");
                refused += 1;
                continue;
            }
        };
        let ours = by_us(&hive);
        let file = folder.path().join("hive");
        fs::write(&file, bytes).unwrap();
        if let Some(why) = hivex_is_wrong_about(name) {
            eprintln!("{name}: hivex is not asked: {why}");
        } else {
            match by_hivex(&file) {
                Ok(theirs) => must_be_alike(&ours, &theirs, &format!("{name}: hivexregedit")),
                Err(why) => eprintln!("{name}: hivex: {why}"),
            }
        }
        if python && is_plain(name) && hive.stale().is_none() {
            for reader in PYTHON_READERS {
                python_agrees(reader, &ours, &file, name);
            }
        }
        alike += 1;
    }
    eprintln!("{alike} read, {refused} refused");
    assert!(alike > 10);
}

#[test]
fn are_read_as_hivex_reads_them_1() {
    read_alike(0, false);
}

#[test]
fn are_read_as_hivex_reads_them_2() {
    read_alike(1, false);
}

#[test]
fn are_read_as_hivex_reads_them_3() {
    read_alike(2, false);
}

#[test]
#[ignore = "long: make test-all"]
fn are_read_as_the_python_world_reads_them() {
    for part in 0..3 {
        read_alike(part, true);
    }
}

/// Windows has its lists in the order of its upper case, with hashes of it: ours is the same, or no key would be found.
#[test]
fn are_in_the_order_of_our_names() {
    let Some(all) = small() else { return };
    let mut looked_at = 0;
    for (name, bytes) in all {
        let sound = Hive::open(&*name, bytes.clone(), &[])
            .is_ok_and(|hive| hive.check().is_ok() && hive.stale().is_none());
        // In the last a name was changed by hand, and its beginning in the list was not.
        if sound
            && !["WrongOrder", "DupName", "CompHive"]
                .iter()
                .any(|odd| name.contains(odd))
        {
            let raw = Raw::new(&bytes);
            raw.lists_must_be_in_order(&raw.keys(), &name);
            looked_at += 1;
        }
    }
    assert!(looked_at > 35, "{looked_at}");
}

/// The paths of a key and of those above it.
fn way_to(path: &str) -> Vec<KeyPath> {
    let mut way = Vec::new();
    for name in path.split('\\') {
        let above: &[u16] = way.last().map_or(&[], |path: &KeyPath| path);
        way.push(join(above, &name.encode_utf16().collect::<Vec<_>>()));
    }
    way
}

/// As a move edits a SYSTEM hive: a service, its entry in the driver database, and something that goes.
fn edit_system(name: &str, force: bool) {
    let Some(before) = sample(name) else { return };
    let mut hive = Hive::open(name, before.clone(), &[]).unwrap();
    if force {
        assert!(hive.edit(0).is_err());
        hive.force_dirty();
    }
    let mut touched = BTreeSet::new();
    let sets = control_set::bootable(&hive).unwrap();
    assert!(!sets.is_empty());
    let mut editor = hive.edit(1_700_000_000).unwrap();
    for set in &sets {
        let path = format!("{}\\Services\\viostor", set.name);
        touched.extend(way_to(&path));
        let key = editor.make_path(&path).unwrap();
        for (name, number) in [("Type", 1_u32), ("Start", 0), ("ErrorControl", 1)] {
            editor
                .set_value(key, name, ValueKind::DWORD, &number.to_le_bytes())
                .unwrap();
        }
        let image = encode_text("system32\\drivers\\viostor.sys");
        editor
            .set_value(key, "ImagePath", ValueKind::EXPAND_SZ, &image)
            .unwrap();
        editor
            .set_value(key, "Big", ValueKind::BINARY, &[7; 40_000])
            .unwrap();
        let services = editor.find(&format!("{}\\Services", set.name)).unwrap().unwrap();
        for gone in ["Beep", "Null"] {
            if editor.remove_key(services, gone).unwrap() {
                let path = format!("\\{}\\Services\\{gone}", set.name).to_lowercase();
                let all = Raw::new(&before).keys();
                let below = all
                    .into_keys()
                    .filter(|key| text(key).to_lowercase().starts_with(&path));
                touched.extend(below);
            }
        }
    }
    assert!(editor.commit().unwrap());
    let after = hive.file();
    let compared = untouched_must_be_unchanged(&before, after, &touched, name);
    eprintln!("{name}: {compared} keys unchanged");
    assert!(compared > 15_000);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("hive");
    fs::write(&file, after).unwrap();
    judges_agree(&file, false, name);
}

#[test]
fn a_system_of_windows_7_is_edited() {
    edit_system("regipy/SYSTEM", false);
}

#[test]
fn a_system_of_windows_8_is_edited_though_its_logs_are_lost() {
    edit_system("regipy/SYSTEM_2", true);
}

/// A whole hive written anew, value by value, into an empty one: every kind of key and value that a Windows has.
#[test]
#[ignore = "long: make test-all"]
fn are_written_anew_from_what_is_read() {
    let Some(before) = sample("regipy/SYSTEM") else {
        return;
    };
    let old = Hive::open("old", before, &[]).unwrap();
    let mut new = Hive::create("new", rehome::hive::Version::Latest, 0).unwrap();
    let mut editor = new.edit(0).unwrap();
    old.walk(&old.root().unwrap(), &mut |path, key| {
        let mut at = editor.hive().root()?.id();
        for name in path {
            let there = editor.hive().key(at)?.subkey(name)?.map(|key| key.id());
            at = match there {
                Some(there) => there,
                None => editor.create_key(at, name)?,
            };
        }
        for value in key.values()? {
            editor.set_value(at, value.name(), value.kind(), &value.data()?)?;
        }
        editor.set_class(at, key.class()?)?;
        editor.set_security(at, key.security()?)?;
        Ok(())
    })
    .unwrap();
    editor.commit().unwrap();
    Raw::new(new.file()).must_be_sound("written anew");
    let (old, new_seen): (Seen, Seen) = (by_us(&old), by_us(&new));
    must_be_alike(&old, &new_seen, "written anew");
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("hive");
    fs::write(&file, new.file()).unwrap();
    judges_agree(&file, true, "written anew");
}
