//! Internal snapshots: "Snapshot table" of `docs/interop/qcow2.txt`. Only what accounting for clusters needs: where
//! their first-level tables are.

use super::{
    flaw::Flaw,
    header::{Header, LARGEST_L1},
};
use crate::disk::{
    Disk, Result,
    field::{bytes_at, u16_be, u32_be, u64_be},
};

/// qemu's own limits (`QCOW_MAX_SNAPSHOTS`, `QCOW_MAX_SNAPSHOT_EXTRA_DATA`, and the width of the two names).
const MOST_SNAPSHOTS: u32 = 65_536;
const MOST_EXTRA_DATA: u64 = 1024;

/// Bytes of an entry before its extra data and names.
const ENTRY: usize = 40;

/// Where the first-level table of a snapshot is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Snapshot {
    pub(super) l1_offset: u64,
    /// Entries.
    pub(super) l1_size: u32,
}

/// The snapshots of an image, and how many bytes their table takes.
pub(super) fn read(container: &dyn Disk, header: &Header) -> Result<(Vec<Snapshot>, u64)> {
    let error = |flaw: Flaw, at: u64| flaw.of(container.label()).at(at);
    let start = header.snapshots_offset;
    if header.snapshots > MOST_SNAPSHOTS {
        return Err(error(Flaw::Snapshots(header.snapshots), 60));
    }
    if header.snapshots > 0 && !start.is_multiple_of(header.cluster_size()) {
        return Err(error(Flaw::Unaligned("snapshot table", start), 64));
    }
    let mut at = start;
    let mut snapshots = Vec::new();
    for _ in 0..header.snapshots {
        let mut entry = [0; ENTRY];
        if at.saturating_add(ENTRY as u64) > container.size() {
            return Err(error(
                Flaw::PastTheEnd {
                    what: "snapshot table",
                    offset: at,
                    size: container.size(),
                },
                at,
            ));
        }
        container.read_at(at, &mut entry)?;
        let (snapshot, rest) = parse(&entry, header).map_err(|flaw| error(flaw, at))?;
        snapshots.push(snapshot);
        at = at.saturating_add((ENTRY as u64 + rest).next_multiple_of(8));
    }
    Ok((snapshots, at.saturating_sub(start)))
}

/// The fixed part of an entry, and how many bytes follow it.
fn parse(entry: &[u8], header: &Header) -> std::result::Result<(Snapshot, u64), Flaw> {
    bytes_at(entry, 0, ENTRY)?;
    let snapshot = Snapshot {
        l1_offset: u64_be(entry, 0)?,
        l1_size: u32_be(entry, 8)?,
    };
    if u64::from(snapshot.l1_size) * 8 > LARGEST_L1 {
        return Err(Flaw::L1TooLarge(snapshot.l1_size));
    }
    if !snapshot.l1_offset.is_multiple_of(header.cluster_size()) {
        return Err(Flaw::Unaligned(
            "first-level table of a snapshot",
            snapshot.l1_offset,
        ));
    }
    let extra = u64::from(u32_be(entry, 36)?);
    if extra > MOST_EXTRA_DATA {
        return Err(Flaw::SnapshotExtraData(extra));
    }
    Ok((
        snapshot,
        extra + u64::from(u16_be(entry, 12)?) + u64::from(u16_be(entry, 14)?),
    ))
}
