//! The folder beside OUT in which everything is made: `.OUT.rehome-work`.
//!
//! | entry | what |
//! |---|---|
//! | `lock` | held (flock) by the run that works here |
//! | `products/` | what will be published, under its final names |
//! | `ledgers/NAME` | what of product NAME is durably there |
//! | `kept/NAME` | the plan and whatever else a resume needs |

use super::publish::{failed, must_be_absent, rename_new, sync_folder};
use crate::{
    copy::{FileLedger, Identity},
    disk::{Error, Kind, Result},
};
use rustix::{
    fs::{FlockOperation, flock},
    io::Errno,
};
use std::{
    ffi::{OsStr, OsString},
    fmt,
    fs::{self, File, OpenOptions},
    io::{self, Write},
    path::{Path, PathBuf},
};

/// What a run that ends now leaves behind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Leftover {
    /// Nothing: what was made is removed.
    Nothing,
    /// This work folder, which `--resume` can go on with.
    Resumable(PathBuf),
    /// What was at `out` before, a device or an image, was being overwritten; with this work folder `--resume` can go on.
    Damaged {
        /// The device, the export or the image.
        out: String,
        /// The work folder; `None`: there is nothing to go on with.
        resumable: Option<PathBuf>,
    },
}

impl fmt::Display for Leftover {
    /// One sentence, in the middle of a text.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nothing => write!(f, "what was made is removed"),
            Self::Resumable(folder) => write!(
                f,
                "what is written so far is kept in {}: go on with --resume, or remove that folder",
                folder.display()
            ),
            Self::Damaged {
                out,
                resumable: Some(folder),
            } => write!(
                f,
                "{out} was being overwritten, and is damaged until the rest is there: go on with --resume, or remove {} to \
                 start again",
                folder.display()
            ),
            Self::Damaged { out, resumable: None } => write!(
                f,
                "{out} was being overwritten: take it for damaged. There is nothing that --resume could go on with; start again"
            ),
        }
    }
}

/// A locked work folder.
#[derive(Debug)]
pub(super) struct WorkFolder {
    path: PathBuf,
    /// Held as long as we live.
    _lock: Lock,
    resumable: bool,
}

/// One run at a time.
#[derive(Debug)]
struct Lock(File);

impl Drop for Lock {
    fn drop(&mut self) {
        // Closing is not enough: a child that is just being started has the file open until it runs its program.
        let _ = flock(&self.0, FlockOperation::Unlock);
    }
}

const PRODUCTS: &str = "products";
const LEDGERS: &str = "ledgers";
const KEPT: &str = "kept";
const LOCK: &str = "lock";

/// Kept while names are given: what a run that is killed meanwhile may have made visible.
const PUBLISHING: &str = "publishing";

impl WorkFolder {
    /// Where the work folder of OUT `name` in `parent` is.
    pub(super) fn place(parent: &Path, name: &OsStr) -> PathBuf {
        let mut folder = OsString::from(".");
        folder.push(name);
        folder.push(".rehome-work");
        parent.join(folder)
    }

    /// A new one; fails if there is one.
    pub(super) fn create(path: PathBuf) -> Result<Self> {
        // What a run that was killed while it removed its folder has left.
        let _ = fs::remove_dir_all(swept(&path));
        match fs::create_dir(&path) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                // A lock that is held says more than a folder that exists.
                drop(Self::lock(&path)?);
                let text =
                    "an unfinished run is there: go on with --resume, or remove this folder to start again";
                return Err(Error::new(Kind::Exists, path.display().to_string(), text));
            }
            Err(error) => return Err(failed(&path, error)),
        }
        let lock = Self::lock(&path)?;
        for folder in [PRODUCTS, LEDGERS, KEPT] {
            let folder = path.join(folder);
            fs::create_dir(&folder).map_err(|error| failed(&folder, error))?;
        }
        Ok(Self {
            path,
            _lock: lock,
            resumable: true,
        })
    }

    /// The one that an earlier run left.
    pub(super) fn open(path: PathBuf) -> Result<Self> {
        if !path.is_dir() {
            let text = "no unfinished run is there: start without --resume";
            return Err(Error::new(Kind::NotFound, path.display().to_string(), text));
        }
        let lock = Self::lock(&path)?;
        for folder in [PRODUCTS, LEDGERS, KEPT] {
            let folder = path.join(folder);
            match fs::create_dir(&folder) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                    return Err(failed(&folder, error));
                }
                _ => {}
            }
        }
        Ok(Self {
            path,
            _lock: lock,
            resumable: true,
        })
    }

    /// Is there a work folder at `path` whose products have become OUT?
    pub(super) fn is_emptied(path: &Path) -> bool {
        path.join(LOCK).exists() && !path.join(PRODUCTS).exists()
    }

    fn lock(path: &Path) -> Result<Lock> {
        let name = path.join(LOCK);
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(false);
        let file = options.open(&name).map_err(|error| failed(&name, error))?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Lock(file)),
            Err(Errno::WOULDBLOCK) => {
                let text = "another run is working here; wait for it, or stop it";
                Err(Error::new(Kind::Unsafe, path.display().to_string(), text))
            }
            Err(error) => Err(failed(&name, error.into())),
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn products(&self) -> PathBuf {
        self.path.join(PRODUCTS)
    }

    /// Where product `name` is made.
    pub(super) fn product(&self, name: &str) -> Result<PathBuf> {
        self.entry(PRODUCTS, name)
    }

    /// Names of all products, in order.
    pub(super) fn product_names(&self) -> Result<Vec<String>> {
        let folder = self.products();
        let mut names = Vec::new();
        for entry in fs::read_dir(&folder).map_err(|error| failed(&folder, error))? {
            let entry = entry.map_err(|error| failed(&folder, error))?;
            let name = entry.file_name().into_string().map_err(|name| {
                let text = format!("holds {}, which this program did not make", name.display());
                Error::new(Kind::Exists, folder.display().to_string(), text)
            })?;
            names.push(name);
        }
        names.sort();
        Ok(names)
    }

    /// `name` in one of the sub-folders. A product's name is one path component: it must not lead elsewhere.
    fn entry(&self, folder: &str, name: &str) -> Result<PathBuf> {
        let plain = !name.is_empty() && name != "." && name != ".." && !name.contains(['/', '\0']);
        if plain {
            return Ok(self.path.join(folder).join(name));
        }
        let text = format!("{name:?} cannot be the name of a file in it");
        Err(Error::new(
            Kind::Unsupported,
            self.path.display().to_string(),
            text,
        ))
    }

    /// The ledger of product `name`: the one that is there, or a new one.
    pub(super) fn ledger(&self, name: &str, identity: &Identity) -> Result<FileLedger> {
        let path = self.entry(LEDGERS, name)?;
        if path.exists() {
            FileLedger::open(&path, identity)
        } else {
            FileLedger::create(&path, identity)
        }
    }

    /// Forgets what the ledger of product `name` knew.
    pub(super) fn forget(&self, name: &str, identity: &Identity) -> Result<FileLedger> {
        let path = self.entry(LEDGERS, name)?;
        fs::remove_file(&path).map_err(|error| failed(&path, error))?;
        FileLedger::create(&path, identity)
    }

    /// Writes a whole file of the set and makes it durable.
    pub(super) fn file(&self, name: &str, contents: &[u8]) -> Result<()> {
        write_file(&self.product(name)?, contents)
    }

    /// Keeps `contents` under `name` for the run that resumes this one: what was kept before, or this, never a half of it.
    pub(super) fn keep(&self, name: &str, contents: &[u8]) -> Result<()> {
        let path = self.entry(KEPT, name)?;
        let new = self.entry(KEPT, &format!("{name}.new"))?;
        write_file(&new, contents)?;
        fs::rename(&new, &path).map_err(|error| failed(&path, error))?;
        sync_folder(&self.path.join(KEPT))
    }

    pub(super) fn kept(&self, name: &str) -> Result<Option<Vec<u8>>> {
        let path = self.entry(KEPT, name)?;
        match fs::read(&path) {
            Ok(contents) => Ok(Some(contents)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(failed(&path, error)),
        }
    }

    /// The products `names` become files of `folder`: all of them or none.
    pub(super) fn give_names(&self, names: &[String], folder: &Path) -> Result<()> {
        for name in names {
            must_be_absent(&folder.join(name))?;
        }
        self.keep(PUBLISHING, names.join("\n").as_bytes())?;
        for (index, name) in names.iter().enumerate() {
            let renamed = self
                .product(name)
                .and_then(|product| rename_new(&product, &folder.join(name)));
            if let Err(error) = renamed {
                for earlier in names.iter().take(index) {
                    // What cannot be taken back now is taken back by the next run: the list is kept.
                    let _ = self
                        .product(earlier)
                        .and_then(|product| rename_new(&folder.join(earlier), &product));
                }
                return Err(error);
            }
        }
        Ok(())
    }

    /// What a run that was killed while it gave names in `folder` made visible becomes a product again.
    pub(super) fn take_back(&self, folder: &Path) -> Result<()> {
        let Some(list) = self.kept(PUBLISHING)? else {
            return Ok(());
        };
        for name in String::from_utf8_lossy(&list).lines() {
            let product = self.product(name)?;
            let visible = folder.join(name);
            if !product.exists() && visible.exists() {
                rename_new(&visible, &product)?;
            }
        }
        Ok(())
    }

    /// Does a ledger of this folder know anything? What cannot be looked at is kept.
    fn is_worth_keeping(&self) -> bool {
        let Ok(entries) = fs::read_dir(self.path.join(LEDGERS)) else {
            return true;
        };
        entries
            .filter_map(|entry| entry.ok()?.metadata().ok())
            .any(|metadata| FileLedger::has_records(metadata.len()))
    }

    /// Whatever the ledgers know, nobody can go on from here.
    pub(super) fn never_resume(&mut self) {
        self.resumable = false;
    }

    pub(super) fn leftover(&self) -> Leftover {
        if self.resumable && self.is_worth_keeping() {
            Leftover::Resumable(self.path.clone())
        } else {
            Leftover::Nothing
        }
    }

    /// What a run leaves that makes its disk at `out`, over what was there, and may have begun with that (`overwriting`).
    pub(super) fn leftover_in_place(&self, out: String, overwriting: bool) -> Leftover {
        let resumable = match self.leftover() {
            Leftover::Resumable(folder) => Some(folder),
            Leftover::Nothing | Leftover::Damaged { .. } if !overwriting => return Leftover::Nothing,
            Leftover::Nothing | Leftover::Damaged { .. } => None,
        };
        Leftover::Damaged { out, resumable }
    }

    /// Removes it with all that is in it. It loses its name at once, so that a kill meanwhile leaves no half of it for
    /// a resume, only something to sweep.
    pub(super) fn remove(&self) -> Result<()> {
        let swept = swept(&self.path);
        fs::rename(&self.path, &swept).map_err(|error| failed(&self.path, error))?;
        fs::remove_dir_all(&swept).map_err(|error| failed(&swept, error))
    }

    /// For a run that ends before it published.
    pub(super) fn end(&self) {
        if self.leftover() == Leftover::Nothing {
            // Nobody is left to hear of a failure; the next run finds the folder and says what to do.
            let _ = self.remove();
        }
    }
}

/// What a work folder is called while it is removed.
fn swept(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".done");
    path.with_file_name(name)
}

fn write_file(path: &Path, contents: &[u8]) -> Result<()> {
    let mut file = File::create(path).map_err(|error| failed(path, error))?;
    file.write_all(contents)
        .and_then(|()| file.sync_all())
        .map_err(|error| failed(path, error))
}
