//! Before a copy: is there room at its destination?

use crate::{
    copy,
    destination::Destination,
    disk::{Disk, Result},
    image::Format,
    job::Copying,
    locator::Locator,
    output::Bytes,
    watch::Watch,
};
use std::sync::Arc;

/// Compares what will be written of `disks` in `format` with the room at `destination`, which begins anew at `out`.
///
/// Their maps tell how much that is at most: zeros in what they call data are left out, much of it may be compressed, and
/// blocks may be shared with the source. So only what is sure to be too much is refused; what may be too much is said.
///
/// # Errors
/// [`Kind::Full`](crate::disk::Kind) for what cannot fit; those of reading the maps.
pub(crate) fn look_for_room(
    disks: &[Arc<dyn Disk>],
    format: Format,
    copying: &Copying,
    destination: &dyn Destination,
    out: &Locator,
    watch: &dyn Watch,
) -> Result<()> {
    // What is there already is a device or an image: its size was compared with that of the disk, and nothing grows.
    if out.path().is_none_or(|path| path.exists()) {
        return Ok(());
    }
    let whole = copying.sparse == Some(0) && format == Format::Raw;
    let mut needed: u64 = 0;
    for disk in disks {
        let bytes = if whole {
            disk.size()
        } else {
            copy::survey(&**disk)?.data
        };
        needed = needed.saturating_add(bytes);
    }
    let space = destination.space()?;
    if whole {
        return space.must_hold(&out.to_string(), needed);
    }
    if needed > space.free {
        watch.say(&format!(
            "{out}: up to {} of data are to be written, and {} are free there: it will run full unless enough of that are \
             zeros, or is compressed or shared",
            Bytes(needed),
            Bytes(space.free)
        ));
    }
    Ok(())
}
