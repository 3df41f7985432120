//! Where an overlay keeps bytes: in memory up to a limit, past it in an unlinked temporary file.

use super::{Error, Kind, Result};
use rustix::fs::{CWD, FallocateFlags, Mode, OFlags, fallocate, openat};
use std::{
    fmt,
    fs::{File, OpenOptions},
    io,
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
    process,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

/// Longest run of bytes kept as one piece. Small enough that a half-overwritten piece wastes little, large enough
/// that its bookkeeping does not count.
pub(super) const CHUNK: usize = 64 << 10;

/// What a chunk costs beside its bytes: the allocation, the map's entry.
const OVERHEAD: u64 = 96;

/// Gives out [`Chunk`]s.
#[derive(Debug)]
pub(super) struct Spill {
    label: String,
    /// Bytes allowed in memory.
    limit: u64,
    /// Bytes in memory now; every chunk gives back what it took.
    used: Arc<AtomicU64>,
    folder: PathBuf,
    /// Made when it is first needed.
    file: Mutex<Option<Arc<SpillFile>>>,
}

/// Bytes that do not move: the map refers to parts of them. Whoever is their only holder may overwrite them.
pub(super) struct Chunk {
    place: Place,
}

enum Place {
    Memory {
        bytes: Vec<u8>,
        used: Arc<AtomicU64>,
    },
    File {
        file: Arc<SpillFile>,
        offset: u64,
        length: u64,
    },
}

/// Grows at its end only; what is given back is punched out, so the file takes no more space than it holds.
#[derive(Debug)]
struct SpillFile {
    label: String,
    file: File,
    end: AtomicU64,
}

impl Spill {
    /// Keeps `limit` bytes in memory for the overlay called `label`, the rest in a file in `folder`.
    pub(super) fn new(label: &str, limit: u64, folder: PathBuf) -> Self {
        Self {
            label: format!("spill file of {label} in {}", folder.display()),
            limit,
            used: Arc::default(),
            folder,
            file: Mutex::new(None),
        }
    }

    /// Holds a copy of `bytes`.
    pub(super) fn hold(&self, bytes: &[u8]) -> Result<Arc<Chunk>> {
        let cost = OVERHEAD + bytes.len() as u64;
        let before = self.used.fetch_add(cost, Ordering::Relaxed);
        let place = if before.saturating_add(cost) <= self.limit {
            Place::Memory {
                bytes: bytes.to_vec(),
                used: self.used.clone(),
            }
        } else {
            self.used.fetch_sub(cost, Ordering::Relaxed);
            let file = self.file()?;
            let length = bytes.len() as u64;
            let offset = file.end.fetch_add(length, Ordering::Relaxed);
            file.write(offset, bytes)?;
            Place::File { file, offset, length }
        };
        Ok(Arc::new(Chunk { place }))
    }

    /// Adds `bytes` at the end of `chunk` if that is in memory and stays small; `false` if not.
    pub(super) fn append(&self, chunk: &mut Chunk, bytes: &[u8]) -> bool {
        let Place::Memory { bytes: held, used } = &mut chunk.place else {
            return false;
        };
        let needed = held.len().saturating_add(bytes.len());
        if needed > CHUNK {
            return false;
        }
        if needed > held.capacity() {
            let capacity = needed.next_power_of_two().min(CHUNK);
            let more = (capacity - held.capacity()) as u64;
            let before = used.fetch_add(more, Ordering::Relaxed);
            if before.saturating_add(more) > self.limit {
                used.fetch_sub(more, Ordering::Relaxed);
                return false;
            }
            let mut grown = Vec::with_capacity(capacity);
            grown.extend_from_slice(held);
            // The allocator may give more than was asked for: what is given back is what was counted.
            let surplus = (grown.capacity() - capacity) as u64;
            used.fetch_add(surplus, Ordering::Relaxed);
            *held = grown;
        }
        held.extend_from_slice(bytes);
        true
    }

    /// Bytes in memory and bytes in the spill file (the file's length, not what of it is still in use).
    pub(super) fn usage(&self) -> (u64, u64) {
        let file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let spilled = file.as_ref().map_or(0, |file| file.end.load(Ordering::Relaxed));
        (self.used.load(Ordering::Relaxed), spilled)
    }

    fn file(&self) -> Result<Arc<SpillFile>> {
        let mut slot = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(file) = &*slot {
            return Ok(file.clone());
        }
        let file = unlinked_file(&self.folder).map_err(|error| {
            let kind = Error::io("", io::Error::from(error.kind())).kind;
            Error::new(
                kind,
                &*self.label,
                format!("cannot be made ({error}); name a folder that can be written"),
            )
        })?;
        let file = Arc::new(SpillFile {
            label: self.label.clone(),
            file,
            end: AtomicU64::new(0),
        });
        *slot = Some(file.clone());
        Ok(file)
    }
}

impl Chunk {
    /// In bytes.
    pub(super) fn length(&self) -> u64 {
        match &self.place {
            Place::Memory { bytes, .. } => bytes.len() as u64,
            Place::File { length, .. } => *length,
        }
    }

    /// Fills `buffer` from `offset` on.
    pub(super) fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        match &self.place {
            Place::Memory { bytes, .. } => {
                let held = usize::try_from(offset)
                    .ok()
                    .and_then(|start| bytes.get(start..start.checked_add(buffer.len())?));
                match held {
                    Some(held) => buffer.copy_from_slice(held),
                    None => {
                        let size = bytes.len() as u64;
                        return Err(Error::out_of_range("overlay", offset, buffer.len() as u64, size));
                    }
                }
                Ok(())
            }
            Place::File { file, offset: at, .. } => file.read(at.saturating_add(offset), buffer),
        }
    }

    /// Replaces what is held from `offset` on; the caller has made sure that it fits.
    pub(super) fn overwrite(&mut self, offset: u64, bytes: &[u8]) -> Result<()> {
        match &mut self.place {
            Place::Memory { bytes: held, .. } => {
                let size = held.len() as u64;
                let place = usize::try_from(offset)
                    .ok()
                    .and_then(|start| held.get_mut(start..start.checked_add(bytes.len())?));
                match place {
                    Some(place) => place.copy_from_slice(bytes),
                    None => {
                        return Err(Error::out_of_range("overlay", offset, bytes.len() as u64, size));
                    }
                }
                Ok(())
            }
            Place::File { file, offset: at, .. } => file.write(at.saturating_add(offset), bytes),
        }
    }
}

impl Drop for Chunk {
    fn drop(&mut self) {
        match &self.place {
            Place::Memory { bytes, used } => {
                used.fetch_sub(OVERHEAD + bytes.capacity() as u64, Ordering::Relaxed);
            }
            Place::File { file, offset, length } => {
                let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
                // Only a saving of space: a filesystem without holes loses nothing but that.
                let _ = fallocate(&file.file, flags, *offset, *length);
            }
        }
    }
}

impl fmt::Debug for Chunk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Place::Memory { bytes, .. } => write!(f, "{} bytes in memory", bytes.len()),
            Place::File { offset, length, .. } => write!(f, "{length} bytes spilled at {offset}"),
        }
    }
}

impl SpillFile {
    fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        self.file
            .read_exact_at(buffer, offset)
            .map_err(|error| Error::io(&*self.label, error).at(offset))
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        self.file.write_all_at(bytes, offset).map_err(|error| {
            let error = Error::io(&*self.label, error).at(offset);
            if error.kind != Kind::Full {
                return error;
            }
            let text = format!(
                "no space is left for {} more bytes of edits; free some, or name another folder",
                bytes.len()
            );
            Error::new(Kind::Full, &*self.label, text).at(offset)
        })
    }
}

/// A file in `folder` that has no name and goes when it is closed, whatever ends the program.
pub(super) fn unlinked_file(folder: &Path) -> io::Result<File> {
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::EXCL | OFlags::CLOEXEC;
    if let Ok(file) = openat(CWD, folder, flags, Mode::RUSR | Mode::WUSR) {
        return Ok(File::from(file));
    }
    // Filesystems without O_TMPFILE (FUSE, some network ones): a name for a moment.
    static NEXT: AtomicU64 = AtomicU64::new(0);
    loop {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = folder.join(format!(".rehome-spill-{}-{number}", process::id()));
        let opened = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path);
        match opened {
            Ok(file) => {
                std::fs::remove_file(&path)?;
                return Ok(file);
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && number < 1 << 20 => {}
            Err(error) => return Err(error),
        }
    }
}
