//! Reads what decides about drivers from a guest: indexes of modules, the configuration of modprobe.

use crate::{
    driver::{
        modprobe::ModprobeConfig,
        module_index::{BINARY_INDEX_FILES, INDEX_FILES, IndexFiles, MAX_INDEX_FILE},
    },
    fs::{GuestPath, Mounts, Result},
};
use std::collections::BTreeMap;

/// Where modprobe looks for its configuration, most important first (modprobe.d(5)).
pub(crate) const MODPROBE_FOLDERS: [&str; 5] = [
    "/etc/modprobe.d",
    "/run/modprobe.d",
    "/usr/local/lib/modprobe.d",
    "/usr/lib/modprobe.d",
    "/lib/modprobe.d",
];

/// A file of modprobe's configuration has some lines to some hundred lines.
const LARGEST_CONFIG: u64 = 1 << 20;

/// All index files that are in the folder of a kernel's modules.
pub(crate) fn index_files(mounts: &Mounts, modules: &GuestPath) -> Result<IndexFiles> {
    let mut files = IndexFiles::default();
    for name in INDEX_FILES {
        if let Some(contents) = mounts.read(&modules.join(name), MAX_INDEX_FILE as u64)? {
            files.insert(name, contents);
        }
    }
    if files.get("modules.dep").is_none() {
        for name in BINARY_INDEX_FILES {
            if let Some(contents) = mounts.read(&modules.join(name), MAX_INDEX_FILE as u64)? {
                files.insert(name, contents);
            }
        }
    }
    Ok(files)
}

/// The guest's configuration of modprobe.
pub(super) fn modprobe_config(mounts: &Mounts) -> Result<ModprobeConfig> {
    // Of files of one name the first folder's counts; then in order of name.
    let mut files: BTreeMap<Vec<u8>, GuestPath> = BTreeMap::new();
    for folder in MODPROBE_FOLDERS.map(GuestPath::from) {
        for name in mounts.list(&folder)?.unwrap_or_default() {
            if name.ends_with(b".conf") {
                let path = folder.join(&name);
                files.entry(name).or_insert(path);
            }
        }
    }
    let mut config = ModprobeConfig::default();
    for path in files.values() {
        // A link to /dev/null hides the file of that name in the other folders.
        let found = mounts.find(path)?.filter(|found| found.attributes.is_file());
        if let Some(found) = found {
            let contents = mounts.read_found(&found, LARGEST_CONFIG)?;
            config.add_file(&path.to_string(), &contents);
        }
    }
    Ok(config)
}
