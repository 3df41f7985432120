//! FAT12, FAT16 and FAT32: reading and editing.
#![no_main]

#[path = "../file_system.rs"]
mod file_system;

use libfuzzer_sys::fuzz_target;
use rehome::fs::fat::FatFileSystem;

fuzz_target!(|data: &[u8]| {
    let disk = file_system::overlay(data);
    let size = disk.size();
    let Ok(Some(mut opened)) = FatFileSystem::open(disk) else {
        return;
    };
    file_system::walk(&opened, size);
    file_system::edit(&mut opened);
    file_system::walk(&opened, size);
});
