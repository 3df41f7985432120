//! MBR and GPT on a small disk of either sector size: volumes lie within it and are told apart.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rehome::{
    disk::{Disk, MemoryDisk},
    volume,
};
use std::sync::Arc;

fuzz_target!(|data: &[u8]| {
    for sector_size in [512, 4096] {
        let length = data.len() / sector_size as usize * sector_size as usize;
        let disk: Arc<dyn Disk> =
            Arc::new(MemoryDisk::new("disk", data[..length].to_vec()).with_sector_size(sector_size));
        let Ok(scan) = volume::scan(&[disk]) else {
            continue;
        };
        let mut ids: Vec<&str> = scan.volumes.iter().map(|volume| volume.id.as_str()).collect();
        let count = ids.len();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), count, "two volumes have one id");
        for volume in &scan.volumes {
            let Some(partition) = &volume.partition else {
                continue;
            };
            assert_eq!(volume.disk.size(), partition.length);
            let end = partition.offset.checked_add(partition.length);
            assert!(end.is_some_and(|end| end <= length as u64), "{partition:?}");
        }
    }
});
