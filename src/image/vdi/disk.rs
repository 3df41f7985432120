//! A VDI as a disk, for reading from many threads.

use super::{
    block_map::{BlockMap, Place, Run},
    check::check,
    flaw::Flaw,
    header::{Header, ImageType, LENGTH},
    parent,
    write::Writer,
};
use crate::{
    disk::{Content, Disk, Extent, Result, check_range, push_extent},
    image::{Check, Format, Image, Info, Mapping, Named, Neighbours, map::push_mapping},
};
use std::{
    fs::File,
    ops::Range,
    sync::{Arc, Mutex},
};

/// No more than this many runs come from one look at a map.
const MOST_EXTENTS: usize = 1024;

/// A VDI image.
#[derive(Debug)]
pub struct Vdi {
    pub(super) container: Arc<dyn Disk>,
    pub(super) header: Header,
    pub(super) map: BlockMap,
    /// What it is called, and its disk.
    pub(super) parent: Option<(String, Arc<dyn Disk>)>,
    /// `None` if it was opened for reading.
    pub(super) writer: Option<Mutex<Writer>>,
}

impl Vdi {
    /// Opens the image in `container` for reading. The parent of a differencing disk is looked for among the
    /// `neighbours`, by its UUID; it must be unchanged since.
    ///
    /// # Errors
    /// [`Kind::NotFound`](crate::disk::Kind) if the parent is not among them.
    pub fn open(container: Arc<dyn Disk>, neighbours: &dyn Neighbours) -> Result<Self> {
        let label = container.label();
        let length = container.size().min(LENGTH as u64);
        let mut bytes = vec![0; usize::try_from(length).unwrap_or(0)];
        container.read_at(0, &mut bytes)?;
        let header = Header::parse(&bytes).map_err(|flaw| flaw.of(label).at(0))?;
        let map = BlockMap::open(container.as_ref(), &header)?;
        let parent = match header.image_type {
            ImageType::Differencing => Some(parent::open(label, &header, neighbours)?),
            ImageType::Dynamic | ImageType::Fixed => None,
        };
        Ok(Self {
            container,
            header,
            map,
            parent,
            writer: None,
        })
    }

    /// How the bytes from `offset` on are kept, up to `end`.
    pub(super) fn run(&self, offset: u64, end: u64) -> Result<Run> {
        let run = self.map.run(self.container.as_ref(), offset, end)?;
        if let Place::At(offset) = run.place {
            let size = self.container.size();
            // The end of the last block need not be there.
            if offset.saturating_add(run.length) > size {
                let what = "block";
                let flaw = Flaw::PastTheEnd { what, offset, size };
                return Err(flaw.of(self.label()).at(offset));
            }
        }
        Ok(run)
    }

    /// What the parent has of `buffer`; zeros where there is none, and behind its end.
    fn read_parent(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        let there = self.parent_size().saturating_sub(offset).min(buffer.len() as u64);
        let (front, rest) = buffer.split_at_mut(usize::try_from(there).unwrap_or(0));
        rest.fill(0);
        match &self.parent {
            Some((_, parent)) if !front.is_empty() => parent.read_at(offset, front),
            _ => Ok(()),
        }
    }

    fn parent_size(&self) -> u64 {
        self.parent.as_ref().map_or(0, |(_, parent)| parent.size())
    }

    /// The extents of a `run` at `offset`, as the container or the parent below has them.
    fn push_run(&self, map: &mut Vec<Extent>, run: Run, offset: u64) -> Result<()> {
        let end = offset + run.length;
        let there = match run.place {
            Place::At(host) => {
                return push_shifted(map, self.container.as_ref(), host..host + run.length, offset);
            }
            Place::Zero => offset,
            Place::Unallocated => self.parent_size().clamp(offset, end),
        };
        if let Some((_, parent)) = &self.parent
            && there > offset
        {
            push_shifted(map, parent.as_ref(), offset..there, offset)?;
            if map.last().is_some_and(|last| last.range.end < there) {
                return Ok(());
            }
        }
        push_extent(map, Extent::new(there..end, Content::Hole));
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

impl Disk for Vdi {
    fn label(&self) -> &str {
        self.container.label()
    }

    fn size(&self) -> u64 {
        self.header.disk_size
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        let end = check_range(self.label(), self.size(), offset, buffer.len() as u64)?;
        let mut at = offset;
        let mut rest = buffer;
        while at < end {
            let run = self.run(at, end)?;
            let (piece, after) = rest.split_at_mut(usize::try_from(run.length).unwrap_or(0));
            match run.place {
                Place::At(host) => self.container.read_at(host, piece)?,
                Place::Zero => piece.fill(0),
                Place::Unallocated => self.read_parent(at, piece)?,
            }
            at += run.length;
            rest = after;
        }
        Ok(())
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        self.write_bytes(offset, bytes)
    }

    fn extents(&self, range: Range<u64>) -> Result<Vec<Extent>> {
        let length = range.end.saturating_sub(range.start);
        check_range(self.label(), self.size(), range.start, length)?;
        let mut map = Vec::new();
        let mut at = range.start;
        while at < range.end && map.len() < MOST_EXTENTS {
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

    fn write_zeros(&self, range: Range<u64>) -> Result<()> {
        self.zero_bytes(range)
    }

    fn discard(&self, range: Range<u64>) -> Result<()> {
        self.discard_bytes(range)
    }

    fn flush(&self) -> Result<()> {
        self.container.flush()
    }

    fn plain(&self, offset: u64) -> Option<(&File, u64, u64)> {
        let run = self.run(offset, self.size()).ok()?;
        let Place::At(host) = run.place else {
            return None;
        };
        let (file, at, length) = self.container.plain(host)?;
        Some((file, at, length.min(run.length)))
    }
}

impl Image for Vdi {
    fn format(&self) -> Format {
        Format::Vdi
    }

    fn info(&self) -> Result<Info> {
        let header = &self.header;
        let mut details = vec![
            ("uuid".to_owned(), header.id.to_string()),
            ("modification uuid".to_owned(), header.modification.to_string()),
            ("allocated blocks".to_owned(), header.allocated.to_string()),
        ];
        if header.image_type == ImageType::Differencing {
            details.push(("parent uuid".to_owned(), header.parent_id.to_string()));
        }
        if !header.comment.is_empty() {
            details.push(("comment".to_owned(), header.comment.clone()));
        }
        Ok(Info {
            subformat: Some(header.image_type.name().to_owned()),
            unit: Some(header.block_size.into()),
            backing: self.parent.as_ref().map(|(name, _)| Named {
                name: name.clone(),
                format: Some(Format::Vdi.to_string()),
            }),
            details,
            ..Info::default()
        })
    }

    fn map(&self, range: Range<u64>) -> Result<Vec<Mapping>> {
        let length = range.end.saturating_sub(range.start);
        check_range(self.label(), self.size(), range.start, length)?;
        let mut map = Vec::new();
        let mut at = range.start;
        while at < range.end && map.len() < MOST_EXTENTS {
            let run = self.run(at, range.end)?;
            let (content, present, offset) = match run.place {
                // Without a parent it is this image that says so.
                Place::Unallocated => (Content::Hole, self.parent.is_none(), None),
                Place::Zero => (Content::Zero, true, None),
                Place::At(host) => (Content::Data, true, Some(host)),
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
        check(self)
    }

    fn repair_leaks(&self) -> Result<u64> {
        self.cut_leaks()
    }
}
