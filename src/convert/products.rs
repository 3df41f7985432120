//! What a conversion makes, and what it is called.

use super::not_json;
use crate::{
    destination::{ArchiveDestination, Destination, DeviceDestination, FileDestination, Shape, must_be_free},
    disk::{Error, Kind, Result},
    image::{self, Format, ova},
    job::Job,
    locator::{Locator, is_block_device},
    output::{
        Report,
        libvirt::{self, LibvirtError},
        ovf,
        virtual_machine::{DiskImage, DiskPlace, VirtualMachine},
    },
    plan::Plan,
    source::{Examined, Opened},
};
use std::path::{Path, PathBuf, absolute};

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
    File { out: PathBuf, folder: PathBuf },
    /// OUT is a folder that is made.
    Folder { out: PathBuf },
    /// OUT is a file with all disks and the definition in it; the report lies beside it.
    Archive { out: PathBuf, folder: PathBuf },
    /// OUT is a device or an export; the rest goes to the folder that one stands in.
    Device { device: Locator, folder: PathBuf },
}

impl Products {
    /// For a job on the `count` disks of `opened`.
    ///
    /// # Errors
    /// `Exists` or `Unsupported` where OUT cannot take them.
    pub(super) fn of(job: &Job, opened: &Opened, count: usize) -> Result<Self> {
        let label = job.out.to_string();
        let path = match &job.out {
            Locator::Path(path) if path.exists() && is_block_device(path)? => {
                return Self::on_device(job, opened, count);
            }
            Locator::Path(path) => path,
            Locator::Nbd(_) => return Self::on_device(job, opened, count),
            Locator::Standard => {
                let text = "cannot take a system with its definition and report: name a file or a folder";
                return Err(Error::new(Kind::Unsupported, "standard output", text));
            }
        };
        let out = absolute(path).map_err(|error| Error::io(&*label, error))?;
        let name = out.file_name().and_then(|name| name.to_str()).map(str::to_owned);
        let Some(name) = name else {
            let text = "is no name for a file or folder that can be made: give OUT a name in UTF-8";
            return Err(Error::new(Kind::Unsupported, label, text));
        };
        let archive = job.format == Format::Ova;
        if archive && label.ends_with('/') {
            let text = "is a folder, and an OVA is one file: leave the slash out";
            return Err(Error::new(Kind::Unsupported, label, text));
        }
        if job.format == Format::Ovf {
            let text = "a package is written as one archive: say -O ova";
            return Err(Error::new(Kind::Unsupported, label, text));
        }
        let wants_folder = !archive && (count > 1 || label.ends_with('/'));
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
                place: Place::Folder { out },
            });
        }
        let folder = out.parent().map_or_else(|| PathBuf::from("/"), Path::to_owned);
        if name.ends_with(".xml") || name.ends_with(".json") {
            let text = "has the name of a definition or a report, which are made beside the disk: name the disk otherwise";
            return Err(Error::new(Kind::Unsupported, label, text));
        }
        let (disks, place) = if archive {
            let names = (0..count).map(|index| ova::new_disk(&stem, index, 0).file);
            (names.collect(), Place::Archive { out, folder })
        } else {
            (vec![name], Place::File { out, folder })
        };
        Ok(Self {
            disks,
            definition: format!("{stem}.xml"),
            report: format!("{stem}.report.json"),
            machine: stem,
            format: job.format,
            place,
        })
    }

    fn on_device(job: &Job, opened: &Opened, count: usize) -> Result<Self> {
        let device = job.out.clone();
        let label = device.to_string();
        if count != 1 {
            let text = format!("is one device, and the system has {count} disks: convert to a folder");
            return Err(Error::new(Kind::Unsupported, label, text));
        }
        must_fit_a_device(&device, job.format, opened)?;
        let name = device.short_name();
        let folder = std::env::current_dir().map_err(|error| Error::io(".", error))?;
        Ok(Self {
            disks: vec![name.clone()],
            definition: format!("{name}.xml"),
            report: format!("{name}.report.json"),
            machine: name,
            format: job.format,
            place: Place::Device { device, folder },
        })
    }

    /// The destination, begun or resumed.
    pub(super) fn open_destination(&self, job: &Job) -> Result<Box<dyn Destination>> {
        let (out, shape) = match &self.place {
            Place::Archive { out, folder } => {
                if !job.resume {
                    self.must_be_absent_in(folder)?;
                }
                return Ok(if job.resume {
                    Box::new(ArchiveDestination::resume(out)?)
                } else {
                    Box::new(ArchiveDestination::create(out)?)
                });
            }
            Place::File { out, folder } => {
                // Said now, not after hours of copying. A run that was killed while it published left its own there.
                if !job.resume {
                    self.must_be_absent_in(folder)?;
                }
                (out, Shape::File)
            }
            Place::Folder { out } => (out, Shape::Folder),
            Place::Device { device, folder } => {
                let devices = [device.clone()];
                return Ok(if job.resume {
                    Box::new(DeviceDestination::resume(&devices, &job.yes_erase, folder)?)
                } else {
                    Box::new(DeviceDestination::create(&devices, &job.yes_erase, folder)?)
                });
            }
        };
        Ok(if job.resume {
            Box::new(FileDestination::resume(out, shape)?)
        } else {
            Box::new(FileDestination::create(out, shape)?)
        })
    }

    fn must_be_absent_in(&self, folder: &Path) -> Result<()> {
        for name in [&self.definition, &self.report] {
            must_be_free(
                &folder.join(name),
                "is there already and would be written beside OUT: remove it, or give OUT another name",
            )?;
        }
        Ok(())
    }

    /// Where the disk `name` will be; `None` if it is no file.
    pub(super) fn place_of(&self, name: &str) -> Option<PathBuf> {
        match &self.place {
            Place::File { folder, .. } | Place::Folder { out: folder } => Some(folder.join(name)),
            Place::Archive { .. } | Place::Device { .. } => None,
        }
    }

    /// The format of each disk's file, and its options.
    pub(super) fn disk_format(&self, plan: &Plan) -> Result<(Format, image::Options)> {
        let mut options = image::Options::default();
        if self.format != Format::Ova {
            return Ok((self.format, options));
        }
        let machine = self.described(plan, (None, None))?;
        options.words = ova::disk_words(machine.controller);
        Ok((Format::Vmdk, options))
    }

    /// The machine of `plan` as a package describes it.
    fn described(&self, plan: &Plan, size: (Option<u64>, Option<u32>)) -> Result<ova::NewMachine> {
        let refuse = |text: String| Error::new(Kind::Unsupported, "the definition of the machine", text);
        let machine = VirtualMachine::of_plan(&self.machine, plan, Vec::new());
        let machine = machine
            .ok_or_else(|| refuse("the plan names a controller that its machine does not have".to_owned()))?;
        ovf::describe(&machine.sized(size), plan.guest.as_deref()).map_err(|error| refuse(error.to_string()))
    }

    /// Says what is in a package, which has that at its beginning.
    pub(super) fn describe(
        &self,
        plan: &Plan,
        examined: &Examined,
        destination: &mut dyn Destination,
    ) -> Result<()> {
        if self.format != Format::Ova {
            return Ok(());
        }
        let machine = self.described(plan, examined.described_size())?;
        let sizes = examined.layer.disks.iter().map(|disk| disk.size());
        let disks: Vec<ova::NewDisk> = (0..)
            .zip(sizes)
            .map(|(index, size)| ova::new_disk(&self.machine, index, size))
            .collect();
        destination.describe(&machine, &disks)
    }

    /// Adds the definition for a hypervisor, where the target machine is a virtual one. Where libvirt has no word for the
    /// format of the disks there is none, and `report` says so.
    pub(super) fn add_definition(
        &self,
        plan: &Plan,
        examined: &Examined,
        report: &mut Report,
        destination: &mut dyn Destination,
    ) -> Result<()> {
        if self.format == Format::Ova || plan.machine.model.is_none() {
            return Ok(());
        }
        let mut disks = Vec::new();
        for name in &self.disks {
            disks.push(DiskImage {
                place: self.disk_place(name)?,
                format: self.format.to_string(),
            });
        }
        let Some(machine) = VirtualMachine::of_plan(&self.machine, plan, disks) else {
            return Ok(());
        };
        let machine = machine.sized(examined.described_size());
        match libvirt::domain_xml(&machine) {
            Ok(xml) => destination.file(&self.definition, xml.as_bytes()),
            Err(error @ LibvirtError::Format(_)) => {
                report.warnings.push(format!(
                    "no definition for libvirt was made: {error}; `-O qcow2` gives one"
                ));
                Ok(())
            }
            Err(error) => Err(Error::new(Kind::Unsupported, &*self.definition, error)),
        }
    }

    /// Where a definition finds the disk `name`.
    fn disk_place(&self, name: &str) -> Result<DiskPlace> {
        Ok(match &self.place {
            Place::Device {
                device: Locator::Nbd(address),
                ..
            } => DiskPlace::Export(address.clone()),
            Place::Device { device, .. } => {
                let path = device.path().unwrap_or(Path::new(""));
                let path = absolute(path).map_err(|error| Error::io(device.to_string(), error))?;
                DiskPlace::Device(path)
            }
            Place::File { folder, .. } | Place::Folder { out: folder } | Place::Archive { folder, .. } => {
                DiskPlace::File(folder.join(name))
            }
        })
    }

    /// Adds the report.
    pub(super) fn add_report(&self, report: &Report, destination: &mut dyn Destination) -> Result<()> {
        let mut json = serde_json::to_vec_pretty(report).map_err(|error| not_json("report", error))?;
        json.push(b'\n');
        destination.file(&self.report, &json)
    }
}

/// May `device` hold the disks of `opened` in `format`?
pub(super) fn must_fit_a_device(device: &Locator, format: Format, opened: &Opened) -> Result<()> {
    if format != Format::Raw {
        let text = format!("a block device or an export holds raw disks, not {format}: say -O raw");
        return Err(Error::new(Kind::Unsupported, device.to_string(), text));
    }
    opened.must_not_be_at(device)
}
