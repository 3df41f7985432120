//! The words for a source or a destination.

use crate::nbd::{Address, AddressError};
use std::{
    ffi::{OsStr, OsString},
    fmt,
    path::{Path, PathBuf},
};
use thiserror::Error;

/// Where a disk is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Locator {
    /// A file, a folder or a block device of this host.
    Path(PathBuf),
    /// An export of a server.
    Nbd(Address),
    /// `-`: standard input as a source, standard output as a destination.
    Standard,
}

/// Why words name no disk.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum LocatorError {
    /// Of a network block device.
    #[error("{words}: {error}")]
    Nbd {
        /// As they were said.
        words: String,
        /// What is wrong with them.
        error: AddressError,
    },
    /// A scheme that is not known.
    #[error(
        "{words}: \"{scheme}\" is not known here; there are: a path, nbd://HOST/EXPORT, \
         nbd+unix:///EXPORT?socket=PATH, and - for standard input or output. A file of that very name is ./{words}"
    )]
    Scheme {
        /// As they were said.
        words: String,
        /// What stands before "://".
        scheme: String,
    },
    /// Nothing.
    #[error("the name of a disk is empty")]
    Empty,
}

impl Locator {
    /// Reads the words of a user.
    ///
    /// # Errors
    /// Addresses that are none, schemes that are not known.
    pub fn parse(words: &OsStr) -> Result<Self, LocatorError> {
        if words.is_empty() {
            return Err(LocatorError::Empty);
        }
        if words == "-" {
            return Ok(Self::Standard);
        }
        let Some((text, scheme)) = words.to_str().and_then(|text| Some((text, scheme(text)?))) else {
            return Ok(Self::Path(PathBuf::from(words)));
        };
        let words = text.to_owned();
        match scheme.to_ascii_lowercase().as_str() {
            "file" => Ok(Self::Path(PathBuf::from(
                text.get("file://".len()..).unwrap_or_default(),
            ))),
            "nbd" | "nbds" | "nbd+unix" | "nbds+unix" => match text.parse() {
                Ok(address) => Ok(Self::Nbd(address)),
                Err(error) => Err(LocatorError::Nbd { words, error }),
            },
            _ => Err(LocatorError::Scheme {
                words,
                scheme: scheme.to_owned(),
            }),
        }
    }

    /// What files that belong to it are called, without a folder: the last part of its name.
    pub fn short_name(&self) -> String {
        let plain = |c: char| {
            if c.is_alphanumeric() || matches!(c, '.' | '_' | '-') {
                c
            } else {
                '-'
            }
        };
        let last = |name: &str| -> String {
            let name = name.rsplit('/').next().unwrap_or_default();
            name.chars()
                .map(plain)
                .collect::<String>()
                .trim_start_matches('.')
                .to_owned()
        };
        match self {
            Self::Path(path) => path
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned(),
            Self::Nbd(address) => Some(last(&address.export))
                .filter(|name| !name.is_empty())
                .unwrap_or_else(|| "export".to_owned()),
            Self::Standard => "standard".to_owned(),
        }
    }

    /// The path, of what has one.
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::Path(path) => Some(path),
            Self::Nbd(_) | Self::Standard => None,
        }
    }
}

/// What stands before `://`, where that is the form of a scheme (RFC 3986, section 3.1).
fn scheme(text: &str) -> Option<&str> {
    let (scheme, _) = text.split_once("://")?;
    let mut characters = scheme.chars();
    let starts = characters.next()?.is_ascii_alphabetic();
    let goes_on = characters.all(|c| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.'));
    (starts && goes_on).then_some(scheme)
}

impl From<PathBuf> for Locator {
    fn from(path: PathBuf) -> Self {
        Self::Path(path)
    }
}

impl From<Locator> for OsString {
    fn from(locator: Locator) -> Self {
        match locator {
            Locator::Path(path) => path.into_os_string(),
            other => other.to_string().into(),
        }
    }
}

impl fmt::Display for Locator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path(path) => write!(f, "{}", path.display()),
            Self::Nbd(address) => write!(f, "{address}"),
            Self::Standard => f.write_str("-"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::ffi::OsStrExt;

    #[test]
    fn words_are_paths_unless_they_have_a_scheme() {
        let path = |text: &str| Ok(Locator::Path(text.into()));
        for text in [
            "disk.raw",
            "/dev/sda",
            "./nbd://x",
            "a:b",
            "1://x",
            "nbd:unix:x",
            "--",
        ] {
            assert_eq!(Locator::parse(text.as_ref()), path(text), "{text}");
        }
        assert_eq!(Locator::parse("file:///a b".as_ref()), path("/a b"));
        assert_eq!(Locator::parse("-".as_ref()), Ok(Locator::Standard));
        let odd = OsStr::from_bytes(b"\xff://");
        assert_eq!(Locator::parse(odd), Ok(Locator::Path(odd.into())));
        let nbd = Locator::parse("nbd://host/disk".as_ref()).unwrap();
        assert_eq!(nbd.to_string(), "nbd://host/disk");
        assert_eq!(nbd.path(), None);
        for (words, name) in [
            ("/dev/vg/root", "root"),
            ("nbd://host/a/../b c", "b-c"),
            ("nbd://host/..", "export"),
            ("nbd://host", "export"),
        ] {
            assert_eq!(Locator::parse(words.as_ref()).unwrap().short_name(), name);
        }
    }

    #[test]
    fn what_cannot_be_opened_is_refused_by_name() {
        let error = Locator::parse("ssh://host/dev/sda".as_ref()).unwrap_err();
        assert!(error.to_string().contains("\"ssh\" is not known here"), "{error}");
        let error = Locator::parse("nbds://host/".as_ref()).unwrap_err();
        assert!(error.to_string().contains("TLS"), "{error}");
        assert_eq!(Locator::parse("".as_ref()), Err(LocatorError::Empty));
    }
}
