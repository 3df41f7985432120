//! Where the bytes of a disk come from, as `qemu-img map` tells it.

use super::{
    disk::Vmdk,
    extent::{Body, Extent},
    sparse_extent::Mapping,
};
use crate::{
    disk::{Content, Disk, Result, check_range},
    image::{self, map::push_mapping},
};
use std::ops::Range;

/// No more than this many runs come from one look, and no more are looked at.
const MOST_MAPPINGS: usize = 1024;
const MOST_RUNS: usize = 4096;

/// The runs of `range`; may stop early.
pub(super) fn map(image: &Vmdk, range: Range<u64>) -> Result<Vec<image::Mapping>> {
    let length = range.end.saturating_sub(range.start);
    check_range(image.label(), image.size(), range.start, length)?;
    let mut map = Vec::new();
    for (extent, piece) in image.pieces(range) {
        if map.len() >= MOST_MAPPINGS {
            break;
        }
        let end = piece.end;
        let reached = match &extent.body {
            Body::Zero => {
                push(
                    &mut map,
                    piece.start,
                    piece.end - piece.start,
                    Content::Hole,
                    None,
                );
                piece.end
            }
            Body::Flat { disk, offset } => map_flat(&mut map, disk.as_ref(), *offset, extent, piece)?,
            Body::Sparse(_) => map_sparse(&mut map, extent, piece)?,
        };
        if reached < end {
            break;
        }
    }
    Ok(map)
}

/// Present whatever it is: nothing lies below.
fn push(map: &mut Vec<image::Mapping>, start: u64, length: u64, content: Content, offset: Option<u64>) {
    push_mapping(
        map,
        image::Mapping {
            start,
            length,
            content,
            present: true,
            compressed: false,
            offset,
        },
    );
}

fn map_flat(
    map: &mut Vec<image::Mapping>,
    disk: &dyn Disk,
    offset: u64,
    extent: &Extent,
    piece: Range<u64>,
) -> Result<u64> {
    let below = offset.saturating_add(piece.start - extent.start);
    let mut at = piece.start;
    for found in disk.extents(below..below.saturating_add(piece.end - piece.start))? {
        let length = found.range.end - found.range.start;
        push(map, at, length, found.content, Some(found.range.start));
        at += length;
    }
    Ok(at)
}

fn map_sparse(map: &mut Vec<image::Mapping>, extent: &Extent, piece: Range<u64>) -> Result<u64> {
    let Some(sparse) = extent.sparse() else {
        return Ok(piece.end);
    };
    let mut at = piece.start;
    for _ in 0..MOST_RUNS {
        if at >= piece.end || map.len() >= MOST_MAPPINGS {
            break;
        }
        let run = sparse.run(at - extent.start, piece.end - extent.start)?;
        let (content, present) = match run.mapping {
            Mapping::Unallocated => (Content::Hole, false),
            Mapping::Zero => (Content::Zero, true),
            Mapping::Data { .. } | Mapping::Packed { .. } => (Content::Data, true),
        };
        let offset = match run.mapping {
            Mapping::Data { host } => Some(host),
            _ => None,
        };
        let mapping = image::Mapping {
            start: at,
            length: run.length,
            content,
            present,
            compressed: matches!(run.mapping, Mapping::Packed { .. }),
            offset,
        };
        push_mapping(map, mapping);
        at += run.length;
    }
    Ok(at)
}
