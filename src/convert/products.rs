//! What a conversion makes, and what it is called.

use super::not_json;
use crate::{
    destination::{BlockDeviceDestination, Destination, FileDestination, Shape, share_a_disk},
    disk::{Error, Kind, Result},
    image::Format,
    job::Job,
    output::{
        Report, libvirt,
        virtual_machine::{DiskImage, VirtualMachine},
    },
    plan::Plan,
};
use std::{
    os::unix::fs::FileTypeExt as _,
    path::{Path, PathBuf, absolute},
};

/// Names of everything that a conversion makes.
#[derive(Debug)]
pub(super) struct Products {
    /// One for each disk.
    pub(super) disks: Vec<String>,
    definition: String,
    report: String,
    /// What the virtual machine is called.
    machine: String,
    format: Format,
    place: Place,
}

#[derive(Debug)]
enum Place {
    /// One disk: OUT is its name, the rest lies beside it.
    File { folder: PathBuf },
    /// OUT is a folder that is made.
    Folder { folder: PathBuf },
    /// OUT is a device; the rest goes to the folder that one stands in.
    Device { device: PathBuf, folder: PathBuf },
}

impl Products {
    /// For a job on `count` disks.
    ///
    /// # Errors
    /// `Exists` or `Unsupported` where OUT cannot take them.
    pub(super) fn of(job: &Job, count: usize) -> Result<Self> {
        let label = job.out.display().to_string();
        let out = absolute(&job.out).map_err(|error| Error::io(&*label, error))?;
        let name = out.file_name().and_then(|name| name.to_str()).map(str::to_owned);
        let Some(name) = name else {
            let text = "is no name for a file or folder that can be made: give OUT a name in UTF-8";
            return Err(Error::new(Kind::Unsupported, label, text));
        };
        let metadata = out.metadata().ok();
        if metadata.is_some_and(|metadata| metadata.file_type().is_block_device()) {
            return Self::on_device(job, out, &name, count);
        }
        let wants_folder = count > 1 || label.ends_with('/');
        let extension = job.format.to_string();
        let stem = match Path::new(&name).file_stem().and_then(|stem| stem.to_str()) {
            Some(stem) if !wants_folder => stem.to_owned(),
            _ => name.clone(),
        };
        if wants_folder {
            return Ok(Self {
                disks: (0..count)
                    .map(|index| format!("{stem}-disk{index}.{extension}"))
                    .collect(),
                definition: format!("{stem}.xml"),
                report: "report.json".to_owned(),
                machine: stem,
                format: job.format,
                place: Place::Folder { folder: out },
            });
        }
        let folder = out.parent().map_or_else(|| PathBuf::from("/"), Path::to_owned);
        if name.ends_with(".xml") || name.ends_with(".json") {
            let text = "has the name of a definition or a report, which are made beside the disk: name the disk otherwise";
            return Err(Error::new(Kind::Unsupported, label, text));
        }
        Ok(Self {
            disks: vec![name],
            definition: format!("{stem}.xml"),
            report: format!("{stem}.report.json"),
            machine: stem,
            format: job.format,
            place: Place::File { folder },
        })
    }

    fn on_device(job: &Job, device: PathBuf, name: &str, count: usize) -> Result<Self> {
        let label = device.display().to_string();
        if count != 1 {
            let text = format!("is one device, and the system has {count} disks: convert to a folder");
            return Err(Error::new(Kind::Unsupported, label, text));
        }
        if job.format != Format::Raw {
            let text = format!(
                "a block device holds raw disks, not {}: say --format raw",
                job.format
            );
            return Err(Error::new(Kind::Unsupported, label, text));
        }
        if let Some(source) = job
            .source
            .disks
            .iter()
            .find(|source| share_a_disk(source, &device))
        {
            let text = format!(
                "is on the same disk as the source {}, which would be overwritten",
                source.display()
            );
            return Err(Error::new(Kind::Unsafe, label, text));
        }
        let folder = std::env::current_dir().map_err(|error| Error::io(".", error))?;
        Ok(Self {
            disks: vec![name.to_owned()],
            definition: format!("{name}.xml"),
            report: format!("{name}.report.json"),
            machine: name.to_owned(),
            format: job.format,
            place: Place::Device { device, folder },
        })
    }

    /// The destination, begun or resumed.
    pub(super) fn open_destination(&self, job: &Job) -> Result<Box<dyn Destination>> {
        let shape = match &self.place {
            Place::File { folder } => {
                // Said now, not after hours of copying. A run that was killed while it published left its own there.
                if !job.resume {
                    self.must_be_absent_in(folder)?;
                }
                Shape::File
            }
            Place::Folder { .. } => Shape::Folder,
            Place::Device { device, folder } => {
                let devices = [device.clone()];
                return Ok(if job.resume {
                    Box::new(BlockDeviceDestination::resume(&devices, &job.yes_erase, folder)?)
                } else {
                    Box::new(BlockDeviceDestination::create(&devices, &job.yes_erase, folder)?)
                });
            }
        };
        Ok(if job.resume {
            Box::new(FileDestination::resume(&job.out, shape)?)
        } else {
            Box::new(FileDestination::create(&job.out, shape)?)
        })
    }

    fn must_be_absent_in(&self, folder: &Path) -> Result<()> {
        for name in [&self.definition, &self.report] {
            let path = folder.join(name);
            if path.symlink_metadata().is_ok() {
                let text =
                    "is there already and would be written beside OUT: remove it, or give OUT another name";
                return Err(Error::new(Kind::Exists, path.display().to_string(), text));
            }
        }
        Ok(())
    }

    /// Where the disk `name` will be; `None` if it is no file.
    pub(super) fn place_of(&self, name: &str) -> Option<PathBuf> {
        match &self.place {
            Place::File { folder } | Place::Folder { folder } => Some(folder.join(name)),
            Place::Device { .. } => None,
        }
    }

    /// Adds the definition for a hypervisor, where the target machine is a virtual one.
    pub(super) fn add_definition(&self, plan: &Plan, destination: &mut dyn Destination) -> Result<()> {
        let folder = match &self.place {
            Place::File { folder } | Place::Folder { folder } => folder.as_path(),
            Place::Device { .. } => Path::new("/dev"),
        };
        let disks = self.disks.iter().map(|name| DiskImage {
            path: match &self.place {
                Place::Device { device, .. } => device.clone(),
                _ => folder.join(name),
            },
            format: self.format.to_string(),
        });
        if plan.machine.model.is_none() {
            return Ok(());
        }
        let Some(machine) = VirtualMachine::of_plan(&self.machine, plan, disks.collect()) else {
            return Ok(());
        };
        let xml = libvirt::domain_xml(&machine)
            .map_err(|error| Error::new(Kind::Unsupported, &*self.definition, error))?;
        destination.file(&self.definition, xml.as_bytes())
    }

    /// Adds the report.
    pub(super) fn add_report(&self, report: &Report, destination: &mut dyn Destination) -> Result<()> {
        let mut json = serde_json::to_vec_pretty(report).map_err(|error| not_json("report", error))?;
        json.push(b'\n');
        destination.file(&self.report, &json)
    }
}
