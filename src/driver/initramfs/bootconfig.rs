//! The boot configuration that can stand at the very end of an image (Linux, Documentation/admin-guide/bootconfig.rst,
//! "Boot Configuration With Initrd"): text, its size, its checksum, a magic.

use crate::{disk::field::u32_le, driver::read_ahead::ReadAhead};
use std::io::{self, ErrorKind, Read};

const MAGIC: &[u8] = b"#BOOTCONFIG\n";
/// The kernel takes 32 KiB of text; with what stands behind it, and boot loaders' padding.
const MAX: u64 = (32 << 10) + 64;

/// It, with all that belongs to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Bootconfig {
    /// Where it begins in the image.
    pub(crate) offset: u64,
    /// From there to its magic.
    pub(crate) bytes: Vec<u8>,
}

/// Reads the rest of `source`, which must be a boot configuration.
pub(super) fn read<R: Read>(source: &mut ReadAhead<R>) -> io::Result<Bootconfig> {
    let start = source.position();
    let mut bytes = Vec::new();
    source.by_ref().take(MAX).read_to_end(&mut bytes)?;
    parse(start, bytes).ok_or_else(|| {
        io::Error::new(
            ErrorKind::InvalidData,
            "neither a cpio archive, nor a compression that the kernel knows, nor a boot configuration; the guest's own \
             tools must make a new initramfs before it can be changed",
        )
    })
}

/// `bytes` are those from the first that is not zero, at `start`, to the end of the image.
fn parse(start: u64, mut bytes: Vec<u8>) -> Option<Bootconfig> {
    // A boot loader may have padded the image to a multiple of four.
    for _ in 0..3 {
        bytes.pop_if(|last| *last == 0);
    }
    let words = bytes.strip_suffix(MAGIC)?.len().checked_sub(8)?;
    let size = usize::try_from(u32_le(&bytes, words).ok()?).ok()?;
    let sum = u32_le(&bytes, words.checked_add(4)?).ok()?;
    // The text can begin with zeros that were taken for padding.
    let zeros = size.saturating_sub(words);
    let text = bytes.get(words.saturating_sub(size)..words)?;
    let found = text
        .iter()
        .fold(0_u32, |sum, byte| sum.wrapping_add(u32::from(*byte)));
    if found != sum || size < words || zeros as u64 > start {
        return None;
    }
    bytes.splice(0..0, std::iter::repeat_n(0, zeros));
    Some(Bootconfig {
        offset: start.checked_sub(zeros as u64)?,
        bytes,
    })
}
