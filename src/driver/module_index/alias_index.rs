//! Thousands of alias patterns, looked up by modalias without trying each: patterns are sorted by a hash of what
//! stands before their first wildcard, and only those whose beginning is a beginning of the modalias are tried.

use crate::driver::modalias::{literal_prefix, matches, normalise};
use std::collections::BTreeSet;

/// A pattern and the module that it leads to.
#[derive(Clone, Debug)]
struct Entry {
    /// Where the pattern lies in [`AliasIndex::text`].
    pattern: std::ops::Range<usize>,
    /// How much of it stands before the first wildcard.
    prefix: usize,
    /// Where the module's name lies in [`AliasIndex::text`].
    module: std::ops::Range<usize>,
}

/// Patterns, in the order in which they were added.
#[derive(Clone, Debug, Default)]
pub(crate) struct AliasIndex {
    /// Normalised patterns and names of modules, one after the other.
    text: Vec<u8>,
    entries: Vec<Entry>,
    /// Hashes of the literal beginnings, with the entries that have them, sorted.
    sorted: Vec<(u64, u32)>,
    /// The lengths that literal beginnings have.
    lengths: BTreeSet<usize>,
}

impl AliasIndex {
    /// Sorted pairs of a pattern and a module; pairs that kmod refuses are left out.
    pub(crate) fn new<'a>(pairs: impl Iterator<Item = (&'a str, &'a str)>) -> Self {
        let mut index = Self::default();
        let mut last_module = 0..0;
        for (pattern, module) in pairs {
            let Some(pattern) = normalise(pattern.as_bytes()) else {
                continue;
            };
            let prefix = literal_prefix(&pattern).len();
            let pattern = index.add(&pattern);
            // The patterns of one module stand together; its name is stored once.
            if index.text.get(last_module.clone()) != Some(module.as_bytes()) {
                last_module = index.add(module.as_bytes());
            }
            index.lengths.insert(prefix);
            index.entries.push(Entry {
                pattern,
                prefix,
                module: last_module.clone(),
            });
        }
        index.sorted = (0..)
            .zip(&index.entries)
            .map(|(number, entry)| (hash(index.literal(entry)), number))
            .collect();
        index.sorted.sort_unstable();
        index
    }

    fn add(&mut self, bytes: &[u8]) -> std::ops::Range<usize> {
        let start = self.text.len();
        self.text.extend_from_slice(bytes);
        start..self.text.len()
    }

    fn entry(&self, number: u32) -> Option<&Entry> {
        self.entries.get(usize::try_from(number).ok()?)
    }

    fn bytes(&self, range: std::ops::Range<usize>) -> &[u8] {
        self.text.get(range).unwrap_or_default()
    }

    fn literal(&self, entry: &Entry) -> &[u8] {
        self.bytes(entry.pattern.start..entry.pattern.start.saturating_add(entry.prefix))
    }

    /// The modules whose patterns match `alias`, each once, in the order of the file: kmod's order of preference.
    pub(crate) fn lookup(&self, alias: &str) -> Vec<String> {
        let Some(alias) = normalise(alias.as_bytes()) else {
            return Vec::new();
        };
        let mut found = BTreeSet::new();
        for length in &self.lengths {
            let Some(start) = alias.get(..*length) else {
                break;
            };
            let start = hash(start);
            let first = self.sorted.partition_point(|(hash, _)| *hash < start);
            for (_, number) in self
                .sorted
                .iter()
                .skip(first)
                .take_while(|(hash, _)| *hash == start)
            {
                if self
                    .entry(*number)
                    .is_some_and(|entry| matches(self.bytes(entry.pattern.clone()), &alias))
                {
                    found.insert(*number);
                }
            }
        }
        let mut modules: Vec<String> = Vec::new();
        let mut seen = BTreeSet::new();
        for number in found {
            let module = self.entry(number).map(|entry| self.bytes(entry.module.clone()));
            let module = module.unwrap_or_default();
            if seen.insert(module) {
                modules.push(String::from_utf8_lossy(module).into_owned());
            }
        }
        modules
    }
}

/// FNV-1a: short, and the same everywhere. Two beginnings with one hash cost only a try more.
fn hash(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_order_decides() {
        let pairs = [
            ("pci:v00008086d*", "late"),
            ("pci:v*d*", "any"),
            ("pci:v00008086d00001000*", "exact"),
            ("pci:v00008086d00001000sv*", "exact"),
            ("scsi:t-0x00*", "sd_mod"),
            ("usb:v[0-9]*", "digits"),
            ("broken]", "nothing"),
        ];
        let index = AliasIndex::new(pairs.into_iter());
        assert_eq!(
            index.lookup("pci:v00008086d00001000sv1"),
            ["late", "any", "exact"]
        );
        assert_eq!(index.lookup("scsi:t-0x00"), ["sd_mod"]);
        assert_eq!(index.lookup("scsi:t_0x00"), ["sd_mod"]);
        assert_eq!(index.lookup("usb:v1"), ["digits"]);
        assert_eq!(index.lookup("pci:"), Vec::<String>::new());
    }
}
