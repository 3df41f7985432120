//! A Parallels disk, for reading from many threads.

use super::{
    bundle,
    flaw::Flaw,
    header::{Header, LENGTH},
};
use crate::{
    disk::{Content, Disk, Error, Extent, Kind, Result, check_range, push_extent},
    image::{
        Check, Format, Image, Info, Mapping, Neighbours, findings::Findings, map::push_mapping, pages::Pages,
    },
};
use std::{fs::File, ops::Range, sync::Arc};

/// No more than this many runs are listed by one call of [`Disk::extents`].
const MOST_EXTENTS: usize = 1024;

/// A call looks at no more entries than this: the answer is then "so far, at least".
const MOST_ENTRIES: u64 = 1 << 16;

/// Places are held in memory by a check, eight bytes each: 64 MiB.
const MOST_CHECKED: u32 = 8 << 20;

/// A Parallels disk.
#[derive(Debug)]
pub struct Parallels {
    container: Arc<dyn Disk>,
    header: Header,
    pages: Pages,
}

/// Bytes of the disk that lie together.
#[derive(Clone, Copy, Debug)]
struct Run {
    /// Where in the file; `None`: zeros.
    host: Option<u64>,
    length: u64,
}

impl Parallels {
    /// Opens the image in `container` for reading. `neighbours` are asked for the description of the bundle that it lies
    /// in: a part of one is refused.
    pub fn open(container: Arc<dyn Disk>, neighbours: &dyn Neighbours) -> Result<Self> {
        let label = container.label();
        let size = container.size();
        let length = size.min(LENGTH as u64);
        let mut bytes = vec![0; usize::try_from(length).unwrap_or(0)];
        container.read_at(0, &mut bytes)?;
        let header = Header::parse(&bytes).map_err(|flaw| flaw.of(label).at(0))?;
        if LENGTH as u64 + u64::from(header.entries) * 4 > size {
            let (what, offset) = ("block table", LENGTH as u64);
            return Err(Flaw::PastTheEnd { what, offset, size }.of(label).at(offset));
        }
        bundle::must_be_whole(label, neighbours)?;
        Ok(Self {
            container,
            header,
            pages: Pages::default(),
        })
    }

    fn place(&self, block: u64) -> Result<Option<u64>> {
        let at = LENGTH as u64 + block * 4;
        let entry = self.pages.array(self.container.as_ref(), at)?;
        Ok(self.header.place(u32::from_le_bytes(entry)))
    }

    /// How the disk's bytes from `offset` on are kept, up to `end`.
    fn run(&self, offset: u64, end: u64) -> Result<Run> {
        let block = self.header.block;
        let first = offset / block;
        let last = end.div_ceil(block);
        let host = self.place(first)?.map(|place| place + offset % block);
        let mut next = first + 1;
        while next < last && next - first < MOST_ENTRIES {
            let expected = host.map(|host| host + (next * block - offset));
            if self.place(next)? != expected {
                break;
            }
            next += 1;
        }
        let length = (next * block).min(end) - offset;
        let size = self.container.size();
        if let Some(offset) = host.filter(|host| host.saturating_add(length) > size) {
            let what = "block";
            let flaw = Flaw::PastTheEnd { what, offset, size };
            return Err(flaw.of(self.label()).at(offset));
        }
        Ok(Run { host, length })
    }
}

impl Disk for Parallels {
    fn label(&self) -> &str {
        self.container.label()
    }

    fn size(&self) -> u64 {
        self.header.size
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        let end = check_range(self.label(), self.size(), offset, buffer.len() as u64)?;
        let mut at = offset;
        let mut rest = buffer;
        while at < end {
            let run = self.run(at, end)?;
            let (piece, after) = rest.split_at_mut(usize::try_from(run.length).unwrap_or(0));
            match run.host {
                Some(host) => self.container.read_at(host, piece)?,
                None => piece.fill(0),
            }
            at += run.length;
            rest = after;
        }
        Ok(())
    }

    fn extents(&self, range: Range<u64>) -> Result<Vec<Extent>> {
        let length = range.end.saturating_sub(range.start);
        check_range(self.label(), self.size(), range.start, length)?;
        let mut map = Vec::new();
        let mut at = range.start;
        while at < range.end && map.len() < MOST_EXTENTS {
            let run = self.run(at, range.end)?;
            let end = at + run.length;
            match run.host {
                None => push_extent(&mut map, Extent::new(at..end, Content::Hole)),
                Some(host) => {
                    for extent in self.container.extents(host..host + run.length)? {
                        let (start, end) = (extent.range.start - host + at, extent.range.end - host + at);
                        push_extent(&mut map, Extent::new(start..end, extent.content));
                    }
                }
            }
            let reached = map.last().map_or(at, |last: &Extent| last.range.end);
            if reached < end {
                break;
            }
            at = end;
        }
        Ok(map)
    }

    fn plain(&self, offset: u64) -> Option<(&File, u64, u64)> {
        let run = self.run(offset, self.size()).ok()?;
        let (file, at, length) = self.container.plain(run.host?)?;
        Some((file, at, length.min(run.length)))
    }
}

impl Image for Parallels {
    fn format(&self) -> Format {
        Format::Parallels
    }

    fn info(&self) -> Result<Info> {
        Ok(Info {
            unit: Some(self.header.block),
            dirty: self.header.in_use,
            details: vec![("large offsets".to_owned(), self.header.large_offsets.to_string())],
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
            let there = run.host.is_some();
            let mapping = Mapping {
                start: at,
                length: run.length,
                content: if there { Content::Data } else { Content::Hole },
                present: there,
                compressed: false,
                offset: run.host,
            };
            push_mapping(&mut map, mapping);
            at += run.length;
        }
        Ok(map)
    }

    fn check(&self) -> Result<Check> {
        let mut findings = Findings::default();
        if self.header.entries > MOST_CHECKED {
            let text = "has too many blocks to be checked here: `qemu-img check` does it";
            return Err(Error::new(Kind::Unsupported, self.label(), text));
        }
        let (block, file) = (self.header.block, self.container.size());
        let table_end = LENGTH as u64 + u64::from(self.header.entries) * 4;
        let mut places = Vec::new();
        for number in 0..u64::from(self.header.entries) {
            let Some(place) = self.place(number)? else {
                continue;
            };
            // The last block of a disk may be shorter.
            let length = self.size().saturating_sub(number * block).min(block);
            if place < table_end {
                findings.error(|| format!("block {number} at byte {place} lies on the table"));
            } else if place + length > file {
                findings.error(|| format!("block {number} at byte {place} reaches past the end of the file"));
            }
            places.push(place);
        }
        places.sort_unstable();
        let mut end = places.first().copied().unwrap_or(file).min(file);
        for place in places {
            if place < end {
                findings.error(|| format!("a block at byte {place} lies on the one before it"));
            } else if place >= end + block && place <= file {
                let (from, free) = (end, place - end);
                findings.leak(free, || {
                    format!("nothing refers to the {free} bytes at byte {from}")
                });
            }
            end = end.max(place.saturating_add(block));
        }
        if file >= end.saturating_add(block) {
            let free = file - end;
            findings.leak(free, || {
                format!("nothing refers to the {free} bytes at byte {end}")
            });
        }
        Ok(findings.into_check())
    }
}
