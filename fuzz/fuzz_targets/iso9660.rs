//! ISO 9660 with Joliet and Rock Ridge: reading all there is.
#![no_main]

#[path = "../file_system.rs"]
mod file_system;

use libfuzzer_sys::fuzz_target;
use rehome::{disk::MemoryDisk, fs::iso9660::Iso9660};
use std::sync::Arc;

fuzz_target!(|data: &[u8]| {
    // The 16 sectors before the first descriptor are of no interest: inputs begin behind them.
    let mut bytes = vec![0; 16 * 2048];
    bytes.extend_from_slice(data);
    let size = bytes.len() as u64;
    if let Ok(Some(mut disc)) = Iso9660::open(Arc::new(MemoryDisk::new("disc", bytes))) {
        file_system::walk(&disc, size);
        file_system::edit(&mut disc);
    }
});
