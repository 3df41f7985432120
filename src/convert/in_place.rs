//! Edits of a copy where it lies: the same plan and the same judges, and an undo file.

use super::{editing, planning};
use crate::{
    disk::{self, Disk, Error, Kind, Overlay, Result},
    image::{self, Beside},
    job::{InPlaceJob, Source},
    machine,
    output::Report,
    plan::Plan,
    source::{Layer, Opened},
    undo,
    watch::Watch,
};
use std::{
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
    let opened = Opened::open(&job.source)?;
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
    let undo_files = writable.commit(&job.source, &job.undo, watch)?;
    Ok(EditedInPlace::Done(Box::new(report), undo_files))
}

/// Images over overlays over their containers.
pub(super) struct Writable {
    /// Held until the end, so that nobody else edits the containers meanwhile.
    _locks: Vec<Option<File>>,
    overlays: Vec<Arc<Overlay>>,
    images: Vec<Arc<dyn Disk>>,
}

impl Writable {
    /// Opens the containers of `source` for reading, each under an overlay that an image can be edited in.
    pub(super) fn open(opened: &Opened, source: &Source) -> Result<Self> {
        let locks = source
            .disks
            .iter()
            .map(|path| undo::lock_file(path))
            .collect::<Result<Vec<_>>>()?;
        let mut overlays: Vec<Arc<Overlay>> = Vec::new();
        let mut images: Vec<Arc<dyn Disk>> = Vec::new();
        for (path, format) in source.disks.iter().zip(opened.formats()) {
            if image::parts(path).len() > 1 {
                let text = "is the first part of a disk in several files, which is not edited where it lies: `rehome image \
                            convert` makes one file of them";
                return Err(Error::new(Kind::Unsupported, path.display().to_string(), text));
            }
            let container = disk::open_source(path, source.sector_size)?;
            let overlay = Arc::new(match overlays.first() {
                None => Overlay::new(container, source.overlay_memory, &source.temporary_folder),
                Some(first) => first.beside(container),
            });
            images.push(image::open_writable(
                overlay.clone(),
                *format,
                &Beside::new(path),
            )?);
            overlays.push(overlay);
        }
        Ok(Self {
            _locks: locks,
            overlays,
            images,
        })
    }

    /// The disks, which can be written.
    pub(super) fn disks(&self) -> Vec<Arc<dyn Disk>> {
        self.images.clone()
    }

    /// Writes what was changed into the containers, one undo file for each container that changes.
    pub(super) fn commit(
        &self,
        source: &Source,
        undo_file: &Path,
        watch: &dyn Watch,
    ) -> Result<Vec<PathBuf>> {
        for image in &self.images {
            image.flush()?;
        }
        let changed: Vec<_> = source
            .disks
            .iter()
            .zip(&self.overlays)
            .filter(|(_, overlay)| !overlay.held().is_empty())
            .collect();
        let undo_files: Vec<PathBuf> = (0..changed.len())
            .map(|index| undo_name(undo_file, index, changed.len()))
            .collect();
        for undo_file in &undo_files {
            must_be_absent(undo_file)?;
        }
        watch.stage("commit", 0);
        for (index, ((path, overlay), undo_file)) in changed.iter().zip(&undo_files).enumerate() {
            undo::commit_in_place(overlay, path, undo_file, watch).map_err(|error| match index {
                0 => error,
                _ => after_others(error, undo_files.get(..index).unwrap_or_default()),
            })?;
        }
        Ok(undo_files)
    }
}

/// The name of an undo file must be free.
pub(super) fn must_be_absent(undo_file: &Path) -> Result<()> {
    if !undo_file.exists() {
        return Ok(());
    }
    let text = "is there already: give another name for the undo file";
    Err(Error::new(Kind::Exists, undo_file.display().to_string(), text))
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
