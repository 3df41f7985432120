//! LZX as Windows image files have it: windows of 32 KiB, each by itself ([MS-PATCH] 2; where it differs: blocks say with
//! one bit that they have the usual size, and calls are translated as if every file had 12 MB).

use super::{
    bit_reader::BitReader,
    error::{NtfsError, Parsed},
    huffman::Decoder,
    lznt1::copy_back,
};

/// Bytes that a chunk expands to, at most.
pub(super) const CHUNK: usize = 32768;
/// Symbols below are bytes, others matches.
const BYTES: u16 = 256;
/// Distances of a window of 2^15 bytes come in 30 slots; 8 lengths of each have symbols of their own.
const SLOTS: usize = 30;
const MAIN_SYMBOLS: usize = 256 + SLOTS * 8;
const LENGTH_SYMBOLS: usize = 249;
const ALIGNED_SYMBOLS: usize = 8;
const PRE_SYMBOLS: usize = 20;
/// Shortest match.
const SHORTEST: usize = 2;
/// Lengths from here on have a second symbol.
const LONG: usize = 7;
/// What the translation of calls takes for the size of the file.
const TRANSLATION_SIZE: i32 = 12_000_000;

/// Types of blocks.
const VERBATIM: u32 = 1;
const ALIGNED: u32 = 2;
const UNCOMPRESSED: u32 = 3;

/// Expands a chunk to exactly `length` bytes.
pub(super) fn expand(packed: &[u8], length: usize) -> Parsed<Vec<u8>> {
    if length > CHUNK {
        return Err(NtfsError::damaged(format!("an LZX chunk of {length} bytes")));
    }
    let mut chunk = Chunk {
        reader: BitReader::new(packed),
        out: Vec::with_capacity(length),
        length,
        main: [0; MAIN_SYMBOLS],
        lengths: [0; LENGTH_SYMBOLS],
        recent: [1; 3],
    };
    while chunk.out.len() < length {
        chunk.block()?;
    }
    let mut out = chunk.out;
    translate_calls(&mut out);
    Ok(out)
}

struct Chunk<'a> {
    reader: BitReader<'a>,
    out: Vec<u8>,
    length: usize,
    /// Code lengths are told as differences to those of the block before.
    main: [u8; MAIN_SYMBOLS],
    lengths: [u8; LENGTH_SYMBOLS],
    /// The last three distances.
    recent: [usize; 3],
}

impl Chunk<'_> {
    fn block(&mut self) -> Parsed<()> {
        let kind = self.reader.take(3);
        let size = match self.reader.take(1) {
            1 => CHUNK,
            _ => self.reader.take(16) as usize,
        };
        let end = self.out.len() + size;
        if size == 0 || end > self.length && size != CHUNK {
            return Err(NtfsError::damaged(format!(
                "an LZX block of {size} bytes, where {} are left",
                self.length - self.out.len()
            )));
        }
        let end = end.min(self.length);
        match kind {
            VERBATIM => self.compressed(end, None),
            ALIGNED => {
                let lengths: Vec<u8> = (0..ALIGNED_SYMBOLS).map(|_| self.small(3)).collect();
                let aligned = Decoder::new(&lengths)?;
                self.compressed(end, Some(&aligned))
            }
            UNCOMPRESSED => self.uncompressed(end),
            other => Err(NtfsError::damaged(format!("an LZX block of type {other}"))),
        }
    }

    /// A field of a few bits.
    fn small(&mut self, bits: u32) -> u8 {
        u8::try_from(self.reader.take(bits)).unwrap_or(0)
    }

    fn uncompressed(&mut self, end: usize) -> Parsed<()> {
        self.reader.align();
        let cut = || NtfsError::damaged("an LZX block that is cut short");
        for recent in &mut self.recent {
            let raw = self
                .reader
                .bytes(4)
                .and_then(|raw| raw.try_into().ok())
                .ok_or_else(cut)?;
            *recent = usize::try_from(u32::from_le_bytes(raw)).unwrap_or(0);
        }
        let size = end - self.out.len();
        self.out
            .extend_from_slice(self.reader.bytes(size).ok_or_else(cut)?);
        if size % 2 == 1 {
            self.reader.byte();
        }
        Ok(())
    }

    fn compressed(&mut self, end: usize, aligned: Option<&Decoder>) -> Parsed<()> {
        let mut main = self.main;
        let (bytes, matches) = main.split_at_mut(usize::from(BYTES));
        read_lengths(&mut self.reader, bytes)?;
        read_lengths(&mut self.reader, matches)?;
        self.main = main;
        read_lengths(&mut self.reader, &mut self.lengths)?;
        let main = Decoder::new(&self.main)?;
        let lengths = Decoder::new(&self.lengths)?;
        while self.out.len() < end {
            let symbol = main.decode(&mut self.reader)?;
            let Some(pair) = symbol.checked_sub(BYTES) else {
                self.out.push(u8::try_from(symbol).unwrap_or(0));
                continue;
            };
            let mut count = usize::from(pair & 7);
            if count == LONG {
                count += usize::from(lengths.decode(&mut self.reader)?);
            }
            count += SHORTEST;
            let distance = self.distance(usize::from(pair >> 3), aligned)?;
            if distance == 0 || distance > self.out.len() || count > end - self.out.len() {
                return Err(NtfsError::damaged(format!(
                    "LZX data refer to {count} bytes, {distance} before byte {}",
                    self.out.len()
                )));
            }
            copy_back(&mut self.out, distance, count);
        }
        Ok(())
    }

    fn distance(&mut self, slot: usize, aligned: Option<&Decoder>) -> Parsed<usize> {
        let [first, second, third] = self.recent;
        let distance = match slot {
            0 => return Ok(first),
            1 => {
                self.recent = [second, first, third];
                return Ok(second);
            }
            2 => {
                self.recent = [third, second, first];
                return Ok(third);
            }
            _ => {
                // Two slots for each number of bits, from slot 4 on one.
                let bits = u32::try_from((slot / 2).saturating_sub(1)).unwrap_or(0);
                let base = (2 + slot % 2) << bits;
                let base = if slot < 4 { slot } else { base };
                let more = match aligned {
                    Some(aligned) if bits >= 3 => {
                        let high = self.reader.take(bits - 3) as usize;
                        high << 3 | usize::from(aligned.decode(&mut self.reader)?)
                    }
                    _ => self.reader.take(bits) as usize,
                };
                base + more - 2
            }
        };
        self.recent = [distance, first, second];
        Ok(distance)
    }
}

/// Code lengths, themselves in a code: a difference to the length before, or a run.
fn read_lengths(reader: &mut BitReader<'_>, lengths: &mut [u8]) -> Parsed<()> {
    let pre: Vec<u8> = (0..PRE_SYMBOLS)
        .map(|_| u8::try_from(reader.take(4)).unwrap_or(0))
        .collect();
    let pre = Decoder::new(&pre)?;
    let apply = |length: u8, symbol: u16| {
        let length = (17 + u16::from(length)).checked_sub(symbol)? % 17;
        u8::try_from(length).ok()
    };
    let wrong = || NtfsError::damaged("LZX code lengths that cannot be");
    let mut at = 0;
    while at < lengths.len() {
        let symbol = pre.decode(reader)?;
        let (count, symbol) = match symbol {
            17 => (4 + reader.take(4) as usize, None),
            18 => (20 + reader.take(5) as usize, None),
            19 => {
                let count = 4 + reader.take(1) as usize;
                (count, Some(pre.decode(reader)?))
            }
            symbol => (1, Some(symbol)),
        };
        let left = lengths.len() - at;
        // A run may reach past the end, as the encoder of Microsoft lets it.
        let run = lengths.get_mut(at..at + count.min(left)).unwrap_or_default();
        let length = match symbol {
            None => 0,
            Some(symbol) => run
                .first()
                .and_then(|first| apply(*first, symbol))
                .ok_or_else(wrong)?,
        };
        run.fill(length);
        at += count;
    }
    Ok(())
}

/// The targets of calls of x86 code were made absolute, so that calls of one function look alike.
fn translate_calls(out: &mut [u8]) {
    const CALL: u8 = 0xe8;
    /// No call is translated in the last bytes.
    const TAIL: usize = 10;
    let end = out.len().saturating_sub(TAIL);
    let mut at = 0;
    while at < end {
        let Some([CALL, field @ ..]) = out.get_mut(at..at + 5) else {
            at += 1;
            continue;
        };
        // Both are below 2^15.
        let here = i32::try_from(at).unwrap_or(0);
        if let Ok(raw) = <[u8; 4]>::try_from(&*field) {
            let target = i32::from_le_bytes(raw);
            let relative = match target {
                0.. if target < TRANSLATION_SIZE => Some(target - here),
                ..0 if target >= -here => Some(target + TRANSLATION_SIZE),
                _ => None,
            };
            if let Some(relative) = relative {
                field.copy_from_slice(&relative.to_le_bytes());
            }
        }
        at += 5;
    }
}
