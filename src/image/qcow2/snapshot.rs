//! Internal snapshots: "Snapshot table" of `docs/interop/qcow2.txt`.

use super::{
    flaw::Flaw,
    header::{Header, LARGEST_L1},
};
use crate::{
    disk::{
        Disk, Result,
        field::{bytes_at, u16_be, u32_be, u64_be},
    },
    image,
};

/// qemu's own limits (`QCOW_MAX_SNAPSHOTS`, `QCOW_MAX_SNAPSHOT_EXTRA_DATA`, and the width of the two names).
const MOST_SNAPSHOTS: u32 = 65_536;
const MOST_EXTRA_DATA: u64 = 1024;

/// Bytes of an entry before its extra data and names.
const ENTRY: usize = 40;

/// As large as 65 536 entries with names of usual length; the table is held in memory.
const LARGEST_TABLE: u64 = 8 << 20;

/// A snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Snapshot {
    /// Of its first-level table.
    pub(super) l1_offset: u64,
    /// Entries.
    pub(super) l1_size: u32,
    pub(super) id: Vec<u8>,
    pub(super) name: Vec<u8>,
    /// Seconds since 1970.
    pub(super) taken: u32,
    /// In bytes.
    pub(super) machine_state: u64,
    /// Of the disk then, in bytes; images made long ago do not say.
    pub(super) disk_size: Option<u64>,
}

impl Snapshot {
    /// For `image info`.
    pub(super) fn describe(&self, header: &Header) -> image::Snapshot {
        image::Snapshot {
            id: String::from_utf8_lossy(&self.id).into_owned(),
            name: String::from_utf8_lossy(&self.name).into_owned(),
            size: self.disk_size.unwrap_or(header.size),
            machine_state: self.machine_state,
            taken: Some(u64::from(self.taken)),
        }
    }
}

/// The one that `wanted` names: by its identifier, or else by its name.
pub(super) fn find(snapshots: Vec<Snapshot>, wanted: &str) -> std::result::Result<Snapshot, Flaw> {
    /// More of them would only hide what the message says.
    const MOST_LISTED: usize = 20;
    let is = |text: &[u8]| text == wanted.as_bytes();
    let by_id = snapshots.iter().position(|snapshot| is(&snapshot.id));
    let place = by_id.or_else(|| snapshots.iter().position(|snapshot| is(&snapshot.name)));
    let listed: Vec<String> = snapshots
        .iter()
        .take(MOST_LISTED)
        .map(|snapshot| {
            let (id, name) = (&snapshot.id, &snapshot.name);
            format!(
                "{} \"{}\"",
                String::from_utf8_lossy(id),
                String::from_utf8_lossy(name)
            )
        })
        .collect();
    let there = match snapshots.len() {
        0 => "it has none".to_owned(),
        count if count > MOST_LISTED => format!("there are {count}, of them {}", listed.join(", ")),
        _ => format!("there are: {}", listed.join(", ")),
    };
    place
        .and_then(|place| snapshots.into_iter().nth(place))
        .ok_or_else(|| Flaw::NoSnapshot {
            wanted: wanted.to_owned(),
            there,
        })
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
    let read = |at: u64, length: u64| -> Result<Vec<u8>> {
        let size = container.size();
        if at.saturating_add(length) > size {
            let what = "snapshot table";
            return Err(error(
                Flaw::PastTheEnd {
                    what,
                    offset: at,
                    size,
                },
                at,
            ));
        }
        let mut bytes = vec![0; usize::try_from(length).unwrap_or(0)];
        container.read_at(at, &mut bytes)?;
        Ok(bytes)
    };
    for _ in 0..header.snapshots {
        if at.saturating_sub(start) > LARGEST_TABLE {
            return Err(error(Flaw::SnapshotTable(LARGEST_TABLE), start));
        }
        let mut entry = read(at, ENTRY as u64)?;
        let rest = length_of_rest(&entry).map_err(|flaw| error(flaw, at))?;
        entry.extend(read(at.saturating_add(ENTRY as u64), rest)?);
        snapshots.push(parse(&entry, header).map_err(|flaw| error(flaw, at))?);
        at = at.saturating_add((ENTRY as u64 + rest).next_multiple_of(8));
    }
    Ok((snapshots, at.saturating_sub(start)))
}

/// How many bytes follow the fixed part of an entry.
fn length_of_rest(entry: &[u8]) -> std::result::Result<u64, Flaw> {
    let extra = u64::from(u32_be(entry, 36)?);
    if extra > MOST_EXTRA_DATA {
        return Err(Flaw::SnapshotExtraData(extra));
    }
    Ok(extra + u64::from(u16_be(entry, 12)?) + u64::from(u16_be(entry, 14)?))
}

fn parse(entry: &[u8], header: &Header) -> std::result::Result<Snapshot, Flaw> {
    let extra = u32_be(entry, 36)? as usize;
    let (id, name) = (usize::from(u16_be(entry, 12)?), usize::from(u16_be(entry, 14)?));
    let names = ENTRY.saturating_add(extra);
    let snapshot = Snapshot {
        l1_offset: u64_be(entry, 0)?,
        l1_size: u32_be(entry, 8)?,
        id: bytes_at(entry, names, id)?.to_vec(),
        name: bytes_at(entry, names.saturating_add(id), name)?.to_vec(),
        taken: u32_be(entry, 16)?,
        // The wide field of the extra data replaces the narrow one.
        machine_state: if extra >= 8 {
            u64_be(entry, 40)?
        } else {
            u64::from(u32_be(entry, 32)?)
        },
        disk_size: if extra >= 16 {
            Some(u64_be(entry, 48)?)
        } else {
            None
        },
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
    Ok(snapshot)
}
