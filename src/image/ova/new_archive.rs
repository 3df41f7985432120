//! A new archive, written in place and only once: no disk is kept elsewhere first, although a tar names the size of a file
//! before its contents.
//!
//! Where everything begins follows from the descriptor's length, which is the same for all sizes of the disks' files. So the
//! first disk is written right at its place; when it is complete its header is put before it, then comes the next. At the
//! end the files are read back for their digests, and the descriptor, the manifest behind the last disk, and the end mark
//! are written. An archive without its descriptor is none: a run that breaks leaves nothing that looks whole.

use super::{
    flaw::Flaw,
    manifest::{self, Algorithm},
    new_descriptor::{self, NewDisk, NewMachine},
    tar::{self, BLOCK, HEADER, file_header},
};
use crate::{
    disk::{Composite, Disk, Error, Extent, Kind, Result, check_range},
    watch::Watch,
};
use std::{
    fs::File,
    ops::Range,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// An archive that is being written.
#[derive(Debug)]
pub struct NewArchive {
    container: Arc<dyn Disk>,
    machine: NewMachine,
    disks: Vec<NewDisk>,
    /// Length of the descriptor.
    length: u64,
    /// Of the disks' files that are complete.
    sizes: Mutex<Vec<u64>>,
}

impl NewArchive {
    /// An archive of `machine` and its `disks` in `container`: a file that is empty, or holds what an earlier run with the
    /// same machine and disks has left.
    ///
    /// # Errors
    /// [`Kind::Unsupported`] for what cannot be described.
    pub fn new(container: Arc<dyn Disk>, machine: NewMachine, disks: Vec<NewDisk>) -> Result<Self> {
        let flawed = |flaw: Flaw| flaw.of(container.label());
        let text = new_descriptor::text(&machine, &disks, &[]).map_err(flawed)?;
        let longest = disks
            .iter()
            .map(|disk| disk.file.as_str())
            .max_by_key(|name| name.len());
        for name in longest.into_iter().chain([&*descriptor_name(&machine.name)]) {
            if name.len() > tar::LONGEST_NAME || name.contains('/') {
                let text = format!(
                    "the name \"{name}\" is too long for an archive ({} bytes), or has a slash",
                    tar::LONGEST_NAME
                );
                return Err(flawed(Flaw::CannotDescribe(text)));
            }
        }
        Ok(Self {
            length: text.len() as u64,
            container,
            machine,
            disks,
            sizes: Mutex::default(),
        })
    }

    fn sizes(&self) -> MutexGuard<'_, Vec<u64>> {
        self.sizes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where the contents of the file behind those of `sizes` begin.
    fn start(&self, sizes: &[u64]) -> u64 {
        let files = std::iter::once(&self.length).chain(sizes);
        BLOCK
            + files
                .map(|size| size.next_multiple_of(BLOCK) + BLOCK)
                .sum::<u64>()
    }

    /// The file of the next disk, as a disk of its own: to be filled by a format that grows. `fresh`: nothing of an earlier
    /// run is in it.
    ///
    /// # Errors
    /// Those of the container; [`Kind::NotFound`] if there is no further disk.
    pub fn next_disk(&self, fresh: bool) -> Result<Arc<dyn Disk>> {
        let sizes = self.sizes();
        let Some(disk) = self.disks.get(sizes.len()) else {
            let text = "has no room for another disk";
            return Err(Error::new(Kind::NotFound, self.container.label(), text));
        };
        let start = self.start(&sizes);
        let earlier = if fresh {
            None
        } else {
            self.earlier_size(start, &disk.file)?
        };
        if earlier.is_none() && (fresh || self.container.size() < start) {
            // Whatever an earlier run has left behind it is gone.
            self.container.set_size(start)?;
        }
        Ok(Arc::new(Window {
            label: format!("{}: {}", self.container.label(), disk.file),
            container: self.container.clone(),
            start,
            complete: earlier,
        }))
    }

    /// The size of a disk's file that an earlier run completed.
    fn earlier_size(&self, start: u64, name: &str) -> Result<Option<u64>> {
        let at = start - BLOCK;
        if self.container.size() < start {
            return Ok(None);
        }
        let mut header = [0; HEADER];
        self.container.read_at(at, &mut header)?;
        let size = tar::size_of(&header, name);
        Ok(size.filter(|size| size.saturating_add(start) <= self.container.size()))
    }

    /// The file of the disk that [`NewArchive::next_disk`] gave last is complete.
    ///
    /// # Errors
    /// Those of the container.
    pub fn complete_disk(&self, file: &dyn Disk) -> Result<()> {
        let mut sizes = self.sizes();
        let size = file.size();
        let Some(disk) = self.disks.get(sizes.len()) else {
            let text = "has all its disks already";
            return Err(Error::new(Kind::NotFound, self.container.label(), text));
        };
        let start = self.start(&sizes);
        let end = start.saturating_add(size).next_multiple_of(BLOCK);
        if self.container.size() < end {
            self.container.set_size(end)?;
        }
        // The header comes when its file is there to stay.
        self.container.flush()?;
        self.container
            .write_at(start - BLOCK, &file_header(&disk.file, size))?;
        self.container.flush()?;
        sizes.push(size);
        Ok(())
    }

    /// Writes what makes it an archive. All disks are complete.
    ///
    /// # Errors
    /// Those of the container; [`Kind::Cancelled`] if `watch` says so.
    pub fn finish(&self, watch: &dyn Watch) -> Result<()> {
        let sizes = self.sizes().clone();
        if sizes.len() != self.disks.len() {
            let text = format!(
                "only {} of {} disks have been written",
                sizes.len(),
                self.disks.len()
            );
            return Err(Error::new(Kind::Io, self.container.label(), text));
        }
        watch.stage("manifest", sizes.iter().sum());
        let text = new_descriptor::text(&self.machine, &self.disks, &sizes)
            .map_err(|flaw| flaw.of(self.container.label()))?;
        let name = descriptor_name(&self.machine.name);
        let mut lines = manifest::line(&name, &manifest::digest_of(text.as_bytes()));
        for (index, (disk, size)) in self.disks.iter().zip(&sizes).enumerate() {
            let start = self.start(sizes.get(..index).unwrap_or_default());
            let file = Composite::slice(
                &*disk.file,
                self.container.clone(),
                start..start.saturating_add(*size),
            )?;
            lines += &manifest::line(&disk.file, &manifest::digest(&file, Algorithm::Sha256, watch)?);
        }
        let at = self.start(&sizes) - BLOCK;
        let mut end = file_header(&format!("{}.mf", self.machine.name), lines.len() as u64).to_vec();
        end.extend(lines.as_bytes());
        // Two blocks of zeros behind the last file.
        let padded = end.len().next_multiple_of(HEADER) + 2 * HEADER;
        end.resize(padded, 0);
        self.container.set_size(at + end.len() as u64)?;
        self.container.write_at(at, &end)?;
        self.container.flush()?;
        let mut beginning = file_header(&name, text.len() as u64).to_vec();
        beginning.extend(text.as_bytes());
        beginning.resize(beginning.len().next_multiple_of(HEADER), 0);
        self.container.write_at(0, &beginning)?;
        self.container.flush()
    }
}

fn descriptor_name(machine: &str) -> String {
    format!("{machine}.ovf")
}

/// The file of a disk in the archive.
#[derive(Debug)]
struct Window {
    label: String,
    container: Arc<dyn Disk>,
    start: u64,
    /// An earlier run has completed it, and others lie behind it.
    complete: Option<u64>,
}

impl Window {
    fn place(&self, offset: u64, length: u64) -> Result<u64> {
        check_range(&self.label, self.size(), offset, length)?;
        Ok(self.start + offset)
    }
}

impl Disk for Window {
    fn label(&self) -> &str {
        &self.label
    }

    fn size(&self) -> u64 {
        self.complete
            .unwrap_or_else(|| self.container.size().saturating_sub(self.start))
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        let place = self.place(offset, buffer.len() as u64)?;
        self.container.read_at(place, buffer)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        let place = self.place(offset, bytes.len() as u64)?;
        self.container.write_at(place, bytes)
    }

    fn extents(&self, range: Range<u64>) -> Result<Vec<Extent>> {
        let place = self.place(range.start, range.end.saturating_sub(range.start))?;
        let end = place + range.end.saturating_sub(range.start);
        let map = self.container.extents(place..end)?;
        let moved = |extent: Extent| {
            let range = extent.range.start - self.start..extent.range.end - self.start;
            Extent::new(range, extent.content)
        };
        Ok(map.into_iter().map(moved).collect())
    }

    fn write_zeros(&self, range: Range<u64>) -> Result<()> {
        let length = range.end.saturating_sub(range.start);
        let place = self.place(range.start, length)?;
        self.container.write_zeros(place..place + length)
    }

    fn flush(&self) -> Result<()> {
        self.container.flush()
    }

    fn set_size(&self, size: u64) -> Result<()> {
        match self.complete {
            Some(complete) if size == complete => Ok(()),
            Some(complete) => {
                let text = format!(
                    "cannot be resumed: an earlier run gave it {complete} bytes, and it wants {size} now. Convert again \
                     without --resume"
                );
                Err(Error::new(Kind::Unsafe, &*self.label, text))
            }
            None => self.container.set_size(self.start.saturating_add(size)),
        }
    }

    fn plain(&self, offset: u64) -> Option<(&File, u64, u64)> {
        let left = self.size().checked_sub(offset)?;
        let (file, at, length) = self.container.plain(self.start.checked_add(offset)?)?;
        Some((file, at, length.min(left)))
    }
}
