//! "Header extensions" of `docs/interop/qcow2.txt`: typed pieces between the header and the end of its cluster.

use super::flaw::Flaw;
use crate::disk::field::{bytes_at, u32_be};

const END: u32 = 0;
pub(super) const BACKING_FORMAT: u32 = 0xe279_2aca;
pub(super) const FEATURE_NAMES: u32 = 0x6803_f857;
pub(super) const BITMAPS: u32 = 0x2385_2875;
pub(super) const DATA_FILE_NAME: u32 = 0x4441_5441;

/// Calls `each` with type and data of every extension of a header of `length` bytes until it gives something.
pub(super) fn find<'a, T>(
    bytes: &'a [u8],
    length: u32,
    mut each: impl FnMut(u32, &'a [u8]) -> Option<T>,
) -> Result<Option<T>, Flaw> {
    let mut at = length as usize;
    // Every step goes 8 bytes on, and the slice is short: this ends.
    while at.saturating_add(8) <= bytes.len() {
        let kind = u32_be(bytes, at)?;
        if kind == END {
            break;
        }
        let size = u32_be(bytes, at + 4)? as usize;
        let data = bytes_at(bytes, at + 8, size)?;
        if let Some(found) = each(kind, data) {
            return Ok(Some(found));
        }
        at = size
            .checked_next_multiple_of(8)
            .and_then(|size| size.checked_add(at + 8))
            .unwrap_or(usize::MAX);
    }
    Ok(None)
}

/// The data of the extension `wanted`.
pub(super) fn text(bytes: &[u8], length: u32, wanted: u32) -> Result<Option<&[u8]>, Flaw> {
    find(bytes, length, |kind, data| (kind == wanted).then_some(data))
}

/// What the image calls the incompatible feature `bit`.
pub(super) fn feature_name(bytes: &[u8], length: u32, bit: u32) -> Option<String> {
    let names = text(bytes, length, FEATURE_NAMES).ok()??;
    let bit = u8::try_from(bit).ok()?;
    let name = names.chunks_exact(48).find(|name| name.starts_with(&[0, bit]))?;
    let text = name.get(2..)?.split(|byte| *byte == 0).next()?;
    Some(String::from_utf8_lossy(text).into_owned())
}

/// The names of the features that an image made here may have, for programs that do not know one: kind (0
/// incompatible, 1 compatible, 2 autoclear), bit, name.
pub(super) fn feature_names() -> Vec<u8> {
    const NAMES: [(u8, u8, &str); 7] = [
        (0, 0, "dirty bit"),
        (0, 1, "corrupt bit"),
        (0, 2, "external data file"),
        (0, 3, "compression type"),
        (0, 4, "extended L2 entries"),
        (1, 0, "lazy refcounts"),
        (2, 1, "raw external data"),
    ];
    let mut names = Vec::with_capacity(NAMES.len() * 48);
    for (kind, bit, name) in NAMES {
        let end = names.len() + 48;
        names.extend_from_slice(&[kind, bit]);
        names.extend_from_slice(name.as_bytes());
        names.resize(end, 0);
    }
    names
}

/// Appends an extension to a header.
pub(super) fn push(header: &mut Vec<u8>, kind: u32, data: &[u8]) {
    header.extend_from_slice(&kind.to_be_bytes());
    header.extend_from_slice(&u32::try_from(data.len()).unwrap_or(u32::MAX).to_be_bytes());
    header.extend_from_slice(data);
    header.resize(header.len().next_multiple_of(8), 0);
}
