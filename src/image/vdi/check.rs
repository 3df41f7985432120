//! Checking: every block has a place of its own in the file, and the header counts them.

use super::{block_map::ZERO, disk::Vdi, header::LENGTH};
use crate::{
    disk::{Disk, Error, Kind, Result},
    image::{Check, findings::Findings},
};

/// One bit for each place in the file is held in memory: 16 MiB, for files of 128 TiB.
const MOST_PLACES: u64 = 128 << 20;

/// Structure errors and leaks of `image`.
pub(super) fn check(image: &Vdi) -> Result<Check> {
    let container = image.container.as_ref();
    let header = &image.header;
    let mut findings = Findings::default();
    let map = image.map.range();
    let data = u64::from(header.data);
    if map.start < LENGTH as u64 {
        findings.error(|| format!("the block map at byte {} lies on the header", map.start));
    }
    if data < map.end && map.start < container.size() {
        findings.error(|| {
            format!(
                "the blocks begin at byte {data}, inside of or before the block map, which ends at {}",
                map.end
            )
        });
    }
    let length = u64::from(header.block_extra) + u64::from(header.block_size);
    // The last block may be cut where the disk ends.
    let places = container.size().saturating_sub(data).div_ceil(length);
    if places > MOST_PLACES {
        let text = "has too many blocks to be checked here: `qemu-img check` does it";
        return Err(Error::new(Kind::Unsupported, image.label(), text));
    }
    let mut taken = vec![0_u64; usize::try_from(places.div_ceil(64)).unwrap_or(0)];
    let mut allocated = 0_u64;
    image.map.each_index(container, |block, index| {
        allocated += 1;
        let place = u64::from(index);
        if place >= places {
            findings.error(|| {
                format!("block {block} is said to be at place {place} of the file, which has {places}")
            });
            return;
        }
        let word = usize::try_from(place / 64)
            .ok()
            .and_then(|word| taken.get_mut(word));
        if let Some(word) = word {
            let bit = 1 << (place % 64);
            if *word & bit != 0 {
                findings.error(|| format!("block {block} is at place {place} of the file, as another is"));
            }
            *word |= bit;
        }
    })?;
    if allocated != u64::from(header.allocated) {
        findings.error(|| {
            format!(
                "the header counts {} blocks with a place, the block map has {allocated}",
                header.allocated
            )
        });
    }
    let mut free = |places: std::ops::Range<u64>| {
        let bytes = (places.end - places.start) * length;
        if bytes > 0 {
            let at = data + places.start * length;
            findings.leak(bytes, || {
                format!("nothing refers to the {bytes} bytes at byte {at}")
            });
        }
    };
    let mut from = 0;
    for place in 0..places.min(u64::from(ZERO)) {
        let word = usize::try_from(place / 64).ok().and_then(|word| taken.get(word));
        if word.is_some_and(|word| word >> (place % 64) & 1 != 0) {
            free(from..place);
            from = place + 1;
        }
    }
    free(from..places);
    Ok(findings.into_check())
}
