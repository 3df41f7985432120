//! Reading a streamOptimized image once, from front to back, as it comes through a pipe: VDF 5.0, "Stream-Optimized
//! Compressed Sparse Extents". The grains come in the order of the disk, each behind a marker; tables and the directory,
//! which are for those who can seek, are passed over.

use super::{
    SECTOR, bytes_of,
    descriptor::{self, NO_PARENT},
    flaw::Flaw,
    header::{Header, LENGTH, flag},
    marker::{GRAIN_HEADER, Marker, grain_sectors},
};
use crate::{
    disk::{Content, Disk, Error, Extent, Kind, Result, check_range},
    image::{Check, Format, Image, Info, deflate},
};
use std::{
    collections::BTreeMap,
    fmt,
    io::{ErrorKind, Read},
    ops::Range,
    sync::{Mutex, MutexGuard, PoisonError},
};

/// A streamOptimized image that is read once.
pub struct ForwardVmdk {
    label: String,
    size: u64,
    /// Bytes of a grain.
    grain: u64,
    state: Mutex<State>,
}

struct State {
    stream: Box<dyn Read + Send>,
    /// In bytes, for messages.
    position: u64,
    /// Grains that somebody has to fetch yet, by their place in the disk; compressed.
    kept: BTreeMap<u64, Vec<u8>>,
    kept_bytes: usize,
    /// All grains below this byte of the disk have come.
    frontier: u64,
    ended: bool,
    failed: Option<String>,
}

/// As for every disk that is read forward only.
const MOST_KEPT: usize = crate::disk::MOST_KEPT;

impl fmt::Debug for ForwardVmdk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ForwardVmdk")
            .field("label", &self.label)
            .field("size", &self.size)
            .finish_non_exhaustive()
    }
}

impl ForwardVmdk {
    /// Is an image that begins with `first` one that can be read from front to back?
    pub fn recognises(first: &[u8]) -> bool {
        Header::parse(first).is_ok_and(|header| is_stream(&header))
    }

    /// The image in `stream`, of which the sector `first` was read already; `label` is for messages.
    ///
    /// # Errors
    /// [`Kind::Corrupt`] for what [`ForwardVmdk::recognises`] does not; [`Kind::Unsupported`] for an image that stands on
    /// another, or is encrypted.
    pub fn open(label: &str, first: &[u8], mut stream: Box<dyn Read + Send>) -> Result<Self> {
        let header = Header::parse(first).map_err(|flaw| flaw.of(label))?;
        if !is_stream(&header) {
            let text = "is no streamOptimized image, and no other can be read through a pipe";
            return Err(Error::new(Kind::Unsupported, label, text));
        }
        let place = descriptor_place(&header).map_err(|flaw| flaw.of(label))?;
        let mut text = Vec::new();
        let mut buffer = [0; LENGTH];
        for sector in 1..header.overhead.max(1) {
            stream
                .read_exact(&mut buffer)
                .map_err(|error| cut(label, error))?;
            if place.contains(&sector) {
                text.extend_from_slice(&buffer);
            }
        }
        let descriptor = descriptor::parse(&text).map_err(|flaw| flaw.of(label))?;
        if descriptor.encrypted {
            return Err(Flaw::Encrypted.of(label));
        }
        if descriptor.parent_cid != NO_PARENT || descriptor.parent_hint.is_some() {
            let text = "stands on another image, which cannot be found from a pipe: keep it in a file beside that one";
            return Err(Error::new(Kind::Unsupported, label, text));
        }
        let state = State {
            stream,
            position: bytes_of(header.overhead.max(1)),
            kept: BTreeMap::new(),
            kept_bytes: 0,
            frontier: 0,
            ended: false,
            failed: None,
        };
        Ok(Self {
            label: label.to_owned(),
            size: bytes_of(header.capacity),
            grain: bytes_of(header.grain),
            state: Mutex::new(state),
        })
    }

    /// Reads to the end of the stream, which must be that of the image.
    ///
    /// # Errors
    /// [`Kind::Corrupt`] if it is cut short.
    pub fn must_be_at_end(&self) -> Result<()> {
        let mut state = self.lock();
        while !state.ended {
            self.next_grain(&mut state)?;
            // Nobody comes for it any more.
            state.kept.clear();
            state.kept_bytes = 0;
        }
        let mut rest = [0; 4096];
        loop {
            match state.stream.read(&mut rest) {
                Ok(0) => return Ok(()),
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(Error::io(&*self.label, error).at(state.position)),
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does `act`, unless the stream has failed before.
    fn with<T>(&self, act: impl FnOnce(&mut State) -> Result<T>) -> Result<T> {
        let mut state = self.lock();
        if let Some(failed) = &state.failed {
            return Err(Error::new(Kind::Io, &*self.label, failed.clone()));
        }
        let done = act(&mut state);
        if let Err(error) = &done {
            // The place in the stream is lost.
            state.failed = Some(error.source.to_string());
        }
        done
    }

    fn read(&self, state: &mut State, buffer: &mut [u8]) -> Result<()> {
        let position = state.position;
        state
            .stream
            .read_exact(buffer)
            .map_err(|error| cut(&self.label, error).at(position))?;
        state.position += buffer.len() as u64;
        Ok(())
    }

    /// Reads on until a grain has come, or the end.
    fn next_grain(&self, state: &mut State) -> Result<()> {
        loop {
            let mut sector = [0; LENGTH];
            self.read(state, &mut sector)?;
            let marker = Marker::parse(&sector).map_err(|error| Flaw::from(error).of(&self.label))?;
            match marker {
                Marker::Grain { sector: at, length } => return self.take_grain(state, at, length, &sector),
                Marker::EndOfStream => {
                    state.ended = true;
                    state.frontier = self.size;
                    return Ok(());
                }
                Marker::Table(sectors) | Marker::Directory(sectors) | Marker::Other(sectors) => {
                    self.pass_over(state, sectors)?;
                }
                Marker::Footer => self.pass_over(state, 1)?,
            }
        }
    }

    fn pass_over(&self, state: &mut State, sectors: u64) -> Result<()> {
        let mut buffer = [0; LENGTH];
        for _ in 0..sectors {
            self.read(state, &mut buffer)?;
        }
        Ok(())
    }

    fn take_grain(&self, state: &mut State, sector: u64, length: u32, first: &[u8]) -> Result<()> {
        let broken = |text: String| Error::new(Kind::Corrupt, &*self.label, text).at(state.position);
        let at = sector.saturating_mul(SECTOR);
        if at >= self.size || !at.is_multiple_of(self.grain) {
            return Err(broken(format!(
                "has a grain at sector {sector}, which is none of the disk's"
            )));
        }
        if at < state.frontier {
            let text = format!("has a grain at sector {sector} behind later ones: keep it in a file first");
            return Err(broken(text));
        }
        // What does not compress grows a little.
        if u64::from(length) > 2 * self.grain + SECTOR {
            return Err(broken(format!(
                "has a grain of {length} compressed bytes, more than any has"
            )));
        }
        let mut packed = first.to_vec();
        let whole = usize::try_from(bytes_of(grain_sectors(length))).unwrap_or(0);
        packed.resize(whole.max(LENGTH), 0);
        if let Some(rest) = packed.get_mut(LENGTH..) {
            self.read(state, rest)?;
        }
        let end = GRAIN_HEADER + usize::try_from(length).unwrap_or(0);
        packed.truncate(end);
        packed.drain(..GRAIN_HEADER.min(packed.len()));
        state.kept_bytes += packed.len();
        if state.kept_bytes > MOST_KEPT {
            let text = "is read without order, and comes through a pipe: keep it in a file first";
            return Err(Error::new(Kind::Unsupported, &*self.label, text).at(at));
        }
        state.kept.insert(at, packed);
        state.frontier = at.saturating_add(self.grain).min(self.size);
        Ok(())
    }

    /// The grains in `range`, which are read whole and are gone afterwards.
    fn grains(&self, state: &mut State, range: &Range<u64>) -> Result<Vec<(u64, Vec<u8>)>> {
        while state.frontier < range.end && !state.ended {
            self.next_grain(state)?;
        }
        let first = range.start / self.grain * self.grain;
        let places: Vec<u64> = state.kept.range(first..range.end).map(|(at, _)| *at).collect();
        let mut grains = Vec::with_capacity(places.len());
        for at in places {
            let end = at.saturating_add(self.grain).min(self.size);
            let whole = range.start <= at && end <= range.end;
            let packed = if whole {
                state.kept.remove(&at)
            } else {
                state.kept.get(&at).cloned()
            };
            let packed = packed.unwrap_or_default();
            if whole {
                state.kept_bytes = state.kept_bytes.saturating_sub(packed.len());
            }
            grains.push((at, packed));
        }
        Ok(grains)
    }
}

/// Sectors of the descriptor; none if the image has none.
fn descriptor_place(header: &Header) -> std::result::Result<Range<u64>, Flaw> {
    let (start, length) = (header.descriptor_offset, header.descriptor_size);
    if start == 0 || length == 0 {
        return Ok(0..0);
    }
    if bytes_of(length) > descriptor::LARGEST {
        return Err(Flaw::DescriptorTooLarge(descriptor::LARGEST));
    }
    let end = start.saturating_add(length);
    if end > header.overhead {
        let (offset, size) = (bytes_of(start), bytes_of(header.overhead));
        return Err(Flaw::PastTheEnd {
            what: "descriptor",
            offset,
            size,
        });
    }
    Ok(start..end)
}

fn is_stream(header: &Header) -> bool {
    header.has(flag::COMPRESSED) && header.has(flag::MARKERS) && header.is_compressed()
}

fn cut(label: &str, error: std::io::Error) -> Error {
    if error.kind() == ErrorKind::UnexpectedEof {
        return Error::new(Kind::Corrupt, label, "is cut short: it ends before its end mark");
    }
    Error::io(label, error)
}

impl Disk for ForwardVmdk {
    fn label(&self) -> &str {
        &self.label
    }

    fn size(&self) -> u64 {
        self.size
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        let end = check_range(&self.label, self.size, offset, buffer.len() as u64)?;
        let grains = self.with(|state| self.grains(state, &(offset..end)))?;
        buffer.fill(0);
        let mut unpacked = vec![0; usize::try_from(self.grain).unwrap_or(0)];
        for (at, packed) in grains {
            unpacked.fill(0);
            let broken = |error: String| {
                let text = format!("has a grain that does not unpack: {error}");
                Error::new(Kind::Corrupt, &*self.label, text).at(at)
            };
            let length = deflate::decompress(deflate::Envelope::Zlib, &packed, &mut unpacked)
                .map_err(|error| broken(error.to_string()))?;
            // The last grain may be packed without what lies behind the end of the disk.
            let needed = self.grain.min(self.size.saturating_sub(at));
            if (length as u64) < needed {
                return Err(broken(format!(
                    "it gives {length} bytes where {needed} are expected"
                )));
            }
            let part = at.max(offset)..at.saturating_add(self.grain).min(end);
            let index = |base: u64| {
                let index = |at: u64| usize::try_from(at.saturating_sub(base)).unwrap_or(usize::MAX);
                index(part.start)..index(part.end)
            };
            if let (Some(place), Some(bytes)) = (buffer.get_mut(index(offset)), unpacked.get(index(at))) {
                place.copy_from_slice(bytes);
            }
        }
        Ok(())
    }

    fn extents(&self, range: Range<u64>) -> Result<Vec<Extent>> {
        let length = range.end.saturating_sub(range.start);
        check_range(&self.label, self.size, range.start, length)?;
        if range.is_empty() {
            return Ok(Vec::new());
        }
        self.with(|state| {
            while state.frontier <= range.start && !state.ended {
                self.next_grain(state)?;
            }
            let first = range.start / self.grain * self.grain;
            let next = state.kept.range(first..).next().map(|(at, _)| *at);
            Ok(vec![match next {
                Some(at) if at <= range.start => Extent::new(
                    range.start..range.end.min(at.saturating_add(self.grain)),
                    Content::Data,
                ),
                Some(at) => Extent::new(range.start..range.end.min(at), Content::Hole),
                None => Extent::new(range.start..range.end.min(state.frontier), Content::Hole),
            }])
        })
    }
}

impl Image for ForwardVmdk {
    fn format(&self) -> Format {
        Format::Vmdk
    }

    fn info(&self) -> Result<Info> {
        Ok(Info {
            subformat: Some("streamOptimized".to_owned()),
            unit: Some(self.grain),
            ..Info::default()
        })
    }

    fn check(&self) -> Result<Check> {
        let text = "comes through a pipe, and a check needs a file";
        Err(Error::new(Kind::Unsupported, &*self.label, text))
    }
}
