//! A qcow2 image as a disk, for reading from many threads.

use super::{
    check::check,
    cluster::unpack,
    flaw::Flaw,
    header::{Header, LARGEST_HEADER},
    l2_table::{self, Mapping, mapping_at},
    map::map,
    write::Writer,
};
use crate::{
    disk::{Content, Disk, Error, Extent, Result, check_range, push_extent},
    image::{self, Check, Format, Image, Info, Named, Neighbours},
};
use std::{
    collections::BTreeMap,
    fs::File,
    ops::Range,
    sync::{Arc, Mutex, PoisonError, RwLock},
};

/// Second-level tables are kept in memory up to this many bytes, but never less than a few: enough for 32 GiB at
/// the usual cluster size, and within what the whole program may use.
const CACHED_TABLE_BYTES: u64 = 4 << 20;
const FEWEST_CACHED_TABLES: u64 = 4;
/// More would make the search for the oldest one cost something.
const MOST_CACHED_TABLES: u64 = 256;

/// No more than this many runs are listed by one call of [`Disk::extents`].
const MOST_EXTENTS: usize = 1024;

/// A qcow2 image.
#[derive(Debug)]
pub struct Qcow2 {
    pub(super) container: Arc<dyn Disk>,
    pub(super) header: Header,
    pub(super) backing: Option<Arc<dyn Disk>>,
    /// `None` if it was opened for reading.
    pub(super) writer: Option<Mutex<Writer>>,
    /// As many entries as the guest's disk needs.
    pub(super) l1: RwLock<Vec<u64>>,
    tables: Mutex<Tables>,
    /// The cluster that was unpacked last, and its L2 place: compressed images are read in small steps.
    unpacked: Mutex<Option<Unpacked>>,
}

#[derive(Debug)]
struct Unpacked {
    host: u64,
    length: u64,
    bytes: Arc<Vec<u8>>,
}

/// Second-level tables by their place in the file, with the time of their last use.
#[derive(Debug, Default)]
struct Tables {
    clock: u64,
    cached: BTreeMap<u64, (u64, Arc<Vec<u64>>)>,
}

/// A run of the guest's bytes that is mapped one way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Run {
    pub(super) mapping: Mapping,
    pub(super) length: u64,
}

impl Qcow2 {
    /// Opens the image in `container` for reading. Its backing file, if it has one, is opened by `neighbours`.
    pub fn open(container: Arc<dyn Disk>, neighbours: &dyn Neighbours) -> Result<Self> {
        let label = container.label().to_owned();
        let length = container.size().min(LARGEST_HEADER);
        let mut bytes = vec![0; usize::try_from(length).unwrap_or(0)];
        container.read_at(0, &mut bytes)?;
        let header = Header::parse(&bytes).map_err(|flaw| flaw.of(&label).at(0))?;
        let l1_bytes = header.l1_needed().saturating_mul(8);
        if header.l1_offset.saturating_add(l1_bytes) > container.size() {
            return Err(Flaw::PastTheEnd {
                what: "first-level table",
                offset: header.l1_offset,
                size: container.size(),
            }
            .of(&label)
            .at(40));
        }
        // Within LARGEST_L1, and the file has as many bytes.
        let mut l1 = vec![0; usize::try_from(l1_bytes).unwrap_or(0)];
        container.read_at(header.l1_offset, &mut l1)?;
        let backing = match &header.backing_name {
            Some(name) => Some(neighbours.open(name, header.backing_format.as_deref())?),
            None => None,
        };
        Ok(Self {
            container,
            l1: RwLock::new(l2_table::words(&l1)),
            header,
            backing,
            writer: None,
            tables: Mutex::default(),
            unpacked: Mutex::default(),
        })
    }

    pub(super) fn flaw(&self, flaw: Flaw, offset: u64) -> Error {
        flaw.of(self.container.label()).at(offset)
    }

    /// The second-level table at `host`.
    pub(super) fn table(&self, host: u64) -> Result<Arc<Vec<u64>>> {
        let mut tables = self.tables.lock().unwrap_or_else(PoisonError::into_inner);
        tables.clock += 1;
        let now = tables.clock;
        if let Some((used, table)) = tables.cached.get_mut(&host) {
            *used = now;
            return Ok(table.clone());
        }
        let size = self.header.cluster_size();
        if !host.is_multiple_of(size) {
            return Err(self.flaw(Flaw::Unaligned("second-level table", host), host));
        }
        self.must_exist("second-level table", host, size)?;
        let mut bytes = vec![0; usize::try_from(size).unwrap_or(0)];
        self.container.read_at(host, &mut bytes)?;
        let table = Arc::new(l2_table::words(&bytes));
        let most = (CACHED_TABLE_BYTES / size).clamp(FEWEST_CACHED_TABLES, MOST_CACHED_TABLES);
        if tables.cached.len() as u64 >= most {
            let oldest = tables
                .cached
                .iter()
                .min_by_key(|(_, (used, _))| *used)
                .map(|(host, _)| *host);
            if let Some(oldest) = oldest {
                tables.cached.remove(&oldest);
            }
        }
        tables.cached.insert(host, (now, table.clone()));
        Ok(table)
    }

    /// Changes the cached copy of the table at `host`, after its bytes in the file have been changed.
    pub(super) fn update_cached_table(&self, host: u64, change: impl FnOnce(&mut Vec<u64>)) {
        let mut tables = self.tables.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, table)) = tables.cached.get_mut(&host) {
            change(Arc::make_mut(table));
        }
    }

    pub(super) fn must_exist(&self, what: &'static str, offset: u64, length: u64) -> Result<()> {
        let size = self.container.size();
        if offset.saturating_add(length) > size {
            return Err(self.flaw(Flaw::PastTheEnd { what, offset, size }, offset));
        }
        Ok(())
    }

    /// How the guest's bytes from `offset` on are mapped, up to `end` at most and not beyond one second-level table.
    pub(super) fn run(&self, offset: u64, end: u64) -> Result<Run> {
        let coverage = self.header.l2_coverage();
        let index = offset / coverage;
        let end = end.min((index + 1).saturating_mul(coverage));
        let entry = {
            let l1 = self.l1.read().unwrap_or_else(PoisonError::into_inner);
            usize::try_from(index)
                .ok()
                .and_then(|index| l1.get(index).copied())
                .unwrap_or(0)
        };
        let host = entry & l2_table::OFFSET;
        if host == 0 {
            return Ok(Run {
                mapping: Mapping::Unallocated,
                length: end - offset,
            });
        }
        let table = self.table(host)?;
        let at = |at: u64| mapping_at(&table, &self.header, at).map_err(|flaw| self.flaw(flaw, host));
        let cluster = self.header.cluster_size();
        let unit = if self.header.has_extended_l2() {
            cluster / l2_table::SUBCLUSTERS
        } else {
            cluster
        };
        let mapping = at(offset)?;
        if matches!(mapping, Mapping::Compressed { .. }) {
            let length = end.min((offset / cluster + 1) * cluster) - offset;
            return Ok(Run { mapping, length });
        }
        let mut next = (offset / unit + 1) * unit;
        while next < end {
            let continues = match (mapping, at(next)?) {
                (Mapping::Data { host }, Mapping::Data { host: then }) => {
                    host.checked_add(next - offset) == Some(then)
                }
                (one, other) => one == other,
            };
            if !continues {
                break;
            }
            next += unit;
        }
        Ok(Run {
            mapping,
            length: next.min(end) - offset,
        })
    }

    /// The cluster that unpacks from `length` bytes at `host`.
    fn unpacked(&self, host: u64, length: u64) -> Result<Arc<Vec<u8>>> {
        let mut last = self.unpacked.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(last) = last
            .as_ref()
            .filter(|last| (last.host, last.length) == (host, length))
        {
            return Ok(last.bytes.clone());
        }
        drop(last);
        // The last sector need not be there wholly.
        let available = self.container.size().saturating_sub(host).min(length);
        if available == 0 {
            self.must_exist("compressed cluster", host, 1)?;
        }
        // Two clusters at most, by the width of the field.
        let mut packed = vec![0; usize::try_from(available).unwrap_or(0)];
        self.container.read_at(host, &mut packed)?;
        let size = usize::try_from(self.header.cluster_size()).unwrap_or(0);
        let bytes = unpack(self.header.compression, &packed, size).map_err(|flaw| self.flaw(flaw, host))?;
        let bytes = Arc::new(bytes);
        last = self.unpacked.lock().unwrap_or_else(PoisonError::into_inner);
        *last = Some(Unpacked {
            host,
            length,
            bytes: bytes.clone(),
        });
        Ok(bytes)
    }

    fn read_backing(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        let Some(backing) = &self.backing else {
            buffer.fill(0);
            return Ok(());
        };
        // A backing file may be shorter: zeros follow it.
        let there = backing.size().saturating_sub(offset).min(buffer.len() as u64);
        let (front, rest) = buffer.split_at_mut(usize::try_from(there).unwrap_or(0));
        rest.fill(0);
        if front.is_empty() {
            return Ok(());
        }
        backing.read_at(offset, front)
    }

    pub(super) fn read_run(&self, run: Run, offset: u64, buffer: &mut [u8]) -> Result<()> {
        match run.mapping {
            Mapping::Unallocated => self.read_backing(offset, buffer),
            Mapping::Zero { .. } => {
                buffer.fill(0);
                Ok(())
            }
            Mapping::Data { host } => {
                self.must_exist("data cluster", host, buffer.len() as u64)?;
                self.container.read_at(host, buffer)
            }
            Mapping::Compressed { host, length } => {
                let cluster = self.unpacked(host, length)?;
                let within = usize::try_from(offset % self.header.cluster_size()).unwrap_or(0);
                let bytes = cluster
                    .get(within..within.saturating_add(buffer.len()))
                    .unwrap_or_default();
                buffer.copy_from_slice(bytes);
                Ok(())
            }
        }
    }

    /// The runs of a `run` at `offset`, as the backing file or the container below has them.
    fn push_run(&self, map: &mut Vec<Extent>, run: Run, offset: u64) -> Result<()> {
        let range = offset..offset + run.length;
        match run.mapping {
            Mapping::Zero { allocated: true } => push_extent(map, Extent::new(range, Content::Zero)),
            Mapping::Zero { allocated: false } => push_extent(map, Extent::new(range, Content::Hole)),
            Mapping::Compressed { .. } => push_extent(map, Extent::new(range, Content::Data)),
            Mapping::Data { host } => {
                self.must_exist("data cluster", host, run.length)?;
                push_shifted(map, self.container.as_ref(), host..host + run.length, offset)?;
            }
            Mapping::Unallocated => {
                let there = self
                    .backing
                    .as_ref()
                    .map_or(0, |backing| backing.size())
                    .clamp(offset, range.end);
                match &self.backing {
                    Some(backing) if there > offset => {
                        push_shifted(map, backing.as_ref(), offset..there, offset)?;
                        if map.last().is_some_and(|last| last.range.end < there) {
                            return Ok(());
                        }
                    }
                    _ => {}
                }
                push_extent(map, Extent::new(there..range.end, Content::Hole));
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

impl Disk for Qcow2 {
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

    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        self.write_guest(offset, bytes)
    }

    fn write_zeros(&self, range: Range<u64>) -> Result<()> {
        self.zero_guest(range)
    }

    fn flush(&self) -> Result<()> {
        self.container.flush()
    }

    fn extents(&self, range: Range<u64>) -> Result<Vec<Extent>> {
        check_range(
            self.label(),
            self.size(),
            range.start,
            range.end.saturating_sub(range.start),
        )?;
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
        let Mapping::Data { host } = run.mapping else {
            return None;
        };
        let (file, at, length) = self.container.plain(host)?;
        Some((file, at, length.min(run.length)))
    }
}

impl Image for Qcow2 {
    fn format(&self) -> Format {
        Format::Qcow2
    }

    fn info(&self) -> Result<Info> {
        let header = &self.header;
        Ok(Info {
            unit: Some(header.cluster_size()),
            backing: header.backing_name.as_ref().map(|name| Named {
                name: String::from_utf8_lossy(name).into_owned(),
                format: header.backing_format.clone(),
            }),
            ..Info::default()
        })
    }

    fn map(&self, range: Range<u64>) -> Result<Vec<image::Mapping>> {
        map(self, range)
    }

    fn check(&self) -> Result<Check> {
        check(self)
    }
}
