//! What the targets of formats that are edited in place do with an image: detect it, open it, map it, read it, check
//! it, write to it.

use rehome::{
    disk::{Disk, MemoryDisk},
    image::{Format, NoNeighbours, detect, open, open_writable},
};
use std::sync::Arc;

/// Errors are answers; a map has an end, reading stays within it, and what was written is read.
pub fn exercise(format: Format, bytes: Vec<u8>) {
    let container: Arc<dyn Disk> = Arc::new(MemoryDisk::new("image", bytes));
    let _ = detect(&*container);
    let Ok(image) = open(container.clone(), Some(format), &NoNeighbours) else {
        return;
    };
    let size = image.size();
    let mut buffer = vec![0; 100_000];
    let mut at = 0;
    for _ in 0..100 {
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
        let _ = image.map(at..end);
        at = end;
    }
    let _ = image.info();
    let _ = image.check();
    drop(image);
    let Ok(image) = open_writable(container, format, &NoNeighbours) else {
        return;
    };
    // A block of 256 MiB would be made for a few bytes, in memory.
    if image
        .info()
        .ok()
        .and_then(|info| info.unit)
        .is_some_and(|unit| unit > 4 << 20)
    {
        return;
    }
    for at in [0, size / 3, size.saturating_sub(700)] {
        let new = vec![0xb7; usize::try_from(size - at).unwrap_or(usize::MAX).min(700)];
        let end = at + new.len() as u64;
        if image.write_at(at, &new).is_ok() {
            let mut there = vec![0; new.len()];
            image.read_at(at, &mut there).expect("what was written is there");
            assert!(there == new);
            image.write_zeros(at..end).expect("what is there can be zeroed");
            image.read_at(at, &mut there).expect("what was zeroed is there");
            assert!(there.iter().all(|byte| *byte == 0));
        }
    }
    let after = image.check().expect("it could be checked when it was opened");
    assert!(after.errors.is_empty(), "{:?}", after.errors);
}
