//! In-place edits, and the undo file that takes them back bit for bit. `docs/undo.md` has the format.
//!
//! Before the container is touched, the old bytes of every range that will change are in the undo file and on
//! stable storage. So at every moment either nothing has changed, or the undo file can restore all of it.

mod before;
mod file;

use crate::{
    copy::is_zero,
    disk::{BlockDevice, Digest, Disk, Error, FileDisk, HeldKind, Kind, Overlay, Result},
    watch::Watch,
};
use before::Before;
use file::{LONGEST_RECORD, State, UndoFile};
use rustix::{
    fs::{FlockOperation, fcntl_lock},
    io::Errno,
};
use std::{
    fs::{self, File},
    ops::Range,
    os::unix::fs::FileTypeExt,
    path::Path,
    sync::Arc,
};

/// What an in-place commit did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Committed {
    /// Bytes of the container that were written.
    pub written: u64,
    /// Size of the container before, in bytes.
    pub size_before: u64,
    /// Size of the container after, in bytes.
    pub size_after: u64,
}

/// What an undo did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Undone {
    /// So many bytes were put back.
    Restored(u64),
    /// The commit never touched the container, or was taken back already: it is as it was.
    Untouched,
}

/// Blocks that did not change are neither saved nor written.
const BLOCK: usize = 4096;

/// Writes what `overlay` holds into the container at `path`, the file or device that it lies over, after the
/// old bytes are safe in a new file at `undo`. Discarded ranges are left as they are. Moved bytes are read through the undo
/// records, so a move may overwrite its own source.
///
/// # Errors
/// [`Kind::Exists`] if `undo` is there, [`Kind::Unsafe`] if the container is in use or is not what the overlay lies
/// over. If the undo file cannot be completed (no space), it is removed and the container is untouched; an error after
/// that leaves a container that [`undo`] restores. Cancelling counts up to there, not later.
pub fn commit_in_place(overlay: &Overlay, path: &Path, undo: &Path, watch: &dyn Watch) -> Result<Committed> {
    let label = path.display().to_string();
    let path = fs::canonicalize(path).map_err(|error| Error::io(label, error))?;
    commit(overlay, open_container(&path)?, &path, undo, watch)
}

/// Restores the container that the undo file at `path` names, or the one at `moved_to`. After a kill at any
/// moment, of the commit or of an undo, it can be called again; the undo file stays.
///
/// # Errors
/// [`Kind::Unsafe`] if the container is in use, or was changed after the commit: to put old bytes into it would make a
/// mixture of both.
pub fn undo(path: &Path, moved_to: Option<&Path>, watch: &dyn Watch) -> Result<Undone> {
    let undo = UndoFile::open(path)?;
    if undo.state == State::Unfinished {
        return Ok(Undone::Untouched);
    }
    let container = open_container(moved_to.unwrap_or(&undo.container))?;
    restore(undo, &*container, watch)
}

/// Opens a container for writing, if nobody else has it.
fn open_container(path: &Path) -> Result<Arc<dyn Disk>> {
    let label = path.display().to_string();
    let metadata = fs::metadata(path).map_err(|error| Error::io(&*label, error))?;
    if metadata.file_type().is_block_device() {
        return Ok(Arc::new(BlockDevice::open_exclusively(path)?));
    }
    let disk = FileDisk::open_writable(path)?;
    // QEMU locks the images that it runs from (its own bytes of them): a whole-file lock meets those.
    if let Some((file, ..)) = disk.plain(0) {
        lock(file, &label)?;
    }
    Ok(Arc::new(disk))
}

/// Locks the file at `path` against other programs that edit disk images, for as long as the result lives and no other
/// handle of this process to that file is closed. `None` for a block device, which is opened exclusively when it is written.
///
/// # Errors
/// [`Kind::Unsafe`] if another program works with it.
pub fn lock_file(path: &Path) -> Result<Option<File>> {
    let label = path.display().to_string();
    let metadata = fs::metadata(path).map_err(|error| Error::io(&*label, error))?;
    if !metadata.is_file() {
        return Ok(None);
    }
    let options = File::options().read(true).write(true).open(path);
    let file = options.map_err(|error| Error::io(&*label, error))?;
    lock(&file, &label)?;
    Ok(Some(file))
}

fn lock(file: &File, label: &str) -> Result<()> {
    match fcntl_lock(file, FlockOperation::NonBlockingLockExclusive) {
        Err(Errno::AGAIN | Errno::ACCESS) => {
            let text = "another program works with it (a running virtual machine?); stop that first";
            Err(Error::new(Kind::Unsafe, label, text))
        }
        // Filesystems without locks have no answer, and no running machine either that would tell.
        _ => Ok(()),
    }
}

fn commit(
    overlay: &Overlay,
    container: Arc<dyn Disk>,
    path: &Path,
    undo_path: &Path,
    watch: &dyn Watch,
) -> Result<Committed> {
    let (size_before, size_after) = (container.size(), overlay.size());
    if overlay.base().size() != size_before {
        let text = format!(
            "has {size_before} bytes, the edits were made over {}: it is not the same, or has changed since",
            overlay.base().size()
        );
        return Err(Error::new(Kind::Unsafe, container.label(), text));
    }
    let mut undo = UndoFile::create(undo_path, path, (size_before, size_after))?;
    let saved = save(overlay, &*container, &mut undo, watch)
        .and_then(|()| sync_folder_of(undo_path))
        .and_then(|()| undo.set_state(State::Sealed));
    if let Err(error) = saved {
        // Nothing has changed yet: an undo file that takes nothing back would only be in the way.
        let _ = fs::remove_file(undo_path);
        return Err(error);
    }
    if size_after > size_before {
        container.set_size(size_after)?;
    }
    let mut undo = Arc::new(undo);
    let after = overlay.over(Arc::new(Before::new(container.clone(), undo.clone())));
    let mut touched = Touched::new(size_after);
    let mut written = 0;
    let mut bytes = Vec::new();
    for record in &undo.records {
        for range in pieces(&record.range, size_after) {
            resize(&mut bytes, &range);
            after.read_at(range.start, &mut bytes)?;
            container.write_at(range.start, &bytes)?;
            touched.add(&range, &bytes);
            written += length(&range);
        }
    }
    if size_after < size_before {
        container.set_size(size_after)?;
    }
    container.flush()?;
    drop(after);
    let state = State::Committed(touched.digest());
    match Arc::get_mut(&mut undo) {
        Some(undo) => undo.set_state(state)?,
        None => UndoFile::open(undo_path)?.set_state(state)?,
    }
    Ok(Committed {
        written,
        size_before,
        size_after,
    })
}

/// Notes the old bytes of all that will change.
fn save(overlay: &Overlay, container: &dyn Disk, undo: &mut UndoFile, watch: &dyn Watch) -> Result<()> {
    let (size_before, size_after) = undo.sizes;
    let held = overlay.held();
    let total = held.iter().map(|held| length(&held.range)).sum();
    watch.stage("saving old bytes for an undo", total);
    let (mut old, mut new) = (Vec::new(), Vec::new());
    let common = size_before.min(size_after);
    for held in held.iter().filter(|held| held.kind != HeldKind::Discarded) {
        for range in pieces(&held.range, common) {
            if watch.cancelled() {
                return Err(Error::new(Kind::Cancelled, overlay.label(), "cancelled"));
            }
            resize(&mut old, &range);
            resize(&mut new, &range);
            container.read_at(range.start, &mut old)?;
            overlay.read_at(range.start, &mut new)?;
            save_changed(&range, &old, &new, undo)?;
            watch.advance(length(&range));
        }
        let fresh = held.range.start.max(size_before)..held.range.end;
        if !fresh.is_empty() {
            undo.save_zeros(fresh)?;
        }
    }
    for range in pieces(&(common..size_before), size_before) {
        resize(&mut old, &range);
        container.read_at(range.start, &mut old)?;
        save_one(range, &old, undo)?;
    }
    Ok(())
}

/// Saves the runs of blocks in which `old` and `new` differ.
fn save_changed(range: &Range<u64>, old: &[u8], new: &[u8], undo: &mut UndoFile) -> Result<()> {
    let mut run: Option<Range<usize>> = None;
    let blocks = old.chunks(BLOCK).zip(new.chunks(BLOCK));
    for (index, (before, after)) in blocks.enumerate() {
        let block = index * BLOCK..index * BLOCK + before.len();
        match &mut run {
            Some(run) if before != after => run.end = block.end,
            None if before != after => run = Some(block),
            _ => {
                if let Some(run) = run.take() {
                    save_run(range, old, run, undo)?;
                }
            }
        }
    }
    run.map_or(Ok(()), |run| save_run(range, old, run, undo))
}

fn save_run(range: &Range<u64>, old: &[u8], run: Range<usize>, undo: &mut UndoFile) -> Result<()> {
    let place = range.start + run.start as u64..range.start + run.end as u64;
    save_one(place, old.get(run).unwrap_or_default(), undo)
}

fn save_one(range: Range<u64>, old: &[u8], undo: &mut UndoFile) -> Result<()> {
    if is_zero(old) {
        undo.save_zeros(range)
    } else {
        undo.save(range, old)
    }
}

fn restore(mut undo: UndoFile, container: &dyn Disk, watch: &dyn Watch) -> Result<Undone> {
    let (size_before, size_after) = undo.sizes;
    let size = container.size();
    let fitting = match undo.state {
        State::Unfinished => return Ok(Undone::Untouched),
        State::Committed(_) => size == size_after,
        State::Undone => size == size_before,
        State::Sealed | State::Undoing => size == size_before || size == size_after,
    };
    if !fitting {
        let text = format!(
            "has {size} bytes where {size_after} were left by the commit: it is another file or was changed since; \
             nothing is put back"
        );
        return Err(Error::new(Kind::Unsafe, container.label(), text));
    }
    match undo.state {
        State::Committed(expected) if touched_now(&undo, container, size_after)? != expected => {
            let text =
                "was changed after the commit in places that the undo would overwrite; nothing is put back";
            return Err(Error::new(Kind::Unsafe, container.label(), text));
        }
        State::Undone if holds_the_old(&undo, container)? => return Ok(Undone::Untouched),
        State::Undone => {
            let text = "was changed after it was restored; nothing is put back";
            return Err(Error::new(Kind::Unsafe, container.label(), text));
        }
        _ => {}
    }
    // From here on a kill leaves a mixture, and the digest above would be wrong: say so first.
    undo.set_state(State::Undoing)?;
    if size < size_before {
        container.set_size(size_before)?;
    }
    let mut bytes = Vec::new();
    let mut restored = 0;
    watch.stage(
        "putting old bytes back",
        undo.records.iter().map(|r| length(&r.range)).sum(),
    );
    for record in &undo.records {
        for range in pieces(&record.range, size_before) {
            resize(&mut bytes, &range);
            undo.old(record, range.start, &mut bytes)?;
            container.write_at(range.start, &bytes)?;
            restored += length(&range);
            watch.advance(length(&range));
        }
    }
    if container.size() > size_before {
        container.set_size(size_before)?;
    }
    container.flush()?;
    undo.set_state(State::Undone)?;
    Ok(Undone::Restored(restored))
}

/// The digest of the touched ranges as they are now.
fn touched_now(undo: &UndoFile, container: &dyn Disk, size: u64) -> Result<Digest> {
    let mut touched = Touched::new(size);
    let mut bytes = Vec::new();
    for record in &undo.records {
        for range in pieces(&record.range, size) {
            resize(&mut bytes, &range);
            container.read_at(range.start, &mut bytes)?;
            touched.add(&range, &bytes);
        }
    }
    Ok(touched.digest())
}

fn holds_the_old(undo: &UndoFile, container: &dyn Disk) -> Result<bool> {
    let (mut old, mut now) = (Vec::new(), Vec::new());
    for record in &undo.records {
        for range in pieces(&record.range, undo.sizes.0) {
            resize(&mut old, &range);
            resize(&mut now, &range);
            undo.old(record, range.start, &mut old)?;
            container.read_at(range.start, &mut now)?;
            if old != now {
                return Ok(false);
            }
        }
    }
    Ok(true)
}

/// BLAKE3 over the container's size and each touched range: offset, length, bytes.
struct Touched(blake3::Hasher);

impl Touched {
    fn new(size: u64) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&size.to_le_bytes());
        Self(hasher)
    }

    fn add(&mut self, range: &Range<u64>, bytes: &[u8]) {
        self.0.update(&range.start.to_le_bytes());
        self.0.update(&length(range).to_le_bytes());
        self.0.update(bytes);
    }

    fn digest(&self) -> Digest {
        Digest(*self.0.finalize().as_bytes())
    }
}

/// `range` as far as `end`, in pieces short enough for a record.
fn pieces(range: &Range<u64>, end: u64) -> impl Iterator<Item = Range<u64>> + use<> {
    let end = range.end.min(end);
    let mut at = range.start;
    std::iter::from_fn(move || {
        if at >= end {
            return None;
        }
        let start = at;
        at = end.min(start.saturating_add(LONGEST_RECORD));
        Some(start..at)
    })
}

fn length(range: &Range<u64>) -> u64 {
    range.end.saturating_sub(range.start)
}

fn resize(buffer: &mut Vec<u8>, range: &Range<u64>) {
    buffer.resize(usize::try_from(length(range)).unwrap_or(0), 0);
}

/// A file that is durable without its name would not be found.
fn sync_folder_of(path: &Path) -> Result<()> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let label = folder.display().to_string();
    File::open(folder)
        .and_then(|folder| folder.sync_all())
        .map_err(|error| Error::io(label, error))
}

#[cfg(test)]
#[path = "undo/tests.rs"]
mod tests;
