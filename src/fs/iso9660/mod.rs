//! ISO 9660 for reading: driver discs and installation media. Names are those of Joliet where a disc has them, because that
//! is what Windows sees; else those of Rock Ridge, else the plain ones.

mod record;

use super::{Attributes, Edit, FileSystem, Identity, Node, Result, mode};
use crate::disk::{
    Disk, Error, Kind,
    field::{Truncated, bytes_at},
};
use record::{Descriptor, Names, Record, RockRidge, SECTOR, Volume};
use std::{ops::Range, sync::Arc};

/// Where volume descriptors begin ("6.2.1").
const FIRST_DESCRIPTOR: u64 = 16 * SECTOR;
/// Descriptors of one disc; real ones have under ten.
const MOST_DESCRIPTORS: u64 = 100;
/// Bytes of one directory: 100 000 names of usual length.
const LARGEST_DIRECTORY: u64 = 32 << 20;
/// Records of one file: each holds up to 4 GiB.
const MOST_PARTS: usize = 4096;
/// Areas of Rock Ridge that one record goes on in.
const MOST_AREAS: usize = 64;
/// Bytes of one such area.
const LARGEST_AREA: u32 = 64 << 10;

/// A disc.
#[derive(Debug)]
pub struct Iso9660 {
    disk: Arc<dyn Disk>,
    volume: Volume,
    names: Names,
    /// Where the record of the root lies.
    root: Node,
}

/// A record with all that belongs to it.
struct Item {
    record: Record,
    extra: RockRidge,
}

impl Iso9660 {
    /// Opens the disc image on `disk`; `None`: it is none.
    ///
    /// # Errors
    /// Those of reading; `Corrupt` where its root leads nowhere.
    pub fn open(disk: Arc<dyn Disk>) -> Result<Option<Self>> {
        let (mut primary, mut joliet) = (None, None);
        for number in 0..MOST_DESCRIPTORS {
            let at = FIRST_DESCRIPTOR + number * SECTOR;
            if at + SECTOR > disk.size() {
                break;
            }
            let mut sector = vec![0; usize::try_from(SECTOR).unwrap_or_default()];
            disk.read_at(at, &mut sector)?;
            let descriptor = record::descriptor(&sector).map_err(|error| damaged(&*disk, at, error))?;
            match descriptor {
                Some(Descriptor::Primary(volume)) => primary = primary.or(Some((at, volume))),
                Some(Descriptor::Joliet(volume)) => joliet = joliet.or(Some((at, volume))),
                Some(Descriptor::Other) => {}
                Some(Descriptor::Terminator) | None => break,
            }
        }
        let names = if joliet.is_some() {
            Names::Joliet
        } else {
            Names::Plain
        };
        let Some((at, volume)) = joliet.or(primary) else {
            return Ok(None);
        };
        if !volume.block_size.is_power_of_two() || !(512..=2048).contains(&volume.block_size) {
            let text = format!(
                "has logical blocks of {} bytes; 512, 1024 and 2048 are possible",
                volume.block_size
            );
            return Err(Error::new(Kind::Corrupt, disk.label(), text).at(at + 128));
        }
        let mut iso = Self {
            root: Node(at + volume.root as u64),
            disk,
            volume,
            names,
        };
        if names == Names::Plain
            && let Some(skip) = iso.rock_ridge()?
        {
            iso.names = Names::RockRidge(skip);
        }
        Ok(Some(iso))
    }

    /// How many bytes Rock Ridge leaves out of each area, as the first record of the root says; `None`: there is none.
    fn rock_ridge(&self) -> Result<Option<u8>> {
        let root = self.record(self.root)?;
        let first = self.record(Node(self.byte(root.block)))?;
        let mut extra = RockRidge::default();
        extra.add(&first.system_use);
        Ok(extra.skip)
    }

    fn byte(&self, block: u32) -> u64 {
        u64::from(block) * u64::from(self.volume.block_size)
    }

    fn corrupt(&self, at: u64, text: impl Into<String>) -> Error {
        Error::new(Kind::Corrupt, self.disk.label(), text.into()).at(at)
    }

    /// The record at `node`, without what its area goes on with elsewhere.
    fn record(&self, node: Node) -> Result<Record> {
        let left = SECTOR - node.0 % SECTOR;
        let left = left.min(self.disk.size().saturating_sub(node.0));
        let mut bytes = vec![0; usize::try_from(left).unwrap_or_default()];
        self.disk.read_at(node.0, &mut bytes)?;
        record::record(&bytes)
            .map_err(|error| damaged(&*self.disk, node.0, error))?
            .ok_or_else(|| self.corrupt(node.0, "no directory record lies here"))
    }

    fn item(&self, node: Node) -> Result<Item> {
        self.complete(self.record(node)?)
    }

    fn complete(&self, record: Record) -> Result<Item> {
        let mut extra = RockRidge::default();
        if let Names::RockRidge(skip) = self.names {
            extra.add(record.system_use.get(usize::from(skip)..).unwrap_or_default());
            for _ in 0..MOST_AREAS {
                let Some((block, offset, size)) = extra.continues else {
                    break;
                };
                let mut area = vec![0; usize::try_from(size.min(LARGEST_AREA)).unwrap_or_default()];
                self.disk
                    .read_at(self.byte(block) + u64::from(offset), &mut area)?;
                extra.add(&area);
            }
        }
        Ok(Item { record, extra })
    }

    /// The record whose extent holds a directory, for one that was moved up.
    fn directory(&self, node: Node) -> Result<Record> {
        let item = self.item(node)?;
        let record = match item.extra.moved_to {
            Some(block) => self.record(Node(self.byte(block)))?,
            None => item.record,
        };
        if record.directory {
            Ok(record)
        } else {
            Err(Error::new(Kind::NotFound, self.disk.label(), "not a directory").at(node.0))
        }
    }

    /// Calls `each` with every record of a directory until it says false.
    fn each_record(&self, directory: Node, each: &mut dyn FnMut(Node, Record) -> Result<bool>) -> Result<()> {
        let record = self.directory(directory)?;
        let start = self.byte(record.block);
        let size = u64::from(record.size);
        if size > LARGEST_DIRECTORY {
            return Err(self.corrupt(
                start,
                format!("a directory of {size} bytes; {LARGEST_DIRECTORY} are the most that is read"),
            ));
        }
        let mut bytes = vec![0; usize::try_from(size).unwrap_or_default()];
        self.disk.read_at(start, &mut bytes)?;
        let mut at = 0_usize;
        let sector = usize::try_from(SECTOR).unwrap_or(usize::MAX);
        while at < bytes.len() {
            let end = (at / sector)
                .saturating_add(1)
                .saturating_mul(sector)
                .min(bytes.len());
            let rest = bytes.get(at..end).unwrap_or_default();
            let place = start + at as u64;
            match record::record(rest).map_err(|error| damaged(&*self.disk, place, error))? {
                Some(record) => {
                    at = at.saturating_add(record.length);
                    if !each(Node(place), record)? {
                        return Ok(());
                    }
                }
                None => at = end,
            }
        }
        Ok(())
    }

    /// Names and records of a directory, once for a file of several parts.
    fn each_name(&self, directory: Node, each: &mut dyn FnMut(Vec<u8>, Node) -> bool) -> Result<()> {
        let mut goes_on = false;
        self.each_record(directory, &mut |node, record| {
            let is_part = std::mem::replace(&mut goes_on, record.more);
            if is_part || record.is_dots() {
                return Ok(true);
            }
            let plain = record.name(self.names);
            let item = self.complete(record)?;
            // The place that deep directories were moved to shows only where they belong.
            if item.extra.is_moved {
                return Ok(true);
            }
            Ok(each(item.extra.name.unwrap_or(plain), node))
        })
    }

    /// Where the contents of a file lie: bytes of the disk, in order.
    fn parts(&self, node: Node) -> Result<Vec<Range<u64>>> {
        let mut parts = Vec::new();
        let mut at = node;
        loop {
            let record = self.record(at)?;
            if record.interleaved {
                return Err(Error::new(
                    Kind::Unsupported,
                    self.disk.label(),
                    "an interleaved file, as no disc since the 1980s has",
                )
                .at(at.0));
            }
            let start = self.byte(record.block);
            parts.push(start..start + u64::from(record.size));
            if !record.more {
                return Ok(parts);
            }
            if parts.len() >= MOST_PARTS {
                return Err(self.corrupt(at.0, format!("a file of more than {MOST_PARTS} parts")));
            }
            let mut next = at.0 + record.length as u64;
            let mut length = [0];
            self.disk.read_at(next, &mut length)?;
            if length == [0] || next.is_multiple_of(SECTOR) {
                next = next.next_multiple_of(SECTOR);
            }
            at = Node(next);
        }
    }
}

fn damaged(disk: &dyn Disk, at: u64, error: Truncated) -> Error {
    Error::new(Kind::Corrupt, disk.label(), error).at(at)
}

impl FileSystem for Iso9660 {
    fn identity(&self) -> Identity {
        Identity {
            kind: "iso9660".into(),
            uuid: None,
            label: Some(self.volume.label.clone()).filter(|label| !label.is_empty()),
        }
    }

    fn root(&self) -> Node {
        self.root
    }

    fn lookup(&self, directory: Node, name: &[u8]) -> Result<Option<Node>> {
        let mut found = None;
        let mut alike = None;
        let wanted = String::from_utf8_lossy(name).to_lowercase();
        self.each_name(directory, &mut |other, node| {
            if other == name {
                found = Some(node);
            } else if alike.is_none() && String::from_utf8_lossy(&other).to_lowercase() == wanted {
                alike = Some(node);
            }
            found.is_none()
        })?;
        // Windows does not tell upper from lower case on a disc; Rock Ridge does.
        Ok(found.or(alike.filter(|_| !matches!(self.names, Names::RockRidge(_)))))
    }

    fn list(&self, directory: Node, each: &mut dyn FnMut(&[u8], Node) -> bool) -> Result<()> {
        self.each_name(directory, &mut |name, node| each(&name, node))
    }

    fn attributes(&self, node: Node) -> Result<Attributes> {
        let Item { record, extra } = self.item(node)?;
        let directory = record.directory || extra.moved_to.is_some();
        let plain = if directory {
            mode::DIRECTORY | 0o755
        } else {
            mode::FILE | 0o644
        };
        let size = match &extra.link {
            Some(link) => link.len() as u64,
            None if record.more => self.parts(node)?.iter().map(|part| part.end - part.start).sum(),
            None => u64::from(record.size),
        };
        Ok(Attributes {
            size,
            mode: Some(extra.mode.unwrap_or(plain)),
            owner: extra.owner,
            modified: record.recorded,
            ..Attributes::default()
        })
    }

    fn read_at(&self, node: Node, offset: u64, buffer: &mut [u8]) -> Result<usize> {
        let Item { record, extra } = self.item(node)?;
        if let Some(link) = extra.link {
            let rest = usize::try_from(offset)
                .ok()
                .and_then(|at| link.get(at..))
                .unwrap_or_default();
            let count = rest.len().min(buffer.len());
            if let (Some(to), Ok(from)) = (buffer.get_mut(..count), bytes_at(rest, 0, count)) {
                to.copy_from_slice(from);
            }
            return Ok(count);
        }
        if record.directory || extra.moved_to.is_some() {
            return Err(Error::new(
                Kind::Unsupported,
                self.disk.label(),
                "a directory is listed, not read",
            )
            .at(node.0));
        }
        if extra.is_packed {
            return Err(Error::new(
                Kind::Unsupported,
                self.disk.label(),
                "a file packed by mkzftree; unpack it with mkzftree -u",
            )
            .at(node.0));
        }
        let mut skip = offset;
        let mut done = 0;
        for part in self.parts(node)? {
            let length = part.end - part.start;
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
            self.disk.read_at(part.start + skip, room)?;
            done += count;
            skip = 0;
        }
        Ok(done)
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
