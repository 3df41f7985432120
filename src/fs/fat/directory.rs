//! Directories: reading one whole, finding room in it, adding and removing entries.

use super::{
    FatFileSystem,
    allocation_table::Link,
    directory_entry::{DirectoryEntry, FREE, LAST, LENGTH, LONG_NAME, LONG_NAME_MASK, VOLUME_LABEL},
    long_name,
};
use crate::{
    disk::{Kind, Result},
    fs::Node,
};
use std::ops::Range;

/// The specification allows directories of up to 65536 entries; that also ends every loop of clusters.
const MOST_BYTES: u64 = 65536 * 32;

/// One file or directory as its parent has it.
#[derive(Clone, Debug)]
pub(super) struct Named {
    /// What it is called: the long name, or the short one if it has no other.
    pub(super) name: Vec<u8>,
    pub(super) entry: DirectoryEntry,
    /// Its slots in the directory; the last holds `entry`.
    pub(super) slots: Range<usize>,
    /// Byte of the volume where `entry` is.
    pub(super) location: u64,
}

/// A directory, read whole.
#[derive(Debug)]
pub(super) struct Directory {
    /// First cluster; 0 for the fixed root directory.
    pub(super) cluster: u32,
    pub(super) bytes: Vec<u8>,
    /// The bytes of the volume it lies in, in order.
    pub(super) runs: Vec<Range<u64>>,
    /// Its clusters, in order.
    pub(super) chain: Vec<u32>,
}

impl Directory {
    /// Byte of the volume where `slot` begins.
    pub(super) fn location(&self, slot: usize) -> Option<u64> {
        let mut offset = (slot as u64).checked_mul(LENGTH as u64)?;
        for run in &self.runs {
            let length = run.end - run.start;
            if offset < length {
                return Some(run.start + offset);
            }
            offset -= length;
        }
        None
    }

    /// Everything in it, `.` and `..` and labels included, with its long name if it has one.
    fn all(&self, large: bool) -> Vec<Named> {
        let mut found = Vec::new();
        let mut collector = long_name::Collector::default();
        for (index, slot) in self.bytes.chunks_exact(LENGTH).enumerate() {
            let first = slot.first().copied().unwrap_or(LAST);
            if first == LAST {
                break;
            }
            let Ok(entry) = DirectoryEntry::parse(slot, large) else {
                break;
            };
            if first == FREE {
                collector = long_name::Collector::default();
                continue;
            }
            if entry.attributes & LONG_NAME_MASK == LONG_NAME {
                if collector.push(slot).is_err() {
                    break;
                }
                continue;
            }
            let long = collector.take(&entry.short);
            let Some(location) = self.location(index) else {
                break;
            };
            let (name, count) = match long {
                Some((units, count)) => (long_name::to_bytes(&units), count),
                None => (entry.short_name().into_bytes(), 0),
            };
            found.push(Named {
                name,
                entry,
                slots: index.saturating_sub(count)..index + 1,
                location,
            });
        }
        found
    }

    /// Files and directories, without `.`, `..` and labels.
    pub(super) fn entries(&self, large: bool) -> Vec<Named> {
        let mut all = self.all(large);
        all.retain(|named| named.entry.attributes & VOLUME_LABEL == 0 && !named.entry.is_dot());
        all
    }

    /// The label that the root directory holds.
    pub(super) fn label(&self, large: bool) -> Option<String> {
        let mut all = self.all(large).into_iter();
        let label = all
            .find(|named| named.entry.attributes & VOLUME_LABEL != 0)?
            .entry
            .short;
        label_text(&label)
    }

    /// The `..` entry: where it is, and the first cluster that it names.
    pub(super) fn parent(&self, large: bool) -> Option<(u64, u32)> {
        let all = self.all(large);
        let parent = all.iter().find(|named| named.entry.short == *b"..         ")?;
        Some((parent.location, parent.entry.cluster))
    }

    /// The first of `count` free slots that follow one another, or `None` if it must grow.
    fn room(&self, count: usize) -> Option<usize> {
        let mut free = 0;
        let mut ended = false;
        for (index, slot) in self.bytes.chunks_exact(LENGTH).enumerate() {
            let first = slot.first().copied().unwrap_or(LAST);
            ended |= first == LAST;
            free = if ended || first == FREE { free + 1 } else { 0 };
            if free == count {
                return Some(index + 1 - count);
            }
        }
        None
    }

    /// Is `slot`, or one before it, the end mark?
    fn ends_before(&self, slot: usize) -> bool {
        let mut firsts = self
            .bytes
            .chunks_exact(LENGTH)
            .take(slot)
            .map(|slot| slot.first());
        firsts.any(|first| first == Some(&LAST))
    }
}

/// A label without its padding; `None` for an empty one.
fn label_text(label: &[u8; 11]) -> Option<String> {
    let text: String = label
        .iter()
        .map(|byte| super::directory_entry::oem_character(*byte))
        .collect();
    let text = text.trim_end_matches([' ', '\0']);
    (!text.is_empty()).then(|| text.to_owned())
}

impl FatFileSystem {
    /// Reads the directory `node`.
    pub(super) fn directory(&self, node: Node) -> Result<Directory> {
        if node == super::ROOT {
            return self.directory_at(self.boot.root_cluster);
        }
        let entry = self.entry(node)?;
        if !entry.is_directory() {
            return Err(self.error(Kind::NotFound, None, "not a directory"));
        }
        self.directory_at(entry.cluster)
    }

    /// Reads the directory that begins at `cluster`; 0 is the root.
    pub(super) fn directory_at(&self, cluster: u32) -> Result<Directory> {
        let cluster = if cluster == 0 {
            self.boot.root_cluster
        } else {
            cluster
        };
        let mut chain = Vec::new();
        let mut runs = Vec::new();
        if cluster == 0 {
            runs.push(self.boot.fixed_root.clone());
        } else {
            let mut length = 0_u64;
            let mut next = Some(cluster);
            while let Some(cluster) = next {
                length += self.boot.cluster_size;
                if length > MOST_BYTES.max(self.boot.cluster_size) {
                    return Err(self.damaged(None, format!(
                        "the directory at cluster {} is longer than 65536 entries, or its clusters form a loop",
                        chain.first().unwrap_or(&cluster)
                    )));
                }
                runs.push(self.cluster_range(cluster)?);
                chain.push(cluster);
                next = self.next(cluster)?;
            }
        }
        let length: u64 = runs.iter().map(|run| run.end - run.start).sum();
        let mut bytes = vec![0; usize::try_from(length).unwrap_or(0)];
        let mut rest = bytes.as_mut_slice();
        for run in &runs {
            let length = usize::try_from(run.end - run.start).unwrap_or(0);
            let (part, after) = rest.split_at_mut(length.min(rest.len()));
            self.disk.read_at(run.start, part)?;
            rest = after;
        }
        Ok(Directory {
            cluster,
            bytes,
            runs,
            chain,
        })
    }

    /// What `name` stands for in `directory`: by its long or its short name, in any case.
    pub(super) fn find(&self, directory: &Directory, name: &[u8]) -> Option<Named> {
        let wanted = long_name::fold(name);
        let mut entries = directory.entries(self.large()).into_iter();
        entries.find(|named| {
            long_name::fold(&named.name) == wanted
                || long_name::fold(named.entry.short_name().as_bytes()) == wanted
        })
    }

    /// Adds `entry` under `name` (the entry's short name is made here) and says where it is now. `except` is the
    /// entry that is about to be renamed: its names count as free.
    pub(super) fn insert(
        &mut self,
        directory: &mut Directory,
        name: &[u8],
        mut entry: DirectoryEntry,
        except: Option<u64>,
    ) -> Result<u64> {
        let refused = |text: String| self.error(Kind::Unsupported, None, text);
        let units = long_name::check(name).map_err(refused)?;
        let text = String::from_utf8_lossy(name);
        let mut taken: Vec<Vec<u8>> = Vec::new();
        for named in directory.entries(self.large()) {
            if Some(named.location) != except {
                taken.push(long_name::fold(named.entry.short_name().as_bytes()));
                taken.push(long_name::fold(&named.name));
            }
        }
        taken.sort_unstable();
        let short = long_name::short_name(&text, |short| {
            let candidate = DirectoryEntry {
                short: *short,
                case: 0,
                ..entry.clone()
            };
            taken
                .binary_search(&long_name::fold(candidate.short_name().as_bytes()))
                .is_ok()
        });
        let Some((short, exact)) = short else {
            return Err(self.error(
                Kind::Full,
                None,
                format!("no short name is left for \"{text}\" in its directory"),
            ));
        };
        entry.short = short;
        entry.case = 0;
        let mut slots = if exact {
            Vec::new()
        } else {
            long_name::slots(&units, &short)
        };
        slots.push(entry.to_bytes());
        let first = loop {
            match directory.room(slots.len()) {
                Some(first) => break first,
                None => self.grow(directory)?,
            }
        };
        let ended = directory.ends_before(first + slots.len());
        let mut location = 0;
        for (index, slot) in slots.iter().enumerate() {
            location = self.put_slot(directory, first + index, slot)?;
        }
        // What follows the old end mark need not be zeros.
        let after = first + slots.len();
        if ended && directory.location(after).is_some() {
            self.put_slot(directory, after, &[LAST])?;
        }
        Ok(location)
    }

    /// Frees the slots of `named`.
    pub(super) fn erase(&mut self, directory: &mut Directory, named: &Named) -> Result<()> {
        for slot in named.slots.clone() {
            self.put_slot(directory, slot, &[FREE])?;
        }
        Ok(())
    }

    /// Overwrites the first bytes of `slot`; says where it is.
    fn put_slot(&self, directory: &mut Directory, slot: usize, bytes: &[u8]) -> Result<u64> {
        let (Some(location), Some(start)) = (directory.location(slot), slot.checked_mul(LENGTH)) else {
            return Err(self.damaged(None, format!("slot {slot} lies past the end of its directory")));
        };
        self.disk.write_at(location, bytes)?;
        let place = directory.bytes.get_mut(start..start.saturating_add(bytes.len()));
        place.unwrap_or_default().copy_from_slice(bytes);
        Ok(location)
    }

    /// One more cluster, zeroed.
    fn grow(&mut self, directory: &mut Directory) -> Result<()> {
        let Some(last) = directory.chain.last().copied() else {
            return Err(self.error(
                Kind::Full,
                None,
                format!(
                    "the root directory is full: FAT12 and FAT16 have a fixed number of entries, here {}",
                    directory.bytes.len() / LENGTH
                ),
            ));
        };
        if directory.bytes.len() as u64 + self.boot.cluster_size > MOST_BYTES {
            return Err(self.error(
                Kind::Full,
                None,
                "the directory has 65536 entries, the most that FAT allows",
            ));
        }
        let cluster = self.allocate(last.saturating_add(1))?;
        let range = self.cluster_range(cluster)?;
        self.disk.write_zeros(range.clone())?;
        self.table.set(last, Link::Next(cluster))?;
        directory.chain.push(cluster);
        let length = usize::try_from(range.end - range.start).unwrap_or(0);
        directory.bytes.resize(directory.bytes.len() + length, 0);
        directory.runs.push(range);
        Ok(())
    }
}
