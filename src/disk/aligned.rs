//! Memory that begins where direct I/O wants it.

/// What every device is content with, in memory and on it: a page, which is also the largest logical sector. In bytes.
pub const ALIGNMENT: usize = 4096;

/// Zeroed bytes that begin at a multiple of [`ALIGNMENT`].
#[derive(Debug)]
pub struct AlignedBuffer {
    bytes: Vec<u8>,
    start: usize,
    length: usize,
}

impl AlignedBuffer {
    /// `length` zeros.
    pub fn new(length: usize) -> Self {
        // The system's memory is not touched until it is used.
        let bytes = vec![0; length.saturating_add(ALIGNMENT)];
        let start = bytes.as_ptr().align_offset(ALIGNMENT).min(ALIGNMENT);
        Self { bytes, start, length }
    }

    /// The first `length` bytes, or all of them if there are fewer.
    pub fn first(&mut self, length: usize) -> &mut [u8] {
        let end = self.start + length.min(self.length);
        self.bytes.get_mut(self.start..end).unwrap_or_default()
    }
}

/// Do `bytes`, which belong at `offset`, begin and end on multiples of [`ALIGNMENT`], in memory and on the disk?
pub(super) fn is_aligned(bytes: &[u8], offset: u64) -> bool {
    bytes.as_ptr().align_offset(ALIGNMENT) == 0
        && bytes.len().is_multiple_of(ALIGNMENT)
        && offset.is_multiple_of(ALIGNMENT as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_begins_on_a_page_and_has_its_length() {
        for length in [0, 1, 4096, 100_000] {
            let mut buffer = AlignedBuffer::new(length);
            assert_eq!(buffer.first(usize::MAX), vec![0; length]);
            let half = buffer.first(length / 2);
            assert_eq!(half.len(), length / 2);
            assert_eq!(half.as_ptr() as usize % ALIGNMENT, 0);
            let whole = length / ALIGNMENT * ALIGNMENT;
            assert!(is_aligned(buffer.first(whole), 8192));
            assert!(!is_aligned(buffer.first(whole), 512));
        }
        let mut buffer = AlignedBuffer::new(8192);
        assert!(!is_aligned(&buffer.first(8192)[512..4608], 0));
        assert!(!is_aligned(&buffer.first(8192)[..512], 0));
    }
}
