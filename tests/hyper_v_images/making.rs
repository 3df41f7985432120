//! Images made by this program's sinks, and edited by it.

use crate::judge::{extents, pattern, read_all};
use rehome::{
    disk::{Disk, FileDisk, MemoryDisk, Overlay, Result, Sink},
    image::{self, Beside, Files, Format, Options, Shape},
};
use std::{
    ops::Range,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

/// One file that an image is made in.
pub(crate) struct OneFile {
    pub disk: Arc<dyn Disk>,
    pub fresh: bool,
    pub blank: bool,
}

impl Files for OneFile {
    fn main(&self) -> Arc<dyn Disk> {
        self.disk.clone()
    }

    fn name(&self) -> &str {
        "sda.image"
    }

    fn fresh(&self) -> bool {
        self.fresh
    }

    fn blank(&self) -> bool {
        self.blank
    }

    fn beside(&mut self, name: &str, _size: u64) -> Result<Arc<dyn Disk>> {
        panic!("{name} is not needed");
    }
}

pub(crate) fn shape(format: Format, size: u64, options: &str) -> Shape {
    let mut words = Options::default();
    words.add(options).unwrap();
    Shape {
        format,
        size,
        sector_size: 512,
        options: words,
    }
}

/// Begins an image in a new file.
pub(crate) fn create(path: &Path, shape: &Shape) -> Box<dyn Sink> {
    let disk = Arc::new(FileDisk::create(path, image::initial_size(shape)).unwrap());
    let mut files = OneFile {
        disk,
        fresh: true,
        blank: true,
    };
    image::create(shape, &mut files).unwrap()
}

/// Goes on with one.
pub(crate) fn resume(path: &Path, shape: &Shape) -> Box<dyn Sink> {
    let mut files = OneFile {
        disk: Arc::new(FileDisk::open_writable(path).unwrap()),
        fresh: false,
        blank: true,
    };
    image::create(shape, &mut files).unwrap()
}

/// Puts what `source` holds into `sink`, by `threads` threads in chunks of 256 KiB; zeros are skipped. From `from` to
/// `to`, with checkpoints now and then.
pub(crate) fn pour(source: &dyn Disk, sink: &dyn Sink, threads: usize, from: u64, to: u64) {
    let chunk = 256 << 10;
    let unit = u64::from(sink.unit());
    let next = AtomicU64::new(from);
    let end = source.size().min(to);
    let work = || {
        loop {
            let start = next.fetch_add(chunk, Ordering::SeqCst);
            if start >= end {
                return;
            }
            let mut bytes = vec![0; chunk.min(source.size() - start) as usize];
            source.read_at(start, &mut bytes).unwrap();
            let mut at = start;
            for piece in bytes.chunks(unit as usize) {
                let piece_end = at + piece.len() as u64;
                if piece.iter().all(|byte| *byte == 0) {
                    sink.skip(at..piece_end).unwrap();
                } else {
                    sink.put(at, piece).unwrap();
                }
                at = piece_end;
            }
            if start / chunk % 29 == 3 {
                sink.checkpoint().unwrap();
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(work);
        }
    });
}

/// Does the same to `image` and to the bytes in `model`, in steps that follow from `seed`. What is discarded reads as
/// zeros: so it is over an overlay.
pub(crate) fn edit(image: &dyn Disk, model: &mut [u8], seed: u64, steps: u64) {
    let size = model.len() as u64;
    for step in 0..steps {
        let dice = pattern(seed * 1000 + step, 40);
        let number = |at: usize| u64::from_le_bytes(dice[at..at + 8].try_into().unwrap());
        let start = number(0) % size;
        let length = ((number(8) % 3_000_000) >> (number(16) % 14)).min(size - start);
        let range = start as usize..(start + length) as usize;
        match number(24) % 6 {
            0 => {
                image.write_zeros(start..start + length).unwrap();
                model[range].fill(0);
            }
            1 => {
                image.discard(start..start + length).unwrap();
                model[range].fill(0);
            }
            _ => {
                let bytes = pattern(step, length as usize);
                image.write_at(start, &bytes).unwrap();
                model[range].copy_from_slice(&bytes);
            }
        }
    }
}

/// A file as an image is edited in place: under an overlay that is then written into it.
pub(crate) fn edit_in_place(format: Format, path: &Path, model: &mut [u8], seed: u64, steps: u64) {
    let container = Arc::new(FileDisk::open(path).unwrap());
    let overlay = Arc::new(Overlay::new(container, 1 << 30, std::env::temp_dir()));
    let disk = image::open_writable(overlay.clone(), format, &Beside::new(path)).unwrap();
    edit(disk.as_ref(), model, seed, steps);
    let whole = read_all(disk.as_ref());
    assert!(whole[..model.len()] == *model);
    extents(disk.as_ref());
    disk.flush().unwrap();
    let mut bytes = vec![0; overlay.size() as usize];
    overlay.read_at(0, &mut bytes).unwrap();
    drop(disk);
    drop(overlay);
    std::fs::write(path, bytes).unwrap();
}

/// One run of the disk: units, what they hold (`None`: zeros), and whether a checkpoint follows.
pub(crate) type Piece = (u64, Option<u8>, bool);

/// Gives `pieces` from `from` to `to` to `sink`. The last one of the disk is cut at its end.
pub(crate) fn deliver(sink: &dyn Sink, size: u64, pieces: &[Piece], range: Range<usize>, model: &mut [u8]) {
    let unit = u64::from(sink.unit());
    let mut at = 0;
    for (index, (units, content, checkpoint)) in pieces.iter().enumerate() {
        let end = (at + units * unit).min(size);
        if range.contains(&index) && at < end {
            match content {
                Some(byte) => {
                    let bytes = vec![*byte; (end - at) as usize];
                    sink.put(at, &bytes).unwrap();
                    model[at as usize..end as usize].copy_from_slice(&bytes);
                }
                None => sink.skip(at..end).unwrap(),
            }
            if *checkpoint {
                sink.checkpoint().unwrap();
            }
        }
        at = end;
    }
    if range.end == pieces.len() && at < size {
        sink.skip(at..size).unwrap();
    }
}

/// Kills a run after `killed` pieces and goes on trusting `trusted` of them, in a container that holds `before`.
/// Gives what is in it at the end.
pub(crate) fn kill_and_resume(
    shape: &Shape,
    pieces: &[Piece],
    killed: usize,
    trusted: usize,
    before: &[u8],
) -> Vec<u8> {
    let blank = before.is_empty();
    let disk = Arc::new(MemoryDisk::new("killed", before.to_vec()));
    let initial = image::initial_size(shape);
    if disk.size() < initial {
        disk.set_size(initial).unwrap();
    }
    let files = |fresh| OneFile {
        disk: disk.clone(),
        fresh,
        blank,
    };
    let mut model = vec![0; shape.size as usize];
    let sink = image::create(shape, &mut files(true)).unwrap();
    deliver(&*sink, shape.size, pieces, 0..killed, &mut model);
    sink.checkpoint().unwrap();
    drop(sink);
    let kept: u64 = pieces[..trusted].iter().map(|(units, ..)| units * 4096).sum();
    let sink = image::create(shape, &mut files(false)).unwrap();
    sink.keep(0..kept.min(shape.size)).unwrap();
    deliver(&*sink, shape.size, pieces, trusted..pieces.len(), &mut model);
    sink.finish().unwrap();
    disk.contents()
}
