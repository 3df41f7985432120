//! LZ77 with Huffman codes, "XPRESS Huffman" ([MS-XCA] 2.1 and 2.2).

use super::{
    bit_reader::BitReader,
    error::{NtfsError, Parsed},
    huffman::Decoder,
    lznt1::copy_back,
};

/// Two lengths in each.
const LENGTHS: usize = 256;
/// Symbols below are bytes, others matches.
const BYTES: u16 = 256;
/// Shortest match.
const SHORTEST: usize = 3;

/// Expands `packed` to exactly `length` bytes, at most 64 KiB.
pub(super) fn expand(packed: &[u8], length: usize) -> Parsed<Vec<u8>> {
    let (table, rest) = packed
        .split_at_checked(LENGTHS)
        .ok_or_else(|| NtfsError::damaged("XPRESS data without a table of codes"))?;
    let lengths: Vec<u8> = table.iter().flat_map(|byte| [byte & 15, byte >> 4]).collect();
    let decoder = Decoder::new(&lengths)?;
    let mut reader = BitReader::new(rest);
    let mut out = Vec::with_capacity(length);
    while out.len() < length {
        let symbol = decoder.decode(&mut reader)?;
        let Some(pair) = symbol.checked_sub(BYTES) else {
            out.push(u8::try_from(symbol).unwrap_or(0));
            continue;
        };
        let distance_bits = u32::from(pair >> 4);
        reader.ensure(16);
        let distance = (1_usize << distance_bits) + reader.take(distance_bits) as usize;
        let mut count = usize::from(pair & 15);
        if count == 15 {
            count = match reader.byte() {
                255 => usize::from(reader.word()),
                more => 15 + usize::from(more),
            };
        }
        count += SHORTEST;
        if distance > out.len() || count > length - out.len() {
            return Err(NtfsError::damaged(format!(
                "XPRESS data refer to {count} bytes, {distance} before byte {} of {length}",
                out.len()
            )));
        }
        copy_back(&mut out, distance, count);
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The second example of [MS-XCA] 3.2: "abc" a hundred times.
    #[test]
    fn the_example_of_the_specification() {
        let mut packed = vec![0; 256];
        packed[48] = 0x30;
        packed[49] = 0x23;
        packed[128] = 0x02;
        packed[143] = 0x20;
        packed.extend([0xa8, 0xdc, 0x00, 0x00, 0xff, 0x26, 0x01]);
        assert_eq!(expand(&packed, 300).unwrap(), b"abc".repeat(100));
    }

    proptest! {
        #[test]
        fn any_bytes_give_an_error_or_the_length(
            lengths in proptest::collection::vec(any::<u8>(), 0..10),
            packed in proptest::collection::vec(any::<u8>(), 0..600),
        ) {
            let mut table = vec![0x89; 256];
            table.truncate(256 - lengths.len());
            table.extend(lengths);
            table.extend(packed);
            if let Ok(out) = expand(&table, 4096) {
                prop_assert_eq!(out.len(), 4096);
            }
        }
    }
}
