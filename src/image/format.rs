//! The formats that are read and written, by the names that qemu-img gives them.

use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// A format of disk images.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// The file is the disk.
    Raw,
    /// qcow2, versions 2 and 3.
    Qcow2,
    /// VHD, which qemu calls vpc.
    #[serde(rename = "vpc")]
    Vhd,
    /// VDI, of VirtualBox.
    Vdi,
    /// VHDX.
    Vhdx,
    /// VMware's disks, of all kinds.
    Vmdk,
    /// A package of the Open Virtualization Format in one archive.
    Ova,
    /// The descriptor of such a package in a folder.
    Ovf,
    /// qcow, version 1. Only read.
    Qcow,
    /// Parallels HDD. Only read.
    Parallels,
}

impl Format {
    /// All of them, in the order in which they are listed.
    pub const ALL: &[Self] = &[
        Self::Raw,
        Self::Qcow2,
        Self::Vmdk,
        Self::Vhd,
        Self::Vhdx,
        Self::Vdi,
        Self::Ova,
        Self::Ovf,
        Self::Qcow,
        Self::Parallels,
    ];

    /// As `qemu-img -f` spells it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Qcow2 => "qcow2",
            Self::Vhd => "vpc",
            Self::Vdi => "vdi",
            Self::Vhdx => "vhdx",
            Self::Vmdk => "vmdk",
            Self::Ova => "ova",
            Self::Ovf => "ovf",
            Self::Qcow => "qcow",
            Self::Parallels => "parallels",
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Format {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        if let Some(format) = Self::ALL.iter().find(|format| format.name() == name) {
            return Ok(*format);
        }
        if name == "vhd" {
            return Ok(Self::Vhd);
        }
        let known: Vec<&str> = Self::ALL.iter().map(|format| format.name()).collect();
        Err(format!(
            "image format \"{name}\" is not known; these are: {}",
            known.join(", ")
        ))
    }
}
