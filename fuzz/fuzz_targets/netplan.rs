//! netplan's YAML: parsed without a panic, in bounded time.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rehome::guest::network_linux::netplan;

fuzz_target!(|contents: &[u8]| {
    let _ = netplan::parse(contents);
});
