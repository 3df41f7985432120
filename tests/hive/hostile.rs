//! Hives made to do harm: refused or read around, quickly, in little memory, and never with a panic.

use crate::samples;
use proptest::prelude::*;
use rehome::{
    disk::Kind,
    hive::{
        Hive, ValueKind, Version,
        bcd::Store,
        control_set,
        reg_file::{Style, export},
    },
};
use std::{
    sync::LazyLock,
    time::{Duration, Instant},
};

/// All that can be read of a hive, and a few edits.
fn look_at(file: Vec<u8>, logs: &[Vec<u8>]) {
    let Ok(mut hive) = Hive::open("hostile", file, logs) else {
        return;
    };
    let mut keys = 0;
    if let Ok(root) = hive.root() {
        let _ = hive.walk(&root, &mut |_, key| {
            keys += 1;
            let _ = (key.name(), key.class(), key.security());
            for value in key.values().unwrap_or_default() {
                let _ = value.data();
            }
            Ok(())
        });
    }
    assert!(keys <= hive.file().len() / 24);
    let _ = control_set::bootable(&hive);
    let _ = Store::read(&hive);
    if let Ok(root) = hive.root() {
        let _ = export(&hive, &root, "", Style::Version5, &mut std::io::sink());
    }
    hive.force_dirty();
    let sound = hive.check().is_ok();
    let Ok(mut editor) = hive.edit(1) else {
        assert!(!sound, "a sound hive can be edited");
        return;
    };
    let Ok(root) = editor.make_path("") else { return };
    let _ = editor.set_value(root, "new", ValueKind::BINARY, &[1; 20_000]);
    let _ = editor.make_path("new\\key");
    let names: Vec<_> = editor
        .hive()
        .root()
        .and_then(|root| root.subkeys())
        .unwrap_or_default()
        .iter()
        .filter_map(|key| key.name().ok())
        .collect();
    let mut removed = 0;
    for name in names.iter().step_by(2) {
        removed += usize::from(editor.remove_key(root, name).is_ok());
    }
    if editor.commit().is_ok() {
        let again = Hive::open("again", hive.into_file(), &[]).unwrap();
        assert_eq!(again.stale(), None);
        again
            .check()
            .unwrap_or_else(|error| panic!("after {removed} keys were removed: {error}"));
    }
}

static LATEST: LazyLock<Vec<u8>> = LazyLock::new(|| make(Version::Latest));
static STANDARD: LazyLock<Vec<u8>> = LazyLock::new(|| make(Version::Standard));

/// A hive with a little of everything.
fn small(version: Version) -> Vec<u8> {
    match version {
        Version::Latest => LATEST.clone(),
        Version::Standard => STANDARD.clone(),
    }
}

fn make(version: Version) -> Vec<u8> {
    let mut hive = Hive::create("small", version, 0).unwrap();
    let mut editor = hive.edit(0).unwrap();
    for path in [
        "Select",
        "ControlSet001\\Services\\disk",
        "Objects\\{9dea862c-5cdd-4e70-acc1-f32b344d4795}\\Elements\\11000001",
    ] {
        let key = editor.make_path(path).unwrap();
        editor
            .set_value(key, "Element", ValueKind::BINARY, &[6; 88])
            .unwrap();
        editor
            .set_value(key, "Current", ValueKind::DWORD, &[1, 0, 0, 0])
            .unwrap();
        editor
            .set_value(key, "", ValueKind::SZ, &[65, 0, 0, 0, 0, 0])
            .unwrap();
        editor.set_class(key, Some(b"c\0l\0")).unwrap();
    }
    let many = editor.make_path("Many").unwrap();
    for number in 0..520 {
        editor.create_key(many, number.to_string().as_str()).unwrap();
    }
    editor
        .set_value(many, "big", ValueKind::BINARY, &[9; 40_000])
        .unwrap();
    editor.commit().unwrap();
    hive.into_file()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn changed_bytes_do_no_harm(
        latest in any::<bool>(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), prop_oneof![Just(0_u8), Just(0xff), any::<u8>()]), 1..12),
        near in any::<bool>(),
    ) {
        let mut file = small(if latest { Version::Latest } else { Version::Standard });
        let most = if near { 4096 + 4096 } else { file.len() };
        for (at, byte) in changes {
            let at = at.index(most);
            file[at] = byte;
        }
        look_at(file, &[]);
    }

    #[test]
    fn spliced_words_do_no_harm(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>()), 1..8),
    ) {
        let mut file = small(Version::Latest);
        // A pointer becomes another pointer: rings, cells that two have.
        for (to, from) in changes {
            let (to, from) = (4 * to.index(file.len() / 4), 4 * from.index(file.len() / 4));
            file.copy_within(from..from + 4, to);
        }
        look_at(file, &[]);
    }

    #[test]
    fn truncated_files_do_no_harm(cut in any::<prop::sample::Index>(), fix in any::<bool>()) {
        let mut file = small(Version::Latest);
        let cut = cut.index(file.len());
        file.truncate(cut);
        if fix && cut > 8192 {
            let size = (cut - 4096) / 4096 * 4096;
            file[40..44].copy_from_slice(&(size as u32).to_le_bytes());
        }
        look_at(file, &[]);
    }
}

#[test]
fn samples_with_changed_pointers_do_no_harm() {
    let Some(all) = samples::small() else { return };
    for (_, file) in all {
        look_at(file.clone(), &[]);
        for at in (4096..file.len().min(4096 + 4096)).step_by(340) {
            let mut file = file.clone();
            file.copy_within(36..40, at / 4 * 4);
            look_at(file, &[]);
        }
    }
}

/// A key that is its own subkey, and one that has its parent below it.
#[test]
fn rings_of_keys_are_met_once() {
    let sound = small(Version::Latest);
    let root = 32_u32;
    let position = sound
        .windows(2)
        .enumerate()
        .skip(4096 + 200)
        .find(|(_, two)| two == b"lh")
        .unwrap()
        .0;
    let mut file = sound.clone();
    file[position + 4..position + 8].copy_from_slice(&root.to_le_bytes());
    let hive = Hive::open("ring", file.clone(), &[]).unwrap();
    let error = hive.check().unwrap_err();
    assert_eq!(error.kind, Kind::Corrupt);
    assert!(error.offset.is_some(), "{error}");
    let mut met = 0;
    let walked = hive.walk(&hive.root().unwrap(), &mut |_, _| {
        met += 1;
        Ok(())
    });
    assert!(walked.is_err() && met < 1000);
    look_at(file, &[]);
}

/// Lists that name the same thing again and again would have more keys than the hive has bytes.
#[test]
fn lists_that_repeat_themselves_are_bounded() {
    let mut file = small(Version::Latest);
    let root_list = file
        .windows(2)
        .enumerate()
        .skip(4096 + 200)
        .find(|(_, two)| two == b"ri")
        .unwrap()
        .0;
    let leaf: [u8; 4] = file[root_list + 4..root_list + 8].try_into().unwrap();
    // The cell has room for few, so the index root reaches into what follows, as far as the cell goes.
    file[root_list + 8..root_list + 12].copy_from_slice(&leaf);
    let started = Instant::now();
    look_at(file, &[]);
    assert!(started.elapsed() < Duration::from_secs(5));
}

/// What is said about bytes that are no hive.
#[test]
fn what_is_no_hive_is_said_to_be_none() {
    for (bytes, kind, said) in [
        (vec![], Kind::Corrupt, "not a registry hive"),
        (b"regf".to_vec(), Kind::Corrupt, "cut short"),
        (vec![0; 8192], Kind::Corrupt, "not a registry hive"),
        (
            [b"regf".to_vec(), vec![0; 8188]].concat(),
            Kind::Unsupported,
            "version 0.0",
        ),
    ] {
        let error = Hive::open("file", bytes, &[]).unwrap_err();
        assert_eq!(error.kind, kind, "{error}");
        assert!(error.to_string().contains(said), "{error}");
    }
}
