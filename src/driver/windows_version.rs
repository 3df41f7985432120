//! Versions of Windows and the processors that they run on, as INF files and people name them.

use serde::{Deserialize, Serialize};
use std::fmt;

/// A processor, as INF files spell it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Architecture {
    /// 32 bits.
    X86,
    /// x86-64.
    Amd64,
    /// Itanium.
    Ia64,
    /// ARM, 32 bits.
    Arm,
    /// ARM, 64 bits.
    Arm64,
}

impl Architecture {
    const ALL: [Self; 5] = [Self::X86, Self::Amd64, Self::Ia64, Self::Arm, Self::Arm64];

    /// As in `NTamd64`, in lower case.
    pub fn name(self) -> &'static str {
        match self {
            Self::X86 => "x86",
            Self::Amd64 => "amd64",
            Self::Ia64 => "ia64",
            Self::Arm => "arm",
            Self::Arm64 => "arm64",
        }
    }

    /// The spelling of INF files, of Linux ("x86_64", "i686", "aarch64") or of people ("x64"); `None`: another processor.
    pub fn from_name(name: &str) -> Option<Self> {
        let name = name.to_ascii_lowercase();
        match name.as_str() {
            "x64" | "x86_64" | "x86-64" => Some(Self::Amd64),
            "i386" | "i486" | "i586" | "i686" => Some(Self::X86),
            "aarch64" => Some(Self::Arm64),
            _ => Self::ALL
                .into_iter()
                .find(|architecture| architecture.name() == name),
        }
    }
}

impl fmt::Display for Architecture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What kind of Windows: the `VER_NT_` numbers of `winnt.h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ProductType {
    /// 1.
    Workstation,
    /// 2.
    DomainController,
    /// 3.
    Server,
}

impl ProductType {
    /// Its number in `winnt.h`.
    pub fn number(self) -> u32 {
        match self {
            Self::Workstation => 1,
            Self::DomainController => 2,
            Self::Server => 3,
        }
    }
}

/// A Windows that drivers are chosen for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WindowsVersion {
    /// 6 in 6.1.7601.
    pub major: u32,
    /// 1 in 6.1.7601.
    pub minor: u32,
    /// 7601 in 6.1.7601.
    pub build: u32,
    /// Workstation or server.
    pub product: ProductType,
    /// The `VER_SUITE_` bits of `winnt.h`; 0 where nothing is known.
    pub suites: u32,
}

/// Names that people use, with the last build of each.
const NAMED: [(&str, u32, u32, u32, ProductType); 18] = [
    ("2000", 5, 0, 2195, ProductType::Workstation),
    ("xp", 5, 1, 2600, ProductType::Workstation),
    ("xp64", 5, 2, 3790, ProductType::Workstation),
    ("2003", 5, 2, 3790, ProductType::Server),
    ("vista", 6, 0, 6002, ProductType::Workstation),
    ("2008", 6, 0, 6003, ProductType::Server),
    ("7", 6, 1, 7601, ProductType::Workstation),
    ("2008r2", 6, 1, 7601, ProductType::Server),
    ("8", 6, 2, 9200, ProductType::Workstation),
    ("2012", 6, 2, 9200, ProductType::Server),
    ("8.1", 6, 3, 9600, ProductType::Workstation),
    ("2012r2", 6, 3, 9600, ProductType::Server),
    ("10", 10, 0, 19045, ProductType::Workstation),
    ("2016", 10, 0, 14393, ProductType::Server),
    ("2019", 10, 0, 17763, ProductType::Server),
    ("2022", 10, 0, 20348, ProductType::Server),
    ("11", 10, 0, 26100, ProductType::Workstation),
    ("2025", 10, 0, 26100, ProductType::Server),
];

impl WindowsVersion {
    /// "xp", "7", "2008r2", "2022", or numbers: "10.0.17763" (a workstation), "10.0.17763-server".
    ///
    /// # Errors
    /// A sentence that says what can be named.
    pub fn from_name(name: &str) -> Result<Self, String> {
        let lower = name.trim().to_ascii_lowercase();
        let plain = lower.strip_prefix("windows").unwrap_or(&lower).trim_start();
        let plain = plain
            .strip_prefix("server")
            .unwrap_or(plain)
            .trim_start_matches([' ', '-']);
        let squeezed: String = plain.chars().filter(|c| !matches!(c, ' ' | '-')).collect();
        if let Some((_, major, minor, build, product)) = NAMED.iter().find(|named| named.0 == squeezed) {
            return Ok(Self::new(*major, *minor, *build, *product));
        }
        let (numbers, product) = match plain.strip_suffix("-server") {
            Some(numbers) => (numbers, ProductType::Server),
            None => (plain, ProductType::Workstation),
        };
        let parts: Option<Vec<u32>> = numbers.split('.').map(|part| part.parse().ok()).collect();
        match parts.as_deref() {
            Some([major, minor, build]) => Ok(Self::new(*major, *minor, *build, product)),
            _ => {
                let names: Vec<_> = NAMED.iter().map(|named| named.0).collect();
                Err(format!(
                    "{name:?} is no Windows that is known here; there are {}, or three numbers: 10.0.17763, or 10.0.17763-server",
                    names.join(", ")
                ))
            }
        }
    }

    /// With no suite bits.
    pub fn new(major: u32, minor: u32, build: u32, product: ProductType) -> Self {
        Self {
            major,
            minor,
            build,
            product,
            suites: 0,
        }
    }

    /// Major and minor number: what most decisions depend on.
    pub fn release(&self) -> (u32, u32) {
        (self.major, self.minor)
    }
}

impl fmt::Display for WindowsVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.build)?;
        match self.product {
            ProductType::Workstation => Ok(()),
            ProductType::Server | ProductType::DomainController => f.write_str("-server"),
        }
    }
}

/// What drivers are chosen for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Target {
    /// Which Windows.
    pub windows: WindowsVersion,
    /// On which processor.
    pub architecture: Architecture,
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Windows {} {}", self.windows, self.architecture)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_are_read() {
        let seven = WindowsVersion::new(6, 1, 7601, ProductType::Workstation);
        for name in ["7", "Windows 7", "6.1.7601"] {
            assert_eq!(WindowsVersion::from_name(name), Ok(seven), "{name}");
        }
        for name in ["2008r2", "2008 R2", "Windows Server 2008 R2", "6.1.7601-server"] {
            let server = WindowsVersion::from_name(name).unwrap();
            assert_eq!(
                (server.release(), server.product),
                ((6, 1), ProductType::Server),
                "{name}"
            );
            assert_eq!(server.to_string(), "6.1.7601-server");
        }
        for name in ["", "95", "10.0", "10.0.x", "-server", "99999999999.0.0"] {
            assert!(
                WindowsVersion::from_name(name).unwrap_err().contains("2008r2"),
                "{name}"
            );
        }
        assert_eq!(Architecture::from_name("x86_64"), Some(Architecture::Amd64));
        assert_eq!(Architecture::from_name("ARM64"), Some(Architecture::Arm64));
        assert_eq!(Architecture::from_name("mips"), None);
    }
}
