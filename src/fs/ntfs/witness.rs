//! The independent reader that judges our edits: the `ntfs` crate, opened on the edited volume.

use crate::{
    disk::{Cursor, Digest, Disk, Error, Kind},
    fs::{GuestPath, Result, Witness},
};
use ::ntfs::{
    Ntfs, NtfsError, NtfsFile, NtfsReadSeek as _, indexes::NtfsFileNameIndex,
    structured_values::NtfsFileAttributeFlags,
};
use std::{
    fmt,
    io::BufReader,
    panic::{self, AssertUnwindSafe},
    sync::Arc,
};

/// The `ntfs` crate on a volume.
pub struct NtfsCrate {
    disk: Arc<dyn Disk>,
    ntfs: Ntfs,
}

impl fmt::Debug for NtfsCrate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("NtfsCrate").field(&self.disk.label()).finish()
    }
}

/// How much of a file is hashed at once.
const BUFFER: usize = 1 << 20;
/// Where clusters are larger than this, the blocks of a directory are counted in sectors, which the crate does not know.
const LARGEST_CLUSTER: u32 = 4096;
/// What the crate gives as it is stored (compressed files), or not at all (sparse files over an attribute list).
const NOT_READ: NtfsFileAttributeFlags = NtfsFileAttributeFlags::REPARSE_POINT
    .union(NtfsFileAttributeFlags::COMPRESSED)
    .union(NtfsFileAttributeFlags::ENCRYPTED)
    .union(NtfsFileAttributeFlags::SPARSE_FILE);

impl NtfsCrate {
    /// Opens the filesystem on `disk`. `None` where the crate refuses it: then there is no witness, which is not an
    /// objection.
    pub fn open(disk: Arc<dyn Disk>) -> Option<Self> {
        let mut cursor = Cursor::new(disk.clone());
        let ntfs = guarded(|| {
            let mut ntfs = Ntfs::new(&mut cursor).ok()?;
            if ntfs.cluster_size() > LARGEST_CLUSTER {
                return None;
            }
            ntfs.read_upcase_table(&mut cursor).ok()?;
            Some(ntfs)
        })??;
        Some(Self { disk, ntfs })
    }

    fn refuse(&self, path: &GuestPath, why: &str) -> Error {
        let text = format!("the ntfs crate does not read {path}: {why}");
        Error::new(Kind::Unsupported, self.disk.label(), text)
    }

    fn find<'n>(
        &'n self,
        reader: &mut BufReader<Cursor>,
        path: &GuestPath,
    ) -> std::result::Result<Option<NtfsFile<'n>>, Refusal> {
        let mut file = self.ntfs.root_directory(reader)?;
        for name in path.components() {
            let name = std::str::from_utf8(name).map_err(|_| Refusal::Ours("it is not UTF-8"))?;
            if !file.is_directory() {
                return Ok(None);
            }
            let index = file.directory_index(reader)?;
            let mut finder = index.finder();
            let Some(entry) = NtfsFileNameIndex::find(&mut finder, &self.ntfs, reader, name) else {
                return Ok(None);
            };
            let next = entry?.to_file(&self.ntfs, reader)?;
            file = next;
        }
        Ok(Some(file))
    }

    fn digest(
        &self,
        reader: &mut BufReader<Cursor>,
        file: &NtfsFile<'_>,
    ) -> std::result::Result<Digest, Refusal> {
        if file.info()?.file_attributes().intersects(NOT_READ) {
            return Err(Refusal::Ours(
                "it is compressed, sparse, encrypted or a reparse point",
            ));
        }
        let mut hasher = blake3::Hasher::new();
        let Some(item) = file.data(reader, "") else {
            return Ok(Digest(*hasher.finalize().as_bytes()));
        };
        let item = item?;
        let attribute = item.to_attribute()?;
        if !attribute.flags().is_empty() {
            return Err(Refusal::Ours("it is compressed, sparse or encrypted"));
        }
        let mut value = attribute.value(reader)?;
        let mut buffer = vec![0; BUFFER];
        loop {
            let count = value.read(reader, &mut buffer)?;
            if count == 0 {
                return Ok(Digest(*hasher.finalize().as_bytes()));
            }
            hasher.update(buffer.get(..count).unwrap_or_default());
        }
    }
}

/// The crate panics on some damage, such as a directory whose blocks have no length. That is a refusal like others; `None`
/// then. What it worked on is not used afterwards.
fn guarded<T>(ask: impl FnOnce() -> T) -> Option<T> {
    panic::catch_unwind(AssertUnwindSafe(ask)).ok()
}

/// Why a file is not read.
enum Refusal {
    Ours(&'static str),
    Crate(NtfsError),
}

impl From<NtfsError> for Refusal {
    fn from(error: NtfsError) -> Self {
        Self::Crate(error)
    }
}

impl Witness for NtfsCrate {
    fn name(&self) -> &'static str {
        "the ntfs crate"
    }

    fn see(&self, path: &GuestPath) -> Result<Option<Digest>> {
        let mut reader = BufReader::new(Cursor::new(self.disk.clone()));
        let seen = guarded(|| match self.find(&mut reader, path)? {
            Some(file) => self.digest(&mut reader, &file).map(Some),
            None => Ok(None),
        });
        let seen = seen.unwrap_or(Err(Refusal::Ours("it panics on the way there")));
        seen.map_err(|refusal| match refusal {
            Refusal::Ours(why) => self.refuse(path, why),
            Refusal::Crate(error) => self.refuse(path, &error.to_string()),
        })
    }
}
