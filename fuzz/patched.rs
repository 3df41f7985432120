//! Images that the real tools made, with a few bytes changed. A mutation of a whole image nearly always hits free
//! space; an input here is a base (of `fuzz/bases/<target>`, made by `fixtures/fuzz-corpus.sh`) and records that name
//! only bytes that hold something.
//!
//! Input: one byte that chooses the base, then records: a line of [`LINE`] bytes (two bytes, little-endian, of the
//! lines that are not zero), one byte whose low six bits are the place in the line and whose high two the length (1,
//! 2, 4, 8), and the new bytes.

use std::{path::Path, sync::OnceLock};

const LINE: usize = 64;

/// An image.
pub struct Base {
    /// As the tool made it.
    pub bytes: Vec<u8>,
    /// Offsets of the lines that hold something, and of the one after each such run.
    lines: Vec<usize>,
}

/// Those of `target`, in order of name.
pub fn bases(target: &str) -> &'static [Base] {
    static BASES: OnceLock<Vec<Base>> = OnceLock::new();
    BASES.get_or_init(|| {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("bases").join(target);
        let mut paths: Vec<_> = std::fs::read_dir(&folder)
            .expect("bases: run fixtures/fuzz-corpus.sh")
            .map(|entry| entry.expect("an entry").path())
            .collect();
        paths.sort();
        paths
            .iter()
            .map(|path| base(std::fs::read(path).expect("a base")))
            .collect()
    })
}

fn base(bytes: Vec<u8>) -> Base {
    let full = |line: &[u8]| line.iter().any(|byte| *byte != 0);
    let mut lines = Vec::new();
    let mut before = false;
    for (index, line) in bytes.chunks(LINE).enumerate() {
        let now = full(line);
        if now || before {
            lines.push(index * LINE);
        }
        before = now;
    }
    Base { bytes, lines }
}

/// The base that `data` chooses, and what it puts where.
pub fn patches<'a>(
    bases: &'static [Base],
    data: &'a [u8],
) -> Option<(&'static Base, Vec<(usize, &'a [u8])>)> {
    let (which, mut rest) = data.split_first()?;
    let base = bases.get(usize::from(*which) % bases.len().max(1))?;
    let mut patches = Vec::new();
    while let [low, high, place, after @ ..] = rest {
        let line = usize::from(u16::from_le_bytes([*low, *high])) % base.lines.len().max(1);
        let at = base.lines.get(line)? + usize::from(*place & 63);
        // The last line may be short.
        let at = at.min(base.bytes.len());
        let length = (1 << (*place >> 6)).min(base.bytes.len() - at);
        let Some(new) = after.get(..length) else {
            break;
        };
        patches.push((at, new));
        rest = &after[length..];
    }
    Some((base, patches))
}

/// The whole image, changed.
#[allow(dead_code, reason = "not every target wants a copy")]
pub fn image(bases: &'static [Base], data: &[u8]) -> Option<Vec<u8>> {
    let (base, patches) = patches(bases, data)?;
    let mut bytes = base.bytes.clone();
    for (at, new) in patches {
        bytes[at..at + new.len()].copy_from_slice(new);
    }
    Some(bytes)
}
