//! The file format of `lzop` and its LZO1X data, as far as the kernel reads it (Linux, Documentation/staging/lzo.rst
//! describes the data; the header is that of lzop 1.0x).

use crate::driver::read_ahead::ReadAhead;
use std::io::{self, ErrorKind, Read};

const MAGIC: [u8; 9] = [0x89, b'L', b'Z', b'O', 0, 0x0d, 0x0a, 0x1a, 0x0a];
/// `lzop` packs blocks of 256 KiB; the format allows more, the tool refuses more than 64 MiB. The kernel takes
/// 256 KiB only.
const MAX_BLOCK: usize = 8 << 20;
/// From this version on the header has more fields.
const VERSION_WITH_LEVEL: u16 = 0x0940;

/// Bits of the header's flags.
mod flag {
    pub(super) const ADLER32_UNPACKED: u32 = 0x1;
    pub(super) const ADLER32_PACKED: u32 = 0x2;
    pub(super) const EXTRA_FIELD: u32 = 0x40;
    pub(super) const CRC32_UNPACKED: u32 = 0x100;
    pub(super) const CRC32_PACKED: u32 = 0x200;
    pub(super) const FILTER: u32 = 0x800;
}

/// One file of `lzop`.
pub(crate) struct Lzop<'a, R> {
    source: &'a mut ReadAhead<R>,
    flags: u32,
    packed: Vec<u8>,
    block: Vec<u8>,
    given: usize,
    finished: bool,
}

fn invalid(text: &str) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, text)
}

impl<'a, R: Read> Lzop<'a, R> {
    pub(crate) fn new(source: &'a mut ReadAhead<R>) -> io::Result<Self> {
        if array::<9, _>(source)? != MAGIC {
            return Err(invalid("no lzop header"));
        }
        let version = u16::from_be_bytes(array(source)?);
        let with_level = version >= VERSION_WITH_LEVEL;
        // Version of the library, version needed, method, level.
        source.skip(if with_level { 2 + 2 + 1 + 1 } else { 2 + 1 })?;
        let flags = u32::from_be_bytes(array(source)?);
        if flags & flag::FILTER != 0 {
            return Err(invalid(
                "lzop with a filter, which the kernel does not read either",
            ));
        }
        // Mode, time of the file (its upper half came with the level).
        source.skip(if with_level { 12 } else { 8 })?;
        let [name] = array(source)?;
        source.skip(u64::from(name) + 4)?;
        if flags & flag::EXTRA_FIELD != 0 {
            let length = u32::from_be_bytes(array(source)?);
            source.skip(u64::from(length) + 4)?;
        }
        Ok(Self {
            source,
            flags,
            packed: Vec::new(),
            block: Vec::new(),
            given: 0,
            finished: false,
        })
    }

    /// How many bytes of checksums stand before a block.
    fn checksums(&self, flags: &[u32]) -> u64 {
        4 * flags.iter().filter(|flag| self.flags & **flag != 0).count() as u64
    }

    /// Unpacks the next block; false at the end.
    fn next_block(&mut self) -> io::Result<bool> {
        let unpacked = length(self.source)?;
        if unpacked == 0 {
            return Ok(false);
        }
        let packed = length(self.source)?;
        if unpacked > MAX_BLOCK || packed > unpacked {
            return Err(invalid("an lzop block with impossible lengths"));
        }
        self.source
            .skip(self.checksums(&[flag::ADLER32_UNPACKED, flag::CRC32_UNPACKED]))?;
        self.given = 0;
        if packed == unpacked {
            self.block.resize(unpacked, 0);
            self.source.read_exact(&mut self.block)?;
            return Ok(true);
        }
        self.source
            .skip(self.checksums(&[flag::ADLER32_PACKED, flag::CRC32_PACKED]))?;
        self.packed.resize(packed, 0);
        self.source.read_exact(&mut self.packed)?;
        self.block.clear();
        lzo1x(&self.packed, &mut self.block, unpacked).ok_or_else(|| invalid("an LZO1X block is damaged"))?;
        Ok(true)
    }
}

fn array<const N: usize, R: Read>(source: &mut ReadAhead<R>) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    source.read_exact(&mut bytes)?;
    Ok(bytes)
}

fn length<R: Read>(source: &mut ReadAhead<R>) -> io::Result<usize> {
    Ok(usize::try_from(u32::from_be_bytes(array(source)?)).unwrap_or(usize::MAX))
}

impl<R: Read> Read for Lzop<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.given >= self.block.len() && !self.finished {
            self.finished = !self.next_block()?;
            if self.finished {
                self.block.clear();
            }
        }
        let mut rest = self.block.get(self.given..).unwrap_or_default();
        let count = rest.read(buffer)?;
        self.given = self.given.saturating_add(count);
        Ok(count)
    }
}

/// What stands before an instruction decides what instructions 0 to 15 mean.
#[derive(Clone, Copy)]
enum Before {
    /// A match without literals: a run of literals follows.
    Match,
    /// One to three literals after a match.
    FewLiterals,
    /// A run of four or more literals.
    Run,
}

/// Unpacks LZO1X `input` to exactly `expected` bytes of `output`; `None`: damaged.
fn lzo1x(input: &[u8], output: &mut Vec<u8>, expected: usize) -> Option<()> {
    let mut input = Bytes(input);
    output.reserve(expected);
    let mut before = Before::Match;
    if let Some(first @ 18..) = input.0.first().copied() {
        input.next()?;
        let literals = usize::from(first).checked_sub(17)?;
        input.copy(literals, output, expected)?;
        before = if literals < 4 {
            Before::FewLiterals
        } else {
            Before::Run
        };
    }
    loop {
        let instruction = input.next()?;
        let low = usize::from(instruction);
        // `tail`: its two lowest bits say how many literals follow the match.
        let (length, distance, tail) = match instruction {
            0..=15 => match before {
                Before::Match => {
                    let literals = 3 + input.long(low, 15)?;
                    input.copy(literals, output, expected)?;
                    before = Before::Run;
                    continue;
                }
                Before::FewLiterals => (2, (usize::from(input.next()?) << 2) + (low >> 2) + 1, low),
                Before::Run => (3, (usize::from(input.next()?) << 2) + (low >> 2) + 2049, low),
            },
            16..=31 => {
                let length = 2 + input.long(low & 7, 7)?;
                let word = input.word()?;
                let distance = ((low & 8) << 11) + (word >> 2);
                if distance == 0 {
                    // The end mark; nothing may follow it.
                    return (output.len() == expected && input.0.is_empty()).then_some(());
                }
                (length, distance + 16384, word)
            }
            32..=63 => {
                let length = 2 + input.long(low & 31, 31)?;
                let word = input.word()?;
                (length, (word >> 2) + 1, word)
            }
            64..=127 => (
                3 + ((low >> 5) & 1),
                (usize::from(input.next()?) << 3) + ((low >> 2) & 7) + 1,
                low,
            ),
            128..=255 => (
                5 + ((low >> 5) & 3),
                (usize::from(input.next()?) << 3) + ((low >> 2) & 7) + 1,
                low,
            ),
        };
        let from = output.len().checked_sub(distance)?;
        if output.len().checked_add(length)? > expected {
            return None;
        }
        if distance >= length {
            output.extend_from_within(from..from.checked_add(length)?);
        } else {
            // The match overlaps what it makes: byte by byte.
            for at in from..from.checked_add(length)? {
                output.push(*output.get(at)?);
            }
        }
        let literals = tail & 3;
        input.copy(literals, output, expected)?;
        before = if literals == 0 {
            Before::Match
        } else {
            Before::FewLiterals
        };
    }
}

/// Input that is taken from the front.
struct Bytes<'a>(&'a [u8]);

impl Bytes<'_> {
    fn next(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    fn word(&mut self) -> Option<usize> {
        Some(usize::from(u16::from_le_bytes([self.next()?, self.next()?])))
    }

    /// `value`, or, where that is zero, `base` and the bytes that follow: 255 for each zero, then one that is not.
    fn long(&mut self, value: usize, base: usize) -> Option<usize> {
        if value != 0 {
            return Some(value);
        }
        let mut length = base;
        loop {
            match self.next()? {
                0 => length = length.checked_add(255)?,
                last => return length.checked_add(usize::from(last)),
            }
        }
    }

    fn copy(&mut self, count: usize, output: &mut Vec<u8>, expected: usize) -> Option<()> {
        let (literals, rest) = self.0.split_at_checked(count)?;
        if output.len().checked_add(count)? > expected {
            return None;
        }
        output.extend_from_slice(literals);
        self.0 = rest;
        Some(())
    }
}
