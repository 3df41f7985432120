//! Writing a whole disk into a new VHD.

use super::create::{Kind, Layout, Options, new_footer};
use crate::{
    disk::{Composite, Disk, DiskSink, Error, Result, Sink},
    image::{Files, Shape, block_sink::BlockSink},
};
use std::sync::Arc;

/// Bytes that the file has from the start.
pub(in super::super) fn initial_size(shape: &Shape) -> u64 {
    let footer = Options::from_words(&shape.options)
        .ok()
        .filter(|options| options.kind == Kind::Fixed)
        .and_then(|options| new_footer("", shape.size, options).ok());
    footer.map_or(0, |footer| footer.current_size + super::footer::LENGTH as u64)
}

/// Begins a new image, or goes on with one.
pub(in super::super) fn sink(shape: &Shape, files: &mut dyn Files) -> Result<Box<dyn Sink>> {
    let container = files.main();
    let label = container.label().to_owned();
    let options = Options::from_words(&shape.options)?;
    let footer = new_footer(files.name(), shape.size, options).map_err(|flaw| flaw.of(&label))?;
    if options.kind == Kind::Fixed {
        let bytes = footer
            .encode()
            .map_err(|error| Error::new(crate::disk::Kind::Corrupt, &*label, error))?;
        return fixed(container, shape.size, footer.current_size, &bytes, files);
    }
    let layout = Layout::new(shape.size, &footer).map_err(|flaw| flaw.of(&label))?;
    Ok(Box::new(if files.fresh() {
        BlockSink::create(container, layout, files.blank())?
    } else {
        BlockSink::resume(container, layout, files.blank())?
    }))
}

/// A disk of `size` bytes in an image of `image` bytes: its footer is there from the beginning.
fn fixed(
    container: Arc<dyn Disk>,
    size: u64,
    image: u64,
    footer: &[u8],
    files: &dyn Files,
) -> Result<Box<dyn Sink>> {
    let end = image + footer.len() as u64;
    if files.fresh() {
        if container.size() < end {
            container.set_size(end)?;
        }
        if !files.blank() {
            container.write_zeros(size..image)?;
        }
        container.write_at(image, footer)?;
    } else {
        let mut there = vec![0; footer.len()];
        if container.size() >= end {
            container.read_at(image, &mut there)?;
        }
        if there != footer {
            let text = "cannot be resumed: its footer is another than this conversion writes. Convert again without \
                        --resume";
            return Err(Error::new(crate::disk::Kind::Unsafe, container.label(), text));
        }
    }
    let label = container.label().to_owned();
    let disk = Composite::slice(label, container, 0..size)?;
    Ok(Box::new(DiskSink::new(Arc::new(disk), files.blank())))
}
