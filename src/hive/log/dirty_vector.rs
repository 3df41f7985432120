//! The dirty vector of a log of Windows 8 and earlier, `DIRT`, with its pages (regf specification, "Dirty vector" and
//! "Dirty pages").

use crate::{
    disk::field::bytes_at,
    hive::error::{HiveError, Parsed},
};

/// Bytes that one bit stands for, whatever the disk's sectors are.
const DIRTY_PAGE: usize = 512;

/// The pages of a log for `bins_size` bytes of hive bins: where each is to be, in bytes of the hive bins data, and what is
/// to be there. `sector` is what the log counts in.
pub(super) fn pages(log: &[u8], sector: usize, bins_size: usize) -> Parsed<Vec<(usize, &[u8])>> {
    if bytes_at(log, sector, 4)? != b"DIRT" {
        return Err(HiveError::damaged(
            "no \"DIRT\" where the log's map of pages is expected",
        ));
    }
    let start = sector.saturating_add(4);
    let map = bytes_at(log, start, bins_size / DIRTY_PAGE / 8)?;
    let mut from = start.saturating_add(map.len()).next_multiple_of(sector);
    let mut pages = Vec::new();
    let bits = map.iter().flat_map(|byte| (0..8).map(move |bit| byte >> bit & 1));
    for (page, _) in bits.enumerate().filter(|(_, bit)| *bit == 1) {
        pages.push((page.saturating_mul(DIRTY_PAGE), bytes_at(log, from, DIRTY_PAGE)?));
        from = from.saturating_add(DIRTY_PAGE);
    }
    Ok(pages)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_stand_for_pages_in_order() {
        let mut log = vec![0; 512];
        log.extend_from_slice(b"DIRT");
        log.extend_from_slice(&[0b1000_0001, 0]);
        log.resize(1024, 0);
        log.extend([1; 512]);
        log.extend([2; 512]);
        let found = pages(&log, 512, 8192).unwrap();
        assert_eq!(found, [(0, &[1; 512][..]), (7 * 512, &[2; 512][..])]);
        assert!(
            pages(&log[..2047], 512, 8192).is_err(),
            "the second page is cut short"
        );
        assert!(pages(&log[..517], 512, 8192).is_err(), "the map is cut short");
        assert!(pages(&log, 1024, 8192).is_err(), "no map there");
    }
}
