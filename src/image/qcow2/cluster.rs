//! Unpacking compressed clusters.

use super::{flaw::Flaw, header::Compression};
use crate::image::deflate::{self, Envelope};
use flate2::{Decompress, FlushDecompress};
use std::cell::RefCell;
use zstd::{bulk::Decompressor, zstd_safe::find_frame_compressed_size};

/// Fills `cluster` from the first part of `packed`; what follows in that is padding, or belongs to the next cluster.
pub(super) fn unpack(compression: Compression, packed: &[u8], cluster: &mut [u8]) -> Result<(), Flaw> {
    match compression {
        Compression::Deflate => match deflate::decompress(Envelope::Bare, packed, cluster) {
            Ok(there) if there == cluster.len() => Ok(()),
            // What is cut short or too long at its end alone is read by qemu, and here.
            _ => inflate(packed, cluster).map(drop),
        },
        Compression::Zstd => unpack_zstd(packed, cluster),
    }
}

/// How many bytes of `packed` stand for a cluster of `size` bytes.
pub(super) fn packed_length(compression: Compression, packed: &[u8], size: usize) -> Result<usize, Flaw> {
    match compression {
        Compression::Deflate => inflate(packed, &mut vec![0; size]),
        Compression::Zstd => frame_length(packed),
    }
}

/// Gives how many bytes of `packed` it took.
fn inflate(packed: &[u8], cluster: &mut [u8]) -> Result<usize, Flaw> {
    let mut stream = Decompress::new(false);
    stream
        .decompress(packed, cluster, FlushDecompress::Finish)
        .map_err(|error| Flaw::Compressed(error.to_string()))?;
    if stream.total_out() != cluster.len() as u64 {
        return Err(too_short(stream.total_out(), cluster.len()));
    }
    Ok(usize::try_from(stream.total_in()).unwrap_or(usize::MAX))
}

fn frame_length(packed: &[u8]) -> Result<usize, Flaw> {
    find_frame_compressed_size(packed)
        .map_err(|code| Flaw::Compressed(zstd::zstd_safe::get_error_name(code).to_owned()))
}

/// One frame as a rule; qemu reads several.
fn unpack_zstd(packed: &[u8], cluster: &mut [u8]) -> Result<(), Flaw> {
    thread_local! {
        /// What it allocates would cost more than a cluster does.
        static CONTEXT: RefCell<Option<Decompressor<'static>>> = const { RefCell::new(None) };
    }
    let failed = |error: std::io::Error| Flaw::Compressed(error.to_string());
    CONTEXT.with_borrow_mut(|context| {
        let context = match context {
            Some(context) => context,
            None => context.insert(Decompressor::new().map_err(failed)?),
        };
        let (mut taken, mut filled) = (0, 0);
        while filled < cluster.len() {
            let rest = packed.get(taken..).unwrap_or_default();
            let frame = rest.get(..frame_length(rest)?).unwrap_or_default();
            let room = cluster.get_mut(filled..).unwrap_or_default();
            let there = context.decompress_to_buffer(frame, room).map_err(failed)?;
            if there == 0 {
                return Err(too_short(filled as u64, cluster.len()));
            }
            taken += frame.len();
            filled += there;
        }
        Ok(())
    })
}

fn too_short(there: u64, expected: usize) -> Flaw {
    Flaw::Compressed(format!("{there} of {expected} bytes"))
}
