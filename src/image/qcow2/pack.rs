//! Packing clusters, on the thread that brings them.

use super::header::Compression;
use crate::image::deflate::{self, Method};
use std::{cell::RefCell, ops::Range};
use zstd::bulk::Compressor;

/// The level that qemu uses, which is the library's own choice.
const ZSTD_LEVEL: i32 = 3;

/// Where the clusters of one piece of a disk are, packed.
#[derive(Debug, Default)]
pub(super) struct PackedClusters {
    pub(super) bytes: Vec<u8>,
    /// For each cluster its place in `bytes`; `None` if it does not shrink.
    pub(super) places: Vec<Option<Range<usize>>>,
}

/// Packs every cluster of `bytes`; a last one that is short is filled up with zeros. The same bytes give the same
/// result.
pub(super) fn pack(compression: Compression, bytes: &[u8], cluster: usize) -> PackedClusters {
    let mut packed = PackedClusters::default();
    let mut filled = Vec::new();
    for piece in bytes.chunks(cluster) {
        let start = packed.bytes.len();
        let whole = if piece.len() < cluster {
            filled.extend_from_slice(piece);
            filled.resize(cluster, 0);
            &filled
        } else {
            piece
        };
        match compression {
            Compression::Deflate => deflate::compress(Method::QCOW2, whole, &mut packed.bytes),
            Compression::Zstd => pack_zstd(whole, &mut packed.bytes),
        }
        let end = packed.bytes.len();
        if end > start && end - start < cluster {
            packed.places.push(Some(start..end));
        } else {
            packed.bytes.truncate(start);
            packed.places.push(None);
        }
    }
    packed
}

/// Appends nothing if the cluster does not shrink.
fn pack_zstd(cluster: &[u8], packed: &mut Vec<u8>) {
    thread_local! {
        /// What it allocates would cost more than a cluster does.
        static CONTEXT: RefCell<Option<Compressor<'static>>> = const { RefCell::new(None) };
    }
    CONTEXT.with_borrow_mut(|context| {
        if context.is_none() {
            *context = Compressor::new(ZSTD_LEVEL).ok();
        }
        let start = packed.len();
        packed.resize(start.saturating_add(cluster.len()).saturating_sub(1), 0);
        let room = packed.get_mut(start..).unwrap_or_default();
        let length = context
            .as_mut()
            .and_then(|context| context.compress_to_buffer(cluster, room).ok());
        packed.truncate(start + length.unwrap_or(0));
    });
}
