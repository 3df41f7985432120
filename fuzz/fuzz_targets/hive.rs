//! Registry hives: opened, walked, checked, written as text.
#![no_main]

#[path = "../hive_tree.rs"]
mod hive_tree;

use libfuzzer_sys::fuzz_target;
use rehome::hive::Hive;

fuzz_target!(|data: &[u8]| {
    if let Ok(hive) = Hive::open("hive", data.to_vec(), &[]) {
        hive_tree::read(&hive);
    }
});
