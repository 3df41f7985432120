//! Edits of a copy where it lies: the same plan and the same judges, and an undo file.

use super::{editing, planning};
use crate::{
    destination::must_be_free,
    disk::{self, Disk, Error, Kind, Overlay, Result},
    image::{self, Beside, Neighbours},
    job::{InPlaceJob, Source},
    locator::Locator,
    machine,
    output::Report,
    plan::Plan,
    source::{Layer, Opened},
    undo,
    watch::Watch,
};
use std::{
    cell::RefCell,
    ffi::OsString,
    fs::File,
    path::{Path, PathBuf},
    sync::Arc,
};

/// How edits in place ended.
#[derive(Debug)]
pub enum EditedInPlace {
    /// The disks are changed; the undo files can take it back.
    Done(Box<Report>, Vec<PathBuf>),
    /// The plan has blockers, and nothing was written.
    Blocked(Box<Plan>),
}

/// Makes the systems's disks fit the target machine where they lie.
///
/// # Errors
/// Before the first byte is written: whatever stopped it, and the disks are as they were. After that: the error names the
/// undo file.
pub fn edit_in_place(job: &InPlaceJob, watch: &dyn Watch) -> Result<EditedInPlace> {
    watch.stage("inspect", 0);
    let opened = Opened::open(&job.source, watch)?;
    let writable = Writable::open(&opened, &job.source)?;
    let target = machine::load(&job.to, job.driver_db.as_deref())?;
    let mut examined = opened.examine()?;
    let mut report = Report::new("in-place");
    examined.describe(&mut report);
    let plan = planning::make_plan(&mut examined, &target, &job.options)?;
    report.plan = Some(plan.clone());
    if !plan.blockers.is_empty() {
        return Ok(EditedInPlace::Blocked(Box::new(plan)));
    }
    watch.stage("rewrite", 0);
    // Nothing but what this system mounts is touched; another one on these disks keeps even its dirty journals.
    let mut guests = examined.inspection.guests.iter();
    let guest = guests.find(|guest| Some(&guest.root) == plan.root.as_ref());
    let mounted = |id: &str| guest.is_some_and(|guest| guest.mounts.iter().any(|mount| mount.volume == id));
    let mut edited = Layer::of(writable.disks(), &job.source, &mounted)?;
    editing::edit(&plan, &examined, &mut edited, &mut report)?;
    let undo_files = writable.commit(&job.undo, watch)?;
    Ok(EditedInPlace::Done(Box::new(report), undo_files))
}

/// Images over overlays over their containers.
pub(super) struct Writable {
    files: Vec<EditedFile>,
    images: Vec<Arc<dyn Disk>>,
}

/// A file that an image lies in, wholly or in part.
struct EditedFile {
    path: PathBuf,
    overlay: Arc<Overlay>,
    /// Held until the end, so that nobody else edits it meanwhile.
    _lock: Option<File>,
}

/// Opens the files of images, each under an overlay.
struct Files<'a> {
    source: &'a Source,
    opened: RefCell<Vec<EditedFile>>,
}

impl Files<'_> {
    /// The container at `path`. All overlays share one limit.
    fn open(&self, path: &Path) -> Result<Arc<Overlay>> {
        let lock = undo::lock_file(path)?;
        let container = disk::open_source(path, self.source.sector_size)?;
        let mut opened = self.opened.borrow_mut();
        let overlay = Arc::new(match opened.first() {
            None => Overlay::new(
                container,
                self.source.overlay_memory,
                &self.source.temporary_folder,
            ),
            Some(first) => first.overlay.beside(container),
        });
        opened.push(EditedFile {
            path: path.to_owned(),
            overlay: overlay.clone(),
            _lock: lock,
        });
        Ok(overlay)
    }
}

/// What an image that is edited may open: what it stands on as it is, further files of its own under overlays.
struct EditedBeside<'a> {
    beside: Beside,
    files: &'a Files<'a>,
}

impl Neighbours for EditedBeside<'_> {
    fn open(&self, name: &[u8], format: Option<&str>) -> Result<Arc<dyn Disk>> {
        self.beside.open(name, format)
    }

    fn open_writable(&self, name: &[u8]) -> Result<Arc<dyn Disk>> {
        Ok(self.files.open(&self.beside.place(name)?)?)
    }
}

impl Writable {
    /// Opens the containers of `source` for reading, each under an overlay that an image can be edited in.
    pub(super) fn open(opened: &Opened, source: &Source) -> Result<Self> {
        opened.must_be_editable()?;
        let paths = source.disks.iter().map(in_place).collect::<Result<Vec<_>>>()?;
        let files = Files {
            source,
            opened: RefCell::default(),
        };
        let mut images: Vec<Arc<dyn Disk>> = Vec::new();
        for (path, format) in paths.iter().zip(opened.formats()) {
            if image::parts(path).len() > 1 {
                let text = "is the first part of a disk in several files, which is not edited where it lies: `rehome image \
                            convert` makes one file of them";
                return Err(Error::new(Kind::Unsupported, path.display().to_string(), text));
            }
            let neighbours = EditedBeside {
                beside: Beside::new(path),
                files: &files,
            };
            images.push(image::open_writable(files.open(path)?, *format, &neighbours)?);
        }
        Ok(Self {
            files: files.opened.into_inner(),
            images,
        })
    }

    /// The disks, which can be written.
    pub(super) fn disks(&self) -> Vec<Arc<dyn Disk>> {
        self.images.clone()
    }

    /// Writes what was changed into the containers, one undo file for each container that changes.
    pub(super) fn commit(&self, undo_file: &Path, watch: &dyn Watch) -> Result<Vec<PathBuf>> {
        for image in &self.images {
            image.flush()?;
        }
        let is_changed = |file: &&EditedFile| !file.overlay.held().is_empty();
        let changed: Vec<_> = self.files.iter().filter(is_changed).collect();
        let undo_files: Vec<PathBuf> = (0..changed.len())
            .map(|index| undo_name(undo_file, index, changed.len()))
            .collect();
        for undo_file in &undo_files {
            must_be_absent(undo_file)?;
        }
        watch.stage("commit", 0);
        for (index, (file, undo_file)) in changed.iter().zip(&undo_files).enumerate() {
            undo::commit_in_place(&file.overlay, &file.path, undo_file, watch).map_err(
                |error| match index {
                    0 => error,
                    _ => after_others(error, undo_files.get(..index).unwrap_or_default()),
                },
            )?;
        }
        Ok(undo_files)
    }
}

/// Where a disk lies that is edited there.
fn in_place(locator: &Locator) -> Result<PathBuf> {
    match locator.path() {
        Some(path) => Ok(path.to_owned()),
        None => {
            let text = "cannot be edited in place, which needs a file or a block device with an undo file beside it: \
                        convert it to a file first";
            Err(Error::new(Kind::Unsupported, locator.to_string(), text))
        }
    }
}

/// The name of an undo file must be free.
pub(super) fn must_be_absent(undo_file: &Path) -> Result<()> {
    must_be_free(undo_file, "is there already: give another name for the undo file")
}

/// Says that other disks of the system are changed already.
fn after_others(error: Error, undo_files: &[PathBuf]) -> Error {
    let files: Vec<String> = undo_files.iter().map(|file| file.display().to_string()).collect();
    let text = format!(
        "{}; other disks of the system are changed already: take that back with `rehome undo` of {}",
        error.source,
        files.join(" and of ")
    );
    Error {
        source: text.into(),
        ..error
    }
}

/// "FILE" for one container, "FILE.1", "FILE.2" for several.
fn undo_name(file: &Path, index: usize, count: usize) -> PathBuf {
    if count == 1 {
        return file.to_owned();
    }
    let mut name = OsString::from(file);
    name.push(format!(".{}", index.saturating_add(1)));
    PathBuf::from(name)
}
