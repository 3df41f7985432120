//! OUT is block devices or exports of servers, one for each disk. Such a device is not blank unless its server says so, so
//! all that is not data is zeroed; its first and last MiB are written last, so that a run that breaks leaves nothing that
//! boots or looks whole.

use super::{
    Container, Destination, Leftover, Space,
    in_use::must_be_idle,
    publish::{must_be_absent, sync_file, sync_folder},
    space::space,
    work_folder::WorkFolder,
};
use crate::{
    copy::{self, FileLedger, Identity},
    disk::{AlignedBuffer, BlockDevice, Composite, Content, Disk, Error, FileDisk, Kind, Part, Result},
    locator::Locator,
    nbd::{Access, NbdDisk},
    watch::Watch,
};
use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

/// The disks are devices; definition and report are files in a folder.
#[derive(Debug)]
pub struct DeviceDestination {
    /// Where the files of the set go.
    files: PathBuf,
    work: WorkFolder,
    devices: Vec<Target>,
    remarks: Vec<String>,
    published: bool,
}

#[derive(Debug)]
struct Target {
    device: Arc<dyn Disk>,
    /// The same, where it is an export.
    export: Option<Arc<NbdDisk>>,
    /// The disk that was put on it, and how many bytes it has.
    taken: Option<(String, u64)>,
    /// What was on it before is written over.
    overwriting: bool,
}

/// Held back at each end until everything else is there: partition tables, boot code, the backup GPT.
const EDGE: u64 = 1 << 20;

/// Suffix of the file in the work folder that holds a disk's ends meanwhile.
const EDGES: &str = ".edges";

impl DeviceDestination {
    /// Begins anew on `devices`, each of which must be named again in `yes_erase`. Files of the set go to the folder
    /// `files`, which also holds the work folder.
    ///
    /// # Errors
    /// [`Kind::Unsafe`] if a device is not named again, or is in use.
    pub fn create(devices: &[Locator], yes_erase: &[Locator], files: &Path) -> Result<Self> {
        Self::new(devices, yes_erase, files, false)
    }

    /// Goes on with what an earlier run on the same devices left.
    pub fn resume(devices: &[Locator], yes_erase: &[Locator], files: &Path) -> Result<Self> {
        Self::new(devices, yes_erase, files, true)
    }

    fn new(devices: &[Locator], yes_erase: &[Locator], files: &Path, resume: bool) -> Result<Self> {
        let opened = devices
            .iter()
            .map(|device| open(device, yes_erase))
            .collect::<Result<Vec<_>>>()?;
        let Some(first) = devices.first() else {
            return Err(Error::new(Kind::Unsupported, "destination", "no device is named"));
        };
        if !files.is_dir() {
            let text = "the folder for the definition and the report is not there; make it first";
            return Err(Error::new(Kind::NotFound, files.display().to_string(), text));
        }
        let place = WorkFolder::place(files, first.short_name().as_ref());
        let work = if resume {
            let work = WorkFolder::open(place)?;
            work.take_back(files)?;
            work
        } else {
            WorkFolder::create(place)?
        };
        let lasting = |target: &Target| target.export.as_ref().is_none_or(|export| export.can_flush());
        let remarks = opened.iter().filter(|target| !lasting(target)).map(|target| {
            format!(
                "{}: the server has no way to bring what was written to its disk at once, so nobody knows what survives if \
                 its power fails",
                target.device.label()
            )
        });
        Ok(Self {
            files: files.to_owned(),
            work,
            remarks: remarks.collect(),
            devices: opened,
            published: false,
        })
    }

    fn products(&self) -> Result<Vec<String>> {
        let mut names = self.work.product_names()?;
        names.retain(|name| !name.ends_with(EDGES));
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
fn open(device: &Locator, yes_erase: &[Locator]) -> Result<Target> {
    if !yes_erase.contains(device) {
        let text =
            format!("all that is on it would be overwritten: say --yes-erase {device} if that is meant");
        return Err(Error::new(Kind::Unsafe, device.to_string(), text));
    }
    match device {
        Locator::Path(path) => {
            // First what has a name, then what only the kernel knows.
            let number = BlockDevice::open(path)?.number();
            must_be_idle(path, number)?;
            Ok(Target {
                device: Arc::new(
                    BlockDevice::open_exclusively(path)?
                        .forgetting_earlier_errors()
                        .directly(path),
                ),
                export: None,
                taken: None,
                overwriting: false,
            })
        }
        Locator::Nbd(address) => {
            let export = Arc::new(NbdDisk::open(address, Access::Write)?);
            Ok(Target {
                device: export.clone(),
                export: Some(export),
                taken: None,
                overwriting: false,
            })
        }
        Locator::Standard => {
            let text = "is no device that could be overwritten";
            Err(Error::new(Kind::Unsupported, device.to_string(), text))
        }
    }
}

impl Target {
    /// Makes the device look like nothing. `true`: it reads zeros everywhere, because its server says so or has just made
    /// it so.
    fn prepare(&self, watch: &dyn Watch) -> Result<bool> {
        let size = self.device.size();
        let blank = match &self.export {
            Some(export) => all_zeros(&**export, watch)? || export.zero_at_once(watch)?,
            None => false,
        };
        if !blank {
            self.device.write_zeros(0..size.min(EDGE))?;
            self.device.write_zeros(size.saturating_sub(EDGE)..size)?;
        }
        self.device.flush()?;
        Ok(blank)
    }
}

/// Does the map say that nothing but zeros is there?
fn all_zeros(disk: &dyn Disk, watch: &dyn Watch) -> Result<bool> {
    let (mut at, size) = (0, disk.size());
    while at < size {
        if watch.cancelled() {
            return Err(Error::new(Kind::Cancelled, disk.label(), "cancelled"));
        }
        let map = disk.extents(at..size)?;
        let end = map.last().map_or(at, |extent| extent.range.end);
        if end <= at || map.iter().any(|extent| extent.content == Content::Data) {
            return Ok(false);
        }
        at = end;
    }
    Ok(true)
}

/// A disk of `size` bytes whose ends are in `edges` and whose middle is on `device`.
fn with_edges_apart(device: Arc<dyn Disk>, edges: Arc<FileDisk>, size: u64) -> Result<Composite> {
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

impl Destination for DeviceDestination {
    fn disk(
        &mut self,
        name: &str,
        size: u64,
        identity: &Identity,
        watch: &dyn Watch,
    ) -> Result<(Container, FileLedger)> {
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
        // From here on it is neither what it was nor what it will be, and must look like nothing.
        target.overwriting = true;
        let blank = fresh && target.prepare(watch)?;
        target.taken = Some((name.to_owned(), size));
        let disk = with_edges_apart(target.device.clone(), edges, size)?;
        let container = Container {
            disk: Arc::new(disk),
            fresh,
            blank,
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

    fn remarks(&self) -> Vec<String> {
        self.remarks.clone()
    }

    fn never_resume(&mut self) {
        self.work.never_resume();
    }

    fn leftover(&self) -> Leftover {
        let labels = |all: bool| {
            let targets = self.devices.iter().filter(|target| all || target.overwriting);
            let labels: Vec<_> = targets.map(|target| target.device.label()).collect();
            labels.join(", ")
        };
        let overwriting = labels(false);
        // A run that is gone on with has written on what it was given.
        let out = if overwriting.is_empty() {
            labels(true)
        } else {
            overwriting.clone()
        };
        self.work.leftover_in_place(out, !overwriting.is_empty())
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

    fn publish(mut self: Box<Self>, watch: &dyn Watch) -> Result<()> {
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
            let behind = *size..target.device.size();
            if !behind.is_empty() {
                watch.stage("zero", behind.end - behind.start);
                copy::write_zeros(&*target.device, behind, watch)?;
                target.device.flush()?;
            }
            let edges = self.edges(name, false)?;
            let first = (*size).min(EDGE);
            let last = (size - first).min(EDGE);
            // The first MiB at the very end: without it nothing boots from here.
            copy_edge(&edges, EDGE, last, &*target.device, size - last)?;
            copy_edge(&edges, 0, first, &*target.device, 0).inspect_err(|_| {
                // The error is what counts; this only keeps it from booting.
                let _ = target.device.write_zeros(0..first);
                let _ = target.device.flush();
            })?;
        }
        self.work.give_names(&names, &self.files)?;
        self.published = true;
        sync_folder(&self.files)?;
        self.work.remove()
    }
}

impl Drop for DeviceDestination {
    fn drop(&mut self) {
        if !self.published {
            self.work.end();
        }
    }
}

/// Brings an end of a disk to its place and reads it back there: whoever verified the disk has seen only what was held back.
fn copy_edge(edges: &FileDisk, from: u64, length: u64, device: &dyn Disk, to: u64) -> Result<()> {
    let length = usize::try_from(length).unwrap_or(0);
    let (mut bytes, mut found) = (AlignedBuffer::new(length), AlignedBuffer::new(length));
    let (bytes, found) = (bytes.first(length), found.first(length));
    edges.read_at(from, bytes)?;
    device.write_at(to, bytes)?;
    device.flush()?;
    device.read_at(to, found)?;
    if found == bytes {
        return Ok(());
    }
    let text = "what is read back there is not what was written: the device cannot be trusted; take another, or check it and \
                start again";
    Err(Error::new(Kind::Io, device.label(), text).at(to))
}

#[cfg(test)]
#[path = "device_tests.rs"]
mod tests;
