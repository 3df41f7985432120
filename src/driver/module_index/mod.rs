//! What a kernel's modules answer to and need: the indexes below `/lib/modules/VERSION`.

mod alias_index;
mod dependency;
mod files;
mod merge;
mod trie;

pub use dependency::Closure;
use dependency::SoftDependencies;
pub use files::{BINARY_INDEX_FILES, INDEX_FILES, IndexFiles, MAX_INDEX_FILE};
pub use merge::{IndexedModule, MergedIndex, merge};
pub use trie::TrieError;

use super::modalias::{module_of_path, normalise};
use super::modprobe::ModprobeConfig;
use alias_index::AliasIndex;
use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet, HashMap},
    error,
};
use thiserror::Error;

/// More modules than any kernel has (its whole tree makes about 8,000).
const MAX_MODULES: usize = 100_000;

/// Why the indexes of a kernel cannot be used.
#[derive(Debug, Error)]
#[error("{file}: {source}")]
pub struct IndexError {
    /// Name of the file below `/lib/modules/VERSION`.
    pub file: &'static str,
    /// What is wrong with it, and what to do.
    pub source: Box<dyn error::Error + Send + Sync>,
}

/// A module that is a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Module {
    /// "virtio_blk".
    pub name: String,
    /// Below `/lib/modules/VERSION`: "kernel/drivers/block/virtio_blk.ko.xz".
    pub path: String,
    /// What must be loaded before it, as numbers of modules, first things first.
    needs: Vec<u32>,
    /// Paths that its line names and that have no line of their own.
    unknown: Vec<String>,
}

/// What a device's modalias, or a name, leads to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// Modules that are files, in kmod's order of preference. All of them are loaded by udev.
    pub modules: Vec<String>,
    /// Modules that are built into the kernel.
    pub built_in: Vec<String>,
}

/// The indexes of one kernel.
#[derive(Clone, Debug)]
pub struct ModuleIndex {
    files: IndexFiles,
    modules: Vec<Module>,
    by_name: BTreeMap<String, u32>,
    aliases: AliasIndex,
    builtin_aliases: AliasIndex,
    builtin: BTreeSet<String>,
    soft: SoftDependencies,
    remarks: Vec<String>,
}

impl ModuleIndex {
    /// Reads the contents of the index files. Absent ones count as empty; a text that is absent is made from its
    /// binary twin if that was given. Fails on a binary that is damaged and on one file too large to be true.
    pub fn new(mut files: IndexFiles) -> Result<Self, IndexError> {
        for name in INDEX_FILES.iter().chain(&BINARY_INDEX_FILES) {
            if files
                .get(name)
                .is_some_and(|contents| contents.len() > MAX_INDEX_FILE)
            {
                return Err(IndexError {
                    file: name,
                    source: format!("larger than {MAX_INDEX_FILE} bytes, which no kernel's is").into(),
                });
            }
        }
        let mut remarks = Vec::new();
        for name in files.complete_from_binary()? {
            remarks.push(format!("the text of {name} is absent; the binary was read"));
        }
        let modules = parse_dependencies(&files)?;
        let mut by_name = BTreeMap::new();
        for (number, module) in (0..).zip(&modules) {
            // Of two files for one module the first counts, as for kmod.
            by_name.entry(module.name.clone()).or_insert(number);
        }
        let aliases = AliasIndex::new(files.aliases("modules.alias"));
        let builtin_pairs = files.builtin_aliases();
        let builtin_aliases = AliasIndex::new(builtin_pairs.iter().map(|(a, m)| (&**a, &**m)));
        let mut builtin: BTreeSet<String> = files.builtin_names().collect();
        builtin.extend(files.builtin_modinfo().map(|(module, _, _)| normal_name(module)));
        let soft = SoftDependencies::new(&files);
        Ok(Self {
            files,
            soft,
            modules,
            by_name,
            aliases,
            builtin_aliases,
            builtin,
            remarks,
        })
    }

    /// Things that the report should say.
    pub fn remarks(&self) -> &[String] {
        &self.remarks
    }

    /// All modules that are files, in the order of `modules.dep`.
    pub fn modules(&self) -> &[Module] {
        &self.modules
    }

    /// The module of this name (`-` or `_`), if it is a file.
    pub fn module(&self, name: &str) -> Option<&Module> {
        self.number(name).and_then(|number| self.at(number))
    }

    /// Is the module of this name built into the kernel?
    pub fn is_builtin(&self, name: &str) -> bool {
        self.builtin.contains(&normal_name(name))
    }

    /// The modules that this modalias asks for by `modules.alias` and the aliases of what is built in. The guest's
    /// `modprobe.d` can say otherwise: see [`ModuleIndex::resolve`].
    pub fn lookup(&self, modalias: &str) -> Found {
        let mut built_in = self.builtin_aliases.lookup(modalias);
        let mut modules = Vec::new();
        for name in self.aliases.lookup(modalias) {
            if self.by_name.contains_key(&normal_name(&name)) {
                modules.push(normal_name(&name));
            } else if self.is_builtin(&name) && !built_in.contains(&name) {
                built_in.push(name);
            }
        }
        Found { modules, built_in }
    }

    /// What kmod would load for a name or alias: by the aliases of `config` first, then a module of that name, then
    /// `modules.symbols`, then `modules.alias`, then what is built in. Blacklists are not applied:
    /// [`ModprobeConfig::blacklisted`].
    pub fn resolve(&self, alias: &str, config: &ModprobeConfig) -> Found {
        let mut found = Found::default();
        for name in config.alias(alias) {
            if self.module(&name).is_some() {
                found.modules.push(name);
            } else if self.is_builtin(&name) {
                found.built_in.push(name);
            }
        }
        if !found.modules.is_empty() || !found.built_in.is_empty() {
            return found;
        }
        let name = normal_name(alias);
        if self.by_name.contains_key(&name) {
            found.modules.push(name);
        } else if alias.starts_with("symbol:") {
            found.modules.extend(
                self.files
                    .aliases("modules.symbols")
                    .filter(|(symbol, _)| *symbol == alias)
                    .map(|(_, module)| normal_name(module)),
            );
        } else {
            found = self.lookup(alias);
            if found.modules.is_empty() && found.built_in.is_empty() && self.builtin.contains(&name) {
                found.built_in.push(name);
            }
        }
        found
    }

    fn number(&self, name: &str) -> Option<u32> {
        self.by_name.get(&*normal(name)).copied()
    }

    fn at(&self, number: u32) -> Option<&Module> {
        self.modules.get(usize::try_from(number).ok()?)
    }
}

/// A module's name with `_` for `-`.
fn normal(name: &str) -> Cow<'_, str> {
    match normalise(name.as_bytes()) {
        Some(Cow::Owned(normal)) => String::from_utf8(normal).map_or(Cow::Borrowed(name), Cow::Owned),
        _ => Cow::Borrowed(name),
    }
}

fn normal_name(name: &str) -> String {
    normal(name).into_owned()
}

/// The lines "PATH: NEEDED-LAST … NEEDED-FIRST" of `modules.dep`.
fn parse_dependencies(files: &IndexFiles) -> Result<Vec<Module>, IndexError> {
    let lines: Vec<(&str, &str)> = files
        .lines("modules.dep")
        .filter_map(|line| line.split_once(':'))
        .collect();
    if lines.len() > MAX_MODULES {
        return Err(IndexError {
            file: "modules.dep",
            source: format!(
                "lists {} modules, more than the {MAX_MODULES} that are possible",
                lines.len()
            )
            .into(),
        });
    }
    let numbers: HashMap<&str, u32> = lines.iter().map(|(path, _)| *path).zip(0..).collect();
    let mut modules = Vec::with_capacity(lines.len());
    for (path, needed) in &lines {
        let mut module = Module {
            name: String::from_utf8_lossy(&module_of_path(path.as_bytes())).into_owned(),
            path: (*path).to_owned(),
            needs: Vec::new(),
            unknown: Vec::new(),
        };
        for path in needed.split_ascii_whitespace().rev() {
            match numbers.get(path) {
                Some(number) => module.needs.push(*number),
                None => module.unknown.push(path.to_owned()),
            }
        }
        modules.push(module);
    }
    Ok(modules)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEP: &str = "kernel/c.ko:\nkernel/b-two.ko.xz: kernel/c.ko\nkernel/a.ko: kernel/b-two.ko.xz kernel/c.ko\n\
        kernel/loop1.ko: kernel/loop2.ko\nkernel/loop2.ko: kernel/loop1.ko\nkernel/torn.ko: kernel/gone.ko\n\
        kernel/x.ko:\nkernel/y.ko:\n";
    const ALIAS: &str =
        "# comment\nalias pci:v1d2 b_two\nalias pci:v1* a\nalias crc x\nalias only-built-in crc_base\n";
    const SOFTDEP: &str = "softdep a pre: crc y post: loop1 nothing\nsoftdep y pre: a\nsoftdep a post: c\n";

    fn files() -> IndexFiles {
        let mut files = IndexFiles::default();
        for (name, text) in [
            ("modules.dep", DEP),
            ("modules.alias", ALIAS),
            ("modules.softdep", SOFTDEP),
            ("modules.weakdep", "weakdep a crc loop2\n"),
            ("modules.symbols", "alias symbol:f b_two\nalias symbol:g c\n"),
            ("modules.builtin", "kernel/lib/crc-base.ko\nkernel/lib/crc.ko\n"),
            (
                "modules.builtin.modinfo",
                "ext4.alias=fs-ext4\0ext4.license=GPL\0late.alias=pci:v1*\0",
            ),
            ("other", "ignored"),
        ] {
            files.insert(name, text.into());
        }
        files
    }

    #[test]
    fn names_and_aliases_lead_where_kmod_goes() {
        let index = ModuleIndex::new(files()).unwrap();
        let config = ModprobeConfig::default();
        let of = |modules: &[&str], built_in: &[&str]| Found {
            modules: modules.iter().map(|name| (*name).to_owned()).collect(),
            built_in: built_in.iter().map(|name| (*name).to_owned()).collect(),
        };
        assert_eq!(index.lookup("pci:v1d2"), of(&["b_two", "a"], &["late"]));
        assert_eq!(index.lookup("only_built_in"), of(&[], &["crc_base"]));
        assert_eq!(index.resolve("b-two", &config), of(&["b_two"], &[]));
        assert_eq!(index.resolve("symbol:f", &config), of(&["b_two"], &[]));
        // An alias of a file goes before a name that is built in.
        assert_eq!(index.resolve("crc", &config), of(&["x"], &[]));
        assert_eq!(index.resolve("crc-base", &config), of(&[], &["crc_base"]));
        assert_eq!(index.resolve("fs-ext4", &config), of(&[], &["ext4"]));
        assert!(index.is_builtin("ext4") && index.is_builtin("crc-base") && !index.is_builtin("a"));
        let mut config = ModprobeConfig::default();
        config.add_file("/etc/modprobe.d/a.conf", b"alias pci:v1* c\nalias crc ext4\n");
        assert_eq!(index.resolve("pci:v1d2", &config), of(&["c"], &[]));
        assert_eq!(index.resolve("crc", &config), of(&[], &["ext4"]));
        assert_eq!(index.module("b-two").unwrap().path, "kernel/b-two.ko.xz");
    }

    #[test]
    fn dependencies_come_first_and_cycles_end() {
        let index = ModuleIndex::new(files()).unwrap();
        let closure = index.dependencies(["a", "torn", "nowhere", "fs-ext4"], &ModprobeConfig::default());
        assert_eq!(
            closure.load,
            ["c", "b_two", "x", "y", "a", "loop2", "loop1", "torn"]
        );
        assert_eq!(closure.missing, ["kernel/gone.ko", "nowhere"]);
        assert_eq!(
            (closure.missing_soft, closure.built_in),
            (vec!["nothing".to_owned()], vec!["ext4".to_owned()])
        );
        assert_eq!(closure.weak, ["x", "loop2"]);
        // A file of modprobe.d counts before modules.softdep if its name does.
        for (file, load) in [
            ("a.conf", vec!["c", "b_two", "a"]),
            ("zz.conf", vec!["c", "b_two", "x", "y", "a"]),
        ] {
            let mut config = ModprobeConfig::default();
            config.add_file(file, b"softdep a pre: c\nsoftdep loop1 pre: c");
            let closure = index.dependencies(["a"], &config);
            assert_eq!(closure.load[..load.len()], load, "{file}");
        }
    }

    #[test]
    fn binary_indexes_stand_in_for_texts() {
        let index = ModuleIndex::new(files()).unwrap();
        let present: Vec<IndexedModule> = index
            .modules()
            .iter()
            .map(|module| IndexedModule {
                name: module.name.clone(),
                path: module.path.clone(),
            })
            .collect();
        let merged = merge(None, &index, &present);
        assert_eq!(merged.remarks, Vec::<String>::new());
        let mut binary = IndexFiles::default();
        for (name, contents) in merged.files.into_iter().chain(merged.of_kernel) {
            if name.ends_with(".bin") {
                binary.insert(name, contents);
            }
        }
        let read = ModuleIndex::new(binary).unwrap();
        assert_eq!(read.remarks().len(), 4);
        let names =
            |index: &ModuleIndex| -> Vec<_> { index.modules().iter().map(|m| m.path.clone()).collect() };
        assert_eq!(names(&read), names(&index));
        for alias in ["pci:v1d2", "fs-ext4", "crc"] {
            assert_eq!(read.lookup(alias), index.lookup(alias), "{alias}");
        }
        assert!(read.is_builtin("crc_base"));
        let mut damaged = IndexFiles::default();
        damaged.insert(
            "modules.dep.bin",
            b"\xb0\x07\xf4\x57\0\x01\0\x01\0\0\0\x0c".to_vec(),
        );
        let error = ModuleIndex::new(damaged).unwrap_err().to_string();
        assert!(
            error.contains("modules.dep.bin: begins with b007f457 00010001"),
            "{error}"
        );
    }
}
