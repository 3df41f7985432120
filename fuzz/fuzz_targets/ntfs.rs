//! NTFS: reading whatever is found, editing.
#![no_main]

#[path = "../file_system.rs"]
mod file_system;

use libfuzzer_sys::fuzz_target;
use rehome::fs::{FileSystem, ntfs::Ntfs};

fuzz_target!(|data: &[u8]| {
    let disk = file_system::overlay(data);
    let size = disk.size();
    let Ok(mut opened) = Ntfs::open(disk) else {
        return;
    };
    opened.allow_dirty();
    file_system::walk(&opened, size);
    file_system::edit(&mut opened);
    file_system::walk(&opened, size);
});
