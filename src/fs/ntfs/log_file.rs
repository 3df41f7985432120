//! The restart pages of `$LogFile`: was the volume unmounted cleanly? (Linux-NTFS documentation, "$LogFile".)
//!
//! A log of bytes 0xff is one that was just made, and clean. Windows takes it as such after every edit by others.

use super::{error::Parsed, update_sequence};
use crate::disk::field::{bytes_at, u16_le, u32_le, u64_le};

/// How much of the log is looked at: restart pages begin at 0 and at the size of a page, which is at most 64 KiB.
pub(super) const LOOKED_AT: usize = 128 << 10;

/// The log as Windows left it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// Never used, or reset.
    Empty,
    /// Everything in it is in the tables too.
    Clean,
    /// Changes in it are not in the tables yet.
    NeedsReplay,
    /// Version 2.0, which Windows 8 and later write while a volume is in use: it is, in a hibernated or half shut down
    /// Windows, or was when the power failed.
    InUse,
    /// No restart page can be read.
    Unknown,
}

/// What a restart page says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Restart {
    version: (u16, u16),
    /// The later of two pages counts.
    lsn: u64,
    clean: bool,
}

const NO_CLIENT: u16 = 0xffff;
const VOLUME_IS_CLEAN: u16 = 2;
const SMALLEST_PAGE: usize = 512;

/// Looks at the start of the log.
pub(super) fn state(start: &[u8]) -> State {
    let mut empty = true;
    let mut last: Option<Restart> = None;
    let mut at = 0;
    while let Some(page) = start.get(at..).filter(|page| page.len() >= SMALLEST_PAGE) {
        empty &= page.starts_with(&[0xff; 4]);
        // No restart page comes after a page of records.
        if page.starts_with(b"RCRD") {
            break;
        }
        if let Ok(Some(restart)) = restart(page)
            && last.is_none_or(|last| restart.lsn > last.lsn)
        {
            last = Some(restart);
        }
        at = if at == 0 { SMALLEST_PAGE } else { at * 2 };
    }
    match last {
        None if empty && !start.is_empty() => State::Empty,
        None => State::Unknown,
        Some(Restart { version: (2, 0), .. }) => State::InUse,
        Some(Restart {
            version: (1, 1),
            clean,
            ..
        }) => match clean {
            true => State::Clean,
            false => State::NeedsReplay,
        },
        Some(_) => State::Unknown,
    }
}

/// The restart page at the start of `raw`; `None` if something else is there.
fn restart(raw: &[u8]) -> Parsed<Option<Restart>> {
    let magic = bytes_at(raw, 0, 4)?;
    let checked = magic == b"CHKD";
    if magic != b"RSTR" && !checked {
        return Ok(None);
    }
    let size = usize::try_from(u32_le(raw, 0x10)?).unwrap_or(usize::MAX);
    let mut page = bytes_at(raw, 0, size)?.to_vec();
    // What `chkdsk` wrote need not be protected.
    if !(checked && u16_le(&page, 6)? == 0) {
        update_sequence::restore(&mut page)?;
    }
    let area = usize::from(u16_le(&page, 0x18)?);
    let lsn = if checked {
        u64_le(&page, 8)?
    } else {
        u64_le(&page, area)?
    };
    let in_use = u16_le(&page, area + 0x0c)?;
    let flags = u16_le(&page, area + 0x0e)?;
    Ok(Some(Restart {
        version: (u16_le(&page, 0x1c)?, u16_le(&page, 0x1a)?),
        lsn,
        clean: in_use == NO_CLIENT || flags & VOLUME_IS_CLEAN != 0,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::field::{put_bytes, put_u16_le, put_u32_le, put_u64_le};

    fn page(version: (u16, u16), lsn: u64, in_use: u16) -> Vec<u8> {
        let mut raw = vec![0; 4096];
        put_bytes(&mut raw, 0, b"RSTR").unwrap();
        put_u16_le(&mut raw, 4, 0x1e).unwrap();
        put_u16_le(&mut raw, 6, 9).unwrap();
        put_u32_le(&mut raw, 0x10, 4096).unwrap();
        put_u16_le(&mut raw, 0x18, 0x30).unwrap();
        put_u16_le(&mut raw, 0x1a, version.1).unwrap();
        put_u16_le(&mut raw, 0x1c, version.0).unwrap();
        put_u64_le(&mut raw, 0x30, lsn).unwrap();
        put_u16_le(&mut raw, 0x3c, in_use).unwrap();
        update_sequence::protect(&mut raw).unwrap();
        raw
    }

    #[test]
    fn the_later_page_counts() {
        let log = |first: Vec<u8>, second: Vec<u8>| state(&[first, second, vec![0xff; 8192]].concat());
        let clean = |lsn| page((1, 1), lsn, NO_CLIENT);
        let open = |lsn| page((1, 1), lsn, 0);
        assert_eq!(log(clean(2), open(1)), State::Clean);
        assert_eq!(log(clean(2), open(3)), State::NeedsReplay);
        assert_eq!(log(clean(2), page((2, 0), 3, 0)), State::InUse);
        assert_eq!(log(clean(2), page((3, 0), 3, 0)), State::Unknown);
        // A page that was written in part does not count.
        let mut torn = open(3);
        torn[511] ^= 1;
        assert_eq!(log(clean(2), torn.clone()), State::Clean);
        assert_eq!(log(torn.clone(), torn), State::Unknown);
        assert_eq!(state(&[0xff; 8192]), State::Empty);
        assert_eq!(state(&[0; 8192]), State::Unknown);
        assert_eq!(state(&[]), State::Unknown);
    }
}
