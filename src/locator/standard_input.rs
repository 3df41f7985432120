//! Standard input as a source. A file or device that was redirected is read like any other. What comes through a pipe is
//! kept in a temporary file, since a system can be looked into only where every byte can be reached; a copy that needs
//! every byte once, and in order, takes the formats that can be streamed straight from the pipe.

use super::{OpenSource, Reading, open::open_container};
use crate::{
    disk::{Disk, Error, ForwardDisk, MemoryDisk, Result, spool},
    image::{
        self, Format, NoNeighbours, Raw,
        ova::{Beginning, ForwardOva, Hardware},
        vmdk::ForwardVmdk,
    },
    watch::Watch,
};
use rustix::{
    fs::{FileType, fstat},
    stdio::stdin,
};
use std::{
    io::{self, Cursor, ErrorKind, Read},
    sync::Arc,
};

/// What it is called in messages.
const STANDARD_INPUT: &str = "standard input";

/// A path that opens it anew.
pub(super) const PATH: &str = "/dev/stdin";

/// Neither a file nor a device?
pub(super) fn is_pipe() -> Result<bool> {
    let stat = fstat(stdin()).map_err(|error| Error::io(STANDARD_INPUT, error.into()))?;
    let kind = FileType::from_raw_mode(stat.st_mode);
    Ok(!matches!(kind, FileType::RegularFile | FileType::BlockDevice))
}

/// A source that is read once, while it passes.
#[derive(Clone, Debug)]
pub enum Passing {
    /// A raw disk.
    Raw(Arc<ForwardDisk>),
    /// A streamOptimized VMDK.
    Vmdk(Arc<ForwardVmdk>),
    /// Such a one in an archive.
    Ova(Arc<ForwardOva>),
}

impl Passing {
    /// Reads to the end, which must be where it belongs; `true`: a manifest was compared.
    ///
    /// # Errors
    /// [`Kind::Corrupt`](crate::disk::Kind) for what is cut short, goes on, or has another digest.
    pub fn must_be_at_end(&self) -> Result<bool> {
        match self {
            Self::Raw(disk) => disk.must_be_at_end().map(|()| false),
            Self::Vmdk(disk) => disk.must_be_at_end().map(|()| false),
            Self::Ova(archive) => archive.must_be_at_end(),
        }
    }

    /// The machine that it describes.
    pub fn hardware(&self) -> Option<&Hardware> {
        match self {
            Self::Ova(archive) => Some(&archive.hardware),
            Self::Raw(_) | Self::Vmdk(_) => None,
        }
    }
}

/// What comes through the pipe.
pub(super) fn open(reading: &Reading, watch: &dyn Watch) -> Result<OpenSource> {
    of(Box::new(io::stdin()), reading, watch)
}

/// As [`open`], whatever the stream is.
fn of(stream: Box<dyn Read + Send>, reading: &Reading, watch: &dyn Watch) -> Result<OpenSource> {
    let mut stream = stream;
    if reading.forward {
        match straight(stream, reading)? {
            Look::Passing(disk, passing) => {
                return Ok(OpenSource {
                    disks: vec![disk],
                    package: None,
                    passing: Some(passing),
                    path: None,
                    files: Vec::new(),
                    lasts: false,
                    remarks: Vec::new(),
                });
            }
            Look::Again(rewound) => stream = rewound,
        }
    }
    watch.stage("spool", 0);
    let folder = &reading.temporary_folder;
    let copy = spool(&mut *stream, STANDARD_INPUT, folder, u64::MAX, watch)?;
    let remark = format!(
        "standard input is a pipe: its {} bytes were kept in a temporary file in {}, to be read at any place",
        copy.size(),
        folder.display()
    );
    let copy: Arc<dyn Disk> = match reading.sector_size {
        Some(size) => Arc::new(copy.with_sector_size(size)),
        None => Arc::new(copy),
    };
    let mut source = open_container(copy, reading.format, &NoNeighbours, reading, watch)?;
    source.lasts = false;
    source.remarks.push(remark);
    Ok(source)
}

/// What a first look at a stream gives.
enum Look {
    /// It can be read as it passes.
    Passing(Arc<dyn image::Image>, Passing),
    /// It cannot; the same stream from its beginning.
    Again(Box<dyn Read + Send>),
}

/// As much as tells one format from another.
const BEGINNING: u64 = 64 << 10;

fn straight(stream: Box<dyn Read + Send>, reading: &Reading) -> Result<Look> {
    let mut stream = Recording {
        stream,
        kept: Vec::new(),
    };
    (&mut stream)
        .take(BEGINNING)
        .read_to_end(&mut Vec::new())
        .map_err(|error| Error::io(STANDARD_INPUT, error))?;
    let format = match reading.format {
        Some(format) => format,
        None => image::detect(&MemoryDisk::new(STANDARD_INPUT, stream.kept.clone()))?,
    };
    match (format, reading.size) {
        (Format::Raw, Some(size)) => {
            let sector_size = reading.sector_size.unwrap_or(512);
            let disk = ForwardDisk::new(STANDARD_INPUT, size, sector_size, stream.rewound());
            let disk = Arc::new(disk);
            Ok(Look::Passing(
                Arc::new(Raw::new(disk.clone())),
                Passing::Raw(disk),
            ))
        }
        (Format::Vmdk, _) if ForwardVmdk::recognises(stream.kept.get(..512).unwrap_or_default()) => {
            let first = stream.kept.get(..512).unwrap_or_default().to_vec();
            let mut stream = stream.rewound();
            io::copy(&mut (&mut stream).take(512), &mut io::sink())
                .map_err(|error| Error::io(STANDARD_INPUT, error))?;
            let disk = Arc::new(ForwardVmdk::open(STANDARD_INPUT, &first, stream)?);
            Ok(Look::Passing(disk.clone(), Passing::Vmdk(disk)))
        }
        (Format::Ova, _) => {
            let mut again = Recording {
                stream: stream.rewound(),
                kept: Vec::new(),
            };
            match Beginning::read(&mut again, STANDARD_INPUT)? {
                Some(beginning) => {
                    let archive = Arc::new(beginning.go_on(again.stream, STANDARD_INPUT)?);
                    Ok(Look::Passing(archive.disk.clone(), Passing::Ova(archive)))
                }
                None => Ok(Look::Again(again.rewound())),
            }
        }
        _ => Ok(Look::Again(stream.rewound())),
    }
}

/// Keeps what was read, so that it can be read again.
struct Recording {
    stream: Box<dyn Read + Send>,
    kept: Vec<u8>,
}

impl Recording {
    /// The stream from its beginning.
    fn rewound(self) -> Box<dyn Read + Send> {
        Box::new(Cursor::new(self.kept).chain(self.stream))
    }
}

impl Read for Recording {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = loop {
            match self.stream.read(buffer) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                other => break other?,
            }
        };
        self.kept.extend(buffer.get(..count).unwrap_or_default());
        Ok(count)
    }
}
