//! LZNT1, the compression of compressed files ([MS-XCA] 2.5).
//!
//! Chunks of up to 4096 bytes, each by itself. A chunk is literals and references to what came before within the chunk; how
//! many bits of a reference are for the distance grows with the place.

use super::error::{NtfsError, Parsed};

/// Bytes that a chunk expands to.
const CHUNK: usize = 4096;
/// Shortest match.
const SHORTEST: usize = 3;

/// Expands `packed` to exactly `length` bytes; what a short chunk, or a missing one, lacks is zeros.
pub(super) fn expand(packed: &[u8], length: usize) -> Parsed<Vec<u8>> {
    let mut out = Vec::with_capacity(length);
    let mut rest = packed;
    while out.len() < length {
        let [low, high, after @ ..] = rest else {
            break;
        };
        let header = u16::from_le_bytes([*low, *high]);
        if header == 0 {
            break;
        }
        let size = usize::from(header & 0x0fff) + 1;
        let (chunk, after) = after
            .split_at_checked(size)
            .ok_or_else(|| NtfsError::damaged("a compressed chunk that reaches past its unit"))?;
        rest = after;
        let start = out.len();
        if header & 0x8000 == 0 {
            out.extend_from_slice(chunk);
        } else {
            expand_chunk(chunk, &mut out)?;
        }
        if out.len() - start > CHUNK {
            return Err(NtfsError::damaged("a compressed chunk of more than 4096 bytes"));
        }
        out.resize(start + CHUNK, 0);
    }
    out.resize(length, 0);
    Ok(out)
}

fn expand_chunk(chunk: &[u8], out: &mut Vec<u8>) -> Parsed<()> {
    let start = out.len();
    let mut rest = chunk.iter().copied();
    while let Some(flags) = rest.next() {
        for bit in 0..8 {
            let Some(first) = rest.next() else {
                return Ok(());
            };
            if flags >> bit & 1 == 0 {
                out.push(first);
                continue;
            }
            let second = rest
                .next()
                .ok_or_else(|| NtfsError::damaged("a compressed chunk that ends within a reference"))?;
            let token = usize::from(u16::from_le_bytes([first, second]));
            let done = out.len() - start;
            let bits = length_bits(done);
            let distance = (token >> bits) + 1;
            let length = (token & ((1 << bits) - 1)) + SHORTEST;
            if distance > done || done + length > CHUNK {
                return Err(NtfsError::damaged(format!(
                    "a compressed chunk refers to {length} bytes, {distance} before byte {done}"
                )));
            }
            copy_back(out, distance, length);
        }
    }
    Ok(())
}

/// Bits of a reference that are its length, after `done` bytes of the chunk.
fn length_bits(done: usize) -> u32 {
    // The distance needs as many bits as the last place has, and at least four.
    let distance = usize::BITS - done.saturating_sub(1).leading_zeros();
    16 - distance.clamp(4, 12)
}

/// Repeats the `length` bytes that begin `distance` before the end; both may overlap.
pub(super) fn copy_back(out: &mut Vec<u8>, distance: usize, length: usize) {
    let from = out.len().saturating_sub(distance);
    for at in from..from + length {
        let byte = out.get(at).copied().unwrap_or(0);
        out.push(byte);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The example of [MS-XCA] 3.3.
    #[test]
    fn the_example_of_the_specification() {
        let packed = [
            0x38, 0xb0, 0x88, 0x46, 0x23, 0x20, 0x00, 0x20, 0x47, 0x20, 0x41, 0x00, 0x10, 0xa2, 0x47, 0x01,
            0xa0, 0x45, 0x20, 0x44, 0x00, 0x08, 0x45, 0x01, 0x50, 0x79, 0x00, 0xc0, 0x45, 0x20, 0x05, 0x24,
            0x13, 0x88, 0x05, 0xb4, 0x02, 0x4a, 0x44, 0xef, 0x03, 0x58, 0x02, 0x8c, 0x09, 0x16, 0x01, 0x48,
            0x45, 0x00, 0xbe, 0x00, 0x9e, 0x00, 0x04, 0x01, 0x18, 0x90, 0x00,
        ];
        let text = b"F# F# G A A G F# E D D E F# F# E E F# F# G A A G F# E D D E F# E D D E E F# D E F# G F# D E F# G F# E D E \
                     A F# F# G A A G F# E D D E F# E D D\0";
        assert_eq!(expand(&packed, text.len()).unwrap(), text);
    }

    #[test]
    fn the_distance_grows_with_the_place() {
        for (done, bits) in [
            (1, 12),
            (16, 12),
            (17, 11),
            (32, 11),
            (33, 10),
            (2048, 5),
            (2049, 4),
            (4095, 4),
        ] {
            assert_eq!(length_bits(done), bits, "{done}");
        }
    }

    #[test]
    fn references_to_nowhere_are_refused() {
        assert!(expand(&[0x02, 0xb0, 0x01, 0x00, 0x00], 4096).is_err());
        assert!(expand(&[0x01, 0xb0, 0x01, 0x00], 4096).is_err());
        assert!(expand(&[0xff, 0xbf, 0x01], 4096).is_err());
        assert_eq!(expand(&[], 10).unwrap(), [0; 10]);
        assert_eq!(expand(&[1, 0x30, 5, 6], 4097).unwrap()[..3], [5, 6, 0]);
    }

    proptest! {
        #[test]
        fn any_bytes_give_an_error_or_the_length(packed in proptest::collection::vec(any::<u8>(), 0..3000)) {
            if let Ok(out) = expand(&packed, 65536) {
                prop_assert_eq!(out.len(), 65536);
            }
        }
    }
}
