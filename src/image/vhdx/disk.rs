//! A VHDX as a disk, for reading from many threads.

use super::{
    block::{Blocks, Geometry, Kept, Run},
    check::check,
    header::Headers,
    log,
    metadata::Metadata,
    parent::Locator,
    region::Regions,
    write::Writer,
};
use crate::{
    disk::{Content, Disk, Extent, Result, check_range, push_extent},
    image::{
        Check, Format, Image, Info, Mapping, Named, Neighbours,
        map::push_mapping,
        windows_parent::{Parent, utf16},
    },
};
use std::{
    fs::File,
    ops::Range,
    sync::{Arc, Mutex},
};

/// No more than this many runs are listed by one call of [`Disk::extents`], nor looked at.
const MOST_EXTENTS: usize = 1024;

/// A VHDX image.
#[derive(Debug)]
pub struct Vhdx {
    /// The file, or an overlay over it in which its log was replayed.
    pub(super) container: Arc<dyn Disk>,
    pub(super) headers: Headers,
    pub(super) regions: Regions,
    pub(super) metadata: Metadata,
    pub(super) blocks: Blocks,
    parent: Option<Parent>,
    /// `None` if it was opened for reading.
    pub(super) writer: Option<Mutex<Writer>>,
}

impl Vhdx {
    /// Opens the image in `container` for reading. If it was not closed, its log is replayed into an overlay;
    /// `container` is never written. The parent of a differencing disk is opened by `neighbours`; it must be as it was
    /// when the disk was made.
    pub fn open(container: Arc<dyn Disk>, neighbours: &dyn Neighbours) -> Result<Self> {
        let headers = Headers::find(container.as_ref())?;
        let container = log::replayed(&container, &headers.current)?;
        let regions = Regions::find(container.as_ref())?;
        let metadata = Metadata::read(container.as_ref(), &regions.metadata)?;
        let label = container.label();
        let blocks = Blocks::new(Geometry::of(&metadata), &regions.bat)
            .map_err(|flaw| flaw.of(label).at(regions.bat.start))?;
        let mut parent = None;
        if let Some(bytes) = &metadata.locator {
            let found = Locator::parse(bytes).map_err(|flaw| flaw.of(label).at(regions.metadata.start))?;
            parent = Some(found.open(label, metadata.logical_sector, neighbours)?);
        }
        Ok(Self {
            container,
            headers,
            regions,
            metadata,
            blocks,
            parent,
            writer: None,
        })
    }

    pub(super) fn has_parent(&self) -> bool {
        self.parent.is_some()
    }

    /// How the bytes from `offset` on are kept, up to `end`.
    pub(super) fn run(&self, offset: u64, end: u64) -> Result<Run> {
        self.blocks.run(self.container.as_ref(), offset, end)
    }

    /// What the parent has of `buffer`; zeros behind its end.
    fn read_parent(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        let Some(parent) = &self.parent else {
            buffer.fill(0);
            return Ok(());
        };
        let there = parent.disk.size().saturating_sub(offset).min(buffer.len() as u64);
        let (front, rest) = buffer.split_at_mut(usize::try_from(there).unwrap_or(0));
        rest.fill(0);
        if front.is_empty() {
            return Ok(());
        }
        parent.disk.read_at(offset, front)
    }

    /// The extents of a `run` at `offset`, as the container or the parent below has them.
    fn push_run(&self, map: &mut Vec<Extent>, run: Run, offset: u64) -> Result<()> {
        let end = offset + run.length;
        match (run.kept, &self.parent) {
            (Kept::There(host), _) => {
                push_shifted(map, self.container.as_ref(), host..host + run.length, offset)?;
            }
            (Kept::Parent, Some(parent)) => {
                let there = parent.disk.size().clamp(offset, end);
                if there > offset {
                    push_shifted(map, parent.disk.as_ref(), offset..there, offset)?;
                    if map.last().is_some_and(|last| last.range.end < there) {
                        return Ok(());
                    }
                }
                push_extent(map, Extent::new(there..end, Content::Hole));
            }
            (Kept::Zeros, _) | (Kept::Parent, None) => {
                push_extent(map, Extent::new(offset..end, Content::Hole));
            }
        }
        Ok(())
    }
}

/// Appends what `disk` says of `range`, as runs that begin at `offset`.
fn push_shifted(map: &mut Vec<Extent>, disk: &dyn Disk, range: Range<u64>, offset: u64) -> Result<()> {
    for extent in disk.extents(range.clone())? {
        let start = extent.range.start - range.start + offset;
        let end = extent.range.end - range.start + offset;
        push_extent(map, Extent::new(start..end, extent.content));
    }
    Ok(())
}

impl Disk for Vhdx {
    fn label(&self) -> &str {
        self.container.label()
    }

    fn size(&self) -> u64 {
        self.metadata.size
    }

    fn sector_size(&self) -> u32 {
        self.metadata.logical_sector
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        let end = check_range(self.label(), self.size(), offset, buffer.len() as u64)?;
        let mut at = offset;
        let mut rest = buffer;
        while at < end {
            let run = self.run(at, end)?;
            let (piece, after) = rest.split_at_mut(usize::try_from(run.length).unwrap_or(0));
            match run.kept {
                Kept::There(host) => self.container.read_at(host, piece)?,
                Kept::Zeros => piece.fill(0),
                Kept::Parent => self.read_parent(at, piece)?,
            }
            at += run.length;
            rest = after;
        }
        Ok(())
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        self.write_bytes(offset, bytes)
    }

    fn write_zeros(&self, range: Range<u64>) -> Result<()> {
        self.zero_bytes(range)
    }

    fn discard(&self, range: Range<u64>) -> Result<()> {
        self.discard_bytes(range)
    }

    fn flush(&self) -> Result<()> {
        self.container.flush()
    }

    fn extents(&self, range: Range<u64>) -> Result<Vec<Extent>> {
        let length = range.end.saturating_sub(range.start);
        check_range(self.label(), self.size(), range.start, length)?;
        let mut map = Vec::new();
        let mut at = range.start;
        for _ in 0..MOST_EXTENTS {
            if at >= range.end || map.len() >= MOST_EXTENTS {
                break;
            }
            let run = self.run(at, range.end)?;
            self.push_run(&mut map, run, at)?;
            let reached = map.last().map_or(at, |last| last.range.end);
            if reached < at + run.length {
                break;
            }
            at = reached;
        }
        Ok(map)
    }

    fn plain(&self, offset: u64) -> Option<(&File, u64, u64)> {
        if offset >= self.size() {
            return None;
        }
        let run = self.run(offset, self.size()).ok()?;
        let Kept::There(host) = run.kept else {
            return None;
        };
        let (file, at, length) = self.container.plain(host)?;
        Some((file, at, length.min(run.length)))
    }
}

impl Image for Vhdx {
    fn format(&self) -> Format {
        Format::Vhdx
    }

    fn info(&self) -> Result<Info> {
        let metadata = &self.metadata;
        let header = &self.headers.current;
        let mut creator = vec![0; 512];
        self.container.read_at(8, &mut creator)?;
        let kind = match (&self.parent, metadata.leave_allocated) {
            (Some(_), _) => "differencing",
            (None, true) => "fixed",
            (None, false) => "dynamic",
        };
        let mut details = vec![
            ("creator".to_owned(), utf16(&creator, u16::from_le_bytes)),
            ("disk id".to_owned(), metadata.disk_id.to_string()),
            ("data identifier".to_owned(), header.data_write.to_string()),
            ("logical sector".to_owned(), metadata.logical_sector.to_string()),
            ("physical sector".to_owned(), metadata.physical_sector.to_string()),
            ("log size".to_owned(), header.log_length.to_string()),
        ];
        for flaw in self.headers.flaws.iter().chain(&self.regions.flaws) {
            details.push(("damage".to_owned(), flaw.clone()));
        }
        Ok(Info {
            subformat: Some(kind.to_owned()),
            unit: Some(metadata.block_size.into()),
            backing: self.parent.as_ref().map(|parent| Named {
                name: parent.name.clone(),
                format: Some(Format::Vhdx.to_string()),
            }),
            dirty: !header.log.is_nil(),
            details,
            ..Info::default()
        })
    }

    fn map(&self, range: Range<u64>) -> Result<Vec<Mapping>> {
        let length = range.end.saturating_sub(range.start);
        check_range(self.label(), self.size(), range.start, length)?;
        let mut map = Vec::new();
        let mut at = range.start;
        for _ in 0..MOST_EXTENTS {
            if at >= range.end {
                break;
            }
            let run = self.run(at, range.end)?;
            let (content, present, offset) = match run.kept {
                Kept::There(host) => (Content::Data, true, Some(host)),
                Kept::Zeros => (Content::Hole, true, None),
                // Without a parent it is this image that says so.
                Kept::Parent => (Content::Hole, !self.has_parent(), None),
            };
            let mapping = Mapping {
                start: at,
                length: run.length,
                content,
                present,
                compressed: false,
                offset,
            };
            push_mapping(&mut map, mapping);
            at += run.length;
        }
        Ok(map)
    }

    fn check(&self) -> Result<Check> {
        check(self).map(|checked| checked.found)
    }

    fn repair_leaks(&self) -> Result<u64> {
        self.cut_leaks()
    }
}
