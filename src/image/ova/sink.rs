//! A package with one disk, as a format that is written.

use super::{
    new_archive::NewArchive,
    new_descriptor::{NewAdapter, NewController, NewDisk, NewMachine},
};
use crate::{
    disk::{Disk, Error, Kind, Result, Sink},
    image::{
        self, Files, Format,
        create::value,
        vmdk::{self, Container, StreamOptimized, Subformat},
    },
    watch::{Unwatched, Watch},
};
use std::{ops::Range, sync::Arc};

/// The machine that a new package describes, as far as `-o` tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// What it is called; the file's name without its ending where nothing is said.
    pub name: Option<String>,
    /// Its controller.
    pub controller: NewController,
    /// Virtual hardware version of VMware.
    pub hardware_version: Option<u32>,
    /// It starts by UEFI.
    pub efi: bool,
    /// In MiB.
    pub memory_mib: u64,
    /// Processors.
    pub processors: u32,
    /// Model of its network adapter; `None`: it has none.
    pub adapter: Option<String>,
}

impl Default for Options {
    /// What most systems have drivers for: nobody knows what is on the disk.
    fn default() -> Self {
        Self {
            name: None,
            controller: NewController::Sata,
            hardware_version: None,
            efi: false,
            memory_mib: 2048,
            processors: 2,
            adapter: Some("E1000".to_owned()),
        }
    }
}

const OPTIONS: [&str; 7] = [
    "name",
    "adapter_type",
    "hwversion",
    "firmware",
    "memory",
    "processors",
    "network",
];

impl Options {
    /// Reads `-o`; `-c` says what is so anyway.
    ///
    /// # Errors
    /// Words that are not known.
    pub fn from_words(words: &image::Options) -> Result<Self> {
        let mut options = Self::default();
        words.each(Format::Ova, &OPTIONS, |name, text| {
            match name {
                "name" => options.name = Some(text.to_owned()),
                "adapter_type" => {
                    let known = NewController::ALL.iter().find(|(name, _)| *name == text);
                    let names = NewController::ALL.map(|(name, _)| name).join(", ");
                    options.controller = known
                        .map(|(_, controller)| *controller)
                        .ok_or_else(|| format!("one of {names} is expected"))?;
                }
                "hwversion" => options.hardware_version = Some(value(text, "a number")?),
                "firmware" => {
                    options.efi = match text {
                        "efi" | "uefi" => true,
                        "bios" => false,
                        _ => return Err("bios or efi is expected".to_owned()),
                    }
                }
                "memory" => options.memory_mib = value(text, "a number of MiB")?,
                "processors" => options.processors = value(text, "a number")?,
                "network" => options.adapter = Some(text.to_owned()).filter(|model| model != "none"),
                _ => return Ok(false),
            }
            Ok(true)
        })?;
        Ok(options)
    }

    /// The machine called `name` where nothing else was said.
    fn machine(&self, name: &str) -> NewMachine {
        let adapters = self.adapter.iter().map(|model| NewAdapter {
            model: model.clone(),
            mac: None,
        });
        let version = self.hardware_version.unwrap_or(match self.controller {
            NewController::Nvme => 13,
            _ => 10,
        });
        NewMachine {
            name: self.name.clone().unwrap_or_else(|| name.to_owned()),
            hardware_version: version,
            efi: self.efi,
            system: None,
            memory_mib: self.memory_mib,
            processors: self.processors,
            controller: self.controller,
            adapters: adapters.collect(),
        }
    }
}

/// A new package with one disk.
#[derive(Debug)]
pub struct OvaSink {
    archive: NewArchive,
    file: Arc<dyn Disk>,
    disk: StreamOptimized<Container>,
}

/// Begins a new package with a disk of `size` bytes, or goes on with one.
///
/// # Errors
/// Those of the file; [`Kind::Unsupported`] for what cannot be described.
pub fn create(size: u64, options: &Options, files: &mut dyn Files) -> Result<OvaSink> {
    if !files.blank() {
        let text = "an archive is a file that grows; it cannot be written over something else";
        return Err(Error::new(Kind::Unsupported, files.name(), text));
    }
    let name = files.name();
    let name = name.strip_suffix(".ova").unwrap_or(name).to_owned();
    let machine = options.machine(&name);
    let disk = new_disk(&machine.name, 0, size);
    let vmdk = disk_options(machine.controller);
    let archive = NewArchive::new(files.main(), machine, vec![disk.clone()])?;
    let file = archive.next_disk(files.fresh())?;
    let disk = if files.fresh() {
        StreamOptimized::create(file.clone(), &disk.file, size, &vmdk)?
    } else {
        StreamOptimized::resume(file.clone(), true, &disk.file, size, &vmdk)?
    };
    Ok(OvaSink { archive, file, disk })
}

/// The disk `index` of a machine.
pub fn new_disk(machine: &str, index: usize, size: u64) -> NewDisk {
    NewDisk {
        file: format!("{machine}-disk{}.vmdk", index + 1),
        // A VMDK has whole sectors.
        capacity: size.next_multiple_of(512),
    }
}

/// What the VMDKs of a package are, in the words of `-o`.
pub fn disk_words(controller: NewController) -> Vec<(String, String)> {
    let words = [
        ("subformat", Subformat::StreamOptimized.name()),
        ("adapter_type", controller.disk_adapter()),
    ];
    words
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .to_vec()
}

/// What the VMDKs of a package are.
pub fn disk_options(controller: NewController) -> vmdk::Options {
    let words = image::Options {
        words: disk_words(controller),
        ..image::Options::default()
    };
    vmdk::Options::from_words(&words).unwrap_or_default()
}

impl Sink for OvaSink {
    fn unit(&self) -> u32 {
        self.disk.unit()
    }

    fn put(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        self.disk.put(offset, bytes)
    }

    fn skip(&self, range: Range<u64>) -> Result<()> {
        self.disk.skip(range)
    }

    fn keep(&self, range: Range<u64>) -> Result<()> {
        self.disk.keep(range)
    }

    fn checkpoint(&self) -> Result<()> {
        self.disk.checkpoint()
    }

    fn abandon(&self) {
        self.disk.abandon();
    }

    fn finish(&self) -> Result<()> {
        self.finish_watched(&Unwatched)
    }

    fn finish_watched(&self, watch: &dyn Watch) -> Result<()> {
        self.disk.finish()?;
        self.archive.complete_disk(&*self.file)?;
        self.archive.finish(watch)
    }
}
