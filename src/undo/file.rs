//! The undo file: header, records, and what became of the commit. `docs/undo.md` has the bytes.

use crate::disk::{Digest, Error, Kind, Result, field};
use std::{
    ffi::OsStr,
    fs::{File, OpenOptions},
    io,
    ops::Range,
    os::unix::{
        ffi::OsStrExt,
        fs::{FileExt, OpenOptionsExt},
    },
    path::{Path, PathBuf},
};

const MAGIC: [u8; 8] = *b"RHMUNDO\0";
const VERSION: u32 = 1;
const HEADER: usize = 32;
const RECORD_HEAD: usize = 24;
const CHECKSUM: usize = 4;

/// Longest path that the kernel takes (PATH_MAX).
const LONGEST_PATH: u32 = 4096;

/// Most bytes in one record: what a reader holds at once.
pub(super) const LONGEST_RECORD: u64 = 1 << 20;

const BYTES: u32 = 1;
const ZEROS: u32 = 2;
const SEALED: u32 = 3;
const COMMITTED: u32 = 4;
const UNDOING: u32 = 5;
const UNDONE: u32 = 6;

/// How far the commit or the undo came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// The undo file was not finished: the container was never touched.
    Unfinished,
    /// The container may hold any mixture of old and new.
    Sealed,
    /// The container holds all of the new, with this digest of the touched ranges.
    Committed(Digest),
    /// The container may hold any mixture, on the way back.
    Undoing,
    /// The container is as it was.
    Undone,
}

/// A range that the commit changes, and where its old bytes are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) range: Range<u64>,
    /// Offset in the undo file; `None`: zeros, or past the old end.
    place: Option<u64>,
}

/// An undo file, open for reading and for noting what becomes of it.
#[derive(Debug)]
pub(super) struct UndoFile {
    label: String,
    file: File,
    /// Everything before is valid.
    end: u64,
    pub(super) container: PathBuf,
    /// Of the container before and after the commit, in bytes.
    pub(super) sizes: (u64, u64),
    /// Disjoint; ascending.
    pub(super) records: Vec<Record>,
    pub(super) state: State,
}

impl UndoFile {
    /// A new one for `container`; fails if there is a file of that name.
    pub(super) fn create(path: &Path, container: &Path, sizes: (u64, u64)) -> Result<Self> {
        let label = path.display().to_string();
        let mut options = OpenOptions::new();
        // Old bytes of a disk may be anybody's secrets.
        options.read(true).write(true).create_new(true).mode(0o600);
        let file = options.open(path).map_err(|error| Error::io(&*label, error))?;
        let name = container.as_os_str().as_bytes();
        let mut header = Vec::with_capacity(HEADER + name.len() + CHECKSUM);
        header.extend(MAGIC);
        header.extend(VERSION.to_le_bytes());
        header.extend(u32::try_from(name.len()).unwrap_or(u32::MAX).to_le_bytes());
        header.extend(sizes.0.to_le_bytes());
        header.extend(sizes.1.to_le_bytes());
        header.extend(name);
        header.extend(crc32c::crc32c(&header).to_le_bytes());
        let mut undo = Self {
            label,
            file,
            end: 0,
            container: container.to_owned(),
            sizes,
            records: Vec::new(),
            state: State::Unfinished,
        };
        undo.append(&header)?;
        Ok(undo)
    }

    /// The one at `path`. What was cut short at its end is dropped.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let label = path.display().to_string();
        let mut options = OpenOptions::new();
        options.read(true).write(true);
        let file = options.open(path).map_err(|error| Error::io(&*label, error))?;
        let length = file.metadata().map_err(|error| Error::io(&*label, error))?.len();
        let mut undo = Self {
            label,
            file,
            end: 0,
            container: PathBuf::new(),
            sizes: (0, 0),
            records: Vec::new(),
            state: State::Unfinished,
        };
        undo.read_header(length)?;
        while undo.read_record(length)? {}
        Ok(undo)
    }

    fn read_header(&mut self, length: u64) -> Result<()> {
        let mut header = vec![0; HEADER];
        if length < HEADER as u64 {
            return Err(self.corrupt(format!("is too short for an undo file: {length} bytes")));
        }
        self.read(0, &mut header)?;
        let magic: [u8; 8] = self.field(field::array_at(&header, 0))?;
        if magic != MAGIC {
            return Err(self.corrupt(format!("is not an undo file: its first bytes are {magic:02x?}")));
        }
        let version = self.field(field::u32_le(&header, 8))?;
        if version != VERSION {
            let text = format!("is an undo file of version {version}, this program knows version {VERSION}");
            return Err(Error::new(Kind::Unsupported, &*self.label, text));
        }
        let name = self.field(field::u32_le(&header, 12))?;
        let whole = HEADER as u64 + u64::from(name) + CHECKSUM as u64;
        if name > LONGEST_PATH || whole > length {
            return Err(self.corrupt(format!("has a damaged header: a path of {name} bytes")));
        }
        header.resize(usize::try_from(whole).unwrap_or(HEADER), 0);
        self.read(0, &mut header)?;
        let body = header.len() - CHECKSUM;
        let expected = crc32c::crc32c(header.get(..body).unwrap_or_default());
        let found = self.field(field::u32_le(&header, body))?;
        if found != expected {
            let text = format!("has a damaged header: checksum {found:08x}, expected {expected:08x}");
            return Err(self.corrupt(text));
        }
        self.sizes = (
            self.field(field::u64_le(&header, 16))?,
            self.field(field::u64_le(&header, 24))?,
        );
        self.container = OsStr::from_bytes(header.get(HEADER..body).unwrap_or_default()).into();
        self.end = whole;
        Ok(())
    }

    /// Reads the record at the end; `false` if none is whole there.
    fn read_record(&mut self, length: u64) -> Result<bool> {
        let available = length.saturating_sub(self.end);
        if available < (RECORD_HEAD + CHECKSUM) as u64 {
            return Ok(false);
        }
        let mut record = vec![0; RECORD_HEAD];
        self.read(self.end, &mut record)?;
        let kind = self.field(field::u32_le(&record, 0))?;
        let reserved = self.field(field::u32_le(&record, 4))?;
        let offset = self.field(field::u64_le(&record, 8))?;
        let count = self.field(field::u64_le(&record, 16))?;
        let payload = match kind {
            BYTES if count <= LONGEST_RECORD => count,
            COMMITTED if count == 32 => count,
            ZEROS | SEALED | UNDOING | UNDONE => 0,
            _ => return Ok(false),
        };
        let whole = RECORD_HEAD as u64 + payload + CHECKSUM as u64;
        if reserved != 0 || whole > available {
            return Ok(false);
        }
        record.resize(usize::try_from(whole).unwrap_or(RECORD_HEAD), 0);
        self.read(self.end, &mut record)?;
        let body = record.len().saturating_sub(CHECKSUM);
        let expected = crc32c::crc32c(record.get(..body).unwrap_or_default());
        if self.field(field::u32_le(&record, body))? != expected {
            return Ok(false);
        }
        let place = self.end + RECORD_HEAD as u64;
        self.end += whole;
        self.state = match kind {
            BYTES | ZEROS => {
                let place = (kind == BYTES).then_some(place);
                self.keep(offset, count, place)?;
                return Ok(true);
            }
            SEALED if offset != self.records.len() as u64 => {
                let text = format!("has {} records where {offset} are promised", self.records.len());
                return Err(self.corrupt(text));
            }
            SEALED => State::Sealed,
            COMMITTED => State::Committed(Digest(self.field(field::array_at(&record, RECORD_HEAD))?)),
            UNDOING => State::Undoing,
            _ => State::Undone,
        };
        Ok(true)
    }

    fn keep(&mut self, offset: u64, count: u64, place: Option<u64>) -> Result<()> {
        let end = offset.checked_add(count);
        let after = self.records.last().map_or(0, |record| record.range.end);
        match end {
            Some(end) if offset >= after && self.state == State::Unfinished => {
                self.records.push(Record {
                    range: offset..end,
                    place,
                });
                Ok(())
            }
            _ => Err(self.corrupt(format!("has a record out of order: {count} bytes at {offset}"))),
        }
    }

    /// Notes the old bytes of `range`; ranges come in ascending order, none longer than [`LONGEST_RECORD`].
    pub(super) fn save(&mut self, range: Range<u64>, old: &[u8]) -> Result<()> {
        let place = self.end + RECORD_HEAD as u64;
        self.append_record(BYTES, range.start, range.end - range.start, old)?;
        self.keep(range.start, range.end - range.start, Some(place))
    }

    /// Notes that `range` held zeros, or did not exist.
    pub(super) fn save_zeros(&mut self, range: Range<u64>) -> Result<()> {
        self.append_record(ZEROS, range.start, range.end - range.start, &[])?;
        self.keep(range.start, range.end - range.start, None)
    }

    /// Appends what became of the container, and makes all of the file durable.
    pub(super) fn set_state(&mut self, state: State) -> Result<()> {
        // Whole records behind a broken one would be read again after what is put in its place.
        self.file.set_len(self.end).map_err(|error| self.io(error))?;
        match state {
            State::Unfinished => {}
            State::Sealed => {
                // The records first: a seal that is durable without them would promise too much.
                self.sync()?;
                self.append_record(SEALED, self.records.len() as u64, 0, &[])?;
            }
            State::Committed(digest) => self.append_record(COMMITTED, 0, 32, &digest.0)?,
            State::Undoing => self.append_record(UNDOING, 0, 0, &[])?,
            State::Undone => self.append_record(UNDONE, 0, 0, &[])?,
        }
        self.state = state;
        self.sync()
    }

    /// The old bytes of a record's range from `offset` on; zeros past the old end.
    pub(super) fn old(&self, record: &Record, offset: u64, buffer: &mut [u8]) -> Result<()> {
        match record.place {
            Some(place) => self.read(place + offset.saturating_sub(record.range.start), buffer),
            None => {
                buffer.fill(0);
                Ok(())
            }
        }
    }

    fn append_record(&mut self, kind: u32, offset: u64, count: u64, payload: &[u8]) -> Result<()> {
        let mut record = Vec::with_capacity(RECORD_HEAD + payload.len() + CHECKSUM);
        record.extend(kind.to_le_bytes());
        record.extend(0_u32.to_le_bytes());
        record.extend(offset.to_le_bytes());
        record.extend(count.to_le_bytes());
        record.extend(payload);
        record.extend(crc32c::crc32c(&record).to_le_bytes());
        self.append(&record)
    }

    fn append(&mut self, bytes: &[u8]) -> Result<()> {
        self.file
            .write_all_at(bytes, self.end)
            .map_err(|error| Error::io(&*self.label, error).at(self.end))?;
        self.end += bytes.len() as u64;
        Ok(())
    }

    fn sync(&self) -> Result<()> {
        self.file.sync_all().map_err(|error| self.io(error))
    }

    fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        self.file
            .read_exact_at(buffer, offset)
            .map_err(|error| self.io(error).at(offset))
    }

    fn field<T>(&self, field: std::result::Result<T, field::Truncated>) -> Result<T> {
        field.map_err(|error| Error::new(Kind::Corrupt, &*self.label, error))
    }

    fn io(&self, error: io::Error) -> Error {
        Error::io(&*self.label, error)
    }

    fn corrupt(&self, text: String) -> Error {
        Error::new(Kind::Corrupt, &*self.label, text)
    }
}
