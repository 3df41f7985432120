//! The archive that is added to an image: modules that it lacks, indexes that name all modules it then holds, and
//! other files. The layout is that of the image: where it has `lib` as a link to `usr/lib`, files go there.

use super::{Generator, Image, Node, tree::components};
use crate::driver::{
    compression::decompress,
    cpio::Writer,
    module_index::{IndexError, IndexedModule, ModuleIndex, merge},
};
use std::{collections::BTreeMap, io};
use thiserror::Error;

/// The largest module that is taken, unpacked: the largest known ones (graphics) have some 10 MiB, with debugging
/// information 100.
const MAX_MODULE: usize = 128 << 20;
/// All that is added, in memory at once.
const MAX_ADDED: usize = 256 << 20;

/// A module file of the guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddedModule {
    /// Below `/lib/modules/RELEASE` of the guest: "kernel/drivers/block/virtio_blk.ko.xz".
    pub path: String,
    /// The file as it is in the guest; compressed ones are unpacked here.
    pub contents: Vec<u8>,
}

/// Any other file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddedFile {
    /// As seen from the image's root: "etc/systemd/network/10-eth0.link".
    pub path: String,
    /// Permission bits of a new file; one that is there keeps its own.
    pub permissions: u32,
    /// Contents.
    pub contents: Vec<u8>,
}

/// What to add to an image.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Addition {
    /// Release of the kernel that starts with the image.
    pub release: String,
    /// Modules; those that the image holds already are left out.
    pub modules: Vec<AddedModule>,
    /// Other files; they replace those of the image.
    pub files: Vec<AddedFile>,
    /// Modules to load early, whatever devices are found: lines for `conf/modules`.
    pub load: Vec<String>,
}

/// An archive, and what is in it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Segment {
    /// The archive: a multiple of four bytes.
    pub cpio: Vec<u8>,
    /// Every file in it as a path of the image, in order.
    pub paths: Vec<Vec<u8>>,
    /// Names of the modules that were added, in order.
    pub modules: Vec<String>,
    /// Things that the report should say.
    pub remarks: Vec<String>,
}

impl Segment {
    /// Has it no files, so that nothing needs to be appended?
    pub fn is_empty(&self) -> bool {
        self.paths.is_empty()
    }
}

/// Why a segment cannot be made.
#[derive(Debug, Error)]
pub enum SegmentError {
    /// The image's own indexes are damaged.
    #[error("the module indexes in the initramfs: {0}")]
    Index(#[from] IndexError),
    /// A module cannot be unpacked, or a file cannot be put into an archive.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// Something else is where a file or its folder should be.
    #[error("{path} cannot be put into the initramfs: {at} is there and is no directory")]
    InTheWay {
        /// The file.
        path: String,
        /// What is in its way.
        at: String,
    },
    /// A path that leads out, or nowhere.
    #[error("{0} is no path of a file in an initramfs")]
    Path(String),
    /// Too much to hold in memory.
    #[error("more than {MAX_ADDED} bytes would be added to the initramfs")]
    TooLarge,
}

/// The archive that adds `addition` to `image`. `guest` are the indexes of the same kernel in the guest's root. All
/// entries get the time `modified`, in seconds since 1970. Same arguments, same bytes.
pub fn segment(
    image: &Image,
    guest: &ModuleIndex,
    addition: &Addition,
    modified: u32,
) -> Result<Segment, SegmentError> {
    let mut segment = Segment::default();
    let mut files: BTreeMap<String, AddedFile> = BTreeMap::new();
    let folder = format!("lib/modules/{}", addition.release);

    let mut modules = image.modules(&addition.release);
    for module in &addition.modules {
        let path = plain_path(&module.path);
        let name =
            String::from_utf8_lossy(&crate::driver::modalias::module_of_path(path.as_bytes())).into_owned();
        if modules.iter().any(|known| known.name == name) {
            continue;
        }
        let contents = decompress(&module.path, &module.contents, MAX_MODULE)?.into_owned();
        add(&mut files, format!("{folder}/{path}"), 0o644, contents);
        modules.push(IndexedModule {
            name: name.clone(),
            path: path.to_owned(),
        });
        segment.modules.push(name);
    }
    if !segment.modules.is_empty() {
        let merged = merge(image.index(&addition.release)?.as_ref(), guest, &modules);
        for (name, contents) in merged.files {
            add(&mut files, format!("{folder}/{name}"), 0o644, contents);
        }
        for (name, contents) in merged.of_kernel {
            let path = format!("{folder}/{name}");
            if image.get(&path).is_none() {
                add(&mut files, path, 0o644, contents);
            }
        }
        segment.remarks.extend(merged.remarks);
    }
    if !addition.load.is_empty() {
        match load_list(image, &addition.load) {
            Some((path, contents)) => add(&mut files, path.to_owned(), 0o644, contents),
            None => segment.remarks.push(format!(
                "nothing in this initramfs reads a list of modules; {} are loaded only if a device asks for them",
                addition.load.join(", ")
            )),
        }
    }
    for file in &addition.files {
        add(
            &mut files,
            file.path.clone(),
            file.permissions,
            file.contents.clone(),
        );
    }

    let mut size = 0_usize;
    for file in files.values() {
        size = size.saturating_add(file.contents.len());
    }
    if size > MAX_ADDED {
        return Err(SegmentError::TooLarge);
    }
    let mut writer = Writer::new(modified);
    let mut made = Vec::new();
    for file in files.values() {
        let path = directories(image, &file.path, &mut made, &mut writer)?;
        let permissions = match image.tree.get(&path) {
            Some(Node::File { permissions, .. }) => *permissions,
            Some(Node::Directory { .. }) => {
                return Err(SegmentError::Path(format!("{} (a directory)", file.path)));
            }
            _ => file.permissions,
        };
        writer.file(&path, permissions, &file.contents)?;
        segment.paths.push(path);
    }
    segment.cpio = writer.finish()?;
    Ok(segment)
}

fn add(files: &mut BTreeMap<String, AddedFile>, path: String, permissions: u32, contents: Vec<u8>) {
    let file = AddedFile {
        path: path.clone(),
        permissions,
        contents,
    };
    files.insert(path, file);
}

/// The path of a module once it is unpacked.
fn plain_path(path: &str) -> &str {
    match path.rfind(".ko") {
        Some(at) => path.get(..at.saturating_add(3)).unwrap_or(path),
        None => path,
    }
}

/// Path and new contents of the file that lists modules to be loaded.
fn load_list(image: &Image, load: &[String]) -> Option<(&'static str, Vec<u8>)> {
    let path = match image.generator() {
        Generator::InitramfsTools => "conf/modules",
        Generator::Dracut => "etc/modules-load.d/rehome.conf",
        _ => return None,
    };
    let mut contents = image.contents(path).unwrap_or_default().to_vec();
    if contents.last().is_some_and(|last| *last != b'\n') {
        contents.push(b'\n');
    }
    let known: Vec<&[u8]> = contents.split(|b| *b == b'\n').collect();
    let missing: Vec<&String> = load
        .iter()
        .filter(|name| !known.contains(&name.as_bytes()))
        .collect();
    let lines: String = missing.into_iter().map(|name| format!("{name}\n")).collect();
    contents.extend_from_slice(lines.as_bytes());
    Some((path, contents))
}

/// Makes sure that the folders of `path` are there when the kernel unpacks it, and gives its place with links
/// followed. Folders that the image has are not touched: an entry would change their mode, and replace a link.
fn directories(
    image: &Image,
    path: &str,
    made: &mut Vec<Vec<u8>>,
    writer: &mut Writer,
) -> Result<Vec<u8>, SegmentError> {
    let bad = || SegmentError::Path(path.to_owned());
    let mut parts: Vec<&[u8]> = components(path.as_bytes()).collect();
    let name = parts.pop().ok_or_else(bad)?;
    if parts.iter().chain([&name]).any(|part| *part == b"..") {
        return Err(bad());
    }
    let mut folder: Vec<u8> = Vec::new();
    for part in parts {
        let next = below(&folder, part);
        folder = match image.tree.resolve(&next) {
            // A link that leads nowhere cannot be a folder.
            None if image.tree.get(&next).is_some() => return Err(in_the_way(path, &next)),
            None => {
                if !made.contains(&next) {
                    writer.directory(&next, 0o755)?;
                    made.push(next.clone());
                }
                next
            }
            Some(found)
                if found.is_empty() || matches!(image.tree.get(&found), Some(Node::Directory { .. })) =>
            {
                found
            }
            Some(found) => return Err(in_the_way(path, &found)),
        };
    }
    Ok(below(&folder, name))
}

fn in_the_way(path: &str, at: &[u8]) -> SegmentError {
    SegmentError::InTheWay {
        path: path.to_owned(),
        at: String::from_utf8_lossy(at).into_owned(),
    }
}

fn below(folder: &[u8], name: &[u8]) -> Vec<u8> {
    if folder.is_empty() {
        return name.to_vec();
    }
    [folder, b"/", name].concat()
}
