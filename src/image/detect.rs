//! Which format a file has: by its magic, never by its name.

use super::{Image, Neighbours, Raw, qcow2::Qcow2};
use crate::disk::{Disk, Error, Kind, Result};
use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr, sync::Arc};

/// The formats that are read and written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// The file is the disk.
    Raw,
    /// qcow2, versions 2 and 3.
    Qcow2,
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Raw => "raw",
            Self::Qcow2 => "qcow2",
        })
    }
}

impl FromStr for Format {
    type Err = String;

    /// As `qemu-img -f` spells it.
    fn from_str(name: &str) -> std::result::Result<Self, String> {
        match name {
            "raw" => Ok(Self::Raw),
            "qcow2" => Ok(Self::Qcow2),
            other => Err(format!(
                "image format \"{other}\" is not known; raw and qcow2 are"
            )),
        }
    }
}

/// Magics of formats that are not read: taking such a file for a raw disk would copy its container. With the place
/// of the magic.
const OTHERS: [(u64, &[u8], &str); 10] = [
    (0, b"KDMV", "VMDK"),
    (0, b"COWD", "VMDK"),
    (0, b"# Disk DescriptorFile", "VMDK"),
    (0, b"vhdxfile", "VHDX"),
    (0, b"conectix", "VHD"),
    (64, &[0x7f, 0x10, 0xda, 0xbe], "VDI"),
    (0, b"QED\0", "QED"),
    (0, b"WithoutFreeSpace", "Parallels"),
    (0, b"WithouFreSpacExt", "Parallels"),
    (0, b"EVF\x09\x0d\x0a\xff\x00", "EnCase"),
];

/// The format of the file in `container`; raw if no magic is known. A format that is known but not read is an error
/// of kind `Unsupported`.
///
/// Only for files: a guest can write any magic into the first sector of a block device or network disk.
pub fn detect(container: &dyn Disk) -> Result<Format> {
    let starts = |at: u64, magic: &[u8]| -> Result<bool> {
        let mut bytes = vec![0; magic.len()];
        if at.saturating_add(magic.len() as u64) > container.size() {
            return Ok(false);
        }
        container.read_at(at, &mut bytes)?;
        Ok(bytes == magic)
    };
    if starts(0, b"QFI\xfb")? {
        return Ok(Format::Qcow2);
    }
    for (at, magic, name) in OTHERS {
        if starts(at, magic)? {
            return Err(Error::new(
                Kind::Unsupported,
                container.label(),
                format!(
                    "is a {name} image, a format that is not read here: `qemu-img convert -O qcow2` makes one that \
                     is. If it is a raw disk in spite of its first bytes, name the format: raw"
                ),
            ));
        }
    }
    Ok(Format::Raw)
}

/// Opens the image in `container` for reading. `format` is what the user has named; without it the magic decides.
/// For a block device or a network disk pass raw where the user has named nothing.
pub fn open(
    container: Arc<dyn Disk>,
    format: Option<Format>,
    neighbours: &dyn Neighbours,
) -> Result<Arc<dyn Image>> {
    let format = match format {
        Some(format) => format,
        None => detect(container.as_ref())?,
    };
    Ok(match format {
        Format::Raw => Arc::new(Raw::new(container)),
        Format::Qcow2 => Arc::new(Qcow2::open(container, neighbours)?),
    })
}
