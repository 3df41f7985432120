//! A raw file: read-only as a source, always; writable as a container that we made.

use super::{
    Content, Disk, Error, Extent, Kind, Result, StickyFlush, check_range, direct::Direct, push_extent,
};
use reflink_copy::ReflinkBlockBuilder;
use rustix::{
    fs::{FallocateFlags, SeekFrom, copy_file_range, fallocate, seek},
    io::Errno,
};
use std::{
    fs::{File, OpenOptions},
    io::ErrorKind,
    num::NonZeroU64,
    ops::Range,
    os::unix::fs::FileExt,
    path::Path,
    sync::atomic::{AtomicU64, Ordering},
};

/// A regular file. Holes in it are holes of the disk.
#[derive(Debug)]
pub struct FileDisk {
    label: String,
    file: File,
    size: AtomicU64,
    sector_size: u32,
    writable: bool,
    /// Past the host's cache; `None`: through it.
    direct: Option<Direct>,
    flushing: StickyFlush,
}

/// No more than this many runs are listed by one call of [`Disk::extents`]: bounded memory for a file in shreds.
const MOST_EXTENTS: usize = 1024;

impl FileDisk {
    /// Opens a source. The file is opened for reading only.
    pub fn open(path: &Path) -> Result<Self> {
        let label = path.display().to_string();
        let file = File::open(path).map_err(|e| Error::io(&label, e))?;
        Self::from_file(label, file, false)
    }

    /// Makes a new file of `size` bytes, all hole; fails if there is one of that name.
    pub fn create(path: &Path, size: u64) -> Result<Self> {
        let label = path.display().to_string();
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .open(path)
            .map_err(|e| Error::io(&label, e))?;
        // A file that was cut to nothing is written out by ext4 when it is closed, wanted or not.
        if size > 0 {
            file.set_len(size).map_err(|e| Error::io(&label, e))?;
        }
        Self::from_file(label, file, true)
    }

    /// Opens a file of ours for reading and writing: a destination that is resumed, an image edited in place.
    pub fn open_writable(path: &Path) -> Result<Self> {
        let label = path.display().to_string();
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(path)
            .map_err(|e| Error::io(&label, e))?;
        Self::from_file(label, file, true)
    }

    /// A disk over an open regular file, called `label`.
    pub fn from_file(label: String, file: File, writable: bool) -> Result<Self> {
        let metadata = file.metadata().map_err(|e| Error::io(&label, e))?;
        if !metadata.is_file() {
            return Err(Error::new(Kind::Unsupported, label, "not a regular file"));
        }
        Ok(Self {
            label,
            size: AtomicU64::new(metadata.len()),
            file,
            sector_size: 512,
            writable,
            direct: None,
            flushing: StickyFlush::default(),
        })
    }

    /// The same disk, called `label` and not to be written any more.
    #[must_use]
    pub(super) fn into_source(self, label: String) -> Self {
        Self {
            label,
            writable: false,
            ..self
        }
    }

    /// Large pieces go past the host's cache from now on, where the filesystem of `path`, by which this disk was opened,
    /// has a way for that. `docs/performance.md` says when that wins.
    #[must_use]
    pub fn directly(mut self, path: &Path) -> Self {
        self.direct = Direct::open(path, &self.file, self.writable);
        self
    }

    /// Takes note of nothing that failed before now: what an earlier run could not bring to the storage is written again by the
    /// run that resumes it, which would otherwise hear of it at its first flush and stop.
    #[must_use]
    pub(crate) fn forgetting_earlier_errors(self) -> Self {
        let _ = self.file.sync_data();
        self
    }

    /// The same disk, counting in sectors of `sector_size` bytes.
    #[must_use]
    pub fn with_sector_size(mut self, sector_size: u32) -> Self {
        self.sector_size = sector_size;
        self
    }

    fn error(&self, offset: u64, error: impl Into<std::io::Error>) -> Error {
        Error::io(&*self.label, error.into()).at(offset)
    }

    /// The file was as long as we say when it was opened.
    fn cut_short(&self, offset: u64) -> Error {
        let now = self.file.metadata().map_or(0, |metadata| metadata.len());
        let text = format!(
            "the file was cut to {now} bytes while it was in use, from {}; nothing else may write to it meanwhile",
            self.size()
        );
        Error::new(Kind::Io, &*self.label, text).at(offset)
    }

    fn must_be_writable(&self, offset: u64) -> Result<()> {
        if self.writable {
            Ok(())
        } else {
            Err(super::read_only(self).at(offset))
        }
    }

    /// Punches a hole; `false` where the filesystem cannot.
    fn punch(&self, range: &Range<u64>) -> bool {
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        fallocate(&self.file, flags, range.start, range.end - range.start).is_ok()
    }
}

impl Disk for FileDisk {
    fn label(&self) -> &str {
        &self.label
    }

    fn size(&self) -> u64 {
        self.size.load(Ordering::Acquire)
    }

    fn sector_size(&self) -> u32 {
        self.sector_size
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        check_range(&self.label, self.size(), offset, buffer.len() as u64)?;
        if self
            .direct
            .as_ref()
            .is_some_and(|direct| direct.read(offset, buffer))
        {
            return Ok(());
        }
        self.file
            .read_exact_at(buffer, offset)
            .map_err(|error| match error.kind() {
                ErrorKind::UnexpectedEof => self.cut_short(offset),
                _ => self.error(offset, error),
            })
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        self.must_be_writable(offset)?;
        check_range(&self.label, self.size(), offset, bytes.len() as u64)?;
        if self
            .direct
            .as_ref()
            .is_some_and(|direct| direct.write(offset, bytes))
        {
            return Ok(());
        }
        self.file
            .write_all_at(bytes, offset)
            .map_err(|e| self.error(offset, e))
    }

    fn extents(&self, range: Range<u64>) -> Result<Vec<Extent>> {
        check_range(
            &self.label,
            self.size(),
            range.start,
            range.end.saturating_sub(range.start),
        )?;
        let mut map = Vec::new();
        let mut at = range.start;
        while at < range.end && map.len() < MOST_EXTENTS {
            let data = match seek(&self.file, SeekFrom::Data(at)) {
                Ok(data) => data.max(at),
                Err(rustix::io::Errno::NXIO) => range.end,
                // A filesystem that cannot tell: all of it is data.
                Err(_) => at,
            };
            push_extent(&mut map, Extent::new(at..data.min(range.end), Content::Hole));
            if data >= range.end {
                break;
            }
            let hole = match seek(&self.file, SeekFrom::Hole(data)) {
                Ok(hole) if hole > data => hole.min(range.end),
                _ => range.end,
            };
            push_extent(&mut map, Extent::new(data..hole, Content::Data));
            at = hole;
        }
        Ok(map)
    }

    fn write_zeros(&self, range: Range<u64>) -> Result<()> {
        self.must_be_writable(range.start)?;
        check_range(
            &self.label,
            self.size(),
            range.start,
            range.end.saturating_sub(range.start),
        )?;
        if range.is_empty() || self.punch(&range) {
            return Ok(());
        }
        let zeros = vec![0; 1 << 20];
        let mut at = range.start;
        while at < range.end {
            let count = (range.end - at).min(zeros.len() as u64);
            let chunk = usize::try_from(count)
                .ok()
                .and_then(|count| zeros.get(..count))
                .unwrap_or_default();
            self.file.write_all_at(chunk, at).map_err(|e| self.error(at, e))?;
            at += count;
        }
        Ok(())
    }

    fn discard(&self, range: Range<u64>) -> Result<()> {
        self.must_be_writable(range.start)?;
        check_range(
            &self.label,
            self.size(),
            range.start,
            range.end.saturating_sub(range.start),
        )?;
        if !range.is_empty() {
            self.punch(&range);
        }
        Ok(())
    }

    fn flush(&self) -> Result<()> {
        if self.writable {
            let flush = || self.file.sync_data().map_err(|e| self.error(0, e));
            self.flushing.run(&self.label, flush)
        } else {
            Ok(())
        }
    }

    fn set_size(&self, size: u64) -> Result<()> {
        self.must_be_writable(size)?;
        self.file.set_len(size).map_err(|e| self.error(size, e))?;
        self.size.store(size, Ordering::Release);
        Ok(())
    }

    fn preallocate(&self, range: Range<u64>) -> Result<()> {
        self.must_be_writable(range.start)?;
        let length = range.end.saturating_sub(range.start);
        check_range(&self.label, self.size(), range.start, length)?;
        if length == 0 {
            return Ok(());
        }
        fallocate(&self.file, FallocateFlags::KEEP_SIZE, range.start, length)
            .map_err(|error| self.error(range.start, error))
    }

    fn share(&self, offset: u64, from: &File, at: u64, length: u64) -> Result<bool> {
        self.must_be_writable(offset)?;
        check_range(&self.label, self.size(), offset, length)?;
        let Some(count) = NonZeroU64::new(length) else {
            return Ok(true);
        };
        let blocks = ReflinkBlockBuilder::new(from, &self.file, count);
        Ok(blocks.from_offset(at).to_offset(offset).reflink_block().is_ok())
    }

    fn copy_from(&self, offset: u64, from: &File, at: u64, length: u64) -> Result<bool> {
        self.must_be_writable(offset)?;
        check_range(&self.label, self.size(), offset, length)?;
        let (mut at, mut to) = (at, offset);
        let end = offset.saturating_add(length);
        while to < end {
            let count = usize::try_from(end - to).unwrap_or(usize::MAX);
            match copy_file_range(from, Some(&mut at), &self.file, Some(&mut to), count) {
                Ok(0) => return Ok(false),
                Ok(_) => {}
                Err(error @ (Errno::NOSPC | Errno::DQUOT | Errno::IO)) => return Err(self.error(to, error)),
                Err(_) => return Ok(false),
            }
        }
        Ok(true)
    }

    fn plain(&self, offset: u64) -> Option<(&File, u64, u64)> {
        let length = self.size().checked_sub(offset)?;
        Some((&self.file, offset, length))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holes_of_the_file_are_holes_of_the_disk() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("disk.raw");
        let disk = FileDisk::create(&path, 8 << 20).unwrap();
        disk.write_at(1 << 20, &vec![7; 1 << 20]).unwrap();
        disk.flush().unwrap();
        let disk = FileDisk::open(&path).unwrap();
        let map = disk.extents(0..8 << 20).unwrap();
        assert_eq!(map.first().unwrap(), &Extent::new(0..1 << 20, Content::Hole));
        assert_eq!(map.last().unwrap().range.end, 8 << 20);
        assert_eq!(disk.write_at(0, &[1]).unwrap_err().kind, Kind::ReadOnly);
        assert_eq!(disk.write_zeros(0..1).unwrap_err().kind, Kind::ReadOnly);
        assert_eq!(FileDisk::create(&path, 1).unwrap_err().kind, Kind::Exists);
    }

    #[test]
    fn a_file_that_is_cut_while_it_is_read_says_so() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("disk.raw");
        std::fs::write(&path, vec![7; 10_000]).unwrap();
        let disk = FileDisk::open(&path).unwrap();
        OpenOptions::new()
            .write(true)
            .open(&path)
            .unwrap()
            .set_len(6000)
            .unwrap();
        let mut bytes = [0; 4096];
        disk.read_at(0, &mut bytes).unwrap();
        let error = disk.read_at(4096, &mut bytes).unwrap_err();
        assert_eq!((error.kind, error.offset), (Kind::Io, Some(4096)));
        assert!(error.to_string().contains("cut to 6000 bytes"), "{error}");
    }

    #[test]
    fn zeros_can_be_written_over_data() {
        let folder = tempfile::tempdir().unwrap();
        let disk = FileDisk::create(&folder.path().join("disk.raw"), 1 << 20).unwrap();
        disk.write_at(0, &vec![7; 1 << 20]).unwrap();
        disk.write_zeros(1000..9000).unwrap();
        let mut bytes = vec![0; 10_000];
        disk.read_at(0, &mut bytes).unwrap();
        assert!(bytes[1000..9000].iter().all(|b| *b == 0));
        assert!(bytes[..1000].iter().chain(&bytes[9000..]).all(|b| *b == 7));
    }
}
