//! Canonical Huffman codes: the lengths of the codes say all ([MS-XCA] 2.2.4, [MS-PATCH] 2.2).

use super::{
    bit_reader::BitReader,
    error::{NtfsError, Parsed},
};

/// The longest code.
const LONGEST: usize = 16;
/// Codes up to here are looked up in one step.
const FAST: u32 = 10;

/// Decodes symbols.
#[derive(Debug)]
pub(super) struct Decoder {
    /// By the next bits: the symbol and the length of its code, 0 for a longer code.
    fast: Vec<(u16, u8)>,
    /// For each length: the first code, left-aligned in 16 bits, past the last one of that length, and the place of its
    /// symbol.
    lengths: [Length; LONGEST + 1],
    /// By length, then by number.
    symbols: Vec<u16>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Length {
    first: u32,
    end: u32,
    place: usize,
}

impl Decoder {
    /// From the length of each symbol's code; 0 for symbols that do not occur.
    pub(super) fn new(lengths: &[u8]) -> Parsed<Self> {
        let mut counts = [0_u32; LONGEST + 1];
        let mut symbols: Vec<(u8, u16)> = Vec::new();
        for (symbol, length) in (0..).zip(lengths) {
            let count = counts.get_mut(usize::from(*length));
            *count.ok_or_else(|| NtfsError::damaged("a code of more than 16 bits"))? += 1;
            if *length > 0 {
                symbols.push((*length, symbol));
            }
        }
        symbols.sort_unstable();
        let mut table = [Length::default(); LONGEST + 1];
        let mut fast = vec![(0, 0); 1 << FAST];
        let mut code = 0_u32;
        let mut place = 0_usize;
        for (length, (count, entry)) in (0_u32..).zip(counts.iter().zip(&mut table)).skip(1) {
            let step = 1_u32 << (16 - length);
            *entry = Length {
                first: code,
                end: code + count * step,
                place,
            };
            if entry.end > 1 << 16 {
                return Err(NtfsError::damaged("more codes than there can be"));
            }
            if length <= FAST {
                let of_length = symbols.iter().skip(place).take(*count as usize);
                for (index, (_, symbol)) in (0_u32..).zip(of_length) {
                    let from = ((code + index * step) >> (16 - FAST)) as usize;
                    let to = from + (step >> (16 - FAST)) as usize;
                    if let Some(slots) = fast.get_mut(from..to) {
                        slots.fill((*symbol, u8::try_from(length).unwrap_or(0)));
                    }
                }
            }
            code = entry.end;
            place += *count as usize;
        }
        Ok(Self {
            fast,
            lengths: table,
            symbols: symbols.into_iter().map(|(_, symbol)| symbol).collect(),
        })
    }

    /// The next symbol.
    pub(super) fn decode(&self, reader: &mut BitReader<'_>) -> Parsed<u16> {
        let bits = reader.peek();
        if let Some((symbol, length @ 1..)) = self.fast.get(usize::from(bits >> (16 - FAST))) {
            reader.skip(u32::from(*length));
            return Ok(*symbol);
        }
        let bits = u32::from(bits);
        for (length, entry) in (0_u32..).zip(&self.lengths).skip(1) {
            if bits < entry.end {
                let index = (bits - entry.first.min(bits)) >> (16 - length);
                reader.skip(length);
                return self
                    .symbols
                    .get(entry.place + index as usize)
                    .copied()
                    .ok_or_else(|| NtfsError::damaged("a code without a symbol"));
            }
        }
        Err(NtfsError::damaged("a code without a symbol"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_follow_from_their_lengths() {
        // a: 0, b: 10, c: 110, d: 1110 and so on, the last two of 12 bits.
        let lengths: Vec<u8> = (1..=12).chain([12]).collect();
        let decoder = Decoder::new(&lengths).unwrap();
        let mut reader = BitReader::new(&[0b0101_1011, 0b0101_1011, 0xff, 0xff, 0, 0]);
        let mut symbols = Vec::new();
        for _ in 0..10 {
            symbols.push(decoder.decode(&mut reader).unwrap());
        }
        assert_eq!(symbols[..9], [0, 1, 2, 2, 1, 2, 12, 6, 0][..]);
        assert!(Decoder::new(&[1, 1, 1]).is_err());
        assert!(Decoder::new(&[17]).is_err());
        let half = Decoder::new(&[0, 1]).unwrap();
        assert_eq!(half.decode(&mut BitReader::new(&[0, 0])).unwrap(), 1);
        assert!(half.decode(&mut BitReader::new(&[0xff, 0xff])).is_err());
    }
}
