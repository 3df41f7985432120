//! The ledger of a broken-off copy: the header is right, what follows is not.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rehome::{
    copy::{FileLedger, Identity, Ledger},
    disk::Digest,
};
use std::{fs::OpenOptions, io::Write, path::PathBuf};

fuzz_target!(|data: &[u8]| {
    let path = PathBuf::from(format!("/dev/shm/rehome-fuzz-ledger-{}", std::process::id()));
    let identity = Identity {
        plan: Digest::of(b"plan"),
        source: Digest::of(b"source"),
        size: 1 << 40,
    };
    let _ = std::fs::remove_file(&path);
    if data.first().is_some_and(|first| first % 8 != 0) {
        FileLedger::create(&path, &identity).expect("a new ledger");
    }
    let mut file = OpenOptions::new().create(true).append(true).open(&path).expect("its file");
    file.write_all(data.get(1..).unwrap_or_default()).expect("memory");
    if let Ok(ledger) = FileLedger::open(&path, &identity) {
        let mut index = 0;
        for _ in 0..1000 {
            let entry = ledger.at(index).expect("an entry");
            assert!(entry.count >= 1);
            index = index.saturating_add(entry.count);
        }
        // What was opened once was mended: it opens again, and says the same.
        let known = ledger.digest();
        drop(ledger);
        let again = FileLedger::open(&path, &identity).expect("a mended ledger");
        assert_eq!(again.digest(), known);
    }
    let _ = std::fs::remove_file(&path);
});
