//! What the targets of qcow2, VDI, qcow and Parallels do with an image: detect it, open it, map it, read it, check it, and
//! edit a copy.

use rehome::{
    disk::{Disk, Error, Extent, Kind, MemoryDisk, Result},
    image::{Format, NoNeighbours, detect, open, open_writable, qcow2::Qcow2},
};
use std::{ops::Range, sync::Arc};

/// Where a file in memory ends. A header may say that blocks begin behind 4 GiB: a real file would have a hole there.
const LONGEST: u64 = 64 << 20;

/// What a full storage is to an image.
#[derive(Debug)]
struct Short(MemoryDisk);

impl Short {
    fn must_have_room(end: Option<u64>) -> Result<()> {
        match end {
            Some(end) if end <= LONGEST => Ok(()),
            _ => Err(Error::new(Kind::Full, "image", "no more room")),
        }
    }
}

impl Disk for Short {
    fn label(&self) -> &str {
        self.0.label()
    }

    fn size(&self) -> u64 {
        self.0.size()
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        self.0.read_at(offset, buffer)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        Self::must_have_room(offset.checked_add(bytes.len() as u64))?;
        self.0.write_at(offset, bytes)
    }

    fn extents(&self, range: Range<u64>) -> Result<Vec<Extent>> {
        self.0.extents(range)
    }

    fn write_zeros(&self, range: Range<u64>) -> Result<()> {
        Self::must_have_room(Some(range.end))?;
        self.0.write_zeros(range)
    }

    fn discard(&self, range: Range<u64>) -> Result<()> {
        self.0.discard(range)
    }

    fn flush(&self) -> Result<()> {
        self.0.flush()
    }

    fn set_size(&self, size: u64) -> Result<()> {
        Self::must_have_room(Some(size))?;
        self.0.set_size(size)
    }
}

/// Errors are answers; a map has an end and reading stays within it; what was written is read.
pub fn exercise(format: Format, bytes: Vec<u8>) {
    let container = || Arc::new(Short(MemoryDisk::new("image", bytes.clone())));
    let _ = detect(&*container());
    if format == Format::Qcow2 {
        let _ = Qcow2::describe(&*container());
        let _ = Qcow2::open_snapshot(container(), "one", &NoNeighbours)
            .map(|image| image.read_at(0, &mut [0; 100]));
    }
    let Ok(image) = open(container(), Some(format), &NoNeighbours) else {
        return;
    };
    let _ = image.info();
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
        if let Ok(map) = image.map(at..size) {
            assert!(map.iter().all(|run| run.length > 0));
            assert_eq!(map.first().map(|run| run.start), Some(at));
        }
        let length = buffer.len().min(usize::try_from(size - at).unwrap_or(usize::MAX));
        let _ = image.read_at(at, &mut buffer[..length]);
        at = end;
    }
    let _ = image.check();
    let Ok(image) = open_writable(container(), format, &NoNeighbours) else {
        return;
    };
    for at in [0, 60_000, 1 << 20] {
        if at + 20_000 > size {
            break;
        }
        let _ = image.discard(at..(at + 400_000).min(size));
        let _ = image.write_zeros(at + 5000..at + 20_000);
        if image.write_at(at, &[0x5a; 10_000]).is_ok() {
            let mut back = [0; 10_000];
            image.read_at(at, &mut back).expect("what was written is read");
            assert!(back == [0x5a; 10_000]);
        }
    }
    let _ = image.repair_leaks();
    let _ = image.check();
}
