//! What a volume holds: every signature that is known, swap areas, and what opens behind them.
#![no_main]

#[path = "../file_system.rs"]
mod file_system;

use libfuzzer_sys::fuzz_target;
use rehome::{
    disk::{Disk, MemoryDisk},
    fs::{
        detect::{self, Detected},
        swap::Swap,
    },
};
use std::sync::Arc;

fuzz_target!(|data: &[u8]| {
    // Some signatures lie at 64 KiB: the last byte says how long the volume is, its last 8 KiB come from the input.
    let Some((last, data)) = data.split_last() else {
        return;
    };
    let mut bytes = vec![0; usize::from(*last) * 1024];
    let start = data.len().min(bytes.len());
    bytes[..start].copy_from_slice(&data[..start]);
    if *last & 1 == 1 {
        let end = bytes.len() - start;
        bytes[end..].copy_from_slice(&data[..start]);
    }
    let disk: Arc<dyn Disk> = Arc::new(MemoryDisk::new("volume", bytes.clone()));
    let size = disk.size();
    let _ = detect::identify(&disk);
    if let Ok(Some(swap)) = Swap::open(&disk) {
        let _ = (swap.identity(), swap.hibernated());
        assert!(swap.free().is_none_or(|free| free.start <= free.end && free.end <= size));
    }
    if let Ok(Detected::FileSystem(opened)) = detect::open(file_system::overlay(&bytes)) {
        file_system::walk(&*opened, size);
    }
});
