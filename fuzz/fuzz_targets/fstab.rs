//! fstab: parsed without a panic.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rehome::guest::{fstab, os_release};

fuzz_target!(|contents: &[u8]| {
    for entry in fstab::parse(contents) {
        let _ = (entry.is_swap(), entry.may_be_absent(), entry.names_a_device());
    }
    os_release::parse(contents);
});
