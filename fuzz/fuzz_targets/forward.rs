//! What is read once, from front to back: streamOptimized VMDKs and the archives that hold one.
#![no_main]

#[path = "../ova_archive.rs"]
mod ova_archive;

use libfuzzer_sys::fuzz_target;
use rehome::{
    disk::Disk,
    image::{ova::Beginning, vmdk::ForwardVmdk},
};
use std::io::{Cursor, Read};

/// Walks the map and reads what is data, as a copy does.
fn copy(disk: &dyn Disk) {
    let size = disk.size();
    let mut at = 0;
    for _ in 0..500 {
        if at >= size {
            break;
        }
        let Ok(map) = disk.extents(at..size) else {
            return;
        };
        let extent = map.first().expect("never empty").range.clone();
        assert!(extent.start == at && extent.end > at && extent.end <= size);
        let length = usize::try_from(extent.end - at).unwrap_or(usize::MAX).min(1 << 20);
        if disk.read_at(at, &mut vec![0; length]).is_err() {
            return;
        }
        at = extent.end;
    }
}

fuzz_target!(|data: &[u8]| {
    if data.len() >= 512 && ForwardVmdk::recognises(&data[..512]) {
        let rest = Box::new(Cursor::new(data[512..].to_vec()));
        if let Ok(disk) = ForwardVmdk::open("a.vmdk", &data[..512], rest) {
            copy(&disk);
            let _ = disk.must_be_at_end();
        }
        return;
    }
    let mut stream: Box<dyn Read + Send> = Box::new(Cursor::new(ova_archive::with_checksums(data)));
    let Ok(Some(beginning)) = Beginning::read(&mut *stream, "a.ova") else {
        return;
    };
    if let Ok(archive) = beginning.go_on(stream, "a.ova") {
        copy(&*archive.disk);
        let _ = archive.must_be_at_end();
    }
});
