//! Marvin32, the checksum of log entries (regf specification, "Log entries", notes 1 to 3).

/// The low and the high half of the seed that Windows uses for logs.
const SEED: (u32, u32) = (0x7a4e_55c5, 0x82ef_4d88);

/// The hash of `bytes`.
pub(in crate::hive) fn marvin32(bytes: &[u8]) -> u64 {
    let (mut low, mut high) = SEED;
    let mut words = bytes.chunks_exact(4);
    for word in words.by_ref() {
        let mut value = [0; 4];
        value.copy_from_slice(word);
        mix(&mut low, &mut high, u32::from_le_bytes(value));
    }
    // The rest, and behind it one byte that tells where it ends.
    let mut last = [0; 4];
    for (to, from) in last.iter_mut().zip(words.remainder().iter().chain([&0x80])) {
        *to = *from;
    }
    mix(&mut low, &mut high, u32::from_le_bytes(last));
    mix(&mut low, &mut high, 0);
    u64::from(high) << 32 | u64::from(low)
}

fn mix(low: &mut u32, high: &mut u32, value: u32) {
    *low = low.wrapping_add(value);
    *high ^= *low;
    *low = low.rotate_left(20).wrapping_add(*high);
    *high = high.rotate_left(9) ^ *low;
    *low = low.rotate_left(27).wrapping_add(*high);
    *high = high.rotate_left(19);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_those_of_other_implementations() {
        assert_eq!(marvin32(b""), 0xb39e_fca4_0396_6e08);
        assert_eq!(marvin32(b"a"), 0x21a0_13c7_26f2_92f4);
        assert_eq!(marvin32(b"abcd"), 0x2009_4fb1_1a6c_d086);
        assert_eq!(marvin32(b"abcde"), 0x187f_15f6_2504_6b86);
    }
}
