//! A reader that shares nothing with ours: every key with the cells that are its own. And what must hold in a hive that
//! Windows is to start from.

use crate::seen::{KeyPath, join, name, text};
use std::collections::{BTreeMap, BTreeSet};

pub(crate) struct Raw<'f> {
    file: &'f [u8],
    bins_size: usize,
}

/// A key, and its cells: place and contents.
#[derive(Debug)]
pub(crate) struct RawKey {
    pub(crate) node: usize,
    pub(crate) security: usize,
    pub(crate) cells: BTreeMap<usize, Vec<u8>>,
}

fn u16_at(bytes: &[u8], at: usize) -> usize {
    usize::from(u16::from_le_bytes([bytes[at], bytes[at + 1]]))
}

fn u32_at(bytes: &[u8], at: usize) -> usize {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize
}

const NONE: usize = u32::MAX as usize;

impl<'f> Raw<'f> {
    pub(crate) fn new(file: &'f [u8]) -> Self {
        Self {
            bins_size: u32_at(file, 40),
            file,
        }
    }

    fn cell(&self, at: usize) -> &'f [u8] {
        let size = i32::from_le_bytes(self.file[4096 + at..4100 + at].try_into().unwrap());
        assert!(size < 0, "cell {at:#x} is free");
        &self.file[4100 + at..4096 + at + size.unsigned_abs() as usize]
    }

    /// Every key by its path.
    pub(crate) fn keys(&self) -> BTreeMap<KeyPath, RawKey> {
        let mut keys = BTreeMap::new();
        self.key(u32_at(self.file, 36), KeyPath::new(), &mut keys);
        keys
    }

    fn key(&self, at: usize, path: KeyPath, keys: &mut BTreeMap<KeyPath, RawKey>) {
        let node = self.cell(at);
        assert_eq!(&node[..2], b"nk");
        let mut key = RawKey {
            node: at,
            security: u32_at(node, 44),
            cells: BTreeMap::new(),
        };
        let mut own = |at: usize| {
            key.cells.insert(at, self.cell(at).to_vec());
            self.cell(at)
        };
        own(at);
        if u16_at(node, 74) > 0 && u32_at(node, 48) != NONE {
            own(u32_at(node, 48));
        }
        let values = u32_at(node, 36);
        if values > 0 {
            let list = own(u32_at(node, 40));
            for index in 0..values {
                let value = own(u32_at(list, 4 * index));
                assert_eq!(&value[..2], b"vk");
                let length = u32_at(value, 4);
                if length & 0x8000_0000 == 0 && length > 0 {
                    let data = own(u32_at(value, 8));
                    if length > 16344 && u32_at(self.file, 24) > 3 {
                        assert_eq!(&data[..2], b"db");
                        let segments = own(u32_at(data, 4));
                        for index in 0..u16_at(data, 2) {
                            own(u32_at(segments, 4 * index));
                        }
                    }
                }
            }
        }
        for (name, subkey) in self.subkeys(node) {
            self.key(subkey, join(&path, &name), keys);
        }
        let mut path = path;
        while keys.contains_key(&path) {
            path.push(u16::from(b'#'));
        }
        keys.insert(path, key);
    }

    fn lists(&self, node: &[u8]) -> Vec<&'f [u8]> {
        if u32_at(node, 20) == 0 {
            return Vec::new();
        }
        let top = self.cell(u32_at(node, 28));
        if &top[..2] == b"ri" {
            (0..u16_at(top, 2))
                .map(|index| self.cell(u32_at(top, 4 + 4 * index)))
                .collect()
        } else {
            vec![top]
        }
    }

    fn subkeys(&self, node: &[u8]) -> Vec<(Vec<u16>, usize)> {
        let mut subkeys = Vec::new();
        for list in self.lists(node) {
            let element = if &list[..2] == b"li" { 4 } else { 8 };
            for index in 0..u16_at(list, 2) {
                let at = u32_at(list, 4 + element * index);
                subkeys.push((self.name(self.cell(at)), at));
            }
        }
        assert_eq!(subkeys.len(), u32_at(node, 20));
        subkeys
    }

    fn name(&self, node: &[u8]) -> Vec<u16> {
        let name = &node[76..76 + u16_at(node, 72)];
        if u16_at(node, 2) & 0x20 != 0 {
            name.iter().map(|byte| u16::from(*byte)).collect()
        } else {
            name.chunks(2)
                .map(|pair| u16::from_le_bytes([pair[0], pair[1]]))
                .collect()
        }
    }

    /// What Windows expects of a hive that was closed properly.
    pub(crate) fn must_be_sound(&self, when: &str) {
        let file = self.file;
        assert_eq!(u32_at(file, 4), u32_at(file, 8), "{when}: sequence numbers");
        let mut sum = file[..508].chunks(4).fold(0, |sum, word| sum ^ u32_at(word, 0));
        if sum == 0 {
            sum = 1;
        } else if sum == NONE {
            sum = NONE - 1;
        }
        assert_eq!(u32_at(file, 508), sum, "{when}: checksum");
        self.bins_must_be_filled(when);
        let keys = self.keys();
        self.lists_must_be_in_order(&keys, when);
        self.security_must_be_counted(&keys, when);
    }

    fn bins_must_be_filled(&self, when: &str) {
        let mut bin = 0;
        while bin < self.bins_size {
            assert_eq!(
                &self.file[4096 + bin..4100 + bin],
                b"hbin",
                "{when}: bin {bin:#x}"
            );
            assert_eq!(u32_at(self.file, 4100 + bin), bin, "{when}");
            let size = u32_at(self.file, 4104 + bin);
            assert_eq!(size % 4096, 0, "{when}");
            let mut at = bin + 32;
            let mut free_before = false;
            while at < bin + size {
                let cell = i32::from_le_bytes(self.file[4096 + at..4100 + at].try_into().unwrap());
                assert!(cell % 8 == 0 && cell != 0, "{when}: cell {at:#x} of {cell}");
                assert!(
                    !(free_before && cell > 0),
                    "{when}: free cells beside each other at {at:#x}"
                );
                free_before = cell > 0;
                at += cell.unsigned_abs() as usize;
            }
            assert_eq!(at, bin + size, "{when}: the cells of a bin");
            bin += size;
        }
        assert_eq!(bin, self.bins_size, "{when}");
    }

    pub(crate) fn lists_must_be_in_order(&self, keys: &BTreeMap<KeyPath, RawKey>, when: &str) {
        for (path, key) in keys {
            let node = self.cell(key.node);
            let names: Vec<_> = self.subkeys(node).into_iter().map(|(units, _)| units).collect();
            assert!(
                names.is_sorted_by_key(|units| name(units)),
                "{when}: order in {}",
                text(path)
            );
            let longest = names.iter().map(|name| 2 * name.len()).max().unwrap_or(0);
            assert!(
                u16_at(node, 52) >= longest,
                "{when}: longest subkey of {}",
                text(path)
            );
            for list in self.lists(node) {
                assert!(u16_at(list, 2) > 0, "{when}: an empty list");
                for index in 0..u16_at(list, 2) {
                    let hint = |length: usize| u32_at(list, 8 + length * index);
                    let name_of = || self.name(self.cell(u32_at(list, 4 + 8 * index)));
                    match &list[..2] {
                        b"lh" => {
                            let upper = name_of();
                            if upper.iter().all(|unit| *unit < 0x80) {
                                let add = |sum: u32, unit: &u16| {
                                    let upper = u8::try_from(*unit).unwrap().to_ascii_uppercase();
                                    sum.wrapping_mul(37).wrapping_add(upper.into())
                                };
                                let hash = upper.iter().fold(0, add);
                                assert_eq!(hint(8), hash as usize, "{when}: {}", text(&upper));
                            }
                        }
                        b"lf" => {
                            let mut first: Vec<u8> =
                                name_of().iter().map_while(|u| u8::try_from(*u).ok()).collect();
                            first.resize(4.max(first.len()), 0);
                            if name_of().iter().take(4).all(|unit| *unit < 0x100) {
                                assert_eq!(hint(8), u32_at(&first, 0), "{when}");
                            }
                        }
                        b"li" => {}
                        other => panic!("{when}: list {other:?}"),
                    }
                }
            }
        }
    }

    fn security_must_be_counted(&self, keys: &BTreeMap<KeyPath, RawKey>, when: &str) {
        let mut users: BTreeMap<usize, usize> = BTreeMap::new();
        for key in keys.values() {
            *users.entry(key.security).or_default() += 1;
        }
        let mut ring = BTreeSet::new();
        let first = *users.keys().next().unwrap();
        let mut at = first;
        loop {
            assert!(ring.insert(at), "{when}: the ring of security items bites itself");
            let item = self.cell(at);
            assert_eq!(&item[..2], b"sk");
            let next = u32_at(item, 4);
            assert_eq!(
                u32_at(self.cell(next), 8),
                at,
                "{when}: the ring of security items"
            );
            if let Some(count) = users.get(&at) {
                assert_eq!(u32_at(item, 12), *count, "{when}: users of security item {at:#x}");
            }
            if next == first {
                break;
            }
            at = next;
        }
        for item in users.keys() {
            assert!(
                ring.contains(item),
                "{when}: security item {item:#x} is not in the ring"
            );
        }
    }
}

/// Keys that were not `touched` have the same cells in the same places.
#[track_caller]
pub(crate) fn untouched_must_be_unchanged(
    before: &[u8],
    after: &[u8],
    touched: &BTreeSet<KeyPath>,
    when: &str,
) -> usize {
    let (old, new) = (Raw::new(before).keys(), Raw::new(after).keys());
    let touched: BTreeSet<String> = touched.iter().map(|path| text(path).to_lowercase()).collect();
    let mut compared = 0;
    for (path, key) in &old {
        if !touched.contains(&text(path).to_lowercase()) {
            let there = new
                .get(path)
                .unwrap_or_else(|| panic!("{when}: {} is gone", text(path)));
            assert_eq!(there.cells, key.cells, "{when}: {}", text(path));
            compared += 1;
        }
    }
    compared
}
