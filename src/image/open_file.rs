//! Images in files and devices of this host, with what they stand on.

use super::{Beside, Format, Image, Info, Neighbours, detect, join, open, qcow2::Qcow2};
use crate::disk::{Content, Disk, Error, Extent, Kind, Result, open_source};
use std::{
    ops::Range,
    os::unix::fs::FileTypeExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

/// More images on top of each other than [`Beside`] opens would be a circle.
const LONGEST_CHAIN: usize = 41;

/// Opens the image at `path` for reading; if that is the first of a series of parts, all of them. A file's format is what
/// its first bytes say unless `format` names it; a block device is raw unless that names it.
///
/// # Errors
/// Those of the file and its format.
pub fn open_file(path: &Path, format: Option<Format>) -> Result<Arc<dyn Image>> {
    let beside = Beside::new(path);
    let container = join(path, open_source(path, None)?, &beside)?;
    let format = format_at(path, container.as_ref(), format)?;
    open(container, Some(format), &beside)
}

/// The format of the image in `container`, which is at `path`.
///
/// # Errors
/// As [`detect`].
pub fn format_at(path: &Path, container: &dyn Disk, named: Option<Format>) -> Result<Format> {
    if let Some(format) = named {
        return Ok(format);
    }
    let metadata = path
        .metadata()
        .map_err(|error| Error::io(path.display().to_string(), error))?;
    if metadata.file_type().is_block_device() {
        return Ok(Format::Raw);
    }
    detect(container)
}

/// What an image says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Described {
    /// Its format.
    pub format: Format,
    /// Size of the disk in bytes.
    pub size: u64,
    /// Logical sector of the disk in bytes.
    pub sector_size: u32,
    /// The rest.
    pub info: Info,
}

impl Described {
    /// What `image` says.
    ///
    /// # Errors
    /// Those of reading its container.
    pub fn of(image: &dyn Image) -> Result<Self> {
        Ok(Self {
            format: image.format(),
            size: image.size(),
            sector_size: image.sector_size(),
            info: image.info()?,
        })
    }

    /// What the image at `path` says, also one whose disk cannot be read: because what it stands on is not there, or
    /// without its key. Nothing that it names is opened.
    ///
    /// # Errors
    /// As [`open_file`].
    pub fn alone(path: &Path, format: Option<Format>) -> Result<Self> {
        let container = join(path, open_source(path, None)?, &Beside::new(path))?;
        let format = format_at(path, container.as_ref(), format)?;
        if format == Format::Qcow2 {
            let (size, info) = Qcow2::describe(container.as_ref())?;
            return Ok(Self {
                format,
                size,
                sector_size: 512,
                info,
            });
        }
        Self::of(&*open(container, Some(format), &Nowhere)?)
    }
}

/// Where the file that `image` at `path` stands on is, and its declared format; `None` if it stands on none.
///
/// # Errors
/// Those of reading the image; [`Kind::Unsupported`] for a format that is not known.
pub fn backing_of(path: &Path, image: &dyn Image) -> Result<Option<(PathBuf, Option<Format>)>> {
    let Some(backing) = image.info()?.backing else {
        return Ok(None);
    };
    let name = backing.name.strip_prefix("file:").unwrap_or(&backing.name);
    let format = match backing.format {
        Some(name) => {
            let format = name.parse();
            Some(format.map_err(|text: String| Error::new(Kind::Unsupported, &*backing.name, text))?)
        }
        None => None,
    };
    let folder = path.parent().unwrap_or(Path::new(""));
    Ok(Some((folder.join(name), format)))
}

/// The image at `path` and all that it stands on, topmost first, each opened by itself.
///
/// # Errors
/// As [`open_file`], of any of them.
pub fn chain(path: &Path, format: Option<Format>) -> Result<Vec<Arc<dyn Image>>> {
    let mut images: Vec<Arc<dyn Image>> = Vec::new();
    let mut next = Some((path.to_owned(), format));
    while let Some((path, format)) = next.take() {
        if images.len() >= LONGEST_CHAIN {
            let text = "stands on too many other images, or they run in a circle";
            return Err(Error::new(Kind::Corrupt, path.display().to_string(), text));
        }
        // The first one opens all the others too: it has said by now that they may be opened.
        let image = open_file(&path, format)?;
        next = backing_of(&path, image.as_ref())?;
        images.push(image);
    }
    Ok(images)
}

/// Stands for every file that is named, and has none of their bytes.
struct Nowhere;

#[derive(Debug)]
struct Absent(String);

impl Neighbours for Nowhere {
    fn open(&self, name: &[u8], _format: Option<&str>) -> Result<Arc<dyn Disk>> {
        Ok(Arc::new(Absent(String::from_utf8_lossy(name).into_owned())))
    }
}

impl Disk for Absent {
    fn label(&self) -> &str {
        &self.0
    }
    fn size(&self) -> u64 {
        // No check of its size shall fail for a file that nobody has looked at.
        u64::MAX / 4
    }
    fn read_at(&self, offset: u64, _buffer: &mut [u8]) -> Result<()> {
        Err(Error::new(Kind::NotFound, self.label(), "was not opened").at(offset))
    }
    fn extents(&self, range: Range<u64>) -> Result<Vec<Extent>> {
        Ok(vec![Extent::new(range, Content::Data)])
    }
}
