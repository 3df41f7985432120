//! Packages in an RPM package: a lead, two headers, and a compressed cpio archive (RPM documentation, "RPM V4 Package
//! format").

use super::{MOST_FILES, PackageSource, SourceEntry, too_large, too_many};
use crate::{
    disk::{
        Error, Kind,
        field::{bytes_at, u32_be},
    },
    driver::{
        compression::{self, Compression},
        cpio,
        read_ahead::ReadAhead,
    },
    fs::{Result, mode},
};
use std::{
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    path::{Path, PathBuf},
};

/// Of the lead.
const MAGIC: [u8; 4] = [0xed, 0xab, 0xee, 0xdb];
const LEAD: u64 = 96;
/// Of a header structure, with its version.
const HEADER_MAGIC: [u8; 4] = [0x8e, 0xad, 0xe8, 0x01];
/// Magic, four spare bytes, the number of index entries and of bytes of data.
const HEADER_START: usize = 16;
const INDEX_ENTRY: u64 = 16;
/// RPM's own limit for the data of a header.
const MOST_HEADER_DATA: u32 = 256 << 20;
const MOST_INDEX_ENTRIES: u32 = 65_536;

/// Gets the path of a file, the archive right before its contents, and their length.
type EachFile<'a> = dyn FnMut(&str, &mut cpio::Reader<'_, Box<dyn Read + '_>>, u64) -> io::Result<()> + 'a;

/// An RPM package.
#[derive(Debug)]
pub struct RpmSource {
    label: String,
    path: PathBuf,
    /// Where the archive begins.
    payload: u64,
}

impl RpmSource {
    /// Does the file at `path` begin like one?
    ///
    /// # Errors
    /// Those of reading it.
    pub fn detect(path: &Path) -> Result<bool> {
        let mut start = [0; 4];
        let read = File::open(path).and_then(|mut file| file.read(&mut start));
        let read = read.map_err(|error| Error::io(path.display().to_string(), error))?;
        Ok(read == start.len() && start == MAGIC)
    }

    /// Finds the archive in the package at `path`.
    ///
    /// # Errors
    /// `Corrupt` for headers that are none.
    pub fn open(path: &Path) -> Result<Self> {
        let label = path.display().to_string();
        let failed = |error| Error::io(&*label, error);
        let mut file = File::open(path).map_err(failed)?;
        let signature_end = header_end(&mut file, LEAD).map_err(failed)?;
        let payload = header_end(&mut file, signature_end.next_multiple_of(8)).map_err(failed)?;
        Ok(Self {
            path: path.to_owned(),
            payload,
            label,
        })
    }

    /// Calls `each` with every regular file of the archive until it fails.
    fn each_file(&self, each: &mut EachFile<'_>) -> io::Result<()> {
        let mut file = File::open(&self.path)?;
        file.seek(SeekFrom::Start(self.payload))?;
        let mut packed = ReadAhead::new(file);
        let compression = Compression::detect(packed.peek(8)?).unwrap_or(Compression::None);
        let mut plain = ReadAhead::new(compression::unpack(compression, &mut packed)?);
        let mut reader = cpio::Reader::new(&mut plain);
        while let Some(entry) = reader.next_entry()? {
            if entry.mode & mode::TYPE == mode::FILE {
                let name = String::from_utf8_lossy(&entry.name);
                each(
                    name.trim_start_matches("./").trim_start_matches('/'),
                    &mut reader,
                    u64::from(entry.size),
                )?;
            }
        }
        Ok(())
    }
}

/// Where the header that begins at `start` ends.
fn header_end(file: &mut File, start: u64) -> io::Result<u64> {
    let invalid = |text: &str| {
        io::Error::new(
            io::ErrorKind::InvalidData,
            format!("the header at byte {start} {text}"),
        )
    };
    let mut header = [0; HEADER_START];
    file.seek(SeekFrom::Start(start))?;
    file.read_exact(&mut header)?;
    if bytes_at(&header, 0, HEADER_MAGIC.len()) != Ok(&HEADER_MAGIC[..]) {
        return Err(invalid("is no header of an RPM package"));
    }
    let (entries, data) = (u32_be(&header, 8).unwrap_or(0), u32_be(&header, 12).unwrap_or(0));
    if entries > MOST_INDEX_ENTRIES || data > MOST_HEADER_DATA {
        return Err(invalid("is larger than RPM allows"));
    }
    Ok(start + HEADER_START as u64 + u64::from(entries) * INDEX_ENTRY + u64::from(data))
}

impl PackageSource for RpmSource {
    fn label(&self) -> &str {
        &self.label
    }

    fn list(&self) -> Result<Vec<SourceEntry>> {
        let mut files = Vec::new();
        let mut full = false;
        let read = self.each_file(&mut |name, _, size| {
            files.push(SourceEntry {
                path: name.to_owned(),
                size,
            });
            full = files.len() > MOST_FILES;
            if full {
                Err(io::ErrorKind::FileTooLarge.into())
            } else {
                Ok(())
            }
        });
        if full {
            return Err(too_many(&self.label));
        }
        read.map_err(|error| Error::io(&*self.label, error))?;
        Ok(files)
    }

    fn visit(
        &self,
        wanted: &dyn Fn(&str) -> bool,
        most: usize,
        each: &mut dyn FnMut(&str, Vec<u8>) -> Result<()>,
    ) -> Result<()> {
        let mut failed = None;
        let read = self.each_file(&mut |name, reader, size| {
            if !wanted(name) {
                return Ok(());
            }
            let answer = if size > most as u64 {
                Err(too_large(&self.label, name, most))
            } else {
                each(name, reader.contents()?)
            };
            answer.map_err(|error| {
                failed = Some(error);
                io::ErrorKind::Other.into()
            })
        });
        match failed {
            Some(error) => Err(error),
            None => read.map_err(|error| Error::new(Kind::Corrupt, &*self.label, error)),
        }
    }
}
