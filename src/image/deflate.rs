//! Deflate for formats that compress piece by piece: grains of VMDK, clusters of qcow2, chunks of others.
//!
//! The library is libdeflate, chosen by measuring pieces of 64 KiB of an installed Debian, of its programs, and of text
//! and headers, on one core (MB of data a second, and packed size over that of zlib's level 6, which qemu-img uses):
//!
//! | library, level | packs | size | unpacks |
//! |---|---|---|---|
//! | zlib 1.2.13, 6 | 43 | 1.00 | |
//! | libdeflate 1 / 2 / 3 | 280 / 220 / 204 | 1.08 / 1.03 / 1.02 | 1000 |
//! | libdeflate 4 / 5 / 6 | 180 / 161 / 130 | 1.01 / 0.99 / 0.99 | 1000 |
//! | zlib-ng 3 / 6 | 149 / 83 | 1.05 / 1.02 | |
//! | zlib-rs 3 / 6 | 147 / 89 | 1.05 / 1.02 | 600 |
//! | miniz_oxide 6 | 38 | 1.00 | 500 |
//!
//! qemu packs qcow2 clusters with a window of 4 KiB, which costs zlib 5 % of size; against that libdeflate's level 1
//! has 1.02 and level 2 has 0.98. libdeflate has no smaller window than 32 KiB, and none is needed: the format asks for
//! RFC 1951 and no more, and zlib's inflate looks at its window only for what an earlier call gave out, while
//! readers unpack a cluster in one call (`tests/deflate.rs` has qemu-img read such a cluster).

use libdeflater::{CompressionLvl, Compressor, DecompressionError, Decompressor};
use std::cell::RefCell;
use thiserror::Error;

/// What is around the deflate stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Envelope {
    /// RFC 1950: two bytes before, an Adler-32 checksum behind.
    Zlib,
    /// Nothing: RFC 1951.
    Bare,
}

/// How pieces are packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Method {
    envelope: Envelope,
    level: i32,
}

impl Method {
    /// Grains of a streamOptimized VMDK.
    pub const VMDK: Self = Self {
        envelope: Envelope::Zlib,
        level: 4,
    };

    /// Clusters of a qcow2 image.
    pub const QCOW2: Self = Self {
        envelope: Envelope::Bare,
        level: 2,
    };
}

/// A piece does not unpack.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum UnpackError {
    /// It is not what its envelope says, a checksum is wrong, or bytes are missing.
    #[error("the compressed data is damaged or cut short")]
    Damaged,
    /// It is longer than a piece can be.
    #[error("the compressed data unpacks to more than the {0} bytes that it stands for")]
    TooLong(usize),
}

thread_local! {
    // Half a megabyte each; a thread packs for one format at a time.
    static COMPRESSOR: RefCell<Option<(i32, Compressor)>> = const { RefCell::new(None) };
    static DECOMPRESSOR: RefCell<Option<Decompressor>> = const { RefCell::new(None) };
}

/// Appends `bytes`, packed, to `packed`. The same bytes give the same result on every processor. What does not
/// shrink grows by a few bytes at most.
pub fn compress(method: Method, bytes: &[u8], packed: &mut Vec<u8>) {
    COMPRESSOR.with_borrow_mut(|cached| {
        if cached.as_ref().is_none_or(|(level, _)| *level != method.level) {
            let level = CompressionLvl::new(method.level).unwrap_or_default();
            *cached = Some((method.level, Compressor::new(level)));
        }
        let Some((_, compressor)) = cached else {
            return;
        };
        let start = packed.len();
        let bound = match method.envelope {
            Envelope::Zlib => compressor.zlib_compress_bound(bytes.len()),
            Envelope::Bare => compressor.deflate_compress_bound(bytes.len()),
        };
        packed.resize(start.saturating_add(bound), 0);
        let room = packed.get_mut(start..).unwrap_or_default();
        let length = match method.envelope {
            Envelope::Zlib => compressor.zlib_compress(bytes, room),
            Envelope::Bare => compressor.deflate_compress(bytes, room),
        };
        // The bound is enough for any bytes: there is no error.
        packed.truncate(start.saturating_add(length.unwrap_or(0)));
    });
}

/// Unpacks the stream that `packed` begins with to the front of `piece`, and gives how many bytes that were. What
/// follows the stream is padding. Never writes or allocates more than `piece`.
///
/// # Errors
/// Those of the stream. `piece` then holds anything.
pub fn decompress(envelope: Envelope, packed: &[u8], piece: &mut [u8]) -> Result<usize, UnpackError> {
    let size = piece.len();
    DECOMPRESSOR.with_borrow_mut(|cached| {
        let decompressor = cached.get_or_insert_with(Decompressor::new);
        let unpacked = match envelope {
            Envelope::Zlib => decompressor.zlib_decompress(packed, piece),
            Envelope::Bare => decompressor.deflate_decompress(packed, piece),
        };
        unpacked.map_err(|error| match error {
            DecompressionError::BadData => UnpackError::Damaged,
            DecompressionError::InsufficientSpace => UnpackError::TooLong(size),
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::{collection::vec, prelude::*};

    const METHODS: [Method; 2] = [Method::VMDK, Method::QCOW2];

    #[test]
    fn another_library_reads_what_is_packed_and_padding_is_ignored() {
        let bytes: Vec<u8> = (0..100_000_u64).map(|i| (i * i / 1000 % 251) as u8).collect();
        for method in METHODS {
            for length in [0, 1, 512, 65536, 100_000] {
                let bytes = &bytes[..length];
                let mut packed = vec![7; 3];
                compress(method, bytes, &mut packed);
                assert_eq!(packed[..3], [7; 3], "what was there stays");
                packed.extend([0xa5; 700]);
                let mut other = vec![0; length + 1];
                let mut stream = flate2::Decompress::new(method.envelope == Envelope::Zlib);
                let status = stream.decompress(&packed[3..], &mut other, flate2::FlushDecompress::Finish);
                assert_eq!(status.unwrap(), flate2::Status::StreamEnd);
                assert_eq!(stream.total_out(), length as u64);
                assert!(other[..length] == *bytes);
                let mut ours = vec![0; length + 1];
                assert_eq!(decompress(method.envelope, &packed[3..], &mut ours), Ok(length));
                assert!(ours[..length] == *bytes);
            }
        }
    }

    #[test]
    fn no_more_is_unpacked_than_there_is_room_for() {
        for method in METHODS {
            let mut packed = Vec::new();
            compress(method, &[0; 1 << 20], &mut packed);
            assert!(packed.len() < 4096);
            let unpacked = decompress(method.envelope, &packed, &mut [0; 65536]);
            assert_eq!(unpacked, Err(UnpackError::TooLong(65536)));
            let cut = decompress(
                method.envelope,
                &packed[..packed.len() / 2],
                &mut vec![0; 1 << 20],
            );
            assert_eq!(cut, Err(UnpackError::Damaged));
        }
        assert_eq!(
            decompress(Envelope::Zlib, &[], &mut [0; 8]),
            Err(UnpackError::Damaged)
        );
        let mut packed = Vec::new();
        compress(Method::VMDK, b"checksum", &mut packed);
        *packed.last_mut().unwrap() ^= 1;
        assert_eq!(
            decompress(Envelope::Zlib, &packed, &mut [0; 8]),
            Err(UnpackError::Damaged)
        );
    }

    proptest! {
        #[test]
        fn any_bytes_come_back_and_any_stream_is_answered(
            bytes in vec(any::<u8>(), 0..3000), repeated in 1..40_usize, broken in vec(any::<u8>(), 0..300),
        ) {
            let bytes = bytes.repeat(repeated);
            for method in METHODS {
                let mut packed = Vec::new();
                compress(method, &bytes, &mut packed);
                prop_assert!(packed.len() <= bytes.len() + bytes.len() / 1000 + 64);
                let mut piece = vec![0; bytes.len()];
                prop_assert_eq!(decompress(method.envelope, &packed, &mut piece), Ok(bytes.len()));
                prop_assert!(piece == bytes);
                let _ = decompress(method.envelope, &broken, &mut [0; 512]);
            }
        }
    }
}
