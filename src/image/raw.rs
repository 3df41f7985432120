//! No container at all: the file is the disk.

use super::{
    Check, Files, Format, Image, Info, Mapping, Shape,
    create::bytes,
    map,
    split_raw::{is_first_name, next_name},
};
use crate::disk::{Composite, Disk, DiskSink, Error, Extent, Kind, Part, Result, Sink};
use std::{fs::File, ops::Range, sync::Arc};

/// A raw image.
#[derive(Debug)]
pub struct Raw(Arc<dyn Disk>);

impl Raw {
    /// The disk whose bytes are those of `container`.
    pub fn new(container: Arc<dyn Disk>) -> Self {
        Self(container)
    }
}

impl Disk for Raw {
    fn label(&self) -> &str {
        self.0.label()
    }

    fn size(&self) -> u64 {
        self.0.size()
    }

    fn sector_size(&self) -> u32 {
        self.0.sector_size()
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        self.0.read_at(offset, buffer)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        self.0.write_at(offset, bytes)
    }

    fn extents(&self, range: Range<u64>) -> Result<Vec<Extent>> {
        self.0.extents(range)
    }

    fn write_zeros(&self, range: Range<u64>) -> Result<()> {
        self.0.write_zeros(range)
    }

    fn discard(&self, range: Range<u64>) -> Result<()> {
        self.0.discard(range)
    }

    fn copy_within(&self, from: Range<u64>, to: u64) -> Result<()> {
        self.0.copy_within(from, to)
    }

    fn flush(&self) -> Result<()> {
        self.0.flush()
    }

    fn set_size(&self, size: u64) -> Result<()> {
        self.0.set_size(size)
    }

    fn plain(&self, offset: u64) -> Option<(&File, u64, u64)> {
        self.0.plain(offset)
    }
}

impl Image for Raw {
    fn format(&self) -> Format {
        Format::Raw
    }

    fn info(&self) -> Result<Info> {
        Ok(Info::default())
    }

    /// A hole is present too: nothing lies below.
    fn map(&self, range: Range<u64>) -> Result<Vec<Mapping>> {
        let mut runs = map::by_extents(self, range)?;
        for run in &mut runs {
            run.present = true;
            run.offset = run.offset.or(Some(run.start));
        }
        Ok(runs)
    }

    fn check(&self) -> Result<Check> {
        Ok(Check::default())
    }
}

/// `-o` of a raw image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Options {
    preallocation: Preallocation,
    /// In files of so many bytes, the last may be smaller.
    split: Option<u64>,
}

/// What of a new file takes space from the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Preallocation {
    /// What holds data.
    #[default]
    Off,
    /// All of it is reserved.
    Falloc,
    /// All of it is written.
    Full,
}

impl Options {
    pub(super) fn from_words(words: &super::Options) -> Result<Self> {
        let mut options = Self::default();
        words.each(Format::Raw, &["preallocation", "split"], |name, text| {
            match (name, text) {
                ("preallocation", "off") => options.preallocation = Preallocation::Off,
                ("preallocation", "falloc") => options.preallocation = Preallocation::Falloc,
                ("preallocation", "full") => options.preallocation = Preallocation::Full,
                ("preallocation", _) => return Err("off, falloc or full is expected".to_owned()),
                ("split", text) => {
                    let size = bytes(text)?;
                    if size < SMALLEST_PART || size % SMALLEST_PART != 0 {
                        return Err("whole MiB are expected, as 2G or 650M".to_owned());
                    }
                    options.split = Some(size);
                }
                _ => return Ok(false),
            }
            Ok(true)
        })?;
        if words.compress {
            let text = "a raw image cannot be compressed: leave -c out, or choose another format";
            return Err(Error::new(Kind::Unsupported, "raw", text));
        }
        Ok(options)
    }
}

/// Parts are multiples of this, in bytes: nobody wants smaller ones, and so nothing that is written lies in two of them.
const SMALLEST_PART: u64 = 1 << 20;

/// Bytes that the first file has from the start.
pub(super) fn initial_size(shape: &Shape) -> u64 {
    let options = Options::from_words(&shape.options).unwrap_or_default();
    options.split.map_or(shape.size, |split| split.min(shape.size))
}

/// Begins a raw image in `files`, or goes on with one.
pub(super) fn create(shape: &Shape, files: &mut dyn Files) -> Result<Box<dyn Sink>> {
    let options = Options::from_words(&shape.options)?;
    let disk = match options.split {
        Some(split) => parts(shape.size, split, files)?,
        None => files.main(),
    };
    if options.preallocation != Preallocation::Off && files.fresh() {
        disk.preallocate(0..disk.size())?;
    }
    let sink = DiskSink::new(disk.clone(), files.blank());
    Ok(match options.preallocation {
        Preallocation::Off | Preallocation::Falloc => Box::new(sink),
        Preallocation::Full => Box::new(FullSink { sink }),
    })
}

/// A disk of `size` bytes in files of `split` bytes.
fn parts(size: u64, split: u64, files: &mut dyn Files) -> Result<Arc<dyn Disk>> {
    let refuse = |text: String| Err(Error::new(Kind::Unsupported, files.name(), text));
    let mut names = vec![files.name().to_owned()];
    if !is_first_name(files.name().as_bytes()) {
        return refuse(format!(
            "option split={split}: the first of the files is called NAME.001 (or NAME.000, NAME.aa): name that"
        ));
    }
    let count = size.div_ceil(split).max(1);
    while (names.len() as u64) < count {
        let next = names.last().and_then(|name| next_name(name.as_bytes()));
        match next.map(String::from_utf8) {
            Some(Ok(next)) => names.push(next),
            _ => {
                return refuse(format!(
                    "option split={split}: {count} files are more than can be numbered: choose larger ones"
                ));
            }
        }
    }
    let mut parts = Vec::new();
    for (name, at) in names.iter().zip((0..).map(|index: u64| index * split)) {
        let length = (size - at).min(split);
        let disk = match at {
            0 => files.main(),
            _ => files.beside(name, length)?,
        };
        let offset = 0;
        parts.push(Part::Of { disk, offset, length });
    }
    Ok(Arc::new(Composite::new(files.name(), 512, parts)?))
}

/// Writes zeros as bytes, so that every block has been written once.
struct FullSink {
    sink: DiskSink,
}

/// Zeros written at once, in bytes.
const ZEROS: usize = 1 << 20;

impl Sink for FullSink {
    fn unit(&self) -> u32 {
        self.sink.unit()
    }
    fn put(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        self.sink.put(offset, bytes)
    }
    fn skip(&self, range: Range<u64>) -> Result<()> {
        let zeros = vec![0; ZEROS];
        let mut at = range.start;
        while at < range.end {
            let count = usize::try_from(range.end - at).unwrap_or(ZEROS).min(ZEROS);
            self.sink.put(at, zeros.get(..count).unwrap_or_default())?;
            at += count as u64;
        }
        Ok(())
    }
    fn writes_zeros(&self) -> bool {
        true
    }
    fn keep(&self, range: Range<u64>) -> Result<()> {
        self.sink.keep(range)
    }
    fn checkpoint(&self) -> Result<()> {
        self.sink.checkpoint()
    }
    fn finish(&self) -> Result<()> {
        self.sink.finish()
    }
}
