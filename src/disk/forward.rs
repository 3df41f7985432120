//! Streams that are read or written once, from front to back, under the traits of disks: a copy reads every byte once and
//! nearly in order, and so does a sink take it.

use super::{Content, Disk, Error, Extent, Kind, Result, Sink, check_range};
use std::{
    collections::BTreeMap,
    fmt,
    io::{ErrorKind, Read, Write},
    ops::Range,
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
};

/// A stream of bytes as a disk. Every byte can be read once; who comes too early waits for nothing: what lies before it in
/// the stream is kept for those who have been handed it.
pub struct ForwardDisk {
    label: String,
    size: u64,
    sector_size: u32,
    state: Mutex<Reading>,
}

struct Reading {
    stream: Box<dyn Read + Send>,
    position: u64,
    /// What others have to fetch yet, by offset.
    kept: BTreeMap<u64, Vec<u8>>,
    kept_bytes: usize,
    failed: Option<String>,
}

/// Each of a copy's threads has a chunk of 1 MiB before it; what is kept beyond that nobody will come for.
pub(crate) const MOST_KEPT: usize = 64 << 20;

/// Read at once for others.
const PIECE: u64 = 1 << 20;

impl fmt::Debug for ForwardDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ForwardDisk")
            .field("label", &self.label)
            .field("size", &self.size)
            .finish_non_exhaustive()
    }
}

impl ForwardDisk {
    /// The `size` bytes of `stream`, called `label`.
    pub fn new(label: &str, size: u64, sector_size: u32, stream: Box<dyn Read + Send>) -> Self {
        let state = Reading {
            stream,
            position: 0,
            kept: BTreeMap::new(),
            kept_bytes: 0,
            failed: None,
        };
        Self {
            label: label.to_owned(),
            size,
            sector_size,
            state: Mutex::new(state),
        }
    }

    /// Fails unless the stream ends where the disk does.
    ///
    /// # Errors
    /// [`Kind::Corrupt`] if more comes; those of the stream.
    pub fn must_be_at_end(&self) -> Result<()> {
        let mut state = self.lock();
        let position = state.position;
        let mut byte = [0];
        loop {
            match state.stream.read(&mut byte) {
                Ok(0) if position == self.size => return Ok(()),
                Ok(0) => return Err(self.cut(position)),
                Ok(_) => {
                    let text = format!("holds more than the {} bytes that were announced", self.size);
                    return Err(Error::new(Kind::Corrupt, &*self.label, text).at(self.size));
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(Error::io(&*self.label, error).at(position)),
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Reading> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn cut(&self, at: u64) -> Error {
        let text = format!("ends after {at} bytes, and {} were announced", self.size);
        Error::new(Kind::Corrupt, &*self.label, text).at(at)
    }

    fn take(&self, state: &mut Reading, offset: u64, buffer: &mut [u8]) -> Result<()> {
        let end = offset + buffer.len() as u64;
        let mut at = offset;
        while at < end {
            let rest = buffer.get_mut(usize::try_from(at - offset).unwrap_or(usize::MAX)..);
            let rest = rest.unwrap_or_default();
            let count = if at < state.position {
                self.fetch(state, at, rest)?
            } else if at > state.position {
                let length = (at - state.position).min(PIECE);
                let mut piece = vec![0; usize::try_from(length).unwrap_or(0)];
                self.fill(state, &mut piece)?;
                state.kept_bytes += piece.len();
                if state.kept_bytes > MOST_KEPT {
                    let text = "is read without order, and comes through a pipe: keep it in a file first";
                    return Err(Error::new(Kind::Unsupported, &*self.label, text).at(at));
                }
                state.kept.insert(state.position - length, piece);
                0
            } else {
                self.fill(state, rest)?;
                rest.len()
            };
            at += count as u64;
        }
        Ok(())
    }

    /// Reads the next bytes of the stream.
    fn fill(&self, state: &mut Reading, buffer: &mut [u8]) -> Result<()> {
        match state.stream.read_exact(buffer) {
            Ok(()) => {
                state.position += buffer.len() as u64;
                Ok(())
            }
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => Err(self.cut(state.position)),
            Err(error) => Err(Error::io(&*self.label, error).at(state.position)),
        }
    }

    /// Fetches what was kept from `at` on; gives how much that is.
    fn fetch(&self, state: &mut Reading, at: u64, buffer: &mut [u8]) -> Result<usize> {
        let gone = || {
            let text = "was read already, and comes through a pipe: keep it in a file first";
            Error::new(Kind::Unsupported, &*self.label, text).at(at)
        };
        let (start, mut piece) = match state.kept.range(..=at).next_back() {
            Some((start, piece)) if *start + piece.len() as u64 > at => (*start, piece.clone()),
            _ => return Err(gone()),
        };
        state.kept.remove(&start);
        let before = usize::try_from(at - start).unwrap_or(usize::MAX);
        let mut wanted = piece.split_off(before.min(piece.len()));
        let rest = wanted.split_off(buffer.len().min(wanted.len()));
        let count = wanted.len();
        if let Some(place) = buffer.get_mut(..count) {
            place.copy_from_slice(&wanted);
        }
        state.kept_bytes = state.kept_bytes.saturating_sub(count);
        for (at, left) in [(start, piece), (at + count as u64, rest)] {
            if !left.is_empty() {
                state.kept.insert(at, left);
            }
        }
        Ok(count)
    }
}

impl Disk for ForwardDisk {
    fn label(&self) -> &str {
        &self.label
    }

    fn size(&self) -> u64 {
        self.size
    }

    fn sector_size(&self) -> u32 {
        self.sector_size
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        check_range(&self.label, self.size, offset, buffer.len() as u64)?;
        let mut state = self.lock();
        if let Some(failed) = &state.failed {
            return Err(Error::new(Kind::Io, &*self.label, failed.clone()).at(offset));
        }
        let taken = self.take(&mut state, offset, buffer);
        if let Err(error) = &taken {
            // The place in the stream is lost.
            state.failed = Some(error.source.to_string());
        }
        taken
    }

    fn extents(&self, range: Range<u64>) -> Result<Vec<Extent>> {
        let length = range.end.saturating_sub(range.start);
        check_range(&self.label, self.size, range.start, length)?;
        Ok(if range.is_empty() {
            Vec::new()
        } else {
            vec![Extent::new(range, Content::Data)]
        })
    }
}

/// A raw disk to what only goes forward: standard output. Zeros are written, since nothing can be left out.
pub struct ForwardSink<W> {
    label: String,
    size: u64,
    state: Mutex<Writing<W>>,
    turn: Condvar,
}

struct Writing<W> {
    writer: W,
    next: u64,
    closed: bool,
}

/// As little as a page: nothing is saved by more.
const UNIT: u32 = 4096;

impl<W> fmt::Debug for ForwardSink<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ForwardSink")
            .field("label", &self.label)
            .field("size", &self.size)
            .finish_non_exhaustive()
    }
}

impl<W: Write + Send> ForwardSink<W> {
    /// Writes a disk of `size` bytes to `writer`, called `label`.
    pub fn new(label: &str, size: u64, writer: W) -> Self {
        let state = Writing {
            writer,
            next: 0,
            closed: false,
        };
        Self {
            label: label.to_owned(),
            size,
            state: Mutex::new(state),
            turn: Condvar::new(),
        }
    }

    /// Waits until everything before `range` was written, then writes.
    fn in_turn(&self, range: &Range<u64>, write: impl FnOnce(&mut W) -> std::io::Result<()>) -> Result<()> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        while state.next != range.start {
            if state.closed {
                return Err(Error::new(Kind::Cancelled, &*self.label, "writing was abandoned"));
            }
            state = self.turn.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        let written = write(&mut state.writer);
        match &written {
            Ok(()) => state.next = range.end,
            Err(_) => state.closed = true,
        }
        drop(state);
        self.turn.notify_all();
        written.map_err(|error| Error::io(&*self.label, error).at(range.start))
    }
}

impl<W: Write + Send> Sink for ForwardSink<W> {
    fn unit(&self) -> u32 {
        UNIT
    }

    fn put(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        let range = offset..offset.saturating_add(bytes.len() as u64);
        self.in_turn(&range, |writer| writer.write_all(bytes))
    }

    fn skip(&self, range: Range<u64>) -> Result<()> {
        self.in_turn(&range, |writer| {
            let zeros = [0; 1 << 16];
            let mut left = range.end.saturating_sub(range.start);
            while left > 0 {
                let count = usize::try_from(left).unwrap_or(usize::MAX).min(zeros.len());
                writer.write_all(zeros.get(..count).unwrap_or_default())?;
                left = left.saturating_sub(count as u64);
            }
            Ok(())
        })
    }

    fn writes_zeros(&self) -> bool {
        true
    }

    fn keep(&self, range: Range<u64>) -> Result<()> {
        let text = "only goes forward: there is nothing to keep";
        Err(Error::new(Kind::Unsafe, &*self.label, text).at(range.start))
    }

    fn checkpoint(&self) -> Result<()> {
        Ok(())
    }

    fn abandon(&self) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).closed = true;
        self.turn.notify_all();
    }

    fn finish(&self) -> Result<()> {
        let end = self.size..self.size;
        self.in_turn(&end, Write::flush)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::{sync::Arc, thread};

    fn disk(bytes: &[u8]) -> ForwardDisk {
        let stream = Box::new(std::io::Cursor::new(bytes.to_vec()));
        ForwardDisk::new("pipe", bytes.len() as u64, 512, stream)
    }

    proptest! {
        #[test]
        fn pieces_nearly_in_order_are_what_the_stream_holds(
            cuts in proptest::collection::btree_set(1_usize..5000, 0..30),
            swaps in proptest::collection::vec(any::<bool>(), 40),
        ) {
            let bytes: Vec<u8> = (0..5000_u32).map(|at| (at * 7) as u8).collect();
            let disk = disk(&bytes);
            let bounds: Vec<usize> = std::iter::once(0).chain(cuts).chain([5000]).collect();
            let mut pieces: Vec<Range<usize>> = bounds.windows(2).map(|pair| pair[0]..pair[1]).collect();
            for (index, swap) in swaps.into_iter().enumerate() {
                if swap && index + 1 < pieces.len() {
                    pieces.swap(index, index + 1);
                }
            }
            for piece in pieces {
                let mut buffer = vec![0; piece.len()];
                disk.read_at(piece.start as u64, &mut buffer).unwrap();
                prop_assert_eq!(&buffer, &bytes[piece]);
            }
            prop_assert_eq!(disk.lock().kept_bytes, 0);
            disk.must_be_at_end().unwrap();
        }
    }

    #[test]
    fn what_was_read_is_gone_and_a_stream_has_the_length_it_was_said_to_have() {
        let one = disk(&[7; 4096]);
        one.read_at(512, &mut [0; 512]).unwrap();
        one.read_at(0, &mut [0; 512]).unwrap();
        let error = one.read_at(0, &mut [0; 512]).unwrap_err();
        assert_eq!(error.kind, Kind::Unsupported);

        let short = ForwardDisk::new("pipe", 5000, 512, Box::new(&[1_u8; 4096][..]));
        let error = short.read_at(4000, &mut [0; 512]).unwrap_err();
        assert!(
            error.to_string().contains("ends after 4000 bytes, and 5000"),
            "{error}"
        );
        let long = ForwardDisk::new("pipe", 100, 512, Box::new(&[1_u8; 101][..]));
        long.read_at(0, &mut [0; 100]).unwrap();
        let error = long.must_be_at_end().unwrap_err();
        assert!(error.to_string().contains("more than the 100 bytes"), "{error}");
        let skipped = ForwardDisk::new("pipe", 1 << 40, 512, Box::new(std::io::repeat(1)));
        let error = skipped.read_at(1 << 30, &mut [0; 512]).unwrap_err();
        assert!(error.to_string().contains("without order"), "{error}");
    }

    #[test]
    fn a_sink_writes_in_order_and_is_abandoned_without_waiting() {
        let sink = Arc::new(ForwardSink::new("out", 3000, Vec::new()));
        thread::scope(|scope| {
            scope.spawn(|| sink.put(2000, &[3; 1000]).unwrap());
            scope.spawn(|| sink.skip(1000..2000).unwrap());
            sink.put(0, &[1; 1000]).unwrap();
        });
        sink.finish().unwrap();
        let state = sink.state.lock().unwrap();
        assert_eq!(state.writer.len(), 3000);
        assert!(state.writer[1000..2000].iter().all(|byte| *byte == 0) && state.writer[2000] == 3);
        drop(state);

        let sink = ForwardSink::new("out", 3000, Vec::new());
        thread::scope(|scope| {
            let waiting = scope.spawn(|| sink.put(1000, &[1; 1000]).unwrap_err());
            thread::sleep(std::time::Duration::from_millis(50));
            sink.abandon();
            assert_eq!(waiting.join().unwrap().kind, Kind::Cancelled);
        });
    }
}
