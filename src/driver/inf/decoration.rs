//! Which Windows a section is for: `NTamd64.10.0...17763` (Windows driver documentation, "INF Manufacturer Section",
//! "Combining Platform Extensions with Operating System Versions").

use super::integer;
use crate::driver::windows_version::{Architecture, Target, WindowsVersion};
use serde::{Serialize, Serializer};
use std::fmt;

/// `NT[Architecture][.[Major][.[Minor][.[ProductType][.[SuiteMask][.[BuildNumber]]]]]]`; the default is the empty one,
/// of a section without decoration.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Decoration {
    /// Begins with `NT`.
    pub nt: bool,
    /// Which processor.
    pub architecture: Option<Architecture>,
    /// Windows from this on.
    pub major: Option<u32>,
    /// Likewise; absent: from 0.
    pub minor: Option<u32>,
    /// Only this kind of Windows.
    pub product: Option<u32>,
    /// Only a Windows with all of these suites.
    pub suites: Option<u32>,
    /// Of exactly this major and minor version, from this build on.
    pub build: Option<u32>,
}

/// From here on a section for another processor than x86 must name it (Windows Server 2003 SP1, and every Windows for
/// x64, which began with it).
const ARCHITECTURE_NEEDED: (u32, u32) = (5, 2);

impl Decoration {
    /// `None`: no decoration, or one that no Windows understands.
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.trim().split('.');
        let first = parts.next()?.to_ascii_lowercase();
        let architecture = match first.strip_prefix("nt")? {
            "" => None,
            name => Some(Architecture::from_name(name).filter(|found| found.name() == name)?),
        };
        let mut numbers = [None; 5];
        for number in &mut numbers {
            *number = match parts.next().map(str::trim) {
                None | Some("") => None,
                Some(text) => Some(u32::try_from(integer(text)?).ok()?),
            };
        }
        if parts.next().is_some() {
            return None;
        }
        let [major, minor, product, suites, build] = numbers;
        Some(Self {
            nt: true,
            architecture,
            major,
            minor,
            product,
            suites,
            build,
        })
    }

    /// Is a section of `[Manufacturer]` with this decoration for `target`?
    pub fn applies(&self, target: &Target) -> bool {
        let architecture = match self.architecture {
            Some(architecture) => architecture == target.architecture,
            None => {
                target.architecture == Architecture::X86 || target.windows.release() < ARCHITECTURE_NEEDED
            }
        };
        architecture && self.applies_to_windows(&target.windows)
    }

    /// Likewise of an installation, whose processor may stay unnamed.
    pub(super) fn applies_to_installation(&self, target: &Target) -> bool {
        self.architecture
            .is_none_or(|architecture| architecture == target.architecture)
            && self.applies_to_windows(&target.windows)
    }

    fn applies_to_windows(&self, windows: &WindowsVersion) -> bool {
        let from = (self.major.unwrap_or(0), self.minor.unwrap_or(0));
        if from > windows.release() {
            return false;
        }
        if from == windows.release() && self.build.is_some_and(|build| build > windows.build) {
            return false;
        }
        self.product
            .is_none_or(|product| product == windows.product.number())
            && self.suites.is_none_or(|suites| suites & windows.suites == suites)
    }

    /// Of two that apply, the greater one is nearer: first by version, then by kind, suites and processor.
    pub(super) fn nearness(&self, windows: &WindowsVersion) -> impl Ord + use<> {
        let from = (self.major.unwrap_or(0), self.minor.unwrap_or(0));
        // A build of an older version says nothing about this one.
        let build = self.build.filter(|_| from == windows.release()).unwrap_or(0);
        (
            from,
            build,
            self.product.is_some(),
            self.suites.unwrap_or(0).count_ones(),
            self.architecture.is_some(),
            self.nt,
        )
    }
}

impl fmt::Display for Decoration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.nt {
            return Ok(());
        }
        f.write_str("NT")?;
        if let Some(architecture) = self.architecture {
            write!(f, "{architecture}")?;
        }
        let numbers = [self.major, self.minor, self.product, self.suites, self.build];
        let used = numbers
            .iter()
            .rposition(Option::is_some)
            .map_or(0, |last| last + 1);
        for (place, number) in numbers.iter().take(used).enumerate() {
            match number {
                // The mask is written in hexadecimal.
                Some(number) if place == 3 => write!(f, ".0x{number:x}")?,
                Some(number) => write!(f, ".{number}")?,
                None => f.write_str(".")?,
            }
        }
        Ok(())
    }
}

impl Serialize for Decoration {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}
