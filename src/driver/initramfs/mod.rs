//! Images that the kernel unpacks as its first root filesystem: cpio archives one after the other, plain or
//! compressed, with zeros between them (Linux, Documentation/driver-api/early-userspace/buffer-format.rst).

mod append;
mod bootconfig;
mod generator;
mod segment;
mod tree;

pub use append::{Appendix, append};
pub use generator::Generator;
pub use segment::{AddedFile, AddedModule, Addition, Segment, SegmentError, segment};
pub use tree::Node;

use super::{
    compression::{Compression, unpack},
    cpio::{Reader, padding},
    modalias::module_of_path,
    modprobe::ModprobeConfig,
    module_index::{INDEX_FILES, IndexError, IndexFiles, IndexedModule, ModuleIndex},
    read_ahead::ReadAhead,
};
use crate::fs::mode;
use bootconfig::Bootconfig;
use std::{
    collections::{BTreeMap, BTreeSet},
    io::{self, ErrorKind, Read},
};
use thiserror::Error;
use tree::Tree;

/// The kernel has the image and all that it unpacks to in memory: more than this is no initramfs, but could keep us
/// unpacking for hours.
const MAX_UNPACKED: u64 = 4 << 30;
/// An image with all of a distribution's modules and firmware has some 10,000.
const MAX_ENTRIES: u32 = 400_000;
/// All names together, which are kept.
const MAX_NAMES: usize = 32 << 20;
/// All contents that are kept together.
const MAX_CONTENTS: usize = 32 << 20;
/// Components of all names together, with those of the links in them: a hundred for each of [`MAX_ENTRIES`].
const MAX_STEPS: u64 = 40_000_000;
/// Targets of symbolic links; longer ones cannot be followed.
const MAX_TARGET: u32 = 4096;
/// Sentences about what was dropped: enough to see what is wrong.
const MAX_REMARKS: usize = 20;

/// Why an image cannot be used.
#[derive(Debug, Error)]
#[error("byte {offset} of the initramfs image: {source}")]
pub struct InitramfsError {
    /// Of the image, where the segment begins.
    pub offset: u64,
    /// What was found there, and what to do.
    pub source: io::Error,
}

/// One archive, or one compressed stream of archives, of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageSegment {
    /// First byte in the image.
    pub offset: u64,
    /// In bytes, as it lies in the image.
    pub length: u64,
    /// In bytes, unpacked.
    pub unpacked: u64,
    /// How it is packed.
    pub compression: Compression,
    /// How many entries its archives have.
    pub entries: u32,
}

/// What an image holds.
#[derive(Clone, Debug)]
pub struct Image {
    /// In bytes.
    pub length: u64,
    /// In order; never empty.
    pub segments: Vec<ImageSegment>,
    /// Things that the kernel will not do as intended: entries that it drops, segments that it does not reach.
    pub remarks: Vec<String>,
    tree: Tree,
    contents: BTreeMap<Vec<u8>, Vec<u8>>,
    bootconfig: Option<Bootconfig>,
}

/// Is `path` (any path of an image) one that [`Image::read`] keeps the contents of: module indexes, the
/// configuration of modprobe, and what tells how the image was made?
fn is_kept(path: &[u8]) -> bool {
    let (folder, name) = match path.iter().rposition(|b| *b == b'/') {
        Some(slash) => (
            path.get(..slash).unwrap_or_default(),
            path.get(slash.saturating_add(1)..).unwrap_or_default(),
        ),
        None => (&b""[..], path),
    };
    let folder = folder.strip_prefix(b"usr/").unwrap_or(folder);
    if folder.starts_with(b"lib/modules/") {
        return INDEX_FILES.iter().any(|file| file.as_bytes() == name);
    }
    match folder {
        b"etc/modprobe.d"
        | b"lib/modprobe.d"
        | b"run/modprobe.d"
        | b"etc/modules-load.d"
        | b"conf"
        | b"conf/conf.d" => true,
        b"etc" => matches!(name, b"initrd-release" | b"modprobe.conf" | b"booster.init.yaml"),
        _ => false,
    }
}

impl Image {
    /// Reads an image in one pass: the names of all that it holds, and the contents of module indexes
    /// (`lib/modules/*/modules.*`), of `etc/modprobe.d`, `conf` and whatever else `wanted` says yes to (given paths
    /// as the kernel sees them, without a leading slash). Memory is bounded by what is kept, not by the image.
    pub fn read(source: impl Read, wanted: &dyn Fn(&[u8]) -> bool) -> Result<Self, InitramfsError> {
        let mut source = ReadAhead::new(source.take(MAX_UNPACKED));
        let mut image = Self {
            length: 0,
            segments: Vec::new(),
            remarks: Vec::new(),
            tree: Tree::default(),
            contents: BTreeMap::new(),
            bootconfig: None,
        };
        let mut budget = Budget {
            entries: MAX_ENTRIES,
            names: MAX_NAMES,
            contents: MAX_CONTENTS,
            unpacked: MAX_UNPACKED,
        };
        loop {
            let failed = |offset| move |source| InitramfsError { offset, source };
            let before = source.position();
            source.skip_zeros().map_err(failed(before))?;
            let offset = source.position();
            let start = source.peek(8).map_err(failed(offset))?;
            if start.is_empty() {
                break;
            }
            let compression = if start.starts_with(b"0707") {
                Compression::None
            } else if let Some(compression) = Compression::detect(start) {
                compression
            } else {
                image.bootconfig = Some(bootconfig::read(&mut source).map_err(failed(offset))?);
                break;
            };
            if compression == Compression::None && padding(offset) != 0 {
                image.remark(format!(
                    "the archive at byte {offset} does not begin on a multiple of four: the kernel does not unpack it"
                ));
            }
            image.after_lz4(offset);
            let (unpacked, entries) = image
                .read_segment(compression, &mut source, &mut budget, wanted)
                .map_err(|error| InitramfsError {
                    offset,
                    source: io::Error::new(error.kind(), format!("its {compression} segment: {error}")),
                })?;
            image.segments.push(ImageSegment {
                offset,
                length: source.position().saturating_sub(offset),
                unpacked,
                compression,
                entries,
            });
        }
        image.length = source.position();
        if image.length >= MAX_UNPACKED {
            return Err(InitramfsError {
                offset: image.length,
                source: too_large(),
            });
        }
        if image.segments.is_empty() {
            let text = "holds no cpio archive; the guest's own tools must make a new initramfs before it can be changed";
            return Err(InitramfsError {
                offset: 0,
                source: io::Error::new(ErrorKind::InvalidData, text),
            });
        }
        Ok(image)
    }

    /// The kernel's LZ4 reader takes whatever follows for a part of its stream.
    fn after_lz4(&mut self, offset: u64) {
        if let Some(last) = self.segments.last()
            && last.compression == Compression::Lz4Legacy
        {
            self.remark(format!(
                "the kernel stops at the end of the lz4 segment and does not reach the one at byte {offset}"
            ));
        }
    }

    fn remark(&mut self, text: String) {
        if self.remarks.len() < MAX_REMARKS {
            self.remarks.push(text);
        }
    }

    /// Reads the segment at the position of `source`. Gives its unpacked length and how many entries it has.
    fn read_segment<R: Read>(
        &mut self,
        compression: Compression,
        source: &mut ReadAhead<R>,
        budget: &mut Budget,
        wanted: &dyn Fn(&[u8]) -> bool,
    ) -> io::Result<(u64, u32)> {
        if compression == Compression::None {
            let start = source.position();
            let entries = self.read_archive(source, budget, wanted)?;
            return Ok((source.position().saturating_sub(start), entries));
        }
        let mut unpacked = ReadAhead::new(unpack(compression, source)?.take(budget.unpacked));
        let mut entries = 0_u32;
        // Several archives can stand in one stream, with zeros between them.
        loop {
            unpacked.skip_zeros()?;
            let start = unpacked.peek(4)?;
            if start.is_empty() {
                let length = unpacked.position();
                budget.unpacked = budget.unpacked.saturating_sub(length);
                if budget.unpacked == 0 {
                    return Err(too_large());
                }
                return Ok((length, entries));
            }
            if !start.starts_with(b"0707") {
                let at = unpacked.position();
                return Err(invalid(format!(
                    "at byte {at} of what it unpacks to there is neither an archive nor zeros"
                )));
            }
            entries = entries.saturating_add(self.read_archive(&mut unpacked, budget, wanted)?);
        }
    }

    fn read_archive<R: Read>(
        &mut self,
        source: &mut ReadAhead<R>,
        budget: &mut Budget,
        wanted: &dyn Fn(&[u8]) -> bool,
    ) -> io::Result<u32> {
        let mut entries = 0_u32;
        let mut reader = Reader::new(source);
        while let Some(header) = reader.next_entry()? {
            entries = entries.saturating_add(1);
            budget.take(&header.name)?;
            let is_link = header.mode & mode::TYPE == mode::LINK;
            if is_link && header.size > MAX_TARGET {
                return Err(invalid(format!(
                    "the symbolic link {} has a target of {} bytes",
                    String::from_utf8_lossy(&header.name),
                    header.size
                )));
            }
            let mut target = if is_link { reader.contents()? } else { Vec::new() };
            if target.last() == Some(&0) {
                target.pop();
            }
            let paths = self.tree.add(&header, target);
            if self.tree.steps() > MAX_STEPS {
                return Err(too_large());
            }
            if paths.is_empty() {
                let name = String::from_utf8_lossy(&header.name).into_owned();
                self.remark(format!("the kernel drops {name}, whose folder is not there"));
            }
            if header.mode & mode::TYPE == mode::FILE {
                self.keep(&mut reader, &paths, header.size, budget, wanted)?;
            }
        }
        self.tree.end_archive();
        Ok(entries)
    }

    /// Keeps the contents of the entry that was read last, where they are wanted; they are those of all `paths`.
    fn keep<R: Read>(
        &mut self,
        reader: &mut Reader<'_, R>,
        paths: &[Vec<u8>],
        size: u32,
        budget: &mut Budget,
        wanted: &dyn Fn(&[u8]) -> bool,
    ) -> io::Result<()> {
        let kept: Vec<_> = paths
            .iter()
            .filter(|path| is_kept(path) || wanted(path))
            .collect();
        if kept.is_empty() {
            return Ok(());
        }
        let size = usize::try_from(size).unwrap_or(usize::MAX);
        budget.contents = budget
            .contents
            .checked_sub(size.saturating_mul(kept.len()))
            .ok_or_else(|| {
                invalid(format!(
                    "its indexes and settings take more than {MAX_CONTENTS} bytes"
                ))
            })?;
        let contents = reader.contents()?;
        for path in kept {
            self.contents.insert(path.clone(), contents.clone());
        }
        Ok(())
    }

    /// What lies at `path`, links on the way and at its end followed.
    pub fn get(&self, path: &str) -> Option<&Node> {
        self.tree.get(&self.tree.resolve(path.as_bytes())?)
    }

    /// Everything, by path: without a leading slash, and without symbolic links in its folders.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &Node)> {
        self.tree.iter()
    }

    /// The contents of the file at `path`, links followed, if they were kept.
    pub fn contents(&self, path: &str) -> Option<&[u8]> {
        let path = self.tree.resolve(path.as_bytes())?;
        self.contents.get(&path).map(|contents| &**contents)
    }

    /// All contents that were kept, by path.
    pub fn kept(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.contents
            .iter()
            .map(|(path, contents)| (&**path, &**contents))
    }

    /// The configuration of modprobe that counts while it runs.
    pub fn modprobe_config(&self) -> ModprobeConfig {
        ModprobeConfig::from_folders(
            self.kept()
                .filter_map(|(path, contents)| Some((std::str::from_utf8(path).ok()?, contents))),
        )
    }

    /// Which program made it.
    pub fn generator(&self) -> Generator {
        generator::of(self)
    }

    /// Releases of the kernels that it has modules for, sorted.
    pub fn releases(&self) -> Vec<String> {
        let Some(folder) = self.tree.resolve(b"lib/modules") else {
            return Vec::new();
        };
        let names: BTreeSet<String> = self
            .tree
            .below(&folder)
            .filter(|(_, node)| matches!(node, Node::Directory { .. }))
            .filter_map(|(path, _)| path.get(folder.len().saturating_add(1)..))
            .filter(|name| !name.contains(&b'/'))
            .map(|name| String::from_utf8_lossy(name).into_owned())
            .collect();
        names.into_iter().collect()
    }

    /// The modules that it holds for the kernel `release`, by name.
    pub fn modules(&self, release: &str) -> Vec<IndexedModule> {
        let Some(folder) = self.tree.resolve(format!("lib/modules/{release}").as_bytes()) else {
            return Vec::new();
        };
        let mut modules: Vec<IndexedModule> = self
            .tree
            .below(&folder)
            .filter(|(_, node)| matches!(node, Node::File { .. } | Node::Link { .. }))
            .filter_map(|(path, _)| path.get(folder.len().saturating_add(1)..))
            .filter(|path| is_module(path))
            .filter_map(|path| std::str::from_utf8(path).ok())
            .map(|path| IndexedModule {
                name: String::from_utf8_lossy(&module_of_path(path.as_bytes())).into_owned(),
                path: path.to_owned(),
            })
            .collect();
        modules.sort();
        modules
    }

    /// The module indexes that it holds for the kernel `release`; `None`: it has no `modules.dep`.
    pub fn index(&self, release: &str) -> Result<Option<ModuleIndex>, IndexError> {
        let mut files = IndexFiles::default();
        for name in INDEX_FILES {
            if let Some(contents) = self.contents(&format!("lib/modules/{release}/{name}")) {
                files.insert(name, contents.to_vec());
            }
        }
        if files.get("modules.dep").is_none() {
            return Ok(None);
        }
        ModuleIndex::new(files).map(Some)
    }
}

/// Is the last component of `path` that of a module: ".ko", possibly with a compression behind?
fn is_module(path: &[u8]) -> bool {
    [
        &b".ko"[..],
        b".ko.gz",
        b".ko.xz",
        b".ko.zst",
        b".ko.bz2",
        b".ko.lzma",
        b".ko.lz4",
    ]
    .iter()
    .any(|ending| path.ends_with(ending))
}

fn invalid(text: String) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, text)
}

/// What may still be read.
struct Budget {
    entries: u32,
    names: usize,
    contents: usize,
    unpacked: u64,
}

impl Budget {
    fn take(&mut self, name: &[u8]) -> io::Result<()> {
        self.entries = self.entries.checked_sub(1).ok_or_else(too_large)?;
        self.names = self.names.checked_sub(name.len()).ok_or_else(too_large)?;
        Ok(())
    }
}

fn too_large() -> io::Error {
    invalid(format!(
        "it has more than {MAX_ENTRIES} files, {MAX_NAMES} bytes of names or {MAX_UNPACKED} bytes of contents, which no \
         initramfs has"
    ))
}
