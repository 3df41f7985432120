//! A VHD as a disk, for reading from many threads.

use super::{
    block::{Blocks, Run},
    check::check,
    flaw::Flaw,
    footer::{DiskType, Footer, LARGEST_DISK},
    footers::Footers,
    geometry::SECTOR,
    parent,
    write::Writer,
};
use crate::{
    disk::{Content, Disk, Extent, Result, check_range, push_extent},
    image::{
        Check, Format, Image, Info, Mapping, Named, Neighbours,
        map::{by_extents, push_mapping},
        windows_parent::Parent,
    },
};
use std::{
    fs::File,
    ops::Range,
    sync::{Arc, Mutex},
};

/// No more than this many runs are listed by one call of [`Disk::extents`], nor looked at.
const MOST_EXTENTS: usize = 1024;

/// A VHD image.
#[derive(Debug)]
pub struct Vhd {
    pub(super) container: Arc<dyn Disk>,
    pub(super) footers: Footers,
    size: u64,
    /// `None`: fixed.
    pub(super) blocks: Option<Blocks>,
    parent: Option<Parent>,
    /// `None` if it was opened for reading.
    pub(super) writer: Option<Mutex<Writer>>,
}

impl Vhd {
    /// Opens the image in `container` for reading. The parent of a differencing disk is opened by `neighbours`; it must
    /// be the one that the disk was made from, and unchanged.
    pub fn open(container: Arc<dyn Disk>, neighbours: &dyn Neighbours) -> Result<Self> {
        let footers = Footers::find(container.as_ref())?;
        let footer = &footers.footer;
        let size = footer.disk_size();
        let flaw = |flaw: Flaw| flaw.of(container.label()).at(footers.last.unwrap_or(0));
        if size > LARGEST_DISK {
            return Err(flaw(Flaw::TooLarge(size)));
        }
        let (mut blocks, mut parent) = (None, None);
        if footer.disk_type == DiskType::Fixed {
            let there = footers.last.unwrap_or(0);
            if size > there {
                return Err(flaw(Flaw::CutShort { size, there }));
            }
        } else {
            let found = Blocks::open(container.as_ref(), footer)?;
            if footer.disk_type == DiskType::Differencing {
                parent = Some(parent::open(container.as_ref(), &found.header, neighbours)?);
            }
            blocks = Some(found);
        }
        Ok(Self {
            size,
            blocks,
            parent,
            footers,
            container,
            writer: None,
        })
    }

    pub(super) fn footer(&self) -> &Footer {
        &self.footers.footer
    }

    /// How the bytes from `offset` on are kept, up to `end`.
    pub(super) fn run(&self, offset: u64, end: u64) -> Result<Run> {
        match &self.blocks {
            Some(blocks) => blocks.run(self.container.as_ref(), offset, end),
            None => Ok(Run {
                host: Some(offset),
                length: end - offset,
            }),
        }
    }

    /// What the parent has of `buffer`; zeros where there is none, and behind its end.
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
        match (run.host, &self.parent) {
            (Some(host), _) => push_shifted(map, self.container.as_ref(), host..host + run.length, offset),
            (None, Some(parent)) => {
                let there = parent.disk.size().clamp(offset, end);
                if there > offset {
                    push_shifted(map, parent.disk.as_ref(), offset..there, offset)?;
                    if map.last().is_some_and(|last| last.range.end < there) {
                        return Ok(());
                    }
                }
                push_extent(map, Extent::new(there..end, Content::Hole));
                Ok(())
            }
            (None, None) => {
                push_extent(map, Extent::new(offset..end, Content::Hole));
                Ok(())
            }
        }
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

impl Disk for Vhd {
    fn label(&self) -> &str {
        self.container.label()
    }

    fn size(&self) -> u64 {
        self.size
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        let end = check_range(self.label(), self.size, offset, buffer.len() as u64)?;
        let mut at = offset;
        let mut rest = buffer;
        while at < end {
            let run = self.run(at, end)?;
            let (piece, after) = rest.split_at_mut(usize::try_from(run.length).unwrap_or(0));
            match run.host {
                Some(host) => self.container.read_at(host, piece)?,
                None => self.read_parent(at, piece)?,
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
        check_range(self.label(), self.size, range.start, length)?;
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
        if offset >= self.size {
            return None;
        }
        let run = self.run(offset, self.size).ok()?;
        let (file, at, length) = self.container.plain(run.host?)?;
        Some((file, at, length.min(run.length)))
    }
}

impl Image for Vhd {
    fn format(&self) -> Format {
        Format::Vhd
    }

    fn info(&self) -> Result<Info> {
        let footer = self.footer();
        let backing = self.parent.as_ref().map(|parent| Named {
            name: parent.name.clone(),
            format: Some(Format::Vhd.to_string()),
        });
        let text = |bytes: &[u8]| {
            String::from_utf8_lossy(bytes)
                .trim_end_matches(['\0', ' '])
                .to_owned()
        };
        let geometry = footer.geometry;
        let seconds = i64::try_from(parent::EPOCH).unwrap_or(0) + i64::from(footer.timestamp);
        let created = jiff::Timestamp::from_second(seconds)
            .map_or_else(|_| seconds.to_string(), |time| time.to_string());
        let mut details = vec![
            ("creator".to_owned(), text(&footer.creator)),
            (
                "creator version".to_owned(),
                format!("{:#010x}", footer.creator_version),
            ),
            ("creator host".to_owned(), text(&footer.creator_host)),
            (
                "unique id".to_owned(),
                uuid::Uuid::from_bytes(footer.unique_id).to_string(),
            ),
            (
                "geometry".to_owned(),
                format!("{}/{}/{}", geometry.cylinders, geometry.heads, geometry.sectors),
            ),
            (
                "size by geometry".to_owned(),
                (geometry.total() * SECTOR).to_string(),
            ),
            ("current size".to_owned(), footer.current_size.to_string()),
            ("original size".to_owned(), footer.original_size.to_string()),
            ("created".to_owned(), created),
        ];
        if footer.saved_state {
            details.push(("saved state".to_owned(), "its machine is suspended".to_owned()));
        }
        for flaw in &self.footers.flaws {
            details.push(("footer".to_owned(), flaw.clone()));
        }
        Ok(Info {
            subformat: Some(footer.disk_type.name().to_owned()),
            unit: self.blocks.as_ref().map(Blocks::size),
            backing,
            details,
            ..Info::default()
        })
    }

    fn map(&self, range: Range<u64>) -> Result<Vec<Mapping>> {
        if self.blocks.is_none() {
            return by_extents(self, range);
        }
        let length = range.end.saturating_sub(range.start);
        check_range(self.label(), self.size, range.start, length)?;
        let mut map = Vec::new();
        let mut at = range.start;
        for _ in 0..MOST_EXTENTS {
            if at >= range.end {
                break;
            }
            let run = self.run(at, range.end)?;
            let there = run.host.is_some();
            let mapping = Mapping {
                start: at,
                length: run.length,
                content: if there { Content::Data } else { Content::Hole },
                // Without a parent it is this image that says so.
                present: there || self.parent.is_none(),
                compressed: false,
                offset: run.host,
            };
            push_mapping(&mut map, mapping);
            at += run.length;
        }
        Ok(map)
    }

    fn check(&self) -> Result<Check> {
        check(self, self.footer_place()?).map(|checked| checked.found)
    }

    fn repair_leaks(&self) -> Result<u64> {
        self.cut_leaks()
    }
}
