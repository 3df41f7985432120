//! OVA archives: opened, their disks read, their manifests compared.
#![no_main]

#[path = "../ova_archive.rs"]
mod ova_archive;

use libfuzzer_sys::fuzz_target;
use rehome::{
    disk::{Disk, MemoryDisk},
    image::{
        NoNeighbours, detect,
        ova::{Package, Spool},
    },
    watch::Unwatched,
};
use std::{path::Path, sync::Arc};

fuzz_target!(|data: &[u8]| {
    let container: Arc<dyn Disk> = Arc::new(MemoryDisk::new("a.ova", ova_archive::with_checksums(data)));
    let _ = detect(&*container);
    let Ok(package) = Package::of_archive(container) else {
        return;
    };
    assert!(package.bytes_to_verify() < 1 << 40);
    let _ = package.verify(&Unwatched);
    let _ = package.hardware().to_string();
    let unpack = Spool {
        // What has to be unpacked is refused here: there is no such folder.
        folder: Path::new("/nonexistent"),
        watch: &Unwatched,
    };
    let Ok(disks) = package.disks(&NoNeighbours, &unpack) else {
        return;
    };
    assert_eq!(disks.len(), package.disk_names().len());
    for disk in disks.iter().take(4) {
        let length = usize::try_from(disk.size()).unwrap_or(usize::MAX).min(70_000);
        let _ = disk.read_at(0, &mut vec![0; length]);
        let _ = disk.extents(0..disk.size());
    }
});
