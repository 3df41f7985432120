//! Files that an image names: its backing file. Opened only beside the image, never by a guess at their format.

use super::{Format, open};
use crate::disk::{Disk, Error, FileDisk, Kind, Result};
use std::{
    ffi::OsStr,
    fs::Metadata,
    os::unix::{ffi::OsStrExt, fs::MetadataExt},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, Weak},
};

/// May this image open the file that it names? The caller's answer; the image has no other way out.
pub trait Neighbours {
    /// Opens `name` for reading. `format` as the image declares it; never probed.
    fn open(&self, name: &[u8], format: Option<&str>) -> Result<Arc<dyn Disk>>;

    /// Opens `name`, which holds a part of an image that is edited where it lies, for reading and writing: its bare
    /// bytes.
    ///
    /// # Errors
    /// Those of the file; [`Kind::Unsupported`] from who cannot follow an edit into a second file.
    fn open_writable(&self, name: &[u8]) -> Result<Arc<dyn Disk>> {
        only_one_file(name)
    }

    /// What there is to open, for images that know another file by what is in it and have no name for it.
    ///
    /// # Errors
    /// Those of looking.
    fn names(&self) -> Result<Vec<Vec<u8>>> {
        Ok(Vec::new())
    }
}

fn only_one_file(name: &[u8]) -> Result<Arc<dyn Disk>> {
    let text = "holds a part of the image, and an edit where it lies reaches only one file here: convert it to an image \
                that is one file";
    Err(Error::new(Kind::Unsupported, String::from_utf8_lossy(name), text))
}

/// No file may be opened.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoNeighbours;

impl Neighbours for NoNeighbours {
    fn open(&self, name: &[u8], _format: Option<&str>) -> Result<Arc<dyn Disk>> {
        Err(Error::new(
            Kind::Unsupported,
            String::from_utf8_lossy(name),
            "is named by the image as its backing file, but no other file may be opened here",
        ))
    }
}

/// Files of one folder may be opened, and what they name in turn if it is there too.
#[derive(Clone, Debug)]
pub struct Beside {
    folder: PathBuf,
    allowed: Vec<PathBuf>,
    depth: usize,
    writing: bool,
    spared: Vec<PathBuf>,
    /// Shared with those that open what the images beside this one name in turn.
    opened: Arc<Mutex<Vec<OpenedFile>>>,
}

/// A file that was opened.
#[derive(Clone, Debug)]
struct OpenedFile {
    path: PathBuf,
    /// Of what was opened for its bare bytes, perhaps only to look at them.
    bytes: Option<Weak<FileDisk>>,
}

/// VMware allows 32 snapshots of a disk; longer chains exist only where nobody ever commits, and one that runs in a circle
/// has no end.
const LONGEST_CHAIN: usize = 40;

impl Beside {
    /// The folder that holds `image`.
    pub fn new(image: &Path) -> Self {
        let folder = image.parent().filter(|folder| !folder.as_os_str().is_empty());
        Self {
            folder: folder.unwrap_or(Path::new(".")).to_owned(),
            allowed: Vec::new(),
            depth: 0,
            writing: false,
            spared: Vec::new(),
            opened: Arc::default(),
        }
    }

    /// Files of `folder` may be opened as well: the user has said so.
    #[must_use]
    pub fn allowing(mut self, folder: &Path) -> Self {
        self.allowed.push(folder.to_owned());
        self
    }

    /// Further files of an image that is written may be written as well: the user has named it to be written. What it
    /// stands on is still only read.
    #[must_use]
    pub fn writing(mut self) -> Self {
        self.writing = true;
        self
    }

    /// None of `files` is written, whatever the image names.
    #[must_use]
    pub fn sparing(mut self, files: &[PathBuf]) -> Self {
        self.spared = files.to_vec();
        self
    }

    /// The files that were opened for reading and belong to what was made of them: extents, data files, parents, and what
    /// those stand on. Not what was only looked at in search of one.
    pub fn opened(&self) -> Vec<PathBuf> {
        let opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        let in_use = |file: &&OpenedFile| file.bytes.as_ref().is_none_or(|bytes| bytes.strong_count() > 0);
        opened
            .iter()
            .filter(in_use)
            .map(|file| file.path.clone())
            .collect()
    }

    fn note(&self, path: PathBuf, bytes: Option<Weak<FileDisk>>) {
        let mut opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        opened.push(OpenedFile { path, bytes });
    }

    /// Where the file is that an image names, if it may be opened.
    ///
    /// # Errors
    /// [`Kind::NotFound`]; [`Kind::Unsupported`] for one that lies elsewhere or is no regular file.
    pub fn place(&self, name: &[u8]) -> Result<PathBuf> {
        let text = String::from_utf8_lossy(name).into_owned();
        let refuse = |why: String| Err(Error::new(Kind::Unsupported, &*text, why));
        let path = Path::new(OsStr::from_bytes(name.strip_prefix(b"file:").unwrap_or(name)));
        let path = self.folder.join(path);
        let path = path.canonicalize().map_err(|error| Error::io(&*text, error))?;
        let mut folders = std::iter::once(&self.folder).chain(&self.allowed);
        let is_allowed = folders.any(|folder| {
            let folder = folder.canonicalize().ok();
            folder.is_some() && path.parent() == folder.as_deref()
        });
        if !is_allowed {
            return refuse(format!(
                "is named by the image, but lies outside {}; only files beside the image are opened. Move it there, or \
                 make one image of both with `qemu-img convert`",
                self.folder.display()
            ));
        }
        // Not a pipe, which would wait forever.
        let metadata = path.metadata().map_err(|error| Error::io(&*text, error))?;
        if !metadata.is_file() {
            return refuse("is named by the image, but is no regular file".to_owned());
        }
        Ok(path)
    }
}

/// A folder with more files is not one that disks of one machine lie in, and each would be opened.
const MOST_NAMES: usize = 1000;

impl Neighbours for Beside {
    fn names(&self) -> Result<Vec<Vec<u8>>> {
        let mut names = Vec::new();
        for folder in std::iter::once(&self.folder).chain(&self.allowed) {
            let failed = |error| Error::io(folder.display().to_string(), error);
            for entry in std::fs::read_dir(folder).map_err(failed)? {
                let entry = entry.map_err(failed)?;
                let name = match folder == &self.folder {
                    true => PathBuf::from(entry.file_name()),
                    false => std::path::absolute(entry.path()).map_err(failed)?,
                };
                names.push(name.into_os_string().into_encoded_bytes());
                if names.len() >= MOST_NAMES {
                    break;
                }
            }
        }
        // Not in the order of the filesystem, which is chance.
        names.sort();
        Ok(names)
    }

    fn open(&self, name: &[u8], format: Option<&str>) -> Result<Arc<dyn Disk>> {
        let text = String::from_utf8_lossy(name).into_owned();
        let refuse = |kind: Kind, why: String| Err(Error::new(kind, &*text, why));
        let path = self.place(name)?;
        if self.depth >= LONGEST_CHAIN {
            return refuse(
                Kind::Corrupt,
                format!(
                    "is the end of a chain of more than {LONGEST_CHAIN} backing files, or the chain runs in a circle"
                ),
            );
        }
        let Some(format) = format else {
            return refuse(
                Kind::Unsupported,
                "is named as a backing file without its format, and a guest could have written any magic into it; \
                 `qemu-img rebase -u -b FILE -F FORMAT IMAGE` adds the format"
                    .to_owned(),
            );
        };
        let format: Format = match format.parse() {
            Ok(format) => format,
            Err(error) => return refuse(Kind::Unsupported, error),
        };
        // Names are relative to the file that holds them.
        let beside = Self {
            folder: path.parent().unwrap_or(&self.folder).to_owned(),
            allowed: [std::slice::from_ref(&self.folder), &self.allowed].concat(),
            depth: self.depth + 1,
            writing: false,
            spared: Vec::new(),
            opened: self.opened.clone(),
        };
        let file = Arc::new(FileDisk::open(&path)?);
        let bytes = (format == Format::Raw).then(|| Arc::downgrade(&file));
        let image = open(file, Some(format), &beside)?;
        self.note(path, bytes);
        Ok(image)
    }

    fn open_writable(&self, name: &[u8]) -> Result<Arc<dyn Disk>> {
        if !self.writing {
            return only_one_file(name);
        }
        let path = self.place(name)?;
        if self.spared.iter().any(|spared| is_same_file(spared, &path)) {
            let text =
                "is named by the image as a part of it, but belongs to the source, which is never written";
            return Err(Error::new(Kind::Unsafe, path.display().to_string(), text));
        }
        Ok(Arc::new(FileDisk::open_writable(&path)?))
    }
}

/// By whatever names.
fn is_same_file(one: &Path, other: &Path) -> bool {
    let number = |metadata: Metadata| (metadata.dev(), metadata.ino());
    match (one.metadata(), other.metadata()) {
        (Ok(one), Ok(other)) => number(one) == number(other),
        _ => false,
    }
}
