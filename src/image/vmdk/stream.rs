//! Writing a whole disk as streamOptimized: VDF 5.0, "Stream-Optimized Compressed Sparse Extents".
//!
//! The bytes come one after the other, and none is written twice: header and descriptor, then compressed grains in the
//! order of the disk, each table behind the last grain that it maps, then the directory, the footer, and the end of the
//! stream. So it can go to a file, and to anything that only goes forward: standard output, a member of a tar. Grains
//! are compressed by the threads that bring them, before they wait for their turn.
//!
//! A killed run is gone on with by its markers: what is to be kept is found by walking from one to the next.

use super::{
    SECTOR, bytes_of,
    create::{Options, Subformat},
    flaw::Flaw,
    header::{DEFLATE, DIRECTORY_AT_END, Header, LENGTH, flag},
    layout::{COVERAGE, DESCRIPTOR, ENTRIES_PER_TABLE, GRAIN, TABLE, directory_sectors, tables_of},
    marker::{GRAIN_HEADER, Marker, grain_sectors},
    new_descriptor::{self, NewExtent},
    sparse_extent::first_bytes,
    sparse_sink::embedded,
    turn::{Turns, cannot_resume, entry_of, nothing_to_keep},
};
use crate::{
    disk::{Disk, Error, Kind, Result, Sink, field::put_u32_le, field::put_u64_le},
    image::deflate::{self, Method},
};
use std::{
    fmt,
    io::Write,
    ops::Range,
    sync::{Arc, Mutex, PoisonError},
};

/// Bytes of a grain.
const GRAIN_BYTES: u64 = GRAIN * SECTOR;

/// A file grows in such steps (sparse), since every growth is a system call. In bytes.
const GROWTH: u64 = 64 << 20;

/// Where a stream goes.
pub trait Output: fmt::Debug + Send + Sync {
    /// Of the file, for errors.
    fn label(&self) -> &str;
    /// Takes bytes only one after the other.
    fn only_forward(&self) -> bool;
    /// Writes `bytes` at byte `at` of the stream.
    ///
    /// # Errors
    /// Those of the file.
    fn write(&self, at: u64, bytes: &[u8]) -> Result<()>;
    /// Makes room for a stream of `size` bytes so far; it is `complete` or will grow.
    ///
    /// # Errors
    /// Those of the file.
    fn set_size(&self, size: u64, complete: bool) -> Result<()>;
    /// What was written survives a power cut, where the output can promise it.
    ///
    /// # Errors
    /// Those of the file.
    fn flush(&self) -> Result<()>;
    /// What an earlier run left here.
    fn earlier(&self) -> Option<&dyn Disk>;
}

/// A file: written at many places at once.
#[derive(Debug)]
pub struct Container {
    disk: Arc<dyn Disk>,
    resumed: bool,
}

/// What only goes forward.
pub struct Forward<W> {
    label: String,
    writer: Mutex<W>,
}

/// A streamOptimized image that takes a whole disk.
#[derive(Debug)]
pub struct StreamOptimized<O> {
    output: O,
    header: Header,
    turns: Turns<State>,
}

/// Where the stream is.
struct State {
    /// The sector that is written next.
    sector: u64,
    /// First sector of each table; 0 for those without a grain.
    directory: Vec<u32>,
    /// The table whose grains are being written.
    table: Option<Table>,
}

struct Table {
    index: u64,
    words: Vec<u32>,
}

/// Compressed grains, each with its marker and padded to sectors, one behind the other.
#[derive(Default)]
struct Packed {
    bytes: Vec<u8>,
    /// First byte of each grain in the disk, and where it is in `bytes`.
    grains: Vec<(u64, Range<usize>)>,
}

/// Bytes for the stream at a place of it: a run of packed grains, or a table.
enum Piece {
    Grains(Range<usize>),
    Table(Vec<u8>),
}

impl StreamOptimized<Container> {
    /// Makes a new image of a disk of `size` bytes in `container`, which may be empty and must be able to grow. `name` is
    /// the file's.
    ///
    /// # Errors
    /// Those of the container.
    pub fn create(container: Arc<dyn Disk>, name: &str, size: u64, options: &Options) -> Result<Self> {
        let output = Container {
            disk: container,
            resumed: false,
        };
        let (sink, head) = Self::open(output, name, size, options)?;
        sink.output.set_size(head.len() as u64, false)?;
        sink.output.write(0, &head)?;
        Ok(sink)
    }

    /// Opens an image that [`StreamOptimized::create`] began with the same name, size and options, to go on after a
    /// kill. What is given to [`Sink::keep`] stays as it is.
    ///
    /// # Errors
    /// Those of the container; [`Kind::Unsafe`] if it is not what this conversion writes, or if it is not `blank`:
    /// whatever lay there before cannot be told from what an earlier run wrote.
    pub fn resume(
        container: Arc<dyn Disk>,
        blank: bool,
        name: &str,
        size: u64,
        options: &Options,
    ) -> Result<Self> {
        let output = Container {
            disk: container,
            resumed: true,
        };
        let (sink, head) = Self::open(output, name, size, options)?;
        let container = &sink.output.disk;
        let refuse = |why| Err(cannot_resume(container.label(), why));
        if !blank {
            return refuse("a stream on a device has no end that could be found");
        }
        if first_bytes(container.as_ref(), head.len())? != head {
            return refuse("its header or descriptor is another than this conversion writes");
        }
        Ok(sink)
    }
}

impl<W: Write + Send> StreamOptimized<Forward<W>> {
    /// Writes a disk of `size` bytes to `writer`, strictly forward: as standard output or as a member of an archive,
    /// called `name`. Not to be resumed; a checkpoint only flushes.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn new(writer: W, name: &str, size: u64, options: &Options) -> Result<Self> {
        let output = Forward {
            label: name.to_owned(),
            writer: Mutex::new(writer),
        };
        let (sink, head) = Self::open(output, name, size, options)?;
        sink.output.write(0, &head)?;
        Ok(sink)
    }

    /// The writer, when everything is written, and how many bytes it was given.
    pub fn into_writer(self) -> (W, u64) {
        let writer = self.output.writer.into_inner();
        let length = bytes_of(self.turns.into_state().sector);
        (writer.unwrap_or_else(PoisonError::into_inner), length)
    }
}

impl<O: Output> StreamOptimized<O> {
    /// The sink, and what the stream begins with.
    fn open(output: O, name: &str, size: u64, options: &Options) -> Result<(Self, Vec<u8>)> {
        let label = output.label().to_owned();
        let refuse = |flaw: Flaw| flaw.of(&label);
        if size == 0 {
            return Err(refuse(Flaw::CannotCreate(
                "a disk of 0 bytes cannot be a VMDK".to_owned(),
            )));
        }
        let options = Options {
            subformat: Subformat::StreamOptimized,
            ..options.clone()
        };
        let extent = NewExtent {
            size,
            file: name.to_owned(),
        };
        let text = new_descriptor::text(name, &options, &[extent]).map_err(refuse)?;
        let tables = tables_of(size).map_err(refuse)?;
        let header = Header {
            // The upper half of the flags needs it.
            version: 3,
            flags: flag::LINE_ENDS | flag::COMPRESSED | flag::MARKERS,
            capacity: size.div_ceil(SECTOR),
            grain: GRAIN,
            descriptor_offset: 1,
            descriptor_size: DESCRIPTOR,
            entries_per_table: ENTRIES_PER_TABLE,
            redundant_directory: 0,
            directory: DIRECTORY_AT_END,
            overhead: (1 + DESCRIPTOR).next_multiple_of(GRAIN),
            unclean_shutdown: false,
            compression: DEFLATE,
        };
        let mut head = header.encode().map_err(refuse)?.to_vec();
        head.extend(embedded(&text, &label)?);
        head.resize(usize::try_from(bytes_of(header.overhead)).unwrap_or(0), 0);
        let state = State {
            sector: header.overhead,
            // Within the limit of `tables_of`.
            directory: vec![0; usize::try_from(tables).unwrap_or(0)],
            table: None,
        };
        let sink = Self {
            turns: Turns::new(&label, GRAIN_BYTES, size, state),
            output,
            header,
        };
        Ok((sink, head))
    }

    /// Compresses `bytes`, which begin at byte `offset` of the disk.
    fn pack(&self, offset: u64, bytes: &[u8]) -> Result<Packed> {
        let mut packed = Packed::default();
        let grain_bytes = usize::try_from(GRAIN_BYTES).unwrap_or(usize::MAX);
        for (index, grain) in (0_u64..).zip(bytes.chunks(grain_bytes)) {
            let at = offset + index * GRAIN_BYTES;
            let start = packed.bytes.len();
            packed.bytes.resize(start + GRAIN_HEADER, 0);
            if grain.len().is_multiple_of(LENGTH) {
                deflate::compress(Method::VMDK, grain, &mut packed.bytes);
            } else {
                // The end of a disk that is no whole number of sectors.
                let mut padded = grain.to_vec();
                padded.resize(grain.len().next_multiple_of(LENGTH), 0);
                deflate::compress(Method::VMDK, &padded, &mut packed.bytes);
            }
            let length = packed.bytes.len() - start - GRAIN_HEADER;
            let header = packed.bytes.get_mut(start..).unwrap_or_default();
            let too_long = |_| Error::new(Kind::Io, self.output.label(), "a grain does not pack");
            let length = u32::try_from(length).map_err(|_| too_long(()))?;
            put_u64_le(header, 0, at / SECTOR).map_err(|_| too_long(()))?;
            put_u32_le(header, 8, length).map_err(|_| too_long(()))?;
            let end = packed.bytes.len().next_multiple_of(LENGTH);
            packed.bytes.resize(end, 0);
            packed.grains.push((at, start..end));
        }
        Ok(packed)
    }

    /// Gives each grain its place; the pieces of the stream that result, in its order.
    fn place(&self, state: &mut State, packed: &Packed) -> Result<Vec<(u64, Piece)>> {
        let mut pieces: Vec<(u64, Piece)> = Vec::with_capacity(1);
        for (at, range) in &packed.grains {
            let index = at / COVERAGE;
            if state.table.as_ref().is_some_and(|table| table.index != index) {
                let sector = state.sector;
                if let Some(bytes) = self.end_table(state)? {
                    pieces.push((bytes_of(sector), Piece::Table(bytes)));
                }
            }
            let place = bytes_of(state.sector);
            self.note_grain(state, *at)?;
            state.sector += (range.end - range.start) as u64 / SECTOR;
            match pieces.last_mut() {
                Some((_, Piece::Grains(last))) if last.end == range.start => last.end = range.end,
                _ => pieces.push((place, Piece::Grains(range.clone()))),
            }
        }
        Ok(pieces)
    }

    /// The grain at byte `at` of the disk begins at the sector that is next.
    fn note_grain(&self, state: &mut State, at: u64) -> Result<()> {
        let word = entry_of(state.sector, self.output.label())?;
        let table = state.table.get_or_insert_with(|| Table {
            index: at / COVERAGE,
            words: vec![0; ENTRIES_PER_TABLE as usize],
        });
        let index = usize::try_from(at % COVERAGE / GRAIN_BYTES).unwrap_or(usize::MAX);
        if let Some(entry) = table.words.get_mut(index) {
            *entry = word;
        }
        Ok(())
    }

    /// Ends the table at the sector that is next; gives its marker and its bytes.
    fn end_table(&self, state: &mut State) -> Result<Option<Vec<u8>>> {
        let Some(table) = state.table.take() else {
            return Ok(None);
        };
        let word = entry_of(state.sector + 1, self.output.label())?;
        let index = usize::try_from(table.index).unwrap_or(usize::MAX);
        if let Some(entry) = state.directory.get_mut(index) {
            *entry = word;
        }
        state.sector += 1 + TABLE;
        let mut bytes = self.marker(Marker::Table(TABLE))?;
        bytes.extend(table.words.iter().flat_map(|word| word.to_le_bytes()));
        Ok(Some(bytes))
    }

    fn marker(&self, marker: Marker) -> Result<Vec<u8>> {
        let bytes = marker
            .encode()
            .map_err(|error| Flaw::from(error).of(self.output.label()))?;
        Ok(bytes.to_vec())
    }

    fn write(&self, packed: &Packed, pieces: &[(u64, Piece)]) -> Result<()> {
        for (at, piece) in pieces {
            let bytes = match piece {
                Piece::Grains(range) => packed.bytes.get(range.clone()).unwrap_or_default(),
                Piece::Table(bytes) => bytes,
            };
            self.output.write(*at, bytes)?;
        }
        Ok(())
    }

    /// What stands in the stream of an earlier run for `range`.
    fn walk(&self, state: &mut State, earlier: &dyn Disk, range: &Range<u64>) -> Result<()> {
        loop {
            match marker_at(earlier, state.sector)? {
                Some(Marker::Grain { sector, length }) if self.continues(state, sector, range) => {
                    self.note_grain(state, bytes_of(sector))?;
                    state.sector += grain_sectors(length);
                }
                Some(Marker::Table(TABLE)) if state.table.is_some() => {
                    // A table is kept with the grain behind it: alone it is written again.
                    let behind = marker_at(earlier, state.sector + 1 + TABLE)?;
                    let Some(Marker::Grain { sector, .. }) = behind else {
                        return Ok(());
                    };
                    let at = bytes_of(sector);
                    let later = state
                        .table
                        .as_ref()
                        .is_some_and(|table| at / COVERAGE > table.index);
                    if !later || !range.contains(&at) {
                        return Ok(());
                    }
                    self.end_table(state)?;
                }
                _ => return Ok(()),
            }
        }
    }

    /// Is the grain at `sector` of the disk one of `range` that can follow here?
    fn continues(&self, state: &State, sector: u64, range: &Range<u64>) -> bool {
        let at = bytes_of(sector);
        let in_table = state.table.as_ref().is_none_or(|table| {
            let index = usize::try_from(at % COVERAGE / GRAIN_BYTES).unwrap_or(usize::MAX);
            let rest = table.words.get(index..).unwrap_or_default();
            at / COVERAGE == table.index && !rest.is_empty() && rest.iter().all(|word| *word == 0)
        });
        range.contains(&at) && at.is_multiple_of(GRAIN_BYTES) && in_table
    }

    /// Everything behind the last grain.
    fn tail(&self, state: &mut State) -> Result<Vec<u8>> {
        let mut tail = self.end_table(state)?.unwrap_or_default();
        let sectors = directory_sectors(state.directory.len() as u64);
        tail.extend(self.marker(Marker::Directory(sectors))?);
        let directory = state.sector + 1;
        let start = tail.len();
        tail.extend(state.directory.iter().flat_map(|word| word.to_le_bytes()));
        tail.resize(start + usize::try_from(bytes_of(sectors)).unwrap_or(0), 0);
        state.sector = directory + sectors;
        tail.extend(self.marker(Marker::Footer)?);
        let footer = Header {
            directory,
            ..self.header.clone()
        };
        let footer = footer.encode().map_err(|flaw| flaw.of(self.output.label()))?;
        tail.extend(footer);
        tail.extend(self.marker(Marker::EndOfStream)?);
        state.sector += 3;
        Ok(tail)
    }
}

/// What begins at `sector`; `None` behind the end of the file, and where a grain would reach past it.
fn marker_at(container: &dyn Disk, sector: u64) -> Result<Option<Marker>> {
    let mut bytes = [0; 16];
    let at = bytes_of(sector);
    if at.saturating_add(SECTOR) > container.size() {
        return Ok(None);
    }
    container.read_at(at, &mut bytes)?;
    Ok(match Marker::parse(&bytes) {
        Ok(Marker::Grain { length, .. })
            if at.saturating_add(bytes_of(grain_sectors(length))) > container.size()
                || u64::from(length) > 2 * GRAIN_BYTES =>
        {
            None
        }
        Ok(marker) => Some(marker),
        Err(_) => None,
    })
}

impl<O: Output> Sink for StreamOptimized<O> {
    fn unit(&self) -> u32 {
        u32::try_from(GRAIN_BYTES).unwrap_or(0)
    }

    fn put(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        let range = offset..offset.saturating_add(bytes.len() as u64);
        let packed = match self.pack(offset, bytes) {
            Ok(packed) => packed,
            Err(error) => {
                self.abandon();
                return Err(error);
            }
        };
        let pieces = self.turns.take(&range, |state| {
            let pieces = self.place(state, &packed)?;
            if self.output.only_forward() {
                self.write(&packed, &pieces)?;
                return Ok(Vec::new());
            }
            self.output.set_size(bytes_of(state.sector), false)?;
            Ok(pieces)
        })?;
        let written = self.write(&packed, &pieces);
        if written.is_err() {
            self.abandon();
        }
        written
    }

    fn skip(&self, range: Range<u64>) -> Result<()> {
        self.turns.take(&range, |_| Ok(()))
    }

    fn keep(&self, range: Range<u64>) -> Result<()> {
        self.turns.take(&range, |state| match self.output.earlier() {
            Some(earlier) => self.walk(state, earlier, &range),
            None => Err(nothing_to_keep(self.output.label())),
        })
    }

    fn checkpoint(&self) -> Result<()> {
        self.turns.pause(|_, _| Ok(()))?;
        self.output.flush()
    }

    fn abandon(&self) {
        self.turns.abandon();
    }

    fn finish(&self) -> Result<()> {
        self.turns.finish(|state| {
            let at = bytes_of(state.sector);
            let tail = self.tail(state)?;
            self.output.set_size(bytes_of(state.sector), true)?;
            self.output.write(at, &tail)
        })?;
        self.output.flush()
    }
}

impl Output for Container {
    fn label(&self) -> &str {
        self.disk.label()
    }

    fn only_forward(&self) -> bool {
        false
    }

    fn write(&self, at: u64, bytes: &[u8]) -> Result<()> {
        self.disk.write_at(at, bytes)
    }

    fn set_size(&self, size: u64, complete: bool) -> Result<()> {
        let wanted = if complete {
            size
        } else {
            size.next_multiple_of(GROWTH)
        };
        if !complete && size <= self.disk.size() {
            return Ok(());
        }
        match self.disk.set_size(wanted) {
            // A device has the size that it has.
            Err(error) if error.kind == Kind::Unsupported && size <= self.disk.size() => Ok(()),
            result => result,
        }
    }

    fn flush(&self) -> Result<()> {
        self.disk.flush()
    }

    fn earlier(&self) -> Option<&dyn Disk> {
        self.resumed.then_some(self.disk.as_ref())
    }
}

impl<W> fmt::Debug for Forward<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Forward({:?})", self.label)
    }
}

impl<W: Write + Send> Forward<W> {
    fn with(&self, act: impl FnOnce(&mut W) -> std::io::Result<()>) -> Result<()> {
        let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        act(&mut writer).map_err(|error| Error::io(&*self.label, error))
    }
}

impl<W: Write + Send> Output for Forward<W> {
    fn label(&self) -> &str {
        &self.label
    }

    fn only_forward(&self) -> bool {
        true
    }

    fn write(&self, _at: u64, bytes: &[u8]) -> Result<()> {
        self.with(|writer| writer.write_all(bytes))
    }

    fn set_size(&self, _size: u64, _complete: bool) -> Result<()> {
        Ok(())
    }

    fn flush(&self) -> Result<()> {
        self.with(Write::flush)
    }

    fn earlier(&self) -> Option<&dyn Disk> {
        None
    }
}
