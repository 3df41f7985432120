//! Bits as XPRESS Huffman and LZX pack them: in little-endian words of 16 bits, the highest bit first ([MS-XCA] 2.2,
//! [MS-PATCH] 2.1). Bytes of other fields stand between the words.

/// Reads bits; behind the end are zeros, so that no check is needed until what is made of them is as long as it must be.
#[derive(Debug)]
pub(super) struct BitReader<'a> {
    bytes: &'a [u8],
    /// The next byte that is not in `bits`.
    next: usize,
    /// The highest bit is the next.
    bits: u64,
    count: u32,
}

impl<'a> BitReader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self {
            bytes,
            next: 0,
            bits: 0,
            count: 0,
        }
    }

    /// Loads as few words as give `count` bits, at most 32.
    pub(super) fn ensure(&mut self, count: u32) {
        while self.count < count {
            let word = u64::from(self.word());
            self.bits |= word << (48 - self.count);
            self.count += 16;
        }
    }

    /// The next 16 bits, without taking them.
    pub(super) fn peek(&mut self) -> u16 {
        self.ensure(16);
        u16::try_from(self.bits >> 48).unwrap_or(0)
    }

    /// Drops bits that were looked at.
    pub(super) fn skip(&mut self, count: u32) {
        self.bits <<= count;
        self.count -= count.min(self.count);
    }

    /// The next `count` bits, at most 17.
    pub(super) fn take(&mut self, count: u32) -> u32 {
        if count == 0 {
            return 0;
        }
        self.ensure(count);
        let bits = u32::try_from(self.bits >> (64 - count)).unwrap_or(0);
        self.skip(count);
        bits
    }

    /// The byte behind the words that were loaded.
    pub(super) fn byte(&mut self) -> u8 {
        let byte = self.bytes.get(self.next).copied().unwrap_or(0);
        self.next = self.next.saturating_add(1);
        byte
    }

    /// The 16 bits behind the words that were loaded.
    pub(super) fn word(&mut self) -> u16 {
        let low = self.byte();
        u16::from_le_bytes([low, self.byte()])
    }

    /// Goes on with the bytes behind the word that the next bit is in.
    pub(super) fn align(&mut self) {
        let word = self.next.saturating_mul(8).saturating_sub(self.count as usize) / 16;
        self.next = (word + 1) * 2;
        self.bits = 0;
        self.count = 0;
    }

    /// The next `length` bytes, if there are so many.
    pub(super) fn bytes(&mut self, length: usize) -> Option<&'a [u8]> {
        let end = self.next.checked_add(length)?;
        let bytes = self.bytes.get(self.next..end)?;
        self.next = end;
        Some(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_highest_bit_of_a_word_is_first_and_bytes_stand_behind() {
        let mut reader = BitReader::new(&[0x01, 0x80, 0x34, 0x12, 9, 8, 7]);
        assert_eq!(reader.take(1), 1);
        assert_eq!(
            reader.peek(),
            0b10,
            "15 bits of the first word, one of the second"
        );
        assert_eq!(reader.byte(), 9);
        assert_eq!(reader.take(17), 0b0_0000_0000_0000_0100);
        assert_eq!(reader.take(14), 0x1234);
        assert_eq!(reader.take(16), 0x0708);
        assert_eq!(reader.take(17), 0);
    }

    #[test]
    fn aligning_gives_back_what_was_only_looked_at() {
        let mut reader = BitReader::new(&[1, 2, 3, 4, 5, 6]);
        reader.take(4);
        reader.ensure(20);
        reader.align();
        assert_eq!(reader.bytes(2), Some(&[3, 4][..]));
        // At the start of a word, that word is padding.
        reader.align();
        assert_eq!(reader.bytes(1), None);
    }
}
