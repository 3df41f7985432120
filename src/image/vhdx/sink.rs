//! Writing a whole disk into a new VHDX.

use super::create::{Kind, Layout, Options};
use crate::{
    disk::{Composite, Disk, DiskSink, Error, Result, Sink},
    image::{
        Files, Shape,
        block_sink::{BlockLayout, BlockSink},
    },
};
use std::sync::Arc;

/// Bytes that the file has from the start.
pub(in super::super) fn initial_size(shape: &Shape) -> u64 {
    let options = Options::from_words(&shape.options).ok();
    let options = options.filter(|options| options.kind == Kind::Fixed);
    let layout = options.and_then(|options| Layout::new(shape, "", options).ok());
    layout.map_or(0, |layout| end(&layout))
}

/// Where a fixed image ends.
fn end(layout: &Layout) -> u64 {
    layout.data() + layout.geometry.blocks() * layout.geometry.block
}

/// Begins a new image, or goes on with one.
pub(in super::super) fn sink(shape: &Shape, files: &mut dyn Files) -> Result<Box<dyn Sink>> {
    let container = files.main();
    let options = Options::from_words(&shape.options)?;
    let layout = Layout::new(shape, files.name(), options).map_err(|flaw| flaw.of(container.label()))?;
    if options.kind == Kind::Fixed {
        return fixed(container, shape.size, &layout, files);
    }
    Ok(Box::new(if files.fresh() {
        BlockSink::create(container, layout, files.blank())?
    } else {
        BlockSink::resume(container, layout, files.blank())?
    }))
}

/// A fixed image of a disk of `size` bytes: all that is not data is there from the beginning.
fn fixed(container: Arc<dyn Disk>, size: u64, layout: &Layout, files: &dyn Files) -> Result<Box<dyn Sink>> {
    let (data, end) = (layout.data(), end(layout));
    if files.fresh() {
        if container.size() < end {
            container.set_size(end)?;
        }
        if !files.blank() {
            container.write_zeros(0..data)?;
            container.write_zeros(data + size..end)?;
        }
        layout.head(&mut |at, bytes| container.write_at(at, bytes))?;
    } else {
        layout.head(&mut |at, bytes| {
            let mut there = vec![0; bytes.len()];
            if container.size() >= end {
                container.read_at(at, &mut there)?;
            }
            if there == bytes {
                return Ok(());
            }
            let text = "cannot be resumed: its tables are others than this conversion writes. Convert again without \
                        --resume";
            Err(Error::new(crate::disk::Kind::Unsafe, container.label(), text))
        })?;
    }
    let label = container.label().to_owned();
    let disk = Composite::slice(label, container, data..data + size)?;
    Ok(Box::new(DiskSink::new(Arc::new(disk), files.blank())))
}
