//! A qcow2 image as a disk, for reading from many threads.

use super::{
    check::{check, repair_leaks},
    cluster::unpack,
    flaw::Flaw,
    header::{Header, LARGEST_HEADER},
    info::info,
    l2_cache::L2Cache,
    l2_table::{self, Mapping, mapping_at},
    map::map,
    snapshot,
    write::Writer,
};
use crate::{
    disk::{Content, Disk, Error, Extent, Result, check_range, push_extent},
    image::{self, Check, Format, Image, Info, Neighbours, unpacked::Unpacked},
};
use std::{
    fs::File,
    ops::Range,
    sync::{Arc, Mutex, PoisonError, RwLock},
};

/// No more than this many runs are listed by one call of [`Disk::extents`].
const MOST_EXTENTS: usize = 1024;

/// A qcow2 image.
#[derive(Debug)]
pub struct Qcow2 {
    label: String,
    pub(super) container: Arc<dyn Disk>,
    /// Where data clusters lie: in the container, as a rule.
    data: Arc<dyn Disk>,
    pub(super) header: Header,
    pub(super) backing: Option<Arc<dyn Disk>>,
    /// `None` if it was opened for reading.
    pub(super) writer: Option<Mutex<Writer>>,
    /// As many entries as the guest's disk needs; fewer for an old snapshot of a disk that has grown.
    pub(super) l1: RwLock<Vec<u64>>,
    pub(super) tables: L2Cache,
    unpacked: Unpacked,
}

/// A run of the guest's bytes that is mapped one way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Run {
    pub(super) mapping: Mapping,
    pub(super) length: u64,
}

impl Qcow2 {
    /// Opens the image in `container` for reading. Its backing file and its external data file, if it has them, are
    /// opened by `neighbours`. One that is marked corrupt is read as far as that goes, as the format allows;
    /// [`Image::info`] says so.
    ///
    /// # Errors
    /// [`Kind::Unsupported`](crate::disk::Kind) for an encrypted one.
    pub fn open(container: Arc<dyn Disk>, neighbours: &dyn Neighbours) -> Result<Self> {
        let header = read_header(container.as_ref())?;
        let (offset, entries) = (header.l1_offset, header.l1_needed());
        let label = container.label().to_owned();
        Self::with_table(container, label, header, (offset, entries), neighbours)
    }

    /// Opens the disk as it was at the time of an internal snapshot, for reading. `wanted` is the identifier of the
    /// snapshot, or else its name.
    ///
    /// # Errors
    /// [`Kind::NotFound`](crate::disk::Kind) if there is no such snapshot, with those that there are.
    pub fn open_snapshot(
        container: Arc<dyn Disk>,
        wanted: &str,
        neighbours: &dyn Neighbours,
    ) -> Result<Self> {
        let mut header = read_header(container.as_ref())?;
        let label = container.label().to_owned();
        let (snapshots, _) = snapshot::read(container.as_ref(), &header)?;
        let snapshot = snapshot::find(snapshots, wanted).map_err(|flaw| flaw.of(&label))?;
        if let Some(size) = snapshot.disk_size {
            header.size = size;
            if u64::from(snapshot.l1_size) < header.l1_needed() {
                let (entries, needed) = (snapshot.l1_size, header.l1_needed());
                return Err(Flaw::L1TooSmall { entries, needed }.of(&label));
            }
        }
        let entries = header.l1_needed().min(u64::from(snapshot.l1_size));
        let label = format!("{label} snapshot {wanted}");
        Self::with_table(
            container,
            label,
            header,
            (snapshot.l1_offset, entries),
            neighbours,
        )
    }

    /// Size of the disk in `container`, in bytes, and what the image says of itself, without opening the files that it
    /// names and without a key: for one that cannot be opened.
    ///
    /// # Errors
    /// Those of its header.
    pub fn describe(container: &dyn Disk) -> Result<(u64, Info)> {
        let header = read_header(container)?;
        Ok((header.size, info(container, &header)?))
    }

    fn with_table(
        container: Arc<dyn Disk>,
        label: String,
        header: Header,
        (l1_offset, l1_entries): (u64, u64),
        neighbours: &dyn Neighbours,
    ) -> Result<Self> {
        let flaw = |flaw: Flaw, at: u64| flaw.of(&label).at(at);
        if let Some(encryption) = header.encryption {
            return Err(flaw(Flaw::Encrypted(encryption.name()), 32));
        }
        let (what, size) = ("first-level table", container.size());
        let l1_bytes = l1_entries.saturating_mul(8);
        if l1_offset.saturating_add(l1_bytes) > size {
            let offset = l1_offset;
            return Err(flaw(Flaw::PastTheEnd { what, offset, size }, 40));
        }
        // Within LARGEST_L1, and the file has as many bytes.
        let mut l1 = vec![0; usize::try_from(l1_bytes).unwrap_or(0)];
        container.read_at(l1_offset, &mut l1)?;
        let data = match &header.data_name {
            _ if !header.has_external_data() => container.clone(),
            Some(name) => neighbours.open(name, Some(Format::Raw.name()))?,
            None => return Err(flaw(Flaw::UnnamedData, 72)),
        };
        let backing = match &header.backing_name {
            Some(name) => Some(neighbours.open(name, header.backing_format.as_deref())?),
            None => None,
        };
        Ok(Self {
            label,
            container,
            data,
            l1: RwLock::new(l2_table::words(&l1)),
            header,
            backing,
            writer: None,
            tables: L2Cache::default(),
            unpacked: Unpacked::default(),
        })
    }

    pub(super) fn flaw(&self, flaw: Flaw, offset: u64) -> Error {
        flaw.of(&self.label).at(offset)
    }

    pub(super) fn must_exist(&self, what: &'static str, offset: u64, length: u64) -> Result<()> {
        self.must_exist_in(&*self.container, what, offset, length)
    }

    fn must_exist_in(&self, disk: &dyn Disk, what: &'static str, offset: u64, length: u64) -> Result<()> {
        let size = disk.size();
        if offset.saturating_add(length) > size {
            let flaw = Flaw::PastTheEnd { what, offset, size };
            return Err(flaw.of(disk.label()).at(offset));
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
                (Mapping::Data { host }, Mapping::Data { host: then })
                | (Mapping::Zero { host: Some(host) }, Mapping::Zero { host: Some(then) }) => {
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

    /// Fills `buffer` with what unpacks from `length` bytes at `host`, from `within` on.
    fn read_compressed(&self, host: u64, length: u64, within: usize, buffer: &mut [u8]) -> Result<()> {
        let size = usize::try_from(self.header.cluster_size()).unwrap_or(0);
        self.unpacked.read(host, size, within, buffer, |cluster| {
            // The last sector need not be there wholly.
            let available = self.container.size().saturating_sub(host).min(length);
            if available == 0 {
                self.must_exist("compressed cluster", host, 1)?;
            }
            // Two clusters at most, by the width of the field.
            let mut packed = vec![0; usize::try_from(available).unwrap_or(0)];
            self.container.read_at(host, &mut packed)?;
            unpack(self.header.compression, &packed, cluster).map_err(|flaw| self.flaw(flaw, host))
        })
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
                self.must_exist_in(&*self.data, "data cluster", host, buffer.len() as u64)?;
                self.data.read_at(host, buffer)
            }
            Mapping::Compressed { host, length } => {
                let within = usize::try_from(offset % self.header.cluster_size()).unwrap_or(0);
                self.read_compressed(host, length, within, buffer)
            }
        }
    }

    /// The runs of a `run` at `offset`, as the backing file or the container below has them.
    fn push_run(&self, map: &mut Vec<Extent>, run: Run, offset: u64) -> Result<()> {
        let range = offset..offset + run.length;
        match run.mapping {
            Mapping::Zero { host: Some(_) } => push_extent(map, Extent::new(range, Content::Zero)),
            Mapping::Zero { host: None } => push_extent(map, Extent::new(range, Content::Hole)),
            Mapping::Compressed { .. } => push_extent(map, Extent::new(range, Content::Data)),
            Mapping::Data { host } => {
                self.must_exist_in(&*self.data, "data cluster", host, run.length)?;
                push_shifted(map, self.data.as_ref(), host..host + run.length, offset)?;
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
        &self.label
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

    fn discard(&self, range: Range<u64>) -> Result<()> {
        self.discard_guest(range)
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
        let (file, at, length) = self.data.plain(host)?;
        Some((file, at, length.min(run.length)))
    }
}

impl Image for Qcow2 {
    fn format(&self) -> Format {
        Format::Qcow2
    }

    fn info(&self) -> Result<Info> {
        info(self.container.as_ref(), &self.header)
    }

    fn map(&self, range: Range<u64>) -> Result<Vec<image::Mapping>> {
        map(self, range)
    }

    fn check(&self) -> Result<Check> {
        check(self)
    }

    fn repair_leaks(&self) -> Result<u64> {
        repair_leaks(self)
    }
}

fn read_header(container: &dyn Disk) -> Result<Header> {
    let length = container.size().min(LARGEST_HEADER);
    let mut bytes = vec![0; usize::try_from(length).unwrap_or(0)];
    container.read_at(0, &mut bytes)?;
    Header::parse(&bytes).map_err(|flaw| flaw.of(container.label()).at(0))
}
