//! Thousands of random edits, against a model.

use crate::{
    model::{Model, Op, op},
    raw::{Raw, untouched_must_be_unchanged},
    samples,
    seen::judges_agree,
};
use proptest::{prelude::*, test_runner::TestRunner};
use rehome::hive::{FileTime, Hive, ValueKind, Version};
use std::fs;

const CLOCK: u64 = 1_700_000_000;

/// Does `ops` to a hive that holds `file`, in two batches; what is there afterwards is looked at by all.
fn edits(file: &[u8], ops: &[Op], when: &str, judges: Judges) {
    let folder = tempfile::tempdir().unwrap();
    let mut hive = Hive::open(when, file.to_vec(), &[]).unwrap();
    let mut model = Model::read(&hive);
    for batch in ops.chunks(ops.len().div_ceil(2).max(1)) {
        let mut editor = hive.edit(CLOCK).unwrap();
        for op in batch {
            model.step(op, &mut editor);
        }
        editor.commit().unwrap();
        hive = Hive::open(when, hive.into_file(), &[]).unwrap();
        assert_eq!((hive.stale(), hive.recovered()), (None, None), "{when}");
        hive.check().unwrap();
        model.must_be_in(&hive, when);
    }
    untouched_must_be_unchanged(file, hive.file(), &model.touched, when);
    if judges != Judges::Ours {
        let path = folder.path().join("hive");
        fs::write(&path, hive.file()).unwrap();
        judges_agree(&path, judges == Judges::All, when);
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Judges {
    Ours,
    Hivex,
    All,
}

fn run(file: &[u8], cases: u32, most: usize, when: &str, judges: Judges) {
    let config = ProptestConfig {
        cases,
        failure_persistence: None,
        // Other programs are asked each time.
        max_shrink_iters: if judges == Judges::Ours { 1000 } else { 20 },
        ..ProptestConfig::default()
    };
    let ops = prop::collection::vec(op(), 1..most);
    TestRunner::new(config)
        .run(&ops, |ops| {
            edits(file, &ops, when, judges);
            Ok(())
        })
        .unwrap();
}

fn new(version: Version) -> Vec<u8> {
    Hive::create("new", version, 0).unwrap().into_file()
}

#[test]
fn of_a_new_hive_in_the_latest_format() {
    run(&new(Version::Latest), 60, 60, "latest", Judges::Ours);
    run(&new(Version::Latest), 10, 60, "latest", Judges::Hivex);
    run(&new(Version::Latest), 2, 60, "latest", Judges::All);
}

#[test]
fn of_a_new_hive_in_the_standard_format() {
    run(&new(Version::Standard), 60, 60, "standard", Judges::Ours);
    run(&new(Version::Standard), 10, 60, "standard", Judges::Hivex);
    run(&new(Version::Standard), 2, 60, "standard", Judges::All);
}

/// Sound before and after: sequence numbers, checksum, bins, order of lists, users of security items.
#[test]
fn leave_hives_as_windows_wants_them() {
    for version in [Version::Standard, Version::Latest] {
        let config = ProptestConfig {
            cases: 40,
            failure_persistence: None,
            ..ProptestConfig::default()
        };
        TestRunner::new(config)
            .run(&prop::collection::vec(op(), 1..80), |ops| {
                let mut hive = Hive::create("new", version, 0).unwrap();
                let mut model = Model::read(&hive);
                let mut editor = hive.edit(CLOCK).unwrap();
                for op in &ops {
                    model.step(op, &mut editor);
                }
                editor.commit().unwrap();
                Raw::new(hive.file()).must_be_sound("random edits");
                Ok(())
            })
            .unwrap();
    }
}

#[test]
fn of_small_hives_of_real_windows() {
    let Some(all) = samples::small() else { return };
    for (name, file) in all {
        if Hive::open(&*name, file.clone(), &[]).is_ok_and(|mut hive| hive.edit(0).is_ok())
            && samples::is_plain(&name)
        {
            run(&file, 4, 60, &name, Judges::Ours);
            run(&file, 1, 60, &name, Judges::Hivex);
        }
    }
}

#[test]
#[ignore = "long: make test-all"]
fn of_all_hives_of_real_windows_for_a_long_time() {
    let Some(all) = samples::all() else { return };
    for (name, file) in all {
        if Hive::open(&*name, file.clone(), &[]).is_ok_and(|mut hive| hive.edit(0).is_ok())
            && samples::is_plain(&name)
        {
            let cases = if file.len() > 2 << 20 { 2 } else { 40 };
            run(&file, cases, 200, &name, Judges::Ours);
            run(&file, cases.min(4), 200, &name, Judges::Hivex);
            run(&file, 1, 200, &name, Judges::All);
        }
    }
    for version in [Version::Standard, Version::Latest] {
        run(&new(version), 2000, 150, "new", Judges::Ours);
    }
}

/// Thousands of keys: leaves become index roots, divide and go again.
#[test]
fn many_subkeys_divide_their_lists() {
    for (version, kinds) in [
        (Version::Latest, [b"lh", b"lh"]),
        (Version::Standard, [b"lf", b"li"]),
    ] {
        let mut hive = Hive::create("new", version, 0).unwrap();
        let folder = tempfile::tempdir().unwrap();
        // In an order that fills the lists from all sides.
        let names: Vec<String> = (0..2300_u64)
            .map(|n| format!("Key {}", n * 1103 % 2300))
            .collect();
        let mut editor = hive.edit(CLOCK).unwrap();
        let parent = editor.make_path("Many").unwrap();
        for (index, name) in names.iter().enumerate() {
            if index == 500 {
                let list = list_of(editor.hive());
                assert_eq!(&list[..2], kinds[0], "one leaf");
            }
            editor.create_key(parent, name.as_str()).unwrap();
        }
        editor.commit().unwrap();
        Raw::new(hive.file()).must_be_sound("many");
        assert_eq!(&list_of(&hive)[..2], b"ri");
        let path = folder.path().join("hive");
        fs::write(&path, hive.file()).unwrap();
        judges_agree(&path, false, "many");
        let mut editor = hive.edit(CLOCK).unwrap();
        for name in names.iter().filter(|name| !name.ends_with('7')) {
            assert!(editor.remove_key(parent, name.as_str()).unwrap());
        }
        editor.commit().unwrap();
        Raw::new(hive.file()).must_be_sound("fewer");
        assert_eq!(hive.find("Many").unwrap().unwrap().subkeys().unwrap().len(), 230);
        fs::write(&path, hive.file()).unwrap();
        judges_agree(&path, false, "fewer");
        let mut editor = hive.edit(CLOCK).unwrap();
        for name in names.iter().filter(|name| name.ends_with('7')) {
            assert!(editor.remove_key(parent, name.as_str()).unwrap());
        }
        editor.commit().unwrap();
        Raw::new(hive.file()).must_be_sound("none");
        // All the room that they took is there for others.
        let size = hive.file().len();
        let mut editor = hive.edit(CLOCK).unwrap();
        for name in &names {
            editor.create_key(parent, name.as_str()).unwrap();
        }
        editor.commit().unwrap();
        assert!(
            hive.file().len() < size + size / 10,
            "{} after {size}",
            hive.file().len()
        );
    }
}

/// The list of subkeys of the key "Many", as stored.
fn list_of(hive: &Hive) -> Vec<u8> {
    let file = hive.file();
    let node = Raw::new(file).keys()[&"\\Many".encode_utf16().collect::<Vec<_>>()].node;
    let field = |at: usize| u32::from_le_bytes(file[at..at + 4].try_into().unwrap()) as usize;
    let list = field(4096 + node + 4 + 28);
    file[4100 + list..4108 + list].to_vec()
}

#[test]
fn that_change_nothing_leave_every_byte() {
    let mut hive = Hive::create("new", Version::Latest, 0).unwrap();
    let mut editor = hive.edit(CLOCK).unwrap();
    let key = editor.make_path("A\\B").unwrap();
    editor
        .set_value(key, "v", ValueKind::DWORD, &[1, 0, 0, 0])
        .unwrap();
    editor
        .set_value(key, "big", ValueKind::BINARY, &[5; 50_000])
        .unwrap();
    assert!(editor.commit().unwrap());
    let before = hive.file().to_vec();
    let mut editor = hive.edit(CLOCK + 1000).unwrap();
    assert_eq!(editor.make_path("a\\b").unwrap(), key);
    assert!(
        !editor
            .set_value(key, "V", ValueKind::DWORD, &[1, 0, 0, 0])
            .unwrap()
    );
    assert!(
        !editor
            .set_value(key, "BIG", ValueKind::BINARY, &[5; 50_000])
            .unwrap()
    );
    assert!(!editor.remove_value(key, "absent").unwrap());
    assert!(!editor.remove_key(key, "absent").unwrap());
    assert!(!editor.set_class(key, None).unwrap());
    assert!(!editor.commit().unwrap());
    assert!(hive.file() == before);
}

#[test]
fn with_the_same_clock_give_the_same_bytes() {
    let make = |clock: u64| {
        let mut hive = Hive::create("new", Version::Latest, 7).unwrap();
        let mut editor = hive.edit(clock).unwrap();
        let key = editor.make_path("A\\B").unwrap();
        editor
            .set_value(key, "v", ValueKind::DWORD, &[1, 0, 0, 0])
            .unwrap();
        editor.commit().unwrap();
        hive
    };
    assert!(make(CLOCK).file() == make(CLOCK).file());
    assert!(make(CLOCK).file() != make(CLOCK + 1).file());
    let hive = make(CLOCK);
    let key = hive.find("A\\B").unwrap().unwrap();
    assert_eq!(key.written(), FileTime::from_seconds(CLOCK));
    assert_eq!(
        u64::from_le_bytes(hive.file()[12..20].try_into().unwrap()),
        key.written().0
    );
    assert_eq!(
        u64::from_le_bytes(hive.file()[4116..4124].try_into().unwrap()),
        key.written().0
    );
}

#[test]
fn that_are_not_committed_leave_a_hive_that_says_so() {
    let mut hive = Hive::create("new", Version::Latest, 0).unwrap();
    let mut editor = hive.edit(CLOCK).unwrap();
    editor.make_path("A").unwrap();
    drop(editor);
    let hive = Hive::open("half", hive.into_file(), &[]).unwrap();
    assert!(
        hive.stale().unwrap().contains("sequence numbers 2 and 1"),
        "{:?}",
        hive.stale()
    );
}

#[test]
fn refuse_what_windows_would_not_take() {
    let mut hive = Hive::create("new", Version::Standard, 0).unwrap();
    let mut editor = hive.edit(CLOCK).unwrap();
    let root = editor.make_path("").unwrap();
    for name in ["", "a\\b", "a\0", &"x".repeat(256)] {
        assert!(editor.create_key(root, name).is_err(), "{name}");
    }
    assert!(
        editor
            .set_value(root, "x".repeat(16384).as_str(), ValueKind::NONE, &[])
            .is_err()
    );
    assert!(editor.set_value(root, "a\0b", ValueKind::NONE, &[]).is_err());
    assert!(
        editor
            .set_value(root, "a", ValueKind::NONE, &vec![0; (1 << 20) + 1])
            .is_err()
    );
    editor
        .set_value(root, "a", ValueKind::NONE, &vec![0; 1 << 20])
        .unwrap();
    assert!(editor.set_security(root, b"no descriptor").is_err());
    let mut deepest = root;
    for _ in 0..511 {
        deepest = editor.create_key(deepest, "d").unwrap();
    }
    assert!(editor.create_key(deepest, "d").is_err(), "Windows has 512 levels");
    editor.commit().unwrap();
    hive.check().unwrap();
    let mut editor = hive.edit(CLOCK).unwrap();
    assert!(editor.remove_key(root, "D").unwrap());
    editor.commit().unwrap();
    assert!(hive.root().unwrap().subkeys().unwrap().is_empty());
}
