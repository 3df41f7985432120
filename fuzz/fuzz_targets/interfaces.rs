//! ifupdown's interfaces: parsed without a panic.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rehome::guest::network_linux::ifupdown;

fuzz_target!(|contents: &[u8]| {
    ifupdown::parse(contents);
});
