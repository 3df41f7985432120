//! The words for a disk: read, written again, and read again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rehome::locator::Locator;
use std::{ffi::OsStr, os::unix::ffi::OsStrExt};

fuzz_target!(|data: &[u8]| {
    let Ok(locator) = Locator::parse(OsStr::from_bytes(data)) else {
        return;
    };
    let name = locator.short_name();
    assert!(locator.path().is_some() || !name.is_empty() && !name.contains('/'));
    if let Locator::Nbd(address) = &locator {
        assert_eq!(address.to_string().parse().as_ref(), Ok(address));
    }
});
