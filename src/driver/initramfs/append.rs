//! Adding an archive to the end of an image so that the kernel unpacks it.
//!
//! The kernel finds a plain archive after any segment, if it begins on a multiple of four bytes, but for one case:
//! its LZ4 reader takes all that follows for blocks of its own stream, and stops with "Decoding failed" even at
//! zeros. Another LZ4 frame right behind is a part of that stream. (Seen with Linux 6.1.)

use super::Image;
use crate::driver::{
    compression::{Compression, compress_lz4_legacy},
    cpio::padding,
};

/// What an image becomes: its first `keep` bytes, then `bytes`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Appendix {
    /// How much of the old image stays as it is: all of it, unless a boot configuration or zeros stand at its end.
    pub keep: u64,
    /// What follows.
    pub bytes: Vec<u8>,
}

/// Puts `cpio`, a whole archive, behind the last segment of `image`; a boot configuration stays last.
pub fn append(image: &Image, cpio: &[u8]) -> Appendix {
    let last = image.segments.last();
    let mut appendix = match last.filter(|last| last.compression == Compression::Lz4Legacy) {
        Some(last) => {
            // The archive must begin on a multiple of four of what the whole stream unpacks to.
            let mut unpacked = zeros(last.unpacked);
            unpacked.extend_from_slice(cpio);
            Appendix {
                keep: last.offset.saturating_add(last.length),
                bytes: compress_lz4_legacy(&unpacked),
            }
        }
        None => {
            let keep = image
                .bootconfig
                .as_ref()
                .map_or(image.length, |found| found.offset);
            let mut bytes = zeros(keep);
            bytes.extend_from_slice(cpio);
            Appendix { keep, bytes }
        }
    };
    if let Some(bootconfig) = &image.bootconfig {
        appendix.bytes.extend_from_slice(&bootconfig.bytes);
    }
    appendix
}

/// Zeros from `length` to the next multiple of four.
fn zeros(length: u64) -> Vec<u8> {
    (0..padding(length)).map(|_| 0).collect()
}
