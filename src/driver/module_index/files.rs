//! The files below `/lib/modules/VERSION` that depmod and the kernel's build write, as text (depmod(8),
//! modules.dep(5)). What is not UTF-8 or has too few words is left out: kmod takes 7-bit text only.

use super::{IndexError, trie::Trie};
use crate::driver::modalias::module_of_path;
use std::collections::BTreeMap;

/// The largest index file that is read: a kernel with everything as a module stays below 10 MiB.
pub const MAX_INDEX_FILE: usize = 32 << 20;

/// What to read from `/lib/modules/VERSION` and hand to [`IndexFiles::insert`]; any of them may be absent.
pub const INDEX_FILES: [&str; 10] = [
    "modules.dep",
    "modules.alias",
    "modules.softdep",
    "modules.weakdep",
    "modules.symbols",
    "modules.builtin",
    "modules.builtin.modinfo",
    "modules.builtin.alias.bin",
    "modules.order",
    "modules.devname",
];

/// What to read where `modules.dep` is absent: some images keep only these.
pub const BINARY_INDEX_FILES: [&str; 4] = [
    "modules.dep.bin",
    "modules.alias.bin",
    "modules.symbols.bin",
    "modules.builtin.bin",
];

/// The contents of index files, by name.
#[derive(Clone, Debug, Default)]
pub struct IndexFiles(BTreeMap<String, Vec<u8>>);

impl IndexFiles {
    /// Adds the file `name` ("modules.dep"). Names that are not of [`INDEX_FILES`] or [`BINARY_INDEX_FILES`] are
    /// ignored.
    pub fn insert(&mut self, name: &str, contents: Vec<u8>) {
        if INDEX_FILES.contains(&name) || BINARY_INDEX_FILES.contains(&name) {
            self.0.insert(name.to_owned(), contents);
        }
    }

    /// The file `name`, if it is there.
    pub fn get(&self, name: &str) -> Option<&[u8]> {
        self.0.get(name).map(|contents| &**contents)
    }

    /// Were none given?
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Makes texts of binary indexes whose text is absent, and names those that were used.
    pub(crate) fn complete_from_binary(&mut self) -> Result<Vec<&'static str>, IndexError> {
        let mut used = Vec::new();
        for (text_name, binary_name) in [
            ("modules.dep", "modules.dep.bin"),
            ("modules.alias", "modules.alias.bin"),
            ("modules.symbols", "modules.symbols.bin"),
            ("modules.builtin", "modules.builtin.bin"),
        ] {
            let Some(binary) = self
                .0
                .get(binary_name)
                .filter(|_| !self.0.contains_key(text_name))
            else {
                continue;
            };
            let trie = Trie::parse(binary).map_err(|source| IndexError {
                file: binary_name,
                source: source.into(),
            })?;
            let mut lines: Vec<(u32, Vec<u8>)> = Vec::new();
            for (key, values) in trie.iter() {
                for value in values {
                    let line = match text_name {
                        "modules.dep" => value.text.clone(),
                        "modules.builtin" => [key, b".ko"].concat(),
                        _ => [b"alias ", key, b" ", &*value.text].concat(),
                    };
                    lines.push((value.priority, line));
                }
            }
            lines.sort_by_key(|(priority, _)| *priority);
            let mut text = Vec::new();
            for (_, line) in lines {
                text.extend_from_slice(&line);
                text.push(b'\n');
            }
            self.0.insert(text_name.to_owned(), text);
            used.push(binary_name);
        }
        Ok(used)
    }

    /// The lines of the text file `name` that are UTF-8, without comments and empty ones.
    pub(crate) fn lines(&self, name: &str) -> impl Iterator<Item = &str> {
        self.get(name)
            .unwrap_or_default()
            .split(|b| *b == b'\n')
            .filter_map(|line| std::str::from_utf8(line).ok())
            .filter(|line| !line.trim().is_empty() && !line.starts_with('#'))
    }

    /// Pattern and module of every line "alias PATTERN MODULE" of `modules.alias` or `modules.symbols`.
    pub(crate) fn aliases(&self, name: &str) -> impl Iterator<Item = (&str, &str)> {
        self.lines(name).filter_map(|line| {
            let mut words = line.split_ascii_whitespace();
            if words.next() != Some("alias") {
                return None;
            }
            Some((words.next()?, words.next()?))
        })
    }

    /// Module and rest of every line "softdep MODULE pre: A post: B" or "weakdep MODULE A".
    pub(crate) fn directives<'a>(
        &'a self,
        name: &str,
        word: &'static str,
    ) -> impl Iterator<Item = (&'a str, &'a str)> {
        self.lines(name).filter_map(move |line| {
            let rest = line.strip_prefix(word)?.trim_start();
            rest.split_once(|c: char| c.is_ascii_whitespace())
        })
    }

    /// Module, key and value of every field of `modules.builtin.modinfo`, which is "module.key=value" with a zero
    /// behind each (Linux, Documentation/kbuild/kbuild.rst).
    pub(crate) fn builtin_modinfo(&self) -> impl Iterator<Item = (&str, &str, &str)> {
        self.get("modules.builtin.modinfo")
            .unwrap_or_default()
            .split(|b| *b == 0)
            .filter_map(|field| {
                let (module, rest) = std::str::from_utf8(field).ok()?.split_once('.')?;
                let (key, value) = rest.split_once('=')?;
                (!module.is_empty()).then_some((module, key, value))
            })
    }

    /// Alias and module of everything built in: of the build's list, or else of depmod's index of it.
    pub(crate) fn builtin_aliases(&self) -> Vec<(String, String)> {
        if self.get("modules.builtin.modinfo").is_some() {
            return self
                .builtin_modinfo()
                .filter(|(_, key, _)| *key == "alias")
                .map(|(module, _, alias)| (alias.to_owned(), module.to_owned()))
                .collect();
        }
        let trie = self.get("modules.builtin.alias.bin").map(Trie::parse);
        let Some(Ok(trie)) = trie else {
            return Vec::new();
        };
        let mut pairs = Vec::new();
        for (key, values) in trie.iter() {
            for value in values {
                pairs.push((
                    String::from_utf8_lossy(key).into_owned(),
                    String::from_utf8_lossy(&value.text).into_owned(),
                ));
            }
        }
        pairs
    }

    /// Names of the modules in `modules.builtin`.
    pub(crate) fn builtin_names(&self) -> impl Iterator<Item = String> {
        self.lines("modules.builtin")
            .filter(|line| line.starts_with(|c: char| c.is_ascii_alphabetic()))
            .map(|line| String::from_utf8_lossy(&module_of_path(line.trim().as_bytes())).into_owned())
    }
}
