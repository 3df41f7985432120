//! ext2, ext3 and ext4: journal and orphans on opening, reading, editing.
#![no_main]

#[path = "../file_system.rs"]
mod file_system;

use libfuzzer_sys::fuzz_target;
use rehome::fs::ext4::Ext4;

fuzz_target!(|data: &[u8]| {
    let disk = file_system::overlay(data);
    let size = disk.size();
    let Ok(mut opened) = Ext4::open(disk) else {
        return;
    };
    file_system::walk(&opened, size);
    file_system::edit(&mut opened);
    file_system::walk(&opened, size);
});
