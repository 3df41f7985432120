//! What `rehome image` prints: facts of images, findings of a check, a comparison, a map.

use super::{
    Bytes, Report,
    report::{print_packages, print_stages, print_warnings},
};
use crate::{
    copy::{Survey, survey},
    disk::{self, Content, Error},
    image::{self, Check, Described, Format, Image, Info, Mapped, map_chain},
};
use serde::Serialize;
use std::{
    fmt::{self, Write as _},
    io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

/// Schema version of [`ImageInfo`] as JSON. A field that is added leaves it.
pub const INFO_SCHEMA: u32 = 1;
/// Schema version of [`Checked`] as JSON.
pub const CHECK_SCHEMA: u32 = 1;
/// Schema version of [`Compared`] as JSON.
pub const COMPARE_SCHEMA: u32 = 1;

/// What an image, and those that it stands on, say of themselves.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ImageInfo {
    /// [`INFO_SCHEMA`].
    pub schema: u32,
    /// The image; with its chain, topmost first.
    pub images: Vec<ImageFacts>,
}

/// One image.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ImageFacts {
    /// Its file, as it was named.
    pub image: String,
    /// As `qemu-img -f` spells it.
    pub format: String,
    /// Size of the disk in it, in bytes.
    pub virtual_size: u64,
    /// Logical sector of that disk in bytes.
    pub sector_size: u32,
    /// Length of its file in bytes.
    pub file_size: u64,
    /// What that takes on the host's filesystem, in bytes; `None` for a device.
    pub disk_size: Option<u64>,
    /// What the format says.
    #[serde(flatten)]
    pub info: Info,
    /// The disk by its map, where that was wanted; with what it stands on.
    pub allocation: Option<Allocation>,
    /// Why what it stands on cannot be opened.
    pub problem: Option<String>,
}

/// Bytes of a disk by what its map says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Allocation {
    /// Data.
    pub data: u64,
    /// Zeros that take space.
    pub zero: u64,
    /// Zeros that take none.
    pub hole: u64,
}

impl From<Survey> for Allocation {
    fn from(survey: Survey) -> Self {
        Self {
            data: survey.data,
            zero: survey.zero,
            hole: survey.hole,
        }
    }
}

/// Looks at the image at `path`, and with `chain` at all that it stands on. An image whose disk cannot be read, for want of
/// its backing file or its key, is still looked at.
///
/// # Errors
/// Those of the image itself.
pub fn image_info(
    path: &Path,
    format: Option<Format>,
    chain: bool,
    allocation: bool,
) -> disk::Result<ImageInfo> {
    let mut images: Vec<ImageFacts> = Vec::new();
    let mut next: Option<(PathBuf, Option<Format>)> = Some((path.to_owned(), format));
    while let Some((path, format)) = next.take() {
        let image = match image::open_file(&path, format) {
            Ok(image) => image,
            Err(error) => {
                // If not even this can be said, the image itself is at fault.
                let Ok(said) = Described::alone(&path, format) else {
                    return Err(error);
                };
                images.push(file_facts(&path, said, None, Some(error.to_string()))?);
                break;
            }
        };
        if chain {
            next = image::backing_of(&path, &*image)?;
        }
        let allocation = if allocation {
            Some(survey(&*image)?.into())
        } else {
            None
        };
        images.push(file_facts(&path, Described::of(&*image)?, allocation, None)?);
    }
    Ok(ImageInfo {
        schema: INFO_SCHEMA,
        images,
    })
}

/// Looks at `image`, which lies in no file: an export of a server.
///
/// # Errors
/// Those of the image.
pub fn remote_image_info(image: &dyn Image, allocation: bool) -> disk::Result<ImageInfo> {
    let allocation = if allocation {
        Some(survey(image)?.into())
    } else {
        None
    };
    let said = Described::of(image)?;
    Ok(ImageInfo {
        schema: INFO_SCHEMA,
        images: vec![facts(image.label().to_owned(), said, allocation, None)],
    })
}

fn file_facts(
    path: &Path,
    said: Described,
    allocation: Option<Allocation>,
    problem: Option<String>,
) -> disk::Result<ImageFacts> {
    let label = path.display().to_string();
    let metadata = path.metadata().map_err(|error| Error::io(&*label, error))?;
    let mut facts = facts(label, said, allocation, problem);
    if !metadata.is_file() {
        return Ok(facts);
    }
    // Its other files, as far as they are there.
    let others = facts.info.files.iter();
    let others = others.filter_map(|file| path.with_file_name(&file.name).metadata().ok());
    let all: Vec<_> = std::iter::once(metadata).chain(others).collect();
    facts.disk_size = Some(all.iter().map(|file| file.blocks().saturating_mul(512)).sum());
    facts.file_size = all.iter().map(std::fs::Metadata::len).sum();
    Ok(facts)
}

fn facts(
    image: String,
    said: Described,
    allocation: Option<Allocation>,
    problem: Option<String>,
) -> ImageFacts {
    ImageFacts {
        image,
        format: said.format.to_string(),
        virtual_size: said.size,
        sector_size: said.sector_size,
        file_size: said.size,
        disk_size: None,
        info: said.info,
        allocation,
        problem,
    }
}

impl fmt::Display for ImageInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, image) in self.images.iter().enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            write!(f, "{image}")?;
        }
        Ok(())
    }
}

impl fmt::Display for ImageFacts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let info = &self.info;
        writeln!(f, "image: {}", self.image)?;
        match &info.subformat {
            Some(kind) => writeln!(f, "format: {} ({kind})", self.format)?,
            None => writeln!(f, "format: {}", self.format)?,
        }
        let size = self.virtual_size;
        writeln!(f, "virtual size: {} ({size} bytes)", Bytes(size))?;
        if let Some(size) = self.disk_size {
            writeln!(f, "disk size: {}", Bytes(size))?;
        }
        writeln!(f, "file size: {}", Bytes(self.file_size))?;
        if self.sector_size != 512 {
            writeln!(f, "sector size: {}", self.sector_size)?;
        }
        if let Some(unit) = info.unit {
            writeln!(f, "unit of allocation: {unit}")?;
        }
        if let Some(backing) = &info.backing {
            let format = backing.format.as_deref().unwrap_or("not said");
            writeln!(f, "backing file: {} (format: {format})", backing.name)?;
        }
        for file in &info.files {
            writeln!(f, "file: {}", file.name)?;
        }
        for (what, value) in [
            ("encryption", &info.encrypted),
            ("compression", &info.compression),
        ] {
            if let Some(value) = value {
                writeln!(f, "{what}: {value}")?;
            }
        }
        if info.dirty {
            writeln!(f, "dirty: it was not closed properly")?;
        }
        if info.corrupt {
            writeln!(f, "corrupt: it is marked as damaged")?;
        }
        for (name, value) in &info.details {
            writeln!(f, "{name}: {value}")?;
        }
        if let Some(Allocation { data, zero, hole }) = self.allocation {
            let (data, zero, hole) = (Bytes(data), Bytes(zero), Bytes(hole));
            writeln!(f, "allocation: {data} of data, {zero} of zeros, {hole} of holes")?;
        }
        if !info.snapshots.is_empty() {
            writeln!(f, "snapshots:")?;
            writeln!(f, "  {:<8} {:<24} {:>10}  TAKEN", "ID", "NAME", "STATE")?;
        }
        for snapshot in &info.snapshots {
            let state = match snapshot.machine_state {
                0 => "-".to_owned(),
                bytes => Bytes(bytes).to_string(),
            };
            let taken = snapshot.taken.map_or_else(|| "-".to_owned(), utc);
            writeln!(
                f,
                "  {:<8} {:<24} {state:>10}  {taken}",
                snapshot.id, snapshot.name
            )?;
        }
        if let Some(problem) = &self.problem {
            writeln!(f, "warning: {problem}")?;
        }
        Ok(())
    }
}

/// A time in seconds since 1970 as "2026-11-25 01:02:03 UTC".
fn utc(seconds: u64) -> String {
    let time = i64::try_from(seconds)
        .ok()
        .and_then(|seconds| jiff::Timestamp::from_second(seconds).ok());
    time.map_or_else(
        || format!("{seconds} s since 1970"),
        |time| time.strftime("%Y-%m-%d %H:%M:%S UTC").to_string(),
    )
}

/// What a check found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Checked {
    /// [`CHECK_SCHEMA`].
    pub schema: u32,
    /// Its file, as it was named.
    pub image: String,
    /// As `qemu-img -f` spells it.
    pub format: String,
    /// What is wrong.
    #[serde(flatten)]
    pub found: Check,
    /// Bytes that a repair gave back; `None`: there was none.
    pub freed: Option<u64>,
    /// The file that takes the repair back.
    pub undo: Option<String>,
}

impl fmt::Display for Checked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(freed) = self.freed {
            writeln!(f, "{} given back", Bytes(freed))?;
        }
        if let Some(undo) = &self.undo {
            writeln!(f, "`rehome undo {undo}` takes that back")?;
        }
        for error in &self.found.errors {
            writeln!(f, "error: {error}")?;
        }
        for leak in &self.found.leaks {
            writeln!(f, "leak: {leak}")?;
        }
        if !self.found.errors.is_empty() {
            writeln!(f, "{} is damaged: convert what can be read of it", self.image)
        } else if !self.found.leaks.is_empty() {
            let leaked = Bytes(self.found.leaked);
            writeln!(
                f,
                "{} has no errors; {leaked} are lost, which harms nothing",
                self.image
            )
        } else if self.format == Format::Raw.name() {
            writeln!(
                f,
                "{} is raw: it has no structure that could be damaged",
                self.image
            )
        } else {
            writeln!(f, "{} is sound", self.image)
        }
    }
}

/// How two disks compare.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Compared {
    /// [`COMPARE_SCHEMA`].
    pub schema: u32,
    /// All that was asked for is the same.
    pub same: bool,
    /// Sizes and maps were compared too.
    pub strict: bool,
    /// Sizes in bytes.
    pub sizes: (u64, u64),
    /// Offset of the first byte that differs.
    pub first_difference: Option<u64>,
    /// Offset from which one has data where the other has zeros, or zeros where that has a hole.
    pub map_differs_at: Option<u64>,
}

impl Compared {
    /// All that was asked for is the same, as far as it is known.
    pub fn is_same(&self) -> bool {
        let sizes = !self.strict || self.sizes.0 == self.sizes.1;
        sizes && self.first_difference.is_none() && self.map_differs_at.is_none()
    }
}

impl fmt::Display for Compared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (one, other) = self.sizes;
        if one != other {
            writeln!(f, "the sizes differ: {one} and {other} bytes")?;
        }
        if let Some(offset) = self.first_difference {
            writeln!(f, "the contents differ, first at byte {offset}")?;
        }
        if let Some(offset) = self.map_differs_at.filter(|_| one == other) {
            writeln!(
                f,
                "the kinds of space differ (data, zeros, hole), first at byte {offset}"
            )?;
        }
        if self.same {
            writeln!(f, "the disks are the same")?;
        }
        Ok(())
    }
}

impl Report {
    /// What is to be known of the source and of the destination, what was written, and how long it took: all that a
    /// conversion of an image has to say.
    pub fn written(&self) -> String {
        struct Written<'a>(&'a Report);
        impl fmt::Display for Written<'_> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                print_packages(f, &self.0.packages)?;
                print_warnings(f, &self.0.warnings)?;
                for disk in &self.0.disks {
                    write!(f, "{disk}")?;
                }
                print_stages(f, &self.0.stages)
            }
        }
        Written(self).to_string()
    }
}

/// How a map is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MapStyle {
    /// For people.
    Table,
    /// As `qemu-img map --output=json`.
    Json,
}

/// Prints the map of the topmost image of `chain`, run by run: a map of any length takes no memory.
///
/// # Errors
/// Those of the images; [`disk::Kind::Io`] where `out` cannot be written.
pub fn print_map(chain: &[Arc<dyn Image>], style: MapStyle, out: &mut dyn io::Write) -> disk::Result<()> {
    let written = |result: io::Result<()>| result.map_err(|error| Error::io("standard output", error));
    if style == MapStyle::Table {
        let head = ["OFFSET", "LENGTH", "DEPTH", "KIND", "IN THE FILE AT"];
        let [offset, length, depth, kind, place] = head;
        written(writeln!(
            out,
            "{offset:>16}  {length:>16}  {depth:>5}  {kind:<10}  {place}"
        ))?;
    }
    let mut first = true;
    map_chain(chain, &mut |mapped| {
        let line = match style {
            MapStyle::Table => table_line(&mapped),
            MapStyle::Json => format!("{}{}", if first { "[" } else { ",\n" }, json_entry(&mapped)),
        };
        first = false;
        written(out.write_all(line.as_bytes()))
    })?;
    match style {
        MapStyle::Table => Ok(()),
        MapStyle::Json => written(writeln!(out, "{}]", if first { "[" } else { "" })),
    }
}

fn table_line(mapped: &Mapped) -> String {
    let mapping = &mapped.mapping;
    let kind = match (mapping.content, mapping.present) {
        (Content::Data, _) if mapping.compressed => "compressed",
        (Content::Data, _) => "data",
        (_, true) => "zeros",
        (_, false) => "nothing",
    };
    let mut line = format!(
        "{:>#16x}  {:>#16x}  {:>5}  {kind:<10}",
        mapping.start, mapping.length, mapped.depth
    );
    if let Some(offset) = mapping.offset.filter(|_| mapping.content == Content::Data) {
        let _ = write!(line, "  {offset:#x}");
    }
    let mut line = line.trim_end().to_owned();
    line.push('\n');
    line
}

fn json_entry(mapped: &Mapped) -> String {
    let mapping = &mapped.mapping;
    let data = mapping.content == Content::Data;
    let mut entry = format!(
        "{{ \"start\": {}, \"length\": {}, \"depth\": {}, \"present\": {}, \"zero\": {}, \"data\": {data}, \"compressed\": {}",
        mapping.start, mapping.length, mapped.depth, mapping.present, !data, mapping.compressed,
    );
    if let Some(offset) = mapping.offset {
        let _ = write!(entry, ", \"offset\": {offset}");
    }
    entry.push('}');
    entry
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_shown_in_universal_time() {
        assert_eq!(utc(0), "1970-01-01 00:00:00 UTC");
        assert_eq!(utc(1_700_000_000), "2023-11-14 22:13:20 UTC");
        assert_eq!(utc(u64::MAX), "18446744073709551615 s since 1970");
    }
}
