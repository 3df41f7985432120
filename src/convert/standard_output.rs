//! A disk to standard output, in the formats that can be streamed.

use super::Converted;
use crate::{
    copy::{self, Brake, NoLedger, Pace},
    disk::{Disk, Error, FileDisk, ForwardSink, Kind, Result, Sink, temporary_file},
    image::{
        self, Files, Format, Shape,
        vmdk::{self, StreamOptimized, Subformat},
    },
    job::{ImageJob, Job},
    locator::Locator,
    output::DiskWritten,
    transfer::Stages,
    watch::Watch,
};
use rustix::{io::Errno, stdio::stdout};
use std::{
    fs,
    io::{self, IsTerminal as _, Write},
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

/// What it is called in messages.
const STANDARD_OUTPUT: &str = "standard output";

/// What a VMDK calls itself that has no file.
const DISK: &str = "disk.vmdk";

/// What an archive is called that has no file: its machine and its disk are named after it.
const ARCHIVE: &str = "disk.ova";

/// Copies `disk` to standard output.
///
/// # Errors
/// [`Kind::Unsupported`] for what cannot be streamed; those of copying.
pub(super) fn write(
    disk: &dyn Disk,
    job: &ImageJob,
    brake: Option<&Brake>,
    stages: &mut Stages<'_>,
) -> Result<DiskWritten> {
    let refuse = |text: &str| Err(Error::new(Kind::Unsupported, STANDARD_OUTPUT, text));
    if job.resume || job.verify || job.existing {
        return refuse("only goes forward: nothing in it is there already, and nothing can be read back");
    }
    if io::stdout().is_terminal() {
        return refuse("is a terminal: send it to a file or a program");
    }
    stages.begin("copy", disk.size());
    let shape = Shape {
        format: job.format,
        size: disk.size(),
        sector_size: disk.sector_size(),
        options: job.options.clone(),
    };
    let mut archive = None;
    let sink: Box<dyn Sink> = match job.format {
        Format::Raw => {
            // As every format does that has options: what is not known is refused.
            shape.options.each(shape.format, &[], |_, _| Ok(false))?;
            Box::new(ForwardSink::new(STANDARD_OUTPUT, disk.size(), StandardOutput))
        }
        Format::Vmdk => {
            let options = vmdk::Options::from_words(&shape.options)?;
            if options.subformat != Subformat::StreamOptimized {
                return refuse(
                    "can be given only VMDKs that are written from front to back: -o subformat=streamOptimized",
                );
            }
            Box::new(StreamOptimized::new(StandardOutput, DISK, disk.size(), &options)?)
        }
        Format::Ova => {
            let file = temporary_file(&job.source.temporary_folder, "archive for standard output")?;
            let file: Arc<FileDisk> = Arc::new(file);
            archive = Some(file.clone());
            image::create(&shape, &mut Archive(file))?
        }
        _ => {
            return refuse(
                "can be given only what is written from front to back: raw, vmdk with -o subformat=streamOptimized, or ova",
            );
        }
    };
    let pace = Pace {
        threads: job.copying.threads,
        sparse: job.copying.sparse,
        brake,
        ..Pace::default()
    };
    let copied = if job.copying.hashing {
        copy::copy(disk, &*sink, &NoLedger, pace, stages.watch())?
    } else {
        copy::copy_unhashed(disk, &*sink, pace, stages.watch())?
    };
    drop(sink);
    if let Some(archive) = archive {
        stages.begin("write", archive.size());
        pass_on(&*archive, &mut StandardOutput)?;
    }
    Ok(DiskWritten {
        name: "-".to_owned(),
        format: job.format.to_string(),
        size: disk.size(),
        read: copied.read,
        written: copied.put,
        skipped: copied.skipped,
        resumed: 0,
        discarded: 0,
        hash: job.copying.hashing.then_some(copied.digest),
        verified: false,
    })
}

/// Carries out `job` into a temporary folder and sends what it makes to standard output. A definition that is a file of its
/// own, and the report, have no place there.
///
/// # Errors
/// [`Kind::Unsupported`] for a format that is no single file; those of the conversion.
pub(super) fn convert(job: &Job, watch: &dyn Watch) -> Result<Converted> {
    let refuse = |text: &str| Err(Error::new(Kind::Unsupported, STANDARD_OUTPUT, text));
    if job.resume {
        return refuse("only goes forward: there is nothing to go on with");
    }
    if io::stdout().is_terminal() {
        return refuse("is a terminal: send it to a file or a program");
    }
    if !matches!(job.format, Format::Raw | Format::Ova) {
        return refuse("can be given a raw disk or a package: -O raw or -O ova");
    }
    let folder = Folder::make(&job.source.temporary_folder)?;
    let out = folder.0.join(format!("disk.{}", job.format));
    let inner = Job {
        out: Locator::Path(out.clone()),
        ..job.clone()
    };
    // The folder goes with its value, so nobody is told to go on in it.
    let converted = super::convert_to_place(&inner, watch, false)?;
    if matches!(converted, Converted::Done(_)) && !job.dry_run {
        let file = FileDisk::open(&out)?;
        watch.stage("write", file.size());
        pass_on(&file, &mut StandardOutput)?;
    }
    Ok(converted)
}

/// A folder that goes with its value.
struct Folder(PathBuf);

impl Folder {
    fn make(parent: &Path) -> Result<Self> {
        let folder = parent.join(format!(".rehome-output-{}", std::process::id()));
        let made = fs::DirBuilder::new().mode(0o700).create(&folder);
        made.map_err(|error| Error::io(folder.display().to_string(), error))?;
        Ok(Self(folder))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // What cannot be removed is in a place for temporary things.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// All of `file`, which a format has written at more than one place, from front to back.
fn pass_on(file: &dyn Disk, out: &mut dyn Write) -> Result<()> {
    let mut buffer = vec![0; 1 << 20];
    let mut at = 0;
    while at < file.size() {
        let count = usize::try_from(file.size() - at)
            .unwrap_or(usize::MAX)
            .min(buffer.len());
        let piece = buffer.get_mut(..count).unwrap_or_default();
        file.read_at(at, piece)?;
        out.write_all(piece)
            .map_err(|error| Error::io(STANDARD_OUTPUT, error).at(at))?;
        at += count as u64;
    }
    Ok(())
}

/// Without the buffer of [`std::io::Stdout`], which looks for line ends.
struct StandardOutput;

impl Write for StandardOutput {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            match rustix::io::write(stdout(), bytes) {
                Err(Errno::INTR) => {}
                other => return Ok(other?),
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A tar names the size of a file before its contents, so the archive is made in a file that has no name.
struct Archive(Arc<FileDisk>);

impl Files for Archive {
    fn main(&self) -> Arc<dyn Disk> {
        self.0.clone()
    }

    fn name(&self) -> &str {
        ARCHIVE
    }

    fn fresh(&self) -> bool {
        true
    }

    fn blank(&self) -> bool {
        true
    }

    fn beside(&mut self, name: &str, _size: u64) -> Result<Arc<dyn Disk>> {
        Err(Error::new(Kind::Unsupported, name, "would be a second file"))
    }
}
