//! An archive that is read once, from front to back, as it comes through a pipe: descriptor first, then the one disk, which
//! is streamOptimized. Its digests are compared as it passes.

use super::{
    descriptor::{self, Descriptor, Hardware},
    flaw::Flaw,
    manifest::{self, Algorithm, Entry},
    tar::{BLOCK, HEADER, Step, Walk},
};
use crate::{
    disk::{Error, Kind, Result},
    image::vmdk::ForwardVmdk,
};
use sha1::Sha1;
use sha2::{Digest as _, Sha256, Sha384, Sha512};
use std::{
    io::{self, ErrorKind, Read},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// The disk of an archive that is read once.
#[derive(Debug)]
pub struct ForwardOva {
    /// The machine that the descriptor describes.
    pub hardware: Hardware,
    /// Its disk.
    pub disk: Arc<ForwardVmdk>,
    rest: Arc<Mutex<Rest>>,
}

/// What comes behind the disk, and what passed before it.
struct Rest {
    label: String,
    stream: Box<dyn Read + Send>,
    walk: Walk,
    /// Of the disk's file, which is being read.
    left: u64,
    /// Behind it.
    padding: usize,
    disk: String,
    hashers: Hashers,
    digests: Vec<(String, Digests)>,
    manifest: Option<Vec<Entry>>,
}

impl std::fmt::Debug for Rest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Rest")
            .field("left", &self.left)
            .finish_non_exhaustive()
    }
}

/// Behind which algorithm a manifest will be is known when it comes, which may be at the end.
#[derive(Default)]
struct Hashers {
    sha1: Sha1,
    sha256: Sha256,
    sha384: Sha384,
    sha512: Sha512,
    /// Only this one, where that is known.
    only: Option<Algorithm>,
}

/// In hexadecimal; empty for those that were not made.
type Digests = [(Algorithm, String); 4];

impl Hashers {
    fn update(&mut self, bytes: &[u8]) {
        let wanted = |algorithm| self.only.is_none_or(|only| only == algorithm);
        let all = [
            Algorithm::Sha1,
            Algorithm::Sha256,
            Algorithm::Sha384,
            Algorithm::Sha512,
        ];
        for algorithm in all.into_iter().filter(|algorithm| wanted(*algorithm)) {
            match algorithm {
                Algorithm::Sha1 => self.sha1.update(bytes),
                Algorithm::Sha256 => self.sha256.update(bytes),
                Algorithm::Sha384 => self.sha384.update(bytes),
                Algorithm::Sha512 => self.sha512.update(bytes),
            }
        }
    }

    fn finish(self) -> Digests {
        let text = |algorithm, digest: &[u8]| {
            let made = self.only.is_none_or(|only| only == algorithm);
            (
                algorithm,
                if made {
                    manifest::hexadecimal(digest)
                } else {
                    String::new()
                },
            )
        };
        [
            text(Algorithm::Sha1, &self.sha1.finalize()),
            text(Algorithm::Sha256, &self.sha256.finalize()),
            text(Algorithm::Sha384, &self.sha384.finalize()),
            text(Algorithm::Sha512, &self.sha512.finalize()),
        ]
    }
}

/// What precedes the disk: the descriptor, a manifest, a certificate.
const MOST_BEFORE: u64 = 32 << 20;

/// What a stream begins with, as far as it was read to see what it is.
pub struct Beginning {
    hardware: Hardware,
    walk: Walk,
    /// Name and size of the disk's file.
    disk: (String, u64),
    /// Its first sector.
    first: [u8; HEADER],
    digests: Vec<(String, Digests)>,
    manifest: Option<Vec<Entry>>,
}

impl Beginning {
    /// Reads `stream`, called `label`, up to the first sector of its disk. `None`: it is no archive, or one that has to be
    /// read at any place; what was read is lost then for whoever has not kept it.
    ///
    /// # Errors
    /// Those of the stream; of a descriptor that is damaged.
    pub fn read(stream: &mut dyn Read, label: &str) -> Result<Option<Self>> {
        let mut walk = Walk::default();
        let mut digests = Vec::new();
        let mut descriptor: Option<Descriptor> = None;
        let mut manifest = None;
        let mut only = None;
        while walk.at < MOST_BEFORE {
            let mut block = [0; HEADER];
            let Ok(()) = stream.read_exact(&mut block) else {
                return Ok(None);
            };
            let Ok(step) = walk.step(&block) else {
                return Ok(None);
            };
            let (name, size) = match step {
                Step::End => return Ok(None),
                Step::Nothing { size } => {
                    contents(stream, size, MOST_BEFORE, label)?;
                    continue;
                }
                Step::Names { size, long_name } => {
                    let names = contents(stream, size, MOST_BEFORE, label)?;
                    walk.names(&names, long_name).map_err(|flaw| flaw.of(label))?;
                    continue;
                }
                Step::File { name, size } => (name, size),
            };
            let is = |suffix: &str| name.to_ascii_lowercase().ends_with(suffix);
            match &descriptor {
                None if is(".ovf") => {}
                None => return Ok(None),
                Some(descriptor) if is_the_disk(descriptor, &name, size) => {
                    let mut first = [0; HEADER];
                    let read = size >= BLOCK && stream.read_exact(&mut first).is_ok();
                    if !read || !ForwardVmdk::recognises(&first) {
                        return Ok(None);
                    }
                    return Ok(Some(Self {
                        hardware: descriptor.hardware.clone(),
                        walk,
                        disk: (name, size),
                        first,
                        digests,
                        manifest,
                    }));
                }
                Some(_) => {}
            }
            if size > MOST_BEFORE {
                return Ok(None);
            }
            let bytes = contents(stream, size, MOST_BEFORE, label)?;
            let mut hashers = Hashers {
                only,
                ..Hashers::default()
            };
            hashers.update(&bytes);
            digests.push((name.clone(), hashers.finish()));
            if is(".ovf") && descriptor.is_none() {
                if size > descriptor::LARGEST {
                    return Ok(None);
                }
                let parsed = Descriptor::parse(&bytes);
                descriptor = Some(parsed.map_err(|flaw| flaw.of(&format!("{label}: {name}")))?);
            } else if is(".mf") {
                let entries = parse(&bytes, label)?;
                only = only_algorithm(&entries);
                manifest = Some(entries);
            }
        }
        Ok(None)
    }

    /// The archive whose beginning this is, and whose rest `stream` is.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn go_on(self, stream: Box<dyn Read + Send>, label: &str) -> Result<ForwardOva> {
        let (disk, size) = self.disk;
        let mut hashers = Hashers {
            only: self.manifest.as_deref().and_then(only_algorithm),
            ..Hashers::default()
        };
        hashers.update(&self.first);
        let rest = Arc::new(Mutex::new(Rest {
            label: label.to_owned(),
            stream,
            walk: self.walk,
            left: size - BLOCK,
            padding: usize::try_from(size.next_multiple_of(BLOCK) - size).unwrap_or(0),
            disk: disk.clone(),
            hashers,
            digests: self.digests,
            manifest: self.manifest,
        }));
        let label = format!("{label}: {disk}");
        let disk = ForwardVmdk::open(&label, &self.first, Box::new(DiskFile(rest.clone())))?;
        Ok(ForwardOva {
            hardware: self.hardware,
            disk: Arc::new(disk),
            rest,
        })
    }
}

/// The algorithm of all `entries`; `None` if they have several.
fn only_algorithm(entries: &[Entry]) -> Option<Algorithm> {
    let first = entries.first()?.algorithm;
    entries
        .iter()
        .all(|entry| entry.algorithm == first)
        .then_some(first)
}

/// The only disk of `descriptor`, plainly stored, in the file `name`?
fn is_the_disk(descriptor: &Descriptor, name: &str, size: u64) -> bool {
    let [disk] = descriptor.disks.as_slice() else {
        return false;
    };
    let file = disk.file.and_then(|file| descriptor.files.get(file));
    file.is_some_and(|file| {
        file.href == name
            && file.compression.is_none()
            && file.chunk_size.is_none()
            && file.size.is_none_or(|said| said <= size)
    })
}

/// `size` bytes and their padding.
fn contents(stream: &mut dyn Read, size: u64, most: u64, label: &str) -> Result<Vec<u8>> {
    let padded = size.next_multiple_of(BLOCK);
    if padded > most {
        return Err(Flaw::TooLarge {
            what: "file before its disk",
            size,
        }
        .of(label));
    }
    let mut bytes = vec![0; usize::try_from(padded).unwrap_or(0)];
    stream.read_exact(&mut bytes).map_err(|error| cut(label, error))?;
    bytes.truncate(usize::try_from(size).unwrap_or(0));
    Ok(bytes)
}

fn cut(label: &str, error: io::Error) -> Error {
    if error.kind() == ErrorKind::UnexpectedEof {
        return Error::new(Kind::Corrupt, label, "is cut short: copy it again");
    }
    Error::io(label, error)
}

fn parse(bytes: &[u8], label: &str) -> Result<Vec<Entry>> {
    let text = std::str::from_utf8(bytes).map_err(|_| Flaw::Encoding.of(label))?;
    manifest::parse(text).map_err(|flaw| flaw.of(label))
}

/// The disk's file within the archive.
struct DiskFile(Arc<Mutex<Rest>>);

fn lock(rest: &Mutex<Rest>) -> MutexGuard<'_, Rest> {
    rest.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Read for DiskFile {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut rest = lock(&self.0);
        let most = usize::try_from(rest.left).unwrap_or(usize::MAX).min(buffer.len());
        let piece = buffer.get_mut(..most).unwrap_or_default();
        let count = rest.stream.read(piece)?;
        let read = piece.get(..count).unwrap_or_default();
        rest.hashers.update(read);
        rest.left -= count as u64;
        Ok(count)
    }
}

impl ForwardOva {
    /// Reads to the end of the archive, and compares every file with its digest; `false`: there is no manifest.
    ///
    /// # Errors
    /// [`Kind::Corrupt`] for what is cut short or has another digest.
    pub fn must_be_at_end(&self) -> Result<bool> {
        self.disk.must_be_at_end()?;
        let mut rest = lock(&self.rest);
        if rest.left > 0 {
            let missing = rest.left;
            let text = format!("is cut short: {missing} bytes of \"{}\" are missing", rest.disk);
            return Err(Error::new(Kind::Corrupt, &*rest.label, text));
        }
        rest.read_rest()?;
        rest.compare()
    }
}

impl Rest {
    /// Reads all files behind the disk.
    fn read_rest(&mut self) -> Result<()> {
        let only = self.hashers.only;
        let digests = std::mem::take(&mut self.hashers).finish();
        self.digests.push((self.disk.clone(), digests));
        let mut at = self.walk.at;
        let mut padding = vec![0; self.padding];
        self.stream
            .read_exact(&mut padding)
            .map_err(|error| cut(&self.label, error))?;
        loop {
            let mut block = [0; HEADER];
            match self.stream.read_exact(&mut block) {
                Ok(()) => {}
                // An archive without an end mark is one.
                Err(error) if error.kind() == ErrorKind::UnexpectedEof => break,
                Err(error) => return Err(Error::io(&*self.label, error).at(at)),
            }
            match self.walk.step(&block).map_err(|flaw| flaw.of(&self.label))? {
                Step::End => break,
                Step::Nothing { size } => {
                    contents(&mut *self.stream, size, MOST_BEFORE, &self.label)?;
                }
                Step::Names { size, long_name } => {
                    let names = contents(&mut *self.stream, size, MOST_BEFORE, &self.label)?;
                    self.walk
                        .names(&names, long_name)
                        .map_err(|flaw| flaw.of(&self.label))?;
                }
                Step::File { name, size } if name.to_ascii_lowercase().ends_with(".mf") => {
                    let bytes = contents(&mut *self.stream, size, manifest::LARGEST, &self.label)?;
                    self.manifest = Some(parse(&bytes, &self.label)?);
                }
                Step::File { name, size } => self.pass(name, size, only)?,
            }
            at = self.walk.at;
        }
        // Whoever writes the pipe shall not find it closed.
        io::copy(&mut self.stream, &mut io::sink()).map_err(|error| Error::io(&*self.label, error))?;
        Ok(())
    }

    /// Digests a file that nobody needs otherwise.
    fn pass(&mut self, name: String, size: u64, only: Option<Algorithm>) -> Result<()> {
        let mut hashers = Hashers {
            only,
            ..Hashers::default()
        };
        let mut buffer = [0; 1 << 16];
        let mut left = size;
        while left > 0 {
            let count = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
            let piece = buffer.get_mut(..count).unwrap_or_default();
            self.stream
                .read_exact(piece)
                .map_err(|error| cut(&self.label, error))?;
            hashers.update(piece);
            left -= count as u64;
        }
        let padding = usize::try_from(size.next_multiple_of(BLOCK) - size).unwrap_or(0);
        let piece = buffer.get_mut(..padding).unwrap_or_default();
        self.stream
            .read_exact(piece)
            .map_err(|error| cut(&self.label, error))?;
        self.digests.push((name, hashers.finish()));
        Ok(())
    }

    fn compare(&self) -> Result<bool> {
        let Some(manifest) = &self.manifest else {
            return Ok(false);
        };
        for entry in manifest {
            let name = super::plain(&entry.name);
            let there = self.digests.iter().find(|(file, _)| *file == name);
            let (_, digests) = there.ok_or_else(|| Flaw::Missing(name.clone()).of(&self.label))?;
            let found = digests
                .iter()
                .find(|(algorithm, _)| *algorithm == entry.algorithm);
            let found = found.map(|(_, digest)| digest.clone()).unwrap_or_default();
            if found != entry.digest {
                return Err(Flaw::Digest {
                    name,
                    algorithm: entry.algorithm.name(),
                    found,
                    expected: entry.digest.clone(),
                }
                .of(&self.label));
            }
        }
        Ok(true)
    }
}
