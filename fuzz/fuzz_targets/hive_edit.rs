//! Registry hives that hivex made, with a few bytes changed, and then edited: what is sound stays sound, and holds what was put
//! there.
//!
//! Input: one byte with the length of the changes, which are as `patched.rs` has them, and behind them edits of five bytes: what, which
//! key, which name, and the length of data in two bytes.
#![no_main]

#[path = "../hive_tree.rs"]
mod hive_tree;
#[path = "../patched.rs"]
mod patched;

use libfuzzer_sys::fuzz_target;
use rehome::hive::{Editor, Hive, Key, KeyId, Name, ValueKind};

fuzz_target!(|data: &[u8]| {
    let Some((length, rest)) = data.split_first() else {
        return;
    };
    let (changes, edits) = rest.split_at(usize::from(*length).min(rest.len()));
    let Some(file) = patched::image(patched::bases("hive"), changes) else {
        return;
    };
    let Ok(mut hive) = Hive::open("hive", file, &[]) else {
        return;
    };
    hive.force_dirty();
    let sound = hive.check().is_ok();
    let Ok(mut editor) = hive.edit(1_700_000_000) else {
        assert!(!sound);
        return;
    };
    for edit in edits.chunks_exact(5) {
        let Ok(keys) = keys(editor.hive()) else { break };
        let key = keys[usize::from(edit[1]) % keys.len()];
        step(&mut editor, key, edit);
    }
    editor.commit().expect("a sound hive");
    let again = Hive::open("again", hive.into_file(), &[]).expect("what was written");
    assert_eq!(again.stale(), None);
    again.check().expect("a sound hive stays sound");
    hive_tree::read(&again);
});

fn keys(hive: &Hive) -> rehome::hive::Result<Vec<KeyId>> {
    let mut keys = Vec::new();
    hive.walk(&hive.root()?, &mut |_, key| {
        keys.push(key.id());
        Ok(())
    })?;
    Ok(keys)
}

fn step(editor: &mut Editor<'_>, id: KeyId, edit: &[u8]) {
    let name = Name::from(format!("N{}", edit[2] % 16).as_str());
    let length = usize::from(u16::from_le_bytes([edit[3], edit[4]]));
    let data = vec![edit[2]; length];
    let key = |editor: &Editor<'_>| editor.hive().key(id).map(|key: Key<'_>| key.subkeys().map(|all| all.len()));
    match edit[0] % 7 {
        0 | 1 => {
            let _ = editor.create_key(id, &name);
        }
        2 => {
            if let Ok(true) = editor.remove_key(id, &name) {
                assert!(key(editor).is_ok_and(|subkeys| subkeys.is_ok()));
            }
        }
        3 | 4 => {
            let kind = ValueKind(u32::from(edit[2] >> 4));
            if editor.set_value(id, &name, kind, &data).is_ok() {
                let key = editor.hive().key(id).expect("its key");
                let value = key.value(&name).expect("values").expect("the value");
                assert_eq!((value.kind(), &*value.data().expect("data")), (kind, &*data));
            }
        }
        5 => {
            let _ = editor.remove_value(id, &name);
        }
        _ => {
            let _ = editor.set_class(id, Some(&data));
        }
    }
}
