//! Directories, and the other indexes.

use super::*;

impl Checker {
    /// Entries of an index in order: the raw entry without the child.
    pub(super) fn walk(&mut self, number: u64, name: &[u16]) -> Vec<Vec<u8>> {
        let root = self.attribute(number, 0x90, name).expect("an index");
        let root = self.contents(&root);
        let block_size = u32_at(&root, 8) as usize;
        let blocks = self.attribute(number, 0xa0, name);
        let bitmap = self
            .attribute(number, 0xb0, name)
            .map(|bitmap| self.contents(&bitmap));
        let bytes = blocks
            .as_ref()
            .map(|blocks| self.contents(blocks))
            .unwrap_or_default();
        if let Some(blocks) = &blocks
            && (blocks.initialized != blocks.size || blocks.size % block_size as u64 != 0)
        {
            self.problem(format!(
                "directory {number}: {} bytes of blocks, {} initialized",
                blocks.size, blocks.initialized
            ));
        }
        let unit = if self.cluster > block_size as u64 {
            512
        } else {
            self.cluster
        };
        let mut used = BTreeSet::new();
        let mut entries = Vec::new();
        let mut depths = BTreeSet::new();
        self.walk_node(
            number,
            &root[0x10..],
            (&bytes, block_size, unit),
            &mut used,
            &mut entries,
            (0, &mut depths),
        );
        if depths.len() > 1 {
            self.problem(format!(
                "directory {number}: branches of different lengths {depths:?}"
            ));
        }
        let said: BTreeSet<u64> = bitmap
            .iter()
            .flatten()
            .enumerate()
            .flat_map(|(at, byte)| {
                (0..8)
                    .filter(move |bit| byte >> bit & 1 == 1)
                    .map(move |bit| at as u64 * 8 + bit)
            })
            .collect();
        if said != used {
            self.problem(format!(
                "directory {number}: blocks {used:?} in use, {said:?} said"
            ));
        }
        if blocks.is_some() && used.is_empty() {
            self.problem(format!("directory {number}: blocks and none in use"));
        }
        entries
    }

    fn walk_node(
        &mut self,
        number: u64,
        node: &[u8],
        (bytes, block_size, unit): (&[u8], usize, u64),
        used: &mut BTreeSet<u64>,
        entries: &mut Vec<Vec<u8>>,
        (depth, depths): (usize, &mut BTreeSet<usize>),
    ) {
        let mut at = u32_at(node, 0) as usize;
        let end = u32_at(node, 4) as usize;
        if u32_at(node, 8) as usize > node.len() || end > node.len() {
            self.problem(format!(
                "directory {number}: a node of {} bytes says {end}",
                node.len()
            ));
            return;
        }
        let inner = node[12] & 1 == 1;
        let mut count = 0;
        loop {
            let length = usize::from(u16_at(node, at + 8));
            let flags = u16_at(node, at + 12);
            if (flags & 1 == 1) != inner {
                self.problem(format!(
                    "directory {number}: an entry with flags {flags} in a node with flags {}",
                    node[12]
                ));
            }
            if flags & 1 == 1 {
                let vcn = u64_at(node, at + length - 8);
                let start = (vcn * unit) as usize;
                let index = start / block_size;
                if !start.is_multiple_of(block_size)
                    || !used.insert(index as u64)
                    || start + block_size > bytes.len()
                {
                    self.problem(format!(
                        "directory {number}: block {vcn} is used twice or outside"
                    ));
                    return;
                }
                match restored(&bytes[start..start + block_size], b"INDX") {
                    Ok(block) => {
                        if u64_at(&block, 0x10) != vcn {
                            self.problem(format!(
                                "directory {number}: block {vcn} says {}",
                                u64_at(&block, 0x10)
                            ));
                        }
                        self.walk_node(
                            number,
                            &block[0x18..],
                            (bytes, block_size, unit),
                            used,
                            entries,
                            (depth + 1, depths),
                        );
                    }
                    Err(what) => self.problem(format!("directory {number}, block {vcn}: {what}")),
                }
            }
            if flags & 2 == 2 {
                if at + length != end {
                    self.problem(format!(
                        "directory {number}: a node ends at {}, {end} said",
                        at + length
                    ));
                }
                break;
            }
            entries.push(node[at..at + length - if inner { 8 } else { 0 }].to_vec());
            count += 1;
            at += length;
        }
        if count == 0 && depth > 0 {
            self.problem(format!("directory {number}: an empty block"));
        }
        if !inner {
            depths.insert(depth);
        }
    }

    pub(super) fn check_directories(&mut self) {
        // Names as the files have them: parent, name → file, all but the copied facts.
        let mut expected: BTreeMap<(u64, Vec<u16>), (u64, u8)> = BTreeMap::new();
        for number in self.files() {
            for part in self.parts(number).iter().filter(|part| part.kind == 0x30) {
                let value = part.value.as_ref().expect("names are in records");
                let (parent, sequence) = (
                    u64_at(value, 0) & 0xffff_ffff_ffff,
                    (u64_at(value, 0) >> 48) as u16,
                );
                if !self.is_file(parent) || self.records[&parent].sequence != sequence {
                    self.problem(format!("file {number}: its directory {parent} is none"));
                }
                let name = units(&value[0x42..0x42 + usize::from(value[0x40]) * 2]);
                expected.insert((parent, name), (number, value[0x41]));
            }
        }
        for number in self.files() {
            let is_directory = self.records[&number].flags & DIRECTORY != 0;
            let has_index = self.attribute(number, 0x90, &I30).is_some();
            if is_directory != has_index {
                self.problem(format!(
                    "file {number}: directory {is_directory}, index {has_index}"
                ));
            }
            if !has_index {
                continue;
            }
            let mut last: Option<(Vec<u16>, Vec<u16>)> = None;
            for entry in self.walk(number, &I30) {
                let (file, sequence) = (
                    u64_at(&entry, 0) & 0xffff_ffff_ffff,
                    (u64_at(&entry, 0) >> 48) as u16,
                );
                let key = &entry[0x10..0x10 + usize::from(u16_at(&entry, 10))];
                let name = units(&key[0x42..0x42 + usize::from(key[0x40]) * 2]);
                let shown = String::from_utf16_lossy(&name);
                let order = (self.upper(&name), name.clone());
                if last.as_ref().is_some_and(|last| *last >= order) {
                    self.problem(format!("directory {number}: \"{shown}\" is out of order"));
                }
                last = Some(order);
                if !self.is_file(file) || self.records[&file].sequence != sequence {
                    self.problem(format!(
                        "directory {number}: \"{shown}\" is file {file}, which is none"
                    ));
                    continue;
                }
                if expected.remove(&(number, name)) != Some((file, key[0x41]))
                    || u64_at(key, 0) & 0xffff_ffff_ffff != number
                {
                    self.problem(format!(
                        "directory {number}: file {file} does not know of \"{shown}\""
                    ));
                }
                if file >= 24 {
                    let facts = self.facts(file);
                    if key[8..0x40] != facts {
                        self.problem(format!(
                            "directory {number}: \"{shown}\" is {:x?}, file {file} is {facts:x?}",
                            &key[8..0x40]
                        ));
                    }
                }
            }
        }
        for ((parent, name), (number, _)) in expected {
            self.problem(format!(
                "file {number}: directory {parent} has no \"{}\"",
                String::from_utf16_lossy(&name)
            ));
        }
    }

    /// What a directory should keep of a file: times, sizes, attributes, reparse tag.
    fn facts(&self, number: u64) -> Vec<u8> {
        let information = self
            .attribute(number, 0x10, &[])
            .expect("standard information")
            .value
            .unwrap();
        let mut facts = information[..32].to_vec();
        let directory = self.records[&number].flags & DIRECTORY != 0;
        let data = self.attribute(number, 0x80, &[]).filter(|_| !directory);
        let (allocated, size) = data.map_or((0, 0), |data| match &data.value {
            Some(value) => ((value.len() as u64).next_multiple_of(8), value.len() as u64),
            None if data.flags & 0x80ff != 0 => {
                let present: u64 = data
                    .runs
                    .iter()
                    .filter(|run| run.1.is_some())
                    .map(|run| run.2)
                    .sum();
                (present * self.cluster, data.size)
            }
            None => (data.allocated, data.size),
        });
        facts.extend(allocated.to_le_bytes());
        facts.extend(size.to_le_bytes());
        let mut attributes = u32_at(&information, 32);
        if directory {
            attributes |= 0x1000_0000;
        }
        if self
            .parts(number)
            .iter()
            .any(|part| part.kind == 0x90 && part.name != I30)
        {
            attributes |= 0x2000_0000;
        }
        facts.extend(attributes.to_le_bytes());
        let reparse = self.attribute(number, 0xc0, &[]);
        let tag = reparse.map_or(0, |reparse| u32_at(&self.contents(&reparse), 0));
        facts.extend(tag.to_le_bytes());
        facts
    }
}
