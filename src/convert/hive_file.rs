//! A registry hive as a file: of this host, or in a guest; with the transaction logs beside it.

use super::mending::{Mending, mend, mount_tree};
use crate::{
    disk::{self, Digest, Disk, Error, Kind, Overlay, Result},
    fs::GuestPath,
    hive::{self, Hive, LARGEST_HIVE},
    job::Source,
    source::Opened,
    undo,
    watch::Watch,
};
use std::{
    fs::{self, File},
    io::{Read, Write},
    path::{Path, PathBuf},
};

/// Bytes that are compared, and written if they differ.
const BLOCK: usize = 4096;

/// Where a hive is.
#[derive(Clone, Debug)]
pub enum HivePlace {
    /// A file of this host.
    Host(PathBuf),
    /// A file in a guest.
    Guest {
        /// The guest's disks.
        source: Source,
        /// The volume, if not that of the installed system.
        volume: Option<String>,
        /// The path there.
        path: GuestPath,
    },
}

/// A hive that was read, and what its file held.
#[derive(Debug)]
pub struct HiveFile {
    /// The hive.
    pub hive: Hive,
    place: HivePlace,
    before: Digest,
    /// Held while the hive is edited, so that nobody else edits it meanwhile.
    _lock: Option<File>,
}

/// What a hive is read for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// To be looked into.
    Reading,
    /// To be edited where it lies.
    EditingInPlace,
}

impl HiveFile {
    /// Reads the hive at `place`, and the logs beside it.
    ///
    /// # Errors
    /// Those of reading the file and of [`Hive::open`]; [`Kind::Unsafe`] if another program works with a file that is to be
    /// edited.
    pub fn read(place: HivePlace, purpose: Purpose, watch: &dyn Watch) -> Result<Self> {
        let (label, bytes, logs, lock) = match &place {
            HivePlace::Host(path) => {
                let lock = match purpose {
                    Purpose::Reading => None,
                    Purpose::EditingInPlace => undo::lock_file(path)?,
                };
                let (bytes, logs) = host_files(path)?;
                (path.display().to_string(), bytes, logs, lock)
            }
            HivePlace::Guest { source, volume, path } => {
                let (bytes, logs) = guest_files(source, volume.as_deref(), path, watch)?;
                (path.to_string(), bytes, logs, None)
            }
        };
        let before = Digest::of(&bytes);
        Ok(Self {
            hive: Hive::open(label, bytes, &logs)?,
            place,
            before,
            _lock: lock,
        })
    }

    /// Writes the hive, as it is now, where it was read from; the undo files that are given take it back. Before that a
    /// hive opened afresh is checked.
    ///
    /// # Errors
    /// Before the first byte is written: whatever stopped it, and the file is as it was.
    pub fn write_in_place(&self, clock: u64, undo_file: &Path, watch: &dyn Watch) -> Result<Vec<PathBuf>> {
        self.judge()?;
        match &self.place {
            HivePlace::Host(path) => {
                let container = disk::open_source(path, None)?;
                let overlay = Overlay::new(container.clone(), LARGEST_HIVE, std::env::temp_dir());
                write_changes(&*container, &overlay, self.hive.file(), self.before)?;
                undo::commit_in_place(&overlay, path, undo_file, watch)?;
                Ok(vec![undo_file.to_owned()])
            }
            HivePlace::Guest { source, volume, path } => {
                let mending = Mending::Replace(self.before, self.hive.file().to_vec());
                mend(source, volume.as_deref(), path, &mending, clock, undo_file, watch)
            }
        }
    }

    /// Writes the hive, as it is now, to a new file.
    ///
    /// # Errors
    /// [`Kind::Exists`] if there is one of that name; those of writing.
    pub fn write_to(&self, out: &Path) -> Result<()> {
        self.judge()?;
        let failed = |error| Error::io(out.display().to_string(), error);
        let mut file = File::create_new(out).map_err(failed)?;
        file.write_all(self.hive.file())
            .and_then(|()| file.sync_all())
            .map_err(failed)
    }

    /// A reader that knows nothing of the edit must find a hive that was closed properly and holds together.
    fn judge(&self) -> Result<()> {
        let again = Hive::open(self.hive.label(), self.hive.file().to_vec(), &[])?;
        again.check()?;
        match again.stale() {
            None => Ok(()),
            Some(why) => Err(Error::new(
                Kind::Corrupt,
                self.hive.label(),
                format!("stopped: after the edit {why}; nothing was written. Please report this"),
            )),
        }
    }
}

fn host_files(path: &Path) -> Result<(Vec<u8>, Vec<Vec<u8>>)> {
    let bytes = host_file(path)?;
    let Some(name) = path.file_name().and_then(|name| name.to_str()) else {
        return Ok((bytes, Vec::new()));
    };
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let failed = |error| Error::io(folder.display().to_string(), error);
    let mut beside: Vec<String> = Vec::new();
    for entry in fs::read_dir(folder).map_err(failed)? {
        beside.extend(entry.map_err(failed)?.file_name().to_str().map(str::to_owned));
    }
    beside.sort();
    let logs = logs_among(name, beside.iter().map(String::as_str));
    let logs = logs.into_iter().map(|log| host_file(&folder.join(log)));
    Ok((bytes, logs.collect::<Result<_>>()?))
}

fn host_file(path: &Path) -> Result<Vec<u8>> {
    let failed = |error| Error::io(path.display().to_string(), error);
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(failed)?;
    let read = file
        .take(LARGEST_HIVE.saturating_add(1))
        .read_to_end(&mut bytes)
        .map_err(failed)?;
    if read as u64 > LARGEST_HIVE {
        let text = format!("has more than {LARGEST_HIVE} bytes, more than a hive is read up to");
        return Err(Error::new(Kind::Unsupported, path.display().to_string(), text));
    }
    Ok(bytes)
}

fn guest_files(
    source: &Source,
    volume: Option<&str>,
    path: &GuestPath,
    watch: &dyn Watch,
) -> Result<(Vec<u8>, Vec<Vec<u8>>)> {
    let mut examined = Opened::open(source, watch)?.examine()?;
    mount_tree(&mut examined, volume)?;
    let mounts = &examined.layer.mounts;
    let bytes = mounts
        .read(path, LARGEST_HIVE)?
        .ok_or_else(|| Error::new(Kind::NotFound, path.to_string(), "is no file in the guest"))?;
    let name = String::from_utf8_lossy(path.name()).into_owned();
    let folder = path.parent();
    let beside: Vec<String> = mounts
        .list(&folder)?
        .unwrap_or_default()
        .into_iter()
        .filter_map(|name| String::from_utf8(name).ok())
        .collect();
    let mut logs = Vec::new();
    for log in logs_among(&name, beside.iter().map(String::as_str)) {
        logs.extend(mounts.read(&folder.join(&log), LARGEST_HIVE)?);
    }
    Ok((bytes, logs))
}

/// Which of `beside` are logs of `name`, in whatever case.
fn logs_among<'n>(name: &str, beside: impl Iterator<Item = &'n str> + Clone) -> Vec<String> {
    let wanted = hive::log_names(name);
    let found = wanted
        .iter()
        .filter_map(|log| beside.clone().find(|other| other.eq_ignore_ascii_case(log)));
    found.map(str::to_owned).collect()
}

/// Writes the blocks that differ, if what is there is still what was read.
fn write_changes(old: &dyn Disk, overlay: &Overlay, new: &[u8], before: Digest) -> Result<()> {
    let mut bytes = vec![0; usize::try_from(old.size()).unwrap_or(0)];
    old.read_at(0, &mut bytes)?;
    if Digest::of(&bytes) != before {
        let text = "has changed since it was read; nothing was written. Try again";
        return Err(Error::new(Kind::Unsafe, old.label(), text));
    }
    overlay.set_size(new.len() as u64)?;
    let mut old_blocks = bytes.chunks(BLOCK);
    let mut at: u64 = 0;
    for block in new.chunks(BLOCK) {
        if old_blocks.next() != Some(block) {
            overlay.write_at(at, block)?;
        }
        at = at.saturating_add(block.len() as u64);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn logs_are_found_in_whatever_case_and_in_order() {
        let beside = [
            "system.log2",
            "SYSTEM",
            "System.LOG1",
            "SYSTEM.LOG1.bak",
            "SOFTWARE.LOG1",
        ];
        assert_eq!(
            logs_among("SYSTEM", beside.into_iter()),
            ["System.LOG1", "system.log2"]
        );
    }

    #[test]
    fn only_blocks_that_differ_are_written() {
        let old = vec![1; 3 * BLOCK];
        let mut new = old.clone();
        new[BLOCK + 5] = 2;
        new.extend([3; 100]);
        let disk: Arc<dyn Disk> = Arc::new(disk::MemoryDisk::new("hive", old.clone()));
        let overlay = Overlay::new(disk.clone(), 1 << 20, std::env::temp_dir());
        assert!(write_changes(&*disk, &overlay, &new, Digest::of(b"other")).is_err());
        write_changes(&*disk, &overlay, &new, Digest::of(&old)).unwrap();
        let mut read = vec![0; new.len()];
        overlay.read_at(0, &mut read).unwrap();
        assert_eq!(read, new);
        let held: u64 = overlay
            .held()
            .iter()
            .map(|held| held.range.end - held.range.start)
            .sum();
        assert!(held < 2 * BLOCK as u64, "{held}");
    }
}
