//! The indexes of an initramfs that holds more modules than before: those of depmod, over exactly the modules that
//! are in it, with their paths in it. Nothing is read from the modules themselves: what the image's own indexes say
//! of its modules, and the guest's of the added ones, is what depmod once read.

use super::{ModuleIndex, normal_name, trie::Trie};
use crate::driver::modalias::normalise;
use std::collections::{BTreeMap, BTreeSet};

/// A module that is, or will be, in the image.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct IndexedModule {
    /// "virtio_blk".
    pub name: String,
    /// Below `lib/modules/VERSION` of the image: "kernel/drivers/block/virtio_blk.ko".
    pub path: String,
}

/// Index files, by name, and what the report should say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MergedIndex {
    /// Depend on which modules are there: always to be replaced together.
    pub files: BTreeMap<&'static str, Vec<u8>>,
    /// Depend on the kernel only: to be added where they are absent.
    pub of_kernel: BTreeMap<&'static str, Vec<u8>>,
    /// Modules that no index knows, dependencies that are not there.
    pub remarks: Vec<String>,
}

/// One module with the index that describes it.
struct Row<'a> {
    name: &'a str,
    path: &'a str,
    source: Option<&'a ModuleIndex>,
}

/// The indexes over `modules`. `image` are the indexes that the image has now, `guest` those of the same kernel in
/// the guest's root. The order of the guest's `modules.dep` is kept, since it decides which of two drivers for one
/// device is preferred.
pub fn merge(image: Option<&ModuleIndex>, guest: &ModuleIndex, modules: &[IndexedModule]) -> MergedIndex {
    let rows = rows(image, guest, modules);
    let mut merged = MergedIndex::default();
    for row in rows.iter().filter(|row| row.source.is_none()) {
        merged
            .remarks
            .push(format!("no index knows the module {} ({})", row.name, row.path));
    }
    dependencies(&rows, guest, &mut merged);
    aliases(&rows, &mut merged);
    symbols(&rows, &mut merged);
    for (file, word, title) in [
        (
            "modules.softdep",
            "softdep",
            "# Soft dependencies extracted from modules themselves.\n",
        ),
        (
            "modules.weakdep",
            "weakdep",
            "# Weak dependencies extracted from modules themselves.\n",
        ),
    ] {
        let text = directives(&rows, file, word, title);
        // Only newer depmods know weak dependencies.
        if file != "modules.weakdep" || guest.files.get(file).is_some() {
            merged.files.insert(file, text);
        }
    }
    merged.files.insert("modules.devname", device_names(&rows));
    of_kernel(guest, &mut merged);
    merged
}

fn rows<'a>(
    image: Option<&'a ModuleIndex>,
    guest: &'a ModuleIndex,
    modules: &'a [IndexedModule],
) -> Vec<Row<'a>> {
    let mut seen = BTreeSet::new();
    let mut rows: Vec<(usize, Option<u32>, Row<'a>)> = Vec::new();
    for module in modules {
        if !seen.insert(&module.name) {
            continue;
        }
        let of_guest = guest.number(&module.name);
        let of_image = image.and_then(|index| index.number(&module.name));
        let source = match (of_image, of_guest) {
            (Some(_), _) => image,
            (None, Some(_)) => Some(guest),
            (None, None) => None,
        };
        let row = Row {
            name: &module.name,
            path: &module.path,
            source,
        };
        let (group, number) = match (of_guest, of_image) {
            (Some(number), _) => (0, Some(number)),
            (None, number @ Some(_)) => (1, number),
            (None, None) => (2, None),
        };
        rows.push((group, number, row));
    }
    rows.sort_by(|a, b| (a.0, a.1, a.2.name).cmp(&(b.0, b.1, b.2.name)));
    rows.into_iter().map(|(_, _, row)| row).collect()
}

fn dependencies(rows: &[Row<'_>], guest: &ModuleIndex, merged: &mut MergedIndex) {
    let paths: BTreeMap<&str, &str> = rows.iter().map(|row| (row.name, row.path)).collect();
    let mut text = String::new();
    let mut trie = Trie::default();
    for (priority, row) in (0..).zip(rows) {
        let mut line = format!("{}:", row.path);
        let module = row.source.and_then(|source| source.module(row.name));
        if let (Some(source), Some(module)) = (row.source, module) {
            for needed in module.needs.iter().rev().filter_map(|number| source.at(*number)) {
                if let Some(path) = paths.get(&*needed.name) {
                    line.push(' ');
                    line.push_str(path);
                } else if !guest.is_builtin(&needed.name) {
                    merged.remarks.push(format!(
                        "{} needs {}, which the image does not hold",
                        row.name, needed.name
                    ));
                }
            }
        }
        trie.insert(row.name.as_bytes(), priority, line.as_bytes());
        text.push_str(&line);
        text.push('\n');
    }
    merged.files.insert("modules.dep", text.into_bytes());
    binary(merged, "modules.dep.bin", &trie);
}

fn binary(merged: &mut MergedIndex, name: &'static str, trie: &Trie) {
    match trie.to_bytes() {
        Some(bytes) => {
            merged.files.insert(name, bytes);
        }
        None => merged
            .remarks
            .push(format!("{name} would be larger than 256 MiB and was left out")),
    }
}

/// Pairs of an alias and a module of the index file `name`, for the modules that each source describes, with the
/// module's place.
fn pairs<'a>(rows: &'a [Row<'a>], name: &'static str) -> Vec<(u32, &'a str, &'a str)> {
    let mut found = Vec::new();
    for (source, places) in sources(rows) {
        for (alias, module) in source.files.aliases(name) {
            if let Some(place) = places.get(&*super::normal(module)) {
                found.push((*place, alias, module));
            }
        }
    }
    found
}

/// The indexes that describe modules, each with the places of those modules.
fn sources<'a>(rows: &'a [Row<'a>]) -> Vec<(&'a ModuleIndex, BTreeMap<&'a str, u32>)> {
    let mut found: Vec<(&ModuleIndex, BTreeMap<&str, u32>)> = Vec::new();
    for (place, row) in (0..).zip(rows) {
        let Some(source) = row.source else {
            continue;
        };
        match found.iter_mut().find(|(known, _)| std::ptr::eq(*known, source)) {
            Some((_, places)) => {
                places.insert(row.name, place);
            }
            None => found.push((source, BTreeMap::from([(row.name, place)]))),
        }
    }
    found
}

fn aliases(rows: &[Row<'_>], merged: &mut MergedIndex) {
    let mut pairs = pairs(rows, "modules.alias");
    pairs.sort_by_key(|(place, _, _)| *place);
    let mut text = String::from("# Aliases extracted from modules themselves.\n");
    let mut trie = Trie::default();
    for (place, alias, module) in pairs {
        text.push_str(&format!("alias {alias} {module}\n"));
        if let Some(alias) = normalise(alias.as_bytes()) {
            trie.insert(&alias, place, module.as_bytes());
        }
    }
    merged.files.insert("modules.alias", text.into_bytes());
    binary(merged, "modules.alias.bin", &trie);
}

fn symbols(rows: &[Row<'_>], merged: &mut MergedIndex) {
    let mut text = String::from("# Aliases for symbols, used by symbol_request().\n");
    let mut trie = Trie::default();
    for (place, symbol, module) in pairs(rows, "modules.symbols") {
        text.push_str(&format!("alias {symbol} {module}\n"));
        trie.insert(symbol.as_bytes(), place, module.as_bytes());
    }
    merged.files.insert("modules.symbols", text.into_bytes());
    binary(merged, "modules.symbols.bin", &trie);
}

/// "softdep MODULE …" lines, in order of the modules.
fn directives(rows: &[Row<'_>], file: &'static str, word: &'static str, title: &str) -> Vec<u8> {
    let mut lines = Vec::new();
    for (source, places) in sources(rows) {
        for (module, rest) in source.files.directives(file, word) {
            if let Some(place) = places.get(&*normal_name(module)) {
                lines.push((*place, format!("{word} {module} {rest}\n")));
            }
        }
    }
    lines.sort_by_key(|(place, _)| *place);
    let mut text = title.to_owned();
    for (_, line) in lines {
        text.push_str(&line);
    }
    text.into_bytes()
}

/// "MODULE NAME c10:229" lines, in order of the modules.
fn device_names(rows: &[Row<'_>]) -> Vec<u8> {
    let mut lines = Vec::new();
    for (source, places) in sources(rows) {
        for line in source.files.lines("modules.devname") {
            let module = line.split_ascii_whitespace().next().unwrap_or_default();
            if let Some(place) = places.get(&*normal_name(module)) {
                lines.push((*place, line));
            }
        }
    }
    lines.sort_by_key(|(place, _)| *place);
    let mut text = String::new();
    if !lines.is_empty() {
        text.push_str("# Device nodes to trigger on-demand module loading.\n");
    }
    for (_, line) in lines {
        text.push_str(line);
        text.push('\n');
    }
    text.into_bytes()
}

fn of_kernel(guest: &ModuleIndex, merged: &mut MergedIndex) {
    for name in ["modules.builtin", "modules.builtin.modinfo", "modules.order"] {
        if let Some(contents) = guest.files.get(name) {
            merged.of_kernel.insert(name, contents.to_vec());
        }
    }
    let mut names = Trie::default();
    for name in guest.files.builtin_names() {
        names.insert(name.as_bytes(), 0, b"");
    }
    let mut builtin_aliases = Trie::default();
    for (alias, module) in guest.files.builtin_aliases() {
        if let Some(alias) = normalise(alias.as_bytes()) {
            builtin_aliases.insert(&alias, 0, module.as_bytes());
        }
    }
    for (source, name, trie) in [
        ("modules.builtin", "modules.builtin.bin", names),
        (
            "modules.builtin.modinfo",
            "modules.builtin.alias.bin",
            builtin_aliases,
        ),
    ] {
        if let Some(bytes) = trie.to_bytes().filter(|_| guest.files.get(source).is_some()) {
            merged.of_kernel.insert(name, bytes);
        }
    }
}
