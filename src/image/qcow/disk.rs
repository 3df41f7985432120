//! A qcow image as a disk, for reading from many threads.

use super::{
    flaw::Flaw,
    header::{Header, LENGTH, Mapping},
};
use crate::{
    disk::{Content, Disk, Error, Extent, Kind, Result, check_range, push_extent},
    image::{
        Check, Format, Image, Info, Mapping as Mapped, Named, Neighbours,
        deflate::{Envelope, decompress},
        detect,
        findings::Findings,
        map::push_mapping,
        pages::Pages,
        unpacked::Unpacked,
    },
};
use std::{fs::File, ops::Range, sync::Arc};

/// No more than this many runs come from one look at a map.
const MOST_EXTENTS: usize = 1024;

/// A call looks at no more entries than this: the answer is then "so far, at least".
const MOST_ENTRIES: u64 = 1 << 16;

/// A check looks at no more entries than this: those of a disk of 1 TiB in the usual clusters of 4 KiB.
const MOST_CHECKED: u64 = 1 << 28;

/// A qcow image.
#[derive(Debug)]
pub struct Qcow {
    container: Arc<dyn Disk>,
    header: Header,
    /// Its name, and its disk.
    backing: Option<(Vec<u8>, Arc<dyn Disk>)>,
    pages: Pages,
    unpacked: Unpacked,
}

/// Bytes of the disk that are mapped one way.
#[derive(Clone, Copy, Debug)]
struct Run {
    mapping: Mapping,
    length: u64,
}

impl Qcow {
    /// Opens the image in `container` for reading. Its backing file, if it has one, is opened by `neighbours` as a raw
    /// disk, since the format does not say what it is; one that begins like an image is refused.
    ///
    /// # Errors
    /// [`Kind::Unsupported`] for an encrypted one.
    pub fn open(container: Arc<dyn Disk>, neighbours: &dyn Neighbours) -> Result<Self> {
        let label = container.label();
        let size = container.size();
        let length = size.min(LENGTH as u64);
        let mut bytes = vec![0; usize::try_from(length).unwrap_or(0)];
        container.read_at(0, &mut bytes)?;
        let header = Header::parse(&bytes).map_err(|flaw| flaw.of(label).at(0))?;
        match header.encryption {
            0 => {}
            1 => return Err(Flaw::Encrypted.of(label).at(36)),
            other => return Err(Flaw::UnknownEncryption(other).of(label).at(36)),
        }
        let must_exist = |what, offset: u64, length: u64| {
            if offset.saturating_add(length) > size {
                return Err(Flaw::PastTheEnd { what, offset, size }.of(label).at(offset));
            }
            Ok(())
        };
        must_exist("first-level table", header.table, header.table_size())?;
        let backing = match header.backing_name {
            Some((offset, length)) => {
                must_exist("name of the backing file", offset, length.into())?;
                let mut name = vec![0; length as usize];
                container.read_at(offset, &mut name)?;
                let disk = open_backing(label, &name, neighbours)?;
                Some((name, disk))
            }
            None => None,
        };
        Ok(Self {
            container,
            header,
            backing,
            pages: Pages::default(),
            unpacked: Unpacked::default(),
        })
    }

    fn entry(&self, at: u64) -> Result<u64> {
        Ok(u64::from_be_bytes(self.pages.array(self.container.as_ref(), at)?))
    }

    fn past_the_end(&self, what: &'static str, offset: u64) -> Error {
        let size = self.container.size();
        let flaw = Flaw::PastTheEnd { what, offset, size };
        flaw.of(self.label()).at(offset)
    }

    /// Where the second-level table of the byte `offset` of the disk is; 0 if there is none.
    fn table(&self, offset: u64) -> Result<u64> {
        let table = self.entry(self.header.table + offset / self.header.coverage() * 8)?;
        let length = 8 << self.header.table_bits;
        if table != 0 && table.saturating_add(length) > self.container.size() {
            return Err(self.past_the_end("second-level table", table));
        }
        Ok(table)
    }

    /// How the cluster of the byte `offset` is mapped, by the second-level table at `table`.
    fn mapping(&self, table: u64, offset: u64) -> Result<Mapping> {
        let index = offset % self.header.coverage() / self.header.cluster_size();
        Ok(self.header.mapping(self.entry(table + index * 8)?))
    }

    /// How the disk's bytes from `offset` on are mapped, up to `end`. A compressed cluster is a run of its own.
    fn run(&self, offset: u64, end: u64) -> Result<Run> {
        let (coverage, cluster) = (self.header.coverage(), self.header.cluster_size());
        let last = |next: u64| next.min(end) - offset;
        let mut next = offset;
        // Whole tables that are not there.
        for _ in 0..MOST_ENTRIES {
            if next >= end || self.table(next)? != 0 {
                break;
            }
            next = (next / coverage + 1) * coverage;
        }
        if next > offset {
            let mapping = Mapping::Unallocated;
            let length = last(next);
            return Ok(Run { mapping, length });
        }
        let table = self.table(offset)?;
        let mapping = match self.mapping(table, offset)? {
            Mapping::Data(host) => Mapping::Data(host.saturating_add(offset % cluster)),
            other => other,
        };
        next = (offset / cluster + 1) * cluster;
        let table_end = (offset / coverage + 1) * coverage;
        while next < end.min(table_end) && !matches!(mapping, Mapping::Compressed { .. }) {
            let continues = match (mapping, self.mapping(table, next)?) {
                (Mapping::Data(host), Mapping::Data(then)) => host.checked_add(next - offset) == Some(then),
                (one, other) => one == other,
            };
            if !continues {
                break;
            }
            next += cluster;
        }
        let length = last(next);
        if let Mapping::Data(host) = mapping
            && host.saturating_add(length) > self.container.size()
        {
            return Err(self.past_the_end("data cluster", host));
        }
        Ok(Run { mapping, length })
    }

    fn read_run(&self, run: Run, offset: u64, buffer: &mut [u8]) -> Result<()> {
        match run.mapping {
            Mapping::Unallocated => {
                let there = self
                    .backing_size()
                    .saturating_sub(offset)
                    .min(buffer.len() as u64);
                let (front, rest) = buffer.split_at_mut(usize::try_from(there).unwrap_or(0));
                rest.fill(0);
                match &self.backing {
                    Some((_, backing)) if !front.is_empty() => backing.read_at(offset, front),
                    _ => Ok(()),
                }
            }
            Mapping::Data(host) => self.container.read_at(host, buffer),
            Mapping::Compressed { host, length } => {
                let size = usize::try_from(self.header.cluster_size()).unwrap_or(0);
                let within = usize::try_from(offset % self.header.cluster_size()).unwrap_or(0);
                self.unpacked.read(host, size, within, buffer, |cluster| {
                    self.unpack(host, length, cluster)
                })
            }
        }
    }

    fn unpack(&self, host: u64, length: u64, cluster: &mut [u8]) -> Result<()> {
        if host.saturating_add(length) > self.container.size() {
            return Err(self.past_the_end("compressed cluster", host));
        }
        // Less than a cluster, by the width of the field.
        let mut packed = vec![0; usize::try_from(length).unwrap_or(0)];
        self.container.read_at(host, &mut packed)?;
        let flaw = match decompress(Envelope::Bare, &packed, cluster) {
            Ok(there) if there == cluster.len() => return Ok(()),
            Ok(there) => Flaw::Compressed(format!("{there} of {} bytes", cluster.len())),
            Err(error) => Flaw::Compressed(error.to_string()),
        };
        Err(flaw.of(self.label()).at(host))
    }

    fn backing_size(&self) -> u64 {
        self.backing.as_ref().map_or(0, |(_, backing)| backing.size())
    }

    fn push_run(&self, map: &mut Vec<Extent>, run: Run, offset: u64) -> Result<()> {
        let end = offset + run.length;
        let there = match run.mapping {
            Mapping::Data(host) => {
                return push_shifted(map, self.container.as_ref(), host..host + run.length, offset);
            }
            Mapping::Compressed { .. } => {
                push_extent(map, Extent::new(offset..end, Content::Data));
                return Ok(());
            }
            Mapping::Unallocated => self.backing_size().clamp(offset, end),
        };
        if let Some((_, backing)) = &self.backing
            && there > offset
        {
            push_shifted(map, backing.as_ref(), offset..there, offset)?;
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

/// The format has no place for the format of the backing file, and a guest could have written any magic into a raw one:
/// what has no magic is raw without doubt, and nothing else is opened.
fn open_backing(label: &str, name: &[u8], neighbours: &dyn Neighbours) -> Result<Arc<dyn Disk>> {
    let disk = neighbours.open(name, Some(Format::Raw.name()))?;
    let found = match detect(disk.as_ref()) {
        Ok(Format::Raw) => return Ok(disk),
        // Whoever gives a file without its bytes only wants to know what is said of it.
        Err(error) if error.kind == Kind::NotFound => return Ok(disk),
        Ok(format) => format.to_string(),
        Err(error) if error.kind == Kind::Unsupported => error.source.to_string(),
        Err(error) => return Err(error),
    };
    let name = String::from_utf8_lossy(name).into_owned();
    Err(Flaw::BackingFormat { name, found }.of(label))
}

impl Disk for Qcow {
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
            self.read_run(run, at, piece)?;
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
        let run = self.run(offset, self.size()).ok()?;
        let Mapping::Data(host) = run.mapping else {
            return None;
        };
        let (file, at, length) = self.container.plain(host)?;
        Some((file, at, length.min(run.length)))
    }
}

impl Image for Qcow {
    fn format(&self) -> Format {
        Format::Qcow
    }

    fn info(&self) -> Result<Info> {
        Ok(Info {
            unit: Some(self.header.cluster_size()),
            backing: self.backing.as_ref().map(|(name, _)| Named {
                name: String::from_utf8_lossy(name).into_owned(),
                format: None,
            }),
            compression: Some("zlib".to_owned()),
            ..Info::default()
        })
    }

    fn map(&self, range: Range<u64>) -> Result<Vec<Mapped>> {
        let length = range.end.saturating_sub(range.start);
        check_range(self.label(), self.size(), range.start, length)?;
        let mut map = Vec::new();
        let mut at = range.start;
        while at < range.end && map.len() < MOST_EXTENTS {
            let run = self.run(at, range.end)?;
            let (content, offset, compressed) = match run.mapping {
                Mapping::Unallocated => (Content::Hole, None, false),
                Mapping::Data(host) => (Content::Data, Some(host), false),
                Mapping::Compressed { .. } => (Content::Data, None, true),
            };
            let mapped = Mapped {
                start: at,
                length: run.length,
                content,
                present: content == Content::Data,
                compressed,
                offset,
            };
            push_mapping(&mut map, mapped);
            at += run.length;
        }
        Ok(map)
    }

    /// The format counts nothing: what can be seen is whether all that is mapped lies in the file.
    fn check(&self) -> Result<Check> {
        let mut findings = Findings::default();
        let (coverage, cluster) = (self.header.coverage(), self.header.cluster_size());
        let mut checked = 0;
        let mut at = 0;
        while at < self.size() {
            let table = match self.table(at) {
                Ok(table) => table,
                Err(error) if error.kind == Kind::Corrupt => {
                    findings.error(|| error.source.to_string());
                    0
                }
                Err(error) => return Err(error),
            };
            let end = (at / coverage + 1).saturating_mul(coverage).min(self.size());
            checked += 1;
            while table != 0 && at < end {
                let (what, host, length) = match self.mapping(table, at)? {
                    Mapping::Unallocated => ("", 0, 0),
                    Mapping::Data(host) => ("data cluster", host, cluster.min(self.size() - at)),
                    Mapping::Compressed { host, length } => ("compressed cluster", host, length),
                };
                if length > 0 && host.saturating_add(length) > self.container.size() {
                    findings.error(|| self.past_the_end(what, host).source.to_string());
                }
                at += cluster;
                checked += 1;
            }
            if checked > MOST_CHECKED {
                let text = "has too many clusters to be checked here";
                return Err(Error::new(Kind::Unsupported, self.label(), text));
            }
            at = end;
        }
        Ok(findings.into_check())
    }
}
