//! Writing a whole disk into a new VDI.

use super::{
    create::{BEGINNING, Layout, Options, id},
    disk::Vdi,
    header::{Header, LENGTH},
};
use crate::{
    disk::{Composite, Disk, DiskSink, Error, Kind, Result, Sink},
    image::{Files, NoNeighbours, Shape, block_sink::BlockSink},
};
use std::{ops::Range, sync::Arc};
use uuid::Uuid;

/// Bytes that the file has from the start.
pub(in super::super) fn initial_size(_shape: &Shape) -> u64 {
    0
}

/// Begins a new image, or goes on with one.
pub(in super::super) fn sink(shape: &Shape, files: &mut dyn Files) -> Result<Box<dyn Sink>> {
    let container = files.main();
    let label = container.label().to_owned();
    let options = Options::from_words(&shape.options)?;
    let layout = Layout::new(shape.size, options).map_err(|flaw| flaw.of(&label))?;
    let header = layout.header.clone();
    let (fresh, blank) = (files.fresh(), files.blank());
    if !fresh {
        take_back_the_end(container.as_ref(), &header)?;
    }
    let blocks: Box<dyn Sink> = if options.fixed {
        Box::new(fixed(&container, &layout, shape.size, fresh, blank)?)
    } else if fresh {
        Box::new(BlockSink::create(container.clone(), layout, blank)?)
    } else {
        Box::new(BlockSink::resume(container.clone(), layout, blank)?)
    };
    Ok(Box::new(VdiSink {
        blocks,
        container,
        header,
        name: files.name().to_owned(),
    }))
}

/// Gives an image that an earlier run may have finished the header of one that it had begun, which must be `expected`.
fn take_back_the_end(container: &dyn Disk, expected: &Header) -> Result<()> {
    let length = container.size().min(LENGTH as u64);
    let mut bytes = vec![0; usize::try_from(length).unwrap_or(0)];
    container.read_at(0, &mut bytes)?;
    let found = Header::parse(&bytes).ok().map(|header| Header {
        allocated: 0,
        id: Uuid::nil(),
        modification: Uuid::nil(),
        ..header
    });
    if found.as_ref() != Some(expected) {
        let text = "cannot be resumed: its header is another than this conversion writes. Convert again without --resume";
        return Err(Error::new(Kind::Unsafe, container.label(), text));
    }
    let head = expected.encode().map_err(|flaw| flaw.of(container.label()))?;
    if bytes == head {
        return Ok(());
    }
    container.write_at(0, &head)
}

/// The blocks of a fixed disk of `size` bytes: each has its place from the start.
fn fixed(
    container: &Arc<dyn Disk>,
    layout: &Layout,
    size: u64,
    fresh: bool,
    blank: bool,
) -> Result<DiskSink> {
    let data = layout.data();
    if container.size() < data.end {
        container.set_size(data.end)?;
    }
    if fresh {
        if !blank {
            container.write_zeros(0..data.start)?;
            container.write_zeros(data.start + size..data.end)?;
        }
        layout.put_head(|block| block, &mut |at, bytes| container.write_at(at, bytes))?;
    }
    let label = container.label().to_owned();
    let disk = Composite::slice(label, container.clone(), data.start..data.start + size)?;
    Ok(DiskSink::new(Arc::new(disk), blank))
}

/// Blocks of either kind, and the header at the end.
struct VdiSink {
    blocks: Box<dyn Sink>,
    container: Arc<dyn Disk>,
    /// As it is until then.
    header: Header,
    name: String,
}

impl Sink for VdiSink {
    fn unit(&self) -> u32 {
        self.blocks.unit()
    }

    fn put(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        self.blocks.put(offset, bytes)
    }

    fn skip(&self, range: Range<u64>) -> Result<()> {
        self.blocks.skip(range)
    }

    fn writes_zeros(&self) -> bool {
        self.blocks.writes_zeros()
    }

    fn keep(&self, range: Range<u64>) -> Result<()> {
        self.blocks.keep(range)
    }

    fn checkpoint(&self) -> Result<()> {
        self.blocks.checkpoint()
    }

    fn abandon(&self) {
        self.blocks.abandon();
    }

    fn finish(&self) -> Result<()> {
        self.blocks.finish()?;
        let image = Vdi::open(self.container.clone(), &NoNeighbours)?;
        let mut allocated = 0;
        image
            .map
            .each_index(self.container.as_ref(), |_, _| allocated += 1)?;
        let length = image.size().min(BEGINNING);
        let mut beginning = vec![0; usize::try_from(length).unwrap_or(0)];
        image.read_at(0, &mut beginning)?;
        let header = Header {
            allocated,
            id: id("image", &self.name, &self.header, &beginning),
            modification: id("modification", &self.name, &self.header, &beginning),
            ..self.header.clone()
        };
        let head = header.encode().map_err(|flaw| flaw.of(image.label()))?;
        self.container.write_at(0, &head)?;
        self.container.flush()
    }

    fn target(&self) -> Option<&dyn Disk> {
        self.blocks.target()
    }
}
