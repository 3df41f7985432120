//! What the qcow2 targets do with an image: detect it, open it, map it, read it, check it.

use rehome::{
    disk::{Disk, MemoryDisk},
    image::{Format, NoNeighbours, detect, open},
};
use std::sync::Arc;

/// Errors are answers; a map has an end and reading stays within it.
pub fn exercise(bytes: Vec<u8>) {
    let container: Arc<dyn Disk> = Arc::new(MemoryDisk::new("image", bytes));
    let _ = detect(&*container);
    let Ok(image) = open(container, Some(Format::Qcow2), &NoNeighbours) else {
        return;
    };
    let size = image.size();
    let mut buffer = vec![0; 100_000];
    let mut at = 0;
    for _ in 0..200 {
        if at >= size {
            break;
        }
        let Ok(extents) = image.extents(at..size) else {
            break;
        };
        let Some(last) = extents.last() else {
            panic!("a map without an end");
        };
        let end = last.range.end;
        assert!(end > at && end <= size);
        let length = buffer.len().min(usize::try_from(size - at).unwrap_or(usize::MAX));
        let _ = image.read_at(at, &mut buffer[..length]);
        at = end;
    }
    let _ = image.check();
}
