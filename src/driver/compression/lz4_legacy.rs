//! The legacy frame of LZ4 (LZ4 Frame Format Description, "Legacy frame"): a magic, then blocks, each after its
//! packed length. It has no end mark: the last block ends the file, or another frame's magic stands in its place.

use crate::driver::read_ahead::ReadAhead;
use std::io::{self, ErrorKind, Read};

/// First four bytes.
const MAGIC: [u8; 4] = [0x02, 0x21, 0x4c, 0x18];
/// Every block but the last unpacks to this.
const BLOCK: usize = 8 << 20;
/// The longest that a block can be when packed: the format's own bound, n + n/255 + 16.
const PACKED_BLOCK: usize = BLOCK + BLOCK / 255 + 16;

/// Reads frames that follow each other without a gap as one stream.
pub(crate) struct Lz4Legacy<'a, R> {
    source: &'a mut ReadAhead<R>,
    packed: Vec<u8>,
    block: Vec<u8>,
    length: usize,
    given: usize,
    finished: bool,
}

impl<'a, R: Read> Lz4Legacy<'a, R> {
    pub(crate) fn new(source: &'a mut ReadAhead<R>) -> Self {
        Self {
            source,
            packed: Vec::new(),
            block: Vec::new(),
            length: 0,
            given: 0,
            finished: false,
        }
    }

    /// Unpacks the next block; false at the end.
    fn next_block(&mut self) -> io::Result<bool> {
        let length = loop {
            let next = self.source.peek(4)?;
            let Ok(word) = <[u8; 4]>::try_from(next) else {
                return Ok(false);
            };
            if word == MAGIC {
                self.source.skip(4)?;
                continue;
            }
            let length = usize::try_from(u32::from_le_bytes(word)).unwrap_or(usize::MAX);
            // Zero is padding; what is longer than a block can be is no block but whatever follows the stream.
            if length == 0 || length > PACKED_BLOCK {
                return Ok(false);
            }
            break length;
        };
        self.source.skip(4)?;
        self.packed.resize(length, 0);
        self.source.read_exact(&mut self.packed)?;
        self.block.resize(BLOCK, 0);
        self.given = 0;
        self.length = lz4_flex::block::decompress_into(&self.packed, &mut self.block)
            .map_err(|error| io::Error::new(ErrorKind::InvalidData, format!("an LZ4 block: {error}")))?;
        Ok(true)
    }
}

impl<R: Read> Read for Lz4Legacy<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.given >= self.length && !self.finished {
            self.finished = !self.next_block()?;
        }
        let mut rest = self.block.get(self.given..self.length).unwrap_or_default();
        let count = rest.read(buffer)?;
        self.given = self.given.saturating_add(count);
        Ok(count)
    }
}

/// `bytes` as one legacy frame.
pub(crate) fn compress(bytes: &[u8]) -> Vec<u8> {
    let mut frame = MAGIC.to_vec();
    for block in bytes.chunks(BLOCK) {
        let packed = lz4_flex::block::compress(block);
        let length = u32::try_from(packed.len()).unwrap_or(u32::MAX);
        frame.extend_from_slice(&length.to_le_bytes());
        frame.extend_from_slice(&packed);
    }
    frame
}
