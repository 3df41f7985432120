//! One edit of one file by hand, in place: judged and undone like those of a plan.

use super::in_place::Writable;
use crate::{
    disk::{Digest, Error, Kind, Result},
    fs::{Edit, FileSystem, GuestPath, Mounts, Node, detect, detect::Detected, mode},
    job::Source,
    rewrite,
    source::{Examined, Found, Layer, Opened},
    watch::Watch,
};
use std::{
    collections::BTreeSet,
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
};

/// What is done to a file.
#[derive(Clone, Debug)]
pub enum Mending {
    /// New contents from a file of the host; the file is made if it is absent.
    Put(PathBuf),
    /// These contents, for a file that is there and holds what has the digest; else nothing is done.
    Replace(Digest, Vec<u8>),
    /// The name is removed, and the file with its last name.
    Remove,
}

/// The tree that paths are looked up in.
pub fn mount_tree(examined: &mut Examined, volume: Option<&str>) -> Result<()> {
    let mounted = mount(
        &mut examined.layer.mounts,
        examined
            .inspection
            .default
            .and_then(|index| examined.inspection.guests.get(index)),
        volume,
    );
    mounted.map_err(|error| why_not(&examined.layer, volume).unwrap_or(error))
}

/// What is in the way of the volume that is wanted, or of the only one that there could be.
fn why_not(layer: &Layer, wanted: Option<&str>) -> Option<Error> {
    const BITLOCKER: &str = "is encrypted by BitLocker: decrypt it first (`manage-bde -off X:` in Windows, and wait until \
                             `manage-bde -status` says 0%)";
    let is_wanted = |id: &str| match wanted {
        Some(wanted) => id == wanted || id == format!("disk0/{wanted}"),
        None => true,
    };
    let mut reasons = layer
        .volumes()
        .filter(|(volume, _)| is_wanted(&volume.id))
        .filter_map(|(volume, contents)| match &contents.found {
            Found::Failed(error) => Some(Error::new(error.kind, &*error.disk, error.source.to_string())),
            Found::Known(identity) if identity.kind == "BitLocker" => {
                Some(Error::new(Kind::Unsupported, &*volume.id, BITLOCKER))
            }
            Found::Known(identity) => Some(Error::new(
                Kind::Unsupported,
                &*volume.id,
                format!("holds {}, which is not looked into here", identity.kind),
            )),
            _ => None,
        });
    reasons
        .next()
        .filter(|_| wanted.is_some() || reasons.next().is_none())
}

fn mount(mounts: &mut Mounts, guest: Option<&crate::guest::Guest>, volume: Option<&str>) -> Result<()> {
    if let Some(id) = volume {
        let index = mounts
            .index_of(id)
            .or_else(|| mounts.index_of(&format!("disk0/{id}")));
        let index = index.ok_or_else(|| {
            let there: Vec<&str> = (0..mounts.count())
                .filter_map(|index| mounts.volume(index))
                .collect();
            let text = format!(
                "is no volume with a filesystem that is read here; there are: {}",
                there.join(", ")
            );
            Error::new(Kind::NotFound, id, text)
        })?;
        mounts.unmount_all();
        return mounts.mount(&GuestPath::from("/"), index);
    }
    if let Some(guest) = guest {
        return guest.mount(mounts);
    }
    match mounts.count() {
        1 => {
            mounts.unmount_all();
            mounts.mount(&GuestPath::from("/"), 0)
        }
        0 => Err(Error::new(
            Kind::NotFound,
            "source",
            "holds no filesystem that is read here",
        )),
        _ => Err(Error::new(
            Kind::NotFound,
            "source",
            "holds no installed system but several filesystems: name one, as in SRC@disk0/p2",
        )),
    }
}

/// Does `mending` to the file at `path`, in place; the undo file takes it back.
///
/// # Errors
/// Before the first byte is written: whatever stopped it, and the disks are as they were.
pub fn mend(
    source: &Source,
    volume: Option<&str>,
    path: &GuestPath,
    mending: &Mending,
    clock: u64,
    undo_file: &Path,
    watch: &dyn Watch,
) -> Result<Vec<PathBuf>> {
    let opened = Opened::open(source, watch)?;
    let writable = Writable::open(&opened, source)?;
    let mut examined = opened.examine()?;
    mount_tree(&mut examined, volume)?;
    for (swap_volume, contents) in examined.layer.volumes() {
        if let Found::Swap(swap) = &contents.found
            && let Some(who) = swap.hibernated()
        {
            let text = format!(
                "holds a system that {who} put to sleep: wake it and shut it down before its files are changed"
            );
            return Err(Error::new(Kind::Unsafe, &*swap_volume.id, text));
        }
    }
    for file in examined
        .inspection
        .guests
        .iter()
        .flat_map(|guest| &guest.swap_files)
    {
        if let Some(who) = &file.hibernated {
            let text = format!(
                "holds a system that {who} put to sleep: wake it and shut it down before its files are changed"
            );
            return Err(Error::new(Kind::Unsafe, file.path.to_string(), text));
        }
    }
    let no_folder = || {
        Error::new(
            Kind::NotFound,
            path.to_string(),
            "the folder that it is to be in is not there",
        )
    };
    let there = examined.layer.mounts.place(path)?.ok_or_else(no_folder)?;
    let id = there.directory.volume;
    // No other volume is opened, so none is changed.
    let mut edited = Layer::of(writable.disks(), source, &|volume| volume == id)?;
    let index = edited.mounts.index_of(&id).ok_or_else(no_folder)?;
    let place = edited
        .mounts
        .place_on(index, &there.path_there)?
        .ok_or_else(no_folder)?;
    let editor = edited.mounts.edit(place.directory.index)?;
    editor.set_clock(clock);
    if let Some(node) = place.node
        && !matches!(mending, Mending::Remove)
        && !editor.attributes(node)?.is_file()
    {
        return Err(Error::new(
            Kind::Unsupported,
            path.to_string(),
            "is no regular file",
        ));
    }
    let (changed, expected) = match mending {
        Mending::Put(from) => {
            let label = from.display().to_string();
            let mut contents = Hashing {
                file: File::open(from).map_err(|e| Error::io(label, e))?,
                hasher: blake3::Hasher::new(),
            };
            let node = match place.node {
                Some(node) => node,
                None => editor.create(place.directory.node, &place.name, mode::FILE | 0o644)?,
            };
            editor.replace(node, &mut contents)?;
            (place.node, Some(Digest(*contents.hasher.finalize().as_bytes())))
        }
        Mending::Replace(before, contents) => {
            let node = place.node.ok_or_else(no_folder)?;
            if digest_of(editor, node, path)? != *before {
                let text = "has changed since it was read; nothing was written. Try again";
                return Err(Error::new(Kind::Unsafe, path.to_string(), text));
            }
            editor.replace(node, &mut contents.as_slice())?;
            (place.node, Some(Digest::of(contents)))
        }
        Mending::Remove => {
            editor.remove(place.directory.node, &place.name)?;
            (place.node, None)
        }
    };
    editor.commit()?;
    judge(&id, &place.path_there, changed, expected, &examined, &edited)?;
    writable.commit(undo_file, watch)
}

/// The three judges of this one edit.
fn judge(
    id: &str,
    path: &GuestPath,
    changed: Option<Node>,
    expected: Option<Digest>,
    examined: &Examined,
    edited: &Layer,
) -> Result<()> {
    let missing = || Error::new(Kind::NotFound, id, "the volume that was edited is gone");
    let (before, _) = examined.layer.volume(id).ok_or_else(missing)?;
    let (after, contents) = edited.volume(id).ok_or_else(missing)?;
    let changed: BTreeSet<Node> = changed.into_iter().collect();
    if let Detected::FileSystem(reader) = detect::open(before.disk.clone())? {
        rewrite::audit(id, &*reader, &contents.recorder.written(), &changed)?;
    }
    let wrong = |judge: &str| {
        let text = format!(
            "stopped: {judge} does not see {path} as it was meant; nothing was written. Please report this"
        );
        Error::new(Kind::Corrupt, id, text)
    };
    if let Detected::FileSystem(reader) = detect::open(after.disk.clone())?
        && see(reader, path)? != expected
    {
        return Err(wrong("a reader opened afresh"));
    }
    if let Some(witness) = detect::witness(&after.disk)?
        && let Ok(seen) = witness.see(path)
        && seen != expected
    {
        return Err(wrong(witness.name()));
    }
    Ok(())
}

fn see(reader: Box<dyn FileSystem>, path: &GuestPath) -> Result<Option<Digest>> {
    let mounts = Mounts::new(vec![(String::new(), reader)]);
    let Some(found) = mounts.find_on(0, path)? else {
        return Ok(None);
    };
    let mut hasher = blake3::Hasher::new();
    hasher
        .update_reader(mounts.open_found(&found)?)
        .map_err(|error| Error::io(path.to_string(), error))?;
    Ok(Some(Digest(*hasher.finalize().as_bytes())))
}

fn digest_of(editor: &dyn Edit, node: Node, path: &GuestPath) -> Result<Digest> {
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; 1 << 16];
    let mut at: u64 = 0;
    loop {
        let count = editor.read_at(node, at, &mut buffer)?;
        if count == 0 {
            return Ok(Digest(*hasher.finalize().as_bytes()));
        }
        hasher.update(buffer.get(..count).unwrap_or_default());
        at = at
            .checked_add(count as u64)
            .ok_or_else(|| Error::new(Kind::Corrupt, path.to_string(), "a file that does not end"))?;
    }
}

/// Hashes what is read through it.
struct Hashing {
    file: File,
    hasher: blake3::Hasher,
}

impl Read for Hashing {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read(buffer)?;
        self.hasher.update(buffer.get(..count).unwrap_or_default());
        Ok(count)
    }
}
