//! Unpacking compressed clusters.

use super::{flaw::Flaw, header::Compression};
use flate2::{Decompress, FlushDecompress, Status};
use std::io::Read;

/// log2 of the largest zstd window: a frame that holds one cluster needs no more than the largest cluster, 2 MiB; some
/// slack costs nothing.
const LARGEST_WINDOW: u32 = 23;

/// Unpacks one cluster of `size` bytes from the first part of `packed`; what follows in it is padding, or belongs
/// to the next cluster.
pub(super) fn unpack(compression: Compression, packed: &[u8], size: usize) -> Result<Vec<u8>, Flaw> {
    let mut cluster = vec![0; size];
    match compression {
        Compression::Deflate => {
            // A bare deflate stream, made with a window of 4 KiB.
            let mut stream = Decompress::new(false);
            let status = stream
                .decompress(packed, &mut cluster, FlushDecompress::Finish)
                .map_err(|error| Flaw::Compressed(error.to_string()))?;
            if stream.total_out() != size as u64 {
                return Err(Flaw::Compressed(format!(
                    "{} of {size} bytes{}",
                    stream.total_out(),
                    if status == Status::StreamEnd {
                        ""
                    } else {
                        ", and more packed ones are missing"
                    }
                )));
            }
        }
        Compression::Zstd => {
            let failed = |error: std::io::Error| Flaw::Compressed(error.to_string());
            let mut stream = zstd::stream::read::Decoder::with_buffer(packed)
                .map_err(failed)?
                .single_frame();
            stream.window_log_max(LARGEST_WINDOW).map_err(failed)?;
            stream.read_exact(&mut cluster).map_err(failed)?;
        }
    }
    Ok(cluster)
}
