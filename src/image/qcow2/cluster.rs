//! Unpacking compressed clusters.

use super::{flaw::Flaw, header::Compression};
use flate2::{Decompress, FlushDecompress};
use std::cell::RefCell;
use zstd::{bulk::Decompressor, zstd_safe::find_frame_compressed_size};

/// Fills `cluster` from the first part of `packed`; what follows in that is padding, or belongs to the next cluster.
/// Gives how many bytes of `packed` it took.
pub(super) fn unpack(compression: Compression, packed: &[u8], cluster: &mut [u8]) -> Result<usize, Flaw> {
    match compression {
        Compression::Deflate => inflate(packed, cluster),
        Compression::Zstd => unpack_zstd(packed, cluster),
    }
}

/// A bare deflate stream, made with a window of 4 KiB.
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

/// One frame as a rule; qemu reads several.
fn unpack_zstd(packed: &[u8], cluster: &mut [u8]) -> Result<usize, Flaw> {
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
            let frame = find_frame_compressed_size(rest)
                .map_err(|code| Flaw::Compressed(zstd::zstd_safe::get_error_name(code).to_owned()))?;
            let frame = rest.get(..frame).unwrap_or_default();
            let room = cluster.get_mut(filled..).unwrap_or_default();
            let there = context.decompress_to_buffer(frame, room).map_err(failed)?;
            if there == 0 {
                return Err(too_short(filled as u64, cluster.len()));
            }
            taken += frame.len();
            filled += there;
        }
        Ok(taken)
    })
}

fn too_short(there: u64, expected: usize) -> Flaw {
    Flaw::Compressed(format!("{there} of {expected} bytes"))
}
