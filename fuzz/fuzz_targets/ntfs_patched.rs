//! NTFS as mkntfs and ntfs-3g made it, with a few bytes changed: opening, reading, editing.
#![no_main]

#[path = "../file_system.rs"]
mod file_system;
#[path = "../patched.rs"]
mod patched;

use libfuzzer_sys::fuzz_target;
use rehome::{
    disk::{Disk, MemoryDisk},
    fs::{FileSystem, ntfs::Ntfs},
};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

/// The bases as disks, by their address.
static DISKS: Mutex<BTreeMap<usize, Arc<dyn Disk>>> = Mutex::new(BTreeMap::new());

fuzz_target!(|data: &[u8]| {
    let Some((base, patches)) = patched::patches(patched::bases("ntfs"), data) else {
        return;
    };
    let key = std::ptr::from_ref(base).addr();
    let under = DISKS
        .lock()
        .expect("one thread")
        .entry(key)
        .or_insert_with(|| Arc::new(MemoryDisk::new("base", base.bytes.clone())))
        .clone();
    let disk = file_system::patched(&under, &patches);
    let size = disk.size();
    let Ok(mut opened) = Ntfs::open(disk) else {
        return;
    };
    opened.allow_dirty();
    file_system::walk(&opened, size);
    file_system::edit(&mut opened);
    file_system::walk(&opened, size);
});
