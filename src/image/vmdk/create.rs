//! New images: what can be asked for, and who makes it.

use super::{
    SECTOR,
    flaw::Flaw,
    new_descriptor::{self, NewExtent},
    sparse_sink::{NewPart, SparseSink},
    stream::StreamOptimized,
    turn::cannot_resume,
};
use crate::{
    disk::{Composite, Disk, DiskSink, Kind, Part, Result, Sink},
    image::{
        self, Files, Format,
        create::{switch, value},
    },
};
use std::sync::Arc;

/// The kind of a new image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Subformat {
    /// One file that grows.
    #[default]
    MonolithicSparse,
    /// A descriptor, and a file that is the disk.
    MonolithicFlat,
    /// A descriptor, and files that grow, for 2 GiB of the disk each.
    TwoGbMaxExtentSparse,
    /// A descriptor, and files that are 2 GiB of the disk each.
    TwoGbMaxExtentFlat,
    /// One compressed file, written from front to back: what an OVA holds.
    StreamOptimized,
    /// As `MonolithicFlat`, in the words of ESXi: what lies on a datastore.
    Vmfs,
}

impl Subformat {
    const ALL: [Self; 6] = [
        Self::MonolithicSparse,
        Self::MonolithicFlat,
        Self::TwoGbMaxExtentSparse,
        Self::TwoGbMaxExtentFlat,
        Self::StreamOptimized,
        Self::Vmfs,
    ];

    /// As `-o subformat=` and the descriptor spell it.
    pub fn name(self) -> &'static str {
        match self {
            Self::MonolithicSparse => "monolithicSparse",
            Self::MonolithicFlat => "monolithicFlat",
            Self::TwoGbMaxExtentSparse => "twoGbMaxExtentSparse",
            Self::TwoGbMaxExtentFlat => "twoGbMaxExtentFlat",
            Self::StreamOptimized => "streamOptimized",
            Self::Vmfs => "vmfs",
        }
    }
}

/// The controller that the disk is made for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Adapter {
    /// IDE; SATA and NVMe too.
    #[default]
    Ide,
    /// `BusLogic` SCSI.
    BusLogic,
    /// LSI Logic SCSI, parallel or SAS.
    LsiLogic,
    /// VMware's paravirtual SCSI. The descriptor has no word for it: such disks are "lsilogic".
    Pvscsi,
    /// SCSI of old ESX servers, of whichever kind.
    LegacyEsx,
}

impl Adapter {
    const ALL: [(&str, Self); 6] = [
        ("ide", Self::Ide),
        ("buslogic", Self::BusLogic),
        ("lsilogic", Self::LsiLogic),
        ("lsisas", Self::LsiLogic),
        ("pvscsi", Self::Pvscsi),
        ("legacyESX", Self::LegacyEsx),
    ];

    /// The value of `ddb.adapterType`.
    pub(super) fn database_name(self) -> &'static str {
        match self {
            Self::Ide => "ide",
            Self::BusLogic => "buslogic",
            Self::LsiLogic | Self::Pvscsi => "lsilogic",
            Self::LegacyEsx => "legacyESX",
        }
    }
}

/// The shape of a new image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// The kind.
    pub subformat: Subformat,
    /// The controller.
    pub adapter: Adapter,
    /// `ddb.virtualHWVersion`. Only ESX 3 and before look at it; 4, qemu-img's default, is accepted everywhere.
    pub hardware_version: u32,
    /// `ddb.toolsVersion`; the default says that the guest has tools of its own.
    pub tools_version: u32,
    /// Runs of zeros over a parent can be said without taking space. VMware's hosted products read it.
    pub zeroed_grain: bool,
    /// `ddb.uuid`, by which a guest may know the disk; without one VMware makes one.
    pub uuid: Option<uuid::Uuid>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            subformat: Subformat::default(),
            adapter: Adapter::default(),
            hardware_version: 4,
            tools_version: 2_147_483_647,
            zeroed_grain: false,
            uuid: None,
        }
    }
}

/// The options' names. All but the last are qemu-img's.
const OPTIONS: [&str; 7] = [
    "subformat",
    "adapter_type",
    "hwversion",
    "toolsversion",
    "compat6",
    "zeroed_grain",
    "uuid",
];

impl Options {
    /// Reads `-o` and `-c`: compressed is streamOptimized.
    ///
    /// # Errors
    /// Words that are not known, or that do not go together.
    pub fn from_words(words: &image::Options) -> Result<Self> {
        let mut options = Self::default();
        let mut subformat = None;
        let mut hardware_version = None;
        let mut compat6 = false;
        words.each(Format::Vmdk, &OPTIONS, |name, text| {
            match name {
                "subformat" => subformat = Some(subformat_of(text)?),
                "adapter_type" => options.adapter = adapter_of(text)?,
                // qemu-img's own name of the default.
                "hwversion" if text == "undefined" => hardware_version = None,
                "hwversion" => hardware_version = Some(value(text, "a number")?),
                "toolsversion" => options.tools_version = value(text, "a number")?,
                "compat6" => compat6 = switch(text)?,
                "zeroed_grain" => options.zeroed_grain = switch(text)?,
                "uuid" => options.uuid = Some(value(text, "a UUID")?),
                _ => return Ok(false),
            }
            Ok(true)
        })?;
        let refuse = |text: &str| Err(Flaw::CannotCreate(text.to_owned()).of(Format::Vmdk.name()));
        let compressed = subformat.unwrap_or(Subformat::StreamOptimized) == Subformat::StreamOptimized;
        if words.compress && !compressed {
            return refuse("only subformat=streamOptimized is compressed (-c)");
        }
        options.subformat = match subformat {
            None if words.compress => Subformat::StreamOptimized,
            subformat => subformat.unwrap_or_default(),
        };
        if compat6 && hardware_version.is_some() {
            return refuse("compat6=on is hwversion=6, and another hwversion is given too");
        }
        options.hardware_version = hardware_version.unwrap_or(if compat6 { 6 } else { 4 });
        let sparse = matches!(
            options.subformat,
            Subformat::MonolithicSparse | Subformat::TwoGbMaxExtentSparse
        );
        if options.zeroed_grain && !sparse {
            return refuse("zeroed_grain=on is only for monolithicSparse and twoGbMaxExtentSparse");
        }
        Ok(options)
    }
}

fn subformat_of(text: &str) -> std::result::Result<Subformat, String> {
    let mut all = Subformat::ALL.into_iter();
    let known = Subformat::ALL.map(Subformat::name).join(", ");
    all.find(|subformat| subformat.name() == text)
        .ok_or_else(|| format!("one of {known} is expected"))
}

fn adapter_of(text: &str) -> std::result::Result<Adapter, String> {
    let mut all = Adapter::ALL.iter();
    let known = Adapter::ALL.map(|(name, _)| name).join(", ");
    all.find(|(name, _)| *name == text)
        .map(|(_, adapter)| *adapter)
        .ok_or_else(|| format!("one of {known} is expected"))
}

/// Bytes of the disk in each file of a disk in pieces: VMware's 2047 MiB, whole grains.
const PIECE: u64 = 2047 << 20;

/// Every piece is an open file, of which a process has 1024.
const MOST_PIECES: u64 = 512;

/// Begins a new image of a disk of `size` bytes, or goes on with one.
///
/// # Errors
/// Those of the files; what cannot be made.
pub fn create(size: u64, options: Options, files: &mut dyn Files) -> Result<Box<dyn Sink>> {
    if size == 0 {
        let text = "a disk of 0 bytes cannot be a VMDK".to_owned();
        return Err(Flaw::CannotCreate(text).of(files.name()));
    }
    // The format counts in sectors.
    let rounded = size.next_multiple_of(SECTOR);
    match options.subformat {
        Subformat::MonolithicSparse => {
            let name = files.name().to_owned();
            let extent = NewExtent {
                size: rounded,
                file: name.clone(),
            };
            let text = new_descriptor::text(&name, &options, &[extent]).map_err(|flaw| flaw.of(&name))?;
            let parts = vec![NewPart {
                container: files.main(),
                size: rounded,
                descriptor: Some(text),
            }];
            let sink = SparseSink::open(parts, size, options.zeroed_grain, files.fresh())?;
            Ok(Box::new(sink))
        }
        Subformat::StreamOptimized => {
            let name = files.name().to_owned();
            let container = files.main();
            Ok(if files.fresh() {
                Box::new(StreamOptimized::create(container, &name, size, &options)?)
            } else {
                Box::new(StreamOptimized::resume(
                    container,
                    files.blank(),
                    &name,
                    size,
                    &options,
                )?)
            })
        }
        Subformat::MonolithicFlat | Subformat::Vmfs | Subformat::TwoGbMaxExtentFlat => {
            let pieces = pieces(&options, rounded, files)?;
            if let [(disk, _)] = pieces.as_slice() {
                return Ok(Box::new(DiskSink::new(disk.clone(), true)));
            }
            let sizes = pieces.iter().map(|(disk, size)| Part::Of {
                disk: disk.clone(),
                offset: 0,
                length: *size,
            });
            let disk = Composite::new(files.name(), 512, sizes.collect())?;
            Ok(Box::new(DiskSink::new(Arc::new(disk), true)))
        }
        Subformat::TwoGbMaxExtentSparse => {
            let parts = pieces(&options, rounded, files)?.into_iter();
            let parts = parts.map(|(container, size)| NewPart {
                container,
                size,
                descriptor: None,
            });
            let sink = SparseSink::open(parts.collect(), size, options.zeroed_grain, files.fresh())?;
            Ok(Box::new(sink))
        }
    }
}

/// Makes the descriptor and the files of a disk in several files, and gives the latter with the bytes of the disk that
/// each holds.
fn pieces(options: &Options, size: u64, files: &mut dyn Files) -> Result<Vec<(Arc<dyn Disk>, u64)>> {
    let name = files.name().to_owned();
    let (stem, ending) = match name.rfind('.') {
        Some(at) if at > 0 => name.split_at(at),
        _ => (&*name, ""),
    };
    let one = |kind: &str| format!("{stem}-{kind}{ending}");
    let (piece, flat) = match options.subformat {
        Subformat::TwoGbMaxExtentSparse => (PIECE, false),
        Subformat::TwoGbMaxExtentFlat => (PIECE, true),
        _ => (size.max(1), true),
    };
    let count = size.div_ceil(piece).max(1);
    if count > MOST_PIECES {
        let text = format!(
            "the disk would become {count} files of 2 GiB, and {MOST_PIECES} are the most: choose \
             subformat=monolithicSparse or monolithicFlat"
        );
        return Err(Flaw::CannotCreate(text).of(&name));
    }
    let extents: Vec<NewExtent> = (0..count)
        .map(|index| NewExtent {
            size: (size - index * piece).min(piece),
            file: match options.subformat {
                Subformat::TwoGbMaxExtentSparse => one(&format!("s{:03}", index + 1)),
                Subformat::TwoGbMaxExtentFlat => one(&format!("f{:03}", index + 1)),
                _ => one("flat"),
            },
        })
        .collect();
    let text = new_descriptor::text(&name, options, &extents).map_err(|flaw| flaw.of(&name))?;
    write_text(files, &text)?;
    extents
        .iter()
        .map(|extent| {
            let initial = if flat { extent.size } else { 0 };
            Ok((files.beside(&extent.file, initial)?, extent.size))
        })
        .collect()
}

/// The descriptor as a file of its own.
fn write_text(files: &dyn Files, text: &str) -> Result<()> {
    let file = files.main();
    if files.fresh() {
        match file.set_size(text.len() as u64) {
            // A device has the size that it has: a zero byte ends the text.
            Err(error) if error.kind == Kind::Unsupported => {
                let mut padded = text.as_bytes().to_vec();
                padded.resize(text.len().next_multiple_of(512) + 512, 0);
                file.write_at(0, &padded)?;
            }
            Err(error) => return Err(error),
            Ok(()) => file.write_at(0, text.as_bytes())?,
        }
        return file.flush();
    }
    let mut there = vec![0; text.len()];
    if file.size() >= text.len() as u64 {
        file.read_at(0, &mut there)?;
    }
    if there != text.as_bytes() {
        return Err(cannot_resume(
            file.label(),
            "its descriptor is another than this conversion writes",
        ));
    }
    Ok(())
}
