//! A disk is bytes at offsets. Everything that holds bytes is one: a file, a partition, an image, a logical
//! volume. This room knows the [`Disk`] trait, the plain disks (files, devices, memory), the disks made of other
//! disks ([`Composite`], [`Overlay`], [`Recorder`]) and the [`Sink`] for what only goes forward.

mod aligned;
mod block_device;
mod composite;
mod cursor;
mod digest;
mod direct;
mod error;
mod extent;
pub mod field;
mod file;
mod forward;
mod memory;
mod overlay;
mod overlay_map;
mod recorder;
mod sink;
mod spill;
mod spool;
mod sticky_flush;
mod unflushed;

pub use aligned::{ALIGNMENT, AlignedBuffer};
pub use block_device::{BlockDevice, open_source, open_source_directly};
pub use composite::{Composite, Part};
pub use cursor::Cursor;
pub use digest::Digest;
pub use error::{Error, Kind, Result};
pub use extent::{Content, Extent, push_extent};
pub use file::FileDisk;
pub(crate) use forward::MOST_KEPT;
pub use forward::{ForwardDisk, ForwardSink};
pub use memory::MemoryDisk;
pub use overlay::{Held, HeldKind, Overlay};
pub use recorder::Recorder;
pub use sink::{DiskSink, Sink};
pub use spool::{spool, temporary_file};
pub(crate) use sticky_flush::StickyFlush;
pub use unflushed::Unflushed;

use std::{fmt::Debug, fs::File, ops::Range};

/// Bytes at offsets. Disjoint ranges may be read and written from many threads at once. Any offset and length is
/// allowed: alignment to a device's blocks is the business of the disk that has them.
pub trait Disk: Debug + Send + Sync {
    /// As an administrator would say it: "web1.qcow2", "web1.qcow2 partition 2", "vg0/root".
    fn label(&self) -> &str;

    /// In bytes.
    fn size(&self) -> u64;

    /// Logical sector in bytes, 512 or 4096: what partition tables count in.
    fn sector_size(&self) -> u32 {
        512
    }

    /// Fills `buffer` wholly or fails.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<()>;

    /// Writes all of `bytes` or fails; lasting after [`Disk::flush`].
    fn write_at(&self, offset: u64, _bytes: &[u8]) -> Result<()> {
        Err(read_only(self).at(offset))
    }

    /// What `range` holds, in order and without gaps from its start. May stop early (a network answer, a limit),
    /// never empty for a range that is not: ask again from the last end. No disk builds an unbounded list.
    fn extents(&self, range: Range<u64>) -> Result<Vec<Extent>>;

    /// `range` reads as zeros afterwards, whatever that costs.
    fn write_zeros(&self, range: Range<u64>) -> Result<()> {
        Err(read_only(self).at(range.start))
    }

    /// Nobody needs `range` any more. A hint that maps down through every layer to the overlay, which then reads
    /// zeros and says `Hole`: this is how "free in ext4 on a partition" becomes "not copied".
    fn discard(&self, _range: Range<u64>) -> Result<()> {
        Ok(())
    }

    /// Moves bytes inside this disk; ranges may overlap. An overlay only notes where they come from, so shrinking
    /// a full 2 TB filesystem needs no 2 TB of overlay.
    fn copy_within(&self, from: Range<u64>, to: u64) -> Result<()> {
        copy_through_a_buffer(self, from, to)
    }

    /// Everything written before is on stable storage, image metadata included. After one that failed a file, a device and an
    /// export let no later one succeed: what the failed one should have brought there is lost.
    fn flush(&self) -> Result<()> {
        Ok(())
    }

    /// Container files grow under an image format; other disks refuse.
    fn set_size(&self, _size: u64) -> Result<()> {
        Err(Error::new(Kind::Unsupported, self.label(), "has a fixed size"))
    }

    /// Takes space for `range` now, so that it cannot run out later; what is read there stays.
    fn preallocate(&self, range: Range<u64>) -> Result<()> {
        let text = "has no space that could be taken in advance";
        Err(Error::new(Kind::Unsupported, self.label(), text).at(range.start))
    }

    /// From now on the `length` bytes at `offset` are those of the host file `from` at `at`, in the same blocks until one of
    /// the two is written (a reflink). `false`: this disk, these places or this filesystem cannot; nothing was done.
    fn share(&self, _offset: u64, _from: &File, _at: u64, _length: u64) -> Result<bool> {
        Ok(false)
    }

    /// Copies `length` bytes of the host file `from` at `at` to `offset` without bringing them here: in the kernel, or on
    /// the server that has both files. `false`: cannot; what of it is there already is undefined.
    fn copy_from(&self, _offset: u64, _from: &File, _at: u64, _length: u64) -> Result<bool> {
        Ok(false)
    }

    /// The bytes from `offset` on lie unchanged in a host file, at `(file, offset there, length)`: what reflink and
    /// `copy_file_range` need.
    fn plain(&self, _offset: u64) -> Option<(&File, u64, u64)> {
        None
    }
}

fn read_only(disk: &(impl Disk + ?Sized)) -> Error {
    Error::new(Kind::ReadOnly, disk.label(), "opened for reading only")
}

/// Checks that `length` bytes at `offset` lie within the `size` of the disk called `label`; gives their end.
pub fn check_range(label: &str, size: u64, offset: u64, length: u64) -> Result<u64> {
    match offset.checked_add(length) {
        Some(end) if end <= size => Ok(end),
        _ => Err(Error::out_of_range(label, offset, length, size)),
    }
}

/// How much [`Disk::copy_within`] moves at once where a disk has no better way.
const COPY_BUFFER: usize = 1 << 20;

fn copy_through_a_buffer(disk: &(impl Disk + ?Sized), from: Range<u64>, to: u64) -> Result<()> {
    let length = from.end.saturating_sub(from.start);
    check_range(disk.label(), disk.size(), from.start, length)?;
    check_range(disk.label(), disk.size(), to, length)?;
    let mut buffer = vec![0; COPY_BUFFER];
    let mut done = 0;
    while done < length {
        let count = (length - done).min(COPY_BUFFER as u64);
        // Overlapping ranges: go from the end that is not overwritten before it is read.
        let at = if to <= from.start {
            done
        } else {
            length - done - count
        };
        let chunk = usize::try_from(count)
            .ok()
            .and_then(|count| buffer.get_mut(..count))
            .unwrap_or_default();
        disk.read_at(from.start + at, chunk)?;
        disk.write_at(to + at, chunk)?;
        done += count;
    }
    Ok(())
}
