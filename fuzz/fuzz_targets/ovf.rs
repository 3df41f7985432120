//! OVF descriptors.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rehome::{
    disk::{Disk, MemoryDisk},
    image::{NoNeighbours, detect, ova::Package},
};
use std::sync::Arc;

fuzz_target!(|data: &[u8]| {
    let container: Arc<dyn Disk> = Arc::new(MemoryDisk::new("a.ovf", data.to_vec()));
    let _ = detect(&*container);
    if let Ok(package) = Package::of_descriptor(container, &NoNeighbours) {
        let _ = package.disk_names();
        assert!(!package.hardware().to_string().chars().any(char::is_control));
    }
});
