//! OUT is block devices, one for each disk. A device is not blank, so all that is not data is zeroed; its first and
//! last MiB are written last, so that a run that breaks leaves nothing that boots or looks whole.

use super::{
    Container, Destination, Leftover, Space,
    file::split,
    in_use::must_be_idle,
    publish::{must_be_absent, rename_new, sync_file, sync_folder},
    space::space,
    work_folder::WorkFolder,
};
use crate::{
    copy::{FileLedger, Identity},
    disk::{BlockDevice, Composite, Disk, Error, FileDisk, Kind, Part, Result},
};
use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

/// The disks are devices; definition and report are files in a folder.
#[derive(Debug)]
pub struct BlockDeviceDestination {
    /// Where the files of the set go.
    files: PathBuf,
    work: WorkFolder,
    devices: Vec<Target>,
    published: bool,
}

#[derive(Debug)]
struct Target {
    device: Arc<BlockDevice>,
    /// The disk that was put on it, and how many bytes it has.
    taken: Option<(String, u64)>,
}

/// Held back at each end until everything else is there: partition tables, boot code, the backup GPT.
const EDGE: u64 = 1 << 20;

/// Suffix of the file in the work folder that holds a disk's ends meanwhile.
const EDGES: &str = ".edges";

impl BlockDeviceDestination {
    /// Begins anew on `devices`, each of which must be named again in `yes_erase`. Files of the set go to the folder
    /// `files`, which also holds the work folder.
    ///
    /// # Errors
    /// [`Kind::Unsafe`] if a device is not named again, or is in use.
    pub fn create(devices: &[PathBuf], yes_erase: &[PathBuf], files: &Path) -> Result<Self> {
        Self::new(devices, yes_erase, files, false)
    }

    /// Goes on with what an earlier run on the same devices left.
    pub fn resume(devices: &[PathBuf], yes_erase: &[PathBuf], files: &Path) -> Result<Self> {
        Self::new(devices, yes_erase, files, true)
    }

    fn new(devices: &[PathBuf], yes_erase: &[PathBuf], files: &Path, resume: bool) -> Result<Self> {
        let opened = devices
            .iter()
            .map(|path| open(path, yes_erase))
            .collect::<Result<Vec<_>>>()?;
        let Some(first) = devices.first() else {
            return Err(Error::new(Kind::Unsupported, "destination", "no device is named"));
        };
        let (_, name) = split(first)?;
        if !files.is_dir() {
            let text = "the folder for the definition and the report is not there; make it first";
            return Err(Error::new(Kind::NotFound, files.display().to_string(), text));
        }
        let place = WorkFolder::place(files, &name);
        let work = if resume {
            WorkFolder::open(place)?
        } else {
            WorkFolder::create(place)?
        };
        let devices = opened.into_iter().map(|device| Target {
            device: Arc::new(device),
            taken: None,
        });
        Ok(Self {
            files: files.to_owned(),
            work,
            devices: devices.collect(),
            published: false,
        })
    }

    fn products(&self) -> Result<Vec<String>> {
        let folder = self.work.products();
        let label = folder.display().to_string();
        let entries = fs::read_dir(&folder).map_err(|error| Error::io(&*label, error))?;
        let mut names = Vec::new();
        for entry in entries {
            let entry = entry.map_err(|error| Error::io(&*label, error))?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if !name.ends_with(EDGES) {
                names.push(name);
            }
        }
        names.sort();
        Ok(names)
    }

    /// The file that holds the ends of disk `name` until they are written.
    fn edges(&self, name: &str, fresh: bool) -> Result<Arc<FileDisk>> {
        let path = self.work.product(&format!("{name}{EDGES}"))?;
        if path.exists() {
            if !fresh {
                return Ok(Arc::new(FileDisk::open_writable(&path)?));
            }
            fs::remove_file(&path).map_err(|error| Error::io(path.display().to_string(), error))?;
        }
        Ok(Arc::new(FileDisk::create(&path, 2 * EDGE)?))
    }
}

/// Opens a device that is named twice, is idle, and is ours from now on.
fn open(path: &Path, yes_erase: &[PathBuf]) -> Result<BlockDevice> {
    if !yes_erase.iter().any(|named| named == path) {
        let text = format!(
            "all that is on it would be overwritten: say --yes-erase {} if that is meant",
            path.display()
        );
        return Err(Error::new(Kind::Unsafe, path.display().to_string(), text));
    }
    // First what has a name, then what only the kernel knows.
    let number = BlockDevice::open(path)?.number();
    must_be_idle(path, number)?;
    Ok(BlockDevice::open_exclusively(path)?.directly(path))
}

/// A disk of `size` bytes whose ends are in `edges` and whose middle is on `device`.
fn with_edges_apart(device: Arc<BlockDevice>, edges: Arc<FileDisk>, size: u64) -> Result<Composite> {
    let label = device.label().to_owned();
    let sector_size = device.sector_size();
    let of = |disk: Arc<dyn Disk>, offset, length| Part::Of { disk, offset, length };
    let first = size.min(EDGE);
    let last = (size - first).min(EDGE);
    let parts = vec![
        of(edges.clone(), 0, first),
        of(device, first, size - first - last),
        of(edges, EDGE, last),
    ];
    Composite::new(label, sector_size, parts)
}

impl Destination for BlockDeviceDestination {
    fn disk(&mut self, name: &str, size: u64, identity: &Identity) -> Result<(Container, FileLedger)> {
        let size = size.max(identity.size);
        let Some(index) = self.devices.iter().position(|target| target.taken.is_none()) else {
            let text = format!("no device is left for {name}: name one for each disk");
            return Err(Error::new(Kind::Unsupported, "destination", text));
        };
        let ledger = self.work.ledger(name, identity)?;
        let fresh = ledger.is_empty();
        let edges = self.edges(name, fresh)?;
        let Some(target) = self.devices.get_mut(index) else {
            return Err(Error::new(Kind::NotFound, "destination", "no such device"));
        };
        let available = target.device.size();
        if size > available {
            let text = format!("has {available} bytes, {size} are needed; name a larger device");
            return Err(Error::new(Kind::Full, target.device.label(), text));
        }
        if fresh {
            // From here on it is neither what it was nor what it will be, and must look like nothing.
            target.device.write_zeros(0..available.min(EDGE))?;
            target
                .device
                .write_zeros(available.saturating_sub(EDGE)..available)?;
            target.device.flush()?;
        }
        target.taken = Some((name.to_owned(), size));
        let disk = with_edges_apart(target.device.clone(), edges, size)?;
        let container = Container {
            disk: Arc::new(disk),
            fresh,
            blank: false,
        };
        Ok((container, ledger))
    }

    fn file(&mut self, name: &str, contents: &[u8]) -> Result<()> {
        must_be_absent(&self.files.join(name))?;
        self.work.file(name, contents)
    }

    fn keep(&mut self, name: &str, contents: &[u8]) -> Result<()> {
        self.work.keep(name, contents)
    }

    fn kept(&self, name: &str) -> Result<Option<Vec<u8>>> {
        self.work.kept(name)
    }

    fn leftover(&self) -> Leftover {
        self.work.leftover()
    }

    /// Of the smallest device that is not taken yet, or of none.
    fn space(&self) -> Result<Space> {
        let sizes = self.devices.iter().map(|target| target.device.size());
        match sizes.min() {
            Some(size) => Ok(Space {
                free: size,
                total: size,
            }),
            None => space(self.work.path()),
        }
    }

    fn publish(mut self: Box<Self>) -> Result<()> {
        let names = self.products()?;
        for name in &names {
            sync_file(&self.work.product(name)?)?;
            must_be_absent(&self.files.join(name))?;
        }
        for target in &self.devices {
            let Some((name, size)) = &target.taken else {
                continue;
            };
            // What lies behind the disk is old: a backup GPT at the device's end would be believed.
            target.device.write_zeros(*size..target.device.size())?;
            target.device.flush()?;
            let edges = self.edges(name, false)?;
            let first = (*size).min(EDGE);
            let last = (size - first).min(EDGE);
            // The first MiB at the very end: without it nothing boots from here.
            copy_edge(&edges, EDGE, last, &target.device, size - last)?;
            target.device.flush()?;
            copy_edge(&edges, 0, first, &target.device, 0)?;
            target.device.flush()?;
        }
        for name in &names {
            rename_new(&self.work.product(name)?, &self.files.join(name))?;
        }
        self.published = true;
        sync_folder(&self.files)?;
        self.work.remove()
    }
}

impl Drop for BlockDeviceDestination {
    fn drop(&mut self) {
        if !self.published {
            self.work.end();
        }
    }
}

fn copy_edge(edges: &FileDisk, from: u64, length: u64, device: &BlockDevice, to: u64) -> Result<()> {
    let mut bytes = vec![0; usize::try_from(length).unwrap_or(0)];
    edges.read_at(from, &mut bytes)?;
    device.write_at(to, &bytes)
}

#[cfg(test)]
#[path = "block_device_tests.rs"]
mod tests;
