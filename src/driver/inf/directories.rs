//! The folders that INF files name by numbers (Windows driver documentation, "Using Dirids"; CSIDL values from
//! `shlobj.h` with 0x4000 added).

use serde::{Deserialize, Serialize};
use std::{borrow::Cow, fmt};

/// The number of a folder in `[DestinationDirs]`, or in `%12%`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct DirectoryId(
    /// As in the file.
    pub i32,
);

impl DirectoryId {
    /// An absolute path.
    pub const ABSOLUTE: Self = Self(-1);
    /// Where the INF file lies.
    pub const SOURCE: Self = Self(1);
    /// `System32\drivers`.
    pub const DRIVERS: Self = Self(12);
    /// The package's own folder in the driver store: files are used from there and copied nowhere else.
    pub const DRIVER_STORE: Self = Self(13);
}

impl fmt::Display for DirectoryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// What the numbers mean on one system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Folders {
    /// Where Windows is: "%SystemRoot%", `C:\Windows`. Without a backslash at its end.
    pub windows: String,
    /// The drive that it is on: "%SystemDrive%", "C:".
    pub drive: String,
    /// The name of the package's folder in the driver store (`netkvm.inf_amd64_0123456789abcdef`), once it is known.
    pub package: Option<String>,
    /// Where the INF file lies.
    pub source: String,
}

impl Default for Folders {
    /// By the names of environment variables, so that the paths are good on any system.
    fn default() -> Self {
        Self {
            windows: "%SystemRoot%".into(),
            drive: "%SystemDrive%".into(),
            package: None,
            source: ".".into(),
        }
    }
}

impl Folders {
    /// The path of the folder with that number; `None`: a number without one, or one that only a running system knows.
    pub fn path(&self, id: i32) -> Option<Cow<'_, str>> {
        let below = |folder: &str| Some(Cow::Owned(format!("{}\\{folder}", self.windows)));
        let on_drive = |folder: &str| Some(Cow::Owned(format!("{}\\{folder}", self.drive)));
        match id {
            1 => Some(Cow::Borrowed(&self.source)),
            10 => Some(Cow::Borrowed(&self.windows)),
            11 => below("System32"),
            12 => below("System32\\drivers"),
            13 => {
                let package = self.package.as_deref()?;
                below(&format!("System32\\DriverStore\\FileRepository\\{package}"))
            }
            17 => below("INF"),
            18 => below("Help"),
            20 | 16404 => below("Fonts"),
            21 => below("System32\\viewers"),
            23 | 66003 => below("System32\\spool\\drivers\\color"),
            24 | 30 | 54 => on_drive(""),
            25 => Some(Cow::Borrowed(&self.windows)),
            50 => below("System"),
            51 => below("System32\\spool"),
            52 => below("System32\\spool\\drivers"),
            55 | 66001 => below("System32\\spool\\prtprocs"),
            16407 | 16419 => on_drive("ProgramData"),
            16420 => Some(Cow::Borrowed(&self.windows)),
            16421 => below("System32"),
            16422 => on_drive("Program Files"),
            16425 => below("SysWOW64"),
            16426 => on_drive("Program Files (x86)"),
            16427 => on_drive("Program Files\\Common Files"),
            16428 => on_drive("Program Files (x86)\\Common Files"),
            66002 => below("System32"),
            _ => None,
        }
    }
}
