//! Data runs ("mapping pairs"): where the clusters of an attribute are (Linux-NTFS documentation, "Data Runs").
//!
//! Each run is a byte with two lengths, the number of clusters, and how far its first cluster is from that of the run
//! before, both signed and as short as they can be. A run without the second is a hole.

use super::error::{NtfsError, Parsed};
use std::ops::Range;

/// Consecutive clusters of an attribute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Run {
    /// The first, counted in the attribute.
    pub(super) vcn: u64,
    /// The first, counted on the volume; `None` for a hole.
    pub(super) lcn: Option<u64>,
    /// How many.
    pub(super) clusters: u64,
}

impl Run {
    /// One past the last, counted in the attribute.
    pub(super) fn end(&self) -> u64 {
        self.vcn.saturating_add(self.clusters)
    }

    /// Its clusters on the volume.
    pub(super) fn place(&self) -> Option<Range<u64>> {
        self.lcn.map(|lcn| lcn..lcn.saturating_add(self.clusters))
    }

    /// What of it lies from `vcn` on.
    pub(super) fn from(&self, vcn: u64) -> Self {
        let skipped = vcn.saturating_sub(self.vcn).min(self.clusters);
        Self {
            vcn: self.vcn.saturating_add(skipped),
            lcn: self.lcn.map(|lcn| lcn.saturating_add(skipped)),
            clusters: self.clusters - skipped,
        }
    }

    /// What of it lies before `vcn`.
    pub(super) fn until(&self, vcn: u64) -> Self {
        Self {
            clusters: self.clusters.min(vcn.saturating_sub(self.vcn)),
            ..*self
        }
    }
}

/// Adds a run to a list that ends where it begins.
pub(super) fn push(runs: &mut Vec<Run>, run: Run) {
    if run.clusters == 0 {
        return;
    }
    if let Some(last) = runs.last_mut()
        && last.end() == run.vcn
        && match (last.place(), run.lcn) {
            (Some(place), Some(lcn)) => place.end == lcn,
            (None, None) => true,
            _ => false,
        }
    {
        last.clusters = last.clusters.saturating_add(run.clusters);
        return;
    }
    runs.push(run);
}

/// The run that has cluster `vcn`.
pub(super) fn find(runs: &[Run], vcn: u64) -> Option<Run> {
    let after = runs.partition_point(|run| run.vcn <= vcn);
    let run = runs.get(after.checked_sub(1)?)?;
    (vcn < run.end()).then(|| run.from(vcn))
}

/// Reads the runs of the clusters of `vcns`, on a volume of `clusters` clusters. An end of 0 is one that the writer did not
/// know: then the runs say it.
pub(super) fn parse(raw: &[u8], vcns: Range<u64>, clusters: u64) -> Parsed<Vec<Run>> {
    let mut runs = Vec::new();
    let mut vcn = vcns.start;
    let mut lcn = 0_i64;
    let mut rest = raw;
    loop {
        let (lengths, after) = match rest.split_first() {
            None | Some((0, _)) => break,
            Some((lengths, after)) => (usize::from(*lengths), after),
        };
        let (length, after) = split(after, lengths & 15)?;
        let (offset, after) = split(after, lengths >> 4)?;
        rest = after;
        let length = u64::try_from(signed(length)).unwrap_or(0);
        if length == 0 || length > MOST_LENGTH {
            return Err(NtfsError::damaged(format!("a data run of {length} clusters")));
        }
        let place = if offset.is_empty() {
            None
        } else {
            lcn = lcn.wrapping_add(signed(offset));
            // Windows NT 4 marks holes with -1.
            (lcn != -1).then_some(lcn)
        };
        let place = match place.map(u64::try_from) {
            None => None,
            Some(Ok(first)) if first.checked_add(length).is_some_and(|end| end <= clusters) => Some(first),
            Some(_) => {
                return Err(NtfsError::damaged(format!(
                    "a data run at cluster {lcn} with {length} clusters, on a volume of {clusters}"
                )));
            }
        };
        push(
            &mut runs,
            Run {
                vcn,
                lcn: place,
                clusters: length,
            },
        );
        vcn = vcn.saturating_add(length);
    }
    if vcn != vcns.end && vcns.end > vcns.start.saturating_add(1) {
        return Err(NtfsError::damaged(format!(
            "data runs that end at cluster {vcn}, where the attribute ends at {}",
            vcns.end
        )));
    }
    Ok(runs)
}

/// A file has at most 2^63 bytes.
const MOST_LENGTH: u64 = 1 << 54;

fn split(raw: &[u8], length: usize) -> Parsed<(&[u8], &[u8])> {
    if length > 8 {
        return Err(NtfsError::damaged(format!(
            "a field of {length} bytes in a data run"
        )));
    }
    raw.split_at_checked(length)
        .ok_or_else(|| NtfsError::damaged("data runs without an end"))
}

fn signed(raw: &[u8]) -> i64 {
    let negative = raw.last().is_some_and(|last| last & 0x80 != 0);
    let mut bytes = [if negative { 0xff } else { 0 }; 8];
    if let Some(start) = bytes.get_mut(..raw.len()) {
        start.copy_from_slice(raw);
    }
    i64::from_le_bytes(bytes)
}

/// Bytes of the end mark.
pub(super) const END: usize = 1;

/// Writes runs: as many as take at most `room` bytes with the end mark. Gives the bytes, end mark included, and how many
/// runs they are.
pub(super) fn encode(runs: &[Run], room: usize) -> (Vec<u8>, usize) {
    let mut bytes = Vec::new();
    let mut before = 0_i64;
    let mut count = 0;
    for run in runs {
        let clusters = i64::try_from(run.clusters).unwrap_or(i64::MAX);
        let length = shortest(clusters);
        let lcn = run.lcn.map(|lcn| i64::try_from(lcn).unwrap_or(i64::MAX));
        let step = lcn.map_or(0, |lcn| lcn.wrapping_sub(before));
        let offset = lcn.map_or(0, |_| shortest(step));
        if bytes.len() + 1 + length + offset + END > room {
            break;
        }
        before = lcn.unwrap_or(before);
        // Both lengths are at most 8.
        bytes.push(u8::try_from(offset << 4 | length).unwrap_or(0));
        bytes.extend(clusters.to_le_bytes().iter().take(length));
        bytes.extend(step.to_le_bytes().iter().take(offset));
        count += 1;
    }
    bytes.push(0);
    (bytes, count)
}

/// The lowest bytes that still have the sign: how many of the eight.
fn shortest(value: i64) -> usize {
    (1..8)
        .find(|length| {
            let shift = 64 - 8 * length;
            (value << shift) >> shift == value
        })
        .unwrap_or(8)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn run(vcn: u64, lcn: Option<u64>, clusters: u64) -> Run {
        Run { vcn, lcn, clusters }
    }

    /// The examples of the Linux-NTFS documentation.
    #[test]
    fn normal_scrambled_and_sparse_files() {
        let parse = |raw: &[u8]| parse(raw, 0..0, 1 << 32).unwrap();
        assert_eq!(parse(&[0x21, 0x18, 0x34, 0x56, 0]), [run(0, Some(0x5634), 0x18)]);
        assert_eq!(
            parse(&[
                0x31, 0x38, 0x73, 0x25, 0x34, 0x32, 0x14, 0x01, 0xe5, 0x11, 0x02, 0x31, 0x42, 0xaa, 0x00,
                0x03, 0
            ]),
            [
                run(0, Some(0x34_2573), 0x38),
                run(0x38, Some(0x36_3758), 0x114),
                run(0x14c, Some(0x39_3802), 0x42),
            ]
        );
        assert_eq!(
            parse(&[0x11, 0x30, 0x60, 0x21, 0x10, 0x00, 0x01, 0x11, 0x20, 0xe0, 0]),
            [
                run(0, Some(0x60), 0x30),
                run(0x30, Some(0x160), 0x10),
                run(0x40, Some(0x140), 0x20),
            ]
        );
        assert_eq!(
            parse(&[0x11, 0x30, 0x20, 0x01, 0x60, 0x11, 0x10, 0x30, 0]),
            [
                run(0, Some(0x20), 0x30),
                run(0x30, None, 0x60),
                run(0x90, Some(0x50), 0x10),
            ]
        );
    }

    #[test]
    fn what_cannot_be_is_refused() {
        for raw in [
            &[0x11, 0, 5, 0][..],
            &[0x11, 0xff, 5, 0],
            &[0x11, 5],
            &[0x91, 5, 0, 0, 0, 0, 0, 0, 0, 0, 0],
            &[0x10, 5, 0],
            &[0x21, 5, 0x00, 0x80, 0],
            &[0x21, 5, 0xfc, 0x00, 0],
        ] {
            assert!(parse(raw, 0..0, 0x100).is_err(), "{raw:x?}");
        }
        assert!(parse(&[0x11, 4, 5, 0], 0..9, 0x100).is_err());
        assert!(parse(&[0x11, 4, 5, 0], 0..4, 0x100).is_ok());
    }

    #[test]
    fn a_run_is_cut_and_found() {
        let runs = [run(0, Some(10), 5), run(5, None, 5), run(10, Some(50), 2)];
        assert_eq!(find(&runs, 3), Some(run(3, Some(13), 2)));
        assert_eq!(find(&runs, 9), Some(run(9, None, 1)));
        assert_eq!(find(&runs, 12), None);
        assert_eq!(runs[0].until(2), run(0, Some(10), 2));
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_in_pieces_of_any_size(
            list in proptest::collection::vec((any::<bool>(), 0..1_u64 << 40, 1..1_u64 << 33), 0..60),
            room in 20..200_usize,
        ) {
            let mut runs = Vec::new();
            let mut vcn = 0;
            for (hole, lcn, clusters) in list {
                push(&mut runs, run(vcn, (!hole).then_some(lcn), clusters));
                vcn += clusters;
            }
            let mut rest = &runs[..];
            let mut seen = Vec::new();
            while let Some(first) = rest.first() {
                let (raw, count) = encode(rest, room);
                prop_assert!(count > 0 && raw.len() <= room);
                let (now, later) = rest.split_at(count);
                seen.extend(parse(&raw, first.vcn..now.last().unwrap().end(), u64::MAX).unwrap());
                rest = later;
            }
            prop_assert_eq!(seen, runs);
        }
    }
}
