//! Firmware files that modules name and a guest has not.

use crate::{
    driver::module_info::ModuleInfo,
    fs::{GuestPath, Mounts, Result},
};

/// Where the kernel looks, with the release for `{}` (Linux, Documentation/driver-api/firmware/fw_search_path.rst).
const FOLDERS: [&str; 4] = [
    "/lib/firmware/updates/{}",
    "/lib/firmware/updates",
    "/lib/firmware/{}",
    "/lib/firmware",
];
/// And with what endings: it unpacks these itself.
const ENDINGS: [&str; 3] = ["", ".xz", ".zst"];

/// The largest module file that is read: those of today's kernels stay below 20 MB.
const LARGEST_MODULE: u64 = 64 << 20;

/// What the module in the file at `path` names and is nowhere to be found.
pub(super) fn missing(mounts: &Mounts, release: &str, path: &GuestPath) -> Result<Vec<String>> {
    let Some(contents) = mounts.read(path, LARGEST_MODULE)? else {
        return Ok(Vec::new());
    };
    let Ok(info) = ModuleInfo::parse(&path.to_string(), &contents) else {
        // Whether the module can be loaded is not decided here.
        return Ok(Vec::new());
    };
    let mut missing = Vec::new();
    for name in info.firmware() {
        if !is_there(mounts, release, name)? && !missing.contains(name) {
            missing.push(name.clone());
        }
    }
    Ok(missing)
}

fn is_there(mounts: &Mounts, release: &str, name: &str) -> Result<bool> {
    for folder in FOLDERS {
        let folder = GuestPath::from(folder.replace("{}", release));
        for ending in ENDINGS {
            if mounts.exists(&folder.join(format!("{name}{ending}")))? {
                return Ok(true);
            }
        }
    }
    Ok(false)
}
