//! A sparse extent of any of the three kinds: a directory of tables of grains.

use super::{
    SECTOR, bytes_of, cow,
    flaw::Flaw,
    grain_cache::GrainCache,
    header::{DIRECTORY_AT_END, Header, LENGTH, MAGIC, flag},
    marker::{GRAIN_HEADER, Marker},
    se_sparse,
    table_cache::TableCache,
};
use crate::{
    disk::{Disk, Error, Kind, Result},
    image::deflate::{self, Envelope, UnpackError},
};
use std::sync::Arc;

/// A directory is read in pieces of so many entries.
const DIRECTORY_PIECE: u64 = 512;

/// The footer may be followed by the padding of whatever held the stream: so many bytes are searched for it.
const FOOTER_SEARCH: u64 = 64 << 10;

/// Where the bytes of a grain are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mapping {
    /// In the parent; without one they are zeros.
    Unallocated,
    /// They are zeros.
    Zero,
    /// At byte `host` of the file.
    Data { host: u64 },
    /// Compressed, from byte `host` of the file on; something else begins at `next`, or nothing.
    Packed { host: u64, next: u64 },
}

/// A run of bytes that is mapped one way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Run {
    pub(super) mapping: Mapping,
    pub(super) length: u64,
}

/// What the kinds do not have in common.
#[derive(Clone, Debug)]
pub(super) enum Shape {
    /// "KDMV".
    Hosted(Header),
    /// COWD.
    Cow(cow::Header),
    /// seSparse.
    SeSparse(se_sparse::Header),
}

/// Tables and grains in one file.
#[derive(Debug)]
pub(super) struct SparseExtent {
    pub(super) container: Arc<dyn Disk>,
    pub(super) shape: Shape,
    /// Of what it holds of the disk, in bytes.
    pub(super) size: u64,
    /// In bytes.
    pub(super) grain: u64,
    pub(super) entries_per_table: u64,
    /// Where the directory is that is used, and a second one, in bytes.
    pub(super) directory: u64,
    pub(super) redundant: Option<u64>,
    /// The first directory is not in the file: the one that is used is the second.
    pub(super) directory_is_bad: bool,
    /// Its number among the extents of the disk.
    number: usize,
    tables: Arc<TableCache>,
    grains: GrainCache,
}

/// What a directory says of a part of the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TableEntry {
    /// There is no table: nothing is allocated.
    Absent,
    /// All of it is zeros.
    Zero,
    /// The table is at this byte.
    At(u64),
}

impl SparseExtent {
    /// A hosted extent with `header`, whose directory may be at the end.
    pub(super) fn hosted(
        container: Arc<dyn Disk>,
        header: &Header,
        number: usize,
        tables: Arc<TableCache>,
    ) -> Result<Self> {
        let header = if header.directory == DIRECTORY_AT_END {
            footer(container.as_ref())?
        } else {
            header.clone()
        };
        let entries = header.capacity.div_ceil(header.table_coverage());
        let lies_in_file = |sector: u64| {
            sector != 0 && bytes_of(sector).saturating_add(entries.saturating_mul(4)) <= container.size()
        };
        let redundant = Some(header.redundant_directory)
            .filter(|sector| header.has(flag::REDUNDANT) && lies_in_file(*sector));
        let directory_is_bad = entries > 0 && !lies_in_file(header.directory);
        let (directory, redundant) = match redundant {
            Some(second) if directory_is_bad => (second, None),
            _ => (header.directory, redundant),
        };
        if directory_is_bad && directory == header.directory {
            let offset = bytes_of(header.directory);
            return Err(past_the_end("grain directory", offset, container.as_ref()).at(56));
        }
        Ok(Self {
            size: bytes_of(header.capacity),
            grain: bytes_of(header.grain),
            entries_per_table: u64::from(header.entries_per_table),
            directory: bytes_of(directory),
            redundant: redundant.map(bytes_of),
            directory_is_bad,
            shape: Shape::Hosted(header),
            container,
            number,
            tables,
            grains: GrainCache::default(),
        })
    }

    /// A COWD extent.
    pub(super) fn cow(container: Arc<dyn Disk>, number: usize, tables: Arc<TableCache>) -> Result<Self> {
        let flaw = |flaw: Flaw| flaw.of(container.label()).at(0);
        let header = cow::Header::parse(&first_bytes(container.as_ref(), cow::LENGTH)?).map_err(flaw)?;
        let directory = bytes_of(header.directory);
        if directory.saturating_add(header.directory_entries * 4) > container.size() {
            return Err(past_the_end("grain directory", directory, container.as_ref()).at(20));
        }
        Ok(Self {
            size: bytes_of(header.capacity),
            grain: bytes_of(header.grain),
            entries_per_table: cow::ENTRIES_PER_TABLE,
            directory,
            redundant: None,
            directory_is_bad: false,
            shape: Shape::Cow(header),
            container,
            number,
            tables,
            grains: GrainCache::default(),
        })
    }

    /// A seSparse extent.
    pub(super) fn se_sparse(
        container: Arc<dyn Disk>,
        number: usize,
        tables: Arc<TableCache>,
    ) -> Result<Self> {
        let flaw = |flaw: Flaw, at: u64| flaw.of(container.label()).at(at);
        let bytes = first_bytes(container.as_ref(), se_sparse::LENGTH)?;
        let header = se_sparse::Header::parse(&bytes).map_err(|e| flaw(e, 0))?;
        let volatile = bytes_of(header.volatile_header);
        let mut bytes = [0; se_sparse::LENGTH];
        if volatile.saturating_add(bytes.len() as u64) > container.size() {
            return Err(past_the_end("volatile header", volatile, container.as_ref()).at(80));
        }
        container.read_at(volatile, &mut bytes)?;
        se_sparse::must_be_replayed(&bytes).map_err(|e| flaw(e, volatile))?;
        let directory = bytes_of(header.directory);
        let entries = header
            .capacity
            .div_ceil(header.grain * se_sparse::ENTRIES_PER_TABLE);
        if directory.saturating_add(entries * 8) > container.size() {
            return Err(past_the_end("grain directory", directory, container.as_ref()).at(128));
        }
        Ok(Self {
            size: bytes_of(header.capacity),
            grain: bytes_of(header.grain),
            entries_per_table: se_sparse::ENTRIES_PER_TABLE,
            directory,
            redundant: None,
            directory_is_bad: false,
            shape: Shape::SeSparse(header),
            container,
            number,
            tables,
            grains: GrainCache::default(),
        })
    }

    pub(super) fn is_compressed(&self) -> bool {
        matches!(&self.shape, Shape::Hosted(header) if header.is_compressed())
    }

    pub(super) fn has_zeroed_grains(&self) -> bool {
        matches!(&self.shape, Shape::Hosted(header) if header.has(flag::ZEROED_GRAINS))
    }

    pub(super) fn was_not_closed(&self) -> bool {
        match &self.shape {
            Shape::Hosted(header) => header.unclean_shutdown,
            Shape::Cow(header) => header.unclean_shutdown,
            Shape::SeSparse(_) => false,
        }
    }

    /// Bytes of an entry of directories and tables.
    pub(super) fn entry_size(&self) -> u64 {
        match self.shape {
            Shape::SeSparse(_) => 8,
            _ => 4,
        }
    }

    /// Bytes of the disk that one table maps.
    pub(super) fn coverage(&self) -> u64 {
        self.grain.saturating_mul(self.entries_per_table)
    }

    /// Entries of the directory.
    pub(super) fn directory_entries(&self) -> u64 {
        self.size.div_ceil(self.coverage())
    }

    /// Bytes of a table.
    pub(super) fn table_size(&self) -> u64 {
        self.entries_per_table * self.entry_size()
    }

    /// Bytes that the grain at `start` has: the last one may be cut.
    pub(super) fn grain_length(&self, start: u64) -> u64 {
        self.size.saturating_sub(start).min(self.grain)
    }

    pub(super) fn flaw(&self, flaw: Flaw, offset: u64) -> Error {
        flaw.of(self.container.label()).at(offset)
    }

    pub(super) fn must_exist(&self, what: &'static str, offset: u64, length: u64) -> Result<()> {
        if offset.saturating_add(length) > self.container.size() {
            return Err(past_the_end(what, offset, self.container.as_ref()).at(offset));
        }
        Ok(())
    }

    /// `count` entries at byte `offset` of the file.
    pub(super) fn words(&self, offset: u64, count: u64) -> Result<Arc<Vec<u64>>> {
        self.tables.get((self.number, offset), || {
            let size = self.entry_size();
            self.must_exist("grain table", offset, count.saturating_mul(size))?;
            // At most a table or a piece of a directory, and the file has as many bytes.
            let mut bytes = vec![0; usize::try_from(count * size).unwrap_or(0)];
            self.container.read_at(offset, &mut bytes)?;
            Ok(if size == 8 {
                let words = bytes.as_chunks::<8>().0.iter();
                words.map(|word| u64::from_le_bytes(*word)).collect()
            } else {
                let words = bytes.as_chunks::<4>().0.iter();
                words.map(|word| u64::from(u32::from_le_bytes(*word))).collect()
            })
        })
    }

    /// The bytes at `offset`, which hold entries, have been changed.
    pub(super) fn forget_words(&self, offset: u64) {
        self.tables.forget((self.number, offset));
    }

    /// Where the piece of a directory begins that holds entry `index`.
    pub(super) fn directory_piece(&self, directory: u64, index: u64) -> u64 {
        directory.saturating_add(index / DIRECTORY_PIECE * DIRECTORY_PIECE * self.entry_size())
    }

    /// Entry `index` of the directory at byte `directory`, as it stands there.
    pub(super) fn directory_word(&self, directory: u64, index: u64) -> Result<u64> {
        let first = index / DIRECTORY_PIECE * DIRECTORY_PIECE;
        let count = self
            .directory_entries()
            .saturating_sub(first)
            .min(DIRECTORY_PIECE);
        let words = self.words(self.directory_piece(directory, index), count)?;
        let at = usize::try_from(index - first).unwrap_or(usize::MAX);
        Ok(words.get(at).copied().unwrap_or(0))
    }

    /// What an entry of a directory means.
    pub(super) fn table_entry(&self, word: u64) -> std::result::Result<TableEntry, Flaw> {
        match &self.shape {
            Shape::SeSparse(header) => Ok(match se_sparse::table_number(word)? {
                None => TableEntry::Absent,
                Some(number) => TableEntry::At(
                    bytes_of(header.tables).saturating_add(number.saturating_mul(self.table_size())),
                ),
            }),
            _ if word == 0 => Ok(TableEntry::Absent),
            Shape::Hosted(header) if word == 1 && header.has(flag::ZEROED_GRAINS) => Ok(TableEntry::Zero),
            _ => Ok(TableEntry::At(bytes_of(word))),
        }
    }

    /// The table of part `index` of the disk. An entry that leads nowhere is looked up in the second directory; so is
    /// one that is absent, since a directory that was wiped out looks like that.
    pub(super) fn table_at(&self, index: u64) -> Result<TableEntry> {
        let size = self.container.size();
        let word = self.directory_word(self.directory, index)?;
        let entry = self
            .table_entry(word)
            .map_err(|flaw| self.flaw(flaw, self.directory))?;
        match entry {
            TableEntry::At(host) if host.saturating_add(self.table_size()) <= size => return Ok(entry),
            TableEntry::Zero => return Ok(entry),
            _ => {}
        }
        if let Some(redundant) = self.redundant {
            let word = self.directory_word(redundant, index)?;
            match self.table_entry(word) {
                Ok(TableEntry::At(host)) if host.saturating_add(self.table_size()) <= size => {
                    return Ok(TableEntry::At(host));
                }
                _ => {}
            }
        }
        match entry {
            TableEntry::At(host) => Err(past_the_end("grain table", host, self.container.as_ref()).at(host)),
            _ => Ok(entry),
        }
    }

    /// What an entry of a table means; `next` is the entry behind it.
    pub(super) fn mapping(&self, word: u64, next: u64) -> std::result::Result<Mapping, Flaw> {
        match &self.shape {
            Shape::SeSparse(header) => se_sparse::mapping(word, bytes_of(header.grains)),
            _ if word == 0 => Ok(Mapping::Unallocated),
            Shape::Hosted(header) if word == 1 && header.has(flag::ZEROED_GRAINS) => Ok(Mapping::Zero),
            Shape::Hosted(header) if header.is_compressed() => Ok(Mapping::Packed {
                host: bytes_of(word),
                next: bytes_of(next),
            }),
            _ => Ok(Mapping::Data { host: bytes_of(word) }),
        }
    }

    /// Does the file have what `mapping` of the grain at `start` needs?
    fn is_there(&self, mapping: Mapping, start: u64) -> bool {
        let (host, needed) = match mapping {
            Mapping::Data { host } => (host, self.grain_length(start)),
            Mapping::Packed { host, .. } => (host, SECTOR),
            _ => return true,
        };
        host.saturating_add(needed) <= self.container.size()
    }

    /// How the grain at `start` is mapped, by `table`, or by the second table where the first leads nowhere.
    fn mapping_at(&self, table: &[u64], start: u64) -> Result<Mapping> {
        let index = usize::try_from(start / self.grain % self.entries_per_table).unwrap_or(usize::MAX);
        let word = |table: &[u64], index: usize| table.get(index).copied().unwrap_or(0);
        let mapping = self
            .mapping(word(table, index), word(table, index.saturating_add(1)))
            .map_err(|flaw| self.flaw(flaw, self.directory))?;
        if self.is_there(mapping, start) {
            return Ok(mapping);
        }
        let Some(redundant) = self.redundant else {
            return Ok(mapping);
        };
        let entry = self.directory_word(redundant, start / self.coverage())?;
        let Ok(TableEntry::At(host)) = self.table_entry(entry) else {
            return Ok(mapping);
        };
        let Ok(second) = self.words(host, self.entries_per_table) else {
            return Ok(mapping);
        };
        Ok(match self.mapping(word(&second, index), 0) {
            Ok(other) if other != Mapping::Unallocated && self.is_there(other, start) => other,
            _ => mapping,
        })
    }

    /// How the bytes from `offset` on are mapped, up to `end` at most.
    pub(super) fn run(&self, offset: u64, end: u64) -> Result<Run> {
        let coverage = self.coverage();
        let index = offset / coverage;
        let here_end = end.min((index + 1).saturating_mul(coverage));
        let host = match self.table_at(index)? {
            TableEntry::At(host) => host,
            entry => {
                let mapping = if entry == TableEntry::Zero {
                    Mapping::Zero
                } else {
                    Mapping::Unallocated
                };
                // Large parts of a disk without any table in one step.
                let piece_end = (index / DIRECTORY_PIECE + 1) * DIRECTORY_PIECE;
                let mut next = index + 1;
                while next < piece_end
                    && next.saturating_mul(coverage) < end
                    && self.table_at(next).ok() == Some(entry)
                {
                    next += 1;
                }
                let length = end.min(next.saturating_mul(coverage)) - offset;
                return Ok(Run { mapping, length });
            }
        };
        let table = self.words(host, self.entries_per_table)?;
        let mut next = (offset / self.grain + 1) * self.grain;
        let mut mapping = self.mapping_at(&table, next - self.grain)?;
        if matches!(mapping, Mapping::Packed { .. }) {
            let length = here_end.min(next) - offset;
            return Ok(Run { mapping, length });
        }
        if let Mapping::Data { host } = &mut mapping {
            *host = host.saturating_add(offset % self.grain);
        }
        let index = usize::try_from(offset / self.grain % self.entries_per_table).unwrap_or(usize::MAX);
        let words = table.get(index..).unwrap_or_default();
        if !matches!(mapping, Mapping::Data { .. })
            && words
                .first()
                .is_some_and(|word| self.mapping(*word, 0) == Ok(mapping))
        {
            // Most of a table is of one word, which means the same everywhere.
            let same = words
                .iter()
                .take_while(|word| words.first() == Some(word))
                .count();
            next = (offset / self.grain)
                .saturating_add(same as u64)
                .saturating_mul(self.grain);
        }
        while next < here_end {
            let continues = match (mapping, self.mapping_at(&table, next)?) {
                (Mapping::Data { host }, Mapping::Data { host: then }) => {
                    host.checked_add(next - offset) == Some(then)
                }
                (one, other) => one == other,
            };
            if !continues {
                break;
            }
            next += self.grain;
        }
        Ok(Run {
            mapping,
            length: next.min(here_end) - offset,
        })
    }

    /// Fills `buffer`, which is all or part of a run of data at `offset`.
    pub(super) fn read(&self, mapping: Mapping, offset: u64, buffer: &mut [u8]) -> Result<()> {
        let (host, next) = match mapping {
            Mapping::Unallocated | Mapping::Zero => {
                buffer.fill(0);
                return Ok(());
            }
            Mapping::Data { host } => {
                self.must_exist("grain", host, buffer.len() as u64)?;
                return self.container.read_at(host, buffer);
            }
            Mapping::Packed { host, next } => (host, next),
        };
        let start = offset / self.grain * self.grain;
        if buffer.len() as u64 == self.grain {
            return self.unpack(host, next, buffer).and_then(|length| {
                if length == self.grain {
                    Ok(())
                } else {
                    Err(self.too_short(host, length, self.grain))
                }
            });
        }
        let grain = match self.grains.get(host) {
            Some(grain) => grain,
            None => {
                let mut grain = vec![0; usize::try_from(self.grain).unwrap_or(0)];
                let length = self.unpack(host, next, &mut grain)?;
                // The last grain may be packed without what lies behind the end of the disk.
                if length < self.grain_length(start) {
                    return Err(self.too_short(host, length, self.grain_length(start)));
                }
                let grain = Arc::new(grain);
                self.grains.put(host, &grain);
                grain
            }
        };
        let within = usize::try_from(offset - start).unwrap_or(usize::MAX);
        let piece = grain.get(within..within.saturating_add(buffer.len()));
        buffer.copy_from_slice(piece.unwrap_or_default());
        Ok(())
    }

    fn too_short(&self, host: u64, length: u64, needed: u64) -> Error {
        let why = format!("it gives {length} bytes where {needed} are expected");
        self.flaw(Flaw::Compressed { offset: host, why }, host)
    }

    /// Unpacks the grain at byte `host` to the front of `grain`, which has the length of one.
    fn unpack(&self, host: u64, next: u64, grain: &mut [u8]) -> Result<u64> {
        let broken = |why: String| self.flaw(Flaw::Compressed { offset: host, why }, host);
        let size = self.container.size();
        self.must_exist("compressed grain", host, SECTOR)?;
        // What does not shrink grows, but not to twice its size; and mostly the next one follows at once.
        let most = self.grain.saturating_mul(2).min(size - host);
        let guess = match next.checked_sub(host) {
            Some(distance) if distance > 0 => distance.min(most),
            _ => self.grain.min(most),
        };
        let mut packed = vec![0; usize::try_from(guess).unwrap_or(0)];
        self.container.read_at(host, &mut packed)?;
        let has_markers = matches!(&self.shape, Shape::Hosted(header) if header.has(flag::MARKERS));
        if !has_markers {
            return self.unpack_bare(host, most, packed, grain);
        }
        let length = match Marker::parse(&packed) {
            Ok(Marker::Grain { length, .. }) => u64::from(length),
            Ok(_) => return Err(broken("there is no grain, but another marker".to_owned())),
            Err(error) => return Err(broken(error.to_string())),
        };
        let end = length.saturating_add(GRAIN_HEADER as u64);
        if end > most {
            let why = format!("its marker claims {length} bytes, and {most} are possible there");
            return Err(broken(why));
        }
        let read = packed.len();
        packed.resize(usize::try_from(end).unwrap_or(0), 0);
        if let Some(rest) = packed.get_mut(read..).filter(|rest| !rest.is_empty()) {
            self.container.read_at(host + read as u64, rest)?;
        }
        let packed = packed.get(GRAIN_HEADER..).unwrap_or_default();
        let length = deflate::decompress(Envelope::Zlib, packed, grain).map_err(|e| broken(e.to_string()))?;
        Ok(length as u64)
    }

    /// Without markers VMware has the length in four bytes before the compressed data, and qemu has nothing there.
    fn unpack_bare(&self, host: u64, most: u64, mut packed: Vec<u8>, grain: &mut [u8]) -> Result<u64> {
        let read = packed.len();
        packed.resize(usize::try_from(most).unwrap_or(0), 0);
        if let Some(rest) = packed.get_mut(read..).filter(|rest| !rest.is_empty()) {
            self.container.read_at(host + read as u64, rest)?;
        }
        let mut unpack =
            |skip: usize| deflate::decompress(Envelope::Zlib, packed.get(skip..).unwrap_or_default(), grain);
        let length = unpack(0).or_else(|error| unpack(4).map_err(|_| error));
        length.map(|length| length as u64).map_err(|error: UnpackError| {
            let why = error.to_string();
            self.flaw(Flaw::Compressed { offset: host, why }, host)
        })
    }
}

fn past_the_end(what: &'static str, offset: u64, container: &dyn Disk) -> Error {
    let size = container.size();
    Flaw::PastTheEnd { what, offset, size }.of(container.label())
}

/// The first `length` bytes, or all where there are fewer.
pub(super) fn first_bytes(container: &dyn Disk, length: usize) -> Result<Vec<u8>> {
    let there = container.size().min(length as u64);
    let mut bytes = vec![0; usize::try_from(there).unwrap_or(0)];
    container.read_at(0, &mut bytes)?;
    Ok(bytes)
}

/// The footer of a stream: the last sector that is not zeros. Behind it there is the end-of-stream marker, which is a
/// sector of zeros.
fn footer(container: &dyn Disk) -> Result<Header> {
    let size = container.size() / SECTOR * SECTOR;
    let start = size.saturating_sub(FOOTER_SEARCH);
    let mut bytes = vec![0; usize::try_from(size - start).unwrap_or(0)];
    container.read_at(start, &mut bytes)?;
    let sectors = bytes.chunks_exact(LENGTH).enumerate();
    let last = sectors
        .rev()
        .find(|(_, sector)| sector.iter().any(|byte| *byte != 0));
    let missing = |at: u64| Flaw::Footer.of(container.label()).at(at);
    let Some((index, sector)) = last else {
        return Err(missing(size));
    };
    let at = start + index as u64 * SECTOR;
    if !sector.starts_with(&MAGIC) || at == 0 {
        return Err(missing(size));
    }
    let header = Header::parse(sector).map_err(|flaw| flaw.of(container.label()).at(at))?;
    if header.directory == DIRECTORY_AT_END {
        return Err(Error::new(
            Kind::Corrupt,
            container.label(),
            "has a footer that does not say where the grain directory is",
        )
        .at(at));
    }
    Ok(header)
}
