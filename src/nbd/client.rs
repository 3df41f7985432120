//! An export as a [`Disk`]: requests cut to what the server takes, spread over several connections where it allows that.

use super::{
    address::Address,
    connection::{Connection, Failure},
    handshake::{Export, Refusal},
    protocol::{
        BlockSizes, Command, Request, ServerError, Violation, command_flag, error_value, transmission_flag,
    },
    reply::Answer,
    stream::{Patience, Stream, connect},
};
use crate::{
    disk::{Content, Disk, Error, Extent, Kind, Result, StickyFlush, check_range, push_extent},
    watch::Watch,
};
use std::{
    fmt,
    ops::Range,
    sync::{Arc, Mutex, PoisonError, RwLock},
};

/// What an export is opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// A source: nothing is written, whatever the server would allow.
    Read,
    /// A destination.
    Write,
}

/// An export of a server. It is not reconnected when the connection breaks: what the server had not brought to its disk
/// by then is unknown, so the copy fails, and goes on from its ledger when it is resumed.
pub struct NbdDisk {
    label: String,
    name: String,
    access: Access,
    patience: Patience,
    export: Export,
    blocks: BlockSizes,
    sector_size: u32,
    connect: Connector,
    connections: RwLock<Vec<Arc<Connection>>>,
    /// May there be more connections? Held by the one that opens the next.
    more: Mutex<bool>,
    /// Held while a block of which only a part is written is read and written back.
    partial: Mutex<()>,
    flushing: StickyFlush,
}

type Connector = Box<dyn Fn() -> Result<Box<dyn Stream>> + Send + Sync>;

/// As many as `nbdcopy` opens; more made nothing faster.
const MOST_CONNECTIONS: usize = 4;

/// Payloads are cut to this: an answer is complete before patience ends even on a line of 100 kbit/s.
const LARGEST_PAYLOAD: u32 = 2 << 20;

/// Zeros are written, and blocks discarded, in steps of this, so that a server that has to write them answers in time.
const LARGEST_STEP: u32 = 256 << 20;

/// Runs of one map.
const MOST_RUNS: usize = 1024;

impl fmt::Debug for NbdDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NbdDisk")
            .field("label", &self.label)
            .field("access", &self.access)
            .field("export", &self.export)
            .finish_non_exhaustive()
    }
}

impl NbdDisk {
    /// Connects to the export at `address`.
    ///
    /// # Errors
    /// Those of the connection; [`Kind::NotFound`] if the server has no such export, [`Kind::ReadOnly`] if it is
    /// opened for writing and the server lets nobody write.
    pub fn open(address: &Address, access: Access) -> Result<Self> {
        let patience = Patience::default();
        let place = address.clone();
        Self::over(
            &address.to_string(),
            &address.export,
            access,
            patience,
            move || connect(&place, patience),
        )
    }

    /// The export `name` over whatever streams `connect` makes; `label` is for messages.
    ///
    /// # Errors
    /// As [`NbdDisk::open`].
    pub fn over(
        label: &str,
        name: &str,
        access: Access,
        patience: Patience,
        connect: impl Fn() -> Result<Box<dyn Stream>> + Send + Sync + 'static,
    ) -> Result<Self> {
        let (first, export) = Connection::open(connect()?, name, patience).map_err(|e| refused(label, &e))?;
        let size = export.size.bytes;
        let blocks = export.blocks.unwrap_or_else(|| BlockSizes::untold(size));
        if !size.is_multiple_of(u64::from(blocks.minimum)) {
            let minimum = blocks.minimum;
            return Err(refused(label, &Violation::Size { size, minimum }.into()));
        }
        if i64::try_from(size).is_err() {
            let text = format!("the server says that the export has {size} bytes, which no disk has");
            return Err(Error::new(Kind::Corrupt, label, text));
        }
        let may_write = export.size.flags & transmission_flag::READ_ONLY == 0;
        if access == Access::Write && !may_write {
            let text = "the server offers this export for reading only";
            return Err(Error::new(Kind::ReadOnly, label, text));
        }
        Ok(Self {
            label: label.to_owned(),
            name: name.to_owned(),
            access,
            patience,
            export,
            blocks,
            sector_size: 512,
            connect: Box::new(connect),
            connections: RwLock::new(vec![Arc::new(first)]),
            more: Mutex::new(export.size.flags & transmission_flag::CAN_MULTI_CONN != 0),
            partial: Mutex::new(()),
            flushing: StickyFlush::default(),
        })
    }

    /// The same disk, counting in sectors of `sector_size` bytes, which a server does not tell.
    #[must_use]
    pub fn with_sector_size(mut self, sector_size: u32) -> Self {
        self.sector_size = sector_size;
        self
    }

    /// Does the server have a way to bring to its disk what was written? Without one, nobody knows what survives its power.
    pub fn can_flush(&self) -> bool {
        self.has(transmission_flag::SEND_FLUSH) || self.has(transmission_flag::SEND_FUA)
    }

    /// Makes all of the export zeros if the server can do that faster than by writing them; `false`: it cannot, at least not
    /// everywhere, and what it had done by then stays zeros.
    ///
    /// # Errors
    /// Those of writing; [`Kind::Cancelled`] if `watch` says so.
    pub fn zero_at_once(&self, watch: &dyn Watch) -> Result<bool> {
        if !self.has(transmission_flag::SEND_FAST_ZERO) || !self.has(transmission_flag::SEND_WRITE_ZEROES) {
            return Ok(false);
        }
        self.must_be_writable(0)?;
        let mut at = 0;
        while at < self.size() {
            if watch.cancelled() {
                return Err(Error::new(Kind::Cancelled, &*self.label, "cancelled"));
            }
            let length = self.step(self.size() - at, LARGEST_STEP);
            let request = self.writing(Command::WriteZeroes, command_flag::FAST_ZERO, at, length);
            match self.carry_out(request, &[], Answer::Nothing) {
                Ok(()) => at += u64::from(length),
                // It may refuse any of them: what is behind it differs from place to place.
                Err(Failure::Server(_)) => return Ok(false),
                Err(failure) => return Err(self.failed(&request, failure)),
            }
        }
        Ok(true)
    }

    fn has(&self, flag: u16) -> bool {
        self.export.size.flags & flag != 0
    }

    fn must_be_writable(&self, offset: u64) -> Result<()> {
        if self.access == Access::Write {
            return Ok(());
        }
        Err(Error::new(Kind::ReadOnly, &*self.label, "opened for reading only").at(offset))
    }

    /// The length of the next of several requests: `left` bytes are to go.
    fn step(&self, left: u64, most: u32) -> u32 {
        let most = most / self.blocks.minimum * self.blocks.minimum;
        u32::try_from(left).unwrap_or(most).min(most)
    }

    /// The longest payload.
    fn payload(&self) -> u32 {
        self.blocks.maximum.min(LARGEST_PAYLOAD)
    }

    /// A request that changes the export. Where the server cannot flush, it brings each at once to its disk.
    fn writing(&self, command: Command, flags: u16, offset: u64, length: u32) -> Request {
        let at_once = !self.has(transmission_flag::SEND_FLUSH) && self.has(transmission_flag::SEND_FUA);
        Request {
            command,
            flags: flags | if at_once { command_flag::FUA } else { 0 },
            offset,
            length,
        }
    }

    fn carry_out(
        &self,
        request: Request,
        payload: &[u8],
        answer: Answer<'_>,
    ) -> std::result::Result<(), Failure> {
        match self.connection() {
            Some(connection) => connection.carry_out(request, payload, answer),
            None => Err(Failure::Broken("there is no connection".to_owned())),
        }
    }

    /// The connection with the fewest requests; a new one if all are at work and the server allows it.
    fn connection(&self) -> Option<Arc<Connection>> {
        let (idlest, count) = {
            let connections = self.connections.read().unwrap_or_else(PoisonError::into_inner);
            let idlest = connections.iter().min_by_key(|connection| connection.load());
            (idlest.cloned(), connections.len())
        };
        if count < MOST_CONNECTIONS
            && idlest.as_ref().is_some_and(|connection| connection.load() > 0)
            && let Ok(mut more) = self.more.try_lock()
            && *more
        {
            match self.another() {
                Some(connection) => {
                    let mut connections = self.connections.write().unwrap_or_else(PoisonError::into_inner);
                    connections.push(connection.clone());
                    return Some(connection);
                }
                // What there is will do.
                None => *more = false,
            }
        }
        idlest
    }

    /// One more connection, if the server offers the same export on it.
    fn another(&self) -> Option<Arc<Connection>> {
        let stream = (self.connect)().ok()?;
        let (connection, export) = Connection::open(stream, &self.name, self.patience).ok()?;
        let same = export.size == self.export.size
            && export.blocks == self.export.blocks
            && export.structured == self.export.structured
            && export.allocation == self.export.allocation;
        same.then(|| Arc::new(connection))
    }

    fn failed(&self, request: &Request, failure: Failure) -> Error {
        let doing = request.command.doing();
        let (kind, text) = match failure {
            Failure::Broken(why) => (
                Kind::Io,
                format!(
                    "the connection broke while {doing} {} bytes: {why}",
                    request.length
                ),
            ),
            Failure::Server(error) => {
                let kind = match error.number {
                    error_value::EPERM if request.command != Command::Read => Kind::ReadOnly,
                    error_value::ENOSPC => Kind::Full,
                    error_value::ENOTSUP => Kind::Unsupported,
                    _ => Kind::Io,
                };
                let why = words(&error);
                (
                    kind,
                    format!("the server says of {doing} {} bytes: {why}", request.length),
                )
            }
        };
        Error::new(kind, &*self.label, text).at(request.offset)
    }

    /// Reads whole blocks.
    fn read_blocks(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        let mut at = offset;
        let mut rest = buffer;
        while !rest.is_empty() {
            let length = self.step(rest.len() as u64, self.payload());
            let (piece, after) = rest.split_at_mut(usize::try_from(length).unwrap_or(0).min(rest.len()));
            let request = Request {
                command: Command::Read,
                flags: 0,
                offset: at,
                length,
            };
            let answer = Answer::Data {
                offset: at,
                buffer: piece,
            };
            self.carry_out(request, &[], answer)
                .map_err(|failure| self.failed(&request, failure))?;
            at += u64::from(length);
            rest = after;
        }
        Ok(())
    }

    /// Writes whole blocks.
    fn write_blocks(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        let mut at = offset;
        let mut rest = bytes;
        while !rest.is_empty() {
            let length = self.step(rest.len() as u64, self.payload());
            let (piece, after) = rest.split_at(usize::try_from(length).unwrap_or(0).min(rest.len()));
            let request = self.writing(Command::Write, 0, at, length);
            self.carry_out(request, piece, Answer::Nothing)
                .map_err(|failure| self.failed(&request, failure))?;
            at += u64::from(length);
            rest = after;
        }
        Ok(())
    }

    /// Cuts `range` where blocks end: what lies within one block, or is whole blocks.
    fn cut(&self, range: Range<u64>) -> impl Iterator<Item = Range<u64>> {
        let block = u64::from(self.blocks.minimum);
        let first = range.start.next_multiple_of(block).min(range.end);
        let last = (range.end / block * block).max(first);
        [range.start..first, first..last, last..range.end]
            .into_iter()
            .filter(|piece| !piece.is_empty())
    }

    fn is_whole(&self, range: &Range<u64>) -> bool {
        let block = u64::from(self.blocks.minimum);
        range.start.is_multiple_of(block) && range.end.is_multiple_of(block)
    }

    /// The block that holds `offset`, and where that is in it.
    fn block(&self, offset: u64) -> Result<(u64, Vec<u8>, usize)> {
        let size = u64::from(self.blocks.minimum);
        let start = offset / size * size;
        let mut block = vec![0; usize::try_from(size).unwrap_or(0)];
        self.read_blocks(start, &mut block)?;
        Ok((start, block, usize::try_from(offset - start).unwrap_or(0)))
    }

    /// Writes a part of one block.
    fn write_partially(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        let _alone = self.partial.lock().unwrap_or_else(PoisonError::into_inner);
        let (start, mut block, at) = self.block(offset)?;
        if let Some(place) = block.get_mut(at..at.saturating_add(bytes.len())) {
            place.copy_from_slice(bytes);
        }
        self.write_blocks(start, &block)
    }

    /// Zeros over whole blocks. A server that cannot take so long a request is asked for shorter ones.
    fn zero_blocks(&self, range: Range<u64>) -> Result<()> {
        let mut most = LARGEST_STEP;
        let mut at = range.start;
        while at < range.end {
            let length = self.step(range.end - at, most);
            let request = self.writing(Command::WriteZeroes, 0, at, length);
            match self.carry_out(request, &[], Answer::Nothing) {
                Ok(()) => at += u64::from(length),
                Err(Failure::Server(error)) if length > self.payload() && is_too_long(&error) => {
                    most = self.payload();
                }
                Err(failure) => return Err(self.failed(&request, failure)),
            }
        }
        Ok(())
    }

    /// The runs of the export from `start` on, a whole block; all data where the server cannot tell.
    fn map(&self, start: u64, length: u32, context: u32) -> Result<Vec<Extent>> {
        let mut runs = Vec::new();
        let request = Request {
            command: Command::BlockStatus,
            flags: 0,
            offset: start,
            length,
        };
        let answer = Answer::Map {
            context,
            runs: &mut runs,
            most: MOST_RUNS,
        };
        match self.carry_out(request, &[], answer) {
            Ok(()) => {}
            Err(Failure::Server(error)) if error.number != error_value::ESHUTDOWN => {
                return Ok(vec![Extent::new(
                    start..start.saturating_add(u64::from(length)),
                    Content::Data,
                )]);
            }
            Err(failure) => return Err(self.failed(&request, failure)),
        }
        let mut map = Vec::with_capacity(runs.len());
        let mut at = start;
        for run in runs {
            let end = at.saturating_add(u64::from(run.length));
            let content = match (run.zero, run.hole) {
                (true, true) => Content::Hole,
                (true, false) => Content::Zero,
                // What a hole that is not said to be zeros reads as is anybody's guess.
                (false, _) => Content::Data,
            };
            push_extent(&mut map, Extent::new(at..end, content));
            at = end;
        }
        Ok(map)
    }
}

/// "`NBD_CMD_WRITE_ZEROES`": the errors of a server to which a request without payload is too long.
fn is_too_long(error: &ServerError) -> bool {
    matches!(
        error.number,
        error_value::EINVAL | error_value::EOVERFLOW | error_value::ENOTSUP
    )
}

/// "Error values", with what the server adds to them.
fn words(error: &ServerError) -> String {
    let text = match error.number {
        error_value::EPERM => "operation not permitted".to_owned(),
        5 => "input/output error".to_owned(),
        12 => "out of memory".to_owned(),
        error_value::EINVAL => "invalid argument".to_owned(),
        error_value::ENOSPC => "no space left".to_owned(),
        error_value::EOVERFLOW => "value too large".to_owned(),
        error_value::ENOTSUP => "not supported".to_owned(),
        error_value::ESHUTDOWN => "it is shutting down".to_owned(),
        number => format!("error {number}"),
    };
    match &error.message {
        Some(message) => format!("{text} ({message})"),
        None => text,
    }
}

fn refused(label: &str, refusal: &Refusal) -> Error {
    let kind = match refusal {
        Refusal::Io(_) | Refusal::Refused { .. } => Kind::Io,
        Refusal::Violation(_) => Kind::Corrupt,
        Refusal::Tls => Kind::Unsupported,
        Refusal::Unknown { .. } | Refusal::Closed(_) | Refusal::Oldstyle(_) => Kind::NotFound,
    };
    Error::new(kind, label, refusal.to_string())
}

impl Disk for NbdDisk {
    fn label(&self) -> &str {
        &self.label
    }

    fn size(&self) -> u64 {
        self.export.size.bytes
    }

    fn sector_size(&self) -> u32 {
        self.sector_size
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        let end = check_range(&self.label, self.size(), offset, buffer.len() as u64)?;
        let mut rest = buffer;
        for range in self.cut(offset..end) {
            let length = usize::try_from(range.end - range.start).unwrap_or(0);
            let (piece, after) = rest.split_at_mut(length.min(rest.len()));
            if self.is_whole(&range) {
                self.read_blocks(range.start, piece)?;
            } else {
                let (_, block, at) = self.block(range.start)?;
                if let Some(bytes) = block.get(at..at.saturating_add(length)) {
                    piece.copy_from_slice(bytes);
                }
            }
            rest = after;
        }
        Ok(())
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        self.must_be_writable(offset)?;
        let end = check_range(&self.label, self.size(), offset, bytes.len() as u64)?;
        let mut rest = bytes;
        for range in self.cut(offset..end) {
            let length = usize::try_from(range.end - range.start).unwrap_or(0);
            let (piece, after) = rest.split_at(length.min(rest.len()));
            if self.is_whole(&range) {
                self.write_blocks(range.start, piece)?;
            } else {
                self.write_partially(range.start, piece)?;
            }
            rest = after;
        }
        Ok(())
    }

    fn extents(&self, range: Range<u64>) -> Result<Vec<Extent>> {
        let length = range.end.saturating_sub(range.start);
        check_range(&self.label, self.size(), range.start, length)?;
        if range.is_empty() {
            return Ok(Vec::new());
        }
        let Some(context) = self.export.allocation else {
            return Ok(vec![Extent::new(range, Content::Data)]);
        };
        let block = u64::from(self.blocks.minimum);
        let start = range.start / block * block;
        let whole = range.end.next_multiple_of(block) - start;
        let mut map = self.map(start, self.step(whole, u32::MAX), context)?;
        for extent in &mut map {
            extent.range = extent.range.start.max(range.start)..extent.range.end.min(range.end);
        }
        map.retain(|extent| extent.range.start < extent.range.end);
        if map.is_empty() {
            // Runs that end before the middle of the block that was asked for.
            let end = range.end.min(start.saturating_add(block));
            map.push(Extent::new(range.start..end, Content::Data));
        }
        Ok(map)
    }

    fn write_zeros(&self, range: Range<u64>) -> Result<()> {
        self.must_be_writable(range.start)?;
        let length = range.end.saturating_sub(range.start);
        check_range(&self.label, self.size(), range.start, length)?;
        for piece in self.cut(range) {
            if self.is_whole(&piece) && self.has(transmission_flag::SEND_WRITE_ZEROES) {
                self.zero_blocks(piece)?;
                continue;
            }
            let zeros = vec![0; usize::try_from(self.payload()).unwrap_or(0)];
            let mut at = piece.start;
            while at < piece.end {
                let count = usize::try_from(piece.end - at)
                    .unwrap_or(usize::MAX)
                    .min(zeros.len());
                self.write_at(at, zeros.get(..count).unwrap_or_default())?;
                at += count as u64;
            }
        }
        Ok(())
    }

    fn discard(&self, range: Range<u64>) -> Result<()> {
        self.must_be_writable(range.start)?;
        let length = range.end.saturating_sub(range.start);
        check_range(&self.label, self.size(), range.start, length)?;
        if !self.has(transmission_flag::SEND_TRIM) {
            return Ok(());
        }
        for piece in self.cut(range).filter(|piece| self.is_whole(piece)) {
            let mut at = piece.start;
            while at < piece.end {
                let length = self.step(piece.end - at, LARGEST_STEP);
                let request = self.writing(Command::Trim, 0, at, length);
                match self.carry_out(request, &[], Answer::Nothing) {
                    // A hint: a server that cannot forget keeps what it has.
                    Ok(()) | Err(Failure::Server(_)) => at += u64::from(length),
                    Err(failure) => return Err(self.failed(&request, failure)),
                }
            }
        }
        Ok(())
    }

    /// All that was written on any connection: the protocol demands that of a server that allows several.
    fn flush(&self) -> Result<()> {
        if self.access == Access::Read || !self.has(transmission_flag::SEND_FLUSH) {
            return Ok(());
        }
        let request = Request {
            command: Command::Flush,
            flags: 0,
            offset: 0,
            length: 0,
        };
        self.flushing.run(&self.label, || {
            self.carry_out(request, &[], Answer::Nothing)
                .map_err(|failure| self.failed(&request, failure))
        })
    }
}
