//! A block device: read-only as a source, always; writable, and then ours alone, as a destination.

use super::{Content, Disk, Error, Extent, FileDisk, Kind, Result, StickyFlush, check_range, direct::Direct};
use rustix::{
    fs::{FallocateFlags, OFlags, fallocate, ioctl_blksszget, major, minor},
    io::Errno,
};
use std::{
    fs::{File, OpenOptions},
    io::{self, Seek, SeekFrom},
    ops::Range,
    os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt},
    path::Path,
    sync::Arc,
    thread,
    time::Duration,
};

/// A disk, partition, logical volume or loop device of this host.
#[derive(Debug)]
pub struct BlockDevice {
    label: String,
    file: File,
    size: u64,
    sector_size: u32,
    number: (u32, u32),
    writable: bool,
    /// Past the host's cache; `None`: through it.
    direct: Option<Direct>,
    flushing: StickyFlush,
}

/// How often, and how far apart, an exclusive open is tried again: half a second in all.
const TRIES: u32 = 5;
const BETWEEN_TRIES: Duration = Duration::from_millis(100);

/// Opens a source read-only, whichever of the two it is: regular file or block device. `sector_size` overrides the
/// device's logical sector size, or the 512 bytes of a file.
pub fn open_source(path: &Path, sector_size: Option<u32>) -> Result<Arc<dyn Disk>> {
    let label = path.display().to_string();
    if let Some(bad) = sector_size.filter(|size| !matches!(size, 512 | 4096)) {
        let text = format!("a sector size of {bad} is not handled: 512 or 4096");
        return Err(Error::new(Kind::Unsupported, label, text));
    }
    let metadata = std::fs::metadata(path).map_err(|error| Error::io(&label, error))?;
    if metadata.file_type().is_block_device() {
        let device = BlockDevice::open(path)?;
        return Ok(match sector_size {
            Some(sector_size) => Arc::new(device.with_sector_size(sector_size)),
            None => Arc::new(device),
        });
    }
    if !metadata.is_file() {
        let text = "is neither a regular file nor a block device; a disk image or a device is needed";
        return Err(Error::new(Kind::Unsupported, label, text));
    }
    let file = FileDisk::open(path)?;
    Ok(match sector_size {
        Some(sector_size) => Arc::new(file.with_sector_size(sector_size)),
        None => Arc::new(file),
    })
}

/// The same, read past the host's cache where that is possible: what is read once need not push out what others use.
pub fn open_source_directly(path: &Path) -> Result<Arc<dyn Disk>> {
    let metadata = std::fs::metadata(path).map_err(|error| Error::io(path.display().to_string(), error))?;
    if metadata.file_type().is_block_device() {
        return Ok(Arc::new(BlockDevice::open(path)?.directly(path)));
    }
    if !metadata.is_file() {
        return open_source(path, None);
    }
    Ok(Arc::new(FileDisk::open(path)?.directly(path)))
}

impl BlockDevice {
    /// Opens a source. The device is opened for reading only.
    pub fn open(path: &Path) -> Result<Self> {
        Self::from_options(path, OpenOptions::new().read(true), false)
    }

    /// Opens a destination for reading and writing; nobody else can mount or open it exclusively meanwhile.
    ///
    /// # Errors
    /// [`Kind::Unsafe`] if the kernel says that it is in use.
    pub fn open_exclusively(path: &Path) -> Result<Self> {
        let exclusive = i32::try_from(OFlags::EXCL.bits()).unwrap_or(0);
        let mut options = OpenOptions::new();
        options.read(true).write(true).custom_flags(exclusive);
        let mut tries = 0;
        loop {
            match Self::from_options(path, &options, true) {
                // Whoever only probes a new device (udev, partitioning tools) lets go at once.
                Err(error) if error.kind == Kind::Unsafe && tries < TRIES => tries += 1,
                outcome => return outcome,
            }
            thread::sleep(BETWEEN_TRIES);
        }
    }

    /// The same device, counting in sectors of `sector_size` bytes.
    #[must_use]
    pub fn with_sector_size(mut self, sector_size: u32) -> Self {
        self.sector_size = sector_size;
        self
    }

    /// Major and minor number.
    pub fn number(&self) -> (u32, u32) {
        self.number
    }

    fn from_options(path: &Path, options: &OpenOptions, writable: bool) -> Result<Self> {
        let label = path.display().to_string();
        let mut file = options.open(path).map_err(|error| {
            if error.raw_os_error() == Some(Errno::BUSY.raw_os_error()) {
                let text = "is in use (mounted, swapped to, or part of another device) and is left as it is";
                return Error::new(Kind::Unsafe, &*label, text);
            }
            Error::io(&*label, error)
        })?;
        let metadata = file.metadata().map_err(|error| Error::io(&*label, error))?;
        if !metadata.file_type().is_block_device() {
            return Err(Error::new(Kind::Unsupported, label, "not a block device"));
        }
        // A device has no length of its own in stat(2); its end is where seeking stops.
        let size = file
            .seek(SeekFrom::End(0))
            .map_err(|error| Error::io(&*label, error))?;
        let sector_size = ioctl_blksszget(&file).map_err(|error| Error::io(&*label, error.into()))?;
        Ok(Self {
            label,
            file,
            size,
            sector_size,
            number: (major(metadata.rdev()), minor(metadata.rdev())),
            writable,
            direct: None,
            flushing: StickyFlush::default(),
        })
    }

    /// Large pieces go past the host's cache from now on, where `path`, by which this device was opened, has a way for
    /// that. `docs/performance.md` says when that wins.
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

    fn error(&self, offset: u64, error: io::Error) -> Error {
        Error::io(&*self.label, error).at(offset)
    }

    fn must_be_writable(&self, range: &Range<u64>) -> Result<()> {
        if !self.writable {
            return Err(super::read_only(self).at(range.start));
        }
        let length = range.end.saturating_sub(range.start);
        check_range(&self.label, self.size, range.start, length).map(drop)
    }

    /// Whole logical blocks in `range`: all that the kernel's own ways of zeroing take.
    fn whole_blocks(&self, range: &Range<u64>) -> Range<u64> {
        let block = u64::from(self.sector_size).max(512);
        let start = range.start.next_multiple_of(block);
        start..(range.end / block * block).max(start)
    }

    fn write_zero_bytes(&self, range: Range<u64>) -> Result<()> {
        let zeros = vec![0; 1 << 20];
        let mut at = range.start;
        while at < range.end {
            let count = (range.end - at).min(zeros.len() as u64);
            let chunk = usize::try_from(count).ok().and_then(|count| zeros.get(..count));
            self.file
                .write_all_at(chunk.unwrap_or_default(), at)
                .map_err(|error| self.error(at, error))?;
            at += count;
        }
        Ok(())
    }
}

impl Disk for BlockDevice {
    fn label(&self) -> &str {
        &self.label
    }

    fn size(&self) -> u64 {
        self.size
    }

    fn sector_size(&self) -> u32 {
        self.sector_size
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        check_range(&self.label, self.size, offset, buffer.len() as u64)?;
        if self
            .direct
            .as_ref()
            .is_some_and(|direct| direct.read(offset, buffer))
        {
            return Ok(());
        }
        self.file
            .read_exact_at(buffer, offset)
            .map_err(|error| self.error(offset, error))
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        self.must_be_writable(&(offset..offset.saturating_add(bytes.len() as u64)))?;
        if self
            .direct
            .as_ref()
            .is_some_and(|direct| direct.write(offset, bytes))
        {
            return Ok(());
        }
        self.file
            .write_all_at(bytes, offset)
            .map_err(|error| self.error(offset, error))
    }

    /// Only the device knows what it has never written, and does not tell: all of it is data.
    fn extents(&self, range: Range<u64>) -> Result<Vec<Extent>> {
        let length = range.end.saturating_sub(range.start);
        check_range(&self.label, self.size, range.start, length)?;
        Ok(if range.is_empty() {
            Vec::new()
        } else {
            vec![Extent::new(range, Content::Data)]
        })
    }

    /// By the device itself where it can (WRITE ZEROES, UNMAP that reads zeros), by writing where not.
    fn write_zeros(&self, range: Range<u64>) -> Result<()> {
        self.must_be_writable(&range)?;
        let whole = self.whole_blocks(&range);
        let flags = FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE;
        if whole.is_empty() || fallocate(&self.file, flags, whole.start, whole.end - whole.start).is_err() {
            return self.write_zero_bytes(range);
        }
        self.write_zero_bytes(range.start..whole.start)?;
        self.write_zero_bytes(whole.end..range.end)
    }

    fn discard(&self, range: Range<u64>) -> Result<()> {
        self.must_be_writable(&range)?;
        let whole = self.whole_blocks(&range);
        if !whole.is_empty() {
            let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            // A hint: a device that cannot forget keeps what it has.
            let _ = fallocate(&self.file, flags, whole.start, whole.end - whole.start);
        }
        Ok(())
    }

    fn flush(&self) -> Result<()> {
        if self.writable {
            let flush = || self.file.sync_data().map_err(|error| self.error(0, error));
            self.flushing.run(&self.label, flush)
        } else {
            Ok(())
        }
    }

    fn plain(&self, offset: u64) -> Option<(&File, u64, u64)> {
        let length = self.size.checked_sub(offset)?;
        Some((&self.file, offset, length))
    }
}
