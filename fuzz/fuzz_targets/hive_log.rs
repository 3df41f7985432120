//! Transaction logs beside a hive that was not closed properly. What a fuzzer cannot guess, checksums and hashes, is put right.
//!
//! Input: one byte with the kind of the log, one with how far its number is from the hive's, then the log from its second
//! sector on.
#![no_main]

#[path = "../hive_tree.rs"]
mod hive_tree;

use libfuzzer_sys::fuzz_target;
use rehome::hive::{Hive, Version, seal_log_entry};

fuzz_target!(|data: &[u8]| {
    let [kind, number, body @ ..] = data else {
        return;
    };
    let mut primary = Hive::create("hive", Version::Latest, 0).expect("a hive").into_file();
    let mut log = primary[..512].to_vec();
    log[28] = if kind & 1 == 0 { 6 } else { 1 };
    log[4] = number % 8;
    log[8] = number % 8;
    if kind & 2 != 0 {
        // Room for larger hives.
        log[40..44].copy_from_slice(&(16 * 4096_u32).to_le_bytes());
    }
    seal(&mut log);
    log.extend_from_slice(body);
    let mut at = 512;
    while let Some(size) = log.get(at + 4..at + 8) {
        let size = u32::from_le_bytes([size[0], size[1], size[2], size[3]]) as usize;
        let Some(entry) = at.checked_add(size).and_then(|end| log.get_mut(at..end)) else {
            break;
        };
        if size < 512 {
            break;
        }
        seal_log_entry(entry);
        at += size;
    }
    primary[4] = 3;
    primary[8] = 2;
    seal(&mut primary);
    if kind & 4 != 0 {
        primary[508] ^= 1;
    }
    let Ok(mut hive) = Hive::open("hive", primary, &[log.clone()]) else {
        return;
    };
    hive_tree::read(&hive);
    hive.force_dirty();
    if let Ok(mut editor) = hive.edit(1) {
        editor.make_path("New").expect("a sound hive");
        editor.commit().expect("a sound hive");
        // Closed properly, it needs no log.
        let again = Hive::open("again", hive.into_file(), &[log]).expect("what was written");
        assert_eq!((again.stale(), again.recovered()), (None, None));
    }
});

fn seal(file: &mut [u8]) {
    let words = file[..508].chunks(4);
    let sum = words.fold(0, |sum, word| sum ^ u32::from_le_bytes([word[0], word[1], word[2], word[3]]));
    let sum = match sum {
        0 => 1,
        u32::MAX => u32::MAX - 1,
        other => other,
    };
    file[508..512].copy_from_slice(&sum.to_le_bytes());
}
