//! UDF for reading: installation media of Windows, and driver discs. From 1.02 to 2.60, with metadata partitions; discs
//! that were written in sessions or have sparing tables are refused by name.

mod descriptor;

use super::{Attributes, Edit, FileSystem, Identity, Node, Result, mode};
use crate::disk::{Disk, Error, Kind, field::u32_le};
use descriptor::{
    Address, Contents, DIRECTORY, DescriptorError, FileEntry, Identifier, LINK, LogicalVolume, PartitionMap,
    Run, RunKind, check, expect, tag,
};
use std::{collections::BTreeMap, ops::Range, sync::Arc};

/// Blocks that a disc or a disk can have ("3/8.1", UDF 2.2.2): discs have 2048.
const BLOCK_SIZES: [u32; 4] = [2048, 512, 4096, 1024];
/// Where the first anchor is ("3/8.4.2.1").
const ANCHOR: u64 = 256;
/// Descriptors of a volume; real ones have about ten.
const MOST_DESCRIPTORS: u64 = 1000;
/// Bytes of one directory.
const LARGEST_DIRECTORY: u64 = 32 << 20;
/// Runs of one file: of 1 GiB each, or of single blocks of a badly broken one.
const MOST_RUNS: usize = 200_000;

/// A volume.
#[derive(Debug)]
pub struct Udf {
    disk: Arc<dyn Disk>,
    block_size: u32,
    label: String,
    /// By the references that addresses use.
    partitions: Vec<Partition>,
    root: Address,
}

/// What addresses of one partition reference lead to.
#[derive(Clone, Debug)]
enum Partition {
    /// Blocks of the disk.
    Physical { start: u32, length: u32 },
    /// Blocks of the metadata file: its runs, in bytes of the disk.
    Metadata(Vec<Range<u64>>),
}

impl Udf {
    /// Opens the volume on `disk`; `None`: it is none.
    ///
    /// # Errors
    /// Those of reading; `Corrupt` and `Unsupported` with what it is that cannot be read.
    pub fn open(disk: Arc<dyn Disk>) -> Result<Option<Self>> {
        for block_size in BLOCK_SIZES {
            let size = u64::from(block_size);
            let blocks = disk.size() / size;
            for block in [ANCHOR, blocks.wrapping_sub(1), blocks.wrapping_sub(257)] {
                if block == 0 || block >= blocks {
                    continue;
                }
                let mut anchor = vec![0; 512];
                disk.read_at(block * size, &mut anchor)?;
                // Block sizes that are not the disk's find other bytes there, or an anchor of another place.
                let place = u32_le(&anchor, 12).map(u64::from);
                if check(&anchor) == Ok(tag::ANCHOR) && place == Ok(block) {
                    return Self::open_at(disk, block_size, &anchor).map(Some);
                }
            }
        }
        Ok(None)
    }

    fn open_at(disk: Arc<dyn Disk>, block_size: u32, anchor: &[u8]) -> Result<Self> {
        let mut failed = None;
        // The main sequence of descriptors, then the reserve.
        for at in [16, 24] {
            let (length, start) = (
                u32_le(anchor, at).unwrap_or(0),
                u32_le(anchor, at + 4).unwrap_or(0),
            );
            match Self::open_sequence(disk.clone(), block_size, start, length) {
                Ok(volume) => return Ok(volume),
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        Err(failed.unwrap_or_else(|| Error::new(Kind::Corrupt, disk.label(), "no volume descriptors")))
    }

    fn open_sequence(disk: Arc<dyn Disk>, block_size: u32, start: u32, length: u32) -> Result<Self> {
        let size = u64::from(block_size);
        let mut physical: BTreeMap<u16, (u32, u32, u32)> = BTreeMap::new();
        let mut logical: Option<LogicalVolume> = None;
        for number in 0..u64::from(length / block_size).min(MOST_DESCRIPTORS) {
            let at = (u64::from(start) + number) * size;
            let mut bytes = vec![0; usize::try_from(size).unwrap_or_default()];
            disk.read_at(at, &mut bytes)?;
            let failed = |error: DescriptorError| refused(&*disk, at, error);
            match check(&bytes) {
                Ok(tag::TERMINATING) | Err(_) => break,
                Ok(tag::PARTITION) => {
                    let field = |at| u32_le(&bytes, at).map_err(|error| failed(error.into()));
                    let (sequence, number) = (field(16)?, field(20)? >> 16);
                    let number = u16::try_from(number).unwrap_or(u16::MAX);
                    let entry = (sequence, field(188)?, field(192)?);
                    let kept = physical.entry(number).or_insert(entry);
                    // Of two the one that was written later counts.
                    *kept = entry.max(*kept);
                }
                Ok(tag::LOGICAL_VOLUME) => {
                    let volume = LogicalVolume::parse(&bytes).map_err(failed)?;
                    if logical
                        .as_ref()
                        .is_none_or(|kept| kept.sequence <= volume.sequence)
                    {
                        logical = Some(volume);
                    }
                }
                Ok(_) => {}
            }
        }
        let corrupt = |text: &str| Error::new(Kind::Corrupt, disk.label(), text);
        let logical = logical.ok_or_else(|| corrupt("no logical volume descriptor"))?;
        if logical.block_size != block_size {
            return Err(corrupt(
                "its logical blocks are not as large as its sectors, as UDF asks",
            ));
        }
        let mut volume = Self {
            disk: disk.clone(),
            block_size,
            label: logical.label,
            partitions: Vec::new(),
            root: Address::default(),
        };
        for map in &logical.maps {
            let (number, file) = match *map {
                PartitionMap::Physical(number) => (number, None),
                PartitionMap::Metadata {
                    partition,
                    file,
                    mirror,
                } => (partition, Some((file, mirror))),
            };
            let found = physical.get(&number);
            let (_, start, length) =
                *found.ok_or_else(|| corrupt("a map names a partition that is not there"))?;
            let below = Partition::Physical { start, length };
            let partition = match file {
                None => below,
                Some((file, mirror)) => {
                    let runs = volume.metadata(&below, file);
                    Partition::Metadata(runs.or_else(|_| volume.metadata(&below, mirror))?)
                }
            };
            volume.partitions.push(partition);
        }
        let file_set = volume.block(logical.file_set)?;
        let at = volume.place(logical.file_set)?;
        let failed = |error: DescriptorError| refused(&*disk, at, error);
        expect(&file_set, tag::FILE_SET).map_err(failed)?;
        volume.root = Run::long(&file_set, 400)
            .map_err(|error| failed(error.into()))?
            .start;
        Ok(volume)
    }

    /// The runs of the metadata file whose entry is at `block` of the partition `below` (UDF 2.2.13).
    fn metadata(&self, below: &Partition, block: u32) -> Result<Vec<Range<u64>>> {
        let mut alone = Self {
            disk: self.disk.clone(),
            block_size: self.block_size,
            label: String::new(),
            partitions: vec![below.clone()],
            root: Address::default(),
        };
        let address = Address { block, partition: 0 };
        let entry = alone.entry(address)?;
        // Its runs are in the partition that it is in, whatever number they bear.
        if let Contents::Runs { runs, .. } = &entry.contents
            && runs.iter().any(|run| run.start.partition != 0)
        {
            let most = runs
                .iter()
                .map(|run| usize::from(run.start.partition))
                .max()
                .unwrap_or(0);
            alone.partitions = vec![below.clone(); most + 1];
        }
        alone
            .runs(&entry)?
            .into_iter()
            .map(|run| {
                let start = alone.place(run.start)?;
                Ok(start..start + u64::from(run.length))
            })
            .collect()
    }

    fn corrupt(&self, text: impl Into<String>) -> Error {
        Error::new(Kind::Corrupt, self.disk.label(), text.into())
    }

    /// Where on the disk an address is.
    fn place(&self, address: Address) -> Result<u64> {
        let size = u64::from(self.block_size);
        let outside = || {
            self.corrupt(format!(
                "block {} of partition {} is outside of it",
                address.block, address.partition
            ))
        };
        match self
            .partitions
            .get(usize::from(address.partition))
            .ok_or_else(outside)?
        {
            Partition::Physical { start, length } => {
                if address.block >= *length {
                    return Err(outside());
                }
                Ok((u64::from(*start) + u64::from(address.block)) * size)
            }
            Partition::Metadata(runs) => {
                let mut left = u64::from(address.block) * size;
                for run in runs {
                    let length = run.end - run.start;
                    if left < length {
                        return Ok(run.start + left);
                    }
                    left -= length;
                }
                Err(outside())
            }
        }
    }

    fn block(&self, address: Address) -> Result<Vec<u8>> {
        let mut bytes = vec![0; usize::try_from(self.block_size).unwrap_or_default()];
        self.disk.read_at(self.place(address)?, &mut bytes)?;
        Ok(bytes)
    }

    fn entry(&self, address: Address) -> Result<FileEntry> {
        let bytes = self.block(address)?;
        let at = self.place(address)?;
        FileEntry::parse(&bytes, address.partition).map_err(|error| refused(&*self.disk, at, error))
    }

    /// The entry of a node, and its address.
    fn of_node(&self, node: Node) -> Result<FileEntry> {
        let block = u32::try_from(node.0 & 0xffff_ffff).unwrap_or(u32::MAX);
        let partition = u16::try_from(node.0 >> 32).unwrap_or(u16::MAX);
        self.entry(Address { block, partition })
    }

    /// All runs of a file, with those of further descriptors.
    fn runs(&self, entry: &FileEntry) -> Result<Vec<Run>> {
        let Contents::Runs { runs, short } = &entry.contents else {
            return Ok(Vec::new());
        };
        let mut all = Vec::new();
        let mut rest = runs.clone();
        let mut steps = 0;
        loop {
            let more = rest.iter().position(|run| run.kind == RunKind::More);
            let next = more.and_then(|at| rest.get(at).copied());
            rest.truncate(more.unwrap_or(rest.len()));
            all.append(&mut rest);
            steps += 1;
            if all.len() > MOST_RUNS || steps > MOST_RUNS {
                return Err(self.corrupt(format!("a file of more than {MOST_RUNS} runs")));
            }
            let Some(next) = next else {
                return Ok(all);
            };
            let block = self.block(next.start)?;
            let at = self.place(next.start)?;
            let failed = |error: DescriptorError| refused(&*self.disk, at, error);
            expect(&block, tag::ALLOCATION_EXTENT).map_err(failed)?;
            let length = usize::try_from(u32_le(&block, 20).map_err(|error| failed(error.into()))?)
                .unwrap_or(usize::MAX);
            let bytes =
                crate::disk::field::bytes_at(&block, 24, length).map_err(|error| failed(error.into()))?;
            rest = Run::list(bytes, *short, next.start.partition).map_err(|error| failed(error.into()))?;
        }
    }

    fn read(&self, entry: &FileEntry, offset: u64, buffer: &mut [u8]) -> Result<usize> {
        let left = usize::try_from(entry.size.saturating_sub(offset)).unwrap_or(usize::MAX);
        let wanted = left.min(buffer.len());
        let buffer = buffer.get_mut(..wanted).unwrap_or_default();
        if let Contents::Embedded(bytes) = &entry.contents {
            let rest = usize::try_from(offset)
                .ok()
                .and_then(|at| bytes.get(at..))
                .unwrap_or_default();
            let count = rest.len().min(buffer.len());
            for (to, from) in buffer.iter_mut().zip(rest) {
                *to = *from;
            }
            return Ok(count);
        }
        let (mut skip, mut done) = (offset, 0);
        for run in self.runs(entry)? {
            let length = u64::from(run.length);
            let Some(rest) = buffer.get_mut(done..).filter(|rest| !rest.is_empty()) else {
                break;
            };
            if skip >= length {
                skip -= length;
                continue;
            }
            let count = usize::try_from(length - skip)
                .unwrap_or(usize::MAX)
                .min(rest.len());
            let room = rest.get_mut(..count).unwrap_or_default();
            match run.kind {
                RunKind::Recorded => self.read_run(run, skip, room)?,
                RunKind::Zeros | RunKind::More => room.fill(0),
            }
            done += count;
            skip = 0;
        }
        Ok(done)
    }

    /// A run in a metadata partition may lie in several pieces on the disk.
    fn read_run(&self, run: Run, skip: u64, mut buffer: &mut [u8]) -> Result<()> {
        let size = u64::from(self.block_size);
        let whole = matches!(
            self.partitions.get(usize::from(run.start.partition)),
            Some(Partition::Physical { .. })
        );
        if whole {
            return self.disk.read_at(self.place(run.start)? + skip, buffer);
        }
        let mut at = skip;
        while !buffer.is_empty() {
            let block = u32::try_from(at / size)
                .ok()
                .and_then(|block| run.start.block.checked_add(block));
            let block = block.ok_or_else(|| self.corrupt("a run that is too long"))?;
            let place = self.place(Address { block, ..run.start })? + at % size;
            let count = usize::try_from(size - at % size)
                .unwrap_or(usize::MAX)
                .min(buffer.len());
            let (now, later) = buffer.split_at_mut_checked(count).unwrap_or_default();
            self.disk.read_at(place, now)?;
            at += count as u64;
            buffer = later;
        }
        Ok(())
    }

    fn each_name(&self, directory: Node, each: &mut dyn FnMut(&str, Node) -> bool) -> Result<()> {
        let entry = self.of_node(directory)?;
        if entry.file_type != DIRECTORY {
            return Err(Error::new(Kind::NotFound, self.disk.label(), "not a directory"));
        }
        if entry.size > LARGEST_DIRECTORY {
            return Err(self.corrupt(format!(
                "a directory of {} bytes; {LARGEST_DIRECTORY} are the most that is read",
                entry.size
            )));
        }
        let mut bytes = vec![0; usize::try_from(entry.size).unwrap_or_default()];
        let read = self.read(&entry, 0, &mut bytes)?;
        let mut rest = bytes.get(..read).unwrap_or_default();
        while !rest.is_empty() {
            let found =
                Identifier::parse(rest).map_err(|error| self.corrupt(format!("a directory: {error}")))?;
            let node = Node(u64::from(found.entry.partition) << 32 | u64::from(found.entry.block));
            if !found.hidden && !each(&found.name, node) {
                return Ok(());
            }
            rest = rest.get(found.length..).unwrap_or_default();
        }
        Ok(())
    }

    /// A symbolic link's path components as one path ("4/14.16").
    fn link_target(&self, entry: &FileEntry) -> Result<Vec<u8>> {
        let mut bytes = vec![0; usize::try_from(entry.size.min(1 << 16)).unwrap_or_default()];
        let read = self.read(entry, 0, &mut bytes)?;
        let mut rest = bytes.get(..read).unwrap_or_default();
        let mut names = Vec::new();
        while let [kind, length, _, _, ..] = *rest {
            let end = 4 + usize::from(length);
            let name = rest.get(4..end).unwrap_or_default();
            match kind {
                1 | 2 => names.push(String::new()),
                3 => names.push("..".into()),
                4 => names.push(".".into()),
                _ => names.push(descriptor::characters(name)),
            }
            rest = rest.get(end..).unwrap_or_default();
        }
        Ok(names.join("/").into_bytes())
    }
}

fn refused(disk: &dyn Disk, at: u64, error: DescriptorError) -> Error {
    let kind = match error {
        DescriptorError::Unsupported(_) => Kind::Unsupported,
        _ => Kind::Corrupt,
    };
    Error::new(kind, disk.label(), error).at(at)
}

impl FileSystem for Udf {
    fn identity(&self) -> Identity {
        Identity {
            kind: "udf".into(),
            uuid: None,
            label: Some(self.label.clone()).filter(|label| !label.is_empty()),
        }
    }

    fn root(&self) -> Node {
        Node(u64::from(self.root.partition) << 32 | u64::from(self.root.block))
    }

    fn lookup(&self, directory: Node, name: &[u8]) -> Result<Option<Node>> {
        let wanted = String::from_utf8_lossy(name);
        let lower = wanted.to_lowercase();
        let (mut found, mut alike) = (None, None);
        self.each_name(directory, &mut |other, node| {
            if other == wanted {
                found = Some(node);
            } else if alike.is_none() && other.to_lowercase() == lower {
                alike = Some(node);
            }
            found.is_none()
        })?;
        // Windows does not tell upper from lower case on a disc.
        Ok(found.or(alike))
    }

    fn list(&self, directory: Node, each: &mut dyn FnMut(&[u8], Node) -> bool) -> Result<()> {
        self.each_name(directory, &mut |name, node| each(name.as_bytes(), node))
    }

    fn attributes(&self, node: Node) -> Result<Attributes> {
        let entry = self.of_node(node)?;
        let kind = match entry.file_type {
            DIRECTORY => mode::DIRECTORY | 0o755,
            LINK => mode::LINK | 0o777,
            _ => mode::FILE | 0o644,
        };
        let size = match entry.file_type {
            LINK => self.link_target(&entry)?.len() as u64,
            _ => entry.size,
        };
        Ok(Attributes {
            size,
            mode: Some(kind),
            owner: Some(entry.owner),
            links: Some(u32::from(entry.links)),
            modified: entry.modified,
            ..Attributes::default()
        })
    }

    fn read_at(&self, node: Node, offset: u64, buffer: &mut [u8]) -> Result<usize> {
        let entry = self.of_node(node)?;
        match entry.file_type {
            DIRECTORY => Err(Error::new(
                Kind::Unsupported,
                self.disk.label(),
                "a directory is listed, not read",
            )),
            LINK => {
                let target = self.link_target(&entry)?;
                let rest = usize::try_from(offset)
                    .ok()
                    .and_then(|at| target.get(at..))
                    .unwrap_or_default();
                for (to, from) in buffer.iter_mut().zip(rest) {
                    *to = *from;
                }
                Ok(rest.len().min(buffer.len()))
            }
            _ => self.read(&entry, offset, buffer),
        }
    }

    fn data_runs(&self, _each: &mut dyn FnMut(Node, Range<u64>) -> Result<()>) -> Result<()> {
        // Nothing on a disc is ever edited.
        Ok(())
    }

    fn free_bytes(&self) -> Result<u64> {
        Ok(0)
    }

    fn edit(&mut self) -> Result<&mut dyn Edit> {
        Err(Error::new(
            Kind::ReadOnly,
            self.disk.label(),
            "a disc image is only read",
        ))
    }
}
