//! What a kernel's initramfs has of drivers already.

use super::kernel_files::MODPROBE_FOLDERS;
use crate::{
    driver::{
        initramfs,
        modprobe::{Line, ModprobeConfig},
    },
    fs::{GuestPath, Mounts, Result},
};
use std::collections::{BTreeMap, BTreeSet};

/// An initramfs image, as far as drivers go.
#[derive(Default)]
pub(super) struct Image {
    modules: BTreeSet<String>,
    config: ModprobeConfig,
    damage: Option<String>,
}

impl Image {
    /// Reads it in one pass. An image that cannot be understood is one with [`Image::damage`].
    pub(super) fn read(mounts: &Mounts, path: &GuestPath, release: &str) -> Result<Self> {
        let Some(reader) = mounts.open(path)? else {
            return Ok(Self {
                damage: Some("is not there".to_owned()),
                ..Self::default()
            });
        };
        let image = match initramfs::Image::read(reader, &|_| false) {
            Ok(image) => image,
            Err(error) => {
                return Ok(Self {
                    damage: Some(format!("cannot be read ({error})")),
                    ..Self::default()
                });
            }
        };
        let names = image.modules(release).into_iter().map(|module| module.name);
        Ok(Self {
            modules: names.collect(),
            config: config(&image),
            damage: None,
        })
    }

    pub(super) fn holds(&self, module: &str) -> bool {
        self.modules.contains(module)
    }

    /// The line of its own configuration that keeps `module` from being loaded.
    pub(super) fn blacklisted(&self, module: &str) -> Option<&Line> {
        self.config.blacklisted(module)
    }

    /// Why nothing can be said of it, or added to it.
    pub(super) fn damage(&self) -> Option<&str> {
        self.damage.as_deref()
    }
}

/// Of files of one name the first folder's counts, as in the guest's root.
fn config(image: &initramfs::Image) -> ModprobeConfig {
    let mut files: BTreeMap<&[u8], (usize, &[u8])> = BTreeMap::new();
    for (path, _) in image.kept() {
        let Some(slash) = path.iter().rposition(|b| *b == b'/') else {
            continue;
        };
        let (folder, name) = path.split_at(slash);
        let rank = MODPROBE_FOLDERS
            .iter()
            .position(|known| known.as_bytes().strip_prefix(b"/") == Some(folder));
        if let Some(rank) = rank.filter(|_| name.ends_with(b".conf")) {
            let better = files.get(name).is_none_or(|(other, _)| rank < *other);
            if better {
                files.insert(name, (rank, path));
            }
        }
    }
    let mut config = ModprobeConfig::default();
    for (_, path) in files.values() {
        let contents = image.kept().find(|(kept, _)| kept == path);
        let (_, contents) = contents.unwrap_or_default();
        config.add_file(&format!("/{}", GuestPath::from(*path)), contents);
    }
    config
}
