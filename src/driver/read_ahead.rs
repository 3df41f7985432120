//! A buffered reader that can look at the next bytes without taking them, and knows how many it has given out:
//! where a compressed stream ends inside an image is only known by that count.

use std::io::{self, BufRead, ErrorKind, Read};

/// Large enough that a decoder is called rarely, small enough to stay in the cache.
const BUFFER: usize = 256 << 10;

/// How many bytes can be given back after they were taken.
const UNREADABLE: usize = 64;

/// Reads ahead of its user, never loses what was not taken.
pub(crate) struct ReadAhead<R> {
    source: R,
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    taken: u64,
}

impl<R: Read> ReadAhead<R> {
    pub(crate) fn new(source: R) -> Self {
        Self {
            source,
            buffer: vec![0; BUFFER],
            start: 0,
            end: 0,
            taken: 0,
        }
    }

    /// Bytes taken so far.
    pub(crate) fn position(&self) -> u64 {
        self.taken
    }

    fn buffered(&self) -> &[u8] {
        self.buffer.get(self.start..self.end).unwrap_or_default()
    }

    /// The next `count` bytes (at most 4096 can be asked for); fewer at the end of the source.
    pub(crate) fn peek(&mut self, count: usize) -> io::Result<&[u8]> {
        let count = count.min(4096);
        if self.end.saturating_sub(self.start) < count {
            let kept = self.start.saturating_sub(UNREADABLE);
            self.buffer.copy_within(kept..self.end, 0);
            self.end = self.end.saturating_sub(kept);
            self.start = self.start.saturating_sub(kept);
            while self.end.saturating_sub(self.start) < count {
                let room = self.buffer.get_mut(self.end..).unwrap_or_default();
                match self.source.read(room) {
                    Ok(0) => break,
                    Ok(read) => self.end = self.end.saturating_add(read).min(self.buffer.len()),
                    Err(error) if error.kind() == ErrorKind::Interrupted => {}
                    Err(error) => return Err(error),
                }
            }
        }
        let buffered = self.buffered();
        Ok(buffered.get(..count).unwrap_or(buffered))
    }

    /// Gives back the last `count` bytes, which were taken a moment ago (64 at most).
    pub(crate) fn unread(&mut self, count: usize) {
        let count = count.min(self.start).min(UNREADABLE);
        self.start = self.start.saturating_sub(count);
        self.taken = self.taken.saturating_sub(count as u64);
    }

    /// Takes `count` bytes without looking at them; an error if the source ends before.
    pub(crate) fn skip(&mut self, mut count: u64) -> io::Result<()> {
        while count > 0 {
            let available = self.fill_buf()?.len();
            if available == 0 {
                return Err(ErrorKind::UnexpectedEof.into());
            }
            let step = usize::try_from(count).unwrap_or(usize::MAX).min(available);
            self.consume(step);
            count = count.saturating_sub(step as u64);
        }
        Ok(())
    }

    /// Takes zeros, and says how many there were.
    pub(crate) fn skip_zeros(&mut self) -> io::Result<u64> {
        let before = self.taken;
        loop {
            let available = self.fill_buf()?;
            // Whole blocks first: a stream of zeros must be passed at the speed of memory.
            let blocks = available
                .chunks(4096)
                .take_while(|block| block.iter().all(|b| *b == 0));
            let zeros: usize = blocks.map(<[u8]>::len).sum();
            let rest = available.get(zeros..).unwrap_or_default().iter();
            let zeros = zeros.saturating_add(rest.take_while(|b| **b == 0).count());
            let ended = zeros < available.len() || available.is_empty();
            self.consume(zeros);
            if ended {
                return Ok(self.taken.saturating_sub(before));
            }
        }
    }
}

impl<R: Read> Read for ReadAhead<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let available = self.fill_buf()?;
        let count = available.len().min(buffer.len());
        if let (Some(to), Some(from)) = (buffer.get_mut(..count), available.get(..count)) {
            to.copy_from_slice(from);
        }
        self.consume(count);
        Ok(count)
    }
}

impl<R: Read> BufRead for ReadAhead<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.start >= self.end {
            self.peek(1)?;
        }
        Ok(self.buffered())
    }

    fn consume(&mut self, count: usize) {
        let count = count.min(self.end.saturating_sub(self.start));
        self.start = self.start.saturating_add(count);
        self.taken = self.taken.saturating_add(count as u64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gives one byte at a time, so that every boundary is met.
    struct Dribble<'a>(&'a [u8]);

    impl Read for Dribble<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let count = buffer.len().min(1);
            self.0.read(&mut buffer[..count])
        }
    }

    #[test]
    fn peeked_bytes_are_still_read() {
        let mut reader = ReadAhead::new(Dribble(b"abc\0\0\0def"));
        assert_eq!(reader.peek(2).unwrap(), b"ab");
        reader.skip(3).unwrap();
        assert_eq!((reader.skip_zeros().unwrap(), reader.position()), (3, 6));
        assert_eq!(reader.peek(100).unwrap(), b"def");
        let mut rest = Vec::new();
        reader.read_to_end(&mut rest).unwrap();
        assert_eq!((&*rest, reader.position()), (&b"def"[..], 9));
        assert!(reader.skip(1).is_err());
    }
}
