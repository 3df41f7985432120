//! Unpacking compressed clusters.

use super::{flaw::Flaw, header::Compression};
use flate2::{Decompress, FlushDecompress, Status};
use ruzstd::decoding::{FrameDecoder, StreamingDecoder};
use std::io::Read;

/// A frame that holds one cluster needs no larger window than the largest cluster; some slack costs nothing.
const LARGEST_WINDOW: u64 = 8 << 20;

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
            let mut decoder = FrameDecoder::new();
            decoder.set_max_window_size(LARGEST_WINDOW);
            let mut stream = StreamingDecoder::new_with_decoder(packed, decoder)
                .map_err(|error| Flaw::Compressed(error.to_string()))?;
            stream
                .read_exact(&mut cluster)
                .map_err(|error| Flaw::Compressed(error.to_string()))?;
        }
    }
    Ok(cluster)
}
