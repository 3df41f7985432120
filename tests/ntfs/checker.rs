//! A checker of its own: reads a whole volume with nothing of ours, and finds what `chkdsk` would. Everything is read again
//! here from the bytes; a mistake of the program must not be repeated by its judge.

mod directories;
mod tables;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(bytes[at..at + 2].try_into().unwrap())
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

fn units(bytes: &[u8]) -> Vec<u16> {
    bytes.chunks(2).map(|pair| u16_at(pair, 0)).collect()
}

const IN_USE: u16 = 1;
const DIRECTORY: u16 = 2;
const I30: [u16; 4] = [0x24, 0x49, 0x33, 0x30];

/// First cluster within the attribute, first on the volume, clusters.
type Run = (u64, Option<u64>, u64);

#[derive(Clone, Debug)]
struct Part {
    record: u64,
    instance: u16,
    kind: u32,
    name: Vec<u16>,
    flags: u16,
    /// In the record.
    value: Option<Vec<u8>>,
    vcn: u64,
    end: u64,
    /// Allocated, size, initialized, of the first part; the last is what a sparse one has.
    sizes: (u64, u64, u64, u64),
    runs: Vec<Run>,
}

#[derive(Clone, Debug, Default)]
struct Record {
    sequence: u16,
    links: u16,
    flags: u16,
    base: u64,
    parts: Vec<Part>,
}

/// An attribute, put together.
#[derive(Clone, Debug)]
struct Whole {
    flags: u16,
    value: Option<Vec<u8>>,
    runs: Vec<Run>,
    size: u64,
    initialized: u64,
    allocated: u64,
}

pub(crate) struct Checker {
    bytes: Vec<u8>,
    cluster: u64,
    clusters: u64,
    record_size: usize,
    records: BTreeMap<u64, Record>,
    /// Further records, by file.
    further: BTreeMap<u64, Vec<u64>>,
    count: u64,
    upcase: Vec<u16>,
    pub(crate) problems: Vec<String>,
}

/// Fails with all that is wrong with the volume.
pub(crate) fn must_be_clean(path: &Path, when: &str) {
    let checker = Checker::check(fs::read(path).unwrap());
    let shown: Vec<_> = checker.problems.iter().take(20).collect();
    assert!(shown.is_empty(), "{when}: {shown:#?}");
}

/// How many records a file has.
pub(crate) fn records_of(path: &Path, number: u64) -> usize {
    let checker = Checker::check(fs::read(path).unwrap());
    let parts = checker.parts(number);
    parts
        .iter()
        .map(|part| part.record)
        .collect::<BTreeSet<_>>()
        .len()
}

/// The number of a file's security descriptor.
pub(crate) fn security_of(path: &Path, number: u64) -> u32 {
    let checker = Checker::check(fs::read(path).unwrap());
    let information = checker.attribute(number, 0x10, &[]).unwrap().value.unwrap();
    u32_at(&information, 0x34)
}

fn restored(raw: &[u8], magic: &[u8]) -> Result<Vec<u8>, String> {
    if &raw[..4] != magic {
        return Err(format!("{:?} where {magic:?} should be", &raw[..4]));
    }
    let mut raw = raw.to_vec();
    let array = usize::from(u16_at(&raw, 4));
    let count = usize::from(u16_at(&raw, 6));
    if (count - 1) * 512 != raw.len() {
        return Err(format!("{count} entries protect {} bytes", raw.len()));
    }
    for index in 1..count {
        let at = index * 512 - 2;
        if u16_at(&raw, at) != u16_at(&raw, array) {
            return Err(format!("sector {index} is torn"));
        }
        let kept = u16_at(&raw, array + index * 2).to_le_bytes();
        raw[at..at + 2].copy_from_slice(&kept);
    }
    Ok(raw)
}

fn runs_of(raw: &[u8], vcn: u64) -> Vec<Run> {
    let mut runs = Vec::new();
    let (mut at, mut vcn, mut lcn) = (0, vcn, 0_i64);
    let number = |raw: &[u8]| {
        raw.iter().rev().fold(
            if raw.last().is_some_and(|b| b & 0x80 != 0) {
                -1_i64
            } else {
                0
            },
            |n, b| n << 8 | i64::from(*b),
        )
    };
    while raw[at] != 0 {
        let (length, offset) = (usize::from(raw[at] & 15), usize::from(raw[at] >> 4));
        let clusters = number(&raw[at + 1..at + 1 + length]) as u64;
        let place = (offset > 0).then(|| {
            lcn += number(&raw[at + 1 + length..at + 1 + length + offset]);
            lcn as u64
        });
        runs.push((vcn, place, clusters));
        vcn += clusters;
        at += 1 + length + offset;
    }
    runs
}

impl Checker {
    pub(crate) fn check(bytes: Vec<u8>) -> Self {
        let sector = u64::from(u16_at(&bytes, 0x0b));
        let per_cluster = match bytes[0x0d] {
            small @ 0..=128 => u64::from(small),
            large => 1 << (256 - u64::from(large)),
        };
        let cluster = sector * per_cluster;
        let record_size = match bytes[0x40] {
            count @ 0..=127 => cluster as usize * usize::from(count),
            exponent => 1 << (256 - usize::from(exponent)),
        };
        let mut checker = Self {
            cluster,
            clusters: u64_at(&bytes, 0x28) / per_cluster,
            record_size,
            records: BTreeMap::new(),
            further: BTreeMap::new(),
            count: 0,
            upcase: Vec::new(),
            problems: Vec::new(),
            bytes,
        };
        checker.read_records();
        let upcase = checker.attribute(10, 0x80, &[]).expect("$UpCase");
        checker.upcase = units(&checker.contents(&upcase));
        checker.check_records();
        checker.check_directories();
        checker.check_bitmaps();
        checker.check_mirror();
        checker.check_boot_copy();
        checker.check_secure();
        checker.check_extensions();
        checker
    }

    fn problem(&mut self, text: String) {
        self.problems.push(text);
    }

    fn cluster_bytes(&self, lcn: u64, clusters: u64) -> &[u8] {
        &self.bytes[(lcn * self.cluster) as usize..((lcn + clusters) * self.cluster) as usize]
    }

    fn contents(&self, whole: &Whole) -> Vec<u8> {
        let mut contents = match &whole.value {
            Some(value) => value.clone(),
            None => {
                let mut contents = Vec::new();
                for (_, lcn, clusters) in &whole.runs {
                    match lcn {
                        Some(lcn) => contents.extend_from_slice(self.cluster_bytes(*lcn, *clusters)),
                        None => contents.resize(contents.len() + (clusters * self.cluster) as usize, 0),
                    }
                }
                contents
            }
        };
        contents.truncate(whole.size as usize);
        contents
    }

    fn parse_record(&mut self, number: u64, raw: &[u8]) -> Option<Record> {
        if raw[..4] == [0; 4] {
            return None;
        }
        let raw = match restored(raw, b"FILE") {
            Ok(raw) => raw,
            Err(what) => {
                self.problem(format!("record {number}: {what}"));
                return None;
            }
        };
        let mut record = Record {
            sequence: u16_at(&raw, 0x10),
            links: u16_at(&raw, 0x12),
            flags: u16_at(&raw, 0x16),
            base: u64_at(&raw, 0x20),
            parts: Vec::new(),
        };
        if record.flags & IN_USE == 0 {
            return Some(record);
        }
        if u16_at(&raw, 4) >= 0x30 && u64::from(u32_at(&raw, 0x2c)) != number {
            self.problem(format!("record {number} says that it is {}", u32_at(&raw, 0x2c)));
        }
        let next_instance = u16_at(&raw, 0x28);
        let mut instances = BTreeSet::new();
        let mut at = usize::from(u16_at(&raw, 0x14));
        while u32_at(&raw, at) != 0xffff_ffff {
            let length = u32_at(&raw, at + 4) as usize;
            let part = self.parse_part(number, &raw[at..at + length]);
            if part.instance >= next_instance || !instances.insert(part.instance) {
                self.problem(format!(
                    "record {number}: attribute number {} is no new one",
                    part.instance
                ));
            }
            record.parts.push(part);
            at += length;
        }
        if u32_at(&raw, 0x18) as usize != at + 8 {
            self.problem(format!(
                "record {number}: {} bytes in use, {} said",
                at + 8,
                u32_at(&raw, 0x18)
            ));
        }
        Some(record)
    }

    fn parse_part(&self, number: u64, raw: &[u8]) -> Part {
        let name_length = usize::from(raw[9]) * 2;
        let name_at = usize::from(u16_at(raw, 10));
        let mut part = Part {
            record: number,
            instance: u16_at(raw, 14),
            kind: u32_at(raw, 0),
            name: units(&raw[name_at..name_at + name_length]),
            flags: u16_at(raw, 12),
            value: None,
            vcn: 0,
            end: 0,
            sizes: (0, 0, 0, 0),
            runs: Vec::new(),
        };
        if raw[8] == 0 {
            let at = usize::from(u16_at(raw, 20));
            part.value = Some(raw[at..at + u32_at(raw, 16) as usize].to_vec());
        } else {
            part.vcn = u64_at(raw, 0x10);
            part.end = u64_at(raw, 0x18).wrapping_add(1);
            let runs_at = usize::from(u16_at(raw, 0x20));
            part.runs = runs_of(&raw[runs_at..], part.vcn);
            if part.vcn == 0 {
                let present = if part.flags & 0x80ff != 0 {
                    u64_at(raw, 0x40)
                } else {
                    0
                };
                part.sizes = (u64_at(raw, 0x28), u64_at(raw, 0x30), u64_at(raw, 0x38), present);
            }
        }
        part
    }

    fn read_records(&mut self) {
        let start = (u64_at(&self.bytes, 0x30) * self.cluster) as usize;
        let raw = self.bytes[start..start + self.record_size].to_vec();
        let first = self.parse_record(0, &raw).expect("record 0");
        let of = |record: &Record| {
            let data = record
                .parts
                .iter()
                .filter(|part| part.kind == 0x80 && part.name.is_empty());
            data.cloned().collect::<Vec<_>>()
        };
        let data = of(&first);
        self.count = data[0].sizes.2 / self.record_size as u64;
        let mut runs = data[0].runs.clone();
        // Records of the map's later parts are found in its earlier ones.
        let list = first.parts.iter().find(|part| part.kind == 0x20).cloned();
        let list = list.map(|part| match part.value {
            Some(value) => value,
            None => {
                let mut raw = Vec::new();
                part.runs
                    .iter()
                    .for_each(|run| raw.extend_from_slice(self.cluster_bytes(run.1.unwrap(), run.2)));
                raw.truncate(part.sizes.1 as usize);
                raw
            }
        });
        for (kind, _, vcn, record, _) in list.iter().flat_map(|raw| list_entries(raw)) {
            if kind == 0x80 && vcn > 0 {
                let raw = self.record_bytes(&runs, record & 0xffff_ffff_ffff);
                let record = self
                    .parse_record(record & 0xffff_ffff_ffff, &raw)
                    .expect("a record of the map");
                let part = of(&record)
                    .into_iter()
                    .find(|part| part.vcn == vcn)
                    .expect("a part of the map");
                let end = runs.last().map(|run| run.0 + run.2);
                assert_eq!(end, Some(vcn), "the map of $MFT has gaps");
                runs.extend(part.runs);
            }
        }
        self.problems.clear();
        for number in 0..self.count {
            let raw = self.record_bytes(&runs, number);
            if let Some(record) = self.parse_record(number, &raw) {
                if record.flags & IN_USE != 0 && record.base != 0 {
                    let base = record.base & 0xffff_ffff_ffff;
                    self.further.entry(base).or_default().push(number);
                }
                self.records.insert(number, record);
            }
        }
    }

    fn record_bytes(&self, runs: &[Run], number: u64) -> Vec<u8> {
        let mut raw = Vec::new();
        let mut at = number * self.record_size as u64;
        while raw.len() < self.record_size {
            let vcn = at / self.cluster;
            let run = runs.iter().rfind(|run| run.0 <= vcn).unwrap();
            let lcn = run.1.unwrap() + vcn - run.0;
            assert!(vcn < run.0 + run.2, "record {number} is mapped nowhere");
            let from = (lcn * self.cluster + at % self.cluster) as usize;
            let count = (self.cluster - at % self.cluster).min((self.record_size - raw.len()) as u64);
            raw.extend_from_slice(&self.bytes[from..from + count as usize]);
            at += count;
        }
        raw
    }

    /// All parts of a file, in the records that belong to it.
    fn parts(&self, number: u64) -> Vec<Part> {
        let mut parts = self.records[&number].parts.clone();
        for other in self
            .further
            .get(&number)
            .into_iter()
            .flatten()
            .filter(|other| **other != number)
        {
            parts.extend(self.records[other].parts.iter().cloned());
        }
        parts
    }

    fn attribute(&self, number: u64, kind: u32, name: &[u16]) -> Option<Whole> {
        let mut parts: Vec<_> = self
            .parts(number)
            .into_iter()
            .filter(|p| p.kind == kind && p.name == name)
            .collect();
        parts.sort_by_key(|part| part.vcn);
        let first = parts.first()?.clone();
        Some(Whole {
            flags: first.flags,
            size: first
                .value
                .as_ref()
                .map_or(first.sizes.1, |value| value.len() as u64),
            initialized: first.sizes.2,
            allocated: first.sizes.0,
            value: first.value,
            runs: parts.into_iter().flat_map(|part| part.runs).collect(),
        })
    }

    fn is_file(&self, number: u64) -> bool {
        self.records
            .get(&number)
            .is_some_and(|record| record.flags & IN_USE != 0 && record.base == 0)
    }

    fn files(&self) -> Vec<u64> {
        self.records
            .keys()
            .copied()
            .filter(|number| self.is_file(*number))
            .collect()
    }

    fn upper(&self, name: &[u16]) -> Vec<u16> {
        name.iter().map(|unit| self.upcase[usize::from(*unit)]).collect()
    }

    fn check_records(&mut self) {
        let mut problems = Vec::new();
        // Records that hold more of a file belong to one, and it knows of them.
        let mut owners: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
        for (number, record) in &self.records {
            if record.flags & IN_USE == 0 || record.base == 0 {
                continue;
            }
            let (owner, sequence) = (record.base & 0xffff_ffff_ffff, (record.base >> 48) as u16);
            if !self.is_file(owner) || self.records[&owner].sequence != sequence {
                problems.push(format!(
                    "record {number} belongs to {owner}, which is no such file"
                ));
            }
            owners.entry(owner).or_default().push(*number);
        }
        for number in self.files() {
            // Records 12 to 15 are in use and have nothing.
            let parts = self.parts(number);
            let list = self.attribute(number, 0x20, &[]);
            if list.is_none() && owners.contains_key(&number) {
                problems.push(format!("file {number} has more records and no list of them"));
            }
            if let Some(list) = list {
                let mut said: Vec<_> = list_entries(&self.contents(&list));
                for entry in &said {
                    let record = entry.3 & 0xffff_ffff_ffff;
                    if self.records.get(&record).map(|record| record.sequence) != Some((entry.3 >> 48) as u16)
                    {
                        problems.push(format!(
                            "file {number}: its list names record {record} of another time"
                        ));
                    }
                }
                let order: Vec<_> = said.iter().map(|e| (e.0, self.upper(&e.1), e.2)).collect();
                if !order.is_sorted() {
                    problems.push(format!("file {number}: its list is out of order"));
                }
                said.iter_mut().for_each(|entry| entry.3 &= 0xffff_ffff_ffff);
                said.sort();
                let mut there: Vec<_> = parts
                    .iter()
                    .filter(|part| part.kind != 0x20)
                    .map(|part| (part.kind, part.name.clone(), part.vcn, part.record, part.instance))
                    .collect();
                there.sort();
                if said != there {
                    problems.push(format!(
                        "file {number}: its list says {said:?}, there are {there:?}"
                    ));
                }
            }
            for record in std::iter::once(&number).chain(owners.get(&number).into_iter().flatten()) {
                let record = &self.records[record];
                let order: Vec<_> = record
                    .parts
                    .iter()
                    .map(|part| (part.kind, self.upper(&part.name)))
                    .collect();
                if !order.is_sorted() {
                    problems.push(format!("file {number}: attributes out of order"));
                }
            }
            problems.extend(self.check_parts(number, &parts));
            let names = parts.iter().filter(|part| part.kind == 0x30).count();
            if usize::from(self.records[&number].links) != names {
                problems.push(format!(
                    "file {number}: {names} names, {} said",
                    self.records[&number].links
                ));
            }
        }
        self.problems.extend(problems);
    }

    fn check_parts(&self, number: u64, parts: &[Part]) -> Vec<String> {
        let mut problems = Vec::new();
        let mut whole: BTreeMap<(u32, Vec<u16>), Vec<&Part>> = BTreeMap::new();
        for part in parts.iter().filter(|part| part.value.is_none()) {
            whole
                .entry((part.kind, part.name.clone()))
                .or_default()
                .push(part);
        }
        for ((kind, _), mut parts) in whole {
            parts.sort_by_key(|part| part.vcn);
            let mut end = 0;
            let mut present = 0;
            for part in &parts {
                let last = part.runs.last().map_or(part.vcn, |run| run.0 + run.2);
                if part.vcn != end || last != part.end {
                    problems.push(format!(
                        "file {number}, {kind:#x}: part at {} after {end}, to {last}, {} said",
                        part.vcn, part.end
                    ));
                }
                end = last;
                present += part
                    .runs
                    .iter()
                    .filter(|run| run.1.is_some())
                    .map(|run| run.2)
                    .sum::<u64>();
            }
            let (allocated, size, initialized, said) = parts[0].sizes;
            if allocated != end * self.cluster || size > allocated || initialized > size {
                problems.push(format!(
                    "file {number}, {kind:#x}: {} allocated, sizes {allocated} {size} {initialized}",
                    end * self.cluster
                ));
            }
            let saves = parts[0].flags & 0x80ff != 0;
            if saves && said != present * self.cluster {
                problems.push(format!(
                    "file {number}, {kind:#x}: {} present, {said} said",
                    present * self.cluster
                ));
            }
            // $BadClus has a hole of the size of the volume.
            if !saves && present != end && number != 8 {
                problems.push(format!("file {number}, {kind:#x}: holes in what is not sparse"));
            }
        }
        problems
    }
}

/// Type, name, first cluster, record, number of each entry.
fn list_entries(raw: &[u8]) -> Vec<(u32, Vec<u16>, u64, u64, u16)> {
    let mut entries = Vec::new();
    let mut at = 0;
    while at + 26 <= raw.len() {
        let length = usize::from(u16_at(raw, at + 4));
        let name = at + usize::from(raw[at + 7]);
        entries.push((
            u32_at(raw, at),
            units(&raw[name..name + usize::from(raw[at + 6]) * 2]),
            u64_at(raw, at + 8),
            u64_at(raw, at + 16),
            u16_at(raw, at + 24),
        ));
        at += length;
    }
    entries
}
