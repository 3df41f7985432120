//! What the VMDK targets do with an image: detect it, open it, map it, read it, check it, and edit a copy.
//!
//! Input: the file that is named; after [`DIVIDER`] the one file that its descriptor may name as extent or parent.

use rehome::{
    disk::{Disk, MemoryDisk, Result},
    image::{Format, Neighbours, detect, open, open_writable},
};
use std::{cell::Cell, sync::Arc};

const DIVIDER: &[u8] = b"\xff\xfe\xfd\xfc";

/// The other file, by whatever name.
struct Other {
    bytes: Vec<u8>,
    /// A parent may name itself.
    depth: Cell<usize>,
}

impl Other {
    fn bytes(&self) -> Arc<dyn Disk> {
        Arc::new(MemoryDisk::new("other", self.bytes.clone()))
    }
}

impl Neighbours for Other {
    fn open(&self, _name: &[u8], format: Option<&str>) -> Result<Arc<dyn Disk>> {
        if format != Some("vmdk") || self.depth.get() > 2 {
            return Ok(self.bytes());
        }
        self.depth.set(self.depth.get() + 1);
        let image = open(self.bytes(), Some(Format::Vmdk), self)?;
        Ok(image)
    }

    fn open_writable(&self, _name: &[u8]) -> Result<Arc<dyn Disk>> {
        Ok(self.bytes())
    }
}

/// Errors are answers; a map has an end and reading stays within it; what was written is read.
pub fn exercise(bytes: Vec<u8>) {
    let at = bytes.windows(DIVIDER.len()).position(|window| window == DIVIDER);
    let (first, second) = match at {
        Some(at) => (bytes[..at].to_vec(), bytes[at + DIVIDER.len()..].to_vec()),
        None => (bytes.clone(), bytes),
    };
    let other = Other {
        bytes: second,
        depth: Cell::new(0),
    };
    let container = || Arc::new(MemoryDisk::new("image", first.clone()));
    let _ = detect(&*container());
    let Ok(image) = open(container(), Some(Format::Vmdk), &other) else {
        return;
    };
    let _ = image.info();
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
        let _ = image.map(at..size);
        at = end;
    }
    let _ = image.check();
    drop(image);
    let Ok(image) = open_writable(container(), Format::Vmdk, &other) else {
        return;
    };
    for (place, length) in [(0, 10), (size / 2, 70_000), (size.saturating_sub(600), 600)] {
        let length = length.min(usize::try_from(size - place).unwrap_or(usize::MAX));
        if image.write_at(place, &vec![7; length]).is_ok() {
            let read = image.read_at(place, &mut buffer[..length]);
            // Two grains of a damaged image may lie in one place, or a grain on a table.
            assert!(read.is_err() || buffer[..length].iter().all(|byte| *byte == 7) || !is_sound(&*image));
        }
        let _ = image.write_zeros(place..place + length as u64);
        let _ = image.discard(0..place);
    }
}

fn is_sound(image: &dyn rehome::image::Image) -> bool {
    image.check().is_ok_and(|check| check.errors.is_empty())
}
