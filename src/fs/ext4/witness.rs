//! The independent reader that judges our edits: the `ext4-view` crate, opened on the edited volume.

use crate::{
    disk::{Digest, Disk, Error, Kind},
    fs::{GuestPath, Result, Witness},
};
use ext4_view::{Ext4, Ext4Error, Ext4Read, Path};
use std::{error, sync::Arc};

/// `ext4-view` on a volume.
#[derive(Debug)]
pub struct Ext4View {
    label: String,
    filesystem: Ext4,
}

/// How much of a file is hashed at once.
const BUFFER: usize = 1 << 20;

impl Ext4View {
    /// Opens the filesystem on `disk`. `None` where the crate refuses it (it knows fewer features than we do, and
    /// some states): then there is no witness, which is not an objection.
    pub fn open(disk: Arc<dyn Disk>) -> Option<Self> {
        let label = disk.label().to_owned();
        let filesystem = Ext4::load(Box::new(VolumeReader(disk))).ok()?;
        Some(Self { label, filesystem })
    }

    fn error(&self, path: &GuestPath, error: &Ext4Error) -> Error {
        Error::new(
            Kind::Corrupt,
            &*self.label,
            format!("ext4-view cannot read {path}: {error}"),
        )
    }
}

impl Witness for Ext4View {
    fn name(&self) -> &'static str {
        "ext4-view"
    }

    fn see(&self, path: &GuestPath) -> Result<Option<Digest>> {
        let invalid = |_| {
            let text = format!("ext4-view takes no path like {path}");
            Error::new(Kind::Unsupported, &*self.label, text)
        };
        let place = Path::try_from(path.as_bytes()).map_err(invalid)?;
        let metadata = match self.filesystem.symlink_metadata(place) {
            Ok(metadata) => metadata,
            Err(Ext4Error::NotFound) => return Ok(None),
            Err(error) => return Err(self.error(path, &error)),
        };
        if metadata.is_symlink() {
            let target = self
                .filesystem
                .read_link(place)
                .map_err(|error| self.error(path, &error))?;
            return Ok(Some(Digest::of(target.as_ref())));
        }
        let mut file = self
            .filesystem
            .open(place)
            .map_err(|error| self.error(path, &error))?;
        let mut hasher = blake3::Hasher::new();
        let mut buffer = vec![0; BUFFER];
        loop {
            let count = file
                .read_bytes(&mut buffer)
                .map_err(|error| self.error(path, &error))?;
            if count == 0 {
                return Ok(Some(Digest(*hasher.finalize().as_bytes())));
            }
            hasher.update(buffer.get(..count).unwrap_or_default());
        }
    }
}

/// A volume as `ext4-view` wants it.
struct VolumeReader(Arc<dyn Disk>);

impl Ext4Read for VolumeReader {
    fn read(
        &mut self,
        start: u64,
        buffer: &mut [u8],
    ) -> std::result::Result<(), Box<dyn error::Error + Send + Sync + 'static>> {
        Ok(self.0.read_at(start, buffer)?)
    }
}
