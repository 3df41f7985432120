//! [MS-VHDX] 2.2.3 "Region Table": where the allocation table and the metadata are.

use super::{
    MIB, checksum,
    flaw::Flaw,
    header::{SECTION, id_at},
};
use crate::disk::{
    Disk, Result,
    field::{Truncated, bytes_at, put_bytes, put_u32_le, put_u64_le, u32_le, u64_le},
};
use std::ops::Range;
use uuid::{Uuid, uuid};

/// Bytes of the table, and where its two copies are.
pub(super) const LENGTH: usize = 64 << 10;
pub(super) const PLACES: [u64; 2] = [192 << 10, 256 << 10];

const BAT: Uuid = uuid!("2dc27766-f623-4200-9d64-115e9bfd4a08");
const METADATA: Uuid = uuid!("8b7ca206-4790-4b9a-b8fe-575f050f886e");

const CHECKSUM: usize = 4;
const MOST_ENTRIES: u32 = 2047;

/// A region of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Region {
    pub(super) id: Uuid,
    pub(super) offset: u64,
    pub(super) length: u32,
    pub(super) required: bool,
}

impl Region {
    pub(super) fn range(&self) -> Range<u64> {
        self.offset..self.offset.saturating_add(self.length.into())
    }

    fn name(&self) -> &'static str {
        match self.id {
            BAT => "allocation table",
            METADATA => "metadata region",
            _ => "unknown region",
        }
    }
}

/// Parses a table of [`LENGTH`] bytes.
pub(super) fn parse(bytes: &[u8]) -> std::result::Result<Vec<Region>, Flaw> {
    let bytes = bytes_at(bytes, 0, LENGTH)?;
    if !bytes.starts_with(b"regi") {
        return Err(Flaw::StructureSignature("regi"));
    }
    let found = u32_le(bytes, CHECKSUM)?;
    let computed = checksum(bytes, CHECKSUM);
    if found != computed {
        return Err(Flaw::Checksum { found, computed });
    }
    let count = u32_le(bytes, 8)?;
    if count > MOST_ENTRIES {
        return Err(Flaw::Regions(count));
    }
    let places = (16..).step_by(32).take(usize::try_from(count).unwrap_or(0));
    places
        .map(|at| {
            Ok(Region {
                id: id_at(bytes, at)?,
                offset: u64_le(bytes, at + 16)?,
                length: u32_le(bytes, at + 24)?,
                required: u32_le(bytes, at + 28)? & 1 != 0,
            })
        })
        .collect()
}

/// The table of a new file, in [`LENGTH`] bytes.
pub(super) fn encode(bat: Range<u64>, metadata: Range<u64>) -> std::result::Result<Vec<u8>, Truncated> {
    let mut bytes = vec![0; LENGTH];
    let b = bytes.as_mut_slice();
    put_bytes(b, 0, b"regi")?;
    put_u32_le(b, 8, 2)?;
    for (at, id, range) in [(16, BAT, bat), (48, METADATA, metadata)] {
        put_bytes(b, at, &id.to_bytes_le())?;
        put_u64_le(b, at + 16, range.start)?;
        // Tables have less than 1 GiB.
        put_u32_le(
            b,
            at + 24,
            u32::try_from(range.end - range.start).unwrap_or(u32::MAX),
        )?;
        put_u32_le(b, at + 28, 1)?;
    }
    let sum = checksum(b, CHECKSUM);
    put_u32_le(b, CHECKSUM, sum)?;
    Ok(bytes)
}

/// The regions of a file.
#[derive(Clone, Debug)]
pub(super) struct Regions {
    pub(super) bat: Range<u64>,
    pub(super) metadata: Range<u64>,
    /// All of them, with those that nobody needs to know.
    pub(super) all: Vec<Region>,
    /// What is wrong with one of the two tables, one sentence each.
    pub(super) flaws: Vec<String>,
}

impl Regions {
    /// Reads the tables of `container`, after its log was replayed.
    pub(super) fn find(container: &dyn Disk) -> Result<Self> {
        let label = container.label();
        let [at_first, at_second] = PLACES;
        let read = |at: u64| -> Result<std::result::Result<Vec<Region>, Flaw>> {
            let mut bytes = vec![0; LENGTH];
            container.read_at(at, &mut bytes)?;
            Ok(parse(&bytes))
        };
        let (all, flaws) = match (read(at_first)?, read(at_second)?) {
            (Ok(first), Ok(second)) => {
                let differ = (first != second).then(|| "the two region tables differ".to_owned());
                (first, differ.into_iter().collect())
            }
            (Ok(first), Err(flaw)) => (first, vec![format!("the second region table {flaw}")]),
            (Err(flaw), Ok(second)) => (second, vec![format!("the first region table {flaw}")]),
            (Err(_), Err(_)) => return Err(Flaw::NeitherWhole("region table").of(label).at(at_first)),
        };
        let size = container.size();
        let error = |flaw: Flaw| Err(flaw.of(label).at(at_first));
        let (mut bat, mut metadata) = (None, None);
        for region in &all {
            let slot = match region.id {
                BAT => &mut bat,
                METADATA => &mut metadata,
                _ if region.required => return error(Flaw::UnknownRegion(region.id)),
                _ => continue,
            };
            if slot.is_some() {
                return error(Flaw::Twice(region.name()));
            }
            let range = region.range();
            if range.start < SECTION
                || !range.start.is_multiple_of(MIB)
                || region.length == 0
                || range.end > size
            {
                return error(Flaw::Place {
                    what: region.name(),
                    offset: region.offset,
                    length: region.length.into(),
                    size,
                });
            }
            *slot = Some(range);
        }
        match (bat, metadata) {
            (Some(bat), Some(metadata)) => Ok(Self {
                bat,
                metadata,
                all,
                flaws,
            }),
            (None, _) => error(Flaw::Missing("allocation table")),
            (_, None) => error(Flaw::Missing("metadata region")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_read_as_it_was_written() {
        let bytes = encode(3 << 20..4 << 20, 2 << 20..3 << 20).unwrap();
        let regions = parse(&bytes).unwrap();
        assert_eq!(regions.len(), 2);
        assert_eq!(
            (regions[0].name(), regions[0].range()),
            ("allocation table", 3 << 20..4 << 20)
        );
        assert_eq!(
            (regions[1].name(), regions[1].range()),
            ("metadata region", 2 << 20..3 << 20)
        );
        assert!(regions.iter().all(|region| region.required));
        for at in [0, 8, 20, 60_000] {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1;
            assert!(parse(&damaged).is_err(), "{at}");
        }
        assert!(matches!(parse(&bytes[1..]), Err(Flaw::Truncated(_))));
    }
}
