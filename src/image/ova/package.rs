//! A package, opened: its descriptor read, its files at hand, its disks on demand.

use super::{
    descriptor::{self, Descriptor, DiskDescription, FileReference, Hardware},
    flaw::Flaw,
    manifest::{self, Entry},
    plain,
    tar::{self, Member},
};
use crate::{
    disk::{self, Composite, Cursor, Disk, Kind, Part, Result, spool},
    image::{Format, Image, Neighbours, NoNeighbours, Raw, detect, open},
    watch::Watch,
};
use flate2::read::MultiGzDecoder;
use std::{io::BufReader, path::Path, sync::Arc};

/// A virtual machine that was exported: its description and its disks.
#[derive(Debug)]
pub struct Package {
    label: String,
    /// One file; what an image in it names is looked for in it.
    archive: bool,
    descriptor: Descriptor,
    files: Vec<PackageFile>,
    manifest: Option<Vec<Entry>>,
}

/// A file as it lies in the package: a chunk of a larger one is one too.
#[derive(Debug)]
struct PackageFile {
    name: String,
    disk: Arc<dyn Disk>,
}

/// Where disks are unpacked that can be read only from their beginning.
#[derive(Clone, Copy)]
pub struct Spool<'a> {
    /// Files in it have no name and go with the disk.
    pub folder: &'a Path,
    /// Sees how far it is.
    pub watch: &'a dyn Watch,
}

/// Files that one disk may be cut into: each is held open, and few processes may have more than 1024.
const MOST_CHUNKS: u64 = 512;

/// Unpacked, where nothing says how large a disk is: no machine of today has a larger one.
const LARGEST_DISK: u64 = 64 << 40;

/// Is the file in `container` a tar, and one with a descriptor?
pub(in crate::image) fn look(container: &dyn Disk) -> tar::Look {
    tar::look(container, |name| has_suffix(name, ".ovf"))
}

/// Does the file in `container` begin as a descriptor does: XML with an envelope?
pub(in crate::image) fn is_descriptor(container: &dyn Disk) -> bool {
    /// The outermost element comes after no more than a comment with somebody's licence.
    const BEGINNING: u64 = 16384;
    let length = container.size().min(BEGINNING);
    let mut bytes = vec![0; usize::try_from(length).unwrap_or(0)];
    if container.read_at(0, &mut bytes).is_err() {
        return false;
    }
    let text = String::from_utf8_lossy(&bytes);
    let text = text.trim_start_matches('\u{feff}').trim_start();
    text.starts_with('<')
        && text.contains("Envelope")
        && text.contains("http://schemas.dmtf.org/ovf/envelope/")
}

fn has_suffix(name: &str, suffix: &str) -> bool {
    name.len()
        .checked_sub(suffix.len())
        .and_then(|at| name.get(at..))
        .is_some_and(|end| end.eq_ignore_ascii_case(suffix))
}

/// All of a file that is small.
fn read_text(file: &dyn Disk, what: &'static str, largest: u64) -> Result<Vec<u8>> {
    let size = file.size();
    if size > largest {
        return Err(Flaw::TooLarge { what, size }.of(file.label()));
    }
    let mut bytes = vec![0; usize::try_from(size).unwrap_or(0)];
    file.read_at(0, &mut bytes)?;
    Ok(bytes)
}

impl Package {
    /// Opens the archive in `container`.
    ///
    /// # Errors
    /// [`Kind::Corrupt`] for what is damaged or cut short, and says what is missing.
    pub fn of_archive(container: Arc<dyn Disk>) -> Result<Self> {
        let label = container.label().to_owned();
        let members = tar::members(&*container)?;
        let mut files = Vec::with_capacity(members.len());
        for Member { name, start, size } in members {
            let disk = Composite::slice(format!("{label}: {name}"), container.clone(), start..start + size)?;
            let disk = Arc::new(disk);
            files.push(PackageFile { name, disk });
        }
        let ending = |suffix| files.iter().find(|file| has_suffix(&file.name, suffix));
        let descriptor = ending(".ovf").ok_or_else(|| Flaw::NoDescriptor.of(&label))?;
        let descriptor = parse_descriptor(&*descriptor.disk)?;
        let manifest = ending(".mf")
            .map(|file| parse_manifest(&*file.disk))
            .transpose()?;
        Ok(Self {
            label,
            archive: true,
            descriptor,
            files,
            manifest,
        })
    }

    /// Opens the descriptor in `container`; the other files lie beside it.
    ///
    /// # Errors
    /// As [`Package::of_archive`].
    pub fn of_descriptor(container: Arc<dyn Disk>, neighbours: &dyn Neighbours) -> Result<Self> {
        let label = container.label().to_owned();
        let descriptor = parse_descriptor(&*container)?;
        let name = label.rsplit('/').next().unwrap_or_default().to_owned();
        let beside = |name: &str| match neighbours.open(name.as_bytes(), Some(Format::Raw.name())) {
            Ok(disk) => Ok(Some(disk)),
            Err(error) if error.kind == Kind::NotFound => Ok(None),
            Err(error) => Err(error),
        };
        let manifest = match name
            .len()
            .checked_sub(".ovf".len())
            .filter(|_| has_suffix(&name, ".ovf"))
        {
            Some(stem) => beside(&format!("{}.mf", name.get(..stem).unwrap_or_default()))?,
            None => None,
        };
        let manifest = manifest.map(|file| parse_manifest(&*file)).transpose()?;
        let mut files = Vec::new();
        for reference in &descriptor.files {
            for name in reference.names().map_err(|flaw| flaw.of(&label))? {
                let decoded = percent_decoded(&name);
                for name in [name, decoded] {
                    if let Some(disk) = beside(&name)? {
                        files.push(PackageFile { name, disk });
                        break;
                    }
                }
            }
        }
        files.push(PackageFile {
            name,
            disk: container,
        });
        Ok(Self {
            label,
            archive: false,
            descriptor,
            files,
            manifest,
        })
    }

    /// The machine that it describes.
    pub fn hardware(&self) -> &Hardware {
        &self.descriptor.hardware
    }

    /// Its disks, in the order of the hardware. What is packed with gzip is unpacked into `unpack`.
    ///
    /// # Errors
    /// Of a disk that is not there, cut short, or of a format that is not read.
    pub fn disks(&self, neighbours: &dyn Neighbours, unpack: &Spool<'_>) -> Result<Vec<Arc<dyn Image>>> {
        let disks = self.descriptor.disks.iter();
        disks.map(|disk| self.disk(disk, neighbours, unpack)).collect()
    }

    /// Names of the files beside the descriptor that were found; none of an archive.
    pub fn files_beside(&self) -> Vec<&str> {
        let files = self.files.iter().filter(|_| !self.archive);
        files.map(|file| file.name.as_str()).collect()
    }

    /// What the disks are called, in the same order.
    pub fn disk_names(&self) -> Vec<String> {
        let name = |disk: &DiskDescription| match disk.file.and_then(|file| self.descriptor.files.get(file)) {
            Some(file) => file.href.clone(),
            None => disk.id.clone(),
        };
        self.descriptor.disks.iter().map(name).collect()
    }

    fn flawed(&self, flaw: Flaw) -> disk::Error {
        flaw.of(&self.label)
    }

    fn disk(
        &self,
        description: &DiskDescription,
        neighbours: &dyn Neighbours,
        unpack: &Spool<'_>,
    ) -> Result<Arc<dyn Image>> {
        let reference = description.file.and_then(|file| self.descriptor.files.get(file));
        let Some(reference) = reference else {
            let length = description.capacity.unwrap_or(0);
            let label = format!("{}: {}", self.label, description.id);
            let empty = Composite::new(label, 512, vec![Part::Zeros { length }])?;
            return Ok(Arc::new(Raw::new(Arc::new(empty))));
        };
        let stored = self.stored(reference)?;
        let packed = match reference.compression.as_deref() {
            Some("gzip") => true,
            Some(other) => {
                return Err(self.flawed(Flaw::Compression {
                    name: reference.href.clone(),
                    method: other.to_owned(),
                }));
            }
            None => has_suffix(&reference.href, ".gz") && is_gzip(&*stored)?,
        };
        let contents = if packed {
            unpacked(&stored, description, unpack)?
        } else {
            stored
        };
        let format = format(&*contents, description)?;
        let neighbours = if self.archive { self } else { neighbours };
        open(contents, Some(format), neighbours)
    }

    fn file(&self, name: &str) -> Option<&Arc<dyn Disk>> {
        let found = self.files.iter().find(|file| file.name == name);
        found.map(|file| &file.disk)
    }

    /// A file as it is stored, put together from its chunks.
    fn stored(&self, reference: &FileReference) -> Result<Arc<dyn Disk>> {
        let label = format!("{}: {}", self.label, reference.href);
        let mut parts = Vec::new();
        let mut found = 0_u64;
        for name in reference.names().map_err(|flaw| self.flawed(flaw))? {
            let literal = self.file(&name);
            let disk = literal.or_else(|| self.file(&percent_decoded(&name)));
            let disk = disk.ok_or_else(|| self.flawed(Flaw::Missing(name)))?;
            found = found.saturating_add(disk.size());
            parts.push(Part::Of {
                disk: disk.clone(),
                offset: 0,
                length: disk.size(),
            });
        }
        if let Some(expected) = reference.size.filter(|expected| *expected > found) {
            return Err(self.flawed(Flaw::Short {
                name: reference.href.clone(),
                found,
                expected,
            }));
        }
        let sector_size = parts.first().map_or(512, |part| match part {
            Part::Of { disk, .. } => disk.sector_size(),
            Part::Zeros { .. } => 512,
        });
        Ok(Arc::new(Composite::new(label, sector_size, parts)?))
    }

    /// Is there a manifest to verify it against?
    pub fn has_manifest(&self) -> bool {
        self.manifest.is_some()
    }

    /// How many bytes [`Package::verify`] reads.
    pub fn bytes_to_verify(&self) -> u64 {
        let entries = self.manifest.iter().flatten();
        let sizes = entries
            .filter_map(|entry| self.file(&entry.name))
            .map(|disk| disk.size());
        sizes.fold(0, u64::saturating_add)
    }

    /// Reads every file of the manifest and compares its digest; `false`: there is no manifest.
    ///
    /// # Errors
    /// [`Kind::Corrupt`] with the name of the file that is another; those of reading.
    pub fn verify(&self, watch: &dyn Watch) -> Result<bool> {
        let Some(manifest) = &self.manifest else {
            return Ok(false);
        };
        for entry in manifest {
            let name = plain(&entry.name);
            let file = self.file(&name).or_else(|| self.file(&percent_decoded(&name)));
            let file = file.ok_or_else(|| self.flawed(Flaw::Missing(name.clone())))?;
            let found = manifest::digest(&**file, entry.algorithm, watch)?;
            if found != entry.digest {
                return Err(self.flawed(Flaw::Digest {
                    name,
                    algorithm: entry.algorithm.name(),
                    found,
                    expected: entry.digest.clone(),
                }));
            }
        }
        Ok(true)
    }
}

/// What an image in an archive names is a file of the archive, or not opened.
impl Neighbours for Package {
    fn open(&self, name: &[u8], format: Option<&str>) -> Result<Arc<dyn Disk>> {
        let name = plain(&String::from_utf8_lossy(name));
        let file = self
            .file(&name)
            .ok_or_else(|| self.flawed(Flaw::Missing(name.clone())))?;
        let format = format.unwrap_or(Format::Raw.name()).parse();
        let format = format.map_err(|text: String| disk::Error::new(Kind::Unsupported, &*name, text))?;
        Ok(open(file.clone(), Some(format), &NoNeighbours)?)
    }
}

fn parse_descriptor(file: &dyn Disk) -> Result<Descriptor> {
    let bytes = read_text(file, "descriptor", descriptor::LARGEST)?;
    Descriptor::parse(&bytes).map_err(|flaw| flaw.of(file.label()))
}

fn parse_manifest(file: &dyn Disk) -> Result<Vec<Entry>> {
    let bytes = read_text(file, "manifest", manifest::LARGEST)?;
    let text = std::str::from_utf8(&bytes).map_err(|_| Flaw::Encoding.of(file.label()))?;
    manifest::parse(text.trim_end_matches('\0')).map_err(|flaw| flaw.of(file.label()))
}

impl FileReference {
    /// The files that it is: itself, or its chunks (DSP0243, section 7.1).
    fn names(&self) -> std::result::Result<Vec<String>, Flaw> {
        if self.href.is_empty() || self.href.contains("://") || self.href.contains('/') {
            return Err(Flaw::Elsewhere(self.href.clone()));
        }
        let Some(chunk) = self.chunk_size else {
            return Ok(vec![self.href.clone()]);
        };
        let size = self.size.ok_or_else(|| Flaw::ChunkedSize(self.href.clone()))?;
        let count = size.div_ceil(chunk).max(1);
        if count > MOST_CHUNKS {
            return Err(Flaw::Chunks {
                name: self.href.clone(),
                chunk,
                size,
                most: MOST_CHUNKS,
            });
        }
        Ok((0..count)
            .map(|number| format!("{}.{number:09}", self.href))
            .collect())
    }
}

/// A reference is a URI: some makers write a space as `%20`.
fn percent_decoded(name: &str) -> String {
    let mut bytes = Vec::with_capacity(name.len());
    let mut rest = name.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let digits = after.get(..2).and_then(|digits| std::str::from_utf8(digits).ok());
        let value = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok());
        match value.filter(|_| *first == b'%') {
            Some(value) => {
                bytes.push(value);
                rest = after.get(2..).unwrap_or_default();
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    plain(&String::from_utf8_lossy(&bytes))
}

/// RFC 1952, section 2.3.1.
fn is_gzip(file: &dyn Disk) -> Result<bool> {
    let mut magic = [0; 2];
    if file.size() < 2 {
        return Ok(false);
    }
    file.read_at(0, &mut magic)?;
    Ok(magic == [0x1f, 0x8b])
}

/// gzip can be read only from its beginning.
fn unpacked(
    stored: &Arc<dyn Disk>,
    description: &DiskDescription,
    unpack: &Spool<'_>,
) -> Result<Arc<dyn Disk>> {
    unpack.watch.stage("unpack", 0);
    // An image of a disk is hardly larger than the disk.
    let most = description.capacity.map_or(LARGEST_DISK, |capacity| {
        capacity.saturating_add(capacity / 8).saturating_add(64 << 20)
    });
    let label = stored.label().to_owned();
    let mut stream = MultiGzDecoder::new(BufReader::with_capacity(1 << 20, Cursor::new(stored.clone())));
    Ok(Arc::new(spool(
        &mut stream,
        &label,
        unpack.folder,
        most,
        unpack.watch,
    )?))
}

/// The format of a disk's file. What the descriptor says counts where it says raw; for the rest its makers are known to
/// write one format's name on another's files, so that the file's own magic tells.
fn format(contents: &dyn Disk, description: &DiskDescription) -> Result<Format> {
    let declared = declared_format(&description.format);
    if declared == Some("raw") {
        return Ok(Format::Raw);
    }
    match (detect(contents)?, declared) {
        (Format::Ova | Format::Ovf, _) => Err(Flaw::Nested.of(contents.label())),
        // Its own reader says what is wrong with it.
        (Format::Raw, Some(declared)) => Ok(declared.parse().unwrap_or(Format::Raw)),
        (found, _) => Ok(found),
    }
}

/// What qemu-img calls the format of this URI (DSP0243, section 9.1).
fn declared_format(uri: &str) -> Option<&'static str> {
    let uri = uri.to_ascii_lowercase();
    let known = [
        ("vmdk", "vmdk"),
        ("vhdx", "vhdx"),
        ("vhd", "vpc"),
        // Microsoft's own address of the specification.
        ("linkid=137171", "vpc"),
        ("qcow", "qcow2"),
        ("vdi", "vdi"),
        ("raw", "raw"),
    ];
    let found = known.iter().find(|(word, _)| uri.contains(word));
    found.map(|(_, format)| *format)
}
