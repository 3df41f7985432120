//! INF files: what a driver package says of itself, read as SetupAPI reads it (Windows driver documentation, "Overview of
//! INF Files" and the pages of each section and directive).
//!
//! [`Inf`] gives sections, lines and fields as `SetupFindFirstLine` and `SetupGetStringField` do. On top of them:
//! [`Inf::version`], [`Inf::models`] (which devices, for a given Windows) and [`Inf::installation`] (what is done for one of them).

mod budget;
mod decoration;
mod directories;
mod encoding;
mod files;
mod installation;
mod lines;
mod models;
mod registry;
mod services;
mod strings;
mod version;

pub use decoration::Decoration;
pub use directories::{DirectoryId, Folders};
pub use files::{CopyFile, Destination, SourceFile};
pub use installation::Installation;
pub use models::Model;
pub use registry::{RegistryAction, RegistryChange, RegistryData, RegistryRoot};
pub use services::{EventLog, Service};
pub use version::{DriverVersion, Version};

use lines::{RawLine, RawSection, Sections};
use std::borrow::Cow;
use strings::Strings;
use thiserror::Error;

/// The largest INF files of Windows and of display drivers have 3 MiB.
pub const LARGEST_INF: usize = 8 << 20;
/// Characters of a field after substitution: `MAX_INF_STRING_LENGTH` of `setupapi.h`.
const LONGEST_TEXT: usize = 4096;

/// Why a file cannot be used as an INF file.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum InfError {
    /// More than [`LARGEST_INF`].
    #[error("has {size} bytes; an INF file of more than {most} bytes is not read")]
    TooLarge {
        /// Bytes.
        size: u64,
        /// Limit.
        most: usize,
    },
    /// `[name` without its end.
    #[error("line {line}: the name of a section has no closing bracket")]
    UnfinishedSectionName {
        /// Counted from 1.
        line: u32,
    },
    /// SetupAPI refuses it too.
    #[error("line {line}: the name of a section is longer than {most} characters")]
    LongSectionName {
        /// Counted from 1.
        line: u32,
        /// Limit.
        most: usize,
    },
    /// More sections than any real file has.
    #[error("line {line}: more than {most} sections; no real INF file has so many")]
    TooManySections {
        /// Counted from 1.
        line: u32,
        /// Limit.
        most: usize,
    },
    /// More fields than any real file has.
    #[error("line {line}: more than {most} fields; no real INF file has so many")]
    TooManyFields {
        /// Counted from 1.
        line: u32,
        /// Limit.
        most: usize,
    },
    /// A field that SetupAPI would not hand out.
    #[error("line {line}: a field has more than {most} characters once its %strings% are put in")]
    LongText {
        /// Counted from 1.
        line: u32,
        /// Limit.
        most: usize,
    },
    /// No `[Version]` with a `Signature` that Windows accepts.
    #[error(
        "section [Version] has no Signature of \"$Windows NT$\" or \"$Chicago$\", so this is no INF file of Windows 95 or later"
    )]
    NoSignature,
    /// What it would give is larger than anything real.
    #[error("what its sections give for one device takes more than {most} bytes; no real INF file does")]
    TooMuch {
        /// Limit.
        most: usize,
    },
}

/// An INF file.
#[derive(Clone, Debug)]
pub struct Inf {
    sections: Sections,
    strings: Strings,
    folders: Folders,
}

impl Inf {
    /// Reads a whole INF file.
    ///
    /// # Errors
    /// See [`InfError`]: syntax that SetupAPI refuses, and limits that no real file reaches.
    pub fn parse(bytes: &[u8]) -> Result<Self, InfError> {
        if bytes.len() > LARGEST_INF {
            return Err(InfError::TooLarge {
                size: bytes.len() as u64,
                most: LARGEST_INF,
            });
        }
        let sections = lines::parse(&encoding::decode(bytes))?;
        let inf = Self {
            strings: Strings::new(&sections, None),
            sections,
            folders: Folders::default(),
        };
        inf.check_texts()?;
        if !inf.has_signature() {
            return Err(InfError::NoSignature);
        }
        Ok(inf)
    }

    /// The same file with the texts of a language, where it has them: `0x0407` for German as in Germany.
    ///
    /// # Errors
    /// [`InfError::LongText`] if those texts are too long.
    pub fn in_language(mut self, language: u16) -> Result<Self, InfError> {
        self.strings = Strings::new(&self.sections, Some(language));
        self.check_texts()?;
        Ok(self)
    }

    /// The same file with other folders behind `%10%`, `%12%` and their like.
    #[must_use]
    pub fn with_folders(mut self, folders: Folders) -> Self {
        self.folders = folders;
        self
    }

    /// A section by its name, in whatever case; parts that stand apart are one.
    pub fn section(&self, name: &str) -> Option<Section<'_>> {
        let raw = self.sections.get(name)?;
        Some(Section { inf: self, raw })
    }

    /// All sections, in the order in which they appear first.
    pub fn sections(&self) -> impl Iterator<Item = Section<'_>> {
        self.sections.list.iter().map(|raw| Section { inf: self, raw })
    }

    /// So that nobody who asks for a text has to handle one that is too long.
    fn check_texts(&self) -> Result<(), InfError> {
        for line in self.sections.list.iter().flat_map(|section| &section.lines) {
            for text in line.key.iter().chain(&line.fields) {
                if self.strings.length(text, &self.folders) > LONGEST_TEXT {
                    return Err(InfError::LongText {
                        line: line.number,
                        most: LONGEST_TEXT,
                    });
                }
            }
        }
        Ok(())
    }

    fn has_signature(&self) -> bool {
        const SIGNATURES: [&str; 3] = ["$Windows NT$", "$Chicago$", "$Windows 95$"];
        let line = self
            .section("Version")
            .and_then(|version| version.find("Signature"));
        let signature = line.and_then(|line| line.text(1));
        signature.is_some_and(|found| SIGNATURES.iter().any(|known| found.eq_ignore_ascii_case(known)))
    }
}

/// A section of an INF file.
#[derive(Clone, Copy, Debug)]
pub struct Section<'a> {
    inf: &'a Inf,
    raw: &'a RawSection,
}

impl<'a> Section<'a> {
    /// As it is spelled where it appears first.
    pub fn name(&self) -> &'a str {
        &self.raw.name
    }

    /// Its lines in order.
    pub fn lines(&self) -> impl Iterator<Item = Line<'a>> + use<'a> {
        let inf = self.inf;
        self.raw.lines.iter().map(move |raw| Line { inf, raw })
    }

    /// The first line with that key, in whatever case.
    pub fn find(&self, key: &str) -> Option<Line<'a>> {
        self.find_all(key).next()
    }

    /// All lines with that key.
    pub fn find_all<'k>(&self, key: &'k str) -> impl Iterator<Item = Line<'a>> + use<'a, 'k> {
        self.lines()
            .filter(move |line| line.key().is_some_and(|own| same_name(&own, key)))
    }

    /// The first field of the first line with that key, unless it is empty.
    pub fn value(&self, key: &str) -> Option<String> {
        let text = self.find(key)?.text(1)?;
        (!text.is_empty()).then(|| text.into_owned())
    }

    /// All fields of all lines with that key that are not empty: `CopyFiles = a, b`.
    pub fn list(&self, key: &str) -> Vec<String> {
        let lines = self.find_all(key).flat_map(|line| line.texts());
        lines
            .filter(|text| !text.is_empty())
            .map(Cow::into_owned)
            .collect()
    }
}

/// A line of a section.
#[derive(Clone, Copy, Debug)]
pub struct Line<'a> {
    inf: &'a Inf,
    raw: &'a RawLine,
}

impl<'a> Line<'a> {
    /// Where it begins, counted from 1.
    pub fn number(&self) -> u32 {
        self.raw.number
    }

    /// What stands before `=`. A line of one field and without `=` is its own key.
    pub fn key(&self) -> Option<Cow<'a, str>> {
        let only = || self.raw.fields.first().filter(|_| self.raw.fields.len() == 1);
        let key = self.raw.key.as_ref().or_else(only)?;
        Some(self.substitute(key))
    }

    /// How many fields it has, without the key.
    pub fn count(&self) -> usize {
        self.raw.fields.len()
    }

    /// Field `index`, counted from 1, with its `%strings%` put in.
    pub fn text(&self, index: usize) -> Option<Cow<'a, str>> {
        let field = self.raw.fields.get(index.checked_sub(1)?)?;
        Some(self.substitute(field))
    }

    /// All fields, likewise.
    pub fn texts(&self) -> impl Iterator<Item = Cow<'a, str>> + use<'a> {
        let inf = self.inf;
        let fields = self.raw.fields.iter();
        fields.map(move |field| inf.strings.substitute(field, &inf.folders))
    }

    /// Field `index` as a number, decimal or hexadecimal with `0x`. `None` if it is absent, empty or no number.
    pub fn integer(&self, index: usize) -> Option<i64> {
        integer(&self.text(index)?)
    }

    fn substitute(&self, text: &'a str) -> Cow<'a, str> {
        self.inf.strings.substitute(text, &self.inf.folders)
    }
}

/// A number as `SetupGetIntField` takes it.
fn integer(text: &str) -> Option<i64> {
    let text = text.trim();
    let (sign, digits) = match text.strip_prefix('-') {
        Some(digits) => (-1, digits),
        None => (1, text.strip_prefix('+').unwrap_or(text)),
    };
    let hexadecimal = digits.strip_prefix("0x").or_else(|| digits.strip_prefix("0X"));
    let (digits, radix) = hexadecimal.map_or((digits, 10), |digits| (digits, 16));
    // `from_str_radix` would take a second sign.
    let plain = digits.chars().all(|c| c.is_ascii_hexdigit());
    let number = i64::from_str_radix(digits, radix).ok().filter(|_| plain)?;
    Some(number * sign)
}

/// The same number as flags: 32 bits, whatever the sign.
fn flags(text: Option<Cow<'_, str>>) -> Option<u32> {
    let number = integer(&text?)?;
    u32::try_from(number)
        .ok()
        .or_else(|| i32::try_from(number).ok().map(i32::cast_unsigned))
}

/// Names of sections, keys and files are the same in whatever case.
fn same_name(one: &str, other: &str) -> bool {
    one.len() == other.len() && one.eq_ignore_ascii_case(other) || one.to_lowercase() == other.to_lowercase()
}

#[cfg(test)]
mod tests;
