//! A VMDK as a disk, for reading from many threads.

use super::{
    check::check,
    descriptor::{Descriptor, NO_PARENT},
    extent::{Body, Extent},
    map::map,
    name::Name,
    sparse_extent::{self, Run, SparseExtent},
    write::Writer,
};
use crate::{
    disk::{Content, Disk, Error, Extent as MapExtent, Result, check_range, push_extent},
    image::{Check, Format, Image, Info, Mapping, Named},
};
use std::{
    fs::File,
    ops::Range,
    sync::{Arc, Mutex},
};

/// No more than this many runs are listed by one call of [`Disk::extents`].
const MOST_EXTENTS: usize = 1024;

/// Nor are more looked at, since many may join into one.
const MOST_RUNS: usize = 4096;

/// A VMDK.
#[derive(Debug)]
pub struct Vmdk {
    pub(super) parts: Parts,
    /// `None` if it was opened for reading.
    pub(super) writer: Option<Mutex<Writer>>,
}

/// What a disk is made of.
#[derive(Debug)]
pub(super) struct Parts {
    /// The file that was named.
    pub(super) container: Arc<dyn Disk>,
    /// Where in it the descriptor is.
    pub(super) descriptor_place: Range<u64>,
    pub(super) descriptor: Descriptor,
    /// In the order of the disk, without gaps.
    pub(super) extents: Vec<Extent>,
    /// In bytes.
    pub(super) size: u64,
    pub(super) parent: Option<Arc<dyn Disk>>,
    /// What it was found by.
    pub(super) parent_name: Option<String>,
}

impl Vmdk {
    pub(super) fn new(parts: Parts) -> Self {
        Self { parts, writer: None }
    }

    /// The extents that `range` touches, each with the part of `range` that lies in it.
    pub(super) fn pieces(&self, range: Range<u64>) -> impl Iterator<Item = (&Extent, Range<u64>)> {
        let extents = &self.parts.extents;
        let first = extents.partition_point(|extent| extent.end() <= range.start);
        let rest = extents.iter().skip(first);
        rest.take_while({
            let end = range.end;
            move |extent| extent.start < end
        })
        .map(move |extent| (extent, range.start.max(extent.start)..range.end.min(extent.end())))
        .filter(|(_, piece)| !piece.is_empty())
    }

    /// The parent's bytes from `offset` on; behind its end, and without one, zeros.
    pub(super) fn read_parent(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        let Some(parent) = &self.parts.parent else {
            buffer.fill(0);
            return Ok(());
        };
        let there = parent.size().saturating_sub(offset).min(buffer.len() as u64);
        let (front, rest) = buffer.split_at_mut(usize::try_from(there).unwrap_or(0));
        rest.fill(0);
        if front.is_empty() {
            return Ok(());
        }
        parent.read_at(offset, front)
    }

    fn read_piece(&self, extent: &Extent, piece: Range<u64>, buffer: &mut [u8]) -> Result<()> {
        let within = piece.start - extent.start;
        let sparse = match &extent.body {
            Body::Zero => {
                buffer.fill(0);
                return Ok(());
            }
            Body::Flat { disk, offset } => return disk.read_at(offset.saturating_add(within), buffer),
            Body::Sparse(sparse) => sparse,
        };
        let end = piece.end - extent.start;
        let mut at = within;
        let mut rest = buffer;
        while at < end {
            let run = sparse.run(at, end)?;
            let (now, after) = rest.split_at_mut(usize::try_from(run.length).unwrap_or(0));
            if run.mapping == sparse_extent::Mapping::Unallocated {
                self.read_parent(extent.start + at, now)?;
            } else {
                sparse.read(run.mapping, at, now)?;
            }
            at += run.length;
            rest = after;
        }
        Ok(())
    }

    /// The runs of a `run` at `offset` of the disk, as the parent or the file below has them.
    fn push_run(&self, map: &mut Vec<MapExtent>, below: &dyn Disk, run: Run, offset: u64) -> Result<()> {
        let range = offset..offset + run.length;
        match run.mapping {
            sparse_extent::Mapping::Zero => push_extent(map, MapExtent::new(range, Content::Hole)),
            sparse_extent::Mapping::Packed { .. } => push_extent(map, MapExtent::new(range, Content::Data)),
            sparse_extent::Mapping::Data { host } => {
                push_shifted(map, below, host..host + run.length, offset)?
            }
            sparse_extent::Mapping::Unallocated => {
                let parent = self.parts.parent.as_ref();
                let there = parent.map_or(0, |parent| parent.size()).clamp(offset, range.end);
                if let Some(parent) = parent.filter(|_| there > offset) {
                    push_shifted(map, parent.as_ref(), offset..there, offset)?;
                    if map.last().is_some_and(|last| last.range.end < there) {
                        return Ok(());
                    }
                }
                push_extent(map, MapExtent::new(there..range.end, Content::Hole));
            }
        }
        Ok(())
    }

    fn map_piece(&self, map: &mut Vec<MapExtent>, extent: &Extent, piece: Range<u64>) -> Result<()> {
        match &extent.body {
            Body::Zero => push_extent(map, MapExtent::new(piece, Content::Hole)),
            Body::Flat { disk, offset } => {
                let below = offset.saturating_add(piece.start - extent.start);
                let length = piece.end - piece.start;
                push_shifted(
                    map,
                    disk.as_ref(),
                    below..below.saturating_add(length),
                    piece.start,
                )?;
            }
            Body::Sparse(sparse) => {
                let mut at = piece.start;
                for _ in 0..MOST_RUNS {
                    if at >= piece.end || map.len() >= MOST_EXTENTS {
                        break;
                    }
                    let run = sparse.run(at - extent.start, piece.end - extent.start)?;
                    if let sparse_extent::Mapping::Data { host } = run.mapping {
                        sparse.must_exist("grain", host, run.length)?;
                    }
                    self.push_run(map, sparse.container.as_ref(), run, at)?;
                    let reached = map.last().map_or(at, |last| last.range.end);
                    if reached < at + run.length {
                        break;
                    }
                    at = reached;
                }
            }
        }
        Ok(())
    }

    fn named_extents(&self) -> Vec<Named> {
        let extents = self.parts.extents.iter();
        extents
            .filter(|extent| !extent.name.is_empty())
            .map(|extent| Named {
                name: extent.name.clone(),
                format: Some(extent.kind.name().to_owned()),
            })
            .collect()
    }

    fn details(&self) -> Vec<(String, String)> {
        let descriptor = &self.parts.descriptor;
        let mut details = Vec::new();
        let mut add = |name: &str, value: Option<String>| {
            if let Some(value) = value {
                details.push((name.to_owned(), value));
            }
        };
        add("cid", descriptor.cid.map(|cid| format!("{cid:08x}")));
        let parent = Some(descriptor.parent_cid).filter(|cid| *cid != NO_PARENT);
        add("parent cid", parent.map(|cid| format!("{cid:08x}")));
        let hint = descriptor.parent_hint.as_deref().map(|bytes| Name {
            bytes,
            encoding: descriptor.encoding.as_deref(),
        });
        add("parent file name hint", hint.map(Name::text));
        add("encoding", descriptor.encoding.clone());
        add("changed block tracking", descriptor.change_tracking.clone());
        for (name, value) in &descriptor.database {
            add(&format!("ddb.{name}"), Some(value.clone()));
        }
        details
    }
}

/// Appends what `disk` says of `range`, as runs that begin at `offset`.
fn push_shifted(map: &mut Vec<MapExtent>, disk: &dyn Disk, range: Range<u64>, offset: u64) -> Result<()> {
    for extent in disk.extents(range.clone())? {
        let start = extent.range.start - range.start + offset;
        let end = extent.range.end - range.start + offset;
        push_extent(map, MapExtent::new(start..end, extent.content));
    }
    Ok(())
}

impl Disk for Vmdk {
    fn label(&self) -> &str {
        self.parts.container.label()
    }

    fn size(&self) -> u64 {
        self.parts.size
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        let end = check_range(self.label(), self.size(), offset, buffer.len() as u64)?;
        let mut rest = buffer;
        for (extent, piece) in self.pieces(offset..end) {
            let length = usize::try_from(piece.end - piece.start).unwrap_or(0);
            let (now, after) = rest.split_at_mut(length);
            self.read_piece(extent, piece, now)?;
            rest = after;
        }
        Ok(())
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        self.write_guest(offset, bytes)
    }

    fn extents(&self, range: Range<u64>) -> Result<Vec<MapExtent>> {
        let length = range.end.saturating_sub(range.start);
        check_range(self.label(), self.size(), range.start, length)?;
        let mut map = Vec::new();
        for (extent, piece) in self.pieces(range) {
            if map.len() >= MOST_EXTENTS {
                break;
            }
            let end = piece.end;
            self.map_piece(&mut map, extent, piece)?;
            if map.last().is_some_and(|last| last.range.end < end) {
                break;
            }
        }
        Ok(map)
    }

    fn write_zeros(&self, range: Range<u64>) -> Result<()> {
        self.zero_guest(range)
    }

    fn discard(&self, range: Range<u64>) -> Result<()> {
        self.discard_guest(range)
    }

    fn flush(&self) -> Result<()> {
        for extent in &self.parts.extents {
            if let Some(container) = extent.container() {
                container.flush()?;
            }
        }
        self.parts.container.flush()
    }

    fn plain(&self, offset: u64) -> Option<(&File, u64, u64)> {
        let (extent, piece) = self.pieces(offset..self.size()).next()?;
        let within = piece.start - extent.start;
        let (below, host, length) = match &extent.body {
            Body::Zero => return None,
            Body::Flat { disk, offset } => (disk, offset.checked_add(within)?, piece.end - piece.start),
            Body::Sparse(sparse) => {
                let run = sparse.run(within, piece.end - extent.start).ok()?;
                let sparse_extent::Mapping::Data { host } = run.mapping else {
                    return None;
                };
                (&sparse.container, host, run.length)
            }
        };
        let (file, at, available) = below.plain(host)?;
        Some((file, at, available.min(length)))
    }
}

impl Image for Vmdk {
    fn format(&self) -> Format {
        Format::Vmdk
    }

    fn info(&self) -> Result<Info> {
        let descriptor = &self.parts.descriptor;
        let mut sparse = self.parts.extents.iter().filter_map(Extent::sparse);
        let compressed = sparse.clone().any(SparseExtent::is_compressed);
        Ok(Info {
            subformat: Some(descriptor.create_type.clone()).filter(|kind| !kind.is_empty()),
            unit: sparse.clone().next().map(|sparse| sparse.grain),
            backing: self.parts.parent_name.as_ref().map(|name| Named {
                name: name.clone(),
                format: Some(Format::Vmdk.name().to_owned()),
            }),
            files: self.named_extents(),
            compression: compressed.then(|| "zlib".to_owned()),
            dirty: sparse.any(SparseExtent::was_not_closed),
            details: self.details(),
            ..Info::default()
        })
    }

    fn map(&self, range: Range<u64>) -> Result<Vec<Mapping>> {
        map(self, range)
    }

    fn check(&self) -> Result<Check> {
        check(self)
    }
}

impl Vmdk {
    /// An error about the image.
    pub(super) fn error(&self, flaw: super::flaw::Flaw) -> Error {
        flaw.of(self.parts.container.label())
    }
}
